"""A call in words: every accepted change and every refusal, in order, to the millisecond."""

import datetime as dt
from collections.abc import Iterable
from typing import NamedTuple

from django.contrib.auth import get_user_model

from calls import machine
from calls.models import Call, Refusal

REASONS = {
    "completed": "Completed", "cancelled": "Cancelled by the caller", "rejected": "Declined", "no_answer": "No answer",
    "busy": "Busy", "unreachable": "Unreachable: no device signed in", "lost": "Connection lost",
    "operator": "Ended by the operator", "expired": "Reached the longest time",
}  # fmt: skip
ASKED = {
    "Invite": "asked to call", "Ringing": "said that it rings", "Answer": "tried to answer",
    "Reject": "tried to decline",    "Hangup": "tried to hang up", "End": "tried to end the call",
    "Move": "tried to continue the call",
    "Media": "tried to mute or unmute", "Join": "tried to answer",
}  # fmt: skip
TOLD = {
    "answered_elsewhere": "it had been answered on another device", "call_ended": "the call had ended",
    "in_call": "that device is in another call", "not_found": "there is no such call for that device",
    "not_allowed": "that is not allowed", "limit_reached": "the caller is at the outgoing limit",
    "expired": "it came too late", "conflict": "another invite has that id", "unavailable": "try again later",
}  # fmt: skip


class Line(NamedTuple):
    """One thing that happened. `after_ms` counts from the moment in which the call was placed."""

    at: dt.datetime
    after_ms: int
    words: str
    refused: bool


def tell(call: Call) -> list[Line]:
    """The whole story of the call, which came with its legs."""
    names = {str(leg.user_id): leg.username for leg in call.legs.all()}
    happened = [(entry.at, sentence(entry.decode(), names), False) for entry in call.entries.all()]
    refusals = list(Refusal.objects.filter(call=call.pk))
    strangers = {refusal.user_id for refusal in refusals if str(refusal.user_id) not in names}
    if strangers:
        users = get_user_model()._default_manager.filter(pk__in=strangers)
        names |= {str(user.pk): user.get_username() for user in users}
    for refusal in refusals:
        who = names.get(str(refusal.user_id), "somebody")
        words = f"{who} {ASKED.get(refusal.command, refusal.command.lower())} on {refusal.device_name}"
        told = TOLD.get(refusal.code, refusal.code.replace("_", " "))
        often = f" ({refusal.times} times)" if refusal.times > 1 else ""
        happened.append((refusal.at, f"{words}: refused, {told}{often}", True))
    happened.sort(key=lambda each: each[0])
    return [
        Line(at, round((at - call.placed_at).total_seconds() * 1000), words, refused) for at, words, refused in happened
    ]


def answered_on(commands: Iterable[machine.Command]) -> str:
    """On which device each who was called answered, and where the call was moved from there. A reload is no move."""
    went: dict[str, list[machine.Seat]] = {}
    for command in commands:
        match command:
            case machine.Answer(by) | machine.Join(by):
                went[by.key] = [by]
            case machine.Move(by) if by.key in went and by.device != went[by.key][-1].device:
                went[by.key].append(by)
    names = ([by.name for by in seats] for seats in went.values())
    return "; ".join(first + (f", moved to {', then '.join(rest)}" if rest else "") for first, *rest in names)


def sentence(command: machine.Command, names: dict[str, str]) -> str:
    """What happened, as an operator would say it."""
    match command:
        case machine.Invite(by=by, callees=callees):
            asked = ", ".join(
                callee.user + (" (at the limit)" if callee.active >= callee.limit else "") for callee in callees
            )
            return f"{names[by.key]} called {asked} from {by.name}"
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
