// What people see: plain facts in, filled <template> elements out; clicks in, actions out. It decides nothing of a call
// (the buttons follow the facts it is given) and writes text only with textContent.
import {
  addWords, callWords, chooseWords, clock, companyWords, darkWords, favouriteWords, gateWords, gearDefault, gearWords,
  groupCallWords, holdWords, inCallWords, incomingWords, mediaWords, outgoingWords, peopleWords, permissionWords, presenceWords,
  problemWords, stageWords, tileWords, transferWords,
} from "./words.js";


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
  setAttribute(node, "aria-label", label);
}

function setAttribute(node, name, value) {
  if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value);
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
  #sink = ""; // the speaker of the other side's sound
  #own = {
    full: () => this.#fill(),
    float: () => this.#float(),
    more: () => this.#more(),
    "close-company": () => this.#id("company").close(),
  }; // nobody else's business

  // onAction(name, {…dataset}): a person asked for something · onSearch(words)
  // onFind(words): whom to add to the call · onGear(kind, id): another microphone, camera or speaker · onGearClosed()
  constructor(document, { onAction, onSearch, onFind, onGear, onGearClosed }) {
    this.#document = document;
    this.#onAction = onAction;
    document.addEventListener("click", (event) => {
      const button = event.target.closest?.("[data-action]");
      const inMenu = event.target.closest?.("#more-menu, [data-action=more]");
      if (!inMenu || button?.dataset.action !== "more") this.#closeMenu();
      if (!button || button.disabled) return;
      const { action } = button.dataset;
      if (this.#own[action]) this.#own[action]();
      else onAction(action, this.#about(button));
    });
    this.#id("search").addEventListener("input", (event) => onSearch(event.target.value));
    for (const id of ["company-search", "transfer-search"]) {
      this.#id(id).addEventListener("input", (event) => onFind(event.target.value));
    }
    this.#id("gear").addEventListener("change", ({ target }) => onGear(target.dataset.gear, target.value));
    this.#id("gear").addEventListener("close", onGearClosed);
    document.addEventListener("keydown", (event) => this.#key(event));
  }

  // facts, all of them each time (nothing is drawn that did not change):
  //   user {id, name}, device, link (words), online, dnd, banner, multi {on, enabled, words}, soundBlocked
  //   people {rows, query, state}, mayCall, mayNotify
  //   choice {on, may, room, chosen, words}: of several people for one call
  //   transfer {may, found, state, query}: to whom the call may be given
  //   company null | {legs, found, add, end, …}: the people of the call, and whom to add
  //   notices [{key, person, title, detail, move, again}]
  //   incoming [{key, person, kind, answering, hushed, inCall}]
  //   small: the call leaves room for the other views
  //   stage null | {screen, key, person, …}   gate null | {name, device}   login, home (addresses)
  //   gear {found, choice, problem, dark}
  render(facts) {
    this.#home(facts);
    this.#notices(facts.notices);
    this.#incoming(facts);
    this.#stage(facts.stage, facts.gear);
    this.#gear(facts);
    this.#company(facts.company);
    this.#transfer(facts.transfer);
    this.#gate(facts);
    const small = facts.small && Boolean(facts.stage?.live);
    this.#document.body.toggleAttribute("data-small", small);
    const covered = Boolean((facts.stage && !small) || facts.incoming.length || facts.gate);
    this.#id("home").inert = covered;
    this.#id("stage").inert = Boolean(facts.gate);
    this.#document.body.dataset.screen =
      (facts.gate && "gate") || (facts.incoming.length && "incoming") || facts.stage?.screen || "people";
  }

  // The ids of the people whose rows can be seen, at most so many; none while a call or a gate covers them.
  peopleOnScreen(most) {
    if (this.#id("home").inert) return [];
    const { innerHeight } = this.#document.defaultView;
    const seen = this.#rows().filter((row) => {
      const { top, bottom, height } = row.getBoundingClientRect();
      return height > 0 && bottom > 0 && top < innerHeight;
    });
    return seen.slice(0, most).map((row) => row.dataset.key);
  }

  // Whether the end of the list of people is on the screen, or nearly.
  get nearTheEnd() {
    const last = this.#rows().at(-1)?.getBoundingClientRect();
    return Boolean(last?.height) && last.top < 2 * this.#document.defaultView.innerHeight;
  }

  #rows() {
    return [...this.#id("people").querySelectorAll(".person")];
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
    (this.#id("company").open ? this.#id("company-said") : this.#id("toasts")).append(node); // a dialog lies over the rest
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

  openGear() {
    if (!this.#id("gear").open) this.#id("gear").showModal();
  }

  closeGear() {
    this.#id("gear").close();
  }

  openCompany() {
    this.#id("company-search").value = "";
    if (!this.#id("company").open) this.#id("company").showModal();
  }

  openTransfer() {
    this.#id("transfer-search").value = "";
    if (!this.#id("transfer").open) this.#id("transfer").showModal();
  }

  closeTransfer() {
    this.#id("transfer").close();
  }

  // What the microphone hears, 0…1.
  level(share) {
    const level = this.#id("level");
    const percent = Math.round(share * 100);
    setAttribute(level, "aria-valuenow", percent);
    level.firstElementChild.style.transform = `scaleX(${share})`;
  }

  // Sound of the other side comes out of this speaker, where the browser can choose.
  async speaker(id) {
    this.#sink = id;
    for (const video of this.#document.querySelectorAll("video.remote")) await video.setSinkId?.(id).catch(() => {});
  }

  // Shows a stream in the screen that is up now: "remote", "self", or "of bob" in a group. Resolves false when the browser refuses to play.
  async play(name, stream) {
    const shown = [...this.#document.querySelectorAll("video[data-stream]")].filter((one) => one.dataset.stream === name).at(-1);
    if (!shown) return true;
    const video = shown.srcObject !== stream && this.#mayCover(shown, stream) ? this.#cover(shown) : shown;
    if (video.srcObject !== stream) video.srcObject = stream;
    if (!stream || !video.paused || video.hidden) return true;
    return video.play().then(
      () => true,
      (error) => error.name !== "NotAllowedError",
    );
  }

  // Is there a picture that would be missed while the next one starts?
  #mayCover(video, stream) {
    const floats = this.#document.pictureInPictureElement === video; // it would stop to
    return video.classList.contains("remote") && video.videoWidth > 0 && stream?.getVideoTracks().length > 0 && !floats;
  }

  // One more video over this one, which goes when the new one has its first picture.
  #cover(video) {
    const next = video.cloneNode();
    this.#outlet(next);
    next.addEventListener("loadeddata", () => video.remove(), { once: true });
    video.after(next);
    return next;
  }

  // Where the other side is seen and heard.
  #outlet(video) {
    video.addEventListener("resize", () => {
      video.dataset.shape = video.videoWidth < video.videoHeight ? "tall" : "wide";
    });
    video.setSinkId?.(this.#sink).catch(() => {}); // it is not there any more
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
    const rows = this.#rows();
    const row = target.closest?.(".person");
    const step = { ArrowDown: 1, ArrowUp: -1 }[key];
    if (step && rows.length && (row || target.id === "search")) {
      const next = rows[row ? rows.indexOf(row) + step : step > 0 ? 0 : -1];
      const column = row ? reachable(row).indexOf(target) : 0;
      if (next) reachable(next)[Math.max(0, column)]?.focus();
      else if (step < 0) this.#id("search").focus();
      event.preventDefault();
    } else if (key.startsWith("Arrow") && target.matches?.("[data-self]")) {
      moveBy(target, key);
      event.preventDefault();
    } else if (key === "/" && !/^(INPUT|TEXTAREA)$/.test(target.tagName) && !this.#id("home").inert) {
      this.#id("search").focus();
      event.preventDefault();
    } else if (key === "Escape" && this.#id("more-menu")?.hidden === false) {
      this.#closeMenu();
      this.#document.querySelector("[data-action=more]").focus();
    } else if (key === "Escape" && !this.#id("home").inert && !this.#id("choice").hidden) {
      this.#onAction("choose-mode", {});
    } else if (key === "Escape" && this.#document.body.dataset.screen === "ended") {
      this.#onAction("close", {});
    }
  }

  #more() {
    const menu = this.#id("more-menu");
    if (!menu.hidden) return this.#closeMenu();
    menu.hidden = false;
    setAttribute(this.#document.querySelector("[data-action=more]"), "aria-expanded", true);
    [...menu.querySelectorAll("button")].find((button) => button.checkVisibility?.() ?? !button.hidden)?.focus();
  }

  #closeMenu() {
    const menu = this.#id("more-menu");
    if (!menu || menu.hidden) return;
    menu.hidden = true;
    setAttribute(this.#document.querySelector("[data-action=more]"), "aria-expanded", false);
  }

  #fill() {
    if (this.#document.fullscreenElement) this.#document.exitFullscreen();
    else this.#document.documentElement.requestFullscreen().catch(() => {}); // incoming cards stay to be seen
  }

  async #float() {
    if (this.#document.pictureInPictureElement) return this.#document.exitPictureInPicture();
    await this.#document.querySelector("video.remote").requestPictureInPicture().catch(() => {});
  }

  #home(facts) {
    fill(this.#id("home"), {
      person: facts.user,
      user: facts.user.name,
      device: facts.device,
      link: facts.link,
      multi: facts.multi.words,
      words: facts.choice.words,
    });
    this.#document.querySelector("[data-link]").dataset.link = !facts.online ? "off" : facts.dnd ? "dnd" : "on";
    const banner = this.#id("banner");
    setHidden(banner, !facts.banner);
    fill(banner, facts);
    const multi = this.#id("multi-device");
    multi.disabled = !facts.multi.enabled;
    multi.setAttribute("aria-checked", String(facts.multi.on));
    setHidden(this.#id("sound-blocked"), !facts.soundBlocked);
    setHidden(this.#id("may-notify"), !facts.mayNotify);
    keyed(
      this.#id("people"),
      facts.people.rows,
      (one) => {
        if (one.group) return this.#make("t-group");
        const row = this.#make("t-person");
        for (const button of row.querySelectorAll("[data-action=call]")) {
          button.title = callWords(button.dataset.kind, one.name);
          setLabel(button, button.title);
        }
        setLabel(row.querySelector("input"), chooseWords(one.name));
        const star = row.querySelector(".star");
        star.title = favouriteWords(one.name);
        setLabel(star, star.title);
        return row;
      },
      (row, one) => {
        if (one.group) return fill(row, { title: one.group });
        fill(row, { person: one, name: one.name, status: presenceWords(one.online) });
        row.querySelector(".dot").dataset.link = one.online ? "on" : "off";
        for (const button of row.querySelectorAll("[data-action=call]")) button.disabled = !facts.mayCall;
        setAttribute(row.querySelector(".star"), "aria-pressed", one.favourite);
        this.#choosable(row, one, facts.choice);
      },
    );
    this.#choice(facts);
    const none = this.#id("people-none");
    setHidden(none, facts.people.rows.length > 0);
    setText(none, peopleWords(facts.people));
  }

  // The bar below the people, while several are being chosen for one call.
  #choice({ choice, mayCall }) {
    const bar = this.#id("choice");
    const start = this.#id("choose");
    setHidden(start, !choice.may);
    setAttribute(start, "aria-pressed", choice.on);
    this.#id("people").toggleAttribute("data-choosing", choice.on);
    if (!choice.on && bar.contains(this.#document.activeElement)) start.focus();
    setHidden(bar, !choice.on);
    for (const button of bar.querySelectorAll("[data-action=call-chosen]")) button.disabled = !mayCall || !choice.chosen.length;
  }

  #choosable(row, one, choice) {
    const box = row.querySelector("input");
    box.checked = choice.chosen.some((other) => other.id === one.id);
    box.disabled = !box.checked && choice.chosen.length >= choice.room;
    setHidden(box.parentElement, !choice.on);
  }

  #notices(notices) {
    keyed(this.#id("notices"), notices, () => this.#make("t-notice"), (card, one) => fill(card, { ...one, mayDismiss: !one.held }));
  }

  // One card for each call. Over a call, or when there are several, they are small.
  #incoming({ incoming, stage, soundBlocked }) {
    const box = this.#id("incoming");
    const before = box.children.length;
    const held = box.contains(this.#document.activeElement);
    if (incoming.length) this.#remember();
    box.toggleAttribute("data-over", Boolean(stage));
    box.toggleAttribute("data-several", incoming.length > 1);
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
        const { what, answer, answerAudio, answerHold, label } = incomingWords(one);
        setLabel(card, label);
        const { person, kind, answering, hushed } = one;
        const more = !answering;
        fill(card, {
          person, name: person.name, what, answer, answerAudio, answerHold, hold: more && one.mayHold,
          video: more && kind === "video", loud: more && !hushed && !soundBlocked, blocked: soundBlocked,
        });
        card.toggleAttribute("data-still", answering || hushed);
        for (const button of card.querySelectorAll(".call-button")) button.disabled = answering;
      },
    );
    setHidden(box, incoming.length === 0);
    if (incoming.length > before) this.#closeDialogs();
    // Whoever is typing goes on typing, and whoever is about to press a button of another card presses that one;
    // everybody else is taken to the card, not to a button that a stray key would press.
    const { activeElement } = this.#document;
    const busy = /^(INPUT|TEXTAREA)$/.test(activeElement?.tagName ?? "") || box.contains(activeElement);
    if (busy || !(held || incoming.length > before)) return;
    const next = box.lastElementChild ?? (stage && this.#id("stage").querySelector("[data-focus]"));
    next?.focus();
  }

  #stage(stage, gear) {
    const box = this.#id("stage");
    setHidden(box, !stage);
    const key = stage ? `${stage.screen}:${stage.key}` : "";
    if (box.dataset.key !== key) {
      box.dataset.key = key;
      if (stage) this.#remember();
      if (stage) this.#id("toasts").replaceChildren(); // what was said of other calls
      box.replaceChildren(...(stage ? [this.#make(`t-${stage.screen}`)] : []));
      this.#sink = gear.choice.speaker ?? "";
      for (const video of box.querySelectorAll("video.remote")) this.#outlet(video);
      const self = box.querySelector("button[data-self]");
      if (self) movable(self, box);
      box.querySelector("[data-focus]")?.focus({ preventScroll: true });
    }
    if (stage) this.#scenes[stage.screen](box.firstElementChild, stage, gear);
    if (!stage && this.#id("incoming").hidden) this.#giveBack();
  }

  // The dialog of microphone, camera and speaker.
  #gear({ gear, stage }) {
    const dialog = this.#id("gear");
    if (!dialog.open) return;
    for (const select of dialog.querySelectorAll("select")) {
      const kind = select.dataset.gear;
      const named = gear.found[kind].map(({ id, name }, n) => [id, gearWords({ kind, name, n: n + 1 })]);
      const options = [["", gearDefault()], ...named];
      if (select.dataset.options !== JSON.stringify(options)) {
        select.dataset.options = JSON.stringify(options);
        select.replaceChildren(...options.map(([id, words]) => new Option(words, id)));
      }
      const chosen = gear.choice[kind] ?? "";
      if (select.value !== chosen) select.value = chosen;
    }
    const speakers = gear.found.speaker.length > 0;
    fill(dialog, { dark: gear.dark ? darkWords() : "", problem: problemWords(gear.problem), speakers });
    dialog.toggleAttribute("data-mirrored", stage?.mirrored ?? true);
  }

  // The dialog of the people of a call.
  #company(company) {
    const dialog = this.#id("company");
    if (!dialog.open) return;
    if (!company) return dialog.close();
    const none = company.add && !company.found.length ? peopleWords(company) : "";
    setHidden(this.#id("company-add"), !company.add);
    setHidden(dialog.querySelector("[data-action=end-all]"), !company.end);
    setHidden(this.#id("company-none"), !none);
    setText(this.#id("company-none"), none);
    keyed(this.#id("company-legs"), company.legs, () => this.#make("t-company"), (row, one) => {
      const { again, remove } = companyWords(one.person);
      fill(row, { person: one.person, name: one.person.name, state: one.state, again: one.again, remove: one.remove, add: false });
      setLabel(row.querySelector("[data-action=add-again]"), again);
      setLabel(row.querySelector("[data-action=remove]"), remove);
    });
    keyed(this.#id("company-found"), company.found, () => this.#make("t-company"), (row, one) => {
      fill(row, { person: one.person, name: one.person.name, state: one.state, again: false, remove: false, add: true });
      setLabel(row.querySelector("[data-action=add]"), addWords(one.person.name));
    });
  }

  // The dialog in which a call is given to somebody.
  #transfer({ may, found, ...finder }) {
    const dialog = this.#id("transfer");
    if (!dialog.open) return;
    if (!may) return dialog.close();
    setText(this.#id("transfer-none"), found.length ? "" : peopleWords(finder));
    keyed(this.#id("transfer-found"), found, () => this.#make("t-transfer"), (row, one) => {
      fill(row, { person: one.person, name: one.person.name, state: one.state });
      setLabel(row.querySelector("[data-action=transfer]"), transferWords(one.person.name));
    });
  }

  // One person's tile in the grid of a group.
  #tile(facts) {
    const tile = this.#make("t-tile");
    const video = tile.querySelector("video");
    video.dataset.stream = facts.self ? "self" : `of ${facts.key}`;
    video.muted = facts.self;
    if (!facts.self) this.#outlet(video);
    return tile;
  }

  // Each scene: its element and its facts.
  #scenes = {
    outgoing: (scene, facts) => {
      const { person, kind, phase, media, preview, mirrored } = facts;
      scene.querySelector("[data-pulse]").dataset.pulse = phase === "starting" ? "" : "on";
      fill(scene, {
        person,
        name: person.name,
        ...outgoingWords(facts),
        preview,
        controls: phase !== "starting",
        ...mediaWords(media),
        camera: kind === "video",
      });
      scene.querySelector("[data-self]").toggleAttribute("data-mirrored", mirrored);
      toggles(scene, media);
    },
    in_call: (scene, facts, gear) => {
      const { person, video, seconds, link, theirCam, theirScreen, media, preview, mirrored, soundBlocked } = facts;
      const faceless = !theirCam || link === "connecting";
      const ask = scene.querySelector(".ask");
      const newlyAsked = facts.asked && ask.hidden;
      fill(scene, {
        person,
        name: person.name,
        clock: link === "connecting" ? "" : clock(seconds),
        ...inCallWords(facts),
        faceless,
        preview,
        blocked: soundBlocked,
        ...mediaWords(media),
        camera: video && !media.screen,
        mayAdd: facts.mayAdd,
        mayHold: facts.mayHold,
        mayTransfer: facts.mayTransfer,
        mayConnect: facts.mayConnect,
        mayTakeBack: Boolean(facts.transferring?.mine),
        addVideo: !video && !facts.asking && !facts.asked && !media.screen && link !== "connecting",
        several: gear.found.cam.length > 1 && media.cam && !media.screen,
        canShare: Boolean(globalThis.navigator.mediaDevices?.getDisplayMedia),
        canFloat: Boolean(this.#document.pictureInPictureEnabled) && !faceless,
        canFill: Boolean(this.#document.fullscreenEnabled),
        ...stageWords({ sharing: media.screen, full: Boolean(this.#document.fullscreenElement) }),
      });
      if (newlyAsked) {
        this.#closeMenu(); // on a narrow screen it would lie over the question
        ask.focus();
      }
      scene.toggleAttribute("data-faceless", faceless);
      scene.toggleAttribute("data-screen", theirScreen);
      scene.querySelector("[data-self]").toggleAttribute("data-mirrored", mirrored);
      for (const button of scene.querySelectorAll(".call-button[data-action=share]")) button.classList.toggle("off", media.screen);
      scene.dataset.link = link;
      toggles(scene, media);
    },
    group_call: (scene, facts, gear) => {
      const { seconds, media, mirrored, tiles, soundBlocked } = facts;
      const words = {
        ...groupCallWords(facts),
        clock: seconds === null ? "" : clock(seconds),
        blocked: soundBlocked,
        ...mediaWords(media),
        camera: !media.screen,
        several: gear.found.cam.length > 1 && media.cam && !media.screen,
        canShare: Boolean(globalThis.navigator.mediaDevices?.getDisplayMedia),
        canFill: Boolean(this.#document.fullscreenEnabled),
        mayEnd: facts.mayEnd,
        mayHold: facts.mayHold,
        mayTransfer: facts.mayTransfer,
        mayConnect: facts.mayConnect,
        mayTakeBack: Boolean(facts.transferring?.mine),
        ...holdWords(facts),
        ...stageWords({ sharing: media.screen, full: Boolean(this.#document.fullscreenElement) }),
      };
      const grid = scene.querySelector(".tiles");
      for (const part of scene.children) if (part !== grid) fill(part, words);
      for (const name of ["wide", "tall"]) {
        grid.style.setProperty(`--${name}`, facts[name]);
        grid.style.setProperty(`--${name}-rows`, facts[`${name}Rows`]);
      }
      grid.toggleAttribute("data-large", tiles.some((one) => one.large));
      keyed(grid, tiles, (one) => this.#tile(one), (tile, one) => {
        const { name, pin } = tileWords(one);
        fill(tile, { ...one, name, faceless: !one.picture, pinnable: !one.self && !one.waits });
        for (const [mark, on] of Object.entries({ large: one.large, speaks: one.speaks, waits: one.waits, screen: one.screen })) {
          tile.toggleAttribute(`data-${mark}`, on);
        }
        tile.toggleAttribute("data-faceless", !one.picture);
        tile.toggleAttribute("data-mirrored", one.self && mirrored);
        const button = tile.querySelector("[data-action=pin]");
        setLabel(button, pin);
        setAttribute(button, "aria-pressed", one.large);
      });
      for (const button of scene.querySelectorAll(".call-button[data-action=share]")) button.classList.toggle("off", media.screen);
      toggles(scene, media);
    },
    ended: (scene, { person, kind, title, detail, again }) => {
      fill(scene, { person, title, detail, again });
      setIcon(scene, "again", kind === "video" ? "video" : "phone");
    },
    permission: (scene, { problem, person }) => fill(scene, permissionWords(problem, person.name)),
  };

  #gate({ gate, login, home }) {
    const box = this.#id("gate");
    setHidden(box, !gate);
    const key = gate?.name ?? "";
    if (box.dataset.key === key) return;
    box.dataset.key = key;
    box.replaceChildren();
    if (!gate) return;
    this.#closeDialogs();
    const card = this.#make("t-gate");
    const { title, detail } = gateWords(gate.name, gate.device);
    const take = key === "device_in_use" || key === "replaced";
    fill(card, { title, detail, take, login: key === "signed_out", other: key === "other_device" });
    card.querySelector("#sign-in").href = login;
    card.querySelector("#as-usual").href = home;
    box.append(card);
    box.querySelector("[data-focus]:not([hidden])")?.focus();
    this.say(`${title}. ${detail}`, true);
  }

  // They would keep everything else from being pressed, read out and seen. What was typed in one is given up.
  #closeDialogs() {
    for (const dialog of this.#document.querySelectorAll("dialog[open]")) dialog.close("");
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

// The buttons and boxes of a row that can be seen.
function reachable(row) {
  return [...row.querySelectorAll("button, input")].filter((node) => node.checkVisibility?.() ?? true);
}

function toggles(scene, media) {
  for (const [action, on, icon] of [
    ["mic", media?.speaks, "mic"],
    ["cam", media?.cam, "video"],
  ]) {
    const button = scene.querySelector(`[data-action="${action}"]`);
    if (!button) continue;
    button.classList.toggle("off", !on);
    setIcon(scene, action, on ? icon : `${icon}-off`);
  }
}

// One's own picture stands in a corner: dragged to another, or taken there by the arrow keys.
function movable(self, box) {
  let from = null;
  self.dataset.corner = "bottom-end";
  self.addEventListener("pointerdown", (event) => {
    from = { x: event.clientX, y: event.clientY };
    self.setPointerCapture(event.pointerId);
  });
  self.addEventListener("pointermove", (event) => {
    if (from) self.style.translate = `${event.clientX - from.x}px ${event.clientY - from.y}px`;
  });
  const drop = (event) => {
    if (!from) return;
    from = null;
    const room = box.getBoundingClientRect();
    const mine = self.getBoundingClientRect();
    const top = mine.top + mine.height / 2 < room.top + room.height / 2;
    const left = mine.left + mine.width / 2 < room.left + room.width / 2;
    self.style.translate = "";
    if (event.type === "pointerup") stand(self, top, left);
  };
  self.addEventListener("pointerup", drop);
  self.addEventListener("pointercancel", drop);
}

function moveBy(self, key) {
  const [vertical, horizontal] = self.dataset.corner.split("-");
  const top = { ArrowUp: true, ArrowDown: false }[key] ?? vertical === "top";
  const left = { ArrowLeft: true, ArrowRight: false }[key] ?? (horizontal === "start") === leftToRight(self);
  stand(self, top, left);
}

function stand(self, top, left) {
  self.dataset.corner = `${top ? "top" : "bottom"}-${left === leftToRight(self) ? "start" : "end"}`;
}

function leftToRight(node) {
  return getComputedStyle(node).direction === "ltr";
}
