import assert from "node:assert/strict";
import { test } from "node:test";

import { Media, Peer, permitted } from "../../calls/static/calls/peer.js";
import { Clock, settled } from "./fakes.mjs";

// ── a connection without media, which negotiates by the rules of the W3C recommendation ─────────────────────────────

const all = [];

class FakeConnection {
  signalingState = "stable";
  iceConnectionState = "new";
  connectionState = "new";
  localDescription = null;
  remoteDescription = null;
  #transceivers = [];
  #round = 0;
  #needed = false;
  #chain = Promise.resolve();
  candidates = [];
  restarts = 0;

  constructor(config) {
    this.config = config;
    all.push(this);
  }

  addTransceiver(trackOrKind, { direction }) {
    const track = typeof trackOrKind === "string" ? null : trackOrKind;
    this.#add(track?.kind ?? trackOrKind, track, direction);
    this.#need();
  }

  #add(kind, track, direction) {
    const sender = { track, replaceTrack: async (next) => void (sender.track = next) };
    this.#transceivers.push({ direction, sender, receiver: { track: { kind } }, currentDirection: null });
  }

  getTransceivers() {
    return this.#transceivers;
  }

  setConfiguration(config) {
    this.config = config;
  }

  restartIce() {
    this.restarts += 1;
    this.restartedWith = this.config.iceServers;
    this.#need();
  }

  #need() {
    this.#needed = true;
    queueMicrotask(() => this.#askForNegotiation());
  }

  #askForNegotiation() {
    if (!this.#needed || this.signalingState !== "stable" || !this.onnegotiationneeded) return;
    this.#needed = false;
    this.onnegotiationneeded();
  }

  #inTurn(step) {
    const result = this.#chain.then(step);
    this.#chain = result.catch(() => {});
    return result;
  }

  setLocalDescription() {
    return this.#inTurn(async () => {
      if (this.signalingState === "closed") throw new Error("closed");
      await null;
      const kinds = this.#transceivers.map((one) => one.receiver.track.kind).join(",");
      this.#round += 1;
      if (this.signalingState === "have-remote-offer") {
        this.localDescription = { type: "answer", sdp: `${kinds} ${this.#round}` };
        this.signalingState = "stable";
        if (this.#needed) queueMicrotask(() => this.#askForNegotiation());
      } else {
        this.localDescription = { type: "offer", sdp: `${kinds} ${this.#round}` };
        this.signalingState = "have-local-offer";
      }
    });
  }

  setRemoteDescription(description) {
    return this.#inTurn(async () => {
      if (this.signalingState === "closed") throw new Error("closed");
      await null;
      if (description.type === "offer") {
        if (this.signalingState === "have-local-offer") this.#needed = true; // rolled back: it has to offer again
        this.signalingState = "have-remote-offer";
        const kinds = description.sdp.split(" ")[0].split(",");
        for (const kind of kinds.slice(this.#transceivers.length)) this.#add(kind, null, "recvonly");
      } else {
        if (this.signalingState !== "have-local-offer") throw new Error("an answer without an offer");
        this.signalingState = "stable";
        if (this.#needed) queueMicrotask(() => this.#askForNegotiation());
      }
      this.remoteDescription = description;
    });
  }

  async addIceCandidate(candidate) {
    if (!this.remoteDescription) throw new Error("no description");
    this.candidates.push(candidate.candidate);
  }

  close() {
    this.signalingState = "closed";
  }

  // What the network does.
  found(candidate) {
    this.onicecandidate({ candidate: { toJSON: () => ({ candidate }) } });
  }

  become(state) {
    this.iceConnectionState = state;
    this.connectionState = state === "completed" ? "connected" : state;
    this.oniceconnectionstatechange?.();
    this.onconnectionstatechange?.();
  }
}

// Two sides facing each other; `line.up = false` loses what is sent, `line.log` has what was sent.
function pair({ caller = {}, callee = {}, kinds = ["audio", "video"], epochs = [1, 1] } = {}) {
  const clock = new Clock();
  const line = { up: true, log: [] };
  const sides = {};
  all.length = 0;
  const make = (name, other, polite, epoch, theirEpoch, options) => {
    sides[name] = new Peer({
      epoch, theirEpoch, polite, kinds, ice: () => [], timers: clock, RTCPeerConnection: FakeConnection, onChange() {},
      send(body) {
        line.log.push([name, body]);
        if (!line.up) return;
        const copy = JSON.parse(JSON.stringify(body));
        queueMicrotask(() => sides[other]?.accept(copy));
      },
      ...options,
    });
    return all.at(-1);
  };
  const a = make("caller", "callee", false, epochs[0], epochs[1], caller);
  const b = make("callee", "caller", true, epochs[1], epochs[0], callee);
  const descriptions = () => line.log.filter(([, body]) => body.description).map(([who, body]) => `${who} ${body.description.type}`);
  return { clock, line, ...sides, a, b, descriptions };
}

const track = (kind) => ({ kind });

test("one offer and one answer settle it, and the caller offers", async () => {
  const { clock, a, b, descriptions } = pair();
  await clock.pass(0);
  assert.deepEqual(descriptions(), ["caller offer", "callee answer"]);
  assert.deepEqual([a.signalingState, b.signalingState], ["stable", "stable"]);
  await clock.pass(60_000);
  assert.equal(descriptions().length, 2);
});

test("both send and receive every kind, whether they have a track for it or not", async () => {
  const { clock, a, b } = pair({ caller: { tracks: { audio: track("audio"), video: null } }, callee: { tracks: { audio: track("audio"), video: track("video") } } });
  await clock.pass(0);
  for (const side of [a, b]) {
    assert.deepEqual(side.getTransceivers().map((one) => [one.receiver.track.kind, one.direction]), [["audio", "sendrecv"], ["video", "sendrecv"]]);
  }
  assert.deepEqual(b.getTransceivers().map((one) => one.sender.track?.kind), ["audio", "video"]);
});

test("a camera that comes later is a replaced track, with nothing to negotiate", async () => {
  const { clock, callee, b, descriptions } = pair({ callee: { tracks: { audio: track("audio"), video: null } } });
  await clock.pass(0);
  const camera = track("video");
  await callee.setTrack("video", camera);
  await clock.pass(1000);
  assert.equal(b.getTransceivers()[1].sender.track, camera);
  assert.equal(descriptions().length, 2);
});

test("a track that came before the first offer is sent from the start", async () => {
  const { clock, callee, b } = pair();
  const camera = track("video");
  callee.setTrack("video", camera);
  await clock.pass(0);
  assert.equal(b.getTransceivers()[1].sender.track, camera);
});

test("an audio call has no picture", async () => {
  const { clock, b } = pair({ kinds: ["audio"] });
  await clock.pass(0);
  assert.deepEqual(b.getTransceivers().map((one) => one.receiver.track.kind), ["audio"]);
});

test("every body carries both epochs", async () => {
  const { clock, line, a } = pair({ epochs: [3, 5] });
  await clock.pass(0);
  a.found("x");
  await clock.pass(100);
  for (const [who, body] of line.log) assert.deepEqual([body.epoch, body.to_epoch], who === "caller" ? [3, 5] : [5, 3]);
});

test("what belongs to another epoch, of either side, changes nothing", async () => {
  const { clock, callee, b } = pair({ epochs: [2, 2] });
  await clock.pass(0);
  const before = b.remoteDescription;
  for (const [epoch, to_epoch] of [[1, 2], [2, 1], [3, 2], [2, 3], [undefined, 2], [2, undefined]]) {
    callee.accept({ epoch, to_epoch, description: { type: "offer", sdp: "audio 9" }, offer: 9 });
    callee.accept({ epoch, to_epoch, candidates: [{ candidate: "stale" }] });
  }
  callee.accept(null);
  await clock.pass(0);
  assert.equal(b.remoteDescription, before);
  assert.deepEqual(b.candidates, []);
});

test("when offers cross, the callee gives way and both end with the same pair", async () => {
  const { clock, caller, callee, a, b } = pair();
  await clock.pass(0);
  caller.restart();
  callee.restart();
  await clock.pass(30_000);
  assert.deepEqual([a.signalingState, b.signalingState], ["stable", "stable"]);
  const lastOffer = a.localDescription.type === "offer" ? a : b;
  const other = lastOffer === a ? b : a;
  assert.deepEqual(other.remoteDescription, lastOffer.localDescription);
  assert.deepEqual(lastOffer.remoteDescription, other.localDescription);
});

test("crossing offers settle however often they cross", async () => {
  const { clock, caller, callee, a, b } = pair();
  await clock.pass(0);
  for (let n = 0; n < 8; n += 1) {
    callee.restart();
    if (n % 2) await settled();
    caller.restart();
  }
  await clock.pass(60_000);
  assert.deepEqual([a.signalingState, b.signalingState], ["stable", "stable"]);
});

test("a lost offer is made again after 2 s", async () => {
  const { clock, line, a, b } = pair();
  line.up = false;
  await clock.pass(1999);
  assert.equal(b.remoteDescription, null);
  line.up = true;
  await clock.pass(1);
  assert.deepEqual([a.signalingState, b.signalingState], ["stable", "stable"]);
});

test("a lost answer: the offer is made again and answered again", async () => {
  const { clock, line, caller, a, b, descriptions } = pair();
  const accept = caller.accept;
  caller.accept = () => {};
  await clock.pass(0);
  assert.equal(a.signalingState, "have-local-offer");
  caller.accept = accept;
  await clock.pass(2000);
  assert.deepEqual(descriptions(), ["caller offer", "callee answer", "caller offer", "callee answer"]);
  assert.deepEqual([a.signalingState, b.signalingState], ["stable", "stable"]);
  assert.ok(line.up);
});

test("the answer to an offer that was made again meanwhile is not taken for the answer to the new one", async () => {
  const { clock, line, caller, a } = pair();
  line.up = false;
  await clock.pass(2000); // offers 1 and 2
  caller.accept({ epoch: 1, to_epoch: 1, description: { type: "answer", sdp: "audio,video 1" }, offer: 1 });
  await settled();
  assert.equal(a.signalingState, "have-local-offer");
  caller.accept({ epoch: 1, to_epoch: 1, description: { type: "answer", sdp: "audio,video 2" }, offer: 2 });
  await settled();
  assert.equal(a.signalingState, "stable");
});

test("offers without an answer are repeated ever more rarely, up to 15 s", async () => {
  const { clock, line } = pair();
  line.up = false;
  const times = [];
  line.log.push = (entry) => (times.push(clock.now), Array.prototype.push.call(line.log, entry));
  await clock.pass(45_000);
  assert.deepEqual(times, [0, 2000, 6000, 14_000, 29_000, 44_000]);
});

test("when signals can pass again, what may be lost is repeated at once", async () => {
  const { clock, line, caller, a } = pair();
  line.up = false;
  await clock.pass(100);
  line.up = true;
  caller.repeat();
  await clock.pass(0);
  assert.equal(a.signalingState, "stable");
});

test("candidates go out in batches, the first at once, the others after a tenth of a second", async () => {
  const { clock, line, a, b } = pair();
  const batches = () => line.log.filter(([, body]) => body.candidates).length;
  await clock.pass(0);
  for (const one of ["x", "y", "z"]) a.found(one);
  a.onicecandidate({ candidate: null });
  await clock.pass(20);
  assert.deepEqual(b.candidates, ["x", "y", "z"]);
  assert.equal(batches(), 1);
  a.found("late");
  await clock.pass(99);
  assert.equal(batches(), 1);
  await clock.pass(1);
  assert.deepEqual(b.candidates, ["x", "y", "z", "late"]);
});

test("many candidates do not make one huge signal", async () => {
  const { clock, line, a, b } = pair();
  await clock.pass(0);
  for (let n = 0; n < 45; n += 1) a.found(`c${n}`);
  await clock.pass(100);
  assert.deepEqual(line.log.filter(([, body]) => body.candidates).map(([, body]) => body.candidates.length), [20, 20, 5]);
  assert.equal(b.candidates.length, 45);
});

test("candidates that come before the description wait for it", async () => {
  const { clock, line, callee, b } = pair();
  line.up = false;
  await settled();
  callee.accept({ epoch: 1, to_epoch: 1, candidates: [{ candidate: "early" }] });
  await settled();
  assert.deepEqual(b.candidates, []);
  line.up = true;
  await clock.pass(2000);
  assert.deepEqual(b.candidates, ["early"]);
});

test("a candidate that does not fit costs nothing", async () => {
  const { clock, callee, b } = pair();
  await clock.pass(0);
  b.addIceCandidate = async (one) => {
    if (one.candidate === "bad") throw new Error("unknown ufrag");
    b.candidates.push(one.candidate);
  };
  callee.accept({ epoch: 1, to_epoch: 1, candidates: [{ candidate: "bad" }, { candidate: "good" }] });
  await settled();
  assert.deepEqual(b.candidates, ["good"]);
});

test("failed: both sides restart at once, and end with the same pair", async () => {
  const { clock, a, b } = pair();
  await clock.pass(0);
  a.become("failed");
  b.become("failed");
  await clock.pass(0);
  assert.deepEqual([a.restarts, b.restarts], [1, 1]);
  await clock.pass(1000);
  assert.deepEqual([a.signalingState, b.signalingState], ["stable", "stable"]);
});

test("disconnected: it may heal within 2 s, and nothing happens when it does", async () => {
  const { clock, a } = pair();
  await clock.pass(0);
  a.become("disconnected");
  await clock.pass(1999);
  assert.equal(a.restarts, 0);
  a.become("connected");
  await clock.pass(60_000);
  assert.equal(a.restarts, 0);
});

test("disconnected for longer: restarted again and again until it is up", async () => {
  const { clock, a } = pair();
  await clock.pass(0);
  a.become("disconnected");
  await clock.pass(2000);
  assert.equal(a.restarts, 1);
  await clock.pass(4000);
  assert.equal(a.restarts, 2);
  a.become("connected");
  await clock.pass(60_000);
  assert.equal(a.restarts, 2);
});

test("a restart asks the relay with the password of now", async () => {
  let password = "first";
  const ice = () => [{ urls: "turn:relay", credential: password }];
  const { clock, a, b } = pair({ caller: { ice }, callee: { ice } });
  await clock.pass(100);
  assert.equal(a.config.iceServers[0].credential, "first");
  password = "second";
  a.become("failed");
  await clock.pass(100);
  assert.deepEqual([a.restarts, a.restartedWith[0].credential, a.config.bundlePolicy], [1, "second", "max-bundle"]);
  assert.deepEqual([b.restarts, b.config.iceServers[0].credential], [0, "second"]); // who answers gathers anew too
});

test("the link is told in one word", async () => {
  const { clock, a, caller } = pair();
  await clock.pass(0);
  assert.equal(caller.link, "connecting");
  a.become("connected");
  assert.equal(caller.link, "up");
  a.become("disconnected");
  assert.equal(caller.link, "down");
});

test("a closed connection sends nothing, hears nothing and leaves no timer", async () => {
  const { clock, line, caller, callee, a } = pair();
  line.up = false;
  await settled();
  a.become("failed");
  caller.close();
  callee.close();
  const sent = line.log.length;
  caller.accept({ epoch: 1, to_epoch: 1, description: { type: "offer", sdp: "audio 1" } });
  caller.restart();
  caller.repeat();
  await clock.pass(60_000);
  assert.equal(line.log.length, sent);
  assert.equal(clock.pending, 0);
});

// ── microphone and camera ───────────────────────────────────────────────────────────────────────────────────────────

// `has` says for each device: true, or the name of the error that opening it gives.
function devices(has) {
  const opened = [];
  return {
    opened,
    async getUserMedia({ audio, video }) {
      const kinds = [audio && "audio", video && "video"].filter(Boolean);
      const fault = kinds.map((kind) => has[kind]).find((state) => state !== true);
      if (fault) throw Object.assign(new Error(fault), { name: fault });
      const tracks = kinds.map((kind) => ({ kind, enabled: true, live: true, stop() { this.live = false; } }));
      opened.push(...tracks);
      return { getTracks: () => tracks };
    },
  };
}

async function opened(has, wish = { mic: true, cam: true }) {
  const heard = [];
  const media = new Media({ devices: has && devices(has), onTrack: (kind, one) => heard.push([kind, one !== null]) });
  await media.open(wish);
  return { media, heard };
}

for (const [what, has, expected] of [
  ["both", { audio: true, video: true }, [true, true, null]],
  ["no camera", { audio: true, video: "NotFoundError" }, [true, false, "no_camera"]],
  ["camera blocked", { audio: true, video: "NotAllowedError" }, [true, false, "camera_denied"]],
  ["camera in use", { audio: true, video: "NotReadableError" }, [true, false, "camera_in_use"]],
  ["no microphone", { audio: "NotFoundError", video: true }, [false, true, "no_microphone"]],
  ["microphone in use", { audio: "NotReadableError", video: true }, [false, true, "microphone_in_use"]],
  ["nothing at all", { audio: "NotFoundError", video: "NotFoundError" }, [false, false, "no_microphone"]],
  ["everything blocked", { audio: "NotAllowedError", video: "NotAllowedError" }, [false, false, "denied"]],
  ["no secure page", null, [false, false, "insecure"]],
]) {
  test(`a call goes on with what there is: ${what}`, async () => {
    const media = new Media({ devices: has ? devices(has) : {}, onTrack() {} });
    await media.open({ mic: true, cam: true });
    assert.deepEqual([media.sendsAudio, media.sendsVideo, media.problem], expected);
  });
}

test("an audio call does not touch the camera", async () => {
  const { heard } = await opened({ audio: true, video: true }, { mic: true, cam: false });
  assert.deepEqual(heard, [["audio", true]]);
});

test("muted before it opened, the microphone opens muted", async () => {
  const { media } = await opened({ audio: true, video: true }, { mic: false, cam: false });
  assert.equal(media.tracks.audio.enabled, false);
  assert.equal(media.sendsAudio, false);
});

test("muting keeps the microphone, switching the camera off lets it go", async () => {
  const { media, heard } = await opened({ audio: true, video: true });
  const { audio, video } = media.tracks;
  await media.setMic(false);
  assert.deepEqual([audio.enabled, audio.live], [false, true]);
  await media.setCam(false);
  assert.equal(video.live, false);
  assert.deepEqual(heard.at(-1), ["video", false]);
  await media.setCam(true);
  assert.deepEqual([heard.at(-1), media.sendsVideo], [["video", true], true]);
});

test("a camera that cannot be opened is off, whatever was asked", async () => {
  const { media } = await opened({ audio: true, video: "NotFoundError" }, { mic: true, cam: false });
  await media.setCam(true);
  assert.deepEqual([media.cam, media.problem], [false, "no_camera"]);
});

test("closed while they open, the devices are let go at once", async () => {
  const found = devices({ audio: true, video: true });
  const heard = [];
  const media = new Media({ devices: found, onTrack: (kind) => heard.push(kind) });
  const opening = media.open({ mic: true, cam: true });
  media.close();
  await opening;
  assert.deepEqual(found.opened.map((one) => one.live), [false, false]);
  assert.deepEqual(heard, []);
});

test("a microphone that is pulled out is replaced by another", async () => {
  const { media } = await opened({ audio: true, video: true });
  const first = media.tracks.audio;
  first.onended();
  await settled();
  assert.notEqual(media.tracks.audio, first);
  assert.ok(media.sendsAudio);
});

test("a microphone that was pulled out, and is plugged in again, is heard again", async () => {
  const has = { audio: true, video: true };
  const { media, heard } = await opened(has);
  has.audio = "NotFoundError";
  media.tracks.audio.onended();
  await settled();
  assert.deepEqual([media.sendsAudio, media.speaks, media.problem], [false, false, "no_microphone"]);
  await media.setCam(false); // what becomes of the camera says nothing of the microphone
  await media.setCam(true);
  await media.mend();
  assert.equal(media.sendsAudio, false);
  has.audio = true;
  await media.mend();
  assert.deepEqual([media.sendsAudio, media.speaks, heard.at(-1)], [true, true, ["audio", true]]);
});

test("who had no microphone is not heard for having plugged one in, until the button is pressed", async () => {
  const has = { audio: "NotFoundError", video: true };
  const { media } = await opened(has);
  has.audio = true;
  await media.mend();
  assert.deepEqual([media.tracks.audio, media.speaks], [null, false]);
  await media.setMic(!media.speaks);
  assert.equal(media.sendsAudio, true);
});

test("nobody is asked again for a microphone that was refused, until it is chosen or switched on", async () => {
  for (const ask of [(media) => media.change("audio"), (media) => media.setMic(!media.speaks)]) {
    const has = { audio: "NotAllowedError", video: true };
    const { media } = await opened(has, { mic: true, cam: false });
    has.audio = true;
    await media.mend();
    assert.deepEqual([media.speaks, media.sendsAudio], [false, false]);
    await ask(media);
    assert.deepEqual([media.speaks, media.sendsAudio], [true, true]);
  }
});

test("while the microphone opens, the button mutes", async () => {
  const media = new Media({ devices: devices({ audio: true, video: true }), onTrack() {} });
  const opening = media.open({ mic: true, cam: false });
  assert.equal(media.speaks, true);
  const presses = [1, 2, 3].map(() => media.setMic(!media.speaks));
  await Promise.all([opening, ...presses]);
  assert.deepEqual([media.speaks, media.sendsAudio, media.tracks.audio.enabled], [false, false, false]);
});

test("it knows whether the browser is going to ask", async () => {
  const permissions = (states) => ({ query: async ({ name }) => ({ state: states[name] }) });
  assert.ok(await permitted(true, permissions({ microphone: "granted", camera: "granted" })));
  assert.ok(!(await permitted(true, permissions({ microphone: "granted", camera: "prompt" }))));
  assert.ok(await permitted(false, permissions({ microphone: "granted", camera: "prompt" })));
  assert.ok(!(await permitted(false, { query: () => Promise.reject(new TypeError("unknown name")) })));
});
