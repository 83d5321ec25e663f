"""The rules of calls of many, hold and transfer: each line of the contract, and the whole walk of a call of three."""

import datetime as dt
from collections import Counter

import pytest
from msgspec.structs import replace

from calls import machine
from calls.machine import Call, Refused, decide, leg_of
from calls.view import view
from tests import group_walk as walk
from tests.group_walk import ALICE, BOB, CAR, CAROL, DESK, LAPTOP, PHONE, TABLET, WATCH, callee, invite
from tests.walk import T0, Step, seat

MINUTE = dt.timedelta(minutes=1)
DAVE, ERIN = "4", "5"
PAD = seat(DAVE, 7, name="Pad")


def dave(**facts):
    return replace(callee(BOB), key=DAVE, user="dave", name="Dave", **facts)


def does(call, *commands, now=T0):
    for command in commands:
        call = decide(call, command, now)
    return call


def refusal(call, command, now=T0):
    with pytest.raises(Refused) as caught:
        decide(call, command, now)
    return caught.value.code, caught.value.about


def states(call: Call) -> dict[str, str]:
    return {leg.user: leg.state for leg in call.legs}


def can(call, by):
    seen = view(call, by.key, by.device, T0, by.page)
    return seen and set(seen.me.can)


@pytest.fixture
def ringing():
    """alice calls bob and carol."""
    return decide(None, invite(BOB, CAROL), T0)


@pytest.fixture
def three(ringing):
    """… who both answer."""
    return does(ringing, machine.Answer(PHONE), machine.Answer(WATCH))


@pytest.fixture
def two():
    """A call of two: alice and bob."""
    return does(decide(None, invite(BOB), T0), machine.Answer(PHONE))


# --- placing ----------------------------------------------------------------------------------------------------------


def test_an_invite_of_several_rings_each_of_them_and_is_a_group(ringing, two):
    assert states(ringing) == {"alice": "joined", "bob": "ringing", "carol": "ringing"}
    assert ringing.group and not two.group


def test_each_callee_is_admitted_alone():
    asked = invite(BOB, CAROL)
    busy, nowhere = callee(BOB, active=1, limit=1), callee(CAROL, reachable=False)
    call = decide(None, replace(asked, callees=(busy, nowhere, dave())), T0)
    assert states(call) == {"alice": "joined", "bob": "busy", "carol": "unreachable", "dave": "ringing"}
    assert leg_of(call, BOB).reason == "incoming_limit"
    both = decide(None, replace(asked, callees=(replace(busy, reachable=False), dave())), T0)
    assert leg_of(both, BOB).reason == "incoming_limit", "the limit is looked at before whether a device is there"
    nobody = decide(None, replace(asked, callees=(busy, nowhere)), T0)
    assert (nobody.state, nobody.reason) == ("ended", "busy")


def test_more_than_the_ceiling_is_refused_before_anything_rings():
    assert refusal(None, invite(BOB, CAROL, max_legs=2)) == ("full", {"limit": 2})
    assert refusal(None, invite(BOB, unknown=("nobody", "else"), max_legs=3))[0] == "full"


def test_one_name_that_cannot_be_called_rings_nobody():
    assert refusal(None, invite(BOB, unknown=("nobody",))) == ("not_found", {"users": ["nobody"]})
    assert refusal(None, invite(BOB, ALICE))[0] == "not_allowed"


def test_the_checks_of_an_invite_come_in_the_order_of_the_contract():
    wrong = invite(ALICE, unknown=("nobody",), max_legs=1, active=9, by=replace(LAPTOP, in_call=walk.OTHER))
    asked = {"callees": (callee(BOB),)}
    assert refusal(None, wrong)[0] == "not_allowed"
    assert refusal(None, replace(wrong, **asked))[0] == "full"
    assert refusal(None, replace(wrong, **asked, max_legs=9))[0] == "not_found"
    assert refusal(None, replace(wrong, **asked, max_legs=9, unknown=()))[0] == "in_call"
    assert refusal(None, replace(wrong, **asked, max_legs=9, unknown=(), by=LAPTOP))[0] == "limit_reached"


# --- declining, leaving, ending ---------------------------------------------------------------------------------------


def test_a_reject_closes_one_leg_and_the_others_ring_on(ringing):
    call = does(ringing, machine.Reject(DESK))
    assert states(call) == {"alice": "joined", "bob": "rejected", "carol": "ringing"}
    last = does(call, machine.Reject(WATCH))
    assert (last.state, last.reason) == ("ended", "rejected")


@pytest.mark.parametrize(("first", "second", "reason"), [
    (machine.Reject(PHONE), machine.Due(), "rejected"),
    (machine.Ringing(PHONE), machine.Due(), "no_answer"),
])  # fmt: skip
def test_when_nobody_joined_the_reason_is_the_first_of_the_order(ringing, first, second, reason):
    assert decide(does(ringing, first), second, walk.RUN_OUT).reason == reason


def test_a_hangup_leaves_the_others_talking(three):
    call = does(three, machine.Hangup(PHONE))
    assert states(call) == {"alice": "joined", "bob": "left", "carol": "joined"}
    assert decide(call, machine.Hangup(PHONE), T0) is call, "a hangup of the own closed leg is a repeat"


def test_when_the_host_leaves_the_leg_that_is_joined_longest_is_the_host(ringing):
    call = decide(ringing, machine.Answer(WATCH), T0 + MINUTE)
    call = decide(call, machine.Answer(PHONE), T0 + 2 * MINUTE)
    call = decide(call, machine.Hangup(LAPTOP), T0 + 3 * MINUTE)
    assert (call.state, call.host) == ("active", CAROL)
    back = decide(call, machine.Answer(LAPTOP, active=0, limit=1), T0 + 4 * MINUTE)
    assert back.host == CAROL, "a host who comes back is host no longer"
    after = decide(back, machine.Hangup(WATCH), T0 + 5 * MINUTE)
    assert after.host == BOB, "joined longest counts from the last join"


def test_a_host_who_leaves_before_any_answer_cancels(ringing):
    assert does(ringing, machine.Hangup(LAPTOP)).reason == "cancelled"


def test_where_the_site_wants_it_a_group_ends_with_its_host():
    call = does(decide(None, invite(BOB, CAROL, end_with_host=True), T0), machine.Answer(PHONE), machine.Answer(WATCH))
    assert does(call, machine.Hangup(PHONE)).state == "active"
    assert does(call, machine.Hangup(LAPTOP)).reason == "completed"


def test_a_host_who_gives_the_place_away_ends_no_group_even_there():
    call = does(decide(None, invite(BOB, CAROL, end_with_host=True), T0), machine.Answer(PHONE), machine.Answer(WATCH))
    given = does(call, machine.Transfer(LAPTOP, dave(), "dave", 45), machine.Answer(PAD))
    assert (given.state, given.host, states(given)["alice"]) == ("active", BOB, "left")
    rings = does(call, machine.Transfer(LAPTOP, dave(), "dave", 45), machine.Hangup(LAPTOP))
    assert (rings.state, rings.host) == ("active", BOB)


def test_only_the_host_ends_a_group(three, ringing):
    assert refusal(three, machine.End(PHONE))[0] == "not_allowed"
    assert refusal(ringing, machine.End(PHONE))[0] == "not_allowed", "who rings rejects"
    assert does(three, machine.End(LAPTOP)).reason == "completed"


def test_the_last_one_is_alone_for_a_minute(three):
    call = does(three, machine.Hangup(PHONE), machine.Hangup(WATCH))
    assert (call.state, machine.due_at(call)) == ("active", T0 + MINUTE)
    seen = view(call, ALICE, LAPTOP.device, T0 + MINUTE / 2, LAPTOP.page)
    assert seen.alone_ms == 30_000
    assert decide(call, machine.Due(), T0 + MINUTE / 2) is call
    assert decide(call, machine.Due(), T0 + MINUTE).reason == "completed"
    joined = decide(call, machine.Answer(PHONE), T0 + MINUTE)
    assert joined.lonely_since is None, "a join wins while it finds the call live"


def test_nobody_is_alone_while_somebody_rings(three):
    call = does(three, machine.Hangup(PHONE), machine.Add(WATCH, (callee(BOB),), 45), machine.Hangup(WATCH))
    assert call.lonely_since is None
    assert does(call, machine.Reject(PHONE)).lonely_since == T0


def test_the_last_one_to_leave_ends_the_call_and_the_rings(three):
    call = does(three, machine.Hangup(PHONE), machine.Add(LAPTOP, (callee(BOB),), 45), machine.Hangup(WATCH))
    ended = does(call, machine.Hangup(LAPTOP))
    assert (ended.reason, states(ended)["bob"]) == ("completed", "cancelled")


def test_a_device_that_is_lost_ends_no_group(three):
    lost = machine.Silent(BOB, PHONE.device, T0 - MINUTE)
    call = does(three, lost)
    assert states(call) == {"alice": "joined", "bob": "lost", "carol": "joined"}
    assert does(call, machine.Hangup(LAPTOP), machine.Hangup(WATCH)).reason == "completed", "lost long before"


# --- adding, removing, coming back ------------------------------------------------------------------------------------


def test_adding_makes_a_call_of_two_a_group_in_place(two):
    call = does(two, machine.Add(PHONE, (callee(CAROL),), 45))
    assert (call.id, call.group, states(call)["carol"], leg_of(call, CAROL).by) == (two.id, True, "ringing", BOB)
    seen = view(call, ALICE, LAPTOP.device, T0, LAPTOP.page)
    assert [leg.by for leg in seen.legs] == [None, "alice", "bob"]


def test_adding_somebody_who_is_there_changes_nothing(three):
    assert decide(three, machine.Add(PHONE, (callee(CAROL), callee(ALICE)), 45), T0) is three


def test_only_who_is_joined_adds(ringing):
    assert refusal(ringing, machine.Add(PHONE, (dave(),), 45))[0] == "not_allowed"
    assert states(does(ringing, machine.Add(TABLET, (dave(),), 45)))["dave"] == "ringing", "from any own device"


def test_the_ceiling_counts_ringing_and_joined_legs(two):
    def add(*callees):
        return machine.Add(LAPTOP, callees, 45, max_legs=3)

    assert refusal(two, add(callee(CAROL), dave())) == ("full", {"limit": 3})
    call = does(two, add(callee(CAROL)))
    assert call.max_legs == 3, "what the host's line allows when somebody is added holds from then on"
    assert refusal(call, add(dave()))[0] == "full"
    assert does(call, machine.Reject(WATCH), add(dave())).state == "active"
    assert refusal(two, machine.Add(LAPTOP, (), 45, ("nobody",))) == ("not_found", {"users": ["nobody"]})


def test_a_closed_leg_is_rung_again_three_times_in_ten_minutes(three):
    call = does(three, machine.Hangup(PHONE))
    for _ in range(3):
        call = does(call, machine.Add(WATCH, (callee(BOB),), 45), machine.Reject(PHONE))
    code, about = refusal(call, machine.Add(LAPTOP, (callee(BOB),), 45), T0 + MINUTE)
    assert (code, about) == ("not_allowed", {"retry_ms": 9 * 60_000})
    later = decide(call, machine.Add(LAPTOP, (callee(BOB),), 45), T0 + 10 * MINUTE)
    assert (states(later)["bob"], len(later.legs)) == ("ringing", 3)


def test_the_checks_of_an_add_come_in_the_order_of_the_contract(three):
    call = does(three, machine.Hangup(PHONE))
    for _ in range(3):
        call = does(call, machine.Add(WATCH, (callee(BOB),), 45), machine.Reject(PHONE))
    wrong = machine.Add(LAPTOP, (callee(BOB), dave()), 45, ("nobody",), max_legs=2)
    assert refusal(does(call, machine.End(LAPTOP)), wrong)[0] == "call_ended"
    assert refusal(call, wrong)[0] == "not_allowed"
    assert refusal(call, replace(wrong, callees=(dave(),)))[0] == "full"
    assert refusal(call, replace(wrong, callees=(dave(),), max_legs=9))[0] == "not_found"


def test_a_call_has_an_end_of_legs_closed_ones_included(two):
    """Every view shows all legs, so a script must not make them without end."""
    call = two
    for n in range(1000, 1000 + machine.MOST_LEGS - len(two.legs)):
        someone = replace(callee(CAROL), key=str(n), user=f"user{n}", reachable=False)
        call = decide(call, machine.Add(LAPTOP, (someone,), 45), T0 + n * MINUTE / 30)
    assert refusal(call, machine.Add(LAPTOP, (dave(),), 45), T0 + 99 * MINUTE) == ("full", {"limit": 100})
    assert refusal(call, machine.Transfer(LAPTOP, dave(), "dave", 45), T0 + 99 * MINUTE)[0] == "full"
    someone = replace(callee(CAROL), key="1000", user="user1000")
    again = decide(call, machine.Add(LAPTOP, (someone,), 45), T0 + 99 * MINUTE)
    assert len(again.legs) == machine.MOST_LEGS, "who has a leg can be rung again"


def test_who_left_declined_or_missed_it_may_come_back(ringing):
    call = does(ringing, machine.Answer(WATCH), machine.Reject(PHONE))
    assert can(call, PHONE) == {"answer"}
    back = does(call, machine.Answer(DESK, active=0, limit=1))
    assert states(back)["bob"] == "joined"
    left = does(back, machine.Hangup(DESK))
    assert leg_of(does(left, machine.Answer(PHONE)), BOB).epoch == leg_of(back, BOB).epoch + 1


def test_who_comes_back_is_admitted_like_a_new_one(three):
    call = does(three, machine.Hangup(PHONE))
    assert refusal(call, machine.Answer(PHONE, active=2, limit=2)) == (
        "limit_reached", {"direction": "incoming", "limit": 2, "active": 2},
    )  # fmt: skip
    assert refusal(call, machine.Answer(replace(PHONE, in_call=walk.OTHER)))[0] == "in_call"
    full = replace(call, max_legs=2)
    assert refusal(full, machine.Answer(PHONE)) == ("full", {"limit": 2})
    assert can(full, PHONE) == set()
    host = does(three, machine.Hangup(LAPTOP))
    assert refusal(host, machine.Answer(LAPTOP, active=1, limit=1))[1]["direction"] == "outgoing"


def test_nobody_comes_back_into_a_call_of_two_or_one_that_has_ended(two, three):
    ended = does(three, machine.End(LAPTOP))
    assert refusal(ended, machine.Answer(PHONE)) == ("call_ended", {"reason": "completed"})
    assert refusal(does(two, machine.Hangup(PHONE)), machine.Answer(PHONE))[0] == "call_ended"


def test_the_host_removes_and_only_an_add_brings_back(three):
    call = does(three, machine.Remove(LAPTOP, "bob"))
    assert states(call)["bob"] == "removed"
    assert decide(call, machine.Remove(LAPTOP, "bob"), T0) is call
    assert refusal(call, machine.Answer(PHONE))[0] == "not_allowed"
    assert can(call, PHONE) == set(), "the view of the removal itself"
    later = does(call, machine.Media(WATCH, False, False))
    assert view(later, BOB, PHONE.device, T0) is None, "and none until added or ended"
    assert view(does(later, machine.End(LAPTOP)), BOB, PHONE.device, T0).state == "ended"
    back = does(later, machine.Add(WATCH, (callee(BOB),), 45))
    assert can(back, PHONE) == {"ringing", "answer", "reject"}


def test_a_ringing_leg_is_taken_back_by_whoever_invited_it(three):
    call = does(three, machine.Add(WATCH, (dave(),), 45))
    assert refusal(call, machine.Remove(PHONE, "dave"))[0] == "not_allowed"
    taken_back = does(call, machine.Remove(CAR, "dave"))
    assert states(taken_back)["dave"] == "removed"
    assert decide(taken_back, machine.Remove(CAR, "dave"), T0) is taken_back
    assert refusal(three, machine.Remove(LAPTOP, "alice"))[0] == "not_allowed"
    assert refusal(three, machine.Remove(LAPTOP, "nobody"))[0] == "not_found"
    assert refusal(three, machine.Remove(PHONE, "carol"))[0] == "not_allowed"


def test_the_operator_adds_and_removes(three):
    call = does(three, machine.RemoveByOperator("operator", "bob"), machine.AddByOperator("operator", (dave(),), 45))
    assert states(call) == {"alice": "joined", "bob": "removed", "carol": "joined", "dave": "ringing"}


# --- hold -------------------------------------------------------------------------------------------------------------


def test_hold_is_seen_and_taken_back(two):
    held = does(two, machine.Hold(PHONE, True))
    assert view(held, ALICE, LAPTOP.device, T0, LAPTOP.page).legs[1].held
    assert decide(held, machine.Hold(PHONE, True), T0) is held
    assert not leg_of(does(held, machine.Hold(PHONE, False)), BOB).held
    assert refusal(held, machine.Hold(DESK, False))[0] == "answered_elsewhere"
    assert refusal(held, machine.Hold(replace(PHONE, in_call=walk.OTHER), False))[0] == "in_call"


def test_a_held_call_moves_to_a_device_that_is_in_another(two):
    held = does(two, machine.Hold(PHONE, True))
    moved = does(held, machine.Move(replace(DESK, in_call=walk.OTHER)))
    assert leg_of(moved, BOB).held
    assert refusal(two, machine.Move(replace(DESK, in_call=walk.OTHER)))[0] == "in_call"


def test_who_holds_is_never_alone_for_ten_minutes(three):
    call = does(three, machine.Hold(LAPTOP, True), machine.Hangup(PHONE), machine.Hangup(WATCH))
    assert view(call, ALICE, LAPTOP.device, T0 + 5 * MINUTE).alone_ms is None
    assert view(call, ALICE, LAPTOP.device, T0 + 10 * MINUTE).alone_ms == 60_000
    assert decide(call, machine.Due(), T0 + 11 * MINUTE).reason == "completed"
    back = decide(call, machine.Hold(LAPTOP, False), T0 + 5 * MINUTE)
    assert machine.due_at(back) == T0 + 6 * MINUTE, "the minute begins when the person is back"


# --- transfer and merge -----------------------------------------------------------------------------------------------


@pytest.fixture
def transferred(two):
    """bob transfers alice to carol, whose devices ring."""
    return does(two, machine.Transfer(PHONE, callee(CAROL), "carol", 45))


def test_a_blind_transfer_closes_the_own_leg_when_it_is_answered(transferred):
    assert states(transferred) == {"alice": "joined", "bob": "joined", "carol": "ringing"}
    assert view(transferred, ALICE, LAPTOP.device, T0).legs[2].for_ == "bob"
    call = does(transferred, machine.Answer(WATCH))
    assert states(call) == {"alice": "joined", "bob": "left", "carol": "joined"}
    assert (leg_of(call, BOB).reason, call.group) == ("transferred", False)
    assert decide(call, machine.Transfer(PHONE, None, "carol", 45), T0) is call, "sent again after a lost reply"
    assert does(call, machine.Hangup(LAPTOP)).reason == "completed", "it is a call of two again"
    assert refusal(call, machine.Answer(PHONE))[0] == "not_allowed"


def test_a_transfer_that_is_declined_loses_nothing(transferred):
    call = does(transferred, machine.Reject(WATCH))
    assert states(call) == {"alice": "joined", "bob": "joined", "carol": "rejected"}
    assert does(call, machine.Hangup(PHONE)).reason == "completed", "declined before, and not why it ends"
    again = does(call, machine.Transfer(PHONE, callee(CAROL), "carol", 45))
    assert states(again)["carol"] == "ringing"


def test_a_transfer_to_somebody_who_is_busy_is_seen_and_the_call_goes_on(two):
    call = does(two, machine.Transfer(PHONE, callee(CAROL, active=1, limit=1), "carol", 45))
    assert (call.state, states(call)["carol"]) == ("active", "busy")


def test_a_transfer_goes_on_when_who_transfers_hangs_up(transferred):
    call = does(transferred, machine.Hangup(PHONE))
    assert (call.state, states(call)["carol"]) == ("active", "ringing")
    answered = does(call, machine.Answer(WATCH))
    assert states(answered) == {"alice": "joined", "bob": "left", "carol": "joined"}


@pytest.mark.parametrize(("command", "now", "reason"), [
    (machine.Reject(WATCH), T0, "rejected"),
    (machine.Due(), walk.RUN_OUT, "unreachable"),
])  # fmt: skip
def test_a_failed_transfer_whose_giver_has_left_ends_with_its_reason(transferred, command, now, reason):
    assert decide(does(transferred, machine.Hangup(PHONE)), command, now).reason == reason


def test_when_the_other_party_hangs_up_the_target_is_told_that_it_ended(transferred):
    ended = does(transferred, machine.Hangup(LAPTOP))
    assert (ended.reason, states(ended)["carol"]) == ("completed", "cancelled")
    assert refusal(ended, machine.Answer(WATCH))[0] == "call_ended"


def test_a_transfer_is_taken_back_by_removing_its_leg(transferred):
    call = does(transferred, machine.Remove(PHONE, "carol"))
    assert states(call) == {"alice": "joined", "bob": "joined", "carol": "removed"}


def test_who_is_given_a_call_and_calls_its_host_does_not_answer_it(transferred, ringing):
    """Glare is for a call of two that nobody has answered."""
    assert refusal(transferred, machine.Join(WATCH))[0] == "not_found"
    assert refusal(ringing, machine.Join(WATCH))[0] == "not_found"


def test_of_two_transfers_there_is_one(transferred):
    assert refusal(transferred, machine.Transfer(LAPTOP, dave(), "dave", 45))[0] == "not_allowed"
    assert decide(transferred, machine.Transfer(PHONE, callee(CAROL), "carol", 45), T0) is transferred


def test_who_may_transfer(two, three, ringing):
    assert refusal(ringing, machine.Transfer(LAPTOP, dave(), "dave", 45))[0] == "not_allowed"
    assert refusal(three, machine.Transfer(PHONE, dave(), "dave", 45))[0] == "not_allowed"
    assert states(does(three, machine.Transfer(LAPTOP, dave(), "dave", 45)))["dave"] == "ringing"
    assert refusal(two, machine.Transfer(PHONE, callee(CAROL), "carol", 45, allowed=False))[0] == "not_allowed"
    assert refusal(two, machine.Transfer(PHONE, None, "nobody", 45)) == ("not_found", {"users": ["nobody"]})
    assert refusal(two, machine.Transfer(PHONE, callee(ALICE), "alice", 45))[0] == "not_allowed"
    assert refusal(two, machine.Transfer(DESK, callee(CAROL), "carol", 45))[0] == "answered_elsewhere"
    assert refusal(replace(two, max_legs=2), machine.Transfer(PHONE, callee(CAROL), "carol", 45))[0] == "full"


def test_in_a_group_a_transfer_may_outlive_everybody_who_was_there(three):
    call = does(three, machine.Transfer(LAPTOP, dave(), "dave", 45), machine.Hangup(PHONE), machine.Hangup(WATCH))
    call = does(call, machine.Hangup(LAPTOP))
    assert (call.state, states(call)["dave"]) == ("active", "ringing")
    assert does(call, machine.Reject(PAD)).reason == "rejected"
    answered = does(call, machine.Answer(PAD))
    assert (answered.host, answered.lonely_since) == (DAVE, T0)


def test_an_attended_transfer_brings_the_other_person_over(two):
    consulted = does(decide(None, replace(invite(CAROL), call=walk.OTHER), T0), machine.Answer(WATCH))
    held = does(two, machine.Hold(LAPTOP, True))
    given = leg_of(consulted, CAROL)
    ended = does(consulted, machine.HandOver(LAPTOP, held.id))
    assert (ended.state, ended.reason, leg_of(ended, ALICE).reason) == ("ended", "merged", "transferred")
    call = does(held, machine.TakeOver(LAPTOP, walk.OTHER, given))
    assert states(call) == {"alice": "left", "bob": "joined", "carol": "joined"}
    moved = leg_of(call, CAROL)
    assert (moved.device, moved.page, moved.epoch, moved.dir) == (WATCH.device, WATCH.page, given.epoch + 1, "in")
    assert (leg_of(call, ALICE).reason, call.host, call.group) == ("transferred", BOB, False)
    assert refusal(ended, machine.HandOver(LAPTOP, held.id)) == ("call_ended", {"reason": "merged"})
    assert machine.was_taken_over(ended, call, ALICE), "which is how the same transfer, sent again, is known"
    assert not machine.was_taken_over(ended, two, ALICE)
    assert decide(call, machine.TakeOver(LAPTOP, walk.OTHER, given), T0) is call


def test_a_merge_keeps_all_three_together(two):
    held = does(two, machine.Hold(LAPTOP, True))
    call = does(held, machine.TakeOver(LAPTOP, walk.OTHER, walk.elsewhere(CAROL), True))
    assert states(call) == {"alice": "joined", "bob": "joined", "carol": "joined"}
    assert call.group and not leg_of(call, ALICE).held
    assert (
        refusal(replace(held, max_legs=2), machine.TakeOver(LAPTOP, walk.OTHER, walk.elsewhere(CAROL), True))[0]
        == "full"
    )
    assert refusal(held, machine.TakeOver(LAPTOP, walk.OTHER, walk.elsewhere(BOB), True))[0] == "not_allowed"
    busy = replace(LAPTOP, in_call=walk.OTHER)
    assert refusal(held, machine.TakeOver(busy, walk.OTHER, walk.elsewhere(CAROL), True))[0] == "in_call"


def test_a_group_is_not_handed_over(three, ringing):
    assert refusal(three, machine.HandOver(LAPTOP, walk.OTHER))[0] == "not_allowed"
    assert refusal(decide(None, invite(BOB), T0), machine.HandOver(LAPTOP, walk.OTHER))[0] == "not_allowed"


# --- media ------------------------------------------------------------------------------------------------------------


def test_a_group_without_an_engine_is_a_mesh_and_two_are_not(two):
    assert (two.media, two.media_epoch) == ("p2p", 1)
    call = does(two, machine.Add(LAPTOP, (callee(CAROL),), 45))
    assert (call.media, call.media_epoch) == ("mesh", 2)
    three = does(call, machine.Answer(WATCH))
    assert (three.media, three.media_epoch) == ("mesh", 2)
    left = does(three, machine.Hangup(WATCH))
    assert (left.media, left.media_epoch) == ("p2p", 3)


def test_with_an_engine_the_third_joined_leg_brings_it_and_it_stays():
    call = does(decide(None, invite(BOB, CAROL, engine=True), T0), machine.Answer(PHONE))
    assert (call.media, call.media_epoch) == ("p2p", 1)
    call = does(call, machine.Answer(WATCH))
    assert (call.media, call.media_epoch) == ("sfu", 2)
    assert does(call, machine.Hangup(WATCH)).media == "sfu"


# --- the whole walk ---------------------------------------------------------------------------------------------------


def check(step: Step) -> None:
    before, _, now, after, _ = step
    if after is None or after is before:
        return
    assert before.state != "ended", "2: ended is final"
    assert after.v == before.v + 1
    live = [leg for leg in after.legs if leg.state in machine.LIVE]
    joined = [leg for leg in live if leg.state == "joined"]
    for old in before.legs:
        new = leg_of(after, old.key)
        assert new is not None and new.epoch >= old.epoch, "1: an epoch never falls"
        assert (new.device, new.page) == (old.device, old.page) or new.epoch > old.epoch
    assert len({leg.key for leg in after.legs}) == len(after.legs), "9: one leg a person"
    assert len(live) <= after.max_legs
    assert all(not leg.held for leg in after.legs if leg.state != "joined")
    if after.state == "ended":
        assert not live, "3: an ended call has no live leg"
        assert after.reason is not None and machine.due_at(after) is None and after.ended_at == now
        return
    assert after.reason is None and machine.due_at(after) is not None
    if after.answered_at is None:
        assert any(leg.key == after.host for leg in joined), "the host waits"
    elif joined:
        assert any(leg.key == after.host for leg in joined), "who is host is joined"
    else:
        assert after.group and any(leg.for_ for leg in live), "a transfer that outlives everybody"
    if not after.group:
        assert len(live) > 1
    assert (after.lonely_since is not None) == (
        after.group and after.answered_at is not None and len(live) == len(joined) == 1
    )
    assert sum(bool(leg.for_) for leg in live if leg.state == "ringing") <= 1, "one transfer at a time"


def check_offer(step: Step) -> None:
    by, word = getattr(step.command, "by", None), type(step.command).__name__.lower()
    if by is None or word in ("handover", "takeover") or (word == "add" and step.command.callees == ()):
        return
    shown = view(step.before, by.key, by.device, T0, by.page)
    if shown is None:
        assert step.refused is not None or step.after is step.before
    elif step.refused is None and step.after is not step.before:
        assert word in shown.me.can, f"{word} is allowed, and not offered"


@pytest.mark.parametrize("keys", [(BOB, CAROL), (BOB,)], ids=["a group", "a call of two"])
def test_every_reachable_step_keeps_the_invariants(keys):
    done: Counter[str] = Counter()
    for step in walk.walk(decide(None, invite(*keys), T0)):
        check(step)
        check_offer(step)
        if step.after is not None and step.after is not step.before:
            done[type(step.command).__name__] += 1
            if hasattr(step.command, "by"):
                try:
                    again = decide(step.after, step.command, step.now)
                except Refused as refused:
                    assert type(step.command).__name__ in (
                        "Add", "Remove", "Transfer", "TakeOver", "HandOver", "Hold", "Media",
                    )  # fmt: skip
                    assert refused.code in ("call_ended", "not_allowed")
                else:
                    rings_nobody = isinstance(step.command, machine.Add) and len(step.command.callees) == 2
                    assert again is step.after or rings_nobody, "a command that is sent again changes nothing"
    assert sum(done.values()) > 50_000, "the walk has become too small to mean anything"
    words = {"Add", "Remove", "Hold", "Transfer", "TakeOver", "Answer", "Due"}
    assert words | ({"HandOver"} if len(keys) == 1 else set()) <= set(done)
