// Every word that the scripts say to people. What stands in the page itself is in its templates.
// Each text goes through `gettext`, by which `makemessages` finds it here.

import { inviterOf, otherLegs, personOf } from "./state.js";
import { gettext, listWords, ngettext, put, timeWords } from "./text.js";

export function clock(seconds) {
  const s = Math.max(0, Math.floor(seconds));
  const two = (n) => String(n).padStart(2, "0");
  const minutes = Math.floor(s / 60) % 60;
  return s < 3600 ? `${minutes}:${two(s % 60)}` : `${Math.floor(s / 3600)}:${two(minutes)}:${two(s % 60)}`;
}

// How an ended call is told to this user: {title, detail, missed}.
export function endedWords(view, user) {
  const mine = view.legs.find((leg) => leg.user === user);
  const name = (view.group ? inviterOf(view, user).name : view.legs.find((leg) => leg.user !== user)?.name) ?? "";
  if (mine.dir === "in" && ["missed", "cancelled", "busy", "unreachable"].includes(mine.state)) {
    const on = { incoming_limit: gettext("You were on another call.") }[mine.reason];
    const detail = mine.state === "busy" ? (on ?? gettext("You did not want to be disturbed.")) : "";
    return { title: put(gettext("Missed call from {name}"), { name }), detail, missed: true };
  }
  const length = view.secs ? put(gettext("The call took {time}."), { time: clock(view.secs) }) : "";
  if (view.group && ["rejected", "no_answer", "unreachable", "busy"].includes(view.reason) && mine.state !== "rejected") {
    const each = otherLegs(view, user).map((leg) => `${leg.name}: ${legWords(leg)}`);
    return { title: gettext("Nobody joined the call"), detail: each.join(" · "), missed: false };
  }
  const limit = view.legs.some((leg) => leg.reason === "incoming_limit");
  const declined = mine.dir === "in" ? gettext("You declined {name}’s call") : gettext("{name} declined the call");
  const words = {
    completed: [gettext("Call ended"), length],
    cancelled: [gettext("Call cancelled"), ""],
    rejected: [declined, ""],
    no_answer: [gettext("{name} did not answer"), gettext("Try again in a little while.")],
    unreachable: [gettext("{name} could not be reached"), gettext("None of their devices rang.")],
    busy: [limit ? gettext("{name} is on another call") : gettext("{name} is busy"), gettext("Try again in a little while.")],
    lost: [gettext("The call was lost"), gettext("One side’s connection did not come back.")],
    operator: [gettext("Ended by the operator"), view.note || length],
    merged: [gettext("The calls were brought together"), ""],
    expired: [gettext("Call ended"), gettext("It reached the longest time a call may take.")],
  };
  const [title, detail] = words[view.reason] ?? [gettext("Call ended"), length];
  return { title: put(title, { name }), detail, missed: false };
}

// Who a call is with, as one: {id, name}. Of a group everybody who is in it or rings, or else who was.
export function partyOf(view, user) {
  if (!view.group) return personOf(view, user);
  const legs = otherLegs(view, user);
  const live = legs.filter((leg) => leg.state === "joined" || leg.state === "ringing");
  return together((live.length ? live : legs).map((leg) => ({ id: leg.user, name: leg.name })));
}

// Several people as one: {id, name}.
export function together(people) {
  return { id: people[0]?.id ?? "", name: listWords(people.map((one) => one.name)) };
}

// What has become of somebody's place in a group. `link`: of the connection to them, once they are in it.
export function legWords({ state, reason, alerted, online, held }, link = "up") {
  if (state === "ringing") return alerted ? gettext("Ringing…") : gettext("Calling…");
  if (state === "joined") {
    if (held) return gettext("On hold");
    if (!online || link === "down") return gettext("Reconnecting…");
    return link === "connecting" ? gettext("Connecting…") : "";
  }
  const words = {
    rejected: gettext("Declined"),
    busy: reason === "incoming_limit" ? gettext("On another call") : gettext("Busy"),
    missed: gettext("Did not answer"),
    unreachable: gettext("Could not be reached"),
    cancelled: gettext("Cancelled"),
    left: gettext("Left the call"),
    lost: gettext("Connection lost"),
    removed: gettext("Removed"),
  };
  return words[state] ?? "";
}

// A refusal, as a sentence that says what to do.
export function refusalWords(error, name = gettext("This person")) {
  const { code, active, device, direction, limit } = error ?? {};
  const words = {
    not_found: put(gettext("{name} cannot be called, or the call is over."), { name }),
    not_allowed: gettext("That is not possible in this call now."),
    limit_reached: direction === "incoming"
      ? gettext("You are in as many calls as you are allowed. Hang up first, then join.")
      : active
      ? put(
          ngettext(
            "You already have {active} outgoing call, and no more are allowed. Hang up first.",
            "You already have {active} outgoing calls, and no more are allowed. Hang up first.",
            active,
          ),
          { active },
        )
      : gettext("The operator does not allow you to place calls."),
    answered_elsewhere: put(gettext("Answered on {device}."), { device: device ?? gettext("another device") }),
    call_ended: gettext("The call is already over."),
    in_call: gettext("This device is in another call. Hang up there first."),
    full: limit ? put(gettext("This call has room for {limit} people, you included."), { limit }) : gettext("This call is full."),
    multi_device_off: gettext("The operator has not allowed ringing several devices for you. Ask them to switch it on."),
    conflict: gettext("Something went wrong with this call. Call again."),
    expired: gettext("You were offline too long for this call. Try again."),
    rate_limited: gettext("That was too quick. Wait a moment, then try again."),
    unavailable: gettext("The server could not do that just now. Try again in a moment."),
    bad_frame: gettext("The server did not understand this page. Load it again."),
    closed: gettext("The connection was closed. Load the page again."),
  };
  return words[code] ?? gettext("That did not work. Try again.");
}

// What is missing of microphone and camera, and what to do about it.
export function problemWords(problem) {
  const words = {
    insecure: gettext("Your browser allows microphone and camera only on a secure (https) page. You can listen and watch."),
    denied: gettext("Your microphone is blocked. Allow it beside the address bar; until then you can only listen."),
    no_microphone: gettext("No microphone was found. Plug one in; until then you can only listen."),
    microphone_in_use: gettext("Another program is using the microphone. Close it, then unmute."),
    camera_denied: gettext("Your camera is blocked. Allow it beside the address bar to be seen."),
    no_camera: gettext("No camera was found, so you are not seen."),
    camera_in_use: gettext("Another program is using the camera. Close it, then switch the camera on."),
  };
  return words[problem] ?? "";
}

// Before a call: {title, detail}.
export function permissionWords(problem, name) {
  if (problem === "insecure") {
    return {
      title: gettext("This page is not secure"),
      detail: put(gettext("Browsers allow the microphone only on https pages. You can go on and only listen to {name}."), { name }),
    };
  }
  const detail = gettext(
    "To speak with {name}, allow the microphone: click the sign beside the address bar, choose “Allow”, then try again.",
  );
  return { title: gettext("Your microphone is blocked"), detail: put(detail, { name }) };
}

// Why this page has no calls: {title, detail}.
// device: what this page's device is called
export function gateWords(gate, device = "") {
  const words = {
    other_device: [
      gettext("Use this window as another device?"),
      put(gettext("It is then listed and rings as “{device}”, beside this browser's own device. If you only followed a link, open calls as usual."), { device }),
    ],
    device_in_use: [
      gettext("Calls are open in another tab"),
      gettext("Each device has one live page. Use it here, and the other tab stops."),
    ],
    replaced: [
      gettext("Calls moved to another tab"),
      gettext("Another tab of this device took over. You can take it back."),
    ],
    signed_out: [gettext("You are signed out"), gettext("Sign in again to make and receive calls on this device.")],
    unsupported: [
      gettext("This browser cannot make calls"),
      gettext("WebRTC is missing or switched off. Use a current Firefox, Chrome, Edge or Safari, or switch WebRTC on."),
    ],
    refused: [gettext("This page cannot connect"), gettext("The server did not accept it. Load the page again.")],
  };
  const [title, detail] = words[gate];
  return { title, detail };
}

export function linkWords({ online, welcomed, dnd }) {
  if (online) return dnd ? gettext("Do not disturb") : gettext("Online");
  return welcomed ? gettext("Reconnecting…") : gettext("Connecting…");
}

export function bannerWords(trouble, inCall) {
  if (trouble === "flooding") {
    return gettext("The server asked this page to slow down. It is tried again in half a minute.");
  }
  if (trouble === "protocol") return gettext("The server does not understand this page. Load it again.");
  return inCall
    ? gettext("Reconnecting to the server… Your call goes on.")
    : gettext("Reconnecting to the server… You cannot be called until it is back.");
}

// `language` is that of the page.
export function multiWords({ multi_device: on, may_switch: mine, multi_device_off: off, multi_device_until: until }, language) {
  const why = {
    not_included: gettext("Only the device you signed in on last rings: your operator has not included several devices for you."),
    expired: gettext("Only the device you signed in on last rings: the time in which several devices were allowed is over. Ask your operator to extend it."),
  }[off];
  if (why) return why;
  const state = on
    ? gettext("Every device that you are signed in on rings.")
    : gettext("Only the device you signed in on last rings.");
  const words = [state];
  if (!mine) words.push(gettext("Your operator decides about this."));
  if (until) {
    const day = new Date(until).toLocaleDateString(language, { dateStyle: "long" });
    words.push(put(gettext("Several devices are allowed until {day}."), { day }));
  }
  return words.join(" ");
}

export function peopleWords({ state, query }) {
  if (state === "failed") return gettext("The list of people cannot be loaded now. It will be tried again.");
  if (state === "loading") return gettext("Loading…");
  return query ? put(gettext("Nobody is called “{query}”."), { query }) : gettext("There is nobody else here yet.");
}

// `online` undefined: the server was not asked about this person.
export function presenceWords(online) {
  if (online === undefined) return "";
  return online ? gettext("Online") : gettext("Offline");
}

export function groupWords(group) {
  return { favourites: gettext("Favourites"), recent: gettext("Recent"), others: gettext("Everybody") }[group];
}

export function favouriteWords(name) {
  return put(gettext("Favourite: {name}"), { name });
}

// What a button that places a call says: "Video call Bob".
export function callWords(kind, name) {
  return put(kind === "video" ? gettext("Video call {name}") : gettext("Call {name}"), { name });
}

// {what, answer, answerAudio, label}: the line under the name, the buttons, and the card's name.
export function incomingWords({ person, kind, answering, inCall, hushed, others = [] }) {
  const single = kind === "video" ? gettext("Incoming video call") : gettext("Incoming call");
  const several = kind === "video" ? gettext("Video call with {names}") : gettext("Call with {names}");
  const calling = others.length ? put(several, { names: listWords(others) }) : single;
  const words = hushed ? `${calling} · ${gettext("silenced here")}` : calling;
  return {
    what: answering ? gettext("Connecting…") : words,
    answer: inCall ? gettext("Hang up & answer") : gettext("Answer"),
    answerAudio: inCall ? gettext("Hang up & answer without camera") : gettext("Answer without camera"),
    answerHold: gettext("Hold & answer"),
    label: put(gettext("{name} is calling"), person),
  };
}

// A notification of a ringing call: {title, body, actions}.
export function notificationWords({ person, kind }) {
  return {
    title: put(gettext("{name} is calling"), person),
    body: kind === "video" ? gettext("Incoming video call") : gettext("Incoming call"),
    actions: { answer: gettext("Answer"), reject: gettext("Decline") },
  };
}

// {state, hint}
export function outgoingWords({ person, kind, phase, offline }) {
  const state = {
    starting: kind === "video" ? gettext("Starting your camera…") : gettext("Starting your microphone…"),
    calling: gettext("Calling…"),
    ringing: gettext("Ringing…"),
    not_reached: gettext("Not reached yet…"),
  }[phase];
  const waiting =
    phase === "not_reached" ? gettext("No device of {name} rings yet. It is tried for a while longer.") : "";
  const away = phase === "ringing" ? gettext("It rings on {name}’s devices.") : waiting;
  const hint = phase !== "ringing" && offline ? gettext("{name} is offline at the moment.") : away;
  return { state, hint: put(hint, person) };
}

const QUALITY = {
  good: "",
  slow: gettext("· Long delay"),
  unsteady: gettext("· Unsteady connection"),
  weak: gettext("· Weak connection: sound and picture may break up"),
};

// {state, quality, muted, sharing, waiting, asked, trouble, problem}
export function inCallWords(facts) {
  const { person, video, link, online, theirMic, theirCam, theirScreen, theyHold, quality, asking, asked, media } = facts;
  const away = !online ? gettext("{name} is reconnecting…") : link === "down" ? gettext("Reconnecting…") : "";
  const unseen = video && !theirCam ? gettext("Camera is off") : "";
  const shared = theirScreen ? gettext("{name} shares the screen") : "";
  return {
    state: link === "connecting" ? gettext("Connecting…") : theyHold ? put(gettext("{name} has put the call on hold"), person) : unseen,
    ...holdWords(facts),
    quality: away ? "" : QUALITY[quality],
    muted: theirMic ? "" : put(gettext("{name} is muted"), person),
    sharing: media.screen ? gettext("You share your screen") : put(shared, person),
    waiting: asking ? put(gettext("Asking {name} to add video…"), person) : "",
    asked: asked ? put(gettext("{name} would like to add video to this call."), person) : "",
    trouble: put(away, person),
    problem: problemWords(media.problem),
  };
}

// What stands above a call about the one that is held, and about a transfer that has begun.
export function holdWords({ held, transferring }) {
  const rings = transferring?.mine ? gettext("Transferring to {name}: it rings there") : gettext("{name} is called to take the call over");
  return {
    onHold: held ? put(gettext("{name} is on hold"), held.person) : "",
    transferring: transferring ? put(rings, transferring.person) : "",
  };
}

// {title, detail} of the card of a held call.
export function heldWords(person) {
  return { title: put(gettext("{name} is on hold"), person), detail: gettext("They hear nothing until you take the call back.") };
}

export function transferredWords(name) {
  return put(gettext("{name} has the call now."), { name });
}

export function transferWords(name) {
  return put(gettext("Transfer to {name}"), { name });
}

// There are as many cameras in a group as there may be.
export function crowdedWords(most) {
  const words = ngettext(
    "{most} camera is on, and this call has no room for more. You go on with sound.",
    "{most} cameras are on, and this call has no room for more. You go on with sound.",
    most,
  );
  return put(words, { most });
}

// {title, detail}: somebody may come back into a group that goes on.
export function rejoinWords({ kind, name }) {
  const detail = kind === "video" ? gettext("Video call with {name}") : gettext("Call with {name}");
  return { title: gettext("The call goes on"), detail: put(detail, { name }) };
}

// The screen of a group: {title, people, problem, sharing}
export function groupCallWords({ person, joined, media }) {
  const n = joined + 1;
  return {
    title: person.name,
    people: put(ngettext("{n} person in the call", "{n} people in the call", n), { n }),
    problem: problemWords(media.problem),
    sharing: media.screen ? gettext("You share your screen") : "",
  };
}

// {name, pin}: a person's tile in the grid
export function tileWords({ person, self, large }) {
  if (self) return { name: gettext("You"), pin: "" };
  return { name: person.name, pin: put(large ? gettext("Show everybody alike") : gettext("Show {name} large"), person) };
}

// The buttons of somebody in the list of a call's people: {again, remove}
export function companyWords({ name }) {
  return { again: put(gettext("Call again: {name}"), { name }), remove: put(gettext("Remove {name}"), { name }) };
}

export function addWords(name) {
  return put(gettext("Add {name}"), { name });
}

export function removedWords() {
  return gettext("You were taken out of the call.");
}

// Several people are being chosen for one call.
export function choiceWords({ names, room }) {
  if (!names.length) return put(gettext("Choose up to {room} people."), { room });
  return listWords(names);
}

export function chooseWords(name) {
  return put(gettext("Choose {name}"), { name });
}

// The other side did not agree to add video.
export function videoWords(answer, person) {
  const words =
    answer === "no" ? gettext("{name} would rather go on without video.") : gettext("{name} did not answer the wish for video.");
  return put(words, person);
}

// {share, full}: what the buttons of a call do next.
export function stageWords({ sharing, full }) {
  return {
    share: sharing ? gettext("Stop sharing") : gettext("Share screen"),
    full: full ? gettext("Leave full screen") : gettext("Full screen"),
  };
}

// The dialog of microphone, camera and speaker.
export function gearWords({ kind, name, n }) {
  if (name) return name;
  const words = { mic: gettext("Microphone {n}"), cam: gettext("Camera {n}"), speaker: gettext("Speaker {n}") };
  return put(words[kind], { n });
}

export function gearDefault() {
  return gettext("As the system chooses");
}

export function darkWords() {
  return gettext("No picture");
}

// The words on a button say what it does, so its state needs no other telling.
export function mediaWords(media) {
  return {
    mic: media?.speaks ? gettext("Mute") : gettext("Unmute"),
    cam: media?.cam ? gettext("Camera off") : gettext("Camera on"),
  };
}

// A call of mine on another device: {title, detail}. `here`: the name of this one, which the other may have too.
export function elsewhereWords({ person, kind, device, here, answered, started }) {
  const named = device === here ? put(gettext("another {device}"), { device }) : device;
  const place = { device: device ? named : gettext("another device") };
  const title = answered
    ? gettext("Answered on {device}")
    : started
      ? gettext("In a call on {device}")
      : gettext("Calling on {device}");
  const detail = kind === "video" ? gettext("Video call with {name}") : gettext("Call with {name}");
  return { title: put(title, place), detail: put(detail, person) };
}

// Calls of one person that were missed: {title, detail}.
export function missedWords({ view, user, person, times, when }) {
  const { title, detail } = endedWords(view, user);
  const several = ngettext("{times} missed call from {name}", "{times} missed calls from {name}", times);
  const time = timeWords(when);
  const what = view.kind === "video" ? gettext("Video call at {time}.") : gettext("Call at {time}.");
  return {
    title: times > 1 ? put(several, { times, name: person.name }) : title,
    detail: `${put(what, { time })} ${detail}`,
  };
}

export function endedToast(view, user) {
  const { title } = endedWords(view, user);
  return view.secs ? `${title} · ${clock(view.secs)}` : title;
}

// For people who cannot see the screen: what interrupts, and what waits its turn.
export function spoken(ringing, stage) {
  const first = ringing[0];
  const now = first
    ? put(first.kind === "video" ? gettext("{name} is calling. Video call.") : gettext("{name} is calling."), first.person)
    : "";
  const asked = stage?.asked ? put(gettext("{name} would like to add video to this call."), stage.person) : "";
  let later = null;
  if (stage?.screen === "in_call" && stage.link === "up") later = gettext("In a call with {name}");
  if (stage?.screen === "group_call") later = stage.joined ? gettext("In a call with {name}") : gettext("Calling {name}");
  if (stage?.screen === "outgoing") later = stage.phase === "ringing" ? gettext("Ringing {name}") : gettext("Calling {name}");
  return { now: now || asked, later: later && put(later, stage.person) };
}

// The tab's title.
export function titleWords({ ringing, flash, stage, missed }) {
  if (flash && ringing[0]) return put(gettext("☎ {name} is calling"), ringing[0].person);
  const calls = gettext("Calls");
  if (stage?.live) return `${stage.person.name} · ${calls}`;
  return missed ? `(${missed}) ${calls}` : calls;
}
