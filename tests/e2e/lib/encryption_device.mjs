// A person with devices: each device is a client of matrix-js-sdk with the Rust cryptography, its keys in
// memory. A device can lose its network, tells who it sent room keys to, and is asked what it makes of
// an event.

import * as sdk from "matrix-js-sdk";
import { CryptoEvent, decodeRecoveryKey } from "matrix-js-sdk/lib/crypto-api/index.js";
import loglevel from "loglevel";
import { assertEqual, eventually } from "./checks.mjs";
import { SHARED_SECRET } from "./hearth.mjs";
import { register } from "./register.mjs";
import { request } from "./request.mjs";

const PASSWORD = "correct horse battery staple";

/** How many events of a room a device asks for at first: more than the story sends. */
const FIRST_SYNC_EVENTS = 200;

const silent = {
    trace() {}, debug() {}, info() {}, warn() {}, error() {},
    getChild: () => silent,
};

/** What the library and its Rust part say of themselves would bury the checks. */
function silenceLibrary() {
    for (const logger of Object.values(loglevel.getLoggers())) logger.disableAll();
    for (const level of ["trace", "debug", "info", "warn", "error"]) console[level] = () => {};
}

/** A person: an account, its devices in the order of their arrival, and the recovery key that it wrote down. */
export class Account {
    devices = [];

    constructor(server, name) {
        this.server = server;
        this.name = name;
    }

    /** Registers; the session of the registration ends, since it belongs to no device that can encrypt. */
    async register() {
        const answer = await register(this.server.baseUrl, this.name, PASSWORD, { sharedSecret: SHARED_SECRET });
        this.userId = answer.user_id;
        const ended = await request(this.server.baseUrl, "POST", "/_matrix/client/v3/logout", { token: answer.access_token, body: {} });
        assertEqual(ended.status, 200, "status of the sign-out");
    }

    /** Signs in on a new device, which is started. */
    async newDevice(label) {
        const device = new Device(this, label);
        await device.signIn();
        this.devices.push(device);
        await device.start();
        return device;
    }

    /** The devices that were not deleted. */
    get live() {
        return this.devices.filter((device) => !device.gone);
    }
}

export class Device {
    /** Devices (`user|device`) to which encrypted to-device messages went, in order. */
    sentTo = [];
    /** Requests for verification that arrived, by transaction. */
    requests = new Map();
    /** Marks that came as to-device messages. */
    marks = new Set();
    /** How many answers to syncs were taken in. */
    syncs = 0;
    /** Whether the device was deleted. */
    gone = false;
    /** Ends what is on its way when the network goes. */
    network = new AbortController();
    /** Events by id as they were fetched. */
    fetched = new Map();

    constructor(account, label) {
        this.account = account;
        this.label = label;
    }

    get crypto() {
        return this.client.getCrypto();
    }

    get userId() {
        return this.account.userId;
    }

    /** `user|device`, as `sentTo` has it. */
    get address() {
        return `${this.userId}|${this.deviceId}`;
    }

    async signIn() {
        const baseUrl = this.account.server.baseUrl;
        const answer = await sdk.createClient({ baseUrl, logger: silent }).loginRequest({
            type: "m.login.password",
            identifier: { type: "m.id.user", user: this.account.name },
            password: PASSWORD,
            initial_device_display_name: this.label,
        });
        [this.deviceId, this.token] = [answer.device_id, answer.access_token];
        this.client = sdk.createClient({
            baseUrl,
            accessToken: answer.access_token,
            userId: answer.user_id,
            deviceId: answer.device_id,
            logger: silent,
            timelineSupport: true,
            fetchFn: (url, options) => this.fetch(url, options),
            cryptoCallbacks: {
                getSecretStorageKey: async ({ keys }) => this.secretStorageKey && [Object.keys(keys)[0], this.secretStorageKey],
                cacheSecretStorageKey: (_id, _info, key) => { this.secretStorageKey = key; },
            },
        });
        silenceLibrary();
    }

    /** Starts cryptography and sync, and waits for the first answer. */
    async start() {
        await this.client.initRustCrypto({ useIndexedDB: false });
        silenceLibrary();
        this.client.on("sync", (state) => { if (["PREPARED", "SYNCING"].includes(state)) this.syncs += 1; });
        this.client.on(CryptoEvent.VerificationRequestReceived, (received) => this.requests.set(received.transactionId, received));
        this.client.on("toDeviceEvent", (event) => { if (event.getType() === MARK) this.marks.add(event.getContent().mark); });
        await this.client.startClient({ initialSyncLimit: FIRST_SYNC_EVENTS, lazyLoadMembers: true });
        await eventually(`the first sync of ${this.label}`, () => this.syncs > 0);
    }

    /** The network of the device: notes to whom it sends, and can be cut. */
    async fetch(url, options = {}) {
        const { signal } = this.network;
        if (signal.aborted) throw new TypeError("the device has no network");
        if (options.method === "PUT" && String(url).includes("/sendToDevice/m.room.encrypted/")) {
            for (const [userId, messages] of Object.entries(JSON.parse(options.body).messages)) {
                this.sentTo.push(...Object.keys(messages).map((deviceId) => `${userId}|${deviceId}`));
            }
        }
        try {
            return await fetch(url, { ...options, signal: options.signal ? AbortSignal.any([options.signal, signal]) : signal });
        } catch (error) {
            throw signal.aborted ? new TypeError("the device has lost its network") : error;
        }
    }

    /** Takes the network from the device; it goes on as it is when it has it again. */
    unplug() {
        this.network.abort();
    }

    async plugIn() {
        this.network = new AbortController();
        await this.syncsAgain();
    }

    get unplugged() {
        return this.network.signal.aborted;
    }

    /** Waits for an answer to a sync that was not there before, without the pause that a client makes when it has lost its server. */
    async syncsAgain() {
        const before = this.syncs;
        let told = false;
        await eventually(`${this.label} syncs again`, () => {
            told ||= this.client.retryImmediately();
            return this.syncs > before;
        });
    }

    /** A request without the library. */
    ask(method, path, body) {
        return request(this.account.server.baseUrl, method, `/_matrix/client/v3${path}`, { token: this.token, body });
    }

    /** A request that must be answered with 200. */
    async must(method, path, body) {
        const answer = await this.ask(method, path, body);
        assertEqual(answer.status, 200, `status of ${method} ${path}: ${JSON.stringify(answer.body)}`);
        return answer.body;
    }

    /** Answers a request of the library that wants the password (user-interactive authentication). */
    async withPassword(attempt) {
        try {
            return await attempt(null);
        } catch (error) {
            if (error.httpStatus !== 401 || !error.data?.session) throw error;
            const identifier = { type: "m.id.user", user: this.userId };
            return attempt({ type: "m.login.password", identifier, password: PASSWORD, session: error.data.session });
        }
    }

    /** Makes cross-signing keys, and signs itself with them. */
    makeCrossSigningKeys() {
        return this.crypto.bootstrapCrossSigning({ authUploadDeviceSigningKeys: (attempt) => this.withPassword(attempt) });
    }

    /** Types in the recovery key that the person wrote down, and signs itself with the secrets behind it. */
    async openSecrets() {
        this.secretStorageKey = decodeRecoveryKey(this.account.recoveryKey);
        await eventually(`${this.label} knows the public keys of its owner`, () => this.crypto.userHasCrossSigningKeys());
        await this.crypto.bootstrapCrossSigning({});
    }

    /** What the device holds to be the devices of somebody, by id. */
    async devicesOf(userId) {
        return (await this.crypto.getUserDeviceInfo([userId], true)).get(userId) ?? new Map();
    }

    /** Sends a mark to another device: once it is there, so is all that was sent to that device before. */
    async sendMark(device, mark) {
        await this.must("PUT", `/sendToDevice/${MARK}/${encodeURIComponent(mark)}`, {
            messages: { [device.userId]: { [device.deviceId]: { mark } } },
        });
    }

    /**
     * What the device makes of a message: `{ text, content }`, or `{ failure }` if it cannot read it. A
     * device to which the server does not give the event gets it from us: secrecy must not hang on the server.
     */
    async read(message) {
        let event = this.client.getRoom(message.roomId)?.findEventById(message.eventId);
        if (!event) {
            event = new sdk.MatrixEvent(structuredClone(await this.fetchEvent(message) ?? message.raw));
            await this.client.decryptEventIfNeeded(event);
        } else if (event.isBeingDecrypted()) {
            await event.getDecryptionPromise();
        }
        if (event.isDecryptionFailure()) return { failure: event.decryptionFailureReason };
        return { text: event.getContent().body, content: event.getContent() };
    }

    /** The event as the server gives it to this device, if it does. */
    async fetchEvent({ roomId, eventId }) {
        if (!this.fetched.has(eventId)) {
            const answer = await this.ask("GET", `/rooms/${encodeURIComponent(roomId)}/event/${encodeURIComponent(eventId)}`);
            this.fetched.set(eventId, answer.status === 200 ? answer.body : undefined);
        }
        return this.fetched.get(eventId);
    }
}

/** The type of the marks. */
const MARK = "org.hearth.mark";
