// The chat story as a page plays it: lines go to the script that opened the page.

import { playChat } from "./chat_story.mjs";
import { Checks } from "./checks.mjs";

globalThis.playChat = async (setting) => {
    const checks = new Checks((line) => globalThis.printLine(line));
    await playChat(checks, setting);
    return { passed: checks.passed, failed: checks.failed };
};
