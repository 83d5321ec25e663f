"""A device that connects, pings and reconnects as the protocol says, and keeps a record of all that it was told."""

import asyncio
import random
import uuid
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from websockets.asyncio.client import connect
from websockets.exceptions import InvalidHandshake

from tests.chaos.stage import now, stretch
from tests.pages import Closed, Live

WELCOME_S = 10.0  # a device waits so long to be connected, and again for the welcome, as socket.js does
ORDER_S = 20.0  # an order that has no reply by then, on a connection that is still open, is unanswered
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.3, 8.0  # before a device connects again: half of it on average, as in socket.js
NO_REPLY = ("signal",)


class Order:
    """One command: when it was sent, where, and what came of it."""

    __slots__ = ("args", "at", "by", "closed", "cmd", "code", "ended", "replies", "sent", "waiting")

    def __init__(self, by: "Device", cmd: str, args: dict[str, Any]) -> None:
        self.by, self.cmd, self.args = by, cmd, args
        self.at, self.sent = by.server, now()
        self.ended: float | None = None  # when it was answered, or its connection closed
        self.replies = 0
        self.closed = False  # the connection closed before the reply
        self.code = ""  # "ok", or that of the refusal
        self.waiting: asyncio.Future[dict[str, Any] | None] = asyncio.get_running_loop().create_future()

    @property
    def took(self) -> float:
        """Seconds until it was over, or until now."""
        return (self.ended or now()) - self.sent

    def end(self, reply: dict[str, Any] | None) -> None:
        self.ended = self.ended or now()
        if not self.waiting.done():
            self.waiting.set_result(reply)

    def __str__(self) -> str:
        outcome = self.code or ("closed" if self.closed else "no reply")
        return (
            f"{self.by}: {self.cmd} {self.args.get('call', '')} on server {self.at}: {outcome} after {self.took:.1f} s"
        )


class Told:
    """A view that a device was told."""

    __slots__ = ("at", "by", "page", "view")

    def __init__(self, by: "Device", view: dict[str, Any]) -> None:
        self.by, self.page, self.view, self.at = by, by.page, view, now()


class Letter:
    """A signal that a device received."""

    __slots__ = ("at", "by", "frame", "page")

    def __init__(self, by: "Device", frame: dict[str, Any]) -> None:
        self.by, self.page, self.frame, self.at = by, by.page, frame, now()


class Record:
    """What happened since the last check: everything that was asked, and everything that devices were told."""

    def __init__(self) -> None:
        self.orders: list[Order] = []
        self.told: list[Told] = []
        self.letters: list[Letter] = []
        self.faults: list[tuple[str, str]] = []  # what a device saw that must not be: an invariant, and a sentence
        self.on_told: Callable[[Told], None] = lambda told: None
        self.repaired = 0  # views that came by a ping, because the device had not been told before
        self.given_up = 0  # connections that a device closed because its ping was not answered


class Device(Live):
    """One device of one user, whose `run` lives through any number of connections. `home` is the number of the server
    that it prefers; `choose` says to which it goes. While `going` is not set, no command is sent again."""

    def __init__(
        self,
        user: str,
        key: str,
        cookie: str,
        name: str,
        home: int,
        record: Record,
        choose: Callable[["Device"], tuple[int, str] | None],
        going: asyncio.Event,
    ) -> None:
        super().__init__("", cookie, user, name=name)
        self.key, self.home, self.record, self.choose, self.going = key, home, record, choose, going
        self.server = home
        self.welcomed = asyncio.Event()
        self.over = False
        self.waiting: dict[str, Order] = {}
        self.heard_at: dict[str, float] = {}  # when each call's view came
        self.on_view: Callable[[Device, dict[str, Any]], None] = lambda device, view: None
        self.restart_ms = 0
        self.task: asyncio.Task[None] | None = None
        self.reloading = False

    def __str__(self) -> str:
        return f"{self.user}'s {self.name}"

    # --- connections ---

    def start(self) -> None:
        self.task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        self.over = True
        if self.task is not None:
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)

    def drop(self) -> None:
        """The network is gone for a moment."""
        if self.welcomed.is_set():
            self.socket.transport.abort()

    def reload(self) -> None:
        """The person reloads the page: a new page of the same device."""
        self.reloading = True
        self.drop()

    async def _run(self) -> None:
        pause = FIRST_PAUSE_S
        while not self.over:
            place = self.choose(self)
            if place is not None:
                self.server, self.url = place
                with suppress(Closed, OSError, InvalidHandshake, TimeoutError, EOFError):
                    await self._connect()
                    pause = FIRST_PAUSE_S
                    await self._serve()
                await self._disconnect()
            wait_s, self.restart_ms = self.restart_ms / 1000, 0
            await asyncio.sleep(wait_s + pause * random.random())
            pause = min(LONGEST_PAUSE_S, 2 * pause)

    async def _connect(self) -> None:
        """Opens a socket and says hello."""
        if self.reloading:
            self.page, self.reloading, take = str(uuid.uuid4()), False, True
            self.calls.clear()  # a new page knows nothing
        else:
            take = False
        origin: Any = self.url.replace("ws", "http", 1)
        headers = {"Cookie": self.cookie}
        # The server's pings are answered; ours would only find what the protocol's pings find.
        self.socket = await connect(
            f"{self.url}/ws/",
            additional_headers=headers,
            origin=origin,
            ping_interval=None,
            close_timeout=1,
            open_timeout=WELCOME_S,
            proxy=None,
        )
        device = {"id": self.device, "name": self.name, "kind": "web"}
        re = await self.say("hello", page=self.page, device=device, take=take)
        async with asyncio.timeout(WELCOME_S):
            while (answer := await self.next()).get("re") != re:
                pass
        if answer["t"] != "welcome":
            if answer["error"]["code"] not in ("unavailable", "rate_limited", "device_in_use"):
                self.record.faults.append(("6", f"{self}: hello was refused: {answer['error']['code']}"))
            raise EOFError
        self.welcome, self.device = answer, answer["device"]["id"]
        self.welcomed.set()

    async def _serve(self) -> None:
        pinging = asyncio.create_task(self._ping())
        try:
            while True:
                self._take(await self.next())
        finally:
            pinging.cancel()

    async def _disconnect(self) -> None:
        self.welcomed.clear()
        for order in self.waiting.values():
            order.closed = not order.replies
            order.end(None)
        self.waiting.clear()
        if hasattr(self, "socket"):
            self.socket.transport.abort()
            with suppress(Exception):
                await self.socket.wait_closed()

    async def _ping(self) -> None:
        """Pings as the welcome says. A ping that has no answer in time means that the connection is dead."""
        while True:
            live = any(view["state"] != "ended" for view in self.calls.values())
            pong = await self.order("ping", calls=self.held, wait_s=self.welcome["pong_s"])
            if pong is None:
                self.record.given_up += 1
                self.socket.transport.abort()
                return
            await asyncio.sleep(self.welcome["ping_call_s" if live else "ping_s"])

    @property
    def held(self) -> dict[str, int]:
        """The calls that this page takes for live, with the version that it knows."""
        return {id: view["v"] for id, view in self.calls.items() if view["state"] != "ended"}

    # --- what is asked ---

    async def say(self, cmd: str, **args: Any) -> str:
        order = Order(self, cmd, args)
        self.waiting[str(self.count + 1)] = order
        self.record.orders.append(order)
        return await super().say(cmd, **args)

    async def order(self, cmd: str, wait_s: float = 0, **args: Any) -> dict[str, Any] | None:
        """Sends a command and waits for the reply; None when the connection closed before. An order that takes longer
        than it may is noted, and the connection is closed."""
        if not self.welcomed.is_set():
            return None
        try:
            order = self.waiting[await self.say(cmd, **args)]
        except (Closed, KeyError):
            return None

        async def bounded() -> dict[str, Any] | None:
            async with asyncio.timeout(wait_s or ORDER_S * stretch()):
                return await asyncio.shield(order.waiting)

        try:
            return await bounded()
        except TimeoutError:
            if not wait_s:
                self.record.faults.append(("unanswered", str(order)))
                self.drop()
            return None

    async def insist(self, cmd: str, for_s: float = 60, **args: Any) -> dict[str, Any] | None:
        """Sends a command again until it has a definite reply, over as many connections as that takes."""
        end = now() + for_s
        while now() < end and not self.over:
            with suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await self.welcomed.wait()
            await self.going.wait()
            reply = await self.order(cmd, **args)
            code = (reply or {}).get("error", {}).get("code")
            if reply is None:
                await asyncio.sleep(0.1)
            elif code in ("unavailable", "rate_limited"):
                await asyncio.sleep(reply["error"]["retry_ms"] / 1000)
            else:
                return reply
        return None

    # --- what is heard ---

    async def next(self) -> dict[str, Any]:
        frame = await super().next()
        self.record.repaired += len(self.missed)
        self.missed.clear()
        if frame.get("re") is not None and frame["t"] in ("reply", "welcome", "pong"):
            self._answered(frame)
        for view in [frame["call"]] if isinstance(frame.get("call"), dict) else frame.get("calls", []):
            told = Told(self, view)
            self.record.told.append(told)
            self.record.on_told(told)
            self.heard_at[view["id"]] = now()
        return frame

    def _answered(self, frame: dict[str, Any]) -> None:
        order = self.waiting.get(frame["re"])
        if order is None:
            self.record.faults.append(("6", f"{self}: a reply to nothing that was asked here: {frame}"))
            return
        order.replies += 1
        order.code = frame.get("error", {}).get("code", "ok")
        if order.replies > 1:
            self.record.faults.append(("6", f"{order}: {order.replies} replies"))
        order.end(frame)

    def _take(self, frame: dict[str, Any]) -> None:
        if frame["t"] == "signal":
            self.record.letters.append(Letter(self, frame))
        elif frame["t"] == "bye":
            self.restart_ms = frame["retry_ms"]
            if frame["why"] not in ("restart", "replaced"):
                self.record.faults.append(("6", f"{self}: the server said goodbye: {frame['why']}"))
        for view in [frame["call"]] if isinstance(frame.get("call"), dict) else frame.get("calls", []):
            self.on_view(self, self.calls.get(view["id"], view))

    def rings(self, call: str) -> bool:
        """The one ring predicate, as the client applies it now."""
        me = self.calls[call]["me"]
        return me["state"] == "ringing" and me["ring_ms"] > (now() - self.heard_at[call]) * 1000
