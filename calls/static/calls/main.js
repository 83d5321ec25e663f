// Wires the rest: frames into the calls' state, the state into media and screens, clicks into commands.
// It is the only module that uses the others.
import { Identity } from "./device.js";
import { Media, Peer, permitted } from "./peer.js";
import { Screens, clock, endedWords, problemWords, refusalWords } from "./screens.js";
import { Socket } from "./socket.js";
import { Sounds } from "./sounds.js";
import { apply, held, myLeg, none, otherLegs, peersOf, place, prune, rings } from "./state.js";

const NOT_REACHED_MS = 10_000;
const OFFLINE_BANNER_MS = 1_500;
const PEOPLE_EVERY_MS = 15_000;
const QUALITY_EVERY_MS = 2_000;
const TRY_AGAIN_MS = 5_000;
const EARLY_SIGNALS = 200;
const WEAK = { rtt: 500, loss: 0.08 };

const boot = JSON.parse(document.getElementById("boot").textContent);
const me = boot.user;
const page = uuid();
const timers = steadyTimers(document.body.dataset.ticker);
const now = () => performance.now();

const identity = new Identity(me.id, location.search);
const sounds = new Sounds(soundIsBlocked);
const screens = new Screens(document, act, search);

let calls = none;
let line = null;
let ice = [];
let take = false; // the next hello takes the device from another page
let gate = null;
let soundBlocked = false;
let offlineSince = now();
let welcomed = false;
let trouble = null; // why the connection was lost, when the server said so
let people = { list: [], query: "", state: "loading" };

// What this page adds to a call it has, or is about to have: microphone, camera, connections. By call id.
const sessions = new Map();
let placing = null; // an invite of mine that has no reply yet: {id, person, kind, at}
let asking = null; // the person is being asked about the microphone: {person, problem, answer(choice)}
let over = null; // the id of the ended call whose screen is up
const answering = new Set();
const leaving = new Set(); // hung up or rejected here: gone from the screen before the server says so
const resting = new Set(); // could not be taken again just now
const alerted = new Set();
const rang = new Set();
const told = new Set(); // ended calls whose end was shown
const missedCalls = new Map(); // by id: {view, when}, until somebody takes note
const dismissed = new Set();

// ── the server ──────────────────────────────────────────────────────────────────────────────────────────────────────

const socket = new Socket({
  url: new URL(boot.socket, location.href.replace(/^http/, "ws")).href,
  timers,
  hello: () => ({ page, device: { id: identity.id, name: identity.name, kind: "web" }, take }),
  ping: () => ({ calls: held(calls) }),
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

// This page may have no calls any more.
function close(why) {
  gate = why;
  for (const id of [...sessions.keys()]) closeSession(id);
  placing = null;
  calls = none;
}

function hear(frame) {
  if (frame.t === "welcome") {
    identity.keep({ id: frame.device.id, name: frame.device.name });
    take = false; // this page has the device now; whoever takes it later shall keep it
    gate = null;
    welcomed = true;
    identity.steal(); // for this browser's other tabs, and for the next reload
    for (const session of sessions.values()) for (const { peer } of session.peers.values()) peer.repeat();
  }
  if (frame.line) line = frame.line;
  if (Array.isArray(frame.ice)) ice = frame.ice;
  if (frame.t === "signal") return mail(frame);
  calls = prune(apply(calls, frame, now()), now());
  update();
}

// ── media of the calls this page has ────────────────────────────────────────────────────────────────────────────────

function openSession(id, kind, wish = {}) {
  const known = sessions.get(id);
  if (known) return known;
  const media = new Media({ onTrack: (trackKind, track) => sent(session, trackKind, track) });
  const session = { id, kind, media, peers: new Map(), early: [], opened: false, preview: null, weak: false };
  sessions.set(id, session);
  session.ready = media.open({ mic: wish.mic ?? true, cam: kind === "video" && (wish.cam ?? true) }).then(() => {
    session.opened = true;
    remember(session);
    update();
  });
  return session;
}

function closeSession(id) {
  const session = sessions.get(id);
  if (!session) return;
  sessions.delete(id);
  for (const { peer } of session.peers.values()) peer.close();
  session.media.close();
}

function sent(session, kind, track) {
  for (const { peer } of session.peers.values()) peer.setTrack(kind, track);
  if (kind === "video") session.preview = track && new MediaStream([track]);
  update();
}

// A page that is loaded again in a call comes back as it was: muted people stay muted.
function remembered(id) {
  try {
    return JSON.parse(sessionStorage.getItem(`calls.media.${id}`));
  } catch {
    return null;
  }
}

function remember({ id, media }) {
  try {
    sessionStorage.setItem(`calls.media.${id}`, JSON.stringify({ mic: media.mic, cam: media.cam }));
  } catch {
    // storage is forbidden: a reload starts unmuted
  }
}

// Brings sessions and connections in line with what the server says of the calls.
function followCalls() {
  for (const item of Object.values(calls)) {
    const { id, kind } = item.view;
    const where = place(item, now());
    const mine = (where === "in_call" || where === "outgoing") && !leaving.has(id);
    if (mine && !sessions.has(id)) adopt(id, kind);
    if (where === "resume" && !sessions.has(id) && !leaving.has(id) && !resting.has(id)) resume(item.view);
    if (where === "ended" && !told.has(id)) ended(item);
    const session = sessions.get(id);
    if (!session) continue;
    if (where === "elsewhere" && answering.has(id)) continue; // `move` is on its way
    if (["ended", "elsewhere", "apart"].includes(where)) closeSession(id);
    else if (session.opened) {
      connect(session, item.view);
      tellMedia(session, item.view);
    }
  }
  for (const id of sessions.keys()) {
    if (!calls[id] && placing?.id !== id) closeSession(id);
  }
}

// The server put this page in a call under an id that it did not ask for: my invite met theirs and became its answer.
function adopt(id, kind) {
  const session = placing && !calls[placing.id] && sessions.get(placing.id);
  if (!session) return openSession(id, kind);
  sessions.delete(session.id);
  session.id = id;
  session.kind = kind;
  sessions.set(id, session);
  placing = null;
  if (kind === "audio") session.media.setCam(false); // they asked for a voice call first
}

// The page was loaded again in a call, or this tab took over from another: take the call again, as it was.
async function resume(view) {
  const { id, kind } = view;
  const session = openSession(id, kind, remembered(id) ?? myLeg(view, me.id));
  const reply = await socket.request("move", { call: id });
  if (reply.ok) return;
  if (sessions.get(id) === session) closeSession(id);
  resting.add(id);
  timers.setTimeout(() => resting.delete(id), TRY_AGAIN_MS);
}

function connect(session, view) {
  const wanted = peersOf(view, me.id);
  for (const [user, entry] of session.peers) {
    if (wanted.some((one) => one.user === user && one.epoch === entry.epoch && one.theirEpoch === entry.theirEpoch)) continue;
    entry.peer.close();
    session.peers.delete(user);
  }
  for (const one of wanted) {
    if (!session.peers.has(one.user)) meet(session, view, one);
  }
}

function meet(session, view, { user, epoch, theirEpoch, polite }) {
  const entry = { epoch, theirEpoch, stream: new MediaStream() };
  entry.peer = new Peer({
    epoch,
    theirEpoch,
    polite,
    ice,
    timers,
    kinds: view.kind === "video" ? ["audio", "video"] : ["audio"],
    tracks: session.media.tracks,
    send: (body) => socket.tell("signal", { call: session.id, to: user, body }),
    onChange: () => {
      for (const track of Object.values(entry.peer.received)) {
        if (track && !entry.stream.getTracks().includes(track)) entry.stream.addTrack(track);
      }
      update();
    },
  });
  session.peers.set(user, entry);
  const early = session.early;
  session.early = [];
  for (const frame of early) mail(frame);
}

// Mail may come before the view that says whom it is from; what is for another epoch the peer itself ignores.
function mail(frame) {
  const session = sessions.get(frame.call);
  if (!session) return;
  const entry = session.peers.get(frame.from.user);
  if (entry && entry.theirEpoch >= frame.from.epoch) entry.peer.accept(frame.body);
  else if (session.early.length < EARLY_SIGNALS) session.early.push(frame);
}

// The others are told what is muted, until the server's view says the same.
function tellMedia(session, view) {
  const leg = myLeg(view, me.id);
  const mic = session.media.sendsAudio;
  const cam = session.media.sendsVideo;
  if (!view.me.can.includes("media") || (leg.mic === mic && leg.cam === cam) || session.telling) return;
  session.telling = true;
  socket.request("media", { call: session.id, mic, cam }).then((reply) => {
    timers.setTimeout(() => (session.telling = false), reply.ok ? 0 : TRY_AGAIN_MS);
  });
}

async function measure() {
  for (const session of sessions.values()) {
    for (const { peer } of session.peers.values()) {
      const quality = await peer.quality().catch(() => null);
      if (quality) session.weak = quality.rtt > WEAK.rtt || quality.loss > WEAK.loss;
    }
  }
  update();
}

function networkChanged() {
  socket.nudge();
  for (const session of sessions.values()) for (const { peer } of session.peers.values()) peer.restart();
}

// ── what people do ──────────────────────────────────────────────────────────────────────────────────────────────────

const actions = {
  call: ({ key, kind }) => call(people.list.find((one) => one.id === key), kind),
  "call-again": ({ key }) => {
    const { view } = missedCalls.get(key) ?? calls[over] ?? {};
    if (!view) return;
    forget(view.id);
    call(personOf(view), view.kind);
  },
  answer: ({ key }) => answer(key),
  reject: ({ key }) => leave("reject", key),
  hangup: () => hangUp(),
  move: ({ key }) => moveHere(key),
  mic: () => withMedia((media) => media.setMic(!media.mic)),
  cam: () => withMedia((media) => media.setCam(!media.cam)),
  close: () => {
    over = null;
    update();
  },
  dismiss: ({ key }) => {
    forget(key);
    update();
  },
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
  "use-here": async () => {
    gate = null;
    take = true;
    await identity.steal();
    socket.again();
  },
  "permission-again": () => asking?.answer("again"),
  "permission-without": () => asking?.answer("without"),
  "permission-cancel": () => asking?.answer("cancel"),
};

function act(name, about) {
  actions[name]?.(about);
}

async function call(person, kind) {
  if (!person || placing || current()) return;
  const id = uuid();
  over = null;
  placing = { id, person, kind, at: now() };
  const session = openSession(id, kind);
  update();
  await session.ready;
  if (!(await heardOrAgreed(session, person, () => placing?.id === id))) {
    if (placing?.id === id) placing = null;
    closeSession(id);
    return update();
  }
  placing.at = now();
  placing.sent = true;
  update();
  const reply = await socket.request("invite", { call: id, to: [person.id], kind }, { aged: true });
  if (placing?.id === id) placing = null;
  if (!reply.ok) {
    closeSession(id);
    if (!leaving.has(id)) screens.toast(refusalWords(reply.error, person.name));
  }
  update();
}

// Without a microphone a call makes little sense: say so first, and let the person decide. False: they thought better.
async function heardOrAgreed(session, person, wanted) {
  while (wanted() && ["denied", "insecure"].includes(session.media.problem)) {
    const choice = await new Promise((resolve) => {
      asking = { person, problem: session.media.problem, answer: resolve };
      update();
    });
    asking = null;
    if (choice === "cancel") return false;
    if (choice === "without") break;
    await session.media.open({ mic: true, cam: session.kind === "video" });
  }
  return wanted();
}

// When the browser has to ask for the microphone it asks first, while the other devices go on ringing; when it has
// leave already, the devices open while the answer is on its way.
async function answer(id) {
  const item = calls[id];
  if (!item || answering.has(id)) return;
  if (placing) hangUp();
  answering.add(id);
  sounds.silence();
  const { kind } = item.view;
  const session = openSession(id, kind);
  const other = current();
  update();
  const stillRings = () => calls[id] && rings(calls[id], now());
  if (!(await permitted(kind === "video"))) {
    await session.ready;
    if (!(await heardOrAgreed(session, personOf(item.view), stillRings))) {
      answering.delete(id);
      closeSession(id);
      return update();
    }
  }
  const and = other ? { and: { call: other.id, do: "hangup" } } : {};
  if (other) leaving.add(other.id);
  const reply = await socket.request("answer", { call: id, ...and }, { aged: true });
  answering.delete(id);
  if (!reply.ok) {
    closeSession(id);
    if (other) leaving.delete(other.id);
    if (!["answered_elsewhere", "call_ended"].includes(reply.error.code)) screens.toast(refusalWords(reply.error));
  }
  update();
}

async function moveHere(id) {
  const item = calls[id];
  if (!item || answering.has(id)) return;
  answering.add(id);
  const session = openSession(id, item.view.kind, myLeg(item.view, me.id)); // muted there is muted here
  update();
  if (!(await permitted(item.view.kind === "video"))) await session.ready;
  const reply = await socket.request("move", { call: id });
  answering.delete(id);
  if (!reply.ok) {
    closeSession(id);
    screens.toast(refusalWords(reply.error));
  }
  update();
}

function hangUp() {
  if (placing) {
    const { id, sent: asked } = placing;
    placing = null;
    closeSession(id);
    if (asked) leave("hangup", id);
    return update();
  }
  const view = current();
  if (view) leave("hangup", view.id);
}

// The screen follows at once; the command stays in the outbox until the server has it.
async function leave(cmd, id) {
  leaving.add(id);
  closeSession(id);
  update();
  const reply = await socket.request(cmd, { call: id });
  if (!reply.ok && !["call_ended", "not_found"].includes(reply.error.code)) {
    leaving.delete(id);
    screens.toast(refusalWords(reply.error));
  }
  update();
}

async function withMedia(change) {
  const session = sessions.get(placing?.id ?? current()?.id);
  if (!session) return;
  const problem = session.media.problem;
  const changed = change(session.media);
  update();
  await changed;
  remember(session);
  if (session.media.problem && session.media.problem !== problem) screens.toast(problemWords(session.media.problem));
  update();
}

// Somebody took note of this call, and so of every one before it from the same person.
function forget(id) {
  const known = missedCalls.get(id);
  for (const [other, { view }] of missedCalls) {
    if (known && personOf(view).id === personOf(known.view).id) missedCalls.delete(other);
  }
  dismissed.add(id);
  if (over === id) over = null;
}

// ── people ──────────────────────────────────────────────────────────────────────────────────────────────────────────

let searching = null;

function search(query) {
  people = { ...people, query };
  clearTimeout(searching);
  searching = setTimeout(loadPeople, 150);
}

async function loadPeople() {
  const { query } = people;
  let next;
  try {
    const response = await fetch(`${boot.people}?q=${encodeURIComponent(query.trim())}`, {
      headers: { Accept: "application/json" },
    });
    if (response.status === 401) {
      socket.stop();
      close("signed_out");
    }
    next = response.ok ? { list: (await response.json()).people, state: "ready" } : { state: "failed" };
  } catch {
    next = { state: "failed" };
  }
  if (query !== people.query) return; // a newer search is on its way
  people = { ...people, ...next };
  update();
}

// ── what follows from the state ─────────────────────────────────────────────────────────────────────────────────────

let updating = false;

// Everything is derived anew; whatever is called from in here and changes something is seen in the next round.
function update() {
  if (updating) return;
  updating = true;
  queueMicrotask(() => {
    updating = false;
    followCalls();
    const ringing = incoming();
    sound(ringing);
    socket.quick = Object.keys(held(calls)).length > 0 || placing !== null;
    draw(ringing);
  });
}

function soundIsBlocked(blocked) {
  if (blocked === soundBlocked) return;
  soundBlocked = blocked;
  update();
}

// The call this page is in, or is calling with; its view, or null.
function current() {
  const mine = Object.values(calls).find(
    (item) => ["in_call", "outgoing", "resume"].includes(place(item, now())) && !leaving.has(item.view.id),
  );
  return mine?.view ?? null;
}

function incoming() {
  return Object.values(calls).filter((item) => {
    const { id, me: mine } = item.view;
    if (leaving.has(id) || (asking && answering.has(id))) return false;
    return rings(item, now()) || (answering.has(id) && mine.state === "ringing");
  });
}

function personOf(view) {
  const leg = otherLegs(view, me.id)[0];
  return { id: leg.user, name: leg.name };
}

function sound(ringing) {
  const loud = ringing.find((item) => !answering.has(item.view.id));
  const view = current();
  if (loud) {
    const { id } = loud.view;
    rang.add(id);
    const seconds = (loud.ringUntil - now()) / 1000;
    sounds.ring(id, seconds, () => alert(id));
    if (document.visibilityState === "visible") alert(id); // a card that can be seen alerts too
  } else if (view?.state === "ringing" && otherLegs(view, me.id).some((leg) => leg.alerted)) {
    sounds.ringBack(view.id, 120);
  } else sounds.silence();
}

// Tells the caller that somebody can notice the call here.
function alert(id) {
  if (alerted.has(id) || !calls[id]?.view.me.can.includes("ringing")) return;
  alerted.add(id);
  socket.request("ringing", { call: id });
}

// A call that is over, the first time it is seen so: its own screen when this page was in it, else a line of text.
function ended(item) {
  const { view } = item;
  told.add(view.id);
  const words = endedWords(view, me.id);
  const wasHere = sessions.has(view.id);
  if (wasHere || leaving.has(view.id) || words.missed || rang.has(view.id)) {
    screens.say(words.title);
  }
  if (placing?.id === view.id) placing = null;
  if (words.missed) {
    if (!leaving.has(view.id)) missedCalls.set(view.id, { view, when: new Date() });
  } else if (wasHere && !leaving.has(view.id)) {
    over = view.id;
    sounds.ended();
  } else if (leaving.has(view.id) || rang.has(view.id)) {
    screens.toast(view.secs ? `${words.title} · ${clock(view.secs)}` : words.title);
  }
}

// ── drawing ─────────────────────────────────────────────────────────────────────────────────────────────────────────

function draw(ringing) {
  const stage = scene();
  const offline = offlineSince !== null && !gate && (welcomed || now() - offlineSince > 4 * OFFLINE_BANNER_MS);
  screens.render({
    user: me,
    device: identity.name,
    online: offlineSince === null,
    link: offlineSince === null ? "Online" : welcomed ? "Reconnecting…" : "Connecting…",
    banner: offline && now() - offlineSince > OFFLINE_BANNER_MS ? bannerWords() : "",
    multi: multiFacts(),
    soundBlocked,
    people,
    mayCall: offlineSince === null && !placing && !current(),
    notices: [...elsewhere(), ...missed()],
    incoming: ringing.map((item) => ({
      key: item.view.id,
      person: personOf(item.view),
      kind: item.view.kind,
      answering: answering.has(item.view.id),
      inCall: current() !== null,
    })),
    stage,
    gate,
    login: `${boot.login}?next=${encodeURIComponent(location.pathname + location.search)}`,
  });
  show(stage);
  announce(ringing, stage);
}

function bannerWords() {
  if (trouble === "flooding") return "The server asked this page to slow down. It is tried again in half a minute.";
  if (trouble === "protocol") return "The server does not understand this page. Load it again.";
  return sessions.size
    ? "Reconnecting to the server… Your call goes on."
    : "Reconnecting to the server… You cannot be called until it is back.";
}

function multiFacts() {
  if (!line) return { on: false, enabled: false, words: "" };
  const on = line.multi_device;
  const state = on ? "Every device that you are signed in on rings." : "Only the device you signed in on last rings.";
  const locked = line.may_switch ? "" : " Your operator decides about this.";
  return { on, enabled: line.may_switch && offlineSince === null, words: state + locked };
}

function scene() {
  if (asking) return { screen: "permission", key: "microphone", person: asking.person, problem: asking.problem };
  if (placing) {
    const session = sessions.get(placing.id);
    const phase = !placing.sent ? "starting" : now() - placing.at > NOT_REACHED_MS ? "not_reached" : "calling";
    return outgoing(placing.id, placing.person, placing.kind, phase, session, placing.person.online === false);
  }
  const view = current();
  if (view) {
    const session = sessions.get(view.id);
    if (view.state === "ringing") return outgoing(view.id, personOf(view), view.kind, phaseOf(view), session, !otherLegs(view, me.id)[0].online);
    return inCall(view, session);
  }
  if (over && calls[over]) {
    const ending = calls[over].view;
    const words = endedWords(ending, me.id);
    return { screen: "ended", key: over, person: personOf(ending), kind: ending.kind, ...words, again: offlineSince === null };
  }
  return null;
}

const placedAt = new Map();

function phaseOf(view) {
  if (otherLegs(view, me.id).some((leg) => leg.alerted)) return "ringing";
  if (!placedAt.has(view.id)) placedAt.set(view.id, now());
  return now() - placedAt.get(view.id) > NOT_REACHED_MS ? "not_reached" : "calling";
}

function outgoing(key, person, kind, phase, session, offline) {
  const media = session?.media;
  return { screen: "outgoing", key, person, kind, phase, offline, media, preview: Boolean(session?.preview) };
}

function inCall(view, session) {
  const leg = otherLegs(view, me.id)[0];
  const peer = session?.peers.get(leg.user)?.peer;
  return {
    screen: "in_call",
    key: view.id,
    person: { id: leg.user, name: leg.name },
    kind: view.kind,
    seconds: (now() - calls[view.id].startedAt) / 1000,
    link: peer?.link ?? "connecting",
    online: leg.online,
    theirMic: leg.mic,
    theirCam: view.kind === "video" && leg.cam,
    quality: session?.weak ? "weak" : "good",
    media: session?.media ?? { mic: true, cam: false, problem: null },
    preview: Boolean(session?.preview),
    soundBlocked,
  };
}

async function show(stage) {
  const session = stage && sessions.get(stage.key);
  if (!session) return;
  await screens.play("self", session.preview);
  const remote = [...session.peers.values()][0]?.stream;
  if (remote?.getTracks().length && !(await screens.play("remote", remote))) soundIsBlocked(true);
}

function elsewhere() {
  return Object.values(calls)
    .filter((item) => place(item, now()) === "elsewhere" && !dismissed.has(item.view.id))
    .map(({ view, startedAt }) => {
      const person = personOf(view);
      const device = view.me.device ?? "another device";
      const answered = myLeg(view, me.id).dir === "in";
      return {
        key: view.id,
        person,
        title: answered ? `Answered on ${device}` : `${startedAt ? "In a call" : "Calling"} on ${device}`,
        detail: `${view.kind === "video" ? "Video call" : "Call"} with ${person.name}`,
        move: view.me.can.includes("move") && !current() && !answering.has(view.id),
      };
    });
}

// One notice for each person, however often they tried.
function missed() {
  const byPerson = new Map();
  for (const { view, when } of missedCalls.values()) {
    const { id } = personOf(view);
    byPerson.set(id, { view, when, times: (byPerson.get(id)?.times ?? 0) + 1 });
  }
  return [...byPerson.values()].reverse().map(({ view, when, times }) => {
    const person = personOf(view);
    const { title, detail } = endedWords(view, me.id);
    const time = when.toLocaleTimeString([], { hour: "numeric", minute: "2-digit" });
    return {
      key: view.id,
      person,
      title: times > 1 ? `${times} missed calls from ${person.name}` : title,
      detail: `${view.kind === "video" ? "Video call" : "Call"} at ${time}. ${detail}`,
      again: !current() && !placing,
    };
  });
}

function announce(ringing, stage) {
  const first = ringing[0]?.view;
  screens.say(first ? `${personOf(first).name} is calling. ${first.kind === "video" ? "Video call." : ""}` : "", true);
  if (stage?.screen === "in_call" && stage.link === "up") screens.say(`In a call with ${stage.person.name}`);
  if (stage?.screen === "outgoing") screens.say(`${stage.phase === "ringing" ? "Ringing" : "Calling"} ${stage.person.name}`);
  const flash = first && Math.floor(now() / 1000) % 2 === 0;
  const count = missedCalls.size ? `(${missedCalls.size}) ` : "";
  document.title = flash
    ? `☎ ${personOf(first).name} is calling`
    : stage?.screen === "in_call"
      ? `${stage.person.name} · Calls`
      : `${count}Calls`;
}

// ── time and the browser ────────────────────────────────────────────────────────────────────────────────────────────

// Timers of a worker: a hidden page's own would come once a minute.
function steadyTimers(url) {
  const waiting = new Map();
  let count = 0;
  let worker;
  try {
    worker = new Worker(url);
  } catch {
    return globalThis;
  }
  worker.onmessage = ({ data: id }) => {
    const action = waiting.get(id);
    waiting.delete(id);
    action?.();
  };
  return {
    setTimeout(action, ms) {
      count += 1;
      waiting.set(count, action);
      worker.postMessage({ id: count, ms });
      return count;
    },
    clearTimeout(id) {
      if (waiting.delete(id)) worker.postMessage({ id, ms: null });
    },
  };
}

function every(ms, action) {
  const again = () => timers.setTimeout(() => (action(), again()), ms);
  again();
}

function uuid() {
  if (crypto.randomUUID) return crypto.randomUUID();
  const bytes = crypto.getRandomValues(new Uint8Array(16)); // pages without https
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}

every(500, () => {
  if (offlineSince !== null || placing || Object.keys(held(calls)).length) update();
});
every(QUALITY_EVERY_MS, () => sessions.size && measure());
every(PEOPLE_EVERY_MS, () => document.visibilityState === "visible" && loadPeople());
addEventListener("online", networkChanged);
addEventListener("pageshow", (event) => event.persisted && socket.nudge());
let network = navigator.connection?.type;
navigator.connection?.addEventListener?.("change", () => {
  if (network === navigator.connection.type) return; // it also tells each new guess of the bandwidth
  network = navigator.connection.type;
  networkChanged();
});
document.addEventListener("visibilitychange", () => {
  if (document.visibilityState !== "visible") return;
  socket.nudge();
  loadPeople();
});
addEventListener("focus", loadPeople);
addEventListener("click", () => soundBlocked && sounds.unlock());
addEventListener("keydown", () => soundBlocked && sounds.unlock());

loadPeople();
take = await identity.hold();
socket.again();
