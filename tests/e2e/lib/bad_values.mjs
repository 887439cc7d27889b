// What is bad about requests: bodies that are no JSON, values of wrong types, absurd numbers. Values are JSON text, since
// some of them no program would write.

const utf8 = (text) => new TextEncoder().encode(text);

/** Bodies that are no JSON. */
export const NOT_JSON = {
    "half an object": utf8("{"),
    "no JSON": utf8("hello"),
    "invalid UTF-8": Uint8Array.from([0x7b, 0x22, 0xff, 0xfe, 0x22, 0x3a, 0x31, 0x7d]),
    "an object and more": utf8("{} {}"),
    "very deep": utf8("[".repeat(50_000)),
    "half a string": utf8('{"a":"\\ud8'),
    "not a number": utf8('{"a":NaN}'),
};

/** Bodies that are JSON, but no objects. */
export const NO_OBJECTS = ["[]", '"x"', "null", "12", "true"];

/** Contents of events that canonical JSON does not have. */
export const NOT_CANONICAL = ['{"a":1.5}', '{"a":{"b":[1e400]}}', '{"a":9007199254740992}', '{"a":-9007199254740992}'];

/** JSON values that a client may invent and no engine of a database likes, where a text is asked for. */
export const ODD_TEXTS = [JSON.stringify("\u0000"), JSON.stringify("x".repeat(70_000)), JSON.stringify("\u202e\u{10ffff}"), '""', '"%00/../"'];

const NUMBERS_TOO_LARGE = ["1e400", "18446744073709551616"];

/** JSON values that are not of a type. */
const NOT_OF_TYPE = {
    string: ["12", "true", "[]", "{}", "1e400"],
    boolean: ["12", '"true"', "[]", "{}"],
    integer: ["1.5", '"1"', "true", "[]", "{}", ...NUMBERS_TOO_LARGE],
    count: ["-1", "1.5", '"1"', "true", "[]", "{}", ...NUMBERS_TOO_LARGE],
    number: ['"1"', "true", "[]", "{}"],
    array: ["12", '"x"', "true", "{}"],
    object: ["12", '"x"', "true", "[]"],
};

/** Values of parameters of a query, not of a type. */
const NOT_OF_PARAMETER = {
    boolean: ["maybe", "2"],
    integer: ["x", "1.5", "1e9", "99999999999999999999"],
    count: ["x", "1.5", "-1", "99999999999999999999"],
    token: ["x", "%00", "-1", "s", "\u00e9", "s99999999999999999999_x_1"],
    filter: ["%7B", "%5B%5D", "%7B%22limit%22%3A-1%7D", "%7B%22types%22%3A%22x%22%7D", "no-such-filter"],
    "sync-filter": ["%7B", "%7B%22room%22%3A%5B%5D%7D", "%7B%22room%22%3A%7B%22timeline%22%3A%7B%22limit%22%3A-1%7D%7D%7D", "no-such-filter"],
    any: [],
};

/**
 * What a table says of a member or a parameter: `type! missing=CODE wrong=CODE`. A `!` means that it is required; `*=CODE`
 * stands for both codes; a type may be a list of words with `|` between them; what has no `=` is a good value.
 */
export function parseRule(text) {
    const [type, ...rest] = text.split(" ");
    const rule = { type: type.replace(/!$/, ""), required: type.endsWith("!"), missing: undefined, wrong: undefined, good: undefined };
    for (const part of rest) {
        const [name, code] = part.split("=");
        if (code === undefined) rule.good = name;
        else if (name === "*") rule.missing = rule.wrong = code;
        else rule[name] = code;
    }
    return rule;
}

/** JSON values that a member of this type cannot have; `good` is one that it can have. */
export function wrongValues(type, good) {
    if (type.includes("|")) return ["12", '"nonsense"', "[]"];
    const values = NOT_OF_TYPE[type];
    if (values === undefined) throw new Error(`no such type: ${type}`);
    // To some deserializers a list of the members will do for the object.
    const asList = type === "object" && good !== undefined ? [JSON.stringify(Object.values(good))] : [];
    return [...values, ...asList];
}

/** Values that a parameter of this type cannot have. */
export function wrongParameters(type) {
    return type.includes("|") ? ["nonsense", "%00"] : NOT_OF_PARAMETER[type];
}

/** The value at a JSON pointer. */
export function at(value, pointer) {
    return steps(pointer).reduce((inner, step) => inner?.[step], value);
}

/** The JSON text of `value` with `text` in place of what is at the pointer; without `text` that is left out. */
export function replaced(value, pointer, text) {
    const copy = structuredClone(value);
    const path = steps(pointer);
    const last = path.pop();
    let inner = copy;
    for (const step of path) inner = inner[step] ??= {};
    const mark = "in place of this";
    if (text === undefined) delete inner[last];
    else inner[last] = mark;
    return JSON.stringify(copy).replace(JSON.stringify(mark), () => text);
}

function steps(pointer) {
    return pointer.split("/").slice(1).map((step) => step.replaceAll("~1", "/").replaceAll("~0", "~"));
}
