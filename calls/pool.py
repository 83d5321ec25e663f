"""The threads in which a process's sockets do their database work.

A bounded pool of our own: Channels' default puts all of it on one thread, where one waiting lock stops every socket.
"""

import asyncio
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import Any, ParamSpec, TypeVar

from django.db import DEFAULT_DB_ALIAS, InterfaceError, OperationalError, close_old_connections, connections
from psycopg_pool import PoolTimeout

from calls import conf
from devices.database import outside_the_pool

P = ParamSpec("P")
T = TypeVar("T")

QUEUE_S = 10.0  # for a thread; a client has given up by then

# The database is away, or too slow to be waited for. Anything else that it raises is a fault of ours.
AWAY = (OperationalError, InterfaceError, PoolTimeout)


@cache
def executor() -> ThreadPoolExecutor:
    """The pool, made when first needed."""
    return ThreadPoolExecutor(conf.get("DB_THREADS"), thread_name_prefix="calls-db")


async def run(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Runs blocking database work in the pool. A cancelled caller does not stop work that has begun.

    Raises PoolTimeout when no thread was free for QUEUE_S seconds: while the database is silent, every thread waits for
    it, and what has queued up meanwhile must not be waited for when it is back.
    """
    job = partial(_job, time.monotonic() + QUEUE_S, work, *args, **kwargs)
    return await asyncio.get_running_loop().run_in_executor(executor(), job)


def _job(until: float, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    if time.monotonic() > until:
        raise PoolTimeout(f"no thread was free within {QUEUE_S:g} s")
    close_old_connections()
    try:
        return work(*args, **kwargs)
    finally:
        close_old_connections()


def resolve(outcome: "asyncio.Future[Any]", result: Any) -> None:
    """Tells whoever waits for it; an exception is raised there."""
    if outcome.done():  # whoever asked is gone
        return
    if isinstance(result, BaseException):
        outcome.set_exception(result)
    else:
        outcome.set_result(result)


class Apart:
    """One thread whose database connection is its own, outside of Django's pool: neither the pages nor the sockets can
    keep its work waiting, however many they are."""

    def __init__(self, name: str) -> None:
        self.executor = ThreadPoolExecutor(1, thread_name_prefix=name, initializer=_connect_apart)

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs blocking database work in the thread. A cancelled caller does not stop work that has begun."""
        job = partial(_job, math.inf, work, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self.executor, job)

    def close(self) -> None:
        """Ends the thread and its connection, after the work that has begun. Does not wait for it."""
        self.executor.submit(connections.close_all)
        self.executor.shutdown(wait=False)


def _connect_apart() -> None:
    """Gives this thread a connection that is kept from one job to the next."""
    connections[DEFAULT_DB_ALIAS] = outside_the_pool(DEFAULT_DB_ALIAS)


def close() -> None:
    """Ends all threads, which have given their connections back."""
    executor().shutdown()
