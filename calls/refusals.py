"""What people asked for in vain, for the operator's story of a call.

A refusal costs its batch one note in memory, and an accepted command nothing. Once a second the notes of a process are
written in one statement; the same thing asked again meanwhile is counted. Nothing is decided by them, so a process that
dies may lose the last second's. Both ends are bounded: nobody can fill the database by asking in vain.
"""

import datetime as dt
import threading
import uuid
from typing import NamedTuple

from django.db.models import Count
from django.utils import timezone

from calls.models import Refusal

MAX_WAITING = 1000  # different refusals noted between two writes; more are forgotten
MAX_A_CALL = 100  # rows kept for one call


class Refused(NamedTuple):
    """Who asked what of which call, and what they were told."""

    call: uuid.UUID
    user: str
    device_name: str
    command: str
    code: str


_waiting: dict[Refused, tuple[dt.datetime, int]] = {}  # when first, and how often
_lock = threading.Lock()


def note(call: uuid.UUID, user: str, device_name: str, command: str, code: str) -> None:
    """Remembers one refusal until the next write. Never raises, waits for nothing but a neighbour's note."""
    refused = Refused(call, user, device_name, command, code)
    with _lock:
        first, times = _waiting.get(refused, (timezone.now(), 0))
        if times or len(_waiting) < MAX_WAITING:
            _waiting[refused] = first, times + 1


def write() -> None:
    """Writes what was noted."""
    with _lock:
        noted = dict(_waiting)
        _waiting.clear()
    if not noted:
        return
    calls = {refused.call for refused in noted}
    counted = Refusal.objects.filter(call__in=calls).order_by().values_list("call").annotate(Count("id"))
    room = dict.fromkeys(calls, MAX_A_CALL) | {call: MAX_A_CALL - number for call, number in counted}
    rows = []
    for refused, (at, times) in noted.items():
        if room[refused.call] > 0:
            room[refused.call] -= 1
            call, user, device_name, command, code = refused
            rows.append(
                Refusal(
                    call=call, user_id=user, device_name=device_name, command=command, code=code, at=at, times=times
                )
            )
    Refusal.objects.bulk_create(rows)
