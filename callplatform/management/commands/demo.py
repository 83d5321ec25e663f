"""`manage.py demo`: people to try the product with."""

import os
import secrets
from pathlib import Path
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand, CommandError
from django.db import transaction

from devices.models import Line

PEOPLE = ("alice", "bob", "carol", "dave")
OPERATOR = "operator"


class Command(BaseCommand):
    help = (
        "Makes the users alice, bob, carol and dave and an operator, bob with multi-device on. "
        "DEMO_PASSWORD is everybody's password; without it each gets one of their own. Refused where other users exist."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        users = get_user_model()._default_manager
        strangers = users.exclude(username__in=[*PEOPLE, OPERATOR]).count()
        if strangers:
            raise CommandError(f"There are {strangers} other users here: the demo is for an empty platform.")
        wanted = os.environ.get("DEMO_PASSWORD")
        if not wanted and users.filter(username=OPERATOR).exists():
            self.stdout.write(f"The demo users exist already; their sign-ins are in {self._file()}.")
            return
        kept = self._kept()  # another database of this checkout may have the same people: one file is true for both
        sign_ins = {name: wanted or kept.get(name) or secrets.token_urlsafe(9) for name in (*PEOPLE, OPERATOR)}
        with transaction.atomic():
            for name, password in sign_ins.items():
                user, _ = users.get_or_create(username=name, defaults={"first_name": name.capitalize()})
                user.is_staff = user.is_superuser = name == OPERATOR
                user.set_password(password)
                user.save()
                Line.objects.get_or_create(user=user, defaults={"multi_device": name == "bob"})
        text = "".join(f"{name:10} {password}\n" for name, password in sign_ins.items())
        self._keep(text)
        self.stdout.write(f"Sign in as one of these (kept in {self._file()}):\n\n{text}")

    def _file(self) -> Path:
        return Path(settings.VAR_DIR) / "demo-sign-ins.txt"

    def _kept(self) -> dict[str, str]:
        if not self._file().exists():
            return {}
        return dict(line.split(maxsplit=1) for line in self._file().read_text().splitlines())

    def _keep(self, text: str) -> None:
        """For the owner's eyes only."""
        self._file().parent.mkdir(parents=True, exist_ok=True)
        with open(self._file(), "w", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            file.write(text)
