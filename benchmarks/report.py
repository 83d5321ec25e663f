"""Rows become tables and plots: docs/performance.md between its markers, and docs/performance/."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import svg
from benchmarks.svg import number

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGE = DOCS / "performance.md"
PLACE = DOCS / "performance"
PARTS = ("server", "postgres", "redis")
BUSY = 32

Row = dict[str, Any]


def median(values: Iterable[float]) -> float | None:
    found = list(values)
    return statistics.median(found) if found else None


def shown(value: float | None) -> str:
    return "–" if value is None else number(value)


def spread(values: Sequence[float]) -> str:
    """The median, and behind it the least and the most of several rounds."""
    if not values:
        return "–"
    middle = number(statistics.median(values))
    return middle if len(values) == 1 else f"{middle} ({number(min(values))}–{number(max(values))})"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


class Results:
    """One run's rows, and questions to them. Rounds in which a call failed do not count."""

    def __init__(self, results: Row) -> None:
        self.about: Row = results["about"]
        self.rows: list[Row] = [row for row in results["rows"] if not row.get("failed")]
        self.failed: list[Row] = [row for row in results["rows"] if row.get("failed")]

    def of(self, scenario: str, **about: Any) -> list[Row]:
        matching = (row for row in self.rows if row["scenario"] == scenario)
        return [row for row in matching if all(row.get(name) == value for name, value in about.items())]

    def cpu(self, scenario: str, part: str = "all", **about: Any) -> list[float]:
        return [row["cpu_ms"].get(part, 0.0) for row in self.of(scenario, **about)]

    def ms(self, scenario: str, step: str, **about: Any) -> list[float | None]:
        """p50, p95 and p99 of a step, each the median of the rounds."""
        rows = [row["ms"][step] for row in self.of(scenario, **about) if step in row["ms"]]
        return [median(row[part] for row in rows) for part in range(3)]

    def values(self, scenario: str, name: str) -> list[Any]:
        """The different values that a scenario was measured at, in order."""
        return list(dict.fromkeys(row[name] for row in self.of(scenario)))


def text(results: Row) -> str:
    """All tables."""
    found = Results(results)
    parts = [_about(found), _goals(found), _cost(found), _latency(found), _devices(found), _idle(found)]
    return "\n\n".join(part for part in (*parts, _against(found), _processes(found)) if part)


def _about(found: Results) -> str:
    about = found.about
    postgres = about["postgresql"]
    lost = f" **{len(found.failed)} measurements had failed calls and are left out.**" if found.failed else ""
    foreign = median(row["foreign"] for row in found.of("closed")) or 0.0
    if foreign > 0.1:
        lost += f" **Others used {number(foreign)} of {about['cores']} cores meanwhile: these figures are rough.**"
    return (
        f"{about['when']} · {about['processor']}, {about['cores']} cores · Python {about['python']} · "
        f"PostgreSQL {postgres['server_version']} (fsync {postgres['fsync']}, synchronous_commit "
        f"{postgres['synchronous_commit']}) · server {about['server']} · medians of {about['plan']['rounds']} rounds, "
        f"in brackets the least and the most.{lost}"
    )


def _goals(found: Results) -> str:
    stored = _growth(found, "stored")
    rows = [
        ("CPU of a call, three devices, 32 at once", "≤ 2.5 ms (1.2 on the fastest server)",
         f"{shown(median(found.cpu('closed', calls_at_once=BUSY)))} ms"),
        ("other device told, p99, 50 calls/s", "< 8 ms", f"{shown(found.ms('rate', 'elsewhere')[2])} ms"),
        ("other device told, p99, 32 calls at once", "< 30 ms",
         f"{shown(found.ms('closed', 'elsewhere', calls_at_once=BUSY)[2])} ms"),
        ("memory of an idle device", "≤ 40 KiB", f"{shown(found.of('idle')[-1]['pss_kib'])} KiB"),
        ("CPU of idle devices that ping", "< 2 % of a core for 5,000", _pings(found)),
        ("CPU of the server for a device that comes back", "≤ 2 ms",
         f"{shown(median(found.cpu('connects', 'server')))} ms"),
        ("all devices back after a restart", "< 15 s for 5,000", _back(found)),
        ("cost with stored calls", "within 10 %", "–" if stored is None else f"{100 * stored:+.0f} %"),
        ("each further device", "≤ 0.1 ms", f"{shown(_slope(found))} ms"),
        ("two processes for one", "≥ 1.7", shown(_gain(found))),
    ]  # fmt: skip
    return "### At a glance\n\n" + table(("", "goal", "measured"), rows)


def _cost(found: Results) -> str:
    head = ("calls at once", "calls/s", "CPU ms a call", *PARTS, "client", "transactions", "log KiB")
    rows, plotted = [], []
    lines = [(f"{n}", "closed", {"calls_at_once": n}) for n in found.values("closed", "calls_at_once")]
    lines += [("32, with signals", "signals", {}), ("PostgreSQL alone (pgbench), 32", "pgbench", {})]
    lines += [("bare server in memory, 32", "bare", {})]
    for label, scenario, about in lines:
        measured = found.of(scenario, **about)
        if not measured:
            continue
        shares = [median(found.cpu(scenario, part, **about)) for part in PARTS]
        each = [median(row["each"][name] for row in measured if "each" in row) for name in ("transactions", "wal_kib")]
        rates, costs = (spread(values) for values in ([row["per_s"] for row in measured], found.cpu(scenario, **about)))
        client = median(row["client_ms"] for row in measured)
        rows.append((label, rates, costs, *(shown(value or None) for value in (*shares, client, *each))))
        plotted.append((label, [value or 0.0 for value in shares]))
    PLOTS["cost.svg"] = svg.bars("CPU of one call with three devices, by calls at once", "ms", plotted, PARTS)
    ours, alone, bare = (median(found.cpu(name, **about)) for name, about in _RATIOS)
    ratios = ""
    if ours and alone and bare:
        ratios = (
            f"\n\nA call costs {number(ours / alone)} times what PostgreSQL alone needs for the same rows, and "
            f"{number(ours / bare)} times what the same frames cost with nothing behind them."
        )
    return "### Cost of a call\n\n" + table(head, rows) + ratios + "\n\n![cost of a call](performance/cost.svg)"


_RATIOS: tuple[tuple[str, Row], ...] = (("closed", {"calls_at_once": BUSY}), ("pgbench", {}), ("bare", {}))


def _latency(found: Results) -> str:
    steps = {
        "ring": "ring: all three devices",
        "answer": "answer: the caller told",
        "elsewhere": "answer: the other devices told",
        "signals": "descriptions and candidates",
        "hangup": "hang-up told",
    }
    lines = [("50 calls/s", "rate", {})]
    lines += [(f"{n} at once", "closed", {"calls_at_once": n}) for n in found.values("closed", "calls_at_once")]
    lines += [("32 with signals", "signals", {})]
    rows, plotted = [], []
    for label, scenario, about in lines:
        cells = []
        for step in steps:
            values = found.ms(scenario, step, **about)
            cells.append("–" if None in values else " / ".join(shown(value) for value in values))
        rows.append((label, *cells))
        told = [value or 0.0 for value in found.ms(scenario, "elsewhere", **about)]
        plotted.append((label, [told[0], told[1] - told[0], told[2] - told[1]]))
    PLOTS["latency.svg"] = svg.bars("From answer to the last other device told", "ms", plotted, ("p50", "p95", "p99"))
    return (
        "### Latency\n\nMilliseconds, p50 / p95 / p99, seen by the client.\n\n"
        + table(("load", *steps.values()), rows)
        + "\n\n![latency](performance/latency.svg)"
    )


def _devices(found: Results) -> str:
    devices = found.values("devices", "devices")
    if len(devices) < 2:
        return ""
    costs = [median(found.cpu("devices", devices=n)) or 0.0 for n in devices]
    shares = {part: [median(found.cpu("devices", part, devices=n)) or 0.0 for n in devices] for part in PARTS}
    PLOTS["devices.svg"] = svg.lines(
        "CPU of one call", "ms", "devices of the callee", devices, {"all": costs, **shares}
    )
    rows = [
        (f"{n}", spread(found.cpu("devices", devices=n)), shown(found.ms("devices", "ring", devices=n)[0]))
        for n in devices
    ]
    return (
        f"### Devices of the callee\n\n{found.about['plan']['sweep']} calls at once. Each further device costs "
        f"{shown(_slope(found))} ms.\n\n"
        + table(("devices", "CPU ms a call", "ring p50 ms"), rows)
        + "\n\n![devices](performance/devices.svg)"
    )


def _slope(found: Results) -> float | None:
    devices = found.values("devices", "devices")
    if len(devices) < 2:
        return None
    least, most = (median(found.cpu("devices", devices=n)) or 0.0 for n in (devices[0], devices[-1]))
    return (most - least) / (devices[-1] - devices[0])


def _idle(found: Results) -> str:
    rows = [
        (f"{row['devices']:,}", shown(row["pss_kib"]), shown(row["uss_kib"]), shown(row["hello_ms"]["all"]))
        for row in found.of("idle")
    ]
    empty = found.of("idle")[0]["empty_mib"]
    return (
        f"### Idle devices\n\nThe server process alone takes {empty} MiB. Devices that ping once in 20 s each "
        f"cost {_pings(found)}.{_looked_at(found)}\n\n"
        + table(("devices", "KiB each (PSS)", "KiB each (USS)", "CPU ms of a new device to connect"), rows)
        + _return(found)
    )


def _back(found: Results) -> str:
    row = next(iter(found.of("connects")), None)
    return "–" if row is None else f"{row['back_s']} s for {row['devices']:,}"


def _return(found: Results) -> str:
    """What it takes until the devices are back on a server that was restarted."""
    row = next(iter(found.of("connects")), None)
    if row is None:
        return ""
    parts = ", ".join(f"{part} {number(row['cpu_ms'][part])}" for part in PARTS)
    return (
        f"\n\nAfter a restart ({row['stop_s']} s to stop with {row['devices']:,} devices, {row['start_s']} s to start) "
        f"all {row['devices']:,} are back within {row['back_s']} s, {number(row['per_s'])} a second. To come back "
        f"costs {number(row['cpu_ms']['all'])} ms of CPU each ({parts})."
    )


def _looked_at(found: Results) -> str:
    """What is added by pages that ask who is online; nothing when that was not measured."""
    measured = found.of("looked_at")
    if not measured:
        return ""
    row, (_, pings) = measured[-1], found.of("pings")
    used = {part: 1000 * (row["cores"][part] - pings["cores"][part]) for part in PARTS}
    return (
        f" {row['pages']:,} pages that ask each {row['every_s']} s for the presence of {row['people']} people add "
        f"{sum(used.values()):.1f} ms of CPU a second ("
        + ", ".join(f"{part} {each:.1f} ms" for part, each in used.items())
        + ")."
    )


def _pings(found: Results) -> str:
    """What devices add to a server that has none, whose clock ticks all the same."""
    alone, row = found.of("pings")
    parts = {part: 100 * row["cores"][part] for part in PARTS}
    without = 100 * sum(alone["cores"].values())
    return (
        f"{sum(parts.values()) - without:.1f} % of a core for {row['devices']:,}: {sum(parts.values()):.1f} % in all ("
        + ", ".join(f"{part} {used:.1f} %" for part, used in parts.items())
        + f"), of which {without:.1f} % without any"
    )


def _against(found: Results) -> str:
    rows = []
    for what, label in (("live", "live calls"), ("stored", "stored calls")):
        for there in found.values(what, "there"):
            told = found.ms(what, "elsewhere", there=there)[2]
            rows.append((f"{there:,} {label}", spread(found.cpu(what, there=there)), shown(told)))
    text = (
        "### Other calls in the database\n\n32 calls at once. Stored calls are in a second database of the same "
        "PostgreSQL, measured in turn with the first.\n\n"
    )
    return text + table(("there are", "CPU ms a call", "other device told p99 ms"), rows)


def _growth(found: Results, what: str) -> float | None:
    there = found.values(what, "there")
    if len(there) < 2:
        return None
    least, most = (median(found.cpu(what, there=n)) or 0.0 for n in there)
    return most / least - 1


def _processes(found: Results) -> str:
    if not found.of("processes"):
        return ""
    rows = [
        (f"{n}", spread([row["per_s"] for row in found.of("processes", processes=n)]),
         spread(found.cpu("processes", processes=n)), shown(median(found.cpu("processes", "server", processes=n))))
        for n in (1, 2)
    ]  # fmt: skip
    where = (
        "each on a core of its own, PostgreSQL and Redis on another"
        if found.about["cores"] >= 4
        else "both on one core, each held to 30 % of it, PostgreSQL and Redis on the client's"
    )
    return (
        f"### Two server processes\n\nThe devices of each call spread over both, {where}: two do "
        f"{shown(_gain(found))} times what one does.\n\n"
        + table(("processes", "calls/s", "CPU ms a call", "of it server"), rows)
    )


def _gain(found: Results) -> float | None:
    one, two = (median(row["per_s"] for row in found.of("processes", processes=n)) for n in (1, 2))
    return two / one if one and two else None


def peers(file: Path) -> str:
    """Another harness's rows: one JSON object a line with peer, mode (closed, rate, race, idle) and its figures."""
    rows = [row for line in file.read_text().splitlines() if not (row := json.loads(line)).get("errors")]
    names = list(dict.fromkeys(row["peer"] for row in rows))
    plotted, out = [], []
    for name in names:

        def of(mode: str, name: str = name, **about: Any) -> list[Row]:
            mine = (row for row in rows if row["peer"] == name and row["mode"] == mode)
            return [row for row in mine if all(row.get(key) == value for key, value in about.items())]

        def told(mode: str, of: Any = of, **about: Any) -> str:
            found = [row["else"] for row in of(mode, **about) if row.get("else")]
            return " / ".join(shown(median(each[part] for each in found)) for part in (0, 2)) if found else "–"

        costs = {n: [row["cpu_ms_call"] for row in of("closed", C=n)] for n in (1, 8, 32, 128)}
        if not any(costs.values()):
            continue
        race = of("race")
        winners = "–" if not race else f"{sum(row['multi_answer'] for row in race)} of {sum(row['n'] for row in race)}"
        idle = [row["pss_kib"] for row in of("idle")]
        out.append(
            (name, spread(costs[32]), shown(median(costs[1])), shown(median(costs[128])), told("rate"),
             told("closed", C=32), shown(idle[-1] if idle else None), winners)
        )  # fmt: skip
        plotted.append((name, [median(costs[32]) or 0.0]))
    PLOTS["peers.svg"] = svg.bars("CPU of one call with three devices, 32 at once", "ms", plotted, ("all",))
    head = ("server", "CPU ms a call, 32 at once", "1", "128", "other device told p50 / p99 ms, fixed rate",
            "the same, 32 at once", "KiB an idle device", "races with several answers")  # fmt: skip
    return table(head, out) + "\n\n![servers side by side](performance/peers.svg)"


PLOTS: dict[str, str] = {}  # by file name, filled as the tables are made


def publish(results: Row, others: Path | None = None) -> None:
    """Writes the tables between the markers of the page, and results and plots beside it."""
    page = PAGE.read_text()
    page = _between(page, "figures", text(results))
    if others is not None:
        page = _between(page, "peers", peers(others))
    PLACE.mkdir(exist_ok=True)
    for name, plot in PLOTS.items():
        (PLACE / name).write_text(plot)
    (PLACE / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    PAGE.write_text(page)


def _between(page: str, marker: str, content: str) -> str:
    begin, end = f"<!-- {marker}: made by make bench -->", f"<!-- end of {marker} -->"
    if begin not in page or end not in page:
        raise SystemExit(f"{PAGE} has no place for the {marker}: it needs the lines {begin} and {end}.")
    return re.sub(f"{begin}.*?{end}", lambda _: f"{begin}\n\n{content}\n\n{end}", page, flags=re.S)
