"""Lists of the API: `{"items": […], "next": cursor or null}`. A cursor belongs to the filters that it was made with."""

import base64
import binascii
import hashlib
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import msgspec
from django.http import HttpRequest
from ninja import Schema

from calls.api import problems

Item = TypeVar("Item")

DEFAULT, MOST = 50, 200  # items of a page


class Page(Schema, Generic[Item]):
    items: list[Item]
    next: str | None


def cursor(filters: Sequence[Any], position: Sequence[Any]) -> str:
    """Where the next page begins."""
    return base64.urlsafe_b64encode(msgspec.json.encode([_mark(filters), *position])).rstrip(b"=").decode()


def position(after: str, filters: Sequence[Any], kind: type[Item]) -> Item:
    """What a cursor says: a tuple of this type. Raises Problem for one that was not made here, or for other filters."""
    try:
        mark, *said = msgspec.json.decode(base64.urlsafe_b64decode(after + "=" * (-len(after) % 4)), type=list[Any])
        found = msgspec.convert(said, kind)
    except (ValueError, binascii.Error, msgspec.MsgspecError):
        raise problems.invalid(("?after", "This is no cursor of this list.")) from None
    if mark != _mark(filters):
        raise problems.invalid(("?after", "This cursor belongs to a list with other filters."))
    return found


def _mark(filters: Sequence[Any]) -> str:
    said = msgspec.json.encode([each if each is None else str(each) for each in filters])
    return hashlib.sha256(said).hexdigest()[:12]


def page(
    rows: Sequence[Any],
    limit: int,
    filters: Sequence[Any],
    key: Callable[[Any], Sequence[Any]],
    show: Callable[..., Any],
) -> dict[str, Any]:
    """The first rows, of which there is one more than the limit when there is another page."""
    shown = rows[:limit]
    more = cursor(filters, key(shown[-1])) if len(rows) > limit else None
    return {"items": [show(row) for row in shown], "next": more}


def only(request: HttpRequest, *known: str) -> None:
    """Raises Problem for a query parameter that the operation does not know, or that is said twice."""
    wrong = [(f"?{name}", "There is no such parameter.") for name in request.GET if name not in known]
    wrong += [(f"?{name}", "Say this once.") for name, said in request.GET.lists() if name in known and len(said) > 1]
    if wrong:
        raise problems.invalid(*wrong)
