"""Two server processes on one database and one Redis: nobody can tell, and either carries on when the other is gone."""

import asyncio
import time
import uuid

import pytest
from asgiref.sync import sync_to_async

from calls import machine, models, switchboard
from devices.models import Device
from tests import race_kit
from tests.pages import WAIT_S
from tests.servers import on_daphne

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def rows_are_right(people, settings):
    yield
    race_kit.check_invariants()


async def talk(caller, callee):
    """A call between two pages."""
    call = (await caller.invite(callee.user))["call"]["id"]
    await callee.sees(call, me={"state": "ringing"})
    assert (await callee.ask("answer", call=call))["ok"]
    await caller.sees(call, state="active")
    return call


async def comes_back(live, page, server, **hello):
    """The same page of the same device, on another server."""
    again = await live(
        page.user, page.name, server=server, hello=False, signed_in=page.cookie, device=page.device, page=page.page
    )
    assert (await again.hello(**hello))["t"] == "welcome"
    return again


def mail(page):
    """The signals that a page has read, as (from, epoch, body)."""
    return [
        (each["from"]["user"], each["from"]["epoch"], each["body"]) for each in page.frames if each["t"] == "signal"
    ]


async def test_a_whole_call_between_people_on_different_servers(live):
    alice = await live("alice", server=0)
    phone, laptop = await live("bob", "Phone", server=1), await live("bob", "Laptop", server=0)
    call = (await alice.invite("bob", "video", data={"about": "lunch"}))["call"]["id"]
    for device in (phone, laptop):
        view = await device.sees(call, state="ringing", me={"state": "ringing"})
        assert view["legs"][0]["data"] == {"about": "lunch"}
    assert (await phone.ask("ringing", call=call))["ok"]
    await alice.sees(call, v=2)
    assert (await phone.ask("answer", call=call))["ok"]
    await alice.sees(call, state="active")
    await laptop.sees(call, state="active", me={"here": False, "device": "Phone"})
    assert (await laptop.ask("answer", call=call))["error"]["code"] == "answered_elsewhere"

    await alice.say("signal", call=call, to="bob", body={"sdp": 1})
    await phone.until(lambda frame: frame["t"] == "signal" and frame["body"] == {"sdp": 1})
    await phone.say("signal", call=call, to="alice", body={"sdp": 2})
    answer = await alice.until(lambda frame: frame["t"] == "signal")
    assert (answer["from"], answer["body"]) == ({"user": "bob", "epoch": 1}, {"sdp": 2})

    assert (await phone.ask("media", call=call, mic=False, cam=True))["ok"]
    view = await alice.sees(call, v=4)
    assert [leg["mic"] for leg in view["legs"]] == [True, False]

    assert (await laptop.ask("move", call=call))["call"]["me"]["here"]
    view = await alice.sees(call, v=5)
    assert view["legs"][1]["epoch"] == 2
    await phone.sees(call, v=5, me={"here": False, "device": "Laptop"})
    refused = await phone.ask("signal", call=call, to="alice", body="stale")
    assert refused["error"]["code"] == "not_allowed"
    await alice.say("signal", call=call, to="bob", body="to the laptop")
    await laptop.until(lambda frame: frame["t"] == "signal")
    assert await phone.heard_nothing("") and mail(phone) == [], "mail reaches the bound device only"
    assert (await phone.ask("hangup", call=call))["error"]["code"] == "answered_elsewhere"

    assert (await alice.ask("hangup", call=call))["ok"]
    for device in (phone, laptop):
        await device.sees(call, state="ended", reason="completed")


@pytest.mark.alone  # in a process that has not been a server before: it is to be one without sockets
async def test_what_the_operator_does_elsewhere_reaches_devices_on_every_server(live, people):
    """This process is neither of the two, and has no sockets."""
    alice, phone, laptop = await live("alice", server=0), await live("bob", "Phone", server=1), await live("bob")
    await sync_to_async(switchboard.change_line)(people["bob"].pk, multi_device=False, max_incoming=7)
    for device in (phone, laptop):
        told = await device.until(lambda frame: frame["t"] == "line")
        assert (told["line"]["multi_device"], told["line"]["max_incoming"]) == (False, 7)
    call = (await alice.invite("bob"))["call"]["id"]
    await laptop.sees(call, me={"state": "ringing"})
    assert await phone.heard_nothing(call), "the laptop signed in last"
    await sync_to_async(switchboard.sign_out)(await Device.objects.aget(pk=laptop.device))
    assert await laptop.closed() == 4401
    await phone.sees(call, me={"state": "ringing"})
    ended = await sync_to_async(switchboard.perform)(uuid.UUID(call), machine.EndByOperator("operator"))
    assert ended.refused is None
    for page in (alice, phone):
        await page.sees(call, state="ended", reason="operator")


async def test_a_device_that_appears_on_another_server_leaves_the_first(live):
    alice = await live("alice", server=0)
    again = await comes_back(live, alice, server=1)
    assert await alice.closed() == 4409, "the same page, after a drop that its old server has not noticed"
    tab = await live("alice", server=0, hello=False, signed_in=alice.cookie, device=alice.device)
    assert (await tab.hello())["error"]["code"] == "device_in_use"
    assert (await again.ping())["t"] == "pong"
    assert (await tab.hello(take=True))["t"] == "welcome"
    assert await again.closed() == 4409
    assert [each["why"] for each in again.frames if each["t"] == "bye"] == ["replaced"]
    assert (await tab.ping())["t"] == "pong"


async def test_a_server_killed_while_it_rings_loses_nothing(live, servers):
    alice, laptop = await live("alice", server=0), await live("bob", "Laptop", server=0)
    phone = await live("bob", "Phone", server=1)
    call = (await alice.invite("bob"))["call"]["id"]
    for device in (phone, laptop):
        await device.sees(call, me={"state": "ringing"})
    began = time.monotonic()
    servers[0].kill()
    assert await alice.closed() == await laptop.closed() == 1006
    alice, laptop = await comes_back(live, alice, server=1), await comes_back(live, laptop, server=1)
    assert alice.calls[call]["me"]["here"] and "hangup" in alice.calls[call]["me"]["can"]
    assert laptop.calls[call]["me"]["state"] == "ringing"
    left, passed = laptop.calls[call]["me"]["ring_ms"], (time.monotonic() - began) * 1000
    assert 0 < left <= 45_000 - passed, "it rings again with the time left"
    assert (await phone.ping())["calls"] == [], "the others never stopped"
    assert (await laptop.ask("answer", call=call))["ok"]
    await alice.sees(call, state="active")
    await phone.sees(call, me={"here": False, "device": "Laptop"})
    assert (await phone.ask("end", call=call))["ok"]
    await alice.sees(call, state="ended", reason="completed")


async def test_a_server_killed_in_a_call_loses_nothing(live, servers):
    alice, bob = await live("alice", server=0), await live("bob", server=1)
    call = await talk(alice, bob)
    servers[0].kill()
    assert await alice.closed() == 1006
    assert (await bob.ask("media", call=call, mic=False, cam=False))["ok"]
    alice = await comes_back(live, alice, server=1)
    view = alice.calls[call]
    assert (view["v"], view["state"], view["me"]["here"], view["legs"][1]["mic"]) == (3, "active", True, False)
    assert "signal" in view["me"]["can"], "the same page goes on, and keeps its media"
    await bob.say("signal", call=call, to="alice", body=1)
    await alice.until(lambda frame: frame["t"] == "signal")
    await alice.say("signal", call=call, to="bob", body=2)
    await bob.until(lambda frame: frame["t"] == "signal")

    reloaded = await live("alice", server=1, hello=False, signed_in=alice.cookie, device=alice.device)
    assert (await reloaded.hello(take=True))["t"] == "welcome"
    assert "move" in reloaded.calls[call]["me"]["can"] and "signal" not in reloaded.calls[call]["me"]["can"]
    assert (await reloaded.ask("move", call=call))["call"]["legs"][0]["epoch"] == 2
    await bob.sees(call, v=4)
    assert (await bob.ask("hangup", call=call))["ok"]
    await reloaded.sees(call, state="ended")


async def test_a_command_whose_reply_died_with_its_server_is_sent_again(live, servers):
    alice, bob = await live("alice", server=0), await live("bob", server=1)
    call = (await alice.invite("bob"))["call"]["id"]
    await bob.sees(call, me={"state": "ringing"})
    await bob.say("answer", call=call)
    await alice.sees(call, state="active")
    servers[1].kill()
    bob = await comes_back(live, bob, server=0)
    again = await bob.ask("answer", call=call)
    assert again["ok"] and again["call"]["me"]["here"] and again["call"]["v"] == 2


@on_daphne
async def test_sigterm_says_when_to_come_back_and_the_call_goes_on(live, servers):
    alice, bob, idle = await live("alice", server=0), await live("bob", server=1), await live("carol", server=0)
    mute = await live("dave", server=0, hello=False)
    call = await talk(alice, bob)
    process = servers[0].process
    await asyncio.to_thread(servers[0].stop)
    assert process.returncode == 0
    for page in (alice, idle):
        assert await page.closed() == 1012
        bye = page.frames[-1]
        assert (bye["t"], bye["why"]) == ("bye", "restart")
        assert 200 <= bye["retry_ms"] <= 3000, "they come back spread over this time"
    assert await mute.closed() == 1012
    assert "Traceback" not in servers[0].logged()
    bob_saw = bob.calls[call]["v"]
    alice = await comes_back(live, alice, server=1)
    assert (alice.calls[call]["state"], alice.calls[call]["v"]) == ("active", bob_saw), "nothing else happened"
    assert (await alice.ask("hangup", call=call))["ok"]
    await bob.sees(call, state="ended", reason="completed")


async def test_the_calls_of_a_killed_server_are_ended_by_the_clock_of_another(launch, live, settings):
    short = {
        "RING_S": 2.5, "RING_GRACE_S": 0.5, "CALLER_SILENT_S": 5, "DEVICE_SILENT_S": 3, "LEG_LOST_S": 5, "CLOCK_S": 0.2,
        "PING_S": 1, "PING_CALL_S": 1, "PONG_S": 1,
    }  # fmt: skip
    settings.CALLS = {**settings.CALLS, **short}
    doomed, other = [launch(**{name: str(value) for name, value in short.items()}) for _ in range(2)]
    alice, tablet = await live("alice", server=doomed), await live("alice", "Tablet", server=doomed)
    dave, operator = await live("dave", server=doomed), await live("operator", server=doomed)
    bob, carol = await live("bob", server=other), await live("carol", server=other)
    talked = await talk(dave, tablet)
    rings_long = (await alice.invite("bob", ring_s=60))["call"]["id"]
    rings = (await operator.invite("carol"))["call"]["id"]
    await carol.sees(rings, me={"state": "ringing"})
    assert (await carol.ask("ringing", call=rings))["ok"]
    await asyncio.to_thread(doomed.kill)

    view = await carol.sees(rings, state="ended", reason="no_answer")  # its ring ran out
    assert [leg["state"] for leg in view["legs"]] == ["left", "missed"]
    await bob.sees(rings_long, state="ended", reason="cancelled")  # its caller has been silent for too long
    async with asyncio.timeout(WAIT_S):
        while (await models.Call.objects.aget(pk=talked)).state != "ended":  # noqa: ASYNC110 - nobody is there to tell
            await asyncio.sleep(0.05)
    value = await sync_to_async(models.load)(uuid.UUID(talked))
    assert value.reason == "lost" and "lost" in [leg.state for leg in value.legs]
    back = await comes_back(live, dave, server=other)
    assert back.calls == {}
    assert (await back.ask("ping", calls={talked: 2}))["calls"][0]["reason"] == "lost"


# `launch` before `live`: pages close before their servers stop, which else wait for goodbyes that nobody says.
async def test_servers_that_believe_to_be_alone_find_each_other(launch, live):
    one, two = launch(PROCESSES="1"), launch(PROCESSES="1")
    alice, phone = await live("alice", server=one), await live("bob", "Phone", server=two)
    laptop = await live("bob", "Laptop", server=one)
    call = await talk(alice, phone)
    await laptop.sees(call, state="active", me={"device": "Phone"})
    assert (await phone.ask("hangup", call=call))["ok"]
    for page in (alice, laptop):
        await page.sees(call, state="ended")
    assert "PROCESSES should say how many" in one.logged()
