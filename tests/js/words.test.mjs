import assert from "node:assert/strict";
import { test } from "node:test";

import { initials, tone } from "../../calls/static/calls/screens.js";
import { clock, endedWords, multiWords, problemWords, refusalWords } from "../../calls/static/calls/words.js";

function ended(reason, { dir = "out", mine = "left", secs = 0, why = "incoming_limit" } = {}) {
  const other = dir === "out" ? "in" : "out";
  return { reason, secs, legs: [{ user: "me", name: "Me", dir, state: mine, reason: dir === "in" ? why : null }, { user: "bob", name: "Bob", dir: other, state: "left", reason: dir === "out" ? why : null }] };
}

for (const [reason, title] of Object.entries({
  busy: "Bob is on another call",
  rejected: "Bob declined the call",
  no_answer: "Bob did not answer",
  unreachable: "Bob could not be reached",
  cancelled: "Call cancelled",
  completed: "Call ended",
  lost: "The call was lost",
  operator: "Ended by the operator",
  expired: "Call ended",
})) {
  test(`the caller reads of ${reason}: ${title}`, () => {
    const words = endedWords(ended(reason), "me");
    assert.equal(words.title, title);
    assert.equal(words.missed, false);
  });
}

for (const state of ["missed", "cancelled", "busy", "unreachable"]) {
  test(`a callee whose leg was ${state} has a missed call`, () => {
    const words = endedWords(ended("no_answer", { dir: "in", mine: state }), "me");
    assert.equal(words.title, "Missed call from Bob");
    assert.equal(words.missed, true);
  });
}

test("nobody who answered or declined has a missed call", () => {
  for (const mine of ["left", "rejected", "lost"]) {
    assert.equal(endedWords(ended("completed", { dir: "in", mine }), "me").missed, false);
  }
});

test("the length of a call is told when there was one", () => {
  assert.equal(endedWords(ended("completed", { secs: 65 }), "me").detail, "The call took 1:05.");
  assert.equal(endedWords(ended("completed"), "me").detail, "");
});

test("a reason that is not known yet still says that the call is over", () => {
  assert.equal(endedWords(ended("something_new"), "me").title, "Call ended");
});

test("times read as people write them", () => {
  assert.deepEqual([0, 9, 61, 599, 3600, 36_061, -3].map(clock), ["0:00", "0:09", "1:01", "9:59", "1:00:00", "10:01:01", "0:00"]);
});

test("every code of the protocol has a sentence, and so has one that nobody knows", () => {
  const codes = ["bad_frame", "not_found", "not_allowed", "limit_reached", "answered_elsewhere", "call_ended", "in_call", "full",
    "device_in_use", "multi_device_off", "conflict", "expired", "rate_limited", "unavailable", "closed", "new_one"];
  for (const code of codes) assert.match(refusalWords({ code }, "Bob"), /^[A-Z].*\.$/);
  assert.match(refusalWords(undefined), /\.$/);
});

test("a limit is told with its numbers", () => {
  assert.match(refusalWords({ code: "limit_reached", active: 1 }), /1 outgoing call, /);
  assert.match(refusalWords({ code: "limit_reached", active: 2 }), /2 outgoing calls, /);
  assert.equal(refusalWords({ code: "limit_reached", active: 0, limit: 0 }), "The operator does not allow you to place calls.");
});

test("whatever is missing of microphone and camera has a sentence, and nothing missing has none", () => {
  for (const problem of ["insecure", "denied", "no_microphone", "microphone_in_use", "camera_denied", "no_camera", "camera_in_use"]) {
    assert.notEqual(problemWords(problem), "");
  }
  assert.equal(problemWords(null), "");
});

test("initials: first and last word, any script", () => {
  assert.deepEqual(["Ada King Lovelace", "bob", "  Ágnes  ", "王 小明", ""].map(initials), ["AL", "B", "Á", "王小", ""]);
});

test("a person has the same colour everywhere", () => {
  assert.equal(tone("alice"), tone("alice"));
  for (const id of ["alice", "bob", "", "Ω"]) assert.ok(tone(id) >= 0 && tone(id) < 12);
});

test("who does not want to be disturbed is busy, and is told why the call was missed", () => {
  assert.equal(endedWords(ended("busy", { why: null }), "me").title, "Bob is busy");
  assert.equal(endedWords(ended("busy", { dir: "in", mine: "busy", why: null }), "me").detail, "You did not want to be disturbed.");
  assert.equal(endedWords(ended("busy", { dir: "in", mine: "busy" }), "me").detail, "You were on another call.");
});

test("what the operator said is shown to both", () => {
  const view = { ...ended("operator", { secs: 65 }), note: "The ward is full." };
  assert.deepEqual(endedWords(view, "me"), { title: "Ended by the operator", detail: "The ward is full.", missed: false });
  assert.equal(endedWords(ended("operator", { secs: 65 }), "me").detail, "The call took 1:05.");
});

test("whoever may not have several devices is told why, and until when", () => {
  const line = { multi_device: true, may_switch: true };
  assert.equal(multiWords(line), "Every device that you are signed in on rings.");
  assert.match(multiWords({ ...line, may_switch: false }), /operator decides/);
  assert.match(multiWords({ ...line, multi_device: false, multi_device_off: "expired" }), /is over/);
  assert.match(multiWords({ ...line, multi_device: false, multi_device_off: "not_included" }), /not included/);
  const until = multiWords({ ...line, multi_device_until: "2026-12-24T12:00:00+00:00" }, "en-GB");
  assert.equal(until, "Every device that you are signed in on rings. Several devices are allowed until 24 December 2026.");
});
