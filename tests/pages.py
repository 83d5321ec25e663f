"""A page as other people's clients would write it: it speaks the wire contract and keeps the highest version of each
call. The tests use it in process (`Local`) and against running servers (`Live`)."""

import asyncio
import json
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from channels.testing import WebsocketCommunicator
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

WAIT_S = 8.0  # for whatever has to come: generous, because machines are shared; nothing waits this long when it is well


class Closed(Exception):
    """The server closed the socket, with this code."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


@contextmanager
def closing() -> Iterator[None]:
    try:
        yield
    except ConnectionClosed as closed:
        raise Closed(closed.rcvd.code if closed.rcvd else 1006) from None


class Page:
    """One open page of one device of one user."""

    def __init__(self, user: str, name: str = "Laptop", device: str | None = None, page: str | None = None) -> None:
        self.user, self.name, self.device = user, name, device
        self.page = page or str(uuid.uuid4())
        self.calls: dict[str, dict[str, Any]] = {}
        self.frames: list[dict[str, Any]] = []
        self.missed: list[str] = []  # calls of which a pong brought what had not come by itself
        self.welcome: dict[str, Any] = {}
        self.signed_in = ""  # the cookie, to open another page of the same browser
        self.count = 0

    async def transmit(self, text: str | bytes) -> None:
        raise NotImplementedError

    async def receive(self) -> str:
        raise NotImplementedError

    async def close(self) -> None:
        raise NotImplementedError

    async def say(self, cmd: str, **args: Any) -> str:
        """Sends a command and returns its id."""
        self.count += 1
        await self.transmit(json.dumps({"id": str(self.count), "cmd": cmd, **args}))
        return str(self.count)

    async def ask(self, cmd: str, **args: Any) -> dict[str, Any]:
        """Sends a command and waits for its one reply."""
        re = await self.say(cmd, **args)
        return await self.reply_to(re)

    async def reply_to(self, re: str) -> dict[str, Any]:
        return await self.until(lambda frame: frame.get("re") == re)

    async def hello(self, take: bool = False) -> dict[str, Any]:
        device = {"id": self.device, "name": self.name, "kind": "web"}
        answer = await self.ask("hello", page=self.page, device=device, take=take)
        if answer["t"] == "welcome":
            self.welcome, self.device = answer, answer["device"]["id"]
        return answer

    async def invite(self, to: str, kind: str = "audio", **args: Any) -> dict[str, Any]:
        call = args.pop("call", None) or str(uuid.uuid4())
        return await self.ask("invite", call=call, to=[to], kind=kind, **args)

    async def ping(self) -> dict[str, Any]:
        live = {id: view["v"] for id, view in self.calls.items() if view["state"] != "ended"}
        return await self.ask("ping", calls=live)

    async def until(self, wanted: Any) -> dict[str, Any]:
        """The first frame, new or already here, that `wanted` accepts; it is taken out."""
        for frame in self.frames:
            if wanted(frame):
                self.frames.remove(frame)
                return frame
        async with asyncio.timeout(WAIT_S):
            while True:
                frame = await self.next()
                if wanted(frame):
                    return frame
                self.frames.append(frame)

    async def next(self) -> dict[str, Any]:
        frame: dict[str, Any] = json.loads(await self.receive())
        for view in [frame["call"]] if isinstance(frame.get("call"), dict) else frame.get("calls", []):
            known = self.calls.get(view["id"], {"v": 0})["v"]
            if frame["t"] == "pong" and view["v"] > known:
                self.missed.append(view["id"])
            if view["v"] >= known:
                self.calls[view["id"]] = view
        for id in frame.get("gone", []):
            self.calls.pop(id, None)
        return frame

    async def sees(self, call: str, **state: Any) -> dict[str, Any]:
        """Waits until this page's view of the call has these values; `me` is compared by its given keys."""

        def matches() -> bool:
            view = self.calls.get(call)
            if view is None:
                return False
            me = state.get("me", {})
            plain = {key: value for key, value in state.items() if key != "me"}
            return all(view[key] == value for key, value in plain.items()) and me.items() <= view["me"].items()

        async with asyncio.timeout(WAIT_S):
            while not matches():
                self.frames.append(await self.next())
        return self.calls[call]

    async def closed(self, wait_s: float = WAIT_S) -> int:
        """Waits for the server to close the socket, and returns the code."""
        async with asyncio.timeout(wait_s):
            try:
                while True:
                    self.frames.append(await self.next())
            except Closed as closed:
                return closed.code

    async def heard_nothing(self, call: str) -> bool:
        """Whether this page knows nothing of a call, after everything sent to it so far was read."""
        await self.ask("ping", calls={})
        return call not in self.calls


class Local(Page):
    """A page whose socket is served in this process."""

    def __init__(self, application: Any, headers: list[tuple[bytes, bytes]], user: str, **kwargs: Any) -> None:
        super().__init__(user, **kwargs)
        self.communicator = WebsocketCommunicator(application, "/ws/", headers=headers)
        self.communicator.scope["extensions"] = {"callplatform.patience": {}}
        self.take: Callable[[str], bool] | None = None  # what a server would offer texts to: nothing urgent comes

    async def open(self) -> "Local":
        connected, _ = await self.communicator.connect(timeout=WAIT_S)
        assert connected
        return self

    async def transmit(self, text: str | bytes) -> None:
        if self.take and isinstance(text, str) and self.communicator.input_queue.empty() and self.take(text):
            return
        kind = "bytes" if isinstance(text, bytes) else "text"
        await self.communicator.send_input({"type": "websocket.receive", kind: text})

    async def receive(self) -> str:
        while (message := await self.communicator.receive_output(WAIT_S))["type"] == "callplatform.patience":
            self.take = message["take"]
        if message["type"] == "websocket.close":
            raise Closed(message["code"])
        return str(message["text"])

    async def close(self) -> None:
        await self.communicator.disconnect(timeout=WAIT_S)


class Live(Page):
    """A page whose socket is served by a running server."""

    socket: ClientConnection

    def __init__(self, url: str, cookie: str, user: str, **kwargs: Any) -> None:
        super().__init__(user, **kwargs)
        self.url, self.cookie = url, cookie

    async def open(self) -> "Live":
        origin = self.url.replace("ws", "http", 1)
        self.socket = await connect(f"{self.url}/ws/", additional_headers={"Cookie": self.cookie}, origin=origin)  # type: ignore[arg-type]
        return self

    async def transmit(self, text: str | bytes) -> None:
        with closing():
            await self.socket.send(text)

    async def receive(self) -> str:
        with closing():
            return str(await self.socket.recv())

    async def close(self) -> None:
        await self.socket.close()
