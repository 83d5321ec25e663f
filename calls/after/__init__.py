"""What follows a committed batch: pushes, figures, and the refusals that belong to the story of a call.

The order is always commit, tell, effects. When an effect runs, the devices have been told, so an effect can delay no
frame to them. Each effect is guarded by itself: when one raises, that is logged and the others still run. It cannot
undo the commit, and it cannot make an order be tried again.

An effect runs in the event loop, so it must not wait: what takes time goes into a queue with threads of its own.
Nothing in this package may import the switchboard.
"""

import logging
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from calls import machine, metrics
from calls.after import push, refusals
from calls.models import Change

log = logging.getLogger(__name__)


class Done(NamedTuple):
    """One committed batch: what it changed, the calls that ring where a device may have to be woken, the orders that
    were refused, and when the batch was begun (by time.perf_counter(), in seconds)."""

    changes: Sequence[Change]
    asleep: Sequence[machine.Call]
    refused: Sequence[refusals.Refused]
    began: float


def wake(done: Done) -> None:
    """Wakes the devices that shall ring and whose page is closed."""
    push.sender.ring(done.asleep)


def count(done: Done) -> None:
    """Counts calls, answers and refusals."""
    metrics.changed(done.changes, time.perf_counter() - done.began)
    for refused in done.refused:
        metrics.REFUSED.labels(refused.command.lower(), refused.code).inc()


def note(done: Done) -> None:
    """Notes the refusals that an operator may want to read."""
    for refused in done.refused:
        if refused.in_story:
            refusals.note(refused)


effects: list[Callable[[Done], None]] = [wake, count, note]
"""Every effect, in the order in which they run."""


def follow(done: Done) -> None:
    """Runs every effect. Never raises."""
    for effect in effects:
        try:
            effect(done)
        except Exception:
            log.exception("an effect of a committed change failed: %s", getattr(effect, "__name__", effect))
