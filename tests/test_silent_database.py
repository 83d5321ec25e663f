# ruff: noqa: F811, ASYNC110 - fixtures of another module; what happens in another process tells nobody
"""PostgreSQL dies, or is silent, while orders are on their way: each is answered, or its socket closed, before a
deadline, and the next ones are served as soon as PostgreSQL is."""

import asyncio
import itertools
import os
import signal
import time
from contextlib import suppress

import psycopg
import pytest

from tests.pages import Closed
from tests.proxy import Proxy
from tests.servers import get, until_ready
from tests.steady import SteadyPostgres
from tests.test_faults import Shop, own, shop  # noqa: F401 - fixtures, which arguments below name

pytestmark = pytest.mark.django_db(transaction=True)

ANSWERED_S = 12  # for the answer to an order, whatever it is: 5 for a silent connection, 4 for a new one, some for us


class Busy:
    """Pages that mute and unmute themselves without a pause, and how long the slowest answer took."""

    def __init__(self):
        self.slowest, self.unavailable, self.done = 0.0, 0, 0
        self.tasks = []

    async def start(self, shop, *names):
        for caller, callee in zip(names[::2], names[1::2], strict=True):
            a, b = await shop.page(caller), await shop.page(callee)
            call = (await a.invite(callee))["call"]["id"]
            await b.sees(call, me={"state": "ringing"})
            assert (await b.ask("answer", call=call))["ok"]
            self.tasks += [asyncio.create_task(self._mute(page, call)) for page in (a, b)]

    async def _mute(self, page, call):
        for mic in itertools.cycle((False, True)):
            asked = time.monotonic()
            try:
                async with asyncio.timeout(ANSWERED_S):
                    re = await page.say("media", call=call, mic=mic, cam=True)
                    while (frame := await page.next()).get("re") != re:
                        pass
            except Closed:
                return
            self.slowest = max(self.slowest, time.monotonic() - asked)
            if frame["ok"]:
                self.done += 1
            elif frame["error"]["code"] == "rate_limited":  # decided too, and by the database's rows
                self.done += 1
                await asyncio.sleep(0.05)
            else:
                assert frame["error"]["code"] == "unavailable", frame
                self.unavailable += 1
                await asyncio.sleep(0.05)

    async def served(self, seconds):
        """Waits until everybody has been answered that it was done, some times."""
        done = self.done
        async with asyncio.timeout(seconds):
            while self.done < done + 20 * len(self.tasks):
                failed = [task for task in self.tasks if task.done()]
                for task in failed:
                    task.result()
                assert not failed, "a socket was closed"
                await asyncio.sleep(0.02)

    async def stop(self):
        for task in self.tasks:
            task.cancel()
        for result in await asyncio.gather(*self.tasks, return_exceptions=True):
            assert isinstance(result, asyncio.CancelledError), result


async def backends(shop):
    """The server's connections, those that the database's owner has open now."""
    async with await psycopg.AsyncConnection.connect(shop.postgres.url) as db:
        found = await db.execute(
            "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() "
            "ORDER BY state = 'active' DESC, query_start DESC"
        )
        return [pid for (pid,) in await found.fetchall()]


async def test_a_backend_that_is_killed_while_busy_hangs_nobody(shop):
    """PostgreSQL then ends all other connections too, by a reset, and starts again."""
    busy = Busy()
    await busy.start(shop, "alice", "bob", "carol", "dave")
    for _ in range(5):
        await busy.served(20)
        os.kill((await backends(shop))[0], signal.SIGKILL)
    await busy.served(3 * ANSWERED_S)
    await busy.stop()
    print(f"\n{busy.done} done, {busy.unavailable} unavailable, the slowest after {busy.slowest:.1f} s")
    await until_ready(shop.server, 200, 10)


# --- behind a proxy that acknowledges for ever ------------------------------------------------------------------------


@pytest.fixture
async def between(own, servers, tmp_path):
    """A server that reaches its PostgreSQL by way of a proxy: `shop, proxy`."""
    postgres = await asyncio.to_thread(own, SteadyPostgres, None)
    proxy = Proxy(postgres.port)
    await proxy.open()
    environment = servers[0].environment | {"DEVICE_SILENT_S": "4", "PING_CALL_S": "1"}
    shop = await asyncio.to_thread(Shop, postgres, environment, tmp_path, proxy.port)
    yield shop, proxy
    for page in shop.opened:
        await page.close()
    await asyncio.to_thread(shop.server.stop)
    await proxy.close()


async def test_orders_recover_from_connections_that_went_dead_without_a_word(between):
    shop, proxy = between
    busy = Busy()
    await busy.start(shop, "alice", "bob", "carol", "dave")
    await busy.served(20)
    proxy.freeze(new_ones_too=False)
    began = time.monotonic()
    await busy.served(ANSWERED_S)
    print(f"\norders are served again after {time.monotonic() - began:.1f} s, pages ", end="")
    late = await shop.page("operator")
    print(f"after {time.monotonic() - began:.1f} s; {busy.unavailable} unavailable, slowest {busy.slowest:.1f} s")
    assert (await late.ping())["t"] == "pong"
    await busy.stop()


async def test_a_server_whose_database_is_silent_is_not_ready_and_answers_unavailable_until_it_is_back(between):
    shop, proxy = between
    busy = Busy()
    await busy.start(shop, "alice", "bob", "carol", "dave")
    await busy.served(20)
    assert (await get(shop.server, "/readyz"))[0] == 200
    proxy.freeze()
    await until_ready(shop.server, 503, ANSWERED_S)
    async with asyncio.timeout(2 * ANSWERED_S):
        while busy.unavailable < 3 * len(busy.tasks):
            await asyncio.sleep(0.1)
    assert (await get(shop.server, "/readyz"))[0] == 503
    proxy.thaw()
    began = time.monotonic()
    await busy.served(2 * ANSWERED_S)
    print(f"\nserved again after {time.monotonic() - began:.1f} s; slowest answer {busy.slowest:.1f} s")
    await until_ready(shop.server, 200, ANSWERED_S)
    await busy.stop()


async def ping_on(page):
    with suppress(Closed):
        while True:
            await page.say("ping", calls={})
            await asyncio.sleep(1)


async def test_devices_in_a_call_are_sent_away_from_a_server_that_cannot_hear_them_and_idle_ones_stay(between):
    """Other processes, which reach the database, would take the devices for silent and end the call."""
    shop, proxy = between
    alice, bob, carol = await shop.page("alice"), await shop.page("bob"), await shop.page("carol")
    call = (await alice.invite("bob"))["call"]["id"]
    await bob.sees(call, me={"state": "ringing"})
    assert (await bob.ask("answer", call=call))["ok"]
    proxy.freeze()
    pinging = [asyncio.create_task(ping_on(page)) for page in (alice, bob, carol)]
    for page in (alice, bob):
        assert await page.closed(2 * ANSWERED_S) == 1012
        assert {each["error"]["code"] for each in page.frames if each["t"] == "reply"} == {"unavailable"}
        assert page.frames[-1]["why"] == "restart" and page.frames[-1]["retry_ms"] >= 200
    pinging.pop().cancel()
    await asyncio.gather(*pinging)
    proxy.thaw()
    async with asyncio.timeout(ANSWERED_S):
        while (await carol.ping())["t"] != "pong":
            await asyncio.sleep(0.1)
