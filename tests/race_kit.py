"""Races on PostgreSQL with their order forced, and what has to hold after each.

An order is forced with real locks only. `in_order` opens a session of its own that holds what the first contestant
needs *between its lock and its commit* (as a rule the entry that it is about to write), starts the first, waits until
PostgreSQL says that it waits for that session, starts the others, waits until each of them waits too (or has finished:
the clock passes a locked call by), and only then lets go. Nothing is patched, and no sleep is hoped for.
"""

import datetime as dt
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import closing, contextmanager
from copy import copy
from typing import Any, NamedTuple

import msgspec
import pytest
from django.conf import settings
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
from django.db import connection
from django.utils import timezone

from calls import conf, machine, models, switchboard
from calls.clock import Clock
from calls.machine import Seat
from calls.switchboard import Other, Outcome
from calls.view import view
from devices import presence, sessions
from devices.models import Device
from devices.presence import Hello
from tests.truth import Replay

# The marks of a file of races; the fixture is in conftest.py.
RACE = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("invariants"),
    pytest.mark.skipif(
        not settings.DATABASES["default"]["ENGINE"].endswith("postgresql"),
        reason="races are forced with PostgreSQL's row locks, which SQLite does not have",
    ),
]
PATIENCE_S = 10.0  # for a contestant to wait for a lock: far more than it takes on a busy machine
STAYS_S = 35.0  # how long a device stays online without being heard from


class Hold(NamedTuple):
    """A statement that takes a lock: whoever needs it waits until the session that ran it lets go."""

    sql: str
    values: tuple[Any, ...]


def entry_of(call: uuid.UUID, v: int) -> Hold:
    """The entry of a call's version, which is written after everything else and before the commit."""
    return Hold(
        f"INSERT INTO {models.Entry._meta.db_table} (call_id, v, at, command) VALUES (%s, %s, now(), '{{}}')", (call, v)
    )


def next_entry(call: uuid.UUID) -> Hold:
    return entry_of(call, models.Call.objects.get(pk=call).v + 1)


def spent_invite(call: uuid.UUID, user: Any) -> Hold:
    """The row that remembers a call id."""
    table = models.SpentInvite._meta.db_table
    return Hold(f"INSERT INTO {table} (id, user_id, at) VALUES (%s, %s, now())", (call, user.pk))


def row(model: Any, key: Any) -> Hold:
    """A row, locked as the application locks it. Two that wait for it get it in the order in which they came."""
    meta = model._meta
    return Hold(f"SELECT 1 FROM {meta.db_table} WHERE {meta.pk.column} = %s FOR NO KEY UPDATE", (key,))


class Work(NamedTuple):
    """Something that a contestant does, and where it can be held between its lock and its commit."""

    do: Callable[[], Any]
    hold: Callable[[], Hold] | None = None


class Contestant:
    """Work in a thread, on a database session of its own."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self.session: Future[int] = Future()
        self.result: Future[Any] = Future()
        self.work = work
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        try:
            connection.ensure_connection()
            self.session.set_result(connection.connection.info.backend_pid)
            self.result.set_result(self.work())
        except BaseException as error:
            self.result.set_exception(error)
        finally:
            connection.close()

    def waits_for(self, sessions: set[int]) -> bool:
        """Waits until PostgreSQL says that it waits for one of these sessions: False when it finished instead."""
        deadline = time.monotonic() + PATIENCE_S
        while not self.result.done():
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_blocking_pids(%s)", [self.session.result(PATIENCE_S)])
                if sessions.intersection(cursor.fetchone()[0]):
                    return True
            assert time.monotonic() < deadline, "a contestant neither finished nor waited for the others"
            time.sleep(0.004)
        return False


@contextmanager
def held(hold: Hold) -> Iterator[int]:
    """Holds a lock in a session of its own, whose id it yields, and then takes everything back."""
    with closing(connection.copy()) as gate:
        gate.set_autocommit(False)
        with gate.cursor() as cursor:
            cursor.execute(hold.sql, hold.values)
        try:
            yield gate.connection.info.backend_pid
        finally:
            gate.rollback()


def in_order(first: Work, *others: Work, hold: Hold | None = None) -> list[Any]:
    """Runs them at the same time, the first one a step ahead, and returns what each of them returned.

    The first is held between its lock and its commit until each of the others waits for it or has finished. With a
    `hold` of a row it is held at that row instead, and the next one queues behind it.
    """
    if hold is None:
        assert first.hold is not None, "say where the first can be held"
        hold = first.hold()
    with held(hold) as gate:
        contestants = [Contestant(first.do)]
        if not contestants[0].waits_for({gate}):
            contestants[0].result.result()
            raise AssertionError("the first finished without needing what was held")
        for work in others:
            ahead = {gate, *(each.session.result() for each in contestants)}
            contestants.append(Contestant(work.do))
            contestants[-1].waits_for(ahead)
    return [each.result.result(PATIENCE_S) for each in contestants]


# A starting line forces no order, and on a busy machine the works may happen to run one after the other. In so many
# rounds they also meet, so that a race from a starting line fails when its lock is deleted.
ROUNDS = 20


def at_once(*works: Work) -> list[Any]:
    """Runs them from one starting line, in whatever order PostgreSQL takes them."""
    line = threading.Barrier(len(works))

    def run(work: Work) -> Any:
        line.wait(PATIENCE_S)
        return work.do()

    started = [Contestant(lambda work=work: run(work)) for work in works]  # type: ignore[misc]
    return [each.result.result(PATIENCE_S) for each in started]


def signed_in(user: Any) -> str:
    """Signs the user in; returns the stored key of the session."""
    session = sessions.SessionStore()
    session[SESSION_KEY], session[HASH_SESSION_KEY] = str(user.pk), user.get_session_auth_hash()
    session[BACKEND_SESSION_KEY] = settings.AUTHENTICATION_BACKENDS[-1]
    session.save()
    return session.stored_key


class Handset:
    """A signed-in device of somebody, as the switchboard sees it: what a socket would do, without the socket."""

    def __init__(self, user: Any, name: str) -> None:
        self.user, self.name = user, name
        self.page, self.socket = uuid.uuid4(), uuid.uuid4()
        self.sessions: dict[str, str] = {}  # the stored keys, by the name of the sign-in
        switchboard.line_of(user.pk)
        self.id = self.arrive(new=True).device.pk

    @property
    def key(self) -> str:
        return str(self.user.pk)

    @property
    def seat(self) -> Seat:
        return Seat(self.key, self.id, self.name, self.page)

    @property
    def row(self) -> Device:
        return Device.objects.get(pk=self.id)

    def arrive(
        self,
        *,
        new: bool = False,
        page: uuid.UUID | None = None,
        socket: uuid.UUID | None = None,
        take: bool = False,
        sign_in: str = "",
    ) -> presence.Arrival:
        session = self.sessions.get(sign_in) or self.sessions.setdefault(sign_in, signed_in(self.user))
        id, page, socket = None if new else self.id, page or self.page, socket or self.socket
        return presence.arrive(self.key, Hello(session, id, self.name, "web", page, socket, take), STAYS_S)

    def drop(self) -> None:
        """The network is gone."""
        presence.leave(self.id, self.socket)

    def fall_silent(self, seconds: float) -> None:
        """Nothing was heard from it for so long."""
        row = self.row
        gone = row.last_seen_at - dt.timedelta(seconds=seconds)
        Device.objects.filter(pk=self.id).update(last_seen_at=gone, online_until=gone)

    def reload(self) -> "Handset":
        """A new page of the same device, which has replaced this one."""
        page = copy(self)
        page.page, page.socket = uuid.uuid4(), uuid.uuid4()
        page.arrive(take=True)
        return page

    def returns(self) -> presence.Arrival:
        """The device is back, and the others are told."""
        arrival = self.arrive()
        for call in switchboard.calls_of(self.key):
            if switchboard.is_back(call, self.key, self.id):
                switchboard.perform(call.id, machine.Heard(self.key, self.id))
        return arrival

    # Commands, as work for a contestant.

    def invites(
        self,
        *to: Any,
        call: uuid.UUID | None = None,
        kind: machine.Kind = "audio",
        data: Any = None,
        ring_s: int = 45,
        other: Other | None = None,
    ) -> Work:
        call = call or uuid.uuid4()
        names = [each.username for each in to]
        return Work(
            lambda: switchboard.place(self.user, self.seat, call, names, kind, data, ring_s, other=other),
            lambda: entry_of(call, 1),
        )

    def leaving(self, call: uuid.UUID) -> Other:
        """`and`: the other call is hung up in the same decision."""
        return Other(call, machine.Hangup(self.seat))

    def holding(self, call: uuid.UUID) -> Other:
        """`and`: the other call is held in the same decision."""
        return Other(call, machine.Hold(self.seat, True))

    def answers(self, call: uuid.UUID, other: Other | None = None, data: Any = None) -> Work:
        return commanding(call, machine.Answer(self.seat, data), other)

    def holds(self, call: uuid.UUID, on: bool = True, other: Other | None = None) -> Work:
        return commanding(call, machine.Hold(self.seat, on), other)

    def adds(self, call: uuid.UUID, *people: Any) -> Work:
        names = tuple(each.username for each in people)
        return commanding(call, machine.Add(self.seat, (), 45, unknown=names))

    def removes(self, call: uuid.UUID, person: Any) -> Work:
        return commanding(call, machine.Remove(self.seat, person.username))

    def transfers(self, call: uuid.UUID, to: Any) -> Work:
        return commanding(call, machine.Transfer(self.seat, None, to.username, 45))

    def brings(self, other: uuid.UUID, into: uuid.UUID, stay: bool = False) -> Work:
        """The other person of a call into another call: an attended transfer, or a merge."""
        hand_over = Other(other, machine.HandOver(self.seat, into))
        return commanding(into, machine.TakeOver(self.seat, other, stay=stay), hand_over)

    def rings(self, call: uuid.UUID) -> Work:
        return commanding(call, machine.Ringing(self.seat))

    def rejects(self, call: uuid.UUID) -> Work:
        return commanding(call, machine.Reject(self.seat))

    def hangs_up(self, call: uuid.UUID) -> Work:
        return commanding(call, machine.Hangup(self.seat))

    def ends(self, call: uuid.UUID) -> Work:
        return commanding(call, machine.End(self.seat))

    def moves(self, call: uuid.UUID) -> Work:
        return commanding(call, machine.Move(self.seat))

    def sets_media(self, call: uuid.UUID, mic: bool, cam: bool) -> Work:
        return commanding(call, machine.Media(self.seat, mic, cam))

    def sees(self, call: uuid.UUID) -> dict[str, Any] | None:
        """The view that this page would be shown now."""
        seen = view(value_of(call), self.key, self.id, timezone.now(), self.page)
        return None if seen is None else msgspec.to_builtins(seen)


def commanding(call: uuid.UUID, command: machine.Command, other: Other | None = None) -> Work:
    return Work(lambda: switchboard.perform(call, command, other=other), lambda: next_entry(call))


def signing_out(handset: Handset, call: uuid.UUID | None = None) -> Work:
    """Held at the call's lock, when one is given: by then the device is signed out."""
    return Work(lambda: switchboard.sign_out(handset.row), (lambda: next_entry(call)) if call else None)


def ticking(call: uuid.UUID) -> Work:
    """A clock that has been watching for long, and will find this call due."""
    return Work(watching().tick, lambda: next_entry(call))


def watching(since: dt.timedelta = dt.timedelta(days=1)) -> Clock:
    """A clock that began so long ago, while devices could be heard without a gap."""
    clock, now = Clock(), timezone.now()
    clock.began = now - since
    models.Hearing.objects.update_or_create(pk=1, defaults={"since": now - since, "until": now})
    return clock


def ring(caller: Handset, callee: Any, **arguments: Any) -> uuid.UUID:
    """A call that rings, from a device to a user."""
    outcome = caller.invites(callee, **arguments).do()
    assert outcome.refused is None and outcome.call.state == "ringing"
    call: uuid.UUID = outcome.call.id
    return call


def talk(caller: Handset, callee: Handset) -> uuid.UUID:
    """A call between two devices."""
    call = ring(caller, callee.user)
    assert callee.answers(call).do().refused is None
    return call


# What is looked at afterwards.


class Story(NamedTuple):
    """What the rows say of a call: its state and reason, each person's leg, and the commands that changed it."""

    state: str
    reason: str | None
    legs: dict[str, str]
    commands: list[str]


def story(call: uuid.UUID) -> Story:
    value = value_of(call)
    commands = [entry.command["type"] for entry in models.Entry.objects.filter(call=call)]
    return Story(value.state, value.reason, {leg.user: leg.state for leg in value.legs}, commands)


def value_of(call: uuid.UUID) -> machine.Call:
    value = models.load(call)
    assert value is not None, "there is no such call"
    return value


def leg_of(call: uuid.UUID, handset: Handset) -> machine.Leg:
    leg = machine.leg_of(value_of(call), handset.key)
    assert leg is not None
    return leg


def refusal(outcome: Outcome) -> tuple[str, dict[str, Any]] | None:
    """The code of the refusal and what it says about it, or None when the command was accepted."""
    return None if outcome.refused is None else (outcome.refused.code, outcome.refused.about)


def check_invariants() -> None:
    """The invariants of docs/races.md that rows can show, for every call. Assertions name them by their number."""
    replay = Replay(conf.deadlines())
    for entry in models.Entry.objects.order_by("pk"):
        replay.add(entry.call_id, entry.v, entry.at, entry.decode())
    for call in models.Call.objects.all():
        rows = value_of(call.pk)
        replay.check(rows)
        assert call.due_at == machine.due_at(rows, conf.deadlines())
