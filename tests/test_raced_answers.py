"""A thousand calls to somebody with six devices, which all answer at the same moment, on two server processes."""

import asyncio
import random
import time
import uuid
from collections import Counter

import pytest
from asgiref.sync import sync_to_async

from calls import models

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(600)]

CALLS = 1000
SERVERS = (0, 0, 1, 1, 1, 1)  # of each device; alice is on the first


async def test_a_thousand_raced_answers_have_a_thousand_winners_and_five_thousand_told_where(live, record_property):
    alice = await live("alice", server=0)
    devices = [await live("bob", f"Device {number}", server=server) for number, server in enumerate(SERVERS)]
    winners: Counter[str] = Counter()
    codes: Counter[str] = Counter()
    began = time.monotonic()
    for _ in range(CALLS):
        call = str(uuid.uuid4())
        invite = await alice.say("invite", call=call, to=["bob"], kind="audio")
        await asyncio.gather(*(device.sees(call, me={"state": "ringing"}) for device in devices))
        random.shuffle(devices)  # a loop sends one frame after the other: no device shall always be the first
        replies = await asyncio.gather(*(device.ask("answer", call=call) for device in devices))
        [winner] = [device for device, reply in zip(devices, replies, strict=True) if reply["ok"]]
        winners[winner.name] += 1
        for device, reply in zip(devices, replies, strict=True):
            assert reply["call"]["me"]["here"] == (device is winner)
            if device is not winner:
                codes[reply["error"]["code"]] += 1
                assert reply["error"]["device"] == winner.name
        hangup = await alice.say("hangup", call=call)
        assert [(await alice.reply_to(command))["ok"] for command in (invite, hangup)] == [True, True]
        for page in (alice, *devices):
            page.frames.clear()
            page.calls.clear()
    seconds = time.monotonic() - began
    print(f"\n{CALLS} calls raced for in {seconds:.1f} s; won by {dict(sorted(winners.items()))}")
    record_property("seconds", round(seconds, 1))
    assert winners.total() == CALLS
    assert codes == {"answered_elsewhere": CALLS * (len(devices) - 1)}
    assert len(winners) == len(devices), "every device wins now and then, else this was no race"
    await sync_to_async(check_rows)(winners)


def check_rows(winners: Counter[str]) -> None:
    """The rows tell the same as the replies."""
    legs = models.Leg.objects.filter(dir="in")
    assert Counter(legs.values_list("device_name", flat=True)) == winners
    assert set(legs.values_list("state", "epoch")) == {("left", 1)}
    commands = Counter(models.Entry.objects.values_list("command__type", flat=True))
    assert commands == {"Invite": CALLS, "Answer": CALLS, "Hangup": CALLS}
