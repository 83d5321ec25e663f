"""Where a process's sockets hand in what they ask, and whatever waits at the same moment is settled together.

One batch of orders at a time is on its way, and it waits for no lock. An order that needs a row which others hold waits
for it alone, in a thread. Whoever needs the same call or person meanwhile waits behind that order, without a thread and
outside the batches. So one held row delays nobody but those who want it, and at low load an order goes straight
through. A batch that fails is tried again order by order. Pings go another way, and delay no order. Devices that arrive
go a third way, a batch at a time like orders.

PostgreSQL is asked from the event loop itself, on a connection for orders, one for pings and one for arrivals: to hand
an order to a thread and its outcome back takes as long as to decide it. SQLite is asked in a thread.

Every wait has an end. A connection that does not answer is closed, and everybody in the batch is told `unavailable`.
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
from django.db import OperationalError, connection
from psycopg_pool import PoolTimeout

from calls import arrivals, conf, metrics, pool, switchboard
from calls.arrivals import Arrived, Visit
from calls.machine import Call, Due, End, Hangup, Refused, leg_of
from calls.switchboard import Beat, CatchUp, Order, Outcome, Perform, Place
from devices import prepared, presence, sessions, times

log = logging.getLogger(__name__)

MAX_BATCH = 64  # orders in one transaction
MAX_VISITS = 32  # arrivals in one transaction; building their answers blocks the event loop for some milliseconds
BREATH_S = 0.005  # the longest pause between two batches of orders, in which they gather
SHARE_S = 0.0005  # of it for each order but one of the last batch: what comes alone waits for nothing
MAX_LEAVING = 256  # devices that leave in one transaction
GATHER_S = 1.0  # the longest that a ping waits for others
THREAD_S = 5.0  # for a thread that may wait for rows
RETRY_MS = 1000  # for what is asked of a process that stops
TURN = 32  # pings answered in one go, while all else waits
MAX_IN_DOUBT = 1000  # calls of which it is not known whether an order was committed; the next ping repairs the others
DEAF_S = 3.0  # a look at the database that takes longer stores no heartbeat; nor does one that failed just now
PAUSE_S = 0.015  # for each ping but one of the last look: so they are gathered from 70 a second on


class NotHeld(Exception):
    """The device is not this socket's any more."""


class Asked(msgspec.Struct, frozen=True):
    """One order or ping, who is told its outcome or what was raised, and the device and socket it was heard from, if
    that is news. `tried` is when it was tried before, if that may have been committed."""

    what: Any  # an Order, a CatchUp, a Visit, or the Beat of a device that leaves
    asker: Callable[[Any], None]
    beat: Beat | None
    waits: bool = True  # for rows that are held, or not found at once
    tried: dt.datetime | None = None

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
        self._begin()
        if self.closing:
            raise _closing()
        outcome = asyncio.get_running_loop().create_future()
        asker = partial(pool.resolve, outcome)
        if isinstance(what, CatchUp):
            self.look(what, beat, asker)
        else:
            self.orders.append(Asked(what, asker, beat, tried=self.in_doubt.pop(what.call, None)))
            self._start()
        return outcome

    async def check(self) -> None:
        """Passes an order that changes nothing through a batch, as all orders go. Raises what the database raised."""
        self._begin()
        outcome = asyncio.get_running_loop().create_future()
        nothing = Perform(uuid.uuid4(), Due())  # there is no such call
        self.orders.append(Asked(nothing, partial(pool.resolve, outcome), None, waits=False))
        self._start()
        await outcome

    def look(self, page: CatchUp, beat: Beat | None, asker: Callable[[Any], None]) -> None:
        """As `ask` does for a page's calls, but without a future: `asker` is called in the event loop with the calls,
        or with what was raised."""
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
        """Starts afresh in another event loop."""
        loop = asyncio.get_running_loop()
        if self.loop is not loop:
            self.close()
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
        """Ends its connections. Does not block."""
        for link in (self.for_orders, self.for_pings, self.for_visits):
            link.close()

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
        """The orders that are next, without those that need what somebody in a thread waits for, and without those that
        may be done already."""
        batch: list[Asked] = []
        most = 1 if self.one_by_one else MAX_BATCH
        while self.orders and len(batch) < most:
            asked = self.orders.popleft()
            self.one_by_one = max(0, self.one_by_one - 1)
            if asked.tried is not None:
                self._wait(asked)
            elif self.waited_for and not self.waited_for.isdisjoint(_needed(asked.what)):
                self.behind.append(asked)
            else:
                batch.append(asked)
        return batch

    async def _settle(self, orders: Sequence[Asked]) -> None:
        began = times.now()
        try:
            outcomes = await self._settled([asked.what for asked in orders], [asked.beat for asked in orders])
        except Exception as error:
            self._failed(orders, error, began)
            return
        for asked, outcome in zip(orders, outcomes, strict=True):
            if outcome is None and asked.waits:
                self._wait(asked)
            else:
                asked.tell(NotHeld() if outcome and not outcome.held else outcome)

    def _failed(self, orders: Sequence[Asked], error: Exception, began: dt.datetime) -> None:
        """When the connection was lost, nobody knows what was committed: each order is tried in a thread, which looks
        for that first. When the database does not answer, everybody is told. Else each order is tried alone, so that
        only the one that is at fault, or has to wait for a row that others hold, hears of it or waits."""
        cause = error.__cause__ or error
        if isinstance(cause, prepared.Lost):
            for asked in orders:
                if asked.waits:
                    self._wait(msgspec.structs.replace(asked, tried=began))
                else:
                    asked.tell(error)
        elif _is_away(error, self.for_orders):
            self.one_by_one = 0
            for asked in orders:
                if isinstance(cause, prepared.NoAnswer):
                    self._doubt(asked, began)
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
        began = asked.tried or times.now()
        result = await self._in_a_thread(partial(switchboard.settle, [asked.what], tried=asked.tried))
        if isinstance(result, Exception):
            if not isinstance(result.__cause__ or result, PoolTimeout):
                self._doubt(asked, began)
        else:
            result = result[0]
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

    async def _settled(self, orders: Sequence[Order], beats: Sequence[Beat | None]) -> list[Outcome | None]:
        if connection.vendor != "postgresql":
            return await pool.run(switchboard.settle, orders, beats, wait=False)
        return await switchboard.settle_in(self.for_orders, orders, beats)

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
            away = _is_away(error, self.for_pings)
            for asked in pings:
                if away:
                    asked.tell(error)
                else:  # the one that is at fault hears of it when it is tried alone
                    self._spawn(self._look_alone(asked))
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
        return await self.for_pings.transact(lambda ask: switchboard.caught_up(ask, pages, beats))

    async def _look_alone(self, asked: Asked) -> None:
        page: CatchUp = asked.what
        asked.tell(await self._in_a_thread(partial(switchboard.calls_of, page.key, page.asked)))

    async def _in_a_thread(self, work: Callable[[], Any]) -> Any:
        """What the work returns or raises; it may wait for rows."""
        patient = self.patient
        try:
            async with asyncio.timeout(THREAD_S):
                await patient.acquire()
        except TimeoutError:
            return OperationalError(f"no thread was free within {THREAD_S:g} s: all wait for rows that others hold")
        try:
            return await pool.run(work)
        except Exception as error:
            return error
        finally:
            patient.release()

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
                outcomes = await arrivals.together(self.for_visits, [asked.what for asked in visits])
            except Exception as error:
                if not self.for_visits.is_open:
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
                held = await self.for_visits.transact(lambda ask: presence.leave_together(ask, sockets))
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
        if not visit.key:
            key = await self._in_a_thread(partial(sessions.user_of, visit.hello.session))
            if key is None or isinstance(key, Exception):
                asked.tell(key or presence.SignedOut())
                return
            visit.join(key)
        asked.tell(await self._in_a_thread(partial(arrivals.alone, visit)))

    def _doubt(self, asked: Asked, since: dt.datetime) -> None:
        """Remembers that an order on this call may have been committed. The next order on the call, as a rule the same
        one sent again, tells everybody how the call stands."""
        if len(self.in_doubt) >= MAX_IN_DOUBT:
            self.in_doubt.clear()
        self.in_doubt[asked.what.call] = since

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)


def _some(waiting: deque[Asked], most: int) -> list[Asked]:
    return [waiting.popleft() for _ in range(min(len(waiting), most))]


def _is_away(error: Exception, link: prepared.Link) -> bool:
    """Whether the database cannot be reached, so that it is no use to try one by one."""
    if isinstance(error.__cause__ or error, PoolTimeout):
        return True
    return connection.vendor == "postgresql" and not link.is_open


def _needed(order: Order) -> set[Any]:
    """The calls, and the people whose lines, the order may have to wait for: calls by id, people by key and by name."""
    wanted = switchboard.wanted_by([order])
    known = None if isinstance(order, Place) else order.known
    needed: set[Any] = {*wanted.calls, *wanted.callees}
    for key in wanted.callers:
        leg = leg_of(known, key) if known else None
        needed |= {("key", key), leg.user} if leg else {("key", key)}
    if isinstance(order, Place):
        needed.add(order.user.get_username())
    return needed


def _needed_alone(order: Order) -> set[Any]:
    """What it needs besides when its call is not found: a hangup is then noted under the lock of its user's line."""
    if isinstance(order, Perform) and isinstance(order.command, Hangup | End):
        return {("key", order.command.by.key)}
    return set()


def _closing() -> Refused:
    """This process stops: nothing was done, and the next server that the device connects to will do it."""
    return Refused("unavailable", retry_ms=RETRY_MS)


desk = Desk()
