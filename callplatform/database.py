"""Why the database is not there, in a sentence, and what is missing in it. For commands, which must not answer an
operator with a traceback."""

import psycopg
from django.conf import settings
from django.db import OperationalError, connection
from django.db.migrations.executor import MigrationExecutor

from calls.logs import first_line

BOUNDS = ("lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout")


def why_not(error: OperationalError) -> str:
    """Why there is no connection. The pool only says that it got none: one of its own says why."""
    if connection.vendor != "postgresql":
        return f"{first_line(error)}."
    return absence() or "no connection became free in time."


def absence() -> str | None:
    """What the database, or the way to it, says against a new connection; None when it takes one."""
    if connection.vendor != "postgresql":
        try:
            connection.close()
            connection.ensure_connection()
        except OperationalError as refused:
            return f"{first_line(refused)}."
        return None
    try:
        psycopg.connect(**connection.get_connection_params()).close()
    except psycopg.OperationalError as refused:
        why = first_line(refused).rstrip(".") + "."
        if "unsupported startup parameter" in why:
            why += " A pooler before it refuses start-up options: set DATABASE_POOLER=on."
        return why
    return None


def is_behind() -> bool:
    """Whether migrations are missing."""
    executor = MigrationExecutor(connection)
    return bool(executor.migration_plan(executor.loader.graph.leaf_nodes()))


def missing_bounds() -> str:
    """SQL that gives the role what start-up options give to a session, where a pooler refuses those."""
    if connection.vendor != "postgresql" or not settings.DATABASE_POOLER:
        return ""
    with connection.cursor() as cursor:
        cursor.execute("SELECT quote_ident(current_user)")
        (role,) = cursor.fetchone()
        missing = []
        for name in BOUNDS:
            cursor.execute("SELECT current_setting(%s)", [name])
            if cursor.fetchone() == ("0",):
                missing.append(f"ALTER ROLE {role} SET {name} = '{settings.DATABASE_SESSION[name]}';")
    return " ".join(missing)
