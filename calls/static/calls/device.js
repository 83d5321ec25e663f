// Who this page is: a named device of the signed-in user, kept in this browser's storage, one for each slot.
// A slot is a tab that is a device of its own (`?device=phone`), so that several can be tried in one browser. A Web Lock
// for each device tells whether another tab of this browser has it open.
//
// Anybody can write a link with `?device=` in it, so the address alone makes no device. The tab becomes that device when
// the person agrees in the tab (`agree`), or when this browser's own "Open another device" opened it: that leaves a pass
// in the storage, which is good for one tab and for a short time. The tab remembers it, so a reload does not ask again.
import { gettext, put } from "./text.js";

const MAIN = "main";
const SLOT = /^[a-z0-9][a-z0-9-]{0,63}$/; // what `another` makes of a name
const PASS_MS = 60_000;
const VISIBLE = /[^\p{C}\p{M}\p{Z}\u115f\u1160\u2800\u3164\uffa0]/u; // the server takes no name without such a character
const NAMES = ["Phone", "Laptop", "Tablet"];
const UNLOADING_MS = 250; // a reload may meet the lock of its own dying page

export class Identity {
  #storage;
  #tab;
  #locks;
  #user;
  #slot;
  #taken;
  #kept;

  // True while the person has to agree before this tab may be a device of its own.
  asks = false;

  // `taken`: the names of the user's devices everywhere. `storage` is the browser's, `tab` this tab's own.
  constructor(
    user,
    search,
    {
      taken = [],
      storage = globalThis.localStorage,
      tab = globalThis.sessionStorage,
      locks = globalThis.navigator?.locks,
      guess,
      now = Date.now(),
    } = {},
  ) {
    this.#storage = storage;
    this.#tab = tab;
    this.#locks = locks;
    this.#user = user;
    this.#taken = taken;
    const wanted = new URLSearchParams(search).get("device")?.toLowerCase() ?? MAIN;
    this.#slot = SLOT.test(wanted) ? wanted : MAIN;
    const opened = this.#usePass(now);
    if (opened) this.agree();
    this.asks = this.#slot !== MAIN && !opened && this.#get(this.#tab, this.#tabKey()) !== this.#slot;
    const name = this.#slot === MAIN ? (guess ?? guessName(globalThis.navigator)) : titled(this.#slot);
    this.#kept = { id: null, name: unlike(name, new Set(taken)), ...this.#read(this.#slot) };
  }

  get id() {
    return this.#kept.id;
  }

  get name() {
    return this.#kept.name;
  }

  // Which of this browser's devices the tab is.
  get slot() {
    return this.#slot;
  }

  // The person wants this tab to be a device of its own. Holds for the tab, reloads included.
  agree() {
    this.asks = false;
    this.#set(this.#tab, this.#tabKey(), this.#slot);
  }

  // What the server says this device is; `{id: null}` when it does not know it any more.
  keep(said) {
    this.#kept = { ...this.#kept, ...said };
    this.#write(this.#slot, this.#kept);
  }

  // Prepares one more device, and returns the address at which a tab that is opened now becomes it without being asked.
  another(name, now = Date.now()) {
    const taken = this.#others();
    const said = VISIBLE.test(name) ? name : this.proposal();
    const wanted = slug(said);
    let slot = wanted;
    for (let n = 2; slot === MAIN || taken.has(slot); n += 1) slot = `${wanted}-${n}`;
    this.#write(slot, { id: null, name: said });
    this.#set(this.#storage, this.#passKey(slot), String(now));
    return `?device=${encodeURIComponent(slot)}`;
  }

  // A name that no device has yet.
  proposal() {
    const used = new Set([this.name, ...this.#taken, ...this.#others().values()]);
    const candidates = function* () {
      yield* NAMES;
      for (let n = 2; ; n += 1) yield* NAMES.map((name) => `${name} ${n}`);
    };
    for (const name of candidates()) if (!used.has(name)) return name;
  }

  // True when no other tab of this browser has this device, which is from then on this tab's as long as it lives.
  async hold() {
    if (await this.#lock({ ifAvailable: true })) return true;
    await new Promise((resolve) => setTimeout(resolve, UNLOADING_MS));
    return this.#lock({ ifAvailable: true });
  }

  // Takes the device from the tab that has it.
  steal() {
    return this.#lock({ steal: true });
  }

  #lock(how) {
    if (!this.#locks) return Promise.resolve(false);
    return new Promise((resolve) => {
      this.#locks
        .request(this.#key(this.#slot), how, (lock) => {
          resolve(lock !== null);
          return lock && new Promise(() => {}); // until the page ends, or another steals it
        })
        .catch(() => resolve(false));
    });
  }

  #others() {
    const prefix = this.#key("");
    const slots = new Map();
    try {
      for (const key of Object.keys(this.#storage)) {
        if (key.startsWith(prefix)) slots.set(key.slice(prefix.length), this.#read(key.slice(prefix.length))?.name);
      }
    } catch {
      // storage is forbidden: this browser has one device, until the page is closed
    }
    return slots;
  }

  // Whether this browser's own button has just opened this tab. A pass is taken away as it is looked at.
  #usePass(now) {
    const age = now - Number(this.#get(this.#storage, this.#passKey(this.#slot)) ?? NaN);
    this.#set(this.#storage, this.#passKey(this.#slot), null);
    return age >= 0 && age < PASS_MS;
  }

  #key(slot) {
    return `calls.device.${this.#user}.${slot}`;
  }

  #passKey(slot) {
    return `calls.pass.${this.#user}.${slot}`;
  }

  #tabKey() {
    return `calls.tab.${this.#user}`;
  }

  #read(slot) {
    try {
      return JSON.parse(this.#get(this.#storage, this.#key(slot)));
    } catch {
      return null;
    }
  }

  #write(slot, value) {
    this.#set(this.#storage, this.#key(slot), JSON.stringify(value));
  }

  #get(storage, key) {
    try {
      return storage.getItem(key);
    } catch {
      return null; // storage is forbidden, as above
    }
  }

  #set(storage, key, value) {
    try {
      if (value === null) storage.removeItem(key);
      else storage.setItem(key, value);
    } catch {
      // as above
    }
  }
}

// "Chromium on Linux": what a person would call this browser.
export function guessName(navigator) {
  const agent = navigator?.userAgent ?? "";
  const brands = (navigator?.userAgentData?.brands ?? []).map((one) => one.brand);
  const browsers = [
    ["Edge", /Edg\//],
    ["Opera", /OPR\//],
    ["Samsung Internet", /SamsungBrowser/],
    ["Firefox", /Firefox|FxiOS/],
    ["Chrome", /CriOS/],
    ["Chromium", /Chromium/],
    ["Chrome", /Chrome/],
    ["Safari", /Safari/],
  ];
  const systems = [
    ["Android", /Android/],
    ["iPhone", /iPhone/],
    ["iPad", /iPad/],
    ["Windows", /Windows/],
    ["Mac", /Mac OS|Macintosh/],
    ["ChromeOS", /CrOS/],
    ["Linux", /Linux/],
  ];
  const plain = brands.includes("Chromium") && !brands.some((brand) => /Google|Edge|Opera|Samsung/.test(brand));
  const browser = plain ? "Chromium" : (browsers.find(([, mark]) => mark.test(agent))?.[0] ?? gettext("Browser"));
  const system = systems.find(([, mark]) => mark.test(agent))?.[0];
  return system ? put(gettext("{browser} on {system}"), { browser, system }) : browser;
}

// "Answered on Chrome on Windows" says nothing to somebody who has two of them.
function unlike(name, taken) {
  let other = name;
  for (let n = 2; taken.has(other); n += 1) other = `${name.slice(0, 60)} ${n}`;
  return other;
}

function slug(name) {
  const plain = name
    .normalize("NFKD")
    .toLowerCase()
    .replace(/[^a-z0-9]+/g, "-")
    .slice(0, 60)
    .replace(/^-+|-+$/g, "");
  return plain || "device";
}

function titled(slot) {
  const words = slot.replace(/[-_]+/g, " ").trim();
  return (words.charAt(0).toUpperCase() + words.slice(1)).slice(0, 64) || "Device";
}

// Version 7, which begins with the time: calls of one day lie together in the server's indexes.
export function uuid(now = Date.now()) {
  const bytes = crypto.getRandomValues(new Uint8Array(10));
  bytes[0] = (bytes[0] & 0x0f) | 0x70;
  bytes[2] = (bytes[2] & 0x3f) | 0x80;
  const hex = [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return (now.toString(16).padStart(12, "0") + hex).replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}
