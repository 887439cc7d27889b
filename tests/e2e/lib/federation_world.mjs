// Servers that federate on loopback: over TLS, with certificates of a private authority that all of
// them trust and check. Their names are `localhost:PORT`, which needs no discovery.

import { execFile, spawn } from "node:child_process";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { promisify } from "node:util";
import { pause, PATIENCE_MS } from "./checks.mjs";
import { freePort, Hearth, SHARED_SECRET } from "./hearth.mjs";

const run = promisify(execFile);

/** A private certificate authority in a folder of its own. */
export class Authority {
    async create() {
        this.folder = await mkdtemp(join(tmpdir(), "hearth-ca-"));
        this.certificate = join(this.folder, "ca.pem");
        this.key = join(this.folder, "ca.key");
        await run("openssl", [
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-subj", "/CN=loopback test CA",
            "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign,cRLSign",
            "-keyout", this.key, "-out", this.certificate,
        ]);
    }

    /** A certificate for `names` (`DNS:…`, `IP:…`) in `folder`; answers the paths of chain and key. */
    async issue(folder, names = ["DNS:localhost", "IP:127.0.0.1"], stem = "tls") {
        const [key, request, leaf] = ["key", "csr", "pem"].map((kind) => join(folder, `${stem}.${kind}`));
        const extensions = join(folder, `${stem}.ext`);
        await writeFile(extensions, `subjectAltName=${names.join(",")}\nextendedKeyUsage=serverAuth,clientAuth\n`);
        await run("openssl", ["req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-keyout", key, "-out", request]);
        await run("openssl", [
            "x509", "-req", "-in", request, "-CA", this.certificate, "-CAkey", this.key, "-CAcreateserial",
            "-days", "30", "-extfile", extensions, "-out", leaf,
        ]);
        return { certificate: leaf, key };
    }

    async destroy() {
        if (this.folder) await rm(this.folder, { recursive: true, force: true });
    }
}

/** A hearth that federates. */
export class FederatingHearth extends Hearth {
    /** Whether it asks all servers in a room for events of a time; Synapse is content with the first that answers. */
    asksAllByTime = true;

    constructor({ authority, letter, ...options }) {
        super(options);
        this.authority = authority;
        this.letter = letter;
    }

    async create() {
        this.folder = await mkdtemp(join(tmpdir(), `hearth-${this.letter}-`));
        this.port = await freePort();
        this.federationPort = await freePort();
        this.name = `localhost:${this.federationPort}`;
        this.baseUrl = `http://127.0.0.1:${this.port}`;
        this.tls = await this.authority.issue(this.folder);
        return this.start();
    }

    arguments() {
        const { certificate, key } = this.tls;
        const set = [
            `server_name=${this.name}`,
            `data_dir=${this.folder}/data`,
            `registration.shared_secret=${SHARED_SECRET}`,
            "rate_limits.enabled=false",
            `listeners=[{ address = "127.0.0.1:${this.port}" }, { address = "127.0.0.1:${this.federationPort}", ` +
                `tls = { certificate = "${certificate}", key = "${key}" }, resources = ["federation", "client"] }]`,
            `federation.trusted_ca_files=["${this.authority.certificate}"]`,
            'federation.allowed_private_ranges=["127.0.0.0/8", "::1/128"]',
            ...(this.database === "sqlite" ? [] : [`database.url=${this.database}`]),
            ...this.settings,
        ];
        return ["serve", ...set.flatMap((setting) => ["--set", setting])];
    }
}

/** A Synapse that federates. */
export class FederatingSynapse {
    constructor({ environment, authority, letter }) {
        this.python = join(resolve(environment), "bin/python");
        this.authority = authority;
        this.letter = letter;
    }

    async create() {
        this.folder = await mkdtemp(join(tmpdir(), `hearth-${this.letter}-`));
        await mkdir(join(this.folder, "media"));
        this.port = await freePort();
        this.federationPort = await freePort();
        this.name = `localhost:${this.federationPort}`;
        this.baseUrl = `http://127.0.0.1:${this.port}`;
        this.tls = await this.authority.issue(this.folder);
        await writeFile(join(this.folder, "homeserver.yaml"), this.config());
        await writeFile(join(this.folder, "log.yaml"), this.logConfig());
        await run(this.python, [...this.command(), "--generate-keys"], { cwd: this.folder });
        await this.start();
    }

    command() {
        return ["-m", "synapse.app.homeserver", "-c", join(this.folder, "homeserver.yaml")];
    }

    async start() {
        this.child = spawn(this.python, this.command(), { cwd: this.folder, stdio: "ignore" });
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
        const resources = "resources: [{names: [client, federation], compress: false}]";
        return `server_name: "${this.name}"
public_baseurl: "${this.baseUrl}/"
pid_file: ${this.folder}/pid
signing_key_path: ${this.folder}/signing.key
media_store_path: ${this.folder}/media
log_config: ${this.folder}/log.yaml
report_stats: false
listeners:
  - {port: ${this.port}, bind_addresses: ['127.0.0.1'], type: http, tls: false, ${resources}}
  - {port: ${this.federationPort}, bind_addresses: ['127.0.0.1'], type: http, tls: true, ${resources}}
tls_certificate_path: ${this.tls.certificate}
tls_private_key_path: ${this.tls.key}
database: {name: sqlite3, args: {database: ${this.folder}/hs.db}}
enable_registration: true
enable_registration_without_verification: true
registration_shared_secret: "${SHARED_SECRET}"
macaroon_secret_key: peer
form_secret: peer
federation_verify_certificates: true
federation_custom_ca_list: [${this.authority.certificate}]
trusted_key_servers: []
suppress_key_server_warning: true
ip_range_blacklist: []
allow_public_rooms_over_federation: true
allow_public_rooms_without_auth: true
room_list_publication_rules: [{action: allow}]
experimental_features: {msc3814_enabled: true}
federation: {destination_min_retry_interval: 1s, destination_max_retry_interval: 5s, destination_retry_multiplier: 1}
rc_message: ${free}
rc_registration: ${free}
rc_login: {address: ${free}, account: ${free}, failed_attempts: ${free}}
rc_joins: {local: ${free}, remote: ${free}}
rc_joins_per_room: ${free}
rc_invites: {per_room: ${free}, per_user: ${free}, per_issuer: ${free}}
rc_room_creation: ${free}
rc_federation: {window_size: 1000, sleep_limit: 100000, sleep_delay: 1, reject_limit: 100000, concurrent: 100}
`;
    }

    logConfig() {
        return `version: 1
formatters: {plain: {format: '%(asctime)s %(levelname)s %(name)s %(request)s %(message)s'}}
handlers: {file: {class: logging.FileHandler, formatter: plain, filename: ${this.folder}/homeserver.log}}
root: {level: INFO, handlers: [file]}
disable_existing_loggers: false
`;
    }

    /** Rows of a query on its database. */
    async query(sql) {
        const script =
            "import json, sqlite3, sys\n" +
            "rows = sqlite3.connect('file:' + sys.argv[1] + '?mode=ro', uri=True).execute(sys.argv[2]).fetchall()\n" +
            "print(json.dumps(rows))";
        const { stdout } = await run(this.python, ["-c", script, join(this.folder, "hs.db"), sql], { maxBuffer: 1 << 28 });
        return JSON.parse(stdout);
    }

    async stop() {
        if (!this.child || this.child.exitCode !== null) return;
        const gone = new Promise((done) => this.child.once("exit", done));
        this.child.kill("SIGTERM");
        const late = setTimeout(() => this.child.kill("SIGKILL"), PATIENCE_MS);
        await gone;
        clearTimeout(late);
    }

    async destroy() {
        await this.stop();
        if (this.folder && !process.env.HEARTH_KEEP) await rm(this.folder, { recursive: true, force: true });
    }
}
