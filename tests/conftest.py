"""What every test may count on: real services, an environment of its own, and the people.

PostgreSQL and Redis are started here unless DATABASE_URL and REDIS_URL name others (`make test` does so), and before
Django reads its settings: therefore pyproject.toml names no settings module, and this file does.
"""

import inspect
import logging
import os
import re
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from scripts import services

ROOT = Path(__file__).resolve().parent.parent

# The settings of whoever runs the tests must not decide them.
for name in re.findall(r"^#?\s?([A-Z][A-Z0-9_]*)=", (ROOT / ".env.example").read_text(), re.MULTILINE):
    if name not in ("DATABASE_URL", "REDIS_URL"):
        os.environ.pop(name, None)
os.environ |= {
    "DJANGO_SETTINGS_MODULE": "callplatform.settings",
    "ENV_FILE": os.devnull,
    "DEBUG": "on",
    "SECRET_KEY": "a key for tests, known to everybody",
    "ALLOWED_HOSTS": "localhost,127.0.0.1,testserver",
}

if "PYTEST_XDIST_WORKER" in os.environ:  # one of several: what is published here is not for another
    os.environ.pop("REDIS_URL", None)
started = ExitStack()
try:
    os.environ |= started.enter_context(services.running())
except services.Trouble as trouble:
    pytest.exit(f"{trouble}\nOr run all tests with: make test", returncode=3)

from django.conf import settings  # noqa: E402
from django.test import TransactionTestCase  # noqa: E402

from tests.servers import launch, launch_once, live, servers  # noqa: E402, F401 - fixtures

if settings.DATABASES["default"]["ENGINE"].endswith(
    "sqlite3"
):  # a file, as in real life: threads share it by its locks
    settings.DATABASES["default"]["TEST"] = {"NAME": f"{settings.DATABASES['default']['NAME']}.test"}
settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]  # the slow one costs 0.3 s a person


def _empty(self: Any) -> None:
    """All rows go but what `migrate` makes: content types and permissions, which Django's own way makes anew after each
    test, in longer than most tests take."""
    from django.db import connections, transaction

    for name in self._databases_names(include_mirrors=False):
        with transaction.atomic(using=name), connections[name].cursor() as cursor:
            for table in connections[name].introspection.django_table_names():
                if table not in ("django_content_type", "auth_permission"):
                    cursor.execute(f'DELETE FROM "{table}"')


TransactionTestCase._fixture_teardown = _empty


def pytest_xdist_setupnodes() -> None:
    """Each worker reads its settings when its own services run."""
    del os.environ["DJANGO_SETTINGS_MODULE"]


def pytest_unconfigure() -> None:
    started.close()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """An async test's database work happens on other threads: a transaction around the test would not hold it."""
    for item in items:
        marker = item.get_closest_marker("django_db")
        if marker and inspect.iscoroutinefunction(getattr(item, "obj", None)) and not marker.kwargs.get("transaction"):
            raise pytest.UsageError(f"{item.nodeid}: an async test needs @pytest.mark.django_db(transaction=True)")
    # The servers' clocks act on every row there is, so what moves the time of rows by itself comes before they start.
    items.sort(key=lambda item: "servers" in getattr(item, "fixturenames", ()))


# People, as in every example: alice calls, bob has several devices, carol is the other one, operator sees and limits.


@pytest.fixture
def people(transactional_db: None) -> dict[str, Any]:
    """alice, bob, carol, dave and an operator; bob with multi-device on."""
    from django.contrib.auth import get_user_model

    from devices.models import Line

    users = get_user_model()._default_manager
    found = {name: users.create_user(name, password="secret") for name in ("alice", "bob", "carol", "dave")}
    found["operator"] = users.create_superuser("operator", password="secret")
    Line.objects.create(user=found["bob"], multi_device=True)
    return found


@pytest.fixture
def cookie(people: dict[str, Any]) -> Callable[..., str]:
    """A session cookie of somebody who has just signed in."""
    from django.test import Client

    def sign_in(name: str) -> str:
        client = Client()
        client.force_login(people[name])
        return f"{settings.SESSION_COOKIE_NAME}={client.cookies[settings.SESSION_COOKIE_NAME].value}"

    return sign_in


@pytest.fixture
async def page(cookie: Callable[..., str]) -> AsyncIterator[Callable[..., Any]]:
    """Opens a page in this process: `await page("bob", "Phone")` has said hello, unless `hello=False`."""
    from asgiref.sync import sync_to_async

    from calls.consumers import SignalingConsumer
    from calls.hub import hub
    from tests.pages import Local

    application = SignalingConsumer.as_asgi()
    opened: list[Local] = []

    async def open_page(
        user: str, name: str = "Laptop", hello: bool = True, signed_in: str = "", **kwargs: Any
    ) -> Local:
        signed_in = signed_in or await sync_to_async(cookie)(user)
        local = Local(application, [(b"cookie", signed_in.encode())], user, name=name, **kwargs)
        opened.append(await local.open())
        local.signed_in = signed_in
        if hello:
            assert (await local.hello())["t"] == "welcome"
        return local

    yield open_page
    for local in opened:
        await local.close()
    await hub.stop()


@pytest.fixture
async def ringing(page: Callable[..., Any]) -> tuple[Any, ...]:
    """alice calls bob, whose phone and laptop ring."""
    alice, phone, laptop = await page("alice"), await page("bob", "Phone"), await page("bob", "Laptop")
    call = (await alice.invite("bob", "video"))["call"]["id"]
    await phone.sees(call, state="ringing")
    await laptop.sees(call, state="ringing")
    return alice, phone, laptop, call


@pytest.fixture
async def talking(ringing: tuple[Any, ...]) -> tuple[Any, ...]:
    """… and answers on the phone."""
    alice, phone, laptop, call = ringing
    assert (await phone.ask("answer", call=call))["ok"]
    await alice.sees(call, state="active")
    await laptop.sees(call, state="active")
    return ringing


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of this checkout in which nothing has been run yet. The packages of the running test serve it."""
    copy = tmp_path / "checkout"
    made = shutil.ignore_patterns(".git", ".venv", ".env", "var", "__pycache__", ".*_cache", ".hypothesis", "screens")
    shutil.copytree(ROOT, copy, ignore=made)
    (copy / ".venv").mkdir()
    (copy / ".venv" / "installed").touch()
    return copy


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup: None, django_db_blocker: Any) -> Iterator[None]:
    """The test database can only be dropped when the pool's threads have let go of it."""
    from asgiref.sync import SyncToAsync
    from django.db import connection, connections

    from calls import pool
    from calls.desk import desk

    yield
    desk.close()
    pool.close()
    with django_db_blocker.unblock():
        SyncToAsync.single_thread_executor.submit(connections.close_all).result()
        connection.close()
    if connection.vendor == "postgresql":
        connection.close_pool()


@pytest.fixture
def set_calls(settings: Any) -> Callable[..., None]:
    """Sets deadlines and limits of the platform, for this test."""

    def change(**values: Any) -> None:
        settings.CALLS = {**settings.CALLS, **values}

    return change


@pytest.fixture
def invariants(people: dict[str, Any], settings: Any, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Looked at after the test, under the deadlines that it set."""
    from tests.race_kit import check_invariants

    yield
    check_invariants()
    assert not [record for record in caplog.get_records("call") if record.levelno >= logging.ERROR]
