"""The database, the channel layer or a whole server fails in the middle of a command: nothing is half done, sending it
again completes it, and what was not told is told by the next ping."""

import asyncio
import http.cookiejar
import itertools
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
import uuid
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path

import psycopg
import pytest
from asgiref.sync import sync_to_async

from calls import machine, models, switchboard
from calls.consumers import BEAT_S
from devices.models import Device
from scripts import services
from tests import race_kit
from tests.pages import WAIT_S, Live
from tests.servers import ROOT, Server
from tests.steady import SteadyPostgres, SteadyRedis
from tests.truth import check_knowledge

pytestmark = pytest.mark.django_db(transaction=True)

CALL = "SELECT 1 FROM calls_call WHERE id = %s FOR UPDATE"
LINES = "SELECT 1 FROM devices_line FOR UPDATE"


@asynccontextmanager
async def held(server, sql, *values):
    """Holds what the statement locks, on the database of that server; yields a way to find who waits for it."""
    async with await psycopg.AsyncConnection.connect(server.environment["DATABASE_URL"]) as gate:
        await gate.execute(sql, values)

        async def waiter():
            async with asyncio.timeout(WAIT_S):
                while True:
                    found = await gate.execute(
                        "SELECT pid FROM pg_locks WHERE NOT granted AND %s = ANY(pg_blocking_pids(pid))",
                        [gate.info.backend_pid],
                    )
                    if row := await found.fetchone():
                        return row[0]

        yield gate, waiter
        await gate.rollback()


async def cut_off(gate, waiter):
    """The one who waits loses its connection to the database, as by a restart or a failing network."""
    await gate.execute("SELECT pg_terminate_backend(%s)", [await waiter()])


# --- the database -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cmd", ["ringing", "answer", "reject", "end"])
async def test_a_command_that_loses_its_database_is_unavailable_and_completes_when_sent_again(live, servers, cmd):
    alice, bob = await live("alice"), await live("bob", server=1)
    call = (await alice.invite("bob"))["call"]["id"]
    await bob.sees(call, me={"state": "ringing"})
    async with held(servers[1], CALL, call) as (gate, waiter):
        re = await bob.say(cmd, call=call)
        await cut_off(gate, waiter)
        refused = await bob.reply_to(re)
    assert refused["error"]["code"] == "unavailable"
    assert refused["error"]["retry_ms"] > 0
    assert (await models.Call.objects.aget(pk=call)).v == 1, "nothing was done"
    assert await models.Entry.objects.filter(call=call).acount() == 1
    assert (await bob.ask(cmd, call=call))["ok"]
    await alice.sees(call, v=2)
    await sync_to_async(race_kit.check_invariants)()


async def test_an_invite_that_loses_its_database_leaves_no_call_and_completes_when_sent_again(live, servers):
    alice, bob = await live("alice"), await live("bob", server=1)
    call = str(uuid.uuid4())
    async with held(servers[0], LINES) as (gate, waiter):
        re = await alice.say("invite", call=call, to=["bob"], kind="audio")
        await cut_off(gate, waiter)
        assert (await alice.reply_to(re))["error"]["code"] == "unavailable"
    assert await models.Call.objects.acount() == await models.Leg.objects.acount() == 0
    assert await bob.heard_nothing(call)
    assert (await alice.invite("bob", call=call))["call"]["state"] == "ringing"
    await bob.sees(call, me={"state": "ringing"})


async def test_a_hello_that_fails_half_way_is_said_again_on_the_same_socket(live, servers, people):
    """The device has arrived already, and the line of its user is about to be made."""
    alice = await live("alice", hello=False)
    async with held(servers[0], LINE_OF, people["alice"].pk) as (gate, waiter):
        re = await alice.say("hello", page=alice.page, device={"id": None, "name": "Laptop", "kind": "web"})
        await cut_off(gate, waiter)
        assert (await alice.reply_to(re))["error"]["code"] == "unavailable"
    assert (await alice.ask("ping", calls={}))["error"]["argument"] == "cmd", "it has not said hello"
    assert (await alice.hello())["t"] == "welcome"
    assert (await alice.ping())["t"] == "pong"
    assert await Device.objects.acount() == 1, "and is one device"
    await alice.close()
    async with asyncio.timeout(WAIT_S):
        while (await Device.objects.aget()).socket is not None:  # noqa: ASYNC110 - rows tell nobody
            await asyncio.sleep(0.02)


LINE_OF = (
    "INSERT INTO devices_line (user_id, multi_device, may_switch, max_incoming, max_outgoing) "
    "VALUES (%s, false, false, NULL, NULL)"
)


@pytest.fixture
def own():
    """Starts a PostgreSQL or a Redis for this test alone, which may be stopped and started: `own(SteadyRedis)`."""
    with ExitStack() as stack:

        def start(kind, *more):
            account = services.Account(None)
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="callplatform-", dir=account.temporary()))
            account.own(Path(folder))
            try:
                server = kind(account, Path(folder), False, *more)
                stack.callback(server.stop)
                server.start()
            except services.Trouble as trouble:
                pytest.skip(str(trouble))
            return server

        yield start


def sign_in(server, name, password):
    """A session cookie, as a browser gets it."""
    site = server.url.replace("ws", "http", 1)
    jar = http.cookiejar.CookieJar()
    browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(jar))
    browser.open(f"{site}/accounts/login/").read()
    token = next(each.value for each in jar if each.name == "csrftoken")
    form = {"username": name, "password": password, "csrfmiddlewaretoken": token}
    browser.open(f"{site}/accounts/login/", urllib.parse.urlencode(form).encode()).read()
    return "; ".join(f"{each.name}={each.value}" for each in jar)


@pytest.fixture
async def shop(own, servers, tmp_path):
    """A server on a PostgreSQL of its own, with people who are signed in: `shop.page("alice")`."""
    shop = await asyncio.to_thread(Shop, own(SteadyPostgres, None), servers[0].environment, tmp_path)
    yield shop
    for page in shop.opened:
        await page.close()
    await asyncio.to_thread(shop.server.stop)


class Shop:
    def __init__(self, postgres, environment, folder, port=None):
        """With another `port`, PostgreSQL is reached by way of what listens there."""
        self.postgres = postgres
        self.opened = []
        address = urllib.parse.urlsplit(postgres.url)
        address = address._replace(netloc=address.netloc.replace(f":{postgres.port}", f":{port or postgres.port}"))
        environment = environment | {
            "DATABASE_URL": address.geturl(),
            "DEMO_PASSWORD": "secret",
            "DJANGO_SETTINGS_MODULE": "tests.browser.served_settings",  # or its sign-ins replace ours
            "SITE_VAR": str(folder),
        }
        for command in ("migrate", "demo"):
            manage = [sys.executable, "manage.py", command]
            subprocess.run(manage, cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)
        self.server = Server(environment, folder / "shop.log")
        self.server.start()

    async def page(self, name):
        page = Live(self.server.url, await asyncio.to_thread(sign_in, self.server, name, "secret"), name)
        self.opened.append(await page.open())
        async with asyncio.timeout(WAIT_S):
            while (answer := await page.hello())["t"] != "welcome":
                assert answer["error"]["code"] == "unavailable", answer
                await asyncio.sleep(answer["error"]["retry_ms"] / 1000)
        return page


async def until_available(page, cmd, **args):
    """Sends it again, as `unavailable` asks for, until there is another reply."""
    async with asyncio.timeout(3 * WAIT_S):
        reply = await page.ask(cmd, **args)
        while reply.get("error", {}).get("code") == "unavailable":
            await asyncio.sleep(reply["error"]["retry_ms"] / 1000)
            reply = await page.ask(cmd, **args)
    return reply


async def test_postgresql_restarts_in_the_middle_of_a_command(shop):
    alice, bob = await shop.page("alice"), await shop.page("bob")
    call = (await alice.invite("bob"))["call"]["id"]
    await bob.sees(call, me={"state": "ringing"})
    with suppress(psycopg.OperationalError):  # whoever holds the lock is cut off too
        async with held(shop.server, CALL, call) as (gate, waiter):
            re = await bob.say("answer", call=call)
            await cut_off(gate, waiter)  # before the stop frees the lock, and the answer is in time to take it
            await asyncio.to_thread(shop.postgres.stop)
            assert (await bob.reply_to(re))["error"]["code"] == "unavailable"
    assert (await alice.ping())["error"]["code"] == "unavailable", "within less than its client's patience"
    await asyncio.to_thread(shop.postgres.start)
    began = time.monotonic()
    pong = await until_available(alice, "ping", calls={call: 0})
    print(f"\nserved again {time.monotonic() - began:.1f} s after PostgreSQL was back")
    assert [(view["v"], view["state"]) for view in pong["calls"]] == [(1, "ringing")], "nothing was done"
    reply = await until_available(bob, "answer", call=call)
    assert reply["ok"] and reply["call"]["v"] == 2, "the resend completes it"
    await alice.sees(call, state="active")
    assert (await alice.ask("hangup", call=call))["ok"]
    await bob.sees(call, state="ended")
    log = shop.server.logged()
    assert "Traceback" not in log and " ERROR " not in log, "an absent database is no fault of ours"


# --- Redis ------------------------------------------------------------------------------------------------------------


async def test_redis_restarts_and_pings_repair_what_was_lost_meanwhile(own, launch, live):
    redis = await asyncio.to_thread(own, SteadyRedis)
    here, there = [await asyncio.to_thread(launch, REDIS_URL=redis.url) for _ in range(2)]
    alice, bob = await live("alice", server=here), await live("bob", server=there)
    call = (await alice.invite("bob"))["call"]["id"]
    await bob.sees(call, me={"state": "ringing"})

    await asyncio.to_thread(redis.stop)
    began = time.monotonic()
    assert (await alice.ask("hangup", call=call))["ok"]
    assert time.monotonic() - began < 2, "who cannot tell the others does not wait for them"
    assert bob.calls[call]["state"] == "ringing"
    await bob.ping()
    assert bob.calls[call]["state"] == "ended", "a ping needs no Redis"
    call = (await alice.invite("bob"))["call"]["id"]
    again = await live("bob", "Phone", server=there)
    assert again.calls[call]["state"] == "ringing", "nor does a new socket"
    assert (await again.ask("answer", call=call))["ok"]
    await alice.ping()
    assert alice.calls[call]["state"] == "active"

    await asyncio.to_thread(redis.start)
    began = time.monotonic()
    async with asyncio.timeout(3 * WAIT_S):
        for mic in itertools.cycle((False, True)):
            view = (await alice.ask("media", call=call, mic=mic, cam=True))["call"]
            with suppress(TimeoutError):
                async with asyncio.timeout(0.3):
                    await again.sees(call, v=view["v"])
                    break
    print(f"\nframes flow again {time.monotonic() - began:.1f} s after Redis was back")
    await again.say("signal", call=call, to="alice", body="hello again")
    await alice.until(lambda frame: frame["t"] == "signal" and frame["body"] == "hello again")
    for server in (here, there):
        assert " ERROR calls" not in server.logged(), "an absent Redis is no fault of ours"


# --- committed, and never told ----------------------------------------------------------------------------------------


async def test_what_a_server_committed_and_never_told_comes_with_the_next_ping_or_welcome(live, settings, people):
    """This process has a channel layer that reaches nobody, as a server has that is killed after its commit."""
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
    alice = await live("alice")
    phone, laptop = await live("bob", "Phone", server=1), await live("bob", "Laptop", server=1)
    call = (await alice.invite("bob"))["call"]["id"]
    for device in (phone, laptop):
        await device.sees(call, me={"state": "ringing"})
    bob = str(people["bob"].pk)
    seat = machine.Seat(bob, uuid.UUID(phone.device), "Phone", uuid.UUID(phone.page))

    async def untold(command):
        outcome = await sync_to_async(switchboard.perform)(uuid.UUID(call), command)
        assert outcome.refused is None

    async def check(*pages):
        calls = await sync_to_async(models.load_all)(models.Call.objects.all())
        for page in pages:
            check_knowledge(str(people[page.user].pk), page, calls)

    await untold(machine.Answer(seat))
    late = await laptop.ask("answer", call=call)
    assert late["error"]["code"] == "answered_elsewhere", "a reply brings its device to the truth as well"
    for page in (alice, phone):
        assert await page.ping() and page.missed == [call]
    await check(alice, phone, laptop)
    await alice.say("signal", call=call, to="bob", body=1)
    await phone.until(lambda frame: frame["t"] == "signal")

    await untold(machine.Hangup(seat))
    tablet = await live("bob", "Tablet", server=0)
    assert tablet.calls == {}
    for page in (alice, phone, laptop):
        await page.ping()
    await check(alice, phone, laptop, tablet)
    assert alice.calls[call]["reason"] == "completed"


# --- one that waits ---------------------------------------------------------------------------------------------------


async def echoes_beside(waiter, page, seconds):
    """How long each ping of this page takes, in seconds, while somebody waits for a lock."""
    await waiter()
    began, echoes = time.monotonic(), []
    while time.monotonic() - began < seconds:
        sent = time.monotonic()
        assert (await page.ping())["t"] == "pong"
        echoes.append(time.monotonic() - sent)
        await asyncio.sleep(0.01)
    typical, worst = statistics.median(echoes), max(echoes)
    print(
        f"\n{len(echoes)} echoes beside a waiting command: median {typical * 1000:.1f} ms, worst {worst * 1000:.1f} ms"
    )
    return typical, worst


@pytest.mark.alone
async def test_while_one_command_waits_two_seconds_for_a_lock_everybody_else_is_served(live, servers):
    alice, bob, carol = await live("alice"), await live("bob"), await live("carol")
    call = (await alice.invite("bob"))["call"]["id"]
    await bob.sees(call, me={"state": "ringing"})
    async with held(servers[0], CALL, call) as (_, waiter):
        re = await bob.say("answer", call=call)
        typical, worst = await echoes_beside(waiter, carol, 2)
        assert not any(frame.get("re") == re for frame in bob.frames)
    assert (await bob.reply_to(re))["ok"]
    assert typical < 0.05 and worst < 1


@pytest.mark.alone
async def test_nobody_else_waits_for_the_line_of_somebody(live, servers, people):
    bob, carol = await live("bob"), await live("carol")
    sql = "SELECT 1 FROM devices_line WHERE user_id = %s FOR UPDATE"
    async with held(servers[0], sql, people["bob"].pk) as (_, waiter):
        re = await bob.say("invite", call=str(uuid.uuid4()), to=["alice"], kind="audio")
        typical, worst = await echoes_beside(waiter, carol, 1)
    assert (await bob.reply_to(re))["ok"]
    assert typical < 0.05 and worst < 1


async def test_nobody_waits_for_the_row_of_a_device_not_even_the_device(live, servers):
    await live("alice")
    bob = await live("bob")
    async with held(servers[0], "SELECT 1 FROM devices_device FOR UPDATE"):
        await asyncio.sleep(BEAT_S)  # so that the device's next command is news of it
        assert (await bob.invite("alice"))["ok"]


@pytest.mark.alone
async def test_even_more_commands_that_wait_than_there_are_threads_leave_the_others_served(live, servers):
    alice, carol = await live("alice"), await live("carol")
    devices = [await live("bob", f"Device {number}") for number in range(12)]
    call = (await alice.invite("bob"))["call"]["id"]
    for device in devices:
        await device.sees(call, me={"state": "ringing"})
    async with held(servers[0], CALL, call) as (_, waiter):
        asked = [(device, await device.say("answer", call=call)) for device in devices]
        typical, worst = await echoes_beside(waiter, carol, 1)
    replies = [await device.reply_to(re) for device, re in asked]
    assert sum(reply["ok"] for reply in replies) == 1
    assert typical < 0.05 and worst < 1
