import assert from "node:assert/strict";
import { test } from "node:test";

import { outcomeWords } from "../../calls/static/calls/history.js";
import { agoWords, dayWords, lengthWords, put } from "../../calls/static/calls/text.js";

const now = new Date(2026, 2, 11, 9, 30);

test("a day is said as people say it", () => {
  assert.equal(dayWords(new Date(2026, 2, 11, 0, 1), now), "Today");
  assert.equal(dayWords(new Date(2026, 2, 10, 23, 59), now), "Yesterday");
  assert.match(dayWords(new Date(2026, 2, 6, 12), now), /^\p{L}+$/u); // the day of the week
  assert.match(dayWords(new Date(2026, 2, 1), now), /1/);
  assert.match(dayWords(new Date(2025, 11, 31), now), /2025/);
});

test("a time that is past is said in the largest whole unit", () => {
  const ago = (ms) => agoWords(new Date(now - ms), now);
  assert.equal(ago(20_000), "just now");
  assert.match(ago(5 * 60_000), /5/);
  assert.match(ago(3 * 3_600_000 + 1), /3/);
  assert.notEqual(ago(26 * 3_600_000), ago(3 * 24 * 3_600_000));
});

test("a length has seconds, minutes or hours", () => {
  assert.deepEqual([0, 45, 205, 3723].map(lengthWords), ["0 s", "45 s", "3:25 min", "1:02:03 h"]);
});

test("places are filled with what there is, as plain text", () => {
  assert.equal(put("{name} on {device}", { name: "<b>" }), "<b> on {device}");
});

test("an entry of the history says how it went, how long it took, and which device had it", () => {
  const said = (entry) => Object.values(outcomeWords({ dir: "in", outcome: "answered", busy: null, secs: 0, device: "", ...entry }));
  assert.deepEqual(said({ secs: 65, device: "Phone" }), ["Incoming · 1:05 min · on Phone", "in"]);
  assert.deepEqual(said({ dir: "out", secs: 5, device: "Phone" }), ["Outgoing · 5 s · on Phone", "out"]);
  assert.deepEqual(said({ outcome: "missed" }), ["Missed", "missed"]);
  assert.deepEqual(said({ outcome: "missed", busy: "on_call" }), ["Missed, you were on another call", "missed"]);
  assert.deepEqual(said({ dir: "out", outcome: "declined", device: "Phone" }), ["They declined", "out"]);
  assert.deepEqual(said({ outcome: "lost", secs: 7 }), ["Connection lost · 7 s", "in"]);
});
