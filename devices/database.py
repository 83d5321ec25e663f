"""Connections to PostgreSQL on which no wait is without an end.

Django and psycopg wait for an answer for as long as the connection seems to exist. After a failover, or behind a proxy
that acknowledges what it no longer forwards, that is for ever: PostgreSQL's own timeouts are on the other side.
"""

import math
import time
from collections.abc import Generator
from typing import Any

import psycopg
from django.db import connections

ANSWER_S = 35.0  # for any message: PostgreSQL itself ends a statement after 30 s (statement_timeout in settings.py)
ALIVE_S = 2.0  # for the pool's question whether the connection still works
LOOK_S = 0.5  # how often a wait looks at its deadline


class Connection(psycopg.Connection[Any]):
    """What the pool makes. One that has not answered in time is closed, and the pool's idle ones with it: they are most
    likely dead too, and to ask each of them would take as long again."""

    answer_s = ANSWER_S

    def execute(self, query: Any, *args: Any, **kwargs: Any) -> Any:
        """The pool asks an empty question before it hands out a connection. Nobody else uses this method."""
        patience, self.answer_s = self.answer_s, self.answer_s if query else ALIVE_S
        try:
            return super().execute(query, *args, **kwargs)
        finally:
            self.answer_s = patience

    def wait(self, gen: Any, interval: float = LOOK_S, *args: Any, **kwargs: Any) -> Any:
        """As psycopg's. Raises OperationalError when nothing has come for `answer_s` seconds."""
        return super().wait(self._until_late(gen), interval, *args, **kwargs)

    def _until_late(self, gen: Any) -> Generator[Any, Any, Any]:
        until = time.monotonic() + self.answer_s
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted
                if not ready and time.monotonic() > until:
                    self._give_up()
                wanted = gen.send(ready)
        except StopIteration as done:
            return done.value

    def _give_up(self) -> None:
        self.pgconn.finish()
        pool = getattr(self, "_pool", None)  # psycopg_pool's own mark, which Django uses too
        if pool is not None:
            pool.drain()
        raise psycopg.OperationalError(f"PostgreSQL has not answered within {self.answer_s:g} s")


class _Driver:
    """psycopg as Django uses it, but its connections are ours."""

    connect = Connection.connect

    def __getattr__(self, name: str) -> Any:
        return getattr(psycopg, name)


def outside_the_pool(alias: str) -> Any:
    """A connection of Django's that belongs to no pool and is kept open; no wait on it is without an end."""
    own: Any = connections.create_connection(alias)
    options = {name: value for name, value in own.settings_dict["OPTIONS"].items() if name != "pool"}
    own.settings_dict = own.settings_dict | {"OPTIONS": options, "CONN_MAX_AGE": None}
    if own.vendor == "postgresql":
        own.Database = _Driver()
    return own


def is_pooled(connection: Any) -> bool:
    """Whether a pooler gives every transaction another session of PostgreSQL (PgBouncer in transaction mode): then
    nothing that is set or prepared in one transaction may be counted on, or left behind, in the next. Django's own
    setting for such poolers says so."""
    return bool(connection.settings_dict.get("DISABLE_SERVER_SIDE_CURSORS"))


def allow_long_statements(alias: str) -> None:
    """Lifts the bounds on a statement, PostgreSQL's and ours, from the thread's connection. They are for servers;
    commands that work through whole tables take the time that they need. Not behind a pooler, where the session goes on
    to a server."""
    connection = connections[alias]
    if connection.vendor != "postgresql" or is_pooled(connection):
        return
    with connection.cursor() as cursor:
        cursor.execute("SET statement_timeout = 0")
    link: Any = connection.connection
    link.answer_s = math.inf
