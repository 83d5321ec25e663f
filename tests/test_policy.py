"""Which of a user's devices ring."""

import datetime as dt
import uuid

from devices.policy import Choice, Known, choose, disturbs

NOON = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)


def device(number: int, online: bool = True) -> Known:
    """The number is also the hour of the login."""
    return Known(uuid.UUID(int=number), NOON + dt.timedelta(hours=number), online)


def test_with_multi_device_on_all_ring():
    assert choose(True, [device(1), device(2)]) == Choice(None, True, True)


def test_with_multi_device_off_the_most_recent_login_rings():
    assert choose(False, [device(2), device(3), device(1)]).only == device(3).id


def test_an_older_login_that_is_online_goes_before_a_newer_one_that_is_not():
    assert choose(False, [device(3, online=False), device(2), device(1)]).only == device(2).id


def test_when_nobody_is_online_the_most_recent_login_is_rung_all_the_same():
    assert choose(False, [device(1, online=False), device(2, online=False)]) == Choice(device(2).id, True, False)
    assert choose(True, [device(1, online=False)]) == Choice(None, True, False)


def test_nobody_signed_in_is_out_of_reach():
    assert choose(True, []) == choose(False, []) == Choice(None, False, False)


def test_do_not_disturb_is_for_everybody_but_favourites():
    assert not disturbs(False, [], "1")
    assert disturbs(True, [], "1")
    assert disturbs(True, ["2"], "1")
    assert not disturbs(True, ["2", "1"], "1")
