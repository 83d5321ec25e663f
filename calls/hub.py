"""This process's open sockets, and its one subscription to what other processes say.

A message is `{"to": [user keys], …}`. It is handed to the sockets of those users here at once, and published once for
the other processes. Delivery is at most once by nature: whoever missed it is brought up to date by the next ping.
"""

import asyncio
import logging
import random
import uuid
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol

import msgspec
from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer

log = logging.getLogger(__name__)

GROUP = "calls"
RETRY_S = 1.0  # between two tries to reach the layer
RETURN_MS = (200, 3000)  # after a restart devices come back spread over this time


class Message(msgspec.Struct, frozen=True, omit_defaults=True):
    """What travels between processes. `what` names the content, `body` is its encoding."""

    to: tuple[str, ...]
    what: str
    body: bytes
    origin: str = ""


class Socket(Protocol):
    """What the hub needs of a consumer. Both methods are plain functions, called in the event loop."""

    @property
    def sign_in(self) -> Any: ...

    def take(self, what: str, content: Any) -> None: ...

    def bye(self, why: str, retry_ms: int) -> None: ...


class Hub:
    """One for each process. `start` and `stop` run in the event loop; `publish` may be called from any thread."""

    def __init__(self) -> None:
        self.sockets: defaultdict[str, set[Socket]] = defaultdict(set)
        self.loop: asyncio.AbstractEventLoop | None = None
        self.origin = uuid.uuid4().hex
        self.decoders: dict[str, Callable[[bytes], Any]] = {}
        self.errands: list[Callable[[], Awaitable[None]]] = []
        self.tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Begins to listen and to run the errands (the clock), once for each event loop."""
        loop = asyncio.get_running_loop()
        if self.loop is loop:
            return
        self.loop = loop
        self.sockets.clear()
        self.tasks.clear()
        for errand in (self._listen, *self.errands):
            self.spawn(errand())

    async def stop(self) -> None:
        """Says goodbye to every socket, each with its own time to come back, and ends the errands."""
        for socket in [each for group in self.sockets.values() for each in group]:
            socket.bye("restart", random.randint(*RETURN_MS))  # noqa: S311
        for task in self.tasks:
            task.cancel()
        self.loop = None

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

    def publish(self, to: tuple[str, ...], what: str, content: Any) -> None:
        """Hands the content to these users' sockets, here and in every other process. Never raises."""
        try:
            message = Message(to, what, msgspec.msgpack.encode(content), self.origin)
            if self.loop is not None and self.loop.is_running():
                self.loop.call_soon_threadsafe(self._spread, message, content)
            else:  # a shell command or a web process without sockets
                async_to_sync(self._send)(message)
        except Exception:
            log.exception("could not publish %s", what)

    def _spread(self, message: Message, content: Any) -> None:
        self._deliver(message, content)
        self.spawn(self._send(message))

    async def _send(self, message: Message) -> None:
        layer: Any = get_channel_layer()
        try:
            await layer.group_send(GROUP, {"type": "hub", "message": msgspec.msgpack.encode(message)})
        except Exception as error:
            log.warning("the channel layer did not take a message: %s", error)

    async def _listen(self) -> None:
        layer: Any = get_channel_layer()
        while True:
            try:
                channel = await layer.new_channel()
                await layer.group_add(GROUP, channel)
                while True:
                    packed = (await layer.receive(channel))["message"]
                    message = msgspec.msgpack.decode(packed, type=Message)
                    if message.origin != self.origin and any(key in self.sockets for key in message.to):
                        self._deliver(message, self.decoders[message.what](message.body))
            except Exception as error:
                log.warning("the channel layer cannot be heard, trying again: %s", error)
                await asyncio.sleep(RETRY_S)

    def _deliver(self, message: Message, content: Any) -> None:
        for key in message.to:
            for socket in list(self.sockets.get(key, ())):
                socket.take(message.what, content)

    def _done(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("a background task failed", exc_info=task.exception())


hub = Hub()
