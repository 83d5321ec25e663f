"""The README's recipe: a Django project of somebody else's, to which the two apps are added word for word."""

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

from scripts.services import free_port
from tests.pages import Live
from tests.test_docs import section

ROOT = Path(__file__).resolve().parent.parent
RECIPE = section((ROOT / "README.md").read_text(), "In your own Django site")
START_S = 60
PEOPLE = """
from django.conf import settings
from django.contrib.auth import get_user_model
from django.test import Client
settings.ALLOWED_HOSTS.append("testserver")
for name in ("alice", "bob", "operator"):
    user = get_user_model().objects.create_user(name, password="secret", is_staff=True, is_superuser=name == "operator")
    client = Client()
    client.force_login(user)
    print(f"{settings.SESSION_COOKIE_NAME}={client.cookies[settings.SESSION_COOKIE_NAME].value}")
"""
pytestmark = [pytest.mark.timeout(240), pytest.mark.xdist_group("own_site")]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", RECIPE, re.DOTALL)


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
    """Nothing of ours but where the repository is."""
    kept = {name: os.environ[name] for name in ("HOME", "LANG", "TMPDIR") if name in os.environ}
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    return kept | {"PATH": path, "CALLPLATFORM": str(ROOT)}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> Path:
    """A new project with the apps, as the README says. The packages are here already."""
    place = tmp_path_factory.mktemp("own")
    run(place, environment, "-m", "django", "startproject", "mysite", ".")
    (copy,) = blocks("sh")
    packages = re.findall(r"^python -m pip install .*\n", copy, re.MULTILINE)
    assert len(packages) == 1
    subprocess.run(["sh", "-eu", "-c", copy.replace(packages[0], "")], cwd=place, env=environment, check=True)
    for name, code in zip(("settings", "urls"), blocks("python"), strict=True):
        with (place / "mysite" / f"{name}.py").open("a") as file:
            file.write(code)
    run(place, environment, "manage.py", "migrate", "--noinput")
    return place


def run(place: Path, environment: dict[str, str], *command: str) -> str:
    ran = subprocess.run([sys.executable, *command], cwd=place, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@pytest.fixture(scope="module")
def cookies(site: Path, environment: dict[str, str]) -> list[str]:
    """Of alice, bob and an operator, all signed in."""
    return run(site, environment, "manage.py", "shell", "--verbosity", "0", "--command", PEOPLE).split()


@pytest.fixture(scope="module")
def url(site: Path, environment: dict[str, str], cookies: list[str]) -> Iterator[str]:
    port = free_port()
    log = site / "serve.log"
    command = [sys.executable, "manage.py", "runserver", "--noreload", str(port)]
    with (
        log.open("wb") as file,
        subprocess.Popen(command, cwd=site, env=environment, stdout=file, stderr=file) as server,
    ):
        end = time.monotonic() + START_S
        while time.monotonic() < end and server.poll() is None:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.05)
        yield f"127.0.0.1:{port}"
        server.terminate()
    assert "Traceback" not in (said := log.read_text()), said


def test_django_finds_nothing_to_complain_of(site, environment):
    assert "no issues" in run(site, environment, "manage.py", "check", "--fail-level", "WARNING")
    assert "No changes detected" in run(site, environment, "manage.py", "makemigrations", "--check", "--dry-run")


@pytest.mark.parametrize(
    "path",
    [
        "calls/", "calls/people/", "calls/history/", "calls/devices/", "calls/line/",
        "calls/manifest.webmanifest", "calls/worker.js", "calls/offline/", "words.js?en", "static/calls/main.js",
        "admin/", "admin/wallboard/", "admin/devices/line/", "admin/devices/device/", "admin/calls/call/",
        "admin/auditlog/logentry/", "admin/auth/user/",
    ],
)  # fmt: skip
def test_every_page_is_served(url, cookies, path):
    with urlopen(Request(f"http://{url}/{path}", headers={"Cookie": cookies[2]})) as page:
        assert page.url == f"http://{url}/{path}" and page.read()


def test_whoever_is_not_signed_in_is_asked_to(url):
    with urlopen(f"http://{url}/calls/") as page:
        assert page.url == f"http://{url}/accounts/login/?next=/calls/"
        assert "Sign in" in page.read().decode()


async def test_people_call_each_other(url, cookies):
    alice, bob = [
        await Live(f"ws://{url}", cookie, name).open() for cookie, name in zip(cookies, ("alice", "bob"), strict=False)
    ]
    try:
        for page in (alice, bob):
            assert (await page.hello())["t"] == "welcome"
        call = (await alice.invite("bob"))["call"]["id"]
        await bob.sees(call, state="ringing")
        await bob.ask("answer", call=call)
        await alice.sees(call, state="active")
        await alice.ask("hangup", call=call)
        await bob.sees(call, state="ended", reason="completed")
    finally:
        await alice.close()
        await bob.close()
