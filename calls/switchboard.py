"""The only place where the rules meet rows and sockets: lock, load, decide, store, commit, tell.

Only this module opens a transaction on a call, and only this module publishes. Except for `settle_in`, everything here
is plain blocking code, to be run in a worker thread. Lock order, everywhere: lines by key when placing, then calls by
id.

What waits at the same moment is settled as one batch: locked, decided, written and committed together, and nobody is
told before the commit. Each order is still decided alone: one that is refused changes nothing for its neighbours, and
a batch that fails is tried again order by order.

Between the commit and `tell` nothing runs that can raise, so what was committed is always told. Everything that may
fail is either computed before the commit or is one of the effects (calls/after), which run after telling.
"""

import datetime as dt
import logging
import time
import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from operator import itemgetter
from typing import Any, NamedTuple

import msgspec
from django.contrib.auth import get_user_model
from django.db import IntegrityError, OperationalError, transaction
from django.db.models import Q

from calls import after, conf, machine, models
from calls.after import refusals
from calls.allowance import own_changes
from calls.facts import Facts, Missing, Spent, limit
from calls.hot import Silence, Wanted, Watch
from calls.hub import Said, hub
from calls.logs import first_line
from calls.machine import Refused, Seat
from calls.models import Change
from devices import policy, prepared, presence, sessions, times
from devices.models import Device, Line, LineGroup

log = logging.getLogger(__name__)

User = Any  # whatever settings.AUTH_USER_MODEL is, and its key
Key = Any

REMEMBER = dt.timedelta(minutes=10)  # a call id that was hung up before its invite arrived
MAX_REMEMBERED = 1000  # of one user
MAX_FAVOURITES = 200  # they are read with every call to the user
MOST_LOOKED_AT = 100  # entries of a call, the newest first, to see whether an order was done
MOST_TOLD = 500  # lines in one message to the other processes
MOST_FORGOTTEN = 1000  # remembered ids dropped at once
MOST_SIGNED_OUT, SIGN_OUT_S = 200, 2.0  # devices of deactivated accounts signed out in one go, and how long it may take
MOST_HELD = 3  # of them that are waited for in vain
MAX_TRIES = 5  # of orders that turn out to need more lines or calls than were locked
RINGING = (machine.Invite, machine.Add, machine.AddByOperator, machine.Transfer)  # commands that ring somebody


class Outcome(NamedTuple):
    """How a command went: the call as it stands now (None when there is none to show), and the refusal if any. `held`
    is False when the device is not this socket's any more: then nothing was done."""

    call: machine.Call | None
    refused: Refused | None = None
    held: bool = True


class Settled(NamedTuple):
    """A committed batch: the outcome of each order, the calls to tell, and what the effects need to know."""

    outcomes: list[Outcome | None]
    tell: list[machine.Call]
    done: after.Done


class Other(NamedTuple):
    """What is done to another call in the same decision, before the command itself: both happen, or neither."""

    call: uuid.UUID
    command: machine.Hangup | machine.Hold | machine.HandOver


class Perform(NamedTuple):
    """One command on one call, and the call as it was last seen: if it is that still, it is not read again.

    The people whom an `Add` or a `Transfer` rings are given by name, in `unknown` or `user`: who they are, and whatever
    else a decision needs to know, is filled in under the locks.
    """

    call: uuid.UUID
    command: machine.Command
    other: Other | None = None
    known: machine.Call | None = None


class Place(NamedTuple):
    """A call to be placed under the lines' locks: limits, glare and repeats are all settled there.

    The outcome's call has another id when the invite met one from the callee (glare).
    """

    user: User
    seat: Seat
    call: uuid.UUID
    to: frozenset[str]
    kind: machine.Kind
    data: Any
    ring_s: float
    other: Other | None = None


Order = Perform | Place


class Beat(NamedTuple):
    """A device that is heard from, and the socket it was heard on; both as text, as they go to the database."""

    device: str
    socket: str


def perform(
    call_id: uuid.UUID, command: machine.Command, *, other: Other | None = None, skip_locked: bool = False
) -> Outcome:
    """One command on one call. With `skip_locked`, a call that somebody else holds is left alone."""
    (outcome,) = settle([Perform(call_id, command, other)], wait=not skip_locked)
    return outcome or Outcome(None)


def place(
    user: User,
    seat: Seat,
    call_id: uuid.UUID,
    to: Iterable[str],
    kind: machine.Kind,
    data: Any,
    ring_s: float,
    *,
    other: Other | None = None,
) -> Outcome:
    """Places one call."""
    (outcome,) = settle([Place(user, seat, call_id, frozenset(to), kind, data, ring_s, other)])
    assert outcome is not None
    return outcome


def settle(
    orders: Sequence[Order],
    beats: Sequence[Beat | None] = (),
    *,
    wait: bool = True,
    tried: dt.datetime | None = None,
    now: dt.datetime | None = None,
) -> list[Outcome | None]:
    """Settles the orders together, in their order, and tells everybody concerned. They are decided as of `now`, by
    default the present.

    With `beats`, one for each order, the devices are heard from too. Without `wait`, an order that needs a row that
    others hold (or that is not there) has None for an outcome. Raises what the database raised; unless the connection
    was lost during the commit, nothing was done then. `tried` says when the orders were tried before, if it is not
    known whether that was committed: one that was is not done a second time, and everybody is told its outcome.
    """
    began = time.perf_counter()
    settled = _committed(orders, beats, wait, tried, began, now)
    tell(*settled.tell)
    after.follow(settled.done)
    if not wait:
        return settled.outcomes
    pairs = zip(orders, settled.outcomes, strict=True)
    return [_late(order, outcome) if outcome else None for order, outcome in pairs]


async def settle_in(link: prepared.Link, orders: Sequence[Order], beats: Sequence[Beat | None]) -> list[Outcome | None]:
    """`settle` in the event loop: it waits for no lock, and tries once. Raises Lost of devices/prepared.py when the
    connection was lost on the way."""
    began = time.perf_counter()
    wanted = wanted_by(orders, beats)
    work = partial(_settle, orders=orders, beats=beats, wait=False, tried=None, began=began, wanted=wanted)
    settled = await link.transact(work, again=False)
    tell(*settled.tell)
    after.follow(settled.done)
    return settled.outcomes


def _committed(
    orders: Sequence[Order],
    beats: Sequence[Beat | None],
    wait: bool,
    tried: dt.datetime | None,
    began: float,
    now: dt.datetime | None,
) -> Settled:
    wanted, tries = wanted_by(orders, beats), 0
    while True:
        tries += 1
        try:
            with transaction.atomic(durable=True):
                return prepared.run(_settle(prepared.waiting, orders, beats, wait, tried, began, wanted, now))
        except Missing as missing:
            # What is missing depends on what the calls are, and they may change until everything is locked. Each try
            # locks what those before it missed too.
            if tries == MAX_TRIES:
                raise RuntimeError("an order needs other lines and calls each time that it is tried") from None
            Line.make(map(get_user_model()._meta.pk.to_python, missing.lines))
            wanted.callers.update(missing.lines)
            wanted.calls.update(missing.calls)
        except IntegrityError as error:
            # A call id or a device was taken between our look and our write: the next look sees it. Where nothing is
            # placed, two changes of one version are no such thing: they mean that a lock did not hold.
            placing = any(isinstance(order, Place) for order in orders)
            if tries >= 3 or (not placing and "one_entry_a_version" in str(error)):
                raise


async def _settle(
    ask: prepared.Ask,
    orders: Sequence[Order],
    beats: Sequence[Beat | None],
    wait: bool,
    tried: dt.datetime | None,
    began: float,
    wanted: Wanted,
    now: dt.datetime | None = None,
) -> Settled:
    """Decides the orders and stores what changed, which commits: everything else is computed before that."""
    now = now or times.now()
    facts = Facts(now, wait)
    changes: list[Change] = []
    outcomes: list[Outcome | None] = []
    await facts.gather(ask, wanted)
    for number, order in enumerate(orders):
        beat = beats[number] if beats else None
        if beat and beat.socket in facts.strangers:
            outcomes.append(Outcome(None, None, False))
            continue
        if tried and _was_done(order, tried):
            outcomes.append(Outcome(facts.calls.get(order.call)))
            continue
        done: list[Change] = []
        outcome = _decide_order(facts, order, done)
        if outcome is None or outcome.refused is not None:
            for change in done:  # what was done to another call, for an order that is refused or settled later
                if change.before is not None:
                    facts.note(change.before)
            done = []
        outcomes.append(outcome)
        changes += done
    asleep = [each.after for each in changes if isinstance(each.command, RINGING) and _rings(each, facts)]
    told = [change.after for change in changes]
    if tried:  # what the first try may have committed was told to nobody, and woke nobody
        told = list(facts.calls.values())
        asked = {order.call for order in orders if isinstance(order, Place) or isinstance(order.command, RINGING)}
        asleep = [call for call in told if call.id in asked and any(leg.state == "ringing" for leg in call.legs)]
    settled = Settled(outcomes, told, after.Done(changes, asleep, _refused(orders, outcomes), began))
    await models.store(ask, changes, facts.merged, now)
    return settled


def _was_done(order: Order, tried: dt.datetime) -> bool:
    """Whether a command that was tried before is among the entries of its call, which is locked. A repeated invite is
    known by its call id."""
    if isinstance(order, Place) or not hasattr(order.command, "by"):
        return False
    by = order.command.by
    entries = models.Entry.objects.filter(call=order.call, at__gte=tried).order_by("-v")
    for entry in entries[:MOST_LOOKED_AT]:
        done = entry.decode()
        seat = getattr(done, "by", None)
        same_page = seat and (seat.key, seat.device, seat.page) == (by.key, by.device, by.page)
        if same_page and _wish(msgspec.structs.replace(done, by=by)) == _wish(order.command):
            return True
    return False


def _wish(command: machine.Command) -> machine.Command:
    """The command as a device asked for it, without the facts that are filled in before it is decided and stored."""
    match command:
        case machine.Answer():
            return msgspec.structs.replace(command, active=0, limit=0)
        case machine.Add(callees=callees, unknown=unknown):
            names = tuple(sorted({*unknown, *(callee.user for callee in callees)}))
            return msgspec.structs.replace(command, callees=(), unknown=names, max_legs=0)
        case machine.Transfer():
            return msgspec.structs.replace(command, callee=None, allowed=True)
        case machine.TakeOver():
            return msgspec.structs.replace(command, leg=None, allowed=True)
    return command


def _refused(orders: Sequence[Order], outcomes: Sequence[Outcome | None]) -> list[refusals.Refused]:
    """What people were refused. It belongs to the call's story, or says that a limit is too low; what a clock or an
    operator was refused does neither."""
    found = []
    for order, outcome in zip(orders, outcomes, strict=True):
        if outcome is None or outcome.refused is None:
            continue
        seat = order.seat if isinstance(order, Place) else getattr(order.command, "by", None)
        if seat is not None:
            asked, code = "Invite" if isinstance(order, Place) else type(order.command).__name__, outcome.refused.code
            in_story = outcome.call is not None or code == "limit_reached"
            found.append(refusals.Refused(order.call, seat.key, seat.name, asked, code, in_story))
    return found


def _rings(change: Change, facts: Facts) -> bool:
    """Whether a leg has begun to ring where a device has to be woken."""
    rang = {leg.key for leg in change.before.legs if leg.state == "ringing"} if change.before else set()
    return any(leg.state == "ringing" and leg.key in facts.asleep - rang for leg in change.after.legs)


def wanted_by(orders: Sequence[Order], beats: Sequence[Beat | None] = ()) -> Wanted:
    """What these orders need to be locked and read, all at once."""
    wanted = Wanted(set(), set(), set(), set(), set(), set(), dict(beat for beat in beats if beat), {})
    for order in orders:
        wanted.calls.add(order.call)
        if order.other:
            wanted.calls.add(order.other.call)
        if isinstance(order, Place):
            wanted.callees.update(order.to)
            wanted.callers.add(order.seat.key)
            wanted.invites.add(order.call)
            continue
        if order.known:
            wanted.known[order.call] = order.known
        _want_for(order.command, order.known, wanted)
    return wanted


def _want_for(command: machine.Command, known: machine.Call | None, wanted: Wanted) -> None:
    """What this command needs. `known` is the call as the device saw it last: what it needs besides if the call has
    changed since, is found out when it is decided."""
    match command:
        case machine.Answer(by):
            wanted.people.add(by.key)
            mine = machine.leg_of(known, by.key) if known else None
            if mine is not None and mine.state not in machine.LIVE:
                wanted.callers.add(by.key)
        case machine.Move(by) | machine.Hold(by, on=False):
            wanted.people.add(by.key)
        case machine.Add(unknown=names) | machine.AddByOperator(unknown=names):
            wanted.callees.update(names)
            if known:
                wanted.callers.add(known.host)
        case machine.Transfer(by, user=name):
            wanted.callees.add(name)
            wanted.callers.add(by.key)
        case machine.TakeOver(by):
            wanted.callers.add(by.key)
        case machine.SignedOut(key=key):
            wanted.people.add(key)
        case machine.Silent(device=device):
            wanted.watched.add(device)


def _decide_order(facts: Facts, order: Order, done: list[Change]) -> Outcome | None:
    """The order's outcome; what it changes is noted in `facts` and added to `done`. None: rows are missing, so it has
    to be settled alone."""
    before = facts.calls.get(order.call)
    if not facts.wait:
        if before is None and isinstance(order, Perform):
            return None
        if order.other is not None and order.other.call not in facts.calls:
            return None
    try:
        if isinstance(order, Place):
            return _place(facts, order, done)
        return _perform(facts, order, before, done)
    except Refused as refused:
        return Outcome(None if isinstance(order, Place) else before, refused)
    except Missing:
        if facts.wait:
            raise
        return None


def _perform(facts: Facts, order: Perform, before: machine.Call | None, done: list[Change]) -> Outcome:
    command = order.command
    if order.other is not None:
        if _is_repeat(facts, order, before):
            return Outcome(before)
        other = facts.calls.get(order.other.call)
        if isinstance(command, machine.TakeOver) and other is not None:  # before the other call ends
            command = msgspec.structs.replace(command, leg=machine.other_leg(other, command.by.key))
        _deal_with(facts, order.other, done)
    return Outcome(_decide(facts, before, _with_facts(facts, command, order.call), done))


def _is_repeat(facts: Facts, order: Perform, before: machine.Call | None) -> bool:
    """Whether an order on two calls was done already: then neither is looked at again. What it did to the other call is
    no measure, for that call may have gone on since."""
    assert order.other is not None
    if isinstance(order.command, machine.TakeOver):
        other = facts.calls.get(order.other.call)
        return bool(before and other and machine.was_taken_over(other, before, order.command.by.key))
    try:
        return machine.decide(before, order.command, facts.now, conf.deadlines()) is before
    except Refused:
        return False


def _deal_with(facts: Facts, other: Other, done: list[Change]) -> None:
    """Does to the other call what is to be done first. Refused with the code that the other call alone would get, and
    its id as `and`."""
    try:
        _decide(facts, facts.calls.get(other.call), _with_facts(facts, other.command, other.call), done)
    except Refused as refused:
        raise Refused(refused.code, **refused.about, **{"and": str(other.call)}) from None


def _decide(facts: Facts, call: machine.Call | None, command: machine.Command, done: list[Change]) -> machine.Call:
    after = machine.decide(call, command, facts.now, conf.deadlines())
    if after is not call:
        facts.note(after)
        if isinstance(command, machine.Invite):
            facts.invites[after.id] = command
        done.append(Change(call, after, command))
    return after


def _with_facts(facts: Facts, command: machine.Command, call_id: uuid.UUID) -> machine.Command:
    """The command with what its decision needs to know."""
    call = facts.calls.get(call_id)
    match command:
        case machine.Answer(by):
            seat, mine = facts.seated(by, call_id), machine.leg_of(call, by.key) if call else None
            if call is None or mine is None or not machine.may_rejoin(call, mine):
                return msgspec.structs.replace(command, by=seat)
            most = limit(facts.line(by.key), "max_incoming" if mine.dir == "in" else "max_outgoing")
            return msgspec.structs.replace(command, by=seat, active=facts.count(by.key, mine.dir), limit=most)
        case machine.Move(by) | machine.Hold(by, on=False):
            return msgspec.structs.replace(command, by=facts.seated(by, call_id))
        case machine.Add() | machine.AddByOperator():
            if call is None:
                return command
            giver = command.by.key if isinstance(command, machine.Add) else ""
            callees, unknown = facts.found(command.unknown, giver)
            most = limit(facts.line(call.host), "max_legs")
            return msgspec.structs.replace(command, callees=callees, unknown=unknown, max_legs=most)
        case machine.Transfer(by, user=name):
            callees, _ = facts.found([name], by.key)
            allowed = facts.line(by.key).transfers()
            return msgspec.structs.replace(command, callee=callees[0] if callees else None, allowed=allowed)
        case machine.TakeOver(by):
            allowed = facts.line(by.key).transfers()
            return msgspec.structs.replace(command, by=facts.seated(by, call_id), allowed=allowed)
        case machine.HandOver(by):
            return msgspec.structs.replace(command, allowed=facts.line(by.key).transfers())
        case machine.SignedOut(key=key):
            following = policy.choose(False, facts.devices[key]).only
            return msgspec.structs.replace(command, next=following)
        case machine.Silent(device=device, since=since):
            return msgspec.structs.replace(command, since=max(since, facts.seen.get(device, since)))
    return command


def _place(facts: Facts, order: Place, done: list[Change]) -> Outcome | None:
    earlier = facts.calls.get(order.call)
    if not facts.wait and (earlier or order.call in facts.spent):
        return None  # what is rare is settled alone
    if earlier is not None:
        # First of all: since it was placed, its callees may have been deactivated.
        same = machine.same_invite(facts.invite_of(earlier), order.seat, order.to, order.kind, order.ring_s, order.data)
        return Outcome(earlier, None if same else Refused("conflict"))
    if order.call in facts.spent:
        return _spent(facts, facts.spent[order.call], order.seat)
    user, mine = order.user, facts.line(order.seat.key)
    callees, unknown = facts.found(order.to, order.seat.key)
    if order.other is not None:
        _deal_with(facts, order.other, done)
    seat = facts.seated(order.seat, order.call)
    invite = machine.Invite(
        call=order.call,
        by=seat,
        user=user.get_username(),
        name=models.name_of(user),
        multi=mine.rings_all(facts.now),
        active=facts.count(seat.key, "out"),
        limit=limit(mine, "max_outgoing"),
        callees=callees,
        kind=order.kind,
        ring_s=order.ring_s,
        data=order.data,
        unknown=unknown,
        max_legs=limit(mine, "max_legs"),
        end_with_host=conf.get("END_WITH_HOST"),
    )
    other = None if unknown else facts.in_glare(seat.key, callees)
    if other is not None:
        if not facts.wait:
            return None
        ringing = facts.locked(other)
        assert ringing is not None  # calls are kept while they live
        try:
            after = _decide(facts, ringing, machine.Join(seat, order.data), done)
        except Refused as refused:
            if refused.code != "not_found":  # else their ring ended a moment ago, and this is a call like any other
                return Outcome(ringing, refused)
        else:
            facts.merge(order.call, user, after)
            return Outcome(after)
    return Outcome(_decide(facts, None, invite, done))


def _spent(facts: Facts, spent: Spent, seat: Seat) -> Outcome | None:
    if spent.key != seat.key:
        raise Refused("conflict")
    if spent.call is None:
        raise Refused("call_ended", reason="cancelled")
    merged = facts.locked(spent.call)
    return Outcome(merged) if merged else None


def _late(order: Order, outcome: Outcome) -> Outcome:
    """A hangup that came before its invite is remembered; one whose invite came meanwhile is done after all."""
    if outcome.call is None and isinstance(order, Perform) and isinstance(order.command, (machine.Hangup, machine.End)):
        became = _remember(order.call, order.command.by.key)
        if became is not None:
            return perform(became, order.command)
    return outcome


def _remember(call_id: uuid.UUID, key: Key) -> uuid.UUID | None:
    """Keeps the id of a call that was hung up before its invite arrived, so that nobody rings for it.

    When the invite came first after all, nothing is kept: returns the call that it became.
    """
    with transaction.atomic(durable=True):
        Line.lock([key])  # the invite takes the same lock: it comes before this, or finds it
        mine = models.SpentInvite.objects.filter(user=key)
        spent = mine.filter(pk=call_id).first()
        if spent is not None:
            return spent.call_id  # merged in glare
        if models.Call.objects.filter(pk=call_id).exists():
            return call_id
        if mine.count() < MAX_REMEMBERED:
            fresh = models.SpentInvite(id=call_id, user_id=key, at=times.now())
            models.SpentInvite.objects.bulk_create([fresh], ignore_conflicts=True)
        return None


def forget_spent(now: dt.datetime) -> bool:
    """Drops some of the remembered ids that no invite can be waiting for any more; whether there may be others."""
    old = list(models.SpentInvite.objects.filter(at__lt=now - REMEMBER).values_list("pk", flat=True)[:MOST_FORGOTTEN])
    models.SpentInvite.objects.filter(pk__in=old).delete()
    return len(old) == MOST_FORGOTTEN


class CatchUp(msgspec.Struct, frozen=True):
    """A page asks for its user's live calls, and for those that it holds."""

    key: str
    asked: frozenset[uuid.UUID] = frozenset()


CaughtUp = tuple[list[list[machine.Call]], set[str]]


def catch_up(pages: Sequence[CatchUp], beats: Mapping[str, str]) -> CaughtUp:
    """For each page, the user's live calls and those asked about in which the user has a leg.

    The devices of `beats` are heard from on these sockets; returns the sockets whose device is no longer theirs, too.
    """
    return prepared.run(caught_up(prepared.waiting, pages, beats))


async def caught_up(ask: prepared.Ask, pages: Sequence[CatchUp], beats: Mapping[str, str]) -> CaughtUp:
    """The same for the event loop."""
    people, asked = {page.key for page in pages}, {id for page in pages for id in page.asked}
    calls, strangers = await models.catch_up(ask, people, asked, beats)
    return theirs(pages, calls), strangers


def theirs(pages: Sequence[CatchUp], calls: Sequence[machine.Call]) -> list[list[machine.Call]]:
    """For each page, those of the calls that it asks for."""
    if not calls:  # as nearly always
        return [[] for _ in pages]
    of: defaultdict[str, list[tuple[machine.Call, machine.Leg]]] = defaultdict(list)
    for call in calls:
        for leg in call.legs:
            of[leg.key].append((call, leg))
    live = machine.LIVE
    return [[call for call, leg in of[page.key] if leg.state in live or call.id in page.asked] for page in pages]


def calls_of(key: Key, asked: Iterable[uuid.UUID] = ()) -> list[machine.Call]:
    """The same for one page."""
    return catch_up([CatchUp(str(key), frozenset(asked))], {})[0][0]


def all_calls_of(key: Key) -> list[machine.Call]:
    """The user's live calls, and the calls of several people that go on and that the user may come back into."""
    return calls_of(key, models.live_groups(key))


def is_back(call: machine.Call, key: str, device: uuid.UUID) -> bool:
    """Whether the others still have to be told that this device, silent for a while, is heard from again."""
    leg = machine.leg_of(call, key)
    return leg is not None and leg.state == "joined" and leg.device == device and not leg.online


def line_view(line: Line) -> dict[str, Any]:
    """A line as the wire shows it: what holds, wherever it is said."""
    off, edition = line.multi_device_off(times.now()), line.rule("edition")
    view: dict[str, Any] = {
        "multi_device": line.multi_device and off is None,
        "may_switch": line.may_switch and off is None,
        "max_incoming": limit(line, "max_incoming"),
        "max_outgoing": limit(line, "max_outgoing"),
        "max_legs": limit(line, "max_legs"),
        "may_transfer": line.transfers(),
        "dnd": line.dnd,
    }
    if off is not None:
        view["multi_device_off"] = off
    if edition.value == "until" and edition.until is not None:
        view["multi_device_until"] = edition.until.isoformat()
    return view


def line_of(key: Key) -> Line:
    """The user's line, made when first needed."""
    line = models.line(key)
    if line is None:
        Line.make([key])
        line = models.line(key)
        assert line is not None
    return line


@contextmanager
def _changing(key: Key) -> Iterator[Line]:
    """The user's line, made when first needed, and locked. After the commit the user's devices are told."""
    line_of(key)
    with transaction.atomic(durable=True):
        line = Line.lock([key]).popitem()[1]
        yield line
    tell_line(line)


def change_line(key: Key, **changes: Any) -> Line:
    """Changes a line: it holds for the next call, and the user's devices are told at once."""
    with _changing(key) as line:
        for field, value in changes.items():
            setattr(line, field, value)
        line.save(update_fields=list(changes))
    return line


def switch_multi_device(key: Key, on: bool) -> Line:
    """The user's own switch. Refused as `multi_device_off` unless the operator has allowed it, or as `rate_limited`."""
    with _changing(key) as line:
        if not line.may_switch or line.multi_device_off(times.now()) is not None:
            raise Refused("multi_device_off")
        own_changes.spend(key)
        _save_own(line, multi_device=on)
    return line


def switch_dnd(key: Key, on: bool) -> Line:
    """The user's own switch of do not disturb."""
    with _changing(key) as line:
        _save_own(line, dnd=on)
    return line


def _save_own(line: Line, **changes: Any) -> None:
    """Writes what users change on their own lines. It is done by an update, which the audit log does not note: that log
    is about operators, and a user could fill it until what they did is out of sight."""
    for field, value in changes.items():
        setattr(line, field, value)
    Line.objects.filter(pk=line.pk).update(**changes)


def favourites(line: Line) -> list[dict[str, str]]:
    """The people who may always ring, by name: `{id, name}`."""
    people = get_user_model()._default_manager.filter(pk__in=line.favourites, is_active=True)
    found = [{"id": each.get_username(), "name": models.name_of(each)} for each in people]
    return sorted(found, key=lambda each: each["name"])


def favour(key: Key, other: Key, on: bool) -> Line:
    """Lets the other person's calls through while the user does not want to be disturbed, or no more.

    Refused as `full` beyond MAX_FAVOURITES.
    """
    with _changing(key) as line:
        kept = [each for each in line.favourites if each != str(other)]
        if on and len(kept) >= MAX_FAVOURITES:
            raise Refused("full", limit=MAX_FAVOURITES)
        _save_own(line, favourites=[*kept, str(other)] if on else kept)
    return line


def rename(device: Device, name: str) -> None:
    """Gives the device another name; its page is told at once, and calls that it takes from now on say the new one."""
    Device.objects.filter(pk=device.pk).update(name=name)
    renamed = Said((str(device.user_id),), "device", Renamed(device.pk, name, device.kind))
    transaction.on_commit(lambda: hub.publish(renamed))  # the panel calls this in a transaction


def tell_expired(since: dt.datetime, until: dt.datetime) -> None:
    """Shows the lines whose multi-device ran out in this time to their devices. Admission needs no telling: it looks at
    the time itself."""
    ran_out = {"edition": "until", "edition_until__gt": since, "edition_until__lte": until}
    groups = list(LineGroup.objects.filter(**ran_out).values_list("pk", flat=True))
    inherited = Q(group__in=groups, edition="") if groups else Q(pk=None)
    tell_lines(Q(**ran_out) | inherited)


def tell_lines(lines: Q) -> None:
    """Shows these lines to their users' devices, as far as any is online."""
    online = Device.objects.filter(signed_out_at=None, online_until__gt=times.now()).values("user")
    found = Line.objects.filter(lines, user__in=online).select_related("group").order_by("pk")
    told = list(found[:MOST_TOLD])
    while told:
        hub.publish(*map(_line_said, told))
        told = list(found.filter(pk__gt=told[-1].pk)[:MOST_TOLD]) if len(told) == MOST_TOLD else []


def sign_out(device: Device, why: str = "signed_out") -> list[Device]:
    """Ends the sign-in of this device: its session, so that its browser can do nothing any more, and every device that
    was signed in with it. Returns those that were signed in until now.

    Their pages are closed, a joined leg leaves, and a ring moves to the next device.
    """
    return _sign_out(device.user_id, Q(pk=device.pk), why)


def end_sign_in(user: Key, session: str, why: str = "signed_out") -> list[Device]:
    """The same for all devices of a session, which is given by its stored key, and for the session if it has none."""
    if not session:
        return []
    sessions.end(session)
    return _sign_out(user, Q(session=session), why, end_sessions=False)


def crowd_out(device: Device) -> None:
    """Closes what is open of a device that was signed out to make room for another one of the user. If others share its
    sign-in, that stays: nobody wanted their browser to be signed out, and the device may arrive again, as a new login.
    A sign-in without any device is one that the user does not find in the list, so it ends."""
    if device.session and not Device.objects.filter(session=device.session, signed_out_at=None).exists():
        sessions.end(device.session)
    Device.objects.filter(pk=device.pk).exclude(signed_out_at=None).update(session="")
    _tell_gone(device.user_id, [device], "signed_out")


def _sign_out(user: Key, which: Q, why: str, *, end_sessions: bool = True) -> list[Device]:
    mine = Device.objects.filter(user=user, signed_out_at=None)
    with transaction.atomic(durable=True):
        Line.lock([user])  # a call placed at this moment sees the devices, and is found below, or does not
        ends = set(mine.filter(which).values_list("session", flat=True)) - {""} if end_sessions else set()
        gone = list(mine.filter(which | Q(session__in=ends)).order_by("pk").select_for_update(no_key=True))
        presence.sign_out([device.pk for device in gone], times.now())
        for session in ends:
            sessions.end(session)
    _tell_gone(user, gone, why)
    if ends and mine.filter(session__in=ends).exists():  # arrived while the sign-in ended: none can any more
        gone += _sign_out(user, Q(session__in=ends), why)
    return gone


def _tell_gone(user: Key, gone: list[Device], why: str) -> None:
    """Closes the pages of devices that have been signed out, and takes them out of their calls."""
    for device in gone:
        tell_bye(device, why)
    if gone:
        live = models.Leg.objects.filter(models.LIVE, user=user)
        for call_id in list(live.values_list("call", flat=True)):
            for device in gone:
                perform(call_id, machine.SignedOut(str(user), device.pk, None))


def sign_out_ended(user: Key) -> None:
    """Signs out the devices of this user whose sign-in has ended: the password was changed, say."""
    mine = Device.objects.filter(user=user, signed_out_at=None).exclude(session="")
    for _, session in sessions.ended((str(user), session) for session in set(mine.values_list("session", flat=True))):
        end_sign_in(user, session)


def keep_devices(user: Key, old: str, new: str) -> None:
    """The session has another stored key now, and the sign-in is the same: its devices stay signed in."""
    if old and new:
        Device.objects.filter(user=user, session=old, signed_out_at=None).update(session=new)


def ended_sign_ins(after: str, most: int) -> tuple[list[sessions.SignIn], str]:
    """Looks at the sign-ins behind so many signed-in devices, in the order of their sessions. Returns those that have
    ended, and the session after which to go on; "" when these were the last."""
    signed_in = Device.objects.filter(signed_out_at=None, session__gt=after).order_by("session")
    found = [(str(user), session) for user, session in signed_in.values_list("user", "session")[:most]]
    return sorted(sessions.ended(found), key=itemgetter(1)), found[-1][1] if len(found) == most else ""


def sign_out_deactivated(user: Key = None) -> None:
    """Closes what is still open of accounts that were deactivated, in whatever way; or of this one.

    As many as a few seconds allow, in no particular order. Devices whose rows somebody holds take none of this time,
    and only a few of them are waited for.
    """
    ends, held = time.monotonic() + SIGN_OUT_S, 0
    found = Device.objects.filter(signed_out_at=None, user__is_active=False)
    for device in (found if user is None else found.filter(user=user)).order_by("?")[:MOST_SIGNED_OUT]:
        began = time.monotonic()
        if began > ends or held == MOST_HELD:
            break
        try:
            sign_out(device, "deactivated")
        except OperationalError as error:
            held += 1
            ends += time.monotonic() - began
            log.warning("device %s of a deactivated account is not signed out yet: %s", device.pk, first_line(error))
        except Exception:
            log.exception("device %s of a deactivated account could not be signed out", device.pk)


class Found(NamedTuple):
    """What a clock found, and when by the database's clock: what to do about deadlines, and about silent devices."""

    at: dt.datetime
    due: list[Perform]
    silent: list[Perform]


def due(watch: Watch) -> Found:
    """What a clock has to act on: calls with a deadline that has passed, and joined legs whose device is silent."""
    deadlines = conf.deadlines()
    silence = Silence(deadlines.device_silent, deadlines.caller_silent, deadlines.leg_lost)
    at, calls, legs = models.due(watch, silence)
    silent = [Perform(call, machine.Silent(user, device, since)) for call, user, device, since in legs]
    return Found(at, [Perform(call, machine.Due()) for call in calls], silent)


def signal(call: machine.Call, seat: Seat, to: str, body: msgspec.Raw) -> None:
    """Relays a body to the page that the other leg is bound to. Touches no row and takes no lock."""
    mine = machine.leg_of(call, seat.key)
    theirs = machine.leg_named(call, to)
    if mine is None or theirs is None or theirs is mine:
        raise Refused("not_found")
    if call.state == "ended":
        raise Refused("call_ended", reason=call.reason)
    if not machine.may_signal(call, seat) or theirs.state != "joined" or theirs.device is None or theirs.page is None:
        raise Refused("not_allowed")
    mail = Mail(call.id, theirs.device, theirs.page, theirs.epoch, mine.user, mine.epoch, bytes(body))
    hub.publish(Said((theirs.key,), "signal", mail))


class Mail(msgspec.Struct, frozen=True):
    """A signal on its way to one page, bound to one leg in one epoch."""

    call: uuid.UUID
    device: uuid.UUID
    page: uuid.UUID
    epoch: int
    sender: str
    sender_epoch: int
    body: bytes


class Goodbye(msgspec.Struct, frozen=True):
    """A socket of the device has to close: that one, or (None) whichever it has."""

    device: uuid.UUID
    why: str
    socket: uuid.UUID | None = None


class Renamed(msgspec.Struct, frozen=True):
    """A device has this name now."""

    device: uuid.UUID
    name: str
    kind: str


def tell(*calls: machine.Call) -> None:
    """Shows each call to everybody in it. Each socket renders its own view."""
    hub.publish(*(Said(tuple(leg.key for leg in call.legs), "call", call) for call in calls))


def tell_line(line: Line) -> None:
    """Shows the line to the user's devices."""
    hub.publish(_line_said(line))


def _line_said(line: Line) -> Said:
    return Said((str(line.user_id),), "line", line_view(line))


def tell_history(key: Key, missed: int) -> None:
    """Tells the user's devices that the history was looked at or changed, and how many missed calls are news."""
    hub.publish(Said((str(key),), "history", {"missed": missed}))


def tell_bye(device: Device, why: str, socket: uuid.UUID | None = None) -> None:
    """Closes the device's socket (or that one socket), wherever it is."""
    hub.publish(Said((str(device.user_id),), "bye", Goodbye(device.pk, why, socket)))


hub.decoders.update(
    call=msgspec.msgpack.Decoder(machine.Call).decode,
    line=msgspec.msgpack.decode,
    history=msgspec.msgpack.decode,
    device=msgspec.msgpack.Decoder(Renamed).decode,
    signal=msgspec.msgpack.Decoder(Mail).decode,
    bye=msgspec.msgpack.Decoder(Goodbye).decode,
)
