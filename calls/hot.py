"""The statements of the hot path, written by hand for PostgreSQL: the same reads and writes as the ORM's in models.py
and facts.py, at a fraction of the cost. tests/test_hot.py holds the two equal.

Every statement works on a whole batch, is prepared, and is sent on Django's own connection, inside its transaction.
Rows go in as one JSON document, which PostgreSQL takes apart. What locks rows never joins others: after waiting for a
lock, only the locked row is fresh, and a joined one would be as old as the statement.
"""

import datetime as dt
import uuid
from collections.abc import Collection, Iterable, Sequence
from functools import cache
from typing import Any

import msgspec
import psycopg
from django.contrib.auth import get_user_model
from django.db import connection

from calls import machine
from calls.machine import Call, Leg
from devices.policy import Known

CALLS = """
    SELECT id, v, kind, state, host_id::text, placed_at, reason, answered_at, ended_at, ended_by, note
    FROM calls_call WHERE id = ANY(%s)
"""
LEGS = """
    SELECT call_id, user_id::text, username, name, dir, state, reason, multi, ring_on_id, ring_until, alerted,
           device_id, device_name, page, epoch, online, held, mic, cam, data
    FROM calls_leg WHERE call_id = ANY(%s) ORDER BY call_id, id
"""
LIVE = """
    SELECT leg.call_id, call.host_id::text, leg.user_id::text, leg.dir, leg.state, leg.device_id, leg.held
    FROM calls_leg leg JOIN calls_call call ON call.id = leg.call_id
    WHERE leg.user_id = ANY(%s) AND leg.state IN ('ringing', 'joined')
"""
DEVICES = """
    SELECT user_id::text, id, logged_in_at, online_until > %s
    FROM devices_device WHERE user_id = ANY(%s) AND signed_out_at IS NULL
"""
# What a call and a leg may change, as columns and types of the JSON that carries them.
CALL_CHANGES = (
    ("v", "integer"), ("state", "text"), ("reason", "text"), ("answered_at", "timestamptz"),
    ("ended_at", "timestamptz"), ("ended_by", "text"), ("note", "text"), ("due_at", "timestamptz"),
)  # fmt: skip
CALL_GIVEN = (("id", "uuid"), ("kind", "text"), ("host_id", "{user}"), ("placed_at", "timestamptz"))
LEG_CHANGES = (
    ("state", "text"), ("reason", "text"), ("multi", "boolean"), ("ring_on_id", "uuid"), ("ring_until", "timestamptz"),
    ("alerted", "boolean"), ("device_id", "uuid"), ("device_name", "text"), ("page", "uuid"), ("epoch", "integer"),
    ("online", "boolean"), ("held", "boolean"), ("mic", "boolean"), ("cam", "boolean"), ("data", "jsonb"),
)  # fmt: skip
LEG_GIVEN = (("call_id", "uuid"), ("user_id", "{user}"), ("username", "text"), ("name", "text"), ("dir", "text"))
ENTRY = (("call_id", "uuid"), ("v", "integer"), ("at", "timestamptz"), ("command", "jsonb"))


def load(call_ids: Collection[uuid.UUID], *, lock: bool = False, skip_locked: bool = False) -> list[Call]:
    """The calls that exist, as values."""
    locking = f"ORDER BY id FOR NO KEY UPDATE{' SKIP LOCKED' if skip_locked else ''}" if lock else ""
    found = _rows(CALLS + locking, list(call_ids))
    if not found:
        return []
    legs: dict[uuid.UUID, list[Leg]] = {row[0]: [] for row in found}
    for call_id, *fields in _rows(LEGS, list(legs)):
        legs[call_id].append(Leg(*fields))
    return [
        Call(id, v, kind, state, host, placed_at, tuple(legs[id]), *rest)
        for id, v, kind, state, host, placed_at, *rest in found
    ]


def live_legs(people: Iterable[str]) -> list[tuple[Any, ...]]:
    """These people's live legs: call, host, user, direction, state, device, held."""
    return _rows(LIVE, _keys(people))


def known(people: Iterable[str], now: dt.datetime) -> dict[str, list[Known]]:
    """These people's signed-in devices, by the person's key."""
    found: dict[str, list[Known]] = {}
    for user, *device in _rows(DEVICES, now, _keys(people)):
        found.setdefault(user, []).append(Known(*device))
    return found


def write(
    born: Sequence[Call],
    grown: Sequence[tuple[Call, Call]],
    entries: Sequence[tuple[Call, machine.Command]],
    due_at: Any,
    now: dt.datetime,
) -> None:
    """New calls, changed ones as (before, after), and an entry for each change. `due_at(call)` is a call's deadline."""
    written = [{"call_id": call.id, "v": call.v, "at": now, "command": command} for call, command in entries]
    new_calls = [_call(call, due_at(call)) for call in born]
    new_legs = [_leg(call, leg) for call in born for leg in call.legs]
    changed_calls = [_call(after, due_at(after)) for _, after in grown]
    changed_legs = [
        _leg(after, new)
        for before, after in grown
        for old, new in zip(before.legs, after.legs, strict=True)
        if new != old
    ]
    _run(_statement(bool(born), bool(grown)), written, changed_legs, changed_calls, new_legs, new_calls)


@cache
def _statement(with_born: bool, with_grown: bool) -> str:
    """All writes of a batch as one statement. Its foreign keys are checked when everything is there."""
    user = str(get_user_model()._meta.pk.rel_db_type(connection))  # type: ignore[attr-defined]

    def columns(of: Iterable[tuple[str, str]]) -> str:
        return ", ".join(name for name, _ in of)

    def given(of: Iterable[tuple[str, str]]) -> str:
        types = ", ".join(f"{name} {type.format(user=user)}" for name, type in of)
        return f"json_to_recordset(%s::json) AS given({types})"

    def insert(table: str, of: Iterable[tuple[str, str]]) -> str:
        return f"INSERT INTO {table} ({columns(of)}) SELECT {columns(of)} FROM {given(of)}"  # noqa: S608

    def update(table: str, changes: Iterable[tuple[str, str]], keys: Sequence[tuple[str, str]]) -> str:
        sets = ", ".join(f"{name} = given.{name}" for name, _ in changes)
        match = " AND ".join(f"{table}.{name} = given.{name}" for name, _ in keys)
        return f"UPDATE {table} SET {sets} FROM {given([*keys, *changes])} WHERE {match}"  # noqa: S608

    nothing = "SELECT %s::json"
    # PostgreSQL runs the last part first: so the entry, which is the proof, is written when all else is.
    parts = [
        insert("calls_entry", ENTRY),
        update("calls_leg", LEG_CHANGES, LEG_GIVEN[:2]) if with_grown else nothing,
        update("calls_call", CALL_CHANGES, CALL_GIVEN[:1]) if with_grown else nothing,
        insert("calls_leg", [*LEG_GIVEN, *LEG_CHANGES]) if with_born else nothing,
        insert("calls_call", [*CALL_GIVEN, *CALL_CHANGES]) if with_born else nothing,
    ]
    named = ", ".join(f"part{n} AS ({part})" for n, part in enumerate(parts))
    return f"WITH {named} SELECT"


def _call(call: Call, due_at: dt.datetime | None) -> dict[str, Any]:
    return {
        "id": call.id, "kind": call.kind, "host_id": call.host, "placed_at": call.placed_at, "v": call.v,
        "state": call.state, "reason": call.reason, "answered_at": call.answered_at, "ended_at": call.ended_at,
        "ended_by": call.ended_by, "note": call.note, "due_at": due_at,
    }  # fmt: skip


def _leg(call: Call, leg: Leg) -> dict[str, Any]:
    return {
        "call_id": call.id, "user_id": leg.key, "username": leg.user, "name": leg.name, "dir": leg.dir,
        "state": leg.state, "reason": leg.reason, "multi": leg.multi, "ring_on_id": leg.ring_on,
        "ring_until": leg.ring_until, "alerted": leg.alerted, "device_id": leg.device, "device_name": leg.device_name,
        "page": leg.page, "epoch": leg.epoch, "online": leg.online, "held": leg.held, "mic": leg.mic, "cam": leg.cam,
        "data": leg.data,
    }  # fmt: skip


def _keys(people: Iterable[str]) -> list[Any]:
    to_python = get_user_model()._meta.pk.to_python
    return [to_python(key) for key in people]


def _cursor() -> psycopg.Cursor[tuple[Any, ...]]:
    connection.ensure_connection()
    return psycopg.Cursor(connection.connection)


def _rows(statement: str, *params: Any) -> list[tuple[Any, ...]]:
    with connection.wrap_database_errors, _cursor() as cursor:
        cursor.execute(statement, params, prepare=True, binary=True)
        return cursor.fetchall()


def _run(statement: str, *documents: Any) -> None:
    with connection.wrap_database_errors, _cursor() as cursor:
        cursor.execute(statement, [msgspec.json.encode(each).decode() for each in documents], prepare=True)
