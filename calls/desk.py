"""Where a process's sockets hand in what they ask, and whatever waits at the same moment is settled together.

One batch of orders at a time is on its way, and it never waits for a lock: what others hold, and whatever failed with
its neighbours, is tried again alone, in a thread of its own, of which there are always some left. So one held row
delays nobody but those who want it, and at low load an order goes straight through. Pings go another way, and delay no
order.
"""

import asyncio
from collections import deque
from collections.abc import Coroutine, Sequence
from typing import Any, NamedTuple, overload

from psycopg_pool import PoolTimeout

from calls import conf, pool, switchboard
from calls.machine import Call
from calls.switchboard import Beat, CatchUp, Order, Outcome

MAX_BATCH = 64  # orders in one transaction
BREATH_S = 0.005  # the longest pause between two batches of orders, in which they gather
SHARE_S = 0.0005  # of it for each order but one of the last batch: what comes alone waits for nothing
GATHER_S = 0.25  # the longest that a ping waits for others
PAUSE_S = 0.015  # for each ping but one of the last look: so they are gathered from 70 a second on


class NotHeld(Exception):
    """The device is not this socket's any more."""


class Asked(NamedTuple):
    """One order or ping, where its outcome is awaited, and the device and socket it was heard from, if that is news."""

    what: Any  # an Order or a CatchUp
    outcome: asyncio.Future[Any]
    beat: Beat | None


class Desk:
    """One for each event loop."""

    def __init__(self) -> None:
        self.orders: deque[Asked] = deque()
        self.pings: deque[Asked] = deque()
        self.loop: asyncio.AbstractEventLoop | None = None
        self.tasks: set[asyncio.Task[None]] = set()
        self.working = self.looking = False
        self.patient = asyncio.Semaphore(max(1, conf.get("DB_THREADS") // 2))  # the other threads wait for no lock

    @overload
    def ask(self, what: Order, beat: Beat | None = None) -> "asyncio.Future[Outcome]": ...

    @overload
    def ask(self, what: CatchUp, beat: Beat | None = None) -> "asyncio.Future[list[Call]]": ...

    def ask(self, what: Order | CatchUp, beat: Beat | None = None) -> "asyncio.Future[Any]":
        """The order's outcome, when it is committed, or the calls of a page.

        Raises `NotHeld`, or whatever the database raised; then nothing was done.
        """
        loop = asyncio.get_running_loop()
        if self.loop is not loop:
            self.__init__()  # type: ignore[misc]
            self.loop = loop
        asked = Asked(what, loop.create_future(), beat)
        if isinstance(what, CatchUp):
            self.pings.append(asked)
            if not self.looking:
                self.looking = True
                self._spawn(self._look())
        else:
            self.orders.append(asked)
            if not self.working:
                self.working = True
                self._spawn(self._work())
        return asked.outcome

    async def _work(self) -> None:
        """Settles orders, a batch at a time, until none is left."""
        try:
            while self.orders:
                orders = [self.orders.popleft() for _ in range(min(len(self.orders), MAX_BATCH))]
                await self._settle(orders)
                await asyncio.sleep(min(BREATH_S, SHARE_S * (len(orders) - 1)))
        finally:
            self.working = False

    async def _settle(self, orders: Sequence[Asked]) -> None:
        try:
            settled = await pool.run_in("orders", _settle, orders)
        except Exception as error:
            self._failed(orders, error)
            return
        switchboard.tell(*settled.changed)
        for asked, outcome in zip(orders, settled.outcomes, strict=True):
            if outcome is None:
                self._spawn(self._alone(asked))
            else:
                pool.resolve(asked.outcome, outcome if outcome.held else NotHeld())

    async def _look(self) -> None:
        """Answers pings: a few at once; the more there are, the longer the next ones wait for each other."""
        try:
            while self.pings:
                pings, self.pings = list(self.pings), deque()
                await self._catch_up(pings)
                await asyncio.sleep(min(GATHER_S, PAUSE_S * (len(pings) - 1)))
        finally:
            self.looking = False

    async def _catch_up(self, pings: Sequence[Asked]) -> None:
        try:
            results = await pool.run_in("pings", _catch_up, pings)
        except Exception as error:
            self._failed(pings, error)
            return
        for asked, result in zip(pings, results, strict=True):
            pool.resolve(asked.outcome, result)

    def _failed(self, batch: Sequence[Asked], error: Exception) -> None:
        """Whoever is at fault hears of it when it is tried alone; but nobody is when nothing can be tried."""
        for asked in batch:
            if isinstance(error.__cause__ or error, PoolTimeout):
                pool.resolve(asked.outcome, error)
            else:
                self._spawn(self._alone(asked))

    async def _alone(self, asked: Asked) -> None:
        async with self.patient:
            try:
                result = await pool.run(_settle_alone, asked)
            except Exception as error:
                result = error
        pool.resolve(asked.outcome, result)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)


def _settle(orders: Sequence[Asked]) -> switchboard.Settled:
    return switchboard.decide_together([asked.what for asked in orders], [asked.beat for asked in orders])


def _catch_up(pings: Sequence[Asked]) -> list[Any]:
    beats = dict(asked.beat for asked in pings if asked.beat)
    found, strangers = switchboard.catch_up([asked.what for asked in pings], beats)
    return [
        NotHeld() if asked.beat and asked.beat[1] in strangers else calls
        for asked, calls in zip(pings, found, strict=True)
    ]


def _settle_alone(asked: Asked) -> Any:
    if isinstance(asked.what, CatchUp):
        return switchboard.catch_up([asked.what])[0][0]
    return switchboard.settle([asked.what])[0]


desk = Desk()
