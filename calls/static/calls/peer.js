// Media: this device's microphone and camera (Media), and one connection to one other leg (Peer).
// A Peer belongs to one (leg, epoch) on each side and speaks only through the `send` it is given; what it is sent for
// other epochs it ignores. It knows no socket, no call and no screen.

const REPEAT_MS = [2_000, 4_000, 8_000, 15_000];
const BATCH_MS = 100;
const FIRST_BATCH_MS = 20; // the first ones decide how soon there is a picture
const BATCH_SIZE = 20; // candidates of about 200 bytes each: far below the 32 KiB of a signal
const DISCONNECTED_MS = 2_000; // often heals by itself

// ── one connection ──────────────────────────────────────────────────────────────────────────────────────────────────

// Bodies on the wire, both ways, always with both epochs:
//   {epoch, to_epoch, description: {type, sdp}, offer}   `offer` counts the offerer's offers; an answer repeats it
//   {epoch, to_epoch, candidates: [RTCIceCandidateInit, …]}
//   {epoch, to_epoch, note}   what the two pages tell each other besides; not looked into here
//
// The impolite side makes the first offer, with one section for each kind, sending or not. So a microphone or a camera
// that comes later, or goes, is a replaced track and needs no negotiation; what remains to negotiate is ICE restarts.
// Signals may be lost (nothing stores them): an offer without an answer is made again, and again.
export class Peer {
  #options;
  #pc;
  #tracks;
  #making = false;
  #ignoring = false;
  #answerPending = false;
  #offers = 0;
  #theirOffer = null;
  #unanswered = 0;
  #healing = 0;
  #queue = Promise.resolve();
  #candidates = []; // mine, waiting for the next batch
  #batches = 0;
  #early = []; // theirs, before their description
  #timer = {};
  #measured = null;
  #bound = null;
  #bounded = false; // it is, or was once
  #closed = false;

  // options:
  //   epoch, theirEpoch, polite, ice() (the iceServers of now), kinds (["audio"] or ["audio", "video"])
  //   tracks {audio, video}   what to send from the start, null for nothing yet
  //   send(body)              may lose it
  //   onChange()              `link` or the received tracks changed
  //   onNote(note)            the other page said something besides
  constructor(options) {
    this.#options = { RTCPeerConnection: globalThis.RTCPeerConnection, timers: globalThis, onNote() {}, ...options };
    this.#tracks = { audio: null, video: null, ...options.tracks };
    this.received = { audio: null, video: null };
    const pc = new this.#options.RTCPeerConnection(this.#configuration);
    this.#pc = pc;
    pc.ontrack = ({ track }) => {
      this.received[track.kind] = track;
      track.onunmute = () => options.onChange();
      options.onChange();
    };
    pc.onicecandidate = ({ candidate }) => candidate && this.#trickle(candidate);
    pc.onnegotiationneeded = () => this.#offer();
    pc.oniceconnectionstatechange = () => this.#watch();
    pc.onconnectionstatechange = () => {
      this.#restrict();
      options.onChange();
    };
    if (!options.polite) {
      for (const kind of options.kinds) {
        pc.addTransceiver(this.#tracks[kind] ?? kind, { direction: "sendrecv" });
      }
    }
  }

  // connecting · up · down (it was up, or never came up, and is being repaired)
  get link() {
    const state = this.#pc.connectionState;
    if (state === "connected") return "up";
    return state === "disconnected" || state === "failed" || this.#healing ? "down" : "connecting";
  }

  // Sends another track, or with null none.
  async setTrack(kind, track) {
    this.#tracks[kind] = track;
    await this.#transceiver(kind)?.sender.replaceTrack(track);
  }

  // How much of a picture is sent at most: {bitrate (bits a second), scale (2: half as wide and half as high)}, or null.
  async bound(bound) {
    if (bound?.bitrate === this.#bound?.bitrate && bound?.scale === this.#bound?.scale) return;
    this.#bound = bound;
    await this.#restrict();
  }

  async #restrict() {
    const sender = this.#transceiver("video")?.sender;
    const parameters = this.#bound || this.#bounded ? sender?.getParameters() : null;
    if (this.#closed || !parameters?.encodings?.length) return; // it is done when the connection is up
    this.#bounded = true;
    for (const encoding of parameters.encodings) {
      if (this.#bound) encoding.maxBitrate = this.#bound.bitrate;
      else delete encoding.maxBitrate;
      encoding.scaleResolutionDownBy = this.#bound?.scale ?? 1;
    }
    await sender.setParameters(parameters).catch(() => {}); // the next change of the connection tries again
  }

  // How loud the other side is now, 0…1.
  get loudness() {
    const [source] = this.#transceiver("audio")?.receiver.getSynchronizationSources?.() ?? [];
    return source?.audioLevel ?? 0;
  }

  // A signal's body arrived. Handled one after the other; of another epoch: not at all.
  accept(body) {
    if (this.#closed || body?.epoch !== this.#options.theirEpoch || body.to_epoch !== this.#options.epoch) return;
    if (body.note) return this.#options.onNote(body.note);
    this.#enqueue(() => (body.description ? this.#described(body) : this.#reachable(body.candidates ?? [])));
  }

  // To the other page, by the way of the signals; may be lost.
  note(note) {
    if (!this.#closed) this.#send({ note });
  }

  // Whether media has arrived: decoded frames where a picture is expected, else packets of sound.
  async flowing(picture) {
    if (this.#closed || this.link !== "up") return false;
    for (const stat of (await this.#pc.getStats()).values()) {
      if (stat.type !== "inbound-rtp") continue;
      if (picture ? stat.framesDecoded > 0 : stat.kind === "audio" && stat.packetsReceived > 0) return true;
    }
    return false;
  }

  // Calls action() once, when the other side has closed this connection or it broke.
  whenLeft(action) {
    const look = () => {
      const gone = this.#pc.connectionState !== "connected" || this.#pc.getSenders()[0]?.transport?.state === "closed";
      if (!gone) return;
      this.#pc.removeEventListener("connectionstatechange", look);
      action();
    };
    this.#pc.addEventListener("connectionstatechange", look);
    this.#pc.getSenders()[0]?.transport?.addEventListener("statechange", look);
  }

  // The network under us changed: new candidates at once, whatever the old ones still seem to be. A relay gives none for
  // a password that has run out, so they are asked for with the one of now.
  restart() {
    if (this.#closed) return;
    this.#pc.setConfiguration(this.#configuration);
    this.#pc.restartIce();
    if (this.#pc.signalingState === "have-local-offer") this.#enqueue(() => this.#offerAgain());
  }

  // Signals can pass again after they could not: repeat what may have been lost.
  repeat() {
    if (this.#closed || this.link === "up") return;
    if (this.#pc.signalingState === "have-local-offer") this.#enqueue(() => this.#offerAgain());
    else if (!this.#options.polite) this.restart();
  }

  // {rtt (ms), loss (share of packets lost since the last question)}, null while there is nothing to measure.
  async quality() {
    if (this.link !== "up") return null;
    let rtt = null;
    let lost = 0;
    let got = 0;
    for (const stat of (await this.#pc.getStats()).values()) {
      if (stat.type === "candidate-pair" && stat.nominated) rtt = (stat.currentRoundTripTime ?? 0) * 1000;
      if (stat.type === "inbound-rtp") {
        lost += stat.packetsLost ?? 0;
        got += stat.packetsReceived ?? 0;
      }
    }
    const before = this.#measured;
    this.#measured = { lost, got };
    if (!before || rtt === null) return null;
    const total = lost - before.lost + (got - before.got);
    return { rtt, loss: total > 0 ? Math.max(0, lost - before.lost) / total : 0 };
  }

  close() {
    this.#closed = true;
    for (const name of Object.keys(this.#timer)) this.#cancel(name);
    const pc = this.#pc;
    pc.ontrack = pc.onicecandidate = pc.onnegotiationneeded = null;
    pc.oniceconnectionstatechange = pc.onconnectionstatechange = null;
    pc.close();
  }

  get #configuration() {
    return { iceServers: this.#options.ice(), bundlePolicy: "max-bundle" };
  }

  // Perfect negotiation, as the W3C recommendation has it, from here.

  async #offer() {
    this.#making = true;
    try {
      await this.#pc.setLocalDescription();
      this.#describe();
    } catch (error) {
      this.#unlessClosed(error);
    } finally {
      this.#making = false;
    }
  }

  #describe() {
    if (this.#closed) return;
    const { type, sdp } = this.#pc.localDescription;
    if (type === "offer") {
      this.#offers += 1;
      this.#after("answer", REPEAT_MS[Math.min(this.#unanswered, REPEAT_MS.length - 1)], () =>
        this.#enqueue(() => this.#offerAgain()),
      );
    }
    this.#send({ description: { type, sdp }, offer: type === "offer" ? this.#offers : this.#theirOffer });
  }

  async #offerAgain() {
    if (this.#pc.signalingState !== "have-local-offer") return;
    this.#unanswered += 1;
    await this.#offer();
  }

  async #described({ description, offer }) {
    const pc = this.#pc;
    const isOffer = description.type === "offer";
    if (!isOffer && (pc.signalingState !== "have-local-offer" || (offer ?? this.#offers) !== this.#offers)) return;
    const ready = !this.#making && (pc.signalingState === "stable" || this.#answerPending);
    this.#ignoring = isOffer && !ready && !this.#options.polite;
    if (this.#ignoring) return;
    this.#answerPending = !isOffer;
    try {
      if (isOffer) pc.setConfiguration(this.#configuration); // it may be a restart, for which this side gathers anew too
      await pc.setRemoteDescription(description);
    } finally {
      this.#answerPending = false;
    }
    this.#unanswered = 0;
    this.#cancel("answer");
    const early = this.#early;
    this.#early = [];
    await this.#reachable(early);
    if (!isOffer) return;
    this.#theirOffer = offer ?? null;
    for (const kind of this.#options.kinds) await this.#occupy(kind);
    await pc.setLocalDescription();
    this.#describe();
  }

  // Answers the other's offer with what I send, in its own section.
  async #occupy(kind) {
    const transceiver = this.#transceiver(kind);
    if (!transceiver) return;
    transceiver.direction = "sendrecv";
    if (transceiver.sender.track !== this.#tracks[kind]) await transceiver.sender.replaceTrack(this.#tracks[kind]);
  }

  #transceiver(kind) {
    return this.#pc.getTransceivers().find((one) => one.receiver.track.kind === kind && one.currentDirection !== "stopped");
  }

  async #reachable(candidates) {
    if (!this.#pc.remoteDescription) {
      this.#early.push(...candidates);
      return;
    }
    for (const candidate of candidates) {
      try {
        await this.#pc.addIceCandidate(candidate);
      } catch {
        // Of an offer that was ignored, or of credentials that a restart replaced: it costs one path, never the call.
      }
    }
  }

  #trickle(candidate) {
    this.#candidates.push(candidate.toJSON());
    if (this.#candidates.length >= BATCH_SIZE) this.#flush();
    else if (!this.#timer.batch) this.#after("batch", this.#batches ? BATCH_MS : FIRST_BATCH_MS, () => this.#flush());
  }

  #flush() {
    this.#cancel("batch");
    const candidates = this.#candidates;
    this.#candidates = [];
    this.#batches += 1;
    if (candidates.length) this.#send({ candidates });
  }

  #send(body) {
    this.#options.send({ epoch: this.#options.epoch, to_epoch: this.#options.theirEpoch, ...body });
  }

  // Repairs: at once when ICE failed, after a moment when it may still heal, again and again until it is up.
  #watch() {
    const state = this.#pc.iceConnectionState;
    if (state === "connected" || state === "completed") {
      this.#healing = 0;
      this.#cancel("heal");
    } else if (state === "failed") this.#heal(0);
    else if (state === "disconnected") this.#heal(DISCONNECTED_MS);
    this.#options.onChange();
  }

  #heal(delay) {
    this.#after("heal", delay, () => {
      this.#healing += 1;
      this.restart();
      this.#heal(REPEAT_MS[Math.min(this.#healing, REPEAT_MS.length - 1)]);
      this.#options.onChange();
    });
  }

  #enqueue(step) {
    this.#queue = this.#queue.then(() => this.#closed || step()).catch((error) => this.#unlessClosed(error));
  }

  #unlessClosed(error) {
    if (!this.#closed) console.warn("negotiation:", error.message);
  }

  #after(name, ms, action) {
    this.#cancel(name);
    this.#timer[name] = this.#options.timers.setTimeout(() => {
      this.#timer[name] = null;
      action();
    }, ms);
  }

  #cancel(name) {
    if (this.#timer[name]) this.#options.timers.clearTimeout(this.#timer[name]);
    this.#timer[name] = null;
  }
}

// ── this device's microphone and camera ─────────────────────────────────────────────────────────────────────────────

const MICROPHONE = { echoCancellation: true, noiseSuppression: true, autoGainControl: true };
const CAMERA = { width: { ideal: 1280 }, height: { ideal: 720 }, frameRate: { ideal: 30 }, facingMode: "user" };

const SCREEN = { video: { frameRate: { ideal: 15, max: 30 } }, audio: false };

// What one call takes from this device. A call never fails for want of a camera or a microphone: `problem` says what is
// missing, and the call goes on with what there is.
export class Media {
  #devices;
  #onTrack;
  #choice;
  #closed = false;
  #missing = null; // why there is no microphone, when one was asked for
  #spoke = false; // there was one

  // onTrack(kind, track or null): what is sent changed (the camera went off, a microphone came back)
  // choice() → {mic, cam}: the ids of the devices that the person prefers, where there is a preference
  constructor({ onTrack, devices = globalThis.navigator?.mediaDevices, choice = () => ({}) }) {
    this.#devices = devices;
    this.#onTrack = onTrack;
    this.#choice = choice;
    this.tracks = { audio: null, video: null };
    this.mic = true; // what the person wants, whether or not there is a device for it
    this.cam = false;
    this.screen = false; // the video that is sent is this device's screen
    this.problem = null; // insecure · denied · no_microphone · camera_denied · no_camera · camera_in_use · microphone_in_use
  }

  // Resolves when the devices are open, or are known not to open. Never rejects.
  async open({ mic, cam }) {
    this.mic = mic;
    this.cam = cam;
    await this.#acquire({ mic: true, cam });
    if (cam && !this.tracks.video) this.cam = false;
  }

  get sendsAudio() {
    return this.mic && this.tracks.audio !== null;
  }

  // What the person takes for granted: true also while the microphone is still opening.
  get speaks() {
    return this.mic && this.#missing === null;
  }

  get sendsVideo() {
    return (this.cam || this.screen) && this.tracks.video !== null;
  }

  // A picture of oneself is shown as in a mirror; a screen, or what the camera at the back sees, is not.
  get mirrored() {
    return !this.screen && this.tracks.video?.getSettings?.().facingMode !== "environment";
  }

  // The microphone stays open while it is muted, so that speaking again takes no time.
  async setMic(on) {
    this.mic = on;
    if (on && !this.tracks.audio) await this.#fetch("audio");
    if (this.tracks.audio) this.tracks.audio.enabled = this.mic; // which may be another wish by now
  }

  // The camera is let go when it is off, so that its light goes out.
  async setCam(on) {
    this.cam = on;
    if (this.screen) await this.#endScreen();
    else if (!on) this.#release("video");
    else if (!this.tracks.video) await this.#fetch("video");
    this.cam = this.tracks.video !== null;
  }

  // A microphone that this call had was pulled out, and perhaps it is there again. Whoever had none is not heard unasked.
  async mend() {
    if (this.mic && this.#spoke && this.#missing === "no_microphone") await this.#fetch("audio");
  }

  // Another microphone ("audio") or camera ("video") is preferred now: takes it, if one is in use or is missed.
  async change(kind) {
    if (kind === "audio" && this.mic && this.#missing) return this.#fetch("audio");
    if (!this.tracks[kind] || (kind === "video" && this.screen)) return;
    const old = this.tracks[kind];
    old.onended = null;
    if (kind === "video") old.stop(); // many phones open only one camera at a time
    this.tracks[kind] = null;
    await this.#fetch(kind);
    if (kind === "audio") old.stop();
    if (!this.tracks[kind]) this.#onTrack(kind, null);
    if (kind === "video") this.cam = this.tracks.video !== null;
  }

  // Sends the screen in the place of the camera. False when the person, or the browser, would rather not.
  async share() {
    let track;
    try {
      [track] = (await this.#devices.getDisplayMedia(SCREEN)).getVideoTracks();
    } catch {
      return false;
    }
    if (this.#closed) return track.stop();
    this.#release("video");
    this.screen = true;
    track.contentHint = "detail";
    track.onended = () => this.#endScreen(); // the browser has a button for it too
    this.tracks.video = track;
    this.#onTrack("video", track);
    return true;
  }

  async unshare() {
    if (this.screen) await this.#endScreen();
  }

  close() {
    this.#closed = true;
    this.#release("audio");
    this.#release("video");
  }

  async #endScreen() {
    this.screen = false;
    this.#release("video");
    if (this.cam) await this.#fetch("video");
    this.cam = this.tracks.video !== null;
  }

  #fetch(kind) {
    return this.#acquire({ mic: kind === "audio", cam: kind === "video" });
  }

  async #acquire(wanted) {
    const found = await acquire(this.#devices, wanted, this.#choice());
    this.problem = found.problem;
    for (const track of found.tracks) this.#use(track);
    if (!wanted.mic) return;
    this.#missing = this.tracks.audio ? null : found.problem;
    this.#spoke ||= this.tracks.audio !== null;
  }

  #use(track) {
    const wanted = track.kind === "audio" || this.cam; // a person may have switched the camera off while it opened
    if (this.#closed || !wanted || this.tracks[track.kind]) return track.stop();
    track.enabled = track.kind === "audio" ? this.mic : true;
    track.onended = () => this.#unplugged(track);
    this.tracks[track.kind] = track;
    this.#onTrack(track.kind, track);
  }

  #release(kind) {
    const track = this.tracks[kind];
    if (!track) return;
    track.onended = null;
    track.stop();
    this.tracks[kind] = null;
    this.#onTrack(kind, null);
  }

  // A headset was pulled out, or the permission taken back: go on with what else there is.
  async #unplugged(track) {
    if (this.tracks[track.kind] !== track) return;
    this.#release(track.kind);
    await this.#fetch(track.kind);
    if (track.kind === "video") this.cam = this.tracks.video !== null;
  }
}

// True when opening them will ask nobody anything.
export async function permitted(cam, permissions = globalThis.navigator?.permissions) {
  try {
    const names = cam ? ["microphone", "camera"] : ["microphone"];
    const states = await Promise.all(names.map((name) => permissions.query({ name })));
    return states.every((one) => one.state === "granted");
  } catch {
    return false; // the browser does not tell: assume that it asks
  }
}

// All that was asked for, else what of it can be had: {tracks, problem}.
async function acquire(devices, { mic, cam }, choice) {
  if (!devices?.getUserMedia) return { tracks: [], problem: "insecure" };
  const open = (audio, video) => attempt(devices, audio, video, choice);
  const first = await open(mic, cam);
  if (first.tracks.length || !(mic && cam)) return { tracks: first.tracks, problem: problemOf(first.error, mic ? "microphone" : "camera") };
  const audio = await open(true, false);
  if (audio.tracks.length) return { tracks: audio.tracks, problem: problemOf(first.error, "camera") };
  if (audio.error.name === "NotAllowedError") return { tracks: [], problem: "denied" };
  const video = await open(false, true);
  return { tracks: video.tracks, problem: problemOf(audio.error, "microphone") };
}

// The devices that were chosen, and no others; should they not be there any more, whatever there is.
async function attempt(devices, mic, cam, choice) {
  const { facingMode, ...anyCamera } = CAMERA;
  const audio = mic && (choice.mic ? { ...MICROPHONE, deviceId: { exact: choice.mic } } : MICROPHONE);
  const video = cam && (choice.cam ? { ...anyCamera, deviceId: { exact: choice.cam } } : { ...anyCamera, facingMode });
  try {
    return { tracks: (await devices.getUserMedia({ audio, video })).getTracks(), error: null };
  } catch (error) {
    const chosen = (mic && choice.mic) || (cam && choice.cam);
    if (chosen && error.name === "OverconstrainedError") return attempt(devices, mic, cam, {});
    return { tracks: [], error };
  }
}

function problemOf(error, device) {
  if (!error) return null;
  if (error.name === "NotAllowedError") return device === "camera" ? "camera_denied" : "denied";
  if (error.name === "NotReadableError" || error.name === "AbortError") return `${device}_in_use`;
  return `no_${device}`;
}
