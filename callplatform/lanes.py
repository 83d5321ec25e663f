"""How many HTTP requests are worked on at a time, and whose turn it is.

Under ASGI, Django runs each request in a thread of its own, with a database connection of its own. Without a bound a
few dozen dear pages take every connection and most of the processor's time, and sockets, the clock and the health
checks find none. So a request waits here, before it takes a thread, until its lane has room.

Knows neither Django nor any server: it wraps one ASGI application in another.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

Message = dict[str, Any]
Scope = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

RETRY_S = 2  # what a refused client is told to wait


class Client(NamedTuple):
    """Who asks, as far as it is known before anything is looked up: an address, and the session it says it has."""

    address: str
    session: str


class Lane:
    """At most `at_once` requests at a time: half of them for one client, three quarters for one address.

    Others wait, at most `wait_s` seconds: each client in a queue of its own, and the queues take turns, so a client
    that asks a hundred times waits behind itself. At most `queue` requests wait, an eighth of them of one client and
    half of one address. A bound that would be below one is one.
    """

    def __init__(self, at_once: int, wait_s: float, queue: int) -> None:
        self.at_once, self.wait_s, self.queue = at_once, wait_s, queue
        self.for_client = (at_once + 1) // 2
        self.for_address = max(1, at_once - (at_once + 3) // 4)
        self.inside: Counter[Client | str] = Counter()  # of each client, and of each address
        self.waiting: dict[Client, deque[asyncio.Future[None]]] = {}  # the client whose turn is next comes first
        self.queued: Counter[str] = Counter()  # of each address

    async def enter(self, client: Client) -> bool:
        """Waits for a place; whether there was one. Who has entered must `leave`."""
        if client not in self.waiting and self._has_room(client):
            self._count(client, 1)
            return True
        mine = self.waiting.get(client, ())
        if (
            self.queued.total() >= self.queue
            or self.queued[client.address] >= max(1, self.queue // 2)
            or len(mine) >= max(1, self.queue // 8)
        ):
            return False
        turn = asyncio.get_running_loop().create_future()
        self.waiting.setdefault(client, deque()).append(turn)
        self.queued[client.address] += 1
        try:
            async with asyncio.timeout(self.wait_s):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():  # it was given a place at the last moment
                self.leave(client)
            else:
                self._forget(client, turn)
            if isinstance(error, TimeoutError):
                return False
            raise
        return True

    def leave(self, client: Client) -> None:
        """Gives the place to whoever is next."""
        self._count(client, -1)
        while (following := next((each for each in self.waiting if self._has_room(each)), None)) is not None:
            turn = self.waiting[following][0]
            self._forget(following, turn)
            if following in self.waiting:  # behind the others
                self.waiting[following] = self.waiting.pop(following)
            self._count(following, 1)
            turn.set_result(None)

    def _has_room(self, client: Client) -> bool:
        return (
            self.inside.total() < 2 * self.at_once  # each is counted for its client and for its address
            and self.inside[client] < self.for_client
            and self.inside[client.address] < self.for_address
        )

    def _count(self, client: Client, number: int) -> None:
        for key in (client, client.address):
            self.inside[key] += number
            if not self.inside[key]:
                del self.inside[key]

    def _forget(self, client: Client, turn: "asyncio.Future[None]") -> None:
        self.waiting[client].remove(turn)
        if not self.waiting[client]:
            del self.waiting[client]
        self.queued[client.address] -= 1
        if not self.queued[client.address]:
            del self.queued[client.address]


class Lanes:
    """The application, each of whose requests goes through the lane that `lane_of` names.

    `busy` gives the type and the body for a client whose turn did not come; it is answered with 503 and Retry-After.
    """

    def __init__(
        self,
        application: Application,
        lane_of: Callable[[Scope], Lane],
        client_of: Callable[[Scope], Client],
        busy: Callable[[Scope], tuple[str, bytes]],
    ) -> None:
        self.application, self.lane_of, self.client_of, self.busy = application, lane_of, client_of, busy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        lane, client = self.lane_of(scope), self.client_of(scope)
        if not await lane.enter(client):
            await _refuse(*self.busy(scope), send)
            return
        answer = _Answer(send)
        try:
            await self.application(scope, receive, answer.send)
        finally:
            lane.leave(client)
        await answer.deliver()


class _Answer:
    """An answer whose length is known is kept until its place is free: a client that reads slowly must hold neither a
    thread nor a connection. One that is made while it is sent, such as an export, holds its place meanwhile."""

    def __init__(self, transmit: Send) -> None:
        self.transmit = transmit
        self.kept: list[Message] = []
        self.streams = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.streams = all(name.lower() != b"content-length" for name, _ in message.get("headers", ()))
        if self.streams:
            await self.transmit(message)
        else:
            self.kept.append(message)

    async def deliver(self) -> None:
        for message in self.kept:
            await self.transmit(message)


async def _refuse(kind: str, body: bytes, send: Send) -> None:
    headers = [
        (b"content-type", kind.encode()),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
        (b"content-security-policy", b"default-src 'self'; frame-ancestors 'none'"),
        (b"retry-after", str(RETRY_S).encode()),
    ]
    await send({"type": "http.response.start", "status": 503, "headers": headers})
    await send({"type": "http.response.body", "body": body})
