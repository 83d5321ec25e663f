// Ring and ring-back tones, made by WebAudio. Every tone is scheduled whole, with its end, on the audio clock: it needs
// no timer that a hidden tab would starve, and nothing can make it go on for ever. One tab of a browser makes the sound.

import { note, ringing, TONES } from "./tones.js";

const LOCK = "calls:sound";
const RINGBACK_EVERY_S = 4;
const WAITING_EVERY_S = 5;
const HELD_EVERY_S = 10;

export class Sounds {
  #context = null;
  #playing = null; // {key, stop}
  #sample = null; // ends the ring that is only tried
  #onBlocked;
  #options;

  // onBlocked(blocked): the browser forbids sound until the person has touched the page, or allows it again
  constructor(onBlocked, { AudioContext = globalThis.AudioContext, locks = globalThis.navigator?.locks } = {}) {
    this.#onBlocked = onBlocked;
    this.#options = { AudioContext, locks };
  }

  // Rings for at most `seconds`, as this device's settings say; not at all when they say silent. Calls onAudible() if and
  // when this tab is the one that is heard.
  ring(key, seconds, onAudible = () => {}) {
    const { tone, volume, silent } = ringing();
    this.#sample?.abort();
    if (silent) return this.silence();
    const begin = (signal) => this.#start(signal, TONES[tone], seconds, onAudible, volume);
    this.#play(key, (signal) => this.#alone(signal, () => begin(signal)));
  }

  // A call that waits while another goes on.
  waiting(key, seconds, onAudible = () => {}) {
    if (ringing().silent) return this.silence();
    this.#sample?.abort();
    const begin = (signal) => this.#start(signal, callWaiting, seconds, onAudible);
    this.#play(`waiting ${key}`, (signal) => this.#alone(signal, () => begin(signal)));
  }

  // The other side has put the call on hold.
  onHold(key, seconds) {
    this.#play(`held ${key}`, (signal) => this.#start(signal, held, seconds));
  }

  ringBack(key, seconds) {
    this.#play(key, (signal) => this.#start(signal, ringingBack, seconds));
  }

  // Finds out, before anybody calls, whether this page may sound.
  async probe() {
    if (!this.#options.AudioContext) return;
    const context = this.#ready();
    const moment = new Promise((resolve) => setTimeout(resolve, 500));
    if (context.state !== "running") await Promise.race([context.resume().catch(() => {}), moment]);
    if (context.state !== "running") this.#onBlocked(true);
  }

  // Rings once as it would, to try it.
  async test() {
    await this.unlock();
    const { tone, volume } = ringing();
    this.#sample?.abort();
    this.#sample = new AbortController();
    this.#start(this.#sample.signal, TONES[tone], 2.5, () => {}, volume);
  }

  // A short sign that a call is over.
  ended() {
    this.silence();
    this.#start(new AbortController().signal, ending, 1);
  }

  silence() {
    this.#playing?.stop();
    this.#playing = null;
  }

  // Sounds come out of this speaker, where the browser can choose; "" is its own choice.
  async speaker(id) {
    if (!this.#options.AudioContext?.prototype.setSinkId) return;
    await this.#ready().setSinkId(id).catch(() => {}); // it is not there any more
  }

  // To be called from a click or a key: browsers allow sound from then on.
  async unlock() {
    if (!this.#options.AudioContext) return;
    await this.#ready().resume();
    this.#onBlocked(false);
  }

  // The same key again is the same sound, still playing.
  #play(key, begin) {
    if (this.#playing?.key === key) return;
    this.silence();
    const abort = new AbortController();
    this.#playing = { key, stop: () => abort.abort() };
    begin(abort.signal);
  }

  // Holds the browser-wide lock for as long as the sound may play; whoever waits for it sounds when this one stops.
  #alone(signal, begin) {
    if (!this.#options.locks) return begin();
    this.#options.locks
      .request(LOCK, { signal }, async () => {
        begin();
        await new Promise((resolve) => signal.addEventListener("abort", resolve, { once: true }));
      })
      .catch(() => {}); // stopped before it was its turn
  }

  async #start(signal, tones, seconds, onAudible = () => {}, volume = 1) {
    if (!this.#options.AudioContext) return;
    const context = this.#ready();
    const asked = performance.now();
    if (context.state !== "running") {
      this.#onBlocked(true);
      await context.resume().catch(() => {}); // settles when the person touches the page, maybe long after
      this.#onBlocked(false);
    }
    if (signal.aborted) return;
    const out = context.createGain();
    out.gain.value = volume;
    out.connect(context.destination);
    tones(context, out, context.currentTime + 0.05, seconds - (performance.now() - asked) / 1000);
    signal.addEventListener("abort", () => hush(context, out), { once: true });
    onAudible();
  }

  #ready() {
    this.#context ??= new this.#options.AudioContext();
    return this.#context;
  }
}

function hush(context, out) {
  out.gain.setTargetAtTime(0, context.currentTime, 0.015);
  setTimeout(() => out.disconnect(), 150);
}

// What a telephone in most of the world says: 425 Hz, one second in four.
function ringingBack(context, out, from, seconds) {
  for (let start = 0; start + 1 < seconds; start += RINGBACK_EVERY_S) {
    note(context, out, { pitch: 425, at: from + start, length: 1, level: 0.06, fade: 0.03 });
  }
}

// Two short beeps, as telephones say that somebody waits.
function callWaiting(context, out, from, seconds) {
  for (let start = 0; start + 1 < seconds; start += WAITING_EVERY_S) {
    for (const at of [0, 0.3]) note(context, out, { pitch: 425, at: from + start + at, length: 0.18, level: 0.05, fade: 0.04 });
  }
}

// One low, soft note now and then: the line is not dead.
function held(context, out, from, seconds) {
  for (let start = 0; start + 1 < seconds; start += HELD_EVERY_S) {
    note(context, out, { pitch: 330, at: from + start, length: 0.4, level: 0.04, fade: 0.2 });
  }
}

function ending(context, out, from) {
  note(context, out, { pitch: 523.25, at: from, length: 0.14, level: 0.08, fade: 0.05 });
  note(context, out, { pitch: 392, at: from + 0.16, length: 0.22, level: 0.08, fade: 0.12 });
}
