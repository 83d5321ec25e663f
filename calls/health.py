"""What machines ask: does the process live, can it serve, and its figures."""

import asyncio
import hmac
import logging
import time

from django.db import connection
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from calls import clock, conf, metrics, pool
from calls.desk import desk
from calls.hub import hub
from calls.logs import Trouble

log = logging.getLogger(__name__)
troubles = {name: Trouble(log, f"not ready: {name}") for name in ("database", "orders", "layer", "clock", "time")}

PATIENCE_S = 3.0  # for the answer of what this process needs
LATE_S = 10.0  # a clock that has not ticked for so long does not run; a hub that heard nothing for so long is deaf


@never_cache
@require_safe
def alive(request: HttpRequest) -> HttpResponse:
    """The process answers: nothing else is looked at, so that a database that is away restarts nobody."""
    return HttpResponse("ok", content_type="text/plain")


@never_cache
@require_safe
async def ready(request: HttpRequest) -> JsonResponse:
    """Whether calls can be served here: 200 or 503, and for each check by name `ok`, `failed`, or what is wrong."""
    checks = {
        "database": _database(),
        "orders": desk.check(),
        "layer": _layer(),
        "clock": _clock(),
        "time": _time(),
    }
    results = await asyncio.gather(
        *(asyncio.wait_for(check, PATIENCE_S) for check in checks.values()), return_exceptions=True
    )
    for name, result in zip(checks, results, strict=True):
        if isinstance(result, BaseException):
            troubles[name].met(result)
        else:
            troubles[name].over()
    said = {name: _said(result) for name, result in zip(checks, results, strict=True)}
    return JsonResponse(said, status=200 if set(said.values()) == {"ok"} else 503)


class NotReady(Exception):
    """A check failed, for this reason in words."""


def _said(result: BaseException | None) -> str:
    if result is None:
        return "ok"
    return str(result) if isinstance(result, NotReady) else "failed"


@never_cache
@require_safe
def figures(request: HttpRequest) -> HttpResponse:
    """Prometheus's text, for whoever has METRICS_TOKEN as a bearer, and for staff who may see calls."""
    if not _may_see(request):
        raise Http404
    metrics.SOCKETS.set(sum(len(group) for group in list(hub.sockets.values())))
    return HttpResponse(generate_latest(), content_type=CONTENT_TYPE_LATEST)


def _may_see(request: HttpRequest) -> bool:
    token = conf.get("METRICS_TOKEN")
    if token and hmac.compare_digest(request.headers.get("Authorization", "").encode(), f"Bearer {token}".encode()):
        return True
    return bool(request.user.is_active and request.user.is_staff and request.user.has_perm("calls.view_call"))


async def _database() -> None:
    await pool.run(_ask_database)


def _ask_database() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1 FROM calls_call LIMIT 1")


async def _layer() -> None:
    """Where no socket has come yet under another server than ours, the hub has not begun, and there is nothing to look
    at; nor is there a clock."""
    if hub.loop is not None and hub.silent_s > LATE_S:
        raise NotReady("this process does not hear its own messages through the channel layer")


async def _clock() -> None:
    if hub.loop is not None and clock.run in hub.errands:
        since = time.monotonic() - (clock.last.tick or hub.began)
        if since > conf.get("CLOCK_S") + LATE_S:
            raise NotReady(f"the clock has not ticked for {since:.0f} s")


async def _time() -> None:
    sentence = clock.skew()
    if sentence:
        raise NotReady(sentence)
