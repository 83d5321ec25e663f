// Wires the pages beside the calls: history and settings, as views of the one page, so that nothing is unloaded.
// Between it and main.js are only events of the document: `calls:frame` (what the server said), `calls:state` (whether
// calls can be placed) and `calls:do` (an action without a click), and clicks on elements with a data-action.
import { Account } from "./account.js";
import { First } from "./first.js";
import { History } from "./history.js";
import { Push } from "./push.js";
import { initials, tone } from "./screens.js";
import { Settings } from "./settings.js";
import { Views } from "./views.js";

const TOAST_MS = 7_000;

const boot = JSON.parse(document.getElementById("boot").textContent);
const byId = (id) => document.getElementById(id);
const account = new Account({ token: () => document.querySelector("[name=csrfmiddlewaretoken]").value });
let mayCall = false;

// As a call would, out of the speaker that was chosen.
function testRing() {
  document.dispatchEvent(new CustomEvent("calls:do", { detail: { name: "test-ring" } }));
}

function avatar(node, { id, name }) {
  node.dataset.tone = tone(id);
  node.textContent = initials(name);
}

function toast(words, undo) {
  const node = byId("t-undo").content.firstElementChild.cloneNode(true);
  node.querySelector("[data-slot=words]").textContent = words;
  const button = node.querySelector("button");
  button.hidden = !undo;
  button.addEventListener("click", () => (node.remove(), undo()));
  byId("toasts").append(node);
  setTimeout(() => node.remove(), TOAST_MS);
}

// A dialog's answer: what was typed (or true) when the person agreed, null otherwise.
function ask({ title, words = "", label = "", value = null, button }) {
  const dialog = byId("ask");
  const field = dialog.querySelector("input");
  byId("ask-title").textContent = title;
  byId("ask-words").textContent = words;
  byId("ask-words").hidden = !words;
  dialog.querySelector("label").textContent = label;
  field.parentElement.hidden = field.disabled = value === null;
  field.value = value ?? "";
  byId("ask-ok").textContent = button;
  dialog.returnValue = "";
  dialog.showModal();
  if (value !== null) field.select();
  return new Promise((resolve) => {
    const done = () => {
      const agreed = dialog.returnValue === "ok";
      resolve(agreed ? (value === null ? true : field.value.trim()) : null);
    };
    dialog.addEventListener("close", done, { once: true });
    dialog.querySelector("[data-cancel]").onclick = () => dialog.close("");
  });
}

const history = new History(document, {
  account,
  urls: boot.urls.history,
  avatar,
  toast,
  undo: toast,
  confirm: ask,
  mayCall: () => mayCall,
  onMissed: (count) => views?.badge(count),
});

// An address shows a view and names a device. Whatever else a link brings is thrown away: it must not act.
const device = new URLSearchParams(location.search).get("device");
const plain = device === null ? "" : `?device=${encodeURIComponent(device)}`;
if (location.search !== plain) globalThis.history.replaceState(null, "", location.pathname + plain + location.hash);

// The call that the person answered in a notification, until it rings here: {id, until}, by performance.now().
let wanted = null;
const ringing = new Set();

// Pressed in a notification a moment ago. Forgotten after `ms`: nobody expects the microphone to open later.
function want(id, ms) {
  wanted = { id, until: performance.now() + ms };
  answerWanted();
}

function answerWanted() {
  if (!wanted || !ringing.has(wanted.id)) return;
  const { id, until } = wanted;
  wanted = null;
  if (performance.now() > until) return;
  const detail = { name: "answer", key: id };
  setTimeout(() => document.dispatchEvent(new CustomEvent("calls:do", { detail }))); // when main.js has heard of it too
}

const push = new Push({
  worker: new URL(boot.worker, location.href).href,
  key: boot.push,
  account,
  url: boot.urls.settings.push,
  onAnswer: (id, ms) => {
    if (!ringing.has(id)) want(id, ms); // else main.js has heard of it and answers
  },
  onOpened: want,
});

const settings = new Settings(document, {
  account,
  urls: { ...boot.urls.settings, people: boot.people },
  avatar,
  toast,
  confirm: ask,
  ask,
  sample: testRing,
  onFavourites: (list) => document.dispatchEvent(new CustomEvent("calls:favourites", { detail: list })),
  push,
  storage: globalThis.localStorage,
});

new First(document, { play: testRing, storage: globalThis.localStorage });

let views = null;
views = new Views(document, window, (name) => {
  if (name === "history") history.load();
  if (name === "settings") settings.load();
});
views.badge(boot.missed);

const MISSED = ["missed", "cancelled", "busy", "unreachable"];
let welcomed = false;

async function countMissed() {
  const found = await account.read(boot.urls.history.missed);
  if (found) views.badge(found.missed);
}

document.addEventListener("calls:frame", ({ detail: frame }) => {
  settings.hear(frame);
  for (const view of [frame.call, ...(Array.isArray(frame.calls) ? frame.calls : [])]) {
    if (view?.me?.state === "ringing") ringing.add(view.id);
    else if (view) ringing.delete(view.id);
  }
  answerWanted();
  const over = frame.t === "call" && frame.call.state === "ended";
  const unsure = frame.t === "history" && !Number.isInteger(frame.missed);
  if (frame.t === "history" && !unsure) views.badge(frame.missed);
  if (views.current === "history" && (over || frame.t === "history")) history.load();
  else if (unsure || (over && MISSED.includes(frame.call.me.state)) || (frame.t === "welcome" && welcomed)) countMissed();
  welcomed ||= frame.t === "welcome";
});

document.addEventListener("calls:favour", ({ detail: { user, on } }) => settings.favour(user, on));

document.addEventListener("calls:state", ({ detail }) => {
  if (detail.mayCall === mayCall) return;
  mayCall = detail.mayCall;
  history.allow();
});

document.addEventListener("keydown", (event) => {
  const typing = /^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName) || event.altKey || event.ctrlKey || event.metaKey;
  if (event.key !== "/" || typing || views.current !== "history" || byId("home").inert) return;
  history.search();
  event.preventDefault();
});

document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && history.look());
