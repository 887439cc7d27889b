// Three servers share rooms over TLS: two hearths and a real Synapse.
//
//   node federation.mjs --hearth PROGRAM --synapse ENVIRONMENT [--versions 6,9,10,11,12]
//                       [--rules public,invite,restricted,knock] [--creators A,B,S] [--no-outages]
//   node federation.mjs --synapse ENVIRONMENT --control     three Synapses: what they do not pass is wrong here
//   node federation.mjs --hearth PROGRAM --alone            three hearths

import { parseArguments } from "./lib/arguments.mjs";
import { Checks } from "./lib/checks.mjs";
import { Authority, FederatingHearth, FederatingSynapse } from "./lib/federation_world.mjs";
import { Person, playMedia, playOutage, playRoom } from "./lib/federation_story.mjs";

const options = parseArguments(process.argv.slice(2), {
    known: ["hearth", "synapse", "versions", "rules", "creators"], flags: ["control", "alone", "no-outages"],
});
const list = (text, usual) => (text ? text.split(",") : usual);
const versions = list(options.versions, ["6", "9", "10", "11", "12"]);
const rules = list(options.rules, ["public", "invite", "restricted", "knock"]);
const creators = list(options.creators, ["A", "B", "S"]);

/** From which room version on a join rule exists. */
const SINCE = { public: 1, invite: 1, knock: 7, restricted: 8 };

const checks = new Checks();
const authority = new Authority();
const servers = [];
try {
    await authority.create();
    const hearth = (letter) => new FederatingHearth({ program: options.hearth, authority, letter });
    const synapse = (letter) => new FederatingSynapse({ environment: options.synapse, authority, letter });
    const make = (letter) => (options.control || (letter === "S" && !options.alone) ? synapse(letter) : hearth(letter));
    for (const letter of ["A", "B", "S"]) {
        const server = make(letter);
        servers.push(server);
        await checks.check(`server ${letter} starts`, () => server.create());
    }
    const suffix = Date.now().toString(36);
    const people = [];
    for (const server of servers) people.push(await new Person(server, `${server.letter.toLowerCase()}-${suffix}`).register());
    await playMedia(checks, people);
    await rooms(people);
    for (const absent of options["no-outages"] ? [] : people) {
        const [creator, ...others] = people.filter((person) => person !== absent);
        const title = `${absent.server.letter} away`;
        await playOutage(checks, { title, version: "11", creator, others: [...others, absent], absent });
    }
    for (const server of servers.filter((each) => each instanceof FederatingSynapse)) {
        await checks.check(`${server.letter} has rejected and soft-failed nothing`, async () => {
            const rejected = await server.query("SELECT event_id, reason FROM rejections");
            const failed = await server.query(
                "SELECT event_id FROM event_json WHERE internal_metadata LIKE '%\"soft_failed\":true%'");
            if (rejected.length + failed.length > 0) throw new Error(JSON.stringify({ rejected, failed }));
        });
    }
} catch (error) {
    await checks.check("the script runs", () => { throw error; });
} finally {
    if (checks.failed > 0) {
        for (const server of servers.filter((each) => each instanceof FederatingHearth)) {
            console.log(`--- the log of ${server.letter} ends with\n${server.log.slice(-6000)}`);
        }
    }
    for (const server of servers) await server.destroy();
    await authority.destroy();
}
process.exit(checks.close() ? 0 : 1);

async function rooms(people) {
    for (const letter of creators) {
        const creator = people.find((person) => person.server.letter === letter);
        const others = people.filter((person) => person !== creator);
        let lobby;
        if (rules.includes("restricted")) {
            lobby = await checks.check(`${letter}: a lobby that all are in`, async () => {
                const roomId = await creator.create({ preset: "public_chat", room_version: "10" });
                for (const person of others) await person.join(roomId, [creator.server.name]);
                return roomId;
            });
        }
        for (const version of versions) {
            for (const rule of rules.filter((each) => Number(version) >= SINCE[each])) {
                await playRoom(checks, { title: `${letter} ${rule} ${version}`, version, rule, creator, others, lobby });
            }
        }
    }
}
