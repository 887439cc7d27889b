// A throw-away PostgreSQL that a script may kill: its own folder and port, on loopback.

import { execFile, spawn } from "node:child_process";
import { chown, mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { pause, PATIENCE_MS } from "./checks.mjs";
import { freePort } from "./hearth.mjs";

const run = promisify(execFile);

export class Postgres {
    /** Makes a cluster and starts it. */
    async create() {
        const versions = (await readdir("/usr/lib/postgresql")).filter((name) => /^\d+$/.test(name));
        this.bin = `/usr/lib/postgresql/${Math.max(...versions.map(Number))}/bin`;
        this.folder = await mkdtemp(join(tmpdir(), "hearth-postgres-"));
        this.port = await freePort();
        await this.becomeOwner();
        await this.run("initdb", ["-D", `${this.folder}/cluster`, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale", "C"]);
        await this.start();
    }

    /** PostgreSQL refuses to run as root; it then runs as the user `postgres`. */
    async becomeOwner() {
        if (process.getuid() !== 0) return;
        const id = async (flag) => Number((await run("id", [flag, "postgres"])).stdout);
        this.owner = { uid: await id("-u"), gid: await id("-g") };
        await chown(this.folder, this.owner.uid, this.owner.gid);
    }

    run(program, args) {
        return run(`${this.bin}/${program}`, args, { ...this.owner, cwd: this.folder });
    }

    url(database = "postgres") {
        return `postgres://postgres@127.0.0.1:${this.port}/${database}`;
    }

    /** Starts the server; where the processes of a killed one still hold on, tries again. */
    async start() {
        const end = Date.now() + PATIENCE_MS;
        while (Date.now() < end) {
            if (this.child === undefined || this.child.exitCode !== null || this.child.signalCode !== null) {
                const settings = ["listen_addresses=127.0.0.1", "unix_socket_directories=", "max_connections=100"];
                const args = ["-D", `${this.folder}/cluster`, "-p", String(this.port), ...settings.flatMap((s) => ["-c", s])];
                this.child = spawn(`${this.bin}/postgres`, args, { ...this.owner, cwd: this.folder, stdio: "ignore" });
            }
            const ready = await this.run("pg_isready", ["-h", "127.0.0.1", "-p", String(this.port)]).catch(() => false);
            if (ready) return;
            await pause(100);
        }
        throw new Error(`PostgreSQL does not start within ${PATIENCE_MS} ms`);
    }

    /** Ends the whole server at once, or one of its connections, which makes it recover by itself. */
    async kill(whole) {
        if (whole) {
            const gone = new Promise((done) => this.child.once("exit", done));
            this.child.kill("SIGKILL");
            await gone;
            return;
        }
        const query = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() LIMIT 1";
        const args = ["-h", "127.0.0.1", "-p", String(this.port), "-U", "postgres", "-Atc", query];
        const pid = Number((await this.run("psql", args)).stdout);
        if (!(pid > 1)) throw new Error("nobody is connected to PostgreSQL");
        process.kill(pid, "SIGKILL");
    }

    /** Stops the server and deletes its folder. */
    async destroy() {
        if (this.child && this.child.exitCode === null && this.child.signalCode === null) {
            const gone = new Promise((done) => this.child.once("exit", done));
            this.child.kill("SIGINT");
            const late = setTimeout(() => this.child.kill("SIGQUIT"), PATIENCE_MS);
            await gone;
            clearTimeout(late);
        }
        if (this.folder) await rm(this.folder, { recursive: true, force: true });
    }
}
