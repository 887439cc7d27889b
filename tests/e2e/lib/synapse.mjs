// One Synapse, as the control: a check that it does not pass is wrong, or says more than the
// specification.

import { execFile, spawn } from "node:child_process";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { promisify } from "node:util";
import { pause, PATIENCE_MS } from "./checks.mjs";
import { freePort, SHARED_SECRET } from "./hearth.mjs";

export class Synapse {
    /** `environment` is the Python environment in which Synapse is installed. */
    constructor(environment) {
        this.python = join(resolve(environment), "bin/python");
    }

    /** Makes the folder, picks a port, starts, and waits until it serves. */
    async create() {
        this.folder = await mkdtemp(join(tmpdir(), "hearth-synapse-"));
        this.port = await freePort();
        this.baseUrl = `http://127.0.0.1:${this.port}`;
        const config = join(this.folder, "homeserver.yaml");
        await writeFile(config, this.config());
        const args = ["-m", "synapse.app.homeserver", "-c", config];
        await promisify(execFile)(this.python, [...args, "--generate-keys"], { cwd: this.folder });
        this.child = spawn(this.python, args, { cwd: this.folder, stdio: "ignore" });
        const end = Date.now() + PATIENCE_MS;
        while (Date.now() < end) {
            const answer = await fetch(`${this.baseUrl}/_matrix/client/versions`).catch(() => undefined);
            if (answer?.ok) return;
            await pause(50);
        }
        throw new Error(`Synapse does not serve after ${PATIENCE_MS} ms`);
    }

    config() {
        const free = "{per_second: 100000, burst_count: 100000}";
        return `server_name: "synapse.test"
pid_file: ${this.folder}/pid
signing_key_path: ${this.folder}/signing.key
media_store_path: ${this.folder}/media
report_stats: false
listeners:
  - {port: ${this.port}, bind_addresses: ['127.0.0.1'], type: http, tls: false, resources: [{names: [client], compress: false}]}
database: {name: sqlite3, args: {database: ${this.folder}/hs.db}}
enable_registration: true
enable_registration_without_verification: true
registration_shared_secret: "${SHARED_SECRET}"
macaroon_secret_key: control
form_secret: control
trusted_key_servers: []
suppress_key_server_warning: true
rc_message: ${free}
rc_registration: ${free}
rc_login: {address: ${free}, account: ${free}, failed_attempts: ${free}}
rc_joins: {local: ${free}, remote: ${free}}
rc_invites: {per_room: ${free}, per_user: ${free}, per_issuer: ${free}}
rc_room_creation: ${free}
`;
    }

    /** Stops the server and deletes its folder. */
    async destroy() {
        if (this.child && this.child.exitCode === null) {
            const gone = new Promise((done) => this.child.once("exit", done));
            this.child.kill("SIGTERM");
            const late = setTimeout(() => this.child.kill("SIGKILL"), PATIENCE_MS);
            await gone;
            clearTimeout(late);
        }
        if (this.folder) await rm(this.folder, { recursive: true, force: true });
    }
}
