// One hearth, started for a script with a folder and a port of its own, on loopback.

import { spawn } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { pause, PATIENCE_MS } from "./checks.mjs";

/** How long the first answer may take before it is asked for again. */
const FIRST_ANSWER_MS_MAX = 10_000;

/** Ports below those from which Linux takes the near ends of connections: from 32768 on. */
const PORTS = { from: 15_000, to: 32_000 };

/** Ports that are tried before a script gives up. */
const PORTS_MAX = 100;

/** The secret with which scripts register accounts. */
export const SHARED_SECRET = "the secret of the end-to-end tests";

/** The line with which the server invites its first account. */
const FIRST_ACCOUNT = /https?:\/\/\S+\/_hearth\/first-account\?token=[^\s"'<>]+/;

/** How a terminal is told to change color. */
const COLOR = /\x1b\[[0-9;]*m/g;

/** What is kept of the log. */
const LOG_CHARS_MAX = 200_000;

/** Lines of the server's log that an error repeats. */
const LOG_LINES_MAX = 15;

export class Hearth {
    /**
     * `program` is the binary, `database` is `sqlite` or a `postgres://` URL, `settings` are further
     * `key=value` settings. With `plain` the server gets no configuration but its port.
     */
    constructor({ program, database = "sqlite", settings = [], plain = false }) {
        this.program = resolve(program);
        this.database = database;
        this.settings = settings;
        this.plain = plain;
        this.log = "";
    }

    /** Makes the folder, picks a port, and starts. Answers the milliseconds until it served. */
    async create() {
        this.folder = await mkdtemp(join(tmpdir(), "hearth-e2e-"));
        this.port = await freePort();
        this.baseUrl = `http://127.0.0.1:${this.port}`;
        return this.start();
    }

    /** Starts the program on its folder; answers the milliseconds until it served. */
    async start() {
        const started = performance.now();
        const child = spawn(this.program, this.arguments(), { cwd: this.folder, stdio: ["ignore", "pipe", "pipe"] });
        this.child = child;
        this.exited = new Promise((done) => child.once("exit", (code, signal) => done({ code, signal })));
        this.exited.then((how) => { child.ended = how; });
        child.once("error", (error) => { child.ended = { error: String(error) }; });
        for (const stream of [child.stdout, child.stderr]) {
            stream.setEncoding("utf8").on("data", (text) => { this.log = (this.log + text.replace(COLOR, "")).slice(-LOG_CHARS_MAX); });
        }
        await this.served(child, started);
        return performance.now() - started;
    }

    arguments() {
        const usual = [
            "server_name=hearth.test",
            `data_dir=${this.folder}/data`,
            `registration.shared_secret=${SHARED_SECRET}`,
            "rate_limits.enabled=false",
        ];
        const set = [
            `listeners=[{ address = "127.0.0.1:${this.port}" }]`,
            ...(this.plain ? [] : usual),
            ...(this.database === "sqlite" ? [] : [`database.url=${this.database}`]),
            ...this.settings,
        ];
        return ["serve", ...set.flatMap((setting) => ["--set", setting])];
    }

    async served(child, started) {
        while (performance.now() - started < PATIENCE_MS) {
            if (child.ended) throw new Error(`hearth ended: ${JSON.stringify(child.ended)}\n${this.logEnd()}`);
            const signal = AbortSignal.timeout(FIRST_ANSWER_MS_MAX);
            const answer = await fetch(`${this.baseUrl}/_matrix/client/versions`, { signal }).catch(() => undefined);
            if (answer?.status === 200) {
                await answer.arrayBuffer();
                return;
            }
            await pause(5);
        }
        throw new Error(`hearth does not serve after ${PATIENCE_MS} ms\n${this.logEnd()}`);
    }

    /** The link that creates the first account. */
    firstAccountLink() {
        return this.log.match(FIRST_ACCOUNT)?.[0];
    }

    /** The end of what the server wrote. */
    logEnd() {
        return this.log.split("\n").slice(-LOG_LINES_MAX).join("\n");
    }

    /** Ends the program as a power cut would, as far as the program can tell. */
    async kill() {
        this.child.kill("SIGKILL");
        await this.exited;
    }

    /** Asks the program to end, and answers how it did. */
    async stop() {
        if (this.child.ended) return this.child.ended;
        this.child.kill("SIGTERM");
        const late = pause(PATIENCE_MS).then(() => undefined);
        const how = await Promise.race([this.exited, late]);
        if (how === undefined) await this.kill();
        return how;
    }

    /** Stops, and deletes the folder. */
    async destroy() {
        if (this.child) await this.stop();
        if (this.folder) await rm(this.folder, { recursive: true, force: true });
    }
}

/**
 * A port on loopback that nobody listens on now. It is none of those that the system gives to clients:
 * a script starts its server again and again on one port, which no client may take in between.
 */
export async function freePort() {
    for (let tried = 0; tried < PORTS_MAX; tried += 1) {
        const port = PORTS.from + Math.floor(Math.random() * (PORTS.to - PORTS.from));
        if (await isFree(port)) return port;
    }
    throw new Error(`none of ${PORTS_MAX} ports is free`);
}

/** Whether one can listen on a port. */
function isFree(port) {
    return new Promise((done) => {
        const server = createServer().once("error", () => done(false));
        server.listen(port, "127.0.0.1", () => server.close(() => done(true)));
    });
}
