// Commands that must not be lost with the page: that somebody hung up, rejected or ended a call. Each is written down
// in this browser until the server has answered it, so that a page that is loaded again can still say it.

const STORE = "commands";
const OPEN_WITHIN_MS = 1_000;
const FORGET_MS = 600_000; // the server remembers an id so long, and has long ended the call by itself

export class Outbox {
  #db = null;
  #owner;
  #now;

  // owner: whose commands these are (user and device of this browser)
  constructor(owner, { indexedDB = globalThis.indexedDB, now = () => Date.now() } = {}) {
    this.#owner = owner;
    this.#now = now;
    const tooLong = new Promise((resolve) => setTimeout(resolve, OPEN_WITHIN_MS, null));
    // Storage is forbidden, or hangs: what is asked lives as long as the page, and nothing waits for it.
    this.#db = Promise.race([open(indexedDB).catch(() => null), tooLong]);
  }

  // Writes a command on a call down; the newest one for each call counts.
  async keep(cmd, call) {
    await this.#do("readwrite", (store) => store.put({ key: this.#key(call), owner: this.#owner, cmd, call, at: this.#now() }));
  }

  // The server has answered it.
  async drop(call) {
    await this.#do("readwrite", (store) => store.delete(this.#key(call)));
  }

  // What an earlier page has left: [{cmd, call}].
  async left() {
    const all = (await this.#do("readonly", (store) => store.getAll())) ?? [];
    const old = all.filter((one) => this.#now() - one.at > FORGET_MS);
    for (const { key } of old) await this.#do("readwrite", (store) => store.delete(key));
    return all.filter((one) => one.owner === this.#owner && !old.includes(one)).map(({ cmd, call }) => ({ cmd, call }));
  }

  #key(call) {
    return `${this.#owner} ${call}`;
  }

  async #do(mode, action) {
    const db = await this.#db;
    if (!db) return undefined;
    return settled(action(db.transaction(STORE, mode).objectStore(STORE))).catch(() => undefined);
  }
}

async function open(indexedDB) {
  const request = indexedDB.open("calls", 1);
  request.onupgradeneeded = () => request.result.createObjectStore(STORE, { keyPath: "key" });
  return settled(request);
}

function settled(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}
