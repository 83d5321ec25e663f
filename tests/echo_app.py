"""A small ASGI application for tests of the server, in words that a client sends; says on stderr what happens to it.

As a program it serves itself on a free port: `python -m tests.echo_app '{"ping_interval": 0.5}'`, the JSON being
arguments of `serve`, and `on_start` and `on_stop` one of the HOOKS.
"""

import asyncio
import itertools
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any

Message = dict[str, Any]
Send = Callable[[Message], Awaitable[None]]
Receive = Callable[[], Awaitable[Message]]

POURED, PIECE = 64 * 2**20, 64 * 2**10  # bytes that /pour and /whole answer with, and in which pieces

released = asyncio.Event()
open_sockets: list[Send] = []


def say(*words: object) -> None:
    print("app:", *words, file=sys.stderr, flush=True)


async def application(scope: Message, receive: Receive, send: Send) -> None:
    await (websocket if scope["type"] == "websocket" else http)(scope, receive, send)


async def http(scope: Message, receive: Receive, send: Send) -> None:
    """Answers with what it knows of the request, or with POURED; `/raise`, `/half` and `/nothing` are faults."""
    length, more = 0, True
    while more:
        message = await receive()
        length, more = length + len(message.get("body", b"")), message.get("more_body", False)
    if scope["path"] == "/raise":
        raise RuntimeError("asked to raise")
    if scope["path"] == "/nothing":
        return
    if scope["path"] in ("/pour", "/whole"):
        piece = PIECE if scope["path"] == "/pour" else POURED
        headers = [(b"content-length", str(POURED).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for left in range(POURED - piece, -1, -piece):
            await send({"type": "http.response.body", "body": bytes(piece), "more_body": left > 0})
        say("poured")
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1000")]})
    await send({"type": "http.response.body", "body": b" " * 500, "more_body": True})
    if scope["path"] == "/half":
        raise RuntimeError("asked to raise")
    known = {"root_path": scope["root_path"], "client": scope["client"][0], "length": length}
    await send({"type": "http.response.body", "body": json.dumps(known).encode().ljust(500)})


async def websocket(scope: Message, receive: Receive, send: Send) -> None:
    """Echoes, and obeys the commands below. The query string names the socket in what is said."""
    name = scope["query_string"].decode()
    count = 0
    tell: Callable[[str], bool] = scope["extensions"]["callplatform.say"]["text"]

    def take(text: str) -> bool:
        if text != "overheard":
            return False
        say(name, "overhears")
        return True

    try:
        await receive()
        say(name, "connects")
        if scope["path"] == "/raise":
            raise RuntimeError("asked to raise")
        if scope["path"] == "/never":
            await released.wait()
        await send({"type": "websocket.accept"})
        open_sockets.append(send)
        patient = scope["path"] == "/patient"
        while (message := await receive())["type"] != "websocket.disconnect":
            if patient:
                await send({"type": "callplatform.patience", "take": take})
                patient = False
            command, _, rest = (message.get("text") or "").partition(" ")
            match command:
                case "close":
                    code, _, reason = rest.partition(" ")
                    await send({"type": "websocket.close", "code": int(code), "reason": reason})
                case "raise":
                    raise RuntimeError("asked to raise")
                case "return":
                    return
                case "pour":
                    for _ in range(int(rest)):
                        await send({"type": "websocket.send", "text": "x" * 65536})
                    say(name, "poured")
                case "tell":
                    texts = (str(number).zfill(1000) for number in itertools.count())
                    waits = next(text for text in texts if not tell(text))
                    say(name, "is not taken at its word")
                    for text in (waits, *itertools.islice(texts, 100), "end"):
                        if not tell(text):
                            await send({"type": "websocket.send", "text": text})
                        await asyncio.sleep(0.002)
                case "hold":
                    say(name, "holds")
                    await released.wait()
                    released.clear()
                case "release":
                    released.set()
                case "hurry":
                    await send({"type": "callplatform.patience", "take": None})
                case "count":
                    count += 1
                case "total":
                    await send({"type": "websocket.send", "text": str(count)})
                case "root":
                    await send({"type": "websocket.send", "text": repr(scope["root_path"])})
                case _:
                    await send(message | {"type": "websocket.send"})
        say(name, "disconnect", message["code"])
        say(name, "is heard" if tell("too late") else "is not heard")
        if scope["path"] == "/deaf":
            await asyncio.sleep(3600)
    finally:
        say(name, "finally")


async def bye() -> None:
    for send in open_sockets:
        await send({"type": "websocket.send", "text": "bye"})
        await send({"type": "websocket.close", "code": 1012, "reason": "back soon"})


async def fail() -> None:
    raise RuntimeError("asked to raise")


async def hang() -> None:
    await asyncio.sleep(3600)


HOOKS = {"bye": bye, "fail": fail, "hang": hang}

if __name__ == "__main__":
    from callplatform.server import serve

    arguments = {"host": "127.0.0.1", "port": 0, **json.loads(sys.argv[1])}
    for hook in {"on_start", "on_stop"} & arguments.keys():
        arguments[hook] = HOOKS[arguments[hook]]
    serve(application, **arguments)
