"""What a chaos run breaks: a PostgreSQL, a Redis and two server processes of its own, with a proxy in front of each
store for each server.

The suite itself reads the rows without a proxy. Imports nothing that needs Django's settings, so that these can name
the PostgreSQL that is started here.
"""

import asyncio
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from urllib.parse import urlsplit

from scripts import services
from tests.proxy import Proxy
from tests.servers import ROOT, Server
from tests.steady import SteadyPostgres, SteadyRedis

DISK_MB = 320  # of PostgreSQL's disk: what an empty cluster needs, with room for a long run
DEADLINES = {"PING_S": "5"}  # idle devices ping as often as all others, so that 10 s of quiet repair them too
SHORT = {  # for a run of a minute
    "PING_S": "2", "PING_CALL_S": "2", "PONG_S": "5",
    "DEVICE_SILENT_S": "6", "CALLER_SILENT_S": "12", "LEG_LOST_S": "12",
}  # fmt: skip


class Postgres(SteadyPostgres):
    """Writes little ahead, so that it fits on a small disk."""

    def make(self) -> None:
        super().make()
        with (self.data / "postgresql.conf").open("a") as file:
            file.write("min_wal_size = 32MB\nmax_wal_size = 64MB\nlog_lock_waits = off\n")


class Stage:
    """Started by `async with`. `servers[n]` reaches the stores by `to_postgres[n]` and `to_redis[n]`."""

    def __init__(self, source: Path = ROOT, *, short: bool = False) -> None:
        self.source, self.deadlines = source, SHORT if short else DEADLINES
        self.stack = ExitStack()
        self.servers: list[Server] = []
        self.to_postgres: list[Proxy] = []
        self.to_redis: list[Proxy] = []
        self.no_small_disk = ""  # why PostgreSQL's data is not on a small disk of its own
        self.disk = self.logs = Path()

    async def __aenter__(self) -> "Stage":
        try:
            await asyncio.to_thread(self._start_stores)
            for proxies, store in ((self.to_postgres, self.postgres), (self.to_redis, self.redis)):
                for _ in range(2):
                    proxies.append(Proxy(store.port))
                    await proxies[-1].open()
            await asyncio.to_thread(self._migrate)
            for number in range(2):
                self.servers.append(
                    Server(self._environment_of(number), self.logs / f"server-{number}.log", self.source)
                )
            await asyncio.gather(*(asyncio.to_thread(server.start) for server in self.servers))
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self.let_run()
        for server in self.servers:
            await asyncio.to_thread(server.kill)
        for proxy in (*self.to_postgres, *self.to_redis):
            await proxy.close()
        await asyncio.to_thread(self.stack.close)

    @property
    def url(self) -> str:
        """PostgreSQL's address, past the proxies."""
        return self.postgres.url

    @property
    def environment(self) -> dict[str, str]:
        """The settings of a site in production, on plain HTTP. Neither those of this checkout have a say nor those of
        whoever runs the suite."""
        own = set(re.findall(r"^#([A-Z][A-Z0-9_]*)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
        kept = {name: value for name, value in os.environ.items() if name not in own}
        return kept | {
            "DJANGO_SETTINGS_MODULE": "tests.chaos.settings",
            "ENV_FILE": os.devnull,
            "DEBUG": "off",
            "HTTPS": "off",
            "SECRET_KEY": self.secret_key,
            "ALLOWED_HOSTS": "127.0.0.1",
            "DATABASE_URL": self.postgres.url,
            "REDIS_URL": self.redis.url,
            "PROCESSES": "2",
            **self.deadlines,
        }

    def is_running(self, number: int) -> bool:
        process = self.servers[number].process
        return process is not None and process.poll() is None

    async def restart(self, number: int) -> None:
        """In order, and with the clock of this machine."""
        server = self.servers[number]
        await asyncio.to_thread(server.kill)
        server.environment = self._environment_of(number)
        await asyncio.to_thread(server.start)

    # --- what is done to processes ---

    def backends(self) -> list[int]:
        """PostgreSQL's processes, the first of them (its father) first."""
        process = self.postgres.process
        if process is None or process.poll() is not None:
            return []
        with suppress(OSError):
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            return [process.pid, *map(int, children)]
        return [process.pid]

    def freeze_postgres(self) -> None:
        """All of its processes stop where they are. The machine goes on to accept connections and data for them."""
        for pid in self.backends():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        for pid in self.backends():  # those that were made meanwhile
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)

    def let_run(self) -> None:
        """Ends `freeze_postgres`."""
        if hasattr(self, "postgres"):
            for pid in reversed(self.backends()):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def fill_disk(self) -> Path:
        """Leaves no byte on PostgreSQL's disk. Returns the file to delete."""
        ballast = self.disk / "ballast"
        with suppress(OSError), ballast.open("wb", buffering=0) as file:
            while file.write(b"\0" * 1024 * 64):
                pass
        with suppress(OSError), ballast.open("ab", buffering=0) as file:
            while file.write(b"\0"):
                pass
        return ballast

    # --- start ---

    def _start_stores(self) -> None:
        account = services.Account(None)
        home = self.stack.enter_context(tempfile.TemporaryDirectory(prefix="chaos-", dir=account.temporary()))
        Path(home).chmod(0o755)
        self.disk, self.logs = Path(home) / "disk", Path(home) / "logs"
        for path in (self.disk, self.logs):
            path.mkdir()
        self._mount()
        account.own(self.disk)
        self.secret_key = secrets.token_urlsafe(50)
        self.redis = SteadyRedis(account, self.disk, False)
        self.postgres = Postgres(account, self.disk, False, None)
        for store in (self.redis, self.postgres):
            self.stack.callback(store.stop)
            store.start()

    def _mount(self) -> None:
        """A small disk in memory for PostgreSQL, which can be filled."""
        if os.geteuid() != 0 or sys.platform != "linux":
            self.no_small_disk = "only root can give PostgreSQL a small disk of its own"
            return
        options = ["-t", "tmpfs", "-o", f"size={DISK_MB}m", "chaos", str(self.disk)]
        mounted = subprocess.run(["mount", *options], capture_output=True, text=True)
        if mounted.returncode:
            self.no_small_disk = f"a small disk could not be made: {mounted.stderr.strip()}"
        else:
            self.stack.callback(subprocess.run, ["umount", "--lazy", str(self.disk)], check=False)

    def _migrate(self) -> None:
        subprocess.run(
            [sys.executable, "manage.py", "migrate", "--noinput", "--verbosity", "0"],
            cwd=self.source,
            env=self.environment,
            check=True,
        )

    def _environment_of(self, number: int) -> dict[str, str]:
        return self.environment | {
            "DATABASE_URL": through(self.postgres.url, self.to_postgres[number]),
            "REDIS_URL": through(self.redis.url, self.to_redis[number]),
        }


def through(url: str, proxy: Proxy) -> str:
    """The address by way of the proxy."""
    parts = urlsplit(url)
    return parts._replace(netloc=f"{parts.netloc.rpartition(':')[0]}:{proxy.port}").geturl()


def skewed(seconds: int) -> dict[str, str] | None:
    """What makes a process believe that it is so much later, or None where `faketime` is missing."""
    if shutil.which("faketime") is None:
        return None
    asked = subprocess.run(["faketime", "-m", "-f", f"{seconds:+d}s", "env"], capture_output=True, text=True)
    found = dict(re.findall(r"^(LD_PRELOAD|FAKETIME)=(.*)$", asked.stdout, re.MULTILINE))
    return found | {"FAKETIME_DONT_FAKE_MONOTONIC": "1"} if "LD_PRELOAD" in found else None


def stretch() -> float:
    """By how much deadlines are longer on a machine that has more to do than it has processors, at most 4 times."""
    return min(4.0, max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1)))


def now() -> float:
    """Seconds on the suite's own clock, which nothing sets."""
    return time.monotonic()
