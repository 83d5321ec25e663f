"""A database that stands still, and machines whose clocks differ, end no call of anybody who is connected."""

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
import pytest

from tests.pages import WAIT_S
from tests.servers import figures, get
from tests.test_faults import Shop, SteadyPostgres, SteadyRedis, own, until_available  # noqa: F401 - a fixture

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.alone]

SHORT = {
    "CALLER_SILENT_S": "5", "DEVICE_SILENT_S": "3", "LEG_LOST_S": "6", "CLOCK_S": "0.2", "PING_S": "2",
    "PING_CALL_S": "1", "PONG_S": "2", "METRICS_TOKEN": "figures",
}  # fmt: skip
FROZEN_S = 9.0  # longer than a silent leg is kept, and than the gap that a clock has to notice


@pytest.fixture
async def short(own, servers, tmp_path):  # noqa: F811
    """A server with short deadlines on a PostgreSQL and a Redis of its own: it is the only one, so it sends nobody to
    another when it cannot store heartbeats."""
    environment = servers[0].environment | SHORT | {"REDIS_URL": own(SteadyRedis).url, "PROCESSES": "1"}
    shop = await asyncio.to_thread(Shop, own(SteadyPostgres, None), environment, tmp_path)
    yield shop
    for page in shop.opened:
        await page.close()
    await asyncio.to_thread(shop.server.stop)


async def until_the_clock_has_ticked(server, after):
    """After this time of day."""
    async with asyncio.timeout(3 * WAIT_S):
        while True:
            _, text = await get(server, "/metrics", Authorization="Bearer figures")
            if figures(text).get("callplatform_clock_last_tick_timestamp_seconds", 0) > after:
                return
            await asyncio.sleep(0.1)


async def pinging(*pages):
    """Each page pings as a client does, also while it gets no answer."""
    while True:
        for page in pages:
            await page.say("ping", calls={id: view["v"] for id, view in page.calls.items()})
        await asyncio.sleep(0.5)


@contextmanager
def no_heartbeats(server):
    """Heartbeats wait for the rows of the devices. Stopping the processes that store them would not do: one that is
    stopped in the middle of a commit keeps all others from committing."""
    with psycopg.connect(server.environment["DATABASE_URL"]) as db:
        db.execute("SELECT FROM devices_device FOR NO KEY UPDATE")
        yield
        db.rollback()


def processes(postgres):
    """PostgreSQL's processes, its first one included."""
    first = int((postgres.data / "postmaster.pid").read_text().splitlines()[0])
    return [first, *map(int, Path(f"/proc/{first}/task/{first}/children").read_text().split())]


def thaw(pids):
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


async def state_of(server, call):
    async with await psycopg.AsyncConnection.connect(server.environment["DATABASE_URL"]) as db:
        found = await db.execute("SELECT state, reason FROM calls_call WHERE id = %s", [call])
        return await found.fetchone()


async def test_a_database_that_freezes_ends_no_call(short):
    alice, bob = await short.page("alice"), await short.page("bob")
    call = (await alice.invite("bob"))["call"]["id"]
    await bob.sees(call, me={"state": "ringing"})
    assert (await bob.ask("answer", call=call))["ok"]
    await alice.sees(call, state="active")
    pings = asyncio.create_task(pinging(alice, bob))
    with no_heartbeats(short.server):
        frozen = processes(short.postgres)
        try:
            for pid in frozen:
                os.kill(pid, signal.SIGSTOP)
            await asyncio.sleep(FROZEN_S)
        finally:
            thaw(frozen)
        await until_the_clock_has_ticked(short.server, time.time() + 1)
    await until_the_clock_has_ticked(short.server, time.time() + 1)
    assert await state_of(short.server, call) == ("active", None)
    pings.cancel()
    reply = await until_available(alice, "media", call=call, mic=False, cam=False)
    assert reply["ok"] and [leg["online"] for leg in reply["call"]["legs"]] == [True, True]

    await bob.close()  # the clock has not gone to sleep over it
    await alice.sees(call, state="ended", reason="lost")


# --- clocks -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def launch_at(launch):
    """Starts a server on a machine whose clock is so many seconds ahead: `launch_at(25)`."""

    def start(seconds):
        faketime = shutil.which("faketime")
        if faketime is None:
            pytest.skip("a machine with another time needs faketime, Debian's package of that name")
        command = [faketime, "-f", f"{seconds:+d}s", "env"]
        fake = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        return launch(**dict(re.findall(r"^(LD_PRELOAD|FAKETIME)=(.*)$", fake, re.MULTILINE)), DONT_FAKE_MONOTONIC="1")

    return start


@pytest.mark.parametrize("seconds", [25, -25])
async def test_servers_whose_clocks_differ_end_no_call_and_one_says_that_it_is_not_ready(
    launch_at, live, servers, seconds
):
    skewed = await asyncio.to_thread(launch_at, seconds)
    alice, bob = await live("alice", server=skewed), await live("bob", server=servers[0])
    carol = await live("carol", server=servers[0])
    placed = [await alice.invite("bob"), await carol.invite("alice")]
    calls = [reply["call"]["id"] for reply in placed]
    await bob.sees(calls[0], me={"state": "ringing"})
    await alice.sees(calls[1], me={"state": "ringing"})
    for page, call in ((bob, calls[0]), (alice, calls[1])):
        assert 40_000 < page.calls[call]["me"]["ring_ms"] <= 45_500, "one time for all"
    for _ in range(8):  # as long as a device needs to be noted as heard again, and the clocks to look
        for page in (alice, bob, carol):
            await page.ping()
        await asyncio.sleep(0.5)
    assert [alice.calls[call]["state"] for call in calls] == ["ringing", "ringing"]
    assert (await bob.ask("answer", call=calls[0]))["ok"]
    assert (await alice.ask("reject", call=calls[1]))["ok"]
    await alice.sees(calls[0], state="active")
    await carol.sees(calls[1], state="ended", reason="rejected")
    for _ in range(6):
        for page in (alice, bob):
            await page.ping()
            assert all(leg["online"] for leg in page.calls[calls[0]]["legs"])
            assert page.calls[calls[0]]["secs"] <= 10
        await asyncio.sleep(0.5)

    status, text = await get(skewed, "/readyz")
    ahead = "ahead of" if seconds > 0 else "behind"
    assert (status, json.loads(text)["time"][:50]) == (
        503,
        f"this machine's clock is 25.0 s {ahead} the database's"[:50],
    )
    assert f"25.0 s {ahead} the database's" in skewed.logged()
    assert (await get(servers[0], "/readyz"))[0] == 200
