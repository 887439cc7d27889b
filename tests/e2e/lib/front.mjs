// The doors of servers: each listens at an address with a certificate, notes how it was reached (SNI,
// `Host`, address and port), and hands the request on or answers itself.

import { request as ask } from "node:http";
import { createServer } from "node:https";
import { readFile } from "node:fs/promises";
import { isIPv6 } from "node:net";

export class Door {
    /** How each request came: `{ sni, host, socket, method, path }`. */
    seen = [];
    /** How many gave up at the certificate. */
    refused = 0;

    /**
     * `certificate` and `key` are paths; `answer` gets a request and its response, and answers true if
     * it has taken it. What it does not take goes to `backend`, a port on 127.0.0.1.
     */
    constructor({ certificate, key, answer = () => false, backend }) {
        Object.assign(this, { certificate, key, answer, backend });
    }

    async open(address, port) {
        const [cert, key] = await Promise.all([readFile(this.certificate), readFile(this.key)]);
        const socket = `${isIPv6(address) ? `[${address}]` : address}:${port}`;
        this.server = createServer({ cert, key }, (incoming, outgoing) => {
            const { servername } = incoming.socket;
            this.seen.push({
                sni: servername || "-", host: incoming.headers.host, socket, method: incoming.method, path: incoming.url,
            });
            if (!this.answer(incoming, outgoing)) this.handOn(incoming, outgoing);
        });
        this.server.on("tlsClientError", () => { this.refused += 1; });
        await new Promise((done, failed) => {
            this.server.once("error", failed);
            this.server.listen(port, address, done);
        });
        return this;
    }

    handOn(incoming, outgoing) {
        if (!this.backend) {
            outgoing.writeHead(404, { "content-type": "application/json" });
            return outgoing.end('{"errcode":"M_NOT_FOUND","error":"There is nothing here."}');
        }
        const options = { port: this.backend, host: "127.0.0.1", method: incoming.method, path: incoming.url };
        const onward = ask({ ...options, headers: incoming.headers }, (answer) => {
            outgoing.writeHead(answer.statusCode, answer.headers);
            answer.pipe(outgoing);
        });
        onward.on("error", () => outgoing.destroy());
        return incoming.pipe(onward);
    }

    async close() {
        if (!this.server) return;
        this.server.closeAllConnections();
        await new Promise((done) => this.server.close(done));
    }
}

/** An answer of a `.well-known` file: status, headers, body. */
export function file(body, { status = 200, headers = {} } = {}) {
    return (outgoing) => {
        outgoing.writeHead(status, headers);
        outgoing.end(body);
    };
}
