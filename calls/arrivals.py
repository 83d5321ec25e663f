"""Devices arrive: each one's sign-in is looked at, its row is taken, and its line and calls are read.

After a restart all devices of a process arrive within seconds. So those that arrive at the same moment do it in one
transaction of three messages to PostgreSQL, which waits for no lock: what it locks are the rows of sessions and devices
that nobody else holds. What is rare is done alone, in a thread: a new device, or a row that somebody else holds.
"""

import datetime as dt
import uuid
from collections.abc import Callable, Sequence
from typing import NamedTuple

from calls import conf, hot, machine, switchboard
from calls.switchboard import CatchUp
from devices import prepared, presence, sessions
from devices.models import Line
from devices.presence import Arrival, Hello


class Visit:
    """One hello. `join` is called in the event loop with the key of the user, before the calls are read: what is
    committed after that is told to the socket. `key` is the user's, once it is known, and `device` the device that the
    socket holds, even if the rest fails."""

    def __init__(self, hello: Hello, join: Callable[[str], None]) -> None:
        self.hello, self._join = hello, join
        self.key = ""
        self.device: uuid.UUID | None = None

    def join(self, key: str) -> None:
        self.key = key
        self._join(key)


class Arrived(NamedTuple):
    """What the device is welcomed with."""

    arrival: Arrival
    line: Line
    calls: list[machine.Call]


async def together(link: prepared.Link, visits: Sequence[Visit]) -> list[Arrived | Exception | None]:
    """For each visit what came of it, what it is refused with (NotYours, InUse, SignedOut), or None if it has to be
    made alone. PostgreSQL only."""
    return await link.transact(lambda ask: _together(ask, visits))


async def _together(ask: prepared.Ask, visits: Sequence[Visit]) -> list[Arrived | Exception | None]:
    seen = await presence.look(ask, [visit.hello for visit in visits])
    keys = [claim.user if (claim := seen.claims.get(visit.hello.session)) else None for visit in visits]
    for visit, key in zip(visits, keys, strict=True):
        if key is not None:
            visit.join(key)
    greeting = await hot.greet(ask, {key for key in keys if key is not None})
    until = greeting.now + dt.timedelta(seconds=conf.stays_s())
    outcomes: list[Arrived | Exception | None] = []
    for visit in visits:
        try:
            outcomes.append(_arrived(visit, seen, greeting, until))
        except (presence.NotYours, presence.InUse, presence.SignedOut) as refused:
            outcomes.append(refused)
    arrived = [(visit, each) for visit, each in zip(visits, outcomes, strict=True) if isinstance(each, Arrived)]
    await presence.note(ask, {each.arrival.device.pk: each.arrival.device for _, each in arrived}.values())
    found = frozenset(call.id for call in greeting.calls)
    pages = [CatchUp(str(each.arrival.user.pk), found) for _, each in arrived]
    for (visit, each), calls in zip(arrived, switchboard.theirs(pages, greeting.calls), strict=True):
        visit.device = each.arrival.device.pk
        each.calls.extend(calls)
    return outcomes


def _arrived(visit: Visit, seen: presence.Seen, greeting: hot.Greeting, until: dt.datetime) -> Arrived | None:
    """As `presence.arrive`; the calls are left to be filled in. None: it has to be made alone."""
    hello = visit.hello
    claim = seen.claims.get(hello.session)
    user = greeting.users.get(claim.user) if claim else None
    if claim is None or user is None or not sessions.stands(user, greeting.passwords[claim.user], claim):
        raise presence.SignedOut
    line = greeting.lines.get(claim.user)
    if hello.device is None or line is None or hello.session not in seen.locked:
        return None
    device = seen.devices.get(hello.device)
    if device is None:
        if hello.device in seen.there:
            return None
        raise presence.NotYours
    if str(device.user_id) != claim.user:
        raise presence.NotYours
    if device.signed_out_at is not None:
        return None  # it has to find room among the user's devices
    return Arrived(Arrival(user, device, presence.take(device, hello, greeting.now, until)), line, [])


def alone(visit: Visit) -> Arrived:
    """The same for one visit, whose user is known. It waits for what others hold. Blocks."""
    arrival = presence.arrive(visit.key, visit.hello, conf.stays_s())
    visit.device = arrival.device.pk
    tell(arrival)
    if arrival.crowded_out is not None:
        switchboard.crowd_out(arrival.crowded_out)
    return Arrived(arrival, switchboard.line_of(visit.key), switchboard.all_calls_of(visit.key))


def tell(arrival: Arrival) -> None:
    """Closes the page that held the device until now."""
    if arrival.replaced is not None:
        switchboard.tell_bye(arrival.device, "replaced", arrival.replaced)
