// Wires the rest: frames into the phone, the phone into sessions and screens, clicks into commands.
// It is the only module that uses all others; what the others share are the pure ones, state.js and words.js.
import { Attention } from "./attention.js";
import { Check } from "./check.js";
import { Identity, uuid } from "./device.js";
import {
  companyFacts, incomingFacts, multiFacts, noticeFacts, peopleFacts, ringingFacts, stageFacts, transferFacts,
} from "./facts.js";
import { Gear } from "./gear.js";
import { Outbox } from "./outbox.js";
import { Media, Peer, permitted } from "./peer.js";
import { People } from "./people.js";
import { Phone } from "./phone.js";
import { Screens } from "./screens.js";
import { Sessions } from "./sessions.js";
import { Socket } from "./socket.js";
import { Sounds } from "./sounds.js";
import { held } from "./state.js";
import { every, steadyTimers } from "./timers.js";
import { bannerWords, choiceWords, linkWords, refusalWords, spoken, titleWords } from "./words.js";

const OFFLINE_BANNER_MS = 1_500;
const PRESENCE_EVERY_MS = 15_000;
const PRESENCE_WITHIN_MS = 5_000;
const MOST_ASKED = 100; // people in one question for presence
const SCROLLED_MS = 300;
const QUALITY_EVERY_MS = 2_000;
const LISTEN_EVERY_MS = 400;
const TICK_MS = 500;
const ASLEEP_MS = 15_000; // no tick for so long: the machine slept

const boot = JSON.parse(document.getElementById("boot").textContent);
const me = boot.user;
const page = uuid();
const timers = steadyTimers(document.body.dataset.ticker);
const now = () => performance.now();

let line = null;
let ice = [];
let take = false; // the next hello takes the device from another page
let gate = null;
let choosing = null; // several people are being chosen for one call: {id: person}
let pinned = null; // who is wanted large in a group: {call, user}, or whose screen is not: {call, without}
let small = false; // the call leaves room for people, history and settings
let soundBlocked = false;
let speaker = ""; // the one that sounds come out of; "" is the browser's choice
let offlineSince = now();
let welcomed = false;
let trouble = null; // why the connection was lost, when the server said so

const identity = new Identity(me.id, location.search, { taken: boot.devices });
const outbox = new Outbox(`${me.id} ${identity.slot}`);
const sounds = new Sounds(soundIsBlocked);
const gear = new Gear({ onChange: gearChanged, onPlugged: () => sessions.mend() });
const check = new Check({
  Media, timers,
  choice: () => gear.choice,
  onLevel: (share) => screens.level(share),
  onChange: update,
});
const screens = new Screens(document, {
  onAction: act,
  onSearch: (query) => people.search(query),
  onFind: (query) => finder.search(query),
  onGear: changeGear,
  onGearClosed: () => check.close(),
});
const attention = new Attention({
  document,
  has: (id) => id in phone.calls,
  onShown: (id) => phone.noticed(id),
  icons: { still: document.body.dataset.icon, ringing: document.body.dataset.iconRinging },
  onAction: act,
  worker: new URL(boot.worker, location.href).href,
});
const book = {
  me: me.id,
  url: boot.people,
  favourites: boot.favourites,
  onFavour: (user, on) => document.dispatchEvent(new CustomEvent("calls:favour", { detail: { user, on } })),
  onChange: update,
  onSignedOut: () => {
    socket.stop();
    close("signed_out");
  },
};
const people = new People(book);
const finder = new People(book); // whom to add to a call

const socket = new Socket({
  url: new URL(boot.socket, location.href.replace(/^http/, "ws")).href,
  timers,
  hello: () => ({ page, device: { id: identity.id, name: identity.name, kind: "web" }, take }),
  ping: () => ({ calls: held(phone.calls) }),
  onFrame: hear,
  onStatus: (status, detail) => {
    if (status === "online") offlineSince = null;
    else offlineSince ??= now();
    if (status === "refused") gate = detail.error?.code === "device_in_use" ? "device_in_use" : "refused";
    trouble = detail.why ?? null;
    if (status === "signed_out" || status === "replaced") close(status);
    update();
  },
  onRefused: (error) => {
    if (error.code !== "not_found") return false;
    identity.keep({ id: null });
    return true;
  },
});

const sessions = new Sessions({
  me: me.id, timers, socket, now, Media, Peer,
  ice: () => ice,
  choice: () => gear.choice,
  onVideo: (session, answer) => phone.videoAnswered(session, answer),
  cameras: boot.cameras,
  onCrowded: () => phone.crowded(),
  onChange: update,
});

const phone = new Phone({
  me: me.id, socket, outbox, sessions, sounds, timers, now, uuid, permitted, onChange: update,
  onPlaced: (person) => people.met(person),
  say: (words) => screens.say(words),
  toast: (words) => screens.toast(words),
});

// This page may have no calls any more. What another tab takes over is heard here until it is heard there.
function close(why) {
  gate = why;
  phone.close({ handOver: why === "replaced" });
}

function hear(frame) {
  if (frame.t === "welcome") {
    identity.keep({ id: frame.device.id, name: frame.device.name });
    take = false; // this page has the device now; whoever takes it later shall keep it
    gate = null;
    welcomed = true;
    identity.steal(); // for this browser's other tabs, and for the next reload
    sessions.repeat();
    timers.setTimeout(lookWhoIsOnline, 0); // when the favourites are drawn
  }
  if (frame.t === "history" && frame.missed === 0) phone.missed.clear(); // seen in the history, here or elsewhere
  if (frame.t === "device") identity.keep({ name: frame.device.name });
  document.dispatchEvent(new CustomEvent("calls:frame", { detail: frame }));
  if (frame.line) line = frame.line;
  if (Array.isArray(frame.ice)) ice = frame.ice;
  if (frame.t === "signal") return sessions.mail(frame);
  phone.hear(frame);
  update();
}

// ── what people do ──────────────────────────────────────────────────────────────────────────────────────────────────

const actions = {
  call: ({ key, kind }) => phone.call(people.find(key), kind),
  small: () => {
    small = !small;
    update();
  },
  "call-back": ({ people: whom, kind }) => phone.call(JSON.parse(whom), kind),
  "choose-mode": () => {
    choosing = choosing ? null : {};
    update();
  },
  choose: ({ key }) => {
    const { [key]: chosen, ...others } = choosing;
    choosing = chosen ? others : { ...others, [key]: people.find(key) };
    update();
  },
  "call-chosen": ({ kind }) => {
    phone.call(Object.values(choosing), kind);
    choosing = null;
    update();
  },
  pin: ({ key }) => {
    const { tiles, key: call } = theStage();
    const { large, screen } = tiles.find((tile) => tile.key === key);
    if (large) pinned = screen ? { call, without: key } : null;
    else pinned = { call, user: key };
    update();
  },
  company: () => {
    finder.search("");
    screens.openCompany();
    update();
  },
  add: ({ key }) => phone.add(finder.find(key)),
  "add-again": ({ key }) => phone.add(personIn(key)),
  remove: ({ key }) => phone.remove(personIn(key)),
  "end-all": () => phone.endForAll(),
  hold: () => phone.hold(),
  resume: ({ key }) => phone.resume(key),
  swap: () => phone.resume(phone.onHold[0]?.id),
  "hangup-held": ({ key }) => phone.hangUpHeld(key),
  "open-transfer": () => {
    finder.search("");
    screens.openTransfer();
    update();
  },
  transfer: ({ key }) => {
    screens.closeTransfer();
    phone.transfer(finder.find(key));
  },
  "take-back": () => phone.remove(theStage().transferring?.person),
  connect: () => phone.connect(phone.onHold[0]?.id),
  merge: () => phone.connect(phone.onHold[0]?.id, { stay: true }),
  "call-again": ({ key }) => phone.callAgain(key),
  answer: ({ key }) => phone.answer(key),
  "answer-hold": ({ key }) => phone.answer(key, { hold: true }),
  "answer-audio": ({ key }) => phone.answer(key, { cam: false }),
  silence: ({ key }) => phone.silence(key),
  reject: ({ key }) => phone.reject(key),
  hangup: () => phone.hangUp(),
  move: ({ key }) => phone.moveHere(key),
  mic: () => phone.withMedia((media) => media.setMic(!media.speaks)),
  cam: () => phone.switchCam(),
  flip: () => {
    const used = phone.session?.media.tracks.video?.getSettings().deviceId;
    changeGear("cam", gear.nextCamera(used));
  },
  share: () => phone.withMedia((media) => (media.screen ? media.unshare() : media.share())),
  "add-video": () => phone.session && sessions.askForVideo(phone.session),
  "agree-video": () => phone.session && sessions.answerVideo(phone.session, true),
  "refuse-video": () => phone.session && sessions.answerVideo(phone.session, false),
  gear: async () => {
    screens.openGear();
    gear.look();
    await check.open(phone.session?.media ?? null);
    gear.look(); // the devices have names once they may be used
  },
  "test-ring": () => sounds.test(),
  favourite: ({ key }) => people.favour(key),
  "allow-notifications": async () => {
    await attention.ask();
    update();
  },
  close: () => phone.closeEnded(),
  dismiss: ({ key }) => phone.forget(key),
  "enable-sound": () => {
    sounds.unlock();
    update();
  },
  "multi-device": async () => {
    const reply = await socket.request("multi_device", { on: !line.multi_device });
    if (reply.ok && reply.line) line = reply.line;
    if (!reply.ok) screens.toast(refusalWords(reply.error));
    update();
  },
  "open-device": async () => {
    const name = await screens.askDeviceName(identity.proposal());
    if (name) window.open(identity.another(name), "_blank");
  },
  "use-window": () => {
    identity.agree();
    gate = null;
    start();
  },
  "use-here": async () => {
    gate = null;
    take = true;
    await identity.steal();
    socket.again();
  },
  "permission-again": () => phone.asking?.answer("again"),
  "permission-without": () => phone.asking?.answer("without"),
  "permission-cancel": () => phone.asking?.answer("cancel"),
};

function act(name, about) {
  actions[name]?.(about);
}

// Somebody in the call that this page has.
function personIn(user) {
  const leg = phone.current?.legs.find((one) => one.user === user);
  return leg && { id: leg.user, name: leg.name };
}

function theStage() {
  const online = offlineSince === null;
  return stageFacts({ phone, sessions, me: me.id, now: now(), since, online, soundBlocked, pinned });
}

document.addEventListener("calls:favourites", ({ detail }) => {
  people.like(detail);
  finder.like(detail);
});
document.addEventListener("calls:do", ({ detail }) => act(detail.name, detail));

// kind: mic, cam or speaker
async function changeGear(kind, id) {
  gear.choose(kind, id);
  const track = { mic: "audio", cam: "video" }[kind];
  if (!track) return;
  await sessions.changeGear(track);
  await check.change(track);
}

// A speaker that is pulled out would take all sound with it, and one that is back is wanted again.
function gearChanged() {
  const chosen = gear.choice.speaker ?? "";
  if (chosen !== speaker) {
    speaker = chosen;
    sounds.speaker(chosen);
    screens.speaker(chosen);
  }
  update();
}

// ── what follows from the state ─────────────────────────────────────────────────────────────────────────────────────

let updating = false;
const placedAt = new Map();

// Everything is derived anew; whatever is called from in here and changes something is seen in the next round.
function update() {
  if (updating) return;
  updating = true;
  queueMicrotask(() => {
    updating = false;
    phone.follow();
    socket.quick = phone.busy;
    draw();
  });
}

function soundIsBlocked(blocked) {
  if (blocked === soundBlocked) return;
  soundBlocked = blocked;
  update();
}

function since(id) {
  if (!placedAt.has(id)) placedAt.set(id, now());
  return placedAt.get(id);
}

function draw() {
  const online = offlineSince === null;
  const incoming = incomingFacts(phone, me.id);
  const stage = theStage();
  const offline = !online && !gate && (welcomed || now() - offlineSince > 4 * OFFLINE_BANNER_MS);
  const mayCall = online && phone.mayCall(line?.max_outgoing ?? 1);
  small &&= Boolean(stage?.live);
  document.dispatchEvent(new CustomEvent("calls:state", { detail: { mayCall } }));
  screens.render({
    user: me,
    device: identity.name,
    online,
    dnd: Boolean(line?.dnd),
    link: linkWords({ online, welcomed, dnd: line?.dnd }),
    banner: offline && now() - offlineSince > OFFLINE_BANNER_MS ? bannerWords(trouble, sessions.size > 0) : "",
    multi: multiFacts(line, online, document.documentElement.lang),
    soundBlocked,
    people: { rows: peopleFacts(people), query: people.query, state: people.state },
    mayNotify: attention.mayAsk,
    mayCall,
    choice: choiceFacts(),
    company: companyFacts(phone.current, me.id, finder),
    transfer: transferFacts(stage, phone.current, finder),
    small,
    notices: noticeFacts(phone, me.id, identity.name, now()),
    incoming,
    stage,
    gate: gate && { name: gate, device: identity.name },
    home: boot.home,
    gear: { found: gear.found, choice: gear.choice, problem: check.problem, dark: check.isOpen && !check.preview },
    login: `${boot.login}?next=${encodeURIComponent(location.pathname + location.search)}`,
  });
  show(stage);
  announce(incoming, stage);
}

function choiceFacts() {
  const room = Math.max(0, (line?.max_legs ?? 2) - 1);
  const chosen = Object.values(choosing ?? {});
  return { on: choosing !== null, may: room > 1, room, chosen, words: choiceWords({ names: chosen.map((one) => one.name), room }) };
}

async function show(stage) {
  if (check.outlived(phone.session?.media)) screens.closeGear();
  if (check.isOpen) screens.play("mirror", check.preview);
  const session = stage && sessions.get(stage.key);
  if (!session) return;
  screens.play("self", session.preview);
  const shown = stage.tiles?.filter((tile) => !tile.self).map((tile) => [tile.key, `of ${tile.key}`]);
  for (const [user, name] of shown ?? [[stage.person.id, "remote"]]) {
    const stream = sessions.shown(session, user)?.stream;
    if (stream?.getTracks().length && !(await screens.play(name, stream))) soundIsBlocked(true);
  }
}

function announce(ringing, stage) {
  const words = spoken(ringing, stage);
  screens.say(words.now, true);
  if (words.later) screens.say(words.later);
  const flash = Math.floor(now() / 1000) % 2 === 0;
  const title = titleWords({ ringing, flash, stage, missed: phone.missed.size });
  attention.show({ title, flash, ringing: ringingFacts(phone, me.id, now()) });
}

// ── the people on the screen ────────────────────────────────────────────────────────────────────────────────────────

let looking = false;

async function lookWhoIsOnline() {
  if (looking || document.visibilityState !== "visible" || socket.status !== "online") return;
  const of = screens.peopleOnScreen(MOST_ASKED);
  if (!of.length) return;
  looking = true;
  const reply = await socket.request("presence", { of }, { within: PRESENCE_WITHIN_MS });
  looking = false;
  if (reply.ok) people.see(reply.people);
}

// Somebody looks at the page again.
function lookedAt() {
  if (document.visibilityState !== "visible") return;
  if (people.stale) people.load();
  else lookWhoIsOnline();
}

let scrolled = null;
function peopleScrolled() {
  if (scrolled !== null) return;
  scrolled = timers.setTimeout(async () => {
    scrolled = null;
    if (screens.nearTheEnd) await people.more();
    lookWhoIsOnline();
  }, SCROLLED_MS);
}

// ── time and the browser ────────────────────────────────────────────────────────────────────────────────────────────

function networkChanged() {
  socket.nudge();
  sessions.restart();
}

// The machine slept: what was connected is gone, whether the browser has noticed or not.
function wake() {
  socket.again();
  sessions.restart();
  people.load();
}

let ticked = Date.now();
every(timers, TICK_MS, () => {
  const slept = Date.now() - ticked > ASLEEP_MS;
  ticked = Date.now();
  if (slept && !gate) wake();
  if (offlineSince !== null || phone.busy) update();
});
every(timers, QUALITY_EVERY_MS, () => sessions.size && sessions.measure());
every(timers, LISTEN_EVERY_MS, () => phone.current?.group && sessions.listen());
every(timers, PRESENCE_EVERY_MS, lookWhoIsOnline);
addEventListener("online", networkChanged);
addEventListener("pageshow", (event) => event.persisted && !gate && wake());
let network = navigator.connection?.type;
navigator.connection?.addEventListener?.("change", () => {
  if (network === navigator.connection.type) return; // it also tells each new guess of the bandwidth
  network = navigator.connection.type;
  networkChanged();
});
document.addEventListener("visibilitychange", () => {
  update();
  if (document.visibilityState !== "visible") return;
  socket.nudge();
  lookedAt();
});
document.addEventListener("fullscreenchange", update);
document.addEventListener("scroll", peopleScrolled, { capture: true, passive: true });
addEventListener("focus", lookedAt);
addEventListener("hashchange", lookedAt);
addEventListener("click", () => soundBlocked && sounds.unlock());
addEventListener("keydown", () => soundBlocked && sounds.unlock());

// From here on this page is its device: nothing is sent before.
async function start() {
  const left = outbox.left();
  take = await identity.hold();
  phone.restore(await left);
  socket.again();
}

if (globalThis.RTCPeerConnection && globalThis.WebSocket) {
  people.load();
  gear.look();
  sounds.probe();
  if (identity.asks) gate = "other_device";
  else await start();
} else gate = "unsupported";
update();
