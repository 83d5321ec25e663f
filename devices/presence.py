"""A device arrives, is heard from, and leaves. Whether it is online is computed from a time, never counted.

Imports nothing of calls. Each function is one short transaction on one device's row.
"""

import datetime as dt
import uuid
from collections.abc import Collection, Mapping
from functools import cache
from typing import Any, NamedTuple

import msgspec
from django.conf import settings
from django.contrib.auth import get_user_model
from django.db import connection, transaction
from django.db.models import Count, Q

from devices import prepared, sessions, times
from devices.models import Device, Line

MAX_DEVICES = 100  # signed-in devices of one user; one more signs out the one unheard of for longest
MOST_NEW_AN_HOUR = 100  # devices of one user, unless DEVICES_AN_HOUR says otherwise: each new device is a row
HOUR = dt.timedelta(hours=1)


class NotYours(Exception):
    """No such device of this user."""


class InUse(Exception):
    """Another live page holds the device."""


class SignedOut(Exception):
    """The sign-in has ended; or the device was signed out, and nobody has signed in on it since."""


class Hello(NamedTuple):
    """What a device says when it arrives. `session` is the stored key of its session (sessions.py), `device` None for a
    new one; `take` takes it from another live page."""

    session: str
    device: uuid.UUID | None
    name: str
    kind: str
    page: uuid.UUID
    socket: uuid.UUID
    take: bool
    address: str | None = None


class TooMany(Exception):
    """The user has made as many devices in the last hour as are allowed."""


class Arrival(NamedTuple):
    """A device that has said hello. `replaced` is the socket that held it until now, `crowded_out` a device that was
    signed out to make room: whoever calls has to tell its page and its calls."""

    user: Any
    device: Device
    replaced: uuid.UUID | None = None
    crowded_out: Device | None = None


def arrive(user_key: str, hello: Hello, stays_s: float) -> Arrival:
    """The socket takes the device, for `stays_s` seconds unless it is heard from again.

    A new device, or a known one under a new sign-in, is a login; a reconnect is not. Raises NotYours, InUse, SignedOut,
    TooMany.
    """
    now = times.now()
    until = now + dt.timedelta(seconds=stays_s)
    with transaction.atomic(durable=True):
        known = None
        if hello.device is not None:
            mine = Device.objects.select_for_update(no_key=True).filter(pk=hello.device, user_id=user_key)
            known = mine.first()
            if known is None:
                raise NotYours
        # The device is locked before the session, as a sign-out does it. Who deletes the session from here on finds the
        # device with it.
        claim = sessions.claims([hello.session], lock=True).get(hello.session)
        user = get_user_model()._default_manager.filter(pk=user_key).first()
        if claim is None or user is None or not sessions.stands(user, user.password, claim):
            raise SignedOut
        del user.password  # else its hash would be in memory as long as the socket is open
        if known is None:
            crowded_out = _make_room(user.pk, now, new=True)
            fresh = Device(user_id=user.pk, name=hello.name, kind=hello.kind, session=hello.session, logged_in_at=now)
            take(fresh, hello, now, until)
            fresh.save(force_insert=True)
            return Arrival(user, fresh, crowded_out=crowded_out)
        was_signed_out = known.signed_out_at is not None
        replaced = take(known, hello, now, until)
        # A device that was signed out needs room again. Its row is locked before the line here, and after it elsewhere;
        # but whoever holds the line locks no device that is signed out, so they cannot wait for each other.
        crowded_out = _make_room(user.pk, now, new=False) if was_signed_out else None
        known.save(update_fields=TAKEN)
        return Arrival(user, known, replaced, crowded_out)


# What an arrival changes of a device.
TAKEN = ("page", "socket", "last_seen_at", "online_until", "address", "session", "logged_in_at", "signed_out_at")


def take(device: Device, hello: Hello, now: dt.datetime, until: dt.datetime) -> uuid.UUID | None:
    """Changes the device, which is locked, into one that this socket holds; nothing is written. Returns the socket that
    held it until now. Raises InUse, SignedOut."""
    new_sign_in = device.session != hello.session
    if device.signed_out_at and not new_sign_in:
        raise SignedOut
    replaced = device.socket if device.socket != hello.socket else None  # a hello that failed half-way is said again
    if replaced and device.page != hello.page and device.online_until > now and not hello.take:
        raise InUse
    if new_sign_in:
        device.logged_in_at, device.session, device.signed_out_at = now, hello.session, None
    device.page, device.socket, device.address = hello.page, hello.socket, hello.address
    device.last_seen_at, device.online_until = now, until
    return replaced


class Seen(NamedTuple):
    """What was found of some hellos: the claims of their sessions that stand, and which of these are locked; which of
    their devices there are, and the rows of those that are locked."""

    claims: dict[str, sessions.Claim]
    locked: set[str]
    there: set[uuid.UUID]
    devices: dict[uuid.UUID, Device]


async def look(ask: prepared.Ask, hellos: Collection[Hello]) -> Seen:
    """Locks the sessions and devices of these hellos, as far as nobody else holds them, in PostgreSQL."""
    keys = prepared.array({hello.session for hello in hellos})
    ids = prepared.array({hello.device for hello in hellos if hello.device})
    answers = await ask([(_sessions(True), keys), (_sessions(False), keys), (_devices(), ids), (THERE, ids)])
    locked, found, rows, there = answers
    claims = {
        key: claim
        for key, data in msgspec.json.decode(found or b"[]", type=list[tuple[str, str]])
        if (claim := sessions.claim(data))
    }
    devices = prepared.instances(Device, msgspec.json.decode(rows or b"[]"))
    return Seen(
        claims,
        msgspec.json.decode(locked or b"[]", type=set[str]),
        msgspec.json.decode(there or b"[]", type=set[uuid.UUID]),
        {device.pk: device for device in devices},
    )


async def note(ask: prepared.Ask, devices: Collection[Device]) -> None:
    """Writes what `take` has changed of these devices, and commits, in PostgreSQL."""
    names = [(field.column, field.attname) for field in _taken()]
    rows = [{"id": each.pk, **{column: getattr(each, name) for column, name in names}} for each in devices]
    await ask([(_noting(), msgspec.json.encode(rows))] if rows else [], commit=True)


@cache
def _sessions(lock: bool) -> str:
    """Sessions that have not run out: with `lock` their stored keys, and whoever deletes one of these waits; else pairs
    of stored key and data."""
    table = sessions.SessionStore.get_model_class()._meta.db_table
    return f"""
        SELECT json_agg({"session_key" if lock else "json_build_array(session_key, session_data)"}) FROM (
            SELECT * FROM {table} WHERE session_key = ANY($1::text[]) AND expire_date > now()
            {"FOR KEY SHARE SKIP LOCKED" if lock else ""}
        ) session
    """


@cache
def _devices() -> str:
    return f"""
        SELECT json_agg(device) FROM (
            SELECT {prepared.columns(Device)} FROM devices_device WHERE id = ANY($1::uuid[])
            FOR NO KEY UPDATE SKIP LOCKED
        ) device
    """


THERE = "SELECT json_agg(id) FROM devices_device WHERE id = ANY($1::uuid[])"


@cache
def _taken() -> list[Any]:
    return [field for field in Device._meta.concrete_fields if field.attname in TAKEN]


@cache
def _noting() -> str:
    fields = _taken()
    types = ", ".join(f"{field.column} {field.db_type(connection)}" for field in fields)
    sets = ", ".join(f"{field.column} = given.{field.column}" for field in fields)
    return f"""
        UPDATE devices_device SET {sets} FROM json_to_recordset($1::json) AS given(id uuid, {types})
        WHERE devices_device.id = given.id
    """


def leave(device_id: uuid.UUID, socket: uuid.UUID) -> None:
    """The socket is gone. A newer socket of the device is left alone."""
    mine = Device.objects.filter(pk=device_id, socket=socket)
    mine.update(page=None, socket=None, online_until=times.now())


def sign_out(devices: Collection[uuid.UUID], now: dt.datetime) -> None:
    """The devices are signed out, as far as they were not before. Their pages are not told."""
    signed_in = Device.objects.filter(pk__in=devices, signed_out_at=None)
    signed_in.update(signed_out_at=now, online_until=now, page=None, socket=None, push=None)


async def leave_together(ask: prepared.Ask, sockets: Mapping[str, str]) -> set[str]:
    """As `leave`, for many devices, each with its socket, in PostgreSQL; commits. It waits for nobody: returns the
    devices whose rows others hold."""
    ids, given = prepared.array(sockets), prepared.array(sockets.values())
    _, held = await ask([(LEAVE, ids, given), (HELD, ids, given)], commit=True)
    return msgspec.json.decode(held, type=set[str]) if held else set()


MINE = "FROM devices_device WHERE id = ANY($1::uuid[]) AND socket = ANY($2::uuid[])"
LEAVE = f"""
    WITH free AS (SELECT id {MINE} FOR NO KEY UPDATE SKIP LOCKED)
    UPDATE devices_device SET page = NULL, socket = NULL, online_until = now()
    FROM free WHERE devices_device.id = free.id
"""
HELD = f"SELECT json_agg(id) {MINE}"


def is_signed_in(device_id: uuid.UUID) -> bool:
    """Whether the device is there, and has not been signed out."""
    return Device.objects.filter(pk=device_id, signed_out_at=None).exists()


def beat(sockets: Mapping[str, str], stays_s: float) -> set[str]:
    """These devices were heard from, each on this socket of its own; returns the sockets whose device is no longer
    theirs. Waits for nobody: a row that others hold is passed by, and its next beat will do."""
    if not sockets:
        return set()
    if connection.vendor == "postgresql":
        return strangers(sockets, prepared.ask(*beating(sockets, stays_s)))
    now = times.now()
    until = now + dt.timedelta(seconds=stays_s)
    mine = Device.objects.filter(pk__in=sockets, socket__in=sockets.values(), signed_out_at=None)
    if mine.update(last_seen_at=now, online_until=until) == len(sockets):
        return set()
    return set(sockets.values()) - {str(socket) for socket in mine.values_list("socket", flat=True)}


def beating(sockets: Mapping[str, str], stays_s: float) -> prepared.Statement:
    """The same as a prepared statement, which takes the time from the database; `strangers` reads its answer."""
    return BEAT, prepared.array(sockets), prepared.array(sockets.values()), str(stays_s).encode()


def strangers(sockets: Mapping[str, str], theirs: bytes) -> set[str]:
    """The sockets whose device is no longer theirs."""
    return set(sockets.values()) - msgspec.json.decode(theirs, type=set[str]) if theirs else set()


# What locks asks itself whether the socket still holds the device: a goodbye may have come since the statement began.
# As a rule all were free and are written, and there is nothing to say; else it says which sockets hold their device.
BEAT = """
    WITH free AS (
        SELECT id FROM devices_device
        WHERE id = ANY($1::uuid[]) AND socket = ANY($2::uuid[]) AND signed_out_at IS NULL
        FOR NO KEY UPDATE SKIP LOCKED
    ), heard AS (
        UPDATE devices_device
        SET last_seen_at = clock_timestamp(), online_until = clock_timestamp() + make_interval(secs => $3::float8)
        FROM free WHERE devices_device.id = free.id
        RETURNING 1
    )
    SELECT CASE WHEN (SELECT count(*) FROM heard) < cardinality($1::uuid[]) THEN (
        SELECT coalesce(json_agg(socket), '[]') FROM devices_device
        WHERE id = ANY($1::uuid[]) AND socket = ANY($2::uuid[]) AND signed_out_at IS NULL
    ) END
"""


def _make_room(user_id: Any, now: dt.datetime, *, new: bool) -> Device | None:
    """Makes room for one more signed-in device: returns the device that was signed out for it, if any.

    Runs under the lock of the user's line: else those that come at once would each find the same room.
    """
    Line.make([user_id])
    Line.lock([user_id])
    theirs = Device.objects.filter(user_id=user_id)
    signed_in = Q(signed_out_at=None)
    lately = Q(logged_in_at__gt=now - HOUR)
    found = theirs.aggregate(signed_in=Count("pk", filter=signed_in), logins=Count("pk", filter=lately))
    if new and found["logins"] >= getattr(settings, "DEVICES_AN_HOUR", MOST_NEW_AN_HOUR):
        raise TooMany
    longest = theirs.filter(signed_in).order_by("online_until").first() if found["signed_in"] >= MAX_DEVICES else None
    if longest is not None:
        sign_out([longest.pk], now)
    return longest
