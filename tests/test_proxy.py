"""The proxy fails in the way that it is told to."""

import asyncio
import time

import pytest

from tests.proxy import Proxy

SILENCE_S = 0.2  # without an answer, where one comes within a millisecond
WAIT_S = 5.0


@pytest.fixture
async def proxy():
    """A proxy in front of a server that sends back what it gets, and closes when it gets a dot."""

    async def echo(reader, writer):
        while (data := await reader.read(100)) and data != b".":
            writer.write(data)
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    proxy = Proxy(server.sockets[0].getsockname()[1])
    await proxy.open()
    yield proxy
    await proxy.close()
    server.close()


async def connected(proxy):
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    await says(reader, writer, b"hello")
    return reader, writer


async def says(reader, writer, what):
    writer.write(what)
    async with asyncio.timeout(WAIT_S):
        assert await reader.readexactly(len(what)) == what


async def is_silent(reader, writer):
    """What is sent is taken, and nothing comes back."""
    writer.write(b"anybody?" * 10_000)
    await writer.drain()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(SILENCE_S):
            await reader.read(1)


async def test_a_close_is_passed_on_as_a_close(proxy):
    reader, writer = await connected(proxy)
    writer.write(b".")
    async with asyncio.timeout(WAIT_S):
        assert await reader.read() == b""


async def test_a_hard_close_comes_as_a_reset(proxy):
    reader, writer = await connected(proxy)
    proxy.hard = True
    writer.write(b".")
    with pytest.raises(ConnectionResetError):
        async with asyncio.timeout(WAIT_S):
            await reader.read()


async def test_a_reset_ends_what_is_open_and_nothing_else(proxy):
    reader, _ = await connected(proxy)
    proxy.reset()
    with pytest.raises(ConnectionResetError):
        async with asyncio.timeout(WAIT_S):
            await reader.read()
    await connected(proxy)


async def test_a_frozen_connection_takes_everything_and_stays_silent_for_good(proxy):
    before = await connected(proxy)
    proxy.freeze()
    during = await asyncio.open_connection("127.0.0.1", proxy.port)
    for each in (before, during):
        await is_silent(*each)
    proxy.thaw()
    for each in (before, during):
        await is_silent(*each)
    await connected(proxy)


async def test_new_connections_may_be_served_while_the_older_ones_are_frozen(proxy):
    before = await connected(proxy)
    proxy.freeze(new_ones_too=False)
    await is_silent(*before)
    await connected(proxy)


async def test_refused_until_it_is_opened_again_on_the_same_port(proxy):
    reader, _ = await connected(proxy)
    port = proxy.port
    proxy.refuse()
    with pytest.raises(ConnectionResetError):
        async with asyncio.timeout(WAIT_S):
            await reader.read()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)
    await proxy.open()
    assert proxy.port == port
    await connected(proxy)


async def test_a_delay_is_added_in_each_direction(proxy):
    reader, writer = await connected(proxy)
    proxy.delay_s = 0.1
    began = time.monotonic()
    await says(reader, writer, b"hello")
    assert time.monotonic() - began >= 0.2
