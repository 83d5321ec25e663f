"""A database session that holds locks, for tests which force an order upon pages of this process."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import psycopg
from django.db import connection

from tests.pages import WAIT_S


@asynccontextmanager
async def gate() -> AsyncIterator[tuple[Any, Callable[[int], Awaitable[None]]]]:
    """A database session of its own, and a way to wait until so many others wait for it, or for one that does."""
    config = connection.settings_dict
    place = {"host": config["HOST"], "port": config["PORT"], "user": config["USER"], "password": config["PASSWORD"]}
    async with await psycopg.AsyncConnection.connect(**place, dbname=config["NAME"]) as link:

        async def waiters(number: int) -> None:
            async with asyncio.timeout(WAIT_S):
                while True:
                    found = await link.execute(WAITING, [link.info.backend_pid])
                    if (await found.fetchone())[0] >= number:
                        return
                    await asyncio.sleep(0.01)

        yield link, waiters
        await link.rollback()


WAITING = """
    WITH RECURSIVE waiting(pid) AS (
        SELECT %s::int
        UNION
        SELECT pg_locks.pid FROM pg_locks JOIN waiting ON waiting.pid = ANY(pg_blocking_pids(pg_locks.pid))
        WHERE NOT granted
    )
    SELECT count(*) - 1 FROM waiting
"""
