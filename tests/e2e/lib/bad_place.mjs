// The accounts, the room and all else at which bad requests are aimed, and what can be seen of it.

import { readdir } from "node:fs/promises";
import { connect } from "node:net";
import { assert, PATIENCE_MS } from "./checks.mjs";
import { Hearth, SHARED_SECRET } from "./hearth.mjs";
import { register } from "./register.mjs";

const PASSWORD = "a pass phrase";

/** How long an answer may take; nothing here asks to wait. */
const ANSWER_MS_MAX = PATIENCE_MS;

/** Members of answers that change by themselves. */
const FLEETING = new Set(["next_batch", "presence", "last_active_ago", "currently_active", "last_seen_ts", "last_seen_ip", "age"]);

/** Sync with all that it can show. */
const WHOLE = encodeURIComponent(JSON.stringify({ room: { include_leave: true, timeline: { limit: 100 } } }));

let counter = 0;

/** What one account has, and where. */
export class Place {
    constructor(server) {
        this.server = server;
        this.baseUrl = server.baseUrl;
    }

    /** Makes the accounts and everything that a bad request may spoil. */
    async settle() {
        [this.user, this.bob, this.carol] = [await this.newUser(), await this.newUser(), await this.newUser()];
        this.admin = await this.newUser(true);
        const [me, name] = this.user.user_id.slice(1).split(":");
        this.alias = `#known-${me}:${name}`;
        const room = await this.good("POST", "/createRoom", { name: "target", invite: [this.bob.user_id], room_alias_name: `known-${me}`, room_version: "11" });
        this.roomId = room.room_id;
        const inRoom = `/rooms/${encodeURIComponent(this.roomId)}`;
        await this.good("POST", `${inRoom}/join`, {}, this.bob);
        this.eventId = (await this.good("PUT", `${inRoom}/send/m.room.message/first`, { msgtype: "m.text", body: "first" })).event_id;
        const mine = `/user/${encodeURIComponent(this.user.user_id)}`;
        const ofRoom = `${mine}/rooms/${encodeURIComponent(this.roomId)}`;
        await this.good("PUT", `${mine}/account_data/org.example.type`, { a: 0 });
        await this.good("PUT", `${ofRoom}/account_data/org.example.type`, { a: 0 });
        await this.good("PUT", `${ofRoom}/tags/u.known`, { order: 0.25 });
        await this.good("PUT", "/pushrules/global/override/rule", { actions: ["notify"], conditions: [] });
        this.filterId = (await this.good("POST", `${mine}/filter`, {})).filter_id;
        this.version = (await this.good("POST", "/room_keys/version", { algorithm: "m.megolm_backup.v1.curve25519-aes-sha2", auth_data: {} })).version;
        await this.good("PUT", `/profile/${encodeURIComponent(this.user.user_id)}/displayname`, { displayname: "target" });
        await this.good("POST", `${inRoom}/receipt/m.read/${encodeURIComponent(this.eventId)}`, {}, this.bob);
    }

    newUser(admin = false) {
        counter += 1;
        return register(this.baseUrl, `target${Date.now().toString(36)}n${counter}`, PASSWORD, { sharedSecret: SHARED_SECRET, admin });
    }

    /** A request that the server has to take. */
    async good(method, path, body, user = this.user) {
        const answer = await this.send(method, `/_matrix/client/v3${path}`, { body: JSON.stringify(body), token: user.access_token });
        assert(answer.status === 200, `${method} ${path}: ${answer.status} ${JSON.stringify(answer.json)}`);
        return answer.json;
    }

    /** The path with its parameters filled in; `odd` takes the place of all of them. */
    fill({ method, path }, odd) {
        const server = this.user.user_id.split(":")[1];
        const known = {
            userId: /\/(report|admin\/\w+)/.test(path) ? this.bob.user_id : this.user.user_id,
            roomId: this.roomId, roomIdOrAlias: this.roomId, eventId: this.eventId,
            roomAlias: `#no-such-alias:${server}`, deviceId: method === "DELETE" ? "NOSUCHDEVICE" : this.user.device_id, stateKey: "",
            eventType: "org.example.event", relType: "m.thread", receiptType: "m.read", type: "org.example.type", tag: "u.tag", keyName: "displayname",
            kind: "override", ruleId: "rule", version: this.version, sessionId: "s", filterId: this.filterId, serverName: server, mediaId: "nosuchmedia",
            txnId: `bad${(counter += 1)}`,
        };
        return path.replaceAll(/\{(\w+)\}/g, (_, name) => odd ?? encodeURIComponent(known[name] ?? "x"));
    }

    /** A body of the table, with the names of this place in it. */
    body(good, user = this.user) {
        const auth = { type: "m.login.password", identifier: { type: "m.id.user", user: user.user_id }, password: PASSWORD };
        const known = {
            me: user.user_id, device: user.device_id, bob: this.bob.user_id, carol: this.carol.user_id, room: this.roomId, event: this.eventId,
            version: this.version, password: PASSWORD, n: String((counter += 1)),
        };
        const named = JSON.stringify(good).replaceAll('"{auth}"', JSON.stringify(auth));
        return JSON.parse(named.replaceAll(/\{(\w+)\}/g, (whole, name) => known[name] ?? whole));
    }

    /** Names of this place in a text of the table. */
    text(text) {
        return this.body(text);
    }

    /** Sends a request and judges what holds for every answer. */
    async send(method, path, { body, token } = {}) {
        const headers = token ? { authorization: `Bearer ${token}` } : {};
        if (body !== undefined) headers["content-type"] = "application/json";
        const response = await fetch(this.baseUrl + path, {
            method, headers, body: method === "GET" ? undefined : body, redirect: "manual", signal: AbortSignal.timeout(ANSWER_MS_MAX),
        });
        const text = await response.text();
        assert(response.status < 500 || allowed(response.status, text), `${response.status} ${text.slice(0, 200)}`);
        let json;
        try {
            json = JSON.parse(text);
        } catch {
            const wellKnown = path.startsWith("/.well-known/") && response.status === 404;
            assert(response.status < 400 || wellKnown, `${response.status} without JSON: ${text.slice(0, 100)}`);
        }
        // The first answer of interactive authentication has no error code.
        const asks = response.status === 401 && json?.flows !== undefined;
        if (response.status >= 400 && json !== undefined && !asks) assert(typeof json.errcode === "string", `${response.status} without errcode: ${text.slice(0, 100)}`);
        return { status: response.status, json };
    }

    /** The status and the body's text of a request that announces more than it sends. */
    oversized(method, path, token) {
        const { hostname, port } = new URL(this.baseUrl);
        const head = `${method} ${path} HTTP/1.1\r\nHost: ${hostname}\r\nAuthorization: Bearer ${token}\r\nContent-Type: application/json\r\nContent-Length: 1000000000\r\nConnection: close\r\n\r\n{"a":"`;
        return new Promise((done, refuse) => {
            let text = "";
            const socket = connect({ host: hostname, port: Number(port) }, () => socket.write(head));
            socket.setTimeout(ANSWER_MS_MAX, () => socket.destroy(new Error("no answer to an oversized body")));
            socket.setEncoding("utf8").on("data", (more) => {
                text += more;
                if (/\r\n\r\n.*\}/s.test(text)) socket.destroy();
            });
            socket.on("error", refuse).on("close", () => done(text));
        });
    }

    /** Everything that can be seen of the place, by name. */
    async snapshot() {
        const mine = `/user/${encodeURIComponent(this.user.user_id)}`;
        const room = encodeURIComponent(this.roomId);
        const event = encodeURIComponent(this.eventId);
        const v3 = "/_matrix/client/v3";
        const seen = {};
        const look = async (name, path, user = this.user) => { seen[name] = await this.look(path, user); };
        await Promise.all([
            look("what sync shows", `${v3}/sync?filter=${WHOLE}`), look("what bob's sync shows", `${v3}/sync?filter=${WHOLE}`, this.bob),
            look("what carol's sync shows", `${v3}/sync?filter=${WHOLE}`, this.carol),
            look("state", `${v3}/rooms/${room}/state`), look("members", `${v3}/rooms/${room}/members`),
            look("messages", `${v3}/rooms/${room}/messages?dir=b&limit=100`), look("the event", `${v3}/rooms/${room}/event/${event}`),
            look("relations", `/_matrix/client/v1/rooms/${room}/relations/${event}`), look("threads", `/_matrix/client/v1/rooms/${room}/threads`),
            look("joined rooms", `${v3}/joined_rooms`), look("who I am", `${v3}/account/whoami`), look("devices", `${v3}/devices`),
            look("account data", `${v3}${mine}/account_data/org.example.type`),
            look("the room's account data", `${v3}${mine}/rooms/${room}/account_data/org.example.type`), look("tags", `${v3}${mine}/rooms/${room}/tags`),
            look("push rules", `${v3}/pushrules/`), look("pushers", `${v3}/pushers`), look("notifications", `${v3}/notifications`),
            look("the filter", `${v3}${mine}/filter/${this.filterId}`), look("the next filter", `${v3}${mine}/filter/${Number(this.filterId) + 1}`),
            look("profile", `${v3}/profile/${encodeURIComponent(this.user.user_id)}`),
            look("presence", `${v3}/presence/${encodeURIComponent(this.user.user_id)}/status`),
            look("aliases", `${v3}/rooms/${room}/aliases`), look("the alias", `${v3}/directory/room/${encodeURIComponent(this.alias)}`),
            look("the room in the directory", `${v3}/directory/list/room/${room}`), look("the directory", `${v3}/publicRooms`),
            look("backup", `${v3}/room_keys/version`), look("backed-up keys", `${v3}/room_keys/keys?version=${this.version}`),
            look("whether bob is locked", `/_matrix/client/v1/admin/lock/${encodeURIComponent(this.bob.user_id)}`, this.admin),
            look("whether bob is suspended", `/_matrix/client/v1/admin/suspend/${encodeURIComponent(this.bob.user_id)}`, this.admin),
            this.keys().then((keys) => { seen.keys = keys; }), this.media().then((files) => { seen.media = files; }),
        ]);
        // Every change that anyone may ever be told of takes the next position.
        const sync = await this.send("GET", `${v3}/sync`, { token: this.user.access_token });
        if (this.server instanceof Hearth) seen.position = sync.json.next_batch.split("_")[0];
        return seen;
    }

    async look(path, user) {
        const { status, json } = await this.send("GET", path, { token: user.access_token });
        return { status, json: steady(json) };
    }

    async keys() {
        const body = JSON.stringify({ device_keys: { [this.user.user_id]: [] } });
        return (await this.send("POST", "/_matrix/client/v3/keys/query", { body, token: this.user.access_token })).json;
    }

    /** How many files the server keeps, where we can look. */
    async media() {
        if (!(this.server instanceof Hearth)) return undefined;
        const files = await readdir(`${this.server.folder}/data/media`, { recursive: true }).catch(() => []);
        return files.length;
    }
}

/** The answer without what changes by itself. */
function steady(json) {
    const text = JSON.stringify(json ?? null, (name, value) => (FLEETING.has(name) ? undefined : value));
    return JSON.parse(text);
}

/** Failures that the specification names: what waits for another's upload, or needs another server. */
function allowed(status, text) {
    return (status === 504 && text.includes("M_NOT_YET_UPLOADED")) || (status === 502 && text.includes("M_"));
}
