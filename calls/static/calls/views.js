// The views of the one page: people, history, settings. Each has an address (`#/history`, with a stroke, because the
// browser would scroll to an element of that id), and nothing is unloaded between them: a call goes on whatever is
// looked at.

export class Views {
  #document;
  #onShown;
  #first = true;

  current = "people";

  // onShown(name): this view is on the screen now
  constructor(document, window, onShown) {
    this.#document = document;
    this.#onShown = onShown;
    window.addEventListener("hashchange", () => this.#follow(window.location.hash));
    this.#follow(window.location.hash);
  }

  badge(count) {
    for (const badge of this.#document.querySelectorAll("[data-badge]")) {
      badge.hidden = count === 0;
      badge.firstElementChild.textContent = count > 99 ? "99+" : String(count);
    }
  }

  #follow(hash) {
    const name = hash.replace("#/", "");
    const views = [...this.#document.querySelectorAll("[data-view]")];
    const wanted = views.find((view) => view.dataset.view === name) ?? views[0];
    this.current = wanted.dataset.view;
    for (const view of views) view.hidden = view !== wanted;
    for (const link of this.#document.querySelectorAll("[data-view-link]")) {
      if (link.dataset.viewLink === this.current) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    if (!this.#first) {
      this.#document.documentElement.scrollTop = 0;
      wanted.querySelector("h1")?.focus({ preventScroll: true });
    }
    this.#first = false;
    this.#onShown(this.current);
  }
}
