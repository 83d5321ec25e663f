// Calls while no page is open: the service worker, and whether the browser wakes it for this device.

export class Push {
  #options;
  #registration = null;

  // options: worker (its address), key (the server's public one, or null where nothing is pushed), account, url, onAnswer(id)
  constructor(options) {
    this.#options = options;
    const { serviceWorker } = navigator;
    if (!serviceWorker) return; // a page without https
    serviceWorker.addEventListener("message", ({ data }) => data?.action === "answer" && options.onAnswer(data.call));
    this.#registration = serviceWorker.register(options.worker).catch(() => null);
  }

  // off · on · denied · unsupported (by the browser) · unavailable (on this site)
  async state(kept) {
    if (!this.#options.key) return "unavailable";
    if (!("PushManager" in globalThis) || !("Notification" in globalThis) || !(await this.#registration)) return "unsupported";
    if (Notification.permission === "denied") return "denied";
    const subscription = await (await this.#registration).pushManager.getSubscription().catch(() => null);
    return kept && subscription && Notification.permission === "granted" ? "on" : "off";
  }

  // To be called from a click. True when the device is woken from now on.
  async on(device) {
    if ((await Notification.requestPermission()) !== "granted") return false;
    try {
      const { pushManager } = await navigator.serviceWorker.ready;
      const old = await pushManager.getSubscription();
      if (old && !same(old.options.applicationServerKey, this.#options.key)) await old.unsubscribe();
      const fresh = await pushManager.subscribe({ userVisibleOnly: true, applicationServerKey: this.#options.key });
      const { endpoint, keys } = fresh.toJSON();
      const { p256dh, auth } = keys;
      return Boolean(await this.#options.account.post(this.#options.url, { id: device, subscription: { endpoint, keys: { p256dh, auth } } }));
    } catch {
      return false; // the browser's push service is away, or forbidden
    }
  }

  // The browser's own subscription stays: other devices in this browser may use it.
  async off(device) {
    return Boolean(await this.#options.account.post(this.#options.url, { id: device, subscription: null }));
  }
}

function same(buffer, key) {
  if (!buffer) return false;
  const text = btoa(String.fromCharCode(...new Uint8Array(buffer)));
  return text.replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "") === key;
}
