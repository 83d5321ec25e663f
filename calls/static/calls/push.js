// Calls while no page is open: the service worker, and whether the browser wakes it for this device.

export class Push {
  #options;
  #registration = null;

  // options: worker (its address), key (the server's public one, or null where nothing is pushed), account, url
  //   onAnswer(id, ms): the person pressed "Answer" in this call's notification, and means it for so many ms
  //   onOpened(id, ms): the same, and the worker opened this page for it
  constructor(options) {
    this.#options = options;
    const { serviceWorker } = navigator;
    if (!serviceWorker) return; // a page without https
    serviceWorker.addEventListener("message", ({ data, source }) => {
      if (source?.scriptURL === options.worker && data?.action === "answer") options.onAnswer(data.call, data.ms);
    });
    this.#registration = serviceWorker.register(options.worker).catch(() => null);
    this.#askWhatFor();
  }

  // Asks the worker what it opened this page for. It says so once.
  async #askWhatFor() {
    const worker = (await this.#registration)?.active;
    if (!worker) return;
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = ({ data }) => {
      port1.close();
      if (data) this.#options.onOpened(data.call, data.ms);
    };
    worker.postMessage({ type: "opened" }, [port2]);
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
