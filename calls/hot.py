"""The statements of the hot path, written by hand for PostgreSQL: the same reads and writes as the ORM's in models.py
and facts.py, at a fraction of the cost. tests/test_hot.py holds the two equal.

Every statement works on a whole batch, and is one message to PostgreSQL and one back: rows travel as JSON documents, in
the shape of machine's values. What locks rows never joins others: after waiting for a lock, only the locked row is
fresh, and a joined one would be as old as the statement. So calls are locked by one statement and read by the next.
"""

import datetime as dt
import itertools
import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache, lru_cache
from typing import Any, NamedTuple

import msgspec
from django.contrib.auth import get_user_model
from msgspec import Struct

from calls import machine
from calls.machine import Call, Leg
from devices import prepared, presence
from devices.models import Line, LineGroup

LEG = """
    user_id::text AS key, username AS "user", name, dir, state, reason, multi, ring_on_id AS ring_on, ring_until,
    alerted, device_id AS device, device_name, page, epoch, online, held, mic, cam, data, spent_until,
    invited_by AS "by", transferred_by AS for_, joined_at, rung_again, removed_v
"""


class Wanted(NamedTuple):
    """What the orders of a batch are about. People are given by key, or by username if they are to be called."""

    calls: set[uuid.UUID]
    callees: set[str]
    callers: set[str]
    people: set[str]
    invites: set[uuid.UUID]
    watched: set[uuid.UUID]
    beats: dict[str, str]
    known: dict[uuid.UUID, Call]
    """What the calls were when they were last seen. One that has the same `v` still is not read again."""


class Watch(NamedTuple):
    """How a clock looks: at most `limit` calls, and as many legs. With `marks` it leaves its mark, and a last mark that
    is older than `gap_s` seconds means that nobody could be heard meanwhile. The clock itself counts silence from
    `since`; None: from now."""

    limit: int
    gap_s: float
    marks: bool
    since: dt.datetime | None


class Silence(NamedTuple):
    """After how many seconds of silence there is something to do: a joined device is shown as offline; a caller has
    cancelled; a leg of an answered call is lost."""

    shown_s: float
    caller_s: float
    lost_s: float


class World(Struct):
    """What was found of it. Each part is None unless it was asked for, or if nothing was found."""

    calls: list[Call] | None = None
    live: list[tuple[uuid.UUID, str, str, str, str, uuid.UUID | None, bool, bool]] | None = None
    """Live legs: call, its host, person, direction, state, device, held, and whether the call may meet an invite."""
    devices: list[tuple[str, uuid.UUID, dt.datetime, dt.datetime, bool]] | None = None
    """Signed-in devices: person, device, login, until when it counts as online, whether it can be woken."""
    spent: list[tuple[uuid.UUID, str, uuid.UUID | None]] | None = None
    """Invites whose id is spent: id, person, the call that it became."""
    seen: list[tuple[uuid.UUID, dt.datetime]] | None = None
    """Devices, and when they were last heard from."""
    users: list[Any] | None = None
    """The callees, as instances of the user model."""
    lines: Any = None
    """The lines of callers and callees, locked, as instances."""
    strangers: set[str] = set()
    """Sockets whose device is no longer theirs."""
    groups: Any = None
    """The groups of the lines, as rows; the lines have them."""


CALLS = f"""
    SELECT json_agg(call) FROM (
        SELECT id, v, kind, state, host_id::text AS host, placed_at, reason, answered_at, ended_at, ended_by, note,
        "group", max_legs, engine, end_with_host, lonely_since, media, media_epoch, (
            SELECT json_agg(leg) FROM (SELECT {LEG} FROM calls_leg WHERE call_id = calls_call.id ORDER BY id) leg
        ) AS legs
        FROM calls_call WHERE id = ANY({{calls}})
    ) call
"""
READ = {
    "calls": CALLS,
    "live": """
        SELECT json_agg(json_build_array(
            leg.call_id, call.host_id::text, leg.user_id::text, leg.dir, leg.state, leg.device_id, leg.held,
            call.state = 'ringing' AND NOT call."group"
        ))
        FROM calls_leg leg JOIN calls_call call ON call.id = leg.call_id
        WHERE leg.user_id = ANY({people}) AND leg.state IN ('ringing', 'joined')
    """,
    "devices": """
        SELECT json_agg(json_build_array(user_id::text, id, logged_in_at, online_until, push IS NOT NULL))
        FROM devices_device WHERE user_id = ANY({people}) AND signed_out_at IS NULL
    """,
    "spent": """
        SELECT json_agg(json_build_array(id, user_id::text, call_id)) FROM calls_spentinvite WHERE id = ANY({invites})
    """,
    "seen": "SELECT json_agg(json_build_array(id, last_seen_at)) FROM devices_device WHERE id = ANY({watched})",
    "users": "SELECT json_agg(person) FROM ({users}) person",
    "groups": """
        SELECT json_agg(line_group) FROM (
            SELECT {group} FROM devices_linegroup
            WHERE id IN (SELECT group_id FROM devices_line WHERE user_id = ANY({people}))
        ) line_group
    """,
}  # fmt: skip
# Everything in one transaction has the same now(), also when the database freezes between two statements. Another
# clock's mark does as well as our own, so nobody waits for it.
MARK = """
    WITH marked AS (
        UPDATE calls_hearing SET
            since = CASE WHEN until < now() - make_interval(secs => $1::float8) THEN now() ELSE since END,
            until = now()
        WHERE id IN (SELECT id FROM calls_hearing FOR UPDATE SKIP LOCKED)
    )
    INSERT INTO calls_hearing (id, since, until)
    SELECT 1, now(), now() WHERE NOT EXISTS (SELECT FROM calls_hearing)
    ON CONFLICT DO NOTHING
"""
DUE = """
    WITH hearing AS (
        SELECT greatest($3::timestamptz, coalesce((
            SELECT CASE WHEN until < now() - make_interval(secs => $2::float8) THEN now() ELSE since END
            FROM calls_hearing
        ), now())) AS since
    )
    SELECT json_build_array(now(), (
        SELECT coalesce(json_agg(id), '[]') FROM (
            SELECT id FROM calls_call WHERE state <> 'ended' AND due_at <= now() ORDER BY due_at LIMIT $1::integer
        ) call
    ), (
        SELECT coalesce(json_agg(json_build_array(call_id, user_id::text, device_id, heard_at)), '[]') FROM (
            SELECT leg.call_id, leg.user_id, leg.device_id, greatest(last_seen_at, since) AS heard_at
            FROM hearing, calls_leg leg JOIN devices_device device ON device.id = leg.device_id
                JOIN calls_call call ON call.id = leg.call_id
            WHERE leg.state = 'joined'
                AND last_seen_at <= now() - make_interval(secs => least($4::float8, $5::float8, $6::float8))
                AND greatest(last_seen_at, since) <= now() - make_interval(secs => least(
                    CASE WHEN leg.online THEN $4::float8 END,
                    CASE WHEN answered_at IS NULL THEN $5::float8 ELSE $6::float8 END
                ))
            ORDER BY heard_at LIMIT $1::integer
        ) leg
    ))
"""
CAUGHT_UP = f"""
    WITH mine AS (
        SELECT call_id FROM calls_leg
        WHERE user_id = ANY({{people}}) AND (state IN ('ringing', 'joined') OR call_id = ANY($2::uuid[]))
    )
    {CALLS.format(calls="ARRAY(SELECT call_id FROM mine)")}
"""
GREETED = f"""
    WITH mine AS (
        SELECT call_id FROM calls_leg WHERE user_id = ANY({{people}}) AND state IN ('ringing', 'joined')
        UNION
        SELECT leg.call_id FROM calls_call JOIN calls_leg leg ON leg.call_id = calls_call.id
        WHERE calls_call."group" AND calls_call.state <> 'ended' AND leg.user_id = ANY({{people}})
    )
    {CALLS.format(calls="ARRAY(SELECT call_id FROM mine)")}
"""
LIVE_GROUPS = """
    SELECT coalesce(json_agg(id), '[]') FROM calls_call
    WHERE "group" AND state <> 'ended'
        AND EXISTS (SELECT 1 FROM calls_leg WHERE call_id = calls_call.id AND user_id = ANY({people}))
"""
# What a call and a leg may change, as columns and types of the JSON that carries them.
CALL_CHANGES = (
    ("v", "integer"), ("state", "text"), ("reason", "text"), ("answered_at", "timestamptz"),
    ("ended_at", "timestamptz"), ("ended_by", "text"), ("note", "text"), ("due_at", "timestamptz"),
    ("host_id", "{user}"), ('"group"', "boolean"), ("max_legs", "smallint"), ("lonely_since", "timestamptz"),
    ("media", "text"), ("media_epoch", "integer"),
)  # fmt: skip
CALL_GIVEN = (
    ("id", "uuid"), ("kind", "text"), ("placed_at", "timestamptz"), ("engine", "boolean"), ("end_with_host", "boolean"),
)  # fmt: skip
LEG_CHANGES = (
    ("state", "text"), ("reason", "text"), ("multi", "boolean"), ("ring_on_id", "uuid"), ("ring_until", "timestamptz"),
    ("alerted", "boolean"), ("device_id", "uuid"), ("device_name", "text"), ("page", "uuid"), ("epoch", "integer"),
    ("online", "boolean"), ("held", "boolean"), ("mic", "boolean"), ("cam", "boolean"), ("data", "jsonb"),
    ("spent_until", "timestamptz"), ("invited_by", "text"), ("transferred_by", "text"), ("joined_at", "timestamptz"),
    ("rung_again", "jsonb"), ("removed_v", "integer"),
)  # fmt: skip
LEG_GIVEN = (("call_id", "uuid"), ("user_id", "{user}"), ("username", "text"), ("name", "text"), ("dir", "text"))
ENTRY = (("call_id", "uuid"), ("v", "integer"), ("at", "timestamptz"), ("command", "jsonb"))


async def gather(ask: prepared.Ask, wanted: Wanted, *, stays_s: float, skip_locked: bool = False) -> World:
    """Locks the lines of callers and callees, then the calls, each in key order; then reads. One message and one back,
    and another if a call is not what it was taken for.

    The devices of `beats` are heard from, and count as online for `stays_s` seconds from now.
    """
    beats, calls, callees, callers = wanted.beats, wanted.calls, wanted.callees, wanted.callers
    statements: dict[str, prepared.Statement] = {}
    if beats:
        statements["beats"] = presence.beating(beats, stays_s)
    with_lines = bool(callers or callees)
    if with_lines:
        statements["lines"] = (_lines(skip_locked), prepared.array(callees), prepared.array(callers))
    if calls:
        statements["locked"] = (_locked(skip_locked), prepared.array(calls))
    given: dict[str, set[Any]] = {
        "people": wanted.people | wanted.callers,
        "calls": calls - wanted.known.keys() - wanted.invites,  # an invite's call is hardly ever there already
        "invites": wanted.invites,
        "watched": wanted.watched,
        "callees": callees,
    }
    given = {name: items for name, items in given.items() if items}
    if given:
        statements["world"] = (_reading(tuple(given), with_lines), *map(prepared.array, given.values()))
    answers = dict(zip(statements, await ask(statements.values()), strict=True))
    world = _world(answers["world"]) if given else World()
    if calls:
        versions = _versions(answers["locked"] or b"{}")
        world.calls = _held([*wanted.known.values(), *(world.calls or ())], versions)
        changed = versions.keys() - {call.id for call in world.calls}
        if changed:
            (answer,) = await ask([(_reading(("calls",)), prepared.array(changed))])
            world.calls += _world(answer).calls or ()
    if with_lines:
        groups = tuple(map(bytes, world.groups or ()))
        world.lines = [_known_line(bytes(row), groups) for row in _rows(answers["lines"] or b"[]")]
        world.users = [_user(bytes(row)) for row in world.users or ()]
    if beats:
        world.strangers = presence.strangers(beats, answers["beats"])
    return world


@lru_cache(maxsize=10_000)
def _user(row: bytes) -> Any:
    """The user with this row. Rows hardly ever change, and one that does is another row."""
    return prepared.instances(get_user_model(), [msgspec.json.decode(row)])[0]


def _line(row: bytes, groups: tuple[bytes, ...]) -> Line:
    """The line with this row, and with its group, if it is in one of these."""
    (line,) = prepared.instances(Line, [msgspec.json.decode(row)])
    for group in prepared.instances(LineGroup, map(msgspec.json.decode, groups)):
        if group.pk == line.group_id:
            line.group = group
    return line


_known_line = lru_cache(maxsize=10_000)(_line)  # kept in memory like users; it is shared, so nobody may change it


def line(key: Any) -> Line | None:
    """Somebody's line, with its group."""
    world = _world(prepared.ask(_one_line(), prepared.array([key])))
    groups = tuple(map(bytes, world.groups or ()))
    return next((_line(bytes(row), groups) for row in world.lines or ()), None)


def lock(call_ids: Collection[uuid.UUID], *, skip_locked: bool = False) -> list[Call]:
    """Those calls that exist; their rows, taken in key order, stay locked until the transaction ends."""
    calls = prepared.array(call_ids)
    locked, world = prepared.ask_all([(_locked(skip_locked), calls), (_reading(("calls",)), calls)])
    return _held(_world(world).calls or (), _versions(locked or b"{}"))


def _held(calls: Iterable[Call], versions: Mapping[uuid.UUID, int]) -> list[Call]:
    """Those of the calls that were locked, in these versions, and are still what they were."""
    return [call for call in calls if versions.get(call.id) == call.v]


def live_groups(key: Any) -> list[uuid.UUID]:
    """The calls of several people that go on and in which this person has a leg; see models.py."""
    return _ids(prepared.ask(LIVE_GROUPS.format(people=_keys(1)), prepared.array([key])))


async def catch_up(
    ask: prepared.Ask,
    people: Collection[str],
    asked: Collection[uuid.UUID],
    beats: Mapping[str, str],
    stays_s: float,
) -> tuple[list[Call], set[str]]:
    """The calls of these people, and sockets whose device is no longer theirs; see models.py."""
    statements: list[prepared.Statement] = [(_caught_up(), prepared.array(people), prepared.array(asked))]
    if beats:
        statements.append(presence.beating(beats, stays_s))
    calls, *theirs = await ask(statements, commit=True)
    return _calls(calls or b"[]"), presence.strangers(beats, theirs[0]) if beats else set()


class Greeting(NamedTuple):
    """What is read for people whose devices arrive, by the user's key, as far as there are any. The users themselves
    are kept in memory, so they come without their password hashes."""

    now: dt.datetime  # on the database's clock
    users: dict[str, Any]
    passwords: dict[str, str]  # the hashes, of which nothing is kept
    lines: dict[str, Line]
    calls: list[Call]


async def greet(ask: prepared.Ask, people: Collection[str]) -> Greeting:
    """The users, their lines, their live calls, and the calls of several people that go on and in which they have a
    leg, if only a closed one; in one message."""
    (answer,) = await ask([(_greeting(), prepared.array(people))])
    found = _greeted(answer)
    groups = tuple(map(bytes, found.groups or ()))
    users = [_user(bytes(row)) for row in found.users or ()]
    lines = [_known_line(bytes(row), groups) for row in found.lines or ()]
    return Greeting(
        found.now,
        {str(user.pk): user for user in users},
        found.passwords or {},
        {str(line.user_id): line for line in lines},
        found.calls or [],
    )


Due = tuple[dt.datetime, list[uuid.UUID], list[tuple[uuid.UUID, str, uuid.UUID, dt.datetime]]]
"""When the database looked; calls that are due; legs whose device is silent: call, person, device, since when."""


def due(watch: Watch, silence: Silence) -> Due:
    """What a clock has to look for; see models.py."""
    gap = str(watch.gap_s).encode()
    since = watch.since.isoformat().encode() if watch.since else b"infinity"
    looking = (DUE, str(watch.limit).encode(), gap, since, *(str(seconds).encode() for seconds in silence))
    return _due(prepared.ask_all([(MARK, gap), looking] if watch.marks else [looking])[-1])


class Answer(World):
    """A World as PostgreSQL answers it: users, lines and groups are still rows."""

    users: list[msgspec.Raw] | None = None
    lines: list[msgspec.Raw] | None = None
    groups: list[msgspec.Raw] | None = None


class Greeted(Answer):
    """A greeting as PostgreSQL answers it."""

    now: dt.datetime = dt.datetime.min
    passwords: dict[str, str] | None = None


_greeted = msgspec.json.Decoder(Greeted).decode
_rows = msgspec.json.Decoder(list[msgspec.Raw]).decode
_world = msgspec.json.Decoder(Answer).decode
_due = msgspec.json.Decoder(Due).decode
_calls = msgspec.json.Decoder(list[Call]).decode
_ids = msgspec.json.Decoder(list[uuid.UUID]).decode
_versions = msgspec.json.Decoder(dict[uuid.UUID, int]).decode


def _keys(number: int) -> str:
    return f"${number}::{prepared.user_key()}[]"


@cache
def _lines(skip_locked: bool) -> str:
    """Locks lines: $1 are usernames, $2 keys."""
    return f"""
        SELECT json_agg(line) FROM (
            SELECT {prepared.columns(Line)} FROM devices_line WHERE user_id = ANY({_called(1)} || {_keys(2)})
            ORDER BY user_id FOR NO KEY UPDATE{" SKIP LOCKED" if skip_locked else ""}
        ) line
    """


@cache
def _locked(skip_locked: bool) -> str:
    """Locks calls, and says which version each has."""
    return f"""
        SELECT json_object_agg(id, v) FROM (
            SELECT id, v FROM calls_call WHERE id = ANY($1::uuid[])
            ORDER BY id FOR NO KEY UPDATE{" SKIP LOCKED" if skip_locked else ""}
        ) call
    """


def _called(number: int) -> str:
    """The keys of active users, as an array."""
    return f"ARRAY({_users(number, get_user_model()._meta.pk.column)})"


def _users(number: int, columns: str) -> str:
    table = get_user_model()._meta.db_table
    return f"SELECT {columns} FROM {table} WHERE username = ANY(${number}::text[]) AND is_active"


@cache
def _reading(given: tuple[str, ...], with_lines: bool = False) -> str:
    """One statement that reads what can be read of what is given, whose parameters come in that order; and the groups
    of the people's lines, if these are locked."""
    number = {name: n for n, name in enumerate(given, start=1)}
    parts = ["calls"] if "calls" in given else []
    marks = {name: f"${n}::uuid[]" for name, n in number.items()}
    keys = [_keys(number["people"])] if "people" in given else []
    keys += [_called(number["callees"])] if "callees" in given else []
    if keys:
        parts += ["live", "devices"]
        marks["people"] = " || ".join(keys)
    if with_lines:
        parts.append("groups")
        marks["group"] = prepared.columns(LineGroup)
    if "callees" in given:
        parts.append("users")
        marks["users"] = _users(number["callees"], prepared.columns(get_user_model()))
    parts += [part for part, name in (("spent", "invites"), ("seen", "watched")) if name in given]
    return "SELECT json_build_object(" + ", ".join(f"'{part}', ({READ[part].format(**marks)})" for part in parts) + ")"


@cache
def _one_line() -> str:
    groups = READ["groups"].format(people=_keys(1), group=prepared.columns(LineGroup))
    return f"""
        SELECT json_build_object('groups', ({groups}), 'lines', (SELECT json_agg(line) FROM (
            SELECT {prepared.columns(Line)} FROM devices_line WHERE user_id = ANY({_keys(1)})
        ) line))
    """


@cache
def _greeting() -> str:
    """$1 are keys of users."""
    model = get_user_model()
    key = model._meta.pk.column
    return f"""
        SELECT json_build_object(
            'now', now(),
            'users', (SELECT json_agg(person) FROM (
                SELECT {prepared.columns(model)} FROM {model._meta.db_table}
                WHERE {key} = ANY({_keys(1)})
            ) person),
            'passwords', (
                SELECT json_object_agg({key}, {model._meta.get_field("password").column}) FROM {model._meta.db_table}
                WHERE {key} = ANY({_keys(1)})
            ),
            'lines', (SELECT json_agg(line) FROM (
                SELECT {prepared.columns(Line)} FROM devices_line WHERE user_id = ANY({_keys(1)})
            ) line),
            'groups', ({READ["groups"].format(people=_keys(1), group=prepared.columns(LineGroup))}),
            'calls', ({GREETED.format(people=_keys(1))})
        )
    """


@cache
def _caught_up() -> str:
    return CAUGHT_UP.format(people=_keys(1))


class Written(NamedTuple):
    """What a batch writes: new calls, changed calls, changed legs, new legs, and an entry for each change."""

    born: Sequence[Call]
    grown: Sequence[Call]
    changed: Sequence[tuple[Call, Leg]]
    fresh: Sequence[tuple[Call, Leg]]
    entries: Sequence[tuple[Call, machine.Command]]


async def write(ask: prepared.Ask, written: Written, due_at: Any, now: dt.datetime) -> None:
    """Writes all of it, and commits, in one message. `due_at(call)` is a call's deadline."""
    born, grown, changed, fresh, entries = written
    documents: list[Any] = [
        [{"call_id": call.id, "v": call.v, "at": now, "command": command} for call, command in entries]
    ]
    if fresh:
        documents.append([leg_row(call, leg) for call, leg in fresh])
    if grown:
        documents.append([leg_row(call, leg) for call, leg in changed])
        documents.append([call_row(call, due_at(call)) for call in grown])
    if born:
        documents.append([call_row(call, due_at(call)) for call in born])
    await ask([(_writing(bool(fresh), bool(grown), bool(born)), *map(msgspec.json.encode, documents))], commit=True)


@cache
def _writing(with_fresh: bool, with_grown: bool, with_born: bool) -> str:
    """All writes of a batch as one statement. Its foreign keys are checked when everything is there."""
    user = prepared.user_key()
    number = itertools.count(1)

    def columns(of: Iterable[tuple[str, str]]) -> str:
        return ", ".join(name for name, _ in of)

    def given(of: Iterable[tuple[str, str]]) -> str:
        types = ", ".join(f"{name} {type.format(user=user)}" for name, type in of)
        return f"json_to_recordset(${next(number)}::json) AS given({types})"

    def insert(table: str, of: Iterable[tuple[str, str]]) -> str:
        return f"INSERT INTO {table} ({columns(of)}) SELECT {columns(of)} FROM {given(of)}"

    def update(table: str, changes: Iterable[tuple[str, str]], keys: Sequence[tuple[str, str]]) -> str:
        sets = ", ".join(f"{name} = given.{name}" for name, _ in changes)
        # Found by the index of the first key: that of the second might be of all the legs that a person ever had.
        first, *rest = (f"{table}.{name} {{same}} given.{name}" for name, _ in keys)
        match = " AND ".join([first.format(same="="), *(each.format(same="IS NOT DISTINCT FROM") for each in rest)])
        return f"UPDATE {table} SET {sets} FROM {given([*keys, *changes])} WHERE {match}"

    # PostgreSQL runs the last part first: so the entry, which is the proof, is written when all else is, and a leg is
    # made when the legs that give its device free are written.
    parts = [insert("calls_entry", ENTRY)]
    if with_fresh:
        parts.append(insert("calls_leg", [*LEG_GIVEN, *LEG_CHANGES]))
    if with_grown:
        parts.append(update("calls_leg", LEG_CHANGES, LEG_GIVEN[:2]))
        parts.append(update("calls_call", CALL_CHANGES, CALL_GIVEN[:1]))
    if with_born:
        parts.append(insert("calls_call", [*CALL_GIVEN, *CALL_CHANGES]))
    named = ", ".join(f"part{n} AS ({part})" for n, part in enumerate(parts))
    return f"WITH {named} SELECT NULL"


def call_row(call: Call, due_at: dt.datetime | None) -> dict[str, Any]:
    return {
        "id": call.id, "kind": call.kind, "host_id": call.host, "placed_at": call.placed_at, "v": call.v,
        "state": call.state, "reason": call.reason, "answered_at": call.answered_at, "ended_at": call.ended_at,
        "ended_by": call.ended_by, "note": call.note, "due_at": due_at, "group": call.group, "max_legs": call.max_legs,
        "engine": call.engine, "end_with_host": call.end_with_host, "lonely_since": call.lonely_since,
        "media": call.media, "media_epoch": call.media_epoch,
    }  # fmt: skip


def leg_row(call: Call, leg: Leg) -> dict[str, Any]:
    return {
        "call_id": call.id, "user_id": leg.key, "username": leg.user, "name": leg.name, "dir": leg.dir,
        "state": leg.state, "reason": leg.reason, "multi": leg.multi, "ring_on_id": leg.ring_on,
        "ring_until": leg.ring_until, "alerted": leg.alerted, "device_id": leg.device, "device_name": leg.device_name,
        "page": leg.page, "epoch": leg.epoch, "online": leg.online, "held": leg.held, "mic": leg.mic, "cam": leg.cam,
        "data": leg.data, "spent_until": leg.spent_until, "invited_by": leg.by, "transferred_by": leg.for_,
        "joined_at": leg.joined_at, "rung_again": leg.rung_again, "removed_v": leg.removed_v,
    }  # fmt: skip
