"""Every reachable state of a call of two with three devices, found by asking `decide` everything at every step.

`python -m tests.walk` writes the state table of docs/protocol.md from it.
"""

import datetime as dt
import uuid
from collections import defaultdict, deque
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from msgspec.structs import replace

from calls import machine
from calls.machine import Call, Callee, Command, Invite, Refused, Seat
from calls.view import view

T0 = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
SECOND = dt.timedelta(seconds=1)
RING_S = 45
RUN_OUT = T0 + (RING_S + 2) * SECOND
TOO_LONG = T0 + 9 * 3600 * SECOND

ALICE, BOB, CAROL = "1", "2", "3"


def seat(key: str, device: int, page: int = 0, name: str = "") -> Seat:
    """A seat with ids made of small numbers, so that a failure can be read."""
    return Seat(key, uuid.UUID(int=device), name or f"device {device}", uuid.UUID(int=100 * device + page))


LAPTOP = seat(ALICE, 1, name="Laptop")
RELOADED = seat(ALICE, 1, page=1, name="Laptop")
PHONE = seat(BOB, 2, name="Phone")
DESK = seat(BOB, 3, name="Desk")
STRANGER = seat(CAROL, 4)
SEATS = (LAPTOP, RELOADED, PHONE, DESK, STRANGER)


def invite(multi: bool = True, reachable: bool = True, active: int = 0, limit: int = 1) -> Invite:
    """alice calls bob, who is on Phone (the latest login) and Desk."""
    bob = Callee(
        BOB, "bob", "Bob", multi, None if multi or not reachable else PHONE.device, reachable, reachable, active, limit
    )
    return Invite(uuid.UUID(int=9), LAPTOP, "alice", "Alice", True, 0, 1, (bob,), "audio", RING_S)


class Step(NamedTuple):
    """One command at one state, and how it went: the next call, or the refusal."""

    before: Call
    command: Command
    now: dt.datetime
    after: Call | None
    refused: Refused | None


def commands() -> Iterator[tuple[Command, dt.datetime]]:
    """Everything that anybody may ask, with the time at which it is asked."""
    for by in SEATS:
        for kind in (machine.Ringing, machine.Answer, machine.Reject, machine.Hangup, machine.End, machine.Move):
            yield kind(by), T0
        for mic in (True, False):
            yield machine.Media(by, mic, False), T0
            yield machine.Hold(by, mic), T0
    for now in (T0, RUN_OUT, TOO_LONG):
        yield machine.Due(), now
    for by in (LAPTOP, PHONE, DESK):
        for quiet in (5, 15, 30, 60):
            yield machine.Silent(by.key, by.device, T0 - quiet * SECOND), T0
        yield machine.Heard(by.key, by.device), T0
        following = {PHONE.device: DESK.device, DESK.device: PHONE.device}.get(by.device)
        yield machine.SignedOut(by.key, by.device, following), T0
        yield machine.SignedOut(by.key, by.device, None), T0
    yield machine.EndByOperator("operator"), T0


def ask(call: Call, command: Command, now: dt.datetime) -> Step:
    try:
        return Step(call, command, now, machine.decide(call, command, now), None)
    except Refused as refused:
        return Step(call, command, now, None, refused)


def shape(call: Call) -> Call:
    """The state without what only counts up."""
    legs = tuple(replace(leg, epoch=min(leg.epoch, 1), spent_until=None) for leg in call.legs)
    return replace(call, v=0, ended_at=None, legs=legs)


def walk(first: Call) -> list[Step]:
    """Every step from every state that can be reached from this call."""
    seen, todo, steps = {repr(shape(first))}, deque([first]), []
    everything = list(commands())
    while todo:
        call = todo.popleft()
        for command, now in everything:
            step = ask(call, command, now)
            steps.append(step)
            if step.after is not None and repr(shape(step.after)) not in seen:
                seen.add(repr(shape(step.after)))
                todo.append(step.after)
    return steps


# The state table: what a device may be told, by what it sees of the call.

WORDS = ("ringing", "answer", "reject", "hangup", "end", "move", "hold", "media")
PLACES = {
    "my leg rings": "the call rings here",
    "I wait": "my leg is joined here, and nobody has answered",
    "I talk": "my leg is joined here, and so is the other",
    "I reloaded": "my leg is joined on this device, but by an older page",
    "I talk elsewhere": "my leg is joined on another device of mine",
    "ended": "the call has ended",
    "not mine": "no leg of mine, or one that this device is told nothing of",
}


def place(call: Call, by: Seat) -> str:
    seen = view(call, by.key, by.device, T0, by.page)
    if seen is None:
        return "not mine"
    if seen.state == "ended":
        return "ended"
    if seen.me.state == "ringing":
        return "my leg rings"
    if not seen.me.here:
        return "I talk elsewhere"
    if "hangup" in seen.me.can and "move" in seen.me.can:
        return "I reloaded"
    return "I wait" if seen.state == "ringing" else "I talk"


def said(step: Step) -> str:
    if step.refused is not None:
        return f"`{step.refused.code}`"
    if step.after is step.before:
        return "ok"
    assert step.after is not None
    return f"→ {step.after.state}" + (f" ({step.after.reason})" if step.after.state == "ended" else "")


def table() -> str:
    """Rows: what the device sees. Columns: commands. Cells: every answer there is."""
    cells: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for multi in (True, False):
        for step in walk(machine.decide(None, invite(multi), T0)):
            by = getattr(step.command, "by", None)
            if by is not None:
                cells[place(step.before, by), type(step.command).__name__.lower()].add(said(step))
    lines = ["| | " + " | ".join(f"`{word}`" for word in WORDS) + " |", "|---" * (len(WORDS) + 1) + "|"]
    for name in PLACES:
        lines.append(f"| **{name}** | " + " | ".join("<br>".join(sorted(cells[name, word])) for word in WORDS) + " |")
    lines += ["", *(f"*{name}*: {meaning}." for name, meaning in PLACES.items())]
    return "\n".join(lines)


DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "protocol.md"
BEGIN, END = "<!-- the table: made by `make docs` -->", "<!-- end of the table -->"


def documented() -> str:
    """The document with the table as it is today."""
    text = DOCUMENT.read_text()
    head, rest = text.split(BEGIN)
    _, tail = rest.split(END)
    return f"{head}{BEGIN}\n{table()}\n{END}{tail}"


if __name__ == "__main__":
    DOCUMENT.write_text(documented())
