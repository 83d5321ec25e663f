"""`make run`, as a person or a supervisor starts and stops it."""

import os
import secrets
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from scripts.services import free_port

ROOT = Path(__file__).resolve().parent.parent
PATIENCE_S = 90
pytestmark = pytest.mark.timeout(240)


def serves(port: int) -> bool:
    with suppress(URLError, ConnectionError), urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5) as answer:
        return bool(answer.status == 200)
    return False


def test_commands_after_make_run_find_its_settings(checkout: Path) -> None:
    own = ("DATABASE_URL", "REDIS_URL", "ENV_FILE", "SECRET_KEY", "DEBUG", "MAKEFLAGS", "ALLOWED_HOSTS")
    environment = {name: value for name, value in os.environ.items() if name not in own}
    environment |= {"PORT": str(free_port()), "DJANGO_SETTINGS_MODULE": "callplatform.settings"}
    command = ["make", "--old-file", ".venv/installed", "run", f"PY={sys.executable}"]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, cwd=checkout, env=environment, stdout=quiet, start_new_session=True) as made:
        try:
            until = time.monotonic() + PATIENCE_S
            while not serves(int(environment["PORT"])):
                assert made.poll() is None, "make run has ended"
                assert time.monotonic() < until, "it does not serve"
                time.sleep(0.1)
            line = [sys.executable, "manage.py", "line", "bob"]
            shown = subprocess.run(line, cwd=checkout, env=environment, capture_output=True, text=True, check=False)
            assert shown.returncode == 0, shown.stderr
            assert "bob" in shown.stdout
        finally:
            with suppress(ProcessLookupError):
                os.killpg(made.pid, signal.SIGKILL)


def test_a_production_start_without_static_files_says_what_to_run(checkout: Path) -> None:
    environment = os.environ | {
        "DEBUG": "off",
        "SECRET_KEY": secrets.token_urlsafe(48),
        "ALLOWED_HOSTS": "calls.example.com",
        "DATABASE_URL": f"sqlite:///{checkout}/calls.sqlite3",
        "REDIS_URL": "",
        "PORT": "0",
        "ENV_FILE": os.devnull,
        "DJANGO_SETTINGS_MODULE": "callplatform.settings",
    }

    def manage(*command: str) -> subprocess.CompletedProcess[str]:
        arguments = [sys.executable, "manage.py", *command]
        return subprocess.run(
            arguments, cwd=checkout, env=environment, capture_output=True, text=True, check=False, timeout=PATIENCE_S
        )

    assert manage("migrate", "--noinput").returncode == 0
    started = manage("serve")
    assert started.returncode == 1
    assert "Run: manage.py collectstatic" in started.stderr
    assert "Traceback" not in started.stderr


def test_whoever_ends_make_run_ends_the_server(tmp_path: Path) -> None:
    port = free_port()
    environment = os.environ | {
        "DATABASE_URL": f"sqlite:///{tmp_path}/calls.sqlite3",
        "DJANGO_SETTINGS_MODULE": "tests.browser.served_settings",  # or its sign-ins replace ours
        "SITE_VAR": str(tmp_path),
        "REDIS_URL": "",
        "ENV_FILE": os.devnull,
        "PORT": str(port),
    }
    environment.pop("MAKEFLAGS", None)  # of a make around this one
    # The packages that run this test do: nothing is installed.
    command = ["make", "--old-file", ".venv/installed", "run", f"PY={sys.executable}"]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=quiet, start_new_session=True) as made:
        try:
            until = time.monotonic() + PATIENCE_S
            while not serves(port):
                assert made.poll() is None, "make run has ended"
                assert time.monotonic() < until, "it does not serve"
                time.sleep(0.1)
            assert "alice" in (tmp_path / "demo-sign-ins.txt").read_text()
            made.terminate()
            made.wait(PATIENCE_S)
            while serves(port):
                assert time.monotonic() < until + PATIENCE_S, "it goes on serving"
                time.sleep(0.1)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(made.pid, signal.SIGKILL)
