// The command lines of the scripts.

/**
 * Splits `--name value` and `--flag` from the rest. `flags` are the names that take no value, `known`
 * those that do; anything else is an error.
 */
export function parseArguments(argv, { known = [], flags = [] }) {
    const options = { rest: [] };
    for (let at = 0; at < argv.length; at += 1) {
        const name = argv[at].startsWith("--") ? argv[at].slice(2) : undefined;
        if (name === undefined) options.rest.push(argv[at]);
        else if (flags.includes(name)) options[name] = true;
        else if (known.includes(name) && at + 1 < argv.length) options[name] = argv[(at += 1)];
        else throw new Error(`unknown argument ${argv[at]}; known: --${[...known, ...flags].join(" --")}`);
    }
    return options;
}
