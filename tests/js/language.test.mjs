// What the scripts say in another language than English: the page's catalogue and its `lang` decide, not the browser.
import assert from "node:assert/strict";
import { test } from "node:test";

const GERMAN = { "{browser} on {system}": "{browser} unter {system}", "Call at {time}.": "Anruf um {time}." };
globalThis.document = { documentElement: { lang: "de" } };
globalThis.gettext = (text) => GERMAN[text] ?? text;
const { guessName } = await import("../../calls/static/calls/device.js");
const { missedWords } = await import("../../calls/static/calls/words.js");

test("a device is named in the page's language", () => {
  assert.equal(guessName({ userAgent: "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Firefox/140.0" }), "Firefox unter Linux");
});

test("the time of a missed call is said as the page's language says it", () => {
  const legs = [{ user: "bob", dir: "in", state: "missed" }, { user: "alice", dir: "out", name: "Alice" }];
  const view = { kind: "audio", legs };
  const said = missedWords({ view, user: "bob", person: { name: "Alice" }, times: 1, when: new Date(2026, 2, 11, 15, 5) });
  assert.match(said.detail, /^Anruf um 15:05\./);
});
