"""Holds the record of what devices were told against the rows, by the invariants of a call.

Needs Django's settings, with DATABASE_URL naming the PostgreSQL past all proxies.
"""

import asyncio
import datetime as dt
import uuid
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import msgspec
import psycopg
from django.db import close_old_connections, connection, transaction
from django.db.models import Q
from django.utils import timezone

from calls import conf, machine, models
from calls.view import view
from tests.chaos.client import NO_REPLY, ORDER_S, Device, Order, Record, Told
from tests.chaos.crowd import Crowd
from tests.chaos.stage import now, stretch
from tests.truth import Replay, check_knowledge, timeless

QUIET_S = 10.0  # without new orders, after which all devices have to know what the rows say
HANG_S = 6.0  # /readyz may not say that all is well while a probe, who needs no row that others hold, waits for longer
AGAIN_S = 1.0  # /readyz may be this much quicker than a waiting probe to notice that all is well again
LATE_S = 5.0  # a deadline that was not acted on for so long was missed
SLACK_S = 2.0  # between a view and the moment at which it is looked at

# What is checked: the name of the column, and what it means.
COLUMNS = {
    "1": "at most one device is bound to a leg, and an epoch never falls",
    "2": "`ended` is final",
    "3": "an ended call has no ringing or joined leg",
    "4": "live legs never exceed the limits in force at admission",
    "5": "a device makes noise only while its leg rings and time is left",
    "6": "every command gets exactly one reply, or its connection closes; nobody is signed out or refused a hello",
    "7": "after 10 s of quiet the view of every connected device equals the database's",
    "8": "a signal reaches only the page that the addressed leg is bound to",
    "9": "one reason for each call, one leg for each person, and nobody who answered or rejected has a missed call",
    "10": "the entries, decided again in order, give the rows",
    "kept": "what a device was told, an acknowledged command included, is what the entries give for that version",
    "early": "no device is told of a change before it is committed",
    "deadlines": "no call is ringing after its deadline",
    "lost": "no call ends that nobody ended: none as lost, none cancelled for a caller who was there, none before its "
    "ring has run out",
    "unanswered": "no order waits longer than its deadline on an open connection",
    "readyz": "`/readyz` is not ok while an order hangs",
    "neighbours": "while somebody holds a row, those who do not need it wait for nothing",
    "recovery": "when the fault is over, all devices are served, and both servers ready, within the time allowed",
}


class Violation(NamedTuple):
    """An invariant that did not hold: the name of its column, and what was seen."""

    column: str
    what: str


class Checker:
    """Knows all entries that there were at the last check."""

    def __init__(self) -> None:
        self.replay = Replay(conf.deadlines())
        self.entry = 0  # the key of the last entry that was read
        self.broken: set[uuid.UUID] = set()  # calls whose entries cannot be decided again: said once

    async def check(self, crowd: Crowd, *, short: bool = False) -> list[Violation]:
        """Everything, after a quiet time: nothing is asked then but pings. Clears the record."""
        found: list[Violation] = []
        crowd.going.clear()
        await crowd.settled(25 * stretch())
        found += await self._quiet(crowd, short)
        found += [Violation(*fault) for fault in crowd.record.faults]
        found += self._check_orders(crowd.record.orders)
        found += self._check_readyz(crowd)
        found += self._check_told(crowd.record)
        found += self._check_letters(crowd.record)
        found += self._check_lost(crowd)
        self._forget(crowd)
        return found

    # --- rows ---

    def _read(self, held: set[str]) -> tuple[list[models.Entry], list[machine.Call], dict[uuid.UUID, float]]:
        """The entries since the last time; the calls that these belong to, those that devices know of, and those that
        live; and for how many seconds calls are overdue. All as of one moment."""
        close_old_connections()
        try:
            with transaction.atomic():
                with connection.cursor() as cursor:
                    cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                entries = list(models.Entry.objects.filter(pk__gt=self.entry).order_by("pk"))
                touched = {str(entry.call_id) for entry in entries} | held
                rows = models.load_all(models.Call.objects.filter(Q(pk__in=touched) | ~Q(state="ended")))
                late = timezone.now() - dt.timedelta(seconds=SLACK_S)
                overdue = models.Call.objects.exclude(state="ended").filter(due_at__lt=late)
                since = {id: timezone.now() - due for id, due in overdue.values_list("pk", "due_at") if due}
                return entries, rows, {id: passed.total_seconds() for id, passed in since.items()}
        finally:
            connection.close()

    async def _quiet(self, crowd: Crowd, short: bool) -> list[Violation]:
        """Waits, and compares the rows with their entries and with what the devices know. A short run does not wait to
        the end when everybody knows everything before."""
        end = now() + QUIET_S * stretch()
        found: list[Violation] = []
        if not short:
            await asyncio.sleep(QUIET_S)
        agreed = 0
        while True:
            held = {id for device in crowd.awake for id in device.calls}
            entries, rows, overdue = await asyncio.to_thread(self._read, held)
            found += self._add(entries)
            changed = {entry.call_id for entry in entries}
            differing = [*self._compare(crowd.awake, rows)]
            agreed = 0 if differing or changed else agreed + 1
            late = [id for id, seconds in overdue.items() if seconds > LATE_S * stretch()]
            agrees = agreed >= 2 if short else not differing
            if (agrees and len(late) == len(overdue)) or now() > end + LATE_S * stretch():
                break
            await asyncio.sleep(0.5)
        found += differing
        found += [Violation("deadlines", f"call {id} rings {overdue[id]:.0f} s after its deadline") for id in late]
        for call in rows:
            if call.id not in self.broken:
                try:
                    self.replay.check(call)
                except AssertionError as error:
                    found.append(numbered(error, f"call {call.id}"))
        return found

    def _add(self, entries: Sequence[models.Entry]) -> Iterator[Violation]:
        for entry in entries:
            self.entry = max(self.entry, entry.pk)
            if entry.call_id in self.broken:
                continue
            try:
                self.replay.add(entry.call_id, entry.v, entry.at, entry.decode())
            except AssertionError as error:
                if not str(error).startswith("4:"):  # a call over the limit can be decided all the same
                    self.broken.add(entry.call_id)
                yield numbered(error, f"entry {entry.v} of call {entry.call_id}")

    @staticmethod
    def _compare(devices: Sequence[Device], rows: list[machine.Call]) -> Iterator[Violation]:
        """What connected devices know, and whether they make noise, against the rows."""
        of = {str(call.id): call for call in rows}
        for device in devices:
            if not device.welcomed.is_set() or device.device is None:
                yield Violation("recovery", f"{device} is not connected")
                continue
            try:
                check_knowledge(device.key, device, rows)
            except AssertionError as error:
                yield Violation("7", f"{error}: {difference(device, of)}")
            for id in device.held:
                mine = machine.leg_of(of[id], device.key) if id in of else None
                left = (mine.ring_until - timezone.now()).total_seconds() if mine and mine.ring_until else 0.0
                due = mine is not None and mine.state == "ringing" and left > 0
                if device.rings(id) != due and not 0 < left < SLACK_S:
                    state = mine.state if mine else "unknown"
                    yield Violation(
                        "5", f"{device} rings: {device.rings(id)}, but its leg is {state}, {left:.1f} s left"
                    )

    # --- the record ---

    @staticmethod
    def _check_orders(orders: Sequence[Order]) -> Iterator[Violation]:
        for order in orders:
            if order.cmd not in NO_REPLY and order.ended is None and order.took > ORDER_S * stretch() / 2:
                yield Violation("unanswered", str(order))

    @staticmethod
    def _check_readyz(crowd: Crowd) -> Iterator[Violation]:
        patience = HANG_S * stretch()
        for order in crowd.record.orders:
            asks = order.by.user.startswith("probe") and order.cmd not in (*NO_REPLY, "ping")
            if not asks or order.took <= patience:
                continue
            began, ended = order.sent + patience, order.sent + order.took - AGAIN_S * stretch()
            lies = [poll for poll in crowd.polls if poll.server == order.at and began <= poll.sent < ended and poll.ok]
            if lies:
                yield Violation("readyz", f"/readyz of server {order.at} said ok {len(lies)} times while: {order}")

    def _check_told(self, record: Record) -> Iterator[Violation]:
        """Each view that was told is that of a version which the entries have."""
        right: dict[tuple[Any, ...], Any] = {}
        for told in record.told:
            id, v = uuid.UUID(told.view["id"]), told.view["v"]
            if id in self.broken or told.by.device is None:
                continue
            call = self.replay.versions.get((id, v))
            if call is None:
                yield Violation("kept", f"{told.by} was told of version {v} of call {id}, which is not there")
                continue
            seen_as = id, v, told.by.key, told.by.device, told.page
            if seen_as not in right:
                place = uuid.UUID(told.by.device), timezone.now(), uuid.UUID(told.page)
                seen = view(call, told.by.key, *place)
                right[seen_as] = timeless(msgspec.to_builtins(seen)) if seen else None
            if timeless(told.view) != right[seen_as]:
                yield Violation("kept", f"{told.by} was told something else of call {id} in version {v}: {told.view}")

    def _check_letters(self, record: Record) -> Iterator[Violation]:
        """Each signal was received once, by a page that the leg of the addressed person was bound to."""
        got: defaultdict[str, int] = defaultdict(int)
        for letter in record.letters:
            body, id = letter.frame["body"], uuid.UUID(letter.frame["call"])
            got[body["id"]] += 1
            bound = any(
                leg.key == letter.by.key and str(leg.device) == letter.by.device and str(leg.page) == letter.page
                for (call, _), value in self._versions_of(id)
                for leg in value.legs
            )
            if body["to"] != letter.by.user or not bound or got[body["id"]] > 1:
                yield Violation("8", f"{letter.by} received a signal for {body['to']} in call {id}")

    def _versions_of(self, id: uuid.UUID) -> Iterator[tuple[tuple[uuid.UUID, int], machine.Call]]:
        for v in range(1, len(self.replay.said.get(id, ())) + 1):
            if (id, v) in self.replay.versions:
                yield (id, v), self.replay.versions[id, v]

    def _check_lost(self, crowd: Crowd) -> Iterator[Violation]:
        """Calls that ended though nobody ended them. In this suite no device is silent of its own will, nobody is
        signed out, and no operator ends anything."""
        first: dict[str, Told] = {}
        for told in crowd.record.told:
            if told.view["state"] == "ended":
                first.setdefault(told.view["id"], told)
        for name, told in first.items():
            id = uuid.UUID(name)
            call = self.replay.calls.get(id)
            if call is None or call.state != "ended":
                continue
            last = self.replay.said[id][-1]
            if isinstance(last, machine.Silent | machine.SignedOut) or call.reason in ("lost", "expired", "operator"):
                states = ", ".join(f"{leg.user} {leg.state}" for leg in call.legs)
                yield Violation("lost", f"call {id} ended as {call.reason} by {type(last).__name__}: {states}")
            elif isinstance(last, machine.Due) and name in crowd.placed:
                placed, ring_s = crowd.placed[name]
                rang = told.at - placed
                if rang < ring_s - 0.5:
                    yield Violation("lost", f"call {id} was to ring for {ring_s} s, and ended after {rang:.1f} s")

    def _forget(self, crowd: Crowd) -> None:
        """Clears what was checked."""
        record = crowd.record
        open_orders = [order for order in record.orders if order.ended is None and order.cmd not in NO_REPLY]
        for part in (record.orders, record.told, record.letters, record.faults, crowd.polls):
            part.clear()
        record.orders += open_orders
        record.repaired = record.given_up = 0
        for device in crowd.devices:
            for id in [id for id, known in device.calls.items() if known["state"] == "ended"]:
                del device.calls[id]


class Spy:
    """Looks into the database at the moment when a device is told of a change: the change has to be there."""

    def __init__(self, url: str) -> None:
        self.url, self.found = url, list[Violation]()
        self.tasks: set[asyncio.Task[None]] = set()
        self.turn = asyncio.Lock()

    async def __aenter__(self) -> "Spy":
        self.connection = await psycopg.AsyncConnection.connect(self.url, autocommit=True)
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*self.tasks)
        await self.connection.close()

    def look(self, told: Told) -> None:
        if self.turn.locked() and len(self.tasks) > 20:
            return  # the others say enough
        task = asyncio.create_task(self._look(told))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _look(self, told: Told) -> None:
        async with self.turn:
            cursor = await self.connection.execute("SELECT v FROM calls_call WHERE id = %s", [told.view["id"]])
            row = await cursor.fetchone()
        if row is None or row[0] < told.view["v"]:
            there = f"version {row[0]}" if row else "nothing"
            what = f"{told.by} was told of version {told.view['v']} of call {told.view['id']}; committed was {there}"
            self.found.append(Violation("early", what))


def numbered(error: AssertionError, where: str) -> Violation:
    """The violation of the invariant whose number the message begins with."""
    number, _, what = str(error).partition("\n")[0].partition(": ")
    return Violation(number, f"{where}: {what}") if number in COLUMNS else Violation("10", f"{where}: {error}")


def difference(device: Device, rows: dict[str, machine.Call]) -> str:
    """In which calls the device's views and the rows differ."""
    parts = []
    for id in sorted({*device.calls, *rows}):
        known, call = device.calls.get(id), rows.get(id)
        knows = f"{known['state']} v{known['v']}" if known else "nothing"
        there = f"{call.state} v{call.v}" if call else "nothing"
        if knows != there and (known or (call and machine.leg_of(call, device.key))):
            parts.append(f"call {id}: it knows {knows}, the rows say {there}")
    return "; ".join(parts)
