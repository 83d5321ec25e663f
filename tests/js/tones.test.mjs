import assert from "node:assert/strict";
import { test } from "node:test";

import { TONES, ringing } from "../../calls/static/calls/tones.js";

// An audio clock that writes down when each note begins and ends.
function audio() {
  const notes = [];
  const gain = { setValueAtTime() {}, linearRampToValueAtTime() {} };
  const context = {
    createOscillator: () => {
      const note = { frequency: {}, connect: (next) => next, start: (at) => (note.from = at), stop: (at) => (note.to = at) };
      notes.push(note);
      return note;
    },
    createGain: () => ({ gain, connect: (next) => next }),
  };
  return { context, notes };
}

for (const [name, tone] of Object.entries(TONES)) {
  test(`${name} is scheduled whole, has an end, and ends with the ring`, () => {
    const { context, notes } = audio();
    tone(context, {}, 10, 45);
    assert.ok(notes.length > 10);
    assert.ok(notes.every((one) => one.from >= 10 && one.to > one.from && one.to < 10 + 45.1));
    assert.ok(notes.every((one) => one.frequency.value > 20));
    const short = audio();
    tone(short.context, {}, 0, 0.2); // almost over: nothing begins that would last longer
    assert.deepEqual(short.notes, []);
  });
}

test("how this device rings is as it was chosen, and as it came where that cannot be", () => {
  const storage = (kept) => ({ getItem: (key) => kept[key] ?? null });
  assert.deepEqual(ringing(storage({})), { tone: "chime", volume: 1, silent: false });
  const chosen = { "ring.tone": "pulse", "ring.volume": "40", "ring.silent": "1" };
  assert.deepEqual(ringing(storage(chosen)), { tone: "pulse", volume: 0.4, silent: true });
  assert.deepEqual(ringing(storage({ "ring.tone": "yodel", "ring.volume": "loud" })), { tone: "chime", volume: 1, silent: false });
  const forbidden = {
    getItem() {
      throw new Error("forbidden");
    },
  };
  assert.equal(ringing(forbidden).tone, "chime");
});
