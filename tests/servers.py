"""Two real server processes on the test database and the tests' Redis, for what cannot be seen in one process.

SERVER names the ASGI server that they run on, daphne or uvicorn (`make test SERVER=uvicorn`).

The fixture `servers` starts them once; `launch` and `launch_once` start one more, with settings of its own; `live`
opens pages on any of them. tests/conftest.py offers them to every test.
"""

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from scripts.services import free_port

ROOT = Path(__file__).resolve().parent.parent
START_S = 60
ANSWER_S = 20  # for a page
SERVER = os.environ.get("SERVER") or "daphne"
COMMAND = {
    "daphne": ("manage.py", "serve"),
    "uvicorn": ("-m", "uvicorn", "callplatform.asgi:application", "--log-level", "warning"),
}[SERVER]
on_daphne = pytest.mark.skipif(SERVER != "daphne", reason="what callplatform/server.py adds to daphne")


class Server:
    """One server process. `url` is as pages use it, `ws://127.0.0.1:8000`, and stays the same after a restart.

    `source` is the tree whose code it runs.
    """

    def __init__(self, environment: dict[str, str], log: Path, source: Path = ROOT) -> None:
        self.environment, self.log, self.source = environment, log, source
        self.process: subprocess.Popen[bytes] | None = None
        self.url = ""

    def start(self) -> None:
        """Returns when it listens. Does nothing when it runs."""
        if self.process is not None and self.process.poll() is None:
            return
        port = urlsplit(self.url).port or free_port()
        with self.log.open("ab") as log:
            command = [sys.executable, *COMMAND, "--host", "127.0.0.1", "--port", str(port)]
            self.process = subprocess.Popen(command, cwd=self.source, env=self.environment, stdout=log, stderr=log)
        end = time.monotonic() + START_S
        while time.monotonic() < end and self.process.poll() is None:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                self.url = f"ws://127.0.0.1:{port}"
                return
            time.sleep(0.02)
        raise AssertionError(f"a server did not start in {START_S} s\n{self.logged()}")

    def stop(self) -> None:
        """In order: its sockets are told."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Without a word."""
        self._end(signal.SIGKILL)

    def logged(self) -> str:
        return self.log.read_text()

    def _end(self, number: int) -> None:
        if self.process is None:
            return
        process, self.process = self.process, None
        process.send_signal(number)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture(scope="session")
def servers(django_db_setup: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Server]]:
    """Two servers. A test that stops or kills one starts it again, or leaves that to the next `live`."""
    from django.db import connection

    if connection.vendor != "postgresql" or not os.environ.get("REDIS_URL"):
        pytest.skip("two server processes need PostgreSQL and Redis")
    database = urlsplit(os.environ["DATABASE_URL"])._replace(path=f"/{connection.settings_dict['NAME']}").geturl()
    environment = os.environ | {
        "DATABASE_URL": database,
        "PROCESSES": "2",
        "FRAME_RATE": "100000",
        "FRAME_BURST": "100000",
    }
    logs = tmp_path_factory.mktemp("servers")
    running = [Server(environment, logs / f"{number}.log") for number in range(2)]
    try:
        for server in running:
            server.start()
        yield running
    finally:
        for server in running:
            server.stop()


@contextmanager
def launching(servers: list[Server], logs: Path) -> Iterator[Callable[..., Server]]:
    started: list[Server] = []
    common = {name: value for name, value in servers[0].environment.items() if not name.startswith("FRAME_")}

    def launch(**environment: str) -> Server:
        server = Server(common | environment, logs / f"server-{len(started)}.log")
        started.append(server)
        server.start()
        return server

    try:
        yield launch
    finally:
        for server in started:
            server.stop()


@pytest.fixture
def launch(servers: list[Server], tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Starts a server for this test alone, with the default frame rate: `launch(RING_S="1")`."""
    with launching(servers, tmp_path) as start:
        yield start


@pytest.fixture(scope="module")
def launch_once(servers: list[Server], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Server]]:
    """The same for all tests of a module."""
    with launching(servers, tmp_path_factory.mktemp("launched")) as start:
        yield start


@pytest.fixture
async def live(servers: list[Server], cookie: Callable[..., str]) -> AsyncIterator[Callable[..., Any]]:
    """Opens a page on a server: `await live("bob", "Phone", server=1)` has said hello, unless `hello=False`. Its cookie
    is `page.cookie`."""
    from asgiref.sync import sync_to_async

    from tests.pages import Live

    for server in servers:
        server.start()
    opened: list[Live] = []

    async def open_page(
        user: str,
        name: str = "Laptop",
        server: int | Server = 0,
        hello: bool = True,
        signed_in: str = "",
        **kwargs: Any,
    ) -> Live:
        signed_in = signed_in or await sync_to_async(cookie)(user)
        at = servers[server] if isinstance(server, int) else server
        page = Live(at.url, signed_in, user, name=name, **kwargs)
        opened.append(await page.open())
        if hello:
            assert (await page.hello())["t"] == "welcome"
        return page

    yield open_page
    for page in opened:
        await page.close()


async def get(server: Server, path: str, **headers: str) -> tuple[int, str]:
    """The status and the text of a page."""

    def ask() -> tuple[int, str]:
        request = urllib.request.Request(f"{server.url.replace('ws', 'http', 1)}{path}", headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=ANSWER_S) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    return await asyncio.to_thread(ask)


async def until_ready(server: Server, status: int, within_s: float) -> str:
    """What /readyz says when it has this status: 200, or 503 for a server that is not ready."""
    async with asyncio.timeout(within_s):
        while (answer := await get(server, "/readyz"))[0] != status:  # noqa: ASYNC110 - only asking tells
            await asyncio.sleep(0.1)
    return answer[1]


def figures(text: str) -> dict[str, float]:
    """The values of /metrics by their names."""
    return {name: float(value) for name, value in re.findall(r"^(callplatform_\S+) (\S+)$", text, re.MULTILINE)}
