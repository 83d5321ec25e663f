"""Messages between processes get lost, doubled and delayed (tests/lossy.py): one ping brings each device the truth."""

import asyncio
import random
import uuid

import pytest
from asgiref.sync import sync_to_async

from calls import models
from tests import race_kit
from tests.lossy import DELAY_S
from tests.pages import Closed
from tests.truth import check_knowledge

pytestmark = pytest.mark.django_db(transaction=True)

ROUNDS = 12
DEEDS = 12  # in a round, between one ping and the next


@pytest.fixture(scope="module")
def lossy(launch_once):
    """Two servers that lose what they tell each other."""
    return [launch_once(DJANGO_SETTINGS_MODULE="tests.lossy", LOSSY_SEED=str(seed)) for seed in (1, 2)]


async def check_that_they_agree(pages, people):
    """Each page knows what the rows say; nothing more is asked of the servers."""
    calls = await sync_to_async(models.load_all)(models.Call.objects.all())
    for page in pages:
        check_knowledge(str(people[page.user].pk), page, calls)


def versions(page):
    return {call: view["v"] for call, view in page.calls.items()}


async def test_after_one_ping_every_device_agrees_with_the_rows(lossy, live, people):
    dice = random.Random(20)
    pages = [
        await live("alice", "Laptop", server=lossy[0]),
        await live("alice", "Phone", server=lossy[1]),
        await live("bob", "Phone", server=lossy[1]),
        await live("bob", "Laptop", server=lossy[0]),
        await live("bob", "Tablet", server=lossy[1]),
        await live("carol", "Phone", server=lossy[0]),
    ]
    for _ in range(ROUNDS):
        for _ in range(DEEDS):
            await do_something(dice, pages)
        await asyncio.gather(*(ping(page) for page in pages))
        await check_that_they_agree(pages, people)
    missed = sum(len(page.missed) for page in pages)
    assert missed > ROUNDS, "else nothing was lost, and this test shows nothing"

    known = [versions(page) for page in pages]
    await asyncio.sleep(DELAY_S)  # for the last of the late ones, which must not turn anything back
    for page, before in zip(pages, known, strict=True):
        assert await page.heard_nothing(str(uuid.uuid4()))
        now = versions(page)
        assert all(now[call] >= version for call, version in before.items()), (
            f"{page.user}'s {page.name} was turned back"
        )
    await asyncio.gather(*(ping(page) for page in pages))  # the clock may have ended a call meanwhile, without a word
    await check_that_they_agree(pages, people)
    entries = await models.Entry.objects.acount()
    print(f"\n{entries} changes, of which {missed} views were brought by pings")
    assert entries > 3 * ROUNDS
    await sync_to_async(race_kit.check_invariants)()


async def ping(page):
    """A page could not ask about a call of which it was told while it waited for the pong: so it asks again."""
    known: set[str] = set()
    while not known or page.calls.keys() - known:
        known = {"", *page.calls}
        await page.ping()


async def do_something(dice, pages):
    """One command that some page has a button for, as far as it knows, or a new call."""
    page = dice.choice(pages)
    buttons = [
        (id, cmd)
        for id, view in page.calls.items()
        for cmd in view["me"]["can"]
        if view["state"] != "ended" and cmd not in ("signal", "end", "hangup")
    ]
    if buttons and dice.random() < 0.8:
        id, cmd = dice.choice(buttons)
        somebody = dice.choice(["alice", "bob", "carol"])
        args = {
            "media": {"mic": dice.random() < 0.5, "cam": True},
            "hold": {"on": dice.random() < 0.5},
            "add": {"to": [somebody]},
            "remove": {"user": somebody},
            "transfer": {"to": somebody},
        }
        answer = await page.ask(cmd, call=id, **args.get(cmd, {}))
    elif page.calls and dice.random() < 0.3:
        answer = await page.ask("end", call=dice.choice(list(page.calls)))
    else:
        answer = await page.invite(dice.choice([name for name in ("alice", "bob", "carol") if name != page.user]))
    assert answer["ok"] or answer["error"]["code"] not in ("bad_frame", "unavailable"), answer


async def test_a_call_whose_every_message_may_be_lost_is_made_by_pings_alone(lossy, live):
    alice, bob = await live("alice", server=lossy[0]), await live("bob", server=lossy[1])
    for _ in range(5):
        call = (await alice.invite("bob"))["call"]["id"]
        await bob.ping()
        assert bob.calls[call]["me"]["state"] == "ringing"
        assert (await bob.ask("answer", call=call))["ok"]
        await alice.ping()
        assert alice.calls[call]["state"] == "active"
        assert (await alice.ask("hangup", call=call))["ok"]
        await bob.ping()
        assert bob.calls[call]["state"] == "ended"


async def test_a_page_whose_goodbye_was_lost_finds_out_by_its_next_pings(lossy, live):
    old = await live("alice", server=lossy[0])
    new = await live("alice", server=lossy[1], hello=False, signed_in=old.cookie, device=old.device)
    assert (await new.hello(take=True))["t"] == "welcome"
    with pytest.raises(Closed) as closed:
        async with asyncio.timeout(10):
            while True:
                await old.ping()
                await asyncio.sleep(0.1)
    assert closed.value.code == 4409
    assert (await new.ping())["t"] == "pong"
