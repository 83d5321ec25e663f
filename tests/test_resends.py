"""What is said twice, too late, or by a device that is gone gets the one reply that is true, and the view."""

import asyncio
import uuid

import pytest
from asgiref.sync import sync_to_async
from django.utils import timezone

from devices.models import Device
from tests.test_operations import calls_settings

pytestmark = pytest.mark.django_db(transaction=True)
LATE = 12_000  # ms


async def test_what_was_done_in_time_and_is_said_again_late_is_done(talking):
    alice, phone, laptop, call = talking
    for reply in (
        await phone.ask("answer", call=call, age=LATE),
        await alice.invite("bob", "video", call=call, age=LATE),
    ):
        assert reply["ok"] and reply["call"]["state"] == "active" and reply["call"]["v"] == 2
    late = await laptop.ask("answer", call=call, age=LATE)
    assert late["error"]["code"] == "expired" and late["call"]["me"]["device"] == "Phone"
    assert (await alice.invite("carol", age=LATE))["error"]["code"] == "expired"


async def test_refusals_about_a_call_carry_its_view(talking):
    _, phone, _, call = talking
    for cmd, args, code in (
        ("reject", {}, "not_allowed"), ("add", {"to": ["nobody"]}, "not_found"),
        ("remove", {"user": "alice"}, "not_allowed"), ("hangup", {"data": "x" * 3000}, "bad_frame"),
        ("transfer", {"to": "alice"}, "not_allowed"), ("transfer", {"with": call}, "bad_frame"),
    ):  # fmt: skip
        refused = await phone.ask(cmd, call=call, **args)
        assert (refused["error"]["code"], refused["call"]["v"]) == (code, 2), cmd


async def test_an_answer_leaves_another_call_than_its_own(talking):
    _, phone, _, call = talking
    refused = await phone.ask("answer", call=call, **{"and": {"call": call, "do": "hangup"}})
    assert (refused["error"]["code"], refused["error"]["argument"]) == ("bad_frame", "and")
    assert refused["call"]["state"] == "active"


async def test_a_frame_with_half_a_character_is_refused_by_its_id(talking):
    alice, _, _, call = talking
    await alice.transmit(f'{{"id":"half","cmd":"hangup","call":"{call}","data":"\\ud800"}}')
    assert (await alice.reply_to("half"))["error"]["code"] == "bad_frame"


async def test_after_glare_a_move_is_told_to_the_device_that_loses_the_call(page):
    older, newer, bob = await page("alice", "Older"), await page("alice", "Newer"), await page("bob")
    call = (await bob.invite("alice"))["call"]["id"]
    await newer.sees(call, state="ringing")
    assert (await older.invite("bob"))["call"]["me"]["here"]
    await newer.sees(call, state="active")
    assert (await newer.ask("move", call=call))["ok"]
    await older.sees(call, me={"here": False, "device": "Newer"})
    assert (await older.ask("end", call=call))["ok"]


async def refused_as_another(page):
    """Says pings and commands in turn until the server finds that the device is not this page's any more."""
    while True:
        error = (await page.ask("ringing", call=str(uuid.uuid4())))["error"]
        if error["code"] not in ("not_found", "rate_limited"):
            return error["code"]
        await asyncio.sleep(error.get("retry_ms", 0) / 1000)  # as the server asks of everybody who is too quick


async def test_who_lost_the_device_and_did_not_hear_of_it_gets_a_reply_and_then_the_goodbye(page):
    bob = await page("bob")
    theirs = Device.objects.filter(pk=bob.device)
    await sync_to_async(theirs.update)(socket=uuid.uuid4(), page=uuid.uuid4())
    assert await refused_as_another(bob) == "device_in_use"
    assert await bob.closed() == 4409


async def test_who_was_signed_out_and_did_not_hear_of_it_is_told_that(page):
    bob = await page("bob")
    theirs = Device.objects.filter(pk=bob.device)
    await sync_to_async(theirs.update)(signed_out_at=timezone.now())
    assert await refused_as_another(bob) == "not_allowed"
    assert await bob.closed() == 4401


async def test_a_refused_hello_leaves_the_socket_open_for_as_long_as_a_person_needs(page):
    with calls_settings(HELLO_S=1):
        first = await page("bob", "Phone")
        second = await page("bob", "Phone", device=first.device, signed_in=first.signed_in, hello=False)
        silent = await page("bob", "Phone", signed_in=first.signed_in, hello=False)
        assert (await second.hello())["error"]["code"] == "device_in_use"
        assert await silent.closed() == 4408  # a second has passed since, for the one that said nothing
        assert (await second.hello(take=True))["t"] == "welcome"


async def test_an_invite_sent_again_is_the_same_call_also_when_its_callee_was_deactivated_since(page, people):
    alice, bob = await page("alice"), await page("bob")
    call = (await alice.invite("bob"))["call"]["id"]
    await bob.sees(call, state="ringing")
    await sync_to_async(type(people["bob"]).objects.filter(pk=people["bob"].pk).update)(is_active=False)
    again = await alice.invite("bob", call=call)
    assert (again["ok"], again["call"]["id"]) == (True, call)
    another = await alice.invite("nobody of that name", call=call)
    assert (another["error"]["code"], another["call"]["id"]) == ("conflict", call)
