"""The rules: what is allowed, what is refused and how, and the whole walk."""

import datetime as dt

import pytest
from msgspec.structs import replace

from calls import machine
from calls.machine import Refused, decide, leg_of
from calls.view import view
from tests import walk
from tests.walk import ALICE, BOB, DESK, LAPTOP, PHONE, RELOADED, RUN_OUT, SECOND, STRANGER, T0


@pytest.fixture
def ringing():
    return decide(None, walk.invite(), T0)


@pytest.fixture
def active(ringing):
    return decide(ringing, machine.Answer(PHONE), T0)


def refusal(call, command, now=T0):
    with pytest.raises(Refused) as caught:
        decide(call, command, now)
    return caught.value.code, caught.value.about


def test_the_first_answer_binds_and_the_second_learns_where(ringing):
    active = decide(ringing, machine.Answer(PHONE, {"note": 1}), T0)
    leg = leg_of(active, BOB)
    assert (active.state, leg.state, leg.device, leg.epoch, leg.data) == (
        "active",
        "joined",
        PHONE.device,
        1,
        {"note": 1},
    )
    assert refusal(active, machine.Answer(DESK)) == ("answered_elsewhere", {"device": "Phone"})
    assert decide(active, machine.Answer(PHONE), T0) is active


def test_a_reject_ends_a_call_of_two_and_stays_the_reason(ringing):
    ended = decide(ringing, machine.Reject(DESK), T0)
    assert (ended.state, ended.reason, leg_of(ended, BOB).state) == ("ended", "rejected", "rejected")
    assert refusal(ended, machine.Hangup(LAPTOP)) == ("call_ended", {"reason": "rejected"})
    assert decide(ended, machine.Reject(PHONE), T0) is ended


def test_the_callers_hangup_before_any_answer_cancels(ringing):
    ended = decide(ringing, machine.Hangup(LAPTOP), T0)
    assert (ended.reason, leg_of(ended, BOB).state, leg_of(ended, ALICE).state) == ("cancelled", "cancelled", "left")
    assert refusal(ended, machine.Answer(PHONE)) == ("call_ended", {"reason": "cancelled"})
    assert decide(ended, machine.Hangup(LAPTOP), T0) is ended


def test_only_the_bound_device_hangs_up(active):
    assert refusal(active, machine.Hangup(DESK)) == ("answered_elsewhere", {"device": "Phone"})
    assert refusal(decide(None, walk.invite(), T0), machine.Hangup(PHONE))[0] == "not_allowed"
    assert decide(active, machine.Hangup(PHONE), T0).reason == "completed"


def test_the_end_command_of_a_ringing_callee_is_a_reject(ringing, active):
    assert decide(ringing, machine.End(DESK), T0).reason == "rejected"
    assert decide(ringing, machine.End(LAPTOP), T0).reason == "cancelled"
    assert decide(active, machine.End(PHONE), T0).reason == "completed"


def test_a_callee_at_the_limit_is_busy_and_the_call_is_born_ended():
    busy = decide(None, walk.invite(active=1, limit=1), T0)
    assert (busy.state, busy.reason, busy.v) == ("ended", "busy", 1)
    assert (leg_of(busy, BOB).state, leg_of(busy, BOB).reason) == ("busy", "incoming_limit")
    assert decide(None, walk.invite(active=1, limit=2), T0).state == "ringing"
    assert decide(None, walk.invite(limit=0), T0).reason == "busy"


def test_a_callee_who_is_not_to_be_disturbed_is_busy_without_a_reason():
    def placed(**callee):
        asked = walk.invite()
        return decide(None, replace(asked, callees=(replace(asked.callees[0], dnd=True, **callee),)), T0)

    quiet = placed()
    assert (quiet.state, quiet.reason) == ("ended", "busy")
    assert (leg_of(quiet, BOB).state, leg_of(quiet, BOB).reason) == ("busy", None)
    assert leg_of(placed(active=1), BOB).reason == "incoming_limit"  # on the phone as well: the fuller truth
    assert leg_of(placed(reachable=False), BOB).state == "unreachable"


def test_a_callee_without_devices_is_unreachable_at_once():
    assert decide(None, walk.invite(reachable=False), T0).reason == "unreachable"


def test_the_outgoing_limit_refuses_the_invite():
    full = machine.replace(walk.invite(), active=2, limit=2)
    assert refusal(None, full) == ("limit_reached", {"direction": "outgoing", "limit": 2, "active": 2})


def test_nobody_calls_themselves():
    me = machine.replace(walk.invite().callees[0], key=ALICE)
    assert refusal(None, machine.replace(walk.invite(), callees=(me,)))[0] == "not_allowed"


def test_a_device_in_another_call_neither_calls_nor_answers(ringing):
    busy = machine.replace(PHONE, in_call=walk.invite().call)
    assert refusal(ringing, machine.Answer(busy))[0] == "in_call"
    assert (
        refusal(None, machine.replace(walk.invite(), by=machine.replace(LAPTOP, in_call=busy.in_call)))[0] == "in_call"
    )


def test_an_answer_in_the_grace_wins_and_later_it_is_too_late(ringing):
    in_grace = RUN_OUT - SECOND
    assert decide(ringing, machine.Due(), in_grace) is ringing
    assert decide(ringing, machine.Answer(PHONE), in_grace).state == "active"
    assert view(ringing, BOB, PHONE.device, in_grace).me.ring_ms == 0
    missed = decide(ringing, machine.Due(), RUN_OUT)
    assert (missed.reason, leg_of(missed, BOB).state) == ("unreachable", "unreachable")


def test_a_ring_that_somebody_heard_is_no_answer_and_missed(ringing):
    alerted = decide(ringing, machine.Ringing(DESK), T0)
    assert decide(alerted, machine.Ringing(PHONE), T0) is alerted
    missed = decide(alerted, machine.Due(), RUN_OUT)
    assert (missed.reason, leg_of(missed, BOB).state) == ("no_answer", "missed")


@pytest.mark.parametrize(("quiet", "state", "reason", "online"), [
    (9, "active", None, True), (10, "active", None, False), (44, "active", None, False), (45, "ended", "lost", False),
])  # fmt: skip
def test_silence_in_a_call_is_shown_and_then_ends_it(active, quiet, state, reason, online):
    after = decide(active, machine.Silent(BOB, PHONE.device, T0 - quiet * SECOND), T0)
    assert (after.state, after.reason, leg_of(after, BOB).online) == (state, reason, online)


def test_a_silent_device_that_is_back_is_shown_online(active):
    silent = decide(active, machine.Silent(BOB, PHONE.device, T0 - 12 * SECOND), T0)
    assert leg_of(decide(silent, machine.Heard(BOB, PHONE.device), T0), BOB).online
    assert decide(silent, machine.Heard(BOB, DESK.device), T0) is silent


def test_a_silent_caller_cancels_the_ring_after_twenty_seconds(ringing):
    assert decide(ringing, machine.Silent(ALICE, LAPTOP.device, T0 - 19 * SECOND), T0).state == "ringing"
    gone = decide(ringing, machine.Silent(ALICE, LAPTOP.device, T0 - 20 * SECOND), T0)
    assert (gone.reason, leg_of(gone, BOB).state) == ("cancelled", "cancelled")


def test_a_call_does_not_last_for_ever(active):
    assert decide(active, machine.Due(), T0 + dt.timedelta(hours=8)).reason == "expired"
    assert machine.due_at(active) == T0 + dt.timedelta(hours=8)


def test_a_reloaded_page_takes_its_leg_again_in_a_new_epoch(active):
    moved = decide(active, machine.Move(RELOADED), T0)
    assert (leg_of(moved, ALICE).epoch, leg_of(moved, ALICE).page) == (2, RELOADED.page)
    assert decide(moved, machine.Move(RELOADED), T0) is moved
    assert refusal(moved, machine.Media(LAPTOP, False, False))[0] == "not_allowed"
    assert not machine.may_signal(moved, LAPTOP)
    assert machine.may_signal(moved, RELOADED)


def test_move_takes_the_call_to_another_device_and_the_old_one_cannot_hang_up(active):
    moved = decide(active, machine.Move(DESK), T0)
    assert (leg_of(moved, BOB).device, leg_of(moved, BOB).epoch) == (DESK.device, 2)
    assert refusal(moved, machine.Hangup(PHONE)) == ("answered_elsewhere", {"device": "Desk"})
    assert refusal(decide(active, machine.Hangup(PHONE), T0), machine.Move(DESK)) == (
        "call_ended",
        {"reason": "completed"},
    )


def muted(call, times, now=T0):
    """The microphone is switched so often, at this moment."""
    for _ in range(times):
        call = decide(call, machine.Media(PHONE, not leg_of(call, BOB).mic, True), now)
    return call


def test_a_leg_is_changed_sixty_times_at_once_and_then_once_a_second(active):
    spent = muted(active, 60)
    assert refusal(spent, machine.Media(PHONE, False, True)) == ("rate_limited", {"retry_ms": 1000})
    assert refusal(spent, machine.Move(DESK)) == ("rate_limited", {"retry_ms": 1000})
    assert refusal(spent, machine.Move(DESK), T0 + dt.timedelta(milliseconds=700))[1] == {"retry_ms": 300}
    moved = decide(spent, machine.Move(DESK), T0 + SECOND)
    assert refusal(moved, machine.Move(PHONE), T0 + SECOND)[0] == "rate_limited"
    for after in range(2, 100):  # one a second, for as long as anybody wants
        moved = decide(moved, machine.Move(PHONE if after % 2 == 0 else DESK), T0 + after * SECOND)
    assert refusal(muted(spent, 30, T0 + 30 * SECOND), machine.Move(DESK), T0 + 30 * SECOND)[0] == "rate_limited"
    assert muted(spent, 60, T0 + 3600 * SECOND).v == spent.v + 60, "an allowance does not grow beyond what it was"
    assert refusal(muted(spent, 60, T0 + 3600 * SECOND), machine.Move(DESK), T0 + 3600 * SECOND)[0] == "rate_limited"


def test_a_spent_allowance_refuses_no_repeat_nobody_else_and_no_end(active):
    spent = muted(active, 60)
    assert decide(spent, machine.Media(PHONE, leg_of(spent, BOB).mic, True), T0) is spent
    assert decide(spent, machine.Move(PHONE), T0) is spent
    assert decide(spent, machine.Media(LAPTOP, False, False), T0).v == spent.v + 1
    assert decide(spent, machine.Move(RELOADED), T0).v == spent.v + 1
    assert decide(spent, machine.Silent(BOB, PHONE.device, T0 - 12 * SECOND), T0).v == spent.v + 1
    for command in (machine.Hangup(PHONE), machine.End(PHONE), machine.EndByOperator("operator")):
        assert decide(spent, command, T0).state == "ended"


def test_with_multi_device_off_the_other_devices_are_told_nothing():
    one = decide(None, walk.invite(multi=False), T0)
    assert view(one, BOB, PHONE.device, T0).me.state == "ringing"
    assert view(one, BOB, DESK.device, T0) is None
    assert refusal(one, machine.Answer(DESK))[0] == "not_found"
    assert view(decide(one, machine.Answer(PHONE), T0), BOB, DESK.device, T0) is None


def test_a_ring_moves_when_its_only_device_is_signed_out():
    one = decide(None, walk.invite(multi=False), T0)
    moved = decide(one, machine.SignedOut(BOB, PHONE.device, DESK.device), T0)
    assert view(moved, BOB, DESK.device, T0).me.state == "ringing"
    assert decide(one, machine.SignedOut(BOB, PHONE.device, None), T0).reason == "unreachable"
    assert decide(one, machine.SignedOut(BOB, DESK.device, PHONE.device), T0) is one


def test_a_signed_out_device_leaves_its_call(active):
    assert decide(active, machine.SignedOut(BOB, PHONE.device, DESK.device), T0).reason == "completed"


def test_the_operator_ends_it_for_everybody(ringing, active):
    for call in (ringing, active):
        ended = decide(call, machine.EndByOperator("operator"), T0)
        assert (ended.state, ended.reason, ended.v) == ("ended", "operator", call.v + 1)
    assert refusal(ended, machine.EndByOperator("operator")) == ("call_ended", {"reason": "operator"})


def test_a_view_tells_nobody_about_another_users_devices(active):
    shown = str(view(active, ALICE, LAPTOP.device, T0, LAPTOP.page))
    assert "Phone" not in shown
    assert str(PHONE.device) not in shown
    assert view(active, "3", STRANGER.device, T0) is None


def test_the_same_invite_again_is_a_repeat_whatever_the_limits_are_now():
    first = walk.invite(active=7)
    again = first.by, {"bob"}, first.kind, first.ring_s, first.data
    assert machine.same_invite(machine.replace(first, active=9), *again)
    assert not machine.same_invite(first, first.by, {"bob"}, "video", first.ring_s, first.data)
    assert not machine.same_invite(first, first.by, {"bob", "carol"}, first.kind, first.ring_s, first.data)


@pytest.fixture(scope="module", params=[True, False], ids=["multi-device on", "multi-device off"])
def steps(request):
    return walk.walk(decide(None, walk.invite(multi=request.param), T0))


def test_every_reachable_step_keeps_the_invariants(steps):
    assert len({repr(walk.shape(step.before)) for step in steps}) > 40, "the walk has become too small to mean anything"
    for before, _, now, after, _ in steps:
        if after is None or after is before:
            continue
        assert before.state != "ended", "ended is final"
        assert after.v == before.v + 1
        for old, new in zip(before.legs, after.legs, strict=True):
            assert new.epoch - old.epoch in (0, 1), "an epoch never falls"
            assert (new.device, new.page) == (old.device, old.page) or new.epoch > old.epoch
            assert old.state in machine.LIVE or new.state == old.state, "a closed leg stays closed"
        live = [leg for leg in after.legs if leg.state in machine.LIVE]
        if after.state == "ended":
            assert not live
            assert after.reason is not None
            assert after.ended_at == now
            assert machine.due_at(after) is None
        else:
            assert len(live) == 2
            assert after.reason is None
            assert machine.due_at(after) is not None
            assert (after.state == "active") == all(leg.state == "joined" for leg in live)
        answered = after.answered_at is not None
        assert not (answered and any(leg.state in ("missed", "unreachable", "rejected") for leg in after.legs))


def test_a_repeat_changes_nothing(steps):
    for step in steps:
        if step.after is not None and step.after is not step.before:
            try:
                again = decide(step.after, step.command, step.now)
            except Refused as refused:
                assert refused.code == "call_ended"
                assert not hasattr(step.command, "by"), "a command that did its work is no error when it is resent"
            else:
                assert again is step.after


def test_what_the_view_offers_is_exactly_what_is_allowed(steps):
    for before, command, _, _, refused in steps:
        by = getattr(command, "by", None)
        word = type(command).__name__.lower()
        shown = by and view(before, by.key, by.device, T0, by.page)
        if not shown:
            continue
        if word in shown.me.can:
            assert refused is None, (word, shown)
        elif refused is None:
            assert decide(before, command, T0) is before, "what is not offered may at most be a repeat"


def test_the_documented_state_table_is_the_walk():
    assert walk.documented() == walk.DOCUMENT.read_text(), "docs/protocol.md is stale: run `make docs`"
