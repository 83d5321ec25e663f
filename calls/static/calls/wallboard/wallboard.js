// The wallboard's page: figures and plots as the server counts them, once a second. It asks for nothing.

import uPlot from "../vendor/uplot/uPlot.esm.js";

const root = document.getElementById("wallboard");
const link = document.getElementById("link");
const RETRY_MS = [1000, 2000, 5000, 10000];
const LATE_MS = 5000; // figures older than this are shown as such
const HEIGHT = 220; // of a plot, without its legend
const MAY_NOT = 4403;
const SIGNED_OUT = 4401;

const plots = {}; // by span, the last frame of each
let span = "hour";
let charts = [];
let tries = 0;
let heard = 0;

function connect() {
  const scheme = location.protocol === "https:" ? "wss" : "ws";
  const socket = new WebSocket(`${scheme}://${location.host}${root.dataset.socket}`);
  socket.addEventListener("message", (event) => {
    tries = 0;
    take(JSON.parse(event.data));
  });
  socket.addEventListener("close", (event) => {
    if (event.code === MAY_NOT || event.code === SIGNED_OUT) {
      say("You may not watch this any more. Load the page again, or ask your administrator.", true);
      return;
    }
    say("The connection is lost. Trying again…", true);
    const wait = RETRY_MS[Math.min(tries, RETRY_MS.length - 1)];
    tries += 1;
    setTimeout(connect, wait * (0.75 + Math.random() / 2));
  });
}

function take(frame) {
  if (frame.t === "now") {
    heard = Date.now();
    say("Live, counted every second.", false);
    showFigures(frame);
  } else if (frame.t === "plot") {
    plots[frame.span] = frame;
    if (frame.span === span) draw();
  } else if (frame.t === "trouble") {
    say("The server cannot count at the moment. It goes on trying.", true);
  }
}

function say(words, away) {
  if (link.textContent !== words) link.textContent = words;
  link.classList.toggle("away", away);
  for (const tiles of root.querySelectorAll(".tiles")) tiles.classList.toggle("stale", away);
}

function put(place, words) {
  if (place.textContent !== words) place.textContent = words;
}

function showFigures(now) {
  for (const place of root.querySelectorAll("[data-figure]")) put(place, whole(now[place.dataset.figure]));
}

// What each total of a span is said as.
const SAID = {
  per_minute: (number) => (number < 10 ? number.toFixed(number < 1 ? 2 : 1) : whole(Math.round(number))),
  answer_rate: (part) => `${Math.round(part * 100)} %`,
  busy: whole,
  limit_hits: whole,
  answer_s: seconds,
  p50: seconds,
  p95: seconds,
};

function showTotals(totals) {
  for (const place of root.querySelectorAll("[data-total]")) {
    const value = totals[place.dataset.total];
    put(place, value == null ? "–" : SAID[place.dataset.total](value));
  }
}

function whole(number) {
  return number == null ? "–" : number.toLocaleString("en");
}

function seconds(number) {
  return `${number.toFixed(1)} s`;
}

function colour(name) {
  return getComputedStyle(root).getPropertyValue(name).trim();
}

function axis() {
  const grid = { stroke: colour("--hairline-color"), width: 1 };
  return { stroke: colour("--body-quiet-color"), grid, ticks: grid };
}

function clockTimes(_, splits) {
  const about = span === "week" ? { weekday: "short", day: "numeric" } : { hour: "2-digit", minute: "2-digit" };
  return splits.map((at) => new Date(1000 * at).toLocaleString("en-GB", about));
}

function line(label, stroke, dash) {
  return { label, stroke: colour(stroke), width: 2, dash, points: { show: false }, spanGaps: false, value: legend };
}

// A step between two without calls has no line to either.
function dots(series) {
  return { ...series, points: { show: true, size: 3 } };
}

function legend(_, value) {
  return value == null ? "–" : `${Math.round(10 * value) / 10}`;
}

function draw() {
  const frame = plots[span];
  if (!frame) return;
  for (const chart of charts) chart.destroy();
  showTotals(frame.totals);
  const percent = frame.answer_rate.map((part) => (part == null ? null : 100 * part));
  const lines = {
    calls: [
      [line("Placed", "--line-placed"), frame.placed],
      [line("Answered", "--line-answered"), frame.answered],
      [line("Busy", "--line-busy"), frame.busy],
      [line("Limit hits", "--line-limits", [4, 4]), frame.limit_hits],
    ],
    answer: [
      [dots(line("Half within", "--line-placed")), frame.p50],
      [dots(line("95 % within", "--line-busy")), frame.p95],
      [line("Mean", "--line-answered", [4, 4]), frame.answer_s],
    ],
    rate: [[dots(line("Answered", "--line-answered")), percent]],
  };
  charts = Object.entries(lines).map(([name, series]) => {
    const place = root.querySelector(`[data-plot="${name}"]`);
    const options = {
      width: place.clientWidth,
      height: HEIGHT,
      axes: [{ ...axis(), values: clockTimes }, { ...axis(), size: 44 }],
      scales: { y: { range: (_, low, high) => (name === "rate" ? [0, 100] : [0, Math.max(1, (high ?? 0) * 1.1)]) } },
      series: [{}, ...series.map(([about]) => about)],
    };
    return new uPlot(options, [frame.at, ...series.map(([, values]) => values)], place);
  });
}

function choose(next) {
  span = next;
  for (const button of root.querySelectorAll("[data-span]")) {
    button.setAttribute("aria-pressed", String(button.dataset.span === span));
  }
  draw();
}

for (const button of root.querySelectorAll("[data-span]")) {
  button.addEventListener("click", () => choose(button.dataset.span));
}
new MutationObserver(draw).observe(document.documentElement, { attributeFilter: ["data-theme"] });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
addEventListener("resize", draw);
setInterval(() => {
  if (heard && Date.now() - heard > LATE_MS) say("Nothing was heard for a while. Trying again…", true);
}, 1000);
connect();
