"""What one device may see of a call: the protocol's view, as typed values.

`view(call, key, device, now, page)` is pure, so every socket can render its own. The structs are also the source of the
JSON Schema that clients are checked against; a field that is added here appears there.

Imports neither Django nor Channels nor asyncio.
"""

import datetime as dt
import uuid
from typing import Any, Literal, NamedTuple

from msgspec import UNSET, Struct, UnsetType

from calls.machine import LIVE, Call, CallState, Kind, Leg, LegState, Reason, leg_of, visible

Allowed = Literal["ringing", "answer", "reject", "hangup", "end", "move", "media", "signal"]


class MyLeg(Struct, frozen=True):
    """The reader's own leg, as this device stands to it."""

    state: LegState
    here: bool  # the leg is bound to this device
    device: str | None  # the name of the device that it is bound to
    ring_ms: int  # time left to ring, in milliseconds; 0 when it does not ring
    can: list[Allowed]  # the commands that this page may give now


class LegView(Struct, frozen=True):
    """Anybody's leg. It names no device: nobody learns about another user's devices."""

    user: str
    name: str
    dir: Literal["in", "out"]
    state: LegState
    reason: Literal["incoming_limit"] | None
    alerted: bool
    epoch: int
    held: bool
    mic: bool
    cam: bool
    online: bool
    data: Any


class View(Struct, frozen=True):
    """The whole call. The highest `v` wins, whatever was lost, repeated or overtaken on the way."""

    id: str
    v: int
    kind: Kind
    state: CallState
    reason: Reason | None
    host: str
    secs: int  # since the answer, up to the end
    me: MyLeg
    legs: list[LegView]
    note: str | UnsetType = UNSET  # the operator's reason for ending the call


class Shape(NamedTuple):
    """How a page stands to a call: whose it is, whether the leg is bound to its device, and to the page itself."""

    key: str
    here: bool
    bound: bool


def shape(call: Call, key: str, device: uuid.UUID, page: uuid.UUID | None) -> Shape | None:
    """What a view depends on besides the call and the time: pages of one shape see the same. None: they see nothing."""
    mine = leg_of(call, key)
    if mine is None or not visible(mine, device):
        return None
    here = mine.device == device
    return Shape(key, here, here and mine.page == page)


def view(call: Call, key: str, device: uuid.UUID, now: dt.datetime, page: uuid.UUID | None = None) -> View | None:
    """What this user's device (and its page) may see, or None when it may see nothing."""
    mine, seen_as = leg_of(call, key), shape(call, key, device, page)
    if mine is None or seen_as is None:
        return None
    ring_ms = 0
    if mine.state == "ringing" and mine.ring_until:
        ring_ms = max(0, round((mine.ring_until - now).total_seconds() * 1000))
    secs = ((call.ended_at or now) - call.answered_at).total_seconds() if call.answered_at else 0
    return View(
        id=str(call.id),
        v=call.v,
        kind=call.kind,
        state=call.state,
        reason=call.reason,
        host=next(leg.user for leg in call.legs if leg.key == call.host),
        secs=max(0, int(secs)),
        me=MyLeg(mine.state, seen_as.here, mine.device_name or None, ring_ms, _can(call, mine, seen_as)),
        legs=[_leg(leg) for leg in call.legs],
        note=call.note or UNSET,
    )


def _leg(leg: Leg) -> LegView:
    return LegView(
        user=leg.user, name=leg.name, dir=leg.dir, state=leg.state, reason=leg.reason, alerted=leg.alerted,
        epoch=leg.epoch, held=leg.held, mic=leg.mic, cam=leg.cam, online=leg.online, data=leg.data,
    )  # fmt: skip


def _can(call: Call, mine: Leg, seen_as: Shape) -> list[Allowed]:
    if call.state == "ended" or mine.state not in LIVE:
        return []
    if mine.state == "ringing":
        return ["ringing", "answer", "reject", "end"]
    if not seen_as.here:
        return ["move", "end"]
    if not seen_as.bound:
        return ["move", "hangup", "end"]
    if any(leg.state == "joined" for leg in call.legs if leg is not mine):
        return ["hangup", "end", "media", "signal"]
    return ["hangup", "end", "media"]
