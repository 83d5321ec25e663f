"""A device arrives, is heard from, and leaves. Whether it is online is computed from a time, never counted.

Imports nothing of calls. Each function is one short transaction on one device's row.
"""

import datetime as dt
import uuid
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec
from django.db import connection, transaction
from django.db.models import Count, Q

from devices import prepared, times
from devices.models import Device, Line

MAX_DEVICES = 100  # signed-in devices of one user; one more signs out the one unheard of for longest
MAX_LOGINS = 100  # of one user in an hour, before a new device is refused: each new device is a row
HOUR = dt.timedelta(hours=1)


class NotYours(Exception):
    """No such device of this user."""


class InUse(Exception):
    """Another live page holds the device."""


class SignedOut(Exception):
    """The device was signed out, and nobody has signed in on it since."""


class TooMany(Exception):
    """The user has made as many devices in the last hour as are allowed."""


class Arrival(NamedTuple):
    """A device that has said hello. `replaced` is the socket that held it until now, `crowded_out` a device that was
    signed out to make room: whoever calls has to tell its page and its calls."""

    device: Device
    replaced: uuid.UUID | None = None
    crowded_out: Device | None = None


def arrive(
    user_id: Any,
    session_key: str,
    *,
    device_id: uuid.UUID | None,
    name: str,
    kind: str,
    page: uuid.UUID,
    socket: uuid.UUID,
    take: bool,
    stays_s: float,
    address: str | None = None,
) -> Arrival:
    """The socket takes the device, for `stays_s` seconds unless it is heard from again.

    A new device, or a known one under a new sign-in, is a login; a reconnect is not. Raises NotYours, InUse, SignedOut,
    TooMany.
    """
    now = times.now()
    until = now + dt.timedelta(seconds=stays_s)
    held = {"page": page, "socket": socket, "last_seen_at": now, "online_until": until, "address": address}
    with transaction.atomic(durable=True):
        if device_id is None:
            crowded_out = _make_room(user_id, now, new=True)
            device = Device.objects.create(
                user_id=user_id, name=name, kind=kind, session_key=session_key, logged_in_at=now, **held
            )
            return Arrival(device, crowded_out=crowded_out)
        known = Device.objects.select_for_update(no_key=True).filter(pk=device_id, user_id=user_id).first()
        if known is None:
            raise NotYours
        new_sign_in = known.session_key != session_key
        if known.signed_out_at and not new_sign_in:
            raise SignedOut
        replaced = known.socket if known.socket != socket else None  # a hello that failed half-way is said again
        if replaced and known.page != page and known.online_until > now and not take:
            raise InUse
        # A device that was signed out needs room again. Its row is locked before the line here, and after it elsewhere;
        # but whoever holds the line locks no device that is signed out, so they cannot wait for each other.
        crowded_out = _make_room(user_id, now, new=False) if known.signed_out_at else None
        if new_sign_in:
            known.logged_in_at, known.session_key, known.signed_out_at = now, session_key, None
        for field, value in held.items():
            setattr(known, field, value)
        known.save(update_fields=["logged_in_at", "session_key", "signed_out_at", *held])
        return Arrival(known, replaced=replaced, crowded_out=crowded_out)


def leave(device_id: uuid.UUID, socket: uuid.UUID) -> None:
    """The socket is gone. A newer socket of the device is left alone."""
    mine = Device.objects.filter(pk=device_id, socket=socket)
    mine.update(page=None, socket=None, online_until=times.now())


def sign_out(device_id: uuid.UUID, now: dt.datetime) -> None:
    """The device is signed out, unless it was before. Its page is not told."""
    signed_in = Device.objects.filter(pk=device_id, signed_out_at=None)
    signed_in.update(signed_out_at=now, online_until=now, page=None, socket=None, push=None)


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
    if new and found["logins"] >= MAX_LOGINS:
        raise TooMany
    longest = theirs.filter(signed_in).order_by("online_until").first() if found["signed_in"] >= MAX_DEVICES else None
    if longest is not None:
        sign_out(longest.pk, now)
    return longest
