import assert from "node:assert/strict";
import { test } from "node:test";

import { incomingFacts, stageFacts } from "../../calls/static/calls/facts.js";
import { Phone } from "../../calls/static/calls/phone.js";
import { Clock, settled } from "./fakes.mjs";

globalThis.document ??= { visibilityState: "hidden" };

const leg = (user, dir, state, more = {}) => ({ user, name: user, dir, state, alerted: false, epoch: 1, mic: true, cam: false, online: true, ...more });

// A call from `from` to me: ringing, active on this page, or ended.
function from(person, state, v) {
  const mine = { ringing: "ringing", active: "joined", ended: "left" }[state];
  const can = { ringing: ["ringing", "answer", "reject"], active: ["hangup", "media", "signal"], ended: [] }[state];
  const me = { state: mine, dir: "in", here: state === "active", ring_ms: 30_000, can };
  const legs = [leg(person, "out", state === "ended" ? "left" : "joined"), leg("me", "in", mine)];
  return { id: `from ${person}`, v, kind: "audio", state, reason: state === "ended" ? "completed" : null, secs: 5, me, legs };
}

// `problem`: what is wrong with the microphone. Commands wait in `asked` for their reply.
function page({ problem = null } = {}) {
  const clock = new Clock();
  const open = new Map();
  const asked = [];
  const toasts = [];
  const opened = [];
  const sessions = {
    remembered: (id) => (opened.some(([other]) => other === id) ? { mic: true, cam: false, video: null } : null),
    open: (id, kind, wish) => {
      opened.push([id, wish]);
      if (!open.has(id)) open.set(id, { id, kind, ready: Promise.resolve(), media: { problem, mirrored: true, open: async () => {} } });
      return open.get(id);
    },
    get: (id) => open.get(id),
    has: (id) => open.has(id),
    ids: () => [...open.keys()],
    close: (id) => open.delete(id),
    retire: (id) => open.delete(id),
    follow() {},
    shown() {},
  };
  const socket = {
    request: (cmd, args, options = {}) => new Promise((reply) => asked.push({ cmd, ...args, ...options, reply })),
  };
  const sounds = { silence() {}, ring() {}, waiting() {}, ringBack() {}, onHold() {}, ended() {} };
  const phone = new Phone({
    me: "me", socket, sessions, sounds, timers: clock, now: () => clock.now, uuid: () => "new",
    outbox: { keep() {}, drop() {} }, permitted: async () => problem === null,
    onPlaced() {}, say() {}, toast: (words) => toasts.push(words), onChange() {},
  });
  const hear = async (view) => {
    phone.hear({ t: "call", call: view });
    phone.follow();
    await settled();
  };
  const stage = () => stageFacts({ phone, sessions, me: "me", now: clock.now, since: () => 0, online: true, soundBlocked: false });
  const of = (cmd) => asked.filter((one) => one.cmd === cmd);
  return { clock, phone, sessions, opened, of, toasts, hear, stage };
}

test("the screen of a call that ended does not come back after the next call", async () => {
  const { phone, hear, of, stage } = page();
  await hear(from("alice", "ringing", 1));
  phone.answer("from alice");
  await settled();
  of("answer")[0].reply({ ok: true });
  await hear(from("alice", "active", 2));
  await hear(from("alice", "ended", 3));
  assert.deepEqual([stage().screen, stage().person.id], ["ended", "alice"]);
  await hear(from("carol", "ringing", 1));
  phone.answer("from carol");
  await settled();
  of("answer")[1].reply({ ok: true });
  await hear(from("carol", "active", 2));
  phone.hangUp();
  await settled();
  assert.equal(stage(), null);
});

const gone = from("dora", "ended", 2);
Object.assign(gone, { reason: "cancelled", me: { ...gone.me, state: "cancelled" }, legs: [gone.legs[0], leg("me", "in", "cancelled")] });
const there = { ...from("dora", "active", 2), me: { state: "joined", dir: "in", here: false, device: "Desk", can: ["move"] } };

for (const [how, view] of [["given up", gone], ["answered elsewhere", there]]) {
  test(`the question for the microphone ends with its call: ${how}`, async () => {
    const { phone, hear, stage, sessions } = page({ problem: "denied" });
    await hear(from("dora", "ringing", 1));
    phone.answer("from dora");
    await settled();
    assert.equal(stage().screen, "permission");
    await hear(view);
    assert.deepEqual([stage(), sessions.ids(), phone.answering.size], [null, [], 0]);
  });
}

test("who has no microphone and goes on without answers all the same", async () => {
  const { phone, hear, of } = page({ problem: "denied" });
  await hear(from("dora", "ringing", 1));
  phone.answer("from dora");
  await settled();
  phone.follow();
  phone.asking.answer("without");
  await settled();
  assert.equal(of("answer").length, 1);
});

test("an answer that does not reach the server in time gives the card and the microphone back", async () => {
  const { phone, hear, of, sessions, toasts } = page();
  await hear(from("alice", "ringing", 1));
  phone.answer("from alice");
  await settled();
  assert.equal(incomingFacts(phone, "me")[0].answering, true);
  assert.equal(of("answer")[0].within, 10_000);
  of("answer")[0].reply({ ok: false, error: { code: "expired" } });
  await settled();
  assert.equal(incomingFacts(phone, "me")[0].answering, false);
  assert.deepEqual(sessions.ids(), []);
  assert.equal(toasts.length, 1);
});

test("an answer that was given up here and taken there comes back as it was wished", async () => {
  const { phone, hear, of, opened } = page();
  await hear(from("alice", "ringing", 1));
  phone.answer("from alice", { cam: false });
  await settled();
  of("answer")[0].reply({ ok: false, error: { code: "expired" } });
  await settled();
  await hear(from("alice", "active", 2));
  assert.deepEqual(opened.map(([, wish]) => wish), [{ cam: false }, { mic: true, cam: false, video: null }]);
});

test("a notification tells the caller that the call can be noticed here, once", async () => {
  const { phone, hear, of } = page();
  await hear(from("alice", "ringing", 1));
  assert.deepEqual(of("ringing"), []);
  phone.noticed("from alice");
  phone.noticed("from alice");
  assert.equal(of("ringing").length, 1);
  phone.noticed("from nobody");
  assert.equal(of("ringing").length, 1);
});

test("an answer is given again without the other call when that has ended meanwhile", async () => {
  const { phone, hear, of, sessions, toasts } = page();
  await hear(from("alice", "active", 2));
  await hear(from("carol", "ringing", 1));
  phone.answer("from carol");
  await settled();
  assert.deepEqual(of("answer")[0].and, { call: "from alice", do: "hangup" });
  of("answer")[0].reply({ ok: false, error: { code: "call_ended", reason: "completed", and: "from alice" } });
  await settled();
  assert.equal(of("answer").length, 2);
  assert.equal(of("answer")[1].and, undefined);
  of("answer")[1].reply({ ok: true });
  await hear(from("carol", "active", 2));
  assert.deepEqual([sessions.has("from carol"), toasts], [true, []]);
});

test("a call of several people that was declined here and rings again is a ring like the first", async () => {
  const { phone, hear, of } = page();
  const group = (state, v) => {
    const view = from("alice", "ringing", v);
    const can = state === "ringing" ? ["ringing", "answer", "reject"] : ["answer"];
    Object.assign(view, { group: true, state: "active", me: { ...view.me, state, can } });
    view.legs = [leg("alice", "out", "left"), leg("me", "in", state), leg("dora", "in", "joined")];
    return view;
  };
  await hear(group("ringing", 1));
  phone.noticed("from alice");
  phone.reject("from alice");
  of("reject")[0].reply({ ok: true });
  await settled();
  await hear(group("rejected", 2));
  assert.deepEqual(incomingFacts(phone, "me"), []);
  await hear(group("ringing", 3));
  assert.deepEqual(incomingFacts(phone, "me").map((one) => one.person.id), ["dora"], "who is in it, not who has left");
  phone.noticed("from alice");
  assert.equal(of("ringing").length, 2);
});

test("several people are called with one invite, and a refusal names those it is about", async () => {
  const { phone, of, toasts } = page();
  phone.call([{ id: "bob", name: "Bob" }, { id: "carol", name: "Carol" }], "audio");
  await settled();
  assert.deepEqual(of("invite")[0].to, ["bob", "carol"]);
  of("invite")[0].reply({ ok: false, error: { code: "not_found", users: ["carol"] } });
  await settled();
  assert.deepEqual(toasts, ["Carol cannot be called, or the call is over."]);
});

test("whoever left a group comes back with an answer, and keeps the microphone until it is replied to", async () => {
  const { phone, hear, of, sessions } = page();
  const left = { ...from("alice", "active", 3), group: true, me: { state: "left", here: false, ring_ms: 0, can: ["answer"] } };
  left.legs[1] = leg("me", "in", "left");
  await hear(left);
  phone.answer("from alice");
  await settled();
  await hear({ ...left, v: 4 });
  assert.deepEqual([of("answer").length, sessions.ids()], [1, ["from alice"]]);
});

test("whoever is taken out of a group is told so, once", async () => {
  const { hear, toasts, sessions } = page();
  await hear({ ...from("alice", "active", 2), group: true });
  const out = { ...from("alice", "active", 3), group: true, me: { state: "removed", here: false, ring_ms: 0, can: [] } };
  out.legs[1] = leg("me", "in", "removed");
  await hear(out);
  await hear(out);
  assert.deepEqual([sessions.ids(), toasts], [[], ["You were taken out of the call."]]);
});

// The call of `person` that goes on here, and may be held; `held`: it is.
function talking(person, v, held = false) {
  const view = from(person, "active", v);
  view.me.can = ["hangup", "media", "signal", "hold", "transfer"];
  view.legs[1].held = held;
  return view;
}

test("a second call is answered and the first one is held, in one command", async () => {
  const { phone, hear, of, sessions, stage } = page();
  await hear(talking("alice", 2));
  await hear(from("carol", "ringing", 1));
  assert.equal(incomingFacts(phone, "me")[0].mayHold, true);
  phone.answer("from carol", { hold: true });
  await settled();
  assert.deepEqual(of("answer")[0].and, { call: "from alice", do: "hold" });
  assert.equal(stage().person.id, "alice", "it goes on until the server has held it");
  of("answer")[0].reply({ ok: true });
  await hear(talking("alice", 3, true));
  await hear(talking("carol", 2));
  assert.deepEqual([stage().person.id, stage().held.person.id], ["carol", "alice"]);
  assert.deepEqual(sessions.ids(), ["from alice", "from carol"]);
});

test("a held call is taken back, and the one that goes on is held for it", async () => {
  const { phone, hear, of, stage } = page();
  await hear(talking("alice", 3, true));
  assert.deepEqual([phone.current, stage()], [null, null], "nobody is being talked to");
  phone.resume("from alice");
  assert.equal(of("hold")[0].and, undefined);
  await hear(talking("carol", 2));
  phone.resume("from alice");
  assert.deepEqual([of("hold")[1].on, of("hold")[1].and], [false, { call: "from carol", do: "hold" }]);
});

test("a second call is placed as far as the limit allows, and holds the first one", async () => {
  const { phone, hear, of } = page();
  const mine = talking("alice", 2);
  [mine.legs[0].dir, mine.legs[1].dir] = ["in", "out"];
  await hear(mine);
  assert.deepEqual([phone.mayCall(1), phone.mayCall(2)], [false, true]);
  phone.call({ id: "bob", name: "Bob" }, "audio");
  await settled();
  assert.deepEqual(of("invite")[0].and, { call: "from alice", do: "hold" });
});

test("two calls are brought together, with me or without me", async () => {
  const { phone, hear, of } = page();
  await hear(talking("alice", 3, true));
  await hear(talking("carol", 2));
  phone.connect("from alice");
  phone.connect("from alice", { stay: true });
  const said = of("transfer").map((one) => [one.call, one.with, one.stay]);
  assert.deepEqual(said, [["from alice", "from carol", undefined], ["from alice", "from carol", true]]);
});

test("whoever is brought into another call while muted stays muted", async () => {
  const { hear, opened } = page();
  const view = talking("alice", 2);
  Object.assign(view.legs[1], { mic: false, cam: false });
  await hear(view);
  assert.deepEqual(opened, [["from alice", { mic: false, cam: false, video: null }]]);
});

test("a call that was neither hung up nor held can be continued here later", async () => {
  const { phone, hear, of } = page();
  await hear(talking("alice", 2));
  await hear(from("carol", "ringing", 1));
  phone.answer("from carol");
  await settled();
  of("answer")[0].reply({ ok: false, error: { code: "not_allowed", and: "from alice" } });
  await settled();
  of("answer")[1].reply({ ok: true });
  await settled();
  assert.equal(phone.leaving.has("from alice"), false);
});
