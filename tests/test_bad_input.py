"""Whatever a stranger sends: each frame gets its refusal or its close code, nothing is logged as a fault, and nobody
else waits."""

import asyncio
import contextlib
import json
import logging
import time
import uuid
from collections import Counter

import pytest

from calls import models
from devices.models import Device
from tests.malformed import BOTTOMLESS, CALL, NO_COMMAND, NO_ID, NUL, WRONG, frame
from tests.pages import Closed

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def no_fault_is_logged(caplog):
    """What a stranger does is no fault of ours: no error, and no traceback of any level."""
    caplog.set_level(logging.INFO)
    yield
    faults = [each for each in caplog.get_records("call") if each.levelno >= logging.ERROR or each.exc_info]
    assert not faults, [each.getMessage() for each in faults]


async def replies(page, *texts):
    """The replies to these frames: exactly one for each, in their order, and nothing else that answers anything."""
    for text in texts:
        await page.transmit(text)
    await page.transmit(frame("ping", id="the end"))
    heard = []
    while (answer := await page.next()).get("re") != "the end":
        if answer["t"] == "reply":
            heard.append(answer)
    assert len(heard) == len(texts)
    return heard


def refusals(heard):
    return [(each["re"], each["error"]["code"], each["error"].get("argument")) for each in heard]


async def test_what_is_no_command_is_refused_once_each_and_the_socket_lives(page):
    alice = await page("alice")
    heard = refusals(await replies(alice, *NO_COMMAND, *NO_ID))
    assert {(re, code) for re, code, _ in heard} <= {(None, "bad_frame"), ("x", "bad_frame")}
    assert {argument for _, _, argument in heard} == {"frame", "id"}
    ((_, code, argument),) = refusals(await replies(alice, BOTTOMLESS))
    assert (code, argument in ("frame", "data")) == ("bad_frame", True)
    assert (await alice.ping())["t"] == "pong"


async def test_a_wrong_argument_is_named_in_the_one_reply_to_its_command(page):
    alice = await page("alice")
    wrong = [(text, argument) for text, argument in WRONG if '"hello"' not in text]
    heard = refusals(await replies(alice, *(text for text, _ in wrong)))
    assert heard == [("x", "bad_frame", argument) for _, argument in wrong]


async def test_a_wrong_hello_is_refused_and_a_right_one_may_follow(page):
    alice = await page("alice", hello=False)
    for text, argument in WRONG:
        if '"hello"' in text:
            await alice.transmit(text)
            assert refusals([await alice.next()]) == [("x", "bad_frame", argument)]
    assert (await alice.hello())["t"] == "welcome"


async def test_nul_characters_are_refused(page):
    alice = await page("alice")
    heard = await replies(alice, *NUL)
    assert {each["error"]["code"] for each in heard} == {"bad_frame"}


async def test_unknown_commands_of_later_versions_and_of_the_machine_are_refused(page):
    alice = await page("alice")
    heard = refusals(await replies(alice, *(frame(cmd) for cmd in ("due", "silent", "signedout", "join", "takeover"))))
    assert heard == [("x", "bad_frame", "cmd")] * 5


async def test_an_id_may_be_any_text_and_comes_back_as_it_went(page):
    alice = await page("alice")
    for odd in ("ж🎉", "\\", '"', "{}", "\u2028", "x" * 64):
        await alice.transmit(frame("answer", id=odd, call=CALL))
        assert refusals([await alice.next()]) == [(odd, "not_found", None)]


# --- data -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "said",
    ["", "x" * 2046, "C:\\u0000", "🎉 \u2028 </script>", 2**63 - 1, -0.5, 1e-300, [[[[]]]], {"a": {"b": [None, True]}}],
    ids=lambda said: repr(said)[:20],
)
async def test_data_comes_to_the_other_side_as_it_went(page, said):
    alice, bob = await page("alice"), await page("bob")
    placed = await alice.invite("bob", data=said)
    assert placed["ok"]
    call = placed["call"]["id"]
    view = await bob.sees(call, state="ringing")
    assert [leg["data"] for leg in view["legs"]] == [said, None]
    assert (await bob.ask("answer", call=call, data={"by": said}))["ok"] is (len(json.dumps({"by": said})) <= 2048)
    await bob.ask("hangup", call=call, data=said)


async def test_data_too_large_too_deep_or_with_numbers_that_rows_cannot_hold_changes_nothing(page):
    alice, bob = await page("alice"), await page("bob")
    call = (await alice.invite("bob"))["call"]["id"]
    await bob.sees(call, state="ringing")
    bad = ['"' + "x" * 2047 + '"', "[" * 33 + "]" * 33, "9" * 2000, "[1e22]", "1e999"]
    for cmd in ("ringing", "answer", "reject", "hangup", "end"):
        if cmd != "ringing":
            frames = [f'{{"id":"x","cmd":"{cmd}","call":"{call}","data":{data}}}' for data in bad]
            assert refusals(await replies(bob, *frames)) == [("x", "bad_frame", "data")] * len(bad)
    assert bob.calls[call]["state"] == "ringing"
    assert bob.calls[call]["v"] == 1


# --- other people's calls and devices ---------------------------------------------------------------------------------


async def test_somebody_else_s_call_is_not_found_whatever_is_asked_of_it(page):
    alice, bob, carol = await page("alice"), await page("bob"), await page("carol")
    call = (await alice.invite("bob"))["call"]["id"]
    await bob.sees(call, state="ringing")
    asked = [
        frame("ringing", call=call),
        frame("answer", call=call),
        frame("reject", call=call),
        frame("hangup", call=call),
        frame("end", call=call),
        frame("move", call=call),
        frame("media", call=call, mic=True, cam=True),
        frame("signal", call=call, to="bob", body={}),
    ]
    heard = await replies(carol, *asked)
    assert refusals(heard) == [("x", "not_found", None)] * len(asked)
    nowhere = await replies(carol, *(text.replace(call, str(uuid.uuid4())) for text in asked))
    assert nowhere == heard, "nobody can tell a call of others from none"
    pong = await carol.ask("ping", calls={call: 0})
    assert (pong["calls"], pong["gone"]) == ([], [call])
    taken = await carol.ask("invite", call=call, to=["bob"], kind="audio")
    assert taken["error"]["code"] == "conflict"
    assert "call" not in taken
    assert await carol.heard_nothing(call)
    assert (await bob.ask("answer", call=call))["ok"], "the call is as it was"


async def test_an_answer_with_somebody_else_s_call_to_leave_leaves_nothing(page):
    alice, bob, carol, dave = [await page(name) for name in ("alice", "bob", "carol", "dave")]
    foreign = (await alice.invite("bob"))["call"]["id"]
    mine = (await carol.invite("dave"))["call"]["id"]
    await dave.sees(mine, state="ringing")
    heard = await dave.ask("answer", call=mine, **{"and": {"call": foreign, "do": "hangup"}})
    assert heard["error"]["code"] == "not_found"
    await bob.sees(foreign, state="ringing")
    assert (await bob.ping())["calls"] == []


@pytest.mark.parametrize("whose", ["alice", "nobody"])
async def test_somebody_else_s_device_is_not_found_and_null_makes_one_s_own(page, whose):
    alice = await page("alice")
    bob = await page("bob", hello=False)
    bob.device = alice.device if whose == "alice" else str(uuid.uuid4())
    refused = await bob.hello()
    assert refused["error"]["code"] == "not_found"
    assert (await bob.ask("ping", calls={}))["error"]["argument"] == "cmd", "it has not said hello"
    assert (await alice.ping())["t"] == "pong", "its socket was left alone"
    bob.device = None
    assert (await bob.hello())["t"] == "welcome"
    assert bob.device != alice.device


async def test_a_call_of_oneself_or_of_somebody_who_is_not_there_leaves_nothing_behind(page, people):
    alice = await page("alice")
    heard = await replies(
        alice,
        frame("invite", call=str(uuid.uuid4()), to=["bob", "alice"], kind="audio"),
        frame("invite", call=str(uuid.uuid4()), to=["alice"], kind="audio"),
        frame("invite", call=str(uuid.uuid4()), to=["bob", "nobody"], kind="audio"),
        frame("add", call=CALL, to=["bob"]),
        frame("remove", call=CALL, user="bob"),
        frame("hold", call=CALL, on=True),
        frame("transfer", call=CALL, to="bob"),
        frame("transfer", call=CALL, **{"with": str(uuid.uuid4())}),
    )
    codes = [code for _, code, _ in refusals(heard)]
    assert codes[:3] == ["not_allowed", "not_allowed", "not_found"]
    assert set(codes[3:]) <= {"not_allowed", "not_found"}
    assert await models.Call.objects.acount() == 0


async def test_an_old_invite_and_an_old_answer_are_not_acted_on(page):
    alice, bob = await page("alice"), await page("bob")
    assert (await alice.invite("bob", age=10_001))["error"]["code"] == "expired"
    call = (await alice.invite("bob", age=10_000))["call"]["id"]
    await bob.sees(call, state="ringing")
    assert (await bob.ask("answer", call=call, age=10_001))["error"]["code"] == "expired"
    assert (await bob.ask("answer", call=call, age=10**40))["error"]["code"] == "expired"
    assert (await bob.ask("answer", call=call, age=0))["ok"]


# --- hello and the lack of it -----------------------------------------------------------------------------------------


async def test_commands_before_hello_are_refused_and_hello_may_follow(page):
    alice = await page("alice", hello=False)
    before = [
        frame("ping"),
        frame("invite", call=CALL, to=["bob"], kind="audio"),
        frame("answer", call=CALL),
        frame("signal", call=CALL, to="bob", body={}),
        frame("multi_device", on=True),
    ]
    for text in before:
        await alice.transmit(text)
        assert refusals([await alice.next()]) == [("x", "bad_frame", "cmd")]
    assert (await alice.hello())["t"] == "welcome"
    assert await models.Call.objects.acount() == 0


async def test_a_second_hello_is_refused_and_changes_nothing(page):
    alice = await page("alice")
    device = alice.device
    for again in (device, None, str(uuid.uuid4())):
        alice.device = again
        assert refusals([await alice.hello(take=True)])[0][1:] == ("bad_frame", "cmd")
    alice.device = device
    assert (await alice.ping())["t"] == "pong"
    assert await Device.objects.acount() == 1


async def test_a_socket_that_never_says_hello_is_closed(page, settings):
    settings.CALLS = {**settings.CALLS, "HELLO_S": 0.2}
    silent, talkative = await page("alice", hello=False), await page("bob", hello=False)
    await talkative.transmit(frame("ping"))
    assert refusals([await talkative.next()]) == [("x", "bad_frame", "cmd")]
    assert await silent.closed() == 4408
    assert await talkative.closed() == 4408, "only hello counts"


async def test_a_socket_without_a_user_is_told_so_and_closed(page, cookie, people):
    nobody = await page("alice", hello=False, signed_in="sessionid=there-is-no-such-session")
    assert await nobody.closed() == 4401
    assert [each["why"] for each in nobody.frames if each["t"] == "bye"] == ["signed_out"]


# --- frames that are none ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hello", [True, False])
@pytest.mark.parametrize(
    "wrong", [b"", b"\x00\xff", frame("ping").encode(), "x" * 65_537, frame("ping", a="x" * 65_537)]
)
async def test_a_binary_or_a_huge_frame_closes_the_socket_as_not_the_protocol(page, hello, wrong):
    alice, bob = await page("alice", hello=hello), await page("bob")
    await alice.transmit(wrong)
    assert await alice.closed() == 4400
    assert [each["why"] for each in alice.frames if each["t"] == "bye"] == ["protocol"]
    assert (await bob.ping())["t"] == "pong"


async def test_nothing_is_done_for_a_socket_that_has_been_closed(page):
    alice, bob = await page("alice"), await page("bob")
    await alice.transmit(b"not the protocol")
    await alice.transmit(frame("invite", call=CALL, to=["bob"], kind="audio"))
    assert await alice.closed() == 4400
    assert await bob.heard_nothing(CALL)
    assert await models.Call.objects.acount() == 0


# --- too many ---------------------------------------------------------------------------------------------------------


async def test_frames_over_the_rate_are_refused_one_by_one_until_the_time_they_name(page, settings):
    settings.CALLS = {**settings.CALLS, "FRAME_BURST": 20, "FRAME_RATE": 50}
    alice = await page("alice")
    for n in range(60):
        await alice.transmit(frame("answer", id=str(n), call="not a call"))
    heard = [await alice.next() for _ in range(60)]
    assert [each["re"] for each in heard] == [str(n) for n in range(60)]
    codes = [each["error"]["code"] for each in heard]
    assert codes[:19] == ["bad_frame"] * 19, "hello took the first of the twenty"
    assert set(codes[40:]) == {"rate_limited"}
    retry_ms = heard[-1]["error"]["retry_ms"]
    assert 0 < retry_ms <= 840, "forty frames over twenty, and this one again, at fifty a second"
    await asyncio.sleep(retry_ms / 1000)
    assert (await alice.ping())["t"] == "pong"


async def test_a_flooding_socket_is_told_so_and_closed(page):
    alice, bob = await page("alice"), await page("bob")
    for n in range(10_000):
        await alice.transmit(frame("answer", id=str(n), call="not a call"))
    assert (await bob.ping())["t"] == "pong", "others are served meanwhile"
    assert await alice.closed() == 4429
    codes = [each["error"]["code"] for each in alice.frames if each["t"] == "reply"]
    assert 1000 <= codes.count("rate_limited") < 2000
    assert [each["re"] for each in alice.frames[:-1]] == [str(n) for n in range(len(codes))], "each has its one reply"
    bye = alice.frames[-1]
    assert (bye["t"], bye["why"], bye["retry_ms"]) == ("bye", "flooding", 10_000)


# --- on a running server ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(launch_once):
    """A server with the default rate of frames, in whose log no fault may be found."""
    server = launch_once()
    yield server
    logged = server.logged()
    assert " ERROR " not in logged
    assert logged.count("Traceback") == logged.count("Invalid UTF-8 sequence received from client"), (
        "uvicorn's own word"
    )


async def test_ten_thousand_frames_in_a_burst_end_their_socket_and_nobody_else_waits(server, live):
    alice, bob = await live("alice", server=server), await live("bob", server=server)

    async def flood():
        kinds = [frame("ping", id="{n}"), frame("answer", id="{n}", call="not a call"), frame("nope", id="{n}")]
        for n in range(10_000):
            await alice.transmit(kinds[n % 3].replace("{n}", str(n)))

    flooding = asyncio.create_task(flood())
    closing = asyncio.create_task(alice.closed(wait_s=60))
    waits = []
    while not closing.done():
        began = time.monotonic()
        assert (await bob.ping())["t"] == "pong"
        waits.append(time.monotonic() - began)
        await asyncio.sleep(0.01)
    assert closing.result() == 4429
    with contextlib.suppress(Closed):
        await flooding
    assert max(waits) < 2, "another socket is served meanwhile"
    answers = [each for each in alice.frames if each["t"] in ("reply", "pong")]
    answered = [int(each["re"]) for each in answers]
    assert len(set(answered)) == len(answered), "each has its one reply"
    assert sorted(n for n in answered if n % 3) == [n for n in range(max(answered) + 1) if n % 3], (
        "all but pings that wait"
    )
    codes = Counter(each["error"]["code"] if each["t"] == "reply" else "pong" for each in answers)
    assert codes["pong"] > 0 and codes["bad_frame"] > 600 and codes["rate_limited"] >= 1000
    assert alice.frames[-1]["why"] == "flooding"
    again = await live("alice", server=server, signed_in=alice.cookie, device=alice.device, page=alice.page)
    assert again.device == alice.device, "and may come back"


async def test_frames_that_are_no_text_of_the_protocol_close_their_socket_with_its_code(server, live):
    bob = await live("bob", server=server)
    for wrong in (b"\x00\xff", frame("ping").encode(), "x" * 65_537, frame("ping", a="ж" * 32_768), "x" * 2_000_000):
        alice = await live("alice", server=server)
        with contextlib.suppress(Closed):
            await alice.transmit(wrong)
        assert await alice.closed() == 4400
    alice = await live("alice", server=server)
    await alice.socket.send(b'{"id":"\xff"}', text=True)
    assert await alice.closed() == 1007, "not UTF-8: RFC 6455 has a code of its own"
    alice = await live("alice", server=server)
    await alice.socket.send(["x" * 30_000] * 3)
    assert await alice.closed() == 4400, "a message in fragments is one frame"
    assert (await bob.ping())["t"] == "pong"


async def test_everything_malformed_is_refused_over_the_network_too(server, live):
    alice = await live("alice", server=server)
    texts = [*NO_COMMAND, *NO_ID, *NUL, *(text for text, _ in WRONG if '"hello"' not in text)]
    heard = refusals(await replies(alice, *texts))
    assert {code for _, code, _ in heard} == {"bad_frame"}
    nobody = await live("alice", server=server, hello=False, signed_in="sessionid=there-is-no-such-session")
    assert await nobody.closed() == 4401
