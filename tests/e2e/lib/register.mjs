// Registering an account, in whichever way the server allows: openly, with a token, or with the
// secret that it shares with its administrator. Works in Node and in a browser.

/** How many stages of authentication a registration may ask for before we give up. */
const STAGES_MAX = 5;

/**
 * Registers `username` and answers `{ user_id, access_token, device_id }`.
 * `credentials` may hold `sharedSecret`, with which `admin` makes an administrator, and `registrationToken`.
 */
export async function register(baseUrl, username, password, credentials = {}) {
    if (credentials.sharedSecret) {
        return registerWithSecret(baseUrl, username, password, credentials);
    }
    let auth;
    for (let stage = 0; stage < STAGES_MAX; stage += 1) {
        const body = { username, password, initial_device_display_name: "first device", auth };
        const { status, answer } = await post(`${baseUrl}/_matrix/client/v3/register`, body);
        if (status === 200) return answer;
        if (status !== 401 || !answer.flows) throw refusal(status, answer);
        auth = nextStage(answer, credentials);
    }
    throw new Error("registration asks for ever more stages");
}

/** The answer to the first stage that is not completed yet, of the first flow that we can follow. */
function nextStage({ flows, session, completed = [] }, { registrationToken }) {
    const can = (stage) => stage === "m.login.dummy" || (stage === "m.login.registration_token" && registrationToken);
    const flow = flows.find(({ stages }) => stages.every(can));
    if (!flow) throw new Error(`no way to register: ${JSON.stringify(flows)}`);
    const type = flow.stages.find((stage) => !completed.includes(stage));
    return type === "m.login.dummy" ? { type, session } : { type, session, token: registrationToken };
}

async function registerWithSecret(baseUrl, username, password, { sharedSecret, admin = false }) {
    const url = `${baseUrl}/_synapse/admin/v1/register`;
    const { nonce } = await (await fetch(url)).json();
    const mac = await hmacSha1(sharedSecret, [nonce, username, password, admin ? "admin" : "notadmin"].join("\0"));
    const { status, answer } = await post(url, { nonce, username, password, admin, mac });
    if (status !== 200) throw refusal(status, answer);
    return answer;
}

async function hmacSha1(secret, text) {
    const bytes = new TextEncoder();
    const algorithm = { name: "HMAC", hash: "SHA-1" };
    const key = await crypto.subtle.importKey("raw", bytes.encode(secret), algorithm, false, ["sign"]);
    const mac = new Uint8Array(await crypto.subtle.sign("HMAC", key, bytes.encode(text)));
    return Array.from(mac, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

async function post(url, body) {
    const response = await fetch(url, { method: "POST", body: JSON.stringify(body) });
    return { status: response.status, answer: await response.json() };
}

function refusal(status, answer) {
    return Object.assign(new Error(JSON.stringify(answer)), { httpStatus: status, errcode: answer.errcode });
}
