// Keys for devices that are away: one-time keys until there are none, the fallback key after that, and
// the dehydrated device (MSC3814), which takes room keys in while no device of the person is there.

import { CryptoEvent } from "matrix-js-sdk/lib/crypto-api/index.js";
import { assert, assertEqual, eventually } from "./checks.mjs";

const ALGORITHM = "signed_curve25519";

/** Keys that a device keeps on the server at least; the Rust cryptography makes 50. */
const KEYS_MIN = 50;

/** Claims beyond the last one-time key. */
const CLAIMS_BEYOND = 10;

/**
 * A device of `owner` goes offline, its one-time keys are claimed until there are none, and then two
 * devices of `sender` write to it: over its fallback key. Back again, it reads both and brings new keys.
 */
export async function playFallback(world, roomId, { owner, senders }) {
    const title = `${owner.name}'s keys run out`;
    const device = await world.vital(`${title}: a device brings its keys and goes offline`, async () => {
        const fresh = await owner.newDevice(`${owner.name} offline`);
        await eventually("its one-time keys", async () => await oneTimeKeys(fresh) >= KEYS_MIN);
        await eventually("its fallback key", () => hasFallbackKey(fresh));
        await world.known(fresh);
        return fresh;
    });
    const count = await oneTimeKeys(device);
    device.unplug();
    const length = count + CLAIMS_BEYOND;
    const used = await world.step(`${title}: ${length} claims at once, each key is given once, then the fallback key`, async () => {
        const claims = await Promise.all(Array.from({ length }, () => claim(senders[0], device)));
        const once = claims.filter(({ key }) => !key.fallback).map(({ id }) => id);
        const fallback = claims.filter(({ key }) => key.fallback).map(({ id }) => id);
        assertEqual([once.length, new Set(once).size], [count, count], "one-time keys that were given, and different ones");
        assertEqual([fallback.length, new Set(fallback).size], [CLAIMS_BEYOND, 1], "fallback keys that were given, and different ones");
        assert(!(await hasFallbackKey(device)), "the device is not told that its fallback key was given away");
        return new Set([...once, ...fallback]);
    });
    await world.step(`${title}: two devices write to it all the same`, async () => {
        for (const sender of senders) {
            const before = sender.sentTo.length;
            await world.send(sender, roomId, `to the fallback key of ${owner.name}, from ${sender.label}`);
            assert(sender.sentTo.slice(before).includes(device.address), `${sender.label} sent no key to ${device.label}`);
        }
    });
    await world.step(`${title}: it comes back, brings new keys, and signs itself`, async () => {
        await device.plugIn();
        await eventually("new one-time keys", async () => await oneTimeKeys(device) >= KEYS_MIN);
        const next = await claim(senders[0], device);
        assert(!next.key.fallback && !used?.has(next.id), `the next key is ${JSON.stringify(next)}`);
        await device.openSecrets();
    });
    await world.everywhere(title);
}

/** How many one-time keys of a device are on the server. */
async function oneTimeKeys(device) {
    return (await device.must("POST", "/keys/upload", {})).one_time_key_counts[ALGORITHM] ?? 0;
}

/** Looks at fallback keys so far. */
let looks = 0;

/** Whether the server has a fallback key of a device that was not given to anybody. */
async function hasFallbackKey(device) {
    // Another filter each time: Synapse repeats its answer to a first sync that it knows.
    const room = { rooms: [], not_rooms: [`!${(looks += 1)}:nowhere.test`] };
    const filter = encodeURIComponent(JSON.stringify({ room, account_data: { types: [] }, presence: { types: [] } }));
    const { device_unused_fallback_key_types: unused } = await device.must("GET", `/sync?timeout=0&filter=${filter}`);
    return unused.includes(ALGORITHM);
}

/** Claims one key of `device`: its id and the key. */
async function claim(claiming, device) {
    const wanted = { one_time_keys: { [device.userId]: { [device.deviceId]: ALGORITHM } } };
    const answer = await claiming.must("POST", "/keys/claim", wanted);
    const [entry] = Object.entries(answer.one_time_keys[device.userId]?.[device.deviceId] ?? {});
    assert(entry, `no key was given: ${JSON.stringify(answer)}`);
    return { id: entry[0], key: entry[1] };
}

/** `owner` leaves a dehydrated device behind; `writer` writes; a new device of `owner` takes the room keys from it. */
export async function playDehydrated(world, roomId, { owner, writer }) {
    const [home] = owner.live;
    if (!(await home.crypto.isDehydrationSupported())) {
        console.log(`left out: ${owner.server.name} has no dehydrated devices (MSC3814)`);
        return;
    }
    const title = `${owner.name}'s dehydrated device`;
    const first = await world.vital(`${title} is left behind and seen by ${writer.label}`, async () => {
        await home.crypto.startDehydration();
        return eventually("it", () => dehydrated(writer, owner));
    });
    const message = await world.vital(`${title} is sent the room key`, async () => {
        await writer.crypto.forceDiscardSession(roomId);
        const before = writer.sentTo.length;
        const sent = await world.send(writer, roomId, "for whoever comes back to life");
        assert(writer.sentTo.slice(before).includes(`${owner.userId}|${first}`), "no key went to it");
        return sent;
    });
    const fresh = await world.vital(`${title}: a new device of ${owner.name}, which cannot read yet`, async () => {
        const device = await owner.newDevice(`${owner.name} rehydrated`);
        const { text } = await device.read(message);
        assertEqual(text, undefined, "what it reads");
        return device;
    });
    await world.step(`${title} gives its keys to the new device, which leaves a new one behind`, async () => {
        const ended = new Promise((done, failed) => {
            fresh.client.on(CryptoEvent.RehydrationCompleted, done);
            fresh.client.on(CryptoEvent.RehydrationError, (text) => failed(new Error(text)));
        });
        await fresh.openSecrets();
        await Promise.all([fresh.crypto.startDehydration({ rehydrate: true }), ended]);
        message.entitled.add(fresh);
        assertEqual(await fresh.crypto.getSessionBackupPrivateKey(), null, "the backup's key on the new device");
        await eventually("another dehydrated device", async () => ![undefined, first].includes(await dehydrated(writer, owner)));
    });
    await world.everywhere(title);
}

/** The id of the dehydrated device of somebody, as another device sees it. */
async function dehydrated(watcher, account) {
    const devices = [...(await watcher.devicesOf(account.userId)).values()];
    return devices.find((device) => device.dehydrated)?.deviceId;
}
