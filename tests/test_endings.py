"""A server that is stopped under load tells everything that it has decided. One whose neighbours are away says so in a
sentence, and its sockets are told to come back."""

import asyncio
import re
import socket
from contextlib import suppress
from urllib.parse import urlsplit

import pytest

from calls import models
from tests.pages import WAIT_S, Closed, Live
from tests.servers import on_daphne
from tests.test_faults import SteadyRedis, held, own, shop, sign_in, until_available  # noqa: F401 - fixtures

pytestmark = pytest.mark.django_db(transaction=True)


async def until_it_refuses_connections(server):
    def listens():
        address = urlsplit(server.url)
        try:
            socket.create_connection((address.hostname, address.port), 1).close()
        except OSError:
            return False
        return True

    async with asyncio.timeout(WAIT_S):
        while await asyncio.to_thread(listens):  # noqa: ASYNC110 - only trying tells
            await asyncio.sleep(0.02)


@on_daphne
async def test_what_is_being_decided_when_a_server_is_stopped_is_answered_and_told_everywhere(live, servers):
    alice, bob = await live("alice", server=0), await live("bob", server=1)
    call = (await alice.invite("bob"))["call"]["id"]
    await bob.sees(call, me={"state": "ringing"})
    # The batch has its locks, and waits to write its entry: it is neither settled alone nor in a thread.
    async with held(servers[0], "LOCK TABLE calls_entry IN SHARE MODE") as (gate, waiter):
        asked = await alice.say("hangup", call=call)
        await waiter()
        stopping = asyncio.create_task(asyncio.to_thread(servers[0].stop))
        await until_it_refuses_connections(servers[0])
        await gate.rollback()
    assert (await alice.reply_to(asked))["ok"]
    await bob.sees(call, state="ended", reason="cancelled")  # without a ping
    assert await alice.closed() == 1012
    assert alice.frames[-1]["why"] == "restart"
    await stopping
    assert "Traceback" not in servers[0].logged()


@on_daphne
async def test_what_is_asked_of_a_server_that_is_being_stopped_is_unavailable_there_and_done_elsewhere(live, servers):
    alice, bob = await live("alice", server=0), await live("bob", server=0)
    carol = await live("carol", server=0)
    call = (await alice.invite("bob"))["call"]["id"]
    await bob.sees(call, me={"state": "ringing"})
    async with held(servers[0], "LOCK TABLE calls_entry IN SHARE MODE") as (gate, waiter):
        asked = await bob.say("answer", call=call)
        await waiter()
        stopping = asyncio.create_task(asyncio.to_thread(servers[0].stop))
        await until_it_refuses_connections(servers[0])
        refused = await carol.invite("dave")
        assert refused["error"]["code"] == "unavailable" and refused["error"]["retry_ms"] > 0
        await gate.rollback()
    assert (await bob.reply_to(asked))["ok"]
    assert await carol.closed() == 1012
    await stopping
    assert await models.Call.objects.acount() == 1


async def test_a_socket_that_finds_no_database_is_told_to_come_back(shop):  # noqa: F811
    cookie = await asyncio.to_thread(sign_in, shop.server, "alice", "secret")
    await asyncio.to_thread(shop.postgres.stop)
    for _ in range(3):
        page = Live(shop.server.url, cookie, "alice")
        shop.opened.append(await page.open())
        assert await page.closed(2 * WAIT_S) == 1012
        assert page.frames[-1]["why"] == "restart" and page.frames[-1]["retry_ms"] >= 1000
    log = shop.server.logged()
    assert "Traceback" not in log and " ERROR " not in log
    assert len(re.findall("a socket cannot be signed in: ", log)) == 1
    await asyncio.to_thread(shop.postgres.start)
    async with asyncio.timeout(3 * WAIT_S):
        while True:
            page = Live(shop.server.url, cookie, "alice")
            shop.opened.append(await page.open())
            with suppress(Closed):
                assert (await page.hello())["t"] == "welcome"
                break


async def test_while_redis_is_away_the_log_has_a_sentence_and_no_traceback(own, launch, live):  # noqa: F811
    redis = await asyncio.to_thread(own, SteadyRedis)
    server = await asyncio.to_thread(launch, REDIS_URL=redis.url)
    alice = await live("alice", server=server)
    before = len(server.logged())
    await asyncio.to_thread(redis.stop)
    async with asyncio.timeout(WAIT_S):
        while "the channel layer cannot be heard" not in server.logged()[before:]:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    for _ in range(4):  # seconds, in each of which it tries again
        assert (await alice.ping())["t"] == "pong"
        await asyncio.sleep(1)
    lines = server.logged()[before:].splitlines()
    assert not any("Traceback" in line for line in lines)
    assert len(lines) <= 4, lines
