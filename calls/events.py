"""Events for other people's software, made of what is stored: nothing of it is in the path of a call.

One process at a time reads the entries that are new and writes an event for each thing that they tell (`collect`). What
an event says of its call is made when it is sent, by deciding the call's entries again.

Entries get their ids before they are committed, so one with a lower id may appear after one with a higher. Where an id
is missing, `collect` waits until every transaction that ran when it noticed is over: then the id will never appear.
"""

import datetime as dt
import uuid
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import msgspec
from django.db import connection, transaction
from django.db.models import Max, Q

from calls import conf, machine, models
from calls.api import told
from calls.models import Entry, Event, Feed, Webhook
from devices import times

TYPES = (
    "call.placed", "call.ringing", "call.answered", "call.held", "call.transferred", "call.ended", "leg.joined",
    "leg.left", "leg.missed", "webhook.off", "ping",
)  # fmt: skip
BATCH = 200  # entries in one go
KEEP = dt.timedelta(days=30)
FORGET_AT_ONCE = 1000
MAX_BODY = 20_000  # bytes
MANY_LEGS = 40  # told of a call whose whole would be too much


class Gap:
    """Where an id is missing among the entries, and the transaction after which it cannot appear any more."""

    def __init__(self) -> None:
        self.seen: tuple[int, int] | None = None  # the highest id when it was noticed, and the transaction
        self.known: dict[uuid.UUID, machine.Call] = {}  # the last calls, so that they need not be decided anew


def collect(gap: Gap) -> bool:
    """Writes the events of new entries; whether there may be more. Nothing while nobody asks for events."""
    feed = Feed.objects.filter(pk=1).first()
    if feed is None or (feed.entry < 0 and not _is_wanted(feed)):
        return False
    with transaction.atomic():
        feed = Feed.objects.select_for_update(skip_locked=True).filter(pk=1).first()
        if feed is None:  # another process does it
            return False
        if not _is_wanted(feed):
            if feed.entry >= 0:
                Feed.objects.filter(pk=1).update(entry=-1)
            return False
        if feed.entry < 0:
            begin()
            return False
        found = list(Entry.objects.filter(id__gt=feed.entry).order_by("id")[:BATCH])
        ready = _without_gap(feed.entry, found, gap)
        events = [event for entry in ready for event in _events(entry, gap.known)]
        Event.objects.bulk_create(events)
        if ready:
            Feed.objects.filter(pk=1).update(entry=ready[-1].pk)
        if len(gap.known) > 1000:
            gap.known.clear()
        return len(ready) == BATCH


def add(type: str, data: dict[str, Any]) -> Event:
    """An event that comes from no entry. It waits for a collection that goes on: else a reader could pass by events
    with lower numbers that are not committed yet."""
    with transaction.atomic():
        Feed.objects.get_or_create(pk=1)
        Feed.objects.select_for_update().get(pk=1)
        return Event.objects.create(type=type, at=times.now(), data=data)


def _is_wanted(feed: Feed) -> bool:
    lately = feed.read_at is not None and feed.read_at > times.now() - KEEP
    return lately or Webhook.objects.exists()


def begin() -> None:
    """From here on events are written, if they were not before."""
    Feed.objects.get_or_create(pk=1)
    Feed.objects.filter(pk=1, entry__lt=0).update(entry=_newest_entry())


def _newest_entry() -> int:
    """The highest id that was ever given to an entry."""
    if connection.vendor != "postgresql":
        return Entry.objects.aggregate(newest=Max("id"))["newest"] or 0
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_get_serial_sequence('calls_entry', 'id')")
        (sequence,) = cursor.fetchone()
        cursor.execute(f"SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM {sequence}")  # noqa: S608
        return int(cursor.fetchone()[0])


def _without_gap(after: int, entries: Sequence[Entry], gap: Gap) -> Sequence[Entry]:
    """Those that nothing can come before any more."""
    ids = [entry.pk for entry in entries]
    if connection.vendor != "postgresql" or not ids or ids[-1] - after == len(ids):
        return entries
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_snapshot_xmin(s)::text, pg_snapshot_xmax(s)::text FROM pg_current_snapshot() s")
        oldest, following = map(int, cursor.fetchone())
    sure = gap.seen[0] if gap.seen is not None and oldest >= gap.seen[1] else 0  # none below can appear
    if gap.seen is None or sure:
        gap.seen = (ids[-1], following)
    ready, last = [], after
    for entry in entries:
        if entry.pk != last + 1 and entry.pk > sure:
            break
        ready.append(entry)
        last = entry.pk
    return ready


def _events(entry: Entry, known: dict[uuid.UUID, machine.Call]) -> Iterator[Event]:
    before = known.get(entry.call_id)
    if before is not None and before.v == entry.v - 1:
        after = _decided(before, entry)
    else:
        before, after = call_at(entry.call_id, entry.v - 1), call_at(entry.call_id, entry.v)
    if after is None:
        return
    known[entry.call_id] = after
    if after.state == "ended":
        del known[entry.call_id]
    for type, user in happened(before, after):
        said = {"user": user} if user else {}
        yield Event(type=type, at=entry.at, call=entry.call_id, v=entry.v, data=said)


def happened(before: machine.Call | None, after: machine.Call) -> list[tuple[str, str]]:
    """What one change is to somebody outside: types of events, and the user if it is about one leg."""
    old = {leg.key: leg for leg in before.legs} if before else {}
    found: list[tuple[str, str]] = [] if before else [("call.placed", "")]
    rang = any(leg.alerted for leg in old.values())
    if not rang and any(leg.alerted for leg in after.legs):
        found.append(("call.ringing", ""))
    for leg in after.legs:
        was = old.get(leg.key)
        if leg.state == "joined" and (was is None or was.state != "joined") and before is not None:
            first = before.answered_at is None and after.answered_at is not None
            found.append(("call.answered" if first else "leg.joined", leg.user))
        if was is not None and was.held != leg.held and leg.state == "joined":
            found.append(("call.held", leg.user))
        if leg.reason == "transferred" and (was is None or was.reason != "transferred"):
            found.append(("call.transferred", leg.user))
        if leg.state not in machine.LIVE and (was is None or was.state in machine.LIVE):
            if was is not None and was.state == "joined":
                found.append(("leg.left", leg.user))
            elif leg.dir == "in" and leg.state in ("missed", "cancelled", "busy", "unreachable"):
                found.append(("leg.missed", leg.user))
    if after.state == "ended" and (before is None or before.state != "ended"):
        found.append(("call.ended", ""))
    return found


def call_at(call: uuid.UUID, v: int) -> machine.Call | None:
    """The call as it was in this version. If its entries cannot be decided again (a deadline was set to another length
    since), as it is now; None when it is not kept any more."""
    value: machine.Call | None = None
    if v == 0:
        return None
    for entry in Entry.objects.filter(call=call, v__lte=v).order_by("v"):
        if (decided := _decided(value, entry)) is None:
            break
        value = decided
    return value if value is not None and value.v == v else models.load(call)


def _decided(before: machine.Call | None, entry: Entry) -> machine.Call | None:
    try:
        return machine.decide(before, entry.decode(), entry.at, conf.deadlines())
    except (machine.Refused, msgspec.ValidationError):
        return None


def tell(event: Event) -> dict[str, Any]:
    """What is sent: at most MAX_BODY bytes of JSON."""
    data = dict(event.data)
    if event.call is not None:
        call = call_at(event.call, event.v or 1)
        data["call"] = msgspec.to_builtins(told.tell(call)) if call else {"id": str(event.call)}
    said = {
        "id": f"evt_{event.pk}",
        "type": event.type,
        "timestamp": event.at.astimezone(dt.UTC).isoformat().replace("+00:00", "Z"),
        "seq": event.pk,
        "data": data,
    }
    if len(msgspec.json.encode(said)) > MAX_BODY:
        legs = [leg | {"data": None} for leg in data["call"]["legs"]]
        live_first = sorted(legs, key=lambda leg: leg["state"] not in machine.LIVE)
        data["call"]["legs"], data["cut"] = live_first[:MANY_LEGS], True
    return said


def read(after: int, types: Collection[str], limit: int) -> list[Event]:
    """Events behind this one, in order."""
    wanted = Q(type__in=types) if types else Q()
    return list(Event.objects.filter(wanted, pk__gt=after).order_by("pk")[:limit])


def asked() -> None:
    """Somebody reads events: from now on they are written."""
    feed, _ = Feed.objects.get_or_create(pk=1)
    if feed.entry < 0:
        begin()
    if feed.read_at is None or feed.read_at < times.now() - dt.timedelta(hours=1):
        Feed.objects.filter(pk=1).update(read_at=times.now())


def newest() -> int:
    return Event.objects.aggregate(newest=Max("id"))["newest"] or 0


def oldest() -> int | None:
    """The first event that is kept, if any."""
    first = Event.objects.order_by("pk").values_list("pk", flat=True).first()
    return None if first is None else int(first)


def forget() -> bool:
    """Deletes events that are older than KEEP, with their deliveries; whether there may be more."""
    old = Event.objects.filter(at__lt=times.now() - KEEP).order_by("at")
    ids = list(old.values_list("pk", flat=True)[:FORGET_AT_ONCE])
    Event.objects.filter(pk__in=ids).delete()
    return len(ids) == FORGET_AT_ONCE
