"""Every race that a call of two can meet, in both orders, each order forced with real locks on PostgreSQL.

The headings are the rows of docs/races.md. In `in_order(first, second)` the first holds its lock and has
written everything but its entry when the second arrives, so the second meets exactly the moment between lock and
commit. Where a row of the table has no lock to meet, the test's name says that the order cannot matter. The marks name
the one lock without which a test fails; benchmarks/deleted_lock.py deletes each of them and looks.
"""

import asyncio
import datetime as dt
import uuid
from typing import Any

import msgspec
import pytest
from asgiref.sync import sync_to_async
from django.db import OperationalError, connection, transaction
from django.utils import timezone

from calls import machine, models, switchboard
from calls.clock import Clock
from calls.hot import Watch
from calls.view import view
from devices import prepared, presence
from devices.models import Device, Line
from tests.race_kit import (
    RACE,
    ROUNDS,
    Contestant,
    Handset,
    Hold,
    Story,
    Work,
    at_once,
    commanding,
    entry_of,
    held,
    in_order,
    leg_of,
    next_entry,
    refusal,
    ring,
    row,
    signing_out,
    spent_invite,
    story,
    talk,
    ticking,
    value_of,
    watching,
)

pytestmark = RACE
call_lock, line_lock, device_lock = pytest.mark.call_lock, pytest.mark.line_lock, pytest.mark.device_lock

both_orders = pytest.mark.parametrize("order", [("phone", "laptop"), ("laptop", "phone")], ids=" then ".join)
either_ending = pytest.mark.parametrize("leaves", [Handset.hangs_up, Handset.ends], ids=["hangup", "end"])

JOINED = {"alice": "joined", "bob": "joined"}
LEFT = {"alice": "left", "bob": "left"}


@pytest.fixture
def alice(people: dict[str, Any]) -> Handset:
    return Handset(people["alice"], "Alice's laptop")


@pytest.fixture
def phone(people: dict[str, Any]) -> Handset:
    return Handset(people["bob"], "Phone")


@pytest.fixture
def laptop(people: dict[str, Any], phone: Handset) -> Handset:
    """bob's, and his most recent login."""
    return Handset(people["bob"], "Laptop")


@pytest.fixture
def carol(people: dict[str, Any]) -> Handset:
    return Handset(people["carol"], "Carol's laptop")


@pytest.fixture
def ordered(order: tuple[str, str], phone: Handset, laptop: Handset) -> list[Handset]:
    """bob's two devices, the one that comes first in front."""
    return [{"phone": phone, "laptop": laptop}[name] for name in order]


@pytest.fixture
def one_rings(people: dict[str, Any]) -> None:
    """Multi-device off for bob."""
    switchboard.change_line(people["bob"].pk, multi_device=False)


def me(handset: Handset, call: uuid.UUID) -> tuple[str, bool, str | None]:
    """What the device is shown of its own leg: state, here, and the name of the device that has it."""
    view = handset.sees(call)
    assert view is not None
    return view["me"]["state"], view["me"]["here"], view["me"]["device"]


def makes_noise(handset: Handset, call: uuid.UUID) -> bool:
    """The one ring predicate of the protocol."""
    view = handset.sees(call)
    return view is not None and view["me"]["state"] == "ringing" and view["me"]["ring_ms"] > 0


# --- two devices answer at once ---------------------------------------------------------------------------------------


@call_lock
@both_orders
def test_the_first_answer_binds_and_the_second_is_told_where(alice, ordered):
    fast, slow = ordered
    call = ring(alice, fast.user)
    won, lost = in_order(fast.answers(call), slow.answers(call))
    assert refusal(won) is None
    assert refusal(lost) == ("answered_elsewhere", {"device": fast.name})
    assert lost.call == won.call == value_of(call), "both replies carry the call as it is"
    assert story(call) == Story("active", None, JOINED, ["Invite", "Answer"])
    assert me(fast, call) == ("joined", True, fast.name)
    assert me(slow, call) == ("joined", False, fast.name)
    assert leg_of(call, fast).epoch == 1


@call_lock
@pytest.mark.parametrize("first", range(6))
def test_whichever_of_six_devices_is_first_wins_and_five_are_told_where(alice, people, first):
    six = [Handset(people["bob"], f"Device {number}") for number in range(6)]
    six.insert(0, six.pop(first))
    call = ring(alice, people["bob"])
    won, *lost = in_order(*(device.answers(call) for device in six))
    assert refusal(won) is None
    assert [refusal(each) for each in lost] == 5 * [("answered_elsewhere", {"device": f"Device {first}"})]
    assert story(call) == Story("active", None, JOINED, ["Invite", "Answer"])
    assert [me(device, call)[1] for device in six] == [True, False, False, False, False, False]


@call_lock
def test_of_six_answers_from_one_starting_line_one_wins(alice, people):
    six = [Handset(people["bob"], f"Device {number}") for number in range(6)]
    for _ in range(ROUNDS):
        call = ring(alice, people["bob"])
        outcomes = at_once(*(device.answers(call) for device in six))
        winner = leg_of(call, six[0]).device_name
        told = [refusal(each) for each in outcomes if each.refused is not None]
        assert told == 5 * [("answered_elsewhere", {"device": winner})]
        assert [device.name for device in six if me(device, call)[1]] == [winner]
        alice.hangs_up(call).do()


# --- the same device answers twice, or resends ------------------------------------------------------------------------


@call_lock
def test_a_device_that_answers_twice_at_once_has_answered_once_and_the_order_cannot_matter(alice, phone):
    call = ring(alice, phone.user)
    once, again = in_order(phone.answers(call), phone.answers(call))
    assert refusal(once) is refusal(again) is None
    assert once.call == again.call
    assert story(call) == Story("active", None, JOINED, ["Invite", "Answer"])
    assert leg_of(call, phone).epoch == 1


def test_an_answer_that_is_sent_again_changes_nothing_not_even_after_the_other_device_asked(alice, phone, laptop):
    call = ring(alice, phone.user)
    for device in (phone, laptop, phone, laptop):
        expected = None if device is phone else ("answered_elsewhere", {"device": "Phone"})
        assert refusal(device.answers(call).do()) == expected
    assert story(call).commands == ["Invite", "Answer"]


# --- answer x the caller's hangup -------------------------------------------------------------------------------------


@call_lock
@either_ending
def test_a_hangup_after_the_answer_ends_an_active_call(alice, phone, laptop, leaves):
    call = ring(alice, phone.user)
    answered, left = in_order(phone.answers(call), leaves(alice, call))
    assert refusal(answered) is refusal(left) is None
    assert story(call)[:3] == ("ended", "completed", LEFT)
    for device in (alice, phone, laptop):
        assert device.sees(call)["reason"] == "completed" and device.sees(call)["me"]["can"] == []


@call_lock
@either_ending
def test_an_answer_after_the_hangup_finds_a_cancelled_call(alice, phone, laptop, leaves):
    call = ring(alice, phone.user)
    left, answered = in_order(leaves(alice, call), phone.answers(call))
    assert refusal(left) is None
    assert refusal(answered) == ("call_ended", {"reason": "cancelled"})
    assert story(call)[:3] == ("ended", "cancelled", {"alice": "left", "bob": "cancelled"})
    assert answered.call == value_of(call)
    assert not makes_noise(phone, call) and not makes_noise(laptop, call)


@call_lock
def test_a_hangup_that_is_sent_twice_is_no_error_and_the_order_cannot_matter(alice, phone):
    call = talk(alice, phone)
    once, again = in_order(alice.hangs_up(call), alice.hangs_up(call))
    assert refusal(once) is refusal(again) is None
    assert story(call) == Story("ended", "completed", LEFT, ["Invite", "Answer", "Hangup"])


@call_lock
@pytest.mark.parametrize("order", [("alice", "bob"), ("bob", "alice")], ids=" then ".join)
def test_when_both_hang_up_the_first_ends_the_call(alice, phone, order):
    call = talk(alice, phone)
    first, second = [{"alice": alice, "bob": phone}[name] for name in order]
    left, late = in_order(first.hangs_up(call), second.hangs_up(call))
    assert (refusal(left), refusal(late)) == (None, ("call_ended", {"reason": "completed"}))
    assert story(call) == Story("ended", "completed", LEFT, ["Invite", "Answer", "Hangup"])
    assert value_of(call).ended_by == first.key


# --- answer x reject on another device --------------------------------------------------------------------------------


@call_lock
@both_orders
def test_a_reject_after_the_answer_is_told_where_and_the_call_goes_on(alice, ordered):
    one, other = ordered
    call = ring(alice, one.user)
    answered, rejected = in_order(one.answers(call), other.rejects(call))
    assert refusal(answered) is None
    assert refusal(rejected) == ("answered_elsewhere", {"device": one.name})
    assert story(call) == Story("active", None, JOINED, ["Invite", "Answer"])


@call_lock
@both_orders
def test_an_answer_after_the_reject_finds_a_rejected_call(alice, ordered):
    one, other = ordered
    call = ring(alice, one.user)
    rejected, answered = in_order(one.rejects(call), other.answers(call))
    assert refusal(rejected) is None
    assert refusal(answered) == ("call_ended", {"reason": "rejected"})
    assert story(call) == Story("ended", "rejected", {"alice": "left", "bob": "rejected"}, ["Invite", "Reject"])
    assert not makes_noise(one, call) and not makes_noise(other, call)


@call_lock
def test_two_devices_that_reject_at_once_have_both_rejected_and_the_order_cannot_matter(alice, phone, laptop):
    call = ring(alice, phone.user)
    assert [refusal(each) for each in in_order(phone.rejects(call), laptop.rejects(call))] == [None, None]
    assert story(call) == Story("ended", "rejected", {"alice": "left", "bob": "rejected"}, ["Invite", "Reject"])


# --- reject x the caller's hangup -------------------------------------------------------------------------------------


@call_lock
def test_a_reject_before_the_hangup_is_the_reason(alice, phone):
    call = ring(alice, phone.user)
    rejected, left = in_order(phone.rejects(call), alice.hangs_up(call))
    assert (refusal(rejected), refusal(left)) == (None, ("call_ended", {"reason": "rejected"}))
    assert story(call) == Story("ended", "rejected", {"alice": "left", "bob": "rejected"}, ["Invite", "Reject"])


@call_lock
def test_a_hangup_before_the_reject_is_the_reason(alice, phone):
    call = ring(alice, phone.user)
    left, rejected = in_order(alice.hangs_up(call), phone.rejects(call))
    assert (refusal(left), refusal(rejected)) == (None, ("call_ended", {"reason": "cancelled"}))
    assert story(call) == Story("ended", "cancelled", {"alice": "left", "bob": "cancelled"}, ["Invite", "Hangup"])


# --- answer x the ring deadline ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "clock_first", [pytest.param(True, id="clock first", marks=call_lock), pytest.param(False, id="answer first")]
)
def test_within_the_grace_devices_are_silent_and_an_answer_wins_over_the_clock_in_either_order(
    alice, phone, set_calls, clock_first
):
    set_calls(RING_GRACE_S=60)
    call = ring(alice, phone.user, ring_s=0)
    assert not makes_noise(phone, call) and phone.sees(call)["me"]["state"] == "ringing"
    works = [commanding(call, machine.Due()), phone.answers(call)]
    outcomes = in_order(*(works if clock_first else reversed(works)), hold=row(models.Call, call))
    assert [refusal(each) for each in outcomes] == [None, None]
    ticking(call).do()
    assert story(call) == Story("active", None, JOINED, ["Invite", "Answer"])


def test_after_the_grace_an_answer_that_finds_the_leg_ringing_wins_and_the_clock_passes_it_by(alice, phone, set_calls):
    set_calls(RING_GRACE_S=0)
    call = ring(alice, phone.user, ring_s=0)
    answered, _ = in_order(phone.answers(call), ticking(call))
    assert refusal(answered) is None
    ticking(call).do()
    assert story(call) == Story("active", None, JOINED, ["Invite", "Answer"])


@call_lock
@pytest.mark.parametrize(
    ("alerted", "reason", "leg"), [(True, "no_answer", "missed"), (False, "unreachable", "unreachable")]
)
def test_an_answer_after_the_deadline_was_acted_on_finds_an_ended_call(
    alice, phone, laptop, set_calls, alerted, reason, leg
):
    set_calls(RING_GRACE_S=0)
    call = ring(alice, phone.user, ring_s=0)
    if alerted:
        laptop.rings(call).do()
    _, answered = in_order(ticking(call), phone.answers(call))
    assert refusal(answered) == ("call_ended", {"reason": reason})
    assert story(call)[:3] == ("ended", reason, {"alice": "left", "bob": leg})
    assert story(call).commands[-1] == "Due"


@call_lock
def test_a_deadline_found_by_two_clocks_is_acted_on_once_and_the_order_cannot_matter(alice, phone, set_calls):
    set_calls(RING_GRACE_S=0)
    call = ring(alice, phone.user, ring_s=0)
    in_order(ticking(call), ticking(call), commanding(call, machine.Due()))
    assert story(call).commands == ["Invite", "Due"]


@call_lock
@pytest.mark.parametrize("clock_first", [True, False], ids=["clock first", "hangup first"])
def test_the_deadline_and_the_hangup_leave_the_reason_of_the_first(alice, phone, set_calls, clock_first):
    set_calls(RING_GRACE_S=0)
    call = ring(alice, phone.user, ring_s=0)
    works = [commanding(call, machine.Due()), alice.hangs_up(call)]
    in_order(*(works if clock_first else reversed(works)))
    assert story(call)[1] == ("unreachable" if clock_first else "cancelled")
    assert len(story(call).commands) == 2


# --- hangup of a call whose invite has not arrived --------------------------------------------------------------------


@line_lock
@either_ending
def test_an_invite_that_comes_while_its_hangup_is_remembered_rings_nobody(alice, phone, leaves):
    call = uuid.uuid4()
    left, placed = in_order(
        leaves(alice, call), alice.invites(phone.user, call=call), hold=spent_invite(call, alice.user)
    )
    assert refusal(left) == ("not_found", {})
    assert refusal(placed) == ("call_ended", {"reason": "cancelled"})
    assert not models.Call.objects.exists()


@line_lock
@either_ending
def test_a_hangup_that_comes_while_its_invite_is_placed_cancels_the_call(alice, phone, leaves):
    call = uuid.uuid4()
    placed, left = in_order(alice.invites(phone.user, call=call), leaves(alice, call))
    assert refusal(placed) is refusal(left) is None
    assert story(call)[:3] == ("ended", "cancelled", {"alice": "left", "bob": "cancelled"})
    assert not makes_noise(phone, call)


def test_a_hangup_is_remembered_for_ten_minutes(alice, phone):
    call, now = uuid.uuid4(), timezone.now()
    alice.hangs_up(call).do()
    switchboard.forget_spent(now + dt.timedelta(minutes=9, seconds=59))
    assert refusal(alice.invites(phone.user, call=call).do()) == ("call_ended", {"reason": "cancelled"})
    switchboard.forget_spent(now + dt.timedelta(minutes=10, seconds=5))
    assert ring(alice, phone.user, call=call) == call


# --- an invite resent after a lost reply ------------------------------------------------------------------------------


def test_an_invite_sent_twice_is_one_call_and_the_order_cannot_matter(alice, phone):
    call = uuid.uuid4()
    invite = alice.invites(phone.user, call=call, data={"topic": "lunch"})
    once, again = in_order(invite, invite)
    assert refusal(once) is refusal(again) is None
    assert once.call == again.call == value_of(call)
    assert story(call).commands == ["Invite"]


@pytest.mark.parametrize("kinds", [("audio", "video"), ("video", "audio")], ids=" then ".join)
def test_the_same_id_with_other_arguments_is_a_conflict_with_the_first(alice, phone, kinds):
    call = uuid.uuid4()
    placed, other = in_order(*(alice.invites(phone.user, call=call, kind=kind) for kind in kinds))
    assert (refusal(placed), refusal(other)) == (None, ("conflict", {}))
    assert value_of(call).kind == kinds[0]
    assert story(call).commands == ["Invite"]


@pytest.mark.parametrize("order", [("bob", "carol"), ("carol", "bob")], ids=" then ".join)
def test_the_same_id_for_somebody_else_is_a_conflict_with_the_first(alice, phone, carol, people, order):
    call = uuid.uuid4()
    placed, other = in_order(*(alice.invites(people[name], call=call) for name in order))
    assert (refusal(placed), refusal(other)) == (None, ("conflict", {}))
    assert story(call).legs == {"alice": "joined", order[0]: "ringing"}


def test_an_id_that_strangers_used_at_the_same_time_belongs_to_the_first(alice, phone, carol, people):
    Handset(people["dave"], "Dave's laptop")
    call = uuid.uuid4()
    placed, other = in_order(alice.invites(phone.user, call=call), carol.invites(people["dave"], call=call))
    assert (refusal(placed), refusal(other)) == (None, ("conflict", {}))
    assert story(call).legs == {"alice": "joined", "bob": "ringing"}
    assert view(other.call, carol.key, carol.id, timezone.now()) is None, "the other one is shown nothing"


# --- glare ------------------------------------------------------------------------------------------------------------


@line_lock
@pytest.mark.parametrize("order", [("alice", "bob"), ("bob", "alice")], ids=" then ".join)
def test_in_glare_the_later_invite_answers_the_earlier_on_the_device_that_placed_it(alice, phone, laptop, order):
    first, second = [{"alice": alice, "bob": phone}[name] for name in order]
    invite = second.invites(first.user)
    placed, met = in_order(first.invites(second.user), invite)
    call = placed.call.id
    assert refusal(placed) is refusal(met) is None
    assert met.call.id == call, "the reply to the later invite shows the earlier call"
    assert story(call) == Story("active", None, JOINED, ["Invite", "Join"])
    assert me(first, call) == ("joined", True, first.name)
    assert me(second, call) == ("joined", True, second.name)
    assert me(laptop, call)[:2] == ("joined", False)
    assert models.Call.objects.count() == 1
    assert invite.do().call == value_of(call), "and when its reply was lost, it shows that call again"


@pytest.mark.by_chance
def test_people_who_call_each_other_in_a_circle_from_one_starting_line_all_ring(alice, phone, carol, set_calls):
    for _ in range(3):
        circle = [(alice, phone), (phone, carol), (carol, alice)]
        outcomes = at_once(*(caller.invites(callee.user) for caller, callee in circle))
        assert [refusal(each) for each in outcomes] == [None, None, None]
        assert {each.call.state for each in outcomes} == {"ringing"}
        at_once(*(caller.hangs_up(each.call.id) for (caller, _), each in zip(circle, outcomes, strict=True)))


def test_in_glare_an_invite_after_the_hangup_of_the_other_is_a_call_of_its_own(alice, phone):
    call = ring(alice, phone.user)
    left, placed = in_order(alice.hangs_up(call), phone.invites(alice.user))
    assert refusal(left) is refusal(placed) is None
    assert story(call)[:2] == ("ended", "cancelled")
    assert story(placed.call.id) == Story("ringing", None, {"bob": "joined", "alice": "ringing"}, ["Invite"])


@call_lock
def test_in_glare_a_hangup_after_the_other_invite_ends_an_active_call(alice, phone):
    call = ring(alice, phone.user)
    met, left = in_order(phone.invites(alice.user), alice.hangs_up(call), hold=next_entry(call))
    assert refusal(met) is refusal(left) is None
    assert story(call) == Story("ended", "completed", LEFT, ["Invite", "Join", "Hangup"])


@call_lock
def test_in_glare_an_answer_on_another_device_after_the_invite_is_told_where(alice, phone, laptop):
    call = ring(alice, phone.user)
    met, answered = in_order(phone.invites(alice.user), laptop.answers(call), hold=next_entry(call))
    assert (refusal(met), refusal(answered)) == (None, ("answered_elsewhere", {"device": "Phone"}))
    assert story(call) == Story("active", None, JOINED, ["Invite", "Join"])


def test_in_glare_an_invite_after_the_answer_on_another_device_is_a_call_of_its_own(alice, phone, laptop):
    call = ring(alice, phone.user)
    answered, placed = in_order(laptop.answers(call), phone.invites(alice.user))
    assert refusal(answered) is refusal(placed) is None
    assert story(call) == Story("active", None, JOINED, ["Invite", "Answer"])
    assert story(placed.call.id).legs == {"bob": "joined", "alice": "ringing"}


@pytest.mark.parametrize(
    "clock_first", [pytest.param(True, id="clock first"), pytest.param(False, id="invite first", marks=call_lock)]
)
def test_in_glare_an_invite_meets_a_ring_only_until_its_deadline_was_acted_on(alice, phone, set_calls, clock_first):
    set_calls(RING_GRACE_S=0)
    call = ring(alice, phone.user, ring_s=0)
    works = [commanding(call, machine.Due()), phone.invites(alice.user)]
    outcomes = in_order(*(works if clock_first else reversed(works)), hold=next_entry(call))
    placed = outcomes[1 if clock_first else 0].call
    if clock_first:
        assert story(call)[1] == "unreachable" and placed.id != call and placed.state == "ringing"
    else:
        assert placed.id == call and story(call) == Story("active", None, JOINED, ["Invite", "Join"])


def test_in_glare_a_hangup_by_the_id_of_the_invite_that_was_merged_hangs_up(alice, phone):
    call, merged = ring(alice, phone.user), uuid.uuid4()
    assert phone.invites(alice.user, call=merged).do().call.id == call
    assert refusal(phone.hangs_up(merged).do()) is None, "whoever cancels before the reply came knows no other id"
    assert story(call) == Story("ended", "completed", LEFT, ["Invite", "Join", "Hangup"])


# --- two callers, one free incoming place -----------------------------------------------------------------------------


@line_lock
@pytest.mark.parametrize("order", [("alice", "carol"), ("carol", "alice")], ids=" then ".join)
def test_of_two_callers_and_one_free_place_one_rings_and_the_other_is_busy(alice, carol, phone, people, order):
    first, second = [{"alice": alice, "carol": carol}[name] for name in order]
    rings, busy = in_order(first.invites(phone.user), second.invites(phone.user))
    assert refusal(rings) is refusal(busy) is None
    assert story(rings.call.id)[:3] == ("ringing", None, {order[0]: "joined", "bob": "ringing"})
    assert story(busy.call.id)[:3] == ("ended", "busy", {order[1]: "left", "bob": "busy"})
    assert leg_of(busy.call.id, phone).reason == "incoming_limit"
    assert not makes_noise(phone, busy.call.id)
    Handset(people["dave"], "Dave's laptop")
    assert ring(second, people["dave"]), "the busy call does not count for its caller"


@line_lock
def test_of_many_callers_from_one_starting_line_one_rings(alice, carol, people):
    callers = [alice, carol, Handset(people["dave"], "Dave's laptop"), Handset(people["operator"], "Desk")]
    phone = Handset(people["bob"], "Phone")
    for _ in range(ROUNDS):
        outcomes = at_once(*(caller.invites(phone.user) for caller in callers))
        assert sorted(each.call.reason or "rings" for each in outcomes) == ["busy", "busy", "busy", "rings"]
        ringing = next(each.call for each in outcomes if each.call.state == "ringing")
        phone.rejects(ringing.id).do()


def test_a_place_that_is_being_freed_counts_until_it_is_free_in_either_order(alice, carol, phone):
    call = ring(alice, phone.user)
    _, while_freed = in_order(alice.hangs_up(call), carol.invites(phone.user))
    assert while_freed.call.reason == "busy"
    call = ring(alice, phone.user)
    while_placed, _ = in_order(carol.invites(phone.user), alice.hangs_up(call))
    assert while_placed.call.reason == "busy"
    assert ring(carol, phone.user)


# --- one user invites from two devices, one outgoing place ------------------------------------------------------------


@line_lock
@both_orders
def test_of_two_invites_from_two_devices_of_one_user_one_is_a_call_and_one_over_the_limit(
    alice, carol, ordered, people
):
    first, second = ordered
    placed, refused = in_order(first.invites(alice.user), second.invites(carol.user))
    assert refusal(placed) is None
    assert refusal(refused) == ("limit_reached", {"direction": "outgoing", "limit": 1, "active": 1})
    assert models.Call.objects.get().id == placed.call.id
    assert me(first, placed.call.id) == ("joined", True, first.name)


# --- the operator lowers a limit or switches multi-device while it rings ----------------------------------------------


def test_a_limit_lowered_after_the_invite_affects_the_next_call(alice, carol, phone):
    lowering = Work(lambda: switchboard.change_line(phone.user.pk, max_incoming=0))
    placed, _ = in_order(alice.invites(phone.user), lowering)
    assert story(placed.call.id)[:2] == ("ringing", None)
    assert refusal(phone.answers(placed.call.id).do()) is None
    assert carol.invites(phone.user).do().call.reason == "busy"


@line_lock
def test_a_limit_lowered_before_the_invite_affects_it(alice, phone):
    lowering = Work(lambda: switchboard.change_line(phone.user.pk, max_incoming=0))
    _, placed = in_order(lowering, alice.invites(phone.user), hold=row(Line, phone.user.pk))
    assert placed.call.reason == "busy"


def test_multi_device_switched_off_after_the_invite_affects_the_next_call(alice, phone, laptop):
    switching = Work(lambda: switchboard.change_line(phone.user.pk, multi_device=False))
    placed, _ = in_order(alice.invites(phone.user), switching)
    call = placed.call.id
    assert makes_noise(phone, call) and makes_noise(laptop, call)
    assert refusal(phone.answers(call).do()) is None
    assert me(laptop, call) == ("joined", False, "Phone")
    alice.hangs_up(call).do()
    call = ring(alice, phone.user)
    assert makes_noise(laptop, call) and phone.sees(call) is None


@line_lock
def test_multi_device_switched_off_before_the_invite_rings_only_the_most_recent_login(alice, phone, laptop):
    switching = Work(lambda: switchboard.change_line(phone.user.pk, multi_device=False))
    _, placed = in_order(switching, alice.invites(phone.user), hold=row(Line, phone.user.pk))
    assert makes_noise(laptop, placed.call.id) and phone.sees(placed.call.id) is None


def test_an_answer_and_a_change_of_the_line_meet_no_common_lock_so_the_order_cannot_matter(alice, phone):
    call = ring(alice, phone.user)
    change = Work(lambda: switchboard.change_line(phone.user.pk, max_incoming=0, multi_device=False))
    answered, _ = in_order(phone.answers(call), change)
    assert refusal(answered) is None and story(call)[:3] == ("active", None, JOINED)


# --- a device logs in mid-ring ----------------------------------------------------------------------------------------


def test_with_multi_device_a_login_mid_ring_rings_and_its_answer_counts(alice, phone):
    call = ring(alice, phone.user)
    tablet = Handset(phone.user, "Tablet")
    assert [each.id for each in switchboard.calls_of(tablet.key)] == [call], "its welcome shows the call"
    assert makes_noise(tablet, call) and makes_noise(phone, call)
    assert refusal(tablet.answers(call).do()) is None


@call_lock
@pytest.mark.parametrize("login_first", [True, False], ids=["login first", "answer first"])
def test_a_login_mid_ring_and_an_answer_elsewhere_agree_in_either_order(alice, phone, login_first):
    call = ring(alice, phone.user)
    if login_first:
        tablet = Handset(phone.user, "Tablet")
        _, late = in_order(phone.answers(call), tablet.answers(call))
    else:
        _, tablet = in_order(phone.answers(call), Work(lambda: Handset(phone.user, "Tablet")))
        _, late = in_order(phone.moves(call), tablet.answers(call), hold=row(models.Call, call))
    assert refusal(late) == ("answered_elsewhere", {"device": "Phone"})
    assert me(tablet, call) == ("joined", False, "Phone")


def test_without_multi_device_the_ring_stays_where_it_is_when_a_device_logs_in(alice, phone, laptop, one_rings):
    placed, tablet = in_order(alice.invites(phone.user), Work(lambda: Handset(phone.user, "Tablet")))
    call = placed.call.id
    for _ in range(2):
        assert makes_noise(laptop, call)
        assert phone.sees(call) is None and tablet.sees(call) is None
        assert refusal(tablet.answers(call).do()) == ("not_found", {})
        laptop.drop()  # not even then
        laptop.arrive()
    alice.hangs_up(call).do()
    assert makes_noise(tablet, ring(alice, phone.user)), "the next call rings on the newest"


def test_a_login_that_is_not_committed_yet_does_not_ring_and_nobody_waits_for_it(alice, phone, laptop, one_rings):
    again = Work(lambda: phone.arrive(take=True, sign_in=", signed in again"))
    _, placed = in_order(again, alice.invites(phone.user), hold=row(Device, phone.id))
    assert makes_noise(laptop, placed.call.id) and phone.sees(placed.call.id) is None


# --- a ringing device drops and returns -------------------------------------------------------------------------------


def test_a_ringing_device_that_drops_and_returns_rings_with_the_time_left_and_the_others_never_stop(
    alice, phone, laptop
):
    call = ring(alice, phone.user)
    before = phone.sees(call)["me"]["ring_ms"]
    phone.drop()
    assert makes_noise(laptop, call)
    phone.arrive()
    assert 0 < phone.sees(call)["me"]["ring_ms"] <= before
    assert story(call).commands == ["Invite"], "nothing happened to the call"


def test_a_device_that_drops_while_another_answers_returns_to_the_truth_and_the_order_cannot_matter(
    alice, phone, laptop
):
    call = ring(alice, phone.user)
    in_order(laptop.answers(call), Work(phone.drop))
    phone.arrive()
    assert me(phone, call) == ("joined", False, "Laptop")


# --- all ringing devices drop -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("alerted", "reason"), [(True, "no_answer"), (False, "unreachable")])
def test_when_all_ringing_devices_drop_only_the_deadline_ends_it(alice, phone, laptop, set_calls, alerted, reason):
    set_calls(RING_GRACE_S=60)
    call = ring(alice, phone.user, ring_s=0)
    if alerted:
        laptop.rings(call).do()
    for device in (phone, laptop):
        device.drop()
        device.fall_silent(3600)
    ticking(call).do()
    assert story(call)[0] == "ringing", "a lost socket is never a reject"
    set_calls(RING_GRACE_S=0)
    assert models.Call.objects.filter(pk=call).update(due_at=timezone.now())  # as it had been under that grace
    ticking(call).do()
    assert story(call)[:2] == ("ended", reason)


@call_lock
def test_two_devices_that_begin_to_ring_at_once_alert_the_caller_once_and_the_order_cannot_matter(alice, phone, laptop):
    call = ring(alice, phone.user)
    assert [refusal(each) for each in in_order(phone.rings(call), laptop.rings(call))] == [None, None]
    assert story(call).commands == ["Invite", "Ringing"]


@call_lock
@pytest.mark.parametrize("order", ["ringing first", "answer first"])
def test_a_device_that_begins_to_ring_while_another_answers_is_told_where(alice, phone, laptop, order):
    call = ring(alice, phone.user)
    works = [phone.rings(call), laptop.answers(call)]
    if order == "ringing first":
        assert [refusal(each) for each in in_order(*works)] == [None, None]
    else:
        _, rings = in_order(*reversed(works))
        assert refusal(rings) == ("answered_elsewhere", {"device": "Laptop"})
    assert story(call)[:3] == ("active", None, JOINED)


# --- the caller's device drops while it rings -------------------------------------------------------------------------


def test_a_caller_who_is_back_within_twenty_seconds_has_missed_nothing(alice, phone):
    call = ring(alice, phone.user)
    alice.drop()
    alice.fall_silent(19)
    ticking(call).do()
    alice.returns()
    ticking(call).do()
    assert story(call)[:2] == ("ringing", None)
    assert leg_of(call, alice).online


@call_lock
def test_an_answer_after_a_silent_caller_was_cancelled_finds_an_ended_call(alice, phone):
    call = ring(alice, phone.user)
    alice.fall_silent(21)
    _, answered = in_order(ticking(call), phone.answers(call))
    assert refusal(answered) == ("call_ended", {"reason": "cancelled"})
    assert story(call) == Story("ended", "cancelled", {"alice": "lost", "bob": "cancelled"}, ["Invite", "Silent"])


def test_an_answer_before_the_clock_acts_on_a_silent_caller_gives_her_the_time_of_a_joined_device(alice, phone):
    call = ring(alice, phone.user)
    alice.fall_silent(21)
    answered, _ = in_order(phone.answers(call), ticking(call))
    assert refusal(answered) is None
    ticking(call).do()
    assert story(call)[:3] == ("active", None, JOINED)
    assert not leg_of(call, alice).online


@pytest.mark.parametrize("joined", [False, True], ids=["while it rings", "in a call"])
def test_a_device_that_returns_before_the_clock_acts_on_its_silence_has_missed_nothing(alice, phone, joined):
    call = talk(alice, phone) if joined else ring(alice, phone.user)
    alice.fall_silent(3600)
    [(found, silent, *_)] = switchboard.due(Watch(1, 5, False, watching().began)).silent
    alice.returns()
    switchboard.perform(found, silent)
    assert found == call and leg_of(call, alice).online and story(call)[0] != "ended"


def test_a_clock_acts_only_on_a_silence_that_it_has_watched(alice, phone):
    call = talk(alice, phone)
    alice.fall_silent(3600)
    Clock().tick()  # it has just begun: nobody could be heard while no server ran
    assert story(call)[:2] == ("active", None) and leg_of(call, alice).online


# --- a joined device drops --------------------------------------------------------------------------------------------


def test_a_joined_device_is_shown_offline_after_ten_seconds_and_back_when_it_is(alice, phone):
    call = talk(alice, phone)
    phone.drop()
    phone.fall_silent(9)
    ticking(call).do()
    assert leg_of(call, phone).online
    phone.fall_silent(11)
    ticking(call).do()
    assert not leg_of(call, phone).online
    phone.returns()
    assert leg_of(call, phone).online
    assert story(call) == Story("active", None, JOINED, ["Invite", "Answer", "Silent", "Heard"])


@call_lock
def test_a_device_that_returns_after_its_leg_was_lost_finds_an_ended_call(alice, phone):
    call = talk(alice, phone)
    phone.fall_silent(11)
    ticking(call).do()
    phone.fall_silent(46)
    in_order(ticking(call), Work(phone.returns))
    assert story(call)[:3] == ("ended", "lost", {"alice": "left", "bob": "lost"})
    assert story(call).commands == ["Invite", "Answer", "Silent", "Silent"]


def test_a_device_that_returns_before_its_leg_is_lost_keeps_it(alice, phone):
    call = talk(alice, phone)
    phone.fall_silent(11)
    ticking(call).do()
    phone.fall_silent(46)
    clock = ticking(call)
    in_order(Work(phone.returns, clock.hold), clock)
    clock.do()
    assert story(call) == Story("active", None, JOINED, ["Invite", "Answer", "Silent", "Heard"])


@call_lock
def test_a_hangup_after_the_other_was_lost_finds_the_reason(alice, phone):
    call = talk(alice, phone)
    phone.fall_silent(46)
    _, left = in_order(ticking(call), alice.hangs_up(call))
    assert refusal(left) == ("call_ended", {"reason": "lost"})
    assert story(call)[:3] == ("ended", "lost", {"alice": "left", "bob": "lost"})


def test_a_hangup_before_the_other_is_lost_completes_the_call(alice, phone):
    call = talk(alice, phone)
    phone.fall_silent(46)
    clock = ticking(call)
    left, _ = in_order(alice.hangs_up(call), clock)
    clock.do()
    assert refusal(left) is None and story(call)[:3] == ("ended", "completed", LEFT)


@call_lock
def test_a_move_after_the_old_device_was_lost_finds_an_ended_call(alice, phone, laptop):
    call = talk(alice, phone)
    phone.fall_silent(46)
    _, moved = in_order(ticking(call), laptop.moves(call))
    assert refusal(moved) == ("call_ended", {"reason": "lost"})


@call_lock
def test_a_move_before_the_old_device_is_lost_saves_the_call(alice, phone, laptop):
    call = talk(alice, phone)
    phone.fall_silent(46)
    [(_, silent, *_)] = switchboard.due(Watch(1, 5, False, watching().began)).silent
    clock = commanding(call, silent)  # it has found the leg, and waits
    moved, _ = in_order(laptop.moves(call), clock)
    assert refusal(moved) is None
    assert story(call)[:3] == ("active", None, JOINED) and me(laptop, call)[1]


# --- page reload in a call --------------------------------------------------------------------------------------------


def test_a_page_that_reloads_takes_its_leg_again_with_a_move(alice, phone):
    call = talk(alice, phone)
    page = phone.reload()
    assert me(page, call) == ("joined", True, "Phone"), "the same device: its leg is still joined"
    assert "move" in page.sees(call)["me"]["can"] and "signal" not in page.sees(call)["me"]["can"]
    assert refusal(page.moves(call).do()) is None
    assert "signal" in page.sees(call)["me"]["can"] and "move" not in page.sees(call)["me"]["can"]
    assert leg_of(call, page).epoch == 2
    assert refusal(phone.sets_media(call, mic=False, cam=False).do()) == ("not_allowed", {}), "the old page is out"


@call_lock
def test_a_move_that_is_sent_twice_binds_once_and_the_order_cannot_matter(alice, phone):
    call = talk(alice, phone)
    page = phone.reload()
    assert [refusal(each) for each in in_order(page.moves(call), page.moves(call))] == [None, None]
    assert leg_of(call, page).epoch == 2


@call_lock
def test_media_of_the_old_page_after_the_move_is_refused(alice, phone):
    call = talk(alice, phone)
    page = phone.reload()
    moved, muted = in_order(page.moves(call), phone.sets_media(call, mic=False, cam=False))
    assert (refusal(moved), refusal(muted)) == (None, ("not_allowed", {}))
    assert leg_of(call, page).mic


@call_lock
def test_media_of_the_old_page_before_the_move_is_kept(alice, phone):
    call = talk(alice, phone)
    page = phone.reload()
    muted, moved = in_order(phone.sets_media(call, mic=False, cam=False), page.moves(call))
    assert refusal(muted) is refusal(moved) is None
    assert not leg_of(call, page).mic and leg_of(call, page).epoch == 2


@call_lock
@pytest.mark.parametrize("order", ["move first", "hangup first"])
def test_a_reload_and_the_others_hangup_end_the_call_in_either_order(alice, phone, order):
    call = talk(alice, phone)
    page = phone.reload()
    works = [page.moves(call), alice.hangs_up(call)]
    outcomes = in_order(*(works if order == "move first" else reversed(works)))
    late = None if order == "move first" else ("call_ended", {"reason": "completed"})
    assert [refusal(each) for each in outcomes] == [None, late]
    assert story(call)[:3] == ("ended", "completed", LEFT)


# --- a second tab -----------------------------------------------------------------------------------------------------


def arriving(handset: Handset, **arguments: Any) -> Work:
    """A page says hello; the result is its arrival, or the refusal."""

    def arrive() -> presence.Arrival | Exception:
        try:
            return handset.arrive(**arguments)
        except (presence.InUse, presence.SignedOut) as refused:
            return refused

    return Work(arrive)


@device_lock
def test_of_two_tabs_that_open_at_once_the_second_finds_the_device_in_use(phone):
    phone.drop()
    one, other = uuid.uuid4(), uuid.uuid4()
    first, second = in_order(
        arriving(phone, page=one, socket=one), arriving(phone, page=other, socket=other), hold=row(Device, phone.id)
    )
    assert isinstance(first, presence.Arrival) and isinstance(second, presence.InUse)
    assert phone.row.page == phone.row.socket == one


@device_lock
def test_of_two_tabs_that_take_over_at_once_each_replaces_the_one_before(phone):
    one, other = uuid.uuid4(), uuid.uuid4()
    first, second = in_order(
        arriving(phone, page=one, socket=one, take=True),
        arriving(phone, page=other, socket=other, take=True),
        hold=row(Device, phone.id),
    )
    assert (first.replaced, second.replaced) == (phone.socket, one), "each older page is told, and stops its media"
    assert phone.row.page == phone.row.socket == other


@pytest.mark.parametrize("leave_first", [True, False], ids=["leave first", "arrival first"])
def test_the_late_goodbye_of_an_older_socket_leaves_the_newer_alone_in_either_order(phone, leave_first):
    newer = uuid.uuid4()
    works = [Work(phone.drop), arriving(phone, socket=newer)]
    in_order(*(works if leave_first else reversed(works)), hold=row(Device, phone.id))
    assert phone.row.socket == newer and phone.row.online_until > timezone.now()


def test_a_heartbeat_of_an_older_socket_waits_for_nobody_and_does_not_keep_the_device(phone):
    older, newer = phone.socket, uuid.uuid4()

    def beat(socket):
        return presence.beat({str(phone.id): str(socket)}, 3600)

    _, during = in_order(arriving(phone, socket=newer), Work(lambda: beat(older)), hold=row(Device, phone.id))
    assert during == set(), "while the other arrives it is passed by"
    assert phone.row.socket == newer
    assert beat(older) == {str(older)}, "then it is told that the device is not its own any more"
    assert beat(newer) == set()


@line_lock
def test_of_two_new_devices_that_arrive_at_once_each_signs_out_another(people, phone, laptop, monkeypatch):
    monkeypatch.setattr(presence, "MAX_DEVICES", 2)
    held_at_commit = Hold("SELECT 1 FROM auth_user WHERE id = %s FOR UPDATE", (people["bob"].pk,))
    first, second = in_order(arriving(phone, new=True), arriving(laptop, new=True), hold=held_at_commit)
    assert {first.crowded_out.pk, second.crowded_out.pk} == {phone.id, laptop.id}
    signed_in = Device.objects.filter(user=people["bob"], signed_out_at=None)
    assert {device.pk for device in signed_in} == {first.device.pk, second.device.pk}


# --- move x hangup on the old device ----------------------------------------------------------------------------------


@call_lock
def test_a_hangup_on_the_old_device_after_the_move_is_refused_and_the_call_goes_on(alice, phone, laptop):
    call = talk(alice, phone)
    moved, left = in_order(laptop.moves(call), phone.hangs_up(call))
    assert (refusal(moved), refusal(left)) == (None, ("answered_elsewhere", {"device": "Laptop"}))
    assert story(call) == Story("active", None, JOINED, ["Invite", "Answer", "Move"])
    assert me(laptop, call) == ("joined", True, "Laptop") and me(phone, call) == ("joined", False, "Laptop")
    assert leg_of(call, laptop).epoch == 2


@call_lock
@either_ending
def test_a_move_after_the_hangup_on_the_old_device_finds_an_ended_call(alice, phone, laptop, leaves):
    call = talk(alice, phone)
    left, moved = in_order(leaves(phone, call), laptop.moves(call))
    assert (refusal(left), refusal(moved)) == (None, ("call_ended", {"reason": "completed"}))
    assert story(call)[:3] == ("ended", "completed", LEFT)


# --- move x move ------------------------------------------------------------------------------------------------------


@call_lock
@both_orders
def test_of_two_moves_the_later_has_the_call_and_the_other_the_view(alice, people, ordered):
    car = Handset(people["bob"], "Car")
    call = talk(alice, car)
    earlier, later = ordered
    moved, moved_on = in_order(earlier.moves(call), later.moves(call))
    assert refusal(moved) is refusal(moved_on) is None
    assert me(later, call) == ("joined", True, later.name)
    assert me(earlier, call) == me(car, call) == ("joined", False, later.name)
    assert leg_of(call, later).epoch == 3
    assert story(call).commands == ["Invite", "Answer", "Move", "Move"]


# --- end by the operator x answer -------------------------------------------------------------------------------------


OPERATOR = machine.EndByOperator("operator")


@call_lock
def test_the_operators_end_after_the_answer_ends_an_active_call(alice, phone, laptop):
    call = ring(alice, phone.user)
    answered, ended = in_order(phone.answers(call), commanding(call, OPERATOR))
    assert refusal(answered) is refusal(ended) is None
    assert story(call) == Story("ended", "operator", LEFT, ["Invite", "Answer", "EndByOperator"])
    assert {device.sees(call)["reason"] for device in (alice, phone, laptop)} == {"operator"}


@call_lock
def test_an_answer_after_the_operators_end_is_told_the_reason(alice, phone, laptop):
    call = ring(alice, phone.user)
    ended, answered = in_order(commanding(call, OPERATOR), phone.answers(call))
    assert (refusal(ended), refusal(answered)) == (None, ("call_ended", {"reason": "operator"}))
    assert story(call)[:3] == ("ended", "operator", {"alice": "left", "bob": "cancelled"})
    assert {device.sees(call)["reason"] for device in (alice, phone, laptop)} == {"operator"}


@call_lock
@pytest.mark.parametrize("order", ["operator first", "hangup first"])
def test_the_operators_end_and_a_hangup_leave_the_reason_of_the_first(alice, phone, order):
    call = talk(alice, phone)
    works = [commanding(call, OPERATOR), alice.hangs_up(call)]
    reason = "operator" if order == "operator first" else "completed"
    outcomes = in_order(*(works if order == "operator first" else reversed(works)))
    assert [refusal(each) for each in outcomes] == [None, ("call_ended", {"reason": reason})]
    assert story(call)[:3] == ("ended", reason, LEFT)


# --- sign-out of the ringing or joined device -------------------------------------------------------------------------


def test_an_answer_after_the_sign_out_of_its_device_is_not_found_and_the_ring_has_moved(
    alice, phone, laptop, one_rings
):
    call = ring(alice, phone.user)
    assert makes_noise(laptop, call)
    _, answered = in_order(signing_out(laptop, call), laptop.answers(call))
    assert refusal(answered) == ("not_found", {})
    assert story(call) == Story("ringing", None, {"alice": "joined", "bob": "ringing"}, ["Invite", "SignedOut"])
    assert makes_noise(phone, call) and laptop.sees(call) is None


@call_lock
def test_a_sign_out_of_the_device_that_has_just_answered_leaves_the_call(alice, phone, laptop, one_rings):
    call = ring(alice, phone.user)
    answered, _ = in_order(laptop.answers(call), signing_out(laptop))
    assert refusal(answered) is None
    assert story(call) == Story("ended", "completed", LEFT, ["Invite", "Answer", "SignedOut"])


def test_a_sign_out_of_the_only_device_ends_the_ring_as_unreachable_before_an_answer(alice, phone):
    call = ring(alice, phone.user)
    _, answered = in_order(signing_out(phone, call), phone.answers(call))
    assert refusal(answered) == ("not_found", {})
    assert story(call)[:3] == ("ended", "unreachable", {"alice": "left", "bob": "unreachable"})


@call_lock
def test_a_sign_out_of_the_only_device_after_its_answer_leaves_the_call(alice, phone):
    call = ring(alice, phone.user)
    in_order(phone.answers(call), signing_out(phone))
    assert story(call)[:3] == ("ended", "completed", LEFT)


@pytest.mark.parametrize(
    "sign_out_first", [pytest.param(True, id="sign-out first", marks=call_lock), pytest.param(False, id="answer first")]
)
def test_a_sign_out_of_one_ringing_device_leaves_the_answer_of_another_alone_in_either_order(
    alice, phone, laptop, sign_out_first
):
    call = ring(alice, phone.user)
    works = [signing_out(phone), laptop.answers(call)]
    in_order(*(works if sign_out_first else reversed(works)), hold=row(models.Call, call))
    assert story(call) == Story("active", None, JOINED, ["Invite", "Answer"])


@call_lock
def test_a_move_after_the_sign_out_of_the_joined_device_finds_an_ended_call(alice, phone, laptop):
    call = talk(alice, phone)
    _, moved = in_order(signing_out(phone, call), laptop.moves(call))
    assert refusal(moved) == ("call_ended", {"reason": "completed"})
    assert story(call)[:3] == ("ended", "completed", LEFT)


@call_lock
def test_a_move_before_the_sign_out_of_the_joined_device_saves_the_call(alice, phone, laptop):
    call = talk(alice, phone)
    moved, _ = in_order(laptop.moves(call), signing_out(phone))
    assert refusal(moved) is None
    assert story(call) == Story("active", None, JOINED, ["Invite", "Answer", "Move"])


@call_lock
def test_a_move_to_a_device_that_is_signed_out_meanwhile_ends_in_either_order(alice, phone, laptop):
    call = talk(alice, phone)
    moved, _ = in_order(laptop.moves(call), signing_out(laptop))
    assert refusal(moved) is None
    assert story(call) == Story("ended", "completed", LEFT, ["Invite", "Answer", "Move", "SignedOut"])
    call = talk(alice, phone)
    assert refusal(laptop.moves(call).do()) == ("not_found", {}), "and after the sign-out there is no such device"
    assert me(phone, call)[1]


@line_lock
def test_a_device_signed_out_after_the_invite_hands_its_ring_on(alice, phone, laptop, one_rings):
    placed, _ = in_order(alice.invites(phone.user), signing_out(laptop))
    assert story(placed.call.id).commands == ["Invite", "SignedOut"]
    assert makes_noise(phone, placed.call.id)


@line_lock
def test_a_device_signed_out_before_the_invite_never_rings(alice, phone, laptop, one_rings):
    _, placed = in_order(signing_out(laptop), alice.invites(phone.user), hold=row(Device, laptop.id))
    assert story(placed.call.id).commands == ["Invite"]
    assert makes_noise(phone, placed.call.id)


@line_lock
def test_a_caller_signed_out_after_the_invite_cancels_it(alice, phone):
    placed, _ = in_order(alice.invites(phone.user), signing_out(alice))
    assert story(placed.call.id)[:3] == ("ended", "cancelled", {"alice": "left", "bob": "cancelled"})


@line_lock
def test_a_caller_signed_out_before_the_invite_cannot_place_it(alice, phone):
    _, placed = in_order(signing_out(alice), alice.invites(phone.user), hold=row(Device, alice.id))
    assert refusal(placed) == ("not_found", {})
    assert not models.Call.objects.exists()


@call_lock
@both_orders
def test_two_devices_signed_out_at_once_leave_the_ring_on_the_third_in_either_order(
    alice, people, order, phone, laptop, one_rings
):
    car = Handset(people["bob"], "Car")
    call = ring(alice, people["bob"])
    assert makes_noise(car, call)
    names = {"phone": car, "laptop": laptop}
    in_order(*(signing_out(names[name]) for name in order), hold=row(models.Call, call))
    assert makes_noise(phone, call), "its login is the oldest, but it is the only one left"


def test_a_sign_out_that_was_overtaken_does_not_hand_the_ring_to_a_device_that_is_gone(
    alice, people, phone, laptop, one_rings
):
    car = Handset(people["bob"], "Car")
    call = ring(alice, people["bob"])
    Device.objects.filter(pk=car.id).update(signed_out_at=timezone.now())
    slow = machine.SignedOut(car.key, car.id, next=laptop.id)  # the next one, as it was a moment ago
    switchboard.sign_out(laptop.row)
    switchboard.perform(call, slow)
    assert makes_noise(phone, call)


def test_a_sign_out_sent_twice_is_one_and_the_order_cannot_matter(alice, phone, laptop, one_rings):
    call = ring(alice, phone.user)
    in_order(signing_out(laptop, call), signing_out(laptop))
    assert story(call).commands == ["Invite", "SignedOut"]
    assert makes_noise(phone, call)


@pytest.mark.parametrize(
    "sign_out_first",
    [pytest.param(True, id="sign-out first", marks=device_lock), pytest.param(False, id="arrival first")],
)
def test_a_reconnect_and_the_sign_out_of_its_device_end_signed_out_in_either_order(phone, sign_out_first):
    works = [signing_out(phone), arriving(phone, socket=uuid.uuid4())]
    results = in_order(*(works if sign_out_first else reversed(works)), hold=row(Device, phone.id))
    assert phone.row.signed_out_at is not None and phone.row.socket is None
    if sign_out_first:
        assert isinstance(results[1], presence.SignedOut)


# --- the account is deactivated ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer_first", [pytest.param(True, id="answer first", marks=call_lock), pytest.param(False, id="sweep first")]
)
def test_a_deactivated_account_leaves_its_call_in_either_order(alice, phone, answer_first):
    call = ring(alice, phone.user)
    phone.user.is_active = False
    phone.user.save()
    sweep = Work(switchboard.sign_out_deactivated, lambda: next_entry(call))
    if answer_first:
        in_order(phone.answers(call), sweep)
        assert story(call)[:3] == ("ended", "completed", LEFT)
    else:
        _, answered = in_order(sweep, phone.answers(call))
        assert refusal(answered) == ("not_found", {})
        assert story(call)[:3] == ("ended", "unreachable", {"alice": "left", "bob": "unreachable"})


# --- a signal from a device that lost the leg -------------------------------------------------------------------------


async def test_a_signal_from_a_device_that_lost_the_leg_is_dropped_even_when_its_view_is_old(page):
    alice, phone, laptop = await page("alice"), await page("bob", "Phone"), await page("bob", "Laptop")
    call = (await alice.invite("bob"))["call"]["id"]
    await phone.ask("answer", call=call)
    before = await sync_to_async(value_of)(uuid.UUID(call))
    bob = before.legs[1]
    old_seat = machine.Seat(bob.key, bob.device, bob.device_name, bob.page)
    await laptop.ask("move", call=call)
    await alice.sees(call, v=before.v + 1)
    refused = await phone.ask("signal", call=call, to="alice", body={"from": "phone"})
    assert refused["error"]["code"] == "not_allowed"
    # The process of the old device may not know of the move yet: what it lets through is dropped on arrival.
    switchboard.signal(before, old_seat, "alice", msgspec.Raw(b'{"from": "an old epoch"}'))
    await laptop.say("signal", call=call, to="alice", body={"from": "laptop"})
    heard = await alice.until(lambda frame: frame["t"] == "signal")
    assert heard["body"] == {"from": "laptop"} and heard["from"] == {"user": "bob", "epoch": 2}


# --- two legs mute at once --------------------------------------------------------------------------------------------


@call_lock
@pytest.mark.parametrize("mics", [(True, False), (False, True)], ids=["unmute then mute", "mute then unmute"])
def test_of_two_mutes_of_the_bound_device_the_last_one_given_wins(alice, phone, mics):
    call = talk(alice, phone)
    first, last = mics
    phone.sets_media(call, mic=last, cam=True).do()
    in_order(phone.sets_media(call, mic=first, cam=False), phone.sets_media(call, mic=last, cam=False))
    assert leg_of(call, phone).mic is last


@call_lock
@pytest.mark.parametrize("order", [("alice", "bob"), ("bob", "alice")], ids=" then ".join)
def test_when_both_mute_at_once_both_are_muted(alice, phone, order):
    call = talk(alice, phone)
    people = {"alice": alice, "bob": phone}
    outcomes = in_order(*(people[name].sets_media(call, mic=False, cam=False) for name in order))
    assert [refusal(each) for each in outcomes] == [None, None]
    assert [leg.mic for leg in value_of(call).legs] == [False, False]


@call_lock
def test_a_mute_on_the_old_device_after_the_move_is_refused_and_before_it_is_kept(alice, phone, laptop):
    call = talk(alice, phone)
    _, muted = in_order(laptop.moves(call), phone.sets_media(call, mic=False, cam=False))
    assert refusal(muted) == ("answered_elsewhere", {"device": "Laptop"}) and leg_of(call, laptop).mic
    muted, _ = in_order(laptop.sets_media(call, mic=False, cam=False), phone.moves(call))
    assert refusal(muted) is None and not leg_of(call, phone).mic


# --- a device has one call at a time ----------------------------------------------------------------------------------


@pytest.fixture
def two_calls(alice: Handset, carol: Handset, phone: Handset, laptop: Handset) -> dict[str, uuid.UUID]:
    """bob may have two calls, and alice and carol both ring him."""
    switchboard.change_line(phone.user.pk, max_incoming=2, max_outgoing=2)
    return {"alice": ring(alice, phone.user), "carol": ring(carol, phone.user)}


either_call = pytest.mark.parametrize("order", [("alice", "carol"), ("carol", "alice")], ids=" then ".join)


@either_call
def test_a_device_that_answers_two_calls_at_once_is_in_the_first(phone, two_calls, order):
    first, second = (two_calls[name] for name in order)
    joined, refused = in_order(phone.answers(first), phone.answers(second))
    assert (refusal(joined), refusal(refused)) == (None, ("in_call", {"call": str(first)}))
    assert story(second)[:2] == ("ringing", None), "and the second rings on"


@either_call
def test_two_devices_that_answer_one_call_each_are_both_in_one_and_the_order_cannot_matter(
    phone, laptop, two_calls, order
):
    outcomes = in_order(phone.answers(two_calls[order[0]]), laptop.answers(two_calls[order[1]]))
    assert [refusal(each) for each in outcomes] == [None, None]


def test_an_invite_from_a_device_that_is_just_answering_is_refused(people, phone, two_calls):
    Handset(people["dave"], "Dave's laptop")
    answered, placed = in_order(phone.answers(two_calls["alice"]), phone.invites(people["dave"]))
    assert (refusal(answered), refusal(placed)) == (None, ("in_call", {"call": str(two_calls["alice"])}))


def test_an_answer_from_a_device_that_is_just_inviting_is_refused(people, phone, two_calls):
    Handset(people["dave"], "Dave's laptop")
    placed, answered = in_order(phone.invites(people["dave"]), phone.answers(two_calls["alice"]))
    assert (refusal(placed), refusal(answered)) == (None, ("in_call", {"call": str(placed.call.id)}))


@pytest.mark.parametrize("move_first", [True, False], ids=["move first", "answer first"])
def test_a_device_that_moves_one_call_here_and_answers_another_is_in_the_first(phone, laptop, two_calls, move_first):
    laptop.answers(two_calls["alice"]).do()
    works = [phone.moves(two_calls["alice"]), phone.answers(two_calls["carol"])]
    done, refused = in_order(*(works if move_first else reversed(works)))
    other = two_calls["alice" if move_first else "carol"]
    assert (refusal(done), refusal(refused)) == (None, ("in_call", {"call": str(other)}))


def test_a_device_that_invites_twice_is_in_the_first_call(people, alice, carol, phone):
    switchboard.change_line(phone.user.pk, max_outgoing=2)
    placed, refused = in_order(phone.invites(alice.user), phone.invites(carol.user))
    assert (refusal(placed), refusal(refused)) == (None, ("in_call", {"call": str(placed.call.id)}))


# --- answer, and hang up another call in the same decision ------------------------------------------------------------


@call_lock
def test_an_answer_that_leaves_another_call_does_neither_when_its_caller_has_hung_up(alice, carol, phone, two_calls):
    phone.answers(two_calls["alice"]).do()
    _, answered = in_order(
        carol.hangs_up(two_calls["carol"]), phone.answers(two_calls["carol"], phone.leaving(two_calls["alice"]))
    )
    assert refusal(answered) == ("call_ended", {"reason": "cancelled"})
    assert story(two_calls["alice"])[:3] == ("active", None, JOINED), "bob still talks to alice"


@call_lock
@pytest.mark.parametrize("hangup_first", [True, False], ids=["hangup first", "answer first"])
def test_an_answer_that_leaves_a_call_which_the_other_leaves_too_answers_only_before_that(
    alice, carol, phone, two_calls, hangup_first
):
    phone.answers(two_calls["alice"]).do()
    works = [alice.hangs_up(two_calls["alice"]), phone.answers(two_calls["carol"], phone.leaving(two_calls["alice"]))]
    outcomes = in_order(*(works if hangup_first else reversed(works)), hold=next_entry(two_calls["alice"]))
    assert story(two_calls["alice"])[:2] == ("ended", "completed")
    if hangup_first:
        about = {"reason": "completed", "and": str(two_calls["alice"])}
        assert refusal(outcomes[1]) == ("call_ended", about), "with what the other call alone would be refused"
        assert story(two_calls["carol"])[:2] == ("ringing", None)
        assert refusal(phone.answers(two_calls["carol"]).do()) is None
    assert story(two_calls["carol"])[:2] == ("active", None)
    assert value_of(two_calls["alice"]).ended_by == (alice if hangup_first else phone).key


@pytest.mark.by_chance
def test_two_answers_that_each_leave_the_others_call_do_not_wait_for_each_other(alice, carol, phone, laptop, two_calls):
    for one, name in ((phone, "alice"), (laptop, "carol")):
        one.answers(two_calls[name]).do()
    works = [
        phone.answers(two_calls["carol"], phone.leaving(two_calls["alice"])),
        laptop.answers(two_calls["alice"], laptop.leaving(two_calls["carol"])),
    ]
    codes = [each.refused and each.refused.code for each in at_once(*works)]
    assert codes == ["answered_elsewhere", "answered_elsewhere"], "both calls are held by the other device"
    assert {story(call)[0] for call in two_calls.values()} == {"active"}


# --- the server is killed between commit and tell ---------------------------------------------------------------------


async def test_what_was_committed_and_never_told_reaches_every_device_with_its_ping_or_its_reconnect(page):
    alice, phone, laptop = await page("alice"), await page("bob", "Phone"), await page("bob", "Laptop")
    call = (await alice.invite("bob"))["call"]["id"]
    for device in (phone, laptop):
        await device.sees(call, state="ringing")

    def answer_and_die() -> None:
        with transaction.atomic():
            before, now = models.lock([uuid.UUID(call)])[uuid.UUID(call)], timezone.now()
            bob = uuid.UUID(phone.device), "Phone", uuid.UUID(phone.page)
            command = machine.Answer(machine.Seat(before.legs[1].key, *bob))
            change = models.Change(before, machine.decide(before, command, now), command)
            prepared.run(models.store(prepared.waiting, [change], [], now))

    await sync_to_async(answer_and_die)()
    await alice.ping()
    await laptop.ping()
    assert alice.calls[call]["state"] == "active"
    assert laptop.calls[call]["me"]["device"] == "Phone"
    await phone.close()
    again = await page("bob", "Phone", hello=False, signed_in=phone.signed_in)
    again.device, again.page = phone.device, phone.page
    welcome = await again.hello()
    assert [(view["id"], view["me"]["here"]) for view in welcome["calls"]] == [(call, True)]


# --- the database restarts mid-command --------------------------------------------------------------------------------


def kill_whoever_waits_for(session: int) -> set[int]:
    """Ends the sessions that wait for this one, as a restart of PostgreSQL would, and says which."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pid, pg_terminate_backend(pid) FROM pg_stat_activity WHERE %s = ANY(pg_blocking_pids(pid))",
            [session],
        )
        return {pid for pid, _ in cursor.fetchall()}


@pytest.mark.parametrize("command", ["invite", "answer"])
def test_a_command_that_the_database_did_not_finish_did_nothing_and_a_resend_completes_it(alice, phone, command):
    call = uuid.uuid4() if command == "invite" else ring(alice, phone.user)
    work = alice.invites(phone.user, call=call) if command == "invite" else phone.answers(call)
    before = models.load(call)
    with held(work.hold()) as gate:
        contestant = Contestant(work.do)
        assert contestant.waits_for({gate})
        assert len(kill_whoever_waits_for(gate)) == 1
        with pytest.raises(OperationalError):
            contestant.result.result(10)
    assert models.load(call) == before
    assert refusal(work.do()) is None
    assert story(call).commands == ["Invite", "Answer"][: 1 if command == "invite" else 2]


async def test_a_device_is_told_unavailable_when_the_database_restarts_and_its_resend_completes(page):
    alice, phone = await page("alice"), await page("bob", "Phone")
    call = (await alice.invite("bob"))["call"]["id"]
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()

    def restart() -> None:
        with held(entry_of(uuid.UUID(call), 2)) as gate:
            loop.call_soon_threadsafe(asked.set)
            killed: set[int] = set()
            while len(killed) < 2:  # the server tries it twice: with whatever waits beside it, then alone
                killed |= kill_whoever_waits_for(gate)
        connection.close()

    restarting = asyncio.create_task(asyncio.to_thread(restart))
    await asked.wait()
    failed = await phone.ask("answer", call=call)
    await restarting
    assert failed["error"]["code"] == "unavailable" and failed["error"]["retry_ms"] > 0
    assert (await phone.ask("answer", call=call))["call"]["state"] == "active"
    assert (await alice.sees(call, state="active"))["v"] == 2
