"""What a user asks about the own account, as JSON over HTTP: history, devices, line.

Signed out is 401 with `{"error"}`, a body of the wrong shape 400. Every change is told to the user's devices at once.
"""

import datetime as dt
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any, TypeVar

import msgspec
from django.core.exceptions import BadRequest
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST, require_safe
from msgspec import Meta, Struct

from calls import history as calls_of
from calls import switchboard

Body = TypeVar("Body")
View = Callable[..., HttpResponse]


def signed_in(view: View) -> View:
    """For a page that is open already: 401, where a redirect to a form would be of no use."""

    @wraps(view)
    @never_cache
    def checked(request: HttpRequest, **kwargs: Any) -> HttpResponse:
        if not request.user.is_authenticated:
            return JsonResponse({"error": "Sign in first."}, status=401)
        return view(request, **kwargs)

    return checked


def asked(request: HttpRequest, kind: type[Body]) -> Body:
    """The request's JSON body as a value."""
    try:
        return msgspec.json.decode(request.body, type=kind)
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadRequest(str(error)) from None


# --- history ----------------------------------------------------------------------------------------------------------


@require_safe
@signed_in
def history(request: HttpRequest) -> JsonResponse:
    """A page of the own calls: `{calls: […], next, missed}`. `q` words of names, `missed=1`, `before` an entry's id."""
    before = request.GET.get("before", "")
    page = calls_of.page(
        request.user.pk,
        words=request.GET.get("q", "")[:150].replace("\0", ""),
        missed=request.GET.get("missed") == "1",
        before=int(before) if before.isascii() and before.isdigit() and len(before) < 19 else None,
    )
    return JsonResponse({"calls": page.entries, "next": page.next, "missed": calls_of.missed(request.user.pk)})


class Seen(Struct, frozen=True):
    until: dt.datetime


@require_POST
@signed_in
def history_seen(request: HttpRequest) -> JsonResponse:
    """The user has looked at what ended until then; the badge goes on every device. Answers `{missed}`."""
    until = asked(request, Seen).until
    if until.tzinfo is None:
        raise BadRequest("until needs a time zone")
    calls_of.see(request.user.pk, min(until, timezone.now()))
    return _changed(request)


class Hide(Struct, frozen=True):
    ids: Annotated[list[int], Meta(max_length=1000)] | None  # None: all of them
    hidden: bool = True


@require_POST
@signed_in
def history_hide(request: HttpRequest) -> JsonResponse:
    """Takes entries out of the own history, or puts them back. Answers `{missed, changed}`."""
    wanted = asked(request, Hide)
    if wanted.ids is None and not wanted.hidden:
        raise BadRequest("name the entries to put back")
    ids = None if wanted.ids is None else [id for id in wanted.ids if 0 < id < 2**63]
    return _changed(request, changed=calls_of.hide(request.user.pk, ids, wanted.hidden))


def _changed(request: HttpRequest, **more: Any) -> JsonResponse:
    missed = calls_of.missed(request.user.pk)
    switchboard.tell_history(request.user.pk, missed)
    return JsonResponse({"missed": missed, **more})
