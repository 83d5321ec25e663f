"""`manage.py backup FILE`: all that is stored, as it is at one moment, into a new file."""

from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from callplatform import backups


class Command(BaseCommand):
    help = "Writes all that is stored to a new file, while servers go on."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", type=Path)

    def handle(self, *_args: Any, **options: Any) -> None:
        path: Path = options["file"]
        try:
            backups.back_up(path)
        except backups.Refused as refused:
            raise CommandError(str(refused)) from None
        self.stdout.write(f"{path} has {path.stat().st_size / 1e6:,.1f} MB. Keep SECRET_KEY with it.")
