import assert from "node:assert/strict";
import { test } from "node:test";

import { companyFacts, gridOf, incomingFacts, noticeFacts, peopleFacts, qualityOf, ringingFacts, stageFacts } from "../../calls/static/calls/facts.js";
import { endedWords, inCallWords, incomingWords, legWords, outgoingWords, refusalWords, together } from "../../calls/static/calls/words.js";

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
    calls: Object.fromEntries(items.map((one) => [one.view.id, one])), incoming: items, current: null, onHold: [], placing: null, asking: null,
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

// ── groups ──

function group(legs, { state = "active", mine = {}, can = ["hangup", "end", "media", "signal", "add", "remove"] } = {}) {
  const me = leg("me", "out", "joined", { by: null, ...mine });
  return { id: "g", v: 1, kind: "video", state, reason: null, secs: 0, group: true, host: "me", me: { state: me.state, here: true, ring_ms: 0, can }, legs: [me, ...legs] };
}

const member = (user, state, more = {}) => leg(user, "in", state, { by: "me", reason: null, held: false, ...more });

function stageOf(view, { now = 1000, pinned = null, entries = {}, since = () => 0 } = {}) {
  const phone = { current: view, onHold: [], calls: { g: { view, startedAt: 0 } }, asking: null, placing: null, over: null };
  const session = { media: { speaks: true, cam: true, screen: false, problem: null, mirrored: true }, preview: {} };
  const sessions = { get: () => session, shown: (_, user) => entries[user] };
  return stageFacts({ phone, sessions, me: "me", now, since, online: true, soundBlocked: false, pinned });
}

const up = (more = {}) => ({ peer: { link: "up" }, screen: false, heardAt: -Infinity, ...more });
const shows = (stage, key) => stage.tiles.find((tile) => tile.key === key);

test("a group has a tile for everybody who is in it or rings, and one of my own at the end", () => {
  const legs = [member("bob", "joined", { cam: true }), member("carol", "ringing", { alerted: true }), member("dave", "left")];
  const stage = stageOf(group(legs), { entries: { bob: up({ heardAt: 900 }) } });
  assert.equal(stage.screen, "group_call");
  assert.deepEqual(stage.tiles.map((tile) => [tile.key, tile.state, tile.picture]), [["bob", "", true], ["carol", "Ringing…", false], ["me", "", true]]);
  assert.deepEqual([shows(stage, "bob").speaks, shows(stage, "me").host, stage.joined], [true, true, 1]);
  assert.equal(stage.person.name, "bob and carol");
});

test("who does not come is told for a while, and then makes room", () => {
  const legs = [member("bob", "joined"), member("carol", "busy", { reason: "incoming_limit" })];
  const at = (now) => stageOf(group(legs), { now, entries: { bob: up() } }).tiles.map((tile) => tile.state);
  assert.deepEqual(at(10_000), ["", "On another call", ""]);
  assert.deepEqual(at(20_000), ["", ""]);
});

test("whoever is wanted is large, else a shared screen unless it is not wanted", () => {
  const legs = [member("bob", "joined", { cam: true }), member("carol", "joined", { cam: true })];
  const entries = { bob: up(), carol: up({ screen: true }) };
  const large = (pinned) => stageOf(group(legs), { entries, pinned }).tiles.find((tile) => tile.large)?.key;
  assert.equal(large(null), "carol");
  assert.equal(large({ call: "g", user: "bob" }), "bob");
  assert.equal(large({ call: "g", without: "carol" }), undefined);
  assert.equal(large({ call: "another", user: "bob" }), "carol");
});

test("every number of tiles has its place in the grid", () => {
  for (let count = 1; count <= 25; count += 1) {
    for (const large of [false, true]) {
      const { wide, wideRows, tall, tallRows } = gridOf(count, large);
      assert.ok(wide * wideRows >= count - large && tall * tallRows >= count - large, `${count} ${large}`);
    }
  }
  assert.deepEqual(gridOf(9, false), { wide: 3, wideRows: 3, tall: 3, tallRows: 3 });
});

test("the list of a call's people says what may be done with each, and whom to add", () => {
  const finder = { list: [person("bob"), person("erin")], query: "", favourites: [], recent: [], presence, state: "ready" };
  const legs = [member("bob", "joined"), member("carol", "rejected"), member("dave", "ringing", { by: "bob" })];
  const facts = companyFacts(group(legs), "me", finder);
  assert.deepEqual(facts.legs.map((one) => [one.key, one.again, one.remove]), [["bob", false, true], ["carol", true, false], ["dave", false, true]]);
  assert.deepEqual(keys(facts.found), ["erin"]);
  const guest = { ...group(legs, { can: ["hangup", "add", "remove"] }), host: "bob" };
  assert.deepEqual(companyFacts(guest, "me", finder).legs.filter((one) => one.remove), []);
  assert.equal(companyFacts(guest, "me", finder).end, false);
  assert.equal(companyFacts(null, "me", finder), null);
});

test("a group that goes on without me can be joined again, unless I was taken out", () => {
  const notices = (can) => {
    const view = group([member("bob", "joined"), member("carol", "joined")], { mine: { state: "left" }, can });
    const phone = { calls: { g: { view } }, missed: new Map(), dismissed: new Set(), answering: new Set(), current: null, onHold: [], placing: null };
    return noticeFacts(phone, "me", "here", 0);
  };
  assert.deepEqual(notices(["answer"]).map((one) => [one.title, one.detail, one.join]), [["The call goes on", "Video call with bob and carol", true]]);
  assert.deepEqual(notices([]), []);
});

test("a group's card names who invited me and who else is in it", () => {
  const view = group([member("bob", "joined", { by: "alice" }), leg("alice", "out", "joined", { by: null })], { mine: { dir: "in", state: "ringing", by: "bob" } });
  const [card] = incomingFacts({ current: null, incoming: [{ view }], answering: new Set(), hushed: new Set() }, "me");
  assert.equal(card.person.id, "bob");
  assert.equal(incomingWords(card).what, "Video call with alice");
});

test("the words of a group's places, ends and refusals", () => {
  assert.equal(legWords(member("bob", "joined"), "down"), "Reconnecting…");
  assert.equal(legWords(member("bob", "busy")), "Busy");
  const over = { ...group([member("bob", "busy"), member("carol", "missed")], { state: "ended", mine: { state: "left" } }), reason: "busy" };
  assert.deepEqual(endedWords(over, "me"), { title: "Nobody joined the call", detail: "bob: Busy · carol: Did not answer", missed: false });
  assert.equal(refusalWords({ code: "full", limit: 9 }), "This call has room for 9 people, you included.");
  assert.equal(together(["Ann", "Ben", "Cid", "Dan", "Eve"].map(person)).name, "Ann, Ben, Cid, and 2 more");
});
