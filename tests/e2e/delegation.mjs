// How servers find each other, with DNS and certificates: a hearth and a real Synapse each call names
// that are arranged in every way that the specification has, and talk in a room behind each.
//
//   node delegation.mjs --hearth PROGRAM --synapse ENVIRONMENT
//
// All of it happens in a network namespace of its own, with a name server of its own; that needs root.
// Where it cannot be had, the script says so and checks nothing.

import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { parseArguments } from "./lib/arguments.mjs";
import { Checks } from "./lib/checks.mjs";
import { CASES, World } from "./lib/delegation_world.mjs";

const options = parseArguments(process.argv.slice(2), { known: ["hearth", "synapse"], flags: ["inside"] });
if (!options.inside) process.exit(outside());

const checks = new Checks();
const world = new World(options);
try {
    await world.create();
    for (const caller of [world.hearth, world.synapse]) {
        for (const one of CASES.filter(({ only }) => !only || only === caller.letter)) {
            await checks.check(`${caller.letter} calls ${one.name}: ${one.what}`, () => world.call(caller, one));
        }
    }
    await checks.check("both meet in a room", () => world.meet());
    for (const [caller, host] of [[world.synapse, world.hearth], [world.hearth, world.synapse]]) {
        for (const arrangement of world.arrangements(host)) {
            const title = `${caller.letter} says something to ${host.letter}, ${arrangement.what}`;
            await checks.check(title, () => world.cross(caller, host, arrangement));
        }
    }
} catch (error) {
    await checks.check("the script runs", () => { throw error; });
} finally {
    if (checks.failed > 0 && world.hearth) console.log(`--- the log of hearth ends with\n${world.hearth.log.slice(-6000)}`);
    await world.destroy();
}
process.exit(checks.close() ? 0 : 1);

/** Runs this script in namespaces of its own, and answers how it ended. */
function outside() {
    const namespaces = ["--net", "--mount"];
    const possible = spawnSync("unshare", [...namespaces, "ip", "link", "set", "lo", "up"]);
    if (possible.status !== 0) {
        const why = possible.error ?? possible.stderr.toString().trim();
        console.log(`skipped: there is no network namespace to be had here (${why})`);
        console.log("0 passed, 0 failed");
        return 0;
    }
    const own = [fileURLToPath(import.meta.url), ...process.argv.slice(2), "--inside"];
    return spawnSync("unshare", [...namespaces, process.execPath, ...own], { stdio: "inherit" }).status ?? 1;
}
