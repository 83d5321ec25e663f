import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";

import { People } from "../../calls/static/calls/people.js";
import { settled } from "./fakes.mjs";

let asked; // what the server was asked, as [address, answer]
let now;

globalThis.fetch = (address) => new Promise((resolve) => asked.push([address, resolve]));

beforeEach(() => {
  asked = [];
  now = 0;
});

function make() {
  const storage = { getItem: () => null, setItem: () => {} };
  return new People({
    me: "me", url: "/people/", favourites: [{ id: "zoe", name: "Zoe" }],
    onFavour: () => {}, onChange: () => {}, onSignedOut: () => {}, storage, now: () => now,
  });
}

async function answer(people, next = null) {
  const [address, resolve] = asked.pop();
  resolve({ ok: true, json: async () => ({ people, next }) });
  await settled();
  return address;
}

const person = (id, online = false) => ({ id, name: id.toUpperCase(), online });
const ids = (people) => people.list.map((one) => one.id);

test("the pages follow each other, and nobody is there twice", async () => {
  const people = make();
  people.load();
  assert.equal(await answer([person("ann"), person("ben", true)], "c 1"), "/people/");
  people.more();
  people.more(); // is asked for already
  assert.equal(asked.length, 1);
  assert.equal(await answer([person("ben"), person("cid")]), "/people/?after=c+1");
  assert.deepEqual(ids(people), ["ann", "ben", "cid"]);
  people.more(); // there is no more
  assert.equal(asked.length, 0);
});

test("a page of an older list is not put behind a newer one", async () => {
  const people = make();
  people.load();
  await answer([person("ann")], "next");
  people.more();
  const [late] = asked.splice(0);
  people.load();
  await answer([person("ann"), person("ann2")], "next");
  asked.push(late);
  await answer([person("ben")]);
  assert.deepEqual(ids(people), ["ann", "ann2"]);
  people.more();
  assert.equal(await answer([person("cid")]), "/people/?after=next");
});

test("a page that could not be read is asked for again", async () => {
  const people = make();
  people.load();
  await answer([person("ann")], "next");
  people.more();
  asked.pop()[1]({ ok: false, status: 503 });
  await settled();
  people.more();
  assert.equal(await answer([person("ben")]), "/people/?after=next");
  assert.deepEqual(ids(people), ["ann", "ben"]);
});

test("presence is known from the list and from the socket, of favourites too, and everything but offline is there", async () => {
  const people = make();
  people.load();
  await answer([person("ann", true), person("ben")]);
  assert.equal(people.find("ann").online, true);
  assert.equal(people.find("zoe").online, undefined);
  people.see({ ann: "offline", zoe: "online", ben: "in_call" });
  assert.deepEqual(["ann", "ben", "zoe"].map((id) => people.find(id).online), [false, true, true]);
  assert.equal(people.find("nobody"), undefined);
});

test("a list is stale after five minutes, and until it was read", async () => {
  const people = make();
  assert.equal(people.stale, true);
  people.load();
  await answer([]);
  assert.equal(people.stale, false);
  now = 5 * 60_000 + 1;
  assert.equal(people.stale, true);
});
