// Two devices verify each other: by comparing short strings (SAS), over to-device messages or in a room,
// and by a QR code that one shows and the other scans. The server may go away between any two messages.

import { VerificationPhase, VerifierEvent } from "matrix-js-sdk/lib/crypto-api/index.js";
import { assert, assertEqual, eventually } from "./checks.mjs";

const SAS = "m.sas.v1";

/** Plays a verification by SAS; `asking` has made the request, `asked` answers it. */
export async function verifyBySas(world, { request, asking, asked }) {
    const received = await accept(world, { request, asking, asked });
    const first = await request.startVerification(SAS);
    const shown = strings(first);
    const verified = [finished(first)];
    const second = await eventually(`${asked.label} is told to start`, () => received.verifier);
    const alsoShown = strings(second);
    verified.push(finished(second));
    const [here, there] = await Promise.all([shown, alsoShown]);
    assertEqual(here.sas.emoji.length, 7, "emoji");
    assertEqual(here.sas, there.sas, `strings on ${asking.label} and ${asked.label}`);
    await world.between();
    await here.confirm();
    await world.between();
    await there.confirm();
    await end(verified, [request, received]);
}

/** Plays a verification by QR code; `asking` has made the request and scans, `asked` shows. */
export async function verifyByQr(world, { request, asking, asked }) {
    const received = await accept(world, { request, asking, asked });
    const code = await received.generateQRCode();
    assert(code?.length > 0, `${asked.label} has no code to show`);
    await world.between();
    const scanning = await request.scanQRCode(code);
    const verified = [finished(scanning)];
    const showing = await eventually(`${asked.label} hears of the scan`, () => received.verifier);
    verified.push(finished(showing));
    const question = await eventually(`${asked.label} asks whether it was scanned`, () => showing.getReciprocateQrCodeCallbacks());
    await world.between();
    question.confirm();
    await end(verified, [request, received]);
}

/** The request arrives and is accepted; answers it as the accepting device sees it. */
async function accept(world, { request, asking, asked }) {
    const received = await eventually(`the request of ${asking.label} on ${asked.label}`, () => asked.requests.get(request.transactionId));
    await world.between();
    await received.accept();
    for (const [side, { label }] of [[request, asking], [received, asked]]) {
        await eventually(`the request is ready on ${label}`, () => {
            assert(side.phase !== VerificationPhase.Cancelled, `cancelled: ${side.cancellationCode}`);
            return side.phase === VerificationPhase.Ready;
        });
    }
    await world.between();
    return received;
}

/** The strings that a verifier shows, as soon as it has them. */
function strings(verifier) {
    return new Promise((done) => {
        const shown = verifier.getShowSasCallbacks();
        if (shown) done(shown);
        else verifier.once(VerifierEvent.ShowSas, done);
    });
}

/** A verification's end; an error is kept until somebody asks. */
function finished(verifier) {
    const end = verifier.verify();
    end.catch(() => {});
    return end;
}

async function end(verified, requests) {
    await Promise.all(verified);
    for (const request of requests) {
        await eventually("the verification is done", () => request.phase === VerificationPhase.Done);
    }
}
