# ruff: noqa: F811 - fixtures of another module
"""Behind a real PgBouncer in transaction mode."""

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from scripts import services
from tests.servers import ROOT
from tests.test_faults import Shop, SteadyPostgres, own  # noqa: F401 - a fixture, which arguments below name

pytestmark = pytest.mark.django_db(transaction=True)

PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
INI = """
[databases]
postgres = host=127.0.0.1 port={port} dbname=postgres user={user} password={password}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen}
unix_socket_dir =
auth_type = trust
auth_file = {users}
pool_mode = transaction
default_pool_size = 6
"""


@pytest.fixture
def postgres(own):
    return own(SteadyPostgres, None)


@pytest.fixture
def pooler(postgres, tmp_path):
    """The port of a PgBouncer before it."""
    if PGBOUNCER is None:
        pytest.skip("there is no pgbouncer: install the package pgbouncer")
    account, port = services.Account(None), services.free_port()
    parts = urlsplit(postgres.url)
    folder = Path(postgres.home)  # which the account may read
    users, ini = folder / "users.txt", folder / "pgbouncer.ini"
    users.write_text(f'"{parts.username}" "{parts.password}"')
    ini.write_text(INI.format(port=parts.port, user=parts.username, password=parts.password, listen=port, users=users))
    for file in (users, ini):
        account.own(file)
    process = account.popen(
        [PGBOUNCER, str(ini)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT
    )
    end = time.monotonic() + 20
    while True:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            break
        assert process.poll() is None and time.monotonic() < end, "pgbouncer did not start"
        time.sleep(0.02)
    yield port
    process.terminate()
    process.wait(20)


def manage(servers, postgres, port, *command, **environment):
    """What it said, as an operator sees it."""
    url = postgres.url.replace(f":{postgres.port}", f":{port}")
    environment = servers[0].environment | {"DATABASE_URL": url} | environment
    done = subprocess.run(
        [sys.executable, "manage.py", *command], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60
    )
    return done.stderr.strip().splitlines()[-1] if done.returncode else ""


async def test_the_start_says_what_to_set_and_then_calls_work(servers, postgres, pooler, tmp_path):
    def at(port, *command, **environment):
        return asyncio.to_thread(manage, servers, postgres, port, *command, **environment)

    assert await at(postgres.port, "migrate") == ""
    said = await at(pooler, "serve", "--port", "0")
    assert "set DATABASE_POOLER=on" in said, said
    said = await at(pooler, "serve", "--port", "0", DATABASE_POOLER="on")
    _, _, statements = said.partition("Run in PostgreSQL itself: ")
    assert statements.count("ALTER ROLE callplatform SET ") == 3, said
    with psycopg.connect(postgres.url, autocommit=True) as db:
        db.execute(statements)
        db.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND usesysid > 0"
        )

    pooled = servers[0].environment | {"DATABASE_POOLER": "on"}
    shop = await asyncio.to_thread(Shop, postgres, pooled, tmp_path, pooler)
    try:
        alice, bob, carol, dave = [await shop.page(name) for name in ("alice", "bob", "carol", "dave")]

        async def calls(caller, callee):
            for _ in range(10):
                call = (await caller.invite(callee.user))["call"]["id"]
                await callee.sees(call, me={"state": "ringing"})
                assert (await callee.ask("answer", call=call))["ok"]
                assert (await caller.ping())["t"] == "pong"
                assert (await caller.ask("hangup", call=call))["ok"]
                await callee.sees(call, state="ended")

        await asyncio.gather(calls(alice, bob), calls(carol, dave))
    finally:
        for page in shop.opened:
            await page.close()
        await asyncio.to_thread(shop.server.stop)
    log = shop.server.logged()
    assert "Traceback" not in log and " ERROR " not in log, log
