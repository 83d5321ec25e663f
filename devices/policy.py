"""Which of a user's devices ring, for whom, and whose rule holds for a line.

Pure: imports neither Django nor Channels nor asyncio, and knows nothing of calls.
"""

import datetime as dt
import uuid
from collections.abc import Collection, Iterable
from typing import Any, Literal, NamedTuple


class Known(NamedTuple):
    """A signed-in device, as far as the choice needs it."""

    id: uuid.UUID
    logged_in_at: dt.datetime  # a reconnect does not move it
    online: bool
    push: bool = False  # it can be woken while it is offline


class Choice(NamedTuple):
    """Who rings. `only` is None when every signed-in device rings; `reachable` is False when there is none; `asleep` is
    True when one that rings is offline and can be woken."""

    only: uuid.UUID | None
    reachable: bool
    online: bool
    asleep: bool = False


def choose(multi_device: bool, devices: Iterable[Known]) -> Choice:
    """On: every signed-in device, those that connect while it rings included. Off: the most recent login that is
    online, or, when none is, the most recent login."""
    known = list(devices)
    online = any(device.online for device in known)
    if not known:
        return Choice(None, False, False)
    if multi_device:
        return Choice(None, True, online, any(device.push and not device.online for device in known))
    latest = max(known, key=lambda device: (device.online, device.logged_in_at, device.id))
    return Choice(latest.id, True, online, latest.push and not latest.online)


def disturbs(dnd: bool, favourites: Collection[str], caller: str) -> bool:
    """Whether a call from this person must not ring: do not disturb is on, and the caller is none of the favourites."""
    return dnd and caller not in favourites


Source = Literal["line", "group", "platform"]
Off = Literal["not_included", "expired"]


class Rule(NamedTuple):
    """What holds, and who said so. `value` is None when neither the line nor its group says anything."""

    value: Any
    source: Source
    until: dt.datetime | None = None


def most_specific(own: tuple[Any, dt.datetime | None], group: tuple[Any, dt.datetime | None] | None) -> Rule:
    """The line's own word, else its group's, else the platform's. A word is a value, and until when it is given."""
    if own[0] not in (None, ""):
        return Rule(own[0], "line", own[1])
    if group is not None and group[0] not in (None, ""):
        return Rule(group[0], "group", group[1])
    return Rule(None, "platform")


def why_off(edition: Rule, now: dt.datetime) -> Off | None:
    """Why multi-device cannot be on; None when it can. Where nobody says anything, it can."""
    if edition.value == "off":
        return "not_included"
    if edition.value == "until" and (edition.until is None or edition.until <= now):
        return "expired"
    return None
