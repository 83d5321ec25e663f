// One WebSocket that stays: hello, heartbeat, back-off, and an outbox of commands that have no reply yet.
// It knows frames, ids and close codes, and not one word of calls: what to say is handed in, what is heard is handed out.

const FIRST_DELAY_MS = 300;
const LONGEST_DELAY_MS = 8_000;
const SLOW_DELAY_MS = 30_000; // after the server called this client faulty or too fast
const OPEN_WITHIN_MS = 10_000;
const STEADY_MS = 5_000; // a connection that lived shorter than this does not reset the back-off
const TRIES = 4; // a command that is answered "try again" is sent this often

const FINAL_CODES = { 4401: "signed_out", 4409: "replaced" };
const FINAL_BYES = { signed_out: "signed_out", deactivated: "signed_out", replaced: "replaced" };
const SLOW_CODES = { 4400: "protocol", 4429: "flooding" };
const TRY_AGAIN = new Set(["unavailable", "rate_limited"]);

export class Socket {
  #options;
  #ws = null;
  #status = "idle";
  #attempt = 0;
  #count = 0;
  #helloId = null;
  #welcomedAt = null;
  #bye = null;
  #quick = false;
  #rhythm = { idle: 20_000, quick: 5_000, pong: 10_000 };
  #outbox = new Map(); // command id → {cmd, args, aged, at, wall, tries, resolve}
  #timer = {}; // open, retry, ping, pong

  // options:
  //   url
  //   hello()           → the fields of the next `hello`
  //   ping()            → the fields of the next `ping`
  //   onFrame(frame)      every frame, before the command that it answers is settled
  //   onStatus(name, detail)  connecting · online · waiting {delay, why} · refused {error} · signed_out · replaced
  //   onRefused(error)  → true to say hello again at once, anything else leaves the socket waiting for `again()`
  //   WebSocket, timers {setTimeout, clearTimeout}, now(), wall(), random() can be replaced, for tests and for worker timers
  constructor(options) {
    this.#options = {
      WebSocket: globalThis.WebSocket,
      timers: globalThis,
      now: () => performance.now(),
      wall: () => Date.now(), // goes on while the machine sleeps, where the other may not
      random: Math.random,
      onRefused: () => false,
      ...options,
    };
  }

  get status() {
    return this.#status;
  }

  // Connects, or connects again; after a refused hello says it again on the socket that is still open.
  again() {
    if (this.#status === "refused" && this.#ws?.readyState === 1) {
      this.#set("connecting");
      this.#after("open", OPEN_WITHIN_MS, () => this.#lose());
      this.#sayHello();
    } else {
      this.#drop();
      this.#connect();
    }
  }

  // Something hints that the network changed or the page woke up: find out now rather than at the next beat.
  nudge() {
    if (this.#status === "waiting") this.#connect();
    else if (this.#status === "online") this.#beat();
  }

  // In a call or ringing the beat is quicker.
  set quick(on) {
    if (on === this.#quick) return;
    this.#quick = on;
    if (this.#status === "online" && !this.#timer.pong) this.#nextBeat();
  }

  // Sends a command and resolves with its reply, however many reconnects that takes; it never rejects.
  // `aged`: the server must know how old the wish is, because it means nothing later ("answer").
  // `within`: after so many ms without a reply it is `expired`, and not sent again.
  request(cmd, args = {}, { aged = false, within = null } = {}) {
    return new Promise((resolve) => {
      const id = this.#nextId();
      this.#outbox.set(id, { cmd, args, aged, at: this.#options.now(), wall: this.#options.wall(), tries: 0, resolve });
      if (this.#status === "online") this.#transmit(id);
      if (within === null) return;
      this.#options.timers.setTimeout(() => {
        if (this.#outbox.delete(id)) resolve({ ok: false, error: { code: "expired" } });
      }, within);
    });
  }

  // Sends what is worthless later; false when it could not be sent now.
  tell(cmd, args) {
    return this.#status === "online" && this.#write({ id: this.#nextId(), cmd, ...args });
  }

  // Ends it for good; commands without a reply are answered `closed`.
  stop(status = "stopped") {
    this.#drop();
    this.#set(status);
    for (const waiting of this.#outbox.values()) waiting.resolve({ ok: false, error: { code: "closed" } });
    this.#outbox.clear();
  }

  #nextId() {
    this.#count += 1;
    return String(this.#count);
  }

  #set(status, detail = {}) {
    this.#status = status;
    this.#options.onStatus(status, detail);
  }

  #connect() {
    this.#clear();
    this.#bye = null;
    this.#welcomedAt = null;
    const ws = new this.#options.WebSocket(this.#options.url);
    this.#ws = ws;
    ws.onopen = () => this.#sayHello();
    ws.onmessage = (event) => this.#hear(event.data);
    ws.onclose = (event) => this.#closed(event.code);
    this.#after("open", OPEN_WITHIN_MS, () => this.#lose());
    this.#set("connecting");
  }

  #sayHello() {
    this.#helloId = this.#nextId();
    this.#write({ id: this.#helloId, cmd: "hello", ...this.#options.hello() });
  }

  #hear(data) {
    let frame;
    try {
      frame = JSON.parse(data);
    } catch {
      return;
    }
    if (this.#timer.pong) {
      this.#cancel("pong"); // whatever arrives proves that the socket lives
      this.#nextBeat();
    }
    if (frame.t === "welcome") this.#welcomed(frame);
    else if (frame.t === "bye") this.#bye = frame;
    else if (frame.t === "reply" && frame.re === this.#helloId && !frame.ok) return this.#refused(frame.error);
    this.#options.onFrame(frame);
    if (frame.t === "reply") this.#settle(frame);
  }

  #welcomed(frame) {
    this.#cancel("open");
    this.#welcomedAt = this.#options.now();
    this.#rhythm = {
      idle: seconds(frame.ping_s, 20),
      quick: seconds(frame.ping_call_s, 5),
      pong: seconds(frame.pong_s, 10),
    };
    this.#set("online");
    for (const id of [...this.#outbox.keys()]) this.#transmit(id);
    // The ping tells which calls are held: the pong then brings those that ended while the line was down.
    // It goes out after the welcome was taken in.
    queueMicrotask(() => this.#status === "online" && this.#beat());
  }

  #refused(error) {
    if (TRY_AGAIN.has(error?.code)) return this.#lose(error.retry_ms);
    this.#cancel("open");
    if (this.#options.onRefused(error)) this.#sayHello();
    else this.#set("refused", { error });
  }

  #settle(frame) {
    const waiting = this.#outbox.get(frame.re);
    if (!waiting) return;
    if (!frame.ok && TRY_AGAIN.has(frame.error?.code) && waiting.tries < TRIES) {
      this.#options.timers.setTimeout(() => {
        if (this.#status === "online" && this.#outbox.has(frame.re)) this.#transmit(frame.re);
      }, frame.error.retry_ms ?? 500);
      return;
    }
    this.#outbox.delete(frame.re);
    waiting.resolve(frame);
  }

  #transmit(id) {
    const waiting = this.#outbox.get(id);
    const age = Math.round(Math.max(this.#options.now() - waiting.at, this.#options.wall() - waiting.wall));
    waiting.tries += 1;
    this.#write({ id, cmd: waiting.cmd, ...waiting.args, ...(waiting.aged && age > 0 ? { age } : {}) });
  }

  #write(frame) {
    if (this.#ws?.readyState !== 1) return false;
    this.#ws.send(JSON.stringify(frame));
    return true;
  }

  #beat() {
    if (this.#timer.pong) return;
    this.#cancel("ping");
    this.#write({ id: this.#nextId(), cmd: "ping", ...this.#options.ping() });
    this.#after("pong", this.#rhythm.pong, () => this.#lose());
  }

  #nextBeat() {
    this.#after("ping", this.#quick ? this.#rhythm.quick : this.#rhythm.idle, () => this.#beat());
  }

  // The connection is dead, whether the browser has noticed or not: its own closing could take minutes.
  #lose(rest = 0) {
    this.#drop();
    this.#closed(1006, rest);
  }

  #drop() {
    this.#clear();
    const ws = this.#ws;
    if (!ws) return;
    ws.onopen = ws.onmessage = ws.onclose = null;
    this.#ws = null;
    ws.close();
  }

  // `rest`: how many ms the server wants to be left alone, at least.
  #closed(code, rest = 0) {
    this.#clear();
    this.#ws = null;
    if (this.#status === "refused") return; // the person is being asked; `again()` connects anew
    const final = FINAL_CODES[code] ?? FINAL_BYES[this.#bye?.why];
    if (final) return this.#set(final);
    if (this.#welcomedAt !== null && this.#options.now() - this.#welcomedAt > STEADY_MS) this.#attempt = 0;
    const why = SLOW_CODES[code] ?? (code === 1012 ? "restart" : "network");
    const asked = code === 1012 ? (this.#bye?.retry_ms ?? 0) : code in SLOW_CODES ? SLOW_DELAY_MS : rest;
    const delay = asked + backOff(this.#attempt, this.#options.random());
    this.#attempt += 1;
    this.#after("retry", delay, () => this.#connect());
    this.#set("waiting", { delay, why });
  }

  #after(name, ms, action) {
    this.#cancel(name);
    this.#timer[name] = this.#options.timers.setTimeout(() => {
      this.#timer[name] = null;
      action();
    }, ms);
  }

  #cancel(name) {
    if (this.#timer[name]) this.#options.timers.clearTimeout(this.#timer[name]);
    this.#timer[name] = null;
  }

  #clear() {
    for (const name of Object.keys(this.#timer)) this.#cancel(name);
  }
}

// Full jitter: a thousand clients of a server that restarts come back spread out, not in waves.
export function backOff(attempt, chance) {
  return chance * Math.min(LONGEST_DELAY_MS, FIRST_DELAY_MS * 2 ** attempt);
}

function seconds(value, otherwise) {
  return (typeof value === "number" && value > 0 ? value : otherwise) * 1000;
}
