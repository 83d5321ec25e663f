"""The server as its peers meet it: real processes, real sockets, real memory. The application is tests/echo_app.py."""

import asyncio
import contextlib
import fcntl
import itertools
import json
import os
import random
import selectors
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests import echo_app

ROOT = Path(__file__).resolve().parent.parent
MIB = 1024 * 1024
NAMES = itertools.count()
WAYS = ["", "patient"]  # in which a socket is read

on_linux = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory is read from Linux's /proc")


class Server:
    """A server process, of the echo application if nothing else is said, and what it logged."""

    def __init__(self, log: Path, *command: str, fds: tuple[int, ...] = (), **arguments: Any) -> None:
        self.log = log
        with log.open("ab") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, *(command or ("-m", "tests.echo_app", json.dumps(arguments)))],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=stderr,
                pass_fds=fds,
            )
        assert self.process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            assert selector.select(30), "the server said nothing in 30 s"
        self.line = self.process.stdout.readline().decode()
        self.url = self.line.removeprefix("Listening on ").strip()
        self.port = int(self.url.rpartition(":")[2].rstrip("/") or 0)

    def connect(self, path: str = "", **options: Any) -> connect:
        """`path` ends in the socket's name, which `said` then knows."""
        return connect(f"ws{self.url.removeprefix('http')}{path}", ping_interval=None, compression=None, **options)

    def said(self, words: str) -> int:
        """How often the application said this."""
        return self.logged().splitlines().count(f"app: {words}")

    def logged(self) -> str:
        return self.log.read_text()

    async def hears(self, words: str, times: int = 1) -> None:
        await until(lambda: self.said(words) == times, f"the application says {words!r} {times} times", self.logged)

    def memory(self, line: str) -> int:
        """Bytes: `VmRSS` is what the process has, `VmHWM` the most it had since `forget_peak`."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition(f"{line}:")[2].split()[0]) * 1024

    def forget_peak(self) -> int:
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")
        return self.memory("VmRSS")

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(20)


async def until(
    condition: Callable[[], bool], what: str, evidence: Callable[[], str] = str, seconds: float = 15
) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s until {what}\n{evidence()}"
        await asyncio.sleep(0.02)


async def echo(peer: ClientConnection, words: str = "hello") -> None:
    await peer.send(words)
    assert await asyncio.wait_for(peer.recv(), 10) == words


async def ten_echoes(peer: ClientConnection) -> float:
    """The seconds that they take, one after the other."""
    began = time.monotonic()
    for _ in range(10):
        await echo(peer)
    return time.monotonic() - began


async def closing(peer: ClientConnection) -> tuple[int | None, str | None]:
    """The close as the client sees it."""
    with contextlib.suppress(ConnectionClosed):
        while True:
            await asyncio.wait_for(peer.recv(), 10)
    return peer.close_code, peer.close_reason


def frame(payload: bytes, opcode: int = 1, first: int = 0x80, mask: int = 0x80) -> bytes:
    """A client's frame as it is on the wire, masked with zeros."""
    size = len(payload)
    if size < 126:
        length = bytes([mask | size])
    elif size < 65536:
        length = bytes([mask | 126]) + size.to_bytes(2, "big")
    else:
        length = bytes([mask | 127]) + size.to_bytes(8, "big")
    return bytes([first | opcode]) + length + (bytes(4) if mask else b"") + payload


HANDSHAKE = (
    b"GET /?raw HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
)


@contextlib.asynccontextmanager
async def raw(server: Server, request: bytes) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(request)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def rest(reader: asyncio.StreamReader) -> bytes:
    """All that the server says until it hangs up."""
    received = b""
    with contextlib.suppress(ConnectionError):
        while data := await asyncio.wait_for(reader.read(65536), 10):
            received += data
    return received


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def start(*command: str, **arguments: Any) -> Server:
        servers.append(Server(tmp_path / f"server{len(servers)}.log", *command, **arguments))
        return servers[-1]

    yield start
    for server in servers:
        server.process.kill()
        server.process.wait()
        server.process.stdout.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all tests that leave it as they found it."""
    server = Server(tmp_path_factory.mktemp("shared") / "server.log", ping_interval=0.5, ping_timeout=2, many_patient=1)
    yield server
    assert server.stop() == 0, server.logged()
    server.process.stdout.close()


@pytest.fixture
def server(shared: Server) -> Iterator[Server]:
    """The shared server, which must log no traceback beyond those that the test asked for, and live on."""
    shared.log.write_text("")  # its process appends
    yield shared
    assert shared.process.poll() is None
    asked = shared.logged().count("RuntimeError: asked to raise") + shared.logged().count("ValueError: 1006")
    assert shared.logged().count("Traceback") == asked, shared.logged()


@pytest.fixture
def name() -> str:
    return f"peer{next(NAMES)}"


# --- what one peer can cost -------------------------------------------------------------------------------------------


async def test_an_answer_waits_for_its_reader_and_is_whole(server: Server) -> None:
    before = server.forget_peak()
    async with raw(server, b"GET /pour HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n") as (reader, _):
        await reader.readuntil(b"\r\n\r\n")
        async with raw(server, b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n") as (other, _):
            assert (await rest(other)).startswith(b"HTTP/1.1 200")  # others have their turn
        read = 0
        while read < echo_app.POURED:
            read += len(await asyncio.wait_for(reader.read(2**20), 10))
        assert server.memory("VmHWM") - before < 4 * 2**20
    await server.hears("poured")


async def test_an_application_that_has_said_everything_waits_for_no_reader(server: Server) -> None:
    async with raw(server, b"GET /whole HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n") as (reader, _):
        await server.hears("poured")
        assert len(await rest(reader)) > echo_app.POURED


async def test_a_peer_that_reads_nothing_of_its_answer_is_dropped(start: Callable[..., Server]) -> None:
    server = start(reading_timeout=0.5)
    before = server.forget_peak()
    async with raw(server, b"GET /pour HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n") as (reader, _):
        await server.hears("poured")  # what is sent to nobody costs nothing
        assert server.memory("VmHWM") - before < 4 * 2**20
        assert len(await rest(reader)) < echo_app.POURED // 2


@on_linux
async def test_a_reader_that_does_not_read_is_dropped_at_one_mebibyte_and_costs_no_more(
    server: Server, name: str
) -> None:
    async with server.connect(f"?{name}") as slow, server.connect("?other") as other:
        await slow.send("warm up")
        await slow.recv()
        before = server.forget_peak()
        slow.transport.pause_reading()
        await slow.send("pour 1500")
        await server.hears(f"{name} poured")
        await server.hears(f"{name} disconnect 1006")
        await server.hears(f"{name} finally")
        await echo(other)
        assert server.memory("VmHWM") - before < 2 * MIB
        slow.transport.abort()


async def test_a_reader_that_keeps_up_may_be_sent_more_than_that_in_one_go(server: Server) -> None:
    def read() -> int:
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as peer:
            peer.sendall(HANDSHAKE + b"\r\n")
            peer.recv(1000)
            peer.sendall(frame(b"pour 32"))
            received, buffer = 0, bytearray(MIB)
            while received < 2 * MIB and (size := peer.recv_into(buffer)):
                received += size
            return received

    assert await asyncio.to_thread(read) >= 2 * MIB


async def test_what_an_application_says_without_waiting_stays_in_order_behind_what_waits(
    server: Server, name: str
) -> None:
    async with server.connect(f"?{name}") as peer:
        peer.transport.pause_reading()
        await peer.send("tell")
        await server.hears(f"{name} is not taken at its word")
        peer.transport.resume_reading()
        said: list[Any] = []
        while not said or said[-1] != "end":
            said.append(await asyncio.wait_for(peer.recv(), 10))
    assert said[:-1] == [str(number).zfill(1000) for number in range(len(said) - 1)]
    await server.hears(f"{name} is not heard")


@on_linux
@pytest.mark.parametrize("path", WAYS)
async def test_a_sender_that_floods_a_busy_application_has_to_wait_and_loses_nothing(
    server: Server, name: str, path: str
) -> None:
    async with server.connect(f"{path}?{name}") as flood, server.connect("?other") as other:
        await flood.send("hold")
        await server.hears(f"{name} holds")
        before = server.forget_peak()
        sent = 0

        async def send() -> None:
            nonlocal sent
            while sent < 1550:
                await flood.send("count " + "x" * 61_000)
                sent += 1

        sending = asyncio.create_task(send())
        last = -1
        while last != sent:
            last = sent
            await asyncio.sleep(1.5)  # twice: longer than it has to answer a ping, and its answer is not read
        assert not sending.done()
        await echo(other)
        assert server.memory("VmHWM") - before < 2 * MIB
        await other.send("release")
        await asyncio.wait_for(sending, 30)
        await flood.send("total")
        assert await asyncio.wait_for(flood.recv(), 30) == "1550"


@on_linux
async def test_a_flood_of_tiny_frames_costs_no_more_than_one_of_large_frames(server: Server, name: str) -> None:
    async with server.connect(f"?{name}") as flood, server.connect("?other") as other:
        await flood.send("hold")
        await server.hears(f"{name} holds")
        before = server.forget_peak()
        flood.transport.write(frame(b"count") * 30_000)
        for _ in range(100):  # turns of the server, more than it would take to read all
            await echo(other)
        assert server.memory("VmHWM") - before < 2 * MIB
        await other.send("release")
        await flood.send("total")
        assert await asyncio.wait_for(flood.recv(), 30) == "30000"
        assert server.memory("VmHWM") - before < 2 * MIB


async def test_a_patient_socket_waits_for_others_until_it_is_urgent(server: Server, name: str) -> None:
    async with server.connect("?other") as other, server.connect(f"patient?{name}") as peer:
        await echo(peer)
        waited = await ten_echoes(peer)  # each for the next look, of ten in a second
        assert waited > 0.8
        await echo(peer, "x" * 60_000)  # in pieces
        for mark in range(3):  # the application takes them as they come, and the others follow in their order
            await peer.send("overheard")
            await echo(peer, str(mark))
        assert server.said(f"{name} overhears") == 3
        assert await ten_echoes(other) < waited / 2
        await peer.send("hurry")
        assert await ten_echoes(peer) < waited / 2


async def test_when_patient_sockets_are_many_those_before_wait_too(start: Callable[..., Server]) -> None:
    server = start(many_patient=2)
    async with server.connect("patient?first") as first, server.connect("patient?second") as second:
        await echo(first)
        assert await ten_echoes(first) < 0.4
        await echo(second)
        assert await ten_echoes(first) > 0.8
        assert await ten_echoes(second) > 0.8


async def test_other_sockets_have_their_turn_while_one_floods(start: Callable[..., Server]) -> None:
    server = start()
    floods = {
        "messages": frame(b"count") * 30_000,
        "pings": frame(b"", opcode=9) * 60_000,
        "fragments": frame(b"x", first=0) + frame(b"", opcode=0, first=0) * 60_000 + frame(b"", opcode=0),
    }
    async with server.connect("?other") as other:
        for kind, frames in floods.items():
            async with server.connect(f"?{kind}") as flood:
                flood.transport.pause_reading()  # the pongs would keep this process busy
                flood.transport.write(frames + frame(b"hold"))
                echoes = 0
                while not server.said(f"{kind} holds"):
                    await echo(other)
                    echoes += 1
                assert echoes > 10, kind
                flood.transport.abort()
            await other.send("release")


@on_linux
async def test_a_message_in_tiny_fragments_costs_no_more_than_its_size(server: Server, name: str) -> None:
    async with server.connect(f"?{name}") as peer:
        await echo(peer)
        before = server.forget_peak()
        peer.transport.write(frame(b"co", first=0) + frame(b"  ", opcode=0, first=0) * 32_000 + frame(b"", opcode=0))
        assert len(await asyncio.wait_for(peer.recv(), 30)) == 64_002
        assert server.memory("VmHWM") - before < MIB


@on_linux
async def test_a_flood_of_pings_whose_answers_are_never_read_is_dropped(start: Callable[..., Server]) -> None:
    server = start()
    async with server.connect("?pings") as peer:
        await echo(peer)
        before = server.forget_peak()
        peer.transport.pause_reading()
        for _ in range(200):
            if server.said("pings disconnect 1006"):
                break
            peer.transport.write(frame(b"x" * 125, opcode=9) * 1000)
            await until(
                lambda: peer.transport.is_closing() or peer.transport.get_write_buffer_size() < MIB, "it is sent"
            )
        await server.hears("pings disconnect 1006")
        assert server.memory("VmHWM") - before < 2 * MIB


async def test_a_message_of_64_kib_passes_and_a_larger_one_is_not_the_protocol(server: Server, name: str) -> None:
    async with server.connect(f"?{name}") as peer:
        await echo(peer, "x" * 65536)
        await peer.send("x" * 65537)
        assert await closing(peer) == (4400, "a message may have at most 65536 bytes")
    await server.hears(f"{name} disconnect 4400")


async def test_a_large_message_in_small_frames_is_not_the_protocol(server: Server, name: str) -> None:
    async with server.connect(f"?{name}") as peer:
        with contextlib.suppress(ConnectionClosed):
            await peer.send("x" * 1000 for _ in range(66))
        assert (await closing(peer))[0] == 4400


@on_linux
async def test_a_huge_frame_is_answered_while_it_is_still_coming_and_never_kept(server: Server, name: str) -> None:
    async with server.connect(f"?{name}") as peer:
        before = server.forget_peak()
        with contextlib.suppress(ConnectionClosed):
            await peer.send("x" * 20 * MIB)
        assert (await closing(peer))[0] == 4400
        assert server.memory("VmHWM") - before < 2 * MIB


@on_linux
async def test_a_request_body_larger_than_django_would_take_is_not_kept(server: Server) -> None:
    before = server.forget_peak()
    head = b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with raw(server, head) as (reader, writer):
        with contextlib.suppress(ConnectionError):
            for _ in range(50):
                writer.write(b"100000\r\n" + b"x" * MIB + b"\r\n")
                await writer.drain()
        assert b" 413 " in await rest(reader) or writer.is_closing()
    assert server.memory("VmHWM") - before < 8 * MIB
    head = b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 2621450\r\n\r\n"
    async with raw(server, head + b"x" * 2_621_450) as (reader, _):
        answer = await rest(reader)
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert answer.count(b"HTTP/1.1") == 1


@on_linux
async def test_a_form_of_many_fields_is_left_to_django_to_refuse(server: Server) -> None:
    before = server.forget_peak()
    head = b"POST / HTTP/1.0\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 2500000\r\n\r\n"
    async with raw(server, head + b"&a=b" * 625_000) as (reader, _):
        assert b'"length": 2500000' in await rest(reader)
    assert server.memory("VmHWM") - before < 8 * MIB


# --- how a socket ends ------------------------------------------------------------------------------------------------


async def test_every_close_code_that_may_be_sent_arrives_with_its_reason(server: Server, name: str) -> None:
    for code in (1000, 1001, 1008, 1011, 1012, 3000, 4321, 4999):
        async with server.connect(f"?{name}") as peer:
            await peer.send(f"close {code} wrong größe")
            assert await closing(peer) == (code, "wrong größe")


async def test_a_reason_that_is_too_long_is_cut_between_characters(server: Server, name: str) -> None:
    async with server.connect(f"?{name}") as peer:
        await peer.send("close 4000 " + "ö" * 100)
        assert await closing(peer) == (4000, "ö" * 61)


async def test_a_close_code_that_may_not_be_sent_is_the_applications_fault(server: Server, name: str) -> None:
    async with server.connect(f"?{name}") as peer:
        await peer.send("close 1006")
        assert (await closing(peer))[0] == 1011
    await server.hears(f"{name} finally")
    assert server.logged().count("ValueError: 1006 is not a close code that may be sent") == 1


async def test_an_application_that_returns_closes_its_socket_at_once(server: Server, name: str) -> None:
    async with server.connect(f"?{name}") as peer:
        started = time.monotonic()
        await peer.send("return")
        assert (await closing(peer))[0] == 1000
        assert time.monotonic() - started < 0.4


async def test_a_socket_that_its_application_closes_is_closed_at_once_even_when_its_peer_floods(
    server: Server, name: str
) -> None:
    async with server.connect(f"?{name}") as flood, server.connect("?other") as other:
        await flood.send("hold")
        await server.hears(f"{name} holds")
        flood.transport.write(frame(b"return") + frame(b"count " + b"x" * 1000) * 4000)
        for _ in range(100):  # turns of the server, more than it takes to read until it must stop
            await echo(other)
        started = time.monotonic()
        await other.send("release")
        assert (await closing(flood))[0] == 1000
        await asyncio.wait_for(flood.wait_closed(), 10)
        assert time.monotonic() - started < 4  # the server would drop it after 5 s without an answer


@on_linux
async def test_a_peer_that_closes_and_reads_nothing_is_not_waited_for(start: Callable[..., Server]) -> None:
    server = start(closing_timeout=1)
    with socket.socket() as peer:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        peer.connect(("127.0.0.1", server.port))
        peer.sendall(HANDSHAKE + b"\r\n")
        assert peer.recv(1000).startswith(b"HTTP/1.1 101 ")
        ends = f":{server.port:04X} 0100007F:{peer.getsockname()[1]:04X} "

        def in_kernel() -> int:
            line = next(line for line in Path("/proc/net/tcp").read_text().splitlines() if ends in line)
            return int(line.split()[4].partition(":")[0], 16)

        held, times = -1, 0
        while held < in_kernel():  # then the rest lies in the server, which drops nobody for so little
            held, times = in_kernel(), times + 1
            peer.sendall(frame(b"pour 4"))
            await server.hears("raw poured", times)
        peer.sendall(frame(b"\x03\xe8", opcode=8))
        await server.hears("raw disconnect 1000")
        await server.hears("raw finally")


async def test_an_application_that_raises_closes_its_socket_at_once_and_is_logged_once(
    server: Server, name: str
) -> None:
    async with server.connect(f"?{name}") as peer, server.connect("?other") as other:
        started = time.monotonic()
        await peer.send("raise")
        assert (await closing(peer))[0] == 1011
        assert time.monotonic() - started < 0.4
        await server.hears(f"{name} finally")
        await echo(other)
        await asyncio.sleep(1.1)  # daphne's own check runs once a second, and must find nothing to add
        assert server.logged().count("RuntimeError: asked to raise") == 1


async def test_an_application_that_raises_before_it_accepts_answers_500(server: Server) -> None:
    with pytest.raises(InvalidStatus) as refused:
        await server.connect("raise")
    assert refused.value.response.status_code == 500


@pytest.mark.parametrize("path", WAYS)
@pytest.mark.parametrize("code, seen", [(1000, 1000), (4001, 4001), (None, 1005), ("drop", 1006)])
async def test_a_disconnect_reaches_the_application_with_its_code(
    server: Server, name: str, code: int | str | None, seen: int, path: str
) -> None:
    async with server.connect(f"{path}?{name}") as peer:
        await echo(peer)
        if code == "drop":
            peer.transport.abort()
        elif code is None:
            peer.transport.write(frame(b"", opcode=8))
        else:
            await peer.close(code)  # type: ignore[arg-type]
        await server.hears(f"{name} disconnect {seen}")
    await server.hears(f"{name} finally")


@pytest.mark.parametrize("path", WAYS)
async def test_a_peer_that_answers_no_ping_is_dropped_and_one_that_does_stays(
    server: Server, name: str, path: str
) -> None:
    async with server.connect(f"{path}?{name}") as dead, server.connect(f"{path}?alive") as alive:
        await echo(dead)
        await echo(alive)
        dead.transport.pause_reading()
        await server.hears(f"{name} disconnect 1006")
        await echo(alive)
        dead.transport.abort()


# --- how the server ends ----------------------------------------------------------------------------------------------


async def test_on_sigterm_the_application_says_goodbye_and_every_clean_up_runs(start: Callable[..., Server]) -> None:
    server = start(on_stop="bye", closing_timeout=1)
    async with (
        server.connect("?alice") as alice,
        server.connect("deaf?bob") as bob,
        server.connect("?carol") as carol,
    ):
        await bob.close()
        await carol.send("hold")
        await server.hears("carol holds")
        async with server.connect("?dave") as dave:  # just connected: daphne's own shutdown fails on such a socket
            server.process.send_signal(signal.SIGTERM)
            for peer in (alice, carol, dave):
                assert await asyncio.wait_for(peer.recv(), 10) == "bye"
                assert await closing(peer) == (1012, "back soon")
    assert server.process.wait(20) == 0
    for person in ("alice", "bob", "carol", "dave"):
        assert server.said(f"{person} finally") == 1, server.logged()
    assert "Traceback" not in server.logged()


async def test_on_sigint_sockets_that_nobody_closed_get_1012_even_when_on_stop_hangs(
    start: Callable[..., Server],
) -> None:
    server = start(on_stop="hang", closing_timeout=0.5)
    async with server.connect("?alice") as alice:
        connecting = asyncio.create_task(server.connect("never?bob").__aenter__())
        await server.hears("bob connects")
        server.process.send_signal(signal.SIGINT)
        server.process.send_signal(signal.SIGTERM)
        assert await closing(alice) == (1012, "restart")
        assert server.process.wait(20) == 0
        with pytest.raises((InvalidStatus, OSError, EOFError, ConnectionClosed)):
            await asyncio.wait_for(connecting, 10)
    assert server.said("alice finally") == server.said("bob finally") == 1, server.logged()


async def test_a_server_that_stops_takes_no_new_sockets(start: Callable[..., Server]) -> None:
    server = start(on_stop="hang", closing_timeout=2)
    async with raw(server, b"") as (reader, writer):
        server.process.send_signal(signal.SIGTERM)

        def refuses() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", server.port)) != 0

        await until(refuses, "it no longer listens")
        writer.write(HANDSHAKE + b"\r\n")
        assert (await asyncio.wait_for(reader.readline(), 10)).startswith(b"HTTP/1.1 503 ")
    assert server.process.wait(20) == 0


async def test_what_fails_at_the_start_ends_the_server(start: Callable[..., Server]) -> None:
    server = start(on_start="fail")
    assert server.line == ""
    assert server.process.wait(20) == 1
    assert "RuntimeError: asked to raise" in server.logged()


async def test_a_port_that_is_taken_is_one_sentence(start: Callable[..., Server]) -> None:
    first = start()
    second = start(port=first.port)
    assert second.process.wait(20) == 1
    assert second.logged() == f"Cannot listen on 127.0.0.1:{first.port}: Address already in use.\n"


async def test_two_processes_serve_one_inherited_socket(start: Callable[..., Server]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        fd = listener.fileno()
        first, second = (start(fd=fd, fds=(fd,)) for _ in range(2))
    assert first.line == second.line == f"Listening on http://127.0.0.1:{first.port}/\n"
    async with first.connect() as peer:
        await echo(peer)
    assert first.stop() == 0
    async with second.connect() as peer:
        await echo(peer)
    assert second.stop() == 0


# --- what clients get wrong -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad, code",
    [
        (frame(b"\xff\xfe"), 1007),  # not UTF-8
        (frame(b"x", opcode=3), 1002),  # no such kind of frame
        (frame(b"x", opcode=11), 1002),
        (frame(b"x", opcode=0), 1002),  # goes on with nothing
        (frame(b"x", mask=0), 1002),  # not masked
        (frame(b"x", first=0xC0), 1002),  # compressed, which was not agreed
        (frame(b"x" * 126, opcode=9), 1002),  # a control frame that is too long
        (b"\x81\xff" + b"\xff" * 8 + bytes(4), 1002),  # longer than anything can be
    ],
)
async def test_what_is_not_websocket_is_closed_with_the_code_of_the_rfc(server: Server, bad: bytes, code: int) -> None:
    async with raw(server, HANDSHAKE + b"\r\n") as (reader, writer):
        await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
        writer.write(bad)
        head = await asyncio.wait_for(reader.readexactly(4), 10)
        assert head[0] == 0x88
        assert int.from_bytes(head[2:], "big") == code
    await server.hears("raw finally")


async def test_noise_after_the_handshake_harms_nobody(server: Server) -> None:
    chance = random.Random(2)
    for _ in range(60):
        async with raw(server, HANDSHAKE + b"\r\n") as (reader, writer):
            await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
            noise = [frame(chance.randbytes(chance.randrange(200)), chance.randrange(16)) for _ in range(3)]
            writer.write(b"".join(noise) + chance.randbytes(300))
            writer.write_eof()
            await rest(reader)
    await server.hears("raw finally", 60)
    async with server.connect() as peer:
        await echo(peer)


@pytest.mark.parametrize(
    "request_, status",
    [
        (HANDSHAKE.replace(b"Sec-WebSocket-Key: AAAA", b"Sec-WebSocket-Key: ") + b"\r\n", b"400"),
        (HANDSHAKE.replace(b"Version: 13", b"Version: 7x") + b"\r\n", b"400"),
        (HANDSHAKE.replace(b"GET", b"POST") + b"\r\n", b"405"),
        (HANDSHAKE + b"Sec-WebSocket-Protocol: gr\xc3\xb6\xc3\x9fe\r\n\r\n", b"400"),
        (HANDSHAKE + b"Content-Length: 6\r\n\r\n" + frame(b""), b"400"),
        (HANDSHAKE + b"Origin: nonsense://[\r\n\r\n", b"400"),
        (HANDSHAKE.replace(b"/?raw", b"/%ff?raw\xff") + b"\r\n", b"400"),
        (HANDSHAKE.replace(b"Host: 127.0.0.1", b"Host: [::1]:x") + b"\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X-Many: x\r\n" * 600 + b"\r\n", b"400"),
        (b"nonsense\r\n\r\n", b"400"),
    ],
)
async def test_a_bad_request_is_refused_in_words(server: Server, request_: bytes, status: bytes) -> None:
    async with raw(server, request_) as (reader, _):
        assert (await asyncio.wait_for(reader.readline(), 10)).split()[1] == status


async def test_a_client_that_talks_before_it_is_accepted_is_dropped(server: Server) -> None:
    async with raw(server, HANDSHAKE.replace(b"/?raw", b"/never?raw") + b"\r\n") as (reader, writer):
        await asyncio.sleep(0.1)  # else both parts may be read as one
        writer.write(HANDSHAKE + b"\r\n")
        assert await rest(reader) == b""
    async with server.connect() as other:
        await other.send("release")
    await server.hears("raw finally")


async def test_headers_that_a_proxy_would_set_are_not_believed_of_a_client(server: Server) -> None:
    headers = {"Daphne-Root-Path": "/elsewhere", "X-Forwarded-For": "192.0.2.1", "X-Real-IP": "192.0.2.1"}
    async with server.connect(additional_headers=headers) as peer:
        await peer.send("root")
        assert await peer.recv() == "''"

    def get() -> Any:
        with urllib.request.urlopen(urllib.request.Request(server.url, headers=headers), timeout=10) as response:
            assert response.headers["Server"] is None
            return json.load(response)

    assert await asyncio.to_thread(get) == {"root_path": "", "client": "127.0.0.1", "length": 0}


async def test_an_http_application_that_fails_is_answered_at_once_and_never_with_half_a_page(server: Server) -> None:
    def status(path: str) -> int:
        try:
            with urllib.request.urlopen(server.url + path, timeout=5) as response:
                response.read()
        except urllib.error.HTTPError as error:
            error.close()
            return error.code
        return 200

    assert await asyncio.to_thread(status, "raise") == 500
    assert await asyncio.to_thread(status, "nothing") == 500
    with pytest.raises(OSError):
        await asyncio.to_thread(status, "half")
    assert await asyncio.to_thread(status, "") == 200


# --- manage.py serve --------------------------------------------------------------------------------------------------


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The site on a SQLite database that does not exist yet, in the environment of the processes to come."""
    path = tmp_path / "site.sqlite3"
    environment = {"DATABASE_URL": f"sqlite:///{path}", "REDIS_URL": "", "DEBUG": "on", "ENV_FILE": os.devnull}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return path


def manage(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "manage.py", *command], cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_serve_refuses_a_database_that_is_away_or_not_migrated(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = manage("serve", "--port", "0")
    assert (old.returncode, old.stdout) == (1, "")
    assert old.stderr == "CommandError: The database is not up to date. Run: manage.py migrate\n"
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{site.parent}/nowhere/site.sqlite3")
    away = manage("serve", "--port", "0")
    assert (away.returncode, away.stdout) == (1, "")
    assert away.stderr == "CommandError: The database cannot be reached: unable to open database file.\n"


def test_serve_serves_alone_on_sqlite(site: Path, start: Callable[..., Server]) -> None:
    assert manage("migrate", "--verbosity", "0").returncode == 0
    server = start("manage.py", "serve", "--port", "0")
    with urllib.request.urlopen(f"{server.url}accounts/login/", timeout=20) as response:
        assert response.status == 200
    second = manage("serve", "--port", "0")
    assert second.returncode == 1
    assert second.stderr.startswith("CommandError: Another process serves here already.")
    assert server.stop() == 0, server.logged()
    assert "Traceback" not in server.logged()
    with open(f"{site}.lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the place is free again
