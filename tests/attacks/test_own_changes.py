"""A user switches, renames and hides without end: it fills no log, and it is bounded."""

import json
import uuid
from types import SimpleNamespace

import pytest
from auditlog.models import LogEntry
from django.test import Client
from django.utils import timezone

from calls import allowance, switchboard
from devices.models import Device, Line

pytestmark = pytest.mark.django_db(transaction=True)

TRIES = 120
NOW = timezone.now()


@pytest.fixture
def asking(people, monkeypatch):
    """Requests of bob's, whose allowance is whole."""
    monkeypatch.setattr(allowance.own_changes, "spent_until", {})
    client = Client()
    client.force_login(people["bob"])

    def ask(path, **body):
        return client.post(path, json.dumps(body), content_type="application/json")

    return ask


def test_do_not_disturb_and_favourites_leave_what_operators_did_in_sight(asking, people):
    switchboard.change_line(people["bob"].pk, max_incoming=3)  # as an operator does it
    for number in range(allowance.AT_ONCE):
        if number % 2:
            answer = asking("/line/dnd/", on=number % 4 == 1)
        else:
            answer = asking("/line/favourite/", user="alice", on=number % 4 == 0)
        assert answer.status_code == 200
    line = Line.objects.get(user=people["bob"])
    assert (line.dnd, line.favourites) == (False, []), "they are obeyed all the same"
    (entry,) = LogEntry.objects.filter(object_pk=str(people["bob"].pk), changes__has_key="max_incoming")
    newest = LogEntry.objects.filter(object_pk=str(people["bob"].pk)).order_by("-timestamp", "-pk").first()
    assert newest == entry, "and nothing of it is in the log"


async def test_a_switch_of_multi_device_is_not_in_the_log_and_is_bounded(page, people, monkeypatch):
    clock = [0.0]  # the next change is allowed when the test says that a second has gone by
    monkeypatch.setattr(allowance, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr(allowance.own_changes, "spent_until", {})
    await Line.objects.filter(user=people["bob"]).aupdate(may_switch=True)
    before = await LogEntry.objects.acount()
    phone, laptop = await page("bob", "Phone"), await page("bob", "Laptop")
    replies = [await phone.ask("multi_device", on=number % 2 == 0) for number in range(TRIES)]
    done = sum(reply["ok"] for reply in replies)
    assert done == allowance.AT_ONCE
    assert {reply["error"]["code"] for reply in replies if not reply["ok"]} == {"rate_limited"}
    await laptop.ping()
    told = sum(frame["t"] == "line" for frame in laptop.frames)
    assert told == done
    assert await LogEntry.objects.acount() == before
    assert (await laptop.ask("multi_device", on=True))["error"]["code"] == "rate_limited", "of a user, not of a socket"
    retry_ms = (await laptop.ask("multi_device", on=True))["error"]["retry_ms"]
    clock[0] += retry_ms / 1000
    assert (await laptop.ask("multi_device", on=True))["ok"]


@pytest.mark.parametrize("path", ["/line/dnd/", "/line/favourite/", "/devices/rename/", "/devices/push/",
                                  "/history/hide/", "/history/seen/"])  # fmt: skip
def test_every_change_over_http_is_bounded(asking, people, path):
    device = Device.objects.create(
        user=people["bob"], name="Phone", logged_in_at=NOW, last_seen_at=NOW, online_until=NOW
    )
    body = {
        "/line/dnd/": {"on": True},
        "/line/favourite/": {"user": "alice", "on": True},
        "/devices/rename/": {"id": str(device.pk), "name": "Kitchen"},
        "/devices/push/": {"id": str(device.pk), "subscription": None},
        "/history/hide/": {"ids": None},
        "/history/seen/": {"until": NOW.isoformat()},
    }[path]
    answers = [asking(path, **body) for _ in range(TRIES)]
    codes = [answer.status_code for answer in answers]
    assert codes[: allowance.AT_ONCE] == [200] * allowance.AT_ONCE
    assert codes.count(429) > TRIES / 4
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert refused.json() == {"error": "Too many changes. Try again in a moment."} and refused["Retry-After"] == "1"
    assert asking("/devices/sign-out/", id=str(device.pk)).status_code == 200, "signing out is never refused for this"


def test_an_allowance_forgets_those_who_have_theirs_back(monkeypatch):
    monkeypatch.setattr(allowance, "KEPT", 10)
    one = allowance.Allowance()
    one.spent_until = {str(uuid.uuid4()): 0.0 for _ in range(10)}
    one.spend("bob")
    assert list(one.spent_until) == ["bob"]
