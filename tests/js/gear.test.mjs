import assert from "node:assert/strict";
import { test } from "node:test";

import { loudness } from "../../calls/static/calls/check.js";
import { Gear } from "../../calls/static/calls/gear.js";
import { Media } from "../../calls/static/calls/peer.js";

function storage() {
  const kept = new Map();
  return { getItem: (key) => kept.get(key) ?? null, setItem: (key, value) => kept.set(key, value) };
}

const devices = (...list) => ({ enumerateDevices: async () => list.map(([kind, deviceId]) => ({ kind, deviceId, label: deviceId })) });

test("what was chosen is remembered in this browser", async () => {
  const kept = storage();
  const there = devices(["audioinput", "headset"], ["videoinput", "front"], ["videoinput", "back"]);
  const gear = new Gear({ onChange() {}, devices: there, storage: kept });
  gear.choose("mic", "headset");
  gear.choose("cam", "back");
  const again = new Gear({ onChange() {}, devices: there, storage: kept });
  await again.look();
  assert.deepEqual(again.choice, { mic: "headset", cam: "back" });
  again.choose("cam", "");
  assert.deepEqual(again.choice, { mic: "headset" });
});

test("a device that was pulled out is not asked for, and counts again when it is back", async () => {
  let there = [["audioinput", "built-in"]];
  const gear = new Gear({ onChange() {}, devices: { enumerateDevices: () => devices(...there).enumerateDevices() }, storage: storage() });
  gear.choose("mic", "headset");
  await gear.look();
  assert.deepEqual(gear.choice, {});
  there = [["audioinput", "built-in"], ["audioinput", "headset"]];
  await gear.look();
  assert.deepEqual(gear.choice, { mic: "headset" });
});

test("it says when something was plugged in, and knows by then what", async () => {
  const plug = new EventTarget();
  plug.enumerateDevices = devices(["audioinput", "headset"]).enumerateDevices;
  const found = await new Promise((resolve) => {
    const gear = new Gear({ onChange() {}, onPlugged: () => resolve(gear.found.mic), devices: plug, storage: storage() });
    plug.dispatchEvent(new Event("devicechange"));
  });
  assert.deepEqual(found, [{ id: "headset", name: "headset" }]);
});

test("the next camera follows the one in use, and the first follows the last", async () => {
  const gear = new Gear({ onChange() {}, devices: devices(["videoinput", "front"], ["videoinput", "back"]), storage: storage() });
  await gear.look();
  assert.equal(gear.nextCamera("front"), "back");
  assert.equal(gear.nextCamera("back"), "front");
});

test("storage that is forbidden is no reason to fail", () => {
  const gear = new Gear({ onChange() {}, devices: undefined, storage: undefined });
  gear.choose("mic", "headset");
  assert.deepEqual(gear.choice, { mic: "headset" });
});

test("loudness grows with the sound, from nothing to one", () => {
  const wave = (level) => new Float32Array(64).fill(level);
  assert.equal(loudness(wave(0)), 0);
  assert.equal(loudness(wave(1)), 1);
  assert.ok(loudness(wave(0.01)) > 0 && loudness(wave(0.01)) < loudness(wave(0.1)));
});

// ── what a call takes from the devices ──────────────────────────────────────────────────────────────────────────────

function openable() {
  const asked = [];
  const track = (kind, id) => ({ kind, id, enabled: true, stopped: false, stop() { this.stopped = true; }, getSettings: () => ({ deviceId: id }) });
  const stream = (...tracks) => ({ getTracks: () => tracks, getVideoTracks: () => tracks.filter((one) => one.kind === "video") });
  return {
    asked,
    async getUserMedia({ audio, video }) {
      const [mic, cam] = [audio, video].map((one) => one && one.deviceId?.exact);
      asked.push({ mic, cam });
      if (this.gone?.includes(mic) || this.gone?.includes(cam)) throw new DOMException("not there", "OverconstrainedError");
      return stream(...(audio ? [track("audio", mic)] : []), ...(video ? [track("video", cam)] : []));
    },
    async getDisplayMedia() {
      return stream(track("video", "screen"));
    },
  };
}

test("the devices that are preferred are asked for, and another choice takes effect in the call", async () => {
  const there = openable();
  const choice = { mic: "headset", cam: "front" };
  const sent = [];
  const media = new Media({ devices: there, choice: () => choice, onTrack: (kind, track) => sent.push([kind, track?.id]) });
  await media.open({ mic: true, cam: true });
  assert.deepEqual(there.asked, [{ mic: "headset", cam: "front" }]);
  const front = media.tracks.video;
  choice.cam = "back";
  await media.change("video");
  assert.deepEqual(sent.at(-1), ["video", "back"]);
  assert.equal(front.stopped, true);
  assert.equal(media.cam, true);
});

test("a device that was chosen and is gone is replaced by what there is", async () => {
  const there = { ...openable(), gone: ["headset"] };
  const media = new Media({ devices: there, choice: () => ({ mic: "headset" }), onTrack() {} });
  await media.open({ mic: true, cam: true });
  assert.deepEqual(there.asked, [{ mic: "headset", cam: undefined }, { mic: undefined, cam: undefined }]);
  assert.deepEqual([media.sendsAudio, media.sendsVideo, media.problem], [true, true, null]);
});

test("another microphone stays muted when the first was", async () => {
  const media = new Media({ devices: openable(), onTrack() {} });
  await media.open({ mic: true, cam: false });
  await media.setMic(false);
  await media.change("audio");
  assert.equal(media.tracks.audio.enabled, false);
});

test("the screen takes the camera's place, and gives it back", async () => {
  const sent = [];
  const media = new Media({ devices: openable(), choice: () => ({ cam: "front" }), onTrack: (kind, track) => sent.push([kind, track?.id]) });
  await media.open({ mic: true, cam: true });
  const camera = media.tracks.video;
  assert.equal(await media.share(), true);
  assert.deepEqual([media.tracks.video.id, media.screen, camera.stopped, media.mirrored], ["screen", true, true, false]);
  await media.unshare();
  assert.deepEqual([media.tracks.video.id, media.screen, media.cam], ["front", false, true]);
});

test("the screen is sent from an audio call, and ends with the browser's own button", async () => {
  const media = new Media({ devices: openable(), onTrack() {} });
  await media.open({ mic: true, cam: false });
  await media.share();
  assert.deepEqual([media.sendsVideo, media.cam], [true, false]);
  await media.tracks.video.onended();
  assert.deepEqual([media.sendsVideo, media.tracks.video], [false, null]);
});

test("a person who thinks better of sharing keeps the camera", async () => {
  const there = openable();
  there.getDisplayMedia = async () => {
    throw new DOMException("no", "NotAllowedError");
  };
  const media = new Media({ devices: there, onTrack() {} });
  await media.open({ mic: true, cam: true });
  assert.equal(await media.share(), false);
  assert.deepEqual([media.screen, media.tracks.video.kind], [false, "video"]);
});
