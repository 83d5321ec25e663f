"""What users do to their own devices and line: rename, sign out, do not disturb, favourites."""

import json
import uuid

import pytest
from asgiref.sync import sync_to_async
from django.test import Client

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def asking():
    """Requests as a page of this sign-in makes them."""

    def asking(cookie):
        client = Client(headers={"cookie": cookie})

        async def ask(path, expect=200, **body):
            if not body:
                said = await sync_to_async(client.get)(path)
            else:
                said = await sync_to_async(client.post)(path, json.dumps(body), content_type="application/json")
            assert said.status_code == expect, said.content
            return said.json() if said["Content-Type"] == "application/json" else None

        return ask

    return asking


async def test_a_user_sees_the_own_devices_and_renames_one_while_it_is_in_use(page, asking):
    alice, phone, desk = await page("alice"), await page("bob", "Phone"), await page("bob", "Desk")
    bob = asking(desk.signed_in)
    found = (await bob("/devices/"))["devices"]
    assert {(each["id"], each["name"], each["online"]) for each in found} == {
        (phone.device, "Phone", True),
        (desk.device, "Desk", True),
    }
    await bob("/devices/rename/", id=phone.device, name="  Kitchen ")
    renamed = await phone.until(lambda frame: frame["t"] == "device")
    assert renamed["device"] == {"id": phone.device, "name": "Kitchen", "kind": "web"}
    call = (await alice.invite("bob"))["call"]["id"]
    await phone.sees(call)
    await phone.ask("answer", call=call)
    assert (await desk.sees(call, state="active"))["me"]["device"] == "Kitchen"
    await phone.close()
    again = await page("bob", "Phone", device=phone.device, signed_in=phone.signed_in)
    assert again.welcome["device"]["name"] == "Kitchen"


async def test_a_device_that_is_signed_out_hears_of_it_at_once(page, asking):
    phone, desk, tablet = await page("bob", "Phone"), await page("bob", "Desk"), await page("bob", "Tablet")
    bob = asking(desk.signed_in)
    assert await bob("/devices/sign-out/", id=phone.device) == {"signed_out": 1}
    assert await phone.closed() == 4401
    assert await bob("/devices/sign-out/", id=phone.device) == {"signed_out": 0}
    assert await bob("/devices/sign-out/", all_but=desk.device) == {"signed_out": 1}
    assert await tablet.closed() == 4401
    assert [each["id"] for each in (await bob("/devices/"))["devices"]] == [desk.device]
    assert (await desk.ping())["t"] == "pong"
    assert await asking(tablet.signed_in)("/devices/", 401) == {"error": "Sign in first."}


async def test_nobody_reaches_the_devices_of_others(page, asking):
    phone, mallory = await page("bob", "Phone"), asking((await page("carol")).signed_in)
    await mallory("/devices/rename/", 404, id=phone.device, name="Mine")
    await mallory("/devices/sign-out/", 404, all_but=phone.device)
    assert await mallory("/devices/sign-out/", id=phone.device) == {"signed_out": 0}
    assert (await phone.ping())["t"] == "pong"


async def test_do_not_disturb_lets_only_favourites_through(page, asking):
    alice, phone, carol = await page("alice"), await page("bob", "Phone"), await page("carol")
    bob = asking(phone.signed_in)
    assert (await bob("/line/dnd/", on=True))["line"]["dnd"] is True
    assert (await phone.until(lambda frame: frame["t"] == "line"))["line"]["dnd"] is True
    said = await bob("/line/favourite/", user="alice", on=True)
    assert said["favourites"] == [{"id": "alice", "name": "Alice"}]
    refused = (await carol.invite("bob"))["call"]
    assert (refused["state"], refused["reason"]) == ("ended", "busy")
    assert [(leg["state"], leg["reason"]) for leg in refused["legs"] if leg["user"] == "bob"] == [("busy", None)]
    missed = await phone.sees(refused["id"], state="ended", me={"state": "busy", "ring_ms": 0})
    assert missed["reason"] == "busy"
    entry = (await bob("/history/"))["calls"][0]
    assert (entry["outcome"], entry["busy"]) == ("missed", "do_not_disturb")
    welcome = (await alice.invite("bob"))["call"]
    assert welcome["state"] == "ringing"
    await phone.sees(welcome["id"], me={"state": "ringing"})
    await alice.ask("hangup", call=welcome["id"])
    assert (await bob("/line/favourite/", user="alice", on=False))["favourites"] == []
    assert (await alice.invite("bob"))["call"]["reason"] == "busy"
    await bob("/line/dnd/", on=False)
    assert (await alice.invite("bob"))["call"]["state"] == "ringing"
    assert (await phone.until(lambda f: f["t"] == "line" and not f["line"]["dnd"]))["t"] == "line"


async def test_do_not_disturb_costs_an_invite_no_statement(page, asking, people):
    """It stands in a row that is locked and read anyway."""
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    from calls import machine, switchboard
    from devices.models import Line

    alice = await page("alice")
    await page("bob", "Phone")

    def place():
        seat = machine.Seat(str(people["alice"].pk), uuid.UUID(alice.device), "Laptop", uuid.UUID(alice.page))
        with CaptureQueriesContext(connection) as asked:
            outcome = switchboard.place(people["alice"], seat, uuid.uuid4(), ["bob"], "audio", None, 45)
        if outcome.call.state != "ended":
            switchboard.perform(outcome.call.id, machine.Hangup(seat))
        return outcome.call.state, len(asked)

    await sync_to_async(place)()  # the caller's line is made when first needed
    ringing, before = await sync_to_async(place)()
    await sync_to_async(switchboard.change_line)(people["bob"].pk, dnd=True, favourites=["0"] * 50)
    refused, after = await sync_to_async(place)()
    assert (ringing, refused, before) == ("ringing", "ended", after)
    assert await sync_to_async(Line.objects.count)() == 2


async def test_what_cannot_be_meant_is_refused(page, asking, people):
    from calls import switchboard

    bob = asking((await page("bob")).signed_in)
    for path, body in (
        ("/devices/rename/", {"id": str(uuid.uuid4()), "name": " "}),
        ("/devices/rename/", {"id": str(uuid.uuid4()), "name": "a\0b"}),
        ("/devices/rename/", {"id": str(uuid.uuid4()), "name": "x" * 65}),
        ("/devices/sign-out/", {"id": None}),
        ("/devices/sign-out/", {"id": str(uuid.uuid4()), "all_but": str(uuid.uuid4())}),
        ("/line/dnd/", {"on": "yes"}),
    ):
        await bob(path, 400, **body)
    await bob("/line/favourite/", 404, user="nobody", on=True)
    await bob("/line/favourite/", 404, user="bob", on=True)
    full = [str(-n) for n in range(switchboard.MAX_FAVOURITES)]
    await sync_to_async(switchboard.change_line)(people["bob"].pk, favourites=full)
    await bob("/line/favourite/", 409, user="alice", on=True)
