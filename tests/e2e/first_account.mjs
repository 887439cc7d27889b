// The first account, as a person makes it: open the link that the server prints, fill in the form,
// sign in with a client. And the link works once. The server has no configuration but its port: its
// data lies below its working folder, and the page lets the person name it.
//
//   node first_account.mjs --hearth PROGRAM [--database sqlite|postgres://…]

import { readdir } from "node:fs/promises";
import { parseArguments } from "./lib/arguments.mjs";
import { withPage } from "./lib/browser.mjs";
import { assert, assertEqual, Checks, eventually } from "./lib/checks.mjs";
import { Hearth } from "./lib/hearth.mjs";
import { request } from "./lib/request.mjs";

const options = parseArguments(process.argv.slice(2), { known: ["hearth", "database"] });
const checks = new Checks();
const [username, password] = ["keeper", "a long pass phrase by the fire"];
/** The name that the person gives the server where the page asks for one. */
const NAME = "hearth.test";
let serverName = "localhost";
const hearth = new Hearth({ program: options.hearth, database: options.database, plain: true });

/** Opens the link, fills in the form, and answers the text of the page that follows. */
function fillIn(link) {
    return withPage(async (page) => {
        const errors = [];
        page.on("pageerror", (error) => errors.push(String(error)));
        const response = await page.goto(link);
        assertEqual(response.status(), 200, "status of the page");
        await page.fill('input[name="username"]', username);
        await page.fill('input[name="password"]', password);
        for (const again of await page.locator('input[type="password"]').all()) await again.fill(password);
        const name = page.locator('input[name="server_name"]:visible');
        if (await name.count() > 0) {
            await name.fill(NAME);
            serverName = NAME;
        }
        await page.click('button[type="submit"], input[type="submit"], form button');
        await page.waitForFunction((id) => document.body.innerText.includes(id), `@${username}:${serverName}`);
        assertEqual(errors, [], "errors of the page");
        return page.innerText("body");
    });
}

function signIn() {
    const identifier = { type: "m.id.user", user: username };
    return request(hearth.baseUrl, "POST", "/_matrix/client/v3/login", {
        body: { type: "m.login.password", identifier, password },
    });
}

try {
    await checks.check("hearth starts", () => hearth.create());
    const link = await checks.check("it prints a link for the first account", () =>
        eventually("the link", () => hearth.firstAccountLink()));
    if (link) {
        const text = await checks.check("a person creates the account in a browser", () => fillIn(link));
        await checks.check("the page says what to type into a client", () =>
            assert(text.includes(`@${username}:${serverName}`) || text.includes(hearth.baseUrl), `it says: ${text}`));
        const answer = await checks.check("the account signs in", async () => {
            const login = await signIn();
            assertEqual([login.status, login.body.user_id], [200, `@${username}:${serverName}`], "login");
            return login.body;
        });
        await checks.check("the data lies below the working folder", async () => {
            assert((await readdir(hearth.folder)).includes("hearth-data"), "there is no ./hearth-data");
        });
        await checks.check("the account can create a room", async () => {
            const room = await request(hearth.baseUrl, "POST", "/_matrix/client/v3/createRoom", {
                token: answer.access_token, body: { name: "first" },
            });
            assertEqual(room.status, 200, "status");
        });
        await checks.check("the link works once", async () => {
            const response = await fetch(link);
            const page = await response.text();
            assert(response.status >= 400 || !page.includes('name="password"'), `status ${response.status}, and a form`);
        });
        await checks.check("after a restart there is no new link", async () => {
            await hearth.stop();
            hearth.log = "";
            await hearth.start();
            assertEqual(hearth.firstAccountLink(), undefined, "link");
        });
    }
    if (checks.failed > 0) console.log(hearth.logEnd());
} catch (error) {
    await checks.check("the script runs", () => { throw error; });
} finally {
    await hearth.destroy();
}
process.exit(checks.close() ? 0 : 1);
