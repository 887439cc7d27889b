// Encrypted attachments as the specification's "Sending encrypted attachments" describes them: the file is
// encrypted with AES-CTR, the server keeps what cannot be read, and key and hash travel in the event.

import { webcrypto } from "node:crypto";
import { assert, assertEqual } from "./checks.mjs";

const { subtle } = webcrypto;

/** The half of the counter block that counts; the other half is random. */
const COUNTER_BITS = 64;

/** Encrypts `bytes`, uploads the result from `device`, and answers the content of a message that carries it. */
export async function upload(device, name, bytes) {
    const key = await subtle.generateKey({ name: "AES-CTR", length: 256 }, true, ["encrypt", "decrypt"]);
    const counter = new Uint8Array(16);
    webcrypto.getRandomValues(counter.subarray(0, 8));
    const hidden = await subtle.encrypt({ name: "AES-CTR", counter, length: COUNTER_BITS }, key, bytes);
    const response = await fetch(`${device.account.server.baseUrl}/_matrix/media/v3/upload`, {
        method: "POST", body: hidden,
        headers: { authorization: `Bearer ${device.token}`, "content-type": "application/octet-stream" },
    });
    assertEqual(response.status, 200, "status of the upload");
    const { content_uri: url } = await response.json();
    const file = { v: "v2", url, key: await subtle.exportKey("jwk", key), iv: base64(counter), hashes: { sha256: await sha256(hidden) } };
    return { msgtype: "m.file", body: name, info: { size: bytes.length }, file };
}

/** What `device` gets of a file: as the server gives it, and decrypted. */
export async function download(device, { url, key, iv, hashes }) {
    const path = `/_matrix/client/v1/media/download/${url.slice("mxc://".length)}`;
    const response = await fetch(device.account.server.baseUrl + path, { headers: { authorization: `Bearer ${device.token}` } });
    assertEqual(response.status, 200, `status of the download on ${device.label}`);
    const hidden = new Uint8Array(await response.arrayBuffer());
    assert(await sha256(hidden) === hashes.sha256, `the file came to ${device.label} with another hash`);
    const imported = await subtle.importKey("jwk", key, "AES-CTR", false, ["decrypt"]);
    const counter = Buffer.from(iv, "base64");
    return { hidden, bytes: new Uint8Array(await subtle.decrypt({ name: "AES-CTR", counter, length: COUNTER_BITS }, imported, hidden)) };
}

async function sha256(bytes) {
    return base64(new Uint8Array(await subtle.digest("SHA-256", bytes)));
}

/** Base64 without padding. */
function base64(bytes) {
    return Buffer.from(bytes).toString("base64").replace(/=+$/, "");
}
