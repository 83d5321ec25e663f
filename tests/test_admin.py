"""The operator sees, limits, signs out and ends, in the admin."""

import re

import pytest
from asgiref.sync import sync_to_async
from auditlog.models import LogEntry
from django.contrib.auth.models import Permission
from django.test import Client

from calls.models import Call, Leg
from devices.models import Line, LineGroup

pytestmark = pytest.mark.django_db(transaction=True)


class Operator:
    """Somebody at the admin, in a browser of their own."""

    def __init__(self, user):
        self.browser, self.user = Client(), user
        self.browser.force_login(user)

    async def get(self, path: str) -> str:
        response = await sync_to_async(self.browser.get)(f"/admin/{path}")
        assert response.status_code == 200, response
        return response.content.decode()

    async def post(self, path: str, **data: object):
        return await sync_to_async(self.browser.post)(f"/admin/{path}", data, follow=True)

    async def act(self, path: str, action: str, *ids: object) -> str:
        response = await self.post(path, action=action, _selected_action=[str(id) for id in ids])
        return response.content.decode()


@pytest.fixture
async def operator(people):
    return await sync_to_async(Operator)(people["operator"])


async def test_a_limit_changed_in_the_list_holds_for_the_next_call(operator, page, people):
    bob, callers = await page("bob"), [await page(name) for name in ("alice", "carol", "dave")]
    await sync_to_async(Line.objects.exclude(user=people["bob"]).delete)()
    assert re.search(r'placeholder="1" title="Empty: 1, of the platform"', await operator.get("devices/line/"))
    row = {
        "form-0-user": people["bob"].pk,
        "form-0-multi_device": "on",
        "form-0-max_incoming": 2,
        "form-0-max_outgoing": "",
    }
    form = {"form-TOTAL_FORMS": 1, "form-INITIAL_FORMS": 1, "_save": "Save", **row}
    await operator.post("devices/line/", **form)
    assert (await bob.until(lambda frame: frame["t"] == "line"))["line"]["max_incoming"] == 2
    states = [(await caller.invite("bob"))["call"]["state"] for caller in callers]
    assert states == ["ringing", "ringing", "ended"]


def filled_in(html: str) -> dict[str, str]:
    """What a browser sends for the inputs of this page."""
    said = {}
    for each in re.findall(r"<input[^>]*>", html):
        about = dict(re.findall(r'([\w-]+)="([^"]*)"', each))
        if about.get("type") != "checkbox" or re.search(r"\bchecked\b", each):
            said[about.get("name", "")] = about.get("value", "on" if about["type"] == "checkbox" else "")
    return {name: value for name, value in said.items() if name not in ("", "csrfmiddlewaretoken", "action")}


@pytest.mark.parametrize("where", ["list", "page"])
async def test_what_the_user_switched_while_the_operator_looked_stays_switched(operator, page, people, where):
    alice, key = await page("alice"), people["alice"].pk
    line = Line.objects.filter(user=key)
    await line.aupdate(may_switch=True, edition="allowed")
    path = {"list": "devices/line/?q=alice", "page": f"devices/line/{key}/change/"}[where]
    field = {"list": "form-0-max_incoming", "page": "max_incoming"}[where]
    form = filled_in(await operator.get(path))
    selected = {"edition": "allowed", "initial-edition": "allowed", "group": "", "initial-group": ""}
    assert (await alice.ask("multi_device", on=True))["ok"]
    await operator.post(path, **form | (selected if where == "page" else {}) | {field: 3, "_save": "Save"})
    told = await alice.until(lambda frame: frame["t"] == "line" and frame["line"]["max_incoming"] == 3)
    assert told["line"]["multi_device"] is True
    assert [line.multi_device async for line in line] == [True]
    changes = [entry.changes async for entry in LogEntry.objects.filter(object_pk=str(key), actor=operator.user)]
    assert changes == [{"max_incoming": ["None", "3"]}]


async def test_a_device_that_the_operator_renames_and_lines_whose_group_goes_are_told(operator, page, people):
    alice, bob = await page("alice"), await page("bob", "Phone")
    await operator.post(f"devices/device/{bob.device}/change/", name="Kitchen", _save="Save")
    assert (await bob.until(lambda frame: frame["t"] == "device"))["device"]["name"] == "Kitchen"
    call = (await alice.invite("bob"))["call"]["id"]
    await bob.sees(call)
    await bob.ask("answer", call=call)
    assert (await sync_to_async(Leg.objects.get)(call=call, dir="in")).device_name == "Kitchen"

    group = await LineGroup.objects.acreate(name="Sales", max_incoming=7)
    await sync_to_async(Line.objects.filter(user=people["bob"]).update)(group=group)
    await operator.post(f"devices/linegroup/{group.pk}/delete/", post="yes")
    assert (await bob.until(lambda frame: frame["t"] == "line"))["line"]["max_incoming"] == 1


async def test_the_list_of_lines_says_who_is_online_and_in_a_call(operator, page):
    alice = await page("alice")
    await page("bob")
    await alice.invite("bob")
    text = await operator.get("devices/line/?q=alice")
    assert re.search(r'field-online"><a class="some"[^>]*>1 of 1</a>', text)
    assert re.search(r'field-live_calls"><a class=""[^>]*>0 in, 1 out</a>', text)


async def test_the_operator_ends_a_live_call_and_both_sides_are_told(operator, page):
    alice, bob = await page("alice"), await page("bob", "Phone")
    call = (await alice.invite("bob"))["call"]["id"]
    await bob.sees(call)
    await bob.ask("answer", call=call)
    assert "1 ended." in await operator.act("calls/call/", "end_call", call)
    await alice.sees(call, state="ended", reason="operator")
    await bob.sees(call, state="ended", reason="operator")
    assert "0 ended. 1 had ended before." in await operator.act("calls/call/", "end_call", call)


async def test_a_calls_page_tells_its_story(operator, page):
    alice, phone = await page("alice"), await page("bob", "Phone")
    call = (await alice.invite("bob"))["call"]["id"]
    await phone.sees(call)
    await phone.ask("answer", call=call)
    await alice.ask("hangup", call=call)
    text = await operator.get(f"calls/call/{call}/change/")
    story = re.findall(r'<span class="words">([^<]+)</span>', text)
    facts = dict(re.findall(r"<div><dt>([^<]+)</dt><dd>([^<]+)</dd></div>", text))
    assert facts["State"] == "Completed"
    assert all(re.fullmatch(r"[\d:]+", facts[name]) for name in ("Answered", "Ended", "Lasted"))
    assert re.fullmatch(r"\d+\.\d s", facts["Rang for"])
    assert re.findall(r'data-label="Device">([^<]+)<', text) == ["Laptop", "Phone"]
    assert re.search(r"<time>\d\d:\d\d:\d\d<small>\.\d{3}</small></time>", text)
    assert 'name="_save"' not in text
    assert story == ["alice called bob from Laptop", "bob answered on Phone", "alice hung up on Laptop"]


async def test_signing_out_the_selected_devices_closes_their_pages_within_a_second_and_no_other(operator, page):
    phone, laptop, other = await page("bob", "Phone"), await page("bob", "Laptop"), await page("carol")
    chosen = ("devices/device/", "sign_out", phone.device, other.device)
    assert "2 signed out." in await operator.act(*chosen)
    assert [await phone.closed(1), await other.closed(1)] == [4401, 4401]
    assert (await laptop.ping())["t"] == "pong"
    assert "0 signed out. 2 had been" in await operator.act(*chosen)


@pytest.mark.parametrize("path", [
    "calls/call/?state=live", "calls/call/?state=ended", "calls/call/?q=alice", "calls/call/?reason=busy",
    "devices/device/?online=yes", "devices/device/?online=no", "devices/device/?online=out", "devices/device/?q=bob",
    "devices/line/?multi_device__exact=1", "devices/line/add/",
])  # fmt: skip
async def test_every_list_can_be_filtered_and_searched(operator, page, path):
    alice = await page("alice")
    await page("bob")
    await alice.invite("bob")
    await operator.get(path)


async def test_calls_are_not_written_by_hand(operator, page):
    alice = await page("alice")
    call = (await alice.invite("bob"))["call"]["id"]
    assert (await operator.post("calls/call/add/")).status_code == 403
    assert (await operator.post(f"calls/call/{call}/delete/", post="yes")).status_code == 403
    await operator.post(f"calls/call/{call}/change/", state="active")
    assert (await Call.objects.aget(pk=call)).state == "ended"


async def test_somebody_who_may_only_look_can_end_and_sign_out_nothing(people, page):
    viewer = people["dave"]
    viewer.is_staff = True
    await viewer.asave()
    await viewer.user_permissions.aset(
        [
            permission
            async for permission in Permission.objects.filter(codename__in=["view_call", "view_device", "view_line"])
        ]
    )
    looking = await sync_to_async(Operator)(viewer)
    alice, phone = await page("alice"), await page("bob", "Phone")
    call = (await alice.invite("bob"))["call"]["id"]
    assert "end_call" not in await looking.get("calls/call/")
    await looking.act("calls/call/", "end_call", call)
    await looking.act("devices/device/", "sign_out", phone.device)
    assert (await phone.ping())["t"] == "pong"
    assert (await Call.objects.aget(pk=call)).state == "ringing"


async def test_people_who_are_not_staff_do_not_get_in(people, page):
    somebody = await sync_to_async(Operator)(people["alice"])
    response = await somebody.post("calls/call/")
    assert "/admin/login/" in response.redirect_chain[0][0]
