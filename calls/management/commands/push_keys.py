"""`manage.py push_keys`: a new key for Web Push, to be put into the settings."""

import secrets
from typing import Any

from django.core.management.base import BaseCommand

from calls.after import push


class Command(BaseCommand):
    help = "Makes a key for waking devices whose page is closed, and prints the settings for it."

    def handle(self, *args: Any, **options: Any) -> None:
        # Any number below the curve's order is a key; the few above it, one in 2**32, are drawn again.
        key = ""
        while not push.is_key(key):
            key = push.encode(secrets.token_bytes(32))
        self.stdout.write(f"PUSH_KEY={key}\nPUSH_CONTACT=mailto:you@example.com")
