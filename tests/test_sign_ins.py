"""Sockets whose sign-in has ended meanwhile."""

import pytest
from asgiref.sync import sync_to_async
from django.contrib.sessions.models import Session

from calls import sign_ins
from calls.sign_ins import SignIn

pytestmark = pytest.mark.django_db(transaction=True)


def claim(page, people) -> SignIn:
    return SignIn(str(people[page.user].pk), page.signed_in.partition("=")[2], page.device)


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
        await Session.objects.filter(session_key=claim(phone, people).session_key).adelete()
    else:
        people["bob"].is_active = False
        await people["bob"].asave()
    await sync_to_async(sign_ins.look)([claim(phone, people), claim(laptop, people)])
    assert await phone.closed() == 4401
    assert (await laptop.ping())["t"] == "pong"


async def test_without_sessions_in_the_database_each_is_asked_for(page, people, settings):
    phone = await page("bob", "Phone")
    settings.SESSION_ENGINE = "django.contrib.sessions.backends.cache"
    assert await sync_to_async(sign_ins.ended)([claim(phone, people)]) == [claim(phone, people)]
