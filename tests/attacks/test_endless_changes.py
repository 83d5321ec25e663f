"""One leg of a call is changed without end, by a script: the entries that this makes are few."""

import itertools
import time

import pytest

from calls import machine
from calls.models import Entry

pytestmark = pytest.mark.django_db(transaction=True)

ALLOWED = machine.DEADLINES.changes
TRIES = ALLOWED + 40  # in less than 40 s, however busy the machine is


async def attack(asked):
    """Asks for each of these changes and returns the replies."""
    replies = [await page.ask(cmd, **args) for page, cmd, args in itertools.islice(asked, TRIES)]
    assert all(reply["ok"] or reply["error"]["code"] == "rate_limited" for reply in replies)
    refused = [reply["error"] for reply in replies if not reply["ok"]]
    assert refused and all(0 < error["retry_ms"] <= 1000 for error in refused)
    assert all(reply["call"]["state"] == "active" for reply in replies), "a refusal shows the call, too"
    return replies


async def check(call, command, began):
    """As many changes as the allowance has at once, and what was added to it since."""
    changes = await Entry.objects.filter(call=call, command__type=command).acount()
    assert ALLOWED <= changes <= ALLOWED + (time.monotonic() - began) / machine.DEADLINES.change_s


async def test_a_microphone_that_is_switched_without_end(talking):
    alice, phone, _, call = talking
    began = time.monotonic()
    await attack((phone, "media", {"call": call, "mic": on, "cam": True}) for on in itertools.cycle((False, True)))
    await check(call, "Media", began)
    assert (await alice.ask("media", call=call, mic=False, cam=True))["ok"], "each leg has an allowance of its own"
    assert (await phone.ask("hangup", call=call))["ok"], "and who has spent it can leave"


async def test_a_call_that_is_moved_without_end_between_servers_and_reconnects(live):
    """The allowance is in the row: it does not come back with another device, another server or another socket."""
    alice, phone = await live("alice"), await live("bob", "Phone")
    call = (await alice.invite("bob"))["call"]["id"]
    assert (await phone.ask("answer", call=call))["ok"]
    laptop = await live("bob", "Laptop", server=1)
    began = time.monotonic()
    await attack((page, "move", {"call": call}) for page in itertools.cycle((laptop, phone)))
    await alice.ping()  # she has been silent for long
    await laptop.close()
    back = await live("bob", "Laptop", server=0, device=laptop.device, page=laptop.page, signed_in=laptop.cookie)
    await attack((page, "move", {"call": call}) for page in itertools.cycle((back, phone)))
    await check(call, "Move", began)
    assert (await alice.ask("hangup", call=call))["ok"]
