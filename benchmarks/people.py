"""`python -m benchmarks people FILE`: users with signed-in sessions, in the database that DATABASE_URL names.

Callers are a0, a1, …, callees b0, b1, … (with multi-device on), i0, i1, … are there to be idle. FILE becomes a JSON
object from the user's name to the Cookie header of a sign-in: what a load generator needs to open sockets.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

CALLEES = "b"


def make(counts: dict[str, int], file: Path) -> None:
    """Makes `counts[letter]` users for each letter, those that exist already excepted, and a new sign-in for each."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "callplatform.settings")
    import django

    django.setup()
    from django.conf import settings
    from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
    from django.contrib.auth.models import User
    from django.contrib.sessions.models import Session
    from django.utils import timezone

    from devices.models import Line
    from devices.sessions import SessionStore, stored_key

    names = [f"{letter}{number}" for letter, count in counts.items() for number in range(count)]
    User.objects.bulk_create([User(username=name, password="!") for name in names], ignore_conflicts=True)
    users = list(User.objects.filter(username__in=names).order_by("id"))
    lines = [Line(user=user, multi_device=user.username.startswith(CALLEES)) for user in users]
    Line.objects.bulk_create(lines, ignore_conflicts=True)
    store = SessionStore()
    expires = timezone.now() + timezone.timedelta(seconds=settings.SESSION_COOKIE_AGE)
    sessions, cookies = [], {}
    for user in users:
        key = store._get_new_session_key()
        signed_in = {
            SESSION_KEY: str(user.pk),
            BACKEND_SESSION_KEY: settings.AUTHENTICATION_BACKENDS[-1],
            HASH_SESSION_KEY: user.get_session_auth_hash(),
        }
        sessions.append(Session(session_key=stored_key(key), session_data=store.encode(signed_in), expire_date=expires))
        cookies[user.username] = f"{settings.SESSION_COOKIE_NAME}={key}"
    Session.objects.bulk_create(sessions, batch_size=1000)
    with open(file, "w", opener=lambda path, flags: os.open(path, flags, 0o600)) as out:
        json.dump(cookies, out)
