"""The application an ASGI server loads: HTTP for Django, `/ws/` for Channels. It imports nothing of any server."""

import gc
import logging
import os
import random
from typing import Any

from channels.routing import ProtocolTypeRouter, URLRouter
from django.core.asgi import get_asgi_application
from django.urls import path

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "callplatform.settings")
http = get_asgi_application()  # fills the app registry, so it comes before the imports that need models

from channels.auth import AuthMiddlewareStack  # noqa: E402

from callplatform.origin import OriginCheck  # noqa: E402
from calls import clock, pool, protocol, sign_ins  # noqa: E402
from calls.consumers import SignalingConsumer  # noqa: E402
from calls.desk import desk  # noqa: E402
from calls.hub import hub  # noqa: E402
from calls.logs import Trouble  # noqa: E402
from calls.wallboard import Wallboard  # noqa: E402

hub.errands = [clock.run, clock.run_errands, sign_ins.run]
unconnected = Trouble(logging.getLogger(__name__), "a socket cannot be signed in")
FINISH_S = 3.0  # for the desk to finish what it has when the process stops
BACK_MS = (1000, 5000)  # a socket that cannot be signed in is asked to come back after some time between these

consumer: Any = SignalingConsumer.as_asgi()  # Django's type of path() knows views only
board: Any = Wallboard.as_asgi()
routes: Any = URLRouter([path("ws/", consumer), path("ws/wallboard/", board)])


async def route(scope: Any, receive: Any, send: Any) -> None:
    scope["looked"].append(True)
    unconnected.over()
    await routes(scope, receive, send)


signed_in: Any = AuthMiddlewareStack(route)


async def socket(scope: Any, receive: Any, send: Any) -> None:
    """A session is looked at in the handshake; the frames of the socket do not pass by it again.

    When the database is away by then, the page is told to come back, as by a server that restarts.
    """
    looked: list[bool] = []  # has an item once the session and its user have been read
    try:
        await signed_in({**scope, "send": send, "looked": looked}, receive, send)
    except pool.AWAY as error:
        if looked:
            raise
        unconnected.met(error)
        await receive()
        await send({"type": "websocket.accept"})
        bye = protocol.encode({"t": "bye", "why": "restart", "retry_ms": random.randint(*BACK_MS)})  # noqa: S311
        await send({"type": "websocket.send", "text": bye})
        await send({"type": "websocket.close", "code": protocol.CLOSE["restart"], "reason": "restart"})


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
        "http": http,
        "websocket": OriginCheck(socket),
        "lifespan": lifespan,
    }
)

# What is loaded by now stays, and what a call makes goes with it. Neither needs the collector of cycles, which, as
# Python sets it, stops every socket for 0.1 s time and again to look at all there is.
gc.collect()
gc.freeze()
gc.set_threshold(5_000, 10, 20)
