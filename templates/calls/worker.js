{% autoescape off %}// The service worker: a page for when there is no connection, and calls while no page is open.
// It keeps nothing that belongs to a user. What a call is about it asks of the server, with the browser's sign-in.
const FACTS = {{ facts }};
const CACHE = `calls-${FACTS.kept.join("|")}`;

self.addEventListener("install", (event) => {
  self.skipWaiting();
  const fresh = FACTS.kept.map((url) => new Request(url, { cache: "reload" }));
  event.waitUntil(caches.open(CACHE).then((cache) => cache.addAll(fresh)));
});

self.addEventListener("activate", (event) => {
  const old = (name) => name.startsWith("calls-") && name !== CACHE;
  event.waitUntil(
    caches
      .keys()
      .then((names) => Promise.all(names.filter(old).map((name) => caches.delete(name))))
      .then(() => self.clients.claim()),
  );
});

self.addEventListener("fetch", (event) => {
  const { request } = event;
  if (request.method !== "GET") return;
  if (request.mode === "navigate") {
    event.respondWith(fetch(request).catch(() => caches.match(FACTS.kept[0])));
  } else if (FACTS.kept.includes(new URL(request.url).pathname)) {
    event.respondWith(fetch(request).catch(() => caches.match(request)));
  }
});

self.addEventListener("push", (event) => {
  const { call } = event.data?.json() ?? {};
  if (call) event.waitUntil(show(call));
});

async function show(call) {
  const said = await ask(about(call));
  const tag = `call-${call}`; // the page's own notifications have it too, so one call is one notification
  for (const shown of await self.registration.getNotifications({ tag })) shown.close();
  if (!said?.title) return; // answered elsewhere, or nothing that this sign-in may know
  await self.registration.showNotification(said.title, {
    tag,
    body: said.body,
    icon: FACTS.icon,
    badge: FACTS.badge,
    renotify: said.rings,
    requireInteraction: said.rings,
    silent: !said.rings,
    vibrate: said.rings ? [600, 300, 600, 300, 600] : undefined,
    actions: said.rings
      ? [
          { action: "answer", title: said.answer },
          { action: "reject", title: said.reject },
        ]
      : [],
    data: { type: "call", call, token: said.token ?? null, over: !said.rings },
  });
}

self.addEventListener("notificationclick", (event) => {
  const { action, notification } = event;
  if (notification.data?.type !== "call") return;
  notification.close();
  event.waitUntil(act(action || "open", notification.data));
});

// An open page does what was pressed; without one, the worker declines by itself, and opens one for the rest.
async function act(action, { call, token, over }) {
  const [page] = await self.clients.matchAll({ type: "window" });
  if (page && action !== "reject") await page.focus().catch(() => {});
  if (page) page.postMessage({ type: "call", action, call });
  if (action === "reject") {
    if (token) await reject(call, token);
  } else if (!page) {
    await self.clients.openWindow(action === "answer" ? `${FACTS.home}?answer=${call}` : over ? `${FACTS.home}#/history` : FACTS.home);
  }
}

function reject(call, token) {
  return fetch(`${about(call)}reject/`, { method: "POST", headers: { "X-CSRFToken": token } });
}

// The address of what is to be known of a call.
function about(call) {
  return FACTS.ringing.replace("00000000-0000-0000-0000-000000000000", encodeURIComponent(call));
}

async function ask(url) {
  try {
    const response = await fetch(url, { headers: { Accept: "application/json" }, cache: "no-store" });
    return response.ok ? await response.json() : null;
  } catch {
    return null;
  }
}
{% endautoescape %}
