"""Who can be reached, and where: a line for each user, and the user's devices. Knows nothing of calls."""

import uuid
from collections.abc import Iterable
from typing import Any

from django.conf import settings
from django.db import models
from django.db.models import Q


class Line(models.Model):
    """What a user's devices share. Its row is also the lock under which calls of this user are admitted."""

    user = models.OneToOneField(settings.AUTH_USER_MODEL, models.CASCADE, primary_key=True, related_name="line")
    multi_device = models.BooleanField(
        default=False, help_text="On: every signed-in device rings. Off: only the most recently signed-in one."
    )
    may_switch = models.BooleanField(
        "may switch it", default=False, help_text="Whether the user may switch multi-device on and off."
    )
    max_incoming = models.PositiveSmallIntegerField(
        null=True, blank=True, help_text="Calls at a time. Empty: the platform's default. 0: none."
    )
    max_outgoing = models.PositiveSmallIntegerField(
        null=True, blank=True, help_text="Calls at a time. Empty: the platform's default. 0: none."
    )
    dnd = models.BooleanField(
        "do not disturb", default=False, db_default=False, help_text="On: only the user's favourites ring."
    )
    # Keys of users, as text: read with the row that every call to this user reads anyway.
    favourites = models.JSONField(default=list, db_default=models.Value([], models.JSONField()), editable=False)
    language = models.CharField(
        max_length=10, blank=True, default="", db_default="", editable=False
    )  # "": the browser's

    def __str__(self) -> str:
        return f"Line of {self.user}"

    @classmethod
    def make(cls, user_ids: Iterable[Any]) -> None:
        """Makes the lines that these users do not have yet."""
        Line.objects.bulk_create([Line(user_id=user_id) for user_id in sorted(user_ids)], ignore_conflicts=True)

    @classmethod
    def lock(cls, user_ids: Iterable[Any], *, skip_locked: bool = False) -> dict[Any, "Line"]:
        """The users' lines by user id, locked in key order (everybody locks them so), as far as they exist."""
        rows = cls.objects.filter(user__in=user_ids).order_by("user_id")
        rows = rows.select_for_update(no_key=True, skip_locked=skip_locked)
        return {line.user_id: line for line in rows}


class Device(models.Model):
    """A browser profile or app installation that a user signed in on."""

    class Kind(models.TextChoices):
        WEB = "web", "Web"
        IOS = "ios", "iOS"
        ANDROID = "android", "Android"
        WINDOWS = "windows", "Windows"
        MACOS = "macos", "macOS"
        LINUX = "linux", "Linux"
        OTHER = "other", "Other"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="devices")
    name = models.CharField(max_length=64)
    kind = models.CharField(max_length=8, choices=Kind, default=Kind.WEB)
    session_key = models.CharField(max_length=40, blank=True, editable=False)
    logged_in_at = models.DateTimeField(editable=False)
    last_seen_at = models.DateTimeField(editable=False)
    online_until = models.DateTimeField(editable=False)
    signed_out_at = models.DateTimeField(null=True, blank=True, editable=False)
    # The one live page, and its socket: a late goodbye of an older socket must not clear a newer one's.
    page = models.UUIDField(null=True, editable=False)
    socket = models.UUIDField(null=True, editable=False)
    # Where to push to while the page is closed: {endpoint, keys: {p256dh, auth}}, as the browser gave it.
    push = models.JSONField(null=True, editable=False)

    class Meta:
        indexes = [
            models.Index(fields=["user"], name="device_signed_in", condition=Q(signed_out_at=None)),
            models.Index(fields=["session_key"], name="device_session", condition=Q(signed_out_at=None)),
        ]

    def __str__(self) -> str:
        return self.name
