// What the screens show, from what is so: pure, without DOM, socket or clock. Screens fills templates with the result.
import {
  elsewhereWords, endedWords, groupWords, heldWords, legWords, missedWords, multiWords, notificationWords, partyOf, presenceWords,
  rejoinWords,
} from "./words.js";
import { inviterOf, myLeg, otherLegs, personOf, place, shownLeg } from "./state.js";

const NOT_REACHED_MS = 10_000;
const WEAK = { rtt: 800, loss: 0.1 }; // ms; share of packets
const TOLD_MS = 15_000; // so long the tile of somebody who does not come is shown
const SPOKE_MS = 900;
const FAIR = { rtt: 350, loss: 0.03 };

// The people in their order: favourites, whom I talked with last, the others with those first who are online; a search
// shows what it found. `presence`: id → whether the person is online, as far as that is known.
// Returns [{key, group}] for headings and [{key, id, name, online, favourite}] for people.
export function peopleFacts({ list, query, favourites, recent, presence }) {
  const liked = new Set(favourites.map((one) => one.id));
  const known = new Map(list.map((one) => [one.id, one]));
  const row = (one) => ({
    ...one, ...known.get(one.id), key: one.id, online: presence.get(one.id), favourite: liked.has(one.id),
  });
  const ordered = [...list].sort((a, b) => Number(presence.get(b.id) ?? false) - Number(presence.get(a.id) ?? false));
  if (query.trim()) return ordered.map(row);
  const lately = recent.filter((one) => !liked.has(one.id));
  const shown = new Set([...liked, ...lately.map((one) => one.id)]);
  const groups = Object.entries({ favourites, recent: lately, others: ordered.filter((one) => !shown.has(one.id)) });
  const filled = groups.filter(([, people]) => people.length);
  return filled.flatMap(([group, people]) => [
    ...(shown.size ? [{ key: `group:${group}`, group: groupWords(group) }] : []),
    ...people.map(row),
  ]);
}

// A word for what was measured: good · slow (sound comes late) · unsteady · weak.
export function qualityOf(measured) {
  if (!measured) return "good";
  const { rtt, loss } = measured;
  if (rtt > WEAK.rtt || loss > WEAK.loss) return "weak";
  if (loss > FAIR.loss) return "unsteady";
  return rtt > FAIR.rtt ? "slow" : "good";
}

// What is to be noticed by somebody who looks elsewhere.
export function ringingFacts(phone, me, now) {
  return phone.incoming
    .filter(({ view }) => !phone.answering.has(view.id) && !phone.hushed.has(view.id))
    .map(({ view, ringUntil }) => {
      const words = notificationWords({ person: inviterOf(view, me), kind: view.kind });
      return { key: view.id, ...words, ms: ringUntil - now };
    });
}

// What stands beside the people: the line's switch.
export function multiFacts(line, online, language) {
  if (!line) return { on: false, enabled: false, words: "" };
  return { on: line.multi_device, enabled: line.may_switch && online, words: multiWords(line, language) };
}

export function incomingFacts(phone, me) {
  const inCall = phone.current !== null;
  const mayHold = Boolean(phone.current?.me.can.includes("hold"));
  return phone.incoming.map(({ view }) => ({
    key: view.id,
    person: inviterOf(view, me),
    others: view.group ? otherLegs(view, me).filter((leg) => leg.user !== inviterOf(view, me).id).map((leg) => leg.name) : [],
    kind: view.kind,
    answering: phone.answering.has(view.id),
    hushed: phone.hushed.has(view.id),
    inCall,
    mayHold,
  }));
}

// The one screen over the people, or null. `since(id)` is when a call was first seen to ring.
// `pinned`: whom the person wants to see large in a group, {call, user}, or whose screen not, {call, without}.
export function stageFacts({ phone, sessions, me, now, since, online, soundBlocked, pinned = null }) {
  const { asking, placing, over, calls } = phone;
  if (asking) return { screen: "permission", key: "microphone", person: asking.person, problem: asking.problem };
  if (placing) {
    const { id, person, kind, at, sent } = placing;
    const phase = !sent ? "starting" : now - at > NOT_REACHED_MS ? "not_reached" : "calling";
    return outgoing({ key: id, person, kind, phase, offline: person.online === false }, sessions.get(id));
  }
  const view = phone.current;
  if (view?.group) {
    const startedAt = calls[view.id].startedAt;
    const seconds = startedAt === null ? null : (now - startedAt) / 1000;
    const group = groupCall({ view, me, sessions, session: sessions.get(view.id), now, since, pinned });
    return { ...group, ...holdFacts(phone, view, me), seconds, soundBlocked };
  }
  if (view?.state === "ringing") {
    const leg = shownLeg(view, me);
    const waiting = now - since(view.id) > NOT_REACHED_MS ? "not_reached" : "calling";
    const phase = leg.alerted ? "ringing" : waiting;
    const who = { key: view.id, person: personOf(view, me), kind: view.kind, phase, offline: !leg.online };
    return outgoing(who, sessions.get(view.id));
  }
  if (view) {
    const seconds = (now - calls[view.id].startedAt) / 1000;
    return { ...inCall(view, me, sessions, sessions.get(view.id)), ...holdFacts(phone, view, me), seconds, soundBlocked };
  }
  const ended = over && calls[over]?.view;
  if (!ended) return null;
  return { screen: "ended", key: over, person: partyOf(ended, me), kind: ended.kind, ...endedWords(ended, me), again: online };
}

// What holding and transferring have to say on the screen of the call that goes on.
function holdFacts(phone, view, me) {
  const [held] = phone.onHold;
  const can = (what) => view.me.can.includes(what);
  const ringing = view.legs.find((leg) => leg.state === "ringing" && leg.for);
  return {
    mayHold: can("hold"),
    mayTransfer: can("transfer") && !ringing,
    held: held ? { key: held.id, person: partyOf(held, me) } : null,
    mayConnect: Boolean(held) && !view.group && view.state === "active" && held.me.can.includes("transfer"),
    transferring: ringing ? { person: { id: ringing.user, name: ringing.name }, mine: ringing.for === me } : null,
  };
}

function outgoing(who, session) {
  return { screen: "outgoing", ...who, media: session?.media, preview: Boolean(session?.preview), ...mirror(session) };
}

function mirror(session) {
  return { mirrored: session?.media.mirrored ?? true };
}

function inCall(view, me, sessions, session) {
  const leg = shownLeg(view, me);
  const shown = session && sessions.shown(session, leg.user);
  const agreed = session?.video === "on" || view.legs.some((one) => one.cam);
  return {
    screen: "in_call",
    live: true,
    mayAdd: view.me.can.includes("add"),
    key: view.id,
    person: { id: leg.user, name: leg.name },
    video: view.kind === "video" || agreed,
    link: shown?.peer.link ?? "connecting",
    online: leg.online,
    theirMic: leg.mic,
    theirCam: leg.cam && !leg.held,
    theirScreen: leg.cam && !leg.held && Boolean(shown?.screen),
    theyHold: leg.held,
    quality: qualityOf(shown?.quality),
    asking: session?.video === "asking",
    asked: session?.video === "asked",
    media: session?.media ?? { speaks: true, cam: false, screen: false, problem: null },
    preview: Boolean(session?.preview),
    ...mirror(session),
  };
}

// A group: a tile for everybody who is in it or rings, for a while for those who do not come, and one for myself.
function groupCall({ view, me, sessions, session, now, since, pinned }) {
  const media = session?.media ?? { speaks: true, cam: false, screen: false, problem: null };
  const shownFor = (leg) => now - since(`${view.id} ${leg.user} ${leg.state}`);
  const comes = (leg) => leg.state === "joined" || leg.state === "ringing";
  const told = (leg) => ["rejected", "busy", "missed", "unreachable", "lost"].includes(leg.state) && shownFor(leg) < TOLD_MS;
  const tiles = otherLegs(view, me)
    .filter((leg) => comes(leg) || told(leg))
    .map((leg) => {
      const entry = leg.state === "joined" && session ? sessions.shown(session, leg.user) : undefined;
      const link = entry?.peer.link ?? "connecting";
      const joined = leg.state === "joined";
      return {
        key: leg.user,
        person: { id: leg.user, name: leg.name },
        self: false,
        state: legWords(leg, link),
        waits: !joined,
        host: joined && view.host === leg.user,
        muted: joined && !leg.mic,
        picture: joined && leg.cam && link !== "connecting" && !leg.held,
        screen: joined && leg.cam && Boolean(entry?.screen),
        speaks: joined && leg.mic && now - (entry?.heardAt ?? -Infinity) < SPOKE_MS,
      };
    });
  const wish = pinned?.call === view.id ? pinned : {};
  const shared = tiles.find((tile) => tile.screen && tile.key !== wish.without);
  const large = tiles.find((tile) => tile.key === wish.user) ?? shared;
  tiles.push({
    key: me, person: { id: me, name: myLeg(view, me).name }, self: true, state: "", waits: false, host: view.host === me,
    muted: !media.speaks, picture: Boolean(session?.preview), screen: media.screen, speaks: false,
  });
  return {
    screen: "group_call",
    live: true,
    key: view.id,
    person: partyOf(view, me),
    joined: tiles.filter((tile) => !tile.waits && !tile.self).length,
    tiles: tiles.map((tile) => ({ ...tile, large: tile === large })),
    ...gridOf(tiles.length, Boolean(large)),
    mayEnd: view.me.can.includes("end"),
    mayAdd: view.me.can.includes("add"),
    media,
    preview: Boolean(session?.preview),
    ...mirror(session),
  };
}

// How many tiles stand beside each other, on a wide screen and on a tall one. With a large one: the others, below it.
export function gridOf(count, large) {
  if (large) {
    const small = Math.max(1, count - 1);
    return { wide: Math.min(small, 8), wideRows: Math.ceil(small / 8), tall: Math.min(small, 4), tallRows: Math.ceil(small / 4) };
  }
  const wide = Math.ceil(Math.sqrt(count));
  const tall = count <= 2 ? 1 : count <= 8 ? 2 : count <= 15 ? 3 : 4;
  return { wide, wideRows: Math.ceil(count / wide), tall, tallRows: Math.ceil(count / tall) };
}

// The list of a call's people, and whom to add: null without a call. `finder`: the people that the search found.
export function companyFacts(view, me, finder) {
  if (!view) return null;
  const can = (what) => view.me.can.includes(what);
  const live = new Set(view.legs.filter((leg) => leg.state === "joined" || leg.state === "ringing").map((leg) => leg.user));
  const legs = otherLegs(view, me).map((leg) => ({
    key: leg.user,
    person: { id: leg.user, name: leg.name },
    state: legWords(leg),
    again: can("add") && !live.has(leg.user),
    remove: live.has(leg.user) && can("remove") && (view.host === me || (leg.state === "ringing" && leg.by === me)),
  }));
  const known = new Set(view.legs.map((leg) => leg.user));
  const found = peopleFacts(finder)
    .filter((one) => !one.group && !known.has(one.id))
    .map((one) => ({ key: one.id, person: { id: one.id, name: one.name }, state: presenceWords(one.online) }));
  return { legs, found: can("add") ? found : [], add: can("add"), end: view.group && can("end"), state: finder.state, query: finder.query };
}

// To whom the call on the stage may be given.
export function transferFacts(stage, view, finder) {
  const known = new Set(view?.legs.filter((leg) => leg.state === "joined").map((leg) => leg.user));
  const found = peopleFacts(finder)
    .filter((one) => !one.group && !known.has(one.id))
    .map((one) => ({ key: one.id, person: { id: one.id, name: one.name }, state: presenceWords(one.online) }));
  return { may: Boolean(stage?.mayTransfer), found, state: finder.state, query: finder.query };
}

// `here`: the name of this device
export function noticeFacts(phone, me, here, now) {
  return [...onHold(phone, me), ...goingOn(phone, me, now), ...elsewhere(phone, me, here, now), ...missed(phone, me)];
}

function onHold(phone, me) {
  return phone.onHold.map((view) => {
    const person = partyOf(view, me);
    return { key: view.id, person, ...heldWords(person), held: true };
  });
}

// Groups that go on without me, and that I may come back into.
function goingOn(phone, me, now) {
  return Object.values(phone.calls)
    .filter((item) => place(item, now) === "apart" && item.view.me.can.includes("answer"))
    .filter(({ view }) => !phone.dismissed.has(view.id) && !phone.answering.has(view.id))
    .map(({ view }) => {
      const person = partyOf(view, me);
      return { key: view.id, person, ...rejoinWords({ kind: view.kind, name: person.name }), join: !phone.placing };
    });
}

function elsewhere(phone, me, here, now) {
  return Object.values(phone.calls)
    .filter((item) => place(item, now) === "elsewhere" && !phone.dismissed.has(item.view.id))
    .map(({ view, startedAt }) => {
      const person = partyOf(view, me);
      const answered = myLeg(view, me).dir === "in";
      return {
        key: view.id,
        person,
        ...elsewhereWords({ person, kind: view.kind, device: view.me.device, here, answered, started: startedAt !== null }),
        move: view.me.can.includes("move") && !phone.current && !phone.answering.has(view.id),
      };
    });
}

// One notice for each person, however often they tried.
function missed(phone, me) {
  const byPerson = new Map();
  for (const { view, when } of phone.missed.values()) {
    const { id } = personOf(view, me);
    byPerson.set(id, { view, when, times: (byPerson.get(id)?.times ?? 0) + 1 });
  }
  return [...byPerson.values()].reverse().map(({ view, when, times }) => {
    const person = personOf(view, me);
    const words = missedWords({ view, user: me, person, times, when });
    return { key: view.id, person, ...words, again: !phone.current && !phone.placing };
  });
}
