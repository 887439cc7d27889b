// Counting what held and what did not, and waiting for what has to come.

/** Collects named checks; each runs even if an earlier one failed, and is printed as it ends. */
export class Checks {
    passed = 0;
    failed = 0;

    constructor(print = console.log) {
        this.print = print;
    }

    /** Runs `body`; a check fails by throwing. Answers what `body` answers. */
    async check(name, body) {
        const started = Date.now();
        try {
            const result = await body();
            this.passed += 1;
            this.print(`ok      ${name} (${Date.now() - started} ms)`);
            return result;
        } catch (error) {
            this.failed += 1;
            this.print(`FAILED  ${name}: ${describe(error)}`);
            return undefined;
        }
    }

    /** Prints the closing line, and answers whether all held. A run without a check has failed. */
    close() {
        this.print(`${this.passed} passed, ${this.failed} failed`);
        return this.failed === 0 && this.passed > 0;
    }
}

/** An error in one line, with the Matrix error code where there is one. */
function describe(error) {
    const code = error?.errcode ? `${error.httpStatus} ${error.errcode} ` : "";
    return code + String(error?.message ?? error).split("\n")[0];
}

/** Throws unless `condition` holds. */
export function assert(condition, message) {
    if (!condition) throw new Error(message);
}

/** Throws unless both are the same as JSON, whatever the order of their keys. */
export function assertEqual(actual, expected, what) {
    const [a, b] = [JSON.stringify(actual, inOrder), JSON.stringify(expected, inOrder)];
    if (a !== b) throw new Error(`${what}: ${a} instead of ${b}`);
}

/** A replacer for `JSON.stringify` that sorts the keys of objects. */
function inOrder(_key, value) {
    if (value === null || typeof value !== "object" || Array.isArray(value)) return value;
    return Object.fromEntries(Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1)));
}

/** Throws unless `promise` is refused with this status and Matrix error code. */
export async function assertRefused(promise, status, errcode) {
    let answer;
    try {
        answer = await promise;
    } catch (error) {
        assertEqual([error.httpStatus, error.errcode], [status, errcode], "refusal");
        return;
    }
    throw new Error(`not refused: ${JSON.stringify(answer)}`);
}

/** Milliseconds between two looks at something that has to come. */
const LOOK_EVERY_MS = 20;

/**
 * How long a thing may take before a check gives up. No check is about speed unless it says so: the
 * time-outs only end what would never end, on the slowest and busiest of machines.
 */
export const PATIENCE_MS = 120_000;

/** Waits until `look` answers something true, and answers it. */
export async function eventually(what, look, timeoutMs = PATIENCE_MS) {
    const end = Date.now() + timeoutMs;
    for (;;) {
        const seen = await look();
        if (seen) return seen;
        if (Date.now() > end) throw new Error(`not within ${timeoutMs} ms: ${what}`);
        await pause(LOOK_EVERY_MS);
    }
}

/** Lets `ms` milliseconds pass. */
export function pause(ms) {
    return new Promise((resolve) => setTimeout(resolve, ms));
}

/** Whether an error that nobody waited for is only a request that a sign-out overtook. */
export function isAfterSignOut(error) {
    return `${error?.errcode} ${error}`.includes("M_UNKNOWN_TOKEN");
}
