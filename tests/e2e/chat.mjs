// Two people chat on matrix-js-sdk, in Node or in headless Chromium.
//
//   node chat.mjs BASE_URL [--shared-secret S | --token T] [--chromium]          against a running server
//   node chat.mjs --hearth PROGRAM [--database sqlite|postgres://…] [--chromium]   against one of its own
//   node chat.mjs --synapse ENVIRONMENT [--chromium]                             against Synapse, as control

import { parseArguments } from "./lib/arguments.mjs";
import { Checks, isAfterSignOut } from "./lib/checks.mjs";
import { Hearth, SHARED_SECRET } from "./lib/hearth.mjs";
import { Synapse } from "./lib/synapse.mjs";

const options = parseArguments(process.argv.slice(2), {
    known: ["hearth", "database", "synapse", "shared-secret", "token"],
    flags: ["chromium"],
});

/** The server to play against, if it is not running already. */
function ownServer() {
    if (options.hearth) return new Hearth({ program: options.hearth, database: options.database });
    if (options.synapse) return new Synapse(options.synapse);
    return undefined;
}

/** Where to play, and how to register there. */
function setting(server) {
    const suffix = Date.now().toString(36);
    if (server) return { baseUrl: server.baseUrl, credentials: { sharedSecret: SHARED_SECRET }, suffix };
    if (!options.rest[0]) throw new Error("give a BASE_URL, --hearth PROGRAM or --synapse ENVIRONMENT");
    const credentials = { sharedSecret: options["shared-secret"], registrationToken: options.token };
    return { baseUrl: options.rest[0].replace(/\/$/, ""), credentials, suffix };
}

/** Plays the story in this process, or in a browser. */
async function play(checks, where) {
    if (options.chromium) {
        const { playInBrowser } = await import("./lib/browser.mjs");
        return playInBrowser(checks, where);
    }
    const { playChat } = await import("./lib/chat_story.mjs");
    return playChat(checks, where);
}

const checks = new Checks();
process.on("unhandledRejection", (error) => {
    if (!isAfterSignOut(error)) checks.check("no error is left unhandled", () => { throw error; });
});
const server = ownServer();
try {
    if (server) await checks.check("the server starts", () => server.create());
    await play(checks, setting(server));
    if (server instanceof Hearth) {
        await checks.check("hearth stops when asked", async () => {
            const how = await server.stop();
            if (how?.code !== 0) throw new Error(`it ended with ${JSON.stringify(how)}`);
        });
        if (checks.failed > 0) console.log(server.logEnd());
    }
} catch (error) {
    await checks.check("the script runs", () => { throw error; });
} finally {
    await server?.destroy();
}
process.exit(checks.close() ? 0 : 1);
