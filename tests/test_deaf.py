"""Connections to Redis that are half open: the process notices within 10 s that it hears nothing, and hears again."""

import asyncio
import itertools
import os
import time
from contextlib import suppress
from urllib.parse import urlsplit

import pytest

from calls import hub as hubs
from tests.pages import WAIT_S
from tests.proxy import Proxy
from tests.servers import until_ready

pytestmark = pytest.mark.django_db(transaction=True)

WITHIN_S = 10.0


@pytest.fixture
async def proxy(servers):
    redis = urlsplit(os.environ["REDIS_URL"])
    proxy = Proxy(redis.port, redis.hostname)
    await proxy.open()
    yield proxy
    await proxy.close()


@pytest.fixture
async def behind_proxy(proxy, launch):
    redis = urlsplit(os.environ["REDIS_URL"])
    account = redis.netloc.rpartition("@")[0]
    address = redis._replace(netloc=f"{account}@127.0.0.1:{proxy.port}").geturl()
    return await asyncio.to_thread(launch, REDIS_URL=address)


async def until_heard(call, sender, receiver):
    """Sends signals until one arrives; returns after how many seconds."""
    began = time.monotonic()
    async with asyncio.timeout(2 * WITHIN_S):
        for number in itertools.count():
            await sender.say("signal", call=call, to=receiver.user, body=number)
            with suppress(TimeoutError):
                async with asyncio.timeout(0.25):
                    await receiver.until(lambda frame: frame["t"] == "signal")
                    break
    return time.monotonic() - began


async def talk(live, here, there):
    alice, bob = await live("alice", server=here), await live("bob", server=there)
    call = (await alice.invite("bob"))["call"]["id"]
    await bob.sees(call, me={"state": "ringing"})
    assert (await bob.ask("answer", call=call))["ok"]
    await alice.sees(call, state="active")
    return alice, bob, call


async def test_a_process_with_half_open_connections_to_redis_hears_and_is_heard_again(
    behind_proxy, proxy, live, servers
):
    alice, bob, call = await talk(live, behind_proxy, servers[0])
    proxy.freeze(new_ones_too=False)
    took = await asyncio.gather(until_heard(call, bob, alice), until_heard(call, alice, bob))
    print(f"\nhears again after {took[0]:.1f} s, is heard again after {took[1]:.1f} s")
    assert max(took) < WITHIN_S
    await until_ready(behind_proxy, 200, WAIT_S)
    log = behind_proxy.logged()
    assert "none of our own messages came back" in log and "Traceback" not in log


async def test_a_process_that_stays_deaf_is_not_ready_until_it_hears_again(behind_proxy, proxy, live, servers):
    alice, bob, call = await talk(live, behind_proxy, servers[0])
    proxy.freeze(new_ones_too=True)
    assert "does not hear its own messages" in await until_ready(behind_proxy, 503, WITHIN_S + WAIT_S)
    assert (await bob.ask("media", call=call, mic=False, cam=True))["ok"]
    await alice.ping()
    assert [leg["mic"] for leg in alice.calls[call]["legs"]] == [True, False], "a ping brings what was not heard"
    proxy.thaw()
    took = await asyncio.gather(until_heard(call, bob, alice), until_heard(call, alice, bob))
    print(f"\nhears again after {took[0]:.1f} s, is heard again after {took[1]:.1f} s")
    assert max(took) < WITHIN_S
    await until_ready(behind_proxy, 200, WAIT_S)
    assert "Traceback" not in behind_proxy.logged()


async def test_with_the_layer_in_memory_a_process_hears_itself_too(settings):
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
    hub = hubs.Hub()
    assert hub.silent_s > 3600
    await hub.start()
    try:
        assert hub.silent_s < hubs.BEAT_S
    finally:
        await hub.stop()
