"""Somebody else holds a row that orders need: those that need it wait, for a bounded time, and nobody else does."""

import asyncio
import time
import uuid
from contextlib import asynccontextmanager
from io import StringIO

import pytest
from django.core.management import call_command
from django.db import connection
from django.utils import timezone

from calls import models
from calls.models import Call
from tests import race_kit
from tests.test_faults import held

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.alone]

SOON_S = 1.0  # for whoever needs no row that is held; a tenth of it when the machine is quiet


@asynccontextmanager
async def others_call(live):
    """carol calls dave again and again meanwhile, and nothing of it takes long."""
    carol, dave = await live("carol"), await live("dave")
    took = []

    async def ask(page, cmd, **args):
        began = time.monotonic()
        reply = await page.ask(cmd, **args)
        took.append(time.monotonic() - began)
        assert reply["ok"], reply

    async def call_on():
        while True:
            call = str(uuid.uuid4())
            await ask(carol, "invite", call=call, to=["dave"], kind="audio")
            await ask(dave, "answer", call=call)
            await ask(carol, "hangup", call=call)
            await dave.sees(call, state="ended")

    calling = asyncio.create_task(call_on())
    yield took
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    print(f"\n{len(took)} answers beside a held row: the slowest after {max(took):.3f} s")
    assert len(took) > 20
    assert max(took) < SOON_S


async def test_a_held_account_delays_only_who_calls_it(live, servers, people):
    """A new leg has a foreign key to its user, and that is checked by a lock which SKIP LOCKED knows nothing of."""
    alice = await live("alice")
    await live("bob")
    async with others_call(live):
        account = "SELECT 1 FROM auth_user WHERE id = %s FOR UPDATE"
        async with held(servers[0], account, people["bob"].pk) as (_, waiter):
            re = await alice.say("invite", call=str(uuid.uuid4()), to=["bob"], kind="audio")
            await waiter()
            await asyncio.sleep(2)
            assert not any(frame.get("re") == re for frame in alice.frames)
        assert (await alice.reply_to(re))["call"]["state"] == "ringing"


async def test_a_held_leg_delays_only_its_own_call(live, servers):
    alice, bob = await live("alice"), await live("bob")
    call = (await alice.invite("bob"))["call"]["id"]
    await bob.sees(call, me={"state": "ringing"})
    assert (await bob.ask("answer", call=call))["ok"]
    async with others_call(live):
        async with held(servers[0], "SELECT 1 FROM calls_leg WHERE call_id = %s FOR UPDATE", call) as (_, waiter):
            re = await alice.say("media", call=call, mic=False, cam=False)
            await waiter()
            await asyncio.sleep(2)
        assert (await alice.reply_to(re))["ok"]


async def test_many_commands_that_wait_for_one_line_leave_the_threads_to_others(live, servers, people):
    callers = [await live("alice", f"Device {number}") for number in range(8)]
    operator = await live("operator")
    await live("bob")
    line = "SELECT 1 FROM devices_line WHERE user_id = %s FOR UPDATE"
    async with others_call(live):
        async with held(servers[0], line, people["bob"].pk) as (_, waiter):
            asked = [
                (page, await page.say("invite", call=str(uuid.uuid4()), to=["bob"], kind="audio")) for page in callers
            ]
            await waiter()
            for _ in range(5):  # a hangup of an unknown call is settled in a thread
                began = time.monotonic()
                assert (await operator.ask("hangup", call=str(uuid.uuid4())))["error"]["code"] == "not_found"
                assert time.monotonic() - began < SOON_S
        replies = [await page.reply_to(re) for page, re in asked]
    assert sum(reply["ok"] for reply in replies) == 1, "alice may place one call"
    refused = {reply["error"]["code"] for reply in replies if not reply["ok"]}
    assert refused == {"limit_reached"}


async def test_everybody_who_waits_for_a_row_is_told_when_the_first_has_waited_in_vain(live, servers, people):
    callers = [await live("alice", f"Device {number}") for number in range(8)]
    line = "SELECT 1 FROM devices_line WHERE user_id = %s FOR UPDATE"
    await live("bob")
    async with held(servers[0], line, people["bob"].pk) as (_, waiter):
        began = time.monotonic()
        asked = [(page, await page.say("invite", call=str(uuid.uuid4()), to=["bob"], kind="audio")) for page in callers]
        await waiter()
        for page, re in asked:
            assert (await page.reply_to(re))["error"]["code"] == "unavailable"
        assert time.monotonic() - began < 8, "a lock is waited for for 5 s; two groups of four would take 10"
    assert (await callers[0].invite("bob"))["call"]["state"] == "ringing"
    assert await Call.objects.acount() == 1
    assert await models.Entry.objects.acount() == 1


def test_erase_holds_the_rows_of_few_calls_at_a_time(people):
    """While it waits for one leg that somebody else holds, it holds no more than those of its last step."""
    if connection.vendor != "postgresql":
        pytest.skip("SQLite locks the whole database")
    bob, number = people["bob"], 1200
    now = timezone.now()
    calls = [
        Call(id=uuid.uuid4(), v=1, kind="audio", state="ended", host=people["alice"], placed_at=now, ended_at=now)
        for _ in range(number)
    ]
    Call.objects.bulk_create(calls)
    models.Leg.objects.bulk_create(
        models.Leg(call=call, user=bob, username="bob", name="Bob", dir="in", state="missed") for call in calls
    )
    middle = models.Leg.objects.order_by("pk").values_list("pk", flat=True)[number // 2]
    with race_kit.held(race_kit.row(models.Leg, middle)) as gate:
        erasing = race_kit.Contestant(lambda: call_command("erase", "bob", "--yes", stdout=StringIO()))
        assert erasing.waits_for({gate})
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM (SELECT 1 FROM calls_leg FOR UPDATE SKIP LOCKED) leg")
            free = cursor.fetchone()
    erasing.result.result(race_kit.PATIENCE_S)
    assert free is not None and free[0] >= number - 501
    assert not models.Leg.objects.filter(username="bob").exists()
