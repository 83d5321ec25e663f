// The ring tones, and how this device rings: pure, but for the storage it is given. A tone schedules all its notes, with
// their ends, on the audio clock.

export const TONES = { chime, classic, marimba, pulse };

// {tone, volume 0…1, silent}, as this device's settings have it.
export function ringing(storage = globalThis.localStorage) {
  const kept = (key) => {
    try {
      return storage.getItem(key);
    } catch {
      return null; // storage is forbidden: as it came
    }
  };
  const volume = Number(kept("ring.volume") ?? 100);
  return {
    tone: TONES[kept("ring.tone")] ? kept("ring.tone") : "chime",
    volume: volume >= 0 && volume <= 100 ? volume / 100 : 1,
    silent: kept("ring.silent") === "1",
  };
}

// Three rising notes, twice, then rest: soft enough to live with, high enough to be heard in the next room.
function chime(context, out, from, seconds) {
  for (let start = 0; start + 1.2 < seconds; start += 3) {
    for (const repeat of [0, 0.62]) {
      [659.26, 830.61, 987.77].forEach((pitch, i) => bell(context, out, pitch, from + start + repeat + i * 0.13));
    }
  }
}

// Two bells that beat against each other, as telephones had.
function classic(context, out, from, seconds) {
  for (let start = 0; start + 1 < seconds; start += 4) {
    for (let at = 0; at < 1; at += 0.08) {
      note(context, out, { pitch: Math.round(at / 0.08) % 2 ? 784 : 932.33, at: from + start + at, length: 0.08, level: 0.12, fade: 0.03 });
    }
  }
}

function marimba(context, out, from, seconds) {
  for (let start = 0; start + 1.6 < seconds; start += 3.2) {
    [523.25, 659.26, 783.99, 1046.5, 783.99, 1046.5].forEach((pitch, i) => {
      note(context, out, { pitch, at: from + start + i * 0.2, length: 0.3, level: 0.2, fade: 0.28 });
    });
  }
}

// Low and short, for an office.
function pulse(context, out, from, seconds) {
  for (let start = 0; start + 0.7 < seconds; start += 3) {
    for (const at of [0, 0.3]) note(context, out, { pitch: 440, at: from + start + at, length: 0.2, level: 0.14, fade: 0.1 });
  }
}

export function bell(context, out, pitch, at) {
  note(context, out, { pitch, at, length: 0.5, level: 0.16, fade: 0.45 });
  note(context, out, { pitch: pitch * 2, at, length: 0.25, level: 0.04, fade: 0.22 });
}

export function note(context, out, { pitch, at, length, level, fade }) {
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
