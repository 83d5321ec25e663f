"""`python -m benchmarks against COMMIT`: this checkout beside an earlier commit, measured in turn.

A machine that others use is faster in one minute than in the next, so two runs, one after the other, say little. Here
both versions serve at the same time, each on a PostgreSQL and a Redis of its own, and are measured alternately: each
pair of windows gives one ratio. The median of the ratios is printed with the interval that holds it with a probability
of 95 % (by the binomial distribution of its rank, so nothing is assumed about how the ratios are spread).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from math import comb
from pathlib import Path
from typing import NamedTuple

from benchmarks import load, meter, run, stack, wire
from benchmarks.stack import Process, Stores
from benchmarks.wire import Device

BUSY = 32  # calls at once
RATE = 50  # calls a second
CLOSED_S = 2.5
RATE_S = 5.0
PING_S = 10.0  # of each window in which idle devices ping
SIDES = ("before", "now")


class Side(NamedTuple):
    """One of the two versions while it serves."""

    name: str
    stores: Stores
    server: Process
    cookies: dict[str, str]

    @property
    def parts(self) -> dict[str, list[int]]:
        return {"server": [self.server.pid], **self.stores.parts}


def interval(ratios: list[float]) -> tuple[float, float]:
    """The ratios between which the true median lies with a probability of at least 95 %."""
    ordered, n = sorted(ratios), len(ratios)
    rank, below = 0, comb(n, 0) / 2**n
    while below + comb(n, rank + 1) / 2**n <= 0.025:
        rank += 1
        below += comb(n, rank) / 2**n
    return ordered[rank], ordered[n - 1 - rank]


def compare(commit: str, pairs: int, idle: int, directory: Path) -> list[dict[str, object]]:
    """Measures every figure `pairs` times on each side; prints a table and returns its rows."""
    directory.mkdir(parents=True, exist_ok=True)
    with _checked_out(commit, directory) as source, contextlib.ExitStack() as entered:
        sides = [
            entered.enter_context(_serving(name, root, directory, idle))
            for name, root in zip(SIDES, (source, stack.ROOT), strict=True)
        ]
        os.sched_setaffinity(0, {stack.Cores.of_this_machine().client})
        with asyncio.Runner(loop_factory=run._loop) as runner:
            found = runner.run(_measure(sides, pairs, idle))
    rows = [_row(figure, *values) for figure, values in found.items()]
    print(f"{'figure':44} {'before':>9} {'now':>9} {'ratio':>7}   95 % interval  ({pairs} pairs)")
    for row in rows:
        low, high = row["interval"]  # type: ignore[misc]
        print(f"{row['figure']:44} {row['before']:9} {row['now']:9} {row['ratio']:7}   {low:.3f} to {high:.3f}")
    return rows


@contextlib.contextmanager
def _checked_out(commit: str, directory: Path) -> Iterator[Path]:
    """The code of the commit, in a directory of its own for as long as this lasts."""
    git = ["git", "-C", str(stack.ROOT)]
    place = directory / f"against-{os.getpid()}"
    subprocess.run([*git, "worktree", "add", "--quiet", "--detach", str(place), commit], check=True)
    try:
        yield place
    finally:
        subprocess.run([*git, "worktree", "remove", "--force", str(place)], check=False)


@contextlib.contextmanager
def _serving(name: str, source: Path, directory: Path, idle: int) -> Iterator[Side]:
    core = stack.Cores.of_this_machine().server
    with stack.stores(directory, core) as stores:
        stack.migrate(stores, source)
        people = {"a": BUSY, "b": BUSY, "i": -(-idle // 3) or 1}
        cookies = stack.make_people(stores, people, directory / f"cookies-{name}.json", source)
        with stack.server(stores, "daphne", core, directory / f"{name}.log", source=source) as server:
            yield Side(name, stores, server, cookies)


Figures = dict[str, tuple[list[float], list[float]]]


async def _measure(sides: list[Side], pairs: int, idle: int) -> Figures:
    found: Figures = {}
    callers = [await _pairs(side) for side in sides]
    for side, these in zip(sides, callers, strict=True):
        await load.closed(these, CLOSED_S, side.parts)  # so that all code is loaded and every statement prepared

    def closed(index: int) -> Callable[[], Awaitable[dict[str, float]]]:
        async def look() -> dict[str, float]:
            row = await load.closed(callers[index], CLOSED_S, sides[index].parts)
            return _figures(row, f"{BUSY} at once")

        return look

    def rate(index: int) -> Callable[[], Awaitable[dict[str, float]]]:
        async def look() -> dict[str, float]:
            return _figures(await load.at_rate(callers[index], RATE, RATE_S, sides[index].parts), f"{RATE}/s")

        return look

    await _in_turn(found, sides, pairs, closed)
    await _in_turn(found, sides, pairs, rate)
    if idle:
        await _idle(found, sides, pairs, idle)
    return found


async def _in_turn(
    found: Figures, sides: list[Side], pairs: int, of: Callable[[int], Callable[[], Awaitable[dict[str, float]]]]
) -> None:
    """Each side once in a pair, every other pair the other way round."""
    everything = {f"{side.name} {part}": pids for side in sides for part, pids in side.parts.items()}
    for number in range(pairs):
        for index in (0, 1)[:: 1 if number % 2 == 0 else -1]:
            await run._calm(everything)
            for figure, value in (await of(index)()).items():
                found.setdefault(figure, ([], []))[index].append(value)
        print(f"  pair {number + 1} of {pairs}", file=sys.stderr, flush=True)


def _figures(row: dict[str, object], load_name: str) -> dict[str, float]:
    if row["failed"]:
        raise RuntimeError(f"calls failed: {row['why']}")
    cpu: dict[str, float] = row["cpu_ms"]  # type: ignore[assignment]
    ms: dict[str, list[float]] = row["ms"]  # type: ignore[assignment]
    figures = {f"other device told, p99 ms, {load_name}": ms["elsewhere"][2]}
    if "at once" in load_name:
        figures |= {f"CPU ms a call, {load_name}": cpu["all"], f"of it the server, {load_name}": cpu["server"]}
    return figures


async def _idle(found: Figures, sides: list[Side], pairs: int, idle: int) -> None:
    """Memory of an idle device and CPU of its pings."""
    devices: list[list[Device]] = []
    connects: list[float] = []
    for side in sides:
        empty = meter.memory([side.server.pid])
        these = [Device(f"i{number // 3}", f"device {number % 3}") for number in range(idle)]
        with meter.Window({"server": [side.server.pid]}) as window:
            await wire.connect(these, [side.server.port], side.cookies)
        connects.append(window.per(idle)["server"])
        await asyncio.sleep(2)
        held = (meter.memory([side.server.pid]).pss - empty.pss) / idle / 1024
        found.setdefault("KiB of an idle device (one look)", ([], []))[sides.index(side)].append(held)
        devices.append(these)
    for index, value in enumerate(connects):
        found.setdefault("CPU ms of a connect, server (one look)", ([], []))[index].append(value)
    figure = f"% of a core, {idle} idle devices"
    stop = asyncio.Event()
    pinging = [asyncio.create_task(_ping_until(stop, these)) for these in devices]
    await asyncio.sleep(run.PING_S)  # PostgreSQL sweeps up after those who connected
    for number in range(pairs):
        with contextlib.ExitStack() as entered:  # both at the same time: each has its own count of CPU seconds
            windows = [entered.enter_context(meter.Window(side.parts)) for side in sides]
            await asyncio.sleep(PING_S)
        for index, window in enumerate(windows):
            found.setdefault(figure, ([], []))[index].append(100 * sum(window.cpu.values()) / window.seconds)
        print(f"  pings, pair {number + 1} of {pairs}", file=sys.stderr, flush=True)
    stop.set()
    await asyncio.gather(*pinging)


async def _ping_until(stop: asyncio.Event, devices: list[Device]) -> None:
    """Every device pings once in run.PING_S seconds, one after the other, again and again."""
    while not stop.is_set():
        await run._ping(devices, run.PING_S)


async def _pairs(side: Side) -> list[load.Pair]:
    callers = [Device(f"a{k}", "caller") for k in range(BUSY)]
    callees = [[Device(f"b{k}", f"device {n}") for n in range(3)] for k in range(BUSY)]
    await wire.connect([*callers, *(each for these in callees for each in these)], [side.server.port], side.cookies)
    return [load.Pair(*pair) for pair in zip(callers, callees, strict=True)]


def _row(figure: str, before: list[float], now: list[float]) -> dict[str, object]:
    ratios = [b / a for a, b in zip(before, now, strict=True)]
    low, high = interval(ratios) if len(ratios) >= 6 else (min(ratios), max(ratios))
    return {
        "figure": figure,
        "before": round(statistics.median(before), 3),
        "now": round(statistics.median(now), 3),
        "ratio": round(statistics.median(ratios), 3),
        "interval": (low, high),
        "ratios": [round(each, 4) for each in ratios],
    }


def write(rows: list[dict[str, object]], file: Path) -> None:
    file.write_text(json.dumps(rows, indent=1))
