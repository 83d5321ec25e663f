"""What is measured, started for the purpose: PostgreSQL (durable) and Redis, server processes, the bare server.

Each process is pinned to a core where the machine has more than one; everything ends with the `with` block.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import psycopg

from benchmarks import meter
from scripts import services

ROOT = Path(__file__).resolve().parent.parent
START_S = 60
STOP_S = 20
SERVERS = ("daphne", "uvicorn", "granian")
HIGH = "30000"  # limits and rates that a benchmark must not reach
CGROUPS = (Path("/sys/fs/cgroup/cpu"), Path("/sys/fs/cgroup"))  # version 1, version 2
PERIOD_US = 10_000


class Cores(NamedTuple):
    """Where what runs. On one core everything shares it, and only ratios mean anything."""

    server: int  # with PostgreSQL and Redis
    client: int
    spare: list[int]  # for a second server process, and for PostgreSQL and Redis apart

    @classmethod
    def of_this_machine(cls) -> Cores:
        cores = sorted(os.sched_getaffinity(0))
        return cls(cores[0], cores[1 % len(cores)], cores[2:])


@contextlib.contextmanager
def pinned(core: int) -> Iterator[None]:
    """What is started inside runs on this core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def pin(roots: list[int], core: int) -> None:
    """Moves processes that run already, and what they start from now on."""
    for pid in meter.tree(roots):
        with contextlib.suppress(OSError):
            os.sched_setaffinity(pid, {core})


class Stores(NamedTuple):
    """PostgreSQL and Redis, by address and root process."""

    database_url: str
    redis_url: str
    postgres: int
    redis: int
    described: list[str]

    @property
    def parts(self) -> dict[str, list[int]]:
        return {"postgres": [self.postgres], "redis": [self.redis]}


@contextlib.contextmanager
def stores(directory: Path, core: int) -> Iterator[Stores]:
    """Both, empty, PostgreSQL with fsync and synchronous_commit on.

    Its data lies below the directory, for as long as this lasts: a place in memory would not be durable.
    """
    data = directory / f"data-{os.getpid()}-{secrets.token_hex(4)}"
    for name in ("DATABASE_URL", "REDIS_URL"):
        os.environ.pop(name, None)  # what is measured is started here, and nobody's data is touched
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, data, ignore_errors=True)
        before = set(meter.tree([os.getpid()]))
        with pinned(core):
            urls = stack.enter_context(services.running(durable=data))
        started = [pid for pid in meter.tree([os.getpid()]) if pid not in before]
        names = {pid: Path(f"/proc/{pid}/comm").read_text().strip() for pid in started}
        found = [pid for pid, name in names.items() if name == "postgres"]
        redis = [pid for pid, name in names.items() if name in ("redis-server", "valkey-server")]
        described = [f"{Path(f'/proc/{pid}/exe').resolve()}" for pid in (found[0], redis[0])]
        yield Stores(urls["DATABASE_URL"], urls["REDIS_URL"], found[0], redis[0], described)


def environment(stores: Stores, processes: int = 1, **more: str) -> dict[str, str]:
    """The settings of a site in production, on plain HTTP, with limits out of the way."""
    return {
        **os.environ,
        "ENV_FILE": os.devnull,
        "DEBUG": "off",
        "HTTPS": "off",
        "SECRET_KEY": secret_key(),
        "ALLOWED_HOSTS": "127.0.0.1",
        "HOST": "127.0.0.1",
        "PORT": "0",
        "DATABASE_URL": stores.database_url,
        "REDIS_URL": stores.redis_url,
        "PROCESSES": str(processes),
        "FRAME_RATE": HIGH,
        "FRAME_BURST": HIGH,
        "MAX_INCOMING": HIGH,
        "MAX_OUTGOING": HIGH,
        **more,
    }


def another_database(stores: Stores, name: str) -> Stores:
    """An empty one on the same PostgreSQL."""
    with psycopg.connect(stores.database_url, autocommit=True) as db:
        db.execute(f'create database "{name}"')
    return stores._replace(database_url=urlsplit(stores.database_url)._replace(path=f"/{name}").geturl())


@cache
def secret_key() -> str:
    """One for this process and those it starts."""
    return secrets.token_urlsafe(48)


def migrate(stores: Stores, source: Path = ROOT) -> None:
    """Makes the tables, and collects the static files that a server outside debug needs."""
    for command in ("migrate", "collectstatic"):
        arguments = [sys.executable, "manage.py", command, "--noinput", "--verbosity=0"]
        subprocess.run(arguments, cwd=source, env=environment(stores), check=True)


def make_people(stores: Stores, counts: dict[str, int], file: Path, source: Path = ROOT) -> dict[str, str]:
    """Users with signed-in sessions; returns their Cookie headers by name."""
    command = [sys.executable, "-m", "benchmarks", "people", str(file)]
    command += [f"{letter}={count}" for letter, count in counts.items()]
    subprocess.run(command, cwd=source, env=environment(stores), check=True)
    cookies: dict[str, str] = json.loads(file.read_text())
    return cookies


class Process(NamedTuple):
    port: int
    pid: int


@contextlib.contextmanager
def server(
    stores: Stores,
    kind: str,
    core: int,
    log: Path,
    *,
    port: int = 0,
    processes: int = 1,
    wrap: tuple[str, ...] = (),
    source: Path = ROOT,
) -> Iterator[Process]:
    """One server process of the code in `source`. `wrap` goes before its command (a profiler)."""
    chosen = port or services.free_port()
    common = (
        f"callplatform.asgi:application --host 127.0.0.1 --port {chosen} --loop uvloop --backlog 2048 --no-access-log"
    )
    arguments = {
        "daphne": "manage.py serve",
        "uvicorn": f"-m uvicorn {common} --log-level warning --ws-per-message-deflate false",
        "granian": f"-m granian {common} --interface asginl --ws",
    }[kind]
    command = [sys.executable, *arguments.split()]
    settings = environment(stores, processes, PORT=str(chosen))
    with _running([*wrap, *command], chosen, core, log, settings, source) as pid:
        yield Process(chosen, pid)


@contextlib.contextmanager
def floor(core: int, log: Path) -> Iterator[Process]:
    """The bare in-memory server."""
    port = services.free_port()
    command = [sys.executable, "-m", "benchmarks.floor", str(port)]
    with _running(command, port, core, log, dict(os.environ)) as pid:
        yield Process(port, pid)


@contextlib.contextmanager
def _running(
    command: list[str], port: int, core: int, log: Path, settings: dict[str, str], source: Path = ROOT
) -> Iterator[int]:
    with open(log, "ab") as out, pinned(core):
        process = subprocess.Popen(command, cwd=source, env=settings, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    try:
        _wait_for(port, process, log)
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise services.Trouble(f"the server did not start; the end of {log}:\n" + log.read_text()[-1000:])


@contextlib.contextmanager
def held_to(share: float, pids: list[int]) -> Iterator[bool]:
    """Holds each process to a share of a core, so that several have room on few cores. False where one may not."""
    made: list[Path] = []
    try:
        for pid in pids:
            made.append(_group(share, pid))
    except OSError:
        yield False
    else:
        yield True
    finally:
        for group in made:
            _leave(group)


def _group(share: float, pid: int) -> Path:
    """A control group with only this process, whichever version of them the machine has."""
    for top in CGROUPS:
        group = top / f"callplatform-bench-{pid}"
        try:
            group.mkdir()
            if (group / "cpu.cfs_quota_us").exists():
                (group / "cpu.cfs_period_us").write_text(str(PERIOD_US))
                (group / "cpu.cfs_quota_us").write_text(str(round(PERIOD_US * share)))
            else:
                (group / "cpu.max").write_text(f"{round(PERIOD_US * share)} {PERIOD_US}")
            (group / "cgroup.procs").write_text(str(pid))
        except OSError:
            _leave(group)
            continue
        return group
    raise OSError("no control groups")


def _leave(group: Path) -> None:
    with contextlib.suppress(OSError):
        for pid in (group / "cgroup.procs").read_text().split():
            with contextlib.suppress(OSError):
                (group.parent / "cgroup.procs").write_text(pid)
        group.rmdir()
