"""The only place where the rules meet rows and sockets: lock, load, decide, store, commit, tell.

Only this module opens a transaction on a call, and only this module publishes. Everything here is plain blocking code,
to be run in a worker thread. Lock order, everywhere: lines by key when placing, then the call's row; otherwise the
call's row alone, or two calls' rows by id.
"""

import datetime as dt
import logging
import uuid
from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import Any, NamedTuple

import msgspec
from django.conf import settings
from django.contrib.auth import get_user_model
from django.db import IntegrityError, transaction
from django.db.models import Count, OuterRef, Q, Subquery
from django.utils import timezone

from calls import conf, machine, models
from calls.hub import hub
from calls.machine import Refused, Seat
from devices import policy, presence
from devices.models import Device, Line

log = logging.getLogger(__name__)

User = Any  # whatever settings.AUTH_USER_MODEL is, and its key
Key = Any

REMEMBER = dt.timedelta(minutes=10)  # a call id that was hung up before its invite arrived
MAX_REMEMBERED = 1000  # of one user


class Outcome(NamedTuple):
    """How a command went: the call as it stands now (None when there is none to show), and the refusal if any."""

    call: machine.Call | None
    refused: Refused | None = None


class Leaving(NamedTuple):
    """Another call that a device leaves as it answers."""

    call: uuid.UUID
    command: machine.Hangup


class NoLine(Exception):
    """A line that has to be locked does not exist yet."""


def perform(
    call_id: uuid.UUID, command: machine.Command, *, leaving: Leaving | None = None, skip_locked: bool = False
) -> Outcome:
    """One command on one call. With `leaving`, another call is left in the same decision: both happen, or neither.

    With `skip_locked`, a call that somebody else holds is left alone.
    """
    try:
        outcome = _perform(call_id, command, leaving, skip_locked)
    except IntegrityError as error:
        if "one_open_leg_a_device" not in str(error):
            raise
        outcome = _perform(call_id, command, leaving, skip_locked)  # the faster command now shows as in_call
    if outcome.call is None and isinstance(command, (machine.Hangup, machine.End)):
        became = _remember(call_id, command.by.key)
        if became is not None:
            return perform(became, command)
    return outcome


def _perform(call_id: uuid.UUID, command: machine.Command, leaving: Leaving | None, skip_locked: bool) -> Outcome:
    now = timezone.now()
    changed = []
    call = None
    try:
        with transaction.atomic(durable=True):
            ids = sorted({call_id, leaving.call} if leaving else {call_id})
            loaded = {id: models.load(id, lock=True, skip_locked=skip_locked) for id in ids}
            call = loaded[call_id]
            if call is None and skip_locked:
                return Outcome(None)
            steps = [(call, command)]
            if leaving and (other := loaded[leaving.call]) and other.state != "ended":
                steps.insert(0, (other, leaving.command))
            for before, step in steps:
                step = _with_facts(step, call_id)
                after = machine.decide(before, step, now, conf.deadlines())
                if after is not before:
                    models.store(before, after, step, now)
                    changed.append(after)
    except Refused as refused:
        return Outcome(call, refused)
    for each in changed:
        tell(each)
    return Outcome(after)


def place(
    user: User,
    seat: Seat,
    call_id: uuid.UUID,
    to: Iterable[str],
    kind: machine.Kind,
    data: Any,
    ring_s: float,
) -> Outcome:
    """Places a call under both users' line locks: limits, glare and repeats are all settled there.

    The outcome's call has another id when the invite met one from the callee (glare).
    """
    callees = list(get_user_model()._default_manager.filter(username__in=set(to), is_active=True))
    if len(callees) < len(set(to)):
        return Outcome(None, Refused("not_found"))
    for last_try in (False, False, True):
        try:
            before, outcome = _place(user, seat, call_id, callees, kind, data, ring_s)
        except NoLine:
            Line.make({user.pk, *(callee.pk for callee in callees)})
        except Refused as refused:
            return Outcome(None, refused)
        except IntegrityError:  # the id, or the device, was taken between our look and our insert
            if last_try:
                raise
        else:
            if outcome.call is not before and outcome.call is not None:
                tell(outcome.call)
            return outcome
    raise RuntimeError("the lines of a call could not be made")


def _place(
    user: User,
    seat: Seat,
    call_id: uuid.UUID,
    callees: list[User],
    kind: machine.Kind,
    data: Any,
    ring_s: float,
) -> tuple[machine.Call | None, Outcome]:
    """What stood before, and the outcome. Raises Refused when there is no call to show."""
    now = timezone.now()
    people = {user.pk, *(callee.pk for callee in callees)}
    with transaction.atomic(durable=True):
        lines = Line.lock(people)
        if len(lines) < len(people):
            raise NoLine
        seat = _seated(seat, call_id)
        counts = _live_legs(people)
        mine = lines[user.pk]
        invite = machine.Invite(
            call=call_id,
            by=seat,
            user=user.get_username(),
            name=models.name_of(user),
            multi=mine.multi_device,
            active=counts.get((user.pk, "out"), 0),
            limit=_limit(mine.max_outgoing, "MAX_OUTGOING"),
            callees=tuple(_callee(callee, lines[callee.pk], counts) for callee in callees),
            kind=kind,
            ring_s=ring_s,
            data=data,
        )
        earlier = models.load(call_id)
        if earlier is not None:
            return earlier, _again(earlier, invite)
        spent = models.SpentInvite.objects.filter(pk=call_id).first()
        if spent is not None:
            return _spent(spent, seat)
        other = _glare(user, callees)
        if other is not None:
            before = models.load(other, lock=True)
            try:
                join = machine.Join(seat, data)
                after = machine.decide(before, join, now, conf.deadlines())
            except Refused as refused:
                if refused.code != "not_found":  # else their ring ended a moment ago, and this is a call like any other
                    return before, Outcome(before, refused)
            else:
                models.store(before, after, join, now)
                models.SpentInvite.objects.create(id=call_id, user_id=user.pk, call_id=after.id, at=now)
                return before, Outcome(after)
        call = machine.decide(None, invite, now, conf.deadlines())
        models.store(None, call, invite, now)
        return None, Outcome(call)


def _again(earlier: machine.Call, invite: machine.Invite) -> Outcome:
    first = models.Entry.objects.get(call_id=earlier.id, v=1).decode()
    assert isinstance(first, machine.Invite)
    if machine.same_invite(first, invite):
        return Outcome(earlier)
    return Outcome(earlier, Refused("conflict"))


def _spent(spent: models.SpentInvite, seat: Seat) -> tuple[machine.Call | None, Outcome]:
    if str(spent.user_id) != seat.key:
        raise Refused("conflict")
    if spent.call_id is None:
        raise Refused("call_ended", reason="cancelled")
    merged = models.load(spent.call_id)
    return merged, Outcome(merged)


def _glare(user: User, callees: list[User]) -> uuid.UUID | None:
    if len(callees) != 1:
        return None
    ringing_me = models.Call.objects.filter(host=callees[0], state="ringing", legs__user=user, legs__state="ringing")
    return ringing_me.values_list("id", flat=True).first()


def _callee(user: User, line: Line, counts: Mapping[tuple[Any, str], int]) -> machine.Callee:
    choice = policy.choose(line.multi_device, presence.known(user.pk))
    return machine.Callee(
        key=str(user.pk),
        user=user.get_username(),
        name=models.name_of(user),
        multi=line.multi_device,
        ring_on=choice.only,
        reachable=choice.reachable,
        online=choice.online,
        active=counts.get((user.pk, "in"), 0),
        limit=_limit(line.max_incoming, "MAX_INCOMING"),
    )


def _live_legs(people: Iterable[Any]) -> dict[tuple[Any, str], int]:
    """Live legs by user and direction: counted from rows, so that nothing can drift."""
    rows = models.Leg.objects.filter(models.LIVE, user__in=people).order_by()
    return {(user, dir): n for user, dir, n in rows.values_list("user", "dir").annotate(n=Count("id"))}


def _limit(own: int | None, default: str) -> int:
    return conf.get(default) if own is None else own


def _with_facts(command: machine.Command, call_id: uuid.UUID) -> machine.Command:
    """The command with what its decision needs to know, read under the call's lock."""
    match command:
        case machine.Answer() | machine.Move():
            return msgspec.structs.replace(command, by=_seated(command.by, call_id))
        case machine.SignedOut(key=key):
            following = policy.choose(False, presence.known(key)).only
            return msgspec.structs.replace(command, next=following)
        case machine.Silent(device=device, since=since):
            seen = Device.objects.filter(pk=device).values_list("last_seen_at", flat=True).first()
            return msgspec.structs.replace(command, since=max(seen, since)) if seen else command
    return command


def _seated(seat: Seat, call_id: uuid.UUID) -> Seat:
    """The seat with the other call that its device is in. A device that was signed out has no seat any more."""
    open_legs = models.Leg.objects.filter(device=OuterRef("pk"), state="joined", held=False).exclude(call=call_id)
    device = Device.objects.filter(pk=seat.device, signed_out_at=None)
    found = device.annotate(in_call=Subquery(open_legs.values("call")[:1])).values_list("name", "in_call").first()
    if found is None:
        raise Refused("not_found")
    return msgspec.structs.replace(seat, name=found[0], in_call=found[1])


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
            fresh = models.SpentInvite(id=call_id, user_id=key, at=timezone.now())
            models.SpentInvite.objects.bulk_create([fresh], ignore_conflicts=True)
        return None


def forget_spent(now: dt.datetime) -> None:
    """Drops remembered ids that no invite can be waiting for any more."""
    models.SpentInvite.objects.filter(at__lt=now - REMEMBER).delete()


def calls_of(key: Key, asked: Iterable[uuid.UUID] = ()) -> list[machine.Call]:
    """The user's live calls, and those asked about that the user has a leg in."""
    mine = models.Leg.objects.filter(user=key).order_by()
    ids = set(mine.filter(models.LIVE).values_list("call", flat=True))
    more = set(asked) - ids
    if more:
        ids |= set(mine.filter(call__in=more).values_list("call", flat=True))
    return models.load_all(models.Call.objects.filter(pk__in=ids)) if ids else []


def heard(key: str, device: uuid.UUID, calls: list[machine.Call]) -> list[machine.Call]:
    """The calls, after the others were told that a device which had fallen silent in one is back."""
    back = machine.Heard(key, device)
    result = []
    for call in calls:
        leg = machine.leg_of(call, key)
        if leg is not None and leg.state == "joined" and leg.device == device and not leg.online:
            call = perform(call.id, back).call or call
        result.append(call)
    return result


def line_view(line: Line) -> dict[str, Any]:
    """A line as the wire shows it, with the platform's defaults where it has no limits of its own."""
    return {
        "multi_device": line.multi_device,
        "may_switch": line.may_switch,
        "max_incoming": _limit(line.max_incoming, "MAX_INCOMING"),
        "max_outgoing": _limit(line.max_outgoing, "MAX_OUTGOING"),
    }


def line_of(key: Key) -> Line:
    """The user's line, made when first needed."""
    line, _ = Line.objects.get_or_create(user_id=key)
    return line


def change_line(key: Key, **changes: Any) -> Line:
    """The operator's change of a line: it holds for the next call, and the user's devices are told at once."""
    line_of(key)
    with transaction.atomic(durable=True):
        line = Line.lock([key]).popitem()[1]
        for field, value in changes.items():
            setattr(line, field, value)
        line.save(update_fields=list(changes))
    tell_line(line)
    return line


def switch_multi_device(key: Key, on: bool) -> Line:
    """The user's own switch. Refused as `multi_device_off` unless the operator has allowed it."""
    line_of(key)
    with transaction.atomic(durable=True):
        line = Line.lock([key]).popitem()[1]
        if not line.may_switch:
            raise Refused("multi_device_off")
        line.multi_device = on
        line.save(update_fields=["multi_device"])
    tell_line(line)
    return line


def sign_out(device: Device, why: str = "signed_out") -> None:
    """The device is no longer the user's: its page is closed, a joined leg leaves, a ring moves to the next device."""
    with transaction.atomic(durable=True):
        Line.lock([device.user_id])  # a call placed at this moment sees the device, and is found below, or does not
        signed_in = Device.objects.filter(pk=device.pk, signed_out_at=None)
        signed_in.update(signed_out_at=timezone.now(), online_until=timezone.now(), page=None, socket=None)
        shared = Device.objects.filter(session_key=device.session_key, signed_out_at=None).exists()
    if device.session_key and not shared:
        import_module(settings.SESSION_ENGINE).SessionStore(device.session_key).delete()
    tell_bye(device, why)
    gone = machine.SignedOut(str(device.user_id), device.pk, None)
    live = models.Leg.objects.filter(models.LIVE, user=device.user_id)
    for call_id in list(live.values_list("call", flat=True)):
        perform(call_id, gone)


def sign_out_deactivated() -> None:
    """Closes what is still open of accounts that were deactivated, whoever did it and however."""
    for device in Device.objects.filter(signed_out_at=None, user__is_active=False):
        sign_out(device, "deactivated")


def due_calls(now: dt.datetime, limit: int) -> list[uuid.UUID]:
    """Calls with a deadline that has passed, the longest overdue first."""
    due = models.Call.objects.filter(~Q(state="ended"), due_at__lte=now).order_by("due_at")
    return list(due.values_list("id", flat=True)[:limit])


def silent_legs(now: dt.datetime, watching_since: dt.datetime) -> list[tuple[uuid.UUID, machine.Silent]]:
    """Joined legs whose device was not heard from, with the command for each.

    Nobody can be heard while no server runs: silence counts from `watching_since` at the earliest.
    """
    deadlines = conf.deadlines()
    quiet = now - dt.timedelta(seconds=deadlines.device_silent)
    gone = now - dt.timedelta(seconds=min(deadlines.caller_silent, deadlines.leg_lost))
    if watching_since > quiet:
        return []
    legs = models.Leg.objects.filter(state="joined", device__last_seen_at__lte=quiet)
    legs = legs.filter(Q(online=True) | Q(device__last_seen_at__lte=gone)).order_by()
    rows = legs.values_list("call", "user", "device", "device__last_seen_at")
    return [(call, machine.Silent(str(user), device, max(seen, watching_since))) for call, user, device, seen in rows]


def signal(call: machine.Call, seat: Seat, to: str, body: msgspec.Raw) -> None:
    """Relays a body to the page that the other leg is bound to. Touches no row and takes no lock."""
    mine = machine.leg_of(call, seat.key)
    theirs = next((leg for leg in call.legs if leg.user == to), None)
    if mine is None or theirs is None or theirs is mine:
        raise Refused("not_found")
    if call.state == "ended":
        raise Refused("call_ended", reason=call.reason)
    if not machine.may_signal(call, seat) or theirs.state != "joined" or theirs.device is None or theirs.page is None:
        raise Refused("not_allowed")
    mail = Mail(call.id, theirs.device, theirs.page, theirs.epoch, mine.user, mine.epoch, bytes(body))
    hub.publish((theirs.key,), "signal", mail)


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


def tell(call: machine.Call) -> None:
    """Shows the call to everybody in it. Each socket renders its own view."""
    hub.publish(tuple(leg.key for leg in call.legs), "call", call)


def tell_line(line: Line) -> None:
    """Shows the line to the user's devices."""
    hub.publish((str(line.user_id),), "line", line_view(line))


def tell_bye(device: Device, why: str, socket: uuid.UUID | None = None) -> None:
    """Closes the device's socket (or that one socket), wherever it is."""
    hub.publish((str(device.user_id),), "bye", Goodbye(device.pk, why, socket))


hub.decoders.update(
    call=msgspec.msgpack.Decoder(machine.Call).decode,
    line=msgspec.msgpack.decode,
    signal=msgspec.msgpack.Decoder(Mail).decode,
    bye=msgspec.msgpack.Decoder(Goodbye).decode,
)
