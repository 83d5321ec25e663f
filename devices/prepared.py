"""Prepared statements on PostgreSQL: several go in one message and come back in one, each with texts for its
parameters and one JSON document for an answer. There are two ways to ask: `ask_all` waits, on Django's connection and
in whatever transaction that is in; a `Link` is a connection of the event loop's own, and nobody waits for a thread.

Django's cursors send each statement by itself, and parse it and convert each value each time. That costs several times
what the statement costs, so the few of the hot path go through psycopg's own binding of libpq instead. What asks is
written once for both ways, as a coroutine that is given an `Ask`.
"""

import asyncio
import os
import select
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable
from functools import cache
from itertools import count
from typing import Any, Protocol, TypeVar
from weakref import WeakKeyDictionary

from django.contrib.auth import get_user_model
from django.db import DEFAULT_DB_ALIAS, connection, connections, models
from psycopg import OperationalError, pq
from psycopg.errors import error_from_result

T = TypeVar("T")

Statement = tuple[Any, ...]  # SQL, and a text for each of $1, $2 and so on, which it casts where they are no texts

# A plan is made once for all parameters, perhaps while a table is still small, and has to hold when it is not: whatever
# is looked up by key is looked up by index, however few rows there were.
PLANS = ("enable_seqscan", "enable_hashjoin", "enable_mergejoin")
BEGIN: Statement = ("BEGIN",)
PLAN: Statement = ("SELECT " + ", ".join(f"set_config('{name}', 'off', true)" for name in PLANS),)
COMMIT: Statement = ("COMMIT",)
ROLLBACK: Statement = ("ROLLBACK",)

_numbers = count(1)
_names: WeakKeyDictionary[Any, dict[str, bytes]] = WeakKeyDictionary()  # of the statements that a connection has


class Ask(Protocol):
    """Runs statements one after the other; gives each one's first value as text, b"" for NULL or no row.

    With `commit` the transaction is committed behind them, in the same message. Raises what Django raises for the same
    fault, of the first statement that fails; those behind it are not run.
    """

    def __call__(self, statements: Iterable[Statement], *, commit: bool = False) -> Awaitable[list[bytes]]: ...


def ask(sql: str, *params: bytes) -> bytes:
    """Runs one statement; see `ask_all`."""
    (answer,) = ask_all([(sql, *params)])
    return answer


def ask_all(statements: Iterable[Statement], *, commit: bool = False) -> list[bytes]:
    """`Ask`, and waits, on Django's connection: in its transaction, else in one for these statements."""
    connection.ensure_connection()
    with connection.wrap_database_errors:
        link: Any = connection.connection
        server: pq.abc.PGconn = link.pgconn
        asked = list(statements)
        begin = (BEGIN, PLAN) if server.transaction_status == pq.TransactionStatus.IDLE else ()
        end = (COMMIT,) if commit or link.autocommit else ()
        try:
            answers = _wait(_Exchange(link, [*begin, *asked, *end]))
        finally:
            if link.autocommit and server.transaction_status == pq.TransactionStatus.INERROR:
                server.exec_(b"ROLLBACK")
        return answers[len(begin) : len(begin) + len(asked)]


async def waiting(statements: Iterable[Statement], *, commit: bool = False) -> list[bytes]:
    """`ask_all`, for `run`."""
    return ask_all(statements, commit=commit)


def run(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that asks by `waiting`, and so never has to be waited for."""
    try:
        work.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    raise RuntimeError("it waits for an event loop")


class Link:
    """A connection of the event loop's own, for one transaction at a time. When it breaks, it has to be opened anew."""

    def __init__(self) -> None:
        self.wrapper: Any = None  # Django's, of which only its way to connect is used
        self.watched = -1  # a descriptor of its socket which stays ours when libpq closes its own
        self.loop: asyncio.AbstractEventLoop | None = None  # that watches it
        self.exchange: _Exchange | None = None
        self.through: asyncio.Future[None] | None = None

    def open(self) -> None:
        """Takes a connection from Django's pool. Blocks: for a thread."""
        self.close()
        wrapper: Any = connections.create_connection(DEFAULT_DB_ALIAS)
        wrapper.inc_thread_sharing()
        wrapper.ensure_connection()
        for name in PLANS:
            wrapper.connection.execute(f"SET {name} = off")
        self.wrapper = wrapper

    def close(self) -> None:
        """Gives the connection back, or ends it if it is at anything. Blocks, too; its loop has let go of it."""
        wrapper, self.wrapper = self.wrapper, None
        if wrapper is not None:
            if wrapper.connection.info.transaction_status == pq.TransactionStatus.IDLE:
                for name in PLANS:
                    wrapper.connection.execute(f"RESET {name}")
            else:
                wrapper.connection.close()
            wrapper.close()
        if self.watched >= 0:
            os.close(self.watched)
        self.watched, self.loop, self.exchange = -1, None, None

    @property
    def is_open(self) -> bool:
        return self.wrapper is not None and self._server.status == pq.ConnStatus.OK

    async def transact(self, work: Callable[[Ask], Awaitable[T]]) -> T:
        """What `work` returns, which commits with the last that it asks. When it raises, nothing was done."""
        if self.loop is None:
            self.loop, self.watched = asyncio.get_running_loop(), os.dup(self._server.socket)
            self.loop.add_reader(self.watched, self._read)
        try:
            with self.wrapper.wrap_database_errors:
                result = await work(self._ask)
            if self._server.transaction_status != pq.TransactionStatus.IDLE:
                raise RuntimeError("it has not been committed")
        except BaseException:
            await self._roll_back()
            raise
        return result

    async def _ask(self, statements: Iterable[Statement], *, commit: bool = False) -> list[bytes]:
        assert self.loop is not None
        asked = list(statements)
        fresh = self._server.transaction_status == pq.TransactionStatus.IDLE
        begin = (BEGIN,) if fresh and not commit else ()  # one message is a transaction anyway
        end = (COMMIT,) if commit and not fresh else ()
        self.through = self.loop.create_future()
        self.exchange = exchange = _Exchange(self.wrapper.connection, [*begin, *asked, *end])
        if self._server.flush():  # a document too large for the socket at once
            self.loop.add_writer(self.watched, self._write)
        await self.through
        self.exchange = None
        return exchange.answers()[len(begin) : len(begin) + len(asked)]

    def _read(self) -> None:
        """There is something to read, if only that the connection has ended."""
        try:
            if self.exchange is None:
                self._server.consume_input()
            elif self.exchange.read() and self.through is not None and not self.through.done():
                self.through.set_result(None)
        except OperationalError as error:
            self._break_off(error)

    def _write(self) -> None:
        try:
            if not self._server.flush() and self.loop is not None:
                self.loop.remove_writer(self.watched)
        except OperationalError as error:
            self._break_off(error)

    async def _roll_back(self) -> None:
        try:
            if self.exchange is not None or not self.is_open:
                raise OperationalError("whoever asked is gone, or the connection")
            if self._server.transaction_status != pq.TransactionStatus.IDLE:
                await self._ask([ROLLBACK])
        except BaseException as error:
            self._break_off(error)
            if not isinstance(error, Exception):
                raise

    def _break_off(self, error: BaseException) -> None:
        """Ends the connection, and with it whatever it was at."""
        if self.loop is not None:
            self.loop.remove_reader(self.watched)
            self.loop.remove_writer(self.watched)
            os.close(self.watched)
        self.watched, self.loop, self.exchange = -1, None, None
        self._server.finish()
        if self.through is not None and not self.through.done():
            self.through.set_exception(error)

    @property
    def _server(self) -> pq.abc.PGconn:
        server: pq.abc.PGconn = self.wrapper.connection.pgconn
        return server


class _Exchange:
    """Statements on their way to PostgreSQL, and their results on the way back."""

    def __init__(self, link: Any, asked: Iterable[Statement]) -> None:
        self.server: pq.abc.PGconn = link.pgconn
        self.names = _names.setdefault(link, {})
        self.fresh: dict[str, bytes] = {}
        self.steps: list[str] = []  # what each result is of: a statement that is prepared, or "" for one that is run
        self.results: list[pq.abc.PGresult] = []
        self.server.enter_pipeline_mode()
        for sql, *params in asked:
            name = self.names.get(sql) or self.fresh.get(sql)
            if name is None:
                name = self.fresh[sql] = b"hot_%d" % next(_numbers)
                self.server.send_prepare(name, sql.encode())
                self.steps.append(sql)
            self.server.send_query_prepared(name, params)
            self.steps.append("")
        self.server.pipeline_sync()

    def read(self) -> bool:
        """Takes what has come; whether that was all."""
        self.server.consume_input()
        while not self.server.is_busy():
            result = self.server.get_result()  # None behind each statement's
            if result is not None:
                if result.status == pq.ExecStatus.PIPELINE_SYNC:
                    self.server.exit_pipeline_mode()
                    return True
                self.results.append(result)
            elif self.server.status == pq.ConnStatus.BAD:
                raise OperationalError("the connection was lost")
        return False

    def answers(self) -> list[bytes]:
        """Each statement's first value, when all is read."""
        answers = []
        for sql, result in zip(self.steps, self.results, strict=True):
            if result.status == pq.ExecStatus.FATAL_ERROR:
                if self.server.status == pq.ConnStatus.BAD:
                    raise OperationalError(result.error_message.decode(errors="replace").strip())
                raise error_from_result(result)
            if sql:
                self.names[sql] = self.fresh[sql]
            else:
                answers.append((result.get_value(0, 0) or b"") if result.ntuples else b"")
        return answers


def _wait(exchange: _Exchange) -> list[bytes]:
    """The answers, waited for without holding the interpreter."""
    socket = select.poll()
    socket.register(exchange.server.socket, select.POLLIN | select.POLLOUT)
    while exchange.server.flush():  # a document too large for the socket at once
        socket.poll()
        exchange.server.consume_input()
    socket.modify(exchange.server.socket, select.POLLIN)
    socket.poll()
    while not exchange.read():
        socket.poll()
    return exchange.answers()


def array(items: Collection[Any]) -> bytes:
    """A parameter for `$n::type[]`."""
    if not items:
        return b"{}"
    texts = [str(item) for item in items]
    if any("\\" in text or '"' in text for text in texts):
        texts = [text.replace("\\", "\\\\").replace('"', '\\"') for text in texts]
    return ('{"' + '","'.join(texts) + '"}').encode()


def user_key() -> str:
    """The SQL type of the key of users."""
    return str(get_user_model()._meta.pk.rel_db_type(connection))  # type: ignore[attr-defined]


@cache
def _fields(model: type[models.Model]) -> list[Any]:
    """All but a user's password: instances are kept in memory, and its hash has no business there."""
    return [field for field in model._meta.concrete_fields if field.name != "password"]


def columns(model: type[models.Model]) -> str:
    """The model's columns, for a SELECT whose rows `instances` takes."""
    return ", ".join(f'"{field.column}"' for field in _fields(model))


def instances(model: type[models.Model], rows: Iterable[dict[str, Any]]) -> list[Any]:
    """The model's instances from rows of its `columns`, as JSON has them. What is not among these is deferred."""
    fields = _fields(model)
    names = [field.attname for field in fields]
    return [
        model.from_db(connection.alias, names, [field.to_python(row[field.column]) for field in fields]) for row in rows
    ]
