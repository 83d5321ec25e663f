"""The operator's panel through HTTP: lists of any length, bulk changes, stories, roles, changes, files, groups."""

import csv
import datetime as dt
import gc
import html
import io
import re
import time
import tracemalloc
import uuid
import zipfile
from typing import get_args
from urllib.parse import urlencode

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from auditlog.models import LogEntry
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group, Permission
from django.core.files.uploadedfile import SimpleUploadedFile
from django.core.management import call_command
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from openpyxl import Workbook, load_workbook

from calls import machine, protocol, switchboard
from calls.admin import story
from calls.after import refusals
from calls.models import Call, Leg, Refusal
from devices.models import Device, Line, LineGroup
from tests.panel_kit import browser_in_role, browser_of, saved, upload, workbook

pytestmark = pytest.mark.django_db(transaction=True)

LISTS = ("devices/line/", "devices/linegroup/", "devices/device/", "calls/call/", "auditlog/logentry/", "auth/user/")


@pytest.fixture
def operator(people):
    return browser_of(people["operator"])


@pytest.fixture
def in_role(people):
    def sign_in(role, name="dave"):
        return browser_in_role(people[name], role)

    return sign_in


@pytest.fixture
async def ask(operator):
    """What the operator's browser gets from a path of the admin; with data, what it gets for posting them."""

    def request(path, data):
        if data is None:
            return operator.get(f"/admin/{path}", follow=True)
        return operator.post(f"/admin/{path}", data, follow=True)

    async def get(path, **data):
        response = await sync_to_async(request)(path, data or None)
        assert response.status_code == 200, response
        return response.content.decode()

    return get


async def a_call(page, caller="alice", callee="bob", answered=True):
    """A call of the two: its id, and both pages."""
    one, other = await page(caller), await page(callee, "Phone")
    call = (await one.invite(callee))["call"]["id"]
    await other.sees(call)
    if answered:
        await other.ask("answer", call=call)
    return call, one, other


# ── lists ──


def test_each_input_of_the_list_of_lines_says_what_it_is_and_whose(operator, people):
    listed = operator.get("/admin/devices/line/?q=bob").content.decode()
    named = dict(re.findall(r'<input (?=[^>]*name="form-0-(\w+)")[^>]*aria-label="([^"]+)"', listed))
    assert named == {
        "max_incoming": "Incoming calls of bob", "max_outgoing": "Outgoing calls of bob",
        "multi_device": "Multi-device of bob", "may_switch": "Whether bob may switch multi-device",
    }  # fmt: skip
    described = re.findall(r'aria-describedby="([^"]+)"', listed)
    assert [each for each in described if f'id="{each}"' not in listed] == []


@pytest.mark.parametrize("path", LISTS)
def test_a_list_costs_the_same_number_of_queries_whatever_its_length(operator, people, path):
    def queries():
        with CaptureQueriesContext(connection) as captured:
            assert operator.get(f"/admin/{path}").status_code == 200
        return len(captured)

    def more(number):
        users = [get_user_model()(username=f"user{number}-{n}") for n in range(number)]
        users = get_user_model()._default_manager.bulk_create(users)
        group, _ = LineGroup.objects.get_or_create(name="Sales")
        Line.objects.bulk_create([Line(user=user, group=group) for user in users])
        now = timezone.now()
        Device.objects.bulk_create(
            [Device(user=user, name="Phone", logged_in_at=now, last_seen_at=now, online_until=now) for user in users]
        )
        for one, other in zip(users[::2], users[1::2], strict=True):
            seat = machine.Seat(str(one.pk), Device.objects.get(user=one).pk, "Phone", Device.objects.get(user=one).pk)
            placed = switchboard.place(one, seat, seat.page, [other.username], "audio", None, 45)
            assert placed.refused is None
            line = Line.objects.get(pk=one.pk)
            line.max_incoming = 3
            line.save()

    assert "_facets" not in operator.get(f"/admin/{path}").content.decode()
    more(4)
    operator.get(f"/admin/{path}")  # content types and the like are remembered from here on
    few = queries()
    more(20)
    assert queries() == few <= 14


def test_the_lists_page_says_when_it_stopped_counting(operator, people, monkeypatch):
    monkeypatch.setattr("calls.admin.base.MAX_COUNTED", 2)
    Line.make([user.pk for user in people.values()])
    assert "more than 2 lines" in operator.get("/admin/devices/line/").content.decode()


def test_lines_are_found_by_who_has_them_and_what_they_do(operator, people):
    Line.make([user.pk for user in people.values()])
    people["carol"].first_name, people["carol"].last_name = "Carol", "Danvers"
    people["carol"].save()
    now = timezone.now()
    later = now + dt.timedelta(minutes=5)
    Device.objects.create(user=people["dave"], name="Web", logged_in_at=now, last_seen_at=now, online_until=later)

    def found(query):
        text = operator.get(f"/admin/devices/line/?{query}").content.decode()
        return re.findall(r'field-person"><a[^>]*>([^<(]+?)(?: \(|<)', text)

    assert found("") == ["alice", "bob", "carol", "dave", "operator"]
    assert found("q=danvers") == ["carol"]
    assert found("multi_device__exact=1") == ["bob"]
    assert found("devices=online") == ["dave"]
    assert found("devices=none") == ["alice", "bob", "carol", "operator"]
    Line.objects.filter(user=people["dave"]).update(dnd=True)
    assert found("dnd__exact=1") == ["dave"]
    assert "do not disturb</span>" in operator.get("/admin/devices/line/").content.decode()
    page = operator.get(f"/admin/devices/line/{people['dave'].pk}/change/").content.decode()
    assert "Do not disturb is on: only 0 favourites can ring it" in page


async def test_a_line_above_its_limit_is_found(ask, page, people):
    await a_call(page)
    assert "bob" not in re.findall(r'field-person"><a[^>]*>(\w+)', await ask("devices/line/?live=over"))
    assert re.findall(r'field-person"><a[^>]*>(\w+)', await ask("devices/line/?live=at")) == ["alice", "bob"]
    await sync_to_async(switchboard.change_line)(people["bob"].pk, max_incoming=0)
    assert re.findall(r'field-person"><a[^>]*>(\w+)', await ask("devices/line/?live=over")) == ["bob"]
    assert re.findall(r'field-person"><a[^>]*>(\w+)', await ask("devices/line/?live=none&q=carol")) == []


async def test_live_calls_come_first_and_calls_are_found_by_person_kind_and_id(ask, page):
    live, *_ = await a_call(page)
    carol, _ = await page("carol"), await page("dave")
    ended = (await carol.invite("dave", kind="video"))["call"]["id"]
    await carol.ask("hangup", call=ended)

    async def found(query):
        return re.findall(r"/admin/calls/call/([0-9a-f-]{36})/change/", await ask(f"calls/call/?{query}"))

    assert await found("") == [live, ended]
    assert await found("state=live") == [live]
    assert await found("reason=cancelled") == [ended]
    assert await found("kind=video") == [ended]
    assert await found("q=bob") == [live]
    assert await found(f"q={ended}") == [ended]
    assert await found("placed=hour") == [live, ended]


def test_the_panel_is_in_english_whatever_the_browser_prefers(operator, people):
    text = operator.get("/admin/devices/line/", headers={"Accept-Language": "de"}).content.decode()
    assert 'lang="en"' in text
    assert "Log out" in text
    assert "Abmelden" not in text
    assert 'lang="de"' in operator.get("/", headers={"Accept-Language": "de"}).content.decode()


# ── deleting a person ──


async def test_a_person_who_was_in_calls_is_erased_and_the_calls_stay(ask, page, people):
    call, alice, _ = await a_call(page, "alice", "bob")
    erase = f"auth/user/{people['bob'].pk}/delete/"
    assert "bob is called or in a call: end that call first" in await ask(erase)
    await ask(erase, post="yes")
    assert (await get_user_model().objects.aget(pk=people["bob"].pk)).get_username() == "bob"
    await alice.ask("hangup", call=call)
    page_before = await ask(erase)
    assert "What goes" in page_before and "What stays" in page_before
    await ask(erase, post="yes")
    shell = await get_user_model().objects.aget(pk=people["bob"].pk)
    assert (shell.get_username(), shell.is_active) == (f"erased-{shell.pk}", False)
    assert not await Device.objects.filter(user=shell).aexists()
    assert "bob" not in await ask(f"calls/call/{call}/change/")
    change = await LogEntry.objects.filter(object_pk=str(shell.pk), content_type__model="user").alatest("pk")
    assert change.changes == {"erased": ["", "yes"]} and "bob" not in change.object_repr


async def test_a_person_who_was_in_no_call_is_gone_and_many_go_at_once(ask, page, people):
    dave = await page("dave")
    call, alice, _ = await a_call(page, "alice", "bob")
    await alice.ask("hangup", call=call)
    chosen = {"action": "delete_selected", "_selected_action": [people[name].pk for name in ("carol", "dave", "bob")]}
    confirm = await ask("auth/user/", **chosen)
    assert "carol" in confirm and "dave" in confirm
    await ask("auth/user/", **chosen, post="yes")
    left = get_user_model().objects.filter(pk__in=chosen["_selected_action"])
    assert [user.get_username() async for user in left] == [f"erased-{people['bob'].pk}"]
    assert await dave.closed() == 4401


# ── many at once ──


async def test_limits_and_multi_device_are_changed_on_many_lines_at_once(ask, page, people):
    bob = await page("bob")
    await sync_to_async(Line.make)([people["carol"].pk])
    chosen = {"action": "change_many", "_selected_action": [people["bob"].pk, people["carol"].pk]}
    form = await ask("devices/line/", **chosen)
    assert "Change 2 lines" in form
    assert "Nothing is to be changed" in await ask("devices/line/", **chosen, apply="1")
    unsaid = await ask("devices/line/", **chosen, apply="1", max_incoming="set")
    assert "Say how many calls at a time." in unsaid
    done = await ask(
        "devices/line/", **chosen, apply="1", max_incoming="set", max_incoming_number=3, multi_device="off"
    )
    assert "2 lines changed." in done
    assert (await bob.until(lambda frame: frame["t"] == "line"))["line"]["max_incoming"] == 3
    lines = [line async for line in Line.objects.filter(user__in=[people["bob"], people["carol"]])]
    assert [(line.max_incoming, line.multi_device, line.max_outgoing) for line in lines] == [(3, False, None)] * 2
    unsaid = await ask("devices/line/", **chosen, apply="1", max_legs="set")
    assert "Say how many people in one call." in unsaid
    await ask("devices/line/", **chosen, apply="1", max_legs="set", max_legs_number=4, may_transfer="off")
    lines = [line async for line in Line.objects.filter(user__in=[people["bob"], people["carol"]])]
    assert [(line.max_legs, line.may_transfer, line.max_incoming) for line in lines] == [(4, False, 3)] * 2
    await ask("devices/line/", **chosen, apply="1", max_legs="inherit", may_transfer="inherit")
    lines = [line async for line in Line.objects.filter(user__in=[people["bob"], people["carol"]])]
    assert [(line.max_legs, line.may_transfer) for line in lines] == [(None, None)] * 2


@pytest.mark.parametrize("path", ["devices/device/", "devices/line/"])
async def test_all_devices_of_a_user_are_signed_out_together(ask, page, people, path):
    phone, laptop, other = await page("bob", "Phone"), await page("bob", "Laptop"), await page("alice")
    chosen = {"devices/device/": phone.device, "devices/line/": people["bob"].pk}[path]
    said = await ask(path, action="sign_out_all", _selected_action=[chosen])
    assert re.search(r"2 (of 1 user )?signed out\.", said)
    assert [await phone.closed(1), await laptop.closed(1)] == [4401, 4401]
    assert (await other.ping())["t"] == "pong"


async def test_a_device_shows_where_it_came_from(ask, page):
    await page("bob", "Phone")
    await Device.objects.aupdate(address="192.0.2.7")
    assert "192.0.2.7" in await ask("devices/device/?q=192.0.2")


# ── one call ──


async def test_refused_commands_are_in_the_story(ask, page):
    call, _alice, phone = await a_call(page)
    laptop = await page("bob", "Laptop")
    refused = await laptop.ask("answer", call=call)
    assert refused["error"]["code"] == "answered_elsewhere"
    await laptop.ask("answer", call=call)
    await sync_to_async(refusals.write)()
    text = await ask(f"calls/call/{call}/change/")
    words = re.findall(r'<span class="words">([^<]+)</span>', text)
    assert words[-1] == ("bob tried to answer on Laptop: refused, it had been answered on another device (2 times)")
    assert words[:2] == ["alice called bob from Laptop", "bob answered on Phone"]
    assert await Refusal.objects.filter(call=call).acount() == 1
    await phone.ask("hangup", call=call)


async def test_a_call_that_was_moved_names_the_device_that_answered_and_where_it_went(ask, page, people):
    async def listed(state):
        return re.findall(r'field-answered_on">([^<]+)<', await ask(f"calls/call/?state={state}"))

    await sync_to_async(switchboard.change_line)(people["alice"].pk, multi_device=True)
    call, _alice, phone = await a_call(page, answered=False)
    laptop = await page("bob", "Laptop")
    assert await listed("live") == ["–"]
    await phone.ask("answer", call=call)
    assert await listed("live") == ["Phone"]
    await phone.close()
    back = await page("bob", "Phone", device=phone.device, signed_in=phone.signed_in)
    assert (await back.ask("move", call=call))["ok"]  # a reload: the same device
    desk = await page("alice", "Desk")
    assert (await desk.ask("move", call=call))["ok"]  # who called answered nothing
    assert await listed("live") == ["Phone"]
    assert (await laptop.ask("move", call=call))["ok"]
    assert await listed("live") == ["Phone, moved to Laptop"]
    await desk.ask("hangup", call=call)
    assert await listed("ended") == ["Phone, moved to Laptop"]
    text = await ask(f"calls/call/{call}/change/")
    assert "<dt>Answered on</dt><dd>Phone, moved to Laptop</dd>" in text
    story = re.findall(r'<span class="words">([^<]+)</span>', text)
    assert story == [
        "alice called bob from Laptop", "bob answered on Phone", "bob continued on Phone", "alice continued on Desk",
        "bob continued on Laptop", "alice hung up on Desk",
    ]  # fmt: skip


async def test_nobody_fills_the_log_by_asking_in_vain(page, monkeypatch):
    monkeypatch.setattr(refusals, "MAX_A_CALL", 3)
    call, *_ = await a_call(page, answered=False)
    for number in range(5):
        stranger = await page("bob", f"Device {number}")
        await stranger.ask("move", call=call)
        await sync_to_async(refusals.write)()
    assert await Refusal.objects.filter(call=call).acount() == 3


async def test_a_call_is_ended_with_a_reason_that_both_sides_read(ask, page):
    call, alice, bob = await a_call(page)
    text = await ask(f"calls/call/{call}/end/", note="Maintenance in five minutes")
    assert "everybody in it was told" in text
    assert "The operator’s reason" in text
    for person in (alice, bob):
        seen = await person.sees(call, state="ended", reason="operator")
        assert seen["note"] == "Maintenance in five minutes"
    assert "had ended before" in await ask(f"calls/call/{call}/end/", note="again")
    changes = await ask("auditlog/logentry/?what=call")
    assert "active → ended" in changes


async def test_a_call_of_several_is_found_told_and_somebody_is_taken_out_of_it(ask, page, people):
    await sync_to_async(switchboard.change_line)(people["alice"].pk, max_outgoing=2)
    alice, bob, carol, dave = [await page(name) for name in ("alice", "bob", "carol", "dave")]
    two = (await dave.invite("alice"))["call"]["id"]
    await dave.ask("hangup", call=two)
    call = str(uuid.uuid4())
    await alice.ask("invite", call=call, to=["bob", "carol"], kind="audio")
    for each in (bob, carol):
        await each.sees(call)
        await each.ask("answer", call=call)
    await bob.ask("hold", call=call, on=True)
    await bob.ask("add", call=call, to=["dave"])
    listed = await ask("calls/call/?people=group")
    assert "alice → bob, carol, dave" in listed and two not in listed
    assert two in await ask("calls/call/?people=two")
    leg = await Leg.objects.aget(call=call, user=people["carol"])
    shown = await ask(f"calls/call/{call}/remove/", leg=leg.pk)
    assert "The call goes on without carol" in shown
    await carol.sees(call, me={"state": "removed"})
    await alice.ask("transfer", call=call, to="carol")
    await carol.sees(call, me={"state": "ringing"})
    await carol.ask("answer", call=call)
    text = re.sub(r"<[^>]+>", "", html.unescape(await ask(f"calls/call/{call}/change/")))
    for sentence in (
        "alice called bob, carol from Laptop", "bob held the call on Laptop", "bob added dave on Laptop",
        "operator (operator) removed carol", "alice asked carol to take the call over, on Laptop",
        "carol answered on Laptop", "joined (held)", "left (transferred)", "4, at most 9 at a time; host bob",
    ):  # fmt: skip
        assert sentence in text, sentence
    change = await LogEntry.objects.filter(object_pk=call).alatest("pk")
    assert change.changes == {"removed": ["", f"user {people['carol'].pk}"]}
    other = await Leg.objects.filter(call=two).afirst()
    assert "dave was not in the call any more" in (await ask(f"calls/call/{two}/remove/", leg=other.pk)).lower()


async def test_the_operator_calls_one_more_person_into_a_live_call(ask, page, people):
    alice, bob, carol = [await page(name) for name in ("alice", "bob", "carol")]
    call = (await alice.invite("bob"))["call"]["id"]
    await bob.sees(call)
    await bob.ask("answer", call=call)
    assert "by user name" in await ask(f"calls/call/{call}/change/")
    add = f"calls/call/{call}/ring/"
    assert "Say the user name" in await ask(add, user="")
    assert "no active person with the user name nobody" in await ask(add, user="nobody")
    assert "Bob is in the call already" in await ask(add, user="bob")
    assert "Carol is called into the call" in await ask(add, user="carol")
    await carol.sees(call, me={"state": "ringing"})
    change = await LogEntry.objects.filter(object_pk=call).alatest("pk")
    assert change.changes == {"added": ["", f"user {people['carol'].pk}"]}
    await sync_to_async(switchboard.change_line)(people["dave"].pk, max_incoming=0)
    assert "Dave was not rung: busy" in await ask(add, user="dave")
    await alice.ask("end", call=call)
    assert "The call had ended before" in await ask(add, user="carol")


async def test_calls_are_found_by_two_people_and_by_days(ask, page, people):
    await sync_to_async(get_user_model().objects.filter(username="bob").update)(first_name="Bob", last_name="van Dyk")
    alice, bob, carol = [await page(name) for name in ("alice", "bob", "carol")]

    async def call(caller, callee):
        id = (await caller.invite(callee.user))["call"]["id"]
        await caller.ask("hangup", call=id)
        return id

    between, back, other = await call(alice, bob), await call(bob, alice), await call(carol, bob)
    for words in ("alice bob", "bob  alice", "ali van dyk", "bob van dyk alice"):
        listed = await ask("calls/call/?" + urlencode({"q": words}))
        assert between in listed and back in listed and other not in listed, words
    assert other in await ask("calls/call/?q=bob+dyk"), "the name of one person"
    for words in ("alice dave", "alice bob carol dave erin", "alice nobody"):
        assert "0 calls" in await ask("calls/call/?" + urlencode({"q": words})), words

    await Call.objects.filter(pk=between).aupdate(placed_at="2026-03-03T23:59:59Z")
    await Call.objects.filter(pk=back).aupdate(placed_at="2026-03-04T00:00:00Z")
    one_day = await ask("calls/call/?from=2026-03-03&until=2026-03-03&state=ended")
    assert between in one_day and back not in one_day and other not in one_day
    assert 'value="2026-03-03"' in one_day and '<input type="hidden" name="state" value="ended">' in one_day
    since = await ask("calls/call/?from=2026-03-04&q=alice+bob")
    assert back in since and between not in since and 'name="q" value="alice bob"' in since
    assert between not in await ask("calls/call/?until=2026-03-02")
    wrong = await ask("calls/call/?from=last+Tuesday")
    assert other in wrong, "the list without the filter"


async def test_calls_that_were_brought_together_tell_where_they_went(ask, page, people):
    await sync_to_async(switchboard.change_line)(people["alice"].pk, max_outgoing=2)
    alice, bob, carol = [await page(name) for name in ("alice", "bob", "carol")]
    first = (await alice.invite("bob"))["call"]["id"]
    await bob.sees(first)
    await bob.ask("answer", call=first)
    second = (await alice.invite("carol", **{"and": {"call": first, "do": "hold"}}))["call"]["id"]
    await carol.sees(second)
    await carol.ask("answer", call=second)
    assert (await alice.ask("transfer", call=first, **{"with": second}))["ok"]
    stays, went = await ask(f"calls/call/{first}/change/"), await ask(f"calls/call/{second}/change/")
    assert f"alice transferred the call to carol, from another call ({second}), on Laptop" in html.unescape(stays)
    assert f"alice brought this call into another one ({first}) on Laptop" in html.unescape(went)
    assert "Brought into another call" in went
    assert "alice → bob, carol" in await ask(f"calls/call/?q={first}")


async def test_a_line_says_how_many_people_and_whether_it_may_transfer(ask, people):
    await sync_to_async(Line.make)([people["alice"].pk])
    sales = await LineGroup.objects.acreate(name="Sales", max_legs=4, may_transfer=False)
    await Line.objects.filter(user=people["alice"]).aupdate(group=sales)
    text = await ask(f"devices/line/{people['alice'].pk}/change/")
    assert "4 people in one call, says its group." in text and "May not transfer calls, says its group." in text
    assert 'placeholder="4"' in text


def test_people_in_a_call_and_transfers_come_from_a_file(operator, people):
    file = "user,max_legs,may_transfer\nalice,4,0\nbob,,\ncarol,2,yes\n"
    confirm(operator, upload(operator, file))
    lines = {line.user.get_username(): (line.max_legs, line.may_transfer) for line in Line.objects.all()}
    assert lines == {"alice": (4, False), "bob": (None, None), "carol": (2, True)}
    text = html.unescape(upload(operator, "user,max_legs,may_transfer\nalice,1,perhaps\n").content.decode())
    assert "'perhaps' is neither yes nor no" in text and "greater than or equal to 2" in text


def test_every_reason_has_words():
    assert set(story.TOLD) <= set(protocol.MESSAGES)
    assert set(story.REASONS) == set(get_args(machine.Reason))


# ── roles ──


def rows_of(response):
    return list(csv.DictReader(io.StringIO(saved(response).decode())))


async def test_a_viewer_sees_everything_and_changes_nothing(in_role, page, people):
    viewer = await sync_to_async(in_role)("viewer")
    call, _alice, phone = await a_call(page)
    line = people["bob"].pk

    def walk():
        for path in ("devices/line/", "devices/linegroup/", "devices/device/", "calls/call/",
                     f"devices/line/{line}/change/", f"calls/call/{call}/change/"):  # fmt: skip
            text = viewer.get(f"/admin/{path}").content.decode()
            assert 'name="_save"' not in text, path
            assert "End the call" not in text, path
            assert 'name="action"' not in text, path
        for path in ("auditlog/logentry/", "auth/user/", "devices/line/import/"):
            assert viewer.get(f"/admin/{path}").status_code == 403, path
        posts = {
            "devices/line/": {"form-TOTAL_FORMS": 1, "form-INITIAL_FORMS": 1, "_save": "Save", "form-0-user": line,
                              "form-0-max_incoming": 9},
            f"devices/line/{line}/change/": {"max_incoming": 9},
            f"calls/call/{call}/end/": {"note": "x"},
            "devices/line/import/": {},
            "devices/line/process_import/": {"format": "0", "import_file_name": "x", "original_file_name": "x"},
            f"devices/device/{phone.device}/change/": {"name": "Mine"},
            f"auth/user/{people['dave'].pk}/change/": {"username": "dave", "is_superuser": "on"},
            "auth/user/add/": {"username": "mine", "password1": "long enough", "password2": "long enough"},
            "devices/linegroup/add/": {"name": "Mine"},
        }  # fmt: skip
        for path, data in posts.items():
            assert viewer.post(f"/admin/{path}", data).status_code in (302, 403), path
        for path, action, key in (
            ("devices/line/", "change_many", line), ("devices/line/", "sign_out_all", line),
            ("devices/device/", "sign_out", phone.device), ("devices/device/", "sign_out_all", phone.device),
            ("calls/call/", "end_call", call),
        ):  # fmt: skip
            viewer.post(
                f"/admin/{path}", {"action": action, "_selected_action": [key], "apply": "1", "multi_device": "off"}
            )
        assert Line.objects.get(pk=line).max_incoming is None
        assert Line.objects.get(pk=line).multi_device
        assert Call.objects.get(pk=call).state == "active"
        assert not LineGroup.objects.exists()
        assert Device.objects.get(pk=phone.device).name == "Phone"
        people["dave"].refresh_from_db()
        assert not people["dave"].is_superuser
        assert not get_user_model()._default_manager.filter(username="mine").exists()

    await sync_to_async(walk)()
    assert (await phone.ping())["t"] == "pong"


def test_a_viewer_sees_the_limits_that_hold_and_whether_they_are_inherited(in_role, people):
    group = LineGroup.objects.create(name="Sales", max_incoming=2)
    Line.objects.filter(user=people["bob"]).update(group=group, max_outgoing=5)
    viewer, key = in_role("viewer"), people["bob"].pk
    listed = viewer.get("/admin/devices/line/?q=bob&o=4.5").content.decode()
    assert re.findall(r'<td class="field-(\w+)_limit">([^<]+)</td>', listed) == [
        ("incoming", "2 (inherited)"), ("outgoing", "5"),
    ]  # fmt: skip
    page = viewer.get(f"/admin/devices/line/{key}/change/").content.decode()
    assert re.findall(r'<div class="readonly">([^<]*)</div>', page.partition("Limits")[2])[:2] == ["2 (inherited)", "5"]
    groups = viewer.get("/admin/devices/linegroup/").content.decode()
    assert re.findall(r'<td class="field-(\w+)_limit">([^<]+)</td>', groups) == [
        ("incoming", "2"), ("outgoing", "1 (inherited)"), ("people", "9 (inherited)"),
    ]  # fmt: skip
    operator = in_role("operator", "alice")
    assert "1 (inherited)" in operator.get(f"/admin/devices/linegroup/{group.pk}/change/").content.decode()
    assert 'name="form-0-max_incoming"' in operator.get("/admin/devices/line/?q=bob").content.decode()
    assert 'name="max_incoming"' in operator.get(f"/admin/devices/line/{key}/change/").content.decode()


async def test_who_changed_what_is_for_operators_and_above_on_every_page(in_role, page, people):
    call, _alice, phone = await a_call(page)

    def look():
        group = LineGroup.objects.create(name="Sales")
        viewer, operator = in_role("viewer"), in_role("operator", "carol")
        bob = f"devices/line/{people['bob'].pk}"
        for path in (bob, f"devices/linegroup/{group.pk}", f"devices/device/{phone.device}", f"calls/call/{call}"):
            assert viewer.get(f"/admin/{path}/history/").status_code == 403, path
            assert "/history/" not in viewer.get(f"/admin/{path}/change/").content.decode(), path
            assert operator.get(f"/admin/{path}/history/").status_code == 200, path
        assert "/history/" in operator.get(f"/admin/{bob}/change/").content.decode()

    await sync_to_async(look)()


def test_staff_without_a_role_see_nothing_and_save_nothing(people):
    people["dave"].is_staff = True
    people["dave"].save()
    nobody = browser_of(people["dave"])
    for path in LISTS:
        assert nobody.get(f"/admin/{path}").status_code == 403, path
        if path != "auth/user/":
            assert nobody.post(f"/admin/{path}export/", {"format": "0"}).status_code == 403, path


def test_an_operator_changes_lines_and_sees_who_did_but_no_accounts(in_role, people):
    operator = in_role("operator")
    for path in ("devices/line/", "auditlog/logentry/", "devices/line/import/"):
        assert operator.get(f"/admin/{path}").status_code == 200, path
    for path in ("auth/user/", "auth/user/add/", "auth/group/", "auth/group/add/", "devices/linegroup/add/"):
        assert operator.get(f"/admin/{path}").status_code == 403, path
        assert operator.post(f"/admin/{path}", {"name": "Mine", "username": "mine"}).status_code == 403, path


def test_addresses_of_mail_are_for_those_who_may_see_accounts(in_role, people):
    people["bob"].email = "secret@corp.example"
    people["bob"].save()
    operator = in_role("operator")
    for path in ("devices/line/", "devices/device/", "calls/call/", "auditlog/logentry/"):
        assert ">bob" not in operator.get(f"/admin/{path}?q=secret@corp").content.decode(), path
    assert "corp.example" not in operator.get("/admin/auditlog/logentry/?what=user").content.decode()
    administrator = in_role("administrator", "alice")
    assert ">bob<" in administrator.get("/admin/auth/user/?q=secret@corp").content.decode()
    assert "corp.example" in administrator.get("/admin/auditlog/logentry/?what=user").content.decode()
    for odd in ("what=%00", "what=nonsense"):
        assert operator.get(f"/admin/auditlog/logentry/?{odd}", follow=True).status_code == 200


@pytest.mark.parametrize(
    "question",
    [
        "devices/device/?kind__exact=a%00", "devices/device/?kind=%00", "calls/call/?reason=%00",
        "calls/call/?state=a%00", "auditlog/logentry/?object_repr=%00", "auth/user/?username=%00",
        "calls/call/export/?reason=%00", "devices/line/export/?nonsense=1", "devices/device/?nonsense=1",
    ],
)  # fmt: skip
def test_a_list_that_is_asked_what_it_cannot_be_asked_shows_itself(people, question):
    page = browser_of(people["operator"]).get(f"/admin/{question}", follow=True)
    assert page.status_code == 200 and page.redirect_chain


async def test_an_action_over_more_than_it_takes_says_so_and_does_nothing(page, people, monkeypatch):
    call, alice, bob = await a_call(page)
    monkeypatch.setattr("calls.admin.base.MAX_AT_ONCE", 0)

    def walk():
        operator = browser_of(people["operator"])
        for path, action, key in (
            ("calls/call/", "end_call", call), ("devices/device/", "sign_out", bob.device),
            ("devices/device/", "sign_out_all", bob.device), ("devices/line/", "sign_out_all", people["bob"].pk),
        ):  # fmt: skip
            said = operator.post(f"/admin/{path}", {"action": action, "_selected_action": [str(key)]}, follow=True)
            assert "Nothing was done: that is more than 0 at once." in said.content.decode(), action

    await sync_to_async(walk)()
    for each in (alice, bob):
        assert (await each.ping())["t"] == "pong"
    assert (await Call.objects.aget(pk=call)).state == "active"


async def test_nothing_is_done_for_a_form_of_another_site(page, people):
    call, *_ = await a_call(page)
    tricked = Client(enforce_csrf_checks=True)

    def post():
        tricked.force_login(people["operator"])
        for path in (f"calls/call/{call}/end/", "calls/call/", "devices/device/", "devices/line/",
                     "devices/line/import/", "devices/line/process_import/", "calls/call/export/"):  # fmt: skip
            assert tricked.post(f"/admin/{path}", {"action": "end_call"}).status_code == 403, path
        assert tricked.get(f"/admin/calls/call/{call}/end/").status_code == 403  # nor for a link
        assert Call.objects.get(pk=call).state == "active"

    await sync_to_async(post)()


def test_an_administrator_touches_nobody_who_has_more_by_single_permissions(in_role, people):
    administrator, vip = in_role("administrator"), people["alice"]
    path, words = f"/admin/auth/user/{vip.pk}/password/", {"password1": "a new long one", "password2": "a new long one"}
    vip.is_staff = True
    vip.save()
    vip.user_permissions.add(Permission.objects.get(codename="delete_user"))
    assert administrator.post(path, words).status_code == 403
    vip.refresh_from_db()
    assert not vip.check_password("a new long one")
    vip.user_permissions.set([Permission.objects.get(codename="view_call")])
    assert administrator.post(path, words).status_code == 302
    vip.refresh_from_db()
    assert vip.check_password("a new long one")


def test_an_administrator_gives_roles_but_no_more_than_they_have(in_role, people):
    administrator = in_role("administrator")
    somebody, root = people["alice"], people["operator"]
    page = administrator.get(f"/admin/auth/user/{somebody.pk}/change/").content.decode()
    assert 'name="is_superuser"' not in page
    assert 'name="user_permissions"' not in page
    everything = Group.objects.create(name="everything")
    everything.permissions.set(Permission.objects.all())
    form = {"username": "alice", "is_active": "on", "is_staff": "on", "is_superuser": "on",
            "date_joined_0": "2026-01-01", "date_joined_1": "00:00"}  # fmt: skip
    administrator.post(f"/admin/auth/user/{somebody.pk}/change/", form | {"groups": [everything.pk]})
    viewer = Group.objects.get(name="viewer")
    administrator.post(f"/admin/auth/user/{somebody.pk}/change/", form | {"groups": [viewer.pk]})
    somebody.refresh_from_db()
    assert not somebody.is_superuser
    assert list(somebody.groups.all()) == [viewer]
    administrator.post(f"/admin/auth/user/{root.pk}/change/", {"username": "mine", "is_active": "on"})
    root.refresh_from_db()
    assert root.username == "operator"


# ── who changed what ──


def test_who_changed_what_from_what_to_what_is_kept_and_exported(operator, people):
    line = people["bob"].pk
    form = {"multi_device": "on", "max_incoming": 2, "max_outgoing": "", "group": "", "edition": ""}
    response = operator.post(f"/admin/devices/line/{line}/change/", form)
    assert response.status_code == 302, response.content.decode()
    switchboard.change_line(line, max_incoming=4)  # as the command line does
    text = operator.get("/admin/auditlog/logentry/?what=line").content.decode()
    assert re.search(r"<b>max incoming</b> empty → 2<", text)
    assert re.search(r"<b>max incoming</b> 2 → 4<", text)
    assert re.search(r'field-who">not in the admin<', text)
    exported = operator.post("/admin/auditlog/logentry/export/?what=line", {"format": "0"})
    newest, older = rows_of(exported)[:2]
    assert (newest["who"], newest["changes"]) == ("", "max incoming: 2 → 4")
    assert (older["who"], older["remote_addr"]) == ("operator", "127.0.0.1")
    assert operator.get("/admin/auditlog/logentry/add/").status_code == 403


def test_given_roles_are_kept_too(operator, people):
    call_command("roles", verbosity=0)
    viewer = Group.objects.get(name="viewer")
    form = {"username": "alice", "is_active": "on", "is_staff": "on", "groups": [viewer.pk],
            "date_joined_0": "2026-01-01", "date_joined_1": "00:00"}  # fmt: skip
    operator.post(f"/admin/auth/user/{people['alice'].pk}/change/", form)
    text = operator.get("/admin/auditlog/logentry/?what=user").content.decode()
    assert "added viewer" in text
    assert re.search(r"<b>is staff</b> False → True<", text)


def test_a_changed_password_is_noted_without_any_part_of_it(operator, people):
    people["alice"].set_password("another")
    people["alice"].save()
    text = operator.get("/admin/auditlog/logentry/?what=user").content.decode()
    assert re.search(r"<b>password</b> changed<", text)
    hashed = people["alice"].password
    stored = [str(entry.changes) for entry in LogEntry.objects.all()]
    assert not [changes for changes in stored if hashed[-8:] in changes]


# ── files ──


def said_of(page):
    """What the page says about a file that cannot be read. There is nothing to confirm, and nothing of the insides."""
    text = page.content.decode()
    assert page.status_code == 200
    assert page.context.get("confirm_form") is None
    assert not re.search(r"Traceback|traceback|\w+Error\b|encountered", text)
    return html.unescape(" ".join(re.findall(r"<li>([^<]+)</li>", text.partition('class="errorlist"')[2])))


def confirm(client, page):
    form = page.context["confirm_form"].initial
    return client.post("/admin/devices/line/process_import/", form, follow=True)


def test_a_file_with_bad_rows_changes_nothing_until_it_is_mended(operator, people):
    good = "user,max_incoming,multi_device\nalice,3,1\nbob,2,0\n"
    bad = upload(operator, good + "nobody,1,0\ncarol,many,0\n")
    text = bad.content.decode()
    assert "There is no user" in text
    assert "is not a number of calls" in text
    assert bad.context.get("confirm_form") is None
    assert not Line.objects.filter(user=people["alice"]).exists()
    preview = upload(operator, good + "carol,0,0\n")
    assert "empty → 2" in preview.content.decode()
    assert Line.objects.get(user=people["bob"]).max_incoming is None
    assert "3" in confirm(operator, preview).content.decode()
    found = {line.user.username: (line.max_incoming, line.multi_device) for line in Line.objects.select_related("user")}
    assert found == {"alice": (3, True), "bob": (2, False), "carol": (0, False)}


@pytest.mark.parametrize("file", [
    "user,max_incoming\nbob,4\n".encode("utf-8-sig"),
    b"user;max_incoming\r\nbob;4\r\n",
    '"user";"max_incoming"\n"bob";"4"\n'.encode("utf-8-sig"),
    b"user\tmax_incoming\nbob\t4\n",
    b"\nUser; Max_incoming ;;\n\nbob;4;;\n;;;\n",
    b"user,max_incoming\rbob,4\r",
])  # fmt: skip
def test_lines_come_from_whatever_a_spreadsheet_saves_as_csv(operator, people, file):
    preview = upload(operator, file)
    assert "empty → 4" in preview.content.decode()
    confirm(operator, preview)
    assert Line.objects.get(user=people["bob"]).max_incoming == 4


@pytest.mark.parametrize(("file", "format", "said"), [
    ("name;max_incoming\nbob;4\n", "0",
     "There is no column user, which says whose line each row is. The columns found are: name, max_incoming."),
    ("", "0", "The submitted file is empty"),
    ("\n;;\n", "0", "The file is empty"),
    ("user,group\n,\n", "0", "The file names its columns, and has no lines below."),
    ("user,group\nbob,Büro\n".encode("cp1252"), "0", "Save the file as UTF-8"),
    ("user,group\nbob,Büro\n".encode("utf-16"), "0", "Save the file as UTF-8"),
    ("user,group\nbob,Buro\n".encode("utf-16-le"), "0", "Save the file as UTF-8"),
    ("user\nb\0b\n", "0", "Save the file as UTF-8"),
    ("user,max_incoming\nbob,4\ncarol,1,7\n", "0", "Line 3 has '7' in column 3, which has no name in the header."),
    ("user,,max_incoming\nbob,,4\n\ncarol,7,1\n", "0", "Line 4 has '7' in column 2, which has no name in the header."),
    ('user,group\nbob,"Sales\ncarol,\n', "0", "Line 2 cannot be read as CSV: is a quotation mark not closed?"),
    ([["user"], ["bob"]], "0", "This is a workbook: choose the format xlsx."),
    ([["name"], ["bob"]], "1", "There is no column user"),
    ([["user"], ["bob", 7]], "1", "Line 2 has 7 in column 2, which has no name in the header."),
    ("user,max_incoming\nbob,4\n", "1", "The file could not be read: choose the format that it has, or save it again"),
    (b"PK\x03\x04 and nothing more", "1", "The file could not be read: choose the format that it has"),
])  # fmt: skip
def test_a_file_that_is_no_table_of_lines_is_refused_in_words(operator, people, file, format, said):
    assert said in said_of(upload(operator, workbook(*file) if isinstance(file, list) else file, format))


KNOWN = (
    "Their columns are: user, multi_device, may_switch, max_incoming, max_outgoing, max_legs, may_transfer, edition,"
    " edition_until, group."
)


@pytest.mark.parametrize(("header", "said"), [
    ("user,max_incomming", f"Lines have no column max_incomming: did you mean max_incoming? {KNOWN}"),
    ("user,max-incoming,maxoutgoing", "Lines have no column maxoutgoing: did you mean max_outgoing?"),
    ("user,colour", f"Lines have no column colour. {KNOWN}"),
    ("users,group", "The columns found are: users, group. Lines have no column users: did you mean user?"),
    ("user,group,user", "The column user is there more than once."),
    ("user," + ",".join(f"more{n}" for n in range(30)), f"Lines have no column more9. 20 more are unknown. {KNOWN}"),
])  # fmt: skip
def test_a_column_that_lines_do_not_have_is_refused_by_its_name(operator, people, header, said):
    assert said in said_of(upload(operator, header + "\nbob,,\n"))


def errors_of(page):
    """By line of the file, and by column: what is wrong there."""
    rows = re.findall(
        r'<th scope="row"[^>]*>(\d+)</th>.*?class="wrong"[^>]*>(.*?)</td>', page.content.decode(), re.DOTALL
    )
    return {
        int(line): {
            column: html.unescape(words) for column, words in re.findall(r"<li><b>(\w+)</b> ([^<]+)</li>", said)
        }
        for line, said in rows
    }


@pytest.mark.parametrize("format", ["0", "1"])
def test_everything_that_is_wrong_with_a_row_is_said_at_once_by_its_line_in_the_file(operator, people, format):
    rows = [
        ["user", "group", "max_incoming", "max_outgoing", "multi_device", "may_switch", "edition", "edition_until"],
        ["bob", "", "2", "", "1", "0", "", ""],
        [],
        ["nobody", "Nowhere", "many", "²", "perhaps", "", "sometimes", "soon"],
        ["carol", "", "40000", "1", "0", "0", "until", ""],
        ["bob", "", "-1", "", "1", "0", "off", "2027-01-31"],
    ]
    file = workbook(*rows) if format == "1" else "".join(",".join(row) + "\n" for row in rows)
    no_calls = "is not a number of calls: give 0 or more, or nothing."
    assert errors_of(upload(operator, file, format)) == {
        4: {
            "user": "There is no user 'nobody'.",
            "group": "There is no group of lines 'Nowhere'.",
            "max_incoming": f"'many' {no_calls}",
            "max_outgoing": f"'²' {no_calls}",
            "multi_device": "'perhaps' is neither yes nor no: give 1 or 0.",
            "may_switch": "'' is neither yes nor no: give 1 or 0.",
            "edition": "'sometimes' is no edition: give off, until, allowed, or nothing.",
            "edition_until": "'soon' is not a time: give it as 2027-01-31 18:00, in UTC.",
        },
        5: {
            "max_incoming": "Ensure this value is less than or equal to 32767.",
            "edition_until": "Say until when multi-device is allowed.",
        },
        6: {
            "user": "'bob' is in this file more than once.",
            "max_incoming": f"'-1' {no_calls}",
            "edition_until": "'2027-01-31' is not a time: give it as 2027-01-31 18:00, in UTC.",
        },
    }


def test_what_fails_inside_is_logged_and_not_shown(operator, people, caplog):
    def rename(table, to):
        with connection.cursor() as cursor:
            cursor.execute(f"ALTER TABLE {table} RENAME TO {to}")

    rename("devices_linegroup", "gone")
    try:
        page = upload(operator, "user,group\nbob,Sales\n")
    finally:
        rename("gone", "devices_linegroup")
    text = page.content.decode()
    assert "The file could not be looked at, and nothing was changed." in text
    assert "devices_linegroup" not in text and "Traceback" not in text
    assert "devices_linegroup" in caplog.text


def test_a_preview_is_confirmed_as_it_was_shown_once_it_fits_or_not_at_all(operator, people, monkeypatch):
    def lines():
        return dict(Line.objects.values_list("user__username", "max_incoming"))

    preview = upload(operator, "user,max_incoming\nbob,2\n")
    form = preview.context["confirm_form"].initial
    forged = form | {"import_file_name": "/etc/passwd"}
    for asked in (forged, form | {"import_file_name": form["import_file_name"][:-1]}):
        said = operator.post("/admin/devices/line/process_import/", asked, follow=True).content.decode()
        assert "Nothing was changed: this preview is too old." in said
    assert lines() == {"bob": None}
    assert "1 updated" in confirm(operator, preview).content.decode()
    assert "0 updated" in confirm(operator, preview).content.decode()  # pressed twice
    preview = upload(operator, "user,max_incoming\nbob,3\ncarol,3\n")
    people["carol"].delete()
    assert "Nothing was changed: the file does not fit any more." in confirm(operator, preview).content.decode()
    assert lines() == {"bob": 2}
    preview = upload(operator, workbook(["user", "max_incoming"], ["bob", 3]), "1")
    other = preview.context["confirm_form"].initial | {"format": "0"}
    said = operator.post("/admin/devices/line/process_import/", other, follow=True).content.decode()
    assert "Nothing was changed: the file does not fit any more." in said
    monkeypatch.setattr("calls.admin.line_files.MAX_FILE", 10)
    assert "split it, or leave columns out." in upload(operator, "user,max_incoming\nbob,3\n").content.decode()


def test_a_small_workbook_that_unpacks_to_much_is_refused(operator):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as parts:
        parts.writestr("xl/worksheets/sheet1.xml", bytes(60_000_000))
    file = SimpleUploadedFile("lines.xlsx", packed.getvalue())
    said = operator.post("/admin/devices/line/import/", {"format": "1", "import_file": file}).content.decode()
    assert "60 MB when it is unpacked, and may have 20: split it, or save it as CSV." in said


@pytest.mark.parametrize(("stray", "said"), [
    ("XFD9", "empty → 4"),
    ("B1048576", "The sheet goes on below row 10,001, if only with a space"),
    ("XFD1048576", "The sheet goes on below row 10,001, if only with a space"),
])  # fmt: skip
def test_a_space_far_away_in_a_sheet_does_not_make_it_long(operator, people, stray, said):
    book = Workbook()
    book.active.append(["user", "max_incoming"])
    book.active.append(["bob", 4])
    book.active[stray] = " "
    file = io.BytesIO()
    book.save(file)
    upload, began = SimpleUploadedFile("lines.xlsx", file.getvalue()), time.process_time()
    answer = operator.post("/admin/devices/line/import/", {"format": "1", "import_file": upload}).content.decode()
    assert said in answer
    assert ("Confirm import" in answer) == ("4" in said)
    assert time.process_time() - began < 5  # reading all of it takes minutes


async def test_a_long_file_is_read_and_written_in_a_few_statements_and_told(operator, page, people):
    def statements(number):
        users = [get_user_model()(username=f"user{number}-{n}") for n in range(number)]
        users = get_user_model()._default_manager.bulk_create(users)
        Line.objects.bulk_create([Line(user=user) for user in users[::2]])
        rows = "".join(f"{user.username},2,Sales\n" for user in users)
        with CaptureQueriesContext(connection) as previewing:
            preview = upload(operator, "user,max_incoming,group\n" + rows)
        with CaptureQueriesContext(connection) as writing:
            confirm(operator, preview)
        kept = Line.objects.filter(user__in=users, max_incoming=2, group=group).count()
        assert (kept, LogEntry.objects.filter(object_pk__in=[user.pk for user in users]).count()) == (number, number)
        return len(previewing), len(writing)

    group = await LineGroup.objects.acreate(name="Sales")
    bob = await page("bob")
    await sync_to_async(switchboard.change_line)(people["bob"].pk, dnd=True, group_id=group.pk)
    few = await sync_to_async(statements)(4)
    assert await sync_to_async(statements)(300) == few
    preview = await sync_to_async(upload)(operator, "user,max_incoming\nbob,7\n")
    await sync_to_async(switchboard.change_line)(people["bob"].pk, multi_device=False)
    await sync_to_async(confirm)(operator, preview)
    assert (await bob.until(lambda frame: frame["t"] == "line" and frame["line"]["max_incoming"] == 7))["line"]["dnd"]
    line = await Line.objects.aget(user=people["bob"])
    assert (line.dnd, line.multi_device, line.max_incoming, line.group_id) == (True, False, 7, group.pk)
    entry = await LogEntry.objects.select_related("actor").aget(changes__max_incoming=["None", "7"])
    assert (entry.actor.username, entry.remote_addr, entry.object_repr) == ("operator", "127.0.0.1", "Line of bob")
    twice = await sync_to_async(upload)(operator, "user,max_incoming\nbob,1\nbob,2\n")
    assert "more than once" in twice.content.decode()
    assert twice.context.get("confirm_form") is None


@pytest.mark.parametrize("format", ["0", "1"])
def test_exported_lines_can_be_imported_again(operator, people, format):
    group = LineGroup.objects.create(name="Sales", max_incoming=5)
    until = timezone.now().replace(microsecond=0)
    Line.objects.filter(user=people["bob"]).update(group=group, edition="until", edition_until=until, max_outgoing=0)
    exported = saved(operator.post("/admin/devices/line/export/", {"format": format}))
    Line.objects.filter(user=people["bob"]).update(group=None, edition="", edition_until=None, max_outgoing=7)
    preview = upload(operator, exported, format)
    assert preview.context.get("confirm_form") is not None
    confirm(operator, preview)
    line = Line.objects.get(user=people["bob"])
    assert (line.group, line.edition, line.edition_until, line.max_outgoing) == (group, "until", until, 0)


async def test_calls_are_exported_as_they_are_filtered(page, operator):
    call, *_ = await a_call(page)
    response = await sync_to_async(operator.post)("/admin/calls/call/export/?state=live", {"format": "0"})
    (row,) = await sync_to_async(rows_of)(response)
    assert (row["id"], row["caller"], row["callees"], row["state"]) == (call, "alice", "bob", "active")


def test_a_long_list_is_sent_while_it_is_read_and_takes_no_memory_for_it(operator, people, monkeypatch):
    monkeypatch.setattr("calls.admin.exports.ROWS", 50)
    now, bob = timezone.now(), people["bob"]

    def more_devices(number):
        when = {"logged_in_at": now, "last_seen_at": now, "online_until": now}
        Device.objects.bulk_create([Device(user=bob, name="Phone", **when) for _ in range(number)])

    def more_calls(number):
        ended = {"v": 2, "kind": "audio", "state": "ended", "reason": "cancelled", "placed_at": now, "ended_at": now}
        calls = Call.objects.bulk_create([Call(id=uuid.uuid4(), host=bob, **ended) for _ in range(number)])
        Leg.objects.bulk_create([Leg(call=call, user=bob, username="bob", dir="out", state="left") for call in calls])

    async def read(response):
        gc.collect()
        gc.disable()  # it comes rarely while sockets are served: nothing may wait for it
        tracemalloc.start()
        try:
            sizes = [part.count(b"\n") async for part in response]
            return sizes, tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
            gc.enable()

    def export(path, number):
        page = operator.get(f"/admin/{path}export/").content.decode()
        assert f"{number:,} rows, as the list is filtered." in page
        sizes, peak = async_to_sync(read)(operator.post(f"/admin/{path}export/", {"format": "0"}))
        assert sum(sizes) == number + 1
        assert max(sizes) == 50
        return peak

    for path, more in (("devices/device/", more_devices), ("calls/call/", more_calls)):
        more(100)
        export(path, 100)  # what is remembered from here on
        few = export(path, 100)
        more(900)
        assert export(path, 1000) < 1.5 * few


def test_a_workbook_has_its_bound_and_says_so(operator, people, monkeypatch):
    monkeypatch.setattr("calls.admin.exports.MAX_IN_WORKBOOK", 3)
    Line.make([user.pk for user in people.values()])
    refused = operator.post("/admin/devices/line/export/", {"format": "1"}).content.decode()
    assert "5 rows are too many for a workbook: take CSV, or narrow the list." in refused
    assert len(rows_of(operator.post("/admin/devices/line/export/", {"format": "0"}))) == 5
    few = saved(operator.post("/admin/devices/line/export/?q=bob", {"format": "1"}))
    head, bob = load_workbook(io.BytesIO(few)).active.values
    assert (head[0], bob[0]) == ("user", "bob")


def test_no_cell_of_a_file_is_taken_for_a_formula_nor_gives_a_session_away(operator, people):
    people["bob"].username = "@bob"
    people["bob"].save()
    now = timezone.now()
    Device.objects.create(
        user=people["bob"], name='=HYPERLINK("http://x")', session="the-hash-of-a-session", logged_in_at=now,
        last_seen_at=now, online_until=now, push={"endpoint": "https://push.example/secret"},
    )  # fmt: skip
    for format in ("0", "1"):
        file = saved(operator.post("/admin/devices/device/export/", {"format": format}))
        rows = (
            load_workbook(io.BytesIO(file)).active.values if format == "1" else csv.reader(io.StringIO(file.decode()))
        )
        head, device = rows
        assert list(device[1:3]) == ["'@bob", '\'=HYPERLINK("http://x")']
        assert not {"session", "session_key", "push"} & set(head)
    lines = saved(operator.post("/admin/devices/line/export/?q=bob", {"format": "0"})).decode()
    assert "'@bob,1,0,,,,," in lines
    confirm(operator, upload(operator, lines.replace("'@bob,1,0,,", "'@bob,1,0,4,")))
    assert Line.objects.get(user=people["bob"]).max_incoming == 4


# ── groups and editions ──


async def test_the_most_specific_limit_wins_and_the_page_says_whose_it_is(ask, page, people):
    group = await LineGroup.objects.acreate(name="Sales", max_incoming=2)
    await sync_to_async(switchboard.change_line)(people["bob"].pk, group_id=group.pk)
    bob, callers = await page("bob"), [await page(name) for name in ("alice", "carol", "dave")]
    assert bob.welcome["line"]["max_incoming"] == 2
    states = [(await caller.invite("bob"))["call"]["state"] for caller in callers]
    assert states == ["ringing", "ringing", "ended"]
    text = await ask(f"devices/line/{people['bob'].pk}/change/")
    assert "2 incoming calls at a time, says its group." in text
    assert "1 outgoing call at a time, says the platform." in text
    assert 'placeholder="2" title="Empty: 2, of Sales"' in await ask("devices/line/?q=bob")
    await ask(f"devices/linegroup/{group.pk}/change/", name="Sales", max_incoming=3, max_outgoing="", edition="")
    assert (await bob.until(lambda frame: frame["t"] == "line"))["line"]["max_incoming"] == 3
    await sync_to_async(switchboard.change_line)(people["bob"].pk, max_incoming=1)
    assert "1 incoming call at a time, says this line." in await ask(f"devices/line/{people['bob'].pk}/change/")


async def test_an_edition_that_is_off_rings_one_device_and_the_page_is_told_why(page, people):
    await sync_to_async(switchboard.change_line)(people["bob"].pk, may_switch=True)
    laptop, phone = await page("bob", "Laptop"), await page("bob", "Phone")
    assert "multi_device_off" not in laptop.welcome["line"]
    await sync_to_async(switchboard.change_line)(people["bob"].pk, edition="off")
    told = (await laptop.until(lambda frame: frame["t"] == "line"))["line"]
    assert (told["multi_device"], told["may_switch"], told["multi_device_off"]) == (False, False, "not_included")
    assert (await laptop.ask("multi_device", on=True))["error"]["code"] == "multi_device_off"
    alice = await page("alice")
    call = (await alice.invite("bob"))["call"]["id"]
    await phone.sees(call)
    await phone.ask("answer", call=call)
    assert not any(frame["t"] == "call" for frame in (await laptop.ping())["calls"])


async def test_an_edition_of_a_group_runs_out_at_its_time_and_the_page_is_told(page, people):
    soon = timezone.now() + dt.timedelta(minutes=5)
    group = await LineGroup.objects.acreate(name="Trial", edition="until", edition_until=soon)
    await sync_to_async(switchboard.change_line)(people["bob"].pk, group_id=group.pk)
    phone = await page("bob", "Phone")
    assert phone.welcome["line"]["multi_device"] is True
    assert phone.welcome["line"]["multi_device_until"] == soon.isoformat()
    past = timezone.now() - dt.timedelta(seconds=1)
    await LineGroup.objects.aupdate(edition_until=past)
    await sync_to_async(switchboard.tell_expired)(past - dt.timedelta(seconds=1), timezone.now())
    told = (await phone.until(lambda frame: frame["t"] == "line"))["line"]
    assert (told["multi_device"], told["multi_device_off"]) == (False, "expired")
    line = await Line.objects.select_related("group").aget(user=people["bob"])
    assert line.rings_all(timezone.now()) is False


def test_groups_are_read_with_the_lines_in_one_statement(people):
    group = LineGroup.objects.create(name="Sales", max_incoming=2)
    Line.objects.filter(user=people["bob"]).update(group=group)
    with switchboard.transaction.atomic(), CaptureQueriesContext(connection) as captured:
        line = Line.lock([people["bob"].pk])[people["bob"].pk]
        assert line.rule("max_incoming") == (2, "group", None)
    assert len([query for query in captured if "SELECT" in query["sql"]]) == 1
