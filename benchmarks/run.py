"""What is measured, in which order. The figures come out as rows: one scenario, one round, one dictionary."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import itertools
import os
import platform
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

import psycopg

from benchmarks import history, load, meter, pg, stack, wire
from benchmarks.stack import Cores, Process, Stores
from benchmarks.wire import Device
from scripts import services

PING_S = 20  # what the server tells an idle device
LOOKED_AT_S = 15  # how often a page that is looked at asks who is online of the people on its screen
ON_SCREEN = 20  # people
RATE = 50  # calls a second, for latency at a load that leaves room
BUSY = 32  # calls at a time where one number has to do
SHARE = 0.3  # of a core for each of two server processes that share one
CALM_S = 3  # the longest wait for others on this machine to be quiet

Row = dict[str, Any]


class Plan(NamedTuple):
    rounds: int
    seconds: float  # of each measurement
    concurrency: tuple[int, ...]
    devices: tuple[int, ...]  # of the callee
    sweep: int  # calls at a time while devices vary
    idle: tuple[int, ...]
    ping_s: float  # how long idle devices are watched: a minute, in which every sign-in is looked at once
    looked_at: int  # of them, so many have a page that somebody looks at
    stored: int
    live: int
    held_back: int  # calls at a time for processes that are held back: what waits keeps them busy


FULL = Plan(5, 2.5, (1, 8, 32, 128), (1, 3, 10, 30), 8, (1000, 5000), 3 * PING_S, 1000, 1_000_000, 5000, 6 * BUSY)
QUICK = Plan(1, 1.5, (1, 32), (1, 10), 8, (500,), 5, 500, 50_000, 500, 2 * BUSY)


class Bench:
    """One run: what it uses, and the rows so far."""

    def __init__(self, plan: Plan, kind: str, directory: Path) -> None:
        self.plan, self.kind, self.directory = plan, kind, directory
        self.cores = Cores.of_this_machine()
        self.rows: list[Row] = []
        self.cookies: dict[str, str] = {}
        self.log = directory / "server.log"

    def add(self, scenario: str, row: Row, **about: Any) -> None:
        self.rows.append({"scenario": scenario, **about, **row})
        shown = " ".join(f"{name}={value}" for name, value in about.items())
        cost = f"{row['cpu_ms']['all']:7.2f} ms CPU each, {row['per_s']:8.1f} a second" if "cpu_ms" in row else ""
        failed = f", {row['failed']} FAILED: {row['why']}" if row.get("failed") else ""
        print(f"  {scenario:10} {shown:32} {cost}{failed}", file=sys.stderr, flush=True)

    def server(self, stores: Stores, **more: Any) -> contextlib.AbstractContextManager[Process]:
        return stack.server(stores, self.kind, self.cores.server, self.log, **more)

    async def pairs(
        self, ports: list[int], number: int, devices: int, first: int = 0, cookies: dict[str, str] | None = None
    ) -> list[load.Pair]:
        """Connected callers and callees."""
        callers = [Device(f"a{first + k}", "caller") for k in range(number)]
        callees = [[Device(f"b{first + k}", f"device {n}") for n in range(devices)] for k in range(number)]
        for first_port in range(len(ports)):  # callers are on all of them, and so are the devices of each callee
            turned = ports[first_port:] + ports[:first_port]
            these = range(first_port, number, len(ports))
            everybody = [device for k in these for device in (callers[k], *callees[k])]
            await wire.connect(everybody, turned, cookies or self.cookies)
        return [load.Pair(*pair) for pair in zip(callers, callees, strict=True)]

    async def bare_pairs(self, bare: Process, number: int) -> list[load.Pair]:
        """The same on the bare server, which knows people by the names of their devices."""
        pairs = []
        for k in range(number):
            devices = [Device("", f"a{k}/caller"), *(Device("", f"b{k}/{n}") for n in range(3))]
            await wire.connect(devices, [bare.port], {})
            for device in devices:
                device.user = device.name.partition("/")[0]
            pairs.append(load.Pair(devices[0], devices[1:]))
        return pairs


def run(plan: Plan, kind: str, directory: Path) -> Row:
    """The whole run: {"about": …, "rows": […]}."""
    directory.mkdir(parents=True, exist_ok=True)
    bench = Bench(plan, kind, directory)
    bench.log.unlink(missing_ok=True)
    began = time.monotonic()
    with stack.stores(directory, bench.cores.server) as stores:
        stack.migrate(stores)
        most = max(2 * plan.held_back, max(plan.concurrency) + plan.sweep * len(plan.devices))
        people = {"a": most, "b": most, "i": -(-max(plan.idle) // 3)}
        bench.cookies = stack.make_people(stores, people, directory / "cookies.json")
        pg.prepare(stores.database_url, BUSY)
        os.sched_setaffinity(0, {bench.cores.client})
        with asyncio.Runner(loop_factory=_loop) as runner:
            runner.run(_everything(bench, stores))
        about = _about(bench, stores)
    return {"about": {**about, "minutes": round((time.monotonic() - began) / 60, 1)}, "rows": bench.rows}


def _loop() -> asyncio.AbstractEventLoop:
    import uvloop

    return uvloop.new_event_loop()


async def _everything(bench: Bench, stores: Stores) -> None:
    await _idle(bench, stores)
    await _processes(bench, stores)
    with bench.server(stores) as server, stack.floor(bench.cores.server, bench.log) as bare:
        parts = {"server": [server.pid], **stores.parts}
        pairs = await bench.pairs([server.port], max(bench.plan.concurrency), 3)
        bare_pairs = await bench.bare_pairs(bare, BUSY)
        await load.closed(pairs[:8], bench.plan.seconds, parts)
        history.settle(stores.database_url)
        await _rounds(bench, stores, parts, pairs, {"server": [bare.pid]}, bare_pairs)
        await _devices(bench, server, parts)
        await _against_live(bench, stores, parts, pairs)
        await _against_stored(bench, stores, parts, pairs)
        await _close(pairs)


async def _rounds(
    bench: Bench,
    stores: Stores,
    parts: dict[str, list[int]],
    pairs: list[load.Pair],
    bare_parts: dict[str, list[int]],
    bare_pairs: list[load.Pair],
) -> None:
    """The figures that are compared with each other, in turn, every other round the other way round."""
    seconds = bench.plan.seconds
    steps: list[tuple[str, Row, Callable[[], Awaitable[Row]]]] = []
    for calls in bench.plan.concurrency:
        steps.append(("closed", {"calls_at_once": calls}, lambda n=calls: load.closed(pairs[:n], seconds, parts)))
    signals = {"calls_at_once": BUSY}
    steps.append(("signals", signals, lambda: load.closed(pairs[:BUSY], seconds, parts, signals=True)))
    steps.append(("rate", {"calls_per_s": RATE}, lambda: load.at_rate(pairs, RATE, 2 * seconds, parts)))
    steps.append(("bare", {"calls_at_once": BUSY}, lambda: load.closed(bare_pairs, seconds / 2, bare_parts)))
    steps.append(("pgbench", {"calls_at_once": BUSY}, lambda: _pgbench(bench, stores)))
    for number in range(bench.plan.rounds):
        for scenario, about, measure in steps[:: 1 if number % 2 == 0 else -1]:
            await _calm(parts | bare_parts)
            before = _database(stores)
            try:
                row = await measure()
            except pg.NoPgbench as problem:
                print(f"  {problem}", file=sys.stderr)
                continue
            if scenario in ("closed", "signals") and row["calls"]:
                row["each"] = _used(before, _database(stores), row["calls"] + row["warm_calls"])
            bench.add(scenario, row, **about, round=number)


async def _pgbench(bench: Bench, stores: Stores) -> Row:
    work = (stores.database_url, stores.postgres, BUSY, bench.plan.seconds, bench.cores.client)
    return await asyncio.to_thread(pg.run, *work)


async def _devices(bench: Bench, server: Process, parts: dict[str, list[int]]) -> None:
    first = max(bench.plan.concurrency)
    swept = {}
    for index, devices in enumerate(bench.plan.devices):
        at = first + index * bench.plan.sweep
        swept[devices] = await bench.pairs([server.port], bench.plan.sweep, devices, at)
    for number in range(max(1, bench.plan.rounds // 2)):
        for devices, pairs in swept.items():
            await _calm(parts)
            bench.add("devices", await load.closed(pairs, bench.plan.seconds, parts), devices=devices, round=number)
    for pairs in swept.values():
        await _close(pairs)


async def _against_live(bench: Bench, stores: Stores, parts: dict[str, list[int]], pairs: list[load.Pair]) -> None:
    """The same calls while others go on, in turn with the same calls without."""
    history.settle(stores.database_url)
    now = 0
    for number in range(bench.plan.rounds):
        for there in (0, bench.plan.live)[:: 1 if number % 2 == 0 else -1]:
            if there > now:
                await asyncio.to_thread(history.add_live, stores.database_url, there)
            elif there < now:
                await asyncio.to_thread(history.remove_live, stores.database_url)
            now = there
            await _calm(parts)
            bench.add("live", await load.closed(pairs[:BUSY], bench.plan.seconds, parts), there=there, round=number)
    await asyncio.to_thread(history.remove_live, stores.database_url)  # the sockets are still there


async def _against_stored(bench: Bench, stores: Stores, parts: dict[str, list[int]], pairs: list[load.Pair]) -> None:
    """The same calls on another database of the same PostgreSQL, full of calls that are over, in turn with this one."""
    began = time.monotonic()
    full = stack.another_database(stores, "history")
    stack.migrate(full)
    people = {"a": BUSY, "b": BUSY, "i": -(-max(bench.plan.idle) // 3)}
    cookies = stack.make_people(full, people, bench.directory / "cookies-full.json")
    await asyncio.to_thread(history.add_ended, full.database_url, bench.plan.stored)
    print(f"  {bench.plan.stored} stored calls made in {time.monotonic() - began:.0f} s", file=sys.stderr)
    with bench.server(full) as server:
        there = {"server": [server.pid], **stores.parts}
        full_pairs = await bench.pairs([server.port], BUSY, 3, cookies=cookies)
        sides = [(0, pairs[:BUSY], parts), (bench.plan.stored, full_pairs, there)]
        for _, these, of in sides:
            await load.closed(these, bench.plan.seconds, of)
        for database in (stores, full):
            history.settle(database.database_url)
        for number in range(bench.plan.rounds):
            for stored, these, of in sides[:: 1 if number % 2 == 0 else -1]:
                await _calm(parts | there)
                bench.add("stored", await load.closed(these, bench.plan.seconds, of), there=stored, round=number)
        await _close(full_pairs)


async def _idle(bench: Bench, stores: Stores) -> None:
    """Memory for each device that only waits, the CPU of their pings beside that of a server without devices, and the
    return of all of them after a restart."""
    port = services.free_port()
    with contextlib.ExitStack() as running:
        server = running.enter_context(bench.server(stores, port=port))
        parts = {"server": [server.pid], **stores.parts}
        devices = [Device(f"i{number // 3}", f"device {number % 3}") for number in range(max(bench.plan.idle))]
        await devices[0].connect(server.port, bench.cookies["i0"])  # so that all code is there before the first look
        devices[0].close()
        await asyncio.sleep(1)
        empty = meter.memory([server.pid])
        there = 0
        await _watch(bench, parts, [])
        for number in bench.plan.idle:
            with meter.Window(parts) as window:
                await wire.connect(devices[there:number], [server.port], bench.cookies)
            await asyncio.sleep(2)
            now = meter.memory([server.pid])
            row = {
                "pss_kib": round((now.pss - empty.pss) / number / 1024, 2),
                "uss_kib": round((now.uss - empty.uss) / number / 1024, 2),
                "empty_mib": round(empty.pss / 2**20, 1),
                "hello_ms": {name: round(used, 3) for name, used in window.per(number - there).items()},
            }
            bench.add("idle", row, devices=number)
            there = number
        await _ping(devices, bench.plan.ping_s)  # until PostgreSQL has swept up after those who connected
        await _watch(bench, parts, devices)
        await _watch(bench, parts, devices, bench.plan.looked_at)
        began = load.clock()
        await asyncio.to_thread(running.close)  # in order, and meanwhile the devices answer
    stopped = load.clock()
    with bench.server(stores, port=port) as server:
        started = load.clock()
        parts = {"server": [server.pid], **stores.parts}
        with meter.Window(parts) as window:
            await wire.connect(devices, [port], bench.cookies)
        row = {
            "cpu_ms": {name: round(used, 3) for name, used in window.per(len(devices)).items()},
            "per_s": round(len(devices) / window.seconds, 1),
            "stop_s": round(stopped - began, 1),
            "start_s": round(started - stopped, 1),
            "back_s": round(window.seconds, 1),
        }
        bench.add("connects", row, devices=len(devices))
        for device in devices:
            device.close()


async def _watch(bench: Bench, parts: dict[str, list[int]], devices: list[Device], looked_at: int = 0) -> None:
    """The CPU of a server with these devices, which ping, and of which so many are looked at."""
    with meter.Window(parts) as window:
        await asyncio.gather(_ping(devices, bench.plan.ping_s), _look_at_people(devices[:looked_at], bench.plan.ping_s))
    cores = {name: round(used / window.seconds, 4) for name, used in window.cpu.items()}
    if looked_at:
        row = {"cores": cores, "every_s": LOOKED_AT_S, "people": ON_SCREEN, "pages": looked_at}
        bench.add("looked_at", row, devices=len(devices))
    else:
        bench.add("pings", {"cores": cores, "every_s": PING_S}, devices=len(devices))


async def _ping(devices: list[Device], seconds: float) -> None:
    """Every device pings once in PING_S, one after the other."""
    began = load.clock()
    for number in range(int(len(devices) * seconds / PING_S)):
        await asyncio.sleep(max(0.0, began + number * PING_S / len(devices) - load.clock()))
        devices[number % len(devices)].say("ping", calls={})
    await asyncio.sleep(max(0.0, began + seconds - load.clock()))


async def _look_at_people(devices: list[Device], seconds: float) -> None:
    """Every page asks once in LOOKED_AT_S for the presence of the people on its screen, one page after the other. Each
    shows another part of one list."""
    began, people = load.clock(), -(-len(devices) // 3)
    for number in range(int(len(devices) * seconds / LOOKED_AT_S)):
        await asyncio.sleep(max(0.0, began + number * LOOKED_AT_S / len(devices) - load.clock()))
        of = [f"i{(number + nth) % people}" for nth in range(ON_SCREEN)]
        devices[number % len(devices)].say("presence", of=of)
    await asyncio.sleep(max(0.0, began + seconds - load.clock()))


async def _processes(bench: Bench, stores: Stores) -> None:
    """The devices on one of two server processes, and spread over both.

    With cores to spare each process has its own, and PostgreSQL and Redis another. Else both share one, each held to a
    part of it, and PostgreSQL and Redis share the client's.
    """
    spare, server = bench.cores.spare, bench.cores.server
    second, apart = (spare[0], spare[1]) if len(spare) > 1 else (server, bench.cores.client)
    with (
        stack.server(stores, bench.kind, server, bench.log, processes=2) as one,
        stack.server(stores, bench.kind, second, bench.log, processes=2) as two,
    ):
        many = bench.plan.held_back
        together = await bench.pairs([one.port], many, 3)
        spread = await bench.pairs([one.port, two.port], many, 3, many)
        with stack.held_to(SHARE, [one.pid, two.pid] if second == server else []) as held:
            if not held:
                print("  processes: no control groups here and too few cores, not measured", file=sys.stderr)
                return
            roots = [stores.postgres, stores.redis]
            stack.pin(roots, apart)
            parts = {"server": [one.pid, two.pid], **stores.parts}
            for number in range(max(1, bench.plan.rounds - 2)):
                for processes, pairs in ((1, together), (2, spread)):
                    await _calm(parts)
                    row = await load.closed(pairs, 2 * bench.plan.seconds, parts)
                    bench.add("processes", row, processes=processes, round=number)
            stack.pin(roots, server)
        await _close(together + spread)


async def _close(pairs: list[load.Pair]) -> None:
    for pair in pairs:
        for device in (pair.caller, *pair.callees):
            device.close()
    await asyncio.sleep(0.5)


async def _calm(parts: dict[str, list[int]]) -> None:
    """Waits, within bounds, for others on this machine to be quiet."""
    for _look in itertools.repeat(None, int(CALM_S / 0.3)):
        with meter.Window(parts) as window:
            await asyncio.sleep(0.3)
        if window.foreign < 0.2:
            return


def _database(stores: Stores) -> tuple[int, int]:
    """Transactions so far, and the write-ahead log's position."""
    with psycopg.connect(stores.database_url, autocommit=True) as db:
        time.sleep(1.1)  # backends report what they have done once a second
        found = db.execute(
            "select sum(xact_commit)::bigint, pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint "
            "from pg_stat_database"
        ).fetchone()
    assert found is not None
    return found


def _used(before: tuple[int, int], after: tuple[int, int], calls: int) -> Row:
    """What each call took of PostgreSQL; the clock's own transactions are in it."""
    return {
        "transactions": round((after[0] - before[0]) / calls, 2),
        "wal_kib": round((after[1] - before[1]) / calls / 1024, 2),
    }


def _about(bench: Bench, stores: Stores) -> Row:
    processor = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in processor if line.startswith("model name")), "?")
    with psycopg.connect(stores.database_url) as db:
        names = ("server_version", "fsync", "synchronous_commit", "full_page_writes")
        postgres = {name: db.execute(f"show {name}").fetchone()[0] for name in names}  # type: ignore[index]
    return {
        "when": dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "server": bench.kind,
        "processor": model,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "postgresql": postgres,
        "plan": bench.plan._asdict(),
    }
