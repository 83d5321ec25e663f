"""The environment decides, strictly: a wrong value is one sentence that names the variable."""

import asyncio
import os
import re
import runpy
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import redis
from channels_redis.pubsub import RedisPubSubChannelLayer
from django.core.exceptions import ImproperlyConfigured

from callplatform.environment import Environment

ROOT = Path(__file__).resolve().parent.parent
KEY = "k" * 50


def documented() -> set[str]:
    return set(re.findall(r"^#([A-Z][A-Z0-9_]*)=", (ROOT / ".env.example").read_text(), re.MULTILINE))


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Settings as a fresh process would read them from this environment alone."""
    for name in documented():
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ENV_FILE", os.devnull)

    def load(**environment: str) -> dict[str, Any]:
        with monkeypatch.context() as context:
            for name, value in environment.items():
                context.setenv(name, value)
            return runpy.run_path(str(ROOT / "callplatform" / "settings.py"))

    return load


def test_every_variable_is_explained_in_the_example_and_every_explained_one_is_read(load: Any) -> None:
    read = load(SECRET_KEY=KEY)["env"].names
    # These two are not settings: one names the file of settings, the other is read by `manage.py demo`.
    assert read | {"ENV_FILE", "DEMO_PASSWORD"} == documented()


def test_the_defaults_of_the_example_are_those_of_the_settings(load: Any) -> None:
    example = (ROOT / ".env.example").read_text()
    calls = load(SECRET_KEY=KEY)["CALLS"]
    for name, value in calls.items():
        if isinstance(value, int | float):
            said = ("off", "on")[value] if isinstance(value, bool) else f"{value:g}"
            assert re.search(rf"^#{name}={said}$", example, re.MULTILINE), name


def test_outside_debug_everything_is_closed_by_default(load: Any) -> None:
    settings = load(SECRET_KEY=KEY)
    assert settings["DEBUG"] is False
    assert settings["ALLOWED_HOSTS"] == []
    for name in ("HTTPS", "SECURE_SSL_REDIRECT", "SESSION_COOKIE_SECURE", "CSRF_COOKIE_SECURE"):
        assert settings[name] is True, name
    assert settings["SECURE_HSTS_SECONDS"] > 0
    assert settings["SECURE_PROXY_SSL_HEADER"] == ("HTTP_X_FORWARDED_PROTO", "https")


def test_https_off_means_plain_http_and_no_trust_in_a_proxys_header(load: Any) -> None:
    settings = load(SECRET_KEY=KEY, HTTPS="off")
    for name in ("SECURE_SSL_REDIRECT", "SESSION_COOKIE_SECURE", "CSRF_COOKIE_SECURE"):
        assert settings[name] is False, name
    assert settings["SECURE_HSTS_SECONDS"] == 0
    assert settings["SECURE_PROXY_SSL_HEADER"] is None


def test_debug_means_plain_http_unless_https_is_asked_for(load: Any) -> None:
    assert load(SECRET_KEY=KEY, DEBUG="on")["HTTPS"] is False
    assert load(SECRET_KEY=KEY, DEBUG="on", HTTPS="on")["HTTPS"] is True


def test_without_addresses_it_is_sqlite_in_var_and_the_in_memory_layer(load: Any) -> None:
    settings = load(SECRET_KEY=KEY)
    database = settings["DATABASES"]["default"]
    assert database["NAME"] == ROOT / "var" / "db.sqlite3"
    assert database["OPTIONS"]["transaction_mode"] == "IMMEDIATE"
    assert settings["CHANNEL_LAYERS"]["default"]["BACKEND"].endswith("InMemoryChannelLayer")


def test_postgresql_has_a_pool_with_room_for_the_socket_threads_and_impatient_locks(load: Any) -> None:
    settings = load(
        SECRET_KEY=KEY, DATABASE_URL="postgres://me:p%40ss@db.example:5433/calls?sslmode=require", DB_THREADS="3"
    )
    database = settings["DATABASES"]["default"]
    assert [database[part] for part in ("USER", "PASSWORD", "HOST", "PORT", "NAME")] == [
        "me", "p@ss", "db.example", 5433, "calls",
    ]  # fmt: skip
    assert database["CONN_MAX_AGE"] == 0
    local = load(SECRET_KEY=KEY, DATABASE_URL="postgres://me@%2Fvar%2FRun%2Fpostgresql/calls")["DATABASES"]["default"]
    assert (local["HOST"], local["NAME"]) == ("/var/Run/postgresql", "calls"), "the directory of a Unix socket"
    odd = load(SECRET_KEY=KEY, DATABASE_URL="postgres://%2Fme:secret@db/calls")["DATABASES"]["default"]
    assert (odd["HOST"], odd["USER"]) == ("db", "/me")
    pool = database["OPTIONS"]["pool"]
    assert (pool["min_size"], pool["max_size"], pool["timeout"], pool["reconnect_timeout"]) == (1, 15, 4, 5)
    assert database["OPTIONS"]["sslmode"] == "require"
    assert "lock_timeout=5s" in database["OPTIONS"]["options"]
    assert "synchronous_commit=on" in database["OPTIONS"]["options"]
    database = load(SECRET_KEY=KEY, DATABASE_URL="postgres://me@db/calls", SYNCHRONOUS_COMMIT="off")["DATABASES"]
    assert "synchronous_commit=off" in database["default"]["OPTIONS"]["options"]


def test_redis_means_the_publish_and_subscribe_layer(load: Any) -> None:
    layer = load(SECRET_KEY=KEY, REDIS_URL="redis://:pw@r.example:6390/2")["CHANNEL_LAYERS"]["default"]
    assert layer["BACKEND"] == "channels_redis.pubsub.RedisPubSubChannelLayer"
    assert layer["CONFIG"]["hosts"][0]["address"] == "redis://:pw@r.example:6390/2"


def test_a_redis_behind_a_unix_socket_can_be_reached(load: Any, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "redis.sock"))
        layer = load(SECRET_KEY=KEY, REDIS_URL=f"unix://{tmp_path}/redis.sock")["CHANNEL_LAYERS"]["default"]
        with pytest.raises(redis.exceptions.ConnectionError, match="refused"):  # a socket to which nobody listens
            asyncio.run(RedisPubSubChannelLayer(**layer["CONFIG"]).group_send("group", {}))


def test_a_relative_sqlite_file_lies_in_the_repository_wherever_the_command_is_typed(
    load: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    database = load(SECRET_KEY=KEY, DATABASE_URL="sqlite:///var/other.sqlite3")["DATABASES"]["default"]
    assert database["NAME"] == ROOT / "var" / "other.sqlite3"
    assert load(SECRET_KEY=KEY, DATABASE_URL="sqlite:////a/b.db")["DATABASES"]["default"]["NAME"] == Path("/a/b.db")


def test_numbers_and_lists_are_read(load: Any) -> None:
    settings = load(
        SECRET_KEY=KEY,
        RING_S="1.5",
        MAX_INCOMING="0",
        PORT="0",
        ALLOWED_HOSTS="calls.example.com, .example.org,[::1]",
        CSRF_TRUSTED_ORIGINS="https://*.example.com,http://intranet:8080",
        TURN_URLS="turn:turn.example.com:3478?transport=udp,turns:[fd00::2]",
        TURN_SECRET="s",
    )
    assert settings["CALLS"]["RING_S"] == 1.5
    assert settings["CALLS"]["MAX_INCOMING"] == 0
    assert settings["PORT"] == 0
    assert settings["ALLOWED_HOSTS"] == ["calls.example.com", ".example.org", "[::1]"]
    assert settings["CSRF_TRUSTED_ORIGINS"] == ["https://*.example.com", "http://intranet:8080"]
    assert settings["CALLS"]["TURN_URLS"] == ["turn:turn.example.com:3478?transport=udp", "turns:[fd00::2]"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DEBUG", "maybe"),
        ("HTTPS", "2"),
        ("PORT", "70000"),
        ("PORT", "-1"),
        ("PORT", "80a"),
        ("PROCESSES", "0"),
        ("PROCESSES", "1.5"),
        ("DB_THREADS", "0"),
        ("PAGE_THREADS", "0"),
        ("API_THREADS", "0"),
        ("MAX_INCOMING", "-1"),
        ("MAX_OUTGOING", "many"),
        ("RING_S", "-3"),
        ("RING_S", "0"),
        ("PING_S", "nan"),
        ("LEG_LOST_S", "inf"),
        ("HELLO_S", "ten"),
        ("FRAME_RATE", "0"),
        ("TURN_TTL_S", "5"),
        ("SIGN_IN_LOCK_S", "1e15"),
        ("KEEP_DAYS", "999999999"),
        ("ALLOWED_HOSTS", "https://calls.example.com"),
        ("ALLOWED_HOSTS", "calls.example.com:8000"),
        ("CSRF_TRUSTED_ORIGINS", "calls.example.com"),
        ("CSRF_TRUSTED_ORIGINS", "https://calls.example.com/path"),
        ("DATABASE_URL", "nonsense"),
        ("DATABASE_URL", "mysql://me:hidden@host/calls"),
        ("DATABASE_URL", "postgres://me:hidden@host:port/calls"),
        ("DATABASE_URL", "postgres://me:hidden@host:5432"),
        ("DATABASE_URL", "postgres://me:hid[den@host:5432/calls"),
        ("DATABASE_URL", "sqlite://:memory:"),
        ("DATABASE_URL", "sqlite://relative/file"),
        ("REDIS_URL", "localhost:6379"),
        ("REDIS_URL", "http://localhost"),
        ("REDIS_URL", "redis://:hidden@host:port"),
        ("STUN_URLS", "http://stun.example.com"),
        ("TURN_URLS", "stun:stun.example.com"),
    ],
)
def test_a_wrong_value_is_one_sentence_that_names_the_variable(load: Any, name: str, value: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=rf"^{name} [^\n]*\.$") as caught:
        load(**{"SECRET_KEY": KEY, name: value})
    assert "hidden" not in str(caught.value)


def test_a_turn_server_needs_its_secret(load: Any) -> None:
    with pytest.raises(ImproperlyConfigured, match="TURN_SECRET is not set"):
        load(SECRET_KEY=KEY, TURN_URLS="turn:turn.example.com")


def test_an_empty_value_means_the_default(load: Any) -> None:
    assert load(SECRET_KEY=KEY, RING_S="", DEBUG="", DATABASE_URL="")["CALLS"]["RING_S"] == 45


def test_outside_debug_a_key_is_needed_and_the_message_says_how_to_make_one(load: Any) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"SECRET_KEY is not set.*secrets\.token_urlsafe"):
        load()


def test_in_debug_a_key_is_made_once_and_kept_for_the_owners_eyes(load: Any) -> None:
    first = load(DEBUG="on")["SECRET_KEY"]
    assert first == load(DEBUG="on")["SECRET_KEY"]
    assert len(first) > 50
    assert (ROOT / "var" / "secret_key").stat().st_mode & 0o777 == 0o600


def test_a_file_is_read_and_the_environment_wins_over_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "env"
    file.write_text('# a comment\nRING_S=7\nexport MAX_INCOMING="3"\nMAX_OUTGOING=4\n')
    for name in ("RING_S", "MAX_INCOMING", "MAX_OUTGOING"):
        monkeypatch.setenv(name, "9")  # so that what the file sets is taken back after the test
    monkeypatch.delenv("RING_S")
    monkeypatch.delenv("MAX_INCOMING")
    environment = Environment(file)
    assert environment.seconds("RING_S", 45) == 7
    assert environment.whole("MAX_INCOMING", 1) == 3
    assert environment.whole("MAX_OUTGOING", 1) == 9


def test_a_command_with_a_wrong_environment_prints_the_sentence_and_no_traceback() -> None:
    environment = os.environ | {"PORT": "eighty"}
    done = subprocess.run(
        [sys.executable, "manage.py", "check"], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert done.stderr == "PORT is 'eighty': it must be a whole number from 0 to 65535.\n"
