"""Where a process's sockets hand in what they ask, and whatever waits at the same moment is settled together.

One batch of orders at a time is on its way, and it never waits for a lock: what others hold, and whatever failed with
its neighbours, is tried again alone, in a thread of its own, of which there are always some left. So one held row
delays nobody but those who want it, and at low load an order goes straight through. Pings go another way, and delay no
order.

Devices that arrive go a third way, a batch at a time like orders.

PostgreSQL is asked from the event loop itself, on a connection for orders, one for pings and one for arrivals: to hand
an order to a thread and its outcome back takes as long as to decide it. SQLite is asked in a thread.
"""

import asyncio
import datetime as dt
import logging
import time
import uuid
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import Any, overload

import msgspec
from django.db import connection
from psycopg_pool import PoolTimeout

from calls import arrivals, conf, metrics, pool, switchboard
from calls.arrivals import Arrived, Visit
from calls.machine import Call, Refused
from calls.switchboard import Beat, CatchUp, Order, Outcome
from devices import prepared, presence, sessions, times

log = logging.getLogger(__name__)

MAX_BATCH = 64  # orders in one transaction
MAX_VISITS = 32  # arrivals in one transaction; what is made of them holds up all else for some milliseconds
BREATH_S = 0.005  # the longest pause between two batches of orders, in which they gather
SHARE_S = 0.0005  # of it for each order but one of the last batch: what comes alone waits for nothing
MAX_LEAVING = 256  # devices that leave in one transaction
GATHER_S = 1.0  # the longest that a ping waits for others
RETRY_MS = 1000  # for what is asked of a process that stops
TURN = 32  # pings answered in one go, while all else waits
MAX_IN_DOUBT = 1000  # calls of which it is not known whether an order was committed; the next ping repairs the others
DEAF_S = 3.0  # a look at the database that takes longer stores no heartbeat; nor does one that failed just now
PAUSE_S = 0.015  # for each ping but one of the last look: so they are gathered from 70 a second on


class NotHeld(Exception):
    """The device is not this socket's any more."""


class Asked(msgspec.Struct, frozen=True):
    """One order or ping, who is told its outcome or what was raised, and the device and socket it was heard from, if
    that is news."""

    what: Any  # an Order, a CatchUp, a Visit, or the Beat of a device that leaves
    asker: Callable[[Any], None]
    beat: Beat | None

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
        self.visits: deque[Asked] = deque()
        self.leaving: deque[Asked] = deque()
        self.loop: asyncio.AbstractEventLoop | None = None
        self.tasks: set[asyncio.Task[None]] = set()
        self.in_doubt: dict[uuid.UUID, dt.datetime] = {}  # calls, and since when
        self.working = self.looking = self.greeting = self.closing = False
        self.look_began: float | None = None  # by time.monotonic(); None between two looks
        self.look_failed = float("-inf")
        self.for_orders, self.for_pings, self.for_visits = prepared.Link(), prepared.Link(), prepared.Link()
        self.patient = asyncio.Semaphore(max(1, conf.get("DB_THREADS") // 2))  # the other threads wait for no lock

    @overload
    def ask(self, what: Order, beat: Beat | None = None) -> "asyncio.Future[Outcome]": ...

    @overload
    def ask(self, what: CatchUp, beat: Beat | None = None) -> "asyncio.Future[list[Call]]": ...

    def ask(self, what: Order | CatchUp, beat: Beat | None = None) -> "asyncio.Future[Any]":
        """The order's outcome, when it is committed, or the calls of a page.

        Raises `NotHeld`, or whatever the database raised; then nothing was done.
        """
        self._begin()
        if self.closing:
            raise _closing()
        outcome = asyncio.get_running_loop().create_future()
        asker = partial(pool.resolve, outcome)
        if isinstance(what, CatchUp):
            self.look(what, beat, asker)
        else:
            tried = self.in_doubt.pop(what.call, None)
            if tried is not None:
                self._spawn(self._alone(Asked(what, asker, beat), tried))
                return outcome
            self.orders.append(Asked(what, asker, beat))
            if not self.working:
                self.working = True
                self._spawn(self._work())
        return outcome

    def look(self, page: CatchUp, beat: Beat | None, asker: Callable[[Any], None]) -> None:
        """The same for a page's calls, without a future: `asker` gets them, or what was raised, in the event loop."""
        self._begin()
        if self.closing:
            asker(_closing())
            return
        self.pings.append(Asked(page, asker, beat))
        if not self.looking:
            self.looking = True
            self._spawn(self._look())

    def arrive(self, visit: Visit) -> "asyncio.Future[Arrived]":
        """What a device that arrives is welcomed with. Raises NotYours, InUse or SignedOut of devices/presence.py, or
        what the database raised."""
        self._begin()
        if self.closing:
            raise _closing()
        arrived = asyncio.get_running_loop().create_future()
        self.visits.append(Asked(visit, partial(pool.resolve, arrived), None))
        self._open_door()
        return arrived

    def leave(self, beat: Beat) -> "asyncio.Future[None]":
        """The socket of a device is gone. Raises what the database raised."""
        self._begin()
        left = asyncio.get_running_loop().create_future()
        self.leaving.append(Asked(beat, partial(pool.resolve, left), None))
        self._open_door()
        return left

    def _open_door(self) -> None:
        if not self.greeting:
            self.greeting = True
            self._spawn(self._greet())

    def _begin(self) -> None:
        """Starts again in another event loop."""
        loop = asyncio.get_running_loop()
        if self.loop is not loop:
            for link in (self.for_orders, self.for_pings, self.for_visits):
                pool.executor().submit(link.close)
            self.__init__()  # type: ignore[misc]
            self.loop = loop

    @property
    def is_deaf(self) -> bool:
        """Whether the heartbeats of this process's sockets are not being stored."""
        began, now = self.look_began, time.monotonic()
        return (began is not None and now - began > DEAF_S) or now - self.look_failed < DEAF_S

    async def finish(self, within_s: float) -> None:
        """Finishes what it has, as far as the time allows, and refuses what it is asked from now on."""
        self.closing = True
        ends = time.monotonic() + within_s
        while self.tasks and time.monotonic() < ends:
            await asyncio.wait(self.tasks, timeout=ends - time.monotonic())
        if self.tasks:
            log.warning("%d orders or pings were not finished in %.0f s", len(self.tasks), within_s)

    def close(self) -> None:
        """Gives its connections back, when its loop has ended. Blocks."""
        for link in (self.for_orders, self.for_pings, self.for_visits):
            link.close()

    async def _work(self) -> None:
        """Settles orders, a batch at a time, until none is left."""
        try:
            while self.orders:
                orders = _some(self.orders, MAX_BATCH)
                await self._settle(orders)
                await asyncio.sleep(min(BREATH_S, SHARE_S * (len(orders) - 1)))
        finally:
            self.working = False

    async def _settle(self, orders: Sequence[Asked]) -> None:
        began = times.now()
        try:
            outcomes = await self._settled([asked.what for asked in orders], [asked.beat for asked in orders])
        except Exception as error:
            self._failed(orders, error, began)
            return
        for asked, outcome in zip(orders, outcomes, strict=True):
            if outcome is None:
                self._spawn(self._alone(asked))
            else:
                asked.tell(outcome if outcome.held else NotHeld())

    async def _settled(self, orders: Sequence[Order], beats: Sequence[Beat | None]) -> list[Outcome | None]:
        if connection.vendor != "postgresql":
            return await pool.run(switchboard.settle, orders, beats, wait=False)
        return await switchboard.settle_in(await _opened(self.for_orders), orders, beats)

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
        began, self.look_began = time.perf_counter(), time.monotonic()
        beats = dict(asked.beat for asked in pings if asked.beat)
        try:
            found, strangers = await self._caught_up([asked.what for asked in pings], beats)
        except Exception as error:
            self.look_failed = time.monotonic()
            self._failed(pings, error)
            return
        finally:
            self.look_began = None
        took = time.perf_counter() - began
        for number, (asked, calls) in enumerate(zip(pings, found, strict=True), start=1):
            if number % TURN == 0:
                await asyncio.sleep(0)
            asked.tell(NotHeld() if asked.beat and asked.beat.socket in strangers else calls)
        metrics.LOOK_S.observe(took)
        metrics.PINGS.inc(len(pings))

    async def _caught_up(self, pages: Sequence[CatchUp], beats: Mapping[str, str]) -> switchboard.CaughtUp:
        if connection.vendor != "postgresql":
            return await pool.run(switchboard.catch_up, pages, beats)
        link = await _opened(self.for_pings)
        return await link.transact(lambda ask: switchboard.caught_up(ask, pages, beats))

    async def _greet(self) -> None:
        """Lets devices arrive and leave, a batch at a time, until none is waiting."""
        try:
            while self.visits or self.leaving:
                if self.visits:
                    await self._welcome(_some(self.visits, MAX_VISITS))
                if self.leaving:
                    await self._see_off(_some(self.leaving, MAX_LEAVING))
                await asyncio.sleep(0)
        finally:
            self.greeting = False

    async def _welcome(self, visits: Sequence[Asked]) -> None:
        outcomes: Sequence[Arrived | Exception | None] = [None] * len(visits)
        if connection.vendor == "postgresql":
            try:
                outcomes = await arrivals.together(await _opened(self.for_visits), [asked.what for asked in visits])
            except Exception as error:
                if isinstance(error.__cause__ or error, PoolTimeout):
                    outcomes = [error] * len(visits)
        for asked, outcome in zip(visits, outcomes, strict=True):
            if outcome is None:
                self._spawn(self._arrive_alone(asked))
                continue
            if isinstance(outcome, Arrived):
                arrivals.tell(outcome.arrival)
            asked.tell(outcome)

    async def _see_off(self, leaving: Sequence[Asked]) -> None:
        sockets: dict[str, str] = dict(asked.what for asked in leaving)
        held = set(sockets)
        if connection.vendor == "postgresql" and len(sockets) == len(leaving):  # else a device has two that are gone
            try:
                link = await _opened(self.for_visits)
                held = await link.transact(lambda ask: presence.leave_together(ask, sockets))
            except Exception as error:
                log.debug("devices leave one by one: %s", error)
        for asked in leaving:
            if asked.what.device in held:
                self._spawn(self._leave_alone(asked))
            else:
                asked.tell(None)

    async def _leave_alone(self, asked: Asked) -> None:
        try:
            asked.tell(await pool.run(presence.leave, *map(uuid.UUID, asked.what)))
        except Exception as error:
            asked.tell(error)

    async def _arrive_alone(self, asked: Asked) -> None:
        visit: Visit = asked.what
        async with self.patient:
            try:
                if not visit.key:
                    key = await pool.run(sessions.user_of, visit.hello.session)
                    if key is None:
                        raise presence.SignedOut
                    visit.join(key)
                asked.tell(await pool.run(arrivals.alone, visit))
            except Exception as error:
                asked.tell(error)

    def _failed(self, batch: Sequence[Asked], error: Exception, tried: dt.datetime | None = None) -> None:
        """Tries each one alone: then only those at fault are told the error. Nothing is tried when there is no
        connection to be had. `tried` is when a batch of orders was begun: the connection may have been lost after the
        commit, so an order may turn out to be done."""
        for asked in batch:
            if isinstance(error.__cause__ or error, PoolTimeout):
                asked.tell(error)
            else:
                self._spawn(self._alone(asked, tried))

    async def _alone(self, asked: Asked, tried: dt.datetime | None = None) -> None:
        began = tried or times.now()
        async with self.patient:
            try:
                result = await pool.run(_settle_alone, asked, tried)
            except Exception as error:
                result = error
                self._doubt(asked, error, began)
        asked.tell(result)

    def _doubt(self, asked: Asked, error: Exception, since: dt.datetime) -> None:
        """Remembers that an order on this call may have been committed. The next order on the call, as a rule the same
        one sent again, tells everybody how the call stands."""
        if not isinstance(asked.what, CatchUp) and not isinstance(error.__cause__ or error, PoolTimeout):
            if len(self.in_doubt) >= MAX_IN_DOUBT:
                self.in_doubt.clear()
            self.in_doubt[asked.what.call] = since

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)


def _some(waiting: deque[Asked], most: int) -> list[Asked]:
    return [waiting.popleft() for _ in range(min(len(waiting), most))]


async def _opened(link: prepared.Link) -> prepared.Link:
    if not link.is_open:
        await pool.run(link.open)
    return link


def _closing() -> Refused:
    """This process stops: nothing was done, and the next server that the device connects to will do it."""
    return Refused("unavailable", retry_ms=RETRY_MS)


def _settle_alone(asked: Asked, tried: dt.datetime | None) -> Any:
    if isinstance(asked.what, CatchUp):
        return switchboard.calls_of(asked.what.key, asked.what.asked)
    return switchboard.settle([asked.what], tried=tried)[0]


desk = Desk()
