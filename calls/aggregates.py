"""What the wallboard shows, counted by the database. Costs the same whether ten calls are live or five thousand."""

import datetime as dt
from collections import defaultdict
from typing import Any, NamedTuple

from django.db import connection
from django.db.models import Aggregate, Avg, Count, DurationField, ExpressionWrapper, F, Q, QuerySet, Sum
from django.db.models.functions import TruncHour, TruncMinute

from calls.models import Call, Leg, Refusal
from devices import times
from devices.models import Device

ANSWER = ExpressionWrapper(F("answered_at") - F("placed_at"), output_field=DurationField())
COUNTS: dict[str, Any] = {
    "placed": Count("pk"),
    "answered": Count("pk", filter=Q(answered_at__isnull=False)),
    "busy": Count("pk", filter=Q(reason="busy")),
    "settled": Count("pk", filter=~Q(state="ringing")),
    "answer_s": Avg(ANSWER, filter=Q(answered_at__isnull=False)),
}
FRACTIONS = {"p50": 0.5, "p95": 0.95}
PERCENTILES: dict[str, Any] = {  # of what was answered: nothing else has such a time
    name: Aggregate(
        ANSWER,
        function="PERCENTILE_CONT",
        template=f"%(function)s({fraction}) WITHIN GROUP (ORDER BY %(expressions)s)",
        output_field=DurationField(),
    )
    for name, fraction in FRACTIONS.items()
}
TIMES = ("answer_s", *FRACTIONS)
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
    minute = placed_since(times.now() - dt.timedelta(minutes=1)).aggregate(placed=Count("pk"))
    return {"ringing": states.get("ringing", 0), "active": states.get("active", 0), "per_minute": minute["placed"]}


def online() -> int:
    """Devices that were heard from of late."""
    return Device.objects.filter(signed_out_at=None, online_until__gt=times.now()).count()


def plot(span: str) -> dict[str, Any]:
    """Columns of equal length: `at` (seconds since 1970), and for each step what was placed, answered, busy, and
    stopped by a limit, the part of the settled calls that was answered, and the mean and percentiles of the seconds
    until the answer. A step without calls has zeros, and None for rates and times. `totals` says it of the whole span.
    """
    back, trunc, step = SPANS[span]
    end = times.now().replace(second=0, microsecond=0)
    end = end.replace(minute=0) if trunc is TruncHour else end
    first = end - back + step
    found = _by_slot(placed_since(first).annotate(slot=trunc("placed_at")))
    limits = _limits(first, trunc)
    slots = [first + n * step for n in range(round(back / step))]
    columns: dict[str, Any] = {"at": [int(slot.timestamp()) for slot in slots]}
    for name in LINES:
        columns[name] = [found[slot][name] if slot in found else 0 for slot in slots]
    columns["limit_hits"] = [limits.get(slot, 0) for slot in slots]
    columns["answer_rate"] = [_rate(found[slot]) if slot in found else None for slot in slots]
    for name in TIMES:
        columns[name] = [_seconds(found[slot][name]) if slot in found else None for slot in slots]
    return columns | {"totals": _totals(placed_since(first), limits, back)}


def _totals(calls: QuerySet[Call], limits: dict[dt.datetime, int], back: dt.timedelta) -> dict[str, Any]:
    counted = calls.aggregate(**COUNTS | _percentiles())
    if not _percentiles():
        counted |= _percentiles_of(list(calls.exclude(answered_at=None).values_list(ANSWER, flat=True)))
    return {
        **{name: counted[name] for name in LINES},
        "limit_hits": sum(limits.values()),
        "per_minute": round(counted["placed"] / (back / dt.timedelta(minutes=1)), 2),
        "answer_rate": _rate(counted),
        **{name: _seconds(counted[name]) for name in TIMES},
    }


def _by_slot(calls: Any) -> dict[dt.datetime, dict[str, Any]]:
    rows = calls.order_by("slot").values("slot").annotate(**COUNTS | _percentiles())
    found = {row["slot"]: row for row in rows}
    if not _percentiles():
        times = defaultdict(list)
        for slot, took in calls.exclude(answered_at=None).values_list("slot", ANSWER):
            times[slot].append(took)
        for slot, row in found.items():
            row |= _percentiles_of(times[slot])
    return found


def _percentiles() -> dict[str, Any]:
    """What the database can count of them: SQLite has no percentiles, and few calls."""
    return PERCENTILES if connection.vendor == "postgresql" else {}


def _percentiles_of(times: list[dt.timedelta]) -> dict[str, dt.timedelta | None]:
    """As PostgreSQL does it: between the two nearest times."""
    if not times:
        return dict.fromkeys(FRACTIONS)
    times = sorted(times)
    found: dict[str, dt.timedelta | None] = {}
    for name, fraction in FRACTIONS.items():
        whole, part = divmod(fraction * (len(times) - 1), 1)
        low, high = times[int(whole)], times[min(int(whole) + 1, len(times) - 1)]
        found[name] = low + part * (high - low)
    return found


def _limits(first: dt.datetime, trunc: Any) -> dict[dt.datetime, int]:
    """How often somebody was at a limit: a callee, which is a call that was busy or one of several people, or the
    caller, which is no call at all."""
    busy = placed_since(first).filter(state="ended", reason="busy", group=False)
    several = Call.objects.filter(group=True, placed_at__gte=first)
    full = Leg.objects.filter(Q(call__in=busy) | Q(call__in=several), reason="incoming_limit")
    refused = Refusal.objects.filter(at__gte=first, code="limit_reached")
    found: dict[dt.datetime, int] = defaultdict(int)
    for slot, number in (
        full.order_by().annotate(slot=trunc("call__placed_at")).values_list("slot").annotate(number=Count("pk"))
    ):
        found[slot] += number
    for slot, number in refused.order_by().annotate(slot=trunc("at")).values_list("slot").annotate(number=Sum("times")):
        found[slot] += number
    return found


def _rate(counted: dict[str, Any]) -> float | None:
    return round(counted["answered"] / counted["settled"], 4) if counted["settled"] else None


def placed_since(at: dt.datetime) -> QuerySet[Call]:
    return Call.objects.filter(since(at))


def since(at: dt.datetime) -> Q:
    """Placed at this time or later. Said so that the index in the order of the calls' list finds them: the ended ones
    by time, and the few that are live."""
    return Q(Q(state="ended", placed_at__gte=at) | ~Q(state="ended"), placed_at__gte=at)


def _seconds(length: dt.timedelta | None) -> float | None:
    return None if length is None else round(length.total_seconds(), 2)
