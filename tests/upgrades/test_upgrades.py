"""What earlier versions have stored goes on under today's: calls, limits, sign-ins, history, the operator's pages."""

import json
import subprocess
import sys
import uuid
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from tests.pages import Live
from tests.servers import ROOT, get, on_daphne
from tests.upgrades.stored import SECRET_KEY

pytestmark = [on_daphne, pytest.mark.django_db(transaction=True)]

KEPT = sorted(Path(__file__).parent.glob("*.json"))
LIMITS = {
    "alice": {"max_outgoing": 2},
    "carol": {"max_incoming": 2},
    "dave": {"max_incoming": 3},
}  # as `keep` sets them


@pytest.fixture
def database(servers, tmp_path):
    """The URL of an empty database of an engine: `database("sqlite")`."""
    made = []
    ours = urlsplit(servers[0].environment["DATABASE_URL"])

    def make(engine):
        if engine == "sqlite":
            return f"sqlite:///{tmp_path}/upgraded.sqlite3"
        made.append(f"upgraded_{uuid.uuid4().hex}")
        with psycopg.connect(ours.geturl(), autocommit=True) as db:
            db.execute(f'CREATE DATABASE "{made[-1]}"')
        return ours._replace(path=f"/{made[-1]}").geturl()

    yield make
    for name in made:
        with psycopg.connect(ours.geturl(), autocommit=True) as db:
            db.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture(params=KEPT, ids=lambda file: file.stem)
def upgraded(request, database, servers, launch):
    """Today's server on what a version has stored, and the file with that."""
    engine = request.param.stem.rpartition(".")[2]
    with_it = {
        "DATABASE_URL": database(engine),
        "SECRET_KEY": SECRET_KEY,
        "DJANGO_SETTINGS_MODULE": "callplatform.settings",
    }
    if engine == "sqlite":
        with_it |= {"REDIS_URL": "", "PROCESSES": "1"}

    def run(*command):
        environment = servers[0].environment | with_it
        done = subprocess.run([sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    run("-m", "tests.upgrades.stored", "load", str(request.param))
    run("manage.py", "migrate", "--verbosity", "0")
    yield launch(**with_it), json.loads(request.param.read_text())
    run("-m", "tests.upgrades.stored", "check", str(request.param))


async def back(server, kept, name):
    """A page of that version, which has loaded itself again."""
    page = kept["pages"][name]
    live = Live(server.url, kept["cookies"][page["user"]], **page)
    await live.open()
    welcome = await live.hello()
    assert welcome["t"] == "welcome" and welcome["device"]["id"] == page["device"], "its sign-in and device are kept"
    return live


async def test_calls_go_on_and_people_stay_signed_in(upgraded):
    server, kept = upgraded
    calls = kept["pages"]["calls"]
    alice, phone, laptop, carol, dave = [
        await back(server, kept, name) for name in ("alice", "phone", "laptop", "carol", "dave")
    ]
    view = await alice.sees(calls["active"], state="active")
    assert [(leg["user"], leg["state"]) for leg in view["legs"]] == [("alice", "joined"), ("bob", "joined")]
    assert (await phone.ask("media", call=calls["active"], mic=False, cam=False))["ok"]
    assert (await laptop.ask("move", call=calls["active"]))["ok"]
    assert (await alice.ask("hangup", call=calls["active"]))["ok"]
    await laptop.sees(calls["active"], state="ended", reason="completed")

    await carol.sees(calls["ringing"], state="ringing")
    assert (await dave.ask("answer", call=calls["ringing"]))["ok"]
    await carol.sees(calls["ringing"], state="active")
    assert (await carol.ask("add", call=calls["ringing"], to=["alice"]))["ok"], "what is new works in an old call"
    await alice.sees(calls["ringing"], me={"state": "ringing"})
    assert (await alice.ask("answer", call=calls["ringing"]))["ok"]
    assert (await carol.ask("end", call=calls["ringing"]))["ok"]
    for page in (alice, phone, laptop, carol, dave):
        await page.close()


async def test_the_history_the_limits_and_the_operators_pages_are_kept(upgraded):
    server, kept = upgraded
    calls = kept["pages"]["calls"]
    _, history = await get(server, "/history/", Cookie=kept["cookies"]["alice"], Accept="application/json")
    shown = {entry["call"]: entry["outcome"] for entry in json.loads(history)["calls"]}
    assert shown[calls["moved"]] == "answered" and "declined" in shown.values()
    _, history = await get(server, "/history/?missed=1", Cookie=kept["cookies"]["dave"], Accept="application/json")
    assert [entry["outcome"] for entry in json.loads(history)["calls"]] == ["missed"]
    operator = kept["cookies"]["operator"]
    for path in (
        "/admin/",
        "/admin/calls/call/",
        f"/admin/calls/call/{calls['moved']}/change/",
        f"/admin/calls/call/{calls['active']}/change/",
        "/admin/devices/line/",
        "/admin/devices/device/",
        "/admin/auditlog/logentry/",
    ):
        status, text = await get(server, path, Cookie=operator)
        assert status == 200 and "Traceback" not in text, path
    for name, limits in LIMITS.items():
        _, line = await get(server, "/line/", Cookie=kept["cookies"][name])
        assert limits.items() <= json.loads(line)["line"].items(), name
