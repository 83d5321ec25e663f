// The calls this page knows, as pure functions of (calls, frame, now): no DOM, no socket, no clock of its own.
// The server decides; this file only keeps the newest view of each call and says what follows from it.
//
// `calls` is a plain object {call id: item}; every function returns a new one, or the same one when nothing changed.
// An item is {view, ringUntil, startedAt, endedAt}: the view as the server sent it, and times in ms of the caller's
// own monotonic clock (null when they do not apply), because the wire carries only remaining and elapsed time.

// An ended call is kept this long, so that a frame that comes late or twice cannot bring it back to life.
export const KEEP_ENDED_MS = 600_000;

export const none = Object.freeze({});

// Every view in a frame counts, whatever the frame is called: welcome, call, reply and pong bring them in two shapes.
export function apply(calls, frame, now) {
  const views = Array.isArray(frame.calls) ? frame.calls : [];
  let next = calls;
  for (const view of frame.call && typeof frame.call === "object" ? [frame.call, ...views] : views) {
    next = take(next, view, now);
  }
  return Array.isArray(frame.gone) ? without(next, (id) => frame.gone.includes(id)) : next;
}

// The highest version wins, and `ended` is final. Of two views with one version the later counts (what is not stored,
// such as who is online, may differ), but its times may only pull the end of the ring and the start of the call
// forward: a frame that was held up on its way must not make a device ring longer or a timer run slow.
function take(calls, view, now) {
  if (!view || typeof view.id !== "string" || !Number.isInteger(view.v) || !view.me) return calls;
  const old = calls[view.id];
  if (old && view.v < old.view.v) return calls;
  if (old && old.view.state === "ended" && view.state !== "ended") return calls;
  const ended = view.state === "ended";
  const ringUntil = !ended && view.me.state === "ringing" ? now + view.me.ring_ms : null;
  const startedAt = view.state === "active" ? now - view.secs * 1000 : null;
  return {
    ...calls,
    [view.id]: {
      view,
      ringUntil: earlier(ringUntil, old?.ringUntil),
      startedAt: earlier(startedAt, old?.startedAt),
      endedAt: ended ? (old?.endedAt ?? now) : null,
    },
  };
}

function earlier(time, known) {
  return time === null || known === null || known === undefined ? time : Math.min(time, known);
}

function without(calls, unwanted) {
  const kept = Object.entries(calls).filter(([id, item]) => !unwanted(id, item));
  return kept.length === Object.keys(calls).length ? calls : Object.fromEntries(kept);
}

export function prune(calls, now) {
  return without(calls, (_, item) => item.endedAt !== null && now - item.endedAt > KEEP_ENDED_MS);
}

// What a ping tells the server: {id: version} of the calls held as live.
export function held(calls) {
  const live = Object.values(calls).filter((item) => item.view.state !== "ended");
  return Object.fromEntries(live.map((item) => [item.view.id, item.view.v]));
}

// The one ring predicate. The time is checked here too, so that a device that hears nothing more still falls silent.
export function rings(item, now) {
  return item.view.state !== "ended" && item.view.me.state === "ringing" && now < item.ringUntil;
}

// Where a call belongs on this page:
//   incoming   it rings here                     silent     my leg still rings, but the time is over
//   outgoing   I placed it and nobody answered   in_call    my leg is joined and this page has it
//   resume     this device has it, but another page of it (a reload): take it again with `move`
//   elsewhere  another device of mine has it     ended      over
//   apart      the call lives, and I am out of it
export function place(item, now) {
  const { state, me } = item.view;
  if (state === "ended") return "ended";
  if (me.state === "ringing") return rings(item, now) ? "incoming" : "silent";
  if (me.state !== "joined") return "apart";
  if (!me.here) return "elsewhere";
  if (me.can.includes("move")) return "resume";
  return state === "ringing" ? "outgoing" : "in_call";
}

export function myLeg(view, user) {
  return view.legs.find((leg) => leg.user === user);
}

export function otherLegs(view, user) {
  return view.legs.filter((leg) => leg.user !== user);
}

// Media belongs to one (leg, epoch) on each side. Which peer connections should this page hold now?
// Returns [{user, epoch, theirEpoch, polite, quiet}]; empty when this page does not have the call. `quiet`: one of the two
// has the call on hold, so nothing is sent.
export function peersOf(view, user) {
  if (view.state !== "active" || !view.me.here || !view.me.can.includes("signal")) return [];
  const mine = myLeg(view, user);
  return otherLegs(view, user)
    .filter((leg) => leg.state === "joined")
    .map((leg) => ({
      user: leg.user, epoch: mine.epoch, theirEpoch: leg.epoch, polite: politeToward(mine, leg), quiet: mine.held || leg.held,
    }));
}

// One side of each pair must give way when two offers cross: the callee; between two callees the later name.
function politeToward(mine, theirs) {
  return mine.dir === theirs.dir ? mine.user > theirs.user : mine.dir === "in";
}

// Who sends a picture, those first who have the first places in the call.
export function camerasOf(view) {
  return view.legs.filter((leg) => leg.state === "joined" && leg.cam).map((leg) => leg.user);
}

// A group of pages that each send to each other has room for so many cameras (`most`). May mine be among them?
export function mayBeSeen(view, user, most) {
  return !view.group || camerasOf(view).filter((other) => other !== user).length < most;
}

// Whether the user has put the call on hold.
export function isOnHold(view, user) {
  return view.me.state === "joined" && Boolean(myLeg(view, user)?.held);
}

// The call this page is in, or is calling with, and has not put on hold: its item, or null. `leaving`: ids hung up here
// already.
export function current(calls, leaving, now, user) {
  return here(calls, leaving, now).find((item) => !isOnHold(item.view, user)) ?? null;
}

// The calls that this page has put on hold.
export function onHold(calls, leaving, now, user) {
  return here(calls, leaving, now).filter((item) => isOnHold(item.view, user));
}

function here(calls, leaving, now) {
  return Object.values(calls).filter(
    (item) => ["in_call", "outgoing", "resume"].includes(place(item, now)) && !leaving.has(item.view.id),
  );
}

// How many more calls the user may place: `most` at a time.
export function outgoingLeft(calls, user, most) {
  const live = Object.values(calls).filter(({ view }) => ["ringing", "joined"].includes(view.me.state) && view.state !== "ended");
  return most - live.filter(({ view }) => myLeg(view, user)?.dir === "out").length;
}

// The leg of the person who is shown as the one this call is with. A call may have other legs: of several people, of
// somebody to whom it is being transferred, of those who have left it.
export function shownLeg(view, user) {
  const legs = otherLegs(view, user);
  const first = (state) => legs.find((leg) => leg.state === state);
  return first("joined") ?? first("ringing") ?? legs[0];
}

// Who a call is with: {id, name}.
export function personOf(view, user) {
  const leg = shownLeg(view, user);
  return { id: leg.user, name: leg.name };
}

// Who called me into it: {id, name}. Who else is in a group is told beside that.
export function inviterOf(view, user) {
  const by = view.group && view.legs.find((leg) => leg.user === myLeg(view, user).by);
  return by ? { id: by.user, name: by.name } : personOf(view, user);
}
