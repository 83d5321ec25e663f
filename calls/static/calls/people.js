// The people who can be called: asked of the server a page at a time, and searched there. Who of them is online is told
// by whoever owns the socket. Whom this person called last stays in this browser; the favourites are the user's, on
// every device.

const TYPING_MS = 150;
const STALE_MS = 5 * 60_000; // a list that is older may lack new colleagues
const RECENT = 6;

export class People {
  #url;
  #onChange;
  #onSignedOut;
  #searching = null;
  #storage;
  #key;
  #kept; // {recent: [{id, name}], the newest first}
  #onFavour;
  #now;
  #next = null; // where the next page begins
  #loadedAt = -Infinity;

  favourites; // [{id, name}]

  list = []; // [{id, name}]
  presence = new Map(); // id → whether the person is online, as far as that is known
  query = "";
  state = "loading"; // loading · ready · failed

  // me: the user's id · favourites, as they are now · onFavour(id, on): the person wants it so
  constructor({
    me, url, favourites, onFavour, onChange, onSignedOut,
    storage = globalThis.localStorage,
    now = () => performance.now(),
  }) {
    this.#url = url;
    this.#onChange = onChange;
    this.#onSignedOut = onSignedOut;
    this.#storage = storage;
    this.#key = `calls.people.${me}`;
    this.#kept = { recent: [], ...this.#read() };
    this.favourites = favourites;
    this.#onFavour = onFavour;
    this.#now = now;
  }

  get recent() {
    return this.#kept.recent;
  }

  find(id) {
    const found = [...this.list, ...this.favourites, ...this.recent].find((one) => one.id === id);
    return found && { ...found, online: this.presence.get(id) };
  }

  get stale() {
    return this.#now() - this.#loadedAt > STALE_MS;
  }

  // What the server says of the people on the screen: {id: "online", "offline" or another state of who is there}.
  see(states) {
    for (const [id, state] of Object.entries(states)) this.presence.set(id, state !== "offline");
    this.#onChange();
  }

  // There was a call with this person.
  met({ id, name }) {
    const recent = [{ id, name }, ...this.recent.filter((one) => one.id !== id)].slice(0, RECENT);
    this.#keep({ recent });
  }

  // Among the favourites, or no longer.
  favour(id) {
    const on = !this.favourites.some((one) => one.id === id);
    const { name } = this.find(id);
    this.like(on ? [...this.favourites, { id, name }] : this.favourites.filter((one) => one.id !== id));
    this.#onFavour(id, on);
  }

  // These are the favourites now.
  like(favourites) {
    this.favourites = favourites;
    this.#onChange();
  }

  search(query) {
    this.query = query;
    clearTimeout(this.#searching);
    this.#searching = setTimeout(() => this.load(), TYPING_MS);
  }

  // The first page anew.
  async load() {
    const { query } = this;
    const found = await this.#ask({ q: query.trim() });
    if (query !== this.query) return; // a newer search is on its way
    if (found) {
      this.list = [];
      this.#take(found);
      this.#loadedAt = this.#now();
    }
    this.state = found ? "ready" : "failed";
    this.#onChange();
  }

  // The page behind what is there, if there is one.
  async more() {
    const { query } = this;
    const after = this.#next;
    if (after === null) return;
    this.#next = null;
    const found = await this.#ask({ q: query.trim(), after });
    if (query !== this.query || this.#next !== null) return; // another list is there by now
    if (found) this.#take(found);
    else this.#next = after;
    this.#onChange();
  }

  #take({ people, next = null }) {
    const known = new Set(this.list.map((one) => one.id));
    this.list = [...this.list, ...people.filter((one) => !known.has(one.id)).map(({ id, name }) => ({ id, name }))];
    for (const { id, online } of people) this.presence.set(id, online);
    this.#next = next;
  }

  async #ask(query) {
    const wanted = new URLSearchParams(Object.entries(query).filter(([, value]) => value));
    try {
      const response = await fetch(wanted.size ? `${this.#url}?${wanted}` : this.#url, {
        headers: { Accept: "application/json" },
      });
      if (response.status === 401) this.#onSignedOut();
      return response.ok ? await response.json() : null;
    } catch {
      return null;
    }
  }

  #keep(changed) {
    this.#kept = { ...this.#kept, ...changed };
    try {
      this.#storage.setItem(this.#key, JSON.stringify(this.#kept));
    } catch {
      // storage is forbidden: it holds as long as the page
    }
    this.#onChange();
  }

  #read() {
    try {
      return JSON.parse(this.#storage.getItem(this.#key));
    } catch {
      return null;
    }
  }
}
