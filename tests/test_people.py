"""Who of the people on a screen is online, asked over the socket."""

import asyncio
import uuid

import pytest
from asgiref.sync import sync_to_async
from django.utils import timezone

from devices.models import Device

pytestmark = pytest.mark.django_db(transaction=True)


async def test_a_page_asks_for_the_presence_of_the_people_on_its_screen(page, people):
    await page("bob", "Phone")
    alice = await page("alice")
    reply = await alice.ask("presence", of=["bob", "carol", "nobody"])
    assert (reply["t"], reply["ok"]) == ("reply", True)
    assert reply["people"] == {"bob": "online", "carol": "offline", "nobody": "offline"}


async def test_presence_changes_within_two_seconds(page, people):
    alice, bob = await page("alice"), await page("bob", "Phone")
    assert (await alice.ask("presence", of=["bob"]))["people"] == {"bob": "online"}
    await bob.close()
    async with asyncio.timeout(5):
        while (await alice.ask("presence", of=["bob"]))["people"] != {"bob": "offline"}:
            await alice.ping()
            await asyncio.sleep(0.05)


async def test_who_was_deactivated_or_is_signed_out_everywhere_is_offline(page, people):
    await page("bob", "Phone")
    await page("carol", "Phone")
    people["carol"].is_active = False
    await people["carol"].asave()
    await sync_to_async(Device.objects.filter(user=people["bob"]).update)(signed_out_at=timezone.now())
    alice = await page("alice")
    assert (await alice.ask("presence", of=["bob", "carol"]))["people"] == {"bob": "offline", "carol": "offline"}


async def test_a_socket_asks_one_question_at_a_time_and_goes_on_meanwhile(page, people):
    alice = await page("alice")
    first = await alice.say("presence", of=["bob"])
    second = await alice.say("presence", of=["carol"])
    call = str(uuid.uuid4())
    invite = await alice.say("invite", call=call, to=["bob"], kind="audio")
    refused = (await alice.reply_to(second))["error"]
    assert (refused["code"], refused["retry_ms"] > 0) == ("rate_limited", True)
    assert (await alice.reply_to(invite))["call"]["id"] == call
    assert (await alice.reply_to(first))["people"] == {"bob": "offline"}


@pytest.mark.parametrize("of", [[], ["x" * 151], ["bob"] * 101, "bob", None])
async def test_what_is_no_list_of_up_to_100_names_is_refused(page, of):
    alice = await page("alice")
    error = (await alice.ask("presence", of=of))["error"]
    assert (error["code"], error["argument"]) == ("bad_frame", "of")


async def test_before_hello_nobody_is_told_who_is_online(page):
    alice = await page("alice", hello=False)
    assert (await alice.ask("presence", of=["bob"]))["error"]["code"] == "bad_frame"


async def test_many_pages_ask_at_once_idle_ones_among_them(page, people):
    """An idle page's question goes another way, and has the same answer."""
    alices = [await page("alice", f"Phone {n}") for n in range(5)]
    for alice in alices[:3]:
        await alice.ping()
        await alice.ping()  # the server knows by now that nothing urgent comes from it
        assert alice.take is not None
    answers = await asyncio.gather(*(alice.ask("presence", of=["alice", "bob"]) for alice in alices))
    assert all(answer["people"] == {"alice": "online", "bob": "offline"} for answer in answers)
