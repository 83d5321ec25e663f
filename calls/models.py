"""Calls, their legs, and one entry for each accepted change; and the way between these rows and machine's values."""

import base64
import datetime as dt
import secrets
import uuid
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import msgspec
from django.conf import settings
from django.core.validators import ProhibitNullCharactersValidator
from django.db import connection, models
from django.db.models import F, Q

from calls import conf, hot, machine
from devices import prepared, presence, times
from devices.models import Device, Line

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
    note = models.CharField(max_length=200, blank=True, default="", db_default="")
    due_at = models.DateTimeField(null=True)
    # Calls of many, hold and transfer. The columns have defaults in the database, so that a version of the server that
    # does not know them can go on placing calls while it is being replaced.
    group = models.BooleanField(default=False, db_default=False)
    max_legs = models.PositiveSmallIntegerField(default=9, db_default=9)
    engine = models.BooleanField(default=False, db_default=False)
    end_with_host = models.BooleanField(default=False, db_default=False)
    lonely_since = models.DateTimeField(null=True)
    media = models.CharField(max_length=4, default="p2p", db_default="p2p")
    media_epoch = models.PositiveIntegerField(default=1, db_default=1)

    class Meta:
        indexes = [
            models.Index(fields=["due_at"], name="call_due", condition=~Q(state="ended")),
            # Live calls first, then the newest: one index in the order of the operator's list, instead of one more.
            models.Index(
                models.ExpressionWrapper(Q(state="ended"), models.BooleanField()),
                F("placed_at").desc(),
                name="call_listed",
            ),
            # For the operator's filters, written once, when the call ends, and not at all for what most calls are.
            models.Index(
                F("reason"),
                F("placed_at").desc(),
                name="call_reason",
                condition=Q(state="ended") & ~Q(reason="completed"),
            ),
            models.Index(F("placed_at").desc(), name="call_video", condition=Q(state="ended", kind="video")),
            models.Index(F("placed_at").desc(), name="call_group", condition=Q(group=True)),
            models.Index(fields=["id"], name="call_group_live", condition=Q(group=True) & ~Q(state="ended")),
        ]

    def __str__(self) -> str:
        return f"{self.kind} call {self.id}"


class Leg(models.Model):
    """One user's place in one call. Live legs are what the limits count."""

    # Each index is written with every change of a leg: only those that something looks up by.
    call = models.ForeignKey(Call, models.CASCADE, related_name="legs", db_index=False)  # the constraint below has one
    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, related_name="legs", db_index=False)  # below
    username = models.CharField(max_length=150)  # as they were when the call was placed
    name = models.CharField(max_length=301)
    dir = models.CharField("direction", max_length=3)
    state = models.CharField(max_length=11)
    reason = models.CharField(max_length=14, null=True)  # noqa: DJ001 - as above
    multi = models.BooleanField("multi-device", default=False)
    # A constraint would have all legs looked through for each device that is deleted; Django does it once for many.
    ring_on = models.ForeignKey(
        Device, models.SET_NULL, null=True, related_name="+", db_index=False, db_constraint=False
    )
    ring_until = models.DateTimeField(null=True)
    alerted = models.BooleanField(default=False)
    device = models.ForeignKey(
        Device, models.SET_NULL, null=True, related_name="legs", db_index=False, db_constraint=False
    )
    device_name = models.CharField(max_length=64, blank=True, default="")
    page = models.UUIDField(null=True)
    epoch = models.PositiveIntegerField(default=0)
    online = models.BooleanField(default=True)
    held = models.BooleanField(default=False)
    mic = models.BooleanField(default=True)
    cam = models.BooleanField(default=True)
    data = models.JSONField(null=True)
    spent_until = models.DateTimeField(null=True)
    # Users by their key as text, "" for nobody: who invited this one, and who transferred the call to this one.
    invited_by = models.CharField(max_length=64, blank=True, default="", db_default="")
    transferred_by = models.CharField(max_length=64, blank=True, default="", db_default="")
    joined_at = models.DateTimeField(null=True)
    rung_again = models.JSONField(default=list, db_default=models.Value([], models.JSONField()))  # times in ISO 8601
    removed_v = models.PositiveIntegerField(default=0, db_default=0)
    # Taken out of its owner's history. Nothing of the call itself: the others' history and the operator keep it.
    hidden = models.BooleanField(default=False, db_default=False)

    class Meta:
        ordering = ["id"]
        constraints = [
            models.UniqueConstraint(fields=["call", "user"], name="one_leg_a_user"),
            # The second guard of `in_call`; the first is the fact in machine.Seat.
            models.UniqueConstraint(
                fields=["device"], condition=Q(state="joined", held=False), name="one_open_leg_a_device"
            ),
        ]
        indexes = [
            models.Index(fields=["user"], name="leg_live", condition=LIVE),
            models.Index(fields=["user", "-id"], name="leg_history"),  # a history's page is read in this order
        ]

    def __str__(self) -> str:
        return f"{self.user} ({self.state})"


class Entry(models.Model):
    """One accepted change: the history, the operator's timeline, and (by its constraint) the second guard of a call."""

    call = models.ForeignKey(Call, models.CASCADE, related_name="entries", db_index=False)  # as for legs
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


class Refusal(models.Model):
    """A command that was refused. The call's story shows it; no decision depends on it.

    The call need not exist (an invite over the caller's limit makes none), and the user may be gone.
    """

    call = models.UUIDField(db_index=True)
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.CASCADE, related_name="+", db_constraint=False, db_index=False
    )
    device_name = models.CharField(max_length=64)
    command = models.CharField(max_length=16)  # the name of the machine's command
    code = models.CharField(max_length=20)
    at = models.DateTimeField(db_index=True)
    times = models.PositiveIntegerField(default=1)  # the same again within a second is counted, not written

    class Meta:
        ordering = ["at"]
        indexes = [models.Index(fields=["user", "at"], name="refusal_of_user")]

    def __str__(self) -> str:
        return f"{self.command}: {self.code}"


class SpentInvite(models.Model):
    """An invite's call id that will never be a call of its own: hung up before the invite came, or merged in glare."""

    id = models.UUIDField(primary_key=True)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="+")
    call = models.ForeignKey(Call, models.CASCADE, null=True, related_name="+")  # the call that it became, in glare
    at = models.DateTimeField(db_index=True)

    def __str__(self) -> str:
        return str(self.id)


class Hearing(models.Model):
    """One row: since when, and until when, the devices' heartbeats could be stored without a gap. The clocks of server
    processes write it with every tick; see clock.py."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1)
    since = models.DateTimeField()
    until = models.DateTimeField()

    class Meta:
        verbose_name_plural = "hearing"

    def __str__(self) -> str:
        return f"{self.since} to {self.until}"


class HistorySeen(models.Model):
    """Until when a user has looked at the history, on whichever device: missed calls that ended later are news."""

    user = models.OneToOneField(settings.AUTH_USER_MODEL, models.CASCADE, primary_key=True, related_name="+")
    until = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.user}: {self.until}"


def key_id() -> str:
    """A new key's public part: letters and digits, which need no escape anywhere."""
    return secrets.token_hex(6)


class ApiKey(models.Model):
    """Somebody else's server, and what it may ask. The key itself is stored as a hash only; see calls/api/keys.py.

    Scopes are never changed: what an answer was remembered for holds as long as the key does.
    """

    id = models.CharField(primary_key=True, max_length=16, default=key_id, editable=False)
    name = models.CharField(max_length=80, unique=True, validators=[ProhibitNullCharactersValidator()])
    digest = models.CharField(max_length=64, editable=False)
    scopes = models.JSONField(default=list)
    networks = models.JSONField("allowed networks", default=list, blank=True)  # empty: from anywhere
    made_at = models.DateTimeField("made", auto_now_add=True)
    expires_at = models.DateTimeField("expires", null=True, blank=True)
    revoked_at = models.DateTimeField("revoked", null=True, editable=False)
    used_at = models.DateTimeField("last used", null=True, editable=False)  # to the minute

    class Meta:
        ordering = ["name"]
        verbose_name = "API key"

    def __str__(self) -> str:
        return self.name


class Token(models.Model):
    """What lets an app or page of somebody else be a device of one user, for some hours; see calls/tokens.py.

    Behind it is a session: what ends sign-ins ends tokens too.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)  # the `jti`
    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="+")
    key = models.ForeignKey(ApiKey, models.SET_NULL, null=True, related_name="+")  # that asked for it
    device = models.ForeignKey(Device, models.CASCADE, null=True, related_name="+")  # that it stays with
    session = models.CharField(max_length=40, unique=True)  # the stored key of its session
    origins = models.JSONField(default=list)
    issuer = models.CharField(max_length=200, blank=True, default="")  # of somebody else's JWT; "": ours
    made_at = models.DateTimeField("made")
    expires_at = models.DateTimeField("expires", db_index=True)

    class Meta:
        ordering = ["-made_at"]

    def __str__(self) -> str:
        return f"{self.user} until {self.expires_at:%Y-%m-%d %H:%M}"


class ApiReply(models.Model):
    """The answer to a request that was made with an `Idempotency-Key`. A repeat is answered the same."""

    id = models.CharField(primary_key=True, max_length=64)  # hash of key, method, path and the client's own key
    key = models.ForeignKey(ApiKey, models.CASCADE, related_name="+")
    body = models.CharField(max_length=64)  # hash of what was asked
    status = models.PositiveSmallIntegerField(null=True)  # None: it is still being worked on
    content = models.BinaryField(default=b"")  # sealed with the key that asked, which is not stored
    at = models.DateTimeField(db_index=True)

    class Meta:
        verbose_name_plural = "API replies"

    def __str__(self) -> str:
        return self.id


class Feed(models.Model):
    """One row: how far the entries were read for events, and when somebody last asked for events."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1)
    entry = models.BigIntegerField(default=-1)  # below zero: nobody asks for events
    read_at = models.DateTimeField(null=True)

    def __str__(self) -> str:
        return str(self.entry)


class Event(models.Model):
    """Something that other people's software is told of. Its key rises over all events, and none appears below one that
    can be seen. What is told of a call is made from the call's entries when it is sent."""

    id = models.BigAutoField(primary_key=True)
    type = models.CharField(max_length=20)
    at = models.DateTimeField(db_index=True)
    call = models.UUIDField(null=True)
    v = models.PositiveIntegerField(null=True)
    data = models.JSONField(default=dict)  # beside the call

    class Meta:
        ordering = ["id"]

    def __str__(self) -> str:
        return f"evt_{self.pk} {self.type}"


def webhook_secret() -> str:
    """A new secret, in the form that the libraries of receivers take."""
    return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()


class Webhook(models.Model):
    """Where events are posted to."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    url = models.CharField("URL", max_length=500)
    types = models.JSONField(default=list, blank=True)  # empty: all
    secret = models.CharField(max_length=100, default=webhook_secret, editable=False)
    old_secret = models.CharField(max_length=100, blank=True, default="", editable=False)  # signs beside it for a day
    old_until = models.DateTimeField(null=True, editable=False)
    active = models.BooleanField(default=True)
    off_why = models.CharField(max_length=10, blank=True, default="", editable=False)
    off_since = models.DateTimeField(null=True, editable=False)
    failing_since = models.DateTimeField(null=True, editable=False)  # nothing but failures since then
    position = models.BigIntegerField(default=0, editable=False)  # the last event that was looked at for it
    made_at = models.DateTimeField("made", auto_now_add=True)

    class Meta:
        ordering = ["made_at"]

    def __str__(self) -> str:
        return self.url


class Delivery(models.Model):
    """One event for one endpoint: what became of it, or when it is tried next."""

    webhook = models.ForeignKey(Webhook, models.CASCADE, related_name="deliveries", db_index=False)
    event = models.ForeignKey(Event, models.CASCADE, related_name="+")
    call = models.UUIDField(null=True)
    state = models.CharField(max_length=7, default="waiting")  # waiting, done, failed
    replay = models.BooleanField(default=False)
    tries = models.PositiveSmallIntegerField(default=0)
    next_at = models.DateTimeField()
    at = models.DateTimeField("last tried", null=True)
    status = models.PositiveSmallIntegerField(null=True)  # None: no answer
    answer = models.CharField(max_length=300, blank=True, default="")
    took_ms = models.PositiveIntegerField(null=True)

    class Meta:
        verbose_name_plural = "deliveries"
        ordering = ["-id"]
        indexes = [
            models.Index(
                fields=["replay", "next_at"], name="delivery_due", condition=Q(state="waiting")
            ),  # live ones first
            models.Index(fields=["webhook", "call", "event"], name="delivery_order", condition=Q(state="waiting")),
            models.Index(fields=["webhook", "-id"], name="delivery_listed"),
        ]

    def __str__(self) -> str:
        return f"{self.event_id} to {self.webhook_id}"


# The columns of a call and of its legs, in the order of the fields of machine's values.
_CALL_COLUMNS = (
    "id",
    "v",
    "kind",
    "state",
    "host",
    "placed_at",
    "reason",
    "answered_at",
    "ended_at",
    "ended_by",
    "note",
    "group",
    "max_legs",
    "engine",
    "end_with_host",
    "lonely_since",
    "media",
    "media_epoch",
)
_LEG_COLUMNS = (
    "user", "username", "name", "dir", "state", "reason", "multi", "ring_on", "ring_until", "alerted", "device",
    "device_name", "page", "epoch", "online", "held", "mic", "cam", "data", "spent_until", "invited_by",
    "transferred_by", "joined_at", "rung_again", "removed_v",
)  # fmt: skip
_RUNG_AGAIN = _LEG_COLUMNS.index("rung_again")
_CALL_CHANGES = [
    "v", "state", "reason", "answered_at", "ended_at", "ended_by", "note", "due_at", "host", "group", "max_legs",
    "lonely_since", "media", "media_epoch",
]  # fmt: skip
_LEG_CHANGES = list(_LEG_COLUMNS[4:])


def load(call_id: uuid.UUID) -> machine.Call | None:
    """The call as a value."""
    return next(iter(load_all(Call.objects.filter(pk=call_id))), None)


def lock(call_ids: Collection[uuid.UUID], *, skip_locked: bool = False) -> dict[uuid.UUID, machine.Call]:
    """The calls that exist; their rows, taken in key order, stay locked until the transaction ends."""
    if connection.vendor == "postgresql":
        return {call.id: call for call in hot.lock(call_ids, skip_locked=skip_locked)}
    rows = Call.objects.filter(pk__in=call_ids).order_by("pk")
    return {call.id: call for call in load_all(rows.select_for_update(no_key=True, skip_locked=skip_locked))}


def load_all(rows: "models.QuerySet[Call]") -> list[machine.Call]:
    """The calls as values, in two statements."""
    found = list(rows.values_list(*_CALL_COLUMNS))
    if not found:
        return []
    legs: dict[uuid.UUID, list[machine.Leg]] = {row[0]: [] for row in found}
    for call_id, user, *rest in (
        Leg.objects.filter(call__in=legs).order_by("call", "id").values_list("call", *_LEG_COLUMNS)
    ):
        rest[_RUNG_AGAIN - 1] = tuple(map(dt.datetime.fromisoformat, rest[_RUNG_AGAIN - 1]))
        legs[call_id].append(machine.Leg(str(user), *rest))
    return [
        machine.Call(id, v, kind, state, str(host), placed_at, tuple(legs[id]), *rest)
        for id, v, kind, state, host, placed_at, *rest in found
    ]


def line(key: Any) -> Line | None:
    """Somebody's line, with its group."""
    if connection.vendor == "postgresql":
        return hot.line(key)
    return Line.objects.select_related("group").filter(user=key).first()


def live_groups(key: Any) -> list[uuid.UUID]:
    """The calls of several people that go on and in which this person has a leg, if only a closed one."""
    if connection.vendor == "postgresql":
        return hot.live_groups(key)
    groups = Call.objects.filter(group=True, legs__user=key).exclude(state="ended")
    return list(groups.values_list("id", flat=True))


async def catch_up(
    ask: prepared.Ask, people: Collection[str], asked: Collection[uuid.UUID], beats: Mapping[str, str]
) -> tuple[list[machine.Call], set[str]]:
    """The calls in which these people have live legs, and those asked about in which they have any. The devices of
    `beats` are heard from on these sockets; the sockets whose device is no longer theirs come second."""
    if connection.vendor == "postgresql":
        return await hot.catch_up(ask, people, asked, beats, conf.stays_s())
    strangers = presence.beat(beats, conf.stays_s())
    legs = Leg.objects.filter(LIVE | Q(call__in=asked), user__in=people).order_by()
    return load_all(Call.objects.filter(pk__in=legs.values("call"))), strangers


def due(watch: hot.Watch, silence: hot.Silence) -> hot.Due:
    """The calls whose deadline has passed, and the joined legs whose device has been silent for so long that there is
    something to do; in both, the longest overdue come first."""
    if connection.vendor == "postgresql":
        return hot.due(watch, silence)
    now = times.now()
    since = max(watch.since or now, _hearing(now, watch))
    calls = Call.objects.filter(~Q(state="ended"), due_at__lte=now).order_by("due_at").values_list("id", flat=True)
    silent = []
    quick = now - dt.timedelta(seconds=min(silence))
    if since <= quick:
        legs = Leg.objects.filter(state="joined", device__last_seen_at__lte=quick).order_by("device__last_seen_at")
        columns = ("call", "user", "device", "device__last_seen_at", "online", "call__answered_at")
        for call, user, device, seen, online, answered_at in legs.values_list(*columns):
            gone_s = silence.lost_s if answered_at else silence.caller_s
            heard_at = max(seen, since)
            if (now - heard_at).total_seconds() >= (min(silence.shown_s, gone_s) if online else gone_s):
                silent.append((call, str(user), device, heard_at))
    return now, list(calls[: watch.limit]), silent[: watch.limit]


def _hearing(now: dt.datetime, watch: hot.Watch) -> dt.datetime:
    """Since when heartbeats could be stored without a gap, as far as the marks say."""
    last = Hearing.objects.first()
    without_gap = last is not None and (now - last.until).total_seconds() <= watch.gap_s
    since = last.since if last and without_gap else now
    if watch.marks:
        Hearing.objects.update_or_create(pk=1, defaults={"since": since, "until": now})
    return since


class Change(NamedTuple):
    """What one decision changed."""

    before: machine.Call | None
    after: machine.Call
    command: machine.Command


async def store(ask: prepared.Ask, changes: Sequence[Change], merged: Sequence[SpentInvite], now: dt.datetime) -> None:
    """Writes the changes, in their order, and an entry for each, and commits. Runs under the calls' locks; a new call
    needs none."""
    if not changes:
        if connection.vendor == "postgresql":
            await ask((), commit=True)
        return
    first: dict[uuid.UUID, machine.Call | None] = {}
    last: dict[uuid.UUID, machine.Call] = {}
    for before, after, _ in changes:
        first.setdefault(after.id, before)
        last[after.id] = after
    born = [call for call in last.values() if first[call.id] is None]
    grown = [(before, last[id]) for id, before in first.items() if before is not None]
    # A device has at most one leg that is joined and not held, and the database looks at that row by row. So the rows
    # that give a device free come before those that take it, and new rows come last.
    changed = [
        (after, new)
        for before, after in grown
        for old, new in zip(before.legs, after.legs[: len(before.legs)], strict=True)
        if new != old
    ]
    changed.sort(key=lambda each: each[1].state == "joined" and not each[1].held)
    fresh = [(call, leg) for call in born for leg in call.legs]
    fresh += [(after, leg) for before, after in grown for leg in after.legs[len(before.legs) :]]
    if merged:
        SpentInvite.objects.bulk_create(merged)
    if connection.vendor == "postgresql":
        entries = [(after, command) for _, after, command in changes]
        due_at = partial(machine.due_at, deadlines=conf.deadlines())
        written = hot.Written(born, [after for _, after in grown], changed, fresh, entries)
        await hot.write(ask, written, due_at, now)
        return
    if born:
        Call.objects.bulk_create([_call_row(call) for call in born])
    if grown:  # their rows are there, and ours: the conflict is the update
        Call.objects.bulk_create(
            [_call_row(call) for _, call in grown],
            update_conflicts=True, unique_fields=["id"], update_fields=_CALL_CHANGES,
        )  # fmt: skip
        Leg.objects.bulk_create(
            [_leg_row(*each) for each in changed],
            update_conflicts=True, unique_fields=["call", "user"], update_fields=_LEG_CHANGES,
        )  # fmt: skip
    Leg.objects.bulk_create([_leg_row(*each) for each in fresh])
    Entry.objects.bulk_create(
        Entry(call_id=after.id, v=after.v, at=now, command=msgspec.to_builtins(command))
        for _, after, command in changes
    )


def _call_row(call: machine.Call) -> Call:
    return Call(**hot.call_row(call, machine.due_at(call, conf.deadlines())))


def _leg_row(call: machine.Call, leg: machine.Leg) -> Leg:
    return Leg(**hot.leg_row(call, leg) | {"rung_again": msgspec.to_builtins(leg.rung_again)})


def name_of(user: Any) -> str:
    """How a person is shown to others."""
    return user.get_full_name() or user.get_username().capitalize()
