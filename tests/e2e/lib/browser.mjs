// Headless Chromium, with a profile of its own and nothing that reaches beyond loopback, and the
// chat story in a page of it.

import { build } from "esbuild";
import { mkdtemp, rm } from "node:fs/promises";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";
import { isAfterSignOut, PATIENCE_MS } from "./checks.mjs";

const CHROMIUM = process.env.CHROMIUM ?? "/usr/bin/chromium";

/** How long the whole story may take in the browser. */
const STORY_MS_MAX = 1_200_000;

const FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-default-apps", "--disable-domain-reliability",
    "--no-pings", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
];

/** Opens a page in a new browser, gives it to `visit`, and closes both. */
export async function withPage(visit) {
    const profile = await mkdtemp(join(tmpdir(), "hearth-chromium-"));
    const browser = await chromium.launchPersistentContext(profile, {
        executablePath: CHROMIUM, headless: true, args: FLAGS, timeout: PATIENCE_MS,
    });
    browser.setDefaultTimeout(PATIENCE_MS);
    try {
        return await visit(await browser.newPage());
    } finally {
        await browser.close();
        await rm(profile, { recursive: true, force: true });
    }
}

/** Plays the chat story in a page that is served on loopback, and adds what it found to `checks`. */
export async function playInBrowser(checks, setting) {
    const server = await servePage(await bundle("chat_page.mjs"));
    try {
        await withPage(async (page) => {
            const errors = [];
            page.on("pageerror", (error) => { if (!isAfterSignOut(error)) errors.push(String(error)); });
            await page.exposeFunction("printLine", (line) => checks.print(line));
            await page.goto(`http://127.0.0.1:${server.address().port}/`);
            await page.waitForFunction(() => globalThis.playChat !== undefined);
            const late = new Promise((_, refuse) => {
                setTimeout(() => refuse(new Error(`no end after ${STORY_MS_MAX} ms`)), STORY_MS_MAX).unref();
            });
            const counts = await Promise.race([page.evaluate((s) => globalThis.playChat(s), setting), late]);
            checks.passed += counts.passed;
            checks.failed += counts.failed;
            await checks.check("the page has no error", () => {
                if (errors.length > 0) throw new Error(errors.join("; "));
            });
        });
    } finally {
        server.close();
        server.closeAllConnections();
    }
}

/** Bundles a file of this folder for the browser. */
async function bundle(name) {
    const result = await build({
        entryPoints: [join(dirname(fileURLToPath(import.meta.url)), name)],
        bundle: true, write: false, format: "esm", platform: "browser", target: "es2022", outdir: "/",
        define: { global: "globalThis" }, logLevel: "error", loader: { ".wasm": "empty" },
    });
    return result.outputFiles.find((file) => file.path.endsWith(".js")).text;
}

/** Serves a page with one script on a port of loopback. */
function servePage(script) {
    const page = '<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,"><script type="module" src="/story.js"></script>';
    const server = createServer((request, response) => {
        const [type, body] = request.url === "/story.js" ? ["text/javascript", script] : ["text/html", page];
        response.writeHead(200, { "content-type": `${type}; charset=utf-8` }).end(body);
    });
    return new Promise((done) => server.listen(0, "127.0.0.1", () => done(server)));
}
