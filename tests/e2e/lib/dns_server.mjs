// A name server for the scripts: the records that it is given, and nothing else. IPv4 and IPv6
// addresses and SRV records, over UDP.

import { createSocket } from "node:dgram";
import { isIPv6 } from "node:net";

const TYPES = { A: 1, AAAA: 28, SRV: 33 };
const NO_ERROR = 0;
const NO_SUCH_NAME = 3;

export class NameServer {
    /** The records: `{ "name type": [data] }`. */
    records = new Map();
    /** The questions that came: `name type`. */
    asked = [];

    async start(address, port = 53) {
        this.socket = createSocket(isIPv6(address) ? "udp6" : "udp4");
        this.socket.on("message", (message, from) => {
            const answer = this.answer(message);
            if (answer) this.socket.send(answer, from.port, from.address);
        });
        await new Promise((done, failed) => {
            this.socket.once("error", failed);
            this.socket.bind(port, address, done);
        });
        return this;
    }

    /** From now on a name has these addresses and no others. */
    address(name, ...addresses) {
        this.put(name, "A", addresses.filter((one) => !isIPv6(one)).map((one) => Buffer.from(one.split(".").map(Number))));
        this.put(name, "AAAA", addresses.filter((one) => isIPv6(one)).map(ipv6Bytes));
    }

    /** From now on a name has these SRV records: `{ priority, weight, port, target }`. */
    srv(name, ...records) {
        this.put(name, "SRV", records.map(({ priority, weight = 0, port, target }) => {
            const numbers = Buffer.alloc(6);
            [priority, weight, port].forEach((number, place) => numbers.writeUInt16BE(number, place * 2));
            return Buffer.concat([numbers, nameBytes(target)]);
        }));
    }

    put(name, type, data) {
        this.records.set(`${name.toLowerCase()} ${type}`, data);
    }

    /** The answer to a query, or nothing to what is none. */
    answer(message) {
        const question = readQuestion(message);
        if (!question) return undefined;
        const type = Object.keys(TYPES).find((name) => TYPES[name] === question.type);
        this.asked.push(`${question.name} ${type ?? question.type}`);
        const found = this.records.get(`${question.name} ${type}`) ?? [];
        const known = [...this.records].some(([key, data]) => key.startsWith(`${question.name} `) && data.length > 0);
        const header = Buffer.alloc(12);
        message.copy(header, 0, 0, 2);
        header.writeUInt16BE(0x8580 | (known ? NO_ERROR : NO_SUCH_NAME), 2);
        header.writeUInt16BE(1, 4);
        header.writeUInt16BE(found.length, 6);
        const answers = found.map((data) => {
            const fixed = Buffer.alloc(12);
            // The name is that of the question. Nobody keeps an answer.
            fixed.writeUInt16BE(0xc00c, 0);
            fixed.writeUInt16BE(question.type, 2);
            fixed.writeUInt16BE(1, 4);
            fixed.writeUInt32BE(0, 6);
            fixed.writeUInt16BE(data.length, 10);
            return Buffer.concat([fixed, data]);
        });
        return Buffer.concat([header, message.subarray(12, question.end), ...answers]);
    }

    async stop() {
        if (this.socket) await new Promise((done) => this.socket.close(done));
    }
}

function readQuestion(message) {
    if (message.length < 17 || message.readUInt16BE(4) !== 1) return undefined;
    const labels = [];
    let place = 12;
    while (place < message.length && message[place] !== 0) {
        labels.push(message.toString("latin1", place + 1, place + 1 + message[place]));
        place += message[place] + 1;
    }
    if (place + 5 > message.length) return undefined;
    return { name: labels.join(".").toLowerCase(), type: message.readUInt16BE(place + 1), end: place + 5 };
}

function nameBytes(name) {
    const labels = name.split(".").map((label) => Buffer.concat([Buffer.from([label.length]), Buffer.from(label)]));
    return Buffer.concat([...labels, Buffer.from([0])]);
}

/** The bytes of an address without an IPv4 part. */
function ipv6Bytes(address) {
    const [head, tail] = address.split("::");
    const groups = (text) => (text ? text.split(":") : []);
    const missing = 8 - groups(head).length - groups(tail).length;
    const all = [...groups(head), ...(tail === undefined ? [] : Array(missing).fill("0")), ...groups(tail)];
    return Buffer.from(all.flatMap((group) => [parseInt(group, 16) >> 8, parseInt(group, 16) & 0xff]));
}
