"""Where a process's sockets hand in what they ask, and whatever waits at the same moment is settled together.

One batch at a time is on its way, and it never waits for a lock: what others hold, and whatever failed with its
neighbours, is tried again alone, in a thread of its own, of which there are always some left. So one held row delays
nobody but those who want it, and at low load an order goes straight through.
"""

import asyncio
import uuid
from collections import deque
from collections.abc import Coroutine, Sequence
from typing import Any, NamedTuple, overload

from psycopg_pool import PoolTimeout

from calls import conf, pool, switchboard
from calls.machine import Call
from calls.switchboard import CatchUp, Order, Outcome
from devices import presence

MAX_BATCH = 64  # orders in one transaction


class NotHeld(Exception):
    """The device is not this socket's any more."""


class Asked(NamedTuple):
    """One order or ping, where its outcome is awaited, and the device and socket it was heard from, if that is news."""

    what: Any  # an Order or a CatchUp
    outcome: asyncio.Future[Any]
    beat: tuple[uuid.UUID, uuid.UUID] | None


class Desk:
    """One for each event loop."""

    def __init__(self) -> None:
        self.orders: deque[Asked] = deque()
        self.pings: deque[Asked] = deque()
        self.loop: asyncio.AbstractEventLoop | None = None
        self.tasks: set[asyncio.Task[None]] = set()
        self.busy = False
        self.patient = asyncio.Semaphore(max(1, conf.get("DB_THREADS") // 2))  # the other threads wait for no lock

    @overload
    async def ask(self, what: Order, beat: tuple[uuid.UUID, uuid.UUID] | None = None) -> Outcome: ...

    @overload
    async def ask(self, what: CatchUp, beat: tuple[uuid.UUID, uuid.UUID] | None = None) -> list[Call]: ...

    async def ask(self, what: Order | CatchUp, beat: tuple[uuid.UUID, uuid.UUID] | None = None) -> Any:
        """The order's outcome, when it is committed, or the calls of a page.

        Raises `NotHeld`, or whatever the database raised; then nothing was done.
        """
        loop = asyncio.get_running_loop()
        if self.loop is not loop:
            self.__init__()  # type: ignore[misc]
            self.loop = loop
        asked = Asked(what, loop.create_future(), beat)
        (self.pings if isinstance(what, CatchUp) else self.orders).append(asked)
        self._begin()
        return await asked.outcome

    def _begin(self) -> None:
        if not self.busy:
            self.busy = True
            self._spawn(self._work())

    async def _work(self) -> None:
        try:
            while self.orders or self.pings:
                orders = [self.orders.popleft() for _ in range(min(len(self.orders), MAX_BATCH))]
                pings, self.pings = list(self.pings), deque()
                await self._settle(orders, pings)
        finally:
            self.busy = False

    async def _settle(self, orders: Sequence[Asked], pings: Sequence[Asked]) -> None:
        changed: list[Call] = []
        try:
            results, changed = await pool.run_next(_settle, orders, pings)
        except Exception as error:  # whoever is at fault hears of it when it is tried alone
            no_connection = isinstance(error.__cause__ or error, PoolTimeout)  # but nobody is when nothing can be tried
            results = [error if no_connection else None] * (len(orders) + len(pings))
        for asked, result in zip([*orders, *pings], results, strict=True):
            if result is None:
                self._spawn(self._alone(asked))
            elif not asked.outcome.done():
                _resolve(asked, result)
        switchboard.tell(*changed)  # whoever asked has the news in the reply, which is on its way already

    async def _alone(self, asked: Asked) -> None:
        async with self.patient:
            try:
                result = await pool.run(_settle_alone, asked)
            except Exception as error:
                result = error
        if not asked.outcome.done():
            _resolve(asked, result)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)


def _settle(orders: Sequence[Asked], pings: Sequence[Asked]) -> tuple[list[Any], list[Call]]:
    """A result for each (an outcome, a list of calls, an exception to be raised, or None: to be tried again alone), and
    the calls that changed."""
    results: list[Any] = []
    changed: list[Call] = []
    if orders:
        settled = switchboard.decide_together([asked.what for asked in orders], [asked.beat for asked in orders])
        results += [outcome if outcome is None or outcome.held else NotHeld() for outcome in settled.outcomes]
        changed = settled.changed
    if pings:
        strangers = presence.beat(dict(asked.beat for asked in pings if asked.beat), conf.stays_s())
        found = switchboard.catch_up([asked.what for asked in pings])
        for asked, calls in zip(pings, found, strict=True):
            results.append(NotHeld() if asked.beat and asked.beat[1] in strangers else calls)
    return results, changed


def _settle_alone(asked: Asked) -> Any:
    if isinstance(asked.what, CatchUp):
        return switchboard.catch_up([asked.what])[0]
    return switchboard.settle([asked.what])[0]


def _resolve(asked: Asked, result: Any) -> None:
    if isinstance(result, Exception):
        asked.outcome.set_exception(result)
    else:
        asked.outcome.set_result(result)


desk = Desk()
