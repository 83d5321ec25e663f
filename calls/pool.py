"""The threads in which a process's sockets do their database work.

A bounded pool of our own: Channels' default puts all of it on one thread, where one waiting lock stops every socket.
"""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache, partial
from queue import Empty, SimpleQueue
from typing import Any, ParamSpec, TypeVar

from django.db import InterfaceError, OperationalError, close_old_connections, connections
from psycopg_pool import PoolTimeout

from calls import conf

P = ParamSpec("P")
T = TypeVar("T")

KEEP_S = 1.0  # without work; then a lasting connection goes back to Django's pool

LANES = ("orders", "pings")

# The database is away, or too slow to be waited for. Anything else that it raises is a fault of ours.
AWAY = (OperationalError, InterfaceError, PoolTimeout)


@cache
def executor() -> ThreadPoolExecutor:
    """The pool, made when first needed."""
    return ThreadPoolExecutor(conf.get("DB_THREADS"), thread_name_prefix="calls-db")


async def run(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Runs blocking database work in the pool. A cancelled caller does not stop work that has begun."""
    job = partial(_job, work, *args, **kwargs)
    return await asyncio.get_running_loop().run_in_executor(executor(), job)


def _job(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    close_old_connections()
    try:
        return work(*args, **kwargs)
    finally:
        close_old_connections()


class Lasting:
    """One thread that keeps its connection from one job to the next, until it has had nothing to do for a while.

    To take a connection from Django's pool costs as much as a statement: it is asked whether it still lives. Here that
    shows when it is used; whoever runs a job has to be ready to run it again elsewhere.
    """

    def __init__(self, name: str) -> None:
        self.jobs: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self.thread = threading.Thread(target=self._live, name=f"calls-{name}", daemon=True)
        self.thread.start()

    def close(self) -> None:
        """Gives the connection back, when everything given so far is done."""
        closed = threading.Event()
        for job in (connections.close_all, closed.set):
            self.jobs.put(job)
        closed.wait()

    def _live(self) -> None:
        while True:
            try:
                job = self.jobs.get(timeout=KEEP_S)
            except Empty:
                connections.close_all()
                job = self.jobs.get()
            job()


@cache
def lane(name: str) -> Lasting:
    """The thread of this name, made when first needed."""
    return Lasting(name)


async def run_in(name: str, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Runs work that waits for no lock in the thread of this name, one piece after another, on a connection that may
    have gone meanwhile."""
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[T] = loop.create_future()

    def job() -> None:
        result: Any
        try:
            result = work(*args, **kwargs)
        except BaseException as error:
            connections.close_all()
            result = error
        with suppress(RuntimeError):  # the loop has been closed: nobody waits any more
            loop.call_soon_threadsafe(resolve, outcome, result)

    lane(name).jobs.put(job)
    return await outcome


def resolve(outcome: "asyncio.Future[Any]", result: Any) -> None:
    """Tells whoever waits for it; an exception is raised there."""
    if outcome.done():  # whoever asked is gone
        return
    if isinstance(result, BaseException):
        outcome.set_exception(result)
    else:
        outcome.set_result(result)


def close() -> None:
    """Ends all threads, and gives their connections back."""
    executor().shutdown()
    for name in LANES:
        lane(name).close()
