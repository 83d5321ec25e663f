"""Calls and accounts with far more behind them than a page may show: changes, refusals, legs, devices."""

import datetime as dt
import re
import time
import uuid

import msgspec
import pytest
from django.contrib.auth import get_user_model
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from calls import machine
from calls.admin import story
from calls.models import Call, Entry, Leg, Refusal
from devices.models import Device, Line
from tests.panel_kit import browser_in_role, browser_of, saved

pytestmark = pytest.mark.django_db(transaction=True)

MANY = 5_000
PAGE_BYTES, LIST_BYTES, CPU_S, STATEMENTS = 500_000, 500_000, 2.0, 16


def seat(user, number):
    return machine.Seat(str(user.pk), uuid.UUID(int=number), f"Device {number}", uuid.UUID(int=number))


@pytest.fixture
def long_call(people):
    """A call of alice and bob, with 5,000 changes, 5,000 refusals, and 5,000 other people in it."""
    alice, bob, began = people["alice"], people["bob"], timezone.now() - dt.timedelta(hours=2)
    call = Call.objects.create(
        id=uuid.uuid4(), v=MANY, kind="audio", state="active", host=alice, placed_at=began, answered_at=began
    )
    users = get_user_model()._default_manager
    others = users.bulk_create([get_user_model()(username=f"other-{n}") for n in range(MANY)])
    legs = [Leg(call=call, user=alice, username="alice", name="Alice", dir="out", state="joined", device_name="Web")]
    legs += [
        Leg(call=call, user=user, username=user.username, name=user.username, dir="in", state="joined",
            device_name=f"Device {MANY}" if user == bob else "")
        for user in (bob, *others)
    ]  # fmt: skip
    Leg.objects.bulk_create(legs)
    callee = machine.Callee(str(bob.pk), "bob", "Bob", True, None, True, True, 0, 1)
    invite = machine.Invite(call.pk, seat(alice, 1), "alice", "Alice", True, 0, 1, (callee,) * 200, "audio", 45)
    commands = [invite, machine.Answer(seat(bob, 2))]
    commands += [
        machine.Move(seat(bob, n)) if n % 2 else machine.Media(seat(bob, n), True, False) for n in range(3, MANY + 1)
    ]
    at = [began + dt.timedelta(seconds=n) for n in range(MANY)]
    Entry.objects.bulk_create(
        [Entry(call=call, v=n + 1, at=at[n], command=msgspec.to_builtins(each)) for n, each in enumerate(commands)]
    )
    Refusal.objects.bulk_create(
        [Refusal(call=call.pk, user=bob, device_name="Tablet", command="Move", code="in_call", at=when, times=2)
         for when in at]
    )  # fmt: skip
    return call


def asked(client, path):
    """What a page says; it is short, quick, and takes few statements."""
    client.get("/admin/")  # what is remembered from one page to the next is
    began = time.process_time()
    with CaptureQueriesContext(connection) as captured:
        said = client.get(path)
    took = time.process_time() - began
    assert said.status_code == 200
    assert len(said.content) < PAGE_BYTES
    assert took < CPU_S
    assert len(captured) <= STATEMENTS, [query["sql"][:200] for query in captured.captured_queries]
    return said.content.decode()


def words_of(page):
    return re.findall(r'<span class="words">([^<]+)</span>', page)


def changes_of(page):
    """Versions of the changes that a page tells, by the seconds after the call was placed."""
    found = re.findall(r'<li><time>.*?class="after">\+(\d+) ms', page, re.DOTALL)
    return [int(ms) // 1000 + 1 for ms in found]


def test_the_page_of_a_long_call_tells_its_beginning_and_its_end(people, long_call):
    client, path = browser_in_role(people["dave"], "viewer"), f"/admin/calls/call/{long_call.pk}/change/"
    page = asked(client, path)
    assert changes_of(page) == [*range(1, story.FIRST + 1), *range(MANY - story.LAST + 1, MANY + 1)]
    assert words_of(page)[0] == "alice called bob, bob, bob, bob, bob and others from Device 1"
    assert f"bob continued on Device {MANY - 1}" in words_of(page)
    assert "4,800 more changes: read all of them in 25 parts" in page
    assert "bob tried to continue the call on Tablet: refused" in page
    assert "… 4,952 more" in page  # legs
    moved = "Device 2, moved to Device 3, then Device 5, then Device 7, then Device 9, then …, then Device 49, then …"
    assert f"<dd>{moved}, then Device {MANY}</dd>" in page
    assert page.count("other-") <= 60


def test_the_whole_story_is_read_in_parts_without_a_gap_or_a_repetition(people, long_call):
    client, path = browser_in_role(people["dave"], "viewer"), f"/admin/calls/call/{long_call.pk}/change/"
    told, refused = [], 0
    for number in (1, 2, 3, 24, 25):
        page = asked(client, f"{path}?p={number}")
        assert f"Part {number} of 25" in page
        told += changes_of(page)
        refused += page.count('class="refused"')
    assert told == [*range(1, 601), *range(MANY - 399, MANY + 1)]
    assert refused == 1000
    for odd in ("0", "26", "999999999", "9" * 5000, "-1", "x", "²", ""):
        assert client.get(f"{path}?p={odd}").status_code == 200, odd


def test_a_short_call_is_told_whole(people):
    began = timezone.now()
    call = Call.objects.create(id=uuid.uuid4(), v=3, kind="audio", state="active", host=people["bob"], placed_at=began)
    Leg.objects.create(call=call, user=people["bob"], username="bob", name="Bob", dir="out", state="joined")
    for n in range(3):
        command = msgspec.to_builtins(machine.Media(seat(people["bob"], 1), True, bool(n)))
        Entry.objects.create(call=call, v=n + 1, at=began + dt.timedelta(seconds=n), command=command)
    page = asked(browser_of(people["operator"]), f"/admin/calls/call/{call.pk}/change/")
    assert len(words_of(page)) == 3
    assert "more changes" not in page and "Part " not in page


def test_the_list_of_calls_reads_little_of_each(people, long_call):
    client = browser_in_role(people["dave"], "viewer")
    page = asked(client, "/admin/calls/call/")
    assert len(page) < 100_000
    assert "alice → bob, other-0, other-1, other-2, other-3 and others" in page
    assert f"then …, then Device {MANY}<" in page
    exported = saved(client.post("/admin/calls/call/export/", {"format": "0"})).decode()
    assert len(exported) < 10_000
    assert "other-5" in exported and " and others" in exported


def test_no_list_and_no_page_grows_with_what_belongs_to_its_rows(people, long_call):
    now, bob = timezone.now(), people["bob"]
    when = {"logged_in_at": now, "last_seen_at": now, "online_until": now}
    Device.objects.bulk_create([Device(user=bob, name=f"Phone {n}", **when) for n in range(MANY)])
    Line.objects.filter(user=bob).update(favourites=[str(n) for n in range(MANY)])
    line = Line.objects.get(user=bob)
    line.favourites = [str(n) for n in range(MANY + 1)]
    line.save()
    client = browser_of(people["operator"])
    for path in (
        "devices/device/", "devices/device/?all=1", "devices/line/", f"devices/line/{bob.pk}/change/",
        f"devices/line/{bob.pk}/history/", "auditlog/logentry/", "auth/user/", f"auth/user/{bob.pk}/change/",
        f"auth/user/{bob.pk}/delete/", f"calls/call/{long_call.pk}/history/", "calls/call/?q=bob", "wallboard/",
    ):  # fmt: skip
        asked(client, f"/admin/{path}")


def test_the_page_before_an_account_is_deleted_names_no_list_of_what_goes_with_it(people):
    client, carol, now = browser_of(people["operator"]), people["carol"], timezone.now()
    when = {"logged_in_at": now, "last_seen_at": now, "online_until": now}
    Device.objects.bulk_create([Device(user=carol, name=f"Phone {n}", **when) for n in range(300)])
    page = asked(client, f"/admin/auth/user/{carol.pk}/delete/")
    assert "carol" in page and "Phone " not in page
