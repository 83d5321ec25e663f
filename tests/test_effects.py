"""Whatever fails after a commit: everybody is told at once, the command is answered, and nothing is done twice."""

import asyncio
import datetime as dt
import uuid

import pytest
from asgiref.sync import sync_to_async
from django.conf import settings as site
from django.utils import timezone

from calls import after, machine, models, switchboard
from calls.clock import Clock
from calls.hub import hub
from tests.gates import gate

pytestmark = pytest.mark.django_db(transaction=True)
on_postgresql = pytest.mark.skipif(
    not site.DATABASES["default"]["ENGINE"].endswith("postgresql"), reason="SQLite has no row locks"
)

AT_ONCE_S = 3.0  # the next ping, which would repair a frame that was never sent, comes much later


class Broken(Exception):
    pass


def fails(done):
    raise Broken


@pytest.fixture
def ran(monkeypatch):
    """What an effect that runs last was given."""
    given = []
    monkeypatch.setattr(after, "effects", [*after.effects, given.append])
    return given


@pytest.fixture(params=["wake", "count", "note", "one more"])
def broken(request, monkeypatch, ran, caplog):
    """Each effect in turn raises whenever it runs."""
    if request.param == "one more":
        effects = [fails, *after.effects]
    else:
        effects = [fails if each is getattr(after, request.param) else each for each in after.effects]
    assert fails in effects
    monkeypatch.setattr(after, "effects", effects)
    yield
    said = [record.getMessage() for record in caplog.get_records("call")]
    assert "an effect of a committed change failed: fails" in said


async def sees(page, call, **state):
    async with asyncio.timeout(AT_ONCE_S):
        return await page.sees(call, **state)


async def entries(call):
    return [entry.command["type"] async for entry in models.Entry.objects.filter(call=call)]


async def test_every_frame_comes_at_once_and_every_command_is_answered(page, broken, ran):
    alice, phone, laptop = await page("alice"), await page("bob", "Phone"), await page("bob", "Laptop")
    placed = await alice.invite("bob")
    call = placed["call"]["id"]
    assert placed["ok"]
    for device in (phone, laptop):
        await sees(device, call, state="ringing")
    assert (await phone.ask("answer", call=call))["call"]["state"] == "active"
    await sees(alice, call, state="active")
    await sees(laptop, call, me={"state": "joined", "here": False})
    assert (await laptop.ask("answer", call=call))["error"]["code"] == "answered_elsewhere"
    assert (await phone.ask("hangup", call=call))["ok"]
    for device in (alice, laptop):
        await sees(device, call, state="ended")
    assert await entries(call) == ["Invite", "Answer", "Hangup"], "and nothing is done twice"
    assert [type(change.command).__name__ for done in ran for change in done.changes] == await entries(call)
    assert [refused.code for done in ran for refused in done.refused] == ["answered_elsewhere"]


@on_postgresql
async def test_a_command_that_waited_for_a_lock_is_told_at_once(page, broken):
    """It is settled in a thread."""
    alice, phone = await page("alice"), await page("bob", "Phone")
    call = (await alice.invite("bob"))["call"]["id"]
    await phone.sees(call, state="ringing")
    async with gate() as (link, waiters):
        await link.execute("SELECT 1 FROM calls_call WHERE id = %s FOR NO KEY UPDATE", [call])
        answer = await phone.say("answer", call=call)
        await waiters(1)
    await sees(alice, call, state="active")
    assert (await phone.reply_to(answer))["ok"]
    assert await entries(call) == ["Invite", "Answer"]


async def test_what_the_clock_and_the_operator_do_is_told_at_once(page, broken):
    alice, phone, long_ago = await page("alice"), await page("bob", "Phone"), timezone.now() - dt.timedelta(minutes=1)
    call = (await alice.invite("bob"))["call"]["id"]
    await models.Leg.objects.filter(call=call, dir="in").aupdate(ring_until=long_ago)
    await models.Call.objects.filter(pk=call).aupdate(due_at=timezone.now())
    await sync_to_async(Clock().tick)()
    await sees(alice, call, state="ended", reason="unreachable")
    second = (await alice.invite("bob"))["call"]["id"]
    end = machine.EndByOperator("operator")
    outcome = await sync_to_async(switchboard.perform)(uuid.UUID(second), end)
    assert outcome.refused is None
    for device in (alice, phone):
        await sees(device, second, state="ended", reason="operator")


async def test_a_socket_that_fails_keeps_nothing_from_the_others(page, people):
    class Failing:
        sign_in = None

        def take(self, said):
            raise Broken

        def bye(self, why, retry_ms):
            pass

    alice, key = await page("alice"), str(people["bob"].pk)
    failing = Failing()
    hub.join(key, failing)
    phone = await page("bob", "Phone")
    try:
        call = (await alice.invite("bob"))["call"]["id"]
        await sees(phone, call, state="ringing")
    finally:
        hub.part(key, failing)
