"""The people who can be called: the list that a client shows and searches, and who of them is online.

Every page that is looked at asks again and again for the presence of the people on its screen. So what the sockets of
this process ask within a moment goes to the database as one statement, and an answer holds for a second.
"""

import asyncio
import base64
import time
from collections.abc import Collection
from typing import Any, Literal, NamedTuple

import msgspec
from django.contrib.auth import get_user_model
from django.db.models import Exists, OuterRef, Q, QuerySet
from django.db.models.fields.tuple_lookups import Tuple, TupleGreaterThan  # type: ignore[import-untyped]

from calls import pool, search
from calls.models import name_of
from devices import times
from devices.models import Device

A_PAGE = 100
NAMES = ("first_name", "last_name", "username")  # the order of the list, and of the index `person_name`
GATHER_S = 0.25  # in which questions for presence gather
FRESH_S = 1.0  # for which an answer holds

State = Literal["online", "offline"]


class Page(NamedTuple):
    """Some people by name, those who are online first: [{id, name, online}]. `next` is where the following page
    begins, None at the end."""

    people: list[dict[str, Any]]
    next: str | None


def page(key: Any, *, words: str = "", after: str = "") -> Page:
    """Everybody active but this user whose names contain these words, a page at a time. Two statements, each of which
    reads one page of an index when nothing is searched for.

    `after` is the `next` of the page before; ValueError when it is not.
    """
    people = get_user_model()._default_manager.filter(is_active=True).only(*NAMES)
    if after:
        people = people.filter(TupleGreaterThan(Tuple(*NAMES), _names(after)))
    for word in search.words(words):
        people = people.filter(
            Q(username__icontains=word) | Q(first_name__icontains=word) | Q(last_name__icontains=word)
        )
    found = list(people.order_by(*NAMES)[: A_PAGE + 2])  # one may be the user, and one more is the next page's
    following = _cursor(found[A_PAGE - 1]) if len(found) > A_PAGE else None
    shown = [each for each in found[:A_PAGE] if each.pk != key]
    online = set(_signed_in(user__in=[each.pk for each in shown]).values_list("user", flat=True))
    said = [{"id": each.get_username(), "name": name_of(each), "online": each.pk in online} for each in shown]
    return Page(sorted(said, key=lambda each: not each["online"]), following)


def _cursor(person: Any) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode([getattr(person, name) for name in NAMES])).decode()


def _names(cursor: str) -> tuple[str, ...]:
    first, last, username = msgspec.json.decode(base64.urlsafe_b64decode(cursor), type=tuple[str, str, str])
    if "\0" in first + last + username:
        raise ValueError("no name has that")
    return first, last, username


def _signed_in(**whose: Any) -> QuerySet[Device]:
    return Device.objects.filter(signed_out_at=None, online_until__gt=times.now(), **whose)


def online(names: Collection[str]) -> set[str]:
    """The user names of those who are online. One statement."""
    people = get_user_model()._default_manager.filter(username__in=names, is_active=True)
    return set(people.filter(Exists(_signed_in(user=OuterRef("pk")))).values_list("username", flat=True))


class Presence:
    """One for each process: answers from what was read within the last second, and gathers what it has to ask."""

    def __init__(self) -> None:
        self.known: dict[str, tuple[State, float]] = {}  # and until when, by time.monotonic()
        self.wanted: set[str] = set()
        self.looking: asyncio.Task[None] | None = None
        self.loop: asyncio.AbstractEventLoop | None = None

    async def of(self, names: Collection[str]) -> dict[str, State]:
        """The state of each of these user names; one that nobody has, or had, is offline. Raises what the database
        raises."""
        loop = asyncio.get_running_loop()
        if self.loop is not loop:  # what was read for another loop is not kept
            self.known, self.wanted, self.looking, self.loop = {}, set(), None, loop
        now = time.monotonic()
        stale = [name for name in names if name not in self.known or self.known[name][1] <= now]
        if stale:
            if self.looking is None:
                self.wanted = set()
                self.looking = asyncio.create_task(self._look())
            self.wanted.update(stale)
            await asyncio.shield(self.looking)  # others wait for it too
        return {name: self.known[name][0] if name in self.known else "offline" for name in names}

    async def _look(self) -> None:
        await asyncio.sleep(GATHER_S)
        wanted, self.looking = self.wanted, None
        found = await pool.run(online, wanted)
        now = time.monotonic()
        self.known = {name: each for name, each in self.known.items() if each[1] > now}
        self.known |= {name: ("online" if name in found else "offline", now + FRESH_S) for name in wanted}


presence = Presence()
