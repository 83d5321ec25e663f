"""This process's open sockets, and its one subscription to what other processes say.

What is said to a user is handed to the user's sockets here at once, and published once for the other processes.
Delivery is at most once by nature: whoever missed it is brought up to date by the next ping.

A subscription can be dead without an error, when a connection to Redis is half open. So each process sends a heartbeat
through the layer every second, which it must hear itself. One that hears none of DEAF_BEATS in a row drops all its
connections to the layer and subscribes again; until it hears itself, it is not ready.
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
from channels import DEFAULT_CHANNEL_LAYER
from channels.layers import channel_layers, get_channel_layer
from django.conf import settings

from calls.logs import Trouble

log = logging.getLogger(__name__)
unheard = Trouble(log, "the channel layer cannot be heard")
unsendable = Trouble(log, "the channel layer did not take a message")

GROUP = "calls"
BEAT_S = 1.0  # between two heartbeats through the layer
DEAF_BEATS = 5  # sent without hearing one of them
RETRY_S = 1.0  # between two tries to reach the layer
SEND_S = 3.0  # for the layer to take a message; one that waits longer ends its connection
LAST_WORDS_S = 1.0  # for the layer to take the last messages when the process stops
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
    """All that one process says at once. One without letters is a heartbeat: a process that hears the first of another
    answers with its own, so that both know of each other at once."""

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
        self.sending: set[asyncio.Task[None]] = set()
        self.heard_at = float("-inf")  # the last own message, by time.monotonic()
        self.beats = 0  # sent since then
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
        self.sending.clear()
        self.heard_at = float("-inf")
        self.tried = asyncio.Event()
        for errand in (self._listen, *self.errands):
            self.spawn(errand())
        with suppress(TimeoutError):
            await asyncio.wait_for(self.tried.wait(), PATIENCE_S)

    async def stop(self) -> None:
        """Lets the layer take what was said, says goodbye to every socket, each with its own time to come back, and
        ends the errands. What is decided before this is told; the caller sees to it that nothing is decided after."""
        if self.sending:
            await asyncio.wait(self.sending, timeout=LAST_WORDS_S)
        for socket in [each for group in self.sockets.values() for each in group]:
            socket.bye("restart", random.randint(*RETURN_MS))  # noqa: S311
        for task in (*self.tasks, *self.sending):
            task.cancel()
        self.loop = None

    @property
    def silent_s(self) -> float:
        """For how many seconds this process has not heard its own messages; infinite before the first."""
        return time.monotonic() - self.heard_at

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
            elif _in_event_loop():  # what was not finished in time when the process stopped
                self._send_soon(self._post(said))
            else:  # a shell command, a web process without sockets, or one that has stopped
                async_to_sync(self._send)(self._post(said))
        except Exception:
            log.exception("could not publish %s", [each.what for each in said])

    def _spread(self, said: Sequence[Said]) -> None:
        for each in said:
            self._deliver(each)
        if not self.alone:
            self._send_soon(self._post(said))

    def _send_soon(self, post: Post) -> None:
        if len(self.sending) >= MAX_UNSENT:
            unsendable.met("it is too slow")
            return
        task = asyncio.ensure_future(self._send(post))
        self.sending.add(task)
        task.add_done_callback(self.sending.discard)

    def _post(self, said: Sequence[Said]) -> Post:
        encode = msgspec.msgpack.encode
        return Post(self.origin, tuple(Letter(each.to, each.what, encode(each.content)) for each in said))

    async def _send(self, post: Post) -> None:
        layer: Any = get_channel_layer()
        try:
            message = {"type": "hub", "post": msgspec.msgpack.encode(post)}
            async with asyncio.timeout(SEND_S):  # wait_for would make one more task for each
                await layer.group_send(GROUP, message)
        except Exception as error:
            unsendable.met(error)
        else:
            unsendable.over()

    async def _listen(self) -> None:
        """Hears the layer until cancelled. Subscribes again when that fails, or when the process has become deaf."""
        while True:
            self.beats = 0
            hearing = asyncio.ensure_future(self._hear_all())
            try:
                while self.beats < DEAF_BEATS and not (await asyncio.wait({hearing}, timeout=BEAT_S))[0]:
                    self._beat()
                if hearing.done():
                    unheard.met(hearing.exception())
                    await asyncio.sleep(RETRY_S)
                else:
                    unheard.met("none of our own messages came back; subscribing again")
                    await self._drop_connections()
            finally:
                hearing.cancel()
                self.tried.set()

    def _beat(self) -> None:
        self.beats += 1
        self._send_soon(Post(self.origin, ()))

    async def _hear_all(self) -> None:
        layer: Any = get_channel_layer()
        channel = await layer.new_channel()
        await layer.group_add(GROUP, channel)
        self._beat()
        while True:
            self._hear(await layer.receive(channel))

    async def _drop_connections(self) -> None:
        """A layer whose connections cannot be ended, because others still wait at them, is replaced."""
        layer: Any = get_channel_layer()
        try:
            async with asyncio.timeout(RETRY_S):
                await layer.flush()
        except Exception:
            channel_layers.set(DEFAULT_CHANNEL_LAYER, channel_layers.make_backend(DEFAULT_CHANNEL_LAYER))

    def _hear(self, message: dict[str, Any]) -> None:
        """Takes one message from the layer. One that cannot be read, of another version say, is logged, and those after
        it are heard all the same."""
        try:
            post = msgspec.msgpack.decode(message["post"], type=Post)
            if post.origin != self.origin:
                self._read(post)
                return
            self.heard_at, self.beats = time.monotonic(), 0
            self.tried.set()
            unheard.over()
        except Exception:
            log.exception("what another process said was not understood")

    def _read(self, post: Post) -> None:
        if not post.letters and post.origin not in self.others:
            if self.alone:
                log.warning("Another process serves the same calls. PROCESSES should say how many there are.")
            self.others.add(post.origin)
            self._send_soon(Post(self.origin, ()))
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


def _in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


hub = Hub()
