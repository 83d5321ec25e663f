"""`manage.py serve`: the product, served by the hardened daphne of callplatform/server.py."""

import fcntl
from pathlib import Path
from typing import IO, Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import connection
from django.db.migrations.executor import MigrationExecutor


class Command(BaseCommand):
    help = "Serves HTTP and the calls' sockets until stopped. HOST and PORT are taken from the environment if not given."
    requires_system_checks = "__all__"

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--host", default=settings.HOST)
        parser.add_argument("--port", type=int, default=settings.PORT, help="0: any free port")
        parser.add_argument("--fd", type=int, help="an inherited socket that listens already")

    def handle(self, *args: Any, **options: Any) -> None:
        executor = MigrationExecutor(connection)
        if executor.migration_plan(executor.loader.graph.leaf_nodes()):
            raise CommandError("The database is not up to date. Run: manage.py migrate")
        connection.close()
        from callplatform.asgi import application
        from callplatform.server import serve
        from calls.hub import hub

        with self._alone():
            serve(
                application,
                options["host"],
                options["port"],
                fd=options["fd"],
                on_start=hub.start,
                on_stop=hub.stop,
            )

    def _alone(self) -> IO[str]:
        """Held while this process serves, where a second would neither see the first one's sockets nor be seen."""
        lock = open(Path(settings.VAR_DIR) / "serve.lock", "w")
        if connection.vendor == "sqlite" or not settings.REDIS_URL:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise CommandError(
                    "Another process serves here already. Several need PostgreSQL (DATABASE_URL) and Redis (REDIS_URL)."
                ) from None
        return lock
