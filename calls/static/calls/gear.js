// Which microphone, camera and speaker this browser has, and which of them the person prefers: kept in its storage.

const KINDS = { mic: "audioinput", cam: "videoinput", speaker: "audiooutput" };
const KEY = "calls.gear";

export class Gear {
  #devices;
  #storage;
  #onChange;
  #onPlugged;
  #choice;

  found = { mic: [], cam: [], speaker: [] }; // [{id, name}]; names are empty until the browser has given leave

  // onChange(): what there is, or what is chosen · onPlugged(): a device came or went
  constructor({ onChange, onPlugged, devices = globalThis.navigator?.mediaDevices, storage = globalThis.localStorage }) {
    this.#devices = devices;
    this.#storage = storage;
    this.#onChange = onChange;
    this.#onPlugged = onPlugged;
    this.#choice = this.#read();
    devices?.addEventListener?.("devicechange", () => this.#plugged());
  }

  // {mic, cam, speaker}: ids; absent where the browser shall choose, or the device is not there now.
  get choice() {
    const there = ([kind, id]) => this.found[kind]?.length === 0 || this.found[kind]?.some((one) => one.id === id);
    return Object.fromEntries(Object.entries(this.#choice).filter(there));
  }

  // Asks the browser what there is.
  async look() {
    const all = (await this.#devices?.enumerateDevices?.().catch(() => [])) ?? [];
    for (const [kind, name] of Object.entries(KINDS)) {
      const those = all.filter((one) => one.kind === name && one.deviceId);
      this.found[kind] = those.map((one) => ({ id: one.deviceId, name: one.label }));
    }
    this.#onChange();
  }

  async #plugged() {
    await this.look();
    this.#onPlugged();
  }

  // kind: mic, cam or speaker; id "" leaves it to the browser again.
  choose(kind, id) {
    if (id) this.#choice[kind] = id;
    else delete this.#choice[kind];
    try {
      this.#storage.setItem(KEY, JSON.stringify(this.#choice));
    } catch {
      // storage is forbidden: it holds as long as the page
    }
    this.#onChange();
  }

  // The next camera after the one in use.
  nextCamera(used) {
    const ids = this.found.cam.map((one) => one.id);
    return ids[(ids.indexOf(used) + 1) % ids.length];
  }

  #read() {
    try {
      return JSON.parse(this.#storage.getItem(KEY)) ?? {};
    } catch {
      return {};
    }
  }
}
