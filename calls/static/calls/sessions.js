// What this page adds to a call it has, or is about to have: microphone, camera, and a connection to each other leg.
// It follows the views that it is shown and decides nothing of a call.
import { myLeg, peersOf } from "./state.js";

const EARLY_SIGNALS = 200;
const TRY_AGAIN_MS = 5_000;
const WEAK = { rtt: 500, loss: 0.08 };

export class Sessions {
  #options;
  #all = new Map(); // by call id

  // options: me (user id), timers, socket, ice() (the servers of now), Media, Peer, onChange()
  constructor(options) {
    this.#options = options;
  }

  get size() {
    return this.#all.size;
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
    const media = new this.#options.Media({ onTrack: (trackKind, track) => this.#sent(session, trackKind, track) });
    const session = { id, kind, media, peers: new Map(), early: [], opened: false, preview: null, weak: false };
    this.#all.set(id, session);
    session.ready = media.open({ mic: wish.mic ?? true, cam: kind === "video" && (wish.cam ?? true) }).then(() => {
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
    for (const { peer } of session.peers.values()) peer.close();
    session.media.close();
  }

  closeAll() {
    for (const id of this.ids()) this.close(id);
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
    if (!session.opened) return;
    this.#connect(session, view);
    this.#tellMedia(session, view);
  }

  // Mail may come before the view that says whom it is from; what is for another epoch the peer itself ignores.
  mail(frame) {
    const session = this.#all.get(frame.call);
    if (!session) return;
    const entry = session.peers.get(frame.from.user);
    if (entry && entry.theirEpoch >= frame.from.epoch) entry.peer.accept(frame.body);
    else if (session.early.length < EARLY_SIGNALS) session.early.push(frame);
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
      for (const { peer } of session.peers.values()) {
        const quality = await peer.quality().catch(() => null);
        if (quality) session.weak = quality.rtt > WEAK.rtt || quality.loss > WEAK.loss;
      }
    }
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

  remember({ id, media }) {
    try {
      sessionStorage.setItem(`calls.media.${id}`, JSON.stringify({ mic: media.mic, cam: media.cam }));
    } catch {
      // storage is forbidden: a reload starts unmuted
    }
  }

  *#peers() {
    for (const session of this.#all.values()) for (const { peer } of session.peers.values()) yield peer;
  }

  #sent(session, kind, track) {
    for (const { peer } of session.peers.values()) peer.setTrack(kind, track);
    if (kind === "video") session.preview = track && new MediaStream([track]);
    this.#options.onChange();
  }

  #connect(session, view) {
    const wanted = peersOf(view, this.#options.me);
    for (const [user, entry] of session.peers) {
      if (wanted.some((one) => one.user === user && one.epoch === entry.epoch && one.theirEpoch === entry.theirEpoch)) continue;
      entry.peer.close();
      session.peers.delete(user);
    }
    for (const one of wanted) {
      if (!session.peers.has(one.user)) this.#meet(session, view, one);
    }
  }

  #meet(session, view, { user, epoch, theirEpoch, polite }) {
    const { timers, socket, ice, Peer, onChange } = this.#options;
    const entry = { epoch, theirEpoch, stream: new MediaStream() };
    entry.peer = new Peer({
      epoch,
      theirEpoch,
      polite,
      ice: ice(),
      timers,
      kinds: view.kind === "video" ? ["audio", "video"] : ["audio"],
      tracks: session.media.tracks,
      send: (body) => socket.tell("signal", { call: session.id, to: user, body }),
      onChange: () => {
        for (const track of Object.values(entry.peer.received)) {
          if (track && !entry.stream.getTracks().includes(track)) entry.stream.addTrack(track);
        }
        onChange();
      },
    });
    session.peers.set(user, entry);
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
      timers.setTimeout(() => (session.telling = false), reply.ok ? 0 : TRY_AGAIN_MS);
    });
  }
}
