"""A user's own calls as they were, read from the rows that the calls left behind: nothing is written twice.

Everything is read in a number of statements, and from a number of rows, that does not grow with the history. An entry
that is taken out is only hidden from its owner.
"""

import datetime as dt
from collections.abc import Collection
from typing import Any, Literal, NamedTuple

from django.db.models import Exists, OuterRef, Q

from calls import search
from calls.machine import LIVE
from calls.models import HistorySeen, Leg

PAGE = 30
LOOK = 2000  # calls that one page looks through
MISSED_LOOK = 200  # calls back from the last one; the badge counts what was missed among them
LONG_AGO = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
# Somebody who was in the call before and was rung again has missed nothing. A leg that was removed while it rang was
# missed.
MISSED_STATES = ("missed", "cancelled", "busy", "unreachable", "removed")
MISSED = Q(dir="in", joined_at=None, state__in=MISSED_STATES)
SHOWN = Q(hidden=False, call__state="ended")

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
    looks through at most LOOK calls, so a page can be short or even empty and still have a `next`.
    """
    mine = Leg.objects.filter(user=key).order_by("-id")
    if before is not None:
        mine = mine.filter(id__lt=before)
    last = mine.values_list("id", flat=True)[LOOK - 1 : LOOK].first()
    if last is not None:
        mine = mine.filter(id__gte=last)
    legs = mine.filter(SHOWN)
    if missed:
        legs = legs.filter(MISSED)
    for word in search.words(words):
        named = Leg.objects.filter(Q(name__icontains=word) | Q(username__icontains=word), call=OuterRef("call"))
        legs = legs.filter(Exists(named.exclude(user=key)))
    found = list(legs.select_related("call")[: PAGE + 1])
    shown = found[:PAGE]
    legs_of: dict[Any, list[Leg]] = {}
    for leg in Leg.objects.filter(call__in=[leg.call_id for leg in shown]).order_by("id"):
        legs_of.setdefault(leg.call_id, []).append(leg)
    entries = [_entry(leg, legs_of[leg.call_id]) for leg in shown]
    return Page(entries, shown[-1].id if len(found) > PAGE else last)


def missed(key: Any) -> int:
    """How many calls the user missed since the history was last looked at, among the most recent ones."""
    seen = HistorySeen.objects.filter(user=key).values_list("until", flat=True).first()
    recent = Leg.objects.filter(user=key).order_by("-id").values("id")[:MISSED_LOOK]
    legs = Leg.objects.filter(SHOWN, MISSED, user=key, id__in=recent)
    return (legs.filter(call__ended_at__gt=seen) if seen else legs).count()


def see(key: Any, until: dt.datetime) -> bool:
    """The user has looked at the calls that ended until then; whether that is news. It never moves back."""
    HistorySeen.objects.bulk_create([HistorySeen(user_id=key, until=LONG_AGO)], ignore_conflicts=True)
    return HistorySeen.objects.filter(user=key, until__lt=until).update(until=until) > 0


def hide(key: Any, ids: Collection[int] | None, hidden: bool = True) -> int:
    """Takes these entries (None: all) out of the user's history, or puts them back; returns how many."""
    mine = Leg.objects.filter(user=key, hidden=not hidden).exclude(state__in=LIVE)
    return (mine if ids is None else mine.filter(id__in=ids)).update(hidden=hidden)


def outcome(dir: str, state: str, reason: str | None, answered: bool, joined: bool = False) -> Outcome:
    """How a call went for the owner of this leg. `joined`: whether the owner was ever in the call."""
    if dir == "in" and not joined and state in MISSED_STATES:
        return "missed"
    if state == "rejected" or reason == "rejected":
        return "declined"
    if state == "lost":
        return "lost"
    if reason in ("cancelled", "no_answer", "unreachable", "busy", "lost", "operator", "expired"):
        return reason  # type: ignore[return-value]
    return "answered" if answered else "cancelled"


def _entry(leg: Leg, legs: list[Leg]) -> dict[str, Any]:
    """The leg's call as its owner reads of it. `legs` are all legs of the call, the own one included."""
    call = leg.call
    busy = {True: "on_call", False: "do_not_disturb"}[leg.reason == "incoming_limit"] if leg.state == "busy" else None
    to, by = _transfer(leg, legs)
    return {
        "id": leg.id,
        "call": str(call.id),
        "dir": leg.dir,
        "kind": call.kind,
        "outcome": outcome(leg.dir, leg.state, call.reason, call.answered_at is not None, leg.joined_at is not None),
        "busy": busy if leg.dir == "in" else None,
        "at": call.placed_at.isoformat(),
        "ended": (call.ended_at or call.placed_at).isoformat(),
        "secs": _seconds(call.answered_at, call.ended_at),
        "device": leg.device_name or None,
        "people": [_person(each) for each in legs if each.user_id != leg.user_id],
        "transferred_to": to and _person(to),
        "transferred_by": by and _person(by),
    }


def _transfer(leg: Leg, legs: list[Leg]) -> tuple[Leg | None, Leg | None]:
    """To whom the call was transferred, and by whom, as its owner is told. Who was brought in is told only by whom. Of
    several transfers the last one counts."""
    of = {str(each.user_id): each for each in legs}
    if leg.transferred_by in of and leg.joined_at is not None:
        return None, of[leg.transferred_by]
    for to in reversed(legs):
        by = of.get(to.transferred_by)
        if by is not None and by.reason == "transferred" and to.joined_at is not None:
            return to, by
    return None, None


def _person(leg: Leg) -> dict[str, str]:
    return {"id": leg.username, "name": leg.name}


def _seconds(answered: dt.datetime | None, ended: dt.datetime | None) -> int:
    return int((ended - answered).total_seconds()) if answered and ended else 0
