"""What somebody notices who only wants to call while others attack, and raw HTTP for those who attack."""

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

from tests.servers import Server, figures

TOKEN = "figures"  # METRICS_TOKEN of the attacked server


class Noticed:
    """What was measured meanwhile."""

    def __init__(self) -> None:
        self.invites: list[float] = []  # seconds from an invite to its reply
        self.ready: list[int] = []  # the status of /readyz
        self.lags: list[float] = []  # seconds that the clock was late
        self.ticks: list[float] = []  # seconds since its last tick

    @property
    def p99(self) -> float:
        ordered = sorted(self.invites)
        return ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))]

    def assert_served(self) -> None:
        """An invite took less than 1 s, the server was ready all the time, and the clock missed no tick."""
        told = f"{len(self.invites)} invites, p99 {self.p99:.3f} s, lag {max(self.lags):.3f} s, ready {self.ready}"
        print(told)
        assert len(self.invites) >= 5, told
        assert self.p99 < 1, told
        assert set(self.ready) == {200}, told
        assert max(self.lags) < 1, told
        assert max(self.ticks) < 3, f"{told}, {max(self.ticks)} s since a tick"


async def request(server: Server, line: str, *headers: str, body: str = "") -> tuple[int, str]:
    """The status and the whole answer. `line` is like `GET /people/`. Status 0: there was no answer."""
    host, _, port = server.url.removeprefix("ws://").partition(":")
    text = [f"{line} HTTP/1.1", f"Host: {host}:{port}", "Connection: close", *headers]
    if body:
        text += [f"Content-Length: {len(body)}", "Content-Type: application/x-www-form-urlencoded"]
    try:
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            writer.write("\r\n".join([*text, "", body]).encode())
            answer = (await reader.read()).decode(errors="replace")
        finally:
            writer.close()
    except ConnectionError:
        return 0, ""
    return (int(answer.split(" ", 2)[1]) if answer else 0), answer


async def sign_in(server: Server, name: str, password: str = "wrong", language: str = "en") -> tuple[int, str]:
    """The status and the answer to an attempt to sign in."""
    secret = "x" * 32
    return await request(
        server,
        "POST /accounts/login/",
        f"Cookie: csrftoken={secret}",
        f"Accept-Language: {language}",
        body=f"csrfmiddlewaretoken={secret}&username={name}&password={password}",
    )


async def _watch(server: Server, noticed: Noticed) -> None:
    while True:
        status, _ = await request(server, "GET /readyz")
        noticed.ready.append(status)
        _, text = await request(server, "GET /metrics", f"Authorization: Bearer {TOKEN}")
        values = figures(text)
        noticed.lags.append(values["callplatform_clock_lag_seconds"])
        noticed.ticks.append(time.time() - values["callplatform_clock_last_tick_timestamp_seconds"])
        await asyncio.sleep(0.3)


async def _call(alice: Any, bob: Any, noticed: Noticed) -> None:
    while True:
        call, began = str(uuid.uuid4()), time.monotonic()
        assert (await alice.invite(bob.user, call=call))["ok"]
        noticed.invites.append(time.monotonic() - began)
        assert (await alice.ask("hangup", call=call))["ok"]
        await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def watching(live: Callable[..., Any], server: Server) -> AsyncIterator[Noticed]:
    """While the block runs, alice calls bob again and again, and the server is asked how it is."""
    alice, bob = await live("alice", server=server), await live("bob", server=server)
    noticed = Noticed()
    tasks = [asyncio.create_task(_call(alice, bob, noticed)), asyncio.create_task(_watch(server, noticed))]
    try:
        yield noticed
        for task in tasks:
            assert not task.done(), task.exception()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
