// The story that two people play on matrix-js-sdk: they register, meet in a room, and each sees what
// the other does. It runs in Node and, bundled, in a browser.

import * as sdk from "matrix-js-sdk";
import loglevel from "loglevel";
import { assert, assertEqual, assertRefused, eventually } from "./checks.mjs";
import { register } from "./register.mjs";

const PASSWORD = "correct horse battery staple";

/** The smallest image that is one: one red pixel. */
const PIXEL_PNG =
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC";

const silent = {
    trace() {}, debug() {}, info() {}, warn() {}, error() {},
    getChild: () => silent,
};

/** What the library says of itself would bury the checks; each client brings loggers of its own. */
function silenceLibrary() {
    for (const logger of Object.values(loglevel.getLoggers())) logger.disableAll();
}

/** One person: an account, and the client of its newest device. */
class Person {
    constructor(baseUrl, name) {
        this.baseUrl = baseUrl;
        this.name = name;
    }

    /** Signs in with the password on a new device; the client is not started. */
    async signIn() {
        const door = sdk.createClient({ baseUrl: this.baseUrl, logger: silent });
        const answer = await door.loginRequest({
            type: "m.login.password",
            identifier: { type: "m.id.user", user: this.name },
            password: PASSWORD,
            initial_device_display_name: "story",
        });
        this.userId = answer.user_id;
        this.deviceId = answer.device_id;
        this.client = sdk.createClient({
            baseUrl: this.baseUrl,
            accessToken: answer.access_token,
            userId: answer.user_id,
            deviceId: answer.device_id,
            logger: silent,
            timelineSupport: true,
        });
        silenceLibrary();
        return answer;
    }

    /** Starts to sync, and waits for the first answer. */
    async start() {
        const prepared = new Promise((done) => {
            this.client.on("sync", (state) => { if (state === "PREPARED") done(); });
        });
        const options = { initialSyncLimit: 30, threadSupport: true, lazyLoadMembers: true, pollTimeout: 10_000 };
        await this.client.startClient(options);
        silenceLibrary();
        await Promise.race([prepared, eventually("the first sync", () => this.client.isInitialSyncComplete())]);
    }

    room(roomId) {
        return this.client.getRoom(roomId);
    }

    /** Waits until an event is in the person's view of the room, in or out of a thread. */
    sees(roomId, eventId) {
        return eventually(`${this.name} sees ${eventId}`, () => this.room(roomId)?.findEventById(eventId));
    }
}

/**
 * Plays the story against the server at `baseUrl`; `credentials` say how to register, `suffix` keeps
 * the names apart from those of earlier plays.
 */
export async function playChat(checks, { baseUrl, credentials, suffix }) {
    const alice = new Person(baseUrl, `alice-${suffix}`);
    const bob = new Person(baseUrl, `bob-${suffix}`);
    try {
        await arrive(checks, [alice, bob], credentials);
        const roomId = await meet(checks, alice, bob);
        if (roomId === undefined) throw new Error("no room to go on in");
        const rootId = await talk(checks, alice, bob, roomId);
        await relate(checks, alice, bob, roomId, rootId);
        const redactedId = await redact(checks, alice, bob, roomId);
        await share(checks, alice, bob, roomId);
        await notice(checks, alice, bob, roomId);
        await secondDevice(checks, alice, roomId, rootId, redactedId);
        await part(checks, alice, bob, roomId);
    } catch (error) {
        await checks.check("the story reaches its end", () => { throw error; });
    } finally {
        alice.client?.stopClient();
        bob.client?.stopClient();
    }
}

async function arrive(checks, people, credentials) {
    for (const person of people) {
        await checks.check(`${person.name} registers`, async () => {
            const answer = await register(person.baseUrl, person.name, PASSWORD, credentials);
            assert(answer.user_id.startsWith(`@${person.name}:`), `user id ${answer.user_id}`);
            assert(answer.access_token && answer.device_id, "a token and a device");
        });
        await checks.check(`${person.name} signs in on a new device`, async () => {
            const answer = await person.signIn();
            const whoami = await person.client.whoami();
            assertEqual([whoami.user_id, whoami.device_id], [answer.user_id, answer.device_id], "whoami");
        });
    }
    await checks.check("a taken name is refused", () =>
        assertRefused(register(people[0].baseUrl, people[0].name, PASSWORD, credentials), 400, "M_USER_IN_USE"));
    await checks.check("a wrong password is refused", () => {
        const door = sdk.createClient({ baseUrl: people[0].baseUrl, logger: silent });
        const identifier = { type: "m.id.user", user: people[0].name };
        const wrong = door.loginRequest({ type: "m.login.password", identifier, password: "wrong" });
        return assertRefused(wrong, 403, "M_FORBIDDEN");
    });
    await checks.check("a profile is set and read by the other", async () => {
        const [alice, bob] = people;
        await alice.client.setDisplayName("Alice");
        assertEqual((await bob.client.getProfileInfo(alice.userId)).displayname, "Alice", "display name");
    });
    for (const person of people) await checks.check(`${person.name} syncs`, () => person.start());
}

async function meet(checks, alice, bob) {
    const roomId = await checks.check("alice creates a room and invites bob", async () => {
        const { room_id } = await alice.client.createRoom({
            preset: "private_chat", name: "Hearth", topic: "by the fire", invite: [bob.userId], is_direct: true,
        });
        const room = await eventually("alice is in it", () => alice.room(room_id));
        await eventually("alice sees its name", () => room.name === "Hearth");
        return room_id;
    });
    if (roomId === undefined) return undefined;
    await checks.check("bob sees the invite: from whom, to what", async () => {
        const room = await eventually("the invite", () => bob.room(roomId));
        assertEqual(room.getMyMembership(), "invite", "bob's membership");
        assertEqual(room.getDMInviter(), alice.userId, "inviter");
        assertEqual(room.name, "Hearth", "name in the stripped state");
    });
    await checks.check("bob may not read or write before he joins", async () => {
        await assertRefused(bob.client.sendTextMessage(roomId, "too early"), 403, "M_FORBIDDEN");
        await assertRefused(bob.client.roomState(roomId), 403, "M_FORBIDDEN");
    });
    await checks.check("bob joins, and both see two members", async () => {
        await bob.client.joinRoom(roomId);
        for (const person of [alice, bob]) {
            await eventually(`two members for ${person.name}`, () => {
                const room = person.room(roomId);
                return room?.getMyMembership() === "join" && room.getJoinedMemberCount() === 2
                    && room.getMember(person === alice ? bob.userId : alice.userId)?.membership === "join";
            });
        }
    });
    await checks.check("bob sees the room as alice made it", async () => {
        const state = bob.room(roomId).currentState;
        await eventually("topic", () => state.getStateEvents("m.room.topic", "")?.getContent().topic === "by the fire");
        assertEqual(state.getStateEvents("m.room.join_rules", "").getContent().join_rule, "invite", "join rule");
        assertEqual(bob.room(roomId).getMember(alice.userId).name, "Alice", "alice's name");
    });
    return roomId;
}

async function talk(checks, alice, bob, roomId) {
    const rootId = await checks.check("alice sends, bob receives it as she sent it", async () => {
        const { event_id } = await alice.client.sendTextMessage(roomId, "hello fire \u{1f525}");
        const event = await bob.sees(roomId, event_id);
        assertEqual(event.getContent(), { msgtype: "m.text", body: "hello fire \u{1f525}" }, "content");
        assertEqual([event.getSender(), event.getType()], [alice.userId, "m.room.message"], "sender and type");
        return event_id;
    });
    await checks.check("alice's own copy replaces her local echo, once", async () => {
        const event = await alice.sees(roomId, rootId);
        await eventually("sent", () => event.status === null);
        const copies = alice.room(roomId).getLiveTimeline().getEvents().filter((e) => e.getContent().body?.startsWith("hello fire"));
        assertEqual(copies.length, 1, "copies");
        assert(!(await bob.sees(roomId, rootId)).getUnsigned().transaction_id, "bob sees alice's transaction id");
    });
    await checks.check("bob's unread count is one", () =>
        eventually("one unread", () => bob.room(roomId).getUnreadNotificationCount("total") === 1));
    await checks.check("bob answers, alice receives it", async () => {
        const { event_id } = await bob.client.sendTextMessage(roomId, "hello alice");
        assertEqual((await alice.sees(roomId, event_id)).getContent().body, "hello alice", "body");
    });
    await checks.check("the same transaction id sends once", async () => {
        const content = { msgtype: "m.text", body: "only once" };
        const path = `/rooms/${encodeURIComponent(roomId)}/send/m.room.message/once-${Date.now()}`;
        const send = () => alice.client.http.authedRequest("PUT", path, undefined, content);
        const [first, second] = [await send(), await send()];
        assertEqual(second.event_id, first.event_id, "event id");
        await bob.sees(roomId, first.event_id);
    });
    await checks.check("only alice may rename the room", async () => {
        await assertRefused(bob.client.setRoomName(roomId, "Bob's"), 403, "M_FORBIDDEN");
        await alice.client.setRoomName(roomId, "Hearth and home");
        await eventually("bob sees the new name", () => bob.room(roomId).name === "Hearth and home");
    });
    return rootId;
}

/**
 * The id of what was sent as the first event of a thread. Where sync brings it before the answer to the request, which a
 * server may, the library does not find it in the thread that it is just making, and takes its own echo for a mistake:
 * then there is no id, and the event must be there all the same.
 */
async function inNewThread(sending) {
    try {
        return (await sending).event_id;
    } catch (error) {
        if (!String(error).includes("not a local echo")) throw error;
        return undefined;
    }
}

async function relate(checks, alice, bob, roomId, rootId) {
    await checks.check("alice edits, bob sees the new text in place of the old", async () => {
        await alice.client.sendMessage(roomId, {
            "msgtype": "m.text",
            "body": "* hello embers",
            "m.new_content": { msgtype: "m.text", body: "hello embers" },
            "m.relates_to": { rel_type: "m.replace", event_id: rootId },
        });
        const event = await bob.sees(roomId, rootId);
        await eventually("the edit", () => event.getContent().body === "hello embers");
        assertEqual(event.getOriginalContent().body, "hello fire \u{1f525}", "original");
    });
    await checks.check("bob reacts, alice sees the reaction and whose it is", async () => {
        const reaction = { "m.relates_to": { rel_type: "m.annotation", event_id: rootId, key: "\u{1f525}" } };
        await bob.client.sendEvent(roomId, "m.reaction", reaction);
        const relations = await eventually("reactions", () =>
            alice.room(roomId).relations.getChildEventsForEvent(rootId, "m.annotation", "m.reaction"));
        const sorted = await eventually("one key", () => relations.getSortedAnnotationsByKey()?.[0]);
        assertEqual([sorted[0], [...sorted[1]].map((e) => e.getSender())], ["\u{1f525}", [bob.userId]], "reaction");
        await assertRefused(bob.client.sendEvent(roomId, "m.reaction", reaction), 400, "M_DUPLICATE_ANNOTATION");
    });
    await checks.check("bob replies in a thread, alice sees the thread and not the room grow", async () => {
        const sent = await inNewThread(bob.client.sendMessage(roomId, rootId, { msgtype: "m.text", body: "in the thread" }));
        const thread = await eventually("the thread", () => alice.room(roomId).getThread(rootId));
        await eventually("its reply", () => thread.replyToEvent !== undefined && thread.length === 1);
        assertEqual(thread.replyToEvent.getContent().body, "in the thread", "body");
        assertEqual(thread.replyToEvent.getId(), sent ?? thread.replyToEvent.getId(), "id");
        const main = alice.room(roomId).getLiveTimeline().getEvents().map((e) => e.getId());
        assert(!main.includes(thread.replyToEvent.getId()), "the reply is in the main timeline");
    });
    await checks.check("the server bundles the edit and the thread, and lists the reaction", async () => {
        const event = await alice.client.fetchRoomEvent(roomId, rootId);
        const bundled = event.unsigned["m.relations"];
        assertEqual(bundled["m.thread"].count, 1, "replies in the thread");
        assertEqual(bundled["m.thread"].latest_event.content.body, "in the thread", "latest reply");
        assert(bundled["m.replace"]?.content ?? bundled["m.replace"]?.event_id, "the edit");
        const { chunk } = await alice.client.fetchRelations(roomId, rootId, "m.annotation", "m.reaction");
        assertEqual(chunk.map((e) => e.sender), [bob.userId], "reactions");
        const threads = await alice.client.http.authedRequest(
            "GET", `/rooms/${encodeURIComponent(roomId)}/threads`, undefined, undefined, { prefix: "/_matrix/client/v1" });
        assertEqual(threads.chunk.map((e) => e.event_id), [rootId], "threads");
    });
}

async function redact(checks, alice, bob, roomId) {
    return checks.check("alice redacts, bob sees the message emptied", async () => {
        const { event_id } = await alice.client.sendTextMessage(roomId, "a slip of the tongue");
        const event = await bob.sees(roomId, event_id);
        await alice.client.redactEvent(roomId, event_id, undefined, { reason: "slip" });
        await eventually("the redaction", () => event.isRedacted());
        assertEqual(event.getContent(), {}, "content");
        const served = await bob.client.fetchRoomEvent(roomId, event_id);
        assertEqual(served.content, {}, "content as the server has it");
        assertEqual(served.unsigned.redacted_because.content.reason, "slip", "reason");
        return event_id;
    });
}

async function share(checks, alice, bob, roomId) {
    const bytes = Uint8Array.from({ length: 100_000 }, (_, n) => (n * 31 + (n >> 8)) % 256);
    const mxc = await checks.check("alice uploads a file and sends it", async () => {
        const { content_uri } = await alice.client.uploadContent(new Blob([bytes]), {
            name: "embers.bin", type: "application/octet-stream",
        });
        assert(/^mxc:\/\/[^/]+\/[A-Za-z0-9_-]+$/.test(content_uri), `content uri ${content_uri}`);
        const content = { msgtype: "m.file", body: "embers.bin", url: content_uri, info: { size: bytes.length } };
        const { event_id } = await alice.client.sendMessage(roomId, content);
        assertEqual((await bob.sees(roomId, event_id)).getContent().url, content_uri, "url that bob sees");
        return content_uri;
    });
    await checks.check("bob downloads the same bytes", async () => {
        const response = await fetchMedia(bob, bob.client.mxcUrlToHttp(mxc, undefined, undefined, undefined, false, true, true));
        assertEqual(response.status, 200, "status");
        assert(response.headers.get("content-type").startsWith("application/octet-stream"), "content type");
        const got = new Uint8Array(await response.arrayBuffer());
        assert(got.length === bytes.length && got.every((byte, n) => byte === bytes[n]), "the bytes differ");
    });
    await checks.check("nobody downloads it without a token", async () => {
        const url = bob.client.mxcUrlToHttp(mxc, undefined, undefined, undefined, false, true, true);
        assert(url.includes("/_matrix/client/v1/media/download/"), `url ${url}`);
        const response = await fetch(url, { cache: "no-store" });
        assertEqual([response.status, (await response.json()).errcode], [401, "M_MISSING_TOKEN"], "refusal");
    });
    await checks.check("bob sees a thumbnail of alice's picture", async () => {
        const png = Uint8Array.from(atob(PIXEL_PNG), (c) => c.charCodeAt(0));
        const { content_uri } = await alice.client.uploadContent(new Blob([png]), { name: "a.png", type: "image/png" });
        const response = await fetchMedia(bob, bob.client.mxcUrlToHttp(content_uri, 32, 32, "scale", false, true, true));
        assertEqual(response.status, 200, "status");
        assert(/^image\/(png|jpeg|webp)/.test(response.headers.get("content-type")), "content type");
        await response.arrayBuffer();
    });
}

function fetchMedia(person, url) {
    return fetch(url, { headers: { Authorization: `Bearer ${person.client.getAccessToken()}` } });
}

async function notice(checks, alice, bob, roomId) {
    await checks.check("bob sees alice type, and stop", async () => {
        await alice.client.sendTyping(roomId, true, 30_000);
        await eventually("typing", () => bob.room(roomId).getMember(alice.userId).typing);
        await alice.client.sendTyping(roomId, false, 0);
        await eventually("no typing", () => !bob.room(roomId).getMember(alice.userId).typing);
    });
    await checks.check("bob marks the room as read: his count clears, alice sees how far he read", async () => {
        const { event_id } = await alice.client.sendTextMessage(roomId, "read this");
        const event = await bob.sees(roomId, event_id);
        await eventually("unread", () => bob.room(roomId).getUnreadNotificationCount("total") > 0);
        await bob.client.setRoomReadMarkers(roomId, event_id, event);
        await eventually("alice sees it", () => alice.room(roomId).getEventReadUpTo(bob.userId, true) === event_id);
        await eventually("no unread", () => bob.room(roomId).getUnreadNotificationCount("total") === 0);
        await eventually("read marker", () =>
            bob.room(roomId).getAccountData("m.fully_read")?.getContent().event_id === event_id);
    });
    await checks.check("a private receipt stays private", async () => {
        const { event_id } = await alice.client.sendTextMessage(roomId, "read this in private");
        const event = await bob.sees(roomId, event_id);
        await bob.client.sendReadReceipt(event, "m.read.private", true);
        await eventually("no unread", () => bob.room(roomId).getUnreadNotificationCount("total") === 0);
        // What follows the receipt has arrived, so the receipt would have.
        const { event_id: after } = await bob.client.sendTextMessage(roomId, "done");
        await alice.sees(roomId, after);
        const receipts = alice.room(roomId).getReceiptsForEvent(await alice.sees(roomId, event_id));
        assertEqual(receipts.filter((r) => r.type === "m.read.private"), [], "private receipts that alice sees");
    });
}

async function secondDevice(checks, alice, roomId, rootId, redactedId) {
    await checks.check("a new device of alice's sees the room as it is now", async () => {
        const second = new Person(alice.baseUrl, alice.name);
        await second.signIn();
        assert(second.deviceId !== alice.deviceId, "the same device");
        try {
            await second.start();
            const room = second.room(roomId);
            assertEqual([room.name, room.getJoinedMemberCount()], ["Hearth and home", 2], "name and members");
            while (!room.findEventById(rootId)) {
                const more = await second.client.paginateEventTimeline(room.getLiveTimeline(), { backwards: true });
                assert(more || room.findEventById(rootId), "the first message is not in the history");
            }
            await eventually("the edit", () => room.findEventById(rootId).getContent().body === "hello embers");
            assert(room.findEventById(redactedId).isRedacted(), "the slip is still there");
            await eventually("the thread", () => room.getThread(rootId)?.length === 1);
            const states = room.getLiveTimeline().getEvents().map((e) => e.getId());
            assertEqual(new Set(states).size, states.length, "events in the timeline, each once");
        } finally {
            second.client.stopClient();
        }
        await second.client.logout();
        await assertRefused(second.client.whoami(), 401, "M_UNKNOWN_TOKEN");
    });
}

async function part(checks, alice, bob, roomId) {
    await checks.check("bob leaves, both see it, and he may not write any more", async () => {
        await bob.client.leave(roomId);
        await eventually("alice sees it", () => alice.room(roomId).getMember(bob.userId).membership === "leave");
        await eventually("bob sees it", () => bob.room(roomId)?.getMyMembership() === "leave");
        assertEqual(alice.room(roomId).getJoinedMemberCount(), 1, "members");
        await assertRefused(bob.client.sendTextMessage(roomId, "too late"), 403, "M_FORBIDDEN");
    });
    await checks.check("bob reads what was said until he left, and nothing after", async () => {
        const { event_id } = await alice.client.sendTextMessage(roomId, "he is gone");
        await alice.sees(roomId, event_id);
        const { chunk } = await bob.client.createMessagesRequest(roomId, null, 50, "b");
        assert(chunk.some((e) => e.content.body === "read this"), "what was said before");
        assert(!chunk.some((e) => e.event_id === event_id), "what was said after");
        await assertRefused(bob.client.fetchRoomEvent(roomId, event_id), 404, "M_NOT_FOUND");
    });
    await checks.check("both sign out, and their tokens are dead", async () => {
        for (const person of [alice, bob]) {
            person.client.stopClient();
            await person.client.logout();
            await assertRefused(person.client.whoami(), 401, "M_UNKNOWN_TOKEN");
        }
    });
}
