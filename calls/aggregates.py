"""What the wallboard shows, counted by the database. Costs the same whether ten calls are live or five thousand."""

import datetime as dt
from typing import Any, NamedTuple

from django.db.models import Avg, Count, DurationField, ExpressionWrapper, F, Q, QuerySet
from django.db.models.functions import TruncHour, TruncMinute
from django.utils import timezone

from calls.models import Call, Refusal
from devices.models import Device

ANSWER = ExpressionWrapper(F("answered_at") - F("placed_at"), output_field=DurationField())
COUNTS: dict[str, Any] = {
    "placed": Count("pk"),
    "answered": Count("pk", filter=Q(answered_at__isnull=False)),
    "busy": Count("pk", filter=Q(reason="busy")),
    "settled": Count("pk", filter=~Q(state="ringing")),
    "answer_s": Avg(ANSWER, filter=Q(answered_at__isnull=False)),
}
LINES = ("placed", "answered", "busy")


class Span(NamedTuple):
    """A plot's stretch of time, in steps that the database truncates to."""

    back: dt.timedelta
    trunc: Any
    step: dt.timedelta


SPANS = {
    "hour": Span(dt.timedelta(hours=1), TruncMinute, dt.timedelta(minutes=1)),
    "day": Span(dt.timedelta(days=1), TruncHour, dt.timedelta(hours=1)),
    "week": Span(dt.timedelta(days=7), TruncHour, dt.timedelta(hours=1)),
}


def now() -> dict[str, Any]:
    """Calls that ring and are active, and those placed in the last minute."""
    states = dict(Call.objects.exclude(state="ended").order_by().values_list("state").annotate(Count("pk")))
    minute = placed_since(timezone.now() - dt.timedelta(minutes=1)).aggregate(placed=Count("pk"))
    return {"ringing": states.get("ringing", 0), "active": states.get("active", 0), "per_minute": minute["placed"]}


def online() -> int:
    """Devices that were heard from of late."""
    return Device.objects.filter(signed_out_at=None, online_until__gt=timezone.now()).count()


def last_hour() -> dict[str, Any]:
    """Rates and times of the calls of the last hour; None where there was no call to tell from."""
    since = timezone.now() - dt.timedelta(hours=1)
    counted = placed_since(since).aggregate(**COUNTS)
    refused = Refusal.objects.filter(at__gte=since, code="limit_reached").count()
    return {
        "placed": counted["placed"],
        "answer_rate": counted["answered"] / counted["settled"] if counted["settled"] else None,
        "busy": counted["busy"],
        "limit_hits": counted["busy"] + refused,
        "answer_s": _seconds(counted["answer_s"]),
    }


def plot(span: str) -> dict[str, Any]:
    """Columns of equal length: `at` (seconds since 1970), and for each step what was placed, answered and busy, and how
    long answers took. A step without calls has zeros, and None for the time."""
    back, trunc, step = SPANS[span]
    end = timezone.now().replace(second=0, microsecond=0)
    end = end.replace(minute=0) if trunc is TruncHour else end
    first = end - back + step
    rows = placed_since(first).annotate(slot=trunc("placed_at")).order_by("slot").values("slot").annotate(**COUNTS)
    found = {row["slot"]: row for row in rows}
    slots = [first + n * step for n in range(round(back / step))]
    columns: dict[str, Any] = {"at": [int(slot.timestamp()) for slot in slots]}
    for name in LINES:
        columns[name] = [found[slot][name] if slot in found else 0 for slot in slots]
    columns["answer_s"] = [_seconds(found[slot]["answer_s"]) if slot in found else None for slot in slots]
    return columns


def placed_since(since: dt.datetime) -> QuerySet[Call]:
    """Said so that the index in the order of the calls' list finds them: the ended ones by time, and the few live."""
    return Call.objects.filter(Q(state="ended", placed_at__gte=since) | ~Q(state="ended"), placed_at__gte=since)


def _seconds(length: dt.timedelta | None) -> float | None:
    return None if length is None else round(length.total_seconds(), 2)
