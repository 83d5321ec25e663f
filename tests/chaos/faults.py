"""The faults, one by one. Each is a coroutine that disturbs the stage and returns when it has taken everything back."""

import asyncio
import os
import signal
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, NamedTuple

import psycopg

from tests.chaos.checker import Spy, Violation
from tests.chaos.crowd import Crowd, Person
from tests.chaos.stage import Stage, now, skewed, stretch
from tests.proxy import Proxy

LOCK_S = 8.0  # how long a foreign session holds a row
NEIGHBOUR_S = 3.0  # an order that does not need the row takes at most so much longer than the slowest one before


class Skipped(Exception):
    """The fault cannot be made here; the message says why."""


class Round:
    """What a fault may touch, and when it was over."""

    def __init__(self, stage: Stage, crowd: Crowd, people: dict[str, Person], turn: int, *, short: bool) -> None:
        self.stage, self.crowd, self.people, self.turn, self.short = stage, crowd, people, turn, short
        self.found: list[Violation] = []
        self.healed_at = 0.0
        self.over = asyncio.Event()

    @property
    def side(self) -> int:
        """The number of the server whose turn it is."""
        return self.turn % 2

    def healed(self) -> None:
        """From now on everything has to recover."""
        self.healed_at = self.healed_at or now()
        self.over.set()


class Fault(NamedTuple):
    name: str
    tries: int
    tries_when_short: int
    make: Callable[[Round], Awaitable[None]]


async def nothing(round: Round) -> None:
    await asyncio.sleep(3 if round.short else 5)


async def kill_server(round: Round) -> None:
    """A server process disappears, and is started again a little later. Some calls that it has placed ring."""
    server, crowd = round.stage.servers[round.side], round.crowd
    crowd.avoided |= {*crowd.dice.sample(crowd.crowd, 6)}
    await asyncio.sleep(2)  # for their calls to end
    free = [name for name in sorted(crowd.avoided) if not any(device.held for device in crowd.of[name])]
    for caller, callee in zip(free[::2], free[1::2], strict=False):
        here = [device for device in crowd.of[caller] if device.server == round.side]
        await asyncio.gather(*(crowd.call_in_vain(device, callee) for device in here[:1]))
    crowd.avoided.clear()
    await asyncio.to_thread(server.kill)
    round.healed()  # the other server is there: devices go to it at once
    await asyncio.sleep(1 if round.short else 3)
    await asyncio.to_thread(server.start)


async def stop_server(round: Round) -> None:
    """A server process is told to end while it is busy, and is started again."""
    server = round.stage.servers[round.side]
    process = server.process
    await asyncio.to_thread(server.stop)
    if process is not None and process.returncode:
        round.found.append(Violation("recovery", f"a server that was told to stop ended with {process.returncode}"))
    round.healed()
    await asyncio.sleep(1)
    await asyncio.to_thread(server.start)


async def kill_backend(round: Round) -> None:
    """One busy process of PostgreSQL is killed. PostgreSQL then ends all others, and begins anew."""
    proxies = round.stage.to_postgres
    links = [link.server for link in proxies[round.side].links if link.server]
    ports = [server.get_extra_info("sockname")[1] for server in links]
    async with await psycopg.AsyncConnection.connect(round.stage.url, autocommit=True) as connection:
        # The last words of a backend and its reset arrive together, and while something is asked: as they do on a busy
        # site without a proxy.
        for proxy in proxies:
            proxy.delay_s, proxy.hard = 0.02, True
        await asyncio.sleep(1)
        cursor = await connection.execute(
            "SELECT pid FROM pg_stat_activity WHERE client_port = ANY(%s) "
            "ORDER BY state = 'active' DESC, query_start DESC NULLS LAST LIMIT 1",
            [ports],
        )
        row = await cursor.fetchone()
        assert row is not None, "no server is connected to PostgreSQL"
        os.kill(row[0], signal.SIGKILL)
        round.healed()
        with suppress(psycopg.OperationalError):
            await connection.execute("SELECT pg_sleep(10)")
        for proxy in proxies:
            proxy.delay_s, proxy.hard = 0.0, False


def freeze_postgres(seconds: float, when_short: float = 15) -> Callable[[Round], Awaitable[None]]:
    async def make(round: Round) -> None:
        """All processes of PostgreSQL stop for a while, as a machine that is suspended or starved."""
        round.stage.freeze_postgres()
        try:
            await asyncio.sleep(when_short if round.short else seconds)
        finally:
            round.stage.let_run()

    return make


async def restart_postgres(round: Round) -> None:
    await asyncio.to_thread(round.stage.postgres.stop)
    await asyncio.sleep(2)
    await asyncio.to_thread(round.stage.postgres.start)


async def restart_redis(round: Round) -> None:
    await asyncio.to_thread(round.stage.redis.stop)
    await asyncio.sleep(2)
    await asyncio.to_thread(round.stage.redis.start)


async def half_open_postgres(round: Round) -> None:
    """One server's connections to PostgreSQL take everything and answer nothing, and stay so. New ones are served when
    the fault is over."""
    await _half_open(round, round.stage.to_postgres[round.side])


async def half_open_redis(round: Round) -> None:
    await _half_open(round, round.stage.to_redis[round.side])


async def _half_open(round: Round, proxy: Proxy) -> None:
    """As after a network is cut, where the store keeps its ends open; every other time as after a failover, where the
    store behind is gone."""
    proxy.freeze(gone=round.turn % 2 == 1)
    try:
        await asyncio.sleep(8 if round.short else 18)
    finally:
        proxy.thaw()


async def refused_postgres(round: Round) -> None:
    """One server's connections to PostgreSQL are reset, and new ones refused."""
    proxy = round.stage.to_postgres[round.side]
    proxy.refuse()
    await asyncio.sleep(3 if round.short else 6)
    await proxy.open()


async def slow_postgres(round: Round) -> None:
    """Everything takes longer on its way to PostgreSQL and back. What devices are told is held against the rows at the
    moment when they are told."""
    crowd = round.crowd
    async with Spy(round.stage.url) as spy:
        crowd.record.on_told = spy.look
        for proxy in round.stage.to_postgres:
            proxy.delay_s = 0.06
        try:
            for _ in range(1 if round.short else 3):  # where it matters most that each waits for the other
                callee, *callers = crowd.dice.sample(crowd.crowd, len(crowd.crowd))
                await asyncio.gather(asyncio.sleep(4), crowd.crowd_at(callee, callers, several=6))
        finally:
            for proxy in round.stage.to_postgres:
                proxy.delay_s = 0.0
            round.healed()
            await asyncio.sleep(0.5)
            crowd.record.on_told = lambda told: None
    round.found += spy.found


Wanting = Callable[[Round, list[str]], list[Awaitable[Any]]]


def held_row(sql: str, victims: Callable[[Round], list[str]], want: Wanting) -> Callable[[Round], Awaitable[None]]:
    async def make(round: Round) -> None:
        """Another session holds a row for some seconds. Those who need it wait; the others must not notice."""
        crowd = round.crowd
        names = victims(round)
        involved = {*names, *crowd.dice.sample([name for name in crowd.crowd if name not in names], 6)}
        crowd.avoided |= involved
        await asyncio.sleep(1)
        patience = NEIGHBOUR_S + max((order.took for order in crowd.record.orders if order.code), default=0.0)
        async with await psycopg.AsyncConnection.connect(round.stage.url) as holder:
            await holder.execute(sql, [int(round.people[names[0]].key)])
            began = now()
            wanted = [asyncio.ensure_future(each) for each in want(round, [*names, *sorted(involved - {*names})])]
            await asyncio.sleep(LOCK_S)
            await holder.rollback()
        round.healed()
        ended = now()
        await asyncio.wait(wanted, timeout=30 * stretch())
        crowd.avoided -= involved
        for order in crowd.record.orders:
            waited = min(order.took, ended - order.sent)
            late = began <= order.sent < ended and waited > patience
            if late and order.by.user not in involved and order.cmd not in ("signal", "hello"):
                round.found.append(Violation("neighbours", f"while a row of {names[0]} was held: {order}"))

    return make


def someone(round: Round) -> list[str]:
    return [round.crowd.dice.choice(round.crowd.crowd)]


def everybody_calls(round: Round, involved: list[str]) -> list[Awaitable[Any]]:
    """Every device of the others calls the first: on each server more of them wait than may wait in threads."""
    callee, *callers = involved
    devices = [device for name in callers for device in round.crowd.of[name]]
    return [
        device.insist("invite", for_s=10, call=str(uuid.uuid4()), to=[callee], kind="audio", ring_s=5)
        for device in devices
    ]


def talkers(round: Round) -> list[str]:
    return list(round.crowd.pairs[round.turn % (len(round.crowd.pairs) - 1)])


def something_changes(round: Round, involved: list[str]) -> list[Awaitable[Any]]:
    """The first mutes their microphone, and the other does too."""
    devices = [device for name in involved[:2] for device in round.crowd.of[name]]
    return [
        device.insist("media", for_s=20, call=call, mic=False, cam=False)
        for device in devices
        for call, view in device.calls.items()
        if "media" in view["me"]["can"]
    ]


async def skew(round: Round) -> None:
    """One server's clock is 25 s ahead. If it says that it is not ready, nobody has to be served there."""
    more = skewed(25)
    if more is None:
        raise Skipped("`faketime` is not installed")
    server = round.stage.servers[round.side]
    await asyncio.to_thread(server.stop)
    server.environment = server.environment | more
    await asyncio.to_thread(server.start)
    await asyncio.sleep(10)
    await round.stage.restart(round.side)


async def full_disk(round: Round) -> None:
    """PostgreSQL cannot write a byte more: first its tables cannot grow, then it cannot begin another file of its log,
    over which it ends itself. It is started again, as a supervisor does, when there is room."""
    stage = round.stage
    if stage.no_small_disk:
        raise Skipped(stage.no_small_disk)
    ballast = await asyncio.to_thread(stage.fill_disk)
    try:
        await asyncio.sleep(6)
        with suppress(psycopg.OperationalError):
            async with await psycopg.AsyncConnection.connect(stage.url, autocommit=True) as connection:
                for _ in range(8):
                    await connection.execute("SELECT txid_current(), pg_switch_wal()")
                    await asyncio.sleep(0.3)
        await asyncio.sleep(2)
    finally:
        ballast.unlink()
        process = stage.postgres.process
        if process is None or process.poll() is not None:
            stage.postgres.process = None
            await asyncio.to_thread(stage.postgres.start)


async def storm(round: Round) -> None:
    """All devices lose their connection at the same moment, with many idle ones among them."""
    crowd = round.crowd
    await crowd.wake_idle()
    end = now() + 60
    while not all(device.welcomed.is_set() for device in crowd.awake) and now() < end:  # noqa: ASYNC110 - many events
        await asyncio.sleep(0.1)
    for device in crowd.awake:
        device.drop()
    await asyncio.sleep(0.1)
    round.healed()


FAULTS = [
    Fault("nothing", 1, 0, nothing),
    Fault("a server is killed", 3, 1, kill_server),
    Fault("a server is stopped under load", 2, 0, stop_server),
    Fault("a backend of PostgreSQL is killed", 5, 2, kill_backend),
    Fault("PostgreSQL is frozen for 15 s", 1, 0, freeze_postgres(15)),
    Fault("PostgreSQL is frozen for longer than a leg may be silent", 1, 1, freeze_postgres(50, 14)),
    Fault("PostgreSQL restarts", 2, 0, restart_postgres),
    Fault("Redis restarts", 2, 0, restart_redis),
    Fault("PostgreSQL is half-open for one server", 2, 1, half_open_postgres),
    Fault("Redis is half-open for one server", 2, 0, half_open_redis),
    Fault("PostgreSQL resets and refuses one server", 1, 0, refused_postgres),
    Fault("PostgreSQL is slow", 1, 0, slow_postgres),
    Fault("a row of an account is held", 1, 0,
          held_row("SELECT 1 FROM auth_user WHERE id = %s FOR UPDATE", someone, everybody_calls)),
    Fault("a row of a joined leg is held", 1, 0,
          held_row("SELECT 1 FROM calls_leg WHERE user_id = %s AND state = 'joined' FOR UPDATE", talkers,
                   something_changes)),
    Fault("a row of a line is held", 1, 0,
          held_row("SELECT 1 FROM devices_line WHERE user_id = %s FOR UPDATE", someone, everybody_calls)),
    Fault("the clock of one server is 25 s ahead", 2, 0, skew),
    Fault("PostgreSQL's disk is full", 1, 0, full_disk),
    Fault("all devices come back at once", 2, 0, storm),
]  # fmt: skip
