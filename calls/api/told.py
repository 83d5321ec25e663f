"""What the API tells of calls: the operator's view, every leg with its device, times and reason; and a call's story.

The structs are also the source of the schemas in the OpenAPI document.
"""

import datetime as dt
import uuid
from collections.abc import Iterable
from typing import Any, Literal

from msgspec import Struct

from calls import machine
from calls.machine import CallState, Kind, LegReason, LegState, Mode, Reason
from calls.models import Call, Entry, Leg, Refusal

MAX_REFUSALS = 200  # told between two changes of a page


class Device(Struct, frozen=True):
    """The device that a leg is bound to. The id is null when the device is not kept any more."""

    id: uuid.UUID | None
    name: str


class LegTold(Struct, frozen=True, rename={"for_": "for"}):
    user: str
    name: str
    dir: Literal["in", "out"]
    state: LegState
    reason: LegReason | None
    alerted: bool
    device: Device | None
    online: bool
    held: bool
    mic: bool
    cam: bool
    by: str | None  # who invited this one
    for_: str | None  # who transfers, or has transferred, the call to this one
    joined_at: dt.datetime | None
    ring_until: dt.datetime | None
    data: Any


class CallTold(Struct, frozen=True):
    """A call as an operator sees it. The highest `v` wins."""

    id: uuid.UUID
    v: int
    kind: Kind
    state: CallState
    reason: Reason | None
    host: str
    group: bool
    max_legs: int
    media: Mode
    note: str
    placed_at: dt.datetime
    answered_at: dt.datetime | None
    ended_at: dt.datetime | None
    legs: list[LegTold]


class Happened(Struct, frozen=True):
    """One accepted change (`v` is the version that it made), or one refusal (`refused` is its code, `times` how often
    within a second)."""

    v: int | None
    at: dt.datetime
    type: str
    user: str | None
    device: str | None
    operator: str | None
    refused: str | None = None
    times: int = 1


class CallPage(Struct, frozen=True):
    items: list[CallTold]
    next: str | None


class Story(Struct, frozen=True):
    items: list[Happened]
    next: str | None


def tell(call: machine.Call) -> CallTold:
    names = {leg.key: leg.user for leg in call.legs}
    return CallTold(
        id=call.id, v=call.v, kind=call.kind, state=call.state, reason=call.reason, host=names.get(call.host, ""),
        group=call.group, max_legs=call.max_legs, media=call.media, note=call.note, placed_at=call.placed_at,
        answered_at=call.answered_at, ended_at=call.ended_at, legs=[_leg(leg, names) for leg in call.legs],
    )  # fmt: skip


def _leg(leg: machine.Leg, names: dict[str, str]) -> LegTold:
    device = Device(leg.device, leg.device_name) if leg.device or leg.device_name else None
    return LegTold(
        user=leg.user, name=leg.name, dir=leg.dir, state=leg.state, reason=leg.reason, alerted=leg.alerted,
        device=device, online=leg.online, held=leg.held, mic=leg.mic, cam=leg.cam, by=names.get(leg.by),
        for_=names.get(leg.for_), joined_at=leg.joined_at, ring_until=leg.ring_until, data=leg.data,
    )  # fmt: skip


def story(call: Call, after: int, limit: int) -> tuple[list[Happened], int | None]:
    """Changes behind this version and the refusals between them, in order; and the version to go on from, if there are
    more. A bounded number of statements, however much happened."""
    entries = list(Entry.objects.filter(call=call, v__gt=after).order_by("v")[: limit + 1])
    shown = entries[:limit]
    refusals = Refusal.objects.filter(call=call.pk)
    if after and shown:
        refusals = refusals.filter(at__gte=shown[0].at)
    if len(entries) > limit:
        refusals = refusals.filter(at__lt=entries[limit].at)
    found = list(refusals.order_by("at")[:MAX_REFUSALS]) if shown or not after else []
    keys = {_key(entry.command) for entry in shown} | {str(each.user_id) for each in found}
    names = _names(call, keys)
    happened = []
    for entry in shown:
        said = entry.command
        who, operator = names.get(_key(said)), said.get("operator")
        happened.append(Happened(entry.v, entry.at, said["type"], who, _device(said), operator))
    for each in found:
        who = names.get(str(each.user_id))
        told = (each.device_name, None, each.code, each.times)
        happened.append(Happened(None, each.at, each.command, who, *told))
    happened.sort(key=lambda each: each.at)
    return happened, shown[-1].v if len(entries) > limit else None


def _key(command: dict[str, Any]) -> str:
    by = command.get("by")
    return str(by["key"]) if isinstance(by, dict) else str(command.get("key", ""))


def _device(command: dict[str, Any]) -> str | None:
    by = command.get("by")
    return by["name"] if isinstance(by, dict) else None


def _names(call: Call, keys: Iterable[str]) -> dict[str, str]:
    legs = Leg.objects.filter(call=call, user__in=[key for key in keys if key])
    return {str(user): name for user, name in legs.values_list("user", "username")}
