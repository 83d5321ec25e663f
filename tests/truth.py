"""What a page has to know, computed from the rows: the measure of every repair."""

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
