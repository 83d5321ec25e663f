// The history: the own calls by day, what was missed, call back, search, and taking entries out.
import { agoWords, dayWords, gettext, lengthWords, listWords, momentWords, ngettext, put, timeWords } from "./text.js";

const TYPING_MS = 200;
const FEW = 10; // entries; when fewer were found, the search goes on by itself

// How a call went: {words, mark}. The mark chooses the sign in front.
export function outcomeWords({ dir, outcome, busy, secs, device }) {
  if (outcome === "missed") {
    const words = {
      on_call: gettext("Missed, you were on another call"),
      do_not_disturb: gettext("Missed, you did not want to be disturbed"),
    }[busy];
    return { words: words ?? gettext("Missed"), mark: "missed" };
  }
  const incoming = dir === "in";
  const words = {
    answered: incoming ? gettext("Incoming") : gettext("Outgoing"),
    declined: incoming ? gettext("Declined") : gettext("They declined"),
    cancelled: gettext("Cancelled"),
    no_answer: gettext("No answer"),
    unreachable: gettext("Could not be reached"),
    busy: gettext("Busy"),
    lost: gettext("Connection lost"),
    operator: gettext("Ended by the operator"),
    expired: gettext("Ended, the longest time was reached"),
  };
  const talked = outcome === "answered" || secs > 0;
  const where = device && talked ? put(gettext("on {device}"), { device }) : ""; // where it was last: calls move
  return {
    words: [words[outcome] ?? outcome, talked ? lengthWords(secs) : "", where].filter(Boolean).join(" · "),
    mark: incoming ? "in" : "out",
  };
}

export class History {
  #document;
  #box;
  #account;
  #urls;
  #options;
  #entries = [];
  #next = null;
  #asked = 0; // counts what is asked, so that only the last answer is shown
  #typing = null;
  #missedOnly = false;
  #seen = ""; // until when the server was told that the history was looked at
  #state = "loading"; // loading · ready · failed

  // options: account, urls {list, seen, hide}, avatar(node, person), toast(words), undo(words, action),
  //   confirm({title, words, button}), mayCall(), onMissed(count)
  constructor(document, options) {
    this.#document = document;
    this.#options = options;
    this.#account = options.account;
    this.#urls = options.urls;
    this.#box = document.getElementById("history");
    this.#id("history-search").addEventListener("input", () => {
      clearTimeout(this.#typing);
      this.#typing = setTimeout(() => this.load(), TYPING_MS);
    });
    for (const button of this.#box.querySelectorAll("[data-only]")) {
      button.addEventListener("click", () => this.#filter(button.dataset.only === "missed"));
    }
    this.#id("history-more").addEventListener("click", () => this.#more());
    this.#id("history-again").addEventListener("click", () => this.load());
    this.#id("history-clear").addEventListener("click", () => this.#clear());
    this.#id("history-list").addEventListener("click", (event) => {
      const button = event.target.closest("[data-do=hide]");
      if (button) this.#hide(Number(button.closest("[data-entry]").dataset.entry));
    });
    this.#box.addEventListener("keydown", (event) => this.#key(event));
    new IntersectionObserver(([seen]) => seen.isIntersecting && this.#more(), { rootMargin: "300px" }).observe(
      this.#id("history-more"),
    );
  }

  // The first page anew; what is shown stays until it is there.
  async load() {
    const asked = ++this.#asked;
    const found = await this.#read(asked);
    if (asked !== this.#asked) return;
    this.#state = found ? "ready" : "failed";
    if (found) {
      this.#entries = found.calls;
      this.#next = found.next;
      this.#options.onMissed(found.missed);
    }
    this.#draw();
    this.look();
  }

  // Whoever has the newest entries in front of them has seen what was missed.
  async look() {
    const shown = !this.#box.hidden && this.#document.visibilityState === "visible";
    const filtered = this.#query().q;
    if (!shown || filtered || this.#state !== "ready" || !this.#entries.length) return;
    const until = this.#entries.map((each) => each.ended).reduce((a, b) => (a > b ? a : b));
    if (until <= this.#seen) return;
    this.#seen = until;
    const answer = await this.#account.post(this.#urls.seen, { until });
    if (answer) this.#options.onMissed(answer.missed);
  }

  // Calls can be placed, or not just now.
  allow() {
    for (const button of this.#box.querySelectorAll("[data-action=call-back]")) button.disabled = !this.#options.mayCall();
  }

  #query() {
    return { q: this.#id("history-search").value.trim(), missed: this.#missedOnly };
  }

  // A page may be short, or empty: for each the server looks through a bounded number of calls.
  async #read(asked, before = null) {
    const query = this.#query();
    let found = await this.#account.read(this.#urls.list, { ...query, before });
    while (found && found.next !== null && found.calls.length < FEW && asked === this.#asked) {
      const further = await this.#account.read(this.#urls.list, { ...query, before: found.next });
      if (!further) break;
      found = { ...further, calls: [...found.calls, ...further.calls] };
    }
    return found;
  }

  async #more() {
    if (this.#next === null || this.#box.hidden) return;
    const before = this.#next;
    const asked = ++this.#asked;
    this.#next = null;
    const found = await this.#read(asked, before);
    if (asked !== this.#asked) return;
    this.#next = found ? found.next : before;
    if (found) this.#entries = [...this.#entries, ...found.calls];
    this.#draw();
  }

  #filter(missedOnly) {
    this.#missedOnly = missedOnly;
    for (const button of this.#box.querySelectorAll("[data-only]")) {
      button.setAttribute("aria-pressed", String((button.dataset.only === "missed") === missedOnly));
    }
    this.load();
  }

  async #hide(id) {
    const at = this.#entries.findIndex((each) => each.id === id);
    const [entry] = this.#entries.splice(at, 1);
    this.#draw();
    this.#focusNear(at);
    const answer = await this.#account.post(this.#urls.hide, { ids: [id] });
    if (!answer) {
      this.#entries.splice(at, 0, entry);
      this.#draw();
      return this.#options.toast(gettext("That did not work. Try again."));
    }
    this.#options.onMissed(answer.missed);
    this.#options.undo(gettext("Taken out of your history."), () => this.#putBack(id));
  }

  async #putBack(id) {
    const answer = await this.#account.post(this.#urls.hide, { ids: [id], hidden: false });
    if (!answer) return this.#options.undo(gettext("That did not work. Try again."), () => this.#putBack(id));
    await this.load();
    const { activeElement, body } = this.#document;
    if (activeElement !== body) return; // the person has gone on
    this.#focusNear(this.#entries.findIndex((each) => each.id === id));
  }

  async #clear() {
    const sure = await this.#options.confirm({
      title: gettext("Clear the history?"),
      words: gettext("All your calls are taken out of your history, on all your devices. The others keep theirs."),
      button: gettext("Clear"),
    });
    if (!sure) return;
    const answer = await this.#account.post(this.#urls.hide, { ids: null });
    if (!answer) return this.#options.toast(gettext("That did not work. Try again."));
    const n = answer.changed;
    this.#options.toast(put(ngettext("{n} call was taken out.", "{n} calls were taken out.", n), { n }));
    this.load();
  }

  #draw() {
    const list = this.#id("history-list");
    const held = this.#document.activeElement?.closest?.("[data-entry]")?.dataset.entry;
    const parts = [];
    let day = null;
    for (const entry of this.#entries) {
      const words = dayWords(new Date(entry.at));
      if (words !== day) {
        day = words;
        parts.push(this.#day(words));
      }
      parts.at(-1).querySelector("ul").append(this.#row(entry));
    }
    list.replaceChildren(...parts);
    if (held) list.querySelector(`[data-entry="${held}"] button`)?.focus({ preventScroll: true });
    this.#id("history-more").hidden = this.#next === null;
    this.#id("history-again").hidden = this.#state !== "failed";
    this.#id("history-clear").hidden = this.#entries.length === 0;
    const none = this.#id("history-none");
    none.hidden = this.#entries.length > 0 && this.#state !== "failed";
    none.firstElementChild.textContent = this.#noneWords();
    this.allow();
  }

  #noneWords() {
    const { q } = this.#query();
    if (this.#state === "failed") return gettext("Your history cannot be loaded now.");
    if (q) return put(gettext("No call with “{query}”."), { query: q });
    if (this.#missedOnly) return gettext("You have missed no call.");
    return gettext("No calls yet. Calls that you make and get are listed here.");
  }

  #day(words) {
    const section = this.#make("t-day");
    section.querySelector("h2").textContent = words;
    return section;
  }

  #row(entry) {
    const row = this.#make("t-entry");
    const slot = (name) => row.querySelector(`[data-slot=${name}]`);
    const person = entry.people[0] ?? { id: "", name: gettext("Nobody") };
    const whom = entry.people.length ? entry.people : [person];
    const name = listWords(whom.map((each) => each.name));
    const { words, mark } = outcomeWords(entry);
    const at = new Date(entry.at);
    row.dataset.entry = entry.id;
    row.dataset.mark = mark;
    this.#options.avatar(slot("avatar"), person);
    slot("name").textContent = name;
    slot("name").title = whom.map((each) => each.name).join(", ");
    slot("outcome").textContent = words;
    slot("kind").setAttribute("href", entry.kind === "video" ? "#i-video" : "#i-phone");
    slot("mark").setAttribute("href", `#i-call-${mark}`);
    slot("time").textContent = timeWords(at);
    slot("time").dateTime = entry.at;
    slot("time").title = `${momentWords(at)} (${agoWords(at)})`;
    const back = slot("back");
    Object.assign(back.dataset, { people: JSON.stringify(whom), kind: entry.kind });
    const calling = entry.kind === "video" ? gettext("Video call {name}") : gettext("Call {name}");
    back.title = put(calling, { name });
    back.setAttribute("aria-label", back.title);
    slot("back-icon").setAttribute("href", entry.kind === "video" ? "#i-video" : "#i-phone");
    const hide = slot("hide");
    hide.title = gettext("Take out of the history");
    hide.setAttribute("aria-label", put(gettext("Take the call with {name} out of the history"), { name }));
    return row;
  }

  #focusNear(at) {
    const rows = this.#box.querySelectorAll("[data-entry]");
    const near = rows[Math.min(at, rows.length - 1)];
    (near?.querySelector("[data-do=hide]") ?? this.#id("history-title")).focus({ preventScroll: true });
  }

  search() {
    this.#id("history-search").focus();
  }

  // Arrows walk through the entries, Delete takes one out.
  #key(event) {
    const row = event.target.closest?.("[data-entry]");
    const rows = [...this.#box.querySelectorAll("[data-entry]")];
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    if (step && (row || event.target.id === "history-search")) {
      const next = rows[row ? rows.indexOf(row) + step : step > 0 ? 0 : -1];
      if (next) next.querySelector("button").focus();
      else if (step < 0) this.#id("history-search").focus();
      event.preventDefault();
    } else if (row && event.key === "Delete") {
      this.#hide(Number(row.dataset.entry));
      event.preventDefault();
    }
  }

  #id(id) {
    return this.#document.getElementById(id);
  }

  #make(id) {
    return this.#id(id).content.firstElementChild.cloneNode(true);
  }
}
