"""Every race of groups, hold and transfer, in both orders, each order forced with real locks on PostgreSQL.

The headings are the rows of the second table of docs/races.md; tests/race_kit.py says how an order is forced. The marks
name the one lock without which a test fails; benchmarks/deleted_lock.py deletes each of them and looks.
"""

import os
import random
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.db import connection

from calls import machine, models, switchboard
from calls.switchboard import Outcome
from tests.race_kit import (
    RACE,
    ROUNDS,
    Handset,
    Work,
    at_once,
    entry_of,
    in_order,
    leg_of,
    refusal,
    ring,
    row,
    story,
    talk,
    ticking,
    value_of,
    watching,
)

pytestmark = RACE
call_lock, line_lock = pytest.mark.call_lock, pytest.mark.line_lock

either_order = pytest.mark.parametrize("swapped", [False, True], ids=["as named", "the other way round"])


@pytest.fixture(autouse=True)
def room(people: dict[str, Any], set_calls: Callable[..., None]) -> None:
    """Everybody may have three calls in each direction."""
    set_calls(MAX_INCOMING=3, MAX_OUTGOING=3)


@pytest.fixture
def alice(people: dict[str, Any]) -> Handset:
    return Handset(people["alice"], "Alice's laptop")


@pytest.fixture
def bob(people: dict[str, Any]) -> Handset:
    return Handset(people["bob"], "Bob's phone")


@pytest.fixture
def carol(people: dict[str, Any]) -> Handset:
    return Handset(people["carol"], "Carol's laptop")


@pytest.fixture
def dave(people: dict[str, Any]) -> Handset:
    return Handset(people["dave"], "Dave's tablet")


def limit(handset: Handset, **rules: int) -> None:
    switchboard.change_line(handset.user.pk, **rules)


def invite(host: Handset, *others: Handset) -> uuid.UUID:
    """A call to several people, which rings."""
    outcome = host.invites(*(each.user for each in others)).do()
    assert outcome.refused is None
    call: uuid.UUID = outcome.call.id
    return call


def gather(host: Handset, *others: Handset) -> uuid.UUID:
    """The same, and they all answer."""
    call = invite(host, *others)
    for each in others:
        done(each.answers(call))
    return call


def done(work: Work) -> None:
    outcome = work.do()
    assert outcome.refused is None, refusal(outcome)


def states(call: uuid.UUID) -> dict[str, str]:
    return story(call).legs


def codes(outcomes: list[Outcome]) -> list[str | None]:
    return [each.refused.code if each.refused else None for each in outcomes]


def ordered(swapped: bool, *works: Work, hold: Any = None) -> list[Outcome]:
    """Their outcomes, in the order in which they are named, however they ran."""
    outcomes = in_order(*(reversed(works) if swapped else works), hold=hold)
    return outcomes[::-1] if swapped else outcomes


# --- two group invites want one user's last place ---------------------------------------------------------------------


@line_lock
@either_order
def test_of_two_group_invites_one_rings_and_the_other_finds_that_person_busy(alice, bob, carol, dave, swapped):
    limit(carol, max_incoming=1)
    works = alice.invites(bob.user, carol.user), dave.invites(carol.user, bob.user)
    outcomes = ordered(swapped, *works)
    first, second = reversed(outcomes) if swapped else outcomes
    assert states(first.call.id)["carol"] == states(first.call.id)["bob"] == "ringing"
    assert states(second.call.id)["carol"] == "busy" and states(second.call.id)["bob"] == "ringing"
    assert leg_of(second.call.id, carol).reason == "incoming_limit"


@line_lock
@either_order
def test_an_add_and_an_invite_that_want_the_last_place_do_not_both_get_it(alice, bob, carol, dave, swapped):
    limit(carol, max_incoming=1)
    call = talk(alice, bob)
    added, placed = ordered(swapped, alice.adds(call, carol.user), dave.invites(carol.user))
    assert codes([added, placed]) == [None, None]
    won, lost = ("busy", "ringing") if swapped else ("ringing", "busy")
    assert (states(call)["carol"], states(placed.call.id)["carol"]) == (won, lost)


@line_lock
@either_order
def test_who_comes_back_and_who_is_invited_do_not_both_get_the_last_place(alice, bob, carol, dave, swapped):
    limit(carol, max_incoming=1)
    call = gather(alice, bob, carol)
    done(carol.hangs_up(call))
    came, placed = ordered(swapped, carol.answers(call), dave.invites(carol.user))
    if swapped:
        assert refusal(came) == ("limit_reached", {"direction": "incoming", "limit": 1, "active": 1})
        assert states(placed.call.id)["carol"] == "ringing"
    else:
        assert codes([came, placed]) == [None, None]
        assert states(placed.call.id)["carol"] == "busy"


# --- two people join at once ------------------------------------------------------------------------------------------


@call_lock
@either_order
def test_two_who_join_at_once_are_both_in_it_with_one_mode(alice, bob, carol, swapped):
    call = invite(alice, bob, carol)
    assert codes(ordered(swapped, bob.answers(call), carol.answers(call))) == [None, None]
    assert states(call) == {"alice": "joined", "bob": "joined", "carol": "joined"}
    assert (value_of(call).media, value_of(call).media_epoch) == ("mesh", 1)


@either_order
def test_two_who_add_the_same_person_ring_once(alice, bob, carol, swapped):
    call = talk(alice, bob)
    outcomes = ordered(swapped, alice.adds(call, carol.user), bob.adds(call, carol.user))
    assert codes(outcomes) == [None, None]
    assert story(call).commands == ["Invite", "Answer", "Add"]
    assert leg_of(call, carol).by == (bob if swapped else alice).key


# --- last ringing leg rejects x another is added ----------------------------------------------------------------------


@call_lock
@either_order
def test_a_call_whose_last_ringing_leg_rejects_ends_unless_somebody_was_added_before(alice, bob, carol, dave, swapped):
    call = invite(alice, bob, carol)
    done(carol.rejects(call))
    rejected, added = ordered(swapped, bob.rejects(call), alice.adds(call, dave.user))
    assert rejected.refused is None
    if swapped:
        assert added.refused is None
        assert (story(call).state, states(call)["dave"]) == ("ringing", "ringing")
    else:
        assert refusal(added) == ("call_ended", {"reason": "rejected"})
        assert "dave" not in states(call)


# --- host leaves x host removes somebody ------------------------------------------------------------------------------


@call_lock
@either_order
def test_a_host_who_leaves_and_removes_at_once_leaves_one_host(alice, bob, carol, dave, people, swapped):
    limit(alice, multi_device=True)
    tablet = Handset(people["alice"], "Alice's tablet")
    call = gather(alice, bob, carol, dave)
    left, removed = ordered(swapped, alice.hangs_up(call), tablet.removes(call, bob.user))
    assert left.refused is None
    assert codes([removed]) == ([None] if swapped else ["not_allowed"])
    assert value_of(call).host == (carol if swapped else bob).key
    assert states(call)["bob"] == ("removed" if swapped else "joined")


# --- host ends x somebody rejoins -------------------------------------------------------------------------------------


@call_lock
@either_order
def test_a_host_who_ends_the_call_wins_over_who_comes_back_later(alice, bob, carol, swapped):
    call = gather(alice, bob, carol)
    done(bob.hangs_up(call))
    ended, joined = ordered(swapped, alice.ends(call), bob.answers(call))
    assert ended.refused is None
    assert refusal(joined) == (None if swapped else ("call_ended", {"reason": "completed"}))
    assert story(call)[:2] == ("ended", "completed")


# --- the second joins x the alone deadline ----------------------------------------------------------------------------


def test_somebody_who_joins_before_the_clock_looks_keeps_the_call(alice, bob, carol, set_calls):
    set_calls(ALONE_S=0)
    call = gather(alice, bob, carol)
    for each in (bob, carol):
        done(each.hangs_up(call))
    joined, _ = in_order(bob.answers(call), ticking(call))
    assert joined.refused is None
    ticking(call).do()
    assert (story(call).state, value_of(call).lonely_since) == ("active", None)


@call_lock
def test_somebody_who_joins_after_the_clock_finds_the_call_ended(alice, bob, carol, set_calls):
    set_calls(ALONE_S=0)
    call = gather(alice, bob, carol)
    for each in (bob, carol):
        done(each.hangs_up(call))
    _, joined = in_order(ticking(call), bob.answers(call))
    assert refusal(joined) == ("call_ended", {"reason": "completed"})


# --- answer of a transfer target x the transferor hangs up ------------------------------------------------------------


@call_lock
@either_order
def test_the_target_is_with_the_other_person_whenever_who_transfers_hangs_up(alice, bob, carol, swapped):
    call = talk(alice, bob)
    done(bob.transfers(call, carol.user))
    outcomes = ordered(swapped, carol.answers(call), bob.hangs_up(call))
    assert codes(outcomes) == [None, None]
    assert (story(call).state, states(call)) == ("active", {"alice": "joined", "bob": "left", "carol": "joined"})
    assert leg_of(call, bob).reason == "transferred"


# --- answer of a transfer target x the other party hangs up -----------------------------------------------------------


@call_lock
@either_order
def test_a_target_finds_that_the_call_ended_or_is_in_it_when_it_ends(alice, bob, carol, swapped):
    call = talk(alice, bob)
    done(bob.transfers(call, carol.user))
    answered, left = ordered(swapped, carol.answers(call), alice.hangs_up(call))
    assert left.refused is None
    assert refusal(answered) == (("call_ended", {"reason": "completed"}) if swapped else None)
    assert story(call)[:2] == ("ended", "completed")


# --- two transfers of one call at once --------------------------------------------------------------------------------


@call_lock
@either_order
def test_of_two_transfers_at_once_there_is_one(alice, bob, carol, dave, swapped):
    call = talk(alice, bob)
    outcomes = ordered(swapped, alice.transfers(call, carol.user), bob.transfers(call, dave.user))
    assert codes(outcomes) == (["not_allowed", None] if swapped else [None, "not_allowed"])
    assert outcomes[0 if swapped else 1].call == value_of(call), "and is told how the call stands"
    assert ("carol" in states(call), "dave" in states(call)) == (not swapped, swapped)


# --- attended transfer x hang-up on either call -----------------------------------------------------------------------


@pytest.fixture
def consulting(alice: Handset, bob: Handset, carol: Handset) -> tuple[uuid.UUID, uuid.UUID]:
    """alice holds a call with bob, and talks to carol."""
    first = talk(alice, bob)
    placed = alice.invites(carol.user, other=alice.holding(first)).do()
    assert placed.refused is None
    done(carol.answers(placed.call.id))
    return first, placed.call.id


@call_lock
@either_order
def test_an_attended_transfer_and_a_hangup_on_the_call_that_stays(alice, bob, carol, consulting, swapped):
    stays, ends = consulting
    brought, left = ordered(swapped, alice.brings(ends, stays), bob.hangs_up(stays))
    assert left.refused is None
    if swapped:
        assert refusal(brought) == ("call_ended", {"reason": "completed"})
        assert (story(ends).state, "carol" in states(stays)) == ("active", False), "nothing of it is done"
    else:
        assert brought.refused is None
        assert story(ends)[:2] == ("ended", "merged") and story(stays)[:2] == ("ended", "completed")
        assert states(stays) == {"alice": "left", "bob": "left", "carol": "left"}


@call_lock
@either_order
def test_an_attended_transfer_and_a_hangup_on_the_call_that_ends(alice, bob, carol, consulting, swapped):
    stays, ends = consulting
    works = alice.brings(ends, stays), carol.hangs_up(ends)
    brought, left = ordered(swapped, *works, hold=entry_of(ends, value_of(ends).v + 1))
    if swapped:
        assert left.refused is None
        assert refusal(brought) == ("call_ended", {"reason": "completed", "and": str(ends)})
        assert (story(stays).state, states(stays)) == ("active", {"alice": "joined", "bob": "joined"})
        assert leg_of(stays, alice).held
    else:
        assert (brought.refused, refusal(left)) == (None, ("call_ended", {"reason": "merged"}))
        assert states(stays) == {"alice": "left", "bob": "joined", "carol": "joined"}


@pytest.mark.by_chance
def test_two_who_bring_two_calls_together_crosswise_do_not_wait_for_each_other(alice, bob, carol, consulting):
    stays, ends = consulting
    outcomes = at_once(alice.brings(ends, stays), alice.brings(stays, ends))
    assert sorted(map(str, codes(outcomes))) == ["None", "not_allowed"], "alice is in neither of them any more"


# --- merge x somebody else's add --------------------------------------------------------------------------------------


@either_order
def test_a_merge_and_an_add_do_not_both_take_the_last_place(alice, bob, carol, dave, set_calls, consulting, swapped):
    stays, ends = consulting
    limit(alice, max_legs=3)
    done(alice.adds(stays, dave.user))
    done(dave.rejects(stays))  # since then the call has room for three
    merged, added = ordered(swapped, alice.brings(ends, stays, stay=True), bob.adds(stays, dave.user))
    full = ("full", {"limit": 3})
    assert [refusal(merged), refusal(added)] == ([full, None] if swapped else [None, full])
    assert story(ends).state == ("active" if swapped else "ended")
    assert sum(state in machine.LIVE for state in states(stays).values()) == 3


# --- swap x the other side hangs up the held call ---------------------------------------------------------------------


@call_lock
@either_order
def test_a_swap_to_a_call_that_has_ended_leaves_the_active_one_as_it_was(alice, bob, carol, consulting, swapped):
    held, active = consulting
    swap = alice.holds(held, False, alice.holding(active))
    done_swap, left = ordered(swapped, swap, bob.hangs_up(held))
    assert left.refused is None
    assert refusal(done_swap) == (("call_ended", {"reason": "completed"}) if swapped else None)
    assert leg_of(active, alice).held is not swapped


@call_lock
@either_order
def test_a_swap_from_a_call_that_has_ended_is_refused_as_a_whole(alice, bob, carol, consulting, swapped):
    held, active = consulting
    works = alice.holds(held, False, alice.holding(active)), carol.hangs_up(active)
    done_swap, left = ordered(swapped, *works, hold=entry_of(active, value_of(active).v + 1))
    assert left.refused is None
    about = {"reason": "completed", "and": str(active)}
    assert refusal(done_swap) == (("call_ended", about) if swapped else None)
    assert leg_of(held, alice).held is swapped


@call_lock
def test_swaps_of_two_calls_from_one_starting_line_leave_one_active(alice, bob, carol, consulting):
    """Each is one statement that gives the device free in one call and takes it in the other."""
    first, second = consulting
    for _ in range(ROUNDS):
        swaps = alice.holds(first, False, alice.holding(second)), alice.holds(second, False, alice.holding(first))
        at_once(*swaps, bob.sets_media(first, False, False), carol.sets_media(second, False, False))
        assert [leg_of(call, alice).held for call in consulting].count(False) == 1
        at_once(bob.sets_media(first, True, False), carol.sets_media(second, True, False))


@pytest.mark.by_chance
def test_an_invite_that_meets_another_and_leaves_a_call_waits_for_nobody_who_waits_for_it(alice, bob, carol, people):
    """Glare is found when the other calls are locked already: it must not be locked behind them."""
    limit(bob, multi_device=True)
    tablet = Handset(people["bob"], "Bob's tablet")
    for _ in range(4):
        busy = talk(carol, bob)
        rings = ring(alice, bob.user)
        outcomes = at_once(
            bob.invites(alice.user, other=bob.leaving(busy)),
            tablet.answers(rings, tablet.leaving(busy)),
            carol.hangs_up(busy),
            alice.hangs_up(rings),
        )
        assert not [each for each in outcomes if each.refused and each.refused.code == "unavailable"]
        for call in models.Call.objects.exclude(state="ended"):
            switchboard.perform(call.pk, machine.EndByOperator("operator"))


# --- hold on two devices of one user ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "swapped", [False, pytest.param(True, marks=call_lock)], ids=["as named", "the other way round"]
)
def test_only_the_device_that_has_the_call_holds_it(alice, bob, people, swapped):
    laptop = Handset(people["bob"], "Bob's laptop")
    call = talk(alice, bob)
    outcomes = ordered(swapped, bob.holds(call), laptop.holds(call, False), hold=row(models.Call, call))
    assert [refusal(each) for each in outcomes] == [None, ("answered_elsewhere", {"device": "Bob's phone"})]
    assert leg_of(call, bob).held


@call_lock
@either_order
def test_a_hold_counts_if_the_call_has_not_moved_before(alice, bob, people, swapped):
    laptop = Handset(people["bob"], "Bob's laptop")
    call = talk(alice, bob)
    held, moved = ordered(swapped, bob.holds(call), laptop.moves(call))
    assert moved.refused is None
    assert refusal(held) == (("answered_elsewhere", {"device": "Bob's laptop"}) if swapped else None)
    assert leg_of(call, laptop).held is not swapped


# --- many people in many groups at once -------------------------------------------------------------------------------

PEOPLE, THREADS = 50, 16
SECONDS = float(os.environ.get("LOAD_S", 8))  # `LOAD_S=60 make unit ARGS='-k fifty_people'` goes on for a minute


@call_lock
def test_fifty_people_in_sixteen_threads_never_wait_for_each_other_in_a_circle(people, set_calls):
    """Groups of three to nine at random: no deadlock, no limit exceeded, and each page sees what the rows say."""
    set_calls(ALONE_S=1, MAX_INCOMING=2, MAX_OUTGOING=2, MAX_LEGS=9)
    users = get_user_model()._default_manager
    crowd = [Handset(users.create_user(f"user{n}", password=None), f"Phone {n}") for n in range(PEOPLE)]
    seen: dict[uuid.UUID, machine.Call] = {}
    lock, refused = threading.Lock(), set()
    stop = time.monotonic() + SECONDS

    def play(seed: int) -> int:
        dice, did = random.Random(seed), 0
        try:
            while time.monotonic() < stop:
                outcome = _something(dice, crowd)
                if outcome is not None:
                    did += 1
                    with lock:
                        if outcome.refused is not None:
                            refused.add(outcome.refused.code)
                        if outcome.call is not None and outcome.call.v > getattr(seen.get(outcome.call.id), "v", 0):
                            seen[outcome.call.id] = outcome.call
            return did
        finally:
            connection.close()

    connection.pool.resize(1, THREADS + 4)
    try:
        with ThreadPoolExecutor(THREADS) as pool:
            commands = sum(pool.map(play, range(THREADS)))
    finally:
        connection.pool.resize(1, connection.settings_dict["OPTIONS"]["pool"]["max_size"])
    assert commands > 100, "the machine is too slow for this to mean anything"
    assert refused <= {
        "not_found", "not_allowed", "limit_reached", "answered_elsewhere", "call_ended", "in_call", "full",
        "rate_limited",
    }  # fmt: skip
    assert models.Call.objects.filter(group=True).count() > 5
    for call in models.load_all(models.Call.objects.all()):
        assert seen[call.id].v <= call.v and (seen[call.id].v < call.v or seen[call.id] == call), "what was told is so"
    devices = models.Leg.objects.filter(state="joined", held=False).values_list("device", flat=True)
    assert len(set(devices)) == len(devices), "a device is in one call at a time that is not held"


def _something(dice: random.Random, crowd: list[Handset]) -> Outcome | None:
    """One thing that somebody does: to a call of theirs, or a new one."""
    me = dice.choice(crowd)
    mine = list(
        models.Leg.objects.filter(user=me.user).exclude(call__state="ended").values_list("call", "state", "held")
    )
    others = dice.sample([each for each in crowd if each is not me], dice.randint(2, 8))
    joined = [call for call, state, held in mine if state == "joined"]
    if not mine or dice.random() < 0.1:
        other = me.holding(joined[0]) if joined and dice.random() < 0.5 else None
        return me.invites(*(each.user for each in others), other=other).do()
    call, state, held = dice.choice(mine)
    also = next((me.holding(each) for each in joined if each != call), None)
    if state == "ringing":
        return (me.answers(call, also) if dice.random() < 0.7 else me.rejects(call)).do()
    if state != "joined":
        return me.answers(call, also).do()
    deeds: list[Callable[[], Work]] = [
        lambda: me.hangs_up(call),
        lambda: me.ends(call),
        lambda: me.adds(call, *(each.user for each in others[:2])),
        lambda: me.removes(call, others[0].user),
        lambda: me.transfers(call, others[0].user),
        lambda: me.holds(call, not held, also if held else None),
        lambda: me.brings(joined[-1], call, stay=dice.random() < 0.5),
    ]
    if dice.random() < 0.1:
        watching().tick()
        return None
    return dice.choice(deeds)().do()
