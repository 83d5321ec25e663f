"""Attacks on sign-ins: by somebody who has read what is stored, and by a socket that wants to outlive its sign-in."""

import asyncio

import pytest
from asgiref.sync import sync_to_async
from django.conf import settings
from django.contrib.sessions.models import Session
from django.db import connection
from django.test import Client
from django.utils import timezone

from calls import consumers, pool, switchboard
from devices.models import Device
from devices.sessions import stored_key
from tests.gates import gate
from tests.pages import WAIT_S, Closed

pytestmark = pytest.mark.django_db(transaction=True)
on_postgresql = pytest.mark.skipif(
    not settings.DATABASES["default"]["ENGINE"].endswith("postgresql"), reason="SQLite has no row locks"
)


def key_of(page) -> str:
    return page.signed_in.partition("=")[2]


def browser(key: str) -> Client:
    client = Client()
    client.cookies[settings.SESSION_COOKIE_NAME] = key
    return client


# --- what is stored ---------------------------------------------------------------------------------------------------


def stored_texts() -> set[str]:
    """Each text that a backup has of sessions and devices."""
    texts = set()
    with connection.cursor() as cursor:
        for table in ("django_session", "devices_device"):
            cursor.execute(f"SELECT * FROM {table}")
            texts |= {str(value) for row in cursor.fetchall() for value in row if value is not None}
    return texts


async def test_nothing_that_a_backup_holds_opens_a_session(page):
    phone = await page("bob", "Phone")
    key = key_of(phone)

    def opens(cookie: str) -> bool:
        return browser(cookie).get("/devices/").status_code == 200

    def tried() -> tuple[bool, list[str], set[str]]:
        texts = stored_texts()
        return opens(key), [text for text in texts if opens(text)], texts

    works, opened, texts = await sync_to_async(tried)()
    assert works and not opened
    assert len(texts) > 10 and not any(key in text for text in texts)
    for text in (stored_key(key), phone.device):
        nobody = await page("bob", signed_in=f"{settings.SESSION_COOKIE_NAME}={text}", hello=False)
        assert await nobody.closed() == 4401


# --- a socket that has not said hello ---------------------------------------------------------------------------------


def log_out(page, user):
    browser(key_of(page)).post("/accounts/logout/")


def sign_out_device(page, user):
    for device in Device.objects.filter(user=user, signed_out_at=None):
        switchboard.sign_out(device)


def change_password(page, user):
    user.set_password("another one")
    user.save()


def deactivate(page, user):
    user.is_active = False
    user.save()


def delete_session(page, user):
    Session.objects.filter(pk=stored_key(key_of(page))).delete()


def expire_session(page, user):
    Session.objects.filter(pk=stored_key(key_of(page))).update(expire_date=timezone.now())


WAYS = [log_out, sign_out_device, change_password, deactivate, delete_session, expire_session]


@pytest.mark.parametrize("known", [True, False], ids=["known device", "new device"])
@pytest.mark.parametrize("end", WAYS)
async def test_a_socket_that_waited_with_its_hello_is_not_welcome_once_its_sign_in_has_ended(page, people, end, known):
    phone = await page("bob", "Phone")
    waiting = await page("bob", "Phone", signed_in=phone.signed_in, device=phone.device, hello=False)
    refused = await waiting.hello()
    assert refused["error"]["code"] == "device_in_use", "and the socket stays open for another hello"
    await sync_to_async(end)(phone, people["bob"])
    waiting.device = phone.device if known else None
    await waiting.say(
        "hello", page=waiting.page, device={"id": waiting.device, "name": "Phone", "kind": "web"}, take=True
    )
    assert await waiting.closed() == 4401
    assert not [frame for frame in waiting.frames if frame["t"] == "welcome" or "ice" in frame]
    assert await Device.objects.acount() == 1


async def test_another_users_session_gives_no_device(page, people):
    """The device is bob's; the session is alice's."""
    phone = await page("bob", "Phone")
    thief = await page("alice", device=phone.device, hello=False)
    assert (await thief.hello(take=True))["error"]["code"] == "not_found"
    assert (await Device.objects.aget(pk=phone.device)).user_id == people["bob"].pk
    assert (await phone.ping())["t"] == "pong"


async def test_refused_hellos_do_not_buy_time(page, monkeypatch):
    monkeypatch.setattr(consumers, "REFLECT_S", 0.6)
    phone = await page("bob", "Phone")
    other = await page("bob", "Phone", signed_in=phone.signed_in, device=phone.device, hello=False)
    with pytest.raises(Closed) as closed:
        for _ in range(consumers.MAX_HELLOS - 1):
            assert (await other.hello())["error"]["code"] == "device_in_use"
            await asyncio.sleep(0.15)
    assert closed.value.code == 4408


async def test_refused_hellos_are_few(page):
    phone = await page("bob", "Phone")
    other = await page("bob", "Phone", signed_in=phone.signed_in, device=phone.device, hello=False)
    refused = 0
    with pytest.raises(Closed) as closed:
        for _ in range(50):
            assert (await other.hello())["error"]["code"] == "device_in_use"
            refused += 1
    assert (closed.value.code, refused) == (4408, consumers.MAX_HELLOS)


async def test_a_silent_socket_with_a_dead_cookie_is_told(page, people):
    phone = await page("bob", "Phone")
    await sync_to_async(delete_session)(phone, people["bob"])
    silent = await page("bob", signed_in=phone.signed_in, hello=False)
    assert await silent.closed() == 4401


# --- a hello at the moment of the sign-out ----------------------------------------------------------------------------


async def test_a_hello_at_the_moment_of_a_sign_out_leaves_no_live_socket(page, people):
    for number in range(12):
        first = await page("carol", "Phone")
        await first.close()
        again = await page("carol", signed_in=first.signed_in, device=first.device, hello=False)
        row = await Device.objects.aget(pk=first.device)

        async def hello(again=again):
            device = {"id": again.device, "name": "Phone", "kind": "web"}
            await again.say("hello", page=again.page, device=device, take=True)

        async def sign_out(row=row, number=number):
            await asyncio.sleep(0.001 * (number // 2))
            await pool.run(switchboard.sign_out, row)

        await asyncio.gather(*((hello(), sign_out()) if number % 2 else (sign_out(), hello())))
        assert await again.closed() == 4401, "without having to ping"
        row = await Device.objects.aget(pk=first.device)
        assert row.signed_out_at is not None and row.socket is None
        assert not await Session.objects.filter(pk=row.session).aexists()


@on_postgresql
@pytest.mark.parametrize("commits", [True, False])
async def test_a_hello_waits_for_a_session_that_is_being_deleted(page, commits):
    first = await page("carol", "Phone")
    await first.close()
    again = await page("carol", signed_in=first.signed_in, device=first.device, hello=False)
    async with gate() as (link, waiters):
        await link.execute("DELETE FROM django_session WHERE session_key = %s", [stored_key(key_of(first))])
        hello = asyncio.create_task(again.hello())
        await waiters(1)
        assert not hello.done()
        if commits:
            await link.commit()
    if commits:
        with pytest.raises(Closed) as closed:
            await hello
        assert closed.value.code == 4401
        assert (await Device.objects.aget(pk=first.device)).socket is None
    else:
        assert (await hello)["t"] == "welcome"


@on_postgresql
async def test_a_device_that_arrives_while_its_session_ends_is_signed_out_with_it(page, people):
    """The new device's row is about to be written when the person signs out in another tab of the browser."""
    phone = await page("bob", "Phone")
    fresh = await page("bob", "Tab", signed_in=phone.signed_in, hello=False)
    async with gate() as (link, waiters):
        await link.execute("SELECT 1 FROM auth_user WHERE id = %s FOR UPDATE", [people["bob"].pk])
        await fresh.say("hello", page=fresh.page, device={"id": None, "name": "Tab", "kind": "web"})
        await waiters(1)
        leaving = asyncio.create_task(pool.run(log_out, phone, people["bob"]))
        await waiters(2)
    await leaving
    assert await fresh.closed() == 4401
    assert await phone.closed() == 4401
    assert not await Device.objects.filter(user=people["bob"], signed_out_at=None).aexists()
    assert not await Session.objects.filter(pk=stored_key(key_of(phone))).aexists()


@on_postgresql
async def test_a_sign_out_between_an_arrival_and_its_welcome_closes_the_socket(page, people):
    """The device has arrived already, and its calls are about to be read."""
    fresh = await page("carol", "Phone", hello=False)
    async with gate() as (link, waiters):
        await link.execute("LOCK TABLE calls_leg IN ACCESS EXCLUSIVE MODE")
        await fresh.say("hello", page=fresh.page, device={"id": None, "name": "Phone", "kind": "web"})
        async with asyncio.timeout(WAIT_S):
            while (row := await Device.objects.filter(user=people["carol"]).afirst()) is None:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        signing_out = asyncio.create_task(pool.run(switchboard.sign_out, row))
        await waiters(2)
    await signing_out
    assert await fresh.closed() == 4401, "without having to ping"
