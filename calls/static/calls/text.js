// How a text is said in the page's language, and how times are: pure, and free to be used by every module.
// Django's catalogue, where the page has one, defines `gettext` and `ngettext`; `makemessages` finds the texts by them.

export const gettext = globalThis.gettext ?? ((text) => text);
export const ngettext = globalThis.ngettext ?? ((one, many, count) => (count === 1 ? one : many));

// put("{name} is calling", {name: "Bob"})
export function put(text, values) {
  return text.replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole);
}

// "Bob, Carol and Dave"; of more than four the first three, and how many there are besides.
export function listWords(names) {
  const n = names.length - 3;
  const shown = n > 1 ? [...names.slice(0, 3), put(gettext("{n} more"), { n })] : names;
  return new Intl.ListFormat(language(), { type: "conjunction" }).format(shown);
}

const DAY_MS = 24 * 3600 * 1000;

// The page's language, as it is written where the person lives.
function language() {
  const chosen = globalThis.document?.documentElement?.lang || undefined;
  const own = globalThis.navigator?.language;
  return chosen && own?.startsWith(`${chosen}-`) ? own : chosen;
}

// "Today", "Yesterday", "Monday" within a week, else the date.
export function dayWords(date, now = new Date()) {
  const days = Math.round((midnight(now) - midnight(date)) / DAY_MS);
  if (days === 0) return gettext("Today");
  if (days === 1) return gettext("Yesterday");
  if (days > 0 && days < 7) return date.toLocaleDateString(language(), { weekday: "long" });
  const year = date.getFullYear() === now.getFullYear() ? {} : { year: "numeric" };
  return date.toLocaleDateString(language(), { day: "numeric", month: "long", ...year });
}

export function timeWords(date) {
  return date.toLocaleTimeString(language(), { hour: "numeric", minute: "2-digit" });
}

export function momentWords(date) {
  return date.toLocaleString(language(), { dateStyle: "long", timeStyle: "short" });
}

// "5 minutes ago", "yesterday"
export function agoWords(date, now = new Date()) {
  const seconds = (date - now) / 1000;
  const format = new Intl.RelativeTimeFormat(language(), { numeric: "auto" });
  for (const [unit, size] of [["day", 86_400], ["hour", 3600], ["minute", 60]]) {
    if (Math.abs(seconds) >= size) return format.format(Math.trunc(seconds / size), unit);
  }
  return gettext("just now");
}

// "45 s", "3:25 min", "1:02:03 h"
export function lengthWords(secs) {
  const two = (n) => String(n).padStart(2, "0");
  if (secs < 60) return put(gettext("{n} s"), { n: secs });
  const minutes = Math.floor(secs / 60) % 60;
  if (secs < 3600) return put(gettext("{n} min"), { n: `${minutes}:${two(secs % 60)}` });
  return put(gettext("{n} h"), { n: `${Math.floor(secs / 3600)}:${two(minutes)}:${two(secs % 60)}` });
}

function midnight(date) {
  return new Date(date.getFullYear(), date.getMonth(), date.getDate());
}
