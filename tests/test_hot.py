"""The hand-written statements read and write what the ORM does, on both databases where both can."""

import asyncio
import datetime as dt
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import msgspec
import pytest
from asgiref.sync import sync_to_async
from django.apps import apps
from django.db import IntegrityError, OperationalError, ProgrammingError, connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from calls import facts, hot, machine, models
from calls.machine import Answer, Hangup, Invite, Media, Seat
from calls.models import Call, Change, Entry, Hearing, Leg, SpentInvite
from devices import prepared
from devices.models import Device, Line, LineGroup

pytestmark = pytest.mark.django_db(transaction=True)

NOW = dt.datetime(2026, 1, 1, 12, 0, 0, 123456, tzinfo=dt.UTC)


@pytest.fixture
def seats(people):
    """alice on her laptop, bob on his phone."""

    def seat(name, device):
        row = Device.objects.create(
            user=people[name], name=device, page=uuid.uuid4(), socket=uuid.uuid4(),
            logged_in_at=NOW, last_seen_at=NOW, online_until=timezone.now() + dt.timedelta(hours=1),
        )  # fmt: skip
        return Seat(str(people[name].pk), row.pk, device, row.page)

    return seat("alice", "Laptop"), seat("bob", 'Phone ☎ "quoted"')


@pytest.fixture
def story(seats):
    """A call's life as changes: placed, answered, muted, hung up."""
    alice, bob = seats
    callee = machine.Callee(bob.key, "bob", "Bob", False, bob.device, True, True, 0, 1)
    data = {"note": "a \\ and \u00e9", "n": [1, 2.5, None, True]}
    invite = Invite(uuid.uuid4(), alice, "alice", "Alice", True, 0, 1, (callee,), "video", 45, data)
    changes, call = [], None
    for command in (invite, Answer(bob), Media(alice, False, True), Hangup(bob, {"why": "done"})):
        after = machine.decide(call, command, NOW)
        changes.append(Change(call, after, command))
        call = after
    return changes


def store(changes):
    prepared.run(models.store(prepared.waiting, changes, [], NOW))


def catch_up(*what):
    return prepared.run(models.catch_up(prepared.waiting, *what))


def gather(wanted, **times):
    return prepared.run(hot.gather(prepared.waiting, wanted, **times))


def rows(call_id):
    """Everything that is stored of a call, apart from keys that only count."""
    call = Call.objects.filter(pk=call_id).values().get()
    legs = list(Leg.objects.filter(call=call_id).order_by("id").values())
    entries = list(Entry.objects.filter(call=call_id).order_by("v").values())
    for row in (*legs, *entries):
        del row["id"]
    return call, legs, entries


on_postgresql = pytest.mark.skipif(connection.vendor != "postgresql", reason="the statements are PostgreSQL's")


@on_postgresql
@pytest.mark.parametrize("batches", [[1, 1, 1, 1], [4], [1, 3], [2, 2]], ids=str)
def test_both_write_the_same_rows(story, batches, monkeypatch):
    by_hand, by_orm = both_write(story, batches, monkeypatch)
    assert by_hand == by_orm
    assert len(by_hand[2]) == len(story)


def both_write(story, batches, monkeypatch):
    """What each of them stores of these changes, in batches of these sizes."""
    written = []
    for vendor in ("postgresql", "the ORM"):
        monkeypatch.setattr(connection, "vendor", vendor)
        first = 0
        for size in batches:
            with transaction.atomic():
                store(story[first : first + size])
            first += size
        monkeypatch.undo()
        written.append(rows(story[0].after.id))
        Call.objects.all().delete()
    return written


@pytest.fixture
def group_story(seats, people):
    """A group's life: somebody is added, held, removed and rung again, and the last one is alone."""
    alice, bob = seats
    callees = [machine.Callee(bob.key, "bob", "Bob", False, bob.device, True, True, 0, 1)]
    callees += [
        machine.Callee(str(people[name].pk), name, name.capitalize(), True, None, True, False, 0, 1)
        for name in ("carol", "dave")
    ]
    carol = Seat(callees[1].key, uuid.uuid4(), "Tablet", uuid.uuid4())
    invite = Invite(
        uuid.uuid4(), alice, "alice", "Alice", True, 0, 1, tuple(callees[:2]), "audio", 45, max_legs=5, engine=True,
        end_with_host=False,
    )  # fmt: skip
    commands = (
        invite, Answer(bob), Answer(carol), machine.Hold(bob, True), machine.Add(bob, (callees[2],), 45, max_legs=4),
        machine.Remove(alice, "dave"), machine.Add(bob, (callees[2],), 45, max_legs=4), machine.Remove(alice, "dave"),
        Hangup(alice), Hangup(carol),
    )  # fmt: skip
    changes, call = [], None
    for command in commands:
        after = machine.decide(call, command, NOW)
        changes.append(Change(call, after, command))
        call = after
    assert (call.host, call.media, call.lonely_since) == (bob.key, "sfu", NOW)
    return changes


@on_postgresql
@pytest.mark.parametrize("batches", [[1] * 10, [10], [1, 9], [4, 1, 5]], ids=str)
def test_both_write_the_same_rows_of_a_group(group_story, batches, monkeypatch):
    by_hand, by_orm = both_write(group_story, batches, monkeypatch)
    assert by_hand == by_orm
    assert [leg["username"] for leg in by_hand[1]] == ["alice", "bob", "carol", "dave"]


@pytest.mark.parametrize("upto", [1, 5, 8, 10])
def test_what_was_stored_of_a_group_is_loaded_as_the_same_value(group_story, upto, monkeypatch):
    with transaction.atomic():
        store(group_story[:upto])
        call = group_story[upto - 1].after
        assert models.lock([call.id]) == {call.id: call}
        assert models.live_groups(call.legs[-1].key) == [call.id] and models.live_groups("0") == []
        monkeypatch.setattr(connection, "vendor", "the ORM")
        assert models.load(call.id) == call
        assert models.live_groups(call.legs[-1].key) == [call.id] and models.live_groups("0") == []


@pytest.mark.parametrize("upto", [1, 2, 3, 4])
def test_what_was_stored_is_loaded_as_the_same_value(story, upto):
    with transaction.atomic():
        store(story[:upto])
        call = story[upto - 1].after
        assert models.load(call.id) == call
        assert models.lock([call.id, uuid.uuid4()]) == {call.id: call}


@on_postgresql
@pytest.mark.parametrize("upto", [1, 2])
def test_both_gather_the_same(story, seats, people, upto):
    alice, bob = seats
    people["dave"].is_active = False
    people["dave"].save()
    Line.make([people[name].pk for name in ("alice", "carol", "dave")])
    sales = LineGroup.objects.create(name="Sales", max_incoming=4)
    Line.objects.filter(user=people["bob"]).update(max_incoming=3, may_switch=True)
    Line.objects.filter(user=people["carol"]).update(group=sales)
    sockets = dict(Device.objects.values_list("id", "socket"))
    with transaction.atomic():
        store(story[:upto])
    id = story[0].after.id
    spent = [SpentInvite(id=uuid.uuid4(), user=people["bob"], call_id=call, at=NOW) for call in (None, id)]
    SpentInvite.objects.bulk_create(spent)
    wanted = hot.Wanted(
        calls={id, uuid.uuid4()},
        callees={"bob", "carol", "dave", "nobody"},
        callers={alice.key},
        people={bob.key},
        invites={each.id for each in spent},
        watched={bob.device},
        beats={str(alice.device): str(sockets[alice.device]), str(bob.device): str(uuid.uuid4())},
        known={},
    )
    now = timezone.now()
    found = []
    for way in (gather, facts._by_orm):
        with transaction.atomic():
            found.append(way(wanted, stays_s=35))
        seen = Device.objects.get(pk=alice.device)
        assert (seen.online_until - now).total_seconds() == pytest.approx(35, abs=5)
        assert Device.objects.get(pk=bob.device).last_seen_at == NOW
        Device.objects.update(last_seen_at=NOW, online_until=now + dt.timedelta(hours=1))
    by_hand, by_orm = found
    for name in set(by_orm.__struct_fields__) - {"devices", "groups"}:
        one, other = getattr(by_hand, name), getattr(by_orm, name)
        assert one and sorted(one, key=str) == sorted(other, key=str), name
    assert [row[:3] for row in by_hand.devices] == [row[:3] for row in by_orm.devices]
    assert {user.get_username() for user in by_hand.users} == {"bob", "carol"}
    with CaptureQueriesContext(connection) as asked:
        groups = [{line.user_id: line.group for line in world.lines} for world in found]
    assert groups[0] == groups[1] and groups[0][people["carol"].pk].max_incoming == 4 and not asked.captured_queries
    for one in (*by_hand.lines, *by_hand.users):
        assert not one._state.adding
        fresh = type(one).objects.get(pk=one.pk)
        assert all(getattr(one, field.attname) == getattr(fresh, field.attname) for field in one._meta.concrete_fields)


@on_postgresql
def test_both_read_the_same_line(people, monkeypatch):
    sales = LineGroup.objects.create(name="Sales", max_incoming=4, edition="until", edition_until=NOW)
    Line.make([people[name].pk for name in ("alice", "bob")])
    Line.objects.filter(user=people["bob"]).update(group=sales, favourites=["alice"], dnd=True, language="de")
    read = {}
    for vendor in ("postgresql", "the ORM"):
        monkeypatch.setattr(connection, "vendor", vendor)
        read[vendor] = [models.line(people[name].pk) for name in ("alice", "bob", "carol")]
        monkeypatch.undo()

    def plain(row):
        return row and {name: value for name, value in vars(row).items() if name != "_state"}

    one, other = ([(plain(line), line and plain(line.group)) for line in lines] for lines in read.values())
    assert one == other
    alice, bob, carol = read["postgresql"]
    assert (alice.group, bob.group.name, carol) == (None, "Sales", None)
    assert models.line(people["bob"].pk) is not models.line(people["bob"].pk), "whoever changes one changes no other"


@on_postgresql
@pytest.mark.parametrize("upto", [1, 4])
def test_both_catch_up_with_the_same(story, seats, upto, monkeypatch):
    with transaction.atomic():
        store(story[:upto])
    call = story[upto - 1].after
    found = {}
    for vendor in ("postgresql", "the ORM"):
        monkeypatch.setattr(connection, "vendor", vendor)
        found[vendor] = [catch_up([seats[1].key], asked, {})[0] for asked in ([], [call.id], [uuid.uuid4()])]
        found[vendor].append(catch_up(["0"], [call.id], {})[0])
        monkeypatch.undo()
    live = [] if call.state == "ended" else [call]
    assert found["postgresql"] == found["the ORM"] == [live, [call], live, []]


@on_postgresql
@pytest.mark.parametrize("online", [True, False])
def test_both_find_the_same_due(story, seats, online, monkeypatch):
    with transaction.atomic():
        store(story[:2])
    call = story[0].after.id
    Leg.objects.filter(dir="in").update(online=online)
    long, never = 10 * 365 * 86_400, dt.datetime(2000, 1, 1, tzinfo=dt.UTC)
    soon, shown, gone, not_yet = (0, 0, 0), (0, 0, long), (long, long, 0), (long, long, long)
    looks = [(10, True, never, silence) for silence in (soon, shown, gone, not_yet)]
    looks += [(1, True, never, soon), (10, False, None, (1, 1, 1)), (10, False, timezone.now(), (60, 60, 60))]
    found = {}
    for vendor in ("postgresql", "the ORM"):
        Hearing.objects.update_or_create(pk=1, defaults={"since": never, "until": timezone.now()})
        monkeypatch.setattr(connection, "vendor", vendor)
        seen = [
            models.due(hot.Watch(limit, 60, marks, since), hot.Silence(*silence))
            for limit, marks, since, silence in looks
        ]
        monkeypatch.undo()
        assert all(abs((timezone.now() - at).total_seconds()) < 5 for at, _, _ in seen)
        found[vendor] = [(calls, len(legs) if n == 4 else sorted(legs)) for n, (_, calls, legs) in enumerate(seen)]
    alice, bob = ((call, seat.key, seat.device, NOW) for seat in seats)
    some, both = ([alice, bob] if online else [alice]), [alice, bob]
    assert found["postgresql"] == found["the ORM"]
    assert [calls for calls, _ in found["postgresql"]] == [[call]] * 7
    assert [legs for _, legs in found["postgresql"]] == [both, some, both, [], 1, [], []]


@on_postgresql
@pytest.mark.parametrize("marks", [True, False])
@pytest.mark.parametrize("ago_s", [None, 1, 100])
def test_both_leave_the_same_mark(people, ago_s, marks, monkeypatch):
    left = {}
    for vendor in ("postgresql", "the ORM"):
        Hearing.objects.all().delete()
        now = timezone.now()
        long_ago = now - dt.timedelta(days=1)
        if ago_s is not None:
            Hearing.objects.create(since=long_ago, until=now - dt.timedelta(seconds=ago_s))
        monkeypatch.setattr(connection, "vendor", vendor)
        models.due(hot.Watch(1, 5, marks, None), hot.Silence(1, 1, 1))
        monkeypatch.undo()
        row = Hearing.objects.first()
        left[vendor] = row and (row.since == long_ago, now - dt.timedelta(seconds=0.5) < row.until <= timezone.now())
    unmarked = None if ago_s is None else (True, False)
    assert left["postgresql"] == left["the ORM"] == ((ago_s == 1, True) if marks else unmarked)


@on_postgresql
def test_the_statements_are_prepared(story):
    with transaction.atomic():
        store(story[:1])
        models.lock([story[0].after.id])
        with connection.cursor() as cursor:
            cursor.execute("SELECT statement FROM pg_prepared_statements")
            prepared = " ".join(statement for (statement,) in cursor.fetchall())
    assert "INSERT INTO calls_entry" in prepared
    assert "FOR NO KEY UPDATE" in prepared


def wanted_of(id, known):
    return hot.Wanted({id}, set(), set(), set(), set(), set(), {}, known)


@on_postgresql
def test_a_call_is_read_again_only_if_it_is_not_what_it_was_known_to_be(story):
    store(story[:2])
    placed, now = story[0].after, story[1].after
    seen = msgspec.structs.replace(now, note="seen")  # which the row does not say: so it was not read
    for known, found in ((seen, seen), (placed, now)):
        assert gather(wanted_of(now.id, {now.id: known}), stays_s=35).calls == [found]
    assert gather(wanted_of(placed.id, {}), stays_s=35).calls == [now]
    unknown = msgspec.structs.replace(now, id=uuid.uuid4())
    assert gather(wanted_of(unknown.id, {unknown.id: unknown}), stays_s=35).calls == []


@on_postgresql
def test_nothing_asked_is_no_error():
    with transaction.atomic():
        assert hot.lock([]) == []
        nothing = hot.Wanted(set(), set(), set(), set(), set(), set(), {}, {})
        assert gather(nothing, stays_s=35) == hot.World()
    assert catch_up([], [], {}) == ([], set())


@on_postgresql
def test_what_a_statement_raises_is_what_django_raises(people):
    with pytest.raises(IntegrityError, match="devices_line_pkey"), transaction.atomic():
        prepared.ask("INSERT INTO devices_line SELECT * FROM devices_line RETURNING NULL")
    with pytest.raises(ProgrammingError, match="no_such_table"):
        prepared.ask("SELECT 1 FROM no_such_table")
    assert (
        prepared.ask("SELECT $1::text[]", prepared.array(['a "b"', "c\\d", "{e,f}"])) == rb'{"a \"b\"","c\\d","{e,f}"}'
    )


def end(backend):
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s, 5000)", [backend])
    connection.close()


@on_postgresql
def test_a_connection_that_is_gone_is_an_operational_error():
    own = prepared.ask("SELECT pg_backend_pid()::text")
    with ThreadPoolExecutor(1) as other:
        other.submit(end, int(own)).result()
    for _ in range(2):
        with pytest.raises(OperationalError):
            prepared.ask("SELECT 1")
    connection.close()
    assert prepared.ask("SELECT 1::text") == b"1"


@pytest.fixture
def link():
    """A connection of the event loop's own."""
    link = prepared.Link()
    yield link
    link.close()


async def pid(ask):
    (own,) = await ask([("SELECT pg_backend_pid()::text",)], commit=True)
    return int(own)


@on_postgresql
async def test_the_event_loops_own_connection_does_all_or_nothing(link, people):
    line = b"{%d}" % people["bob"].pk
    change = "UPDATE devices_line SET max_incoming = 7 WHERE user_id = ANY($1::int[]) RETURNING max_incoming::text"

    async def fails(ask):
        assert await ask([(change, line)]) == [b"7"]
        await ask([("SELECT 1::text",), ("SELECT 1 FROM no_such_table",)], commit=True)

    async def forgets(ask):
        await ask([(change, line)])

    async def changes(ask):
        before = await ask([("SELECT max_incoming::text FROM devices_line WHERE user_id = ANY($1::int[])", line)])
        return before + await ask([(change, line)], commit=True)

    with pytest.raises(ProgrammingError, match="no_such_table"):
        await link.transact(fails)
    with pytest.raises(RuntimeError):
        await link.transact(forgets)
    assert await link.transact(changes) == [b"", b"7"]
    assert await sync_to_async(lambda: Line.objects.get(user=people["bob"]).max_incoming)() == 7


async def echo(text, ask):
    return await ask([("SELECT $1::text", text), ("SELECT 1::text",)], commit=True)


@on_postgresql
async def test_more_than_a_socket_takes_at_once_goes_both_ways(link):
    long = b"x" * 20_000_000
    assert await link.transact(partial(echo, long)) == [long, b"1"]


@on_postgresql
async def test_a_connection_that_is_lost_while_idle_is_opened_again(link):
    own = await link.transact(pid)
    await sync_to_async(end)(own)
    assert await link.transact(pid) != own


@on_postgresql
async def test_a_connection_that_is_lost_while_busy_is_opened_again_and_the_work_done_once_more(link):
    pids, began = [], asyncio.Event()

    async def work(ask):
        pids.append(await pid(ask))
        began.set()
        return await ask([(f"SELECT pg_sleep({60 if len(pids) == 1 else 0})",), ("SELECT 'done'",)], commit=True)

    asking = asyncio.ensure_future(link.transact(work))
    await began.wait()
    await sync_to_async(end)(pids[0])
    assert (await asking)[1] == b"done"
    assert len(set(pids)) == 2


@on_postgresql
async def test_a_message_that_is_not_answered_in_time_ends_the_connection(link, monkeypatch):
    monkeypatch.setattr(prepared, "ANSWER_S", 0.5)
    began = time.monotonic()
    with pytest.raises(OperationalError, match="not answered within"):
        await link.transact(lambda ask: ask([("SELECT pg_sleep(60)",)], commit=True))
    assert time.monotonic() - began < 3
    assert not link.is_open
    assert await link.transact(pid)


@on_postgresql
async def test_whoever_is_gone_in_the_middle_leaves_no_lock(link, people):
    asked = asyncio.Event()

    async def work(ask):
        await ask([("SELECT 1 FROM devices_line FOR NO KEY UPDATE",)])
        asked.set()
        await ask([("SELECT pg_sleep(0.2)",)], commit=True)

    asking = asyncio.ensure_future(link.transact(work))
    await asked.wait()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking

    def lock():
        with transaction.atomic():
            return len(Line.lock([people["bob"].pk]))

    assert await sync_to_async(lock)() == 1


@on_postgresql
def test_every_foreign_key_has_an_index_by_which_a_deletion_can_check_it():
    for model in (*apps.get_app_config("calls").get_models(), *apps.get_app_config("devices").get_models()):
        with connection.cursor() as cursor:
            found = connection.introspection.get_constraints(cursor, model._meta.db_table).values()
        keys = [each for each in found if each["index"] or each["unique"] or each["primary_key"]]
        leading = {each["columns"][0] for each in keys if each["columns"]}  # an index of expressions has none
        checked = {each["columns"][0] for each in found if each["foreign_key"]}
        assert checked <= leading, model
