"""Prepared statements on PostgreSQL: several go in one message and come back in one, each with texts for its
parameters and one JSON document for an answer. There are two ways to ask: `ask_all` waits, on Django's connection and
in whatever transaction that is in; a `Link` is a connection of the event loop's own, and no thread waits.

Django's cursors send each statement by itself, and parse it and convert each value each time. That costs several times
what the statement costs, so the few of the hot path are sent through psycopg's binding of libpq instead. psycopg
connects, and waits where a thread waits; why the event loop's connection is not waited for by psycopg too stands in
docs/decisions.md. What asks is written once for both ways, as a coroutine that is given an `Ask`.

No wait is without an end: every message has a deadline, after which the connection is closed.
"""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine, Generator, Iterable
from functools import cache
from itertools import count
from typing import Any, Protocol, TypeVar
from weakref import WeakKeyDictionary

from django.contrib.auth import get_user_model
from django.db import connection, models
from psycopg import AsyncConnection, OperationalError, pq
from psycopg.errors import error_from_result
from psycopg.waiting import Ready, Wait

from devices.database import is_pooled

T = TypeVar("T")

Statement = tuple[Any, ...]  # SQL, and a text for each of $1, $2 and so on, which it casts where they are no texts

OPEN_S = 4.0  # to connect, name resolution included
ANSWER_S = 5.0  # for the answer to a message from the event loop
ANSWER_IN_A_THREAD_S = 15.0  # where two statements of a message may each wait for locks
LOOK_S = 1.0  # how often a waiting connection looks at its deadline

# A plan is made once for all parameters, perhaps while a table is still small, and has to hold when it is not: whatever
# is looked up by key is looked up by index, however few rows there were.
PLANS = {"enable_seqscan": "off", "enable_hashjoin": "off", "enable_mergejoin": "off"}
# A connection that is lost without a word leaves its transaction behind, with its locks: PostgreSQL ends it soon.
IN_THE_LOOP = PLANS | {"lock_timeout": "100ms", "statement_timeout": "4s", "idle_in_transaction_session_timeout": "5s"}
IN_A_THREAD = PLANS | {"statement_timeout": "6s", "idle_in_transaction_session_timeout": "10s"}


def _setting(values: dict[str, str], local: bool) -> Statement:
    """Sets these in the session, or until the transaction ends."""
    return ("SELECT " + ", ".join(f"set_config('{name}', '{value}', {local})" for name, value in values.items()),)


BEGIN: Statement = ("BEGIN",)
BEGIN_IN_THE_LOOP = _setting(IN_THE_LOOP, True)
BEGIN_IN_A_THREAD = _setting(IN_A_THREAD, True)
COMMIT: Statement = ("COMMIT",)
ROLLBACK: Statement = ("ROLLBACK",)

_numbers = count(1)
_names: WeakKeyDictionary[Any, dict[str, bytes]] = WeakKeyDictionary()  # of the statements that a connection has


class Lost(OperationalError):
    """The connection was lost in the middle of the work: nobody knows whether it was committed."""


class NoAnswer(OperationalError):
    """PostgreSQL did not answer in time. Whether it did what it was asked is not known."""


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
        begin = (BEGIN, BEGIN_IN_A_THREAD) if server.transaction_status == pq.TransactionStatus.IDLE else ()
        end = (COMMIT,) if commit or link.autocommit else ()
        try:
            answers = _wait(link, [*begin, *asked, *end])
        finally:
            if link.autocommit and server.transaction_status == pq.TransactionStatus.INERROR:
                _wait(link, [ROLLBACK])
        return answers[len(begin) : len(begin) + len(asked)]


def _wait(link: Any, asked: Iterable[Statement]) -> list[bytes]:
    exchange = _Exchange(link, asked, ANSWER_IN_A_THREAD_S, is_pooled(connection))
    link.wait(exchange.run(), interval=LOOK_S)
    return exchange.answers()


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
    """A connection of the event loop's own, for one transaction at a time. It is opened when it is needed."""

    def __init__(self) -> None:
        self.connection: AsyncConnection[Any] | None = None
        self.errors: Any = None  # turns psycopg's exceptions into Django's
        self.pooled = False
        self.loop: asyncio.AbstractEventLoop | None = None  # that watches it
        self.watched = -1  # a descriptor of its socket which stays ours when libpq closes its own
        self.timer: asyncio.TimerHandle | None = None
        self.exchange: _Exchange | None = None
        self.through: asyncio.Future[None] | None = None

    async def _open(self) -> None:
        self.close()
        self.pooled = is_pooled(connection)
        params: dict[str, Any] = connection.get_connection_params()
        del params["cursor_factory"]  # Django's, for threads
        try:
            async with asyncio.timeout(OPEN_S):
                self.connection = await AsyncConnection.connect(**params, autocommit=True)
                self.loop, self.watched = asyncio.get_running_loop(), os.dup(self._server.socket)
                self.loop.add_reader(self.watched, self._read)
                self.timer = self.loop.call_later(LOOK_S, self._look)
                if not self.pooled:
                    await self._ask([_setting(IN_THE_LOOP, local=False)], commit=True)
        except TimeoutError:
            self.close()
            raise NoAnswer(f"PostgreSQL could not be reached within {OPEN_S:g} s") from None
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Ends the connection, and what it was doing. Does not block. For its event loop, or when that has ended."""
        if self.loop is not None and not self.loop.is_closed():
            self.loop.remove_reader(self.watched)
            self.loop.remove_writer(self.watched)
            if self.timer is not None:
                self.timer.cancel()
        if self.watched >= 0:
            os.close(self.watched)
        if self.connection is not None:
            self.connection.pgconn.finish()
        self.connection = self.loop = self.timer = self.exchange = None
        self.watched = -1

    @property
    def is_open(self) -> bool:
        """Whether there is a connection, as far as is known without asking."""
        return self.connection is not None and self.connection.pgconn.status == pq.ConnStatus.OK

    async def transact(self, work: Callable[[Ask], Awaitable[T]], *, again: bool = True) -> T:
        """What `work` returns, which commits with the last that it asks. When it raises, nothing was done, unless it
        raises Lost or NoAnswer (when PostgreSQL is silent): then nobody knows.

        With `again`, a connection that is lost is opened again, and the work is done once more. So such work must be
        work of which doing it twice has the effect of doing it once.
        """
        self.errors = self.errors or connection.wrap_database_errors  # looking it up takes longer than using it
        with self.errors:
            for last in (False, True) if again else (True,):
                if not self.is_open:
                    await self._open()
                try:
                    return await self._transact(work)
                except OperationalError as error:
                    if self.is_open or isinstance(error, NoAnswer):
                        raise
                    if last:
                        raise Lost(str(error)) from error
            raise AssertionError("the last try has returned or raised")

    async def _transact(self, work: Callable[[Ask], Awaitable[T]]) -> T:
        try:
            result = await work(self._ask)
            if self.is_open and self._server.transaction_status != pq.TransactionStatus.IDLE:
                raise RuntimeError("the work has not committed")
        except BaseException:
            await self._roll_back()
            raise
        return result

    async def _ask(self, statements: Iterable[Statement], *, commit: bool = False) -> list[bytes]:
        if self.connection is None or self.loop is None:
            raise OperationalError("the connection was lost")
        asked = list(statements)
        fresh = self._server.transaction_status == pq.TransactionStatus.IDLE
        begin: tuple[Statement, ...] = ()
        if fresh and self.pooled:
            begin = (BEGIN, BEGIN_IN_THE_LOOP)
        elif fresh and not commit:  # one message is a transaction anyway
            begin = (BEGIN,)
        end = (COMMIT,) if commit and (begin or not fresh) else ()
        self.through = self.loop.create_future()
        exchange = self.exchange = _Exchange(self.connection, [*begin, *asked, *end], ANSWER_S, self.pooled)
        if self._server.flush():  # a document too large for the socket at once
            self.loop.add_writer(self.watched, self._write)
        await self.through
        self.exchange = None
        return exchange.answers()[len(begin) : len(begin) + len(asked)]

    def _read(self) -> None:
        """There is something to read, if only that the connection has ended."""
        try:
            through = self.through
            if self.exchange is None or through is None or through.done():
                self._server.consume_input()
            elif self.exchange.read():
                through.set_result(None)
        except OperationalError as error:
            self._break_off(error)

    def _write(self) -> None:
        try:
            if not self._server.flush() and self.loop is not None:
                self.loop.remove_writer(self.watched)
        except OperationalError as error:
            self._break_off(error)

    def _look(self) -> None:
        """Reads, whether there is anything or not, and sees whether an answer is late.

        uvloop calls the reader of a socket that has failed once and then never again. What came before the failure is
        read then, and the failure itself is not.
        """
        assert self.loop is not None
        self.timer = self.loop.call_later(LOOK_S, self._look)
        self._read()
        through = self.through
        if self.exchange is not None and through is not None and not through.done() and self.exchange.is_late:
            self._break_off(self.exchange.late())

    def _break_off(self, error: OperationalError) -> None:
        through = self.through
        self.close()
        if through is not None and not through.done():
            through.set_exception(error)

    async def _roll_back(self) -> None:
        """Leaves the connection as it was before, or closes it where that cannot be done at once."""
        try:
            if not self.is_open or self._server.pipeline_status != pq.PipelineStatus.OFF:
                self.close()  # it is lost, or an answer is still on its way
            elif self._server.transaction_status != pq.TransactionStatus.IDLE:
                await self._ask([ROLLBACK])
        except BaseException as error:
            self.close()
            if not isinstance(error, Exception):
                raise

    @property
    def _server(self) -> pq.abc.PGconn:
        assert self.connection is not None
        return self.connection.pgconn


class _Exchange:
    """Statements on their way to PostgreSQL, and their results on the way back."""

    def __init__(self, link: Any, asked: Iterable[Statement], answer_s: float, pooled: bool) -> None:
        self.server: pq.abc.PGconn = link.pgconn
        self.answer_s, self.until = answer_s, time.monotonic() + answer_s
        self.names = _names.setdefault(link, {})
        self.fresh: dict[str, bytes] = {}
        self.steps: list[str] = []  # what each result is of: a statement that is prepared, or "" for one that is run
        self.results: list[pq.abc.PGresult] = []
        self.server.enter_pipeline_mode()
        for sql, *params in asked:
            if pooled:  # what was prepared in one transaction is unknown in the next
                self.server.send_query_params(sql.encode(), params)
            else:
                name = self.names.get(sql) or self.fresh.get(sql)
                if name is None:
                    name = self.fresh[sql] = b"hot_%d" % next(_numbers)
                    self.server.send_prepare(name, sql.encode())
                    self.steps.append(sql)
                self.server.send_query_prepared(name, params)
            self.steps.append("")
        self.server.pipeline_sync()

    def run(self) -> Generator[Wait, Ready | int, None]:
        """Sends, and takes what comes until that is all, for `Connection.wait` of psycopg. Raises NoAnswer, and then
        has closed the connection."""
        while self.server.flush():  # a document too large for the socket at once
            if (yield Wait.RW) & Ready.R:
                self.server.consume_input()
            self._end_if_late()
        while True:
            yield Wait.R
            if self.read():
                return
            self._end_if_late()

    def _end_if_late(self) -> None:
        if self.is_late:
            self.server.finish()
            raise self.late()

    @property
    def is_late(self) -> bool:
        return time.monotonic() > self.until

    def late(self) -> NoAnswer:
        return NoAnswer(f"PostgreSQL has not answered within {self.answer_s:g} s")

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
