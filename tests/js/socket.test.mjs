import assert from "node:assert/strict";
import { test } from "node:test";

import { Socket, backOff } from "../../calls/static/calls/socket.js";
import { Clock, settled, webSockets } from "./fakes.mjs";

function setUp({ chance = 0.5, onRefused, wall } = {}) {
  const clock = new Clock();
  const net = webSockets();
  const frames = [];
  const statuses = [];
  const said = { page: "p1", take: true };
  const socket = new Socket({
    url: "ws://here/ws/", WebSocket: net.FakeWebSocket, timers: clock, now: () => clock.now, wall: wall ?? (() => clock.now), random: () => chance,
    hello: () => said, ping: () => ({ calls: { c1: 3 } }),
    onFrame: (frame) => frames.push(frame), onStatus: (name, detail) => statuses.push([name, detail]), onRefused: onRefused ?? (() => false),
  });
  return { clock, net, frames, statuses, said, socket, status: () => statuses.at(-1) };
}

const welcome = (ws, more = {}) => {
  ws.open();
  ws.say({ t: "welcome", re: ws.of("hello").at(-1).id, v: 1, calls: [], ping_s: 20, ping_call_s: 5, pong_s: 10, ...more });
};

const pong = (ws) => ws.say({ t: "pong", re: ws.of("ping").at(-1).id, calls: [] });

async function online(options) {
  const all = setUp(options);
  all.socket.again();
  welcome(all.net.last);
  await settled();
  pong(all.net.last);
  return all;
}

test("it says hello first, and is online when it is welcome", async () => {
  const { net, socket, statuses } = setUp();
  socket.again();
  net.last.open();
  assert.deepEqual(net.last.sent, [{ id: "1", cmd: "hello", page: "p1", take: true }]);
  welcome(net.last);
  assert.deepEqual(statuses.map(([name]) => name), ["connecting", "online"]);
});

test("right after the welcome it asks what became of the calls that it holds", async () => {
  const { net } = await online();
  assert.deepEqual(net.last.of("ping")[0].calls, { c1: 3 });
});

test("an answer's age counts the time that the machine slept, when its own clock stood still", async () => {
  let wall = 1_000_000;
  const { net, socket } = setUp({ wall: () => wall });
  socket.request("answer", { call: "c1" }, { aged: true });
  wall += 60_000;
  socket.again();
  welcome(net.last);
  assert.equal(net.last.of("answer")[0].age, 60_000);
});

test("a command is answered by the reply with its id", async () => {
  const { net, socket, frames } = await online();
  const reply = socket.request("hangup", { call: "c1" });
  const { id } = net.last.of("hangup")[0];
  net.last.say({ t: "reply", re: id, ok: true, call: { id: "c1" } });
  assert.deepEqual((await reply).call, { id: "c1" });
  assert.equal(frames.at(-1).re, id);
});

test("a command waits for the welcome", async () => {
  const { net, socket } = setUp();
  socket.again();
  socket.request("hangup", { call: "c1" });
  net.last.open();
  assert.equal(net.last.of("hangup").length, 0);
  welcome(net.last);
  assert.equal(net.last.of("hangup").length, 1);
});

test("commands without a reply are sent again after a reconnect, in their order and with their ids", async () => {
  const { clock, net, socket } = await online();
  const first = socket.request("hangup", { call: "c1" });
  socket.request("reject", { call: "c2" });
  const ids = net.last.sent.slice(-2).map((frame) => frame.id);
  net.last.shut(1006);
  await clock.pass(10_000);
  welcome(net.last);
  assert.deepEqual(net.last.sent.slice(1, 3).map((frame) => [frame.cmd, frame.id]), [["hangup", ids[0]], ["reject", ids[1]]]);
  net.last.say({ t: "reply", re: ids[0], ok: true });
  assert.ok((await first).ok);
});

test("an answered command is not sent again", async () => {
  const { clock, net, socket } = await online();
  socket.request("hangup", { call: "c1" });
  net.last.say({ t: "reply", re: net.last.of("hangup")[0].id, ok: false, error: { code: "call_ended" } });
  net.last.shut(1006);
  await clock.pass(10_000);
  welcome(net.last);
  assert.equal(net.last.of("hangup").length, 0);
});

test("a reply that comes twice is harmless", async () => {
  const { net, socket } = await online();
  const reply = socket.request("move", { call: "c1" });
  const { id } = net.last.of("move")[0];
  net.last.say({ t: "reply", re: id, ok: true });
  net.last.say({ t: "reply", re: id, ok: false, error: { code: "not_allowed" } });
  assert.ok((await reply).ok);
});

test("what means nothing later tells its age when it was delayed, and only then", async () => {
  const { clock, net, socket } = await online();
  socket.request("answer", { call: "c1" }, { aged: true });
  socket.request("hangup", { call: "c2" });
  assert.equal("age" in net.last.of("answer")[0], false);
  net.last.shut(1006);
  await clock.pass(3000);
  welcome(net.last);
  assert.equal(net.last.of("answer")[0].age, 3000);
  assert.equal("age" in net.last.of("hangup")[0], false);
});

test("an invite made offline tells how long it waited", async () => {
  const { clock, net, socket } = await online();
  net.last.shut(1006);
  socket.request("invite", { call: "c9" }, { aged: true });
  await clock.pass(1000);
  welcome(net.last);
  assert.equal(net.last.of("invite")[0].age, 1000);
});

test("`unavailable` means nothing was done: the same command is sent again when it says, and then given up", async () => {
  const { clock, net, socket } = await online();
  const reply = socket.request("hangup", { call: "c1" });
  for (let n = 1; n <= 4; n += 1) {
    assert.equal(net.last.of("hangup").length, n);
    net.last.say({ t: "reply", re: net.last.of("hangup")[0].id, ok: false, error: { code: "unavailable", retry_ms: 1000 } });
    await clock.pass(1000);
  }
  assert.equal((await reply).error.code, "unavailable");
});

test("what means nothing later is given up after its time, and is not sent then", async () => {
  const { clock, net, socket } = await online();
  net.last.shut(1006);
  const asked = socket.request("answer", { call: "c1" }, { aged: true, within: 10_000 });
  await clock.pass(9_999);
  assert.equal(await Promise.race([asked, "waiting"]), "waiting");
  await clock.pass(1);
  assert.deepEqual(await asked, { ok: false, error: { code: "expired" } });
  welcome(net.last);
  assert.deepEqual(net.last.of("answer"), []);
});

test("an answer in time is the answer, whatever time passes then", async () => {
  const { clock, net, socket } = await online();
  const asked = socket.request("answer", { call: "c1" }, { within: 10_000 });
  net.last.say({ t: "reply", re: net.last.of("answer")[0].id, ok: true });
  await clock.pass(10_000);
  assert.equal((await asked).ok, true);
});

test("a signal is sent or lost, never kept", async () => {
  const { clock, net, socket } = await online();
  assert.ok(socket.tell("signal", { call: "c1" }));
  net.last.shut(1006);
  assert.equal(socket.tell("signal", { call: "c1" }), false);
  await clock.pass(10_000);
  welcome(net.last);
  assert.equal(net.last.of("signal").length, 0);
});

test("the back-off doubles from 0.3 s to 8 s, with full jitter", () => {
  assert.deepEqual([0, 1, 2, 3, 4, 5, 9].map((n) => backOff(n, 1)), [300, 600, 1200, 2400, 4800, 8000, 8000]);
  assert.equal(backOff(7, 0), 0);
  assert.equal(backOff(1, 0.25), 150);
});

test("it tries again and again, each time waiting longer", async () => {
  const { clock, net, socket, statuses } = setUp({ chance: 1 });
  socket.again();
  for (let n = 0; n < 6; n += 1) {
    net.last.shut(1006);
    await clock.pass(8000);
  }
  assert.deepEqual(statuses.filter(([name]) => name === "waiting").map(([, { delay }]) => delay), [300, 600, 1200, 2400, 4800, 8000]);
  assert.equal(net.opened.length, 7);
});

test("a connection that held for a while starts the back-off anew, one that broke at once does not", async () => {
  const { clock, net, status } = await online({ chance: 1 });
  net.last.shut(1006);
  await clock.pass(300);
  welcome(net.last);
  net.last.shut(1006);
  assert.equal(status()[1].delay, 600);
  await clock.pass(600);
  welcome(net.last);
  await settled();
  pong(net.last);
  await clock.pass(6000);
  net.last.shut(1006);
  assert.equal(status()[1].delay, 300);
});

test("it pings at the idle rhythm, and at the quick one in a call", async () => {
  const { clock, net, socket } = await online();
  await clock.pass(19_999);
  assert.equal(net.last.of("ping").length, 1);
  await clock.pass(1);
  assert.equal(net.last.of("ping").length, 2);
  pong(net.last);
  socket.quick = true;
  await clock.pass(5000);
  assert.equal(net.last.of("ping").length, 3);
  pong(net.last);
  socket.quick = false;
  await clock.pass(19_999);
  assert.equal(net.last.of("ping").length, 3);
});

test("a socket that does not answer a ping in time is dropped, and another one opened", async () => {
  const { clock, net, status } = await online();
  const dead = net.last;
  await clock.pass(20_000);
  await clock.pass(9_999);
  assert.equal(dead.dropped, undefined);
  await clock.pass(1);
  assert.ok(dead.dropped);
  assert.equal(status()[0], "waiting");
  await clock.pass(150);
  assert.notEqual(net.last, dead);
});

test("whatever is heard proves that the socket lives", async () => {
  const { clock, net } = await online();
  await clock.pass(20_000);
  await clock.pass(9_000);
  net.last.say({ t: "call", call: { id: "c1" } });
  await clock.pass(9_000);
  assert.equal(net.opened.length, 1);
});

test("what a dropped socket still says is not heard", async () => {
  const { clock, net, frames } = await online();
  const dead = net.last;
  await clock.pass(30_000);
  const heard = frames.length;
  dead.say({ t: "call", call: { id: "c1" } });
  assert.equal(frames.length, heard);
});

test("a server that accepts and then says nothing is left after 10 s", async () => {
  const { clock, net, socket } = setUp();
  socket.again();
  net.last.open();
  await clock.pass(10_000);
  assert.ok(net.opened[0].dropped);
});

for (const [code, name] of [[4401, "signed_out"], [4409, "replaced"]]) {
  test(`${code} is final: ${name}, and no reconnect`, async () => {
    const { clock, net, status } = await online();
    net.last.shut(code);
    assert.equal(status()[0], name);
    await clock.pass(600_000);
    assert.equal(net.opened.length, 1);
  });

  test(`the bye of ${name} counts even when the close code is lost`, async () => {
    const { clock, net, status } = await online();
    net.last.say({ t: "bye", why: name, retry_ms: 0 });
    net.last.shut(1006);
    assert.equal(status()[0], name);
    await clock.pass(600_000);
    assert.equal(net.opened.length, 1);
  });
}

test("a deactivated account is signed out", async () => {
  const { net, status } = await online();
  net.last.say({ t: "bye", why: "deactivated", retry_ms: 0 });
  net.last.shut(4401);
  assert.equal(status()[0], "signed_out");
});

test("a replaced page can take its device back", async () => {
  const { net, socket, said, status } = await online();
  net.last.shut(4409);
  said.take = true;
  socket.again();
  welcome(net.last);
  assert.equal(status()[0], "online");
});

for (const [code, why] of [[4400, "protocol"], [4429, "flooding"]]) {
  test(`${code} (${why}) is told, and tried again only slowly`, async () => {
    const { clock, net, status } = await online();
    net.last.shut(code);
    assert.equal(status()[1].why, why);
    await clock.pass(29_999);
    assert.equal(net.opened.length, 1);
    await clock.pass(10_000);
    assert.equal(net.opened.length, 2);
  });
}

test("a restarting server says when to come back", async () => {
  const { clock, net, status } = await online({ chance: 1 });
  net.last.say({ t: "bye", why: "restart", retry_ms: 2000 });
  net.last.shut(1012);
  assert.equal(status()[1].delay, 2300);
  await clock.pass(2299);
  assert.equal(net.opened.length, 1);
  await clock.pass(1);
  assert.equal(net.opened.length, 2);
});

test("a refused hello waits for the person, on the same socket", async () => {
  const { clock, net, socket, said, status } = setUp();
  said.take = false;
  socket.again();
  net.last.open();
  net.last.say({ t: "reply", re: "1", ok: false, error: { code: "device_in_use" } });
  assert.deepEqual(status(), ["refused", { error: { code: "device_in_use" } }]);
  await clock.pass(5000);
  said.take = true;
  socket.again();
  assert.equal(net.opened.length, 1);
  assert.equal(net.last.of("hello").at(-1).take, true);
  welcome(net.last);
  assert.equal(status()[0], "online");
});

test("a refused hello whose socket is closed meanwhile does not come back by itself", async () => {
  const { clock, net, socket, status } = setUp();
  socket.again();
  net.last.open();
  net.last.say({ t: "reply", re: "1", ok: false, error: { code: "device_in_use" } });
  net.last.shut(4408);
  await clock.pass(600_000);
  assert.equal(net.opened.length, 1);
  assert.equal(status()[0], "refused");
  socket.again();
  assert.equal(net.opened.length, 2);
});

for (const code of ["unavailable", "rate_limited"]) {
  test(`a hello that the server could not answer just now is said again by itself: ${code}`, async () => {
    const { clock, net, socket, status } = setUp({ chance: 1 });
    const refuse = () => {
      net.last.open();
      net.last.say({ t: "reply", re: net.last.of("hello").at(-1).id, ok: false, error: { code, retry_ms: 1000 } });
    };
    socket.again();
    refuse();
    assert.deepEqual([status(), net.last.dropped], [["waiting", { delay: 1300, why: "network" }], true]);
    await clock.pass(1299);
    assert.equal(net.opened.length, 1);
    await clock.pass(1);
    assert.equal(net.opened.length, 2);
    refuse();
    assert.equal(status()[1].delay, 1600);
    await clock.pass(1600);
    welcome(net.last);
    assert.equal(status()[0], "online");
  });
}

test("a hello can be put right at once", async () => {
  const all = setUp({ onRefused: (error) => error.code === "not_found" && ((all.said.page = "p2"), true) });
  all.socket.again();
  all.net.last.open();
  all.net.last.say({ t: "reply", re: "1", ok: false, error: { code: "not_found" } });
  assert.deepEqual(all.net.last.of("hello").map((frame) => frame.page), ["p1", "p2"]);
  assert.equal(all.status()[0], "connecting");
});

test("a nudge ends the waiting, and makes an idle socket prove itself", async () => {
  const { net, socket } = await online();
  socket.nudge();
  assert.equal(net.last.of("ping").length, 2);
  net.last.shut(1006);
  socket.nudge();
  assert.equal(net.opened.length, 2);
});

test("what is not JSON is not heard", async () => {
  const { net, frames } = await online();
  const heard = frames.length;
  net.last.say("{");
  assert.equal(frames.length, heard);
});

test("stopped, it answers what is open and leaves no timer behind", async () => {
  const { clock, net, socket } = await online();
  const reply = socket.request("hangup", { call: "c1" });
  socket.stop();
  assert.equal((await reply).error.code, "closed");
  assert.equal(clock.pending, 0);
  assert.ok(net.last.dropped);
});
