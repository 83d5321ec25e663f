"""What one device may see of a call: the protocol's view, as typed values.

`view(call, key, device, now, page)` is pure, so every socket can render its own. The structs are also the source of the
JSON Schema that clients are checked against; a field that is added here appears there.

Imports neither Django nor Channels nor asyncio.
"""

import datetime as dt
import uuid
from typing import Any, Literal, NamedTuple

from msgspec import UNSET, Struct, UnsetType

from calls.machine import (
    DEADLINES,
    LIVE,
    Call,
    CallState,
    Deadlines,
    Kind,
    Leg,
    LegReason,
    LegState,
    Mode,
    Reason,
    alone_until,
    has_room,
    leg_of,
    may_rejoin,
    may_transfer,
    visible,
)

Allowed = Literal[
    "ringing", "answer", "reject", "hangup", "end", "move", "media", "signal", "hold", "add", "remove", "transfer"
]


class MyLeg(Struct, frozen=True):
    """The reader's own leg, as this device stands to it."""

    state: LegState
    here: bool  # the leg is bound to this device
    device: str | None  # the name of the device that it is bound to
    ring_ms: int  # time left to ring, in milliseconds; 0 when it does not ring
    can: list[Allowed]  # the commands that this page may give now


class LegView(Struct, frozen=True, rename={"for_": "for"}):
    """Anybody's leg. It names no device: nobody learns about another user's devices."""

    user: str
    name: str
    dir: Literal["in", "out"]
    state: LegState
    reason: LegReason | None
    alerted: bool
    epoch: int
    held: bool
    mic: bool
    cam: bool
    online: bool
    data: Any
    by: str | None  # the user who invited this one; None for the one who placed the call
    for_: str | None  # the user who transfers, or has transferred, the call to this one


class MediaView(Struct, frozen=True):
    """How media flows. Media of an older epoch belongs to nothing any more."""

    mode: Mode
    epoch: int


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
    group: bool
    max_legs: int  # live legs that it has room for
    alone_ms: int | None  # time until it ends because one person is alone in it; None while nobody is
    media: MediaView
    note: str | UnsetType = UNSET  # the operator's reason for ending the call


class Shape(NamedTuple):
    """How a page stands to a call: whose it is, whether the leg is bound to its device, and to the page itself."""

    key: str
    here: bool
    bound: bool


def shape(call: Call, key: str, device: uuid.UUID, page: uuid.UUID | None, *, anywhere: bool = False) -> Shape | None:
    """What a view depends on besides the call and the time: pages of one shape see the same. None: they see nothing.
    With `anywhere` they see a call that another device of the user has or had, too."""
    mine = leg_of(call, key)
    if mine is None or not (visible(mine, device) or (anywhere and mine.device is not None)):
        return None
    if mine.state == "removed" and call.state != "ended" and call.v > mine.removed_v:
        return None  # somebody who was taken out is told of that, and of nothing that comes after
    here = mine.device == device
    return Shape(key, here, here and mine.page == page)


def view(
    call: Call,
    key: str,
    device: uuid.UUID,
    now: dt.datetime,
    page: uuid.UUID | None = None,
    deadlines: Deadlines = DEADLINES,
    *,
    anywhere: bool = False,
) -> View | None:
    """What this user's device (and its page) may see, or None when it may see nothing; `anywhere` as for `shape`."""
    mine, seen_as = leg_of(call, key), shape(call, key, device, page, anywhere=anywhere)
    if mine is None or seen_as is None:
        return None
    ring_ms = 0
    if mine.state == "ringing" and mine.ring_until:
        ring_ms = max(0, round((mine.ring_until - now).total_seconds() * 1000))
    names = {leg.key: leg.user for leg in call.legs}
    alone = alone_until(call, now, deadlines)
    secs = ((call.ended_at or now) - call.answered_at).total_seconds() if call.answered_at else 0
    return View(
        id=str(call.id),
        v=call.v,
        kind=call.kind,
        state=call.state,
        reason=call.reason,
        host=names[call.host],
        secs=max(0, int(secs)),
        me=MyLeg(mine.state, seen_as.here, mine.device_name or None, ring_ms, _can(call, mine, seen_as)),
        legs=[_leg(leg, names) for leg in call.legs],
        group=call.group,
        max_legs=call.max_legs,
        alone_ms=max(0, round((alone - now).total_seconds() * 1000)) if alone else None,
        media=MediaView(call.media, call.media_epoch),
        note=call.note or UNSET,
    )


def _leg(leg: Leg, names: dict[str, str]) -> LegView:
    return LegView(
        user=leg.user, name=leg.name, dir=leg.dir, state=leg.state, reason=leg.reason, alerted=leg.alerted,
        epoch=leg.epoch, held=leg.held, mic=leg.mic, cam=leg.cam, online=leg.online, data=leg.data,
        by=names.get(leg.by), for_=names.get(leg.for_),
    )  # fmt: skip


def _can(call: Call, mine: Leg, seen_as: Shape) -> list[Allowed]:
    if call.state == "ended":
        return []
    if mine.state == "ringing":
        return ["ringing", "answer", "reject", *_end(call, mine)]
    if mine.state != "joined":
        return ["answer"] if may_rejoin(call, mine) and has_room(call) else []
    if not seen_as.here:
        return ["move", *_end(call, mine), *_invite(call, mine)]
    if not seen_as.bound:
        return ["move", "hangup", *_end(call, mine), *_invite(call, mine)]
    can: list[Allowed] = ["hangup", *_end(call, mine), "media"]
    if any(leg.state == "joined" for leg in call.legs if leg is not mine):
        can.append("signal")
    can += ["hold", *_invite(call, mine)]
    if may_transfer(call, mine) and has_room(call):
        can.append("transfer")
    return can


def _end(call: Call, mine: Leg) -> list[Allowed]:
    return ["end"] if not call.group or (mine.state == "joined" and mine.key == call.host) else []


def _invite(call: Call, mine: Leg) -> list[Allowed]:
    """What a joined person may do to the legs of others."""
    can: list[Allowed] = ["add"] if has_room(call) else []
    others = [leg for leg in call.legs if leg is not mine and leg.state in LIVE]
    if any(mine.key == call.host or (leg.state == "ringing" and leg.by == mine.key) for leg in others):
        can.append("remove")
    return can
