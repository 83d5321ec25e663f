"""What machines ask: does the process live, can it serve, and its figures."""

import asyncio
import hmac
import logging
import time
from weakref import WeakKeyDictionary

from channels.layers import get_channel_layer
from django.db import connection
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from calls import clock, conf, metrics, pool
from calls.desk import desk
from calls.hub import hub

log = logging.getLogger(__name__)

PATIENCE_S = 3.0  # for the answer of what this process needs
LATE_S = 10.0  # a clock that has not ticked for so long does not run


@never_cache
@require_safe
def alive(request: HttpRequest) -> HttpResponse:
    """The process answers: nothing else is looked at, so that a database that is away restarts nobody."""
    return HttpResponse("ok", content_type="text/plain")


@never_cache
@require_safe
async def ready(request: HttpRequest) -> JsonResponse:
    """Whether calls can be served here: 200 or 503, and what is well and what is not, by name."""
    checks = {"database": _database(), "orders": desk.check(), "layer": _layer(), "clock": _clock()}
    results = await asyncio.gather(
        *(asyncio.wait_for(check, PATIENCE_S) for check in checks.values()), return_exceptions=True
    )
    for name, result in zip(checks, results, strict=True):
        if isinstance(result, BaseException):
            log.warning("not ready: %s: %s", name, type(result).__name__)
    said = {name: "ok" if result is None else "failed" for name, result in zip(checks, results, strict=True)}
    return JsonResponse(said, status=200 if set(said.values()) == {"ok"} else 503)


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


class Echo:
    """Says something to itself by way of the layer. It has one channel for good, since layers never forget one."""

    def __init__(self) -> None:
        self.channel = ""
        self.said = 0
        self.turn = asyncio.Lock()

    async def __call__(self) -> None:
        layer = get_channel_layer()
        assert layer is not None
        async with self.turn:
            self.channel = self.channel or await layer.new_channel()
            self.said += 1
            await layer.send(self.channel, {"type": "echo", "said": self.said})
            try:
                while (await layer.receive(self.channel))["said"] != self.said:
                    pass  # what was said before, and came too late
            except asyncio.CancelledError:
                self.channel = ""  # the layer takes it that nobody listens there any more
                raise


_echoes: WeakKeyDictionary[asyncio.AbstractEventLoop, Echo] = WeakKeyDictionary()


async def _layer() -> None:
    await _echoes.setdefault(asyncio.get_running_loop(), Echo())()


async def _clock() -> None:
    """Where no socket has come yet under another server than ours, there is no clock to look at."""
    if hub.loop is not None and clock.run in hub.errands:
        since = time.monotonic() - (clock.last.tick or hub.began)
        if since > conf.get("CLOCK_S") + LATE_S:
            raise RuntimeError("the clock stands still")
