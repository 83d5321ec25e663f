"""docs/reliability.md, made from the result of a run."""

import os
import statistics
from collections.abc import Iterator

from tests.chaos.checker import COLUMNS, QUIET_S
from tests.chaos.client import ORDER_S
from tests.chaos.result import Outcome, Result
from tests.chaos.run import RECOVERY_S

BEFORE = """\
# Reliability

What becomes of calls when servers, PostgreSQL, Redis or the network between them fail. This page is written by
`make chaos` (about twelve minutes, Linux); `tests/chaos/report.py` has its words.

## How it is measured

The suite starts a PostgreSQL, a Redis and two server processes for itself, as they run in production (`DEBUG=off`,
daphne on uvloop). Between each server and each store is a small TCP proxy that can refuse, reset, delay or freeze
connections. {people} people with {devices} devices, spread over both servers, call each other all the time: several
devices answer at once, several callers want one free place, two people call each other at the same moment, calls move
between devices, pages are reloaded, signals are exchanged. Some pairs stay in one call through all faults. The devices
follow the protocol: they ping, take a connection for dead when a ping has no answer in time, come back after growing
pauses, to whichever server is ready, and send a command again when it was answered `unavailable` or its connection
closed.

Then the faults of the table happen one by one, each as often as *tries* says. After each one the suite waits until
everything is served again, lets people call for a little longer, and then stops all commands. After {quiet:.0f} s of
quiet it compares three things: the rows of the database; the entries of each call, decided again from the first; and
its own record of every frame that any device received.

To repeat it: `make chaos`. `make chaos ARGS="Redis"` makes only the faults whose names contain the word, and
`ARGS="--seed 7"` lets people do other things. A form of one minute, with shorter deadlines, is part of `make test`.
Without root or `faketime` a fault that needs them is skipped, and the table says so.

**Deadlines.** On an idle machine an order is answered within 0.1 s. The suite allows {order:.0f} s for an order on an
open connection and {recovery:.0f} s for recovery, so that a busy machine does not fail it, but a hang does. When more
processes want to run than there are processors, these times are longer by the same factor (the load average of one
minute by the number of processors), at most four times. The protocol's own deadlines are never stretched.

## The run

{date}, {cores} processors, {took:.0f} minutes, seed {seed}, PostgreSQL {postgres}, Redis {redis}; at the end the
deadlines were stretched {load:.1f} times. **{violations}** in {calls} calls and {commands} commands.

*Recovery* is the time from the end of the fault (or from the fault itself, where the other server carries on) until
every device is connected, both servers are ready and answer an order, and signals pass between the servers in both
directions. It includes the pauses of the devices before they connect again, up to 8 s. *Unavailable* counts commands
that were answered so, and sent again; *given up* counts connections that a device closed because a ping had no answer
in time; *by ping* counts views that a device learned by a ping, because it had not been told before.
"""


def written(result: Result) -> str:
    """The document."""
    total = result.violations
    text = BEFORE.format(
        people=result.people,
        devices=result.devices,
        quiet=QUIET_S,
        order=ORDER_S,
        recovery=RECOVERY_S,
        date=result.date,
        cores=os.cpu_count(),
        took=result.took_s / 60,
        seed=result.seed,
        postgres=result.postgres,
        redis=result.redis,
        load=result.load,
        violations="No violation" if total == 0 else f"{total} violations",
        calls=sum(each.calls for each in result.outcomes),
        commands=sum(each.commands for each in result.outcomes),
    )
    return text + "\n" + "\n".join(lines(result)) + "\n"


def lines(result: Result) -> Iterator[str]:
    yield "| fault | tries | calls | commands | recovery, median | longest | unavailable | given up | by ping |"
    yield "|---" * 9 + "|"
    for each in result.outcomes:
        times = each.recovery_s
        middle, longest = (f"{statistics.median(times):.1f} s", f"{max(times):.1f} s") if times else ("–", "–")
        cells = [each.name, each.tries, each.calls, each.commands, middle, longest]
        cells += [each.unavailable, each.given_up, each.repaired]
        if each.skipped:
            cells = [f"{each.name} (skipped: {each.skipped})", *["–"] * 8]
        yield "| " + " | ".join(map(str, cells)) + " |"
    yield ""
    yield "How often each invariant did not hold:"
    yield ""
    yield "| fault | " + " | ".join(COLUMNS) + " |"
    yield "|---" * (len(COLUMNS) + 1) + "|"
    for each in result.outcomes:
        if not each.skipped:
            yield "| " + " | ".join([each.name, *(cell(each, column) for column in COLUMNS)]) + " |"
    yield ""
    for column, meaning in COLUMNS.items():
        yield f"- **{column}**: {meaning}"
    seen = [f"- {each.name}: {sentence}" for each in result.outcomes for sentence in each.sentences]
    if seen:
        yield from ["", "## What did not hold", "", *seen]


def cell(outcome: Outcome, column: str) -> str:
    times = outcome.found.get(column, 0)
    return f"**{times}**" if times else "0"
