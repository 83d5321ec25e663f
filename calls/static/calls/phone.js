// The calls of this page: what people do with them, and what follows from each view that the server sends.
// It gives commands and opens sessions; it draws nothing.
import {
  apply, current, held, mayBeSeen, myLeg, none, onHold, otherLegs, outgoingLeft, personOf, place, prune, rings, shownLeg,
} from "./state.js";
import {
  crowdedWords, endedToast, endedWords, problemWords, refusalWords, removedWords, together, transferredWords, videoWords,
} from "./words.js";

const TRY_AGAIN_MS = 5_000;
const HELD_TONE_S = 3600;
const ANSWER_WITHIN_MS = 10_000; // an older answer the server refuses

export class Phone {
  #options;

  calls = none;
  placing = null; // an invite of mine that has no reply yet: {id, people, person, kind, at, sent}
  asking = null; // the person is being asked about the microphone: {person, problem, wanted(), answer(choice)}
  over = null; // the id of the ended call whose screen is up
  answering = new Set();
  leaving = new Set(); // hung up or rejected here: gone from the screen before the server says so
  missed = new Map(); // by id: {view, when}, until somebody takes note
  dismissed = new Set();
  hushed = new Set(); // ringing calls that make no sound here any more
  #resting = new Set(); // could not be taken again just now
  #alerted = new Set();
  #rang = new Set();
  #told = new Set(); // ended calls whose end was shown

  // options: me (user id), socket, outbox, sessions, sounds, timers, now(), uuid(), permitted(cam),
  //   say(words), toast(words), onPlaced(person), onChange()
  constructor(options) {
    this.#options = options;
  }

  // ── what is so ──

  // The view of the call this page is in, or is calling with; null when there is none.
  get current() {
    return current(this.calls, this.leaving, this.#options.now(), this.#options.me)?.view ?? null;
  }

  // The views of the calls that this page has put on hold.
  get onHold() {
    return onHold(this.calls, this.leaving, this.#options.now(), this.#options.me).map((item) => item.view);
  }

  // Whether one more call may be placed; the one that goes on is held. `most`: outgoing calls at a time.
  mayCall(most) {
    if (this.placing) return false;
    if (!this.current && !this.onHold.length) return true;
    const mayHold = !this.current || this.current.me.can.includes("hold");
    return mayHold && outgoingLeft(this.calls, this.#options.me, most) > 0;
  }

  get incoming() {
    const now = this.#options.now();
    return Object.values(this.calls).filter((item) => {
      const { id, me } = item.view;
      if (this.leaving.has(id) || (this.asking && this.answering.has(id))) return false;
      return rings(item, now) || (this.answering.has(id) && me.state === "ringing");
    });
  }

  // True while the server should hear of this page often.
  get busy() {
    return this.placing !== null || Object.keys(held(this.calls)).length > 0;
  }

  // ── what the server says ──

  hear(frame) {
    const now = this.#options.now();
    this.calls = prune(apply(this.calls, frame, now), now);
  }

  // This page may have no calls any more; with handOver, because another page of this device has them now.
  close({ handOver = false } = {}) {
    const { sessions } = this.#options;
    for (const id of sessions.ids()) handOver ? sessions.retire(id) : sessions.close(id);
    this.placing = null;
    this.calls = none;
  }

  // Brings sessions and connections in line with what the server says of the calls.
  follow() {
    const { now, sessions, me } = this.#options;
    for (const item of Object.values(this.calls)) {
      const { id, kind } = item.view;
      const where = place(item, now());
      const mine = (where === "in_call" || where === "outgoing") && !this.leaving.has(id);
      if (mine && !sessions.has(id)) this.#adopt(item.view);
      const mayResume = where === "resume" && !sessions.has(id) && !this.leaving.has(id) && !this.#resting.has(id);
      if (mayResume) this.#resume(item.view);
      if (where === "ended" && !this.#told.has(id)) this.#ended(item.view);
      if (where === "apart") this.#mayRingAgain(id);
      const session = sessions.get(id);
      if (!session) continue;
      if (["elsewhere", "apart"].includes(where) && this.answering.has(id)) continue; // `move` or `answer` is on its way
      if (where === "apart" && item.view.me.state === "removed") this.#options.toast(removedWords());
      if (where === "apart" && myLeg(item.view, me).reason === "transferred") this.#toastTransferred(item.view);
      if (where === "elsewhere") sessions.retire(id);
      else if (["ended", "apart"].includes(where)) sessions.close(id);
      else sessions.follow(session, item.view);
    }
    for (const id of sessions.ids()) {
      if (!this.calls[id] && this.placing?.id !== id) sessions.close(id);
    }
    if (this.asking && !this.asking.wanted()) this.asking.answer("cancel"); // answered elsewhere, or over
    this.#sound();
  }

  // ── what people do ──

  // With one person, or with several.
  async call(whom, kind) {
    const people = [whom].flat().filter(Boolean);
    const other = this.current;
    if (!people.length || this.placing || (other && !other.me.can.includes("hold"))) return;
    const person = people.length > 1 ? together(people) : people[0];
    const { sessions, socket, now, onChange } = this.#options;
    const id = this.#options.uuid();
    this.over = null;
    this.placing = { id, people, person, kind, at: now() };
    for (const one of people) this.#options.onPlaced(one);
    const session = sessions.open(id, kind);
    onChange();
    await session.ready;
    if (!(await this.#heardOrAgreed(session, person, () => this.placing?.id === id))) {
      if (this.placing?.id === id) this.placing = null;
      sessions.close(id);
      return onChange();
    }
    this.placing.at = now();
    this.placing.sent = true;
    onChange();
    const wish = { call: id, to: people.map((one) => one.id), kind };
    const invite = (more) => socket.request("invite", { ...wish, ...more }, { aged: true });
    let reply = await invite(other ? { and: { call: other.id, do: "hold" } } : {});
    if (reply.error?.and) reply = await invite({}); // this page is not in the other call any more
    if (this.placing?.id === id) this.placing = null;
    if (!reply.ok) {
      sessions.close(id);
      if (!this.leaving.has(id)) this.#options.toast(refusalWords(reply.error, refused(reply.error, people)));
    }
    onChange();
  }

  // ── in a group ──

  // Rings this person too; a call of two is a group from then on.
  async add(person) {
    const view = this.current;
    if (!view || !person) return;
    this.#options.onPlaced(person);
    const reply = await this.#options.socket.request("add", { call: view.id, to: [person.id] });
    if (!reply.ok) this.#options.toast(refusalWords(reply.error, person.name));
  }

  async remove(person) {
    const view = this.current;
    if (!view) return;
    const reply = await this.#options.socket.request("remove", { call: view.id, user: person.id });
    if (!reply.ok) this.#options.toast(refusalWords(reply.error, person.name));
  }

  endForAll() {
    const view = this.current;
    if (view) this.#leave("end", view.id);
  }

  // When the browser has to ask for the microphone it asks first, while the other devices go on ringing; when it has
  // leave already, the devices open while the answer is on its way. With `cam` false the camera stays off.
  // `hold`: the call that goes on is held; else it is hung up.
  async answer(id, { cam = true, hold = false } = {}) {
    const item = this.calls[id];
    if (!item || this.answering.has(id)) return;
    const { sessions, socket, sounds, now, me, permitted, onChange } = this.#options;
    if (this.placing) this.hangUp();
    this.answering.add(id);
    this.over = null;
    sounds.silence();
    const { kind } = item.view;
    const seen = cam && mayBeSeen(item.view, me, sessions.cameras);
    const session = sessions.open(id, kind, { cam: seen });
    if (cam && !seen && kind === "video") this.crowded();
    const other = this.current;
    onChange();
    const mayJoin = ({ view }) => place({ view }, now()) === "apart" && view.me.can.includes("answer");
    const comesBack = mayJoin(item);
    const wanted = () => this.calls[id] && (comesBack ? mayJoin(this.calls[id]) : rings(this.calls[id], now()));
    if (!(await permitted(kind === "video" && seen))) {
      await session.ready;
      if (!(await this.#heardOrAgreed(session, personOf(item.view, me), wanted))) {
        this.answering.delete(id);
        sessions.close(id);
        return onChange();
      }
    }
    const and = other ? { and: { call: other.id, do: hold ? "hold" : "hangup" } } : {};
    if (other && !hold) this.leaving.add(other.id);
    const answer = (more) => socket.request("answer", { call: id, ...more }, { aged: true, within: ANSWER_WITHIN_MS });
    let reply = await answer(and);
    // The server did nothing, because this page is not in the other call any more: it is neither hung up nor held.
    if (reply.error?.and) {
      this.leaving.delete(other.id);
      reply = await answer({});
    }
    this.answering.delete(id);
    if (!reply.ok) {
      sessions.close(id);
      if (other) this.leaving.delete(other.id);
      const known = ["answered_elsewhere", "call_ended"].includes(reply.error.code);
      if (!known) this.#options.toast(refusalWords(reply.error));
    }
    onChange();
  }

  hold() {
    const view = this.current;
    if (view) return this.#ask("hold", { call: view.id, on: true });
  }

  // Takes a held call back, and holds the one that goes on: both change at once, or neither.
  resume(id) {
    const other = this.current;
    return this.#ask("hold", { call: id, on: false, ...(other ? { and: { call: other.id, do: "hold" } } : {}) });
  }

  hangUpHeld(id) {
    return this.#leave("hangup", id);
  }

  // Gives the call to this person, once they answer.
  transfer(person) {
    const view = this.current;
    if (!view || !person) return;
    this.#options.onPlaced(person);
    return this.#ask("transfer", { call: view.id, to: person.id }, person.name);
  }

  // Brings the person of the call that goes on and those of the held call `id` together. With `stay` I stay with them.
  connect(id, { stay = false } = {}) {
    const view = this.current;
    if (view) return this.#ask("transfer", { call: id, with: view.id, ...(stay ? { stay } : {}) });
  }

  async #ask(cmd, about, name = "") {
    const reply = await this.#options.socket.request(cmd, about);
    if (!reply.ok) this.#options.toast(refusalWords(reply.error, name));
    this.#options.onChange();
  }

  reject(id) {
    return this.#leave("reject", id);
  }

  // It rings on, but not aloud on this device.
  silence(id) {
    this.hushed.add(id);
    this.#options.onChange();
  }

  // The devices open first: until they have, the call goes on where it is.
  async moveHere(id) {
    const item = this.calls[id];
    if (!item || this.answering.has(id)) return;
    const { sessions, socket, me, onChange } = this.#options;
    this.answering.add(id);
    this.leaving.delete(id);
    this.over = null;
    const leg = myLeg(item.view, me); // muted there is muted here
    const session = sessions.open(id, item.view.kind, { mic: leg.mic, cam: leg.cam, video: leg.cam ? "on" : null });
    onChange();
    await session.ready;
    const reply = await socket.request("move", { call: id });
    this.answering.delete(id);
    if (!reply.ok) {
      sessions.close(id);
      this.#options.toast(refusalWords(reply.error));
    }
    onChange();
  }

  hangUp() {
    if (this.placing) {
      const { id, sent: asked } = this.placing;
      this.placing = null;
      this.#options.sessions.close(id);
      if (asked) this.#leave("hangup", id);
      return this.#options.onChange();
    }
    const view = this.current;
    if (view) this.#leave("hangup", view.id);
  }

  callAgain(id) {
    const { view } = this.missed.get(id) ?? this.calls[this.over] ?? {};
    if (!view) return;
    this.forget(view.id);
    const { me } = this.#options;
    const everybody = otherLegs(view, me).map((leg) => ({ id: leg.user, name: leg.name }));
    this.call(view.group ? everybody : personOf(view, me), view.kind);
  }

  // What this page adds to the call it is in, or is calling with; undefined when there is none.
  get session() {
    return this.#options.sessions.get(this.placing?.id ?? this.current?.id);
  }

  // change(media): mute, camera off, another camera, the screen, and back.
  async withMedia(change) {
    const { sessions, toast, onChange } = this.#options;
    const { session } = this;
    if (!session) return;
    const { problem } = session.media;
    const changed = change(session.media);
    onChange();
    await changed;
    sessions.remember(session);
    if (session.media.problem && session.media.problem !== problem) toast(problemWords(session.media.problem));
    onChange();
  }

  // A group has room for so many cameras.
  switchCam() {
    const { sessions } = this.#options;
    const { session } = this;
    if (session && !session.media.cam && !sessions.mayBeSeen(session)) return this.crowded();
    return this.withMedia((media) => media.setCam(!media.cam));
  }

  crowded() {
    const { sessions, toast } = this.#options;
    toast(crowdedWords(sessions.cameras));
  }

  // What became of the wish to add video to an audio call.
  videoAnswered(session, answer) {
    const view = this.calls[session.id]?.view;
    if (view && answer !== "yes") this.#options.toast(videoWords(answer, personOf(view, this.#options.me)));
  }

  // Commands that an earlier page of this device could not bring to the server: their calls do not come back here.
  restore(commands) {
    for (const { cmd, call } of commands) this.#leave(cmd, call);
  }

  closeEnded() {
    this.over = null;
    this.#options.onChange();
  }

  // Somebody took note of this call, and so of every one before it from the same person.
  forget(id) {
    const { me, onChange } = this.#options;
    const known = this.missed.get(id);
    for (const [other, { view }] of this.missed) {
      if (known && personOf(view, me).id === personOf(known.view, me).id) this.missed.delete(other);
    }
    this.dismissed.add(id);
    if (this.over === id) this.over = null;
    onChange();
  }

  // ── how ──

  // My leg of a call that goes on is closed. Somebody may ring it again, and that is a ring like the first.
  #mayRingAgain(id) {
    for (const kept of [this.leaving, this.hushed, this.#alerted]) kept.delete(id);
  }

  #toastTransferred(view) {
    const { me, toast } = this.#options;
    const to = otherLegs(view, me).find((leg) => leg.for === me && leg.state === "joined");
    if (to) toast(transferredWords(to.name));
  }

  // The server put this page in a call under an id that it did not ask for: my invite met theirs and became its answer.
  #adopt(view) {
    const { sessions, me } = this.#options;
    const { id, kind } = view;
    const { mic, cam } = myLeg(view, me); // somebody who was muted and is brought into another call stays muted
    const session = this.placing && !this.calls[this.placing.id] && sessions.get(this.placing.id);
    if (!session) return sessions.open(id, kind, sessions.remembered(id) ?? { mic, cam, video: cam ? "on" : null }); // an answer that was given up here, say
    sessions.rename(session, id, kind);
    this.placing = null;
    if (kind === "audio") session.media.setCam(false); // they asked for a voice call first
  }

  // The page was loaded again in a call, or this tab took over from another: take the call again, as it was.
  async #resume(view) {
    const { sessions, socket, timers, me } = this.#options;
    const { id, kind } = view;
    const { mic, cam } = myLeg(view, me);
    const session = sessions.open(id, kind, sessions.remembered(id) ?? { mic, cam, video: cam ? "on" : null });
    const reply = await socket.request("move", { call: id });
    if (reply.ok) return;
    if (sessions.get(id) === session) sessions.close(id);
    this.#resting.add(id);
    timers.setTimeout(() => this.#resting.delete(id), TRY_AGAIN_MS);
  }

  // Without a microphone a call makes little sense: say so first, and let the person decide. False: they thought better.
  async #heardOrAgreed(session, person, wanted) {
    while (wanted() && ["denied", "insecure"].includes(session.media.problem)) {
      const choice = await new Promise((resolve) => {
        this.asking = { person, problem: session.media.problem, wanted, answer: resolve };
        this.#options.onChange();
      });
      this.asking = null;
      if (choice === "cancel") return false;
      if (choice === "without") break;
      await session.media.open({ mic: true, cam: session.kind === "video" });
    }
    return wanted();
  }

  // The screen follows at once; the command stays in the outbox until the server has it.
  async #leave(cmd, id) {
    const { sessions, socket, outbox, toast, onChange } = this.#options;
    this.leaving.add(id);
    outbox.keep(cmd, id);
    sessions.close(id);
    onChange();
    const reply = await socket.request(cmd, { call: id });
    if (reply.error?.code === "closed") return; // never said: a page that comes later will
    outbox.drop(id);
    if (!reply.ok && !["call_ended", "not_found"].includes(reply.error.code)) {
      this.leaving.delete(id);
      toast(refusalWords(reply.error));
    }
    onChange();
  }

  #sound() {
    const { sounds, now, me } = this.#options;
    const loud = this.incoming.find(({ view: { id } }) => !this.answering.has(id) && !this.hushed.has(id));
    const view = this.current;
    if (loud) {
      const { id } = loud.view;
      this.#rang.add(id);
      const ring = view || this.onHold.length ? "waiting" : "ring"; // softly, when somebody is being listened to
      sounds[ring](id, (loud.ringUntil - now()) / 1000, () => this.#alert(id));
    } else if (view?.state === "ringing" && otherLegs(view, me).some((leg) => leg.alerted)) {
      sounds.ringBack(view.id, 120);
    } else if (view?.state === "active" && !view.group && shownLeg(view, me)?.held) {
      sounds.onHold(view.id, HELD_TONE_S);
    } else sounds.silence();
    if (document.visibilityState !== "visible") return;
    for (const { view } of this.incoming) {
      this.#rang.add(view.id);
      this.#alert(view.id); // a card that can be seen alerts too
    }
  }

  // Something other than sound and screen makes the call noticed here: a notification.
  noticed(id) {
    this.#rang.add(id);
    this.#alert(id);
  }

  // Tells the caller that somebody can notice the call here.
  #alert(id) {
    if (this.#alerted.has(id) || !this.calls[id]?.view.me.can.includes("ringing")) return;
    this.#alerted.add(id);
    this.#options.socket.request("ringing", { call: id });
  }

  // A call that is over, the first time it is seen so: its own screen when this page was in it, else a line of text.
  #ended(view) {
    const { id } = view;
    const { sessions, sounds, me, say, toast } = this.#options;
    this.#told.add(id);
    const words = endedWords(view, me);
    const wasHere = sessions.has(id);
    const noticed = this.leaving.has(id) || this.#rang.has(id);
    if (wasHere || words.missed || noticed) say(words.title);
    if (this.placing?.id === id) this.placing = null;
    if (words.missed) {
      if (!this.leaving.has(id)) this.missed.set(id, { view, when: new Date() });
    } else if (wasHere && !this.leaving.has(id)) {
      this.over = id;
      sounds.ended();
    } else if (noticed) toast(endedToast(view, me));
  }
}

// The names that a refusal is about.
function refused({ users }, people) {
  const named = users ? people.filter((one) => users.includes(one.id)) : [];
  return together(named.length ? named : people).name;
}
