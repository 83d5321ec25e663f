"""A user's own calls as they were, read from the rows that the calls left behind: nothing is written twice.

Everything is read in a number of statements, and from a number of rows, that does not grow with the history. An entry
that is taken out is only hidden from its owner.
"""

import datetime as dt
from collections.abc import Collection
from typing import Any, Literal, NamedTuple

from django.db.models import Exists, OuterRef, Q, QuerySet

from calls import search
from calls.machine import LIVE
from calls.models import HistorySeen, Leg

PAGE = 30
LOOK = 2000  # calls that one page looks through
MISSED_LOOK = 200  # calls back from the last one; the badge counts what was missed among them
LONG_AGO = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
MISSED = Q(dir="in", state__in=("missed", "cancelled", "busy", "unreachable"))

Outcome = Literal[
    "answered", "missed", "declined", "cancelled", "no_answer", "unreachable", "busy", "lost", "operator", "expired"
]


class Page(NamedTuple):
    """Some entries, the newest first; `next` is where the following page begins, or None at the end."""

    entries: list[dict[str, Any]]
    next: int | None


def page(key: Any, *, words: str = "", missed: bool = False, before: int | None = None) -> Page:
    """One page of the user's ended calls with people whose names contain these words. Three statements.

    Pages go by the leg's id, which rises as calls are placed: an entry that is deleted meanwhile shifts nothing. Each
    looks through at most LOOK calls, so that one in which little is found is short, or empty, and has a `next`.
    """
    mine = Leg.objects.filter(user=key).order_by("-id")
    if before is not None:
        mine = mine.filter(id__lt=before)
    last = mine.values_list("id", flat=True)[LOOK - 1 : LOOK].first()
    if last is not None:
        mine = mine.filter(id__gte=last)
    legs = mine.filter(hidden=False, call__state="ended")
    if missed:
        legs = legs.filter(MISSED)
    for word in search.words(words):
        named = Leg.objects.filter(Q(name__icontains=word) | Q(username__icontains=word), call=OuterRef("call"))
        legs = legs.filter(Exists(named.exclude(user=key)))
    found = list(legs.select_related("call")[: PAGE + 1])
    shown = found[:PAGE]
    others: dict[Any, list[dict[str, str]]] = {}
    with_whom = Leg.objects.filter(call__in=[leg.call_id for leg in shown]).exclude(user=key).order_by("id")
    for call, username, name in with_whom.values_list("call", "username", "name"):
        others.setdefault(call, []).append({"id": username, "name": name})
    entries = [_entry(leg, others.get(leg.call_id, [])) for leg in shown]
    return Page(entries, shown[-1].id if len(found) > PAGE else last)


def missed(key: Any) -> int:
    """How many calls the user missed since the history was last looked at, among the most recent ones."""
    seen = HistorySeen.objects.filter(user=key).values_list("until", flat=True).first()
    recent = Leg.objects.filter(user=key).order_by("-id").values("id")[:MISSED_LOOK]
    legs = _own(key).filter(MISSED, id__in=recent)
    return (legs.filter(call__ended_at__gt=seen) if seen else legs).count()


def see(key: Any, until: dt.datetime) -> bool:
    """The user has looked at the calls that ended until then; whether that is news. It never moves back."""
    HistorySeen.objects.bulk_create([HistorySeen(user_id=key, until=LONG_AGO)], ignore_conflicts=True)
    return HistorySeen.objects.filter(user=key, until__lt=until).update(until=until) > 0


def hide(key: Any, ids: Collection[int] | None, hidden: bool = True) -> int:
    """Takes these entries (None: all) out of the user's history, or puts them back; returns how many."""
    mine = Leg.objects.filter(user=key, hidden=not hidden).exclude(state__in=LIVE)
    return (mine if ids is None else mine.filter(id__in=ids)).update(hidden=hidden)


def outcome(dir: str, state: str, reason: str | None, answered: bool) -> Outcome:
    """How a call went, from where this leg's owner stands."""
    if dir == "in" and state in ("missed", "cancelled", "busy", "unreachable"):
        return "missed"
    if state == "rejected" or reason == "rejected":
        return "declined"
    if reason in ("cancelled", "no_answer", "unreachable", "busy", "lost", "operator", "expired"):
        return reason  # type: ignore[return-value]
    return "answered" if answered else "cancelled"


def _own(key: Any) -> QuerySet[Leg]:
    return Leg.objects.filter(user=key, hidden=False, call__state="ended")


def _entry(leg: Leg, people: list[dict[str, str]]) -> dict[str, Any]:
    call = leg.call
    busy = {True: "on_call", False: "do_not_disturb"}[leg.reason == "incoming_limit"] if leg.state == "busy" else None
    return {
        "id": leg.id,
        "call": str(call.id),
        "dir": leg.dir,
        "kind": call.kind,
        "outcome": outcome(leg.dir, leg.state, call.reason, call.answered_at is not None),
        "busy": busy if leg.dir == "in" else None,
        "at": call.placed_at.isoformat(),
        "ended": (call.ended_at or call.placed_at).isoformat(),
        "secs": _seconds(call.answered_at, call.ended_at),
        "device": leg.device_name or None,
        "people": people,
    }


def _seconds(answered: dt.datetime | None, ended: dt.datetime | None) -> int:
    return int((ended - answered).total_seconds()) if answered and ended else 0
