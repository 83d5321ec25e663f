"""Floods of WebSocket frames that carry nothing: each frame counts, and a socket that sends too many is closed."""

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

from tests.test_server import Server, echo, frame, start, until  # noqa: F401 - a fixture among them

FLOODS = {
    "pings": frame(b"", opcode=9),
    "pings with words": frame(b"x" * 125, opcode=9),
    "pongs that nobody asked for": frame(b"", opcode=10),
    "texts of nothing": frame(b""),
    "bytes of nothing": frame(b"", opcode=2),
    "pieces of nothing": frame(b"", opcode=0, first=0),
    "pieces of one character": frame(b" ", opcode=0, first=0),
}
RATE, BURST = 50, 1000


@pytest.fixture(scope="module")
def bounded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("bounded") / "server.log", frame_rate=RATE, frame_burst=BURST)
    yield server
    assert server.stop() == 0, server.logged()
    assert "Traceback" not in server.logged(), server.logged()
    server.process.stdout.close()


@pytest.mark.parametrize("kind", FLOODS)
async def test_a_flood_of_frames_is_closed_as_flooding(bounded: Server, kind: str) -> None:
    begin = frame(b"x", first=0) if kind.startswith("pieces") else b""
    name = kind.replace(" ", "-")
    async with bounded.connect(f"?{name}") as flood, bounded.connect("?other") as other:
        flood.transport.write(begin)
        deadline = asyncio.get_running_loop().time() + 10
        while flood.close_code is None and asyncio.get_running_loop().time() < deadline:
            flood.transport.write(FLOODS[kind] * 20)  # no more at once, so that the close can be read
            with contextlib.suppress(ConnectionClosed, TimeoutError):
                await asyncio.wait_for(flood.recv(), 0.01)
        assert flood.close_code == 4429
        await echo(other)


async def test_who_goes_on_flooding_is_dropped_and_costs_nothing_more(bounded: Server) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", bounded.port)
    writer.write(
        b"GET /?deaf HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    await reader.readuntil(b"\r\n\r\n")
    writer.write(frame(b"", opcode=9) * 20_000)
    said = b""
    with contextlib.suppress(ConnectionError):
        while data := await asyncio.wait_for(reader.read(65536), 10):
            said += data
    assert said.count(b"\x8a\x00") <= BURST / 30 + 1, "a pong for each ping within the bound"
    await bounded.hears("deaf finally")
    writer.close()


async def test_a_client_that_pings_and_sends_a_message_in_pieces_is_within_the_bound(bounded: Server) -> None:
    async with bounded.connect("?usual") as peer:
        await peer.send("x" * 4000 for _ in range(16))
        assert await asyncio.wait_for(peer.recv(), 10) == "x" * 64_000
        for _ in range(10):
            await (await peer.ping())
        await echo(peer, "x" * 50_000)
        assert peer.close_code is None


# --- requests that never come to an end -------------------------------------------------------------------------------

TIMES: dict[str, Any] = {"headers_timeout": 1.0, "body_timeout": 2.0, "idle_timeout": 1.5}
SLOW = {
    "no request": b"",
    "half a line": b"GET /",
    "half of the headers": b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-A: ",
    "half of a body": b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\nx",
    "half of a body in chunks": b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n",
}


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("impatient") / "server.log", unfinished_per_address=20, **TIMES)
    yield server
    assert server.stop() == 0, server.logged()
    assert "Traceback" not in server.logged(), server.logged()
    server.process.stdout.close()


@pytest.mark.parametrize("kind", SLOW)
async def test_a_request_that_trickles_is_dropped(impatient: Server, kind: str) -> None:
    """A byte now and then gains no time."""
    began = asyncio.get_running_loop().time()
    reader, writer = await asyncio.open_connection("127.0.0.1", impatient.port)
    writer.write(SLOW[kind])

    async def trickle() -> None:
        while True:
            await asyncio.sleep(0.2)
            writer.write(b"" if kind == "no request" else b"1\r\nx\r\n" if "chunks" in kind else b"x")

    trickling = asyncio.create_task(trickle())
    said = b""
    with contextlib.suppress(ConnectionError):
        while data := await asyncio.wait_for(reader.read(1000), 10):
            said += data
    took = asyncio.get_running_loop().time() - began
    trickling.cancel()
    assert 0.9 < took < (6 if "body" in kind else 5)
    assert said.startswith(b"HTTP/1.1 408 ") or kind == "no request"
    writer.close()


async def test_a_connection_between_two_requests_is_closed_and_a_late_second_request_has_its_own_time(
    impatient: Server,
) -> None:
    request = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", impatient.port)
    for part in (request, request[:10], request[10:]):
        writer.write(part)
        # The third part ends its request 0.55 s after its first byte, and 1.1 s after the first answer.
        await asyncio.sleep(0.55)
    for _ in range(2):
        assert (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)).startswith(b"HTTP/1.1 200 ")
        await reader.readexactly(1000)
    assert await asyncio.wait_for(reader.read(), 10) == b""
    writer.close()


async def test_the_oldest_of_too_many_unfinished_connections_makes_room(impatient: Server) -> None:
    opened = [await asyncio.open_connection("127.0.0.1", impatient.port) for _ in range(30)]
    reader, writer = await asyncio.open_connection("127.0.0.1", impatient.port)
    writer.write(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
    assert (await asyncio.wait_for(reader.read(100), 10)).startswith(b"HTTP/1.1 200 ")
    with contextlib.suppress(ConnectionError):
        assert await asyncio.wait_for(opened[0][0].read(), 0.7) == b"", "dropped before its time is up"
    for _, each in (*opened, (reader, writer)):
        each.close()


@pytest.mark.parametrize("more", [b"", b"Upgrade: websocket\r\nContent-Length: 1\r\n"])
async def test_many_requests_in_one_go_are_answered_in_turn(impatient: Server, more: bytes) -> None:
    """Also those that the server refuses by itself: none is answered from within the answer of another."""
    request = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n" + more
    end = b"\r\nx" if more else b"\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", impatient.port)
    writer.write((request + end) * 400 + request + b"Connection: close\r\n" + end)
    said = b""
    while data := await asyncio.wait_for(reader.read(65536), 20):
        said += data
    assert said.count(b"HTTP/1.1 ") == 401
    writer.close()


@pytest.mark.usefixtures("start")
async def test_the_bounds_are_those_that_serve_is_given(start: Callable[..., Server], tmp_path: Path) -> None:  # noqa: F811
    server = start()  # by itself it has practically no bound on frames
    async with server.connect("?free") as peer:
        peer.transport.write(frame(b"", opcode=10) * 5000)
        await echo(peer)
        await until(lambda: peer.close_code is None, "it stays open")
