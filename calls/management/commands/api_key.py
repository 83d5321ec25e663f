"""`manage.py api_key NAME --scope S …`: makes, lists and revokes keys of the HTTP API."""

import argparse
import datetime as dt
from typing import Any

from auditlog.context import set_extra_data
from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone
from django.utils.dateparse import parse_date, parse_datetime

from calls.api import keys
from calls.models import ApiKey


def time(text: str) -> dt.datetime:
    """A date, which is its first moment, or a time."""
    try:
        day = parse_date(text)
        at = parse_datetime(text) if day is None else dt.datetime.combine(day, dt.time())
    except ValueError:  # the 30th of February
        at = None
    if at is None:
        raise argparse.ArgumentTypeError("give a date or a time: 2027-01-31 or 2027-01-31T18:00")
    return at if timezone.is_aware(at) else timezone.make_aware(at)


class Command(BaseCommand):
    help = "Makes a key of the HTTP API and prints it on the last line; or lists keys, or revokes one."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("name", nargs="?")
        parser.add_argument("--scope", action="append", default=[], choices=keys.SCOPES, dest="scopes")
        parser.add_argument("--expires", type=time, metavar="DATE")
        parser.add_argument("--network", action="append", default=[], dest="networks", metavar="192.0.2.0/24")
        parser.add_argument("--list", action="store_true")
        parser.add_argument("--revoke", metavar="NAME")

    def handle(self, *_args: Any, **options: Any) -> None:
        if options["list"]:
            for key in ApiKey.objects.all():
                self.stdout.write(f"{key.name}: {', '.join(key.scopes)}; {_state(key)}")
            return
        with set_extra_data({"additional_data": {"by": "the shell"}}):
            if options["revoke"]:
                self._revoke(options["revoke"])
            elif options["name"]:
                self._make(options)
            else:
                raise CommandError("Give a name for the key, or --list, or --revoke NAME.")

    def _make(self, options: dict[str, Any]) -> None:
        try:
            key, shown = keys.make(options["name"], options["scopes"], options["expires"], options["networks"])
        except ValidationError as error:
            raise CommandError(" ".join(error.messages)) from None
        self.stdout.write(f"The key {key.name} was made. It is shown this once:")
        self.stdout.write(shown)

    def _revoke(self, name: str) -> None:
        key = ApiKey.objects.filter(name=name).first()
        if key is None:
            raise CommandError(f"There is no key {name!r}.")
        self.stdout.write(f"{name} is revoked." if keys.revoke(key) else f"{name} was revoked before.")


def _state(key: ApiKey) -> str:
    if key.revoked_at is not None:
        return "revoked"
    used = f"last used {key.used_at:%Y-%m-%d %H:%M}" if key.used_at else "never used"
    return f"expires {key.expires_at:%Y-%m-%d %H:%M}, {used}" if key.expires_at else used
