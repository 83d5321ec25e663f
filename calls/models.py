"""Calls, their legs, and one entry for each accepted change; and the way between these rows and machine's values."""

import datetime as dt
import uuid
from typing import Any

import msgspec
from django.conf import settings
from django.db import models
from django.db.models import Q

from calls import conf, machine
from devices.models import Device

LIVE = Q(state__in=machine.LIVE)


class Call(models.Model):
    """A call's row: what `load` turns into a value. Its row lock serialises everything that happens to the call."""

    id = models.UUIDField(primary_key=True, editable=False)
    v = models.PositiveIntegerField("version")
    kind = models.CharField(max_length=5)
    state = models.CharField(max_length=7)
    reason = models.CharField(max_length=12, null=True)  # noqa: DJ001 - no reason yet is None, on the wire too
    host = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, related_name="+")
    placed_at = models.DateTimeField()
    answered_at = models.DateTimeField(null=True)
    ended_at = models.DateTimeField(null=True)
    ended_by = models.CharField(max_length=64, blank=True, default="")
    due_at = models.DateTimeField(null=True)

    class Meta:
        indexes = [
            models.Index(fields=["due_at"], name="call_due", condition=~Q(state="ended")),
            models.Index(fields=["-placed_at"], name="call_placed"),
        ]

    def __str__(self) -> str:
        return f"{self.kind} call {self.id}"

    def load(self) -> machine.Call:
        """The row and its legs as one value."""
        legs = tuple(leg.load() for leg in self.legs.all())
        return machine.Call(host=str(self.host_id), legs=legs, **{field: getattr(self, field) for field in _CALL_PLAIN})


class Leg(models.Model):
    """One user's place in one call. Live legs are what the limits count."""

    call = models.ForeignKey(Call, models.CASCADE, related_name="legs")
    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, related_name="legs")
    dir = models.CharField("direction", max_length=3)
    state = models.CharField(max_length=11)
    reason = models.CharField(max_length=14, null=True)  # noqa: DJ001 - as above
    multi = models.BooleanField("multi-device", default=False)
    ring_on = models.ForeignKey(Device, models.SET_NULL, null=True, related_name="+")
    ring_until = models.DateTimeField(null=True)
    alerted = models.BooleanField(default=False)
    device = models.ForeignKey(Device, models.SET_NULL, null=True, related_name="legs")
    device_name = models.CharField(max_length=64, blank=True, default="")
    page = models.UUIDField(null=True)
    epoch = models.PositiveIntegerField(default=0)
    online = models.BooleanField(default=True)
    held = models.BooleanField(default=False)
    mic = models.BooleanField(default=True)
    cam = models.BooleanField(default=True)
    data = models.JSONField(null=True)

    class Meta:
        ordering = ["id"]
        constraints = [
            models.UniqueConstraint(fields=["call", "user"], name="one_leg_a_user"),
            # The second guard of `in_call`; the first is the fact in machine.Seat.
            models.UniqueConstraint(
                fields=["device"], condition=Q(state="joined", held=False), name="one_open_leg_a_device"
            ),
        ]
        indexes = [models.Index(fields=["user"], name="leg_live", condition=LIVE)]

    def __str__(self) -> str:
        return f"{self.user} ({self.state})"

    def load(self) -> machine.Leg:
        """The row as a value."""
        return machine.Leg(
            key=str(self.user_id),
            user=self.user.get_username(),
            name=name_of(self.user),
            ring_on=self.ring_on_id,
            device=self.device_id,
            **{field: getattr(self, field) for field in _LEG_PLAIN},
        )


# The fields that a row and its value name alike.
_CALL_PLAIN = ("id", "v", "kind", "state", "reason", "placed_at", "answered_at", "ended_at", "ended_by")
_LEG_PLAIN = (
    "dir", "state", "reason", "multi", "ring_until", "alerted", "device_name", "page", "epoch", "online", "held",
    "mic", "cam", "data",
)  # fmt: skip


class Entry(models.Model):
    """One accepted change: the history, the operator's timeline, and (by its constraint) the second guard of a call."""

    call = models.ForeignKey(Call, models.CASCADE, related_name="entries")
    v = models.PositiveIntegerField("version")
    at = models.DateTimeField()
    command = models.JSONField()  # the machine's command: decided again in order, the entries give the same rows

    class Meta:
        ordering = ["v"]
        verbose_name_plural = "entries"
        constraints = [models.UniqueConstraint(fields=["call", "v"], name="one_entry_a_version")]

    def __str__(self) -> str:
        return f"{self.v}: {self.command['type']}"

    def decode(self) -> machine.Command:
        """The command as a value."""
        return msgspec.convert(self.command, machine.Command)


class SpentInvite(models.Model):
    """An invite's call id that will never be a call of its own: hung up before the invite came, or merged in glare."""

    id = models.UUIDField(primary_key=True)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="+")
    call = models.ForeignKey(Call, models.CASCADE, null=True, related_name="+")  # the call that it became, in glare
    at = models.DateTimeField(db_index=True)

    def __str__(self) -> str:
        return str(self.id)


def load(call_id: uuid.UUID, *, lock: bool = False, skip_locked: bool = False) -> machine.Call | None:
    """The call as a value; with `lock`, its row stays locked until the transaction ends."""
    rows = Call.objects.filter(pk=call_id)
    if lock:
        rows = rows.select_for_update(no_key=True, skip_locked=skip_locked)
    return next(iter(load_all(rows)), None)


def load_all(rows: "models.QuerySet[Call]") -> list[machine.Call]:
    """The calls as values, in two statements."""
    legs = models.Prefetch("legs", Leg.objects.select_related("user"))
    return [row.load() for row in rows.prefetch_related(legs)]


def store(before: machine.Call | None, after: machine.Call, command: machine.Command, now: dt.datetime) -> None:
    """Writes the change and its entry. Runs under the call's lock (a new call needs none)."""
    row = {
        "v": after.v,
        "state": after.state,
        "reason": after.reason,
        "answered_at": after.answered_at,
        "ended_at": after.ended_at,
        "ended_by": after.ended_by,
        "due_at": machine.due_at(after, conf.deadlines()),
    }
    if before is None:
        Call.objects.create(id=after.id, kind=after.kind, host_id=after.host, placed_at=after.placed_at, **row)
        Leg.objects.bulk_create(Leg(call_id=after.id, user_id=leg.key, **_fields(leg)) for leg in after.legs)
    else:
        Call.objects.filter(pk=after.id).update(**row)
        for old, new in zip(before.legs, after.legs, strict=True):
            if new != old:
                was, fields = _fields(old), _fields(new)
                changed = {field: value for field, value in fields.items() if value != was[field]}
                Leg.objects.filter(call_id=after.id, user_id=new.key).update(**changed)
    Entry.objects.create(call_id=after.id, v=after.v, at=now, command=msgspec.to_builtins(command))


def name_of(user: Any) -> str:
    """How a person is shown to others."""
    return user.get_full_name() or user.get_username().capitalize()


def _fields(leg: machine.Leg) -> dict[str, Any]:
    fields = {field: getattr(leg, field) for field in _LEG_PLAIN}
    return {**fields, "ring_on_id": leg.ring_on, "device_id": leg.device}
