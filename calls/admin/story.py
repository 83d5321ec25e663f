"""A call in words: every accepted change and every refusal, in order, to the millisecond.

A call can have any number of both, so a story is told in parts. What is read for one part does not grow with the call:
changes are found by their versions, which count from 1, and refusals by the time between two changes.
"""

import datetime as dt
import uuid
from collections.abc import Collection, Iterable
from typing import NamedTuple

from django.contrib.auth import get_user_model
from django.db.models import QuerySet

from calls import machine
from calls.models import Call, Entry, Leg, Refusal

FIRST, LAST = 100, 100  # changes that are told of a long call at first: how it began, and the newest
PAGE = 200  # changes in one part of the whole story
MAX_REFUSALS = 200  # refusals that are told between two changes of a part
EARLY = 50  # changes from the beginning in which the first answers and moves are looked for
MAX_NAMED = 5  # devices, or people, that one sentence names

REASONS = {
    "completed": "Completed", "cancelled": "Cancelled by the caller", "rejected": "Declined", "no_answer": "No answer",
    "busy": "Busy", "unreachable": "Unreachable: no device signed in", "lost": "Connection lost",
    "operator": "Ended by the operator", "expired": "Reached the longest time", "merged": "Brought into another call",
}  # fmt: skip
ASKED = {
    "Invite": "asked to call", "Ringing": "said that it rings", "Answer": "tried to answer",
    "Reject": "tried to decline", "Hangup": "tried to hang up", "End": "tried to end the call",
    "Move": "tried to continue the call", "Media": "tried to mute or unmute",
    "Join": "tried to answer", "Add": "tried to add people", "Remove": "tried to remove somebody",
    "Hold": "tried to hold the call or take it back",
    "Transfer": "tried to transfer the call", "TakeOver": "tried to bring in another call",
}  # fmt: skip
TOLD = {
    "answered_elsewhere": "it had been answered on another device", "call_ended": "the call had ended",
    "in_call": "that device is in another call", "not_found": "there is no such call for that device",
    "not_allowed": "that is not allowed", "limit_reached": "the caller is at the outgoing limit",
    "full": "there is no room for more people", "rate_limited": "that was too often", "expired": "it came too late",
    "conflict": "another invite has that id", "unavailable": "try again later",
}  # fmt: skip


class Line(NamedTuple):
    """One thing that happened. `after_ms` counts from the moment in which the call was placed."""

    at: dt.datetime
    after_ms: int
    words: str
    refused: bool


class Story(NamedTuple):
    """Some of what happened. `untold` is the number of changes between `begin` and `rest`; `cut` says whether there are
    more refusals than are told."""

    begin: list[Line]
    rest: list[Line]
    untold: int
    cut: bool


def tell(call: Call) -> Story:
    """How the call began and the newest of it; of a call with few changes, all of it."""
    if call.v <= FIRST + LAST:
        lines, cut = _part(call, 0, call.v)
        return Story(lines, [], 0, cut)
    begin, cut = _part(call, 0, FIRST)
    rest, cut_too = _part(call, call.v - LAST, call.v)
    return Story(begin, rest, call.v - FIRST - LAST, cut or cut_too)


def page(call: Call, number: int) -> Story:
    """One part of the whole story; parts count from 1 to `pages`."""
    lines, cut = _part(call, (number - 1) * PAGE, number * PAGE)
    return Story(lines, [], 0, cut)


def pages(call: Call) -> int:
    return max(1, -(-call.v // PAGE))


def _part(call: Call, after: int, until: int) -> tuple[list[Line], bool]:
    """The changes behind version `after`, up to `until`, with at most MAX_REFUSALS refusals that came between them; and
    whether there were more refusals."""
    entries = list(call.entries.filter(v__gt=after, v__lte=until))
    refusals = Refusal.objects.filter(call=call.pk)
    if after and entries:
        refusals = refusals.filter(at__gte=entries[0].at)
    if following := call.entries.filter(v=until + 1).first():
        refusals = refusals.filter(at__lt=following.at)
    asked = list(refusals[: MAX_REFUSALS + 1])
    commands = [(entry.at, entry.decode()) for entry in entries]
    keys = {key for _, command in commands for key in _keys(command)}
    names = _names(call, keys | {str(refusal.user_id) for refusal in asked})
    happened = [(at, sentence(command, names), False) for at, command in commands]
    happened += [(refusal.at, _refused(refusal, names), True) for refusal in asked[:MAX_REFUSALS]]
    happened.sort(key=lambda each: each[0])
    lines = [
        Line(at, round((at - call.placed_at).total_seconds() * 1000), words, refused) for at, words, refused in happened
    ]
    return lines, len(asked) > MAX_REFUSALS


def _keys(command: machine.Command) -> Iterable[str]:
    """Who gave the command, or whom it is about."""
    if by := getattr(command, "by", None):
        yield by.key
    elif key := getattr(command, "key", None):
        yield key


def _names(call: Call, keys: Collection[str]) -> dict[str, str]:
    """User names by key: as they were when the call was placed, and of those who were not in it as they are."""
    legs = Leg.objects.filter(call=call.pk, user__in=keys).values_list("user", "username")
    names = {str(user): name for user, name in legs}
    if strangers := set(keys) - set(names):
        users = get_user_model()._default_manager.filter(pk__in=strangers)
        names |= {str(user.pk): user.get_username() for user in users}
    return names


def _refused(refusal: Refusal, names: dict[str, str]) -> str:
    who = names.get(str(refusal.user_id), "somebody")
    words = f"{who} {ASKED.get(refusal.command, refusal.command.lower())} on {refusal.device_name}"
    told = TOLD.get(refusal.code, refusal.code.replace("_", " "))
    often = f" ({refusal.times} times)" if refusal.times > 1 else ""
    return f"{words}: refused, {told}{often}"


def answers(calls: Iterable[Call]) -> dict[uuid.UUID, str]:
    """On which devices these calls were answered, and where they were moved. One statement, besides the legs'."""
    answered = {call.pk: call for call in calls if call.answered_at}
    taken: dict[uuid.UUID, list[machine.Command]] = {key: [] for key in answered}
    of_devices: QuerySet[Entry] = Entry.objects.filter(command__type__in=("Answer", "Join", "Move"))
    for entry in of_devices.filter(call__in=answered, v__lte=EARLY):
        taken[entry.call_id].append(entry.decode())
    return {
        key: answered_on(commands, answered[key].legs.all() if answered[key].v > EARLY else ())
        for key, commands in taken.items()
    }


def answered_on(commands: Iterable[machine.Command], legs: Iterable[Leg] = ()) -> str:
    """On which device each who was called answered, and where the call was moved from there. A reload is no move.

    When the commands are not all of them, the legs say where everybody is now.
    """
    went: dict[str, list[machine.Seat]] = {}
    for command in commands:
        match command:
            case machine.Answer(by) | machine.Join(by):
                went[by.key] = [by]
            case machine.Move(by) if by.key in went and by.device != went[by.key][-1].device:
                went[by.key].append(by)
    now = {str(leg.user_id): leg.device_name for leg in legs}
    return "; ".join(
        _journey([by.name for by in seats], now.get(key, "")) for key, seats in list(went.items())[:MAX_NAMED]
    )


def _journey(names: list[str], now: str) -> str:
    """The devices, in their order; of many the first and the last. `now` is the last, where that is not known."""
    first, *rest = names
    if len(rest) >= MAX_NAMED:
        rest = [*rest[: MAX_NAMED - 1], "…", rest[-1]]
    if now and now != names[-1]:
        rest = [*rest, "…", now]
    return first + (f", moved to {', then '.join(rest)}" if rest else "")


def several(names: list[str]) -> str:
    """These people; of many the first."""
    return ", ".join(names[:MAX_NAMED]) + (" and others" if len(names) > MAX_NAMED else "")


def sentence(command: machine.Command, names: dict[str, str]) -> str:
    """What happened, as an operator would say it."""
    match command:
        case machine.Invite(by=by, callees=callees):
            return f"{names[by.key]} called {_called(callees)} from {by.name}"
        case machine.Ringing(by):
            return f"{by.name} of {names[by.key]} rings"
        case machine.Answer(by) | machine.Join(by):
            return f"{names[by.key]} answered on {by.name}"
        case machine.Reject(by):
            return f"{names[by.key]} rejected on {by.name}"
        case machine.Hangup(by) | machine.End(by):
            return f"{names[by.key]} hung up on {by.name}"
        case machine.Move(by):
            return f"{names[by.key]} continued on {by.name}"
        case machine.Add(by, callees):
            return f"{names[by.key]} added {_called(callees)} on {by.name}"
        case machine.Remove(by, user):
            return f"{names[by.key]} removed {user} on {by.name}"
        case machine.Hold(by, on):
            return f"{names[by.key]} {'held the call' if on else 'took the call back'} on {by.name}"
        case machine.Transfer(by, callee, user):
            return f"{names[by.key]} asked {_called([callee]) if callee else user} to take the call over, on {by.name}"
        case machine.HandOver(by, into):
            return f"{names[by.key]} brought this call into another one ({into}) on {by.name}"
        case machine.TakeOver(by, other, leg, stay):
            who = leg.user if leg else "somebody"
            how = "brought {} in" if stay else "transferred the call to {}"
            return f"{names[by.key]} {how.format(who)}, from another call ({other}), on {by.name}"
        case machine.Media(by, mic, cam):
            return f"{names[by.key]}: microphone {'on' if mic else 'off'}, camera {'on' if cam else 'off'}"
        case machine.Due():
            return "a deadline ran out"
        case machine.Silent(key=key):
            return f"nothing was heard from the device of {names[key]}"
        case machine.Heard(key=key):
            return f"the device of {names[key]} is back"
        case machine.SignedOut(key=key):
            return f"a device of {names[key]} was signed out"
        case machine.EndByOperator(operator, note):
            return f"{operator} (operator) ended the call" + (f": {note}" if note else "")
        case machine.RemoveByOperator(operator, user):
            return f"{operator} (operator) removed {user}"
        case machine.AddByOperator(operator, callees):
            return f"{operator} (operator) added {_called(callees)}"


def _called(callees: Iterable[machine.Callee]) -> str:
    return several([callee.user + (" (at the limit)" if callee.active >= callee.limit else "") for callee in callees])
