"""Figures of this process for Prometheus. Each process is a target of its own; nothing is shared between them.

Only counts and times: no label has a name, a key or an id in it.
"""

from collections.abc import Iterable
from typing import Any

from prometheus_client import Counter, Gauge, Histogram

from calls import machine

FAST = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)

PLACED = Counter("callplatform_calls_placed", "Calls that were placed.", ["kind"])
ENDED = Counter("callplatform_calls_ended", "Calls that ended, by reason; busy is one of them.", ["reason"])
ANSWER_S = Histogram(
    "callplatform_answer_seconds",
    "From placing a call to its answer.",
    buckets=(1, 2, 3, 5, 8, 12, 20, 30, 45, 60, 120),
)
RING_STOP_S = Histogram(
    "callplatform_ring_stop_seconds",
    "From taking an answer until it was committed and the other devices were told.",
    buckets=FAST,
)
REFUSED = Counter(
    "callplatform_refused",
    "Refused commands, by code; answered_elsewhere are races that were lost.",
    ["command", "code"],
)
COMMAND_S = Histogram(
    "callplatform_command_seconds", "From reading a command off its socket to its outcome.", ["command"], buckets=FAST
)
PINGS = Counter("callplatform_pings", "Pings that were answered.")
LOOK_S = Histogram(
    "callplatform_look_seconds", "One look at the database, for all the pings that were waiting.", buckets=FAST
)
REPAIRED = Counter("callplatform_frames_repaired", "Views that a page had missed and got with a pong.")
SOCKETS = Gauge("callplatform_sockets", "Sockets that have said hello.")
TICKED = Gauge("callplatform_clock_last_tick_timestamp_seconds", "When this process's clock last ticked.")
AHEAD_S = Gauge("callplatform_clock_ahead_seconds", "How far this machine's clock is ahead of the database's.")
CLOCK_LAG_S = Gauge("callplatform_clock_lag_seconds", "How much later than it should the last tick came.")


def changed(changes: Iterable[Any], took_s: float) -> None:
    """Counts what a batch changed: (before, after, command) each."""
    for before, after, command in changes:
        if before is None:
            PLACED.labels(after.kind).inc()
        if after.state == "ended" and (before is None or before.state != "ended"):
            ENDED.labels(after.reason).inc()
        if isinstance(command, (machine.Answer, machine.Join)) and before is not None and before.state == "ringing":
            ANSWER_S.observe((after.answered_at - after.placed_at).total_seconds())
            RING_STOP_S.observe(took_s)
