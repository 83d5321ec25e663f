// A worker that only keeps time: browsers slow the timers of a hidden page down to one a minute, and a page in the
// background must go on answering "I am here" and stop ringing when its time is over.

const running = new Map();

onmessage = ({ data: { id, ms } }) => {
  if (ms === null) {
    clearTimeout(running.get(id));
    running.delete(id);
    return;
  }
  running.set(
    id,
    setTimeout(() => {
      running.delete(id);
      postMessage(id);
    }, ms),
  );
};
