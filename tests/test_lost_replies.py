"""The connection to PostgreSQL breaks when an order has been committed and the server has not heard of it.

The server cannot know whether the order was done, so it tries again. The order is not done a second time, the command
is answered with the view, and every other device is told at once.
"""

import asyncio
import uuid
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import pytest

from calls import machine, models, switchboard
from calls.switchboard import Perform
from devices import times
from tests import race_kit
from tests.pages import WAIT_S
from tests.proxy import Proxy
from tests.race_kit import Handset
from tests.test_faults import held

pytestmark = pytest.mark.django_db(transaction=True)

AT_ONCE_S = 4.0  # the next ping, which would repair a frame that was never sent, comes much later


@pytest.fixture
async def behind(servers, launch):
    """A server whose connections to PostgreSQL can be cut off, and how to cut them off when this is committed."""
    url = urlsplit(servers[0].environment["DATABASE_URL"])
    proxy = Proxy(url.port, url.hostname)
    await proxy.open()
    through = url._replace(netloc=f"{url.username}:{url.password}@127.0.0.1:{proxy.port}").geturl()
    server = await asyncio.to_thread(launch, DATABASE_URL=through)

    @asynccontextmanager
    async def commits_unheard(call, v):
        """What is asked inside is held before its last statement, and then committed while the server is deaf."""
        hold = race_kit.entry_of(uuid.UUID(call), v)
        async with held(servers[0], hold.sql, *hold.values) as (_, waiter):
            yield
            await waiter()
            proxy.freeze()
        async with asyncio.timeout(WAIT_S):
            while not await models.Entry.objects.filter(call=call, v=v).aexists():  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        proxy.thaw()
        proxy.reset()

    yield server, commits_unheard
    await asyncio.to_thread(server.stop)
    await proxy.close()


async def until_answered(page, re, cmd, **args):
    """The reply, however often the server asks for the command again."""
    reply = await page.reply_to(re)
    async with asyncio.timeout(AT_ONCE_S):
        while reply.get("error", {}).get("code") == "unavailable":
            await asyncio.sleep(reply["error"]["retry_ms"] / 1000)
            reply = await page.ask(cmd, **args)
    return reply


async def test_an_answer_that_was_committed_unheard_is_answered_and_told(behind, live):
    server, commits_unheard = behind
    alice, phone = await live("alice", server=server), await live("bob", "Phone", server=server)
    laptop = await live("bob", "Laptop", server=server)
    call = (await alice.invite("bob"))["call"]["id"]
    for device in (phone, laptop):
        await device.sees(call, state="ringing")
    async with commits_unheard(call, 2):
        re = await phone.say("answer", call=call)
    reply = await until_answered(phone, re, "answer", call=call)
    assert (reply["ok"], reply["call"]["state"], reply["call"]["v"]) == (True, "active", 2)
    async with asyncio.timeout(AT_ONCE_S):
        await alice.sees(call, state="active")
        await laptop.sees(call, me={"state": "joined", "here": False})
    assert [page.missed for page in (alice, laptop)] == [[], []], "no ping brought it"


async def test_an_invite_that_was_committed_unheard_rings_at_once(behind, live):
    server, commits_unheard = behind
    alice, phone = await live("alice", server=server), await live("bob", "Phone", server=server)
    call = str(uuid.uuid4())
    async with commits_unheard(call, 1):
        re = await alice.say("invite", call=call, to=["bob"], kind="audio")
    reply = await until_answered(alice, re, "invite", call=call, to=["bob"], kind="audio")
    assert (reply["ok"], reply["call"]["state"]) == (True, "ringing")
    async with asyncio.timeout(AT_ONCE_S):
        await phone.sees(call, state="ringing")
    assert phone.missed == []


# What a second try does, where repeating a command would mean something else by now.


@pytest.fixture
def handsets(people):
    return Handset(people["alice"], "Alice's"), Handset(people["bob"], "Phone"), Handset(people["bob"], "Laptop")


def again(handset, call, command, tried):
    (outcome,) = switchboard.settle([Perform(call, command(handset.seat))], tried=tried)
    return outcome


def test_a_move_that_was_done_does_not_take_the_call_back_from_a_later_one(handsets):
    alice, phone, laptop = handsets
    call, tried = race_kit.talk(alice, phone), times.now()
    laptop.moves(call).do()
    phone.moves(call).do()
    outcome = again(laptop, call, machine.Move, tried)
    assert outcome.refused is None and race_kit.leg_of(call, phone).device == phone.id
    assert race_kit.story(call).commands == ["Invite", "Answer", "Move", "Move"]
    assert again(laptop, call, machine.Move, times.now()).refused is None, "one that was not done is done now"
    assert race_kit.leg_of(call, phone).device == laptop.id
    race_kit.check_invariants()


@pytest.mark.parametrize("cmd", ["Ringing", "Answer", "Reject", "Hangup", "End"])
def test_a_command_that_was_done_is_ok_however_the_call_went_on(handsets, cmd):
    alice, phone, _ = handsets
    command = getattr(machine, cmd)
    call = race_kit.ring(alice, phone.user) if cmd in ("Ringing", "Answer", "Reject") else race_kit.talk(alice, phone)
    tried = times.now()
    assert switchboard.perform(call, command(phone.seat)).refused is None
    alice.hangs_up(call).do()
    outcome = again(phone, call, command, tried)
    assert outcome.refused is None and outcome.call == race_kit.value_of(call)
    assert outcome.call.state == "ended"


def test_a_command_of_another_page_or_with_other_words_was_not_done(handsets):
    alice, phone, laptop = handsets
    call, tried = race_kit.talk(alice, phone), times.now()
    phone.sets_media(call, mic=False, cam=True).do()
    (outcome,) = switchboard.settle([Perform(call, machine.Media(phone.seat, True, True))], tried=tried)
    assert outcome.refused is None and race_kit.leg_of(call, phone).mic
    assert again(laptop, call, machine.Hangup, tried).refused.code == "answered_elsewhere"


def test_an_invite_that_was_done_is_the_same_call_and_one_that_was_not_is_placed(handsets, people):
    alice, phone, _ = handsets
    tried, call = times.now(), race_kit.ring(alice, phone.user)
    place = switchboard.Place(alice.user, alice.seat, call, frozenset({"bob"}), "audio", None, 45)
    (outcome,) = switchboard.settle([place], tried=tried)
    assert (outcome.refused, outcome.call.v) == (None, 1)
    carol = Handset(people["carol"], "Carol's")
    other = switchboard.Place(carol.user, carol.seat, uuid.uuid4(), frozenset({"dave"}), "audio", None, 45)
    Handset(people["dave"], "Dave's")
    (outcome,) = switchboard.settle([other], tried=tried)
    assert (outcome.refused, outcome.call.state) == (None, "ringing")


@pytest.mark.parametrize("cmd", ["add", "transfer"])
def test_somebody_who_was_rung_and_has_declined_is_not_rung_again(handsets, people, cmd):
    alice, phone, _ = handsets
    carol = Handset(people["carol"], "Carol's")
    call, tried = race_kit.talk(alice, phone), times.now()
    adding = machine.Add(phone.seat, (), 45, unknown=("carol",))
    command = adding if cmd == "add" else machine.Transfer(phone.seat, None, "carol", 45)
    for work in (race_kit.commanding(call, command), carol.rejects(call)):
        assert work.do().refused is None
    (outcome,) = switchboard.settle([Perform(call, command)], tried=tried)
    assert outcome.refused is None and race_kit.leg_of(call, carol).state == "rejected"
    (outcome,) = switchboard.settle([Perform(call, command)], tried=times.now())
    assert outcome.refused is None and race_kit.leg_of(call, carol).state == "ringing", "one that was not done is done"


def test_calls_that_were_brought_together_are_so_however_they_went_on(handsets, people):
    alice, phone, _ = handsets
    carol = Handset(people["carol"], "Carol's")
    switchboard.change_line(alice.user.pk, max_outgoing=2)
    stays = race_kit.talk(alice, phone)
    placed = alice.invites(carol.user, other=alice.holding(stays)).do()
    assert carol.answers(placed.call.id).do().refused is None
    tried, ends = times.now(), placed.call.id
    bring = alice.brings(ends, stays)
    assert bring.do().refused is None
    carol.hangs_up(stays).do()
    other = switchboard.Other(ends, machine.HandOver(alice.seat, stays))
    again = Perform(stays, machine.TakeOver(alice.seat, ends), other)
    for since in (tried, None):  # tried once more after a lost connection, or sent once more by the device
        (outcome,) = switchboard.settle([again], tried=since)
        assert outcome.refused is None and outcome.call == race_kit.value_of(stays)
    race_kit.check_invariants()
