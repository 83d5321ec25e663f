// The settings: the own devices, who may ring, how this device rings and looks, and the language.
// What belongs to the user goes to the server and comes back on every device; what belongs to this device is kept here.
import { agoWords, gettext, momentWords, ngettext, put } from "./text.js";

const REFRESH_MS = 15_000;

export class Settings {
  #document;
  #box;
  #account;
  #options;
  #device = null; // this page's: {id, name}
  #devices = [];
  #favourites = new Set(); // ids
  #people = []; // the favourites, and whoever was searched for: {id, name}
  #typing = null;
  #storage;

  // options: account, urls {devices, rename, signOut, line, dnd, favourite, people}, avatar(node, person), toast(words),
  //   confirm({title, words, button}), ask({title, label, value, button}), sample(),
  //   onFavourites([{id, name}]), push, storage
  constructor(document, options) {
    this.#document = document;
    this.#options = options;
    this.#account = options.account;
    this.#storage = options.storage;
    this.#box = document.getElementById("settings");
    this.#box.addEventListener("click", (event) => {
      const button = event.target.closest("[data-do]");
      if (button) this.#do(button.dataset.do, button);
    });
    this.#id("dnd").addEventListener("click", () => this.#switchDnd());
    this.#id("favourite-search").addEventListener("input", () => {
      clearTimeout(this.#typing);
      this.#typing = setTimeout(() => this.#findPeople(), 200);
    });
    this.#id("push").addEventListener("click", () => this.#switchPush());
    this.#sounds();
    this.#theme();
    this.#id("language").addEventListener("change", (event) => event.target.form.submit());
    setInterval(() => this.#shown() && this.#loadDevices(), REFRESH_MS);
  }

  load() {
    this.#loadDevices();
    this.#loadLine();
  }

  // What the server says on this page's socket.
  hear(frame) {
    if (frame.device) {
      this.#device = frame.device;
      if (this.#shown()) this.#loadDevices();
    }
    if (frame.line) this.#drawDnd(frame.line.dnd);
    if (frame.t === "line") this.#loadLine(); // perhaps it was the favourites
  }

  #shown() {
    return !this.#box.hidden && this.#document.visibilityState === "visible";
  }

  // ── devices ──

  async #loadDevices() {
    const found = await this.#account.read(this.#options.urls.devices);
    this.#id("devices-failed").hidden = found !== null;
    if (!found) return;
    this.#devices = found.devices;
    this.#drawDevices();
    this.#drawPush();
  }

  #drawDevices() {
    const list = this.#id("devices");
    const held = this.#document.activeElement?.closest?.("[data-device]");
    const heldDo = this.#document.activeElement?.dataset?.do;
    const mine = (each) => each.id === this.#device?.id;
    const sorted = [...this.#devices].sort((a, b) => mine(b) - mine(a));
    list.replaceChildren(...sorted.map((each) => this.#deviceRow(each, mine(each))));
    if (held) list.querySelector(`[data-device="${held.dataset.device}"] [data-do="${heldDo}"]`)?.focus();
    this.#id("sign-out-others").hidden = !this.#device || this.#others().length === 0;
  }

  // The devices in other browsers than this one.
  #others() {
    const here = this.#devices.find((each) => each.id === this.#device?.id);
    return this.#devices.filter((each) => each !== here && !here?.with.includes(each.id));
  }

  // What the devices in the same browser are called: "Phone, Tablet".
  #together(device) {
    return this.#devices.filter((each) => device.with.includes(each.id)).map((each) => each.name).join(", ");
  }

  #deviceRow(device, mine) {
    const { id, name, kind, online, seen, since } = device;
    const row = this.#make("t-device");
    const slot = (wanted) => row.querySelector(`[data-slot=${wanted}]`);
    row.dataset.device = id;
    slot("icon").setAttribute("href", kind === "ios" || kind === "android" ? "#i-mobile" : "#i-device");
    slot("name").textContent = name;
    slot("this").hidden = !mine;
    const together = this.#together(device);
    slot("together").textContent = together && put(gettext("Same browser as {names}"), { names: together });
    slot("together").hidden = !together;
    slot("dot").dataset.link = online ? "on" : "off";
    const seenAt = new Date(seen);
    const words = online ? gettext("Online") : put(gettext("Last seen {when}"), { when: agoWords(seenAt) });
    slot("state").textContent = words;
    slot("state").title = put(gettext("Signed in {since}, last seen {seen}"), {
      since: momentWords(new Date(since)),
      seen: momentWords(seenAt),
    });
    slot("rename").setAttribute("aria-label", put(gettext("Rename {name}"), { name }));
    slot("sign-out").setAttribute("aria-label", put(gettext("Sign out {name}"), { name }));
    slot("sign-out").hidden = mine; // the button for that is at the top of every page
    return row;
  }

  async #rename(id) {
    const device = this.#devices.find((each) => each.id === id);
    const name = await this.#options.ask({
      title: gettext("Rename the device"),
      label: gettext("New name"),
      value: device.name,
      button: gettext("Rename"),
    });
    if (!name || name === device.name) return;
    const answer = await this.#account.post(this.#options.urls.rename, { id, name });
    if (!answer) this.#options.toast(gettext("That did not work. Try again."));
    this.#loadDevices();
  }

  async #signOut(id) {
    const device = this.#devices.find((each) => each.id === id);
    const words = [gettext("It stops ringing at once, and a call on it ends. Sign in there to use it again.")];
    const names = this.#together(device);
    if (names) words.push(put(gettext("The same browser is signed out as a whole: {names}, too."), { names }));
    if (device.with.includes(this.#device?.id)) words.push(gettext("This is the browser that you are using now."));
    const sure = await this.#options.confirm({
      title: put(gettext("Sign out {name}?"), { name: device.name }),
      words: words.join(" "),
      button: gettext("Sign out"),
    });
    if (sure) this.#afterSignOut(await this.#account.post(this.#options.urls.signOut, { id }));
  }

  async #signOutOthers() {
    const n = this.#others().length;
    const sure = await this.#options.confirm({
      title: gettext("Sign out all other devices?"),
      words: put(
        ngettext(
          "{n} other device stops ringing at once, and a call on it ends.",
          "{n} other devices stop ringing at once, and calls on them end.",
          n,
        ),
        { n },
      ),
      button: gettext("Sign out"),
    });
    if (sure) this.#afterSignOut(await this.#account.post(this.#options.urls.signOut, { all_but: this.#device.id }));
  }

  #afterSignOut(answer) {
    const n = answer?.signed_out ?? 0;
    this.#options.toast(
      answer
        ? put(ngettext("{n} device was signed out.", "{n} devices were signed out.", n), { n })
        : gettext("That did not work. Try again."),
    );
    this.#loadDevices();
  }

  // ── calls while the page is closed ──

  async #drawPush() {
    const mine = this.#devices.find((each) => each.id === this.#device?.id);
    const state = await this.#options.push.state(Boolean(mine?.push));
    const button = this.#id("push");
    button.setAttribute("aria-checked", String(state === "on"));
    button.disabled = !["on", "off"].includes(state) || !mine;
    this.#id("push-words").textContent = {
      on: gettext("This device is notified of calls, and you can answer from there."),
      off: gettext("You are called here only while this page is open."),
      denied: gettext("Notifications are blocked. Allow them beside the address bar, then load the page again."),
      unsupported: gettext("This browser cannot do that. On an iPhone or iPad, add Calls to the home screen first."),
      unavailable: gettext("Your operator has not set this up."),
    }[state];
  }

  async #switchPush() {
    const button = this.#id("push");
    const on = button.getAttribute("aria-checked") !== "true";
    button.disabled = true;
    const done = await (on ? this.#options.push.on(this.#device.id) : this.#options.push.off(this.#device.id));
    if (!done && globalThis.Notification?.permission !== "denied") this.#options.toast(gettext("That did not work. Try again."));
    this.#loadDevices();
  }

  // ── the line ──

  async #loadLine() {
    const found = await this.#account.read(this.#options.urls.line);
    if (!found) return;
    this.#drawDnd(found.line.dnd);
    this.#like(found.favourites);
    this.#people = found.favourites;
    this.#findPeople();
  }

  #like(favourites) {
    this.#favourites = new Set(favourites.map((each) => each.id));
    this.#options.onFavourites(favourites);
  }

  #drawDnd(on) {
    const button = this.#id("dnd");
    button.disabled = false;
    button.setAttribute("aria-checked", String(on));
    this.#document.body.toggleAttribute("data-dnd", on);
  }

  async #switchDnd() {
    const button = this.#id("dnd");
    const on = button.getAttribute("aria-checked") !== "true";
    this.#drawDnd(on);
    const answer = await this.#account.post(this.#options.urls.dnd, { on });
    this.#drawDnd(answer ? answer.line.dnd : !on);
    if (!answer) this.#options.toast(gettext("That did not work. Try again."));
  }

  // The favourites, and whoever fits what is searched for.
  async #findPeople() {
    const query = this.#id("favourite-search").value.trim();
    const favourites = this.#people.filter((each) => this.#favourites.has(each.id));
    let found = [];
    if (query) found = (await this.#account.read(this.#options.urls.people, { q: query }))?.people ?? [];
    if (query !== this.#id("favourite-search").value.trim()) return; // a newer search is on its way
    const known = new Set(favourites.map((each) => each.id));
    this.#people = [...favourites, ...found.filter((each) => !known.has(each.id))];
    this.#drawPeople(query);
  }

  #drawPeople(query) {
    const rows = this.#people.map((person) => {
      const liked = this.#favourites.has(person.id);
      const row = this.#make("t-favourite");
      row.dataset.user = person.id;
      this.#options.avatar(row.querySelector("[data-slot=avatar]"), person);
      row.querySelector("[data-slot=name]").textContent = person.name;
      const button = row.querySelector("[data-do=favourite]");
      button.setAttribute("aria-pressed", String(liked));
      button.querySelector("span").textContent = liked ? gettext("Remove") : gettext("Add");
      button.setAttribute(
        "aria-label",
        put(liked ? gettext("Remove {name} from the favourites") : gettext("Add {name} to the favourites"), person),
      );
      return row;
    });
    this.#id("favourites").replaceChildren(...rows);
    const none = this.#id("favourites-none");
    none.hidden = rows.length > 0;
    none.textContent = query
      ? put(gettext("Nobody is called “{query}”."), { query })
      : gettext("No favourites yet. Search for the people who may always reach you.");
  }

  async #favour(user) {
    const on = !this.#favourites.has(user);
    if (!(await this.favour(user, on))) return;
    if (on) this.#id("favourite-search").value = "";
    this.#id("favourite-search").focus();
    this.#findPeople();
  }

  // True when it is so now, for all of the user's devices.
  async favour(user, on) {
    const answer = await this.#account.post(this.#options.urls.favourite, { user, on });
    if (answer) this.#like(answer.favourites);
    else {
      this.#options.toast(gettext("That did not work. Try again."));
      this.#loadLine();
    }
    return Boolean(answer);
  }

  // ── this device ──

  #sounds() {
    const tone = this.#id("ring-tone");
    const volume = this.#id("ring-volume");
    const silent = this.#id("ring-silent");
    tone.value = this.#kept("ring.tone") ?? "chime";
    volume.value = this.#kept("ring.volume") ?? "100";
    const draw = () => {
      const on = this.#kept("ring.silent") === "1";
      silent.setAttribute("aria-checked", String(on));
      tone.disabled = volume.disabled = on;
    };
    draw();
    tone.addEventListener("change", () => (this.#keep("ring.tone", tone.value), this.#options.sample()));
    volume.addEventListener("change", () => (this.#keep("ring.volume", volume.value), this.#options.sample()));
    silent.addEventListener("click", () => {
      this.#keep("ring.silent", this.#kept("ring.silent") === "1" ? null : "1");
      draw();
    });
  }

  #theme() {
    const chosen = this.#kept("theme") ?? "";
    for (const radio of this.#box.querySelectorAll("[name=theme]")) {
      radio.checked = radio.value === chosen;
      radio.addEventListener("change", () => {
        this.#keep("theme", radio.value || null);
        dispatchEvent(new Event("calls:theme"));
      });
    }
  }

  #kept(key) {
    try {
      return this.#storage.getItem(key);
    } catch {
      return null;
    }
  }

  #keep(key, value) {
    try {
      if (value === null) this.#storage.removeItem(key);
      else this.#storage.setItem(key, value);
    } catch {
      this.#options.toast(gettext("This browser does not let the page keep anything, so that is not kept."));
    }
  }

  #do(name, button) {
    const device = button.closest("[data-device]")?.dataset.device;
    const actions = {
      rename: () => this.#rename(device),
      "sign-out-device": () => this.#signOut(device),
      "sign-out-others": () => this.#signOutOthers(),
      favourite: () => this.#favour(button.closest("[data-user]").dataset.user),
      sample: () => this.#options.sample(),
    };
    actions[name]?.();
  }

  #id(id) {
    return this.#document.getElementById(id);
  }

  #make(id) {
    return this.#id(id).content.firstElementChild.cloneNode(true);
  }
}
