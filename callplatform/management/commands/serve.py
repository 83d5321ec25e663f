"""`manage.py serve`: the product, on the ASGI server of callplatform/server.py; refused where it would fail later."""

import fcntl
from argparse import ArgumentTypeError
from contextlib import nullcontext
from pathlib import Path
from typing import IO, Any

import psycopg
from django.conf import settings
from django.contrib.staticfiles.finders import get_finders
from django.contrib.staticfiles.storage import ManifestFilesMixin, staticfiles_storage
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import OperationalError, connection
from django.db.migrations.executor import MigrationExecutor

from calls.logs import first_line

BOUNDS = ("lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout")


def port_number(text: str) -> int:
    if not (text.isdecimal() and int(text) <= 65535):
        raise ArgumentTypeError(f"{text!r} is not a port, a number from 0 to 65535")
    return int(text)


class Command(BaseCommand):
    help = (
        "Serves HTTP and the calls' sockets until stopped. HOST and PORT are taken from the environment if not given."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--host", default=settings.HOST)
        parser.add_argument("--port", type=port_number, default=settings.PORT, help="0: any free port")
        parser.add_argument("--fd", type=int, help="an inherited socket that listens already")

    def handle(self, *args: Any, **options: Any) -> None:
        self._refuse_old_database()
        self._refuse_missing_files()
        from callplatform.asgi import application, stop
        from callplatform.server import serve
        from calls import conf
        from calls.consumers import MAX_DEBT
        from calls.hub import hub

        with self._alone():
            serve(
                application,
                options["host"],
                options["port"],
                fd=options["fd"],
                on_start=hub.start,
                on_stop=stop,
                frame_rate=conf.get("FRAME_RATE"),
                # The consumer refuses and closes a flood of texts, in words; what the server counts comes after that.
                frame_burst=conf.get("FRAME_BURST") + 2 * MAX_DEBT,
            )

    def _refuse_old_database(self) -> None:
        try:
            executor = MigrationExecutor(connection)
            missing = executor.migration_plan(executor.loader.graph.leaf_nodes())
            bounds = self._missing_bounds()
        except OperationalError as error:
            raise CommandError(f"The database cannot be reached: {self._why_not(error)}") from None
        finally:
            connection.close()
        if missing:
            raise CommandError("The database is not up to date. Run: manage.py migrate")
        if bounds:
            raise CommandError(f"Behind a pooler, the role has to have bounds. Run in PostgreSQL itself: {bounds}")

    def _why_not(self, error: OperationalError) -> str:
        """The pool only says that it got no connection: one of its own says why."""
        if connection.vendor != "postgresql":
            return first_line(error)
        try:
            psycopg.connect(**connection.get_connection_params()).close()
        except psycopg.OperationalError as refused:
            why = first_line(refused)
            if "unsupported startup parameter" in why:
                why += " A pooler before it refuses start-up options: set DATABASE_POOLER=on."
            return why
        return "no connection became free in time."

    def _missing_bounds(self) -> str:
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

    def _refuse_missing_files(self) -> None:
        """Outside debug every page names its static files by their hash: without the collected files it fails."""
        if settings.DEBUG or not isinstance(staticfiles_storage, ManifestFilesMixin):
            return
        names = {path for finder in get_finders() for path, _storage in finder.list(None)}
        missing = names - staticfiles_storage.hashed_files.keys()
        if missing:
            raise CommandError(
                f"{len(missing)} static files are not in {settings.STATIC_ROOT}, {min(missing)} for one. "
                "Run: manage.py collectstatic --noinput"
            )

    def _alone(self) -> IO[str] | nullcontext[None]:
        """Held while this process serves, where a second would neither see the first one's sockets nor be seen."""
        if connection.vendor == "sqlite":
            path = Path(f"{connection.settings_dict['NAME']}.lock")
        elif not settings.REDIS_URL:
            path = Path(settings.VAR_DIR) / "serve.lock"
        else:
            return nullcontext()
        path.parent.mkdir(exist_ok=True)
        lock = path.open("a")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise CommandError(
                "Another process serves here already. Several need PostgreSQL (DATABASE_URL) and Redis (REDIS_URL)."
            ) from None
        return lock
