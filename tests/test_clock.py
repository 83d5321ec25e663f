"""The clock acts on whatever is due, once, whoever runs it."""

import asyncio
import datetime as dt
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from django.db import connection, transaction
from django.db.models import F
from django.utils import timezone
from msgspec.structs import replace

from calls import conf, pool, switchboard
from calls.clock import Errands, last, run
from calls.desk import desk
from calls.hot import Watch
from calls.models import Call, Entry, Hearing, Leg, SpentInvite
from devices.models import Device, Line
from tests.pages import WAIT_S
from tests.race_kit import watching

pytestmark = pytest.mark.django_db(transaction=True)


def ago(seconds: float) -> dt.datetime:
    return timezone.now() - dt.timedelta(seconds=seconds)


@pytest.fixture
def clock(db):
    """A clock that has been watching for an hour."""
    return watching(dt.timedelta(hours=1))


@pytest.fixture
async def tick(clock):
    return lambda: pool.run(clock.tick)


@pytest.fixture
async def run_errands():
    """Runs every errand that is due."""
    errands = Errands()

    async def run():
        for errand in errands.due():
            await pool.run(errands.run, errand)

    return run


async def rung(page):
    alice, phone = await page("alice"), await page("bob", "Phone")
    call = (await alice.invite("bob"))["call"]["id"]
    await phone.sees(call)
    return alice, phone, call


async def test_a_ring_that_nobody_answers_is_missed(page, tick):
    alice, phone, call = await rung(page)
    await phone.ask("ringing", call=call)
    await tick()
    assert (await Call.objects.aget(pk=call)).state == "ringing", "it is not due yet"
    await Call.objects.filter(pk=call).aupdate(due_at=ago(0))
    await tick()
    assert (await Call.objects.aget(pk=call)).state == "ringing", "the rules look at the ring itself"
    row = await Call.objects.aget(pk=call)
    await row.legs.filter(dir="in").aupdate(ring_until=ago(3))
    await tick()
    await alice.sees(call, state="ended", reason="no_answer")
    assert (await phone.sees(call, state="ended"))["me"]["state"] == "missed"
    entries = await Entry.objects.filter(call=call).acount()
    await tick()
    assert await Entry.objects.filter(call=call).acount() == entries, "what is done is not done again"


async def test_a_silent_device_is_shown_then_lost_and_a_ping_brings_it_back(page, tick):
    alice, phone, call = await rung(page)
    await phone.ask("answer", call=call)
    of_phone = Device.objects.filter(pk=phone.device)
    await of_phone.aupdate(last_seen_at=ago(12))
    await tick()
    view = await alice.sees(call, v=3)
    assert [leg["online"] for leg in view["legs"]] == [True, False]
    await phone.ping()
    view = await alice.sees(call, v=4)
    assert [leg["online"] for leg in view["legs"]] == [True, True]
    await of_phone.aupdate(last_seen_at=ago(50))
    await tick()
    view = await alice.sees(call, state="ended", reason="lost")
    assert [leg["state"] for leg in view["legs"]] == ["left", "lost"]


async def test_a_silent_caller_cancels_the_ring(page, tick):
    alice, phone, call = await rung(page)
    await Device.objects.filter(pk=alice.device).aupdate(last_seen_at=ago(21))
    await tick()
    await phone.sees(call, state="ended", reason="cancelled")


async def active(page):
    """A call whose two devices have not been heard from for ten minutes."""
    _, phone, call = await rung(page)
    await phone.ask("answer", call=call)
    await Device.objects.all().aupdate(last_seen_at=ago(600))
    return call


async def online(call):
    return [leg.online async for leg in Leg.objects.filter(call=call)]


async def test_a_clock_that_has_just_begun_counts_silence_from_its_first_look(page, tick, clock):
    call = await active(page)
    clock.began = None
    await tick()
    await tick()
    assert await online(call) == [True, True]


async def test_silence_while_no_heartbeat_could_be_stored_is_not_held_against_anybody(page, tick):
    """The last mark is old: the database was frozen or away, or no server ran."""
    call = await active(page)
    await Hearing.objects.aupdate(until=ago(60))
    await tick()
    await tick()
    assert await online(call) == [True, True]
    assert (await Hearing.objects.aget()).since > ago(5)
    await Hearing.objects.aupdate(since=ago(12))
    await tick()
    assert await online(call) == [False, False], "what was silent since is shown so"
    assert (await Call.objects.aget(pk=call)).state == "active"


async def test_a_clock_beside_no_sockets_does_not_count_as_one_that_hears(page, tick, clock):
    call = await active(page)
    await Hearing.objects.aupdate(until=ago(60))
    clock.serves = False
    for _ in range(2):
        await tick()
    assert await online(call) == [True, True]
    assert (await Hearing.objects.aget()).until < ago(50)


async def test_a_server_whose_heartbeats_are_not_stored_does_not_count_as_one_that_hears(page, tick, monkeypatch):
    call = await active(page)
    await Hearing.objects.aupdate(until=ago(60))
    monkeypatch.setattr(desk, "look_began", time.monotonic() - 4)  # a look at the database that has not come back
    await tick()
    assert await online(call) == [True, True]
    assert (await Hearing.objects.aget()).until < ago(50)


async def test_a_clock_waits_for_no_mark_of_another(page, tick, clock):
    def hold():
        with transaction.atomic():
            assert Hearing.objects.select_for_update().get()
            holding.set()
            assert done.wait(WAIT_S)

    if connection.vendor != "postgresql":
        pytest.skip("SQLite has no row locks")
    holding, done = threading.Event(), threading.Event()
    holder = pool.run(hold)
    waiting = asyncio.ensure_future(holder)
    try:
        assert await asyncio.to_thread(holding.wait, WAIT_S)
        began = time.monotonic()
        await tick()
        assert time.monotonic() - began < 1
    finally:
        done.set()
        await waiting


async def test_what_a_clock_found_is_decided_as_of_then(page, clock, people):
    """It may be stopped between its look and the decision, as long as the devices would need to be lost."""
    _, phone, call = await rung(page)
    await phone.ask("answer", call=call)
    await Device.objects.filter(pk=phone.device).aupdate(last_seen_at=ago(12))
    found = await pool.run(switchboard.due, Watch(10, 60, True, clock.began))
    minute = dt.timedelta(seconds=60)  # which passes now, for every row
    await Device.objects.aupdate(last_seen_at=F("last_seen_at") - minute)
    [silent] = [
        order._replace(command=replace(order.command, since=order.command.since - minute)) for order in found.silent
    ]
    await pool.run(switchboard.settle, [silent], wait=False, now=found.at - minute)
    assert (await Call.objects.aget(pk=call)).state == "active"
    assert await online(call) == [True, False]


async def test_many_silent_legs_are_acted_on_in_steps_and_without_a_pause(page, clock, tick, monkeypatch):
    monkeypatch.setattr("calls.clock.BATCH", 1)
    call = await active(page)
    await Device.objects.all().aupdate(last_seen_at=ago(12))
    assert await pool.run(clock.tick), "there may be more"
    assert await pool.run(clock.tick)
    assert not await pool.run(clock.tick)
    assert await online(call) == [False, False]


async def test_a_clock_ticks_while_pages_and_sockets_have_every_thread_and_every_connection(people, monkeypatch):
    def occupy():
        occupied.release()
        with suppress(*pool.AWAY):  # one that finds none left has waited for it
            connection.ensure_connection()
            assert done.wait(WAIT_S)
        connection.close()

    if connection.vendor != "postgresql":
        pytest.skip("only PostgreSQL has a pool of connections")
    occupied, done = threading.Semaphore(0), threading.Event()
    occupying = [asyncio.ensure_future(pool.run(occupy)) for _ in range(conf.get("DB_THREADS"))]
    for _ in occupying:
        assert await asyncio.to_thread(occupied.acquire, timeout=WAIT_S)
    pages = ThreadPoolExecutor(7)  # one more than there are connections for
    occupying += [asyncio.get_running_loop().run_in_executor(pages, occupy) for _ in range(7)]
    monkeypatch.setattr(last, "tick", None)
    clock = None
    try:
        async with asyncio.timeout(WAIT_S / 2):
            while not connection.pool.get_stats().get("requests_waiting"):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            clock = asyncio.create_task(run())
            while last.tick is None:  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(0.02)
        assert connection.pool.get_stats().get("requests_waiting"), "there was none to be had"
    finally:
        done.set()
        await asyncio.gather(*occupying)
        if clock is not None:
            clock.cancel()
            await asyncio.wait({clock})
        pages.shutdown()


async def test_a_deactivated_account_is_signed_out_everywhere(page, people, run_errands):
    alice, phone, call = await rung(page)
    people["bob"].is_active = False
    await people["bob"].asave()
    await run_errands()
    assert (await phone.until(lambda frame: frame["t"] == "bye"))["why"] == "deactivated"
    assert await phone.closed() == 4401
    await alice.sees(call, state="ended", reason="unreachable")


async def test_ids_of_calls_that_never_came_are_forgotten_after_ten_minutes(people, run_errands, monkeypatch):
    monkeypatch.setattr(switchboard, "MOST_FORGOTTEN", 2)
    for seconds in (590, 610, 620, 630):
        await SpentInvite.objects.acreate(id=uuid.uuid4(), user=people["alice"], at=ago(seconds))
    await run_errands()
    assert await SpentInvite.objects.acount() == 2, "a bounded number at once"
    await run_errands()
    assert await SpentInvite.objects.acount() == 1, "and the rest in the next turn, which comes at once"


async def test_a_device_whose_line_somebody_holds_keeps_no_other_deactivated_one_waiting(page, people, run_errands):
    if connection.vendor != "postgresql":
        pytest.skip("SQLite has no row locks")
    bob, carol = await page("bob"), await page("carol")
    for name in ("bob", "carol"):
        people[name].is_active = False
        await people[name].asave()

    def hold():
        with transaction.atomic():
            Line.objects.select_for_update().get(user=people["bob"])
            holding.set()
            assert done.wait(WAIT_S)

    holding, done = threading.Event(), threading.Event()
    waiting = asyncio.ensure_future(pool.run(hold))
    assert await asyncio.to_thread(holding.wait, WAIT_S)
    errands = asyncio.ensure_future(run_errands())
    try:
        # Whichever comes first: bob's is given up after the lock's timeout of 5 s.
        assert await carol.closed() == 4401
        assert not (await Device.objects.aget(pk=bob.device)).signed_out_at
    finally:
        done.set()
        await asyncio.gather(waiting, errands)


async def test_one_call_that_cannot_be_decided_does_not_hold_up_the_others(page, tick, people):
    _, _, call = await rung(page)
    broken = await Call.objects.acreate(
        id=uuid.uuid4(), v=1, kind="audio", state="ringing", host=people["carol"], placed_at=ago(99), due_at=ago(99)
    )
    for name, dir, state in (("carol", "out", "joined"), ("dave", "in", "ringing")):
        await broken.legs.acreate(user=people[name], dir=dir, state=state, ring_until=ago(99))
    await Entry.objects.acreate(call=broken, v=2, at=ago(99), command={})  # the version that it would become
    row = await Call.objects.aget(pk=call)
    await row.legs.filter(dir="in").aupdate(ring_until=ago(3))
    await Call.objects.filter(pk=call).aupdate(due_at=ago(1))
    await tick()
    assert (await Call.objects.aget(pk=broken.pk)).state == "ringing"
    assert (await Call.objects.aget(pk=call)).state == "ended"
