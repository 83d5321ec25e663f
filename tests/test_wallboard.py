"""The wallboard: who may watch, what is counted, and that it is counted once for all who watch."""

import asyncio
import datetime as dt
import json
import uuid

import pytest
from asgiref.sync import sync_to_async
from channels.testing import WebsocketCommunicator
from django.conf import settings
from django.contrib.sessions.models import Session
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from callplatform.asgi import application
from calls import aggregates, wallboard
from calls.models import Call, Leg, Refusal
from calls.wallboard import Board, board

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


async def test_a_wallboard_ends_with_its_sign_in_and_not_with_a_fault_of_the_database(watch, monkeypatch):
    monkeypatch.setattr(wallboard, "LOOK_S", 0.1)
    socket = await watch("operator")

    def rename(before, after):
        with connection.cursor() as cursor:
            cursor.execute(f"ALTER TABLE {before} RENAME TO {after}")

    await next_now(socket)
    await sync_to_async(rename)("django_session", "away")
    try:
        for _ in range(3):
            await next_now(socket)
    finally:
        await sync_to_async(rename)("away", "django_session")
    await next_now(socket)
    await Session.objects.all().adelete()
    while (said := await socket.receive_output(timeout=8))["type"] != "websocket.close":
        pass
    assert said["code"] == 4401


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
    busy = Call.objects.get(reason="busy")
    Leg.objects.create(call=busy, user=people["bob"], username="bob", dir="in", state="out", reason="incoming_limit")
    Refusal.objects.create(call=busy.pk, user=people["carol"], command="Invite", code="limit_reached", at=now)
    calls(4, "completed", dt.timedelta(hours=5), answered=8)
    calls(5, "no_answer", dt.timedelta(days=3))
    calls(9, "no_answer", dt.timedelta(days=30))
    sums = {}
    for span, length in (("hour", 60), ("day", 24), ("week", 168)):
        plot = aggregates.plot(span)
        assert {len(column) for name, column in plot.items() if name != "totals"} == {length}
        sums[span] = (sum(plot["placed"]), sum(plot["answered"]), sum(plot["busy"]))
    assert sums == {"hour": (4, 3, 1), "day": (8, 7, 1), "week": (13, 7, 1)}
    hour, day = aggregates.plot("hour"), aggregates.plot("day")
    assert hour["totals"] == {"placed": 4, "answered": 3, "busy": 1, "limit_hits": 2, "per_minute": 0.07,
                              "answer_rate": 0.75, "answer_s": 4.0, "p50": 4.0, "p95": 4.0}  # fmt: skip
    assert sum(hour["limit_hits"]) == 2
    assert [rate for rate in hour["answer_rate"] if rate is not None] == [0.75]
    totals = day["totals"]
    assert (totals["answer_s"], totals["p50"], totals["p95"]) == (6.29, 8.0, 8.0)
    for name, seconds in (("answer_s", [8.0, 4.0]), ("p50", [8.0, 4.0]), ("p95", [8.0, 4.0])):
        assert [second for second in day[name] if second] == seconds
    assert aggregates._percentiles_of([dt.timedelta(seconds=n) for n in range(101)]) == {
        "p50": dt.timedelta(seconds=50),
        "p95": dt.timedelta(seconds=95),
    }
    assert settings.TIME_ZONE == "UTC"


def test_a_second_costs_the_same_however_many_calls_are_live(people):
    def a_second(live):
        now = timezone.now()
        Call.objects.bulk_create(
            Call(id=uuid.uuid4(), v=1, kind="audio", state="active", host=people["alice"], placed_at=now)
            for _ in range(live - Call.objects.count())
        )
        counting = Board()
        with CaptureQueriesContext(connection) as first:
            frames = counting.count()
        with CaptureQueriesContext(connection) as further:
            counting.count()
        assert json.loads(frames[0])["active"] == live
        return len(first), len(further), len(b"".join(frames))

    few, many = a_second(10), a_second(5000)
    assert few[:2] == many[:2]
    assert few[1] <= 2
    assert many[2] < few[2] + 40  # the figures have more digits
