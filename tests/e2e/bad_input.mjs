// What a careless or hostile client may send to every route of the client-server API: broken JSON, missing members, wrong
// types, invalid UTF-8, absurd numbers, oversized bodies, wrong tokens, odd paths and queries. What each route has to say to
// what stands in `bad_input.json`. After each route everything that can be seen of accounts and room must be as before.
//
//   node bad_input.mjs --hearth PROGRAM [--database sqlite|postgres://…] [--only PART_OF_A_PATH]
//   node bad_input.mjs --synapse ENVIRONMENT                                as control: codes are compared for hearth only

import { readFile } from "node:fs/promises";
import { parseArguments } from "./lib/arguments.mjs";
import { Place } from "./lib/bad_place.mjs";
import { at, NO_OBJECTS, NOT_CANONICAL, NOT_JSON, ODD_TEXTS, parseRule, replaced, wrongParameters, wrongValues } from "./lib/bad_values.mjs";
import { assert, assertEqual, Checks } from "./lib/checks.mjs";
import { Hearth } from "./lib/hearth.mjs";
import { Synapse } from "./lib/synapse.mjs";

const options = parseArguments(process.argv.slice(2), { known: ["hearth", "database", "synapse", "only"] });

/** The specification's routes, beside the tool that counts how many are served. */
const ENDPOINTS = new URL("../../crates/xtask/endpoints.tsv", import.meta.url);

const TABLE = JSON.parse(await readFile(new URL("bad_input.json", import.meta.url), "utf8"));

/** Settings without which routes are not served. */
const SETTINGS = [];

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

/** The server does not serve this route (yet). */
function isUnserved({ status, json }) {
    return (status === 404 || status === 405) && json?.errcode === "M_UNRECOGNIZED";
}

/** One route and the place at which it is assailed. Everything that is wrong is collected, so that one run shows it all. */
class Assault {
    constructor(place, route) {
        Object.assign(this, { place, route, wrong: [] });
        this.entry = TABLE.bodies[route.name];
        this.token = (this.entry?.as === "admin" ? place.admin : place.user).access_token;
        this.query = this.entry?.query ? `?${place.text(this.entry.query)}` : "";
    }

    /** Sends one bad request; `expected` is `STATUS CODE`, or only a status. Without it any error of the client will do. */
    async refused(what, path, body, expected, token = this.token) {
        try {
            const { status, json } = await this.place.send(this.route.method, path, { body, token });
            const said = [String(status), json?.errcode].filter(Boolean).join(" ");
            if (status < 400) this.wrong.push(`${what}: ${said} instead of a refusal`);
            else if (expected && options.hearth && said !== expected) this.wrong.push(`${what}: ${said} instead of ${expected}`);
        } catch (error) {
            this.wrong.push(`${what}: ${error.message}`);
        }
    }

    path() {
        return this.place.fill(this.route) + this.query;
    }

    async tokens() {
        if (this.route.auth !== "yes") return;
        await this.refused("without a token", this.path(), "{}", "401 M_MISSING_TOKEN", null);
        await this.refused("with a wrong token", this.path(), "{}", "401 M_UNKNOWN_TOKEN", "no-such-token");
    }

    /** Parameters that the route declares: one wrong at a time, the others as they should be. */
    async queries() {
        const rules = Object.entries(TABLE.queries[this.route.name] ?? {}).map(([name, text]) => [name, parseRule(text)]);
        const body = this.entry ? JSON.stringify(this.place.body(this.entry.good)) : "{}";
        const good = rules.filter(([, rule]) => rule.required).map(([name, rule]) => [name, rule.good ?? rule.type.split("|")[0]]);
        const query = (name, value) => {
            const others = good.filter(([other]) => other !== name);
            return "?" + [...others, ...(value === undefined ? [] : [[name, value]])].map((pair) => pair.join("=")).join("&");
        };
        for (const [name, rule] of rules) {
            const path = this.place.fill(this.route);
            if (rule.required) await this.refused(`without ?${name}`, path + query(name), body, `400 ${rule.missing ?? "M_MISSING_PARAM"}`);
            for (const value of wrongParameters(rule.type)) {
                await this.refused(`?${name}=${value}`, path + query(name, value), body, `400 ${rule.wrong ?? "M_INVALID_PARAM"}`);
            }
        }
    }

    /** Odd parts of the path: any answer will do, as long as it is one. */
    async paths() {
        if (!this.route.path.includes("{")) return;
        for (const [what, odd] of Object.entries(PATH_VALUES)) {
            const path = this.place.fill(this.route, odd) + this.query;
            await this.place.send(this.route.method, path, { body: "{}", token: this.token })
                .catch((error) => this.wrong.push(`path, ${what}: ${error.message}`));
        }
    }

    async bodies() {
        const { entry } = this;
        if (this.route.method === "GET" || this.route.method === "DELETE" && !entry) return;
        if (!entry) {
            const listed = TABLE.without_body.includes(this.route.name) || TABLE.with_bytes.includes(this.route.name);
            assert(listed, "bad_input.json does not say what this route takes");
            return;
        }
        for (const [what, body] of Object.entries(NOT_JSON)) await this.refused(what, this.path(), body, "400 M_NOT_JSON");
        if (entry.empty !== true) await this.refused("nothing", this.path(), "", entry.empty ?? "400 M_NOT_JSON");
        const good = this.place.body(entry.good);
        for (const body of [...NO_OBJECTS, JSON.stringify(Object.values(good))]) await this.refused(body, this.path(), body, "400 M_BAD_JSON");
        for (const [pointer, text] of Object.entries(entry.members ?? {})) await this.member(good, this.place.text(pointer), parseRule(text));
        if (entry.content === "event") for (const body of NOT_CANONICAL) await this.refused(body, this.path(), body, "400 M_BAD_JSON");
        for (const pointer of entry.events ?? []) {
            for (const text of NOT_CANONICAL) await this.refused(`${pointer}: ${text}`, this.path(), replaced(good, pointer, text), "400 M_BAD_JSON");
        }
        for (const [pointer, values] of Object.entries(entry.values ?? {})) {
            for (const [value, expected] of Object.entries(values)) {
                await this.refused(`${pointer}: "${value}"`, this.path(), replaced(good, pointer, JSON.stringify(value)), expected);
            }
        }
        if (options.hearth) await this.oversized();
    }

    async member(good, pointer, rule) {
        if (rule.required) {
            await this.refused(`without ${pointer}`, this.path(), replaced(good, pointer), `400 ${rule.missing ?? "M_BAD_JSON"}`);
        }
        for (const text of wrongValues(rule.type, at(good, pointer))) {
            // A number that no JSON value of a program can hold is bad JSON wherever it stands.
            const code = text === "1e400" ? "M_BAD_JSON" : (rule.wrong ?? "M_BAD_JSON");
            await this.refused(`${pointer}: ${text}`, this.path(), replaced(good, pointer, text), `400 ${code}`);
        }
    }

    async oversized() {
        const text = await this.place.oversized(this.route.method, this.path(), this.token);
        if (!text.startsWith("HTTP/1.1 413") || !text.includes('"M_TOO_LARGE"')) this.wrong.push(`oversized: ${text.slice(0, 40)} instead of 413 M_TOO_LARGE`);
    }

    /** What is not as it was before. */
    async changes(before) {
        const now = await this.place.snapshot();
        for (const [name, value] of Object.entries(now)) {
            const [was, is] = [JSON.stringify(before[name]), JSON.stringify(value)];
            if (was !== is) this.wrong.push(`changed: ${name}: ${difference(was, is)}`);
        }
        return now;
    }
}

/** Where two texts begin to differ. */
function difference(one, other) {
    let start = 0;
    while (start < one.length && one[start] === other[start]) start += 1;
    const part = (text) => text.slice(Math.max(0, start - 40), start + 60);
    return `…${part(one)}… is now …${part(other)}…`;
}

async function assailAll(checks, place) {
    let unserved = 0;
    let before = await place.snapshot();
    for (const route of await endpoints()) {
        await checks.check(route.name, async () => {
            const assault = new Assault(place, route);
            const plain = await place.send(route.method, place.fill(route), { body: "{}" });
            if (isUnserved(plain)) {
                unserved += 1;
                return;
            }
            await assault.tokens();
            await assault.queries();
            await assault.paths();
            await assault.bodies();
            before = await assault.changes(before);
            assert(assault.wrong.length === 0, assault.wrong.join("; "));
        });
    }
    console.log(`        ${unserved} routes are not served, and say so`);
}

/** The control: every body that was spoiled is taken as it stands in the table. Then odd texts in it, which may be taken. */
async function takeAll(checks, server) {
    const place = new Place(server);
    await place.settle();
    const routes = (await endpoints()).filter((route) => TABLE.bodies[route.name]);
    const order = Object.keys(TABLE.bodies);
    routes.sort((one, other) => order.indexOf(one.name) - order.indexOf(other.name));
    for (const route of routes) {
        const entry = TABLE.bodies[route.name];
        await checks.check(`${route.name} takes what is right, and survives odd texts`, async () => {
            const user = entry.as === "admin" ? place.admin : place.user;
            const path = () => place.fill(route) + (entry.query ? `?${place.text(entry.query)}` : "");
            const { status, json } = await place.send(route.method, path(), { body: JSON.stringify(place.body(entry.good)), token: user.access_token });
            const said = [String(status), json?.errcode].filter(Boolean).join(" ");
            if (options.hearth) assertEqual(said, entry.answer ?? "200", "answer");
            for (const [pointer, text] of Object.entries(entry.members ?? {}).filter(([pointer]) => pointer !== "/new_password")) {
                if (parseRule(text).type !== "string") continue;
                for (const odd of ODD_TEXTS) {
                    const body = replaced(place.body(entry.good), place.text(pointer), odd);
                    await place.send(route.method, path(), { body, token: user.access_token });
                }
            }
        });
    }
}

async function story(checks, server) {
    const place = new Place(server);
    const settled = await checks.check("accounts and a room to aim at", async () => { await place.settle(); return true; });
    if (!settled) return;
    await assailAll(checks, place);
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
    await takeAll(checks, server);
}

const checks = new Checks();
const server = options.synapse ? new Synapse(options.synapse) : new Hearth({ program: options.hearth, database: options.database, settings: SETTINGS });
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
