"""`manage.py backup` and `restore`: one moment of the whole site, taken under load, and put back whole."""

import asyncio
import os
import secrets
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
from django.core.management import CommandError, call_command
from django.db import connection

from calls.models import Call
from tests.conftest import ROOT

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(not shutil.which("pg_dump"), reason="needs PostgreSQL's programs (Debian: postgresql-client)"),
]
on_postgresql = pytest.mark.skipif("sqlite" in os.environ.get("DATABASE_URL", ""), reason="of PostgreSQL")


def manage(url: str, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "manage.py", *command],
        cwd=ROOT, env=os.environ | {"DATABASE_URL": url} | environment,
        capture_output=True, text=True, check=False, timeout=90,
    )  # fmt: skip


@pytest.fixture
def empty():
    """The address of a database in which nothing is."""
    name, server = f"restored_{secrets.token_hex(4)}", os.environ["DATABASE_URL"]
    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name}")
        yield urlsplit(server)._replace(path=f"/{name}").geturl()
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


def rows(url: str) -> dict[str, list[str]]:
    """Every row of every table, as text."""
    with psycopg.connect(url) as asked:
        names = [name for (name,) in asked.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")]
        names.remove("calls_hearing")  # the clocks of servers write it all the time
        return {name: sorted(row for (row,) in asked.execute(f"SELECT t::text FROM {name} t")) for name in names}


def here() -> str:
    return urlsplit(os.environ["DATABASE_URL"])._replace(path=f"/{connection.settings_dict['NAME']}").geturl()


@on_postgresql
async def test_a_backup_while_calls_are_made_is_one_moment_and_one_at_rest_has_every_row(
    page, tmp_path, empty, settings
):
    settings.VAR_DIR = tmp_path / "var"
    alice, bob = await page("alice"), await page("bob")
    placed, enough = 0, asyncio.Event()

    async def call_on() -> None:
        nonlocal placed
        while True:
            call = (await alice.invite("bob"))["call"]["id"]
            assert (await bob.ask("answer", call=call))["ok"]
            assert (await alice.ask("hangup", call=call))["ok"]
            placed += 1
            if placed == 3:
                enough.set()

    calling = asyncio.create_task(call_on())
    under_load = tmp_path / "under-load.dump"
    async with asyncio.timeout(30):
        await enough.wait()
    before = placed
    await asyncio.to_thread(call_command, "backup", str(under_load))
    assert placed > before, "no call was made meanwhile"
    calling.cancel()
    assert stat.S_IMODE(under_load.stat().st_mode) == 0o600
    restored = await asyncio.to_thread(manage, empty, "restore", str(under_load))
    assert restored.returncode == 0, restored.stderr
    with psycopg.connect(empty) as asked:
        (calls,) = asked.execute("SELECT count(*) FROM calls_call").fetchone()
        assert before <= calls <= placed + 1
        # A call and its entries are written together: each call has exactly the entries of its versions.
        torn = asked.execute(
            "SELECT c.id FROM calls_call c LEFT JOIN calls_entry e ON e.call_id = c.id"
            " GROUP BY c.id, c.v HAVING count(e) <> c.v OR max(e.v) <> c.v"
        ).fetchall()
        assert torn == []
    await alice.close()
    await bob.close()
    at_rest = tmp_path / "at-rest.dump"
    await asyncio.to_thread(call_command, "backup", str(at_rest))
    refused = await asyncio.to_thread(manage, empty, "restore", str(at_rest))
    assert refused.returncode == 1 and "The database is not empty" in refused.stderr
    replaced = await asyncio.to_thread(manage, empty, "restore", str(at_rest), "--replace")
    assert replaced.returncode == 0, replaced.stderr
    assert rows(empty) == rows(here())
    assert manage(empty, "migrate", "--check").returncode == 0


@on_postgresql
def test_a_damaged_backup_leaves_the_database_as_it_was(people, tmp_path, empty, settings):
    settings.VAR_DIR = tmp_path / "var"
    whole, damaged = tmp_path / "whole.dump", tmp_path / "damaged.dump"
    call_command("backup", str(whole))
    assert manage(empty, "restore", str(whole)).returncode == 0
    before = rows(empty)
    damaged.write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
    refused = manage(empty, "restore", str(damaged), "--replace")
    assert refused.returncode == 1 and "Nothing was changed." in refused.stderr and "Traceback" not in refused.stderr
    assert rows(empty) == before


@on_postgresql
def test_servers_that_still_run_are_told_of_before_anything_is_replaced(people, tmp_path, empty, settings):
    settings.VAR_DIR = tmp_path / "var"
    call_command("backup", str(tmp_path / "whole.dump"))
    with psycopg.connect(empty):
        refused = manage(empty, "restore", str(tmp_path / "whole.dump"))
    assert "Stop the servers first: 1 other connections" in refused.stderr


def test_a_backup_replaces_no_file_and_leaves_no_part_behind_when_it_fails(people, tmp_path, monkeypatch, settings):
    settings.VAR_DIR = tmp_path / "var"
    kept = tmp_path / "kept"
    kept.write_text("of yesterday")
    with pytest.raises(CommandError, match="exists: name a new file"):
        call_command("backup", str(kept))
    assert kept.read_text() == "of yesterday"
    broken = tmp_path / "bin"
    broken.mkdir()
    (broken / "pg_dump").write_text("#!/bin/sh\necho half > \"${5#--file=}\"\necho 'disk full' >&2\nexit 1\n")
    (broken / "pg_dump").chmod(0o755)
    monkeypatch.setenv("PATH", f"{broken}:{os.environ['PATH']}")
    if connection.vendor == "postgresql":
        with pytest.raises(CommandError, match="pg_dump failed: disk full"):
            call_command("backup", str(tmp_path / "new"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bin", "kept"]


def test_on_sqlite_a_backup_under_load_is_whole_and_is_put_back(tmp_path):
    url, other = f"sqlite:///{tmp_path}/calls.sqlite3", f"sqlite:///{tmp_path}/other.sqlite3"
    site = {"REDIS_URL": "", "DJANGO_SETTINGS_MODULE": "tests.browser.served_settings", "SITE_VAR": str(tmp_path)}
    assert manage(url, "migrate", **site).returncode == 0
    assert manage(url, "demo", **site).returncode == 0
    writes = "import sqlite3, sys\ndb = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=20)\n"
    writes += "for n in range(10**9):\n    db.execute('BEGIN IMMEDIATE')\n"
    for table in ("auth_group", "devices_linegroup"):
        column = "" if table == "auth_group" else ", edition"
        writes += f'    db.execute("INSERT INTO {table} (name{column}) VALUES (?{", ?" if column else ""})",'
        writes += f" (f'g{{n}}', ''){'' if column else '[:1]'})\n"
    writes += "    db.execute('COMMIT')\n    print(n, flush=True)\n"
    with subprocess.Popen(
        [sys.executable, "-c", writes, f"{tmp_path}/calls.sqlite3"], stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        for _ in range(20):
            assert writer.stdout.readline()
        backup = tmp_path / "backup"
        made = manage(url, "backup", str(backup), **site)
        assert writer.poll() is None
        writer.kill()
    assert made.returncode == 0, made.stderr
    assert stat.S_IMODE(backup.stat().st_mode) == 0o600
    restored = manage(other, "restore", str(backup), **site)
    assert restored.returncode == 0, restored.stderr
    import sqlite3

    with sqlite3.connect(tmp_path / "other.sqlite3") as asked:
        counts = [
            asked.execute(f"SELECT count(*) FROM {t} WHERE name LIKE 'g%'").fetchone()[0]
            for t in ("auth_group", "devices_linegroup")
        ]
        assert counts[0] == counts[1] >= 20
        assert asked.execute("SELECT count(*) FROM auth_user").fetchone() == (5,)
    refused = manage(other, "restore", str(backup), **site)
    assert refused.returncode == 1 and "add --replace" in refused.stderr
    assert manage(other, "restore", str(backup), "--replace", **site).returncode == 0
    wrong = tmp_path / "wrong"
    wrong.write_bytes(b"PGDMP and more")
    assert "is no backup of SQLite" in manage(other, "restore", str(wrong), **site).stderr
    assert not [path.name for path in Path(tmp_path).iterdir() if path.name.endswith(".part")]


def test_the_doctor_knows_how_old_the_last_backup_is(people, tmp_path, settings):
    from callplatform import doctor

    settings.VAR_DIR = tmp_path / "var"
    (found,) = doctor.one_is_young()
    assert found.level == "warning" and "none was made" in found.says
    call_command("backup", str(tmp_path / "today"))
    (found,) = doctor.one_is_young()
    assert found.level == "ok" and "0 hours old" in found.says
    noted = settings.VAR_DIR / "last-backup.json"
    noted.write_text(noted.read_text().replace('"at": 1', '"at": 0'))
    (found,) = doctor.one_is_young()
    assert found.level == "warning"
    assert Call.objects.count() == 0
