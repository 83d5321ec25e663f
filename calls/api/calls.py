"""Calls over HTTP: to list and read them, and the operator's commands: end, add, remove."""

import datetime as dt
import uuid
from typing import Annotated, Any, Literal

import msgspec
from django.contrib.auth import get_user_model
from django.db.models import BooleanField, ExpressionWrapper, Q
from django.db.models.fields.tuple_lookups import Tuple, TupleLessThan  # type: ignore[import-untyped]
from django.http import HttpRequest, HttpResponse
from ninja import Query, Router
from pydantic import AwareDatetime, Field

from calls import audit, conf, machine, models, protocol, search, switchboard
from calls.api import pages, problems, told
from calls.api.bodies import Body, Username
from calls.api.door import caller, needs
from calls.api.problems import Problem
from calls.models import Call, Leg

router = Router(tags=["calls"])

OVER = ExpressionWrapper(Q(state="ended"), BooleanField())  # as in the index `call_listed`


class End(Body):
    note: Annotated[str, Field(max_length=200, pattern=r"^[^\x00]*$")] = ""


class Add(Body):
    to: Annotated[list[Username], Field(min_length=1, max_length=64)]


def answer(value: Any, status: int = 200) -> HttpResponse:
    return HttpResponse(msgspec.json.encode(value), "application/json", status)


def returns(name: str) -> dict[str, Any]:
    """What the OpenAPI document says of an operation that answers with one of the structs of calls/api/told.py."""
    schema = {"$ref": f"#/components/schemas/{name}"}
    return {"responses": {200: {"description": "OK", "content": {"application/json": {"schema": schema}}}}}


@router.get("/calls", auth=needs("calls:read"), openapi_extra=returns("CallPage"))
def list_calls(
    request: HttpRequest,
    user: Annotated[str | None, Field(max_length=150)] = None,
    state: Literal["live", "ended"] | None = None,
    since: AwareDatetime | None = None,
    until: AwareDatetime | None = None,
    limit: Annotated[int, Query(ge=1, le=pages.MOST)] = pages.DEFAULT,
    after: str | None = None,
) -> HttpResponse:
    """Calls, the newest first. `live` includes ringing; `since ≤ placed_at < until`."""
    pages.only(request, "user", "state", "since", "until", "limit", "after")
    filters = [user, state, since, until]
    wanted = Q()
    if since is not None:
        wanted &= Q(placed_at__gte=since)
    if until is not None:
        wanted &= Q(placed_at__lt=until)
    if after is not None:
        at, id = pages.position(after, filters, tuple[dt.datetime, uuid.UUID])
        if at.tzinfo is None:
            raise problems.invalid(("?after", "This is no cursor of this list."))
        wanted &= Q(TupleLessThan(Tuple("placed_at", "id"), (at, id)))
    rows = Call.objects.annotate(over=OVER).filter(wanted)
    if user is not None:
        rows = rows.filter(pk__in=Leg.objects.filter(user=person(user)).order_by().values("call"))
    sides = {"live": [False], "ended": [True], None: [False, True]}[state]  # each is read in the order of its index
    try:
        with search.bounded():
            found = [
                call
                for over in sides
                for call in rows.filter(over=over)
                .order_by("-placed_at", "-id")[: limit + 1]
                .values_list("placed_at", "id")
            ]
    except search.TookTooLong:
        raise Problem("unavailable", "This list takes too long. Narrow it.") from None
    found.sort(reverse=True)
    values = {call.id: call for call in models.load_all(Call.objects.filter(pk__in=[id for _, id in found[:limit]]))}
    found = [row for row in found if row[1] in values or row not in found[:limit]]  # forgotten meanwhile
    return answer(pages.page(found, limit, filters, lambda row: row, lambda row: told.tell(values[row[1]])))


@router.get("/calls/{uuid:call_id}", auth=needs("calls:read"), openapi_extra=returns("CallTold"))
def get_call(request: HttpRequest, call_id: uuid.UUID) -> HttpResponse:
    """One call: every leg with its device, times and reason."""
    pages.only(request)
    return answer(told.tell(call_of(call_id)))


@router.get("/calls/{uuid:call_id}/events", auth=needs("calls:read"), openapi_extra=returns("Story"))
def get_call_events(
    request: HttpRequest,
    call_id: uuid.UUID,
    limit: Annotated[int, Query(ge=1, le=pages.MOST)] = pages.DEFAULT,
    after: str | None = None,
) -> HttpResponse:
    """The call's story in order: every accepted change, and what was refused."""
    call = Call.objects.filter(pk=call_id).first()
    if call is None:
        raise Problem("not_found")
    pages.only(request, "limit", "after")
    (v,) = pages.position(after, [call_id], tuple[int]) if after is not None else (0,)
    if not 0 <= v < 2**31:
        raise problems.invalid(("?after", "This is no cursor of this list."))
    happened, following = told.story(call, v, limit)
    return answer({"items": happened, "next": following and pages.cursor([call_id], [following])})


@router.post("/calls/{uuid:call_id}/end", auth=needs("calls:write"), openapi_extra=returns("CallTold"))
def end_call(request: HttpRequest, call_id: uuid.UUID, body: End = End()) -> HttpResponse:  # noqa: B008
    """Ends the call for everybody in it; they read the note. Answers with the call, also if it had ended before."""
    before = call_of(call_id)
    pages.only(request)
    outcome = switchboard.perform(call_id, machine.EndByOperator(caller(request).name, body.note))
    if outcome.refused is not None and outcome.refused.code != "call_ended":
        raise problems.of(outcome.refused)
    if outcome.refused is None:
        _record(request, before, state=(before.state, "ended"), note=("", body.note))
    return answer(told.tell(outcome.call or before))


@router.post("/calls/{uuid:call_id}/legs", auth=needs("calls:write"), openapi_extra=returns("CallTold"))
def add_legs(request: HttpRequest, call_id: uuid.UUID, body: Add) -> HttpResponse:
    """Rings more people into the call, which becomes a call of several."""
    before = call_of(call_id)
    pages.only(request)
    names = tuple(dict.fromkeys(body.to))
    command = machine.AddByOperator(caller(request).name, (), conf.get("RING_S"), names)
    outcome = switchboard.perform(call_id, command)
    if outcome.refused is not None:
        raise problems.of(outcome.refused)
    _record(request, before, added=("", ", ".join(names)))
    return answer(told.tell(outcome.call or before))


@router.delete("/calls/{uuid:call_id}/legs/{username}", auth=needs("calls:write"), response={204: None})
def remove_leg(request: HttpRequest, call_id: uuid.UUID, username: str) -> HttpResponse:
    """Takes a person out of a call of several. Of who is not in it any more, this is 204 too."""
    before = call_of(call_id)
    leg = machine.leg_named(before, username)
    if leg is None:
        raise Problem("not_found")
    pages.only(request)
    outcome = switchboard.perform(call_id, machine.RemoveByOperator(caller(request).name, username))
    after = outcome.call and machine.leg_named(outcome.call, username)
    if outcome.refused is not None and after is not None and after.state in machine.LIVE:
        raise problems.of(outcome.refused)
    if outcome.refused is None:
        _record(request, before, removed=("", f"user {leg.key}"))  # by key, which outlives an erased name
    return HttpResponse(status=204)


def person(username: str) -> Any:
    """The person of this name. Raises Problem when there is none."""
    users = get_user_model()
    found = None if "\0" in username else users._default_manager.filter(**{users.USERNAME_FIELD: username}).first()
    if found is None:
        raise Problem("not_found", "There is no such person.")
    return found


def call_of(call_id: uuid.UUID) -> machine.Call:
    call = models.load(call_id)
    if call is None:
        raise Problem("not_found", protocol.MESSAGES["not_found"])
    return call


def _record(request: HttpRequest, call: machine.Call, **changes: tuple[Any, Any]) -> None:
    row = Call.objects.filter(pk=call.id).first()
    if row is not None:
        audit.record_by(caller(request), row, changes)
