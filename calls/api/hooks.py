"""Events and webhooks over HTTP."""

import datetime as dt
import time
import uuid
from typing import Annotated, Any, Literal

from django.db import connection
from django.http import HttpRequest
from ninja import Query, Router, Schema, Status
from pydantic import AwareDatetime, Field

from calls import audit, events, webhooks
from calls.api import pages, problems
from calls.api.bodies import Body
from calls.api.door import caller, needs
from calls.api.problems import Problem
from calls.models import Delivery, Webhook

router = Router()

MOST_WAIT_S, LOOK_S = 25, 0.5
MOST_HOOKS = 50
HIGHEST = 2**63 - 1

Types = Annotated[list[Literal[events.TYPES]], Field(max_length=len(events.TYPES))]  # type: ignore[valid-type]


class EventTold(Schema):
    """`call` in `data` is the call right after the change."""

    id: str
    type: str
    timestamp: dt.datetime
    seq: int
    data: dict[str, Any]


class EventPage(Schema):
    items: list[EventTold]
    next: str


class HookSaid(Body):
    url: Annotated[str, Field(min_length=1, max_length=500)]
    types: Types = []


class HookChanged(Body):
    url: Annotated[str, Field(min_length=1, max_length=500)] | None = None
    types: Types | None = None
    active: bool | None = None


class HookTold(Schema):
    id: uuid.UUID
    url: str
    types: list[str]
    active: bool
    off_why: str
    off_since: dt.datetime | None


class HookMade(HookTold):
    secret: str


class SecretTold(Schema):
    secret: str


class DeliveryTold(Schema):
    id: int
    event: str
    type: str
    state: Literal["waiting", "done", "failed", "again"]
    replay: bool
    tries: int
    at: dt.datetime | None
    next_at: dt.datetime | None
    status: int | None
    answer: str
    took_ms: int | None


class ReplaySaid(Body):
    """Exactly one of `since` (with `until` if wanted), `deliveries`, and `failed`."""

    since: Annotated[AwareDatetime, Field(strict=False)] | None = None
    until: Annotated[AwareDatetime, Field(strict=False)] | None = None
    deliveries: Annotated[list[Annotated[int, Field(ge=1, le=HIGHEST)]], Field(max_length=1000)] = []
    failed: bool = False


class Count(Schema):
    count: int


@router.get("/events", auth=needs("events:read"), response=EventPage, tags=["events"])
def list_events(
    request: HttpRequest,
    after: Annotated[str | None, Field(max_length=30)] = None,
    types: Annotated[str | None, Field(max_length=300)] = None,
    limit: Annotated[int, Query(ge=1, le=pages.MOST)] = pages.DEFAULT,
    wait_s: Annotated[int, Query(ge=0, le=MOST_WAIT_S)] = 0,
) -> Any:
    """The events of webhooks, in order. `next` is a position to keep; `after=now` gives the present one, and without
    `after` the list begins with the oldest that is kept. With `wait_s` an empty answer waits for an event that long."""
    pages.only(request, "after", "types", "limit", "wait_s")
    wanted = types.split(",") if types else []
    if unknown := set(wanted) - set(events.TYPES):
        raise problems.invalid(("?types", f"There is no type {min(unknown)!r}."))
    events.asked()
    if after == "now":
        return {"items": [], "next": str(events.newest())}
    position = _position(after)
    ends = time.monotonic() + wait_s
    found = events.read(position, wanted, limit)
    while not found and time.monotonic() < ends:
        if not connection.in_atomic_block:
            connection.close()  # it goes back to the pool while nothing is asked
        time.sleep(min(LOOK_S, max(0.0, ends - time.monotonic())))
        found = events.read(position, wanted, limit)
    return {"items": [events.tell(event) for event in found], "next": str(found[-1].pk if found else position)}


def _position(after: str | None) -> int:
    if after is None:
        return 0
    if not (after.isascii() and after.isdigit() and int(after) <= HIGHEST):
        raise problems.invalid(("?after", "Give `next` of an earlier answer, or now."))
    first = events.oldest()
    if first is not None and 0 < int(after) < first - 1:
        raise Problem("gone", "Events of that time are not kept any more. Begin with what is kept, without `after`.")
    return int(after)


@router.get("/webhooks", auth=needs("webhooks:read"), response=pages.Page[HookTold], tags=["webhooks"])
def list_webhooks(request: HttpRequest) -> Any:
    """All endpoints; there are at most 50."""
    pages.only(request)
    return {"items": list(Webhook.objects.all()), "next": None}


@router.post("/webhooks", auth=needs("webhooks:write"), response={201: HookMade}, tags=["webhooks"])
def make_webhook(request: HttpRequest, body: HookSaid) -> Any:
    """A new endpoint. Its secret is shown here only. The key needs `events:read` too: it can read them so."""
    pages.only(request)
    _may_point(request)
    _check(body.url)
    if Webhook.objects.count() >= MOST_HOOKS:
        raise Problem("conflict", f"There are {MOST_HOOKS} endpoints already.")
    webhook = Webhook(url=body.url, types=body.types)
    webhooks.begin(webhook)
    audit.record_by(caller(request), webhook, {"url": ("", webhook.url)}, made=True)
    return Status(201, webhook)


@router.patch("/webhooks/{uuid:webhook_id}", auth=needs("webhooks:write"), response=HookTold, tags=["webhooks"])
def change_webhook(request: HttpRequest, webhook_id: uuid.UUID, body: HookChanged) -> Any:
    """Changes an endpoint. `active: true` goes on where it stopped."""
    webhook = webhook_of(webhook_id)
    pages.only(request)
    before = {"url": webhook.url, "types": webhook.types, "active": webhook.active}
    if body.url is not None and body.url != webhook.url:
        _may_point(request)
        _check(body.url)
        webhook.url = body.url
    if body.types is not None:
        webhook.types = body.types
    webhook.save(update_fields=["url", "types"])
    if body.active is True:
        webhooks.switch_on(webhook)
    elif body.active is False:
        webhooks.switch_off(webhook.pk, "asked")
    webhook.refresh_from_db()
    changes = {name: (old, new) for name, old in before.items() if (new := getattr(webhook, name)) != old}
    if changes:
        audit.record_by(caller(request), webhook, changes)
    return webhook


@router.delete("/webhooks/{uuid:webhook_id}", auth=needs("webhooks:write"), response={204: None}, tags=["webhooks"])
def delete_webhook(request: HttpRequest, webhook_id: uuid.UUID) -> Any:
    """Deletes an endpoint and its deliveries. Of one that is gone, this is 204 too."""
    webhook = Webhook.objects.filter(pk=webhook_id).first()
    pages.only(request)
    if webhook is not None:
        audit.record_by(caller(request), webhook, {"deleted": ("", "yes")})
        webhook.delete()
    return Status(204, None)


@router.post("/webhooks/{uuid:webhook_id}/rotate", auth=needs("webhooks:write"), response=SecretTold, tags=["webhooks"])
def rotate_secret(request: HttpRequest, webhook_id: uuid.UUID) -> Any:
    """A new secret. The old one signs beside it for 24 hours."""
    webhook = webhook_of(webhook_id)
    pages.only(request)
    _may_point(request)
    secret = webhooks.rotate(webhook)
    audit.record_by(caller(request), webhook, {"secret": ("hidden", "hidden")})
    return {"secret": secret}


@router.post("/webhooks/{uuid:webhook_id}/test", auth=needs("webhooks:write"), response={202: Count}, tags=["webhooks"])
def test_webhook(request: HttpRequest, webhook_id: uuid.UUID) -> Any:
    """Sends a `ping` to this endpoint."""
    webhook = webhook_of(webhook_id)
    pages.only(request)
    webhooks.test(webhook)
    return Status(202, {"count": 1})


@router.get(
    "/webhooks/{uuid:webhook_id}/deliveries", auth=needs("webhooks:read"), response=pages.Page[DeliveryTold],
    tags=["webhooks"],
)  # fmt: skip
def list_deliveries(
    request: HttpRequest,
    webhook_id: uuid.UUID,
    limit: Annotated[int, Query(ge=1, le=pages.MOST)] = pages.DEFAULT,
    after: str | None = None,
) -> Any:
    """What was sent to an endpoint, and what waits, the newest first."""
    webhook = webhook_of(webhook_id)
    pages.only(request, "limit", "after")
    rows = Delivery.objects.filter(webhook=webhook).select_related("event")
    if after is not None:
        (last,) = pages.position(after, [webhook_id], tuple[int])
        if not 0 < last <= HIGHEST:
            raise problems.invalid(("?after", "This is no cursor of this list."))
        rows = rows.filter(pk__lt=last)
    found = list(rows.order_by("-pk")[: limit + 1])
    return pages.page(found, limit, [webhook_id], lambda row: [row.pk], _told)


def _told(row: Delivery) -> dict[str, Any]:
    return {
        "id": row.pk, "event": f"evt_{row.event_id}", "type": row.event.type, "state": row.state, "replay": row.replay,
        "tries": row.tries, "at": row.at, "next_at": row.next_at if row.state == "waiting" else None,
        "status": row.status, "answer": row.answer, "took_ms": row.took_ms,
    }  # fmt: skip


@router.post(
    "/webhooks/{uuid:webhook_id}/replay", auth=needs("webhooks:write"), response={202: Count}, tags=["webhooks"]
)
def replay(request: HttpRequest, webhook_id: uuid.UUID, body: ReplaySaid) -> Any:
    """Sends events once more, after the live ones, at most 10,000."""
    webhook = webhook_of(webhook_id)
    pages.only(request)
    _may_point(request)
    if (body.since is not None) + bool(body.deliveries) + body.failed != 1 or (body.until and not body.since):
        raise problems.invalid(("/", "Say exactly one of since, deliveries and failed."))
    count = webhooks.replay(webhook, body.since, body.until, body.deliveries, body.failed)
    return Status(202, {"count": count})


def webhook_of(webhook_id: uuid.UUID) -> Webhook:
    webhook = Webhook.objects.filter(pk=webhook_id).first()
    if webhook is None:
        raise Problem("not_found", "There is no such endpoint.")
    return webhook


def _may_point(request: HttpRequest) -> None:
    """Who says where events go to can read them."""
    needs("events:read")(request)


def _check(url: str) -> None:
    try:
        webhooks.check(url)
    except webhooks.Refused as refused:
        raise problems.invalid(("/url", str(refused))) from None
