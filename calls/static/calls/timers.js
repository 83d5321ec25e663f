// Timers that keep time in a hidden page, whose own would come once a minute: those of a worker (ticker.js).

// Returns {setTimeout, clearTimeout}; the page's own where a worker cannot be had.
export function steadyTimers(url) {
  const waiting = new Map();
  let count = 0;
  let worker;
  try {
    worker = new Worker(url);
  } catch {
    return globalThis;
  }
  worker.onmessage = ({ data: id }) => {
    const action = waiting.get(id);
    waiting.delete(id);
    action?.();
  };
  return {
    setTimeout(action, ms) {
      count += 1;
      waiting.set(count, action);
      worker.postMessage({ id: count, ms });
      return count;
    },
    clearTimeout(id) {
      if (waiting.delete(id)) worker.postMessage({ id, ms: null });
    },
  };
}

export function every(timers, ms, action) {
  const again = () => timers.setTimeout(() => (action(), again()), ms);
  again();
}
