// Two people with two devices each, and more that come and go, write to each other encrypted; whatever
// is said is readable on every device that may read it, and on no other. Hearth is killed and started
// again between any two steps.
//
//   node encryption.mjs --hearth PROGRAM [--database sqlite|postgres://…]        both people on one server
//   node encryption.mjs --hearth PROGRAM --synapse ENVIRONMENT                   alice on Hearth, bob on Synapse
//   node encryption.mjs --synapse ENVIRONMENT                                    both on one Synapse, as control
//   … --servers hearth,hearth        where alice and bob are: any two of hearth and synapse, or one
//   … --kills PERCENT [--seed N]     at how many of the places Hearth is killed (100), and at which
//   … --no-kills

import { parseArguments } from "./lib/arguments.mjs";
import { Checks, isAfterSignOut } from "./lib/checks.mjs";
import { playEncryption } from "./lib/encryption_story.mjs";
import { World } from "./lib/encryption_world.mjs";
import { Authority, FederatingHearth, FederatingSynapse } from "./lib/federation_world.mjs";

const options = parseArguments(process.argv.slice(2), {
    known: ["hearth", "synapse", "database", "servers", "kills", "seed"], flags: ["no-kills"],
});

/** The kinds of servers, alice's first. */
function kinds() {
    if (options.servers) return options.servers.split(",");
    const given = ["hearth", "synapse"].filter((kind) => options[kind]);
    if (given.length === 0) throw new Error("give --hearth PROGRAM or --synapse ENVIRONMENT");
    return given;
}

function make(kind, authority, letter) {
    if (kind === "synapse") return new FederatingSynapse({ environment: options.synapse, authority, letter });
    return new FederatingHearth({ program: options.hearth, authority, letter, database: letter === "A" ? options.database : undefined });
}

/** Numbers from 0 to 1 that a seed decides: a linear congruential generator, whose high bits are random enough. */
function numbers(seed) {
    let state = seed >>> 0;
    return () => (state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0) / 2 ** 32;
}

/** Whether an error that nobody waited for is only a request that was on its way when the server went. */
function isAfterKill(error) {
    return error?.name === "ConnectionError" || error instanceof TypeError && error.message.startsWith("fetch failed");
}

const checks = new Checks();
let over = false;
process.on("unhandledRejection", (error) => {
    if (!over && !isAfterSignOut(error) && !isAfterKill(error)) checks.check("no error is left unhandled", () => { throw error; });
});
const authority = new Authority();
const servers = [];
let world;
try {
    await authority.create();
    for (const [at, kind] of kinds().entries()) {
        const server = make(kind, authority, "AB"[at]);
        servers.push(server);
        await checks.check(`${kind} ${server.letter} starts`, () => server.create());
    }
    const killShare = options["no-kills"] ? 0 : Number(options.kills ?? 100) / 100;
    const seed = Number(options.seed ?? 1);
    world = new World({ checks, servers, killShare, random: numbers(seed) });
    await playEncryption(world);
    if (killShare > 0 && servers.some((server) => server instanceof FederatingHearth)) {
        await checks.check("Hearth was killed in between, and came back each time", () =>
            console.log(`figures: ${world.figures()}, seed ${seed}`));
    }
} catch (error) {
    await checks.check("the story reaches its end", () => { throw error; });
} finally {
    over = true;
    world?.stop();
    if (checks.failed > 0) {
        for (const server of servers.filter((each) => each instanceof FederatingHearth)) {
            console.log(`--- the log of ${server.letter} ends with\n${server.logEnd()}`);
        }
    }
    for (const server of servers) await server.destroy();
    await authority.destroy();
}
process.exit(checks.close() ? 0 : 1);
