"""Dangerous combinations are refused before anything is served."""

import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from django.conf import settings as current
from django.core import checks

ROOT = Path(__file__).resolve().parent.parent
IN_MEMORY = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
REDIS = {"default": {"BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer"}}
POSTGRES = {"default": {"ENGINE": "django.db.backends.postgresql", "OPTIONS": {}}}
SQLITE = {"default": {"ENGINE": "django.db.backends.sqlite3", "OPTIONS": {"transaction_mode": "IMMEDIATE"}}}
DEFERRED = {"default": {"ENGINE": "django.db.backends.sqlite3", "OPTIONS": {}}}
SAFE = {
    "DEBUG": False,
    "SECRET_KEY": "u8Hq2-vT0pXzKd5aWmEoRyNcGbLfJs7i_U3x9Y1tQkZeArVhDwPlCn6g",
    "ALLOWED_HOSTS": ["calls.example.com"],
    "PROCESSES": 1,
    "CHANNEL_LAYERS": REDIS,
    "DATABASES": POSTGRES,
}


def sample(name: str) -> str:
    """What the README, or else .env.example, shows as this setting's value."""
    for file in ("README.md", ".env.example"):
        if found := re.search(rf"^[# ]*{name}=(\S+)$", (ROOT / file).read_text(), re.MULTILINE):
            return found[1]
    raise AssertionError(f"no document shows {name}")


def calls(**changes: Any) -> dict[str, Any]:
    defaults = {"PING_CALL_S": 5, "PONG_S": 10, "DEVICE_SILENT_S": 10, "CALLER_SILENT_S": 20, "LEG_LOST_S": 45}
    return {"CALLS": current.CALLS | defaults | changes}


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The ids of our own complaints about a safe site with these changes."""

    def found(**changes: Any) -> list[str]:
        site = SimpleNamespace(**(SAFE | calls() | changes))
        monkeypatch.setattr("callplatform.checks.settings", site)  # overriding DATABASES would reach open connections
        ours = [check for check in checks.registry.registry.get_checks() if check.__module__ == "callplatform.checks"]
        assert ours
        return sorted(
            str(message.id).removeprefix("callplatform.") for check in ours for message in check(app_configs=None)
        )

    return found


def test_a_safe_site_has_no_complaint(found: Any) -> None:
    assert found() == []
    assert found(PROCESSES=4) == []


def test_debug_on_one_process_with_everything_embedded_has_no_complaint(found: Any) -> None:
    embedded = {"DATABASES": SQLITE, "CHANNEL_LAYERS": IN_MEMORY, "ALLOWED_HOSTS": ["*"]}
    assert found(DEBUG=True, SECRET_KEY="generated-insecure-x", **embedded) == []


@pytest.mark.parametrize(
    ("changes", "ids"),
    [
        ({"CHANNEL_LAYERS": IN_MEMORY, "PROCESSES": 2}, ["E001"]),
        ({"CHANNEL_LAYERS": IN_MEMORY, "PROCESSES": 2, "DEBUG": True}, ["E001"]),
        ({"CHANNEL_LAYERS": IN_MEMORY}, ["W001"]),
        ({"DATABASES": SQLITE, "PROCESSES": 2}, ["E002"]),
        ({"DATABASES": DEFERRED}, ["E003"]),
        ({"SECRET_KEY": "generated-insecure-abc"}, ["E004"]),
        ({"SECRET_KEY": "django-insecure-abc"}, ["E004"]),
        ({"SECRET_KEY": "x"}, ["E008"]),
        ({"SECRET_KEY": "u8Hq2-vT0pXzKd5aWmEoRyNcGbLfJs7i_U3x9Y1tQkZeArVhD"}, ["E008"]),
        ({"SECRET_KEY": "secret!" * 20}, ["E008"]),
        ({"SECRET_KEY": sample("SECRET_KEY")}, ["E008"]),
        ({"SECRET_KEY": sample("SECRET_KEY") * 3}, ["E008"]),
        (calls(TURN_SECRET=sample("TURN_SECRET")), ["E009"]),
        ({"DATABASES": {"default": POSTGRES["default"] | {"ATOMIC_REQUESTS": True}}}, ["E005"]),
        ({"ALLOWED_HOSTS": ["calls.example.com", "*"]}, ["E006"]),
        ({"ALLOWED_HOSTS": []}, ["W002"]),
        (calls(PING_CALL_S=10), ["E007"]),
        (calls(PING_CALL_S=20, DEVICE_SILENT_S=21), ["E007"]),
        (calls(DEVICE_SILENT_S=46), ["E007"]),
        (calls(LEG_LOST_S=15), ["W003"]),
    ],
)
def test_a_dangerous_combination_is_found(found: Any, changes: dict[str, Any], ids: list[str]) -> None:
    assert found(**changes) == ids


@pytest.mark.parametrize(
    ("environment", "word"),
    [
        ({"PROCESSES": "2", "DATABASE_URL": "sqlite:////tmp/never-made.sqlite3"}, "callplatform.E002"),
        ({"DATABASE_URL": "postgres://localhost/never-opened?ATOMIC_REQUESTS=True"}, "callplatform.E005"),
        ({"DEBUG": "off", "SECRET_KEY": "x"}, "callplatform.E008"),
        ({"DATABASE_URL": "sqlite:////tmp/never-made.sqlite3?transaction_mode=DEFERRED"}, "callplatform.E003"),
    ],
)
def test_a_command_is_stopped_by_it(environment: dict[str, str], word: str) -> None:
    done = subprocess.run(
        [sys.executable, "manage.py", "check"],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert word in done.stderr
    assert "Traceback" not in done.stderr
