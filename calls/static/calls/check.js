// Looking and listening before others do: this device's camera and microphone, while their dialog is open.

const LOOK_MS = 80;

export class Check {
  #Media;
  #choice;
  #timers;
  #onLevel;
  #onChange;
  #media = null;
  #meter = null;
  #borrowed = false;

  // choice() → {mic, cam} · onLevel(0…1): what the microphone hears · onChange(): the preview or the problem changed
  constructor({ Media, choice, timers, onLevel, onChange }) {
    Object.assign(this, { preview: null });
    this.#Media = Media;
    this.#choice = choice;
    this.#timers = timers;
    this.#onLevel = onLevel;
    this.#onChange = onChange;
  }

  get isOpen() {
    return this.#media !== null;
  }

  // True when it looks at devices that are in use no longer: the call is over.
  outlived(inUse) {
    return this.#borrowed && this.#media !== null && this.#media !== inUse;
  }

  get problem() {
    return this.#media?.problem ?? null;
  }

  // Opens the devices, or looks at those that a call has open already.
  async open(inUse = null) {
    this.close();
    this.#borrowed = inUse !== null;
    const media = inUse ?? new this.#Media({ choice: this.#choice, onTrack: () => this.#media === media && this.look() });
    this.#media = media;
    if (!this.#borrowed) await media.open({ mic: true, cam: true });
    if (this.#media === media) this.look();
  }

  // Another device was preferred.
  async change(kind) {
    if (!this.#borrowed) await this.#media?.change(kind);
    if (this.#media) this.look();
  }

  close() {
    this.#meter?.stop();
    this.#meter = null;
    if (!this.#borrowed) this.#media?.close();
    this.#media = null;
    this.#borrowed = false;
    this.preview = null;
  }

  // Follows the tracks that are open now.
  look() {
    const { audio, video } = this.#media.tracks;
    if (this.preview?.getTracks()[0] !== (video ?? undefined)) this.preview = video && new MediaStream([video]);
    if (this.#meter?.track !== audio) {
      this.#meter?.stop();
      this.#meter = audio && meter(audio, this.#timers, this.#onLevel);
    }
    this.#onChange();
  }
}

// Tells the level of a track again and again, until it is stopped.
function meter(track, timers, onLevel) {
  const context = new AudioContext();
  const analyser = new AnalyserNode(context, { fftSize: 1024 });
  context.createMediaStreamSource(new MediaStream([track])).connect(analyser);
  const wave = new Float32Array(analyser.fftSize);
  let running = true;
  const look = () => {
    if (!running) return;
    analyser.getFloatTimeDomainData(wave);
    onLevel(loudness(wave));
    timers.setTimeout(look, LOOK_MS);
  };
  look();
  const stop = () => {
    running = false;
    context.close();
    onLevel(0);
  };
  return { track, stop };
}

// From samples to 0…1: silence (−60 dB) to as loud as it gets, in equal steps for the ear.
export function loudness(wave) {
  const power = wave.reduce((sum, one) => sum + one * one, 0) / wave.length;
  return power > 0 ? Math.min(1, Math.max(0, 1 + (10 * Math.log10(power)) / 60)) : 0;
}
