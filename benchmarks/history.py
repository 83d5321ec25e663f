"""`python -m benchmarks history N`: N ended calls, or with --live calls that go on, in the database of DATABASE_URL.

They are as the product writes them (a call, two legs, an entry for each change that `machine` can decide again), made
in a few statements by PostgreSQL itself. Call ids are random, as clients make them; the times go back one year, the
people are the users i0, i1, … and, for ended calls, everybody whom `people` made.
"""

from __future__ import annotations

import psycopg

BATCH = 200_000

# Numbers n of calls -> who and when. The host is spread over the users, the callee is another one.
#
# Sorted by id within a batch, so that neighbours in the indexes are written together; and sorted outside, because
# PostgreSQL takes equal volatile columns of a sorted query for one (all random ids of a call would be the same).
WHO = """
with people as (select row_number() over (order by id) - 1 as n, id, username from auth_user where username ~ %(who)s),
     size as (select count(*) as size from people)
select * from (select gen_random_uuid() as id, gen_random_uuid() as page, gen_random_uuid() as to_page,
       host.id as host, host.username as host_name, callee.id as callee, callee.username as callee_name,
       now() - interval '1 year' * (1 - call.n::float / %(of)s) as placed,
       gen_random_uuid() as device, gen_random_uuid() as to_device
from generate_series(%(first)s::bigint, %(last)s::bigint) as call (n) cross join size
join people as host on host.n = call.n %% size
join people as callee on callee.n = (call.n + 1 + call.n * 7 %% (size - 1)) %% size
offset 0) as made order by id
"""

SEAT = "jsonb_build_object('key', {key}::text, 'device', {device}, 'name', {name}, 'page', {page}, 'in_call', null)"
BY_HOST = SEAT.format(key="host", device="device", name="host_name", page="page")
BY_CALLEE = SEAT.format(key="callee", device="to_device", name="callee_name", page="to_page")

CALLS = """
insert into calls_call (id, v, kind, state, reason, host_id, placed_at, answered_at, ended_at, ended_by, due_at)
select id, {v}, 'audio', {state}, {reason}, host, placed, placed + interval '8 s', {ended}, {ended_by}, {due} from made
"""
LEGS = """
insert into calls_leg (call_id, user_id, username, name, dir, state, multi, alerted, device_id, device_name, page,
                       epoch, online, held, mic, cam)
select id, host, host_name, host_name, 'out', {leg}, false, false, {device}, host_name, page,
       1, true, false, true, false from made
union all
select id, callee, callee_name, callee_name, 'in', {leg}, true, true, {to_device}, callee_name, to_page,
       1, true, false, true, false from made
"""
ENTRIES = f"""
insert into calls_entry (call_id, v, at, command)
select id, 1, placed, jsonb_build_object('type', 'Invite', 'call', id, 'by', {BY_HOST}, 'user', host_name,
    'name', host_name, 'multi', false, 'active', 0, 'limit', 1, 'kind', 'audio', 'ring_s', 45, 'data', null,
    'callees', jsonb_build_array(jsonb_build_object('key', callee::text, 'user', callee_name, 'name', callee_name,
    'multi', true, 'ring_on', null, 'reachable', true, 'online', true, 'active', 0, 'limit', 1))) from made
union all
select id, 2, placed + interval '8 s', jsonb_build_object('type', 'Answer', 'by', {BY_CALLEE}, 'data', null) from made
"""
HANGUPS = f"""
insert into calls_entry (call_id, v, at, command)
select id, 3, placed + interval '3 min', jsonb_build_object('type', 'Hangup', 'by', {BY_HOST}, 'data', null) from made
"""
DEVICES = """
insert into devices_device (id, user_id, name, kind, session_key, logged_in_at, last_seen_at, online_until)
select device, host, host_name, 'web', '', placed, {heard}, {heard} from made
union all select to_device, callee, callee_name, 'web', '', placed, {heard}, {heard} from made
"""
TABLES = ("calls_call", "calls_leg", "calls_entry", "devices_device")


def add_ended(url: str, number: int) -> None:
    """Ended calls of everybody. Their legs name no device: those are long signed out and cleaned away."""
    ended = {"v": 3, "state": "'ended'", "reason": "'completed'", "due": "null"}
    statements = [
        CALLS.format(**ended, ended="placed + interval '3 min'", ended_by="host::text"),
        LEGS.format(leg="'left'", device="null::uuid", to_device="null::uuid"),
        ENTRIES,
        HANGUPS,
    ]
    _add(url, number, "^[abi][0-9]+$", statements)


def add_live(url: str, number: int) -> None:
    """Calls that go on, between the idle users, on devices that count as heard from for a day to come."""
    live = {"v": 2, "state": "'active'", "reason": "null", "due": "now() + interval '7 h'"}
    statements = [
        DEVICES.format(heard="now() + interval '1 day'"),
        CALLS.format(**live, ended="null::timestamptz", ended_by="''"),
        LEGS.format(leg="'joined'", device="device", to_device="to_device"),
        ENTRIES,
    ]
    _add(url, number, "^i[0-9]+$", statements)


def remove_live(url: str) -> None:
    """Takes away what add_live made."""
    with psycopg.connect(url) as db:
        db.execute("create temp table over as select id from calls_call where state = 'active' and due_at is not null")
        db.execute("create temp table unused as select device_id from calls_leg where call_id in (select id from over)")
        for table in ("calls_entry", "calls_leg"):
            db.execute(f"delete from {table} where call_id in (select id from over)")
        db.execute("delete from calls_call where id in (select id from over)")
        db.execute("delete from devices_device where id in (select device_id from unused)")
    settle(url)


def settle(url: str) -> None:
    """What autovacuum does by and by."""
    with psycopg.connect(url, autocommit=True) as db:
        db.execute("vacuum (analyze)")
        db.execute("checkpoint")


def _add(url: str, number: int, who: str, statements: list[str]) -> None:
    settle(url)  # or it would be taken for a site of hardly anybody
    with psycopg.connect(url, autocommit=True) as db:
        db.execute("set synchronous_commit = off")
        db.execute("set session_replication_role = replica")  # the keys are right: nobody needs to look them up
        for first in range(0, number, BATCH):
            with db.transaction():
                numbers = {"first": first + 1, "last": min(first + BATCH, number), "of": number, "who": who}
                db.execute("create temp table made on commit drop as " + WHO, numbers)
                for statement in statements:
                    db.execute(statement)
    settle(url)
