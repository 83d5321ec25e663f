"""`manage.py doctor`: looks at the site, and says for each thing how it is and what to do."""

from argparse import ArgumentTypeError
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from callplatform import doctor, findings

PATIENCE_S = 20.0  # for the slowest check; they run beside each other


def address(text: str) -> str:
    try:
        return doctor.address_of(text)
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is no address like https://calls.example.com") from None


class Command(BaseCommand):
    help = "Looks at everything that the site needs. Ends with 1 when something is an error."
    requires_system_checks = []  # it says itself what they find

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--address", type=address, help="where people reach the site; else the first public name of ALLOWED_HOSTS"
        )

    def handle(self, *_args: Any, **options: Any) -> None:
        where = options["address"] or doctor.public_address()
        errors = 0
        for finding in findings.found(doctor.all_checks(where), PATIENCE_S):
            style = {"ok": self.style.SUCCESS, "warning": self.style.WARNING, "error": self.style.ERROR}[finding.level]
            self.stdout.write(f"{style(f'{finding.level:8}')} {finding.what:13} {finding.says}")
            errors += finding.level == "error"
        if errors:
            raise CommandError(f"{errors} error{'s' if errors > 1 else ''}.")
