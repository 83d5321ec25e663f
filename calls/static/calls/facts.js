// What the screens show, from what is so: pure, without DOM, socket or clock. Screens fills templates with the result.
import { elsewhereWords, endedWords, missedWords, multiWords } from "./words.js";
import { myLeg, otherLegs, personOf, place } from "./state.js";

const NOT_REACHED_MS = 10_000;

// What stands beside the people: the line's switch.
export function multiFacts(line, online) {
  if (!line) return { on: false, enabled: false, words: "" };
  return { on: line.multi_device, enabled: line.may_switch && online, words: multiWords(line) };
}

export function incomingFacts(phone, me) {
  const inCall = phone.current !== null;
  return phone.incoming.map(({ view }) => ({
    key: view.id,
    person: personOf(view, me),
    kind: view.kind,
    answering: phone.answering.has(view.id),
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
    const leg = otherLegs(view, me)[0];
    const waiting = now - since(view.id) > NOT_REACHED_MS ? "not_reached" : "calling";
    const phase = leg.alerted ? "ringing" : waiting;
    const who = { key: view.id, person: personOf(view, me), kind: view.kind, phase, offline: !leg.online };
    return outgoing(who, sessions.get(view.id));
  }
  if (view) {
    const seconds = (now - calls[view.id].startedAt) / 1000;
    return { ...inCall(view, me, sessions.get(view.id)), seconds, soundBlocked };
  }
  const ended = over && calls[over]?.view;
  if (!ended) return null;
  return { screen: "ended", key: over, person: personOf(ended, me), kind: ended.kind, ...endedWords(ended, me), again: online };
}

function outgoing(who, session) {
  return { screen: "outgoing", ...who, media: session?.media, preview: Boolean(session?.preview) };
}

function inCall(view, me, session) {
  const leg = otherLegs(view, me)[0];
  return {
    screen: "in_call",
    key: view.id,
    person: { id: leg.user, name: leg.name },
    kind: view.kind,
    link: session?.peers.get(leg.user)?.peer.link ?? "connecting",
    online: leg.online,
    theirMic: leg.mic,
    theirCam: view.kind === "video" && leg.cam,
    quality: session?.weak ? "weak" : "good",
    media: session?.media ?? { mic: true, cam: false, problem: null },
    preview: Boolean(session?.preview),
  };
}

export function noticeFacts(phone, me, now) {
  return [...elsewhere(phone, me, now), ...missed(phone, me)];
}

function elsewhere(phone, me, now) {
  return Object.values(phone.calls)
    .filter((item) => place(item, now) === "elsewhere" && !phone.dismissed.has(item.view.id))
    .map(({ view, startedAt }) => {
      const person = personOf(view, me);
      const answered = myLeg(view, me).dir === "in";
      return {
        key: view.id,
        person,
        ...elsewhereWords({ person, kind: view.kind, device: view.me.device, answered, started: startedAt !== null }),
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
