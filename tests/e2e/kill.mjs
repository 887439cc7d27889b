// Kills under load: whatever was acknowledged is there afterwards, once, and clients go on with the
// sync tokens that they hold.
//
//   node kill.mjs --hearth PROGRAM [--database sqlite|postgres://…] [--rounds 10] [--events 2000]
//                 [--senders 8] [--restart-ms-max MILLISECONDS]
//   node kill.mjs --hearth PROGRAM --victim postgres        kills a PostgreSQL of its own instead: all of
//                 it in every round, and between two rounds it cuts one connection, which is no round

import { parseArguments } from "./lib/arguments.mjs";
import { assert, assertEqual, Checks, eventually, pause } from "./lib/checks.mjs";
import { Hearth, SHARED_SECRET } from "./lib/hearth.mjs";
import { history, Reader, Sender } from "./lib/load.mjs";
import { Postgres } from "./lib/postgres.mjs";

const options = parseArguments(process.argv.slice(2), {
    known: ["hearth", "database", "rounds", "events", "senders", "rooms", "restart-ms-max", "victim"],
});
const ROUNDS = Number(options.rounds ?? 10);
const EVENTS = Number(options.events ?? 2_000);
const SENDERS = Number(options.senders ?? 8);
const ROOMS = Number(options.rooms ?? 4);
/** No limit where none is given: how fast a start is depends on the machine. */
const RESTART_MS_MAX = Number(options["restart-ms-max"] ?? Infinity);

/** How long the load runs before a kill: between these, so that kills fall anywhere in a commit. */
const LOAD_MS = [300, 1_500];

/** Milliseconds between two lines that say how far the filling is. */
const PROGRESS_EVERY_MS = 15_000;

const checks = new Checks();
let hearth;
let postgres;

/** The people and rooms of the test. */
async function settle() {
    const senders = Array.from({ length: SENDERS }, (_, n) => new Sender(hearth, `sender${n}`));
    const reader = new Reader(hearth, "reader");
    for (const user of [...senders, reader]) await user.register(SHARED_SECRET);
    const roomIds = [];
    for (let n = 0; n < ROOMS; n += 1) {
        const { room_id } = await senders[0].call("POST", "/_matrix/client/v3/createRoom", { preset: "public_chat", name: `room ${n}` });
        for (const user of [...senders.slice(1), reader]) {
            await user.call("POST", `/_matrix/client/v3/join/${encodeURIComponent(room_id)}`, {});
        }
        roomIds.push(room_id);
    }
    return { senders, reader, roomIds };
}

/** Fills the rooms, so that the kills hit a database of some size. */
async function fill({ senders, roomIds }) {
    const started = performance.now();
    const each = Math.ceil(EVENTS / senders.length);
    const progress = setInterval(() => {
        const sent = senders.reduce((sum, sender) => sum + sender.sent, 0);
        console.log(`        ${sent} of ${EVENTS} events`);
    }, PROGRESS_EVERY_MS);
    await Promise.all(senders.map((sender) => sender.run(roomIds, () => sender.sent < each)))
        .finally(() => clearInterval(progress));
    const seconds = (performance.now() - started) / 1_000;
    console.log(`        ${EVENTS} events in ${seconds.toFixed(1)} s: ${(EVENTS / seconds).toFixed(0)} per second`);
}

/** One kill under load. Answers the milliseconds until the server answered again. */
async function round(world, strike) {
    const before = world.senders.map((sender) => sender.acknowledged.length);
    let sending = true;
    const load = Promise.all(world.senders.map((sender) => sender.run(world.roomIds, () => sending)));
    load.catch(() => {});
    await pause(LOAD_MS[0] + Math.random() * (LOAD_MS[1] - LOAD_MS[0]));
    const away = await strike(world);
    await pause(200);
    sending = false;
    await load;
    const acknowledged = world.senders.flatMap((sender, at) => sender.acknowledged.slice(before[at]));
    assert(acknowledged.length > 0, "nothing was acknowledged");
    await caughtUp(world.reader, acknowledged);
    return { away, acknowledged: acknowledged.length };
}

async function killHearth() {
    await hearth.kill();
    return hearth.start();
}

/** Kills all of the database and starts it again; hearth has to find back by itself. */
function killPostgres(world) {
    return hitPostgres(world, async () => {
        await postgres.kill(true);
        await postgres.start();
    });
}

/** Ends one connection of the database, which then recovers; hearth has to find back by itself. */
function cutConnection(world) {
    return hitPostgres(world, () => postgres.kill(false));
}

async function hitPostgres(world, hit) {
    const killed = performance.now();
    await hit();
    const back = performance.now();
    await eventually("an acknowledged event", () => world.senders.some((s) => s.lastAcknowledgedAt > back));
    assert(hearth.child.ended === undefined, "hearth ended with its database");
    return performance.now() - killed;
}

/** The reader, with the token it had before, sees all that was acknowledged, each once. */
async function caughtUp(reader, acknowledged) {
    const missing = () => acknowledged.filter(({ eventId }) => !reader.seen.has(eventId));
    await eventually("the reader has it all", () => missing().length === 0 || reader.errors.length > 0)
        .catch(() => {});
    assertEqual(reader.errors, [], "errors of the reader");
    assertEqual(missing().map(({ body }) => body), [], "acknowledged and never seen in a sync");
    assertEqual(reader.twice, [], "seen twice in syncs");
}

/** The whole history holds what was acknowledged under its id, and nothing twice. */
async function wholeHistory({ senders, reader, roomIds }) {
    for (const roomId of roomIds) {
        const messages = await history(reader, roomId);
        const served = new Map(messages.map((event) => [event.content.body, event.event_id]));
        assertEqual(served.size, messages.length, "different messages in the history");
        const acknowledged = senders.flatMap((s) => s.acknowledged).filter((m) => m.roomId === roomId);
        const lost = acknowledged.filter(({ body, eventId }) => served.get(body) !== eventId);
        assertEqual(lost.map(({ body }) => body), [], "acknowledged and not in the history");
        assertEqual(messages.length, acknowledged.length, "messages in the history");
    }
}

/** The kills in one line. */
function figures(rounds) {
    const away = rounds.map((one) => one.away).sort((a, b) => a - b);
    const sum = rounds.reduce((total, one) => total + one.acknowledged, 0);
    return `${rounds.length} kills on ${EVENTS} events, ${sum} acknowledged around them, `
        + `answering again after ${away[0].toFixed(0)} to ${away.at(-1).toFixed(0)} ms`;
}

async function story() {
    let database = options.database;
    if (options.victim === "postgres") {
        postgres = new Postgres();
        await checks.check("PostgreSQL starts", () => postgres.create());
        database = postgres.url();
    }
    hearth = new Hearth({ program: options.hearth, database });
    await checks.check("hearth starts", () => hearth.create());
    const world = await checks.check("people and rooms", settle);
    if (world === undefined) return;
    await checks.check(`${EVENTS} events before the first kill`, () => fill(world));
    await world.reader.begin();
    world.reader.start();
    const rounds = [];
    const ofPostgres = options.victim === "postgres";
    for (let n = 0; n < ROUNDS; n += 1) {
        if (ofPostgres && n > 0) {
            await checks.check(`cut ${n}: nothing acknowledged is lost, nothing comes twice`, () => round(world, cutConnection));
        }
        await checks.check(`kill ${n + 1}: nothing acknowledged is lost, nothing comes twice`, async () => {
            const { away, acknowledged } = await round(world, ofPostgres ? killPostgres : killHearth);
            rounds.push({ away, acknowledged });
            console.log(`        ${acknowledged} acknowledged, answering again after ${away.toFixed(0)} ms`);
            const limit = ofPostgres ? Infinity : RESTART_MS_MAX;
            assert(away <= limit, `answering again took ${away.toFixed(0)} ms, more than ${limit}`);
        });
    }
    if (ofPostgres) await checks.check(`${ROUNDS} kills of the whole database`, () => assertEqual(rounds.length, ROUNDS, "kills"));
    if (rounds.length > 0) console.log(`figures: ${figures(rounds)}`);
    await world.reader.stop();
    await checks.check("the whole history holds all of it, each once", () => wholeHistory(world));
    await checks.check("hearth stops when asked", async () => {
        assertEqual((await hearth.stop())?.code, 0, "exit code");
    });
}

try {
    await story();
    if (checks.failed > 0) console.log(hearth?.logEnd());
} catch (error) {
    await checks.check("the script runs", () => { throw error; });
} finally {
    await hearth?.destroy();
    await postgres?.destroy();
}
process.exit(checks.close() ? 0 : 1);
