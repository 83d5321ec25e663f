"""`manage.py serve`: the product, on the ASGI server of callplatform/server.py; refused where it would fail later."""

import fcntl
from argparse import ArgumentTypeError
from contextlib import nullcontext
from io import StringIO
from pathlib import Path
from typing import IO, Any

import segno
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import OperationalError, connection

from callplatform import authority, database, static


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

        parser.add_argument(
            "--https", action="store_true", help="with a certificate of this machine's own authority, for its network"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        self._refuse_old_database()
        self._refuse_missing_files()
        from callplatform.asgi import application, stop
        from callplatform.server import serve
        from calls import conf
        from calls.consumers import MAX_DEBT
        from calls.hub import hub

        certificate = self._certificate(options["port"]) if options["https"] else None
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
                certificate=certificate,
            )

    def _certificate(self, port: int) -> tuple[str, str]:
        """The files for HTTPS. Says where phones go, as text and as a picture that they read."""
        if not settings.HTTPS:
            raise CommandError("HTTPS is off: set HTTPS=on, or use `make run LAN=1`.")
        addresses = authority.addresses()
        chain, key, root = authority.certificate(Path(settings.VAR_DIR) / "lan", addresses, authority.names())
        if port:
            for address in addresses:
                self.stdout.write(f"\nOn this network: https://{address}:{port}/\n")
                picture = StringIO()
                segno.make(f"https://{address}:{port}/").terminal(out=picture, compact=True)
                self.stdout.write(picture.getvalue())
        self.stdout.write(f"Devices warn of the certificate until they trust {root}: docs/operating.md says how.")
        return str(chain), str(key)

    def _refuse_old_database(self) -> None:
        try:
            missing, bounds = database.is_behind(), database.missing_bounds()
        except OperationalError as error:
            raise CommandError(f"The database cannot be reached: {database.why_not(error)}") from None
        finally:
            connection.close()
        if missing:
            raise CommandError("The database is not up to date. Run: manage.py migrate")
        if bounds:
            raise CommandError(f"Behind a pooler, the role has to have bounds. Run in PostgreSQL itself: {bounds}")

    def _refuse_missing_files(self) -> None:
        """Outside debug every page names its static files by their hash: without the collected files it fails."""
        missing = static.missing()
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
