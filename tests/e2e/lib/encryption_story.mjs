// The story of encryption: two people with devices that come and go, and a third who may read only while
// in the room. After each part every message is looked for on every device.

import { assert, assertEqual, assertRefused, eventually } from "./checks.mjs";
import { download, upload } from "./attachment.mjs";
import { playDehydrated, playFallback } from "./encryption_keys.mjs";
import { verifyByQr, verifyBySas } from "./encryption_verify.mjs";

/** Plays the story; alice and carol live on the first server, bob on the last. */
export async function playEncryption(world) {
    const [here, there] = [world.servers[0], world.servers.at(-1)];
    const alice = world.account(here, "alice");
    const bob = world.account(there, "bob");
    const carol = world.account(here, "carol");
    for (const account of [alice, bob, carol]) await arrive(world, account);
    const roomId = await meet(world, alice, bob);
    await talk(world, roomId, [alice, bob]);
    await secondDevice(world, roomId, { account: alice, other: bob, how: "SAS over to-device messages", verify: verifyBySas });
    await secondDevice(world, roomId, { account: bob, other: alice, how: "QR code", verify: verifyByQr });
    // Before there is a verification in the room: a device that finds one in its first sync uploads its keys before it has
    // made a fallback key, and then takes that for published.
    await playFallback(world, roomId, { owner: bob, senders: alice.live });
    await playFallback(world, roomId, { owner: alice, senders: bob.live.slice(0, 2) });
    await verifyPeople(world, roomId, alice, bob);
    const restored = await restoreWithRecoveryKey(world, roomId, alice, bob);
    await attach(world, roomId, [alice, bob]);
    await deleteDevice(world, roomId, { restored, alice, bob });
    await comeAndGo(world, roomId, { alice, bob, carol });
    await playDehydrated(world, roomId, { owner: alice, writer: bob.live[0] });
    await playDehydrated(world, roomId, { owner: bob, writer: alice.live[0] });
    // A device that was deleted may hold sessions that it took from the backup; those who sent their keys to others alone
    // go on with them.
    for (const device of [alice, bob].flatMap((account) => account.live)) await device.crypto.forceDiscardSession(roomId);
    await talk(world, roomId, [alice, bob], "at the end");
}

/** A first device, with cross-signing, secret storage and a backup of its keys. */
async function arrive(world, account) {
    const device = await world.vital(`${account.name} registers and signs in`, async () => {
        await account.register();
        const first = await account.newDevice(`${account.name} 1`);
        await eventually("its keys on the server", async () => (await first.devicesOf(account.userId)).has(first.deviceId));
        return first;
    });
    await world.vital(`${account.name} sets up cross-signing`, async () => {
        await device.makeCrossSigningKeys();
        await eventually("the device, signed by its owner", async () =>
            (await device.crypto.getDeviceVerificationStatus(device.userId, device.deviceId))?.crossSigningVerified);
        assert(await device.crypto.userHasCrossSigningKeys(), "no keys on the server");
    });
    await world.vital(`${account.name} sets up secret storage and the backup of keys`, async () => {
        await device.crypto.bootstrapSecretStorage({
            setupNewSecretStorage: true,
            setupNewKeyBackup: true,
            createSecretStorageKey: async () => {
                const key = await device.crypto.createRecoveryKeyFromPassphrase();
                account.recoveryKey = key.encodedPrivateKey;
                return key;
            },
        });
        assert(await device.crypto.isCrossSigningReady(), "cross-signing is not ready");
        await eventually("secret storage", () => device.crypto.isSecretStorageReady());
        const { version } = await device.must("GET", "/room_keys/version");
        await eventually(`version ${version} of the backup is in use`, async () =>
            await device.crypto.getActiveSessionBackupVersion() === version);
    });
}

async function meet(world, alice, bob) {
    const [host, guest] = [alice.live[0], bob.live[0]];
    const invited = (roomId) => eventually("the invite", () => guest.client.getRoom(roomId)?.getMyMembership() === "invite");
    await world.step("alice makes a room for bob, whose invite comes along with it", async () => {
        const { room_id: roomId } = await host.client.createRoom({ preset: "private_chat", invite: [bob.userId], is_direct: true });
        await invited(roomId);
    });
    return world.vital("alice makes an encrypted room, invites bob, and bob joins", async () => {
        const encryption = { type: "m.room.encryption", state_key: "", content: { algorithm: "m.megolm.v1.aes-sha2" } };
        const { room_id: roomId } = await host.client.createRoom({ preset: "private_chat", initial_state: [encryption] });
        await host.client.invite(roomId, bob.userId);
        await invited(roomId);
        await guest.client.joinRoom(roomId);
        world.members.add(alice).add(bob);
        for (const device of [host, guest]) {
            await eventually(`${device.label} sees both`, () => device.client.getRoom(roomId)?.getJoinedMemberCount() === 2);
        }
        await world.acquainted();
        return roomId;
    });
}

/** Each device of each of the people says something. */
async function talk(world, roomId, people, when = "at first") {
    for (const device of people.flatMap((account) => account.live)) {
        await world.vital(`${device.label} writes ${when}`, () => world.send(device, roomId, `hello ${when} from ${device.label}`));
    }
    await world.everywhere(`messages ${when}`);
}

/** A new device, known to all, and a message of `other` after its arrival: it reads this, and nothing older. */
async function newcomer(world, roomId, account, other) {
    const label = `${account.name} ${account.devices.length + 1}`;
    const device = await world.vital(`${label} is new, and all devices hear of it`, async () => {
        const fresh = await account.newDevice(label);
        await world.acquainted();
        assert(!(await fresh.crypto.isCrossSigningReady()), "it trusts keys that it has not verified");
        return fresh;
    });
    await world.vital(`${other.live[0].label} writes to ${label} too`, () => world.send(other.live[0], roomId, `welcome, ${label}`));
    await world.everywhere(`${label}, unverified`);
    return device;
}

/** After a verification both trust each other, and the new device has got the secrets, and with them the history. */
async function secretsArrive(world, fresh) {
    await world.step(`${fresh.label} is trusted by all devices of its owner, and has got the secrets`, async () => {
        for (const device of fresh.account.live) {
            await eventually(`${device.label} trusts ${fresh.label}`, async () =>
                (await device.crypto.getDeviceVerificationStatus(fresh.userId, fresh.deviceId))?.crossSigningVerified);
        }
        await eventually("the private keys", async () => {
            const { privateKeysCachedLocally } = await fresh.crypto.getCrossSigningStatus();
            return Object.values(privateKeysCachedLocally).every(Boolean);
        });
        await eventually("the key of the backup", () => fresh.crypto.getSessionBackupPrivateKey());
        await eventually("the backup is in use", async () => {
            const version = await fresh.crypto.getActiveSessionBackupVersion();
            // The library asks for the backup once. Where that met a kill, it asks again when the app starts, as here.
            if (version === null && world.restarts.length > 0) await fresh.crypto.checkKeyBackupAndEnable();
            return version;
        });
    });
    await backedUp(world, fresh);
    await world.step(`${fresh.label} restores the history with the key that it was given`, () => restore(world, fresh));
    world.entitleToBackup(fresh);
    await world.everywhere(`${fresh.label}, verified`);
}

/** Waits until the backup has the keys of all messages that the account may read. */
async function backedUp(world, device) {
    await world.vital(`the backup of ${device.account.name} holds the key of every message`, async () => {
        const readable = world.readableBy(device.account);
        await eventually("all keys", async () => {
            const { version } = await device.must("GET", "/room_keys/version");
            const { rooms } = await device.must("GET", `/room_keys/keys?version=${version}`);
            return readable.every(({ roomId, session }) => rooms[roomId]?.sessions[session]);
        });
    });
}

/** Takes all keys from the backup. */
async function restore(world, device) {
    const { total, imported } = await device.crypto.restoreKeyBackup();
    const sessions = new Set(world.readableBy(device.account).map(({ session }) => session));
    assert(total >= sessions.size, `${total} keys in the backup, ${sessions.size} sessions in the room`);
    assertEqual(imported, total, "keys that were imported");
}

/** A second device, which the first one verifies. */
async function secondDevice(world, roomId, { account, other, how, verify }) {
    const fresh = await newcomer(world, roomId, account, other);
    const [asked] = account.live;
    await world.vital(`${fresh.label} is verified by ${how}`, async () => {
        const request = await fresh.crypto.requestOwnUserVerification();
        await verify(world, { request, asking: fresh, asked });
    });
    await secretsArrive(world, fresh);
}

/** The two verify each other in the room, each with the second device, and all their devices hear of it. */
async function verifyPeople(world, roomId, alice, bob) {
    const [asking, asked] = [alice.live[1], bob.live[1]];
    await world.step("alice and bob verify each other by SAS in the room", async () => {
        const request = await asking.crypto.requestVerificationDM(bob.userId, roomId);
        assertEqual(request.roomId, roomId, "room of the verification");
        await verifyBySas(world, { request, asking, asked });
    });
    for (const [watching, other] of [[alice, bob], [bob, alice]]) {
        await world.step(`every device of ${watching.name} trusts ${other.name} and the other's devices`, async () => {
            for (const device of watching.live) await trusts(device, other);
        });
    }
}

/** Waits until a device holds a person for verified, and so their signed devices. */
async function trusts(device, other) {
    await eventually(`${device.label} trusts ${other.name}`, async () =>
        (await device.crypto.getUserVerificationStatus(other.userId)).isCrossSigningVerified());
    for (const { label, deviceId } of other.live) {
        await eventually(`${device.label} trusts ${label}`, async () =>
            (await device.crypto.getDeviceVerificationStatus(other.userId, deviceId))?.crossSigningVerified);
    }
}

/** A third device, which nobody verifies: the recovery key alone opens secrets, trust and history. */
async function restoreWithRecoveryKey(world, roomId, account, other) {
    const fresh = await newcomer(world, roomId, account, other);
    await backedUp(world, fresh);
    await world.step(`${fresh.label} gets its trust from secret storage with the recovery key`, async () => {
        await fresh.openSecrets();
        assert(await fresh.crypto.isCrossSigningReady(), "cross-signing is not ready");
        for (const device of [...account.live, ...other.live]) {
            await eventually(`${device.label} trusts it`, async () =>
                (await device.crypto.getDeviceVerificationStatus(account.userId, fresh.deviceId))?.crossSigningVerified);
        }
    });
    await world.step(`${fresh.label} restores the history from the backup with the recovery key`, async () => {
        await fresh.crypto.loadSessionBackupPrivateKeyFromSecretStorage();
        await restore(world, fresh);
    });
    world.entitleToBackup(fresh);
    await world.everywhere(`${fresh.label}, restored`);
    return fresh;
}

/** Each of the people sends a file, which every device gets and reads. */
async function attach(world, roomId, people) {
    for (const [sender] of people.map((account) => account.live)) {
        const bytes = new TextEncoder().encode(`what ${sender.label} drew by the fire. `.repeat(1_000));
        const message = await world.vital(`${sender.label} sends an encrypted file`, async () =>
            world.send(sender, roomId, await upload(sender, `${sender.label}.txt`, bytes)));
        await world.step(`every device that may gets the file of ${sender.label} and can read it`, async () => {
            for (const device of message.entitled) {
                const { content } = await eventually(`the message on ${device.label}`, async () => {
                    const read = await device.read(message);
                    return read.content && read;
                });
                const file = await download(device, content.file);
                assert(Buffer.compare(file.bytes, bytes) === 0, `another file on ${device.label}`);
                assert(Buffer.compare(file.hidden, bytes) !== 0, "the server has it as it was");
            }
        });
    }
    await world.everywhere("files");
}

/** A device is deleted: nobody encrypts to it any more, and its keys open nothing that is new. */
async function deleteDevice(world, roomId, { restored, alice, bob }) {
    const [keeper] = alice.live;
    await world.vital(`${keeper.label} deletes ${restored.label}, and all devices hear of it`, async () => {
        await keeper.withPassword((auth) => keeper.client.deleteDevice(restored.deviceId, auth ?? undefined));
        restored.gone = true;
        await assertRefused(restored.client.whoami(), 401, "M_UNKNOWN_TOKEN");
        await world.known(restored, false);
    });
    for (const sender of [bob.live[0], alice.live[0]]) {
        await world.vital(`${sender.label} makes a new key, and sends it to every device but the deleted one`, () =>
            sendsNewKey(world, roomId, sender, "without the deleted device"));
    }
    await world.everywhere("a device was deleted");
}

/** A message with a session that was not used before, whose key goes to each device that may read it. */
async function sendsNewKey(world, roomId, sender, text) {
    const known = new Set(world.messages.map(({ session }) => session));
    const before = sender.sentTo.length;
    const message = await world.send(sender, roomId, `${text}, from ${sender.label}`);
    assert(!known.has(message.session), "it uses an old session");
    const receivers = [...message.entitled].filter((device) => device !== sender).map(({ address }) => address);
    assertEqual([...new Set(sender.sentTo.slice(before))].sort(), receivers.sort(), "devices that got the key");
    return message;
}

/** Carol comes, verifies bob, reads what is said while she is there, and goes: what follows has other keys. */
async function comeAndGo(world, roomId, { alice, bob, carol }) {
    const [guest] = carol.live;
    const members = async (count) => {
        for (const device of world.live.filter(({ account }) => world.members.has(account))) {
            await eventually(`${device.label} sees ${count} members`, () =>
                device.client.getRoom(roomId)?.getJoinedMemberCount() === count);
        }
    };
    await world.step("carol, outside, is not given the messages", async () => {
        for (const message of world.messages) assertEqual(await guest.fetchEvent(message), undefined, `"${message.text}"`);
    });
    await world.vital("carol is invited and joins", async () => {
        await alice.live[0].client.invite(roomId, carol.userId);
        await eventually("the invite", () => guest.client.getRoom(roomId)?.getMyMembership() === "invite");
        await guest.client.joinRoom(roomId);
        world.members.add(carol);
        guest.fetched.clear();
        await members(3);
        await world.acquainted();
    });
    await world.vital("alice, bob and carol write", async () => {
        for (const device of [alice.live[0], bob.live[0], guest]) await world.send(device, roomId, `carol is here, from ${device.label}`);
    });
    await world.everywhere("carol is here");
    await world.step("carol and bob verify each other by SAS over to-device messages", async () => {
        const asked = bob.live[0];
        await eventually("carol knows bob's device", async () => (await guest.devicesOf(bob.userId)).has(asked.deviceId));
        const request = await guest.crypto.requestDeviceVerification(bob.userId, asked.deviceId);
        await verifyBySas(world, { request, asking: guest, asked });
        await trusts(guest, bob);
        await trusts(asked, carol);
    });
    await world.vital("carol leaves", async () => {
        await guest.client.leave(roomId);
        world.members.delete(carol);
        await members(2);
    });
    for (const sender of [alice.live[0], bob.live[0]]) {
        await world.vital(`${sender.label} makes a new key, and sends it to every device but carol's`, () =>
            sendsNewKey(world, roomId, sender, "carol is gone"));
    }
    await world.everywhere("carol is gone");
}
