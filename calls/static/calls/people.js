// The people who can be called: asked of the server, and searched there.

const TYPING_MS = 150;

export class People {
  #url;
  #onChange;
  #onSignedOut;
  #searching = null;

  list = []; // [{id, name, online}]
  query = "";
  state = "loading"; // loading · ready · failed

  constructor({ url, onChange, onSignedOut }) {
    this.#url = url;
    this.#onChange = onChange;
    this.#onSignedOut = onSignedOut;
  }

  find(id) {
    return this.list.find((one) => one.id === id);
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
}
