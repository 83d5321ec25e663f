"""Who can be reached, and where: a line for each user, and the user's devices. Knows nothing of calls."""

import datetime as dt
import uuid
from collections.abc import Iterable
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import MinValueValidator
from django.db import models
from django.db.models import Q

from devices import names, policy


class Rules(models.Model):
    """What a line, or a group of lines, may say about itself. Whatever is empty is left to the next wider one."""

    class Edition(models.TextChoices):
        OFF = "off", "Off"
        UNTIL = "until", "Until a time"
        ALLOWED = "allowed", "Allowed"

    max_incoming = models.PositiveSmallIntegerField(
        "incoming limit", null=True, blank=True, help_text="Calls at a time. Empty: inherited. 0: none."
    )
    max_outgoing = models.PositiveSmallIntegerField(
        "outgoing limit", null=True, blank=True, help_text="Calls at a time. Empty: inherited. 0: none."
    )
    max_legs = models.PositiveSmallIntegerField(
        "people in one call", null=True, blank=True, validators=[MinValueValidator(2)],
        help_text="At a time, in calls that this user hosts. Empty: inherited. 2: no calls of more than two.",
    )  # fmt: skip
    may_transfer = models.BooleanField(
        "may transfer", null=True, blank=True,
        choices=[(None, "Inherited"), (True, "Yes"), (False, "No")],
        help_text="Whether the user may give a call to somebody else, or bring two calls together."
        " The platform allows it.",
    )  # fmt: skip
    edition = models.CharField(
        "multi-device edition",
        max_length=7,
        blank=True,
        default="",
        db_default="",
        choices=Edition,
        help_text="Whether multi-device can be on at all. Empty: inherited, and the platform allows it.",
    )
    edition_until = models.DateTimeField(
        "allowed until", null=True, blank=True, help_text="Only for an edition that is allowed until a time (UTC)."
    )

    class Meta:
        abstract = True

    def clean(self) -> None:
        if self.edition == self.Edition.UNTIL and self.edition_until is None:
            raise ValidationError({"edition_until": "Say until when multi-device is allowed."})
        if self.edition != self.Edition.UNTIL and self.edition_until is not None:
            raise ValidationError({"edition_until": "Only an edition that is allowed until a time has one."})


class LineGroup(Rules):
    """Lines that share rules: what a line does not say itself, its group says."""

    name = models.CharField(max_length=80, unique=True)

    class Meta:
        ordering = ["name"]
        verbose_name = "group of lines"
        verbose_name_plural = "groups of lines"

    def __str__(self) -> str:
        return self.name


class Line(Rules):
    """What a user's devices share. Its row is also the lock under which calls of this user are admitted."""

    user = models.OneToOneField(settings.AUTH_USER_MODEL, models.CASCADE, primary_key=True, related_name="line")
    multi_device = models.BooleanField(
        default=False, help_text="On: every signed-in device rings. Off: only the most recently signed-in one."
    )
    may_switch = models.BooleanField(
        "may switch it", default=False, help_text="Whether the user may switch multi-device on and off."
    )
    dnd = models.BooleanField(
        "do not disturb", default=False, db_default=False, help_text="On: only the user's favourites ring."
    )
    # Keys of users, as text: read with the row that every call to this user reads anyway.
    favourites = models.JSONField(default=list, db_default=models.Value([], models.JSONField()), editable=False)
    language = models.CharField(
        max_length=10, blank=True, default="", db_default="", editable=False
    )  # "": the browser's
    group = models.ForeignKey(LineGroup, models.SET_NULL, null=True, blank=True, related_name="lines")

    class Meta:
        indexes = [
            models.Index(fields=["edition_until"], name="line_edition_until", condition=Q(edition="until")),
        ]

    def __str__(self) -> str:
        return f"Line of {self.user}"

    @classmethod
    def make(cls, user_ids: Iterable[Any]) -> None:
        """Makes the lines that these users do not have yet."""
        Line.objects.bulk_create([Line(user_id=user_id) for user_id in sorted(user_ids)], ignore_conflicts=True)

    @classmethod
    def lock(cls, user_ids: Iterable[Any], *, skip_locked: bool = False) -> dict[Any, "Line"]:
        """The users' lines by user id, locked in key order (everybody locks them so), as far as they exist.

        Their groups are read along, not locked: a rule of a group that changes at this moment holds for the next call.
        """
        rows = cls.objects.filter(user__in=user_ids).order_by("user_id").select_related("group")
        lines: dict[Any, Line] = {
            line.user_id: line for line in rows.select_for_update(no_key=True, skip_locked=skip_locked, of=("self",))
        }
        for line in lines.values():
            if line.group_id is not None and line.group is None:  # moved to it while we waited for the lock
                del line._state.fields_cache["group"]
        return lines

    def rule(self, field: str) -> policy.Rule:
        """What holds for one of the fields of `Rules`, and who said so. None: nobody did."""
        group = None if self.group is None else (getattr(self.group, field), self.group.edition_until)
        return policy.most_specific((getattr(self, field), self.edition_until), group)

    def multi_device_off(self, now: dt.datetime) -> policy.Off | None:
        """Why multi-device cannot be on; None when it can."""
        return policy.why_off(self.rule("edition"), now)

    def transfers(self) -> bool:
        """Whether the user may transfer calls."""
        return self.rule("may_transfer").value is not False

    def rings_all(self, now: dt.datetime) -> bool:
        """Whether every signed-in device rings: switched on, and included."""
        return self.multi_device and self.multi_device_off(now) is None


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
    address = models.GenericIPAddressField(null=True, editable=False)  # where its page last came from
    # The hash of the key of the session that it signed in with, never the key: see sessions.py.
    session = models.CharField(max_length=40, blank=True, editable=False, db_column="session_key")
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
            models.Index(fields=["session"], name="device_session", condition=Q(signed_out_at=None)),
            # For the operator's list. Not last_seen_at: an index on it would be written with every heartbeat.
            models.Index(fields=["-logged_in_at"], name="device_logged_in"),
            models.Index(fields=["-logged_in_at"], name="device_signed_out", condition=Q(signed_out_at__isnull=False)),
        ]

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        self.name = names.clean(self.name)
        if not self.name:
            raise ValidationError({"name": "Give a name that can be seen."})
