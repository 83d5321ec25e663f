"""What decisions need to know of the world, read under their locks in a handful of statements for a whole batch.

Who is in which live call answers three questions at once: how many calls a line has, in which call a device is, and
who is calling whom. As the batch is decided, each change is noted here, so that the next decision sees it.
"""

import datetime as dt
import uuid
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple

import msgspec
from django.contrib.auth import get_user_model
from django.db import connection
from django.db.models import BooleanField, ExpressionWrapper, Q

from calls import conf, hot, machine, models
from calls.machine import Call, Refused, Seat
from devices import policy, prepared, presence
from devices.models import Device, Line

User = Any  # whatever settings.AUTH_USER_MODEL is


class Live(NamedTuple):
    """One live leg of somebody, in a call of that host."""

    host: str
    dir: str
    state: str
    device: uuid.UUID | None
    held: bool
    may_meet: bool  # an invite of this person to the host would be an answer to the call


class Missing(Exception):
    """Something has to be locked that is not: lines of people, by key, or calls. It was not known before that they are
    needed, or a line does not exist yet. What was decided so far is given up, and the orders are settled again."""

    def __init__(self, *, lines: Collection[str] = (), calls: Collection[uuid.UUID] = ()) -> None:
        super().__init__()
        self.lines, self.calls = frozenset(lines), frozenset(calls)


class Spent(NamedTuple):
    """An invite's id that is no call of its own any more: whose it was, and the call that it became."""

    key: str
    call: uuid.UUID | None


class Facts:
    """The world as this batch sees it. With `wait`, rows that others hold are waited for; without, they are missing."""

    def __init__(self, now: dt.datetime, wait: bool) -> None:
        self.now, self.wait = now, wait
        self.calls: dict[uuid.UUID, Call] = {}
        self.users: dict[str, User] = {}
        self.lines: dict[str, Line] = {}
        self.spent: dict[uuid.UUID, Spent] = {}
        self.devices: defaultdict[str, list[policy.Known]] = defaultdict(list)
        self.live: defaultdict[str, dict[uuid.UUID, Live]] = defaultdict(dict)  # by person, then by call
        self.seen: dict[uuid.UUID, dt.datetime] = {}
        self.strangers: set[str] = set()  # sockets whose device is no longer theirs
        self.invites: dict[uuid.UUID, machine.Invite] = {}
        self.asleep: set[str] = set()  # callees with a device that has to be woken
        self.merged: list[models.SpentInvite] = []

    async def gather(self, ask: prepared.Ask, wanted: hot.Wanted) -> None:
        """Locks lines, then calls, each in key order, as everywhere; then reads what the batch may ask about."""
        stays_s, skip_locked = conf.stays_s(), not self.wait
        if connection.vendor == "postgresql":
            world = await hot.gather(ask, wanted, stays_s=stays_s, skip_locked=skip_locked)
        else:
            world = _by_orm(wanted, stays_s=stays_s, skip_locked=skip_locked)
        self.calls = {call.id: call for call in world.calls or ()}
        self.users = {user.get_username(): user for user in world.users or ()}
        self.lines = {str(line.user_id): line for line in world.lines or ()}
        for call, host, user, dir, state, device, held, may_meet in world.live or ():
            self.live[user][call] = Live(host, dir, state, device, held, may_meet)
        for user, id, logged_in_at, online_until, push in world.devices or ():
            self.devices[user].append(policy.Known(id, logged_in_at, online_until > self.now, push))
        self.spent = {id: Spent(key, call) for id, key, call in world.spent or ()}
        self.seen = dict(world.seen or ())
        self.strangers = world.strangers

    def locked(self, call_id: uuid.UUID) -> Call | None:
        """One more call, locked. Calls are locked in key order: where others are locked already, all of them have to be
        locked again, together."""
        if call_id not in self.calls:
            if self.calls:
                raise Missing(calls=[call_id])
            self.calls |= models.lock([call_id])
        return self.calls.get(call_id)

    def line(self, key: str) -> Line:
        """This person's line, which is locked."""
        if key not in self.lines:
            raise Missing(lines=[key])
        return self.lines[key]

    def invite_of(self, call: Call) -> machine.Invite:
        """The invite that placed the call."""
        if call.id not in self.invites:
            first = models.Entry.objects.get(call=call.id, v=1).decode()
            assert isinstance(first, machine.Invite)
            self.invites[call.id] = first
        return self.invites[call.id]

    def merge(self, invite: uuid.UUID, user: User, call: Call) -> None:
        """The invite became that call."""
        self.spent[invite] = Spent(str(user.pk), call.id)
        self.merged.append(models.SpentInvite(id=invite, user_id=user.pk, call_id=call.id, at=self.now))

    def note(self, call: Call) -> None:
        """This is the call now."""
        self.calls[call.id] = call
        for leg in call.legs:
            if leg.state in machine.LIVE:
                may_meet = machine.may_meet(call)
                self.live[leg.key][call.id] = Live(call.host, leg.dir, leg.state, leg.device, leg.held, may_meet)
            else:
                self.live[leg.key].pop(call.id, None)

    def seated(self, seat: Seat, call_id: uuid.UUID) -> Seat:
        """The seat with the other call that its device is in. A device that was signed out has no seat any more."""
        if all(device.id != seat.device for device in self.devices[seat.key]):
            raise Refused("not_found")
        for call, leg in self.live[seat.key].items():
            if call != call_id and leg.device == seat.device and leg.state == "joined" and not leg.held:
                return msgspec.structs.replace(seat, in_call=call)
        return seat

    def in_glare(self, caller: str, callees: Sequence[machine.Callee]) -> uuid.UUID | None:
        """The ringing call of the one person whom the caller is calling, to the caller."""
        if len(callees) == 1:
            host = callees[0].key
            for call, leg in self.live[caller].items():
                if leg.may_meet and (leg.host, leg.dir, leg.state) == (host, "in", "ringing"):
                    return call
        return None

    def count(self, key: str, dir: str) -> int:
        """The person's live calls in this direction."""
        return sum(leg.dir == dir for leg in self.live[key].values())

    def found(self, names: Iterable[str], caller: str) -> tuple[tuple[machine.Callee, ...], tuple[str, ...]]:
        """The people of these names, as this caller may ring them, and the names of nobody who can be called."""
        names = sorted(names)
        users = [self.users[name] for name in names if name in self.users]
        missing = {str(user.pk) for user in users} - self.lines.keys()
        if missing:
            raise Missing(lines=missing)
        unknown = tuple(name for name in names if name not in self.users)
        return tuple(self._callee(user, caller) for user in users), unknown

    def _callee(self, user: User, caller: str) -> machine.Callee:
        """Somebody to ring for this caller, as admission has to know."""
        key = str(user.pk)
        line = self.lines[key]
        multi = line.rings_all(self.now)
        choice = policy.choose(multi, self.devices[key])
        if choice.asleep:
            self.asleep.add(key)
        return machine.Callee(
            key=key,
            user=user.get_username(),
            name=models.name_of(user),
            multi=multi,
            ring_on=choice.only,
            reachable=choice.reachable,
            online=choice.online,
            active=self.count(key, "in"),
            limit=limit(line, "max_incoming"),
            dnd=policy.disturbs(line.dnd, line.favourites, caller),
        )


def _by_orm(wanted: hot.Wanted, *, stays_s: float, skip_locked: bool = False) -> hot.World:
    """What `hot.gather` does, on any database."""
    strangers = presence.beat(wanted.beats, stays_s)
    users = get_user_model()._default_manager.filter(username__in=wanted.callees, is_active=True)
    people = {*wanted.people, *wanted.callers, *(user.pk for user in users)}
    lines = Line.lock({*wanted.callers, *(user.pk for user in users)}, skip_locked=skip_locked)
    calls = models.lock(wanted.calls, skip_locked=skip_locked)
    may_meet = ExpressionWrapper(Q(call__state="ringing", call__group=False), BooleanField())
    legs = models.Leg.objects.filter(models.LIVE, user__in=people).order_by()
    live = legs.values_list("call", "call__host", "user", "dir", "state", "device", "held", may_meet)
    signed_in = Device.objects.filter(user__in=people, signed_out_at=None)
    devices = signed_in.values_list("user", "id", "logged_in_at", "online_until", "push")
    spent = models.SpentInvite.objects.filter(pk__in=wanted.invites).values_list("id", "user", "call")
    return hot.World(
        list(calls.values()),
        [(call, str(host), str(user), *leg) for call, host, user, *leg in live],
        [(str(user), id, login, until, push is not None) for user, id, login, until, push in devices],
        [(id, str(user), call) for id, user, call in spent],
        list(Device.objects.filter(pk__in=wanted.watched).values_list("id", "last_seen_at")),
        list(users),
        list(lines.values()),
        strangers,
    )


def limit(line: Line, which: str) -> int:
    """`max_incoming`, `max_outgoing` or `max_legs` of a line: its own, else its group's, else the platform's."""
    value = line.rule(which).value
    return int(conf.get(which.upper()) if value is None else value)
