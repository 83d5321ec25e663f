import assert from "node:assert/strict";
import { test } from "node:test";

import { incomingFacts, noticeFacts, peopleFacts, qualityOf, ringingFacts, stageFacts } from "../../calls/static/calls/facts.js";
import { inCallWords, outgoingWords } from "../../calls/static/calls/words.js";

const person = (id) => ({ id, name: id });
const presence = new Map();
const keys = (rows) => rows.map((one) => one.key);

test("favourites come first, then whom I called last, then everybody else, each once", () => {
  const rows = peopleFacts({
    list: [person("ann"), person("ben"), person("cid")],
    query: "",
    favourites: [{ id: "cid", name: "cid" }],
    recent: [{ id: "ben", name: "ben" }, { id: "cid", name: "cid" }],
    presence,
  });
  assert.deepEqual(keys(rows), ["group:favourites", "cid", "group:recent", "ben", "group:others", "ann"]);
  assert.deepEqual(rows.filter((one) => one.favourite).map((one) => one.id), ["cid"]);
});

test("without favourites and calls there are no headings", () => {
  assert.deepEqual(keys(peopleFacts({ list: [person("ann")], query: " ", favourites: [], recent: [], presence })), ["ann"]);
});

test("a favourite whom the server did not list is there, and not called online or offline until that is known", () => {
  const facts = { list: [], query: "", favourites: [{ id: "zoe", name: "Zoe" }], recent: [] };
  assert.deepEqual(peopleFacts({ ...facts, presence })[1].online, undefined);
  assert.deepEqual(peopleFacts({ ...facts, presence: new Map([["zoe", true]]) })[1].online, true);
});

test("who is online comes first, in the order of names, also in what was found", () => {
  const facts = { list: ["ann", "ben", "cid", "dan"].map(person), favourites: [], recent: [] };
  const online = new Map([["ann", false], ["ben", true], ["dan", true]]);
  for (const query of ["", "n"]) {
    assert.deepEqual(keys(peopleFacts({ ...facts, query, presence: online })), ["ben", "dan", "ann", "cid"]);
  }
});

test("a search shows what was found and nothing else", () => {
  const rows = peopleFacts({ list: [person("ann")], query: "an", favourites: [{ id: "zoe", name: "Zoe" }], recent: [], presence });
  assert.deepEqual(keys(rows), ["ann"]);
});

test("what was measured becomes a word", () => {
  assert.equal(qualityOf(null), "good");
  assert.equal(qualityOf({ rtt: 40, loss: 0 }), "good");
  assert.equal(qualityOf({ rtt: 400, loss: 0 }), "slow");
  assert.equal(qualityOf({ rtt: 40, loss: 0.05 }), "unsteady");
  assert.equal(qualityOf({ rtt: 40, loss: 0.2 }), "weak");
  assert.equal(qualityOf({ rtt: 900, loss: 0 }), "weak");
});

const leg = (user, dir, state, more = {}) => ({ user, name: user, dir, state, alerted: false, epoch: 1, mic: true, cam: false, online: true, ...more });

function ringing(id, from) {
  const view = {
    id, v: 1, kind: "audio", state: "ringing", secs: 0, me: { state: "ringing", here: false, ring_ms: 1000, can: ["answer"] },
    legs: [leg(from, "out", "joined"), leg("me", "in", "ringing")],
  };
  return { view, ringUntil: 1000, startedAt: null, endedAt: null };
}

function phone(items, more = {}) {
  return {
    calls: Object.fromEntries(items.map((one) => [one.view.id, one])), incoming: items, current: null, placing: null, asking: null,
    over: null, answering: new Set(), hushed: new Set(), ...more,
  };
}

test("each call that rings has a card of its own", () => {
  const facts = incomingFacts(phone([ringing("c1", "ann"), ringing("c2", "ben")]), "me");
  assert.deepEqual(facts.map((one) => one.person.id), ["ann", "ben"]);
});

test("a call that was silenced here keeps its card and is not announced any more", () => {
  const silenced = phone([ringing("c1", "ann"), ringing("c2", "ben")], { hushed: new Set(["c1"]) });
  assert.deepEqual(incomingFacts(silenced, "me").map((one) => one.hushed), [true, false]);
  assert.deepEqual(ringingFacts(silenced, "me", 400).map(({ key, ms }) => [key, ms]), [["c2", 600]]);
});

function active({ mine = {}, theirs = {}, session }) {
  const view = {
    id: "c1", v: 3, kind: "audio", state: "active", secs: 2, me: { state: "joined", here: true, can: ["signal"] },
    legs: [leg("me", "out", "joined", mine), leg("ann", "in", "joined", theirs)],
  };
  const item = { view, ringUntil: null, startedAt: 0, endedAt: null };
  const sessions = { get: () => session, shown: () => ({ peer: { link: "up" }, screen: true }) };
  return stageFacts({ phone: phone([item], { current: view }), sessions, me: "me", now: 3000, since: () => 0, online: true });
}

const media = { mic: true, cam: false, screen: false, problem: null, mirrored: true };

test("an audio call becomes one with video when either camera is on, or both sides agreed", () => {
  assert.equal(active({ session: { media } }).video, false);
  assert.equal(active({ theirs: { cam: true }, session: { media } }).video, true);
  assert.equal(active({ mine: { cam: true }, session: { media } }).video, true);
  assert.equal(active({ session: { media, video: "on" } }).video, true);
});

test("a screen is shown as such only while it is sent", () => {
  assert.equal(active({ session: { media } }).theirScreen, false);
  assert.equal(active({ theirs: { cam: true }, session: { media } }).theirScreen, true);
});

test("a caller reads what is going on: calling, ringing there, and after ten seconds that nobody is reached yet", () => {
  const view = {
    id: "c1", v: 1, kind: "audio", state: "ringing", secs: 0, me: { state: "joined", here: true, ring_ms: 0, can: ["hangup"] },
    legs: [leg("me", "out", "joined"), leg("ann", "in", "ringing", { online: false })],
  };
  const seen = (now, alerted = false) => {
    view.legs[1].alerted = alerted;
    const facts = stageFacts({ phone: phone([], { current: view }), sessions: new Map(), me: "me", now, since: () => 0, online: true });
    return [facts.screen, facts.phase, outgoingWords(facts).state, outgoingWords(facts).hint];
  };
  assert.deepEqual(seen(9_000), ["outgoing", "calling", "Calling…", "ann is offline at the moment."]);
  assert.deepEqual(seen(11_000).slice(0, 3), ["outgoing", "not_reached", "Not reached yet…"]);
  view.legs[1].online = true;
  assert.equal(seen(11_000)[3], "No device of ann rings yet. It is tried for a while longer.");
  assert.deepEqual(seen(30_000, true).slice(1), ["ringing", "Ringing…", "It rings on ann’s devices."]);
});

test("the quality of a call is said in words, where it is not good", () => {
  const said = (quality) =>
    inCallWords({ person: person("ann"), link: "up", online: true, theirMic: true, media: { screen: false, problem: null }, quality }).quality;
  assert.deepEqual(["good", "slow", "unsteady", "weak"].map(said), [
    "", "· Long delay", "· Unsteady connection", "· Weak connection: sound and picture may break up",
  ]);
});

test("a call on another device of the same name says so", () => {
  const elsewhere = ringing("c1", "ann");
  elsewhere.view.state = "active";
  elsewhere.view.me = { state: "joined", here: false, device: "Chrome", can: ["move"] };
  const shown = (here) => noticeFacts(phone([elsewhere], { dismissed: new Set(), missed: new Map() }), "me", here, 0)[0].title;
  assert.equal(shown("Phone"), "Answered on Chrome");
  assert.equal(shown("Chrome"), "Answered on another Chrome");
});
