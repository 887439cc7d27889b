// Two people chat on matrix-js-sdk, in Node or in headless Chromium.
//
//   node chat.mjs BASE_URL [--shared-secret S | --token T] [--chromium]     against a running server
//   node chat.mjs --hearth PROGRAM [--database sqlite|postgres://…] [--chromium]   against its own

import { parseArguments } from "./lib/arguments.mjs";
import { Checks, isAfterSignOut } from "./lib/checks.mjs";
import { Hearth, SHARED_SECRET } from "./lib/hearth.mjs";

const options = parseArguments(process.argv.slice(2), {
    known: ["hearth", "database", "shared-secret", "token"],
    flags: ["chromium"],
});

/** Plays the story in this process, or in a browser. */
async function play(checks, setting) {
    if (options.chromium) {
        const { playInBrowser } = await import("./lib/browser.mjs");
        return playInBrowser(checks, setting);
    }
    const { playChat } = await import("./lib/chat_story.mjs");
    return playChat(checks, setting);
}

const checks = new Checks();
process.on("unhandledRejection", (error) => {
    if (!isAfterSignOut(error)) checks.check("no error is left unhandled", () => { throw error; });
});
const suffix = Date.now().toString(36);
let hearth;
try {
    let baseUrl = options.rest[0]?.replace(/\/$/, "");
    let credentials = { sharedSecret: options["shared-secret"], registrationToken: options.token };
    if (options.hearth) {
        hearth = new Hearth({ program: options.hearth, database: options.database });
        await checks.check("hearth starts", () => hearth.create());
        baseUrl = hearth.baseUrl;
        credentials = { sharedSecret: SHARED_SECRET };
    }
    if (!baseUrl) throw new Error("give a BASE_URL or --hearth PROGRAM");
    await play(checks, { baseUrl, credentials, suffix });
    if (hearth) {
        await checks.check("hearth stops when asked", async () => {
            const how = await hearth.stop();
            if (how?.code !== 0) throw new Error(`it ended with ${JSON.stringify(how)}`);
        });
        if (checks.failed > 0) console.log(hearth.logEnd());
    }
} catch (error) {
    await checks.check("the script runs", () => { throw error; });
} finally {
    await hearth?.destroy();
}
process.exit(checks.close() ? 0 : 1);
