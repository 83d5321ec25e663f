"""This process's open sockets, and its one subscription to what other processes say.

What is said to a user is handed to the user's sockets here at once, and published once for the other processes.
Delivery is at most once by nature: whoever missed it is brought up to date by the next ping.
"""

import asyncio
import logging
import random
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any, Protocol

import msgspec
from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from django.conf import settings

log = logging.getLogger(__name__)

GROUP = "calls"
RETRY_S = 1.0  # between two tries to reach the layer
SEND_S = 5.0  # for the layer to take a message
MAX_UNSENT = 1000  # messages that the layer has not taken yet; more are lost, and the next pings say it all again
PATIENCE_S = 5.0  # for the layer at the start; without it a process serves its own sockets
RETURN_MS = (200, 3000)  # after a restart devices come back spread over this time


class Said:
    """Something for these users' sockets: `what` names the `content`. Sockets that would show the same of it find what
    the first one made in `views`: the view, and the frame that tells of it."""

    __slots__ = ("content", "to", "views", "what")

    def __init__(self, to: tuple[str, ...], what: str, content: Any) -> None:
        self.to, self.what, self.content = to, what, content
        self.views: dict[Any, tuple[str, str]] = {}


class Letter(msgspec.Struct, frozen=True, array_like=True):
    """One thing said, on its way to other processes."""

    to: tuple[str, ...]
    what: str
    body: bytes


class Post(msgspec.Struct, frozen=True, array_like=True):
    """All that one process says at once. Without letters it says that it serves sockets; whoever does too, and has not
    heard of it, says the same."""

    origin: str
    letters: tuple[Letter, ...]


class Socket(Protocol):
    """What the hub needs of a consumer. Both methods are plain functions, called in the event loop."""

    @property
    def sign_in(self) -> Any: ...

    def take(self, said: Said) -> None: ...

    def bye(self, why: str, retry_ms: int) -> None: ...


class Hub:
    """One for each process. `start` and `stop` run in the event loop; `publish` may be called from any thread."""

    def __init__(self) -> None:
        self.sockets: defaultdict[str, set[Socket]] = defaultdict(set)
        self.loop: asyncio.AbstractEventLoop | None = None
        self.thread = 0  # the loop's
        self.began = 0.0
        self.origin = uuid.uuid4().hex
        self.others: set[str] = set()  # other processes that serve sockets, as far as they were heard of
        self.decoders: dict[str, Callable[[bytes], Any]] = {}
        self.errands: list[Callable[[], Awaitable[None]]] = []
        self.tasks: set[asyncio.Task[None]] = set()
        self.unsent = 0
        self.tried = asyncio.Event()  # to reach the layer

    async def start(self) -> None:
        """Begins to listen and to run the errands (the clock), once for each event loop. What others say is heard from
        here on, if the layer can be reached."""
        loop = asyncio.get_running_loop()
        if self.loop is loop:
            return
        self.loop, self.thread, self.began = loop, threading.get_ident(), time.monotonic()
        self.sockets.clear()
        self.tasks.clear()
        self.tried = asyncio.Event()
        for errand in (self._listen, *self.errands):
            self.spawn(errand())
        with suppress(TimeoutError):
            await asyncio.wait_for(self.tried.wait(), PATIENCE_S)

    async def stop(self) -> None:
        """Says goodbye to every socket, each with its own time to come back, and ends the errands."""
        for socket in [each for group in self.sockets.values() for each in group]:
            socket.bye("restart", random.randint(*RETURN_MS))  # noqa: S311
        for task in self.tasks:
            task.cancel()
        self.loop = None

    @property
    def alone(self) -> bool:
        """Whether nobody has to be told: the site says that this is its only process, and no other was heard of."""
        return not self.others and getattr(settings, "PROCESSES", None) == 1

    def spawn(self, work: Coroutine[Any, Any, None] | Awaitable[None]) -> None:
        """Runs `work` beside everything else, and says so when it fails."""
        task = asyncio.ensure_future(work)
        self.tasks.add(task)
        task.add_done_callback(self._done)

    def join(self, key: str, socket: Socket) -> None:
        self.sockets[key].add(socket)

    def part(self, key: str, socket: Socket) -> None:
        group = self.sockets.get(key)
        if group is not None:
            group.discard(socket)
            if not group:
                del self.sockets[key]

    def publish(self, *said: Said) -> None:
        """Hands everything said to its sockets, here and in every other process. Never raises."""
        if not said:
            return
        try:
            if self.loop is not None and self.loop.is_running():
                if threading.get_ident() == self.thread:
                    self._spread(said)
                else:
                    self.loop.call_soon_threadsafe(self._spread, said)
            else:  # a shell command or a web process without sockets
                async_to_sync(self._send)(self._post(said))
        except Exception:
            log.exception("could not publish %s", [each.what for each in said])

    def _spread(self, said: Sequence[Said]) -> None:
        for each in said:
            self._deliver(each)
        if not self.alone:
            self.spawn(self._send(self._post(said)))

    def _post(self, said: Sequence[Said]) -> Post:
        encode = msgspec.msgpack.encode
        return Post(self.origin, tuple(Letter(each.to, each.what, encode(each.content)) for each in said))

    async def _send(self, post: Post) -> None:
        layer: Any = get_channel_layer()
        if self.unsent >= MAX_UNSENT:
            log.warning("the channel layer is too slow: a message was dropped")
            return
        self.unsent += 1
        try:
            message = {"type": "hub", "post": msgspec.msgpack.encode(post)}
            async with asyncio.timeout(SEND_S):  # wait_for would make one more task for each
                await layer.group_send(GROUP, message)
        except Exception as error:
            log.warning("the channel layer did not take a message: %s", str(error) or type(error).__name__)
        finally:
            self.unsent -= 1

    async def _listen(self) -> None:
        layer: Any = get_channel_layer()
        channel = ""  # one for good: one that is left behind would go on filling
        while True:
            try:
                channel = channel or await layer.new_channel()
                await layer.group_add(GROUP, channel)
                await self._send(Post(self.origin, ()))
                self.tried.set()
                while True:
                    await self._hear(await layer.receive(channel))
            except Exception as error:
                log.warning("the channel layer cannot be heard, trying again: %s", error)
                self.tried.set()
                await asyncio.sleep(RETRY_S)

    async def _hear(self, message: dict[str, Any]) -> None:
        """One that cannot be read, of another version say, costs no other."""
        try:
            post = msgspec.msgpack.decode(message["post"], type=Post)
            if post.origin != self.origin:
                await self._read(post)
        except Exception:
            log.exception("what another process said was not understood")

    async def _read(self, post: Post) -> None:
        if not post.letters and post.origin not in self.others:
            if self.alone:
                log.warning("Another process serves the same calls. PROCESSES should say how many there are.")
            self.others.add(post.origin)
            await self._send(Post(self.origin, ()))
        for letter in post.letters:
            if any(key in self.sockets for key in letter.to):
                self._deliver(Said(letter.to, letter.what, self.decoders[letter.what](letter.body)))

    def _deliver(self, said: Said) -> None:
        for key in said.to:
            for socket in list(self.sockets.get(key, ())):
                try:
                    socket.take(said)
                except Exception:  # the others hear it all the same
                    log.exception("a socket did not take %s", said.what)

    def _done(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("a background task failed", exc_info=task.exception())


hub = Hub()
