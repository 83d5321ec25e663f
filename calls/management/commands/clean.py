"""`manage.py clean`: forgets what is older than the site keeps it. Meant to run once a day."""

import datetime as dt
from typing import Any

from auditlog.models import LogEntry
from axes.models import AccessAttempt
from django.contrib.admin.models import LogEntry as PanelEntry
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DEFAULT_DB_ALIAS
from django.utils import timezone

from calls import conf
from calls.models import Call, Entry, Leg, Refusal, SpentInvite
from devices.database import allow_long_statements
from devices.models import Device

MAX_DAYS = 36_500
BATCH = 1000  # calls forgotten in one go, so that no lock is held for long


class Command(BaseCommand):
    """Ended calls with all that belongs to them, refusals, changes, signed-out devices, ended sessions, wrong tries."""

    help = "Deletes what is older than KEEP_DAYS, and sessions that have ended."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--days", type=int, help="instead of KEEP_DAYS")
        parser.add_argument("--dry-run", action="store_true", help="only say how much it would be")

    def handle(self, *_args: Any, **options: Any) -> None:
        days = options["days"] if options["days"] is not None else conf.get("KEEP_DAYS")
        if not 0 <= days <= MAX_DAYS:
            raise CommandError(f"--days must be 0 or more, and {MAX_DAYS} at most.")
        allow_long_statements(DEFAULT_DB_ALIAS)
        if options["days"] is None and not days:
            self.stdout.write("KEEP_DAYS is 0: everything is kept. Ended sessions are deleted.")
        else:
            self._forget(timezone.now() - dt.timedelta(days=days), options["dry_run"])
        if not options["dry_run"]:
            call_command("clearsessions")

    def _forget(self, before: dt.datetime, dry_run: bool) -> None:
        old_calls = Call.objects.filter(state="ended", placed_at__lt=before, ended_at__lt=before)
        rest = {
            "refusals": Refusal.objects.filter(at__lt=before),
            "changes": LogEntry.objects.filter(timestamp__lt=before),
            "entries of the panel's log": PanelEntry.objects.filter(action_time__lt=before),
            "signed-out devices": Device.objects.filter(signed_out_at__lt=before),
            "wrong tries": AccessAttempt.objects.filter(attempt_time__lt=before),
        }
        verb = "would be deleted" if dry_run else "deleted"
        number = old_calls.count() if dry_run else self._forget_calls(old_calls)
        self.stdout.write(f"calls: {number} {verb}")
        for name, rows in rest.items():
            number = rows.count() if dry_run else rows.delete()[0]
            self.stdout.write(f"{name}: {number} {verb}")

    def _forget_calls(self, old: Any) -> int:
        number = 0
        while ids := list(old.order_by().values_list("pk", flat=True)[:BATCH]):
            for rows in (Entry, Leg, SpentInvite):
                rows.objects.filter(call__in=ids).delete()
            Refusal.objects.filter(call__in=ids).delete()
            Call.objects.filter(pk__in=ids).delete()
            number += len(ids)
        return number
