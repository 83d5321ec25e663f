"""The client's page, the people in it, and signing out."""

import json
import re

import pytest
from asgiref.sync import sync_to_async
from django.test import AsyncClient, Client

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def alice(people):
    client = Client()
    client.force_login(people["alice"])
    return client


def test_a_stranger_is_sent_to_sign_in_and_comes_back(people):
    client = Client()
    assert client.get("/")["Location"] == "/accounts/login/?next=/"
    assert client.get("/people/").status_code == 401
    signed_in = client.post("/accounts/login/?next=/", {"username": "alice", "password": "secret"})
    assert signed_in["Location"] == "/"
    assert client.get("/").status_code == 200


def test_whoever_is_signed_in_is_not_asked_to_sign_in(alice):
    assert alice.get("/accounts/login/")["Location"] == "/"
    assert alice.get("/accounts/login/?next=/?device=phone")["Location"] == "/?device=phone"
    assert alice.get("/accounts/login/?next=https://elsewhere.example/")["Location"] == "/"
    as_bob = alice.post("/accounts/login/", {"username": "bob", "password": "secret"})
    assert as_bob["Location"] == "/"
    assert '"id": "bob"' in alice.get("/").content.decode()


def test_the_way_back_brings_no_page_of_an_earlier_time(alice):
    assert "no-store" in alice.get("/")["Cache-Control"]


async def test_the_page_knows_how_its_users_other_devices_are_called(page, people):
    phone, *_ = [await page("bob", "Phone"), await page("bob", "Desk"), await page("carol", "Laptop")]
    client, boot = AsyncClient(), re.compile(r'<script id="boot" type="application/json">(.*?)</script>')
    await client.aforce_login(people["bob"])

    async def devices():
        return json.loads(boot.search((await client.get("/")).content.decode())[1])["devices"]

    assert sorted(await devices()) == ["Desk", "Phone"]
    await sync_to_async(Client(headers={"cookie": phone.signed_in}).post)("/accounts/logout/")
    assert await devices() == ["Desk"]


def test_people_are_all_others_who_are_active(alice, people):
    people["dave"].is_active = False
    people["dave"].save()
    found = alice.get("/people/").json()
    assert [person["id"] for person in found["people"]] == ["bob", "carol", "operator"]
    assert found["more"] is False


async def test_whoever_is_online_comes_first(page, people):
    await page("carol", "Phone")
    client = Client()
    await sync_to_async(client.force_login)(people["alice"])
    found = (await sync_to_async(client.get)("/people/")).json()["people"]
    assert found[0] == {"id": "carol", "name": "Carol", "online": True}
    assert not any(person["online"] for person in found[1:])


@pytest.mark.parametrize(
    ("q", "who"), [("bo", ["bob"]), ("CAROL", ["carol"]), ("nobody", []), ("\0", ["bob", "carol"])]
)
def test_people_are_searched_by_name(alice, q, who):
    found = [person["id"] for person in alice.get("/people/", {"q": q}).json()["people"]]
    assert found[: len(who)] == who
    assert bool(found) == bool(who)


def test_the_list_of_people_is_kept_nowhere_and_has_no_page_before_a_cursor_of_its_own(alice):
    answer = alice.get("/people/")
    assert "no-store" in answer["Cache-Control"]
    assert answer.json()["next"] is None
    assert alice.get("/people/", {"after": "x"}).status_code == 400


async def test_signing_out_closes_the_page_and_leaves_the_call(page, people):
    alice, phone = await page("alice"), await page("bob", "Phone")
    call = (await alice.invite("bob"))["call"]["id"]
    await phone.sees(call)
    await phone.ask("answer", call=call)
    client = Client(headers={"cookie": phone.signed_in})
    left = await sync_to_async(client.post)("/accounts/logout/")
    assert left["Location"] == "/accounts/login/"
    assert await phone.closed() == 4401
    await alice.sees(call, state="ended", reason="completed")


def test_signing_out_is_a_post(alice):
    assert alice.get("/accounts/logout/").status_code == 405


def test_the_page_can_be_installed_and_its_worker_keeps_nothing_of_anybody(people):
    import json
    from pathlib import Path

    from django.contrib.staticfiles import finders

    client = Client()
    manifest = client.get("/manifest.webmanifest").json()
    assert (manifest["display"], manifest["start_url"], manifest["scope"]) == ("standalone", "/", "/")
    for icon in manifest["icons"]:
        assert finders.find(icon["src"].removeprefix("/static/")), icon
    assert {icon["purpose"] for icon in manifest["icons"]} == {"any", "maskable"}
    worker = client.get("/worker.js")
    assert worker["Content-Type"].startswith("text/javascript")
    facts = json.loads(worker.content.decode().partition("const FACTS = ")[2].partition(";\n")[0])
    for url in facts["kept"]:
        assert url == "/offline/" or finders.find(url.removeprefix("/static/"))
    signed_in = Client()
    signed_in.force_login(people["alice"])
    assert signed_in.get("/offline/").content == client.get("/offline/").content
    assert Path(finders.find("calls/icon-180.png")).read_bytes()[:4] == b"\x89PNG"
