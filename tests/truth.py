"""What has to be so, computed from the rows: what a page has to know, and what the entries of calls have to give."""

import datetime as dt
import json
import uuid
from typing import Any

import msgspec
from django.utils import timezone

from calls import machine
from calls.view import view
from tests.pages import Page


def check_knowledge(key: str, page: Page, calls: list[machine.Call]) -> None:
    """The user's page knows every live call, none that it may not see, and each as `calls` (all there are) say. It need
    not know of a call that went on without its user while its frames were lost."""
    assert page.device is not None
    place = uuid.UUID(page.device), timezone.now(), uuid.UUID(page.page)
    truth = {seen.id: msgspec.to_builtins(seen) for call in calls if (seen := view(call, key, *place))}
    expected = {id: seen for id, seen in truth.items() if seen["me"]["state"] in machine.LIVE or id in page.calls}
    assert set(page.calls) == set(expected), f"{page.user}'s {page.name} knows of other calls than it should"
    for id, seen in expected.items():
        assert timeless(page.calls[id]) == timeless(seen), f"{page.user}'s {page.name} is behind"


def timeless(seen: dict[str, Any]) -> dict[str, Any]:
    """A view without what the passing of time alone changes."""
    plain: dict[str, Any] = json.loads(json.dumps(seen))
    del plain["secs"], plain["me"]["ring_ms"], plain["alone_ms"]
    return plain


class Replay:
    """The entries of calls decided again, and the invariants that they can show. Numbers in messages are those of the
    list of invariants: 1 one device bound, 2 `ended` is final, 3 no live leg after the end, 4 the limits, 9 one reason,
    10 the rows are what the entries give."""

    def __init__(self, deadlines: machine.Deadlines) -> None:
        self.deadlines = deadlines
        self.versions: dict[tuple[uuid.UUID, int], machine.Call] = {}
        self.calls: dict[uuid.UUID, machine.Call] = {}  # each as its last entry left it
        self.said: dict[uuid.UUID, list[machine.Command]] = {}
        self.live: dict[uuid.UUID, machine.Call] = {}

    def add(self, call: uuid.UUID, v: int, at: dt.datetime, command: machine.Command) -> machine.Call:
        """Decides one more entry. Entries have to come in the order of their keys: for calls of the same people that is
        the order in which their invites were decided, since the lines of these people were locked."""
        before = self.calls.get(call)
        assert before is None or before.state != "ended", "2: `ended` is final"
        try:
            value = machine.decide(before, command, at, self.deadlines)
        except machine.Refused as refused:
            raise AssertionError(f"10: an entry was written of a command that is refused as {refused.code}") from None
        self.calls[call] = self.versions[call, value.v] = value
        self.said.setdefault(call, []).append(command)
        was = {leg.key for leg in before.legs if leg.state in machine.LIVE} if before else set()
        self.live[call] = value
        self._check_limits(value, command, was)
        if value.state == "ended":
            del self.live[call]
        assert v == value.v == len(self.said[call]), "10: one entry for each version, and no version without"
        for old, new in zip(before.legs if before else (), value.legs, strict=False):
            assert old.epoch <= new.epoch, "1: an epoch never falls"
            same = (old.device, old.page) == (new.device, new.page)
            assert same or old.epoch < new.epoch, "1: each binding has an epoch of its own"
        return value

    def check(self, rows: machine.Call) -> None:
        """Compares the rows of a call, all of whose entries were added, with what these give."""
        assert self.calls.get(rows.id) == rows, "10: the entries replayed through decide give the same rows"
        states = {leg.key: leg.state for leg in rows.legs}
        assert len(states) == len(rows.legs), "9: one history row a person"
        assert (rows.reason is not None) == (rows.state == "ended"), "9: one reason a call, when it has ended"
        if rows.state == "ended":
            assert not set(states.values()) & set(machine.LIVE), "3: an ended call has no live leg"
        reacted: set[str] = set()  # since they were rung last
        for said in self.said[rows.id]:
            if isinstance(said, machine.Answer | machine.Join | machine.Reject):
                reacted.add(said.by.key)
            elif isinstance(said, machine.Add | machine.AddByOperator):
                reacted -= {callee.key for callee in said.callees}
            elif isinstance(said, machine.Transfer) and said.callee:
                reacted.discard(said.callee.key)
        assert all(states[key] != "missed" for key in reacted), "9: nobody who answered or rejected has missed it"

    def _check_limits(self, value: machine.Call, said: machine.Command, was: set[str]) -> None:
        """`was` are the people whose legs were live before."""
        limits = _limits_of(said, value)
        for leg in value.legs:
            if leg.state in machine.LIVE and leg.key not in was and (leg.key, leg.dir) in limits:
                legs = [each for call in self.live.values() for each in call.legs if each.state in machine.LIVE]
                count = sum((each.key, each.dir) == (leg.key, leg.dir) for each in legs)
                assert count <= limits[leg.key, leg.dir], "4: more live legs than the limit allows"
        assert sum(leg.state in machine.LIVE for leg in value.legs) <= max(value.max_legs, len(was))


def _limits_of(said: machine.Command, call: machine.Call) -> dict[tuple[str, str], int]:
    """The limits under which this command admitted legs, by person and direction."""
    match said:
        case machine.Invite(by=by, limit=limit, callees=callees):
            return {(by.key, "out"): limit} | {(each.key, "in"): each.limit for each in callees}
        case machine.Add(callees=callees) | machine.AddByOperator(callees=callees):
            return {(each.key, "in"): each.limit for each in callees}
        case machine.Transfer(callee=machine.Callee() as callee):
            return {(callee.key, "in"): callee.limit}
        case machine.Answer(by, limit=limit):
            leg = machine.leg_of(call, by.key)
            return {(by.key, leg.dir): limit} if leg else {}
    return {}
