"""The hand-written statements read and write what the ORM does, on both databases where both can."""

import datetime as dt
import uuid

import pytest
from django.db import connection, transaction
from django.utils import timezone

from calls import hot, machine, models
from calls.machine import Answer, Hangup, Invite, Media, Seat
from calls.models import Call, Change, Entry, Leg
from devices import presence
from devices.models import Device

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
    written = []
    for vendor in ("postgresql", "the ORM"):
        monkeypatch.setattr(connection, "vendor", vendor)
        first = 0
        for size in batches:
            with transaction.atomic():
                models.store(story[first : first + size], [], NOW)
            first += size
        monkeypatch.undo()
        written.append(rows(story[0].after.id))
        Call.objects.all().delete()
    by_hand, by_orm = written
    assert by_hand == by_orm
    assert len(by_hand[2]) == len(story)


@pytest.mark.parametrize("upto", [1, 2, 3, 4])
def test_what_was_stored_is_loaded_as_the_same_value(story, upto):
    with transaction.atomic():
        models.store(story[:upto], [], NOW)
        call = story[upto - 1].after
        assert models.load(call.id) == call
        assert models.lock([call.id, uuid.uuid4()]) == {call.id: call}


@on_postgresql
def test_both_read_the_same_of_people(story, seats):
    with transaction.atomic():
        models.store(story[:2], [], NOW)
    people = [seat.key for seat in seats]
    by_orm = Leg.objects.filter(models.LIVE, user__in=people).order_by("id")
    expected = by_orm.values_list("call", "call__host", "user", "dir", "state", "device", "held")
    assert sorted(hot.live_legs(people)) == sorted(
        (call, str(host), str(user), *rest) for call, host, user, *rest in expected
    )
    assert hot.known(people, timezone.now()) == presence.known(people)


@on_postgresql
def test_the_statements_are_prepared(story):
    with transaction.atomic():
        models.store(story[:1], [], NOW)
        models.lock([story[0].after.id])
        with connection.cursor() as cursor:
            cursor.execute("SELECT statement FROM pg_prepared_statements")
            prepared = " ".join(statement for (statement,) in cursor.fetchall())
    assert "INSERT INTO calls_entry" in prepared
    assert "FOR NO KEY UPDATE" in prepared


@on_postgresql
def test_no_people_and_no_calls_are_no_error():
    assert hot.live_legs([]) == []
    assert hot.known([], NOW) == {}
    assert hot.load([]) == []
