// A mail server that shows what it gets: aiosmtpd, over STARTTLS, with a certificate of its own.

import { execFile, spawn } from "node:child_process";
import { join, resolve } from "node:path";
import { createInterface } from "node:readline";
import { promisify } from "node:util";
import { eventually } from "./checks.mjs";
import { freePort } from "./hearth.mjs";

const USER = "hearth@mail.test";
const PASSWORD = "a word: /with marks@";

export class MailSink {
    /** `environment` is the Python environment in which aiosmtpd is installed, `folder` takes the certificate. */
    constructor(environment, folder) {
        this.python = join(resolve(environment), "bin/python");
        this.certificate = join(folder, "mail.pem");
        this.key = join(folder, "mail.key");
        this.mails = [];
    }

    /** Makes a certificate and picks a port. */
    async create() {
        this.port = await freePort();
        const request = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"];
        const extensions = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE"];
        await promisify(execFile)("openssl", [...request, ...extensions, "-keyout", this.key, "-out", this.certificate]);
        await this.start();
    }

    /** The address by which a server reaches it. */
    get url() {
        return `smtp://${encodeURIComponent(USER)}:${encodeURIComponent(PASSWORD)}@127.0.0.1:${this.port}`;
    }

    async start() {
        const args = [join(import.meta.dirname, "mail_sink.py"), String(this.port), this.certificate, this.key, USER, PASSWORD];
        this.child = spawn(this.python, args, { stdio: ["ignore", "pipe", "inherit"] });
        let ready = false;
        createInterface({ input: this.child.stdout }).on("line", (line) => {
            const mail = JSON.parse(line);
            if (mail.ready) ready = true;
            else this.mails.push(mail);
        });
        await eventually("the mail server listens", () => ready);
    }

    async stop() {
        const gone = new Promise((done) => this.child.once("exit", done));
        this.child.kill("SIGKILL");
        await gone;
    }

    /** The next mail to an address, which is taken out. */
    async next(address) {
        const find = () => this.mails.findIndex((mail) => mail.to.includes(address));
        await eventually(`a mail to ${address}`, () => find() >= 0);
        return this.mails.splice(find(), 1)[0];
    }
}

/** The one link of a mail, which both its forms have. */
export function linkOf(mail) {
    const links = mail.plain.match(/https?:\/\/\S+/g) ?? [];
    if (links.length !== 1) throw new Error(`not one link: ${mail.plain}`);
    const html = mail.html.replaceAll("&#x2f;", "/").replaceAll("&amp;", "&");
    if (!html.includes(`href="${links[0]}"`)) throw new Error(`another link in HTML: ${mail.html}`);
    return links[0];
}
