import assert from "node:assert/strict";
import { test } from "node:test";

import { KEEP_ENDED_MS, apply, held, none, peersOf, place, prune, rings } from "../../calls/static/calls/state.js";

const leg = (user, dir, state, more = {}) => ({
  user, name: user, dir, state, reason: null, alerted: false, epoch: state === "joined" ? 1 : 0,
  held: false, mic: true, cam: true, online: true, data: null, ...more,
});

// Bob's view of a call from alice.
function view(v, { state = "ringing", mine = "ringing", here = false, ring_ms = 45_000, can, secs = 0, ...more } = {}) {
  return {
    id: "c1", v, kind: "video", state, reason: state === "ended" ? "completed" : null, host: "alice", secs,
    me: { state: mine, here, device: here ? "Phone" : null, ring_ms, can: can ?? [] },
    legs: [leg("alice", "out", "joined"), leg("bob", "in", mine)],
    ...more,
  };
}

const ringing = (v, more) => view(v, more);
const active = (v, more) => view(v, { state: "active", mine: "joined", here: true, ring_ms: 0, can: ["hangup", "media", "signal"], ...more });
const ended = (v, more) => view(v, { state: "ended", mine: "left", ring_ms: 0, ...more });
const frame = (call) => ({ t: "call", call });

function after(...steps) {
  let calls = none;
  let now = 0;
  for (const step of steps) {
    if (typeof step === "number") now += step;
    else calls = apply(calls, step, now);
  }
  return calls;
}

test("a view arrives in a call, a reply, a welcome or a pong alike", () => {
  for (const one of [frame(ringing(1)), { t: "reply", re: "1", ok: true, call: ringing(1) },
    { t: "welcome", calls: [ringing(1)] }, { t: "pong", re: "1", calls: [ringing(1)] }]) {
    assert.equal(after(one).c1.view.v, 1);
  }
});

test("the refusal's view counts too", () => {
  const calls = after(frame(ringing(1)), { t: "reply", ok: false, error: { code: "call_ended" }, call: ended(2) });
  assert.equal(calls.c1.view.state, "ended");
});

test("whatever order frames come in, and however often, the newest view stands", () => {
  const frames = [frame(ringing(1)), frame(ringing(2)), frame(active(3)), frame(active(4)), frame(ended(5))];
  const permutations = (list) =>
    list.length < 2 ? [list] : list.flatMap((one, i) => permutations(list.toSpliced(i, 1)).map((rest) => [one, ...rest]));
  for (const order of permutations(frames)) {
    const calls = after(...order, ...order);
    assert.equal(calls.c1.view.v, 5);
    assert.equal(place(calls.c1, 0), "ended");
  }
});

test("dropped frames do not matter once a newer one comes", () => {
  assert.deepEqual(after(frame(ringing(1)), frame(active(9))), after(frame(active(9))));
});

test("an older view changes nothing, not even the object", () => {
  const calls = after(frame(active(3)));
  assert.equal(apply(calls, frame(ringing(2)), 5), calls);
});

test("an ended call stays ended, even against a higher version", () => {
  assert.equal(after(frame(ended(3)), frame(active(9))).c1.view.state, "ended");
});

test("of two views with one version the later counts, because who is online is not a version", () => {
  const away = active(3);
  away.legs[0].online = false;
  assert.equal(after(frame(away), frame(active(3))).c1.view.legs[0].online, true);
});

test("unknown frames, frames without calls and broken views change nothing", () => {
  const calls = after(frame(ringing(1)));
  for (const odd of [{ t: "line", line: {} }, { t: "new_thing", calls: "no" }, { t: "call", call: null }, { t: "call" },
    { t: "call", call: { id: "c2" } }, { t: "call", call: { id: 5, v: 1 } }, { t: "call", call: { id: "c2", v: 1 } },
    { t: "pong", calls: [null, 3, "x"] }]) {
    assert.equal(apply(calls, odd, 0), calls);
  }
});

test("apply never changes what it was given", () => {
  const before = Object.freeze(after(frame(ringing(1))));
  const copy = structuredClone(before);
  apply(before, frame(active(2)), 100);
  apply(before, { t: "pong", calls: [], gone: ["c1"] }, 100);
  assert.deepEqual(before, copy);
});

test("a call that the server does not know any more is dropped", () => {
  assert.deepEqual(after(frame(active(1)), { t: "pong", calls: [], gone: ["c1"] }), {});
});

test("`gone` of something else changes nothing", () => {
  const calls = after(frame(active(1)));
  assert.equal(apply(calls, { t: "pong", calls: [], gone: ["c7"] }, 0), calls);
});

test("it rings while my leg rings and time is left", () => {
  const item = after(1000, frame(ringing(1, { ring_ms: 5000 }))).c1;
  assert.ok(rings(item, 1000));
  assert.ok(rings(item, 5999));
  assert.ok(!rings(item, 6000));
});

test("it falls silent by itself when nothing more is heard", () => {
  const item = after(frame(ringing(1, { ring_ms: 5000 }))).c1;
  assert.equal(place(item, 4999), "incoming");
  assert.equal(place(item, 5001), "silent");
});

test("it never rings when the time had run out on arrival", () => {
  assert.ok(!rings(after(frame(ringing(1, { ring_ms: 0 }))).c1, 0));
});

test("answered, rejected, elsewhere or ended: no ring", () => {
  for (const one of [active(2), active(2, { here: false }), view(2, { mine: "rejected" }), ended(2), view(2, { mine: "missed" })]) {
    assert.ok(!rings(after(frame(ringing(1)), frame(one)).c1, 1));
  }
});

test("a ringing view inside an ended call does not ring", () => {
  assert.ok(!rings(after(frame(view(1, { state: "ended", ring_ms: 9000 }))).c1, 0));
});

test("a frame that was held up cannot make the ring longer", () => {
  const late = after(frame(ringing(1, { ring_ms: 5000 })), 4000, frame(ringing(1, { ring_ms: 5000 })));
  assert.ok(!rings(late.c1, 5001));
  const newer = after(frame(ringing(1, { ring_ms: 5000 })), 4000, frame(ringing(2, { ring_ms: 5000 })));
  assert.ok(!rings(newer.c1, 5001));
});

test("a device that comes back rings on with the time left", () => {
  const calls = after(frame(ringing(1, { ring_ms: 45_000 })), 20_000, { t: "welcome", calls: [ringing(1, { ring_ms: 25_000 })] });
  assert.ok(rings(calls.c1, 44_999));
  assert.ok(!rings(calls.c1, 45_001));
});

test("a leg that is rung a second time rings for its new time", () => {
  const calls = after(frame(ringing(1, { ring_ms: 5000 })), frame(active(2, { mine: "left", here: false })), 9000, frame(ringing(3, { ring_ms: 5000 })));
  assert.ok(rings(calls.c1, 13_000));
});

test("where a call belongs follows from the view alone", () => {
  const at = (one) => place(after(frame(one)).c1, 0);
  assert.equal(at(ringing(1)), "incoming");
  assert.equal(at(view(1, { mine: "joined", here: true, can: ["hangup", "end", "media"] })), "outgoing");
  assert.equal(at(active(1)), "in_call");
  assert.equal(at(active(1, { can: ["move", "hangup", "end"] })), "resume");
  assert.equal(at(view(1, { mine: "joined", here: true, can: ["move", "hangup", "end"] })), "resume");
  assert.equal(at(active(1, { here: false, can: ["move", "end"] })), "elsewhere");
  assert.equal(at(active(1, { mine: "left", here: false })), "apart");
  assert.equal(at(ended(1)), "ended");
});

test("the call's clock starts at the earliest moment that any view implies", () => {
  const calls = after(10_000, frame(active(2, { secs: 3 })), 2000, frame(active(3, { secs: 4 })));
  assert.equal(calls.c1.startedAt, 7000);
});

test("a call that only rings has no clock", () => {
  assert.equal(after(frame(ringing(1))).c1.startedAt, null);
});

test("a ping names the live calls and their versions", () => {
  const calls = after(frame(active(4)), frame({ ...ringing(2), id: "c2" }), frame({ ...ended(9), id: "c3" }));
  assert.deepEqual(held(calls), { c1: 4, c2: 2 });
});

test("ended calls are kept for a while, so that a late frame cannot revive them, and then dropped", () => {
  const calls = after(frame(ended(3)));
  assert.equal(prune(calls, KEEP_ENDED_MS), calls);
  assert.deepEqual(prune(calls, KEEP_ENDED_MS + 1), {});
});

test("live calls are never dropped for their age", () => {
  const calls = after(frame(active(3)));
  assert.equal(prune(calls, 1e9), calls);
});

test("the time of the end does not move when the end is heard twice", () => {
  assert.equal(after(frame(ended(3)), 500, frame(ended(3))).c1.endedAt, 0);
});

test("one connection for each other joined leg, for its epoch and mine; the callee gives way", () => {
  const call = active(3);
  call.legs[1].epoch = 4;
  assert.deepEqual(peersOf(call, "bob"), [{ user: "alice", epoch: 4, theirEpoch: 1, polite: true, quiet: false }]);
  assert.deepEqual(peersOf(call, "alice"), [{ user: "bob", epoch: 1, theirEpoch: 4, polite: false, quiet: false }]);
});

test("between two callees exactly one gives way", () => {
  const call = active(3);
  call.legs.push(leg("carol", "in", "joined"));
  const bob = peersOf(call, "bob").find((one) => one.user === "carol");
  const carol = peersOf(call, "carol").find((one) => one.user === "bob");
  assert.notEqual(bob.polite, carol.polite);
});

test("no connection while it rings, when the call is elsewhere, or when another page has it", () => {
  for (const one of [ringing(1), active(1, { here: false, can: ["move"] }), active(1, { can: ["move", "hangup"] }), ended(1)]) {
    assert.deepEqual(peersOf(one, "bob"), []);
  }
});
