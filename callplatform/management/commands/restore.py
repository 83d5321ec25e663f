"""`manage.py restore FILE`: puts back what a backup has, all of it or nothing."""

from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import connection

from callplatform import backups, database


class Command(BaseCommand):
    help = "Puts what a backup has into the database, which has to be empty. Stop the servers first."
    requires_system_checks = []  # some would read tables that are not there yet

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", type=Path)
        parser.add_argument("--replace", action="store_true", help="lose what the database has now")

    def handle(self, *_args: Any, **options: Any) -> None:
        try:
            backups.restore(options["file"], replace=options["replace"])
        except backups.Refused as refused:
            raise CommandError(f"Nothing was changed. {refused}") from None
        self.stdout.write("It is restored. Calls that were live in it end by their deadlines.")
        try:
            if database.is_behind():
                self.stdout.write("It is of an older version. Run: manage.py migrate")
        finally:
            connection.close()
