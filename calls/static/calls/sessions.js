// What this page adds to a call it has, or is about to have: microphone, camera, and a connection to each other leg.
// One microphone and one camera serve all connections. It follows the views that it is shown and decides nothing of a
// call.
import { camerasOf, isOnHold, mayBeSeen, myLeg, peersOf } from "./state.js";

const EARLY_SIGNALS = 200;
const TRY_AGAIN_MS = 5_000;
const HANDOVER_MS = 6_000; // so long a connection that is being replaced may go on
const LOOK_MS = 100;
const ASK_EVERY_MS = 3_000; // a note may be lost
const ASK_FOR_MS = 30_000;
const LOUD = 0.02; // somebody speaks
const CROWDED_MS = 3_000; // more cameras than are allowed: perhaps one of them is just being switched off
const ALL_PICTURES = 2_400_000; // bits a second for what is sent to all the others of a group together
const LEAST_PICTURE = 150_000;

export class Sessions {
  #options;
  #all = new Map(); // by call id

  // options: me (user id), timers, socket, ice() (the servers of now), choice() (the devices preferred), Media, Peer,
  //   now(), onChange(), onVideo(session, "yes" | "no" | "unanswered"): what became of the wish to add video,
  //   cameras (how many there may be in a group), onCrowded(session): the camera was switched off, there are too many
  constructor(options) {
    this.#options = options;
  }

  get size() {
    return this.#all.size;
  }

  get cameras() {
    return this.#options.cameras;
  }

  get(id) {
    return this.#all.get(id);
  }

  has(id) {
    return this.#all.has(id);
  }

  ids() {
    return [...this.#all.keys()];
  }

  // Opens the devices for a call; `ready` settles when they are open, or known not to open.
  open(id, kind, wish = {}) {
    const known = this.#all.get(id);
    if (known) return known;
    const media = new this.#options.Media({
      choice: this.#options.choice,
      onTrack: (trackKind, track) => this.#sent(session, trackKind, track),
    });
    const session = {
      id, kind, media,
      peers: new Map(), // by user: {epoch, theirEpoch, quiet, peer, stream, screen, quality, heardAt}
      fading: new Map(), // by user: what is shown until the new connection has media
      early: [], opened: false, preview: null, view: null, crowded: false,
      video: wish.video ?? null, // in an audio call: null · asking · asked · on
    };
    this.#all.set(id, session);
    const cam = (kind === "video" || wish.video === "on") && (wish.cam ?? true);
    session.ready = media.open({ mic: wish.mic ?? true, cam }).then(() => {
      session.opened = true;
      this.remember(session);
      this.#options.onChange();
    });
    return session;
  }

  close(id) {
    const session = this.#all.get(id);
    if (!session) return;
    this.#all.delete(id);
    shut(session);
  }

  // Another device of mine takes the call, or another page of this one: sound goes on here until it has media there.
  retire(id) {
    const session = this.#all.get(id);
    if (!session) return;
    this.#all.delete(id);
    const entries = [...session.peers.values()].filter(({ peer }) => peer.link === "up");
    if (!entries.length) return shut(session);
    const sounds = entries.map(({ stream }) => Object.assign(new Audio(), { srcObject: stream }));
    for (const sound of sounds) sound.play().catch(() => {});
    let going = entries.length;
    const end = () => {
      for (const sound of sounds) sound.srcObject = null;
      shut(session);
    };
    for (const { peer } of entries) {
      peer.whenLeft(() => {
        going -= 1;
        if (going === 0) end();
      });
    }
    this.#options.timers.setTimeout(end, HANDOVER_MS);
  }

  // The devices that were opened for one call serve another.
  rename(session, id, kind) {
    this.#all.delete(session.id);
    session.id = id;
    session.kind = kind;
    this.#all.set(id, session);
  }

  // The server's newest view of a call that this page has.
  follow(session, view) {
    session.view = view;
    if (view.group && session.video !== "on") session.video = null; // in a group everybody decides alone about their camera
    this.#connect(session, view); // camera and microphone follow when they are open: nothing waits for them
    if (session.opened) this.#tellMedia(session, view);
    this.#count(session);
  }

  // Whether one's own camera may be on beside those of the others.
  mayBeSeen(session) {
    return !session.view || mayBeSeen(session.view, this.#options.me, this.#options.cameras);
  }

  // Mail may come before the view that says whom it is from; what is for another epoch the peer itself ignores.
  mail(frame) {
    const session = this.#all.get(frame.call);
    if (!session) return;
    const entry = session.peers.get(frame.from.user);
    if (entry && entry.theirEpoch >= frame.from.epoch) entry.peer.accept(frame.body);
    else session.early = [...session.early, frame].slice(-EARLY_SIGNALS);
  }

  // Signals can pass again after they could not.
  repeat() {
    for (const peer of this.#peers()) peer.repeat();
  }

  // The network under us changed.
  restart() {
    for (const peer of this.#peers()) peer.restart();
  }

  async measure() {
    for (const session of this.#all.values()) {
      for (const entry of session.peers.values()) entry.quality = (await entry.peer.quality().catch(() => null)) ?? entry.quality;
    }
    this.#options.onChange();
  }

  // Whoever makes a sound now has been heard now.
  listen() {
    for (const session of this.#all.values()) {
      for (const entry of session.peers.values()) if (entry.peer.loudness > LOUD) entry.heardAt = this.#options.now();
    }
    this.#options.onChange();
  }

  // What is to be seen and heard of a person now: {stream, screen}, or undefined.
  shown(session, user) {
    return session.fading.get(user) ?? session.peers.get(user);
  }

  // Asks the other side to add video to an audio call; asks again until there is an answer.
  async askForVideo(session) {
    if (session.video) return;
    const until = this.#options.now() + ASK_FOR_MS;
    session.video = "asking";
    const again = () => {
      if (session.video !== "asking" || !this.#all.has(session.id)) return;
      if (this.#options.now() > until) return this.#answered(session, "unanswered");
      this.#note(session, { video: "ask" });
      this.#options.timers.setTimeout(again, ASK_EVERY_MS);
    };
    again();
    this.#options.onChange();
  }

  // The person agreed to video, or did not.
  async answerVideo(session, yes) {
    if (session.video !== "asked") return;
    this.#note(session, { video: yes ? "yes" : "no" });
    session.video = yes ? "on" : null;
    this.#options.onChange();
    if (yes) await session.media.setCam(true);
    this.remember(session);
    this.#options.onChange();
  }

  // Another microphone or camera was chosen ("audio" or "video").
  async changeGear(kind) {
    for (const session of this.#all.values()) await session.media.change(kind);
    this.#options.onChange();
  }

  // Something was plugged in: who had no microphone may have one now.
  async mend() {
    for (const session of this.#all.values()) await session.media.mend();
    this.#options.onChange();
  }

  // A page that is loaded again in a call comes back as it was: muted people stay muted.
  remembered(id) {
    try {
      return JSON.parse(sessionStorage.getItem(`calls.media.${id}`));
    } catch {
      return null;
    }
  }

  remember({ id, media, video }) {
    try {
      const kept = { mic: media.mic, cam: media.cam, video: video === "on" || media.cam ? "on" : null };
      sessionStorage.setItem(`calls.media.${id}`, JSON.stringify(kept));
    } catch {
      // storage is forbidden: a reload starts unmuted
    }
  }

  *#peers() {
    for (const session of this.#all.values()) for (const { peer } of session.peers.values()) yield peer;
  }

  #sent(session, kind, track) {
    for (const { peer, quiet } of session.peers.values()) if (!quiet) peer.setTrack(kind, track);
    if (kind === "video") {
      this.#share(session);
      session.preview = track && new MediaStream([track]);
      this.#note(session, { screen: session.media.screen });
    }
    this.#options.onChange();
  }

  #note(session, note) {
    for (const { peer } of session.peers.values()) peer.note(note);
  }

  // What the other page says besides: {screen} · {video: "ask" | "yes" | "no"}
  #noted(session, entry, note) {
    if (typeof note.screen === "boolean") entry.screen = note.screen;
    if (note.video && session.view && isOnHold(session.view, this.#options.me)) return; // it is asked again, or given up
    if (note.video === "ask" && !session.view?.group) {
      if (session.video === "asking") this.#answered(session, "yes"); // both asked at once
      if (session.video === "on") this.#note(session, { video: "yes" });
      else session.video = "asked";
    }
    if (session.video === "asking" && ["yes", "no"].includes(note.video)) this.#answered(session, note.video);
    this.#options.onChange();
  }

  async #answered(session, answer) {
    session.video = answer === "yes" ? "on" : null;
    this.#options.onVideo(session, answer);
    if (answer === "yes") await session.media.setCam(true);
    this.remember(session);
    this.#options.onChange();
  }

  #connect(session, view) {
    const wanted = peersOf(view, this.#options.me);
    for (const [user, entry] of session.peers) {
      if (wanted.some((one) => one.user === user && one.epoch === entry.epoch && one.theirEpoch === entry.theirEpoch)) continue;
      session.peers.delete(user);
      const legs = wanted.filter((one) => one.user === user);
      const fades = legs.length && !legs[0].quiet && entry.peer.link === "up" && !session.fading.has(user);
      if (fades) this.#fade(session, user, entry);
      else entry.peer.close();
    }
    for (const one of wanted) {
      const entry = session.peers.get(one.user);
      if (!entry) this.#meet(session, one);
      else if (entry.quiet !== one.quiet) this.#hush(session, one);
    }
    this.#share(session);
  }

  // Nothing is sent while one of the two has the call on hold. Microphone and camera stay as they are for afterwards.
  #hush(session, { user, quiet }) {
    const entry = session.peers.get(user);
    entry.quiet = quiet;
    session.fading.get(user)?.peer.close(); // what is being replaced would go on sending
    session.fading.delete(user);
    for (const [kind, track] of Object.entries(session.media.tracks)) entry.peer.setTrack(kind, quiet ? null : track);
  }

  // What goes up to all the others together stays the same, however many they are. Between two there is no bound.
  #share(session) {
    const others = session.peers.size;
    const bitrate = Math.max(LEAST_PICTURE, Math.round(ALL_PICTURES / others));
    const scale = others < 3 || session.media.screen ? 1 : others < 5 ? 1.5 : 2; // words on a screen stay to be read
    for (const { peer } of session.peers.values()) peer.bound(others < 2 ? null : { bitrate, scale });
  }

  // Several cameras may have gone on at once. Those who came first stay; everybody else goes on with sound.
  #count(session) {
    const tooMany = () => {
      const cameras = camerasOf(session.view);
      return session.media.sendsVideo && cameras.indexOf(this.#options.me) >= this.#options.cameras && session.view.group;
    };
    if (session.crowded || !tooMany()) return;
    session.crowded = true;
    this.#options.timers.setTimeout(async () => {
      session.crowded = false;
      if (this.#all.get(session.id) !== session || !tooMany()) return;
      await session.media.setCam(false);
      this.remember(session);
      this.#options.onCrowded(session);
      this.#options.onChange();
    }, CROWDED_MS);
  }

  // The other side moved to another device, or loaded its page again: what there is stays until what comes has media.
  #fade(session, user, entry) {
    const { now, timers, onChange } = this.#options;
    const until = now() + HANDOVER_MS;
    session.fading.set(user, entry);
    const look = async () => {
      if (session.fading.get(user) !== entry) return;
      const next = session.peers.get(user);
      const ready = next && (await next.peer.flowing(camerasOf(session.view).includes(user)));
      if (!ready && now() < until && this.#all.get(session.id) === session) return timers.setTimeout(look, LOOK_MS);
      session.fading.delete(user);
      entry.peer.close();
      onChange();
    };
    look();
  }

  #meet(session, { user, epoch, theirEpoch, polite, quiet }) {
    const { timers, socket, ice, Peer, onChange } = this.#options;
    const entry = {
      epoch, theirEpoch, quiet, stream: new MediaStream(), screen: false, quality: null, heardAt: -Infinity,
    };
    entry.peer = new Peer({
      epoch,
      theirEpoch,
      polite,
      ice,
      timers,
      kinds: ["audio", "video"], // of an audio call too: video can be added without negotiating
      tracks: quiet ? {} : session.media.tracks,
      send: (body) => socket.tell("signal", { call: session.id, to: user, body }),
      onChange: () => {
        for (const track of Object.values(entry.peer.received)) {
          const there = track && (track.kind === "audio" || !track.muted); // a picture counts when there is one
          if (there && !entry.stream.getTracks().includes(track)) entry.stream.addTrack(track);
        }
        onChange();
      },
      onNote: (note) => this.#noted(session, entry, note),
    });
    session.peers.set(user, entry);
    if (session.media.screen) entry.peer.note({ screen: true });
    const early = session.early;
    session.early = [];
    for (const frame of early) this.mail(frame);
  }

  // The others are told what is muted, until the server's view says the same.
  #tellMedia(session, view) {
    const { me, socket, timers } = this.#options;
    const leg = myLeg(view, me);
    const mic = session.media.sendsAudio;
    const cam = session.media.sendsVideo;
    if (!view.me.can.includes("media") || (leg.mic === mic && leg.cam === cam) || session.telling) return;
    session.telling = true;
    socket.request("media", { call: session.id, mic, cam }).then((reply) => {
      const tellAgain = () => {
        session.telling = false;
        this.#options.onChange(); // what was switched meanwhile, or refused because it was too quick, is told now
      };
      timers.setTimeout(tellAgain, reply.ok ? 0 : TRY_AGAIN_MS);
    });
  }
}

function shut(session) {
  for (const { peer } of [...session.peers.values(), ...session.fading.values()]) peer.close();
  session.fading.clear();
  session.media.close();
}
