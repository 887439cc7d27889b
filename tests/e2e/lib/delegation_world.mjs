// The names of `delegation.mjs`: what stands behind each, who serves it, and how a request must arrive.

import { execFile } from "node:child_process";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { isIP, isIPv6 } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { assert, assertEqual, eventually, pause } from "./checks.mjs";
import { NameServer } from "./dns_server.mjs";
import { Authority, FederatingHearth, FederatingSynapse } from "./federation_world.mjs";
import { Person } from "./federation_story.mjs";
import { Door, file } from "./front.mjs";
import { freePort, SHARED_SECRET } from "./hearth.mjs";

const run = promisify(execFile);

/** Where all `.well-known` files are served, and hosts whose file says nothing. */
const FILES = "127.0.1.1";
/** Nobody listens here. */
const DEAD = "127.0.9.9";
/** An address of IPv6, of this namespace alone. */
const SIX = "fd00::2";

const delegation = (to) => file(JSON.stringify({ "m.server": to }), { headers: { "content-type": "text/plain" } });

/**
 * The arrangements of a name: `addresses` and `srv` (by the beginning of their names) of the name
 * itself, `others` of other names, `file` for its `.well-known`, and `door`: where the server is, with
 * which certificate. `host` and `sni` are as a request must arrive; `refused` if none may.
 */
const ARRANGEMENTS = {
    plain: (name) => ({
        what: "at its own address and the usual port",
        addresses: ["127.0.2.1"], door: ["127.0.2.1", 8448, name], host: name, sni: name,
    }),
    toHost: (name) => ({
        what: "by .well-known at another host",
        addresses: [FILES], file: delegation("hosted.test"), others: { "hosted.test": ["127.0.2.3"] },
        door: ["127.0.2.3", 8448, "hosted.test"], host: "hosted.test", sni: "hosted.test",
    }),
    toPort: () => ({
        what: "by .well-known at another host and port",
        addresses: [FILES], file: delegation("hosted.test:8450"), others: { "hosted.test": ["127.0.2.3"] },
        door: ["127.0.2.3", 8450, "hosted.test"], host: "hosted.test:8450", sni: "hosted.test",
    }),
    toAddress: () => ({
        what: "by .well-known at an address",
        addresses: [FILES], file: delegation("127.0.2.5"),
        door: ["127.0.2.5", 8448, "127.0.2.5"], host: "127.0.2.5", sni: "-",
    }),
    toSrv: () => ({
        what: "by .well-known and an SRV record",
        addresses: [FILES], file: delegation("srv.test"), others: { "target.test": ["127.0.2.6"] },
        srv: { "_matrix-fed._tcp.srv.test": [{ priority: 1, port: 8452, target: "target.test" }] },
        door: ["127.0.2.6", 8452, "srv.test"], host: "srv.test", sni: "srv.test",
    }),
    toOldSrv: () => ({
        what: "by .well-known and an SRV record of the old name",
        addresses: [FILES], file: delegation("old-srv.test"), others: { "target.test": ["127.0.2.6"] },
        srv: { "_matrix._tcp.old-srv.test": [{ priority: 1, port: 8453, target: "target.test" }] },
        door: ["127.0.2.6", 8453, "old-srv.test"], host: "old-srv.test", sni: "old-srv.test",
    }),
    srv: (name) => ({
        what: "by an SRV record, the first target of which is dead",
        others: { "target.test": ["127.0.2.6"], "dead.test": [DEAD] },
        srv: {
            [`_matrix-fed._tcp.${name}`]: [
                { priority: 1, port: 8454, target: "dead.test" }, { priority: 2, port: 8454, target: "target.test" },
            ],
            [`_matrix._tcp.${name}`]: [{ priority: 1, port: 1, target: "target.test" }],
        },
        door: ["127.0.2.6", 8454, name], host: name, sni: name,
    }),
    six: (name) => ({
        what: "at an address of IPv6 and none of IPv4",
        addresses: [SIX], door: [SIX, 8448, name], host: name, sni: name,
    }),
    redirected: () => ({
        what: "by a .well-known that is somewhere else",
        addresses: [FILES], file: file("", { status: 302, headers: { location: "/elsewhere" } }),
        others: { "hosted.test": ["127.0.2.3"] },
        door: ["127.0.2.3", 8448, "hosted.test"], host: "hosted.test", sni: "hosted.test",
    }),
    oversized: (name) => ({
        what: "with a .well-known that is too large",
        addresses: [FILES], file: file(JSON.stringify({ "m.server": "hosted.test", x: "x".repeat(60_000) })),
        door: [FILES, 8448, name], host: name, sni: name,
    }),
    invalid: (name) => ({
        what: "with a .well-known that is none",
        addresses: [FILES], file: file("<html>"), door: [FILES, 8448, name], host: name, sni: name,
    }),
    missing: (name) => ({
        what: "without a .well-known where one could be",
        addresses: [FILES], file: file("", { status: 404 }), door: [FILES, 8448, name], host: name, sni: name,
    }),
    slow: (name) => ({
        what: "with a .well-known that never comes",
        // A Synapse waits for it longer than for a request.
        only: "H",
        addresses: [FILES], file: () => undefined, door: [FILES, 8448, name], host: name, sni: name,
    }),
    wrong: (name) => ({
        what: "with a certificate of another name",
        addresses: ["127.0.2.8"], door: ["127.0.2.8", 8448, "other.test"], host: name, sni: name, refused: true,
    }),
    wrongSrv: (name) => ({
        what: "with a certificate of the SRV record's target",
        others: { "target.test": ["127.0.2.6"] },
        srv: { [`_matrix-fed._tcp.${name}`]: [{ priority: 1, port: 8455, target: "target.test" }] },
        door: ["127.0.2.6", 8455, "target.test"], host: name, sni: name, refused: true,
    }),
};

/** Names with a port, and such as are addresses: nothing is looked up for them. */
const LITERALS = [
    { name: "port.test:8449", what: "a name with a port", addresses: ["127.0.2.2"], door: ["127.0.2.2", 8449, "port.test"], sni: "port.test" },
    { name: "127.0.2.7", what: "an address", door: ["127.0.2.7", 8448, "127.0.2.7"], sni: "-" },
    { name: "127.0.2.7:8456", what: "an address with a port", door: ["127.0.2.7", 8456, "127.0.2.7"], sni: "-" },
    { name: `[${SIX}]:8457`, what: "an address of IPv6 with a port", door: [SIX, 8457, SIX], sni: "-" },
].map((one) => ({ ...one, host: one.name }));

/** Every case of the table: what is called, and how the request must arrive. */
export const CASES = [
    ...Object.entries(ARRANGEMENTS).map(([kind, arrange]) => {
        const name = `${kind.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}.test`;
        return { name, ...arrange(name) };
    }),
    ...LITERALS,
];

/** A server whose name leads to a door before it. */
const behindDoors = (Server) => class extends Server {
    async create() {
        this.folder = await mkdtemp(join(tmpdir(), `hearth-${this.letter}-`));
        [this.port, this.federationPort] = [await freePort(), await freePort()];
        this.name = `${this.letter.toLowerCase()}.test`;
        this.baseUrl = `http://127.0.0.1:${this.port}`;
        this.tls = await this.authority.issue(this.folder);
        await this.prepare?.();
        return this.start();
    }
};

class Hearth extends behindDoors(FederatingHearth) {
    arguments() {
        const set = [
            `server_name=${this.name}`,
            `data_dir=${this.folder}/data`,
            `registration.shared_secret=${SHARED_SECRET}`,
            "rate_limits.enabled=false",
            `listeners=[{ address = "127.0.0.1:${this.port}" }, ` +
                `{ address = "127.0.0.1:${this.federationPort}", resources = ["federation"] }]`,
            `federation.trusted_ca_files=["${this.authority.certificate}"]`,
            'federation.allowed_private_ranges=["127.0.0.0/8", "fd00::/8"]',
        ];
        return ["serve", ...set.flatMap((setting) => ["--set", setting])];
    }
}

class Synapse extends behindDoors(FederatingSynapse) {
    async prepare() {
        await mkdir(join(this.folder, "media"));
        // Its own door is before it, as a proxy would be.
        const config = this.config().replace("type: http, tls: true", "type: http, tls: false");
        await writeFile(join(this.folder, "homeserver.yaml"), config);
        await writeFile(join(this.folder, "log.yaml"), this.logConfig());
        await run(this.python, [...this.command(), "--generate-keys"], { cwd: this.folder });
    }
}

export class World {
    constructor({ hearth, synapse }) {
        this.programs = { hearth, synapse };
        this.doors = [];
        this.files = new Map();
    }

    async create() {
        await run("ip", ["link", "set", "lo", "up"]);
        await run("ip", ["-6", "addr", "add", `${SIX}/128`, "dev", "lo", "nodad"]);
        this.folder = await mkdtemp(join(tmpdir(), "hearth-dns-"));
        const resolvers = join(this.folder, "resolv.conf");
        await writeFile(resolvers, "nameserver 127.0.0.1\noptions timeout:2\n");
        await run("mount", ["--bind", resolvers, "/etc/resolv.conf"]);
        this.names = await new NameServer().start("127.0.0.1");
        this.authority = new Authority();
        await this.authority.create();
        const certified = [...CASES.map(({ name }) => name), "h.test", "s.test"].filter((name) => /^[a-z-]+\.test$/.test(name));
        const files = await this.authority.issue(this.folder, certified.map((name) => `DNS:${name}`), "files");
        this.fileDoor = await new Door({ ...files, answer: (...both) => this.serveFile(...both) }).open(FILES, 443);
        const { authority } = this;
        this.hearth = new Hearth({ program: this.programs.hearth, authority, letter: "H" });
        this.synapse = new Synapse({ environment: this.programs.synapse, authority, letter: "S" });
        await Promise.all([this.hearth.create(), this.synapse.create()]);
        [this.alice, this.sam] = [new Person(this.hearth, "alice"), new Person(this.synapse, "sam")];
        await Promise.all([this.alice.register(), this.sam.register()]);
    }

    serveFile(incoming, outgoing) {
        if (incoming.url === "/elsewhere") delegation("hosted.test")(outgoing);
        else if (incoming.url === "/.well-known/matrix/server") (this.files.get(incoming.headers.host) ?? file("", { status: 404 }))(outgoing);
        else return false;
        return true;
    }

    /** Arranges what stands behind a name; answers its door. */
    async arrange(name, { addresses = [], srv = {}, others = {}, file: wellKnown, door }, backend) {
        if (isIP(name.replace(/^\[|\](:\d+)?$|:\d+$/g, "")) === 0) this.names.address(name.split(":")[0], ...addresses);
        for (const kind of ["_matrix-fed._tcp", "_matrix._tcp"]) this.names.srv(`${kind}.${name.split(":")[0]}`);
        for (const [record, records] of Object.entries(srv)) this.names.srv(record, ...records);
        for (const [other, its] of Object.entries(others)) this.names.address(other, ...its);
        this.files.delete(name);
        if (wellKnown) this.files.set(name, wellKnown);
        const [address, port, certified] = door;
        const subject = isIP(certified) ? `IP:${certified}` : `DNS:${certified}`;
        const stem = `door-${certified.replaceAll(":", "-")}`;
        const certificate = await this.authority.issue(this.folder, [subject], stem);
        const opened = await new Door({ ...certificate, backend }).open(address, port);
        this.doors.push(opened);
        return opened;
    }

    async closeDoors() {
        for (const door of this.doors.splice(0)) await door.close();
    }

    /** A server asks for an alias of the case's name: the request must arrive as the table says. */
    async call(caller, one) {
        await this.closeDoors();
        const door = await this.arrange(one.name, one);
        const person = caller === this.hearth ? this.alice : this.sam;
        const alias = `#x:${one.name}`;
        const { status } = await person.ask("POST", `/join/${encodeURIComponent(alias)}`, {});
        assert(status !== 200, `the alias leads somewhere: ${status}`);
        const asked = door.seen.filter(({ path }) => decodeURIComponent(path).endsWith(`room_alias=${alias}`));
        if (one.refused) {
            assertEqual(door.seen, [], "requests that arrived in spite of the certificate");
            assert(door.refused > 0, "the door was never tried");
            return;
        }
        assert(asked.length > 0, `no request arrived; ${JSON.stringify(door.seen)}, ${status}`);
        check(asked, one);
    }

    /** Alice makes a room and Sam joins it, each server at its own address. */
    async meet() {
        await this.closeDoors();
        for (const server of [this.hearth, this.synapse]) await this.place(server, plainAt(server));
        this.room = await this.alice.create({ preset: "public_chat", room_version: "11" });
        await this.sam.join(this.room, [this.hearth.name]);
    }

    async place(server, arrangement) {
        server.door = await this.arrange(server.name, arrangement, server.federationPort);
        this.doors.pop();
    }

    /** The arrangements behind which messages cross. */
    arrangements(host) {
        const kinds = ["toHost", "toPort", "toAddress", "toSrv", "toOldSrv", "srv", "six", "redirected", "oversized", "wrong", "plain"];
        return kinds.map((kind) => (kind === "plain" ? plainAt(host) : ARRANGEMENTS[kind](host.name)));
    }

    /** The host's name is arranged anew; the caller starts without memory of it, and its user speaks. */
    async cross(caller, host, arrangement) {
        await caller.stop();
        await host.door.close();
        await this.place(host, arrangement);
        await caller.start();
        const [speaker, listener] = caller === this.hearth ? [this.alice, this.sam] : [this.sam, this.alice];
        const text = `to ${host.letter}, ${arrangement.what}`;
        await speaker.say(this.room, text);
        if (arrangement.refused) {
            await eventually("the door is tried", () => host.door.refused > 0);
            assertEqual(host.door.seen, [], "requests that arrived in spite of the certificate");
            assert(!(await heard(listener, this.room, text)), "it crossed in spite of the certificate");
            return;
        }
        await eventually(`${listener.name} hears it`, () => heard(listener, this.room, text));
        check(host.door.seen.filter(({ path }) => path.includes("/_matrix/federation/v1/send/")), arrangement);
    }

    async destroy() {
        for (const server of [this.hearth, this.synapse]) {
            await server?.destroy();
            await server?.door?.close();
        }
        await this.closeDoors();
        await this.fileDoor?.close();
        await this.names?.stop();
        await this.authority?.destroy();
        if (this.folder) await rm(this.folder, { recursive: true, force: true });
        await pause(0);
    }
}

/** Both servers have the usual port, so each its own address. */
function plainAt(server) {
    const address = server.letter === "H" ? "127.0.3.1" : "127.0.3.2";
    return { ...ARRANGEMENTS.plain(server.name), addresses: [address], door: [address, 8448, server.name] };
}

/** Whether a user sees a message in a room. */
async function heard(person, room, text) {
    const { body } = await person.ask("GET", person.room(room, "/messages?dir=b&limit=50"));
    return (body.chunk ?? []).some((event) => event.content?.body === text);
}

/** Compares how requests arrived with how they must. */
function check(seen, { door: [address, port], host, sni }) {
    const socket = `${isIPv6(address) ? `[${address}]` : address}:${port}`;
    const routes = [...new Set(seen.map((one) => `${one.host} | ${one.sni} | ${one.socket}`))];
    assertEqual(routes, [`${host} | ${sni} | ${socket}`], "Host | SNI | socket");
}
