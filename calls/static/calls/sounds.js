// Ring and ring-back tones, made by WebAudio. Every tone is scheduled whole, with its end, on the audio clock: it needs
// no timer that a hidden tab would starve, and nothing can make it go on for ever. One tab of a browser makes the sound.

const LOCK = "calls:sound";
const RING_EVERY_S = 3;
const RINGBACK_EVERY_S = 4;

export class Sounds {
  #context = null;
  #playing = null; // {key, stop}
  #onBlocked;
  #options;

  // onBlocked(blocked): the browser forbids sound until the person has touched the page, or allows it again
  constructor(onBlocked, { AudioContext = globalThis.AudioContext, locks = globalThis.navigator?.locks } = {}) {
    this.#onBlocked = onBlocked;
    this.#options = { AudioContext, locks };
  }

  // Rings for at most `seconds`. Calls onAudible() if and when this tab is the one that is heard.
  ring(key, seconds, onAudible = () => {}) {
    this.#play(key, (signal) => this.#alone(signal, () => this.#start(signal, ringing, seconds, onAudible)));
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

  // Rings once, to try it.
  async test() {
    await this.unlock();
    this.silence();
    this.#start(new AbortController().signal, ringing, 2);
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

  async #start(signal, tones, seconds, onAudible = () => {}) {
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

// Three rising notes, twice, then rest: soft enough to live with, high enough to be heard in the next room.
function ringing(context, out, from, seconds) {
  const notes = [659.26, 830.61, 987.77];
  for (let start = 0; start + 1.2 < seconds; start += RING_EVERY_S) {
    for (const repeat of [0, 0.62]) {
      notes.forEach((pitch, i) => bell(context, out, pitch, from + start + repeat + i * 0.13));
    }
  }
}

// What a telephone in most of the world says: 425 Hz, one second in four.
function ringingBack(context, out, from, seconds) {
  for (let start = 0; start + 1 < seconds; start += RINGBACK_EVERY_S) {
    note(context, out, { pitch: 425, at: from + start, length: 1, level: 0.06, fade: 0.03 });
  }
}

function ending(context, out, from) {
  note(context, out, { pitch: 523.25, at: from, length: 0.14, level: 0.08, fade: 0.05 });
  note(context, out, { pitch: 392, at: from + 0.16, length: 0.22, level: 0.08, fade: 0.12 });
}

function bell(context, out, pitch, at) {
  note(context, out, { pitch, at, length: 0.5, level: 0.16, fade: 0.45 });
  note(context, out, { pitch: pitch * 2, at, length: 0.25, level: 0.04, fade: 0.22 });
}

function note(context, out, { pitch, at, length, level, fade }) {
  const tone = context.createOscillator();
  const volume = context.createGain();
  tone.frequency.value = pitch;
  volume.gain.setValueAtTime(0, at);
  volume.gain.linearRampToValueAtTime(level, at + 0.012);
  volume.gain.setValueAtTime(level, at + length - fade);
  volume.gain.linearRampToValueAtTime(0, at + length);
  tone.connect(volume).connect(out);
  tone.start(at);
  tone.stop(at + length + 0.02);
}
