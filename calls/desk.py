"""Where a process's sockets hand in what they ask, and whatever waits at the same moment is settled together.

One batch of orders at a time is on its way, and it waits for no lock. An order that needs a row which others hold waits
for it alone, in a thread. Whoever needs the same call or person meanwhile waits behind that order, without a thread and
outside the batches. So one held row delays nobody but those who want it, and at low load an order goes straight
through. A batch that fails is tried again order by order. Pings go another way, and delay no order.

PostgreSQL is asked from the event loop itself, on a connection for orders and one for pings: to hand an order to a
thread and its outcome back takes as long as to decide it. SQLite is asked in a thread.

Every wait has an end. A connection that does not answer is closed, and everybody in the batch is told `unavailable`.
"""

import asyncio
import logging
import time
import uuid
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import Any, overload

import msgspec
from django.db import OperationalError, connection
from psycopg_pool import PoolTimeout

from calls import conf, metrics, pool, switchboard
from calls.machine import Call, Due, End, Hangup
from calls.switchboard import Beat, CatchUp, Order, Outcome, Perform, Place
from devices import prepared

log = logging.getLogger(__name__)

MAX_BATCH = 64  # orders in one transaction
BREATH_S = 0.005  # the longest pause between two batches of orders, in which they gather
SHARE_S = 0.0005  # of it for each order but one of the last batch: what comes alone waits for nothing
GATHER_S = 1.0  # the longest that a ping waits for others
THREAD_S = 5.0  # for a thread that may wait for rows
TURN = 32  # pings answered in one go, while all else waits
PAUSE_S = 0.015  # for each ping but one of the last look: so they are gathered from 70 a second on


class NotHeld(Exception):
    """The device is not this socket's any more."""


class Asked(msgspec.Struct, frozen=True):
    """One order or ping, who is told its outcome or what was raised, and the device and socket it was heard from, if
    that is news."""

    what: Any  # an Order or a CatchUp
    asker: Callable[[Any], None]
    beat: Beat | None
    waits: bool = True  # for rows that are held, or not found at once

    def tell(self, outcome: Any) -> None:
        """An asker that fails holds up no other."""
        try:
            self.asker(outcome)
        except Exception:
            log.exception("an outcome was not taken")


class Desk:
    """One for each event loop."""

    def __init__(self) -> None:
        self.orders: deque[Asked] = deque()
        self.pings: deque[Asked] = deque()
        self.loop: asyncio.AbstractEventLoop | None = None
        self.tasks: set[asyncio.Task[None]] = set()
        self.working = self.looking = False
        self.for_orders, self.for_pings = prepared.Link(), prepared.Link()
        self.patient = asyncio.Semaphore(max(1, conf.get("DB_THREADS") // 2))  # the other threads wait for no row
        self.waited_for: set[Any] = set()  # calls and people that an order in a thread needs
        self.behind: deque[Asked] = deque()  # orders that need one of them too
        self.one_by_one = 0  # so many orders are next to be tried alone, because their batch failed

    @overload
    def ask(self, what: Order, beat: Beat | None = None) -> "asyncio.Future[Outcome]": ...

    @overload
    def ask(self, what: CatchUp, beat: Beat | None = None) -> "asyncio.Future[list[Call]]": ...

    def ask(self, what: Order | CatchUp, beat: Beat | None = None) -> "asyncio.Future[Any]":
        """The order's outcome, when it is committed, or the calls of a page.

        Raises `NotHeld`, or whatever the database raised; then nothing was done.
        """
        outcome = asyncio.get_running_loop().create_future()
        asker = partial(pool.resolve, outcome)
        if isinstance(what, CatchUp):
            self.look(what, beat, asker)
        else:
            self._begin()
            self.orders.append(Asked(what, asker, beat))
            self._start()
        return outcome

    async def check(self) -> None:
        """Passes an order that changes nothing through a batch, as all orders go. Raises what the database raised."""
        outcome = asyncio.get_running_loop().create_future()
        self._begin()
        nothing = Perform(uuid.uuid4(), Due())  # there is no such call
        self.orders.append(Asked(nothing, partial(pool.resolve, outcome), None, waits=False))
        self._start()
        await outcome

    def look(self, page: CatchUp, beat: Beat | None, asker: Callable[[Any], None]) -> None:
        """The same for a page's calls, without a future: `asker` gets them, or what was raised, in the event loop."""
        self._begin()
        self.pings.append(Asked(page, asker, beat))
        if not self.looking:
            self.looking = True
            self._spawn(self._look())

    def _begin(self) -> None:
        """Starts afresh in another event loop."""
        loop = asyncio.get_running_loop()
        if self.loop is not loop:
            self.close()
            self.__init__()  # type: ignore[misc]
            self.loop = loop

    def close(self) -> None:
        """Ends its connections. Does not block."""
        self.for_orders.close()
        self.for_pings.close()

    def _start(self) -> None:
        if not self.working:
            self.working = True
            self._spawn(self._work())

    async def _work(self) -> None:
        """Settles orders, a batch at a time, until none is left."""
        try:
            while self.orders:
                batch = self._next_batch()
                if batch:
                    await self._settle(batch)
                    await asyncio.sleep(min(BREATH_S, SHARE_S * (len(batch) - 1)))
        finally:
            self.working = False

    def _next_batch(self) -> list[Asked]:
        """The orders that are next, without those that need what somebody in a thread waits for."""
        batch: list[Asked] = []
        most = 1 if self.one_by_one else MAX_BATCH
        while self.orders and len(batch) < most:
            asked = self.orders.popleft()
            self.one_by_one = max(0, self.one_by_one - 1)
            if self.waited_for and not self.waited_for.isdisjoint(_needed(asked.what)):
                self.behind.append(asked)
            else:
                batch.append(asked)
        return batch

    async def _settle(self, orders: Sequence[Asked]) -> None:
        try:
            settled = await self._settled([asked.what for asked in orders], [asked.beat for asked in orders])
        except Exception as error:
            self._failed(orders, error)
            return
        switchboard.tell(*(change.after for change in settled.changes))
        for asked, outcome in zip(orders, settled.outcomes, strict=True):
            if outcome is None and asked.waits:
                self._wait(asked)
            else:
                asked.tell(NotHeld() if outcome and not outcome.held else outcome)

    def _failed(self, orders: Sequence[Asked], error: Exception) -> None:
        """A lost connection fails everybody. Else each order is tried alone, so that only the one that is at fault, or
        has to wait for a row that others hold, hears of it or waits."""
        if _is_away(error, self.for_orders):
            self.one_by_one = 0
            for asked in orders:
                asked.tell(error)
        elif len(orders) > 1:
            self.orders.extendleft(reversed(orders))
            self.one_by_one += len(orders)
        elif orders[0].waits:
            self._wait(orders[0])
        else:
            orders[0].tell(error)

    def _wait(self, asked: Asked) -> None:
        """Settles the order in a thread, where it waits for rows, unless another does so that needs the same."""
        needed = _needed(asked.what) | _needed_alone(asked.what)
        if self.waited_for.isdisjoint(needed):
            self.waited_for |= needed
            self._spawn(self._settle_waiting(asked, needed))
        else:
            self.behind.append(asked)

    async def _settle_waiting(self, asked: Asked, needed: set[Any]) -> None:
        result = await self._in_a_thread(asked)
        self.waited_for -= needed
        asked.tell(result)
        behind, self.behind = self.behind, deque()
        if isinstance(result, pool.AWAY):  # the row is still held, and nobody waits for it longer than one did
            for other in list(behind):
                if not needed.isdisjoint(_needed(other.what)):
                    behind.remove(other)
                    other.tell(result)
        self.orders.extendleft(reversed(behind))
        self._start()

    async def _settled(self, orders: Sequence[Order], beats: Sequence[Beat | None]) -> switchboard.Settled:
        if connection.vendor != "postgresql":
            return await pool.run(switchboard.decide_together, orders, beats)
        return await switchboard.decide_in(self.for_orders, orders, beats)

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
        began = time.perf_counter()
        beats = dict(asked.beat for asked in pings if asked.beat)
        try:
            found, strangers = await self._caught_up([asked.what for asked in pings], beats)
        except Exception as error:
            for asked in pings:
                if _is_away(error, self.for_pings):
                    asked.tell(error)
                else:  # the one that is at fault hears of it when it is tried alone
                    self._spawn(self._look_alone(asked))
            return
        metrics.LOOK_S.observe(time.perf_counter() - began)
        metrics.PINGS.inc(len(pings))
        for number, (asked, calls) in enumerate(zip(pings, found, strict=True), start=1):
            if number % TURN == 0:
                await asyncio.sleep(0)
            asked.tell(NotHeld() if asked.beat and asked.beat.socket in strangers else calls)

    async def _caught_up(self, pages: Sequence[CatchUp], beats: Mapping[str, str]) -> switchboard.CaughtUp:
        if connection.vendor != "postgresql":
            return await pool.run(switchboard.catch_up, pages, beats)
        return await self.for_pings.transact(lambda ask: switchboard.caught_up(ask, pages, beats))

    async def _look_alone(self, asked: Asked) -> None:
        asked.tell(await self._in_a_thread(asked))

    async def _in_a_thread(self, asked: Asked) -> Any:
        """The outcome, or what was raised."""
        patient = self.patient
        try:
            async with asyncio.timeout(THREAD_S):
                await patient.acquire()
        except TimeoutError:
            return OperationalError(f"no thread was free within {THREAD_S:g} s: all wait for rows that others hold")
        try:
            return await pool.run(_settle_alone, asked)
        except Exception as error:
            return error
        finally:
            patient.release()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)


def _is_away(error: Exception, link: prepared.Link) -> bool:
    """Whether the database cannot be asked at all, so that it is of no use to try each one alone."""
    return isinstance(error.__cause__ or error, PoolTimeout) or (connection.vendor == "postgresql" and not link.is_open)


def _needed(order: Order) -> set[Any]:
    """The calls, and the people whose lines, the order may have to wait for: calls by id, people by their names."""
    if isinstance(order, Place):
        return {order.call, *order.to, order.user.get_username(), ("key", order.seat.key)}
    return {order.call, order.leaving.call} if order.leaving else {order.call}


def _needed_alone(order: Order) -> set[Any]:
    """What it needs besides when its call is not found: a hangup is then noted under the lock of its user's line."""
    if isinstance(order, Perform) and isinstance(order.command, Hangup | End):
        return {("key", order.command.by.key)}
    return set()


def _settle_alone(asked: Asked) -> Any:
    if isinstance(asked.what, CatchUp):
        return switchboard.calls_of(asked.what.key, asked.what.asked)
    return switchboard.settle([asked.what])[0]


desk = Desk()
