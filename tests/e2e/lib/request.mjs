// One request of the client-server API, without a library.

/**
 * Sends a request and answers `{ status, body }`. Refusals are answers; only a connection that breaks
 * throws.
 */
export async function request(baseUrl, method, path, { token, body, signal } = {}) {
    const headers = {};
    if (token) headers.authorization = `Bearer ${token}`;
    if (body !== undefined) headers["content-type"] = "application/json";
    const response = await fetch(baseUrl + path, {
        method, headers, signal, body: body === undefined ? undefined : JSON.stringify(body),
    });
    const text = await response.text();
    let parsed;
    try {
        parsed = JSON.parse(text);
    } catch {
        parsed = { unparsed: text };
    }
    return { status: response.status, body: parsed };
}
