"""How many machines a site needs: a simulation of its busy hour with measured costs.

    python -m benchmarks scale 1000000@120

Each server process is played for a while: orders and pings arrive at random (Poisson), and wait at its desk as they do
in calls/desk.py, where whatever waits is one batch. What that costs the process and PostgreSQL comes from the figures
below, which `make bench` has measured; the rest is counting. It leaves out what it does not know: other machines'
clocks, networks, disks and neighbours.
"""

from __future__ import annotations

import math
import random
from typing import NamedTuple

from calls.desk import BREATH_S, GATHER_S, MAX_BATCH, PAUSE_S, SHARE_S

RETURN_S = 60
ORDERS = 3  # of a call: invite, answer, hangup
SIGNALS = 22  # of a call: two descriptions and ten candidates each way


class Costs(NamedTuple):
    """CPU milliseconds, from docs/performance.md: what a batch costs, and each order in it, follow from the cost of a
    call alone and of 32 at once."""

    batch_server: float = 0.4
    batch_database: float = 0.4
    order_server: float = 0.26
    order_database: float = 0.12
    look_server: float = 1.0  # one look for pings
    look_database: float = 0.4
    ping_server: float = 0.055  # with its part of what looks after idle devices
    ping_database: float = 0.015
    hello_server: float = 0.75  # a device that comes back
    signal_server: float = 0.03
    post_server: float = 0.03  # something that another process said
    post_redis: float = 0.01  # and for each process that hears it
    idle_server: float = 5.0  # in a second, of a process without devices
    idle_database: float = 2.0
    idle_redis: float = 1.5
    device_kib: float = 35


MEASURED = Costs()


class Site(NamedTuple):
    devices: int
    calls_per_s: float
    ping_s: float
    processes: int


class Load(NamedTuple):
    """Of one simulated second. Cores are shares of one core; milliseconds are an order's way through the desk."""

    server_cores: float  # of the busiest of the processes played
    database_cores: float  # of all processes
    redis_cores: float
    p50_ms: float
    p99_ms: float
    memory_gib: float  # of all processes
    rows_per_s: float  # written


def simulate(site: Site, costs: Costs = MEASURED, seconds: float = 20, seed: int = 7) -> Load:
    """One process of the site, and what all of them make together."""
    chance = random.Random(seed)
    orders_per_s = ORDERS * site.calls_per_s / site.processes
    pings_per_s = site.devices / site.ping_s / site.processes
    busy, batches, waits = _desk(chance, orders_per_s, seconds, costs)
    looks = _looks(pings_per_s, costs)
    heard = (ORDERS + SIGNALS) * site.calls_per_s * (site.processes - 1) / site.processes
    server = busy / seconds + (costs.idle_server + looks * costs.look_server + pings_per_s * costs.ping_server) / 1000
    server += (SIGNALS * site.calls_per_s / site.processes * costs.signal_server + heard * costs.post_server) / 1000
    database = batches / seconds * costs.batch_database + orders_per_s * costs.order_database
    database += costs.idle_database + looks * costs.look_database + pings_per_s * costs.ping_database
    posts = (ORDERS + SIGNALS) * site.calls_per_s if site.processes > 1 else 0
    ordered = sorted(waits) or [0.0]
    return Load(
        server_cores=server,
        database_cores=database * site.processes / 1000,
        redis_cores=site.processes * (costs.idle_redis + posts * costs.post_redis) / 1000,
        p50_ms=1000 * ordered[len(ordered) // 2],
        p99_ms=1000 * ordered[int(len(ordered) * 0.99)],
        memory_gib=(site.devices * costs.device_kib / 1024 + 90 * site.processes) / 1024,
        rows_per_s=pings_per_s * site.processes + site.calls_per_s * 11,
    )


def _desk(chance: random.Random, orders_per_s: float, seconds: float, costs: Costs) -> tuple[float, int, list[float]]:
    """Plays the orders of one process: CPU seconds, batches, and how long each order took."""
    now, free, busy, batches = 0.0, 0.0, 0.0, 0
    waits: list[float] = []
    arrivals: list[float] = []
    while (now := now + chance.expovariate(orders_per_s)) < seconds:
        arrivals.append(now)
    first = 0
    while first < len(arrivals):
        begin = max(arrivals[first], free)
        last = first
        while last < len(arrivals) and last - first < MAX_BATCH and arrivals[last] <= begin:
            last += 1
        size = last - first
        server = (costs.batch_server + size * costs.order_server) / 1000
        took = server + (costs.batch_database + size * costs.order_database) / 1000
        waits += [begin + took - arrival for arrival in arrivals[first:last]]
        busy, batches = busy + server, batches + 1
        free = begin + took + min(BREATH_S, SHARE_S * (size - 1))
        first = last
    return busy, batches, waits


def _looks(pings_per_s: float, costs: Costs) -> float:
    """Looks for pings in a second, once their number and the pause between them have settled."""
    gathered = 2.0
    for _ in range(100):
        gathered = max(1.0, pings_per_s * (min(GATHER_S, PAUSE_S * (gathered - 1)) + costs.look_server / 1000))
    return min(pings_per_s, pings_per_s / gathered)


def processes_for(devices: int, calls_per_s: float, ping_s: float, most: float = 0.6) -> Site:
    """The fewest processes of which none is busier than this share of a core, and each, when it was restarted, has its
    devices back within `RETURN_S`."""
    processes = math.ceil(devices * MEASURED.hello_server / 1000 / RETURN_S)
    while simulate(site := Site(devices, calls_per_s, ping_s, processes), seconds=5).server_cores > most:
        processes = max(processes + 1, round(processes * 1.1))
        if processes > 5000:
            break
    return site


def table(rows: list[tuple[int, float]]) -> str:
    """Markdown for sites of so many devices that ping so often. Three devices a person, four calls a person and day, a
    tenth of them in the busiest hour."""
    lines = [
        "| devices | ping every | calls/s | processes | each busy | PostgreSQL, cores | rows written/s | Redis, cores "
        "| memory | an order takes, p50 / p99 |",
        "| ---: " * 10 + "|",
    ]
    for devices, ping_s in rows:
        calls_per_s = devices / 3 * 4 * 0.1 / 3600
        site = processes_for(devices, calls_per_s, ping_s)
        load = simulate(site)
        lines.append(
            f"| {devices:,} | {ping_s:g} s | {calls_per_s:.1f} | {site.processes} | {load.server_cores:.0%} "
            f"| {load.database_cores:.2f} | {load.rows_per_s:,.0f} | {load.redis_cores:.2f} "
            f"| {load.memory_gib:.1f} GiB | {load.p50_ms:.1f} / {load.p99_ms:.1f} ms |"
        )
    return "\n".join(lines)
