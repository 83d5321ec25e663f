"""What PostgreSQL alone makes of a call: pgbench with the same rows in the same three transactions."""

from __future__ import annotations

import os
import re
import subprocess
import time
from pathlib import Path
from urllib.parse import urlsplit

import psycopg

from benchmarks.meter import Window

SCRIPT = Path(__file__).with_name("call.sql")
NOTHING = Path(__file__).with_name("nothing.sql")
# pgbench stops in the middle of calls: the next run must find its devices free.
LEFT_OPEN = """
update calls_leg set state = 'left' where state in ('ringing', 'joined')
and user_id in (select id from auth_user where username ~ '^p[0-9]+$')
"""
REAP_S = 0.7  # for the postmaster to count what its ended backends have used


class NoPgbench(Exception):
    """A sentence for the person at the terminal."""


def pgbench(postmaster: int) -> Path:
    """The pgbench that belongs to the running PostgreSQL. Raises NoPgbench."""
    path = Path(f"/proc/{postmaster}/exe").resolve().with_name("pgbench")
    if not os.access(path, os.X_OK):
        raise NoPgbench(f"{path} is not there (Debian: postgresql-contrib), so PostgreSQL is not measured alone")
    return path


def prepare(url: str, clients: int) -> None:
    """Makes the users p0, p1, … and a device for each: a caller and a callee for each client.

    The devices count as heard from for a day to come, so that no clock takes them for lost.
    """
    with psycopg.connect(url) as db:
        for number in range(2 * clients):
            values = {"name": f"p{number}", "number": number}
            db.execute(
                "insert into auth_user (username, password, first_name, last_name, email, is_superuser, is_staff, "
                "is_active, date_joined) values (%(name)s, '!', '', '', '', false, false, true, now()) "
                "on conflict do nothing",
                values,
            )
            db.execute(
                "insert into devices_line (user_id, multi_device, may_switch) "
                "select id, true, false from auth_user where username = %(name)s on conflict do nothing",
                values,
            )
            db.execute(
                "insert into devices_device (id, user_id, name, kind, session_key, logged_in_at, last_seen_at, "
                "online_until) select md5(username)::uuid, id, username, 'web', '', now(), now() + interval '1 day', "
                "now() + interval '1 day' from auth_user where username = %(name)s on conflict do nothing",
                values,
            )


def run(url: str, postmaster: int, clients: int, seconds: float, core: int) -> dict[str, object]:
    """One run; the figures as load.Took.row writes them, without what it costs to connect."""
    with psycopg.connect(url) as db:
        first = db.execute("select min(id) from auth_user where username ~ '^p[0-9]+$'").fetchone()
        db.execute(LEFT_OPEN)
    assert first is not None
    common = [str(pgbench(postmaster)), "--no-vacuum", "--jobs=1", f"--client={clients}"]
    connecting, _ = _pgbench(url, postmaster, core, [*common, "--transactions=1", f"--file={NOTHING}"])
    calling = ["--protocol=prepared", f"--time={max(1, round(seconds))}", f"--define=first={first[0]}"]
    before = os.times()
    window, said = _pgbench(url, postmaster, core, [*common, *calling, f"--file={SCRIPT}"])
    after = os.times()
    window.cpu["postgres"] = max(0.0, window.cpu["postgres"] - connecting.cpu["postgres"])
    calls = int(found[1]) if (found := re.search(r"actually processed: (\d+)", said)) else 0
    rate = float(found[1]) if (found := re.search(r"tps = ([\d.]+)", said)) else 0.0
    latency = float(found[1]) if (found := re.search(r"latency average = ([\d.]+)", said)) else 0.0
    client = sum(after[2:4]) - sum(before[2:4])
    return {
        "calls": calls,
        "failed": 0,
        "per_s": round(rate, 2),
        "cpu_ms": {name: round(used, 4) for name, used in window.per(calls).items()},
        "client_ms": round(1000 * client / max(calls, 1), 4),
        "mean_ms": latency,
    }


def _pgbench(url: str, postmaster: int, core: int, command: list[str]) -> tuple[Window, str]:
    """What PostgreSQL used, and what pgbench printed. Raises NoPgbench."""
    parts = urlsplit(url)
    place = [f"--host={parts.hostname}", f"--port={parts.port}", f"--username={parts.username}", parts.path[1:]]
    environment = os.environ | {"PGPASSWORD": parts.password or ""}
    with Window({"postgres": [postmaster]}) as window:
        done = subprocess.run(
            ["taskset", "-c", str(core), *command, *place], env=environment, capture_output=True, text=True, check=False
        )
        time.sleep(REAP_S)
    if done.returncode:
        raise NoPgbench(f"pgbench failed: {done.stderr.strip()[:500]}")
    return window, done.stdout
