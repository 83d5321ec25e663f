"""The clock acts on whatever is due, once, whoever runs it."""

import datetime as dt
import uuid

import pytest
from django.utils import timezone

from calls.clock import Clock
from calls.models import Call, Entry, SpentInvite
from devices.models import Device

pytestmark = pytest.mark.django_db(transaction=True)


def ago(seconds: float) -> dt.datetime:
    return timezone.now() - dt.timedelta(seconds=seconds)


@pytest.fixture
def clock():
    """A clock that has been watching for long."""
    clock = Clock()
    clock.watching_since = ago(3600)
    return clock


@pytest.fixture
async def tick(clock):
    from calls import pool

    return lambda: pool.run(clock.tick)


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


async def test_silence_while_no_server_ran_is_not_held_against_anybody(page, tick, clock):
    _, phone, call = await rung(page)
    await phone.ask("answer", call=call)
    await Device.objects.all().aupdate(last_seen_at=ago(600))
    clock.watching_since = timezone.now()
    await tick()
    assert (await Call.objects.aget(pk=call)).state == "active"


async def test_a_clock_that_was_blind_for_a_while_begins_to_watch_anew(clock, tick):
    clock.ticked -= 60
    await tick()
    assert clock.watching_since > ago(5)


async def test_a_time_of_day_that_jumps_loses_no_call(page, tick, clock):
    _, phone, call = await rung(page)
    await phone.ask("answer", call=call)
    await tick()
    clock.at -= dt.timedelta(minutes=5)  # as if the time of day had been set forward by five minutes since
    await Device.objects.all().aupdate(last_seen_at=ago(300))
    await tick()
    assert (await Call.objects.aget(pk=call)).state == "active"
    assert clock.watching_since > ago(60)


async def test_a_deactivated_account_is_signed_out_everywhere(page, people, tick):
    alice, phone, call = await rung(page)
    people["bob"].is_active = False
    await people["bob"].asave()
    await tick()
    assert (await phone.until(lambda frame: frame["t"] == "bye"))["why"] == "deactivated"
    assert await phone.closed() == 4401
    await alice.sees(call, state="ended", reason="unreachable")


async def test_ids_of_calls_that_never_came_are_forgotten_after_ten_minutes(people, clock, tick):
    for seconds in (590, 610):
        await SpentInvite.objects.acreate(id=uuid.uuid4(), user=people["alice"], at=ago(seconds))
    for _ in clock.every:  # one errand in a tick
        await tick()
    assert await SpentInvite.objects.acount() == 1


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
