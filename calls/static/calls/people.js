// The people who can be called: asked of the server, and searched there. Whom this person called last, and likes to have
// at hand, stays in this browser.

const TYPING_MS = 150;
const RECENT = 6;

export class People {
  #url;
  #onChange;
  #onSignedOut;
  #searching = null;
  #storage;
  #key;
  #kept; // {favourites: [{id, name}], recent: [{id, name}], the newest first}

  list = []; // [{id, name, online}]
  query = "";
  state = "loading"; // loading · ready · failed

  // me: the user's id, whose favourites these are
  constructor({ me, url, onChange, onSignedOut, storage = globalThis.localStorage }) {
    this.#url = url;
    this.#onChange = onChange;
    this.#onSignedOut = onSignedOut;
    this.#storage = storage;
    this.#key = `calls.people.${me}`;
    this.#kept = { favourites: [], recent: [], ...this.#read() };
  }

  get favourites() {
    return this.#kept.favourites;
  }

  get recent() {
    return this.#kept.recent;
  }

  find(id) {
    return [...this.list, ...this.favourites, ...this.recent].find((one) => one.id === id);
  }

  // There was a call with this person.
  met({ id, name }) {
    const recent = [{ id, name }, ...this.recent.filter((one) => one.id !== id)].slice(0, RECENT);
    this.#keep({ recent });
  }

  // Among the favourites, or no longer.
  favour(id) {
    const { id: known, name } = this.find(id);
    const without = this.favourites.filter((one) => one.id !== id);
    this.#keep({ favourites: without.length < this.favourites.length ? without : [...without, { id: known, name }] });
  }

  search(query) {
    this.query = query;
    clearTimeout(this.#searching);
    this.#searching = setTimeout(() => this.load(), TYPING_MS);
  }

  async load() {
    const { query } = this;
    const found = await this.#ask(query);
    if (query !== this.query) return; // a newer search is on its way
    if (found) this.list = found;
    this.state = found ? "ready" : "failed";
    this.#onChange();
  }

  async #ask(query) {
    try {
      const response = await fetch(`${this.#url}?q=${encodeURIComponent(query.trim())}`, {
        headers: { Accept: "application/json" },
      });
      if (response.status === 401) this.#onSignedOut();
      return response.ok ? (await response.json()).people : null;
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
