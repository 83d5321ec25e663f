"""Prepared statements on Django's PostgreSQL connection, inside whatever transaction it is in, or in one of their own:
several go in one message and come back in one, each with texts for its parameters and one JSON document for an answer.

Django's cursors send each statement by itself, and parse it and convert each value each time. That costs several times
what the statement costs, so the few of the hot path go through psycopg's own binding of libpq instead.
"""

import select
from collections.abc import Collection, Iterable
from functools import cache
from itertools import count
from typing import Any
from weakref import WeakKeyDictionary

from django.contrib.auth import get_user_model
from django.db import connection, models
from psycopg import OperationalError, pq
from psycopg.errors import error_from_result

Statement = tuple[Any, ...]  # SQL, and a text for each of $1, $2 and so on, which it casts where they are no texts

# A plan is made once for all parameters, perhaps while a table is still small, and has to hold when it is not: whatever
# is looked up by key is looked up by index, however few rows there were.
PLANS = ("enable_seqscan", "enable_hashjoin", "enable_mergejoin")
BEGIN: tuple[Statement, ...] = (
    ("BEGIN",),
    ("SELECT " + ", ".join(f"set_config('{name}', 'off', true)" for name in PLANS),),
)
COMMIT: Statement = ("COMMIT",)

_numbers = count(1)
_names: WeakKeyDictionary[Any, dict[str, bytes]] = WeakKeyDictionary()  # of the statements that a connection has


def ask(sql: str, *params: bytes) -> bytes:
    """Runs one statement; see `ask_all`."""
    (answer,) = ask_all([(sql, *params)])
    return answer


def ask_all(statements: Iterable[Statement], *, commit: bool = False) -> list[bytes]:
    """Runs the statements one after the other; returns each one's first value as text, b"" for NULL or no row.

    With `commit` the transaction is committed behind them, in the same message. Raises what Django raises for the same
    fault, of the first statement that fails; those behind it are not run.
    """
    connection.ensure_connection()
    with connection.wrap_database_errors:
        link: Any = connection.connection
        server: pq.abc.PGconn = link.pgconn
        asked = list(statements)
        fresh = server.transaction_status == pq.TransactionStatus.IDLE
        begin, end = BEGIN if fresh else (), (COMMIT,) if commit or link.autocommit else ()
        try:
            answers = _run(link, server, [*begin, *asked, *end])
        finally:
            if link.autocommit and server.transaction_status == pq.TransactionStatus.INERROR:
                server.exec_(b"ROLLBACK")
        return answers[len(begin) : len(begin) + len(asked)]


def _run(link: Any, server: pq.abc.PGconn, asked: list[Statement]) -> list[bytes]:
    names = _names.setdefault(link, {})
    for sql, *_ in asked:
        if sql not in names:
            name = b"hot_%d" % next(_numbers)
            _checked(server, server.prepare(name, sql.encode()))
            names[sql] = name
    server.enter_pipeline_mode()
    try:
        for sql, *params in asked:
            server.send_query_prepared(names[sql], params)
        server.pipeline_sync()
        results = _results(server)
    finally:
        if server.status == pq.ConnStatus.OK:
            server.exit_pipeline_mode()
    return [_first_value(_checked(server, result)) for result in results]


def _results(server: pq.abc.PGconn) -> list[pq.abc.PGresult]:
    """All results up to the sync, waited for without holding the interpreter."""
    socket = select.poll()
    socket.register(server.socket, select.POLLIN | select.POLLOUT)
    while server.flush():  # a document too large for the socket at once
        socket.poll()
        server.consume_input()
    socket.modify(server.socket, select.POLLIN)
    results: list[pq.abc.PGresult] = []
    while True:
        while server.is_busy():
            socket.poll()
            server.consume_input()
        result = server.get_result()  # None behind each statement's
        if result is not None:
            if result.status == pq.ExecStatus.PIPELINE_SYNC:
                return results
            results.append(result)
        elif server.status == pq.ConnStatus.BAD:
            raise OperationalError("the connection was lost")


def _checked(server: pq.abc.PGconn, result: pq.abc.PGresult) -> pq.abc.PGresult:
    if result.status != pq.ExecStatus.FATAL_ERROR:
        return result
    if server.status == pq.ConnStatus.BAD:
        raise OperationalError(result.error_message.decode(errors="replace").strip())
    raise error_from_result(result)


def _first_value(result: pq.abc.PGresult) -> bytes:
    return (result.get_value(0, 0) or b"") if result.ntuples else b""


def array(items: Collection[Any]) -> bytes:
    """A parameter for `$n::type[]`."""
    texts = (str(item).replace("\\", "\\\\").replace('"', '\\"') for item in items)
    return ('{"' + '","'.join(texts) + '"}').encode() if items else b"{}"


def user_key() -> str:
    """The SQL type of the key of users."""
    return str(get_user_model()._meta.pk.rel_db_type(connection))  # type: ignore[attr-defined]


@cache
def columns(model: type[models.Model]) -> str:
    """The model's columns, for a SELECT whose rows `instances` takes."""
    return ", ".join(f'"{field.column}"' for field in model._meta.concrete_fields)


def instances(model: type[models.Model], rows: Iterable[dict[str, Any]]) -> list[Any]:
    """The model's instances from rows of its `columns`, as JSON has them."""
    fields = model._meta.concrete_fields
    names = [field.attname for field in fields]
    return [
        model.from_db(connection.alias, names, [field.to_python(row[field.column]) for field in fields]) for row in rows
    ]
