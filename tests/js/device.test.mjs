import assert from "node:assert/strict";
import { test } from "node:test";

import { Identity, guessName, uuid } from "../../calls/static/calls/device.js";

function storage() {
  const kept = {};
  Object.defineProperty(kept, "getItem", { value: (key) => kept[key] ?? null });
  Object.defineProperty(kept, "setItem", { value: (key, value) => void (kept[key] = value) });
  Object.defineProperty(kept, "removeItem", { value: (key) => void delete kept[key] });
  return kept;
}

// What the browser's lock manager does, for exclusive locks that are held for ever.
function lockManager() {
  const holders = new Map();
  return {
    request(name, { steal }, callback) {
      if (holders.has(name) && !steal) return Promise.resolve(callback(null));
      holders.get(name)?.();
      return new Promise((resolve, reject) => {
        holders.set(name, () => reject(new DOMException("stolen", "AbortError")));
        Promise.resolve(callback({ name })).then(resolve, reject);
      });
    },
  };
}

const identity = (kept, search = "", user = "bob", locks = lockManager()) =>
  new Identity(user, search, { storage: kept, locks, guess: "Firefox on Linux" });

test("a browser that is new here has no id, and a name that says what it is", () => {
  const fresh = identity(storage());
  assert.deepEqual([fresh.id, fresh.name], [null, "Firefox on Linux"]);
});

test("what the server says is kept, for this user and this slot only", () => {
  const kept = storage();
  identity(kept).keep({ id: "d1", name: "Old laptop" });
  assert.deepEqual([identity(kept).id, identity(kept).name], ["d1", "Old laptop"]);
  assert.equal(identity(kept, "?device=phone").id, null);
  assert.equal(identity(kept, "", "alice").id, null);
});

test("a forgotten device keeps its name", () => {
  const kept = storage();
  const mine = identity(kept);
  mine.keep({ id: "d1", name: "Old laptop" });
  mine.keep({ id: null });
  assert.deepEqual([mine.id, mine.name, identity(kept).id], [null, "Old laptop", null]);
});

test("another device gets a slot of its own and the name that it was given", () => {
  const kept = storage();
  const address = identity(kept).another("Kitchen Tablet");
  assert.equal(address, "?device=kitchen-tablet");
  assert.equal(identity(kept, address).name, "Kitchen Tablet");
});

test("two devices of one name have two slots, and none takes the browser's own", () => {
  const kept = storage();
  const mine = identity(kept);
  assert.deepEqual([mine.another("Phone"), mine.another("Phone"), mine.another("main"), mine.another("電話")],
    ["?device=phone", "?device=phone-2", "?device=main-2", "?device=device"]);
});

test("it proposes names that are not taken", () => {
  const kept = storage();
  const mine = identity(kept);
  const proposed = [];
  for (let n = 0; n < 5; n += 1) {
    proposed.push(mine.proposal());
    mine.another(proposed.at(-1));
  }
  assert.deepEqual(proposed, ["Phone", "Laptop", "Tablet", "Phone 2", "Laptop 2"]);
});

test("a new device is named unlike the user's others, wherever they are; a known one keeps its name", () => {
  const kept = storage();
  const here = (search, ...taken) => new Identity("bob", search, { storage: kept, locks: lockManager(), taken, guess: "Firefox on Linux" });
  assert.equal(here("", "Firefox on Linux").name, "Firefox on Linux 2");
  assert.equal(here("", "Firefox on Linux", "Firefox on Linux 2").name, "Firefox on Linux 3");
  assert.equal(here("?device=phone", "Phone").name, "Phone 2");
  assert.equal(here("", "Phone").proposal(), "Laptop");
  const long = "x".repeat(64);
  assert.equal(here(`?device=${long}`, `X${long.slice(1)}`).name.length, 62);
  here("").keep({ id: "d1", name: "Firefox on Linux" });
  assert.equal(here("", "Firefox on Linux").name, "Firefox on Linux");
});

test("a slot that was typed into the address is named after itself", () => {
  assert.equal(identity(storage(), "?device=living-room").name, "Living room");
});

test("a link to a device asks first, whether this browser knows that device or not; the browser's own device never", () => {
  const kept = storage();
  const tab = storage();
  const here = (search, own = tab) => new Identity("bob", search, { storage: kept, tab: own, locks: lockManager(), guess: "Firefox" });
  const linked = here("?device=phone");
  assert.equal(linked.asks, true);
  linked.keep({ id: "d1" });
  assert.equal(here("?device=phone").asks, true);
  assert.equal(here("").asks, false);
  linked.agree();
  assert.deepEqual([linked.asks, here("?device=phone").asks, here("?device=phone", storage()).asks], [false, false, true]);
  assert.equal(here("?device=tv").asks, true); // the tab agreed to another one
});

test("the tab that the browser's own button opens is not asked, once and soon", () => {
  const kept = storage();
  const at = (address, now) => new Identity("bob", address, { storage: kept, tab: storage(), locks: lockManager(), guess: "Firefox", now });
  const address = at("", 0).another("Kitchen", 1_000);
  assert.equal(new Identity("alice", address, { storage: kept, tab: storage(), now: 2_000 }).asks, true);
  assert.equal(at(address, 2_000).asks, false);
  assert.equal(at(address, 2_000).asks, true);
  const late = at("", 0).another("Bath", 1_000);
  assert.equal(at(late, 62_000).asks, true);
  assert.equal(at(late, 2_000).asks, true); // the first look took the pass
});

test("what is no slot that this page makes is the browser's own device", () => {
  for (const odd of ["<b>", "Ring here", "x".repeat(65), "\u202egnp", "-", "%00"]) {
    const { slot, asks } = identity(storage(), `?device=${encodeURIComponent(odd)}`);
    assert.deepEqual([slot, asks], ["main", false], odd);
  }
});

test("one tab holds a device; the second does not, until it takes it", async () => {
  const kept = storage();
  const locks = lockManager();
  const [first, second, other] = [identity(kept, "", "bob", locks), identity(kept, "", "bob", locks), identity(kept, "?device=tv", "bob", locks)];
  assert.equal(await first.hold(), true);
  assert.equal(await second.hold(), false);
  assert.equal(await other.hold(), true);
  assert.equal(await second.steal(), true);
  assert.equal(await first.hold(), false);
});

test("without storage and without locks it still works, for as long as the page lives", async () => {
  const broken = { getItem() { throw new Error("no"); }, setItem() { throw new Error("no"); } };
  const mine = new Identity("bob", "", { storage: broken, locks: undefined, guess: "Firefox" });
  mine.keep({ id: "d1" });
  assert.equal(mine.id, "d1");
  assert.equal(mine.proposal(), "Phone");
});

for (const [agent, brands, name] of [
  ["Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/156.0 Safari/537.36", ["Chromium"], "Chromium on Linux"],
  ["Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/156.0 Safari/537.36", ["Chromium", "Google Chrome"], "Chrome on Linux"],
  ["Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 Chrome/156.0 Safari/537.36 Edg/156.0", ["Chromium", "Microsoft Edge"], "Edge on Windows"],
  ["Mozilla/5.0 (Macintosh; Intel Mac OS X 10.15; rv:140.0) Gecko/20100101 Firefox/140.0", undefined, "Firefox on Mac"],
  ["Mozilla/5.0 (iPhone; CPU iPhone OS 19_0 like Mac OS X) AppleWebKit/605.1 Version/19.0 Mobile/15E148 Safari/604.1", undefined, "Safari on iPhone"],
  ["Mozilla/5.0 (Linux; Android 15; Pixel 9) AppleWebKit/537.36 Chrome/156.0 Mobile Safari/537.36", undefined, "Chrome on Android"],
  ["curl/8", undefined, "Browser"],
]) {
  test(`this is called ${name}`, () => {
    assert.equal(guessName({ userAgent: agent, userAgentData: brands && { brands: brands.map((brand) => ({ brand })) } }), name);
  });
}

test("ids are UUIDs of version 7, and later ones come later", () => {
  const ids = [5, 1_000, Date.now() - 1, Date.now(), 2 ** 48 - 1].map((now) => uuid(now));
  for (const id of ids) assert.match(id, /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
  assert.deepEqual([...ids].sort(), ids);
  assert.notEqual(uuid(5), uuid(5));
});
