"""What decisions need to know of the world, read under their locks in a handful of statements for a whole batch.

Who is in which live call answers three questions at once: how many calls a line has, in which call a device is, and
who is calling whom. As the batch is decided, each change is noted here, so that the next decision sees it.
"""

import datetime as dt
import uuid
from collections import defaultdict
from typing import Any, NamedTuple

import msgspec
from django.contrib.auth import get_user_model
from django.db import connection

from calls import conf, hot, machine, models
from calls.machine import Call, Refused, Seat
from devices import policy, presence
from devices.models import Device, Line

User = Any  # whatever settings.AUTH_USER_MODEL is


class Live(NamedTuple):
    """One live leg of somebody, in a call of that host."""

    host: str
    dir: str
    state: str
    device: uuid.UUID | None
    held: bool


class Facts:
    """The world as this batch sees it. With `wait`, rows that others hold are waited for; without, they are missing."""

    def __init__(self, now: dt.datetime, wait: bool) -> None:
        self.now, self.wait = now, wait
        self.calls: dict[uuid.UUID, Call] = {}
        self.users: dict[str, User] = {}
        self.lines: dict[str, Line] = {}
        self.spent: dict[uuid.UUID, models.SpentInvite] = {}
        self.devices: dict[str, list[policy.Known]] = {}
        self.live: defaultdict[str, dict[uuid.UUID, Live]] = defaultdict(dict)  # by person, then by call
        self.seen: dict[uuid.UUID, dt.datetime] = {}
        self.invites: dict[uuid.UUID, machine.Invite] = {}
        self.merged: list[models.SpentInvite] = []

    def lock(self, usernames: set[str], callers: set[Any], calls: set[uuid.UUID]) -> None:
        """Locks the lines of whoever places or is called, then the calls: each in key order, as everywhere."""
        people = set(callers)
        if usernames:
            found = get_user_model()._default_manager.filter(username__in=usernames, is_active=True)
            self.users = {user.get_username(): user for user in found}
            people |= {user.pk for user in self.users.values()}
        if people:
            self.lines = {str(key): line for key, line in Line.lock(people, skip_locked=not self.wait).items()}
        self.lock_calls(calls)

    def lock_calls(self, calls: set[uuid.UUID]) -> None:
        """Locks and loads these calls beside those that are held already."""
        if calls:
            self.calls |= models.lock(calls, skip_locked=not self.wait)

    def look(self, people: set[str], invites: set[uuid.UUID], watched: set[uuid.UUID]) -> None:
        """Reads what the batch may ask about these people, invites, and devices that may have fallen silent."""
        if people:
            self.devices = _devices(people, self.now)
            for call, host, user, *rest in models.live_legs(people):
                self.live[str(user)][call] = Live(str(host), *rest)
        if invites:
            self.spent = models.SpentInvite.objects.in_bulk(invites)
        if watched:
            self.seen = dict(Device.objects.filter(pk__in=watched).values_list("id", "last_seen_at"))

    def locked(self, call_id: uuid.UUID) -> Call | None:
        """One more call, locked; None when others hold it and nobody waits."""
        if call_id not in self.calls:
            self.lock_calls({call_id})
        return self.calls.get(call_id)

    def invite_of(self, call: Call) -> machine.Invite:
        """The invite that placed the call."""
        if call.id not in self.invites:
            first = models.Entry.objects.get(call=call.id, v=1).decode()
            assert isinstance(first, machine.Invite)
            self.invites[call.id] = first
        return self.invites[call.id]

    def merge(self, invite: uuid.UUID, user: User, call: Call) -> None:
        """The invite became that call."""
        self.spent[invite] = models.SpentInvite(id=invite, user_id=user.pk, call_id=call.id, at=self.now)
        self.merged.append(self.spent[invite])

    def note(self, call: Call) -> None:
        """This is the call now."""
        self.calls[call.id] = call
        for leg in call.legs:
            if leg.state in machine.LIVE:
                self.live[leg.key][call.id] = Live(call.host, leg.dir, leg.state, leg.device, leg.held)
            else:
                self.live[leg.key].pop(call.id, None)

    def seated(self, seat: Seat, call_id: uuid.UUID) -> Seat:
        """The seat with the other call that its device is in. A device that was signed out has no seat any more."""
        if all(device.id != seat.device for device in self.devices.get(seat.key, ())):
            raise Refused("not_found")
        for call, leg in self.live[seat.key].items():
            if call != call_id and leg.device == seat.device and leg.state == "joined" and not leg.held:
                return msgspec.structs.replace(seat, in_call=call)
        return seat

    def in_glare(self, caller: str, callees: list[User]) -> uuid.UUID | None:
        """The ringing call of the one person whom the caller is calling, to the caller."""
        if len(callees) == 1:
            host = str(callees[0].pk)
            for call, leg in self.live[caller].items():
                if (leg.host, leg.dir, leg.state) == (host, "in", "ringing"):
                    return call
        return None

    def count(self, key: str, dir: str) -> int:
        """The person's live calls in this direction."""
        return sum(leg.dir == dir for leg in self.live[key].values())

    def callee(self, user: User) -> machine.Callee:
        """Somebody to ring, as admission has to know."""
        key = str(user.pk)
        line = self.lines[key]
        multi = line.rings_all(self.now)
        choice = policy.choose(multi, self.devices.get(key, ()))
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
        )


def _devices(people: set[str], now: dt.datetime) -> dict[str, list[policy.Known]]:
    return hot.known(people, now) if connection.vendor == "postgresql" else presence.known(people)


def limit(line: Line, which: str) -> int:
    """`max_incoming` or `max_outgoing` of a line: its own, else its group's, else the platform's."""
    value = line.rule(which).value
    return int(conf.get(which.upper()) if value is None else value)
