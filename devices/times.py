"""The time of day by the database's clock, which is the one clock that all server processes share.

A time that one server writes into a row is compared on another, so neither may use the clock of its own machine. `now`
is this machine's time, corrected by how far it was from the database's time at the last comparison; the clock of a
server process compares the two with every tick. Without a comparison (on SQLite, in commands, before the first tick)
there is no correction.
"""

import datetime as dt

from django.utils import timezone

ANSWER_S = 1.0  # a slower answer does not say precisely enough when the database looked at its clock

_ahead = dt.timedelta()  # how far this machine's clock is ahead of the database's


def now() -> dt.datetime:
    """The time by the database's clock, as an aware datetime."""
    return timezone.now() - _ahead


def compare(asked: dt.datetime, theirs: dt.datetime, answered: dt.datetime) -> None:
    """Notes that the database's clock showed `theirs` between these two times of this machine.

    The database looked some time between them, so the difference is known to half of that time. A correction that is
    still possible stays as it is: else the time would jump with every slow answer.
    """
    global _ahead
    half = (answered - asked) / 2
    found = asked + half - theirs
    if dt.timedelta() <= half <= dt.timedelta(seconds=ANSWER_S / 2) and abs(found - _ahead) > half:
        _ahead = found


def ahead_s() -> float:
    """How far this machine's clock is ahead of the database's, in seconds; below zero when it is behind."""
    return _ahead.total_seconds()
