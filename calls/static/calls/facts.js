// What the screens show, from what is so: pure, without DOM, socket or clock. Screens fills templates with the result.
import { elsewhereWords, endedWords, groupWords, missedWords, multiWords, notificationWords } from "./words.js";
import { myLeg, personOf, place, shownLeg } from "./state.js";

const NOT_REACHED_MS = 10_000;
const WEAK = { rtt: 800, loss: 0.1 }; // ms; share of packets
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
      const words = notificationWords({ person: personOf(view, me), kind: view.kind });
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
  return phone.incoming.map(({ view }) => ({
    key: view.id,
    person: personOf(view, me),
    kind: view.kind,
    answering: phone.answering.has(view.id),
    hushed: phone.hushed.has(view.id),
    inCall,
  }));
}

// The one screen over the people, or null. `since(id)` is when a call was first seen to ring.
export function stageFacts({ phone, sessions, me, now, since, online, soundBlocked }) {
  const { asking, placing, over, calls } = phone;
  if (asking) return { screen: "permission", key: "microphone", person: asking.person, problem: asking.problem };
  if (placing) {
    const { id, person, kind, at, sent } = placing;
    const phase = !sent ? "starting" : now - at > NOT_REACHED_MS ? "not_reached" : "calling";
    return outgoing({ key: id, person, kind, phase, offline: person.online === false }, sessions.get(id));
  }
  const view = phone.current;
  if (view?.state === "ringing") {
    const leg = shownLeg(view, me);
    const waiting = now - since(view.id) > NOT_REACHED_MS ? "not_reached" : "calling";
    const phase = leg.alerted ? "ringing" : waiting;
    const who = { key: view.id, person: personOf(view, me), kind: view.kind, phase, offline: !leg.online };
    return outgoing(who, sessions.get(view.id));
  }
  if (view) {
    const seconds = (now - calls[view.id].startedAt) / 1000;
    return { ...inCall(view, me, sessions, sessions.get(view.id)), seconds, soundBlocked };
  }
  const ended = over && calls[over]?.view;
  if (!ended) return null;
  return { screen: "ended", key: over, person: personOf(ended, me), kind: ended.kind, ...endedWords(ended, me), again: online };
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
    key: view.id,
    person: { id: leg.user, name: leg.name },
    video: view.kind === "video" || agreed,
    link: shown?.peer.link ?? "connecting",
    online: leg.online,
    theirMic: leg.mic,
    theirCam: leg.cam,
    theirScreen: leg.cam && Boolean(shown?.screen),
    quality: qualityOf(shown?.quality),
    asking: session?.video === "asking",
    asked: session?.video === "asked",
    media: session?.media ?? { speaks: true, cam: false, screen: false, problem: null },
    preview: Boolean(session?.preview),
    ...mirror(session),
  };
}

// `here`: the name of this device
export function noticeFacts(phone, me, here, now) {
  return [...elsewhere(phone, me, here, now), ...missed(phone, me)];
}

function elsewhere(phone, me, here, now) {
  return Object.values(phone.calls)
    .filter((item) => place(item, now) === "elsewhere" && !phone.dismissed.has(item.view.id))
    .map(({ view, startedAt }) => {
      const person = personOf(view, me);
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
