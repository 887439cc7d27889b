// What three people on three servers do in one room, and what all three must see in the end: the same
// state by event id, and the same events.

import { assert, assertEqual, eventually } from "./checks.mjs";
import { register } from "./register.mjs";
import { request } from "./request.mjs";
import { SHARED_SECRET } from "./hearth.mjs";

const PASSWORD = "correct horse battery staple";

/** Pages that are followed before a timeline counts as endless. */
const PAGES_MAX = 100;

/** How long old history may take to be the same everywhere. */
const HISTORY_MS = 60_000;

/** 64 by 48 pixels of one color, as PNG. */
const PICTURE =
    "iVBORw0KGgoAAAANSUhEUgAAAEAAAAAwCAIAAAAuKetIAAAAQ0lEQVR42u3PQQkAAAgEsEtiMBMbywp+hcEKLNP1WgQEBAQEBAQE" +
    "BAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQErhYEsADipEzzvgAAAABJRU5ErkJggg==";

/** Somebody on a server, with plain requests for a client. */
export class Person {
    constructor(server, name) {
        this.server = server;
        this.name = name;
    }

    async register() {
        const answer = await register(this.server.baseUrl, this.name, PASSWORD, { sharedSecret: SHARED_SECRET });
        this.id = answer.user_id;
        this.token = answer.access_token;
        return this;
    }

    /** A request that may be refused. */
    ask(method, path, body) {
        return request(this.server.baseUrl, method, `/_matrix/client/v3${path}`, { token: this.token, body });
    }

    /** A request that must be answered with 200. */
    async must(method, path, body) {
        const { status, body: answer } = await this.ask(method, path, body);
        if (status !== 200) {
            throw Object.assign(new Error(`${this.name}: ${method} ${path}: ${status} ${JSON.stringify(answer)}`), {});
        }
        return answer;
    }

    room(roomId, rest = "") {
        return `/rooms/${encodeURIComponent(roomId)}${rest}`;
    }

    async create(body) {
        return (await this.must("POST", "/createRoom", body)).room_id;
    }

    join(roomId, via) {
        const query = via.map((server) => `via=${encodeURIComponent(server)}&server_name=${encodeURIComponent(server)}`);
        return this.must("POST", `/join/${encodeURIComponent(roomId)}?${query.join("&")}`, {});
    }

    knock(roomId, via) {
        const query = via.map((server) => `via=${encodeURIComponent(server)}&server_name=${encodeURIComponent(server)}`);
        return this.must("POST", `/knock/${encodeURIComponent(roomId)}?${query.join("&")}`, { reason: "let me in" });
    }

    invite(roomId, person) {
        return this.must("POST", this.room(roomId, "/invite"), { user_id: person.id });
    }

    async send(roomId, type, content) {
        const transaction = `${this.name}-${(this.sent = (this.sent ?? 0) + 1)}`;
        return (await this.must("PUT", this.room(roomId, `/send/${type}/${transaction}`), content)).event_id;
    }

    say(roomId, body) {
        return this.send(roomId, "m.room.message", { msgtype: "m.text", body });
    }

    async set(roomId, type, content, stateKey = "") {
        return (await this.must("PUT", this.room(roomId, `/state/${type}/${encodeURIComponent(stateKey)}`), content)).event_id;
    }

    /** Event ids of the current state, by type and key. */
    async state(roomId) {
        const events = await this.must("GET", this.room(roomId, "/state"));
        return Object.fromEntries(events.map((event) => [`${event.type}|${event.state_key}`, event.event_id]));
    }

    async membership(roomId, person) {
        const { status, body } = await this.ask("GET", this.room(roomId, `/state/m.room.member/${encodeURIComponent(person.id)}`));
        return status === 200 ? body.membership : undefined;
    }

    /** Id of the first event of the room that is not older than a time. */
    async eventFrom(roomId, ts) {
        const path = `/_matrix/client/v1/rooms/${encodeURIComponent(roomId)}/timestamp_to_event?dir=f&ts=${ts}`;
        const { status, body } = await request(this.server.baseUrl, "GET", path, { token: this.token });
        if (status !== 200) throw new Error(`${this.name}: ${path}: ${status} ${JSON.stringify(body)}`);
        return body.event_id;
    }

    /** All events of the timeline, from the newest to the first. */
    async timeline(roomId) {
        const events = [];
        let from = "";
        for (let page = 0; page < PAGES_MAX; page += 1) {
            const answer = await this.must("GET", this.room(roomId, `/messages?dir=b&limit=100${from}`));
            events.push(...answer.chunk);
            if (!answer.end || (answer.chunk.length === 0 && answer.end === from)) return events;
            from = `&from=${encodeURIComponent(answer.end)}`;
        }
        throw new Error(`the timeline of ${this.name} has no end`);
    }

    async sees(roomId, eventId) {
        await eventually(`${this.name} sees ${eventId}`, async () =>
            (await this.ask("GET", this.room(roomId, `/event/${encodeURIComponent(eventId)}`))).status === 200);
    }

    /** Uploads a picture and answers its address. */
    async upload(bytes, name) {
        const headers = { "authorization": `Bearer ${this.token}`, "content-type": "image/png" };
        const url = `${this.server.baseUrl}/_matrix/media/v3/upload?filename=${encodeURIComponent(name)}`;
        const response = await fetch(url, { method: "POST", headers, body: bytes });
        assertEqual(response.status, 200, "the status of an upload");
        return (await response.json()).content_uri;
    }

    /** Downloads a picture of any server, or a thumbnail. */
    async media(route, uri, query = "") {
        const url = `${this.server.baseUrl}/_matrix/client/v1/media/${route}/${uri.slice("mxc://".length)}${query}`;
        const response = await fetch(url, { headers: { authorization: `Bearer ${this.token}` } });
        return { status: response.status, headers: response.headers, bytes: Buffer.from(await response.arrayBuffer()) };
    }

    /** The invite or knock in the person's sync. */
    async pending(roomId, membership) {
        // Each look is another request: Synapse answers the same first sync from a cache for two minutes.
        this.looks = (this.looks ?? 10) + 1;
        const filter = JSON.stringify({ room: { timeline: { limit: this.looks } } });
        const sync = await this.must("GET", `/sync?timeout=0&filter=${encodeURIComponent(filter)}`);
        return sync.rooms?.[membership]?.[roomId];
    }
}

/** One room: made by `creator`, joined by `others` under `rule`, lived in, and compared. */
export async function playRoom(checks, { title, version, rule, creator, others, lobby }) {
    const people = [creator, ...others];
    const via = [creator.server.name];
    const all = (what) => Promise.all(people.map(what));
    const roomId = await checks.check(`${title}: ${creator.name} creates the room`, () => createRoom(creator, version, rule, lobby));
    if (roomId === undefined) return;
    for (const person of others) {
        await checks.check(`${title}: ${person.name} comes in`, async () => {
            await enter(creator, person, roomId, rule, via);
            await all((viewer) => viewer.id === person.id || viewer === creator
                ? eventually(`${viewer.name} sees ${person.name} in the room`, async () =>
                    (await viewer.membership(roomId, person)) === "join") : undefined);
        });
    }
    await checks.check(`${title}: all talk, all see it`, async () => {
        for (const person of people) {
            const eventId = await person.say(roomId, `${person.name} is here`);
            await all((viewer) => viewer.sees(roomId, eventId));
        }
    });
    await checks.check(`${title}: all set state at once, with power`, async () => {
        const levels = await creator.must("GET", creator.room(roomId, "/state/m.room.power_levels/"));
        for (const person of others) (levels.users ??= {})[person.id] = 50;
        const id = await creator.set(roomId, "m.room.power_levels", levels);
        await all((viewer) => viewer.sees(roomId, id));
        await all((person) => person.set(roomId, "m.room.topic", { topic: `as ${person.name} sees it` }));
        await all((person) => person.set(roomId, "org.example.mine", { of: person.name }, person.name));
    });
    await sameState(checks, title, people, roomId);
    await checks.check(`${title}: a reaction, an edit and a redaction`, async () => {
        const [first, second] = [creator, others[0]];
        const eventId = await first.say(roomId, "to be edited");
        await all((viewer) => viewer.sees(roomId, eventId));
        await second.send(roomId, "m.reaction", { "m.relates_to": { rel_type: "m.annotation", event_id: eventId, key: "+" } });
        await first.send(roomId, "m.room.message", {
            "msgtype": "m.text", "body": "* edited", "m.new_content": { msgtype: "m.text", body: "edited" },
            "m.relates_to": { rel_type: "m.replace", event_id: eventId },
        });
        const slip = await second.say(roomId, "a slip");
        await all((viewer) => viewer.sees(roomId, slip));
        await second.must("PUT", second.room(roomId, `/redact/${encodeURIComponent(slip)}/r${Date.now()}`), {});
        await all((viewer) => eventually(`${viewer.name} sees it redacted`, async () => {
            const { body } = await viewer.ask("GET", viewer.room(roomId, `/event/${encodeURIComponent(slip)}`));
            return body.content && Object.keys(body.content).length === 0;
        }));
    });
    const last = others.at(-1);
    await checks.check(`${title}: ${last.name} is kicked, and comes again`, async () => {
        await creator.must("POST", creator.room(roomId, "/kick"), { user_id: last.id, reason: "for a while" });
        await all((viewer) => viewer === last ? undefined : eventually(`${viewer.name} sees the kick`, async () =>
            (await viewer.membership(roomId, last)) === "leave"));
        await eventually(`${last.name} knows`, async () => (await last.ask("POST", last.room(roomId, "/typing"), {})).status !== 200
            && (await last.must("GET", "/joined_rooms")).joined_rooms.includes(roomId) === false);
        await others[0].say(roomId, `while ${last.name} was away`);
        await enter(creator, last, roomId, rule, [creator.server.name, others[0].server.name]);
        await all((viewer) => eventually(`${viewer.name} sees ${last.name} again`, async () =>
            (await viewer.membership(roomId, last)) === "join"));
        const eventId = await last.say(roomId, "again");
        await all((viewer) => viewer.sees(roomId, eventId));
    });
    await checks.check(`${title}: a ban, its end, an invite that is rejected`, async () => {
        const guest = others[0];
        await creator.must("POST", creator.room(roomId, "/ban"), { user_id: guest.id });
        await all((viewer) => viewer === guest ? undefined : eventually(`${viewer.name} sees the ban`, async () =>
            (await viewer.membership(roomId, guest)) === "ban"));
        await eventually(`${guest.name} knows`, async () =>
            !(await guest.must("GET", "/joined_rooms")).joined_rooms.includes(roomId));
        const refused = await guest.ask("POST", `/join/${encodeURIComponent(roomId)}?via=${encodeURIComponent(via[0])}`, {});
        assertEqual(refused.status, 403, "a banned person joins");
        await creator.must("POST", creator.room(roomId, "/unban"), { user_id: guest.id });
        await creator.invite(roomId, guest);
        await eventually("the invite", () => guest.pending(roomId, "invite"));
        await guest.must("POST", guest.room(roomId, "/leave"), {});
        await eventually(`${creator.name} sees the rejection`, async () => (await creator.membership(roomId, guest)) === "leave");
        await enter(creator, guest, roomId, rule, via);
        const eventId = await guest.say(roomId, "back");
        await all((viewer) => viewer.sees(roomId, eventId));
    });
    await sameState(checks, title, people, roomId);
    await sameTimeline(checks, title, people, roomId);
    return roomId;
}

/** A server is away while the others talk and change the room; when it is back it has all of it. */
export async function playOutage(checks, { title, version, creator, others, absent }) {
    const people = [creator, ...others];
    const present = people.filter((person) => person !== absent);
    const all = (what) => Promise.all(people.map(what));
    const roomId = await checks.check(`${title}: all are in a room`, async () => {
        const room = await createRoom(creator, version, "public");
        for (const person of others) await person.join(room, [creator.server.name]);
        const eventId = await creator.say(room, "before");
        await all((viewer) => viewer.sees(room, eventId));
        return room;
    });
    if (roomId === undefined) return;
    if (absent.server.asksAllByTime) {
        await checks.check(`${title}: ${absent.name} finds an event from before the join by its time`, async () => {
            assertEqual(await absent.eventFrom(roomId, 0), await creator.eventFrom(roomId, 0), "the first event");
        });
    }
    let last;
    await checks.check(`${title}: ${absent.name}'s server is away, the others go on`, async () => {
        await absent.server.stop();
        for (let n = 0; n < 20; n += 1) {
            for (const person of present) last = await person.say(roomId, `${n} of ${person.name}`);
        }
        await creator.set(roomId, "m.room.topic", { topic: "changed meanwhile" });
        last = await creator.say(roomId, "the last of it");
        await Promise.all(present.map((viewer) => viewer.sees(roomId, last)));
    });
    await checks.check(`${title}: it is back, and gets all of it`, async () => {
        await absent.server.start();
        await absent.sees(roomId, last);
        const eventId = await absent.say(roomId, "back again");
        await all((viewer) => viewer.sees(roomId, eventId));
    });
    await sameState(checks, title, people, roomId);
    await sameTimeline(checks, title, people, roomId);
}

/** A picture of each person is seen by all others, whole and as a thumbnail, with its name. */
export async function playMedia(checks, people) {
    for (const owner of people) {
        const viewers = people.filter((person) => person !== owner);
        const picture = Buffer.from(PICTURE, "base64");
        const uri = await checks.check(`media: ${owner.name} uploads a picture`, () => owner.upload(picture, "größe.png"));
        if (uri === undefined) continue;
        for (const viewer of viewers) {
            await checks.check(`media: ${viewer.name} sees the picture of ${owner.name}`, async () => {
                const { status, headers, bytes } = await viewer.media("download", uri);
                assertEqual(status, 200, "the status");
                assertEqual(bytes.toString("base64"), PICTURE, "the picture");
                assertEqual(headers.get("content-type"), "image/png", "its type");
                assert(/gr%C3%B6%C3%9Fe\.png/i.test(headers.get("content-disposition")), headers.get("content-disposition"));
            });
            await checks.check(`media: ${viewer.name} sees a thumbnail of it`, async () => {
                const query = "?width=32&height=32&method=scale";
                const { status, headers, bytes } = await viewer.media("thumbnail", uri, query);
                assertEqual(status, 200, "the status");
                assert(/^image\/(png|jpeg|webp)$/.test(headers.get("content-type")), headers.get("content-type"));
                assert(bytes.length > 0, "an empty thumbnail");
            });
        }
        await checks.check(`media: what ${owner.name} does not have is not found`, async () => {
            for (const viewer of viewers) {
                const { status } = await viewer.media("download", `mxc://${owner.server.name}/nothing`);
                assertEqual(status, 404, `for ${viewer.name}`);
            }
        });
    }
}

function createRoom(creator, version, rule, lobby) {
    const content = rule === "restricted"
        ? { join_rule: rule, allow: [{ type: "m.room_membership", room_id: lobby }] }
        : { join_rule: rule };
    return creator.create({
        room_version: version,
        preset: rule === "public" ? "public_chat" : "private_chat",
        name: `${rule} ${version}`,
        initial_state: [{ type: "m.room.join_rules", state_key: "", content }],
    });
}

/** Comes into a room by the way that its join rule leaves open. */
async function enter(creator, person, roomId, rule, via) {
    if (rule === "invite" || rule === "knock") {
        if (rule === "knock") {
            await person.knock(roomId, via);
            await eventually("the knock", async () => (await creator.membership(roomId, person)) === "knock");
        }
        await creator.invite(roomId, person);
        await eventually(`${person.name} is invited`, () => person.pending(roomId, "invite"));
    }
    await person.join(roomId, via);
}

async function sameState(checks, title, people, roomId) {
    await checks.check(`${title}: all have the same state`, async () => {
        let states;
        await eventually("the same state everywhere", async () => {
            states = await Promise.all(people.map((person) => person.state(roomId)));
            const [first, ...others] = states.map((state) => JSON.stringify(Object.entries(state).sort()));
            return others.every((other) => other === first);
        }).catch(() => {});
        const [first, ...others] = states;
        others.forEach((other, n) => assertEqual(other, first, `state of ${people[n + 1].name} and ${people[0].name}`));
    });
}

async function sameTimeline(checks, title, people, roomId) {
    await checks.check(`${title}: all have the same events, each once`, async () => {
        let differences;
        // A server may fetch old history behind the answer to a page, so that only the next look has it.
        await eventually("the same events everywhere", async () => {
            differences = await timelineDifferences(people, roomId);
            return differences.length === 0;
        }, HISTORY_MS).catch(() => {});
        assertEqual(differences, [], "what differs");
    });
}

/** What each timeline lacks, and has more than the first one; an event that comes twice is an error at once. */
async function timelineDifferences(people, roomId) {
    const timelines = [];
    const what = new Map();
    for (const person of people) {
        const events = await person.timeline(roomId);
        for (const event of events) {
            what.set(event.event_id, `${event.type} ${event.state_key ?? ""} of ${event.sender} ${JSON.stringify(event.content)}`);
        }
        // Synapse joins forks with events of its own that it does not show to its users.
        const ids = events.filter((event) => event.type !== "org.matrix.dummy_event").map((event) => event.event_id);
        assertEqual(new Set(ids).size, ids.length, `events of ${person.name} that come once`);
        timelines.push(ids);
    }
    const [first, ...others] = timelines;
    assert(first.length > 20, `only ${first.length} events`);
    const named = (ids) => ids.map((id) => `${id} ${what.get(id)}`);
    return others.flatMap((other, n) => {
        const missing = named(first.filter((id) => !other.includes(id)));
        const more = named(other.filter((id) => !first.includes(id)));
        return missing.length + more.length === 0 ? [] : [{ of: people[n + 1].name, missing, more }];
    });
}
