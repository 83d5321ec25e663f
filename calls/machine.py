"""The rules of a call: every legal move is in this file, and nothing else changes a call.

`decide(call, command, now)` returns the next value of the call, the same value (a repeat), or raises `Refused`. It is
pure: no clock, no rows, no sockets, and the file imports neither Django nor Channels nor asyncio. What a decision needs
to know of the world (limits, who is online, in which other call the device is) is in the command, so that a stored
command can be decided again. What a device may see of a call is in view.py.

People are named by `key` (the account's primary key as text), devices and pages by UUID. Times are aware datetimes.
"""

import datetime as dt
import math
import uuid
from collections.abc import Collection
from typing import Any, Literal

from msgspec import Struct
from msgspec.structs import replace

CallState = Literal["ringing", "active", "ended"]
LegState = Literal[
    "ringing", "joined", "rejected", "missed", "busy", "unreachable", "cancelled", "left", "lost", "removed"
]
Reason = Literal[
    "completed", "cancelled", "rejected", "no_answer", "unreachable", "busy", "lost", "operator", "expired"
]
Kind = Literal["audio", "video"]

LIVE: tuple[LegState, ...] = ("ringing", "joined")

# When nobody joined and outcomes differ, the first of these is the call's reason.
OUTCOMES: tuple[tuple[LegState, Reason], ...] = (
    ("rejected", "rejected"),
    ("busy", "busy"),
    ("missed", "no_answer"),
    ("unreachable", "unreachable"),
)


class Deadlines(Struct, frozen=True):
    """The protocol's deadlines, in seconds."""

    ring_grace: float = 2  # an answer in flight when the ring runs out still wins
    caller_silent: float = 20
    device_silent: float = 10
    leg_lost: float = 45
    longest_call: float = 8 * 3600
    # What a person may change at will costs an entry, and a message to each device, each time. So each leg has an
    # allowance of such changes: more than a person ever uses, and far fewer than a script would make.
    changes: int = 60  # at once
    change_s: float = 1  # until one more is allowed


class Leg(Struct, frozen=True):
    """One user's place in one call, however many devices the user owns."""

    key: str
    user: str
    name: str
    dir: Literal["in", "out"]
    state: LegState
    reason: Literal["incoming_limit"] | None = None
    multi: bool = False  # the line's switch when the call was placed: a later change affects the next call
    ring_on: uuid.UUID | None = None  # the one device that rings; None: all of them
    ring_until: dt.datetime | None = None
    alerted: bool = False
    device: uuid.UUID | None = None  # the device it is bound to, and the page on it
    device_name: str = ""
    page: uuid.UUID | None = None
    epoch: int = 0  # rises with each binding
    online: bool = True
    held: bool = False
    mic: bool = True
    cam: bool = True
    data: Any = None
    spent_until: dt.datetime | None = None  # until when the allowance of changes is spent; see `_spend`


class Call(Struct, frozen=True):
    """One call. `v` is 1 for a new call and rises by one with each change."""

    id: uuid.UUID
    v: int
    kind: Kind
    state: CallState
    host: str
    placed_at: dt.datetime
    legs: tuple[Leg, ...]
    reason: Reason | None = None
    answered_at: dt.datetime | None = None
    ended_at: dt.datetime | None = None
    ended_by: str = ""  # the key of the person whose command ended it, so that a resent hangup is no error
    note: str = ""  # why the operator ended it, in words for everybody in it


class Seat(Struct, frozen=True):
    """Who gives a command, and where: filled from the socket, never from the frame."""

    key: str
    device: uuid.UUID
    name: str
    page: uuid.UUID
    in_call: uuid.UUID | None = None  # another call, not held, that this device is joined in


class Callee(Struct, frozen=True):
    """Somebody to ring, and what admission needs to know about the line."""

    key: str
    user: str
    name: str
    multi: bool
    ring_on: uuid.UUID | None
    reachable: bool
    online: bool
    active: int  # live incoming legs
    limit: int
    dnd: bool = False  # do not disturb, and the caller is no favourite


class Invite(Struct, frozen=True, tag=True):
    call: uuid.UUID
    by: Seat
    user: str
    name: str
    multi: bool
    active: int  # the caller's live outgoing legs
    limit: int
    callees: tuple[Callee, ...]
    kind: Kind
    ring_s: float  # a site may set any number of seconds
    data: Any = None


class Ringing(Struct, frozen=True, tag=True):
    by: Seat


class Answer(Struct, frozen=True, tag=True):
    by: Seat
    data: Any = None


class Join(Struct, frozen=True, tag=True):
    """Glare: my invite met one from the person I am calling, so it answers that, on the device that placed it."""

    by: Seat
    data: Any = None


class Reject(Struct, frozen=True, tag=True):
    by: Seat
    data: Any = None


class Hangup(Struct, frozen=True, tag=True):
    by: Seat
    data: Any = None


class End(Struct, frozen=True, tag=True):
    by: Seat
    data: Any = None


class Move(Struct, frozen=True, tag=True):
    by: Seat


class Media(Struct, frozen=True, tag=True):
    by: Seat
    mic: bool
    cam: bool


class Due(Struct, frozen=True, tag=True):
    """The clock: act on whatever deadline has passed."""


class Silent(Struct, frozen=True, tag=True):
    """The clock: nothing was heard from the device since then."""

    key: str
    device: uuid.UUID
    since: dt.datetime


class Heard(Struct, frozen=True, tag=True):
    """A device that was silent is back."""

    key: str
    device: uuid.UUID


class SignedOut(Struct, frozen=True, tag=True):
    """The device is no longer the user's; `next` is the one that a ring moves to."""

    key: str
    device: uuid.UUID
    next: uuid.UUID | None


class EndByOperator(Struct, frozen=True, tag=True):
    operator: str
    note: str = ""


Command = (
    Invite
    | Ringing
    | Answer
    | Join
    | Reject
    | Hangup
    | End
    | Move
    | Media
    | Due
    | Silent
    | Heard
    | SignedOut
    | EndByOperator
)


class Refused(Exception):
    """A command that changes nothing. `code` is one of the protocol's closed set, `about` its extra fields."""

    def __init__(self, code: str, **about: Any) -> None:
        super().__init__(code)
        self.code = code
        self.about = about


DEADLINES = Deadlines()


def decide(call: Call | None, command: Command, now: dt.datetime, deadlines: Deadlines = DEADLINES) -> Call:
    """The next value of `call`, or `call` itself when the command changes nothing, or `Refused`.

    `call` is None for an `Invite` only.
    """
    if isinstance(command, Invite):
        return _place(command, now)
    if call is None:
        raise Refused("not_found")
    match command:
        case Due():
            return _due(call, now, deadlines)
        case Silent(key, device, since):
            return _silent(call, leg_of(call, key), device, now - since, now, deadlines)
        case Heard(key, device):
            leg = leg_of(call, key)
            if leg is None or not _bound(leg, device) or leg.online:
                return call
            return _change(call, leg, now, online=True)
        case SignedOut(key, device, following):
            return _signed_out(call, leg_of(call, key), device, following, now)
        case EndByOperator(_, note):
            if call.state == "ended":
                raise Refused("call_ended", reason=call.reason)
            return replace(_end(call, now, "operator"), note=note)
        case Ringing(by):
            leg = _my_leg(call, by)
            if leg.state == "joined" and leg.device == by.device:
                return call
            _must_ring(call, leg, by)
            return call if leg.alerted else _change(call, leg, now, alerted=True)
        case Answer(by, data):
            leg = _my_leg(call, by)
            if leg.dir == "in" and _bound(leg, by.device):
                return call
            _must_ring(call, leg, by)
            return _bind(call, leg, by, now, data)
        case Join(by, data):
            leg = leg_of(call, by.key)
            if leg is None or leg.state != "ringing":
                raise Refused("not_found")
            return _bind(call, leg, by, now, data)
        case Reject(by, data):
            leg = _my_leg(call, by)
            if leg.state == "rejected":
                return call
            _must_ring(call, leg, by)
            return _leave(call, leg, now, "rejected", data)
        case Hangup(by, data):
            leg = _my_leg(call, by)
            if call.ended_by == by.key or (leg.state == "left" and call.state != "ended"):
                return call
            _must_be_here(call, leg, by)
            return _leave(call, leg, now, "left", data)
        case End(by, data):
            return _end_for_all(call, _my_leg(call, by), by, now, data)
        case Move(by):
            leg = _my_leg(call, by)
            if leg.state != "joined":
                raise _ended_or_not_allowed(call)
            if leg.device == by.device and leg.page == by.page:
                return call
            return _bind(call, leg, by, now, leg.data, spent_until=_spend(leg, now, deadlines))
        case Media(by, mic, cam):
            leg = _my_leg(call, by)
            _must_be_here(call, leg, by)
            if leg.page != by.page:  # a page that was replaced has no say any more
                raise Refused("not_allowed")
            if (leg.mic, leg.cam) == (mic, cam):
                return call
            return _change(call, leg, now, mic=mic, cam=cam, spent_until=_spend(leg, now, deadlines))


def due_at(call: Call, deadlines: Deadlines = DEADLINES) -> dt.datetime | None:
    """When the clock has to look at this call again; None when it has ended."""
    if call.state == "ended":
        return None
    ends = [leg.ring_until + _s(deadlines.ring_grace) for leg in call.legs if leg.state == "ringing" and leg.ring_until]
    if call.answered_at:
        ends.append(call.answered_at + _s(deadlines.longest_call))
    return min(ends)


def leg_of(call: Call, key: str) -> Leg | None:
    """This person's leg, or None."""
    for leg in call.legs:
        if leg.key == key:
            return leg
    return None


def visible(leg: Leg, device: uuid.UUID) -> bool:
    """Whether the leg's owner may see the call on this device. A device that does not ring is told nothing."""
    return leg.multi or device in (leg.ring_on, leg.device)


def may_signal(call: Call, seat: Seat) -> bool:
    """Whether mail from this page belongs to the current binding of its leg."""
    leg = leg_of(call, seat.key)
    return leg is not None and _bound(leg, seat.device) and leg.page == seat.page


def same_invite(first: Invite, by: Seat, to: Collection[str], kind: Kind, ring_s: float, data: object) -> bool:
    """Whether a repeated call id asks this seat's device for the same call. `to`: the names of users."""
    before = first.by.key, first.by.device, {c.user for c in first.callees}, first.kind, first.ring_s, first.data
    return before == (by.key, by.device, set(to), kind, ring_s, data)


def _place(invite: Invite, now: dt.datetime) -> Call:
    by = invite.by
    if len(invite.callees) > 1 or any(callee.key == by.key for callee in invite.callees):
        raise Refused("not_allowed")
    if by.in_call:
        raise Refused("in_call", call=str(by.in_call))
    if invite.active >= invite.limit:
        raise Refused("limit_reached", direction="outgoing", limit=invite.limit, active=invite.active)
    video = invite.kind == "video"
    caller = Leg(
        key=by.key, user=invite.user, name=invite.name, dir="out", state="joined", multi=invite.multi,
        device=by.device, device_name=by.name, page=by.page, epoch=1, cam=video, data=invite.data,
    )  # fmt: skip
    legs = [caller]
    for callee in invite.callees:
        state, reason = _admission(callee)
        legs.append(
            Leg(
                key=callee.key, user=callee.user, name=callee.name, dir="in", state=state,
                reason=reason, multi=callee.multi, ring_on=callee.ring_on,
                ring_until=now + _s(invite.ring_s) if state == "ringing" else None, online=callee.online, cam=video,
            )
        )  # fmt: skip
    call = Call(id=invite.call, v=1, kind=invite.kind, state="ringing", host=by.key, placed_at=now, legs=tuple(legs))
    return _settle(call, now, "")


def _admission(callee: Callee) -> tuple[LegState, Literal["incoming_limit"] | None]:
    """How the callee's leg begins."""
    if not callee.reachable:
        return "unreachable", None
    if callee.active >= callee.limit:
        return "busy", "incoming_limit"
    return ("busy" if callee.dnd else "ringing"), None


def _bind(call: Call, leg: Leg, by: Seat, now: dt.datetime, data: Any, **fields: Any) -> Call:
    if by.in_call:
        raise Refused("in_call", call=str(by.in_call))
    # Who alone sees the call beside the device that has it: the one that had it before, so that it learns of that.
    ring_on = leg.ring_on if leg.multi or leg.device in (None, by.device) else leg.device
    return _change(
        call, leg, now, state="joined", device=by.device, device_name=by.name, page=by.page, epoch=leg.epoch + 1,
        online=True, alerted=True, ring_on=ring_on, data=leg.data if data is None else data, **fields,
    )  # fmt: skip


def _spend(leg: Leg, now: dt.datetime, deadlines: Deadlines) -> dt.datetime:
    """The leg's `spent_until` after one more change. Refused as `rate_limited` when the allowance is used up.

    This is the generic cell rate algorithm: each change moves the time by the interval at which changes may follow each
    other for ever, and the time may be ahead of now by as many intervals as changes are allowed at once.
    """
    spent_until = max(now, leg.spent_until or now) + _s(deadlines.change_s)
    wait = spent_until - now - deadlines.changes * _s(deadlines.change_s)
    if wait > _s(0):
        raise Refused("rate_limited", retry_ms=math.ceil(wait.total_seconds() * 1000))
    return spent_until


def _leave(call: Call, leg: Leg, now: dt.datetime, state: LegState, data: Any = None) -> Call:
    return _change(call, leg, now, by=leg.key, state=state, data=leg.data if data is None else data)


def _end_for_all(call: Call, leg: Leg, by: Seat, now: dt.datetime, data: Any) -> Call:
    if call.ended_by == by.key:
        return call
    if call.state == "ended":
        raise Refused("call_ended", reason=call.reason)
    if leg.state == "ringing":
        return _leave(call, leg, now, "rejected", data)
    if leg.state != "joined" or (by.key != call.host and len(call.legs) > 2):
        raise Refused("not_allowed")
    told = replace(leg, data=leg.data if data is None else data)
    return _end(_with(call, leg, told), now, None, by.key)


def _due(call: Call, now: dt.datetime, deadlines: Deadlines) -> Call:
    if call.state == "ended":
        return call
    if call.answered_at and call.answered_at + _s(deadlines.longest_call) <= now:
        return _end(call, now, "expired")
    after = call
    for leg in call.legs:
        if leg.state == "ringing" and leg.ring_until and leg.ring_until + _s(deadlines.ring_grace) <= now:
            after = _with(after, leg, replace(leg, state="missed" if leg.alerted else "unreachable"))
    return call if after is call else _settle(replace(after, v=call.v + 1), now, "")


def _silent(
    call: Call, leg: Leg | None, device: uuid.UUID, quiet: dt.timedelta, now: dt.datetime, deadlines: Deadlines
) -> Call:
    if leg is None or not _bound(leg, device):
        return call
    if quiet >= _s(deadlines.leg_lost if call.answered_at else deadlines.caller_silent):
        return _change(call, leg, now, state="lost", online=False)
    if leg.online and quiet >= _s(deadlines.device_silent):
        return _change(call, leg, now, online=False)
    return call


def _signed_out(call: Call, leg: Leg | None, device: uuid.UUID, following: uuid.UUID | None, now: dt.datetime) -> Call:
    if leg is None:
        return call
    if _bound(leg, device):
        return _leave(call, leg, now, "left")
    if leg.state == "ringing" and following is None:
        return _change(call, leg, now, state="unreachable")
    if leg.state == "ringing" and leg.ring_on == device:
        return _change(call, leg, now, ring_on=following)
    return call


def _my_leg(call: Call, by: Seat) -> Leg:
    leg = leg_of(call, by.key)
    if leg is None or not visible(leg, by.device):
        raise Refused("not_found")
    return leg


def _bound(leg: Leg, device: uuid.UUID) -> bool:
    return leg.state == "joined" and leg.device == device


def _must_ring(call: Call, leg: Leg, by: Seat) -> None:
    if leg.state == "ringing":
        return
    if leg.state == "joined" and leg.device != by.device:
        raise Refused("answered_elsewhere", device=leg.device_name)
    raise _ended_or_not_allowed(call)


def _must_be_here(call: Call, leg: Leg, by: Seat) -> None:
    if leg.state != "joined":
        raise _ended_or_not_allowed(call)
    if leg.device != by.device:
        raise Refused("answered_elsewhere", device=leg.device_name)


def _ended_or_not_allowed(call: Call) -> Refused:
    return Refused("call_ended", reason=call.reason) if call.state == "ended" else Refused("not_allowed")


def _change(call: Call, leg: Leg, now: dt.datetime, by: str = "", **fields: Any) -> Call:
    """The only way a leg changes: one version more, and the call's own state follows from its legs."""
    return _settle(replace(_with(call, leg, replace(leg, **fields)), v=call.v + 1), now, by)


def _with(call: Call, leg: Leg, new: Leg) -> Call:
    return replace(call, legs=tuple(new if each.key == leg.key else each for each in call.legs))


def _settle(call: Call, now: dt.datetime, by: str) -> Call:
    """The call's state, as its legs say it."""
    joined = [leg for leg in call.legs if leg.state == "joined"]
    live = [leg for leg in call.legs if leg.state in LIVE]
    host_waits = any(leg.key == call.host for leg in joined)
    if len(live) < 2 or (not call.answered_at and not host_waits):
        return _close(call, now, _outcome(call), by)
    if len(joined) > 1 and not call.answered_at:
        return replace(call, state="active", answered_at=now)
    return call


def _outcome(call: Call) -> Reason:
    states = {leg.state for leg in call.legs}
    if call.answered_at:
        return "lost" if "lost" in states else "completed"
    if not any(leg.key == call.host and leg.state == "joined" for leg in call.legs):
        return "cancelled"
    return next(reason for state, reason in OUTCOMES if state in states)


def _end(call: Call, now: dt.datetime, reason: Reason | None, by: str = "") -> Call:
    """Ends it for everybody at once, as one change."""
    return _close(replace(call, v=call.v + 1), now, reason or ("completed" if call.answered_at else "cancelled"), by)


def _close(call: Call, now: dt.datetime, reason: Reason, by: str) -> Call:
    closed: dict[str, LegState] = {"joined": "left", "ringing": "cancelled"}
    legs = tuple(replace(leg, state=closed[leg.state]) if leg.state in closed else leg for leg in call.legs)
    return replace(call, state="ended", reason=reason, ended_at=now, ended_by=by, legs=legs)


def _s(seconds: float) -> dt.timedelta:
    return dt.timedelta(seconds=seconds)
