"""What a version has stored: kept in a file by `keep`, and put into an empty database by `load`.

    python -m tests.upgrades.stored keep FILE    in a checkout of that version, with DATABASE_URL of an empty database
    python -m tests.upgrades.stored load FILE    in today's, likewise
    python -m tests.upgrades.stored check FILE   in today's: the calls that were live are what their entries give

`keep` starts that version's server, makes calls through it, kills it and reads the tables. Run it for each version that
people may upgrade from, on PostgreSQL and on SQLite. It needs from that version its wire contract and `manage.py demo`,
so copy this file and tests/pages.py into the checkout. The passwords are random, and nothing of a real site is in it.
"""

import asyncio
import datetime as dt
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "callplatform.settings")

SECRET_KEY = "of the tests of upgrades alone"  # the sessions in the files are signed with it
PORT = 18431
START_S = 60.0
LEFT_OUT = {"django_migrations", "sqlite_sequence"}


def keep(file: Path) -> None:
    """Makes calls with this checkout's server and writes what it has stored to the file."""
    import django

    django.setup()
    from django.core.management import call_command

    call_command("migrate", verbosity=0)
    call_command("roles", verbosity=0)
    call_command("demo", verbosity=0)
    cookies = _people()
    command = [sys.executable, "manage.py", "serve", "--host", "127.0.0.1", "--port", str(PORT)]
    server = subprocess.Popen(command)
    try:
        _until_ready()
        pages = asyncio.run(_call(cookies))
    finally:
        server.kill()
        server.wait()
    kept = {"cookies": cookies, "pages": pages, **_read()}
    lines = json.dumps(kept, ensure_ascii=False, indent=None, default=str)
    file.write_text(lines.replace('], "', '],\n"').replace("}, {", "},\n{") + "\n")


def _people() -> dict[str, str]:
    """Sets limits, as an operator does; the cookies of people who have signed in."""
    from django.conf import settings
    from django.contrib.auth import get_user_model
    from django.test import Client

    from devices.models import Line, LineGroup

    ward = LineGroup.objects.create(name="Ward", max_incoming=2)
    for name, values in {"dave": {"max_incoming": 3}, "carol": {"group": ward}, "alice": {"max_outgoing": 2}}.items():
        line = Line.objects.get(user__username=name)
        for field, value in values.items():
            setattr(line, field, value)
        line.save()
    cookies = {}
    for user in get_user_model()._default_manager.all():
        client = Client()
        client.force_login(user)
        name = settings.SESSION_COOKIE_NAME
        cookies[user.get_username()] = f"{name}={client.cookies[name].value}"
    return cookies


def _until_ready() -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        with suppress(urllib.error.URLError, OSError):
            urllib.request.urlopen(f"http://127.0.0.1:{PORT}/healthz", timeout=2).close()
            return
        time.sleep(0.1)
    raise SystemExit(f"the server is not ready after {START_S:.0f} s")


async def _call(cookies: dict[str, str]) -> dict[str, dict[str, Any]]:
    """Calls that ended in each way, one that is active and one that rings; the pages that are in them."""
    from tests.pages import Live

    pages: dict[str, Any] = {}
    for name, user, device in (
        ("alice", "alice", "Laptop"),
        ("phone", "bob", "Phone"),
        ("laptop", "bob", "Laptop"),
        ("carol", "carol", "Desk"),
        ("dave", "dave", "Desk"),
    ):
        page = Live(f"ws://127.0.0.1:{PORT}", cookies[user], user, name=device)
        await page.open()
        assert (await page.hello())["t"] == "welcome"
        pages[name] = page
    alice, phone, laptop, carol, dave = pages.values()

    async def ring(caller: Any, callee: Any, **about: Any) -> str:
        call = (await caller.invite(callee.user, **about))["call"]["id"]
        await callee.sees(call, me={"state": "ringing"})
        assert (await callee.ask("ringing", call=call))["ok"]
        return str(call)

    async def done(page: Any, cmd: str, call: str, **about: Any) -> None:
        reply = await page.ask(cmd, call=call, **about)
        assert reply["ok"], reply

    moved = await ring(alice, phone, kind="video", data={"about": "lunch"})
    await done(phone, "answer", moved)
    await done(alice, "media", moved, mic=False, cam=True)
    await done(laptop, "move", moved)
    assert not (await phone.ask("answer", call=moved))["ok"]
    assert (await dave.invite("bob"))["call"]["reason"] == "busy"
    await done(alice, "hangup", moved)

    await done(carol, "hangup", await ring(carol, dave))
    await done(alice, "reject", await ring(carol, alice))

    active = await ring(alice, phone)
    await done(phone, "answer", active)
    ringing = await ring(carol, dave)
    for page in pages.values():
        await page.close()
    kept = {name: {"user": page.user, "name": page.name, "device": page.device, "page": page.page}
            for name, page in pages.items()}  # fmt: skip
    return kept | {"calls": {"moved": moved, "active": active, "ringing": ringing}}


def _read() -> dict[str, Any]:
    from django.db import connection
    from django.db.migrations.recorder import MigrationRecorder

    newest: dict[str, str] = {}
    for app, name in sorted(MigrationRecorder(connection).applied_migrations()):
        newest[app] = name
    tables: dict[str, list[dict[str, Any]]] = {}
    with connection.cursor() as cursor:
        for table in sorted(set(connection.introspection.table_names(cursor)) - LEFT_OUT):
            if connection.vendor == "postgresql":
                cursor.execute(f'SELECT row_to_json("row") FROM "{table}" AS "row"')
                tables[table] = [json.loads(row) if isinstance(row, str) else row for (row,) in cursor.fetchall()]
            else:
                cursor.execute(f'SELECT * FROM "{table}"')
                columns = [column[0] for column in cursor.description]
                tables[table] = [dict(zip(columns, row, strict=True)) for row in cursor.fetchall()]
    return {"at": dt.datetime.now(dt.UTC).isoformat(), "migrations": newest, "tables": tables}


def load(file: Path) -> None:
    """Makes the tables as they were in that version and fills them. Times are moved to today, so that sign-ins have
    not expired and calls are as old as they were when its server was killed."""
    import django

    django.setup()
    from django.db import connection, transaction
    from django.db.migrations.executor import MigrationExecutor

    kept = json.loads(file.read_text())
    MigrationExecutor(connection).migrate(list(kept["migrations"].items()))
    moved = dt.datetime.now(dt.UTC) - dt.datetime.fromisoformat(kept["at"])
    with transaction.atomic(), connection.cursor() as cursor:
        for table, rows in kept["tables"].items():
            _fill(cursor, table, rows, moved)


def _fill(cursor: Any, table: str, rows: list[dict[str, Any]], moved: dt.timedelta) -> None:
    from django.db import connection

    columns = connection.introspection.get_table_description(cursor, table)
    times = [column.name for column in columns if _is_time(cursor, table, column)]
    for row in rows:
        for name in times:
            if row[name]:
                row[name] = str(dt.datetime.fromisoformat(row[name]) + moved)
    if connection.vendor == "postgresql":
        cursor.execute(
            f'INSERT INTO "{table}" SELECT * FROM json_populate_recordset(NULL::"{table}", %s)', [json.dumps(rows)]
        )
        for sequence in connection.introspection.get_sequences(cursor, table):
            cursor.execute(
                f"""SELECT setval(pg_get_serial_sequence('"{table}"', '{sequence["column"]}'),"""
                f' max("{sequence["column"]}")) FROM "{table}"'
            )
    elif rows:
        names = ", ".join(f'"{name}"' for name in rows[0])
        places = ", ".join(["%s"] * len(rows[0]))
        cursor.executemany(f'INSERT INTO "{table}" ({names}) VALUES ({places})', [list(row.values()) for row in rows])


def _is_time(cursor: Any, table: str, column: Any) -> bool:
    from django.db import connection

    return connection.introspection.get_field_type(column.type_code, column) == "DateTimeField"


def check(file: Path) -> None:
    """Decides the entries of the calls again that were live in that version. When a leg may change again is no part of
    the comparison: the first versions did not count changes."""
    import django

    django.setup()
    from msgspec.structs import replace

    from calls import conf, models
    from tests.truth import Replay

    kept = json.loads(file.read_text())["pages"]["calls"]
    replay = Replay(conf.deadlines())
    for entry in models.Entry.objects.order_by("pk"):
        replay.add(entry.call_id, entry.v, entry.at, entry.decode())
    for name in ("active", "ringing"):
        rows = models.load(kept[name])
        assert rows is not None
        given, stored = (
            replace(call, legs=tuple(replace(leg, spent_until=None) for leg in call.legs))
            for call in (replay.calls[rows.id], rows)
        )
        assert given == stored, f"the call that was {name}: {given} and {stored}"


if __name__ == "__main__":
    os.environ["SECRET_KEY"] = SECRET_KEY
    {"keep": keep, "load": load, "check": check}[sys.argv[1]](Path(sys.argv[2]))
