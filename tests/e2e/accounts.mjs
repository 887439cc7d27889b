// What belongs to an account, route by route: sign-in, devices, profile, account data, tags, filters,
// push rules, pushers, presence, to-device messages, receipts, reports, password, end.
//
//   node accounts.mjs --hearth PROGRAM [--database sqlite|postgres://…]
//   node accounts.mjs --synapse ENVIRONMENT                                as control
//
// Synapse does not pass all of it: it keeps the older token of a device id that signs in again, refuses
// what is another user's with 400 instead of 403, and answers a first sync from a cache.

import { parseArguments } from "./lib/arguments.mjs";
import { assert, assertEqual, Checks } from "./lib/checks.mjs";
import { Hearth, SHARED_SECRET } from "./lib/hearth.mjs";
import { register } from "./lib/register.mjs";
import { request } from "./lib/request.mjs";
import { Synapse } from "./lib/synapse.mjs";

const options = parseArguments(process.argv.slice(2), { known: ["hearth", "database", "synapse"] });
const checks = new Checks();
const server = options.synapse ? new Synapse(options.synapse) : new Hearth({ program: options.hearth, database: options.database });
const PASSWORD = "a pass phrase by the fire";
const part = encodeURIComponent;

/** One signed-in device. Paths are below `/_matrix/client/v3` unless they start with `/_matrix`. */
class Device {
    constructor(answer) {
        Object.assign(this, { id: answer.user_id, token: answer.access_token, device: answer.device_id });
        this.me = part(this.id);
    }

    ask(method, path, body) {
        const full = path.startsWith("/_matrix") ? path : `/_matrix/client/v3${path}`;
        return request(server.baseUrl, method, full, { token: this.token, body });
    }

    /** A request that must be granted; answers its body. */
    async ok(method, path, body) {
        const answer = await this.ask(method, path, body);
        assertEqual(answer.status, 200, `${method} ${path}: ${JSON.stringify(answer.body)}`);
        return answer.body;
    }

    /** A request that must be refused like this. */
    async no(status, errcode, method, path, body) {
        const answer = await this.ask(method, path, body);
        assertEqual([answer.status, answer.body.errcode], [status, errcode], `${method} ${path}`);
        return answer.body;
    }

    /** A request that asks for the password first: shows that it does, and gives it. */
    async withPassword(method, path, body, password = PASSWORD) {
        const asked = await this.ask(method, path, body);
        assertEqual([asked.status, asked.body.flows?.some((flow) => flow.stages.includes("m.login.password"))], [401, true], `${method} ${path} asks`);
        const user = this.id;
        const auth = { type: "m.login.password", identifier: { type: "m.id.user", user }, password, session: asked.body.session };
        return this.ask(method, path, { ...body, auth });
    }

    sync(since, timeout = 0) {
        return this.ok("GET", `/sync?timeout=${timeout}${since ? `&since=${since}` : ""}`);
    }
}

const nobody = new Device({ user_id: "@nobody:x" });

/** A new account with one device. */
async function person(name) {
    return new Device(await register(server.baseUrl, name, PASSWORD, { sharedSecret: SHARED_SECRET }));
}

function signIn(user, more = {}) {
    return nobody.ask("POST", "/login", { type: "m.login.password", identifier: { type: "m.id.user", user }, password: PASSWORD, ...more });
}

async function signingIn(alice) {
    await checks.check("CA4 the ways to sign in are listed", async () => {
        const { flows } = await nobody.ok("GET", "/login");
        assert(flows.some((flow) => flow.type === "m.login.password"), JSON.stringify(flows));
    });
    await checks.check("CA4 name or full id in any case; nobody and a wrong password look alike", async () => {
        for (const user of ["alice", "ALICE", alice.id]) assertEqual((await signIn(user)).body.user_id, alice.id, user);
        const [wrong, none] = [await signIn("alice", { password: "wrong" }), await signIn("nobody")];
        assertEqual([wrong.status, wrong.body.errcode], [403, "M_FORBIDDEN"], "wrong password");
        assertEqual(none.body.errcode, wrong.body.errcode, "nobody");
    });
    await checks.check("CA3 a name is free, taken or wrong", async () => {
        assertEqual(await nobody.ok("GET", "/register/available?username=fresh"), { available: true }, "free");
        await nobody.no(400, "M_USER_IN_USE", "GET", "/register/available?username=alice");
        await nobody.no(400, "M_INVALID_USERNAME", "GET", "/register/available?username=a%20b");
    });
    await checks.check("CA5 the same device id ends its older token, and keeps the device", async () => {
        const first = new Device((await signIn("alice", { device_id: "TWICE" })).body);
        const second = new Device((await signIn("alice", { device_id: "TWICE" })).body);
        assertEqual([first.device, second.device], ["TWICE", "TWICE"], "device ids");
        await first.no(401, "M_UNKNOWN_TOKEN", "GET", "/account/whoami");
        await second.ok("GET", "/account/whoami");
    });
    await checks.check("CA9 a refreshed token takes the place of the old one", async () => {
        const { body } = await signIn("alice", { refresh_token: true });
        assert(body.refresh_token && body.expires_in_ms > 0, JSON.stringify(body));
        const fresh = await nobody.ok("POST", "/refresh", { refresh_token: body.refresh_token });
        const device = new Device({ ...body, access_token: fresh.access_token });
        assertEqual((await device.ok("GET", "/account/whoami")).device_id, body.device_id, "device");
        const old = await nobody.ask("POST", "/refresh", { refresh_token: body.refresh_token });
        assert(old.status === 401 || old.status === 403, `the old refresh token: ${old.status}`);
    });
    await checks.check("CA6 signing out ends one token, or all", async () => {
        const [one, two] = [new Device((await signIn("alice")).body), new Device((await signIn("alice")).body)];
        await one.ok("POST", "/logout", {});
        await one.no(401, "M_UNKNOWN_TOKEN", "GET", "/account/whoami");
        await two.ok("GET", "/account/whoami");
        const other = await person("leaver");
        const again = new Device((await signIn("leaver")).body);
        await again.ok("POST", "/logout/all", {});
        for (const device of [other, again]) await device.no(401, "M_UNKNOWN_TOKEN", "GET", "/account/whoami");
    });
}

async function devices(alice) {
    const second = new Device((await signIn("alice", { initial_device_display_name: "second" })).body);
    await checks.check("devices are listed, shown and renamed", async () => {
        const { devices } = await alice.ok("GET", "/devices");
        assert(devices.some((d) => d.device_id === alice.device) && devices.some((d) => d.device_id === second.device), JSON.stringify(devices));
        assertEqual((await alice.ok("GET", `/devices/${part(second.device)}`)).display_name, "second", "name");
        await alice.ok("PUT", `/devices/${part(second.device)}`, { display_name: "renamed" });
        assertEqual((await alice.ok("GET", `/devices/${part(second.device)}`)).display_name, "renamed", "new name");
        await alice.no(404, "M_NOT_FOUND", "GET", "/devices/NOSUCH");
        await alice.no(404, "M_NOT_FOUND", "PUT", "/devices/NOSUCH", { display_name: "x" });
    });
    await checks.check("CA1 CA2 deleting a device asks for the password, and for one's own", async () => {
        const wrong = await alice.withPassword("DELETE", `/devices/${part(second.device)}`, {}, "wrong");
        assert([401, 403].includes(wrong.status), `a wrong password: ${wrong.status}`);
        await second.ok("GET", "/account/whoami");
        assertEqual((await alice.withPassword("DELETE", `/devices/${part(second.device)}`, {})).status, 200, "the right one");
        await second.no(401, "M_UNKNOWN_TOKEN", "GET", "/account/whoami");
    });
    await checks.check("several devices are deleted at once", async () => {
        const doomed = [new Device((await signIn("alice")).body), new Device((await signIn("alice")).body)];
        const answer = await alice.withPassword("POST", "/delete_devices", { devices: doomed.map((d) => d.device) });
        assertEqual(answer.status, 200, "status");
        for (const device of doomed) await device.no(401, "M_UNKNOWN_TOKEN", "GET", "/account/whoami");
    });
}

async function belongings(alice, bob) {
    await checks.check("a profile's fields are set, read and removed", async () => {
        await alice.ok("PUT", `/profile/${alice.me}/displayname`, { displayname: "Alice" });
        await alice.ok("PUT", `/profile/${alice.me}/avatar_url`, { avatar_url: "mxc://hearth.test/abc" });
        assertEqual(await bob.ok("GET", `/profile/${alice.me}/displayname`), { displayname: "Alice" }, "name");
        assertEqual(await bob.ok("GET", `/profile/${alice.me}`), { displayname: "Alice", avatar_url: "mxc://hearth.test/abc" }, "profile");
        await bob.no(403, "M_FORBIDDEN", "PUT", `/profile/${alice.me}/displayname`, { displayname: "Mallory" });
        await bob.no(404, "M_NOT_FOUND", "GET", `/profile/${part(`@nobody:${alice.id.split(":")[1]}`)}`);
    });
    await checks.check("account data is kept, and nobody else's", async () => {
        const path = `/user/${alice.me}/account_data/org.example.note`;
        await alice.no(404, "M_NOT_FOUND", "GET", path);
        await alice.ok("PUT", path, { text: "remember" });
        assertEqual(await alice.ok("GET", path), { text: "remember" }, "content");
        await bob.no(403, "M_FORBIDDEN", "GET", path);
        await bob.no(403, "M_FORBIDDEN", "PUT", path, {});
        assert((await alice.sync()).account_data.events.some((e) => e.type === "org.example.note"), "sync");
    });
    await checks.check("CR25 the server's own account data cannot be written", async () => {
        for (const type of ["m.fully_read", "m.push_rules"]) await alice.no(405, "M_BAD_JSON", "PUT", `/user/${alice.me}/account_data/${type}`, {});
    });
    await checks.check("filters are kept, and used by their id", async () => {
        const filter = { room: { timeline: { limit: 3 } }, event_fields: ["content.body"] };
        const { filter_id } = await alice.ok("POST", `/user/${alice.me}/filter`, filter);
        assertEqual((await alice.ok("GET", `/user/${alice.me}/filter/${filter_id}`)).room.timeline.limit, 3, "limit");
        await alice.ok("GET", `/sync?filter=${filter_id}`);
        await bob.no(403, "M_FORBIDDEN", "GET", `/user/${alice.me}/filter/${filter_id}`);
        await alice.no(404, "M_NOT_FOUND", "GET", `/user/${alice.me}/filter/99999`);
    });
    await checks.check("presence is set and seen", async () => {
        await alice.ok("PUT", `/presence/${alice.me}/status`, { presence: "online", status_msg: "by the fire" });
        const presence = await alice.ok("GET", `/presence/${alice.me}/status`);
        assertEqual([presence.presence, presence.status_msg], ["online", "by the fire"], "presence");
        await bob.no(403, "M_FORBIDDEN", "PUT", `/presence/${alice.me}/status`, { presence: "offline" });
    });
    await checks.check("CY12 messages to a device come until they are acknowledged", async () => {
        const since = (await bob.sync()).next_batch;
        const body = { messages: { [bob.id]: { [bob.device]: { n: 1 } } } };
        await alice.ok("PUT", "/sendToDevice/org.example.knock/t1", body);
        await alice.ok("PUT", "/sendToDevice/org.example.knock/t1", body);
        const first = await bob.sync(since, 5_000);
        assertEqual(first.to_device.events, [{ type: "org.example.knock", sender: alice.id, content: { n: 1 } }], "events");
        assertEqual((await bob.sync(since)).to_device.events.length, 1, "the same token again");
        assertEqual((await bob.sync(first.next_batch)).to_device?.events ?? [], [], "the next token");
    });
}

async function pushes(alice) {
    const rule = "/pushrules/global/content/word";
    await checks.check("CP1 push rules are made, changed, switched and deleted", async () => {
        const rules = await alice.ok("GET", "/pushrules/");
        for (const kind of ["override", "content", "room", "sender", "underride"]) assert(Array.isArray(rules.global[kind]), kind);
        await alice.ok("PUT", rule, { pattern: "fire", actions: ["notify"] });
        assertEqual((await alice.ok("GET", rule)).pattern, "fire", "pattern");
        await alice.ok("PUT", `${rule}/enabled`, { enabled: false });
        assertEqual(await alice.ok("GET", `${rule}/enabled`), { enabled: false }, "enabled");
        await alice.ok("PUT", `${rule}/actions`, { actions: ["notify", { set_tweak: "highlight" }] });
        assertEqual((await alice.ok("GET", `${rule}/actions`)).actions.length, 2, "actions");
        assert((await alice.ok("GET", "/pushrules/global/")).content.some((r) => r.rule_id === "word"), "list");
        await alice.ok("DELETE", rule);
        await alice.no(404, "M_NOT_FOUND", "GET", rule);
    });
    await checks.check("CP1 the server's own rules are switched, not deleted", async () => {
        const own = "/pushrules/global/underride/.m.rule.message";
        await alice.ok("PUT", `${own}/enabled`, { enabled: false });
        assertEqual((await alice.ok("GET", own)).enabled, false, "enabled");
        await alice.ok("PUT", `${own}/enabled`, { enabled: true });
        const gone = await alice.ask("DELETE", own);
        assert(gone.status >= 400 && gone.status < 500, `deleted: ${gone.status}`);
        assertEqual((await alice.ask("PUT", "/pushrules/global/override/.mine", { actions: [], conditions: [] })).status, 400, "a name with a dot");
    });
    await checks.check("pushers are set, listed and removed", async () => {
        const pusher = {
            app_id: "org.example.app", pushkey: "key", kind: "http", app_display_name: "App", device_display_name: "Phone", lang: "en",
            data: { url: "https://push.example.org/_matrix/push/v1/notify" },
        };
        await alice.ok("POST", "/pushers/set", pusher);
        assertEqual((await alice.ok("GET", "/pushers")).pushers.map((p) => p.pushkey), ["key"], "pushers");
        await alice.ok("POST", "/pushers/set", { app_id: pusher.app_id, pushkey: "key", kind: null });
        assertEqual((await alice.ok("GET", "/pushers")).pushers, [], "after removal");
    });
}

async function inRooms(alice, bob) {
    const room = await checks.check("a room for both", async () => {
        const { room_id } = await alice.ok("POST", "/createRoom", { preset: "private_chat", invite: [bob.id] });
        await bob.ok("POST", `/rooms/${part(room_id)}/join`, {});
        return room_id;
    });
    if (room === undefined) return;
    const at = `/rooms/${part(room)}`;
    await checks.check("tags are put on a room and taken off", async () => {
        const tags = `/user/${alice.me}${at}/tags`;
        await alice.ok("PUT", `${tags}/m.favourite`, { order: 0.5 });
        assertEqual(await alice.ok("GET", tags), { tags: { "m.favourite": { order: 0.5 } } }, "tags");
        await alice.ok("DELETE", `${tags}/m.favourite`);
        assertEqual(await alice.ok("GET", tags), { tags: {} }, "after removal");
        await bob.no(403, "M_FORBIDDEN", "GET", tags);
    });
    await checks.check("a room has account data of its own", async () => {
        const path = `/user/${alice.me}${at}/account_data/org.example.note`;
        await alice.ok("PUT", path, { text: "in here" });
        assertEqual(await alice.ok("GET", path), { text: "in here" }, "content");
        const joined = (await alice.sync()).rooms.join[room];
        assert(joined.account_data.events.some((e) => e.type === "org.example.note"), "sync");
    });
    await checks.check("CR24 typing is one's own", async () => {
        await bob.no(403, "M_FORBIDDEN", "PUT", `${at}/typing/${alice.me}`, { typing: true, timeout: 1000 });
        const since = (await alice.sync()).next_batch;
        await bob.ok("PUT", `${at}/typing/${bob.me}`, { typing: true, timeout: 30_000 });
        const events = (await alice.sync(since, 5_000)).rooms.join[room].ephemeral.events;
        assertEqual(events, [{ type: "m.typing", content: { user_ids: [bob.id] } }], "typing");
    });
    await checks.check("CR32 receipts and markers: what is accepted, and what it does", async () => {
        const { event_id } = await alice.ok("PUT", `${at}/send/m.room.message/r1`, { msgtype: "m.text", body: "read me" });
        assertEqual((await bob.sync()).rooms.join[room].unread_notifications.notification_count, 1, "unread");
        await bob.no(400, "M_INVALID_PARAM", "POST", `${at}/receipt/m.read/${part(event_id)}`, { thread_id: "" });
        await bob.ok("POST", `${at}/receipt/m.read/${part(event_id)}`, {});
        assertEqual((await bob.sync()).rooms.join[room].unread_notifications.notification_count, 0, "after the receipt");
        await bob.ok("POST", `${at}/read_markers`, { "m.fully_read": event_id });
        const marker = (await bob.sync()).rooms.join[room].account_data.events.find((e) => e.type === "m.fully_read");
        assertEqual(marker.content, { event_id }, "marker");
    });
    await checks.check("CA10 a token for another device asks for the password, and works once", async () => {
        const asked = await alice.ask("POST", "/_matrix/client/v1/login/get_token", {});
        if (asked.status === 404) return;
        const given = await alice.withPassword("POST", "/_matrix/client/v1/login/get_token", {});
        assertEqual(given.status, 200, "status");
        const use = () => nobody.ask("POST", "/login", { type: "m.login.token", token: given.body.login_token });
        assertEqual([(await use()).status, (await use()).status], [200, 403], "first and second use");
    });
}

async function ending() {
    await checks.check("CA7 a new password ends the other sessions, and the old password", async () => {
        const carol = await person("carol");
        const other = new Device((await signIn("carol")).body);
        assertEqual((await carol.withPassword("POST", "/account/password", { new_password: "another pass phrase" })).status, 200, "status");
        await carol.ok("GET", "/account/whoami");
        await other.no(401, "M_UNKNOWN_TOKEN", "GET", "/account/whoami");
        assertEqual((await signIn("carol")).status, 403, "the old password");
        assertEqual((await signIn("carol", { password: "another pass phrase" })).status, 200, "the new password");
    });
    await checks.check("CA8 a deactivated account leaves its rooms, and its name stays taken", async () => {
        const [dave, erin] = [await person("dave"), await person("erin")];
        const { room_id } = await erin.ok("POST", "/createRoom", { preset: "private_chat", invite: [dave.id] });
        await dave.ok("POST", `/rooms/${part(room_id)}/join`, {});
        assertEqual((await dave.withPassword("POST", "/account/deactivate", {})).status, 200, "status");
        await dave.no(401, "M_UNKNOWN_TOKEN", "GET", "/account/whoami");
        assert((await signIn("dave")).status === 403, "it signs in");
        await nobody.no(400, "M_USER_IN_USE", "GET", "/register/available?username=dave");
        for (let n = 0; n < 100; n += 1) {
            if (Object.keys((await erin.ok("GET", `/rooms/${part(room_id)}/joined_members`)).joined).length === 1) return;
            await erin.sync((await erin.sync()).next_batch, 50);
        }
        throw new Error("it is still in the room");
    });
}

try {
    await checks.check("the server starts", () => server.create());
    const people = await checks.check("two people", async () => [await person("alice"), await person("bob")]);
    if (people) {
        const [alice, bob] = people;
        await signingIn(alice);
        await devices(alice);
        await belongings(alice, bob);
        await pushes(alice);
        await inRooms(alice, bob);
        await ending();
    }
    if (checks.failed > 0 && server instanceof Hearth) console.log(server.logEnd());
} catch (error) {
    await checks.check("the script runs", () => { throw error; });
} finally {
    await server.destroy();
}
process.exit(checks.close() ? 0 : 1);
