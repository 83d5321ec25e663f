// What this page asks of the server about its user's own history, devices and line: JSON over HTTP, as in views.
// It knows no screen.

export class Account {
  #fetch;
  #token;
  #onSignedOut;

  constructor({ fetch = globalThis.fetch.bind(globalThis), token, onSignedOut = () => {} }) {
    this.#fetch = fetch;
    this.#token = token;
    this.#onSignedOut = onSignedOut;
  }

  // The answer, or null when there is none now: the server is away, or refuses.
  read(url, query = {}) {
    const wanted = Object.entries(query).filter(([, value]) => value !== "" && value !== null && value !== false);
    const search = new URLSearchParams(wanted.map(([key, value]) => [key, value === true ? "1" : value]));
    return this.#ask(search.size ? `${url}?${search}` : url, { headers: { Accept: "application/json" } });
  }

  post(url, body) {
    return this.#ask(url, {
      method: "POST",
      headers: { "Content-Type": "application/json", "X-CSRFToken": this.#token() },
      body: JSON.stringify(body),
      keepalive: true, // what was switched is not lost with the page
    });
  }

  async #ask(url, options) {
    try {
      const response = await this.#fetch(url, options);
      if (response.status === 401) this.#onSignedOut();
      return response.ok ? await response.json() : null;
    } catch {
      return null;
    }
  }
}
