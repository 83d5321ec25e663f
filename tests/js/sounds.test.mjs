import assert from "node:assert/strict";
import { test } from "node:test";

import { Sounds } from "../../calls/static/calls/sounds.js";
import { settled } from "./fakes.mjs";

// Every sound goes through one gain of its own, which is turned down when the sound is ended early.
class FakeAudioContext {
  static outs = [];
  state = "running";
  currentTime = 0;
  destination = {};
  async resume() {}
  createOscillator() {
    return { frequency: {}, connect: (next) => next, start() {}, stop() {} };
  }
  createGain() {
    const one = {
      gain: { value: 1, setValueAtTime() {}, linearRampToValueAtTime() {}, setTargetAtTime: () => (one.ended = true) },
      ended: false,
      disconnect() {},
      connect: (to) => (to === this.destination && FakeAudioContext.outs.push(one), to),
    };
    return one;
  }
}

async function tried() {
  FakeAudioContext.outs.length = 0;
  const sounds = new Sounds(() => {}, { AudioContext: FakeAudioContext, locks: null });
  await sounds.test();
  await settled();
  return { sounds, ended: () => FakeAudioContext.outs.map((one) => one.ended) };
}

test("a ring that is tried sounds to its end, although nothing rings", async () => {
  const { sounds, ended } = await tried();
  sounds.silence();
  assert.deepEqual(ended(), [false]);
});

test("a real ring ends the one that is tried, and so does another try", async () => {
  const { sounds, ended } = await tried();
  await sounds.test();
  await settled();
  assert.deepEqual(ended(), [true, false]);
  sounds.ring("c1", 30);
  await settled();
  assert.deepEqual(ended(), [true, true, false]);
});
