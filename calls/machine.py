"""The rules of a call: every legal move is in this file, and nothing else changes a call.

`decide(call, command, now)` returns the next value of the call, the same value (a repeat), or raises `Refused`. It is
pure: no clock, no rows, no sockets, and the file imports neither Django nor Channels nor asyncio. What a decision needs
to know of the world (limits, who is online, in which other call the device is) is in the command, so that a stored
command can be decided again. What a device may see of a call is in view.py.

A call is a row of *legs*, one for each user who ever had a part in it. A leg is live while it is `ringing` or `joined`;
every other state is closed. A command changes legs, by `_change`; `_settle` then derives from the legs what becomes of
the call as a whole: whether it goes on, why it ends, who is the host, how media flows. So each command says only what
it does to its own legs, and the life of a call is written once.

There are two kinds of calls. A *call of two* ends when one of the two leaves. A *group* was placed to several people,
or somebody was added; it goes on while somebody is joined or rings for a joined person, for a minute even with one
person alone in it, and whoever left may come back. A transfer brings a third leg into a call of two without making it a
group: the new leg is `for_` the person who transfers, whose own leg closes when the new one is answered.

What concerns two calls at once (answer this and hold that, or bring two calls together) is one command on each, decided
one after the other under both locks.

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
    "completed", "cancelled", "rejected", "no_answer", "unreachable", "busy", "lost", "operator", "expired", "merged"
]
LegReason = Literal["incoming_limit", "transferred"]
Kind = Literal["audio", "video"]
Mode = Literal["p2p", "mesh", "sfu"]  # how media flows: between two, between each pair, or through an engine

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
    alone: float = 60  # the last person in a group, with nobody ringing
    held_alone: float = 600  # the same while held, before the minute begins


RINGS_AGAIN = 3  # how often a closed leg may be rung again
WITHIN = dt.timedelta(minutes=10)  # in this time, whoever rings it
# Closed legs stay in the call, and every view shows them. So there is a limit on all legs that a call may ever have.
MOST_LEGS = 100


class Leg(Struct, frozen=True):
    """One user's place in one call, however many devices the user owns."""

    key: str
    user: str
    name: str
    dir: Literal["in", "out"]
    state: LegState
    reason: LegReason | None = None
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
    by: str = ""  # the key of the person who invited this one; "" for the person who placed the call
    for_: str = ""  # the key of the person who transfers the call to this one
    joined_at: dt.datetime | None = None  # the last time it joined
    rung_again: tuple[dt.datetime, ...] = ()  # when it was rung again, the last RINGS_AGAIN times
    removed_v: int = 0  # the version in which it was removed: the last one that its owner sees while the call lives


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
    group: bool = False
    max_legs: int = 9  # live legs at a time
    engine: bool = False  # the site had a media engine when the call was placed
    end_with_host: bool = False  # the site's choice when the call was placed: it ends when the host leaves
    lonely_since: dt.datetime | None = None  # one person is joined in a group, and nobody rings
    media: Mode = "p2p"
    media_epoch: int = 1  # rises with each change of `media`


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
    unknown: tuple[str, ...] = ()  # names in `to` that nobody has who can be called
    max_legs: int = 9
    engine: bool = False
    end_with_host: bool = False


class Ringing(Struct, frozen=True, tag=True):
    by: Seat


class Answer(Struct, frozen=True, tag=True):
    """To join. Of a group also with a closed leg, which is then admitted like a new one."""

    by: Seat
    data: Any = None
    active: int = 0  # live legs of this person in the leg's direction, and how many there may be
    limit: int = 1


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


class Add(Struct, frozen=True, tag=True):
    """To ring more people. `max_legs` is what the host's line allows now; the call keeps it."""

    by: Seat
    callees: tuple[Callee, ...]
    ring_s: float
    unknown: tuple[str, ...] = ()
    max_legs: int = 9


class Remove(Struct, frozen=True, tag=True):
    by: Seat
    user: str


class Move(Struct, frozen=True, tag=True):
    by: Seat


class Hold(Struct, frozen=True, tag=True):
    by: Seat
    on: bool


class Transfer(Struct, frozen=True, tag=True):
    """Blind: `callee` rings in my place, and my leg closes when that is answered."""

    by: Seat
    callee: Callee | None  # None: nobody who can be called has this name
    user: str
    ring_s: float
    allowed: bool = True  # by the operator, on the line of who transfers
    data: Any = None


class HandOver(Struct, frozen=True, tag=True):
    """An attended transfer, of the call that ends: its other person goes to call `into`."""

    by: Seat
    into: uuid.UUID
    allowed: bool = True


class TakeOver(Struct, frozen=True, tag=True):
    """An attended transfer, of the call that stays: `leg` comes from the call `other`. With `stay` it becomes a group.

    `leg` is None until the other call is locked and read.
    """

    by: Seat
    other: uuid.UUID
    leg: Leg | None = None
    stay: bool = False
    allowed: bool = True


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


class RemoveByOperator(Struct, frozen=True, tag=True):
    operator: str
    user: str


class AddByOperator(Struct, frozen=True, tag=True):
    operator: str
    callees: tuple[Callee, ...]
    ring_s: float
    unknown: tuple[str, ...] = ()
    max_legs: int = 9


Command = (
    Invite
    | Ringing
    | Answer
    | Join
    | Reject
    | Hangup
    | End
    | Add
    | Remove
    | Move
    | Hold
    | Transfer
    | HandOver
    | TakeOver
    | Media
    | Due
    | Silent
    | Heard
    | SignedOut
    | EndByOperator
    | RemoveByOperator
    | AddByOperator
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
    after = _decide(call, command, now, deadlines)
    payer = _payer(call, command)
    return after if after is call or payer is None else _spend(payer, after, now, deadlines)


def _decide(call: Call, command: Command, now: dt.datetime, deadlines: Deadlines) -> Call:
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
            _must_live(call)
            return replace(_end(call, now, "operator"), note=note)
        case RemoveByOperator(_, user):
            _must_live(call)
            return _remove(call, user, now)
        case AddByOperator():
            _must_live(call)
            return _add(call, command, now, "")
        case Ringing(by):
            leg = _my_leg(call, by)
            if leg.state == "joined" and leg.device == by.device:
                return call
            _must_ring(call, leg, by)
            return call if leg.alerted else _change(call, leg, now, alerted=True)
        case Answer(by, data, active, limit):
            return _answer(call, _my_leg(call, by), by, now, data, active, limit)
        case Join(by, data):
            leg = leg_of(call, by.key)
            if leg is None or leg.state != "ringing" or not may_meet(call):
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
            if call.ended_by == by.key or (call.state != "ended" and _has_left(call, leg)):
                return call
            _must_be_here(call, leg, by)
            return _leave(call, leg, now, "left", data)
        case End(by, data):
            return _end_for_all(call, _my_place(call, by), by, now, data)
        case Add(by):
            _must_be_joined(call, _my_leg(call, by))
            return _add(call, command, now, by.key)
        case Remove(by, user):
            mine = _my_leg(call, by)
            _must_be_joined(call, mine)
            other = leg_named(call, user)
            invited = other is not None and other.state in ("ringing", "removed") and other.by == by.key
            if other is mine or not (by.key == call.host or invited):
                raise Refused("not_allowed")
            return _remove(call, user, now)
        case Move(by):
            leg = _my_place(call, by)
            _must_be_joined(call, leg)
            if leg.device == by.device and leg.page == by.page:
                return call
            return _bind(call, leg, by, now, leg.data)
        case Hold(by, on):
            return _hold(call, _my_page(call, by), by, on, now)
        case Transfer(by, user=user):
            gone = _my_leg(call, by).reason == "transferred"
            if gone and any(leg.user == user and _was_given(leg, by.key) for leg in call.legs):
                return call
            return _transfer(call, _my_page(call, by), command, now)
        case HandOver(by, _, allowed):
            mine = _my_page(call, by)
            if call.group or call.state != "active" or not allowed or _being_transferred(call):
                raise Refused("not_allowed")
            return replace(_end(_with(call, mine, replace(mine, reason="transferred")), now, "merged"), ended_by=by.key)
        case TakeOver(by, _, other, stay):
            assert other is not None
            given = leg_of(call, other.key)
            if given and _was_given(given, by.key) and (stay or _my_leg(call, by).reason == "transferred"):
                return call
            return _take_over(call, _my_page(call, by), other, command, now)
        case Media(by, mic, cam):
            leg = _my_page(call, by)
            return call if (leg.mic, leg.cam) == (mic, cam) else _change(call, leg, now, mic=mic, cam=cam)
        case Invite():
            raise AssertionError("an invite makes a call, and changes none")


def due_at(call: Call, deadlines: Deadlines = DEADLINES) -> dt.datetime | None:
    """When the clock has to look at this call again; None when it has ended."""
    if call.state == "ended":
        return None
    ends = [leg.ring_until + _s(deadlines.ring_grace) for leg in call.legs if leg.state == "ringing" and leg.ring_until]
    if call.answered_at:
        ends.append(call.answered_at + _s(deadlines.longest_call))
    if call.lonely_since:
        ends.append(call.lonely_since + _s(deadlines.alone + (deadlines.held_alone if _is_held(call) else 0)))
    return min(ends)


def alone_until(call: Call, now: dt.datetime, deadlines: Deadlines = DEADLINES) -> dt.datetime | None:
    """When a call ends because one person is alone in it; None while nobody is, or while that person holds it."""
    if call.lonely_since is None:
        return None
    if not _is_held(call):
        return call.lonely_since + _s(deadlines.alone)
    begins = call.lonely_since + _s(deadlines.held_alone)
    return begins + _s(deadlines.alone) if begins <= now else None


def _is_held(call: Call) -> bool:
    return any(leg.held for leg in call.legs if leg.state == "joined")


def leg_of(call: Call, key: str) -> Leg | None:
    """This person's leg, or None."""
    for leg in call.legs:
        if leg.key == key:
            return leg
    return None


def leg_named(call: Call, user: str) -> Leg | None:
    """The leg of the person with this user name, or None."""
    return next((leg for leg in call.legs if leg.user == user), None)


def other_leg(call: Call, key: str) -> Leg | None:
    """The leg that an attended transfer by this person takes out of the call: of the one other person who is joined."""
    found = [leg for leg in call.legs if leg.state == "joined" and leg.key != key]
    return found[0] if len(found) == 1 else None


def was_taken_over(other: Call, into: Call, by: str) -> bool:
    """Whether this person has brought the two calls together already: `other` ended, and its person is in `into`."""
    given = {leg.key for leg in into.legs if leg.for_ == by}
    return other.reason == "merged" and other.ended_by == by and any(leg.key in given for leg in other.legs)


def may_meet(call: Call) -> bool:
    """Whether an invite to its caller is an answer to this call: glare is for calls of two that nobody answered yet."""
    return call.state == "ringing" and not call.group


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
    nobody = not invite.callees and not invite.unknown
    if nobody or any(callee.key == by.key for callee in invite.callees) or invite.user in invite.unknown:
        raise Refused("not_allowed")
    if 1 + len(invite.callees) + len(invite.unknown) > invite.max_legs:
        raise Refused("full", limit=invite.max_legs)
    if invite.unknown:
        raise Refused("not_found", users=list(invite.unknown))
    _must_be_free(by)
    if invite.active >= invite.limit:
        raise Refused("limit_reached", direction="outgoing", limit=invite.limit, active=invite.active)
    caller = Leg(
        key=by.key, user=invite.user, name=invite.name, dir="out", state="joined", multi=invite.multi,
        device=by.device, device_name=by.name, page=by.page, epoch=1, cam=invite.kind == "video", data=invite.data,
        joined_at=now,
    )  # fmt: skip
    legs = [caller, *(_rung(None, callee, invite.kind, invite.ring_s, now, by.key) for callee in invite.callees)]
    call = Call(
        id=invite.call, v=1, kind=invite.kind, state="ringing", host=by.key, placed_at=now, legs=tuple(legs),
        group=len(invite.callees) > 1, max_legs=invite.max_legs, engine=invite.engine,
        end_with_host=invite.end_with_host,
    )  # fmt: skip
    return _settle(None, call, now, "")


def _rung(
    before: Leg | None, callee: Callee, kind: Kind, ring_s: float, now: dt.datetime, by: str, for_: str = ""
) -> Leg:
    """The leg of somebody who is invited. One that was there before keeps its epoch and what it said last."""
    state, reason = _admission(callee)
    leg = before or Leg(key=callee.key, user=callee.user, name=callee.name, dir="in", state=state)
    return replace(
        leg, state=state, reason=reason, multi=callee.multi, ring_on=callee.ring_on,
        ring_until=now + _s(ring_s) if state == "ringing" else None, alerted=False, online=callee.online,
        held=False, mic=True, cam=kind == "video", by=by, for_=for_, removed_v=0,
    )  # fmt: skip


def _add(call: Call, asked: Add | AddByOperator, now: dt.datetime, by: str) -> Call:
    live = {leg.key for leg in call.legs if leg.state in LIVE}
    new = {callee.key: callee for callee in asked.callees if callee.key not in live}
    rung = {
        callee.key: _rung(_ring_again(leg_of(call, callee.key), now), callee, call.kind, asked.ring_s, now, by)
        for callee in new.values()
    }
    if len(live) + len(new) + len(asked.unknown) > asked.max_legs:
        raise Refused("full", limit=asked.max_legs)
    legs = _with_rung(call, rung)
    if asked.unknown:
        raise Refused("not_found", users=list(asked.unknown))
    if not new:
        return call
    after = replace(call, v=call.v + 1, legs=legs, group=True, max_legs=asked.max_legs)
    return _settle(call, after, now, "")


def _with_rung(call: Call, rung: dict[str, Leg]) -> tuple[Leg, ...]:
    """The call's legs with these in them, by key: each in its old place, or behind the others when it is new."""
    known = {leg.key for leg in call.legs}
    legs = [rung.get(leg.key, leg) for leg in call.legs] + [leg for key, leg in rung.items() if key not in known]
    if len(legs) > MOST_LEGS:
        raise Refused("full", limit=MOST_LEGS)
    return tuple(legs)


def _ring_again(leg: Leg | None, now: dt.datetime) -> Leg | None:
    """The closed leg with one more ring counted, if there is one. Nobody is to be rung again and again."""
    if leg is None:
        return None
    recent = tuple(at for at in leg.rung_again if at > now - WITHIN)
    if len(recent) >= RINGS_AGAIN:
        raise Refused("not_allowed", retry_ms=max(1, round((recent[0] + WITHIN - now).total_seconds() * 1000)))
    return replace(leg, rung_again=(*recent, now))


def _remove(call: Call, user: str, now: dt.datetime) -> Call:
    leg = leg_named(call, user)
    if leg is None:
        raise Refused("not_found")
    if leg.state == "removed":
        return call
    if leg.state not in LIVE:
        raise Refused("not_allowed")
    return _change(call, leg, now, state="removed", removed_v=call.v + 1)


def _answer(call: Call, leg: Leg, by: Seat, now: dt.datetime, data: Any, active: int, limit: int) -> Call:
    if (leg.dir == "in" or leg.by or call.group) and _bound(leg, by.device):
        return call
    if leg.state == "ringing":
        return _bind(call, leg, by, now, data)
    if not may_rejoin(call, leg):
        _must_ring(call, leg, by)
    if not has_room(call):
        raise Refused("full", limit=call.max_legs)
    _must_be_free(by)
    if active >= limit:
        direction = "incoming" if leg.dir == "in" else "outgoing"
        raise Refused("limit_reached", direction=direction, limit=limit, active=active)
    return _bind(call, leg, by, now, data)


def may_rejoin(call: Call, leg: Leg) -> bool:
    """Whether the owner of this closed leg may come back into the call."""
    return call.group and call.state != "ended" and leg.state not in LIVE and leg.state != "removed"


def _hold(call: Call, leg: Leg, by: Seat, on: bool, now: dt.datetime) -> Call:
    if leg.held == on:
        return call
    if not on:
        _must_be_free(by)
    if not on and call.lonely_since is not None:
        call = replace(call, lonely_since=now)  # the minute begins when the person is back
    return _change(call, leg, now, held=on)


def has_room(call: Call) -> bool:
    """Whether one more person may be rung or come back."""
    return sum(leg.state in LIVE for leg in call.legs) < call.max_legs


def may_transfer(call: Call, leg: Leg) -> bool:
    """Whether the owner of this joined leg may give the call to somebody else now."""
    return call.state == "active" and (not call.group or leg.key == call.host) and not _being_transferred(call)


def _being_transferred(call: Call) -> bool:
    return any(leg.state == "ringing" and leg.for_ for leg in call.legs)


def _transfer(call: Call, mine: Leg, asked: Transfer, now: dt.datetime) -> Call:
    before = leg_named(call, asked.user)
    if before is not None and before.state == "ringing" and before.for_ == mine.key:
        return call
    if not asked.allowed or not may_transfer(call, mine):
        raise Refused("not_allowed")
    if before is not None and before.state in LIVE:
        raise Refused("not_allowed")
    again = _ring_again(before, now)
    if not has_room(call):
        raise Refused("full", limit=call.max_legs)
    if asked.callee is None:
        raise Refused("not_found", users=[asked.user])
    rung = _rung(again, asked.callee, call.kind, asked.ring_s, now, mine.key, mine.key)
    after = replace(call, v=call.v + 1, legs=_with_rung(call, {rung.key: rung}))
    told = mine if asked.data is None else replace(mine, data=asked.data)
    return _settle(call, _with(after, mine, told), now, "")


def _was_given(leg: Leg, by: str) -> bool:
    """Whether somebody is in the call because that person brought them here: the same command, sent again."""
    return leg.state == "joined" and leg.for_ == by


def _take_over(call: Call, mine: Leg, other: Leg, asked: TakeOver, now: dt.datetime) -> Call:
    if not asked.allowed or not may_transfer(call, mine):
        raise Refused("not_allowed")
    before = leg_of(call, other.key)
    if before is not None and before.state in LIVE:
        raise Refused("not_allowed")
    stays = replace(mine, held=False) if asked.stay else replace(mine, state="left", reason="transferred")
    if sum(leg.state in LIVE for leg in call.legs) + asked.stay > call.max_legs:
        raise Refused("full", limit=call.max_legs)
    if asked.stay:
        _must_be_free(asked.by)
    moved = replace(
        other, epoch=max(other.epoch, before.epoch if before else 0) + 1, by=mine.key, for_=mine.key, joined_at=now,
        reason=None, rung_again=before.rung_again if before else (), removed_v=0,
    )  # fmt: skip
    legs = _with_rung(call, {moved.key: moved})
    after = replace(call, v=call.v + 1, legs=legs, group=call.group or asked.stay)
    return _settle(call, _with(after, mine, stays), now, "")


def _admission(callee: Callee) -> tuple[LegState, LegReason | None]:
    """How the callee's leg begins."""
    if callee.active >= callee.limit:
        return "busy", "incoming_limit"
    if not callee.reachable:
        return "unreachable", None
    return ("busy" if callee.dnd else "ringing"), None


def _bind(call: Call, leg: Leg, by: Seat, now: dt.datetime, data: Any) -> Call:
    if leg.state != "joined" or not leg.held:
        _must_be_free(by)
    # Who alone sees the call beside the device that has it: the one that had it before, so that it learns of that.
    ring_on = leg.ring_on if leg.multi or leg.device in (None, by.device) else leg.device
    joins = {} if leg.state == "joined" else {"joined_at": now, "reason": None, "held": False}
    bound = replace(
        leg, state="joined", device=by.device, device_name=by.name, page=by.page, epoch=leg.epoch + 1,
        online=True, alerted=True, ring_on=ring_on, data=leg.data if data is None else data, **joins,
    )  # fmt: skip
    after = replace(_with(call, leg, bound), v=call.v + 1)
    giver = leg_of(call, leg.for_) if leg.for_ and leg.state == "ringing" else None
    if giver is not None and giver.state in ("joined", "left"):
        after = _with(after, giver, replace(giver, state="left", reason="transferred"))
    return _settle(call, after, now, "")


def _payer(call: Call, command: Command) -> Leg | None:
    """The leg whose allowance a change is taken from: of the person who could give this command again and again."""
    match command:
        case Add(by) | Remove(by) | Move(by) | Hold(by) | Transfer(by) | Media(by):
            return leg_of(call, by.key)
        case Answer(by):  # to come back into a group, and leave, and come back
            leg = leg_of(call, by.key)
            return leg if leg is not None and leg.state not in LIVE else None
    return None


def _spend(leg: Leg, after: Call, now: dt.datetime, deadlines: Deadlines) -> Call:
    """`after`, paid for by this leg. Refused as `rate_limited` when its allowance is used up.

    This is the generic cell rate algorithm: each change moves `spent_until` by the interval at which changes may follow
    each other for ever, and it may be ahead of now by as many intervals as changes are allowed at once.
    """
    spent_until = max(now, leg.spent_until or now) + _s(deadlines.change_s)
    wait = spent_until - now - deadlines.changes * _s(deadlines.change_s)
    if wait > _s(0):
        raise Refused("rate_limited", retry_ms=math.ceil(wait.total_seconds() * 1000))
    mine = leg_of(after, leg.key)
    assert mine is not None  # no leg ever leaves a call
    return _with(after, mine, replace(mine, spent_until=spent_until))


def _leave(call: Call, leg: Leg, now: dt.datetime, state: LegState, data: Any = None) -> Call:
    return _change(call, leg, now, by=leg.key, state=state, data=leg.data if data is None else data)


def _has_left(call: Call, leg: Leg) -> bool:
    """Whether a hangup of this leg is a repeat."""
    return leg.state == "left" or (call.group and leg.state not in LIVE)


def _end_for_all(call: Call, leg: Leg, by: Seat, now: dt.datetime, data: Any) -> Call:
    if call.ended_by == by.key or (leg.state == "rejected" and call.state != "ended" and not call.group):
        return call
    _must_live(call)
    if leg.state == "ringing" and not call.group:
        return _leave(call, leg, now, "rejected", data)
    if leg.state != "joined" or (call.group and by.key != call.host):
        raise Refused("not_allowed")
    told = replace(leg, data=leg.data if data is None else data)
    return _end(_with(call, leg, told), now, None, by.key)


def _due(call: Call, now: dt.datetime, deadlines: Deadlines) -> Call:
    if call.state == "ended":
        return call
    if call.answered_at and call.answered_at + _s(deadlines.longest_call) <= now:
        return _end(call, now, "expired")
    alone = alone_until(call, now, deadlines)
    if alone is not None and alone <= now:
        return _end(call, now, "completed")
    after = call
    for leg in call.legs:
        if leg.state == "ringing" and leg.ring_until and leg.ring_until + _s(deadlines.ring_grace) <= now:
            after = _with(after, leg, replace(leg, state="missed" if leg.alerted else "unreachable"))
    return call if after is call else _settle(call, replace(after, v=call.v + 1), now, "")


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


def _my_place(call: Call, by: Seat) -> Leg:
    """My leg, on whichever device of mine it is or was joined: a call that stands in my way can be continued or ended
    from any of them."""
    leg = leg_of(call, by.key)
    return leg if leg is not None and leg.device is not None else _my_leg(call, by)


def _bound(leg: Leg, device: uuid.UUID) -> bool:
    return leg.state == "joined" and leg.device == device


def _my_page(call: Call, by: Seat) -> Leg:
    """My leg, when it is joined on this page: one that was replaced has no say any more."""
    leg = _my_leg(call, by)
    _must_be_here(call, leg, by)
    if leg.page != by.page:
        raise Refused("not_allowed")
    return leg


def _must_live(call: Call) -> None:
    if call.state == "ended":
        raise Refused("call_ended", reason=call.reason)


def _must_be_joined(call: Call, leg: Leg) -> None:
    if leg.state != "joined":
        raise _ended_or_not_allowed(call)


def _must_be_free(by: Seat) -> None:
    """A device has one call at a time that is not held."""
    if by.in_call:
        raise Refused("in_call", call=str(by.in_call))


def _must_ring(call: Call, leg: Leg, by: Seat) -> None:
    if leg.state == "ringing":
        return
    if leg.state == "joined" and leg.device != by.device:
        raise Refused("answered_elsewhere", device=leg.device_name)
    raise _ended_or_not_allowed(call)


def _must_be_here(call: Call, leg: Leg, by: Seat) -> None:
    _must_be_joined(call, leg)
    if leg.device != by.device:
        raise Refused("answered_elsewhere", device=leg.device_name)


def _ended_or_not_allowed(call: Call) -> Refused:
    return Refused("call_ended", reason=call.reason) if call.state == "ended" else Refused("not_allowed")


def _change(call: Call, leg: Leg, now: dt.datetime, by: str = "", **fields: Any) -> Call:
    """One leg changes: one version more, and the call's own state follows from its legs."""
    return _settle(call, replace(_with(call, leg, replace(leg, **fields)), v=call.v + 1), now, by)


def _with(call: Call, leg: Leg, new: Leg) -> Call:
    return replace(call, legs=tuple(new if each.key == leg.key else each for each in call.legs))


def _settle(before: Call | None, call: Call, now: dt.datetime, by: str) -> Call:
    """The call as a whole, as its legs say it. `before` is the call before this command."""
    if any(leg.held and leg.state != "joined" for leg in call.legs):  # who is not there holds nothing
        call = replace(call, legs=tuple(replace(leg, held=leg.held and leg.state == "joined") for leg in call.legs))
    joined = [leg for leg in call.legs if leg.state == "joined"]
    ringing = [leg for leg in call.legs if leg.state == "ringing"]
    if call.answered_at is None and len(joined) > 1:
        call = replace(call, state="active", answered_at=now)
    host_left = all(leg.key != call.host for leg in joined)
    if not _goes_on(call, joined, ringing, host_left):
        return _close(call, now, _outcome(before, call), by)
    if call.answered_at and host_left and joined:
        call = replace(call, host=min(joined, key=lambda leg: leg.joined_at or call.placed_at).key)
    lonely = bool(call.group and call.answered_at and len(joined) == 1 and not ringing)
    if lonely != (call.lonely_since is not None):
        call = replace(call, lonely_since=now if lonely else None)
    mode = _mode(call, len(joined), len(ringing))
    if mode != call.media:
        call = replace(call, media=mode, media_epoch=call.media_epoch + (before is not None))
    return call


def _goes_on(call: Call, joined: list[Leg], ringing: list[Leg], host_left: bool) -> bool:
    if call.answered_at is None:
        return bool(ringing) and not host_left
    transferred = any(leg.for_ and leg.for_ not in {each.key for each in joined} for leg in ringing)
    if call.group:
        if host_left and call.end_with_host and not _gave_away(call):
            return False
        return bool(joined) or transferred
    return len(joined) > 1 or (len(joined) == 1 and transferred)


def _gave_away(call: Call) -> bool:
    """Whether the host left, or leaves, by a transfer: that ends no call, even where it would end with its host."""
    host = leg_of(call, call.host)
    return (host is not None and host.reason == "transferred") or any(
        leg.state == "ringing" and leg.for_ == call.host for leg in call.legs
    )


def _mode(call: Call, joined: int, ringing: int) -> Mode:
    if call.media == "sfu" or (call.group and call.engine and joined > 2):
        return "sfu"
    return "mesh" if call.group and not call.engine and (joined > 2 or ringing) else "p2p"


def _outcome(before: Call | None, call: Call) -> Reason:
    """Why a call ends that goes on no more."""
    changed = [leg for leg in call.legs if before is None or leg_of(before, leg.key) != leg]
    if call.answered_at:
        failed = {leg.state for leg in changed if leg.for_}
        if any(leg.state == "lost" for leg in changed):
            return "lost"
        return next((reason for state, reason in OUTCOMES if state in failed), "completed")
    if not any(leg.key == call.host and leg.state == "joined" for leg in call.legs):
        return "cancelled"
    states = {leg.state for leg in call.legs}
    return next((reason for state, reason in OUTCOMES if state in states), "cancelled")


def _end(call: Call, now: dt.datetime, reason: Reason | None, by: str = "") -> Call:
    """Ends it for everybody at once, as one change."""
    return _close(replace(call, v=call.v + 1), now, reason or ("completed" if call.answered_at else "cancelled"), by)


def _close(call: Call, now: dt.datetime, reason: Reason, by: str) -> Call:
    closed: dict[str, LegState] = {"joined": "left", "ringing": "cancelled"}
    legs = tuple(replace(leg, state=closed[leg.state], held=False) if leg.state in closed else leg for leg in call.legs)
    return replace(call, state="ended", reason=reason, ended_at=now, ended_by=by, legs=legs, lonely_since=None)


def _s(seconds: float) -> dt.timedelta:
    return dt.timedelta(seconds=seconds)
