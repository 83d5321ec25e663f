// Time and network for tests: nothing passes until it is told to.

export class Clock {
  now = 0;
  #count = 0;
  #waiting = new Map();

  setTimeout = (action, ms) => {
    this.#count += 1;
    this.#waiting.set(this.#count, { at: this.now + ms, action });
    return this.#count;
  };

  clearTimeout = (id) => this.#waiting.delete(id);

  // Lets `ms` pass; promises that become ready meanwhile are run at their time.
  async pass(ms) {
    const end = this.now + ms;
    for (;;) {
      await settled();
      const due = [...this.#waiting].filter(([, one]) => one.at <= end).sort(([, a], [, b]) => a.at - b.at)[0];
      if (!due) break;
      this.#waiting.delete(due[0]);
      this.now = due[1].at;
      due[1].action();
    }
    this.now = end;
    await settled();
  }

  get pending() {
    return this.#waiting.size;
  }
}

export async function settled() {
  for (let i = 0; i < 30; i += 1) await Promise.resolve();
}

// A WebSocket whose server is the test.
export function webSockets() {
  const opened = [];
  class FakeWebSocket {
    readyState = 0;
    sent = [];

    constructor(url) {
      this.url = url;
      opened.push(this);
    }

    send(text) {
      this.sent.push(JSON.parse(text));
    }

    close() {
      this.readyState = 3;
      this.dropped = true;
    }

    // The server's side.
    open() {
      this.readyState = 1;
      this.onopen?.();
    }

    say(frame) {
      this.onmessage?.({ data: typeof frame === "string" ? frame : JSON.stringify(frame) });
    }

    shut(code) {
      this.readyState = 3;
      this.onclose?.({ code });
    }

    of(cmd) {
      return this.sent.filter((frame) => frame.cmd === cmd);
    }
  }
  return { opened, FakeWebSocket, get last() { return opened.at(-1); } };
}
