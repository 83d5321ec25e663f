{% autoescape off %}// The service worker: a page for when there is no connection, and calls while no page is open.
// It keeps nothing that belongs to a user. What a call is about it asks of the server, with the browser's sign-in.
const FACTS = {{ facts }};
const CACHE = `calls-${FACTS.kept.join("|")}`;
const PASSING_MS = 4000;
const REPLY_MS = 300; // for a page to say whether it knows a call; browsers let a worker bring a page to the front only soon
const WISH_MS = 30_000; // "Answer" was pressed: for so long a page may open and answer; later nobody expects it
const WISH = "wish"; // a cache with one entry, because the worker may be stopped before the page has started
const WISH_URL = `${FACTS.home}wish`;

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
  const { call, over } = event.data?.json() ?? {};
  if (call) event.waitUntil(show(call, Boolean(over)));
});

// Something is shown for every push, if only for a moment: browsers take the leave to push from whoever shows nothing
// while no page of theirs is seen. `over`: the push says that it rings no more.
async function show(call, over) {
  const tag = `call-${call}`; // the page's own notifications have it too, so one call is one notification
  const shown = () => self.registration.getNotifications({ tag });
  const before = await shown();
  const said = await ask(about(call), over, before.length > 0);
  if (!said) return;
  for (const old of before) old.close();
  if (said.passing && (await self.clients.matchAll({ type: "window" })).some((page) => page.visibilityState === "visible")) return;
  await self.registration.showNotification(said.title, {
    tag,
    body: said.body,
    icon: FACTS.icon,
    badge: FACTS.badge,
    renotify: said.rings,
    requireInteraction: said.rings,
    silent: !said.rings,
    vibrate: said.rings ? [600, 300, 600, 300, 600] : undefined,
    actions: said.answer
      ? [
          { action: "answer", title: said.answer },
          { action: "reject", title: said.reject },
        ]
      : [],
    data: { type: "call", call, token: said.token ?? null, over: !said.rings },
  });
  if (!said.passing) return;
  setTimeout(async () => {
    for (const one of await shown()) if (one.data.over) one.close();
  }, PASSING_MS); // and not before the push is done with: browsers look then
}

self.addEventListener("notificationclick", (event) => {
  const { action, notification } = event;
  if (notification.data?.type !== "call") return;
  notification.close();
  event.waitUntil(act(action || "open", notification.data));
});

// An open page that knows the call does what was pressed, else any; without one, the worker declines by itself, and
// opens one for the rest. The panel and the sign-in page are other pages: they know no calls. Which call is to be
// answered never stands in an address, where anybody could write it: the page asks for it.
async function act(action, { call, token, over }) {
  const pages = (await self.clients.matchAll({ type: "window" })).filter(({ url }) => new URL(url).pathname === FACTS.home);
  const known = await Promise.all(pages.map((page) => knows(page, call)));
  const page = pages[Math.max(0, known.indexOf(true))];
  if (page && action !== "reject") await page.focus().catch(() => {});
  if (page) page.postMessage({ type: "call", action, call, ms: WISH_MS });
  if (action === "reject") {
    if (token) await reject(call, token);
  } else if (!page) {
    if (action === "answer") await wish(call);
    await self.clients.openWindow(over ? `${FACTS.home}#/history` : FACTS.home);
  }
}

self.addEventListener("message", (event) => {
  const { data, source, origin, ports } = event;
  if (origin !== self.location.origin || source?.type !== "window" || new URL(source.url).pathname !== FACTS.home) return;
  if (data?.type === "opened") event.waitUntil(wished().then((found) => ports[0].postMessage(found)));
});

// Only a click on "Answer" comes here.
async function wish(call) {
  const cache = await caches.open(WISH);
  await cache.put(WISH_URL, new Response(JSON.stringify({ call, at: Date.now() })));
}

// What the page that asks was opened for: {call, ms: how long it holds}, or null. Said once, however many ask.
async function wished() {
  const kept = await caches.match(WISH_URL, { cacheName: WISH });
  const { call, at } = (await kept?.json()) ?? {};
  if (!(await caches.delete(WISH)) || !call) return null; // `delete` is true for one of several that ask at once
  const ms = WISH_MS - (Date.now() - at);
  return ms > 0 && ms <= WISH_MS ? { call, ms } : null;
}

function knows(page, call) {
  const { port1, port2 } = new MessageChannel();
  const said = new Promise((resolve) => {
    port1.onmessage = ({ data }) => resolve(data);
    setTimeout(() => resolve(false), REPLY_MS);
  });
  page.postMessage({ type: "has", call }, [port2]);
  return said.finally(() => port1.close());
}

function reject(call, token) {
  return fetch(`${about(call)}reject/`, { method: "POST", headers: { "X-CSRFToken": token } });
}

// The address of what is to be known of a call.
function about(call) {
  return FACTS.ringing.replace("00000000-0000-0000-0000-000000000000", encodeURIComponent(call));
}

// What the server says of the call. If it cannot be asked, a call that is shown stays as it is, and another one rings,
// unless the push itself says that it is over.
async function ask(url, over, shown) {
  const ended = { title: FACTS.over, body: "", rings: false, passing: true };
  try {
    const response = await fetch(url, { headers: { Accept: "application/json" }, cache: "no-store" });
    if (response.ok) return await response.json();
    if (response.status < 500) return ended; // nothing for this sign-in
  } catch {
    // no connection
  }
  if (over) return ended;
  return shown ? null : { title: FACTS.incoming, body: "", rings: true, token: null };
}
{% endautoescape %}
