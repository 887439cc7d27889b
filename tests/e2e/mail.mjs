// Mail over a real mail server: registration, an address more, a forgotten password, and a mail server that is away.
//
//   node mail.mjs --hearth PROGRAM --aiosmtpd ENVIRONMENT [--database sqlite|postgres://…]

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArguments } from "./lib/arguments.mjs";
import { assert, assertEqual, Checks, eventually } from "./lib/checks.mjs";
import { Hearth, SHARED_SECRET } from "./lib/hearth.mjs";
import { linkOf, MailSink } from "./lib/mail_sink.mjs";
import { register as registerByTool } from "./lib/register.mjs";
import { request } from "./lib/request.mjs";

const options = parseArguments(process.argv.slice(2), { known: ["hearth", "database", "aiosmtpd"] });
const checks = new Checks();
const PASSWORD = "a pass phrase by the fire";
const ALICE = "Alice@mail.test";
const SECRET = "a-client.secret_1";

/** A server whose links lead to itself. */
class MailingHearth extends Hearth {
    arguments() {
        return [...super.arguments(), "--set", `public_base_url=${this.baseUrl}`];
    }
}

const folder = await mkdtemp(join(tmpdir(), "hearth-mail-"));
const sink = new MailSink(options.aiosmtpd, folder);
await sink.create();
const server = new MailingHearth({
    program: options.hearth,
    database: options.database,
    settings: [
        "registration.mode=open",
        "registration.email=required",
        `email.url=${sink.url}`,
        "email.from=Hearth <noreply@hearth.test>",
        `email.trusted_ca_files=${sink.certificate}`,
    ],
});

function ask(method, path, body, token) {
    return request(server.baseUrl, method, `/_matrix/client/v3${path}`, { token, body });
}

async function ok(method, path, body, token) {
    const answer = await ask(method, path, body, token);
    assertEqual(answer.status, 200, `${method} ${path}: ${JSON.stringify(answer.body)}`);
    return answer.body;
}

async function requestToken(route, email, attempt = 1) {
    return (await ok("POST", `${route}/email/requestToken`, { client_secret: SECRET, email, send_attempt: attempt })).sid;
}

/** Opens a link as a person does: looks at the page, and presses its button. */
async function confirm(link) {
    const page = await fetch(link);
    assertEqual(page.status, 200, "the page");
    assert((await page.text()).includes("<form method=\"post\">"), "the page has a button");
    const confirmed = await fetch(link, { method: "POST" });
    assertEqual(confirmed.status, 200, "the button");
}

const byMail = (sid, session) => ({ type: "m.login.email.identity", threepid_creds: { sid, client_secret: SECRET }, session });

async function register(name, email) {
    const sid = await requestToken("/register", email);
    const asked = await ask("POST", "/register", { username: name, password: PASSWORD });
    assertEqual([asked.status, asked.body.flows], [401, [{ stages: ["m.login.email.identity"] }]], "flows");
    const body = { username: name, password: PASSWORD, auth: byMail(sid, asked.body.session) };
    assertEqual((await ask("POST", "/register", body)).status, 401, "before the mail was read");
    const mail = await sink.next(email);
    await confirm(linkOf(mail));
    return { made: await ok("POST", "/register", body), mail };
}

async function stories() {
    const alice = await checks.check("CA15 who registers gets a mail, and then an account", async () => {
        const { made, mail } = await register("alice", ALICE);
        assertEqual(mail.headers.from, "Hearth <noreply@hearth.test>", "from");
        assertEqual(mail.headers.subject, "Confirm your address for hearth.test", "subject");
        assertEqual(mail.headers["auto-submitted"], "auto-generated", "auto-submitted");
        const { threepids } = await ok("GET", "/account/3pid", undefined, made.access_token);
        assertEqual(threepids.map((threepid) => threepid.address), ["alice@mail.test"], "addresses");
        return made;
    });
    await checks.check("CA15 an address is added with the password", async () => {
        const sid = await requestToken("/account/3pid", "second@mail.test");
        await confirm(linkOf(await sink.next("second@mail.test")));
        const body = { sid, client_secret: SECRET };
        const asked = await ask("POST", "/account/3pid/add", body, alice.access_token);
        assertEqual(asked.status, 401, "the password is asked for");
        const auth = { type: "m.login.password", identifier: { type: "m.id.user", user: alice.user_id }, password: PASSWORD, session: asked.body.session };
        await ok("POST", "/account/3pid/add", { ...body, auth }, alice.access_token);
        const told = await sink.next(ALICE);
        assert(told.plain.includes("second@mail.test"), told.plain);
    });
    await checks.check("CA4 an address signs in", async () => {
        const identifier = { type: "m.id.thirdparty", medium: "email", address: "SECOND@mail.test" };
        const login = await ok("POST", "/login", { type: "m.login.password", identifier, password: PASSWORD });
        assertEqual(login.user_id, alice.user_id, "who");
    });
    await checks.check("CA15 a forgotten password is replaced, and all devices end", async () => {
        const sid = await requestToken("/account/password", "alice@mail.test");
        await confirm(linkOf(await sink.next(ALICE)));
        await ok("POST", "/account/password", { new_password: "another", auth: byMail(sid) });
        assertEqual((await ask("GET", "/account/whoami", undefined, alice.access_token)).status, 401, "the old device");
        for (const address of [ALICE, "second@mail.test"]) {
            assert((await sink.next(address)).headers.subject.startsWith("The password of"), "told of it");
        }
        const identifier = { type: "m.id.user", user: "alice" };
        await ok("POST", "/login", { type: "m.login.password", identifier, password: "another" });
    });
    await checks.check("CA15 nothing is lost while the mail server is away and this one dies", async () => {
        await sink.stop();
        const sid = await requestToken("/register", "late@mail.test");
        await eventually("a try has failed", () => server.log.includes("a mail is tried again later"));
        await server.kill();
        await server.start();
        await sink.start();
        const mail = await sink.next("late@mail.test");
        await confirm(linkOf(mail));
        await ok("POST", "/register", { username: "late", password: PASSWORD, auth: byMail(sid) });
        // What came once does not come again, before what was asked for later.
        await requestToken("/register", "later@mail.test");
        await sink.next("later@mail.test");
        assertEqual(sink.mails.filter((other) => other.to.includes("late@mail.test")), [], "a second mail");
    });
    await checks.check("the log holds neither tokens nor the password of the mail server", async () => {
        assert(!/sid=|confirm\?/.test(server.log), "a link");
        assert(!server.log.includes("a%20word") && !server.log.includes("a word:"), "the password");
    });
}

try {
    await server.create();
    // While there is no account, the administrator's needs no address.
    await registerByTool(server.baseUrl, "first", PASSWORD, { sharedSecret: SHARED_SECRET });
    await stories();
} catch (error) {
    await checks.check("the story", () => { throw error; });
} finally {
    await server.destroy();
    await sink.stop();
    await rm(folder, { recursive: true, force: true });
}
process.exit(checks.close() ? 0 : 1);
