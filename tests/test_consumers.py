"""Frames in, frames out, in one process: what each device of a call is told."""

import asyncio
import uuid

import msgspec
import pytest
import redis.asyncio
from asgiref.sync import sync_to_async
from channels.layers import InMemoryChannelLayer, get_channel_layer

from calls import switchboard
from calls.models import Call, Leg
from devices.models import Device
from tests.malformed import frame
from tests.pages import WAIT_S

pytestmark = pytest.mark.django_db(transaction=True)


def code(reply):
    return reply["error"]["code"]


async def change(person, **changes):
    await sync_to_async(switchboard.change_line)(person.pk, **changes)


async def test_a_call_rings_every_device_and_the_first_answer_wins(page):
    alice, phone, laptop = await page("alice"), await page("bob", "Phone"), await page("bob", "Laptop")
    placed = await alice.invite("bob", "video")
    call = placed["call"]["id"]
    me = placed["call"]["me"]
    assert placed["ok"]
    assert (me["state"], me["here"], me["device"], me["ring_ms"]) == ("joined", True, "Laptop", 0)
    for device in (phone, laptop):
        view = await device.sees(call, state="ringing", me={"state": "ringing"})
        assert 40_000 < view["me"]["ring_ms"] <= 45_000
    assert (await phone.ask("ringing", call=call))["ok"]
    await alice.sees(call, v=2)
    assert [leg["alerted"] for leg in alice.calls[call]["legs"]] == [False, True]
    assert (await phone.ask("answer", call=call))["call"]["me"]["here"]
    await alice.sees(call, state="active")
    await laptop.sees(call, state="active", me={"state": "joined", "here": False, "device": "Phone"})
    late = await laptop.ask("answer", call=call)
    assert late["error"] == {"code": "answered_elsewhere", "message": "Answered on Phone", "device": "Phone"}
    assert late["call"]["state"] == "active"
    assert (await alice.ask("hangup", call=call))["ok"]
    for device in (phone, laptop):
        await device.sees(call, state="ended", reason="completed")
    assert (await alice.ask("hangup", call=call))["ok"], "a resent hangup is no error"


async def test_the_welcome_says_who_where_and_what(page):
    bob = await page("bob", "Phone")
    assert bob.welcome["user"] == {"id": "bob", "name": "Bob"}
    assert bob.welcome["device"] == {"id": bob.device, "name": "Phone", "kind": "web"}
    limits = {"max_incoming": 1, "max_outgoing": 1, "max_legs": 9, "may_transfer": True}
    assert bob.welcome["line"] == {"multi_device": True, "may_switch": False, "dnd": False, **limits}
    assert (bob.welcome["v"], bob.welcome["calls"], bob.welcome["ice"], bob.welcome["ping_s"]) == (1, [], [], 20)


async def test_with_multi_device_off_only_the_most_recent_login_rings(page):
    bob, phone, laptop = await page("bob"), await page("alice", "Phone"), await page("alice", "Laptop")
    call = (await bob.invite("alice"))["call"]["id"]
    await laptop.sees(call, state="ringing")
    assert await phone.heard_nothing(call)
    assert code(await phone.ask("answer", call=call)) == "not_found"
    again = await page("alice", "Phone", device=phone.device, signed_in=phone.signed_in, page=phone.page)
    assert again.welcome["calls"] == [], "a reconnect is not a login"
    assert (await laptop.ask("answer", call=call))["ok"]


async def test_a_device_that_signs_in_mid_ring_rings_too_when_multi_device_is_on(ringing, page):
    tablet = await page("bob", "Tablet")
    assert [view["me"]["state"] for view in tablet.welcome["calls"]] == ["ringing"]
    assert (await tablet.ask("answer", call=ringing[3]))["ok"]


async def test_a_reject_silences_all_devices(ringing):
    alice, phone, laptop, call = ringing
    assert (await laptop.ask("reject", call=call, data={"why": "later"}))["ok"]
    await phone.sees(call, state="ended", reason="rejected")
    view = await alice.sees(call, state="ended", reason="rejected")
    assert view["legs"][1]["data"] == {"why": "later"}
    assert code(await phone.ask("answer", call=call)) == "call_ended"


async def test_a_busy_callee_ends_the_call_and_frees_the_callers_place(talking, page):
    dave = await page("dave")
    busy = await dave.invite("bob")
    assert busy["ok"]
    assert (busy["call"]["state"], busy["call"]["reason"]) == ("ended", "busy")
    assert busy["call"]["legs"][1]["reason"] == "incoming_limit"
    assert (await dave.invite("carol"))["ok"], "the place is free again"


async def test_the_outgoing_limit_refuses_with_its_figures(page):
    alice, second = await page("alice"), await page("alice", "Second")
    await page("bob")
    await page("carol")
    assert (await alice.invite("bob"))["ok"]
    refused = await second.invite("carol")
    assert [view["me"]["here"] for view in refused["error"].pop("calls")] == [False]
    assert refused["error"] == {
        "code": "limit_reached",
        "message": "You have reached your limit of outgoing calls: 1.",
        "direction": "outgoing",
        "limit": 1,
        "active": 1,
    }
    assert "call" not in refused


async def test_limits_are_the_operators_and_hold_for_the_next_call(page, people):
    alice, carol, dave, bob = await page("alice"), await page("carol"), await page("dave"), await page("bob")
    await change(people["bob"], max_incoming=2)
    assert (await bob.until(lambda frame: frame["t"] == "line"))["line"]["max_incoming"] == 2
    states = [(await caller.invite("bob"))["call"]["state"] for caller in (alice, carol, dave)]
    assert states == ["ringing", "ringing", "ended"]
    await change(people["bob"], max_incoming=0)
    await bob.ping()
    assert [call["state"] for call in bob.calls.values() if call["state"] != "ended"] == ["ringing", "ringing"]
    await change(people["dave"], max_outgoing=0)
    assert (await dave.invite("bob"))["error"]["limit"] == 0


async def test_someone_without_devices_is_unreachable(page):
    alice = await page("alice")
    assert (await alice.invite("carol"))["call"]["reason"] == "unreachable"


async def test_people_who_call_each_other_are_connected(page):
    alice, bob = await page("alice"), await page("bob", "Phone")
    first = (await alice.invite("bob"))["call"]["id"]
    own = str(uuid.uuid4())
    met = await bob.invite("alice", call=own)
    assert (met["ok"], met["call"]["id"], met["call"]["state"]) == (True, first, "active")
    await alice.sees(first, state="active")
    assert (await bob.invite("alice", call=own))["call"]["id"] == first, "the resent invite is the same call"
    assert await Call.objects.acount() == 1


async def test_an_invite_sent_again_is_the_same_call_and_with_other_arguments_a_conflict(ringing):
    alice, _, _, call = ringing
    assert (await alice.invite("bob", "video", call=call))["call"]["v"] == 1
    assert code(await alice.invite("bob", "audio", call=call)) == "conflict"
    assert code(await alice.invite("carol", "video", call=call)) == "conflict"
    assert await Call.objects.acount() == 1


async def test_a_call_hung_up_before_its_invite_came_never_rings(page):
    alice, bob, call = await page("alice"), await page("bob"), str(uuid.uuid4())
    assert code(await alice.ask("hangup", call=call)) == "not_found"
    late = await alice.invite("bob", call=call)
    assert (code(late), late["error"]["reason"]) == ("call_ended", "cancelled")
    assert await bob.heard_nothing(call)


async def test_what_waited_too_long_in_a_client_is_expired(ringing, page):
    _, phone, _, call = ringing
    assert code(await phone.ask("answer", call=call, age=10_001)) == "expired"
    assert code(await (await page("carol")).invite("dave", age=60_000)) == "expired"
    assert (await phone.ask("answer", call=call, age=9_000))["ok"]


async def test_mail_reaches_the_bound_device_and_no_other(talking):
    alice, phone, laptop, call = talking
    body = {"description": {"type": "offer", "sdp": "v=0\u0000"}}
    await alice.say("signal", call=call, to="bob", body=body)
    mail = await phone.until(lambda frame: frame["t"] == "signal")
    assert mail == {"t": "signal", "call": call, "from": {"user": "alice", "epoch": 1}, "body": body}
    await laptop.ping()
    assert not [frame for frame in laptop.frames if frame["t"] == "signal"]
    assert code(await laptop.ask("signal", call=call, to="alice", body={})) == "not_allowed"
    assert code(await alice.ask("signal", call=call, to="carol", body={})) == "not_found"


async def test_nobody_is_written_to_while_it_rings(ringing):
    alice, phone, _, call = ringing
    assert code(await alice.ask("signal", call=call, to="bob", body={})) == "not_allowed"
    assert code(await phone.ask("signal", call=call, to="alice", body={})) == "not_allowed"


async def test_mail_to_a_leg_that_moved_goes_to_its_new_device(talking):
    alice, phone, laptop, call = talking
    assert (await laptop.ask("move", call=call))["ok"]
    await phone.sees(call, me={"state": "joined", "here": False, "device": "Laptop"})
    await alice.sees(call, v=3)
    await alice.say("signal", call=call, to="bob", body=1)
    assert (await laptop.until(lambda frame: frame["t"] == "signal"))["body"] == 1
    assert code(await phone.ask("signal", call=call, to="alice", body=2)) == "not_allowed"
    await phone.ping()
    assert not [frame for frame in phone.frames if frame["t"] == "signal"]


async def test_a_reloaded_page_continues_its_call(talking, page):
    alice, phone, _, call = talking
    await phone.close()
    back = await page("bob", "Phone", device=phone.device, signed_in=phone.signed_in)
    (view,) = back.welcome["calls"]
    assert view["me"]["here"]
    assert "move" in view["me"]["can"]
    assert "signal" not in view["me"]["can"]
    moved = await back.ask("move", call=call)
    assert moved["call"]["legs"][1]["epoch"] == 2
    assert "signal" in moved["call"]["me"]["can"]
    await alice.sees(call, v=3, state="active")


async def test_mute_is_told_to_the_other_side(talking):
    alice, phone, _, call = talking
    assert (await phone.ask("media", call=call, mic=False, cam=True))["ok"]
    view = await alice.sees(call, v=3)
    assert (view["legs"][1]["mic"], view["legs"][1]["cam"]) == (False, True)


async def test_a_second_page_of_a_device_waits_until_it_is_told_to_take_over(page):
    first = await page("alice")
    second = await page("alice", device=first.device, signed_in=first.signed_in, hello=False)
    assert code(await second.hello()) == "device_in_use"
    assert (await second.hello(take=True))["device"]["id"] == first.device
    assert (await first.until(lambda frame: frame["t"] == "bye"))["why"] == "replaced"
    assert await first.closed() == 4409


async def test_the_same_page_replaces_its_dead_socket(page):
    first = await page("alice")
    again = await page("alice", device=first.device, signed_in=first.signed_in, page=first.page)
    assert again.welcome["device"]["id"] == first.device
    await first.closed()
    assert (await Device.objects.aget(pk=first.device)).socket is not None, (
        "the late goodbye of the old socket changes nothing"
    )


async def test_somebody_elses_device_is_not_found(page):
    alice = await page("alice")
    bob = await page("bob", device=alice.device, hello=False)
    assert code(await bob.hello()) == "not_found"
    bob.device = None
    assert (await bob.hello())["t"] == "welcome"


async def test_a_signed_out_device_is_closed_and_comes_back_only_with_a_new_sign_in(page):
    phone = await page("bob", "Phone")
    row = await Device.objects.aget(pk=phone.device)
    await sync_to_async(switchboard.sign_out)(row)
    assert (await phone.until(lambda frame: frame["t"] == "bye"))["why"] == "signed_out"
    assert await phone.closed() == 4401
    stale = await page("bob", signed_in=phone.signed_in, hello=False)
    assert await stale.closed() == 4401, "its session has ended with it"
    back = await page("bob", "Phone", device=phone.device)
    assert back.welcome["device"]["id"] == phone.device
    assert (await Device.objects.aget(pk=phone.device)).logged_in_at > row.logged_in_at


async def test_more_devices_than_anybody_needs_sign_out_the_one_unheard_of_for_longest(page, people, monkeypatch):
    from devices import presence

    monkeypatch.setattr(presence, "MAX_DEVICES", 2)
    first, second = await page("carol", "First"), await page("carol", "Second")
    await first.close()
    await page("carol", "Third")
    signed_in = Device.objects.filter(user=people["carol"], signed_out_at=None)
    assert sorted([device.name async for device in signed_in]) == ["Second", "Third"]
    assert (await second.ping())["t"] == "pong"


async def test_the_user_switches_multi_device_when_the_operator_allows_it(page, people):
    phone, laptop = await page("carol", "Phone"), await page("carol", "Laptop")
    assert code(await phone.ask("multi_device", on=True)) == "multi_device_off"
    await change(people["carol"], may_switch=True)
    switched = await phone.ask("multi_device", on=True)
    assert (switched["ok"], switched["line"]["multi_device"]) == (True, True)
    await laptop.until(lambda frame: frame["t"] == "line" and frame["line"]["multi_device"])
    alice = await page("alice")
    call = (await alice.invite("carol"))["call"]["id"]
    await phone.sees(call, state="ringing")
    await laptop.sees(call, state="ringing")


async def test_answering_can_leave_another_call_in_the_same_decision(talking, page, people):
    alice, phone, _, first = talking
    await change(people["bob"], max_incoming=2)
    dave = await page("dave")
    second = (await dave.invite("bob"))["call"]["id"]
    await phone.sees(second, state="ringing")
    refused = await phone.ask("answer", call=second)
    assert (code(refused), refused["error"]["call"]) == ("in_call", first)
    taken = await phone.ask("answer", call=second, **{"and": {"call": first, "do": "hangup"}})
    assert (taken["ok"], taken["call"]["id"], taken["call"]["state"]) == (True, second, "active")
    await alice.sees(first, state="ended", reason="completed")


async def test_leaving_for_a_call_that_is_gone_leaves_nothing(talking, page, people):
    alice, phone, _, first = talking
    await change(people["bob"], max_incoming=2)
    dave = await page("dave")
    second = (await dave.invite("bob"))["call"]["id"]
    await phone.sees(second, state="ringing")
    await dave.ask("hangup", call=second)
    assert code(await phone.ask("answer", call=second, **{"and": {"call": first, "do": "hangup"}})) == "call_ended"
    assert (await alice.ping())["t"] == "pong"
    assert alice.calls[first]["state"] == "active"


async def test_the_server_is_told_which_devices_may_be_read_later(page):
    alice, bob = await page("alice"), await page("bob")
    await alice.ping()
    await bob.ping()
    await bob.ping()  # what the server is told goes behind the pong
    assert bob.take
    call = (await alice.invite("bob"))["call"]["id"]
    await bob.sees(call, state="ringing")
    await bob.ping()
    await alice.ping()
    assert (alice.take, bob.take) == (None, None)
    assert (await bob.ask("reject", call=call))["ok"]
    await bob.ping()
    await bob.ping()
    assert bob.take


async def test_pings_and_nothing_else_are_taken_without_the_socket_s_task(page, settings):
    alice = await page("alice")
    await alice.ping()
    await alice.ping()
    take = alice.take
    assert take and take(frame("ping", id="taken"))
    assert (await alice.reply_to("taken"))["t"] == "pong"
    invite = frame("invite", id="invite", call=str(uuid.uuid4()), to=["bob"], kind="audio")
    for other in (invite, frame("ping", calls=3), "no frame", frame("signal"), frame("hello")):
        assert not take(other)
    await alice.say("signal", call=str(uuid.uuid4()), to="bob", body={})
    await asyncio.sleep(0)
    assert alice.communicator.input_queue.empty(), "the task has it"
    assert not take(frame("ping")), "its turn comes when the command before it is answered"
    assert code(await alice.until(lambda said: "error" in said)) == "not_found"
    await alice.ping()
    settings.CALLS = {**settings.CALLS, "FRAME_RATE": 0.001, "FRAME_BURST": 3}
    assert [take(frame("ping", id=str(n))) for n in range(4)] == [True, True, True, False], "the rate holds here too"


async def test_a_ping_brings_what_was_missed_and_drops_what_is_gone(talking):
    alice, phone, _, call = talking
    stranger = str(uuid.uuid4())
    pong = await phone.ask("ping", calls={call: 1, stranger: 3})
    assert [view["v"] for view in pong["calls"]] == [2]
    assert pong["gone"] == [stranger]
    assert (await phone.ask("ping", calls={call: 2}))["calls"] == []
    await alice.ask("hangup", call=call)
    assert [view["state"] for view in (await phone.ask("ping", calls={call: 2}))["calls"]] == ["ended"]


async def test_a_stranger_learns_nothing_of_a_call(talking, page):
    carol, call = await page("carol"), talking[3]
    for cmd in ("ringing", "answer", "reject", "hangup", "end", "move"):
        refused = await carol.ask(cmd, call=call)
        assert (code(refused), "call" in refused) == ("not_found", False)
    assert (await carol.ask("ping", calls={call: 0}))["gone"] == [call]
    assert code(await carol.ask("signal", call=call, to="bob", body={})) == "not_found"
    assert code(await carol.invite("bob", call=call)) == "conflict"


async def test_nobody_calls_themselves_or_an_account_that_is_closed(page, people):
    alice = await page("alice")
    assert code(await alice.invite("alice")) == "not_allowed"
    people["bob"].is_active = False
    await people["bob"].asave()
    assert code(await alice.invite("bob")) == code(await alice.invite("nobody")) == "not_found"
    assert await Leg.objects.acount() == 0


async def test_a_socket_that_is_closed_is_not_a_hangup(talking):
    alice, phone, _, call = talking
    await phone.close()
    await alice.ping()
    assert (await Call.objects.aget(pk=call)).state == "active"
    device = await Device.objects.aget(pk=phone.device)
    assert (device.socket, device.page) == (None, None)


async def test_no_command_before_hello_and_no_second_hello(page):
    alice = await page("alice", hello=False)
    assert code(await alice.invite("bob")) == "bad_frame"
    assert (await alice.hello())["t"] == "welcome"
    assert code(await alice.hello()) == "bad_frame"


async def test_a_page_that_never_says_hello_is_closed(page, settings):
    settings.CALLS = {**settings.CALLS, "HELLO_S": 0.05}
    silent = await page("alice", hello=False)
    assert await silent.closed() == 4408


async def test_a_socket_without_a_user_is_told_to_sign_in(page):
    nobody = await page("alice", signed_in="sessionid=none", hello=False)
    assert (await nobody.until(lambda frame: frame["t"] == "bye"))["why"] == "signed_out"
    assert await nobody.closed() == 4401


async def test_a_server_that_stops_says_goodbye_and_when_to_come_back(page):
    from callplatform.asgi import application
    from calls.hub import hub

    alice = await page("alice")
    events = iter(["lifespan.startup", "lifespan.shutdown"])
    answers = []

    async def receive():
        return {"type": next(events)}

    async def send(message):
        assert hub.loop is (asyncio.get_running_loop() if not answers else None)
        answers.append(message["type"])

    await application({"type": "lifespan"}, receive, send)  # as a server says when it starts and ends
    assert answers == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    bye = await alice.until(lambda frame: frame["t"] == "bye")
    assert bye["why"] == "restart"
    assert 200 <= bye["retry_ms"] <= 3000
    assert await alice.closed() == 1012


async def test_what_others_say_is_heard_as_soon_as_a_process_has_started():
    from calls.hub import Hub, Said, hub

    heard: asyncio.Queue[Said] = asyncio.Queue()

    class Ear:
        sign_in, take = None, staticmethod(heard.put_nowait)

        def bye(self, why, retry_ms):
            pass

    started = Hub()
    started.decoders = hub.decoders
    await started.start()
    started.join("1", Ear())
    try:
        await sync_to_async(Hub().publish)(Said(("1",), "line", {"multi_device": True}))
        assert (await asyncio.wait_for(heard.get(), WAIT_S)).content == {"multi_device": True}
    finally:
        await started.stop()


async def test_what_cannot_be_read_or_taken_costs_nobody_else_anything(page, people, settings):
    from calls.hub import GROUP, Hub, Said, hub

    class Broken:
        sign_in = None

        def take(self, said):
            raise KeyError("bob")

        def bye(self, why, retry_ms):
            pass

    alice, bob, broken = await page("alice"), await page("bob"), Broken()
    keys = tuple(str(people[name].pk) for name in ("alice", "bob"))
    hub.join(keys[0], broken)
    async with redis.asyncio.from_url(settings.REDIS_URL) as server:
        before = await server.pubsub_channels()
        for post in (b"", b"\xc1", msgspec.msgpack.encode(("another", ((keys, "unheard of", b""),)))):
            await get_channel_layer().group_send(GROUP, {"type": "hub", "post": post})
        await sync_to_async(Hub().publish)(Said(keys, "line", {"multi_device": True}))
        for each in (alice, bob):
            await each.until(lambda frame: frame["t"] == "line")
        assert sorted(await server.pubsub_channels()) == sorted(before)
    hub.part(keys[0], broken)


async def test_a_layer_that_takes_nothing_is_not_waited_for_by_more_than_it_may(monkeypatch, settings, caplog):
    from calls import hub

    class Stuck(InMemoryChannelLayer):
        async def group_send(self, group, message):
            await asyncio.Event().wait()

    settings.PROCESSES = 2
    monkeypatch.setattr(hub, "SEND_S", 0.3)
    monkeypatch.setattr(hub, "BEAT_S", 0.1)
    monkeypatch.setattr(hub, "MAX_UNSENT", 10)
    monkeypatch.setattr(hub, "get_channel_layer", Stuck)
    started = hub.Hub()
    await started.start()
    try:
        for _ in range(50):
            started.publish(hub.Said(("1",), "line", {}))
        waiting = set(started.sending)
        assert len(waiting) == 10
        _, waiting = await asyncio.wait(waiting, timeout=WAIT_S)
        assert not waiting
        assert sum("did not take" in said for said in caplog.messages) == 1, "it is said once, however many they are"
    finally:
        await started.stop()


async def test_a_user_who_is_renamed_while_signed_in_is_heard_and_seen(page, people):
    alice, bob = await page("alice"), await page("bob")
    people["bob"].username = "robert"
    await people["bob"].asave()
    call = (await alice.invite("robert"))["call"]["id"]
    await bob.sees(call)
    await bob.ask("answer", call=call)
    view = await alice.sees(call, state="active")
    assert {leg["user"] for leg in view["legs"]} == {"alice", "robert"}
    body = {"epoch": 1, "to_epoch": 1, "candidates": []}
    await alice.say("signal", call=call, to="robert", body=body)
    assert (await bob.until(lambda frame: frame["t"] == "signal"))["body"] == body
    await bob.say("signal", call=call, to="alice", body=body)
    assert (await alice.until(lambda frame: frame["t"] == "signal"))["from"]["user"] == "robert"


async def test_six_devices_that_answer_at_once_have_one_winner(page):
    alice = await page("alice")
    devices = [await page("bob", f"Device {n}") for n in range(6)]
    call = (await alice.invite("bob"))["call"]["id"]
    for device in devices:
        await device.sees(call, state="ringing")
    replies = await asyncio.gather(*(device.ask("answer", call=call) for device in devices))
    assert sum(reply["ok"] for reply in replies) == 1
    winner = next(device for device, reply in zip(devices, replies, strict=True) if reply["ok"])
    assert {reply["error"]["device"] for reply in replies if not reply["ok"]} == {winner.name}


async def test_who_has_reached_the_limit_is_shown_the_call_that_uses_it_up(page):
    """Multi-device is off, so the second device is told nothing of the call; yet it can continue it."""
    alice, second = await page("alice"), await page("alice", "Second")
    bob = await page("bob")
    await page("carol")
    call = (await alice.invite("bob"))["call"]["id"]
    assert (await bob.ask("answer", call=call))["ok"]
    refused = await second.invite("carol")
    (shown,) = refused["error"]["calls"]
    assert (shown["id"], shown["state"], [leg["user"] for leg in shown["legs"]]) == (call, "active", ["alice", "bob"])
    assert shown["me"] == {
        "state": "joined",
        "here": False,
        "device": "Laptop",
        "ring_ms": 0,
        "can": shown["me"]["can"],
    }
    assert {"move", "end"} <= set(shown["me"]["can"])
    assert code(await second.ask("hangup", call=call)) == "not_found", "only what the contract names"
    moved = await second.ask("move", call=call)
    assert (moved["ok"], moved["call"]["me"]["here"]) == (True, True)
    await alice.sees(call, me={"here": False, "device": "Second"})
    await bob.sees(call, state="active")


async def test_who_has_reached_the_limit_can_end_the_call_that_uses_it_up(page):
    alice, second, bob = await page("alice"), await page("alice", "Second"), await page("bob")
    await page("carol")
    call = (await alice.invite("bob"))["call"]["id"]
    assert (await bob.ask("answer", call=call))["ok"]
    for _ in range(2):  # the first reply may be lost
        ended = await second.ask("end", call=call)
        assert (ended["ok"], ended["call"]["state"], ended["call"]["reason"]) == (True, "ended", "completed")
    await alice.sees(call, state="ended", reason="completed")
    assert (await second.invite("carol"))["ok"], "the place is free"


async def test_a_limit_of_none_has_no_calls_in_its_way(page, people):
    alice = await page("alice")
    await page("bob")
    await change(people["alice"], max_outgoing=0)
    assert (await alice.invite("bob"))["error"]["calls"] == []
