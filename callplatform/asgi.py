"""The application an ASGI server loads: HTTP for Django, `/ws/` for Channels. It imports nothing of any server."""

import gc
import os
from typing import Any

from channels.routing import ProtocolTypeRouter, URLRouter
from django.core.asgi import get_asgi_application
from django.urls import path, re_path

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "callplatform.settings")
http: Any = get_asgi_application()  # fills the app registry, so it comes before the imports that need models

from callplatform.origin import OriginCheck  # noqa: E402
from callplatform.web import in_lanes  # noqa: E402
from calls import clock, sign_ins, webhooks  # noqa: E402
from calls.consumers import SignalingConsumer  # noqa: E402
from calls.desk import desk  # noqa: E402
from calls.hub import hub  # noqa: E402
from calls.wallboard import Wallboard  # noqa: E402

hub.errands = [clock.run, clock.run_errands, sign_ins.run, webhooks.run]
FINISH_S = 3.0  # for the desk to finish what it has when the process stops

consumer: Any = SignalingConsumer.as_asgi()  # Django's type of path() knows views only
board: Any = Wallboard.as_asgi()


async def nowhere(_scope: Any, receive: Any, send: Any) -> None:
    """Refuses a socket whose path leads nowhere, with HTTP 403. The router itself would raise."""
    await receive()
    await send({"type": "websocket.close"})


nothing: Any = nowhere
sockets: Any = URLRouter([path("ws/", consumer), path("ws/wallboard/", board), re_path("", nothing)])


async def stop() -> None:
    """Ends the process's work in order, when no connection is accepted any more: what the desk has is decided, what is
    decided is told to the other processes, and then the sockets are closed and the errands end."""
    await desk.finish(FINISH_S)
    await hub.stop()


async def lifespan(_scope: Any, receive: Any, send: Any) -> None:
    """For servers that say when they start and end, which `manage.py serve` arranges by itself."""
    work = {"startup": hub.start, "shutdown": stop}
    for what in ("startup", "shutdown"):
        await receive()
        await work[what]()
        await send({"type": f"lifespan.{what}.complete"})


application = ProtocolTypeRouter(
    {
        "http": in_lanes(http),
        "websocket": OriginCheck(sockets),
        "lifespan": lifespan,
    }
)

# What is loaded by now stays, and what a call makes goes with it. Neither needs the collector of cycles, which, as
# Python sets it, stops every socket for 0.1 s time and again to look at all there is.
gc.collect()
gc.freeze()
gc.set_threshold(5_000, 10, 20)
