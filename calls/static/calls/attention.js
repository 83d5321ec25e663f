// Makes a call noticed by somebody who looks elsewhere: the tab's icon and title, vibration, a notification.

const VIBRATION = [500, 250, 500, 1250];
const RING_EVERY_MS = VIBRATION.reduce((sum, ms) => sum + ms, 0);

export class Attention {
  #document;
  #icons;
  #onOpen;
  #onAction;
  #onShown;
  #shown = new Map(); // by call id: a Notification, or true for one of the service worker
  #vibrating = 0; // the longest time a vibration was asked for, so that it ends with the ring

  // icons {still, ringing}: addresses · has(key): whether this page knows the call
  // worker: the address of the service worker, whose messages are believed
  // onAction(name, {key}): somebody pressed a notification's button · onShown(key): the call has a notification
  constructor({ document, icons, has, worker, onAction, onShown }) {
    this.#document = document;
    this.#icons = icons;
    this.#onAction = onAction;
    this.#onShown = onShown;
    this.#onOpen = () => globalThis.focus();
    // The worker asks every page of this browser which one knows the call, {type: "has", call}; what was pressed in a
    // notification comes to that one: {type: "call", action: "answer" | "reject" | "open", call}.
    navigator.serviceWorker?.addEventListener("message", ({ data, ports, source }) => {
      if (source?.scriptURL !== worker) return;
      if (data?.type === "has") ports[0].postMessage(has(data.call));
      if (data?.type !== "call") return;
      this.#onOpen();
      if (data.action !== "open") this.#onAction(data.action, { key: data.call });
    });
  }

  // May the person be asked about notifications?
  get mayAsk() {
    return globalThis.Notification?.permission === "default" && globalThis.isSecureContext;
  }

  async ask() {
    await Notification.requestPermission().catch(() => {});
  }

  // title, and ringing [{key, title, body, actions: {answer, reject}, ms}]: calls that are to be noticed, with the time left.
  show({ title, flash, ringing }) {
    if (this.#document.title !== title) this.#document.title = title;
    const icon = this.#document.querySelector("link[rel=icon]");
    const wanted = flash && ringing.length ? this.#icons.ringing : this.#icons.still;
    if (icon.getAttribute("href") !== wanted) icon.setAttribute("href", wanted);
    this.#vibrate(ringing);
    this.#notify(ringing);
  }

  // Browsers let a page vibrate only after somebody has touched it.
  #vibrate(ringing) {
    if (!navigator.vibrate || !navigator.userActivation?.hasBeenActive) return;
    if (!ringing.length && this.#vibrating) navigator.vibrate((this.#vibrating = 0));
    if (!ringing.length || this.#vibrating) return;
    this.#vibrating = Math.max(...ringing.map((one) => one.ms));
    const times = Math.ceil(this.#vibrating / RING_EVERY_MS);
    navigator.vibrate(Array.from({ length: times }, () => VIBRATION).flat());
  }

  // Whoever sees the page needs none.
  #notify(ringing) {
    const wanted = this.#document.visibilityState === "visible" ? [] : ringing;
    for (const key of this.#shown.keys()) {
      if (!wanted.some((one) => one.key === key)) this.#take(key);
    }
    if (globalThis.Notification?.permission !== "granted") return;
    for (const one of wanted) if (!this.#shown.has(one.key)) this.#put(one);
  }

  // With a service worker it has buttons; without, a click brings the page to the front.
  async #put({ key, title, body, actions }) {
    this.#shown.set(key, true);
    const options = { body, tag: `call-${key}`, icon: this.#icons.still, requireInteraction: true };
    const worker = await navigator.serviceWorker?.getRegistration().catch(() => undefined);
    if (!this.#shown.has(key)) return;
    if (worker?.active) {
      const buttons = Object.entries(actions).map(([action, words]) => ({ action, title: words }));
      const asked = worker.showNotification(title, { ...options, actions: buttons, data: { type: "call", call: key } });
      if (await asked.then(() => true, () => false)) return this.#onShown(key);
      if (!this.#shown.has(key)) return;
    }
    try {
      const shown = new Notification(title, options);
      shown.onclick = () => (this.#onOpen(), shown.close());
      this.#shown.set(key, shown);
      this.#onShown(key);
    } catch {
      // some phones allow only those of a service worker
    }
  }

  async #take(key) {
    const shown = this.#shown.get(key);
    this.#shown.delete(key);
    if (shown !== true) return shown.close();
    const worker = await navigator.serviceWorker?.getRegistration().catch(() => undefined);
    for (const one of (await worker?.getNotifications({ tag: `call-${key}` })) ?? []) one.close();
  }
}
