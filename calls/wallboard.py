"""The wallboard: a page for staff, and its own socket.

One count in a second for all of a process's wallboards, and none while nobody watches.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from channels.consumer import AsyncConsumer
from django.contrib import admin
from django.contrib.auth import get_user_model
from django.contrib.auth.decorators import user_passes_test
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from calls import aggregates, pool
from calls.logs import Trouble
from devices import sessions

log = logging.getLogger(__name__)
uncounted = Trouble(log, "the wallboard cannot be counted")

PERMISSION = "calls.view_call"
EVERY_S = 1.0
ONLINE_S = 5.0  # between two counts of devices
PLOT_S = {"hour": 10.0, "day": 60.0, "week": 300.0}  # between two counts for the figures and plots of a time
LOOK_S = 30.0  # between two looks whether the viewer still may
MAY_NOT, SIGNED_OUT, RESTART = 4403, 4401, 1012


def may_watch(user: Any) -> bool:
    return bool(user.is_active and user.is_staff and user.has_perm(PERMISSION))


@require_safe
@user_passes_test(may_watch, login_url="admin:login")
def page(request: HttpRequest) -> HttpResponse:
    """The wallboard's page, in the admin's frame."""
    context = {**admin.site.each_context(request), "title": "Wallboard", "socket": "/ws/wallboard/"}
    return render(request, "admin/wallboard.html", context)


class Board:
    """This process's wallboards, and what was last counted for them. One for each event loop."""

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        self.watchers: set[Wallboard] = set()
        self.task: asyncio.Task[None] | None = None
        self.counted_at: dict[str, float] = {}
        self.figures: dict[str, Any] = {}
        self.plots: dict[str, bytes] = {}
        self.last = b""  # the figures of this second, for whoever comes in it

    def join(self, watcher: "Wallboard") -> None:
        loop = asyncio.get_running_loop()
        if self.loop is not loop:
            self.__init__()  # type: ignore[misc]
            self.loop = loop
        self.watchers.add(watcher)
        counting = self.task is not None and not self.task.done()
        for frame in ([self.last] if counting and self.last else []) + [*self.plots.values()]:
            watcher.show(frame)
        if not counting:
            self.task = asyncio.create_task(self._run())

    def part(self, watcher: "Wallboard") -> None:
        self.watchers.discard(watcher)

    async def _run(self) -> None:
        while self.watchers:
            began = time.monotonic()
            try:
                frames = await pool.run(self.count)
            except Exception as error:
                uncounted.met(error)
                frames = [msgspec.json.encode({"t": "trouble"})]
            for watcher in list(self.watchers):
                for frame in frames:
                    watcher.show(frame)
            await asyncio.sleep(max(0.1, EVERY_S - (time.monotonic() - began)))

    def count(self) -> list[bytes]:
        """The frames of this second. Runs in a thread of the pool, never twice at once."""
        self.figures |= aggregates.now()
        if self._is_due("online", ONLINE_S):
            self.figures["online"] = aggregates.online()
        self.last = msgspec.json.encode({"t": "now", **self.figures})
        frames = [self.last]
        for span, every in PLOT_S.items():
            if self._is_due(span, every):
                self.plots[span] = msgspec.json.encode({"t": "plot", "span": span, **aggregates.plot(span)})
                frames.append(self.plots[span])
        return frames

    def _is_due(self, what: str, every: float) -> bool:
        now = time.monotonic()
        if now - self.counted_at.get(what, -every) < every:
            return False
        self.counted_at[what] = now
        return True


board = Board()


class Wallboard(AsyncConsumer):
    """A socket that is only written to. Who may not watch is told so and closed; so is who may no longer."""

    async def __call__(self, scope: Any, receive: Callable[[], Awaitable[Any]], send: Any) -> None:
        self.frames: asyncio.Queue[bytes] = asyncio.Queue(maxsize=16)
        await receive()  # websocket.connect
        if scope.get("stranger"):  # a page of another site: no token lets it in here
            await send({"type": "websocket.close"})
            return
        await send({"type": "websocket.accept"})
        self.session = sessions.of_headers(scope["headers"])
        try:
            refused = await pool.run(_refused, self.session) if self.session else SIGNED_OUT
        except pool.AWAY as error:
            uncounted.met(error)
            refused = RESTART
        if refused:
            await send({"type": "websocket.close", "code": refused})
            return
        writing = asyncio.create_task(self._write(send))
        board.join(self)
        try:
            while (await receive())["type"] != "websocket.disconnect":
                pass
        finally:
            board.part(self)
            writing.cancel()

    def show(self, frame: bytes) -> None:
        """A slow reader misses frames: the next one says it all again."""
        if not self.frames.full():
            self.frames.put_nowait(frame)

    async def _write(self, send: Any) -> None:
        looked = time.monotonic()
        while True:
            frame = await self.frames.get()
            if time.monotonic() - looked > LOOK_S:
                looked = time.monotonic()
                try:
                    refused = await pool.run(_refused, self.session)
                except Exception as error:  # it is looked at again
                    log.warning("whether a wallboard may be shown is not known: %s", type(error).__name__)
                    refused = None
                if refused:
                    board.part(self)
                    await send({"type": "websocket.close", "code": refused})
                    return
            await send({"type": "websocket.send", "text": frame.decode()})


def _refused(session: str) -> int | None:
    """The code to close with, if the viewer's sign-in has ended or does not allow to watch."""
    key = sessions.user_of(session)
    if key is None:
        return SIGNED_OUT
    return None if may_watch(get_user_model()._default_manager.get(pk=key)) else MAY_NOT
