// What people see: plain facts in, filled <template> elements out; clicks in, actions out. It decides nothing of a call
// (the buttons follow the facts it is given) and writes text only with textContent.
import { callWords, clock, gateWords, inCallWords, incomingWords, mediaWords, outgoingWords, peopleWords, permissionWords, presenceWords } from "./words.js";

export function initials(name) {
  const words = name.trim().split(/\s+/).filter(Boolean);
  const letters = words.length > 1 ? [words[0], words.at(-1)] : words;
  return letters.map((word) => [...word][0].toUpperCase()).join("");
}

// One of twelve colours, the same for a person on every device.
export function tone(id) {
  let hash = 2166136261;
  for (const char of id) hash = Math.imul(hash ^ char.codePointAt(0), 16777619) >>> 0;
  return (hash >>> 11) % 12;
}

// ── filling templates ───────────────────────────────────────────────────────────────────────────────────────────────

// data-text="x": text · data-if="x": shown while x · data-avatar="x": initials and colour of the person x
function fill(root, facts) {
  for (const node of reach(root, "[data-text]")) setText(node, facts[node.dataset.text] ?? "");
  for (const node of reach(root, "[data-if]")) setHidden(node, !facts[node.dataset.if]);
  for (const node of reach(root, "[data-avatar]")) {
    const person = facts.person;
    if (!person || node.dataset.person === person.id + person.name) continue;
    node.dataset.person = person.id + person.name;
    node.dataset.tone = tone(person.id);
    setText(node, initials(person.name));
  }
}

function* reach(root, selector) {
  if (root.matches?.(selector)) yield root;
  yield* root.querySelectorAll(selector);
}

function setText(node, text) {
  if (node.textContent !== String(text)) node.textContent = text;
}

function setHidden(node, hidden) {
  if (node.hidden !== hidden) node.hidden = hidden;
}

function setLabel(node, label) {
  if (node.getAttribute("aria-label") !== label) node.setAttribute("aria-label", label);
}

function setIcon(root, slot, icon) {
  root.querySelector(`[data-icon="${slot}"]`)?.setAttribute("href", `#i-${icon}`);
}

// Keeps one element for each fact, by key, in order; `make` and `update` do the rest. Focus and video survive.
function keyed(container, facts, make, update) {
  const old = new Map([...container.children].map((node) => [node.dataset.key, node]));
  let previous = null;
  for (const fact of facts) {
    let node = old.get(fact.key);
    old.delete(fact.key);
    if (!node) {
      node = make(fact);
      node.dataset.key = fact.key;
    }
    const here = previous ? previous.nextElementSibling : container.firstElementChild;
    if (here !== node) container.insertBefore(node, here);
    update(node, fact);
    previous = node;
  }
  for (const node of old.values()) node.remove();
}

// ── the screens ─────────────────────────────────────────────────────────────────────────────────────────────────────

export class Screens {
  #document;
  #onAction;
  #said = {};
  #returnTo = null;

  // onAction(name, {…dataset}): a person asked for something
  constructor(document, onAction, onSearch) {
    this.#document = document;
    this.#onAction = onAction;
    document.addEventListener("click", (event) => {
      const button = event.target.closest?.("[data-action]");
      if (button && !button.disabled) onAction(button.dataset.action, this.#about(button));
    });
    this.#id("search").addEventListener("input", (event) => onSearch(event.target.value));
    document.addEventListener("keydown", (event) => this.#key(event));
  }

  // facts, all of them each time (nothing is drawn that did not change):
  //   user {id, name}, device, link (words), online, banner, multi {on, enabled, words}, soundBlocked
  //   people {list, query, state}, mayCall
  //   notices [{key, person, title, detail, move, again}]
  //   incoming [{key, person, kind, answering, warning}]
  //   stage null | {screen, key, person, …}   gate null | name   login (address)
  render(facts) {
    this.#home(facts);
    this.#notices(facts.notices);
    this.#incoming(facts);
    this.#stage(facts.stage);
    this.#gate(facts);
    const covered = Boolean(facts.stage || facts.incoming.length || facts.gate);
    this.#id("home").inert = covered;
    this.#id("stage").inert = Boolean(facts.gate);
    this.#document.body.dataset.screen =
      (facts.gate && "gate") || (facts.incoming.length && "incoming") || facts.stage?.screen || "people";
  }

  // For people who cannot see the screen; `now` interrupts what is being read.
  say(words, now = false) {
    const key = now ? "said-now" : "said";
    if (this.#said[key] === words) return;
    this.#said[key] = words;
    setText(this.#id(key), words);
  }

  toast(words) {
    const node = this.#make("t-toast");
    fill(node, { words });
    this.#id("toasts").append(node);
    setTimeout(() => node.remove(), 6000);
  }

  // Asks for the name of a new device; null when the person thinks better of it.
  askDeviceName(proposal) {
    const dialog = this.#id("new-device");
    const input = this.#id("new-device-name");
    input.value = proposal;
    dialog.returnValue = "";
    dialog.showModal();
    input.select();
    return new Promise((resolve) => {
      const done = () => resolve(dialog.returnValue === "open" ? input.value.trim() || proposal : null);
      dialog.addEventListener("close", done, { once: true });
      dialog.querySelector("[data-cancel]").onclick = () => dialog.close("");
    });
  }

  // Shows a stream in the screen that is up now: "remote" or "self". Resolves false when the browser refuses to play.
  async play(name, stream) {
    let allowed = true;
    for (const video of this.#document.querySelectorAll(`video[data-stream="${name}"]`)) {
      if (video.srcObject !== stream) video.srcObject = stream;
      if (!stream || !video.paused || video.hidden) continue;
      await video.play().catch((error) => {
        if (error.name === "NotAllowedError") allowed = false;
      });
    }
    return allowed;
  }

  #id(id) {
    return this.#document.getElementById(id);
  }

  #make(id) {
    return this.#id(id).content.firstElementChild.cloneNode(true);
  }

  #about(node) {
    const keyed = node.closest("[data-key]");
    return { ...node.dataset, key: keyed?.dataset.key };
  }

  // Arrows walk through the people, "/" goes to the search, Escape closes what can be closed.
  #key(event) {
    const { key, target } = event;
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const rows = [...this.#id("people").children];
    const row = target.closest?.(".person");
    const step = { ArrowDown: 1, ArrowUp: -1 }[key];
    if (step && rows.length && (row || target.id === "search")) {
      const next = rows[row ? rows.indexOf(row) + step : step > 0 ? 0 : -1];
      const column = row ? [...row.querySelectorAll("button")].indexOf(target) : 0;
      if (next) next.querySelectorAll("button")[Math.max(0, column)].focus();
      else if (step < 0) this.#id("search").focus();
      event.preventDefault();
    } else if (key === "/" && !/^(INPUT|TEXTAREA)$/.test(target.tagName) && !this.#id("home").inert) {
      this.#id("search").focus();
      event.preventDefault();
    } else if (key === "Escape" && this.#document.body.dataset.screen === "ended") {
      this.#onAction("close", {});
    }
  }

  #home(facts) {
    fill(this.#id("home"), {
      person: facts.user,
      user: facts.user.name,
      device: facts.device,
      link: facts.link,
      multi: facts.multi.words,
    });
    this.#document.querySelector("[data-link]").dataset.link = facts.online ? "on" : "off";
    const banner = this.#id("banner");
    setHidden(banner, !facts.banner);
    fill(banner, facts);
    const multi = this.#id("multi-device");
    multi.disabled = !facts.multi.enabled;
    multi.setAttribute("aria-checked", String(facts.multi.on));
    setHidden(this.#id("sound-blocked"), !facts.soundBlocked);
    keyed(
      this.#id("people"),
      facts.people.list.map((one) => ({ ...one, key: one.id })),
      (one) => {
        const row = this.#make("t-person");
        for (const button of row.querySelectorAll("button")) {
          button.title = callWords(button.dataset.kind, one.name);
          setLabel(button, button.title);
        }
        return row;
      },
      (row, one) => {
        fill(row, { person: one, name: one.name, status: presenceWords(one.online) });
        row.querySelector(".dot").dataset.link = one.online ? "on" : "off";
        for (const button of row.querySelectorAll("button")) button.disabled = !facts.mayCall;
      },
    );
    const none = this.#id("people-none");
    setHidden(none, facts.people.list.length > 0);
    setText(none, peopleWords(facts.people));
  }

  #notices(notices) {
    keyed(this.#id("notices"), notices, () => this.#make("t-notice"), fill);
  }

  #incoming({ incoming, soundBlocked }) {
    const box = this.#id("incoming");
    const before = box.children.length;
    if (incoming.length) this.#remember();
    keyed(
      box,
      incoming,
      (one) => {
        const card = this.#make("t-incoming");
        card.id = `incoming-${one.key}`;
        setIcon(card, "answer", one.kind === "video" ? "video" : "phone");
        return card;
      },
      (card, one) => {
        const { what, answer, label } = incomingWords(one);
        setLabel(card, label);
        fill(card, { person: one.person, name: one.person.name, what, answer, warning: one.warning, blocked: soundBlocked });
        card.toggleAttribute("data-still", one.answering);
        for (const button of card.querySelectorAll(".call-button")) button.disabled = one.answering;
      },
    );
    setHidden(box, incoming.length === 0);
    // Whoever is typing goes on typing; everybody else is taken to the card, not to a button that a stray key would press.
    const typing = /^(INPUT|TEXTAREA)$/.test(this.#document.activeElement?.tagName ?? "");
    if (incoming.length > before && !typing) box.lastElementChild.focus();
  }

  #stage(stage) {
    const box = this.#id("stage");
    setHidden(box, !stage);
    const key = stage ? `${stage.screen}:${stage.key}` : "";
    if (box.dataset.key !== key) {
      box.dataset.key = key;
      if (stage) this.#remember();
      box.replaceChildren(...(stage ? [this.#make(`t-${stage.screen}`)] : []));
      for (const video of box.querySelectorAll('video[data-stream="remote"]')) {
        video.addEventListener("resize", () => {
          video.dataset.shape = video.videoWidth < video.videoHeight ? "tall" : "wide";
        });
      }
      box.querySelector("[data-focus]")?.focus({ preventScroll: true });
    }
    if (stage) this.#scenes[stage.screen](box.firstElementChild, stage);
    if (!stage && this.#id("incoming").hidden) this.#giveBack();
  }

  // Each scene: its element and its facts.
  #scenes = {
    outgoing: (scene, facts) => {
      const { person, kind, phase, media, preview } = facts;
      scene.querySelector("[data-pulse]").dataset.pulse = phase === "starting" ? "" : "on";
      fill(scene, {
        person,
        name: person.name,
        ...outgoingWords(facts),
        preview,
        controls: phase !== "starting",
        ...buttons(media, kind),
      });
      toggles(scene, media);
    },
    in_call: (scene, facts) => {
      const { person, kind, seconds, link, theirCam, media, preview, soundBlocked } = facts;
      const faceless = !theirCam || link === "connecting";
      fill(scene, {
        person,
        name: person.name,
        clock: link === "connecting" ? "" : clock(seconds),
        ...inCallWords(facts),
        faceless,
        preview,
        blocked: soundBlocked,
        ...buttons(media, kind),
      });
      scene.toggleAttribute("data-faceless", faceless);
      scene.dataset.link = link;
      toggles(scene, media);
    },
    ended: (scene, { person, kind, title, detail, again }) => {
      fill(scene, { person, title, detail, again });
      setIcon(scene, "again", kind === "video" ? "video" : "phone");
    },
    permission: (scene, { problem, person }) => fill(scene, permissionWords(problem, person.name)),
  };

  #gate({ gate, login }) {
    const box = this.#id("gate");
    setHidden(box, !gate);
    if (box.dataset.key === (gate ?? "")) return;
    box.dataset.key = gate ?? "";
    box.replaceChildren();
    if (!gate) return;
    const card = this.#make("t-gate");
    const { title, detail } = gateWords(gate);
    fill(card, { title, detail, take: gate === "device_in_use" || gate === "replaced", login: gate === "signed_out" });
    card.querySelector("#sign-in").href = login;
    box.append(card);
    box.querySelector("[data-focus]:not([hidden])")?.focus();
    this.say(`${title}. ${detail}`, true);
  }

  // Focus goes back to where it was before the call.
  #remember() {
    const active = this.#document.activeElement;
    if (!this.#returnTo && active && this.#id("home").contains(active)) this.#returnTo = active;
  }

  #giveBack() {
    const node = this.#returnTo;
    this.#returnTo = null;
    if (!node) return;
    queueMicrotask(() => node.isConnected && !node.disabled && node.focus({ preventScroll: true }));
  }
}

function buttons(media, kind) {
  return { ...mediaWords(media), camera: kind === "video" };
}

function toggles(scene, media) {
  for (const [action, on, icon] of [
    ["mic", media?.mic, "mic"],
    ["cam", media?.cam, "video"],
  ]) {
    const button = scene.querySelector(`[data-action="${action}"]`);
    if (!button) continue;
    button.classList.toggle("off", !on);
    setIcon(scene, action, on ? icon : `${icon}-off`);
  }
}
