"""Sockets whose sign-in has ended meanwhile."""

import asyncio
import uuid

import pytest
from asgiref.sync import sync_to_async
from django.contrib.sessions.models import Session
from django.db import ProgrammingError, connection

from calls import sign_ins, switchboard
from calls.hub import hub
from calls.sign_ins import SignIn
from devices.models import Device
from devices.sessions import stored_key

pytestmark = pytest.mark.django_db(transaction=True)


def claim(page, people) -> SignIn:
    return SignIn(str(people[page.user].pk), stored_key(page.signed_in.partition("=")[2]), uuid.UUID(page.device))


async def test_a_sign_in_that_holds_keeps_its_socket(page, people):
    phone = await page("bob", "Phone")
    await sync_to_async(sign_ins.look)([claim(phone, people)])
    assert (await phone.ping())["t"] == "pong"


@pytest.mark.parametrize("how", ["password changed", "session deleted", "account closed"])
async def test_a_sign_in_that_has_ended_closes_its_socket(page, people, how):
    phone, laptop = await page("bob", "Phone"), await page("alice", "Laptop")
    if how == "password changed":
        people["bob"].set_password("another one")
        await people["bob"].asave()
    elif how == "session deleted":
        await Session.objects.filter(session_key=claim(phone, people).session).adelete()
    else:
        people["bob"].is_active = False
        await people["bob"].asave()
    await sync_to_async(sign_ins.look)([claim(phone, people), claim(laptop, people)])
    assert await phone.closed() == 4401
    assert (await laptop.ping())["t"] == "pong"


async def test_a_user_model_may_make_its_proof_of_more_than_the_password(page, people, monkeypatch):
    monkeypatch.setattr(type(people["bob"]), "get_session_auth_hash", lambda user: f"{user.password} {user.email}")
    phone, laptop = await page("bob", "Phone"), await page("alice", "Laptop")
    people["bob"].email = "bob@example.com"
    await people["bob"].asave()
    await sync_to_async(sign_ins.look)([claim(phone, people), claim(laptop, people)])
    assert await phone.closed() == 4401
    assert (await laptop.ping())["t"] == "pong"


async def test_who_has_signed_in_again_on_the_device_stays(page, people):
    phone = await page("bob", "Phone")
    before = SignIn(str(people["bob"].pk), "a session that is gone", uuid.UUID(phone.device))
    await sync_to_async(sign_ins.look)([before])
    assert (await phone.ping())["t"] == "pong"


async def test_a_look_that_fails_is_not_the_last(page, people, monkeypatch):
    class Strange:
        """A socket whose claim cannot be looked up."""

        sign_in = SignIn("no key at all", "", uuid.uuid4())

        def take(self, said):
            pass

        def bye(self, why, retry_ms):
            pass

    monkeypatch.setattr(sign_ins, "LOOK_S", 0.05)
    phone, strange = await page("bob", "Phone"), Strange()
    hub.join("strange", strange)
    looking = asyncio.create_task(sign_ins.run())
    try:
        await asyncio.wait([looking], timeout=0.5)
        hub.part("strange", strange)
        await Session.objects.filter(session_key=claim(phone, people).session).adelete()
        assert await phone.closed() == 4401
    finally:
        hub.part("strange", strange)
        looking.cancel()


async def test_a_sign_out_that_fails_has_done_nothing_and_can_be_tried_again(page, people):
    phone = await page("bob", "Phone")
    device, session = await Device.objects.aget(pk=phone.device), claim(phone, people).session

    def sign_out():
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE django_session RENAME TO away")
        try:
            with pytest.raises(ProgrammingError):
                switchboard.sign_out(device)
        finally:
            with connection.cursor() as cursor:
                cursor.execute("ALTER TABLE away RENAME TO django_session")
        assert Device.objects.get(pk=phone.device).signed_out_at is None
        switchboard.sign_out(device)

    await sync_to_async(sign_out)()
    assert await phone.closed() == 4401
    assert not await Session.objects.filter(session_key=session).aexists()
