"""A lean client of wire protocol 1: it reads of each frame only what the measuring needs.

Imports nothing of the product: a benchmark that shared its code would share its mistakes.
"""

from __future__ import annotations

import asyncio
import uuid
from typing import Any, Protocol

import msgspec
from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

CONNECT_S = 60
AT_ONCE = 64  # connections being made at a time


class Me(msgspec.Struct):
    state: str
    here: bool


class View(msgspec.Struct):
    id: str
    v: int
    state: str
    me: Me


class Error(msgspec.Struct):
    code: str


class DeviceSeen(msgspec.Struct):
    id: str


class Frame(msgspec.Struct):
    t: str
    re: str | None = None
    ok: bool = True
    error: Error | None = None
    call: View | str | None = None  # only its id in a signal
    device: DeviceSeen | None = None


class Owner(Protocol):
    """Who is told what a device hears."""

    def saw(self, device: Device, view: View) -> None: ...
    def refused(self, device: Device, code: str) -> None: ...
    def heard(self, device: Device, call: str) -> None: ...


decode = msgspec.json.Decoder(Frame).decode
encode = msgspec.json.Encoder().encode


class Device(WSListener):
    """One connected device. It remembers its id, so that it comes back as the same one."""

    def __init__(self, user: str, name: str) -> None:
        self.user, self.name = user, name
        self.id: str | None = None
        self.page = str(uuid.uuid4())
        self.owner: Owner | None = None
        self.said = 0
        self.transport: WSTransport | None = None
        self.answer: asyncio.Future[Frame] | None = None  # to hello or ping

    async def connect(self, port: int, cookie: str) -> None:
        """Opens the socket and says hello. Raises ConnectionError, TimeoutError."""
        site = f"127.0.0.1:{port}"
        headers = {"Cookie": cookie, "Origin": f"http://{site}"}
        async with asyncio.timeout(CONNECT_S):
            await ws_connect(lambda: self, f"ws://{site}/ws/", extra_headers=headers, enable_auto_pong=True)
            device = {"id": self.id, "name": self.name, "kind": "web"}
            welcome = await self.ask("hello", page=self.page, take=True, device=device)
        if welcome.t != "welcome" or welcome.device is None:
            raise ConnectionError(f"{self.user} was not welcome: {welcome.error}")
        self.id = welcome.device.id

    async def ask(self, cmd: str, **args: Any) -> Frame:
        """A command whose answer is waited for: hello and ping."""
        if self.transport is None:
            raise ConnectionError(f"{self.user} is not connected, or not signed in")
        self.answer = asyncio.get_running_loop().create_future()
        self.say(cmd, **args)
        return await self.answer

    def say(self, cmd: str, **args: Any) -> None:
        assert self.transport is not None
        self.said += 1
        self.transport.send(WSMsgType.TEXT, encode({"id": str(self.said), "cmd": cmd, **args}))

    def close(self) -> None:
        if self.transport is not None:
            self.transport.disconnect()

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.transport = transport

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self.transport = None
        if self.answer is not None and not self.answer.done():
            self.answer.set_exception(ConnectionError(f"{self.user}'s socket was closed"))

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code())
            transport.disconnect()
        elif frame.msg_type == WSMsgType.TEXT:
            self._hear(decode(frame.get_payload_as_bytes()))

    def _hear(self, frame: Frame) -> None:
        owner = self.owner
        if isinstance(frame.call, View):
            if owner is not None:
                owner.saw(self, frame.call)
        elif frame.t == "signal" and owner is not None and frame.call is not None:
            owner.heard(self, frame.call)
        if frame.t == "reply" and not frame.ok and owner is not None and frame.error is not None:
            owner.refused(self, frame.error.code)
        waiting = self.answer
        if waiting is not None and frame.re is not None and frame.t in ("welcome", "pong", "reply"):
            self.answer = None
            if not waiting.done():
                waiting.set_result(frame)


async def connect(devices: list[Device], ports: list[int], cookies: dict[str, str]) -> None:
    """Connects them all, spread over the ports in turn."""
    places = asyncio.Semaphore(AT_ONCE)

    async def one(number: int, device: Device) -> None:
        async with places:
            await device.connect(ports[number % len(ports)], cookies.get(device.user, ""))

    await asyncio.gather(*(one(number, device) for number, device in enumerate(devices)))
