// What a careless or hostile client may send to every route of the client-server API: broken JSON,
// wrong types, invalid UTF-8, absurd numbers, oversized bodies, wrong tokens, odd paths. The server
// answers each with a Matrix error, never with a failure of its own, and goes on.
//
//   node bad_input.mjs --hearth PROGRAM [--database sqlite|postgres://…]
//   node bad_input.mjs --synapse ENVIRONMENT                                as control

import { readFile } from "node:fs/promises";
import { parseArguments } from "./lib/arguments.mjs";
import { assert, assertEqual, Checks, PATIENCE_MS } from "./lib/checks.mjs";
import { Hearth, SHARED_SECRET } from "./lib/hearth.mjs";
import { register } from "./lib/register.mjs";
import { Synapse } from "./lib/synapse.mjs";

const options = parseArguments(process.argv.slice(2), { known: ["hearth", "database", "synapse", "only"] });

/** The specification's routes, beside the tool that counts how many are served. */
const ENDPOINTS = new URL("../../crates/xtask/endpoints.tsv", import.meta.url);

/** How long an answer may take; nothing here asks to wait. */
const ANSWER_MS_MAX = PATIENCE_MS;

/** Routes after which the token is dead, or the account. */
const ENDS_SESSION = /\/(logout|logout\/all|account\/(deactivate|password)|delete_devices|devices\/\{deviceId\})$/;

/** Routes after which the user is out of the room, or the room is over. */
const ENDS_ROOM = /\/rooms\/\{roomId\}\/(leave|forget|upgrade)$/;

/** Routes whose body is a JSON object that has to be read before anything else can be judged. */
const READS_JSON = [
    "POST /_matrix/client/v3/createRoom", "POST /_matrix/client/v3/login", "POST /_matrix/client/v3/register",
    "PUT /_matrix/client/v3/rooms/{roomId}/send/{eventType}/{txnId}",
    "PUT /_matrix/client/v3/rooms/{roomId}/state/{eventType}/{stateKey}",
    "POST /_matrix/client/v3/user/{userId}/filter", "PUT /_matrix/client/v3/user/{userId}/account_data/{type}",
];

const utf8 = (text) => new TextEncoder().encode(text);

/** Bodies that no route can take. */
const BROKEN = {
    "half an object": utf8("{"),
    "no JSON": utf8("hello"),
    "invalid UTF-8": Uint8Array.from([0x7b, 0x22, 0xff, 0xfe, 0x22, 0x3a, 0x31, 0x7d]),
    "an object and more": utf8("{} {}"),
    "very deep": utf8("[".repeat(50_000)),
    "a lone surrogate": utf8('{"a":"\\ud800"'),
};

/** Bodies that are JSON, and not what is asked for. */
const WRONG = {
    "an array": "[]", "a string": '"x"', "null": "null", "a number": "12", "absurd numbers": absurd("1e400"),
    "negative numbers": absurd("-1"), "large integers": absurd("9223372036854775808"), "arrays": absurd("[]"),
    "nulls": absurd("null"), "objects": absurd("{}"), "long strings": absurd(`"${"x".repeat(8_000)}"`),
    "zero bytes": absurd('"\\u0000"'),
};

/** An object that gives many members of requests one odd value. */
function absurd(value) {
    const names = [
        "username", "password", "type", "identifier", "auth", "device_id", "initial_device_display_name", "name", "topic",
        "invite", "room_version", "preset", "initial_state", "power_level_content_override", "creation_content", "is_direct",
        "visibility", "room_alias_name", "user_id", "reason", "msgtype", "body", "content", "m.relates_to", "membership",
        "users", "events", "state_default", "displayname", "avatar_url", "typing", "timeout", "m.fully_read", "m.read",
        "thread_id", "order", "room", "event_fields", "limit", "presence", "status_msg", "messages", "devices", "new_version",
        "new_password", "logout_devices", "actions", "pattern", "enabled", "kind", "app_id", "pushkey", "data", "keys",
        "device_keys", "one_time_keys", "search_categories", "from", "since", "filter", "room_id", "aliases", "third_party_signed",
    ];
    return `{${names.map((name) => `"${name}":${value}`).join(",")}}`;
}

/** Query strings that no route asks for in earnest. */
const QUERIES = {
    "absurd numbers": "?limit=99999999999999999999&timeout=-5&from=-1&since=18446744073709551616&ts=1e9&width=-1&height=1e9",
    "nonsense": "?limit=x&timeout=x&from=%00&since=%ff&dir=q&filter=%7B&ts=x&width=x&height=x&method=x&at=x&to=x&full_state=x",
    "twice": "?limit=1&limit=2&dir=b&dir=f&filter=%7B%7D&filter=0",
};

/** Values for the parts of a path, on top of those that exist. */
const PATH_VALUES = {
    "a zero byte": "%00", "invalid UTF-8": "%ff%fe", "nothing but a sigil": "%21", "a way up": "..%2f..%2fetc", "long": "x".repeat(2_000),
};

async function endpoints() {
    const lines = (await readFile(ENDPOINTS, "utf8")).trim().split("\n").slice(1).map((line) => line.split("\t"));
    return lines
        .filter(([api, , path]) => api === "client-server" && (!options.only || path.includes(options.only)))
        .map(([, method, path, , auth]) => ({ method, path, auth, name: `${method} ${path}` }));
}

/** The account, the room and the event that the paths name. */
class Place {
    constructor(baseUrl) {
        this.baseUrl = baseUrl;
        this.users = 0;
    }

    async settle() {
        this.user = await this.newUser();
        this.roomId = await this.newRoom();
        const path = `/_matrix/client/v3/rooms/${encodeURIComponent(this.roomId)}/send/m.room.message/first`;
        const event = await this.send("PUT", path, { body: '{"msgtype":"m.text","body":"first"}', token: this.user.access_token });
        this.eventId = event.json.event_id;
        this.before = await this.snapshot();
    }

    async newRoom() {
        const room = await this.send("POST", "/_matrix/client/v3/createRoom", { body: '{"name":"target"}', token: this.user.access_token });
        return room.json.room_id;
    }

    newUser() {
        this.users += 1;
        return register(this.baseUrl, `target${Date.now().toString(36)}${this.users}`, "a pass phrase", { sharedSecret: SHARED_SECRET });
    }

    /** A token that a request to this route may end. */
    async tokenFor(path) {
        return ENDS_SESSION.test(path) ? (await this.newUser()).access_token : this.user.access_token;
    }

    /** The path with its parameters filled in; `odd` takes the place of all of them. */
    async fill(path, odd) {
        const roomId = ENDS_ROOM.test(path) && odd === undefined ? await this.newRoom() : this.roomId;
        const known = {
            userId: this.user.user_id, roomId, roomIdOrAlias: roomId,
            // A redaction would be granted.
            eventId: path.includes("/redact/") ? "$no-such-event" : this.eventId,
            roomAlias: `#no-such-alias:${this.user.user_id.split(":")[1]}`, deviceId: "NOSUCHDEVICE", stateKey: "", eventType: "m.room.message", txnId: `bad${Math.random()}`,
        };
        return path.replaceAll(/\{(\w+)\}/g, (_, name) => odd ?? encodeURIComponent(known[name] ?? "x"));
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

    /** What must not change: the room's state, and the account's rooms. */
    async snapshot() {
        const token = this.user.access_token;
        const state = await this.send("GET", `/_matrix/client/v3/rooms/${encodeURIComponent(this.roomId)}/state/m.room.create/`, { token });
        const whoami = await this.send("GET", "/_matrix/client/v3/account/whoami", { token });
        const create = await this.send("GET", `/_matrix/client/v3/rooms/${encodeURIComponent(this.roomId)}/event/${encodeURIComponent(this.eventId)}`, { token });
        return [state.json, whoami.json, create.json?.content];
    }
}

/** Failures that the specification names: what waits for another's upload, or needs another server. */
function allowed(status, text) {
    return (status === 504 && text.includes("M_NOT_YET_UPLOADED")) || (status === 502 && text.includes("M_"));
}

/** The server does not serve this route (yet). */
function isUnserved({ status, json }) {
    return (status === 404 || status === 405) && json?.errcode === "M_UNRECOGNIZED";
}

/** Sends all that is bad to one route. */
async function assail(place, route) {
    const path = await place.fill(route.path);
    const plain = await place.send(route.method, path, { body: "{}" });
    if (isUnserved(plain)) return "not served";
    if (route.auth === "yes") {
        assertEqual([plain.status, plain.json.errcode], [401, "M_MISSING_TOKEN"], "without a token");
        const wrong = await place.send(route.method, path, { body: "{}", token: "no-such-token" });
        assertEqual([wrong.status, wrong.json.errcode], [401, "M_UNKNOWN_TOKEN"], "with a wrong token");
    }
    const said = async (what, path, body) => {
        const token = await place.tokenFor(route.path);
        return place.send(route.method, path, { body, token }).catch((error) => { throw new Error(`${what}: ${error.message}`); });
    };
    for (const [what, query] of Object.entries(QUERIES)) await said(`query: ${what}`, (await place.fill(route.path)) + query, "{}");
    if (route.path.includes("{")) {
        for (const [what, odd] of Object.entries(PATH_VALUES)) await said(`path: ${what}`, await place.fill(route.path, odd), "{}");
    }
    if (route.method === "GET") return "assailed";
    for (const [what, body] of Object.entries(BROKEN)) {
        const answer = await said(`body: ${what}`, await place.fill(route.path), body);
        if (READS_JSON.includes(route.name)) {
            assertEqual([answer.status, answer.json.errcode], [400, "M_NOT_JSON"], `body: ${what}`);
        }
    }
    for (const [what, body] of Object.entries(WRONG)) await said(`body: ${what}`, await place.fill(route.path), body);
    return "assailed";
}

async function story(checks, server) {
    const place = new Place(server.baseUrl);
    await checks.check("an account and a room to aim at", () => place.settle());
    if (place.before === undefined) return;
    let unserved = 0;
    for (const route of await endpoints()) {
        await checks.check(route.name, async () => { if (await assail(place, route) === "not served") unserved += 1; });
    }
    console.log(`        ${unserved} routes are not served, and say so`);
    await checks.check("an oversized body is refused", async () => {
        const body = `{"name":"${"x".repeat(20 << 20)}"}`;
        const token = place.user.access_token;
        // A server may answer before it has read it all, and close the connection.
        const answer = await place.send("POST", "/_matrix/client/v3/createRoom", { body, token }).catch((error) => ({ error }));
        if (answer.error) assert(String(answer.error.cause ?? answer.error).match(/EPIPE|ECONNRESET|other side closed/), String(answer.error));
        else assertEqual([answer.status, answer.json.errcode], [413, "M_TOO_LARGE"], "refusal");
    });
    await checks.check("an unknown path and a wrong method are told apart", async () => {
        const unknown = await place.send("GET", "/_matrix/client/v3/no/such/path");
        assertEqual([unknown.status, unknown.json.errcode], [404, "M_UNRECOGNIZED"], "unknown path");
        const wrong = await place.send("DELETE", "/_matrix/client/v3/account/whoami");
        assertEqual([wrong.status, wrong.json.errcode], [405, "M_UNRECOGNIZED"], "wrong method");
    });
    await checks.check("the room and the account are as before", async () => {
        assertEqual(await place.snapshot(), place.before, "room and account");
    });
}

const checks = new Checks();
const server = options.synapse ? new Synapse(options.synapse) : new Hearth({ program: options.hearth, database: options.database });
try {
    await checks.check("the server starts", () => server.create());
    await story(checks, server);
    if (server instanceof Hearth) {
        await checks.check("nothing panicked", () => assert(!server.log.includes("panicked at"), server.logEnd()));
        await checks.check("hearth stops when asked", async () => assertEqual((await server.stop())?.code, 0, "exit code"));
    }
} catch (error) {
    await checks.check("the script runs", () => { throw error; });
} finally {
    await server.destroy();
}
process.exit(checks.close() ? 0 : 1);
