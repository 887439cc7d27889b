// Senders and a reader that remember what the server acknowledged, for tests that end it in between.

import { assert, pause, PATIENCE_MS } from "./checks.mjs";
import { register } from "./register.mjs";
import { request } from "./request.mjs";

const PASSWORD = "closed loop";

/** Milliseconds between two tries. */
const RETRY_EVERY_MS = 20;

/** How long a sync waits for news: short enough to end soon after the last event, long enough to sleep through a kill. */
const SYNC_WAIT_MS = 1_000;

/** Events that a sync or a page brings at most. */
const PAGE = 200;

/** A user with a token. */
export class User {
    constructor(server, name) {
        this.server = server;
        this.name = name;
    }

    async register(sharedSecret) {
        const answer = await register(this.server.baseUrl, this.name, PASSWORD, { sharedSecret });
        [this.token, this.userId] = [answer.access_token, answer.user_id];
    }

    /** One request; a refusal throws. */
    async call(method, path, body) {
        const answer = await request(this.server.baseUrl, method, path, { token: this.token, body });
        if (answer.status === 200) return answer.body;
        throw new Error(`${method} ${path}: ${answer.status} ${JSON.stringify(answer.body)}`);
    }

    /** The same request again and again while the server is away or in trouble, until it counts as lost. */
    async insist(method, path, body) {
        const end = Date.now() + PATIENCE_MS;
        for (;;) {
            const answer = await request(this.server.baseUrl, method, path, { token: this.token, body })
                .catch((error) => ({ status: 0, body: String(error.cause ?? error) }));
            if (answer.status === 200) return answer.body;
            const passing = answer.status === 0 || answer.status >= 500;
            if (!passing || Date.now() > end) {
                throw new Error(`${method} ${path}: ${answer.status} ${JSON.stringify(answer.body)}`);
            }
            await pause(RETRY_EVERY_MS);
        }
    }
}

/** A user who sends one message after the other, each again until it is acknowledged. */
export class Sender extends User {
    /** What was acknowledged: `{ eventId, body, roomId }`. */
    acknowledged = [];
    sent = 0;

    /** Sends to the rooms in turn until `goOn` says no. */
    async run(roomIds, goOn) {
        while (goOn()) {
            const roomId = roomIds[this.sent % roomIds.length];
            this.sent += 1;
            await this.send(roomId, `${this.name} says ${this.sent}`);
        }
    }

    async send(roomId, body) {
        const path = `/_matrix/client/v3/rooms/${encodeURIComponent(roomId)}/send/m.room.message/${encodeURIComponent(body)}`;
        const { event_id: eventId } = await this.insist("PUT", path, { msgtype: "m.text", body });
        assert(typeof eventId === "string", `no event id for ${body}`);
        this.acknowledged.push({ eventId, body, roomId });
        this.lastAcknowledgedAt = performance.now();
        return eventId;
    }
}

/** A client that syncs on and on with its last token, fills the gaps, and counts what comes twice. */
export class Reader extends User {
    seen = new Set();
    twice = [];
    errors = [];

    /** Takes the present as known: later events alone are looked at. */
    async begin() {
        this.since = (await this.call("GET", this.path(undefined, 0))).next_batch;
    }

    path(since, timeout) {
        const filter = JSON.stringify({ room: { timeline: { limit: PAGE } }, presence: { types: [] } });
        const query = new URLSearchParams({ filter, timeout: String(timeout), ...(since && { since }) });
        return `/_matrix/client/v3/sync?${query}`;
    }

    /** Syncs until `stop` is called. */
    start() {
        this.stopped = false;
        this.running = this.loop().catch((error) => this.errors.push(String(error)));
    }

    async stop() {
        this.stopped = true;
        await this.running;
    }

    async loop() {
        while (!this.stopped) {
            const answer = await this.insist("GET", this.path(this.since, SYNC_WAIT_MS));
            for (const [roomId, room] of Object.entries(answer.rooms?.join ?? {})) await this.take(roomId, room.timeline);
            this.since = answer.next_batch;
        }
    }

    async take(roomId, timeline) {
        if (timeline === undefined) return;
        if (timeline.limited) await this.fill(roomId, timeline.prev_batch);
        for (const event of timeline.events) this.see(event.event_id);
    }

    /** Pages back from a gap's end to what is known: to its start, where the last token stood. */
    async fill(roomId, from) {
        const room = encodeURIComponent(roomId);
        for (let at = from; at;) {
            const query = new URLSearchParams({ dir: "b", from: at, to: this.since, limit: String(PAGE) });
            const page = await this.insist("GET", `/_matrix/client/v3/rooms/${room}/messages?${query}`);
            for (const event of page.chunk) this.see(event.event_id);
            at = page.chunk.length > 0 ? page.end : undefined;
        }
    }

    see(eventId) {
        if (this.seen.has(eventId)) this.twice.push(eventId);
        this.seen.add(eventId);
    }
}

/** Every message of a room, newest first, as the server serves its history. */
export async function history(user, roomId) {
    const messages = [];
    const room = encodeURIComponent(roomId);
    for (let from; ;) {
        const query = new URLSearchParams({ dir: "b", limit: "500", ...(from && { from }) });
        const page = await user.call("GET", `/_matrix/client/v3/rooms/${room}/messages?${query}`);
        messages.push(...page.chunk.filter((event) => event.type === "m.room.message"));
        if (!page.end || page.end === from) return messages;
        from = page.end;
    }
}
