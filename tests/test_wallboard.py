"""The wallboard: who may watch, what is counted, and that it is counted once for all who watch."""

import asyncio
import datetime as dt
import json

import pytest
from asgiref.sync import sync_to_async
from channels.testing import WebsocketCommunicator
from django.conf import settings
from django.test import Client
from django.utils import timezone

from callplatform.asgi import application
from calls import aggregates
from calls.models import Call
from calls.wallboard import board

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
async def watch(cookie):
    """A wallboard's socket, opened by somebody."""
    opened = []

    async def open_board(name="", origin="http://testserver"):
        headers = [(b"host", b"testserver"), (b"origin", origin.encode())]
        if name:
            headers.append((b"cookie", (await sync_to_async(cookie)(name)).encode()))
        socket = WebsocketCommunicator(application, "/ws/wallboard/", headers)
        opened.append(socket)
        socket.let_in, _ = await socket.connect(timeout=5)
        return socket

    yield open_board
    for socket in opened:
        await socket.disconnect()


async def next_now(socket):
    while (frame := json.loads(await socket.receive_from(timeout=8)))["t"] != "now":
        pass
    return frame


async def test_staff_who_may_see_calls_watch_and_nobody_else(watch, people):
    assert (await next_now(await watch("operator")))["ringing"] == 0
    for name, code in (("", 4401), ("alice", 4403)):
        closed = await (await watch(name)).receive_output(timeout=5)
        assert (closed["type"], closed["code"]) == ("websocket.close", code)
    people["dave"].is_staff = True
    await people["dave"].asave()
    closed = await (await watch("dave")).receive_output(timeout=5)
    assert closed["code"] == 4403
    assert (await watch("operator", origin="https://evil.example")).let_in is False


def test_the_page_is_for_staff_who_may_see_calls(people, client):
    assert client.get("/admin/wallboard/").status_code == 302
    client.force_login(people["alice"])
    assert client.get("/admin/wallboard/").status_code == 302
    operator = Client()
    operator.force_login(people["operator"])
    assert b'data-socket="/ws/wallboard/"' in operator.get("/admin/wallboard/").content
    assert b"/admin/wallboard/" in operator.get("/admin/").content


async def test_it_shows_what_rings_is_active_and_is_online_within_two_seconds(watch, page):
    socket = await watch("operator")
    alice, bob = await page("alice"), await page("bob")
    call = (await alice.invite("bob"))["call"]["id"]

    async def until(name, value):
        async with asyncio.timeout(8):
            while (await next_now(socket))[name] != value:
                pass

    await until("ringing", 1)
    await bob.sees(call)
    await bob.ask("answer", call=call)
    await until("active", 1)
    assert (await next_now(socket))["per_minute"] == 1
    await until("online", 2)


async def test_all_who_watch_share_one_count_which_ends_with_the_last(watch):
    one, other = await watch("operator"), await watch("operator")
    await next_now(one)
    await next_now(other)
    counting = board.task
    assert len(board.watchers) == 2
    await one.disconnect()
    await next_now(other)
    assert board.task is counting
    await other.disconnect()
    async with asyncio.timeout(5):
        await counting
    assert not board.watchers


def test_rates_and_plots_are_of_their_time(people):
    now = timezone.now()

    def calls(number, reason, ago, answered=None):
        placed = now - ago
        Call.objects.bulk_create([
            Call(id=f"00000000-0000-4000-8000-{Call.objects.count() + n:012}", v=1, kind="audio", state="ended",
                 reason=reason, host=people["alice"], placed_at=placed, ended_at=placed,
                 answered_at=placed + dt.timedelta(seconds=answered) if answered else None)
            for n in range(number)
        ])  # fmt: skip

    calls(3, "completed", dt.timedelta(minutes=10), answered=4)
    calls(1, "busy", dt.timedelta(minutes=10))
    calls(4, "completed", dt.timedelta(hours=5), answered=8)
    calls(5, "no_answer", dt.timedelta(days=3))
    calls(9, "no_answer", dt.timedelta(days=30))
    hour = aggregates.last_hour()
    assert (hour["placed"], hour["answer_rate"], hour["busy"], hour["answer_s"]) == (4, 0.75, 1, 4.0)
    sums = {}
    for span, length in (("hour", 60), ("day", 24), ("week", 168)):
        plot = aggregates.plot(span)
        assert {len(column) for name, column in plot.items()} == {length}
        sums[span] = (sum(plot["placed"]), sum(plot["answered"]), sum(plot["busy"]))
    assert sums == {"hour": (4, 3, 1), "day": (8, 7, 1), "week": (13, 7, 1)}
    assert [second for second in aggregates.plot("hour")["answer_s"] if second] == [4.0]
    assert settings.TIME_ZONE == "UTC"
