// The service worker, as the server sends it, in a browser that this file plays.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

const TEMPLATE = new URL("../../templates/calls/worker.js", import.meta.url);
const NOBODY = "00000000-0000-0000-0000-000000000000";
const FACTS = {
  home: "/", ringing: `/ringing/${NOBODY}/`, kept: ["/offline/", "/static/base.css"], icon: "/icon.png", badge: "/badge.png",
  incoming: "Incoming call", over: "Call ended",
};
const RINGS = { title: "Alice", body: "Incoming call", rings: true, answer: "Answer", reject: "Decline", token: "t0k" };

// answers: what the server says, by address: null is nothing for this sign-in, and a missing address has no connection.
// pages: open windows, each {name, path, knows: whether it knows the call; null when it does not answer}.
function started({ answers = {}, pages = [] } = {}) {
  const source = readFileSync(TEMPLATE, "utf8").replace("{{ facts }}", JSON.stringify(FACTS)).replace(/\{%.*?%\}/g, "");
  const heard = {};
  const clock = { now: () => clock.at, at: 1_000_000 };
  const browser = { later: [], notifications: [], requests: [], opened: [], messages: [], caches: new Map([["calls-old", []], ["other", []]]) };
  const windows = pages.map(({ name, path = "/", knows = true, visibilityState = "hidden" }) => ({
    visibilityState,
    url: `https://site${path}`,
    focus: async () => browser.messages.push([name, "focus"]),
    postMessage: (said, [port] = []) => {
      if (said.type !== "has") browser.messages.push([name, said]);
      else if (knows !== null) port.postMessage(knows);
    },
  }));
  const wait = (action, ms) => (ms < 1000 ? setTimeout(action, ms / 10) : browser.later.push(action));
  const self = {
    location: { origin: "https://site" },
    addEventListener: (name, action) => (heard[name] = action),
    skipWaiting() {},
    registration: {
      getNotifications: async ({ tag }) => browser.notifications.filter((one) => one.tag === tag),
      showNotification: async (title, options) => {
        const shown = { title, ...options, close: () => browser.notifications.splice(browser.notifications.indexOf(shown), 1) };
        browser.notifications.push(shown);
      },
    },
    clients: {
      claim() {},
      matchAll: async () => windows,
      openWindow: async (url) => browser.opened.push(url),
    },
  };
  const caches = {
    open: async (name) => ({
      addAll: async (all) => browser.caches.set(name, all.map((one) => one.url)),
      put: async (url, response) => browser.caches.set(name, new Map([[url, response]])),
    }),
    keys: async () => [...browser.caches.keys()],
    delete: async (name) => browser.caches.delete(name),
    match: async (request, { cacheName } = {}) =>
      cacheName ? browser.caches.get(cacheName)?.get(request)?.clone() : `kept ${request.url ?? request}`,
  };
  const fetch = async (request, options = {}) => {
    const url = request.url ?? request;
    browser.requests.push([options.method ?? "GET", url, options.headers?.["X-CSRFToken"] ?? null]);
    if (!(url in answers)) throw new TypeError("no connection");
    return { ok: answers[url] !== null, status: answers[url] === null ? 404 : 200, json: async () => answers[url] };
  };
  class Request {
    constructor(url, options) {
      Object.assign(this, { url, ...options });
    }
  }
  new Function("self", "caches", "fetch", "Request", "setTimeout", "Date", source)(self, caches, fetch, Request, wait, clock);
  const happens = async (name, event = {}) => {
    let done = null;
    let answer;
    heard[name]({ waitUntil: (promise) => (done = promise), respondWith: (promise) => (answer = promise), ...event });
    await done;
    return answer;
  };
  const pushed = (said) => happens("push", { data: said && { json: () => said } });
  const pressed = (action, notification = browser.notifications[0]) => happens("notificationclick", { action, notification });
  // What a page hears that asks what it was opened for; undefined when it hears nothing.
  const asks = async ({ origin = "https://site", path = "/", type = "window" } = {}) => {
    let answer;
    const source = { type, url: `https://site${path}` };
    await happens("message", { origin, source, data: { type: "opened" }, ports: [{ postMessage: (said) => (answer = said) }] });
    return answer;
  };
  return { browser, happens, pushed, pressed, asks, clock };
}

const said = (browser) => browser.notifications.map((one) => [one.title, one.body, one.silent]);

test("a push shows who calls, with answer and decline; a second one says where it was answered, for a moment", async () => {
  const answers = { "/ringing/c1/": RINGS };
  const { browser, pushed } = started({ answers });
  await pushed({ call: "c1" });
  await pushed({ call: "c1" });
  const [shown, ...more] = browser.notifications;
  assert.deepEqual(more, []);
  assert.deepEqual([shown.title, shown.body, shown.tag, shown.requireInteraction], ["Alice", "Incoming call", "call-c1", true]);
  assert.deepEqual(shown.actions.map((one) => [one.action, one.title]), [["answer", "Answer"], ["reject", "Decline"]]);
  assert.ok(shown.vibrate.length > 0);
  answers["/ringing/c1/"] = { title: "Alice", body: "Answered on Desk", rings: false, passing: true };
  await pushed({ call: "c1", over: true });
  assert.deepEqual(said(browser), [["Alice", "Answered on Desk", true]]); // browsers look when the push is done with
  for (const action of browser.later) await action();
  assert.deepEqual(browser.notifications, []);
});

test("what was missed is said without a sound, and leads to the history", async () => {
  const { browser, pushed, pressed } = started({ answers: { "/ringing/c1/": { title: "Missed call from Alice", body: "", rings: false } } });
  await pushed({ call: "c1" });
  const [shown] = browser.notifications;
  assert.deepEqual([shown.silent, shown.actions, shown.vibrate], [true, [], undefined]);
  await pressed("");
  assert.deepEqual(browser.opened, ["/#/history"]);
  assert.deepEqual(browser.notifications, []);
});

test("without a connection a call rings all the same, and one that is shown stays as it is", async () => {
  const answers = {};
  const { browser, pushed, pressed } = started({ answers });
  await pushed({ call: "c1" });
  const [shown] = browser.notifications;
  assert.deepEqual([shown.title, shown.silent, shown.requireInteraction, shown.actions], ["Incoming call", false, true, []]);
  await pushed({ call: "c1" });
  assert.deepEqual(browser.notifications, [shown]);
  await pressed("");
  assert.deepEqual(browser.opened, ["/"]);
});

test("what is nothing to this sign-in says only that it is over; a push that says nothing shows nothing", async () => {
  const { browser, pushed } = started({ answers: { "/ringing/c1/": null } });
  for (const push of [{ call: "c1" }, {}, null]) await pushed(push);
  assert.deepEqual(said(browser), [["Call ended", "", true]]);
});

test("a push that says that it is over never rings, not even without a connection", async () => {
  const { browser, pushed } = started();
  await pushed({ call: "c1", over: true });
  assert.deepEqual(said(browser), [["Call ended", "", true]]);
});

test("whoever sees the page is not told of what it shows", async () => {
  const answers = { "/ringing/c1/": RINGS };
  const { browser, pushed } = started({ answers, pages: [{ name: "tab", visibilityState: "visible" }] });
  await pushed({ call: "c1" });
  answers["/ringing/c1/"] = { title: "Alice", body: "Answered on Phone", rings: false, passing: true };
  await pushed({ call: "c1", over: true });
  assert.deepEqual(browser.notifications, []);
});

test("without a page, answer opens one that answers, and decline needs none", async () => {
  const { browser, pushed, pressed } = started({ answers: { "/ringing/c1/": RINGS, "/ringing/c1/reject/": {} } });
  await pushed({ call: "c1" });
  await pressed("answer");
  assert.deepEqual(browser.opened, ["/"]);
  await pushed({ call: "c1" });
  await pressed("");
  assert.deepEqual(browser.opened, ["/", "/"]);
  await pushed({ call: "c1" });
  await pressed("reject");
  assert.deepEqual(browser.requests.at(-1), ["POST", "/ringing/c1/reject/", "t0k"]);
  assert.equal(browser.opened.length, 2);
});

test("the page that is opened for an answer is told of it once, and not when it comes late", async () => {
  const { pushed, pressed, asks, clock } = started({ answers: { "/ringing/c1/": RINGS } });
  const answer = async () => {
    await pushed({ call: "c1" });
    await pressed("answer");
  };
  assert.equal(await asks(), null);
  await answer();
  clock.at += 2_000;
  assert.deepEqual(await asks(), { call: "c1", ms: 28_000 });
  assert.equal(await asks(), null);
  await answer();
  assert.deepEqual((await Promise.all([asks(), asks()])).filter(Boolean), [{ call: "c1", ms: 30_000 }]);
  for (const shift of [30_000, -1]) {
    await answer();
    clock.at += shift;
    assert.equal(await asks(), null); // too late, or the clock was set back
  }
});

test("only Answer makes a wish, and only the client's page hears of it", async () => {
  const { pushed, pressed, asks } = started({ answers: { "/ringing/c1/": RINGS } });
  await pushed({ call: "c1" });
  await pressed("");
  assert.equal(await asks(), null);
  await pushed({ call: "c1" });
  await pressed("answer");
  for (const other of [{ origin: "https://elsewhere" }, { path: "/admin/" }, { type: "worker" }]) assert.equal(await asks(other), undefined);
  assert.equal((await asks()).call, "c1");
});

test("an open page does what was pressed, and comes to the front but for a decline", async () => {
  const { browser, pushed, pressed } = started({ answers: { "/ringing/c1/": { ...RINGS, token: null } }, pages: [{ name: "tab" }] });
  for (const action of ["answer", "reject", ""]) {
    await pushed({ call: "c1" });
    await pressed(action);
  }
  assert.deepEqual(browser.opened, []);
  assert.deepEqual(browser.messages, [
    ["tab", "focus"], ["tab", { type: "call", action: "answer", call: "c1", ms: 30_000 }],
    ["tab", { type: "call", action: "reject", call: "c1", ms: 30_000 }],
    ["tab", "focus"], ["tab", { type: "call", action: "open", call: "c1", ms: 30_000 }],
  ]);
});

test("what was pressed goes to the page that knows the call, whichever was looked at last", async () => {
  const panel = { name: "panel", path: "/admin/" };
  const gate = { name: "gate", knows: false };
  const frozen = { name: "frozen", knows: null };
  for (const [pages, expected] of [
    [[panel, gate, frozen, { name: "tab", path: "/?device=Desk" }], "tab"],
    [[panel, gate], "gate"],
    [[frozen], "frozen"],
  ]) {
    const { browser, pushed, pressed } = started({ answers: { "/ringing/c1/": RINGS }, pages });
    await pushed({ call: "c1" });
    await pressed("answer");
    assert.deepEqual(browser.messages, [[expected, "focus"], [expected, { type: "call", action: "answer", call: "c1", ms: 30_000 }]]);
  }
  const { browser, pushed, pressed } = started({ answers: { "/ringing/c1/": RINGS }, pages: [panel] });
  await pushed({ call: "c1" });
  await pressed("answer");
  assert.deepEqual([browser.messages, browser.opened], [[], ["/"]]);
});

test("it keeps the page for no connection and what that is made of, and nothing else", async () => {
  const { browser, happens } = started();
  await happens("install");
  await happens("activate");
  const [other, [name, kept]] = [...browser.caches];
  assert.deepEqual([other[0], kept], ["other", FACTS.kept]);
  assert.match(name, /^calls-/);
  const page = { method: "GET", mode: "navigate", url: "http://site/" };
  assert.equal(await happens("fetch", { request: page }), "kept /offline/");
  assert.equal(await happens("fetch", { request: { method: "GET", mode: "cors", url: "http://site/people/" } }), undefined);
  assert.equal(await happens("fetch", { request: { method: "POST", mode: "navigate", url: "http://site/" } }), undefined);
});
