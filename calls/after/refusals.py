"""What people asked for in vain, for the operator's story of a call.

A refusal costs its batch one note in memory, and an accepted command nothing. Once a second the notes of a process are
written in one statement; the same thing asked again meanwhile is counted. Nothing is decided by them, so a process that
dies may lose the last second's. How many rows are kept for one call and for one user is bounded: clients choose the ids
of calls, and refused commands must not fill the database.
"""

import datetime as dt
import threading
import uuid
from collections import Counter
from typing import NamedTuple

from django.db.models import Count

from calls.models import Refusal
from devices import times

MAX_WAITING = 1000  # different refusals noted between two writes; more are forgotten
MAX_A_CALL = 100  # rows kept for one call
MAX_AN_HOUR = 500  # rows kept of one user
HOUR = dt.timedelta(hours=1)


class Refused(NamedTuple):
    """Who asked what of which call, and what they were told. `in_story` is True when an operator may want to read it:
    the call exists, or the refusal says that a limit is too low."""

    call: uuid.UUID
    user: str
    device_name: str
    command: str
    code: str
    in_story: bool = True


_waiting: dict[Refused, tuple[dt.datetime, int]] = {}  # when first, and how often
_lock = threading.Lock()


def note(refused: Refused) -> None:
    """Remembers one refusal until the next write. Waits for nothing but another thread's note."""
    with _lock:
        first, often = _waiting.get(refused, (times.now(), 0))
        if often or len(_waiting) < MAX_WAITING:
            _waiting[refused] = first, often + 1


def write() -> None:
    """Writes what was noted."""
    with _lock:
        noted = dict(_waiting)
        _waiting.clear()
    if not noted:
        return
    kept = Refusal.objects.order_by()
    of_calls = kept.filter(call__in={refused.call for refused in noted}).values_list("call").annotate(Count("id"))
    lately = kept.filter(user__in={refused.user for refused in noted}, at__gte=times.now() - HOUR)
    there = Counter(dict(of_calls)) + Counter(
        {str(user): n for user, n in lately.values_list("user").annotate(Count("id"))}
    )
    rows = []
    for refused, (at, often) in noted.items():
        call, user, device_name, command, code, _ = refused
        if there[call] < MAX_A_CALL and there[user] < MAX_AN_HOUR:
            there.update((call, user))
            rows.append(
                Refusal(
                    call=call, user_id=user, device_name=device_name, command=command, code=code, at=at, times=often
                )
            )
    Refusal.objects.bulk_create(rows)
