"""Every reachable state of a call of three, and of a call of two that is transferred to a third person.

What is left out keeps the walk short and loses nothing that the rules depend on. Mute and silence of a device change
one leg's own flags and nothing else (tests/walk.py walks them), pages follow the devices, and times are all the same
but for the deadlines. `shape` says what tells two states apart.
"""

import datetime as dt
import uuid
from collections import deque
from collections.abc import Iterator

from msgspec.structs import replace

from calls import machine
from calls.machine import Call, Callee, Command, Leg, Refused
from tests.walk import ALICE, BOB, CAROL, RING_S, T0, Step, seat

LAPTOP, TABLET = seat(ALICE, 1, name="Laptop"), seat(ALICE, 2, name="Tablet")
PHONE, DESK = seat(BOB, 3, name="Phone"), seat(BOB, 4, name="Desk")
WATCH, CAR = seat(CAROL, 5, name="Watch"), seat(CAROL, 6, name="Car")
SEATS = (LAPTOP, TABLET, PHONE, DESK, WATCH, CAR)
NAMES = {ALICE: "alice", BOB: "bob", CAROL: "carol"}
CALL, OTHER = uuid.UUID(int=9), uuid.UUID(int=10)
RUN_OUT = T0 + dt.timedelta(seconds=RING_S + 2)
ALONE = T0 + dt.timedelta(seconds=60)
LONG_HELD = T0 + dt.timedelta(seconds=660)


def callee(key: str, **facts: object) -> Callee:
    """Somebody who can be called, on all devices."""
    return replace(Callee(key, NAMES[key], NAMES[key].capitalize(), True, None, True, True, 0, 9), **facts)


def invite(*keys: str, **facts: object) -> machine.Invite:
    """alice calls these people from her laptop."""
    asked = machine.Invite(
        CALL, LAPTOP, "alice", "Alice", True, 0, 9, tuple(callee(key) for key in keys), "audio", RING_S
    )
    return replace(asked, **facts)


def elsewhere(key: str) -> Leg:
    """The leg of this person in another call, which is brought here."""
    device = {ALICE: LAPTOP, BOB: PHONE, CAROL: WATCH}[key]
    return Leg(
        key, NAMES[key], NAMES[key].capitalize(), "in", "joined", multi=True, device=device.device,
        device_name=device.name, page=device.page, epoch=1, joined_at=T0,
    )  # fmt: skip


def commands() -> Iterator[tuple[Command, dt.datetime]]:
    """Everything that anybody may ask, with the time at which it is asked."""
    for by in SEATS:
        for kind in (machine.Ringing, machine.Answer, machine.Reject, machine.Hangup, machine.End, machine.Move):
            yield kind(by), T0
        for on in (True, False):
            yield machine.Hold(by, on), T0
        for key in NAMES:
            yield machine.Add(by, (callee(key),), RING_S), T0
            yield machine.Remove(by, NAMES[key]), T0
            yield machine.Transfer(by, callee(key), NAMES[key], RING_S), T0
            for stay in (True, False):
                yield machine.TakeOver(by, OTHER, elsewhere(key), stay), T0
        yield machine.HandOver(by, OTHER), T0
    for by in (LAPTOP, PHONE, WATCH):
        yield machine.SignedOut(by.key, by.device, None), T0
        yield machine.Silent(by.key, by.device, T0 - dt.timedelta(seconds=60)), T0
    yield machine.Add(LAPTOP, (callee(BOB, active=9), callee(CAROL, reachable=False)), RING_S), T0
    for now in (RUN_OUT, ALONE, LONG_HELD):
        yield machine.Due(), now
    yield machine.EndByOperator("operator"), T0
    yield machine.RemoveByOperator("operator", "bob"), T0


def shape(call: Call) -> Call:
    """The state without what only counts up, and without what no rule asks about any more.

    Of a closed leg that is whose it is and, while the call goes on after an answer, whether it was taken out; its
    owner's hangup or reject may come again. Of a joined leg it is where, and whether it is held; of a ringing one, who
    invited it and for whom.
    """
    return replace(
        call, v=0, ended_at=None, ended_by="", media_epoch=1, legs=tuple(_shape(call, leg) for leg in call.legs)
    )


def _shape(call: Call, leg: Leg) -> Leg:
    plain = Leg(leg.key, leg.user, leg.name, leg.dir, leg.state, multi=leg.multi)
    match leg.state:
        case "joined":
            return replace(plain, device=leg.device, held=leg.held)
        case "ringing":
            return replace(plain, alerted=leg.alerted, by=leg.by, for_=leg.for_)
        case "rejected" | "left" | "removed":
            return plain
    return replace(plain, state="missed") if call.answered_at else plain


def walk(first: Call) -> Iterator[Step]:
    """Every step from every state that can be reached from this call."""
    seen, todo = {shape(first)}, deque([first])
    everything = list(commands())
    while todo:
        call = todo.popleft()
        for command, now in everything:
            try:
                after = machine.decide(call, command, now)
            except Refused as refused:
                yield Step(call, command, now, None, refused)
                continue
            yield Step(call, command, now, after, None)
            if after is not call and after.state != "ended":
                state = shape(after)
                if state not in seen:
                    seen.add(state)
                    todo.append(after)
