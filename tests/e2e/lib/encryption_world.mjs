// Where the encryption story plays: its servers, which are killed and started again between any two
// steps, its people with their devices, and the messages with the list of devices that may read them.

import { assert, assertEqual, eventually, PATIENCE_MS } from "./checks.mjs";
import { Account } from "./encryption_device.mjs";
import { FederatingHearth } from "./federation_world.mjs";

export class World {
    accounts = [];
    messages = [];
    /** Accounts that are joined to the room. */
    members = new Set();
    /** Milliseconds that each start after a kill took. */
    restarts = [];

    /** `killShare` says at how many of the places between two steps Hearth is killed, of 1; `random` decides at which. */
    constructor({ checks, servers, killShare, random }) {
        Object.assign(this, { checks, servers, killShare, random });
    }

    /** Devices of everybody that were not deleted. */
    get live() {
        return this.accounts.flatMap((account) => account.live);
    }

    account(server, name) {
        const account = new Account(server, name);
        this.accounts.push(account);
        return account;
    }

    /** A named check that what follows can do without, and what is between it and the next. */
    async step(name, body) {
        const answer = await this.checks.check(name, body);
        await this.between();
        return answer;
    }

    /** A named check without which the story has no sense. */
    async vital(name, body) {
        const failed = this.checks.failed;
        const answer = await this.checks.check(name, body);
        if (this.checks.failed > failed) throw new Error(`nothing to go on with after: ${name}`);
        await this.between();
        return answer;
    }

    /** Kills each Hearth, starts it again on its data, and waits until its clients have found back. */
    async between() {
        const hearths = this.servers.filter((server) => server instanceof FederatingHearth);
        if (hearths.length === 0 || this.random() >= this.killShare) return;
        for (const hearth of hearths) {
            await hearth.kill();
            this.restarts.push(await hearth.start());
        }
        const clients = this.live.filter((device) => hearths.includes(device.account.server) && !device.unplugged);
        await Promise.all(clients.map((device) => device.syncsAgain()));
        await this.reachable(hearths);
    }

    /** Waits until the other servers reach those that were away: each holds off for a while after a failure. */
    async reachable(hearths) {
        for (const device of this.accounts.map((account) => account.live[0]).filter(Boolean)) {
            const { server } = device.account;
            for (const other of this.accounts.filter((each) => each.userId && hearths.includes(each.server) && each.server !== server)) {
                await eventually(`${server.name} reaches ${other.server.name}`, async () =>
                    (await device.ask("GET", `/profile/${encodeURIComponent(other.userId)}`)).status === 200);
            }
        }
    }

    /** Waits until the devices of all members know a device, or no longer know it. */
    async known(device, here = true) {
        const watchers = [...this.members].flatMap((account) => account.live).filter((watcher) => watcher !== device && !watcher.unplugged);
        await Promise.all(watchers.map((watcher) =>
            eventually(`${watcher.label} knows ${here ? "of" : "no more of"} ${device.label}`, async () =>
                (await watcher.devicesOf(device.userId)).has(device.deviceId) === here)));
    }

    /** Waits until the devices of all members know each other: what is sent before reaches only those that are known. */
    async acquainted() {
        await Promise.all([...this.members].flatMap((account) => account.live).map((device) => this.known(device)));
    }

    /**
     * Sends an encrypted message; whoever is in the room now, with the devices of now, may read it. The sender has to know
     * them first: when its question for the keys of a new device meets a kill, it asks again after some seconds only.
     */
    async send(device, roomId, content) {
        await eventually(`${device.label} knows that the room is encrypted`, () => device.crypto.isEncryptionEnabledInRoom(roomId));
        const entitled = new Set([...this.members].flatMap((account) => account.live));
        for (const { label, userId, deviceId } of entitled) {
            await eventually(`${device.label} knows of ${label}`, async () => (await device.devicesOf(userId)).has(deviceId));
        }
        const full = typeof content === "string" ? { msgtype: "m.text", body: content } : content;
        const { event_id: eventId } = await device.client.sendMessage(roomId, full);
        const raw = await device.must("GET", `/rooms/${encodeURIComponent(roomId)}/event/${encodeURIComponent(eventId)}`);
        assertEqual([raw.type, raw.content.body], ["m.room.encrypted", undefined], "type and readable text on the server");
        const message = { roomId, eventId, raw, text: full.body, sender: device, entitled, session: raw.content.session_id };
        this.messages.push(message);
        return message;
    }

    /** A device that has the key of its account's backup may read what any device of the account may. */
    entitleToBackup(device) {
        for (const message of this.readableBy(device.account)) message.entitled.add(device);
    }

    /** What any device of an account may read. */
    readableBy(account) {
        return this.messages.filter(({ entitled }) => [...entitled].some((device) => device.account === account));
    }

    /** The check of checks: each message is readable on each entitled device, and on no other. */
    async everywhere(title) {
        const devices = this.accounts.flatMap((account) => account.devices).filter((device) => !device.unplugged);
        const name = `${title}: ${this.messages.length} messages on ${devices.length} devices, readable where they may be and nowhere else`;
        await this.step(name, async () => {
            const unread = await this.unread(devices);
            await this.waitForMarks(devices);
            const leaked = [];
            for (const [device, message] of this.pairs(devices, false)) {
                const { text } = await device.read(message);
                if (text !== undefined) leaked.push(`"${message.text}" on ${device.label}`);
            }
            assertEqual({ unread, leaked }, { unread: [], leaked: [] }, "what is wrong");
        });
    }

    /** Pairs of devices and messages that they may read, or may not. */
    pairs(devices, entitled) {
        return devices.flatMap((device) =>
            this.messages.filter((message) => message.entitled.has(device) === entitled).map((message) => [device, message]));
    }

    /** What is not read where it should be, after patience. */
    async unread(devices) {
        const end = Date.now() + PATIENCE_MS;
        const results = await Promise.all(this.pairs(devices, true).map(async ([device, message]) => {
            let last;
            const look = async () => (last = await device.read(message)).text === message.text;
            const seen = await eventually("it", look, end - Date.now()).catch(() => false);
            return seen ? undefined : `"${message.text}" on ${device.label}: ${last?.failure ?? JSON.stringify(last)}`;
        }));
        return results.filter(Boolean);
    }

    /** Waits until whatever senders had sent to devices that may not read something has arrived there. */
    async waitForMarks(devices) {
        const routes = new Map();
        for (const [device, { sender }] of this.pairs(devices.filter((each) => !each.gone), false)) {
            if (!sender.gone && !sender.unplugged && sender !== device) routes.set(`${sender.label} to ${device.label}`, [sender, device]);
        }
        await Promise.all([...routes].map(async ([route, [sender, device]]) => {
            const mark = `${route}, ${(this.marks = (this.marks ?? 0) + 1)}`;
            await sender.sendMark(device, mark);
            await eventually(`the mark from ${mark}`, () => device.marks.has(mark));
        }));
    }

    /** One line on the kills. */
    figures() {
        assert(this.restarts.length > 0, "no kill");
        const sorted = [...this.restarts].sort((a, b) => a - b);
        return `${sorted.length} kills, answering again after ${sorted[0].toFixed(0)} to ${sorted.at(-1).toFixed(0)} ms`;
    }

    stop() {
        for (const device of this.accounts.flatMap((account) => account.devices)) device.client?.stopClient();
    }
}
