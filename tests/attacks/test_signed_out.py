"""Attacks with a browser that should not be signed in any more: a lost laptop, an old password, a sign-in long over."""

import datetime as dt
import json
import time

import pytest
from asgiref.sync import sync_to_async
from django.conf import settings
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
from django.contrib.sessions.models import Session
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from calls.clock import Errands
from devices import presence
from devices.models import Device
from devices.sessions import SessionStore, stored_key
from tests.pages import Closed
from tests.test_push import Browser, service  # noqa: F401 - a fixture

pytestmark = pytest.mark.django_db(transaction=True)


def browser(cookie):
    return Client(headers={"cookie": cookie})


def post(client, path, **body):
    return client.post(path, json.dumps(body), content_type="application/json")


def session_of(page):
    return stored_key(page.signed_in.partition("=")[2])


async def signed_in(*pages):
    rows = {str(row.pk): row async for row in Device.objects.filter(pk__in=[page.device for page in pages])}
    return [rows[page.device].signed_out_at is None for page in pages]


async def can_do_nothing(page_of, lost):
    """Whether the browser with this page's cookie has no page, no list and no new device, and ends at the sign-in."""
    client = browser(lost.signed_in)
    get = sync_to_async(client.get)
    assert (await get("/"))["Location"] == "/accounts/login/?next=/"
    assert (await get("/accounts/login/?next=/")).status_code == 200  # it is not sent back, and so not in circles
    for path in ("/devices/", "/history/", "/people/"):
        assert (await get(path)).status_code == 401, path
    for device in (None, lost.device):
        again = await page_of(lost.user, "Again", device=device, signed_in=lost.signed_in, hello=False)
        with pytest.raises(Closed) as closed:
            await again.hello()
        assert closed.value.code == 4401
    return True


@pytest.fixture
async def lost(page):
    """bob's desk, and a lost laptop with two devices in one browser, of which the second is asleep."""
    desk, laptop = await page("bob", "Desk"), await page("bob", "Laptop")
    second = await page("bob", "Second", signed_in=laptop.signed_in)
    await second.close()
    return desk, laptop, second


async def test_a_lost_laptop_is_signed_out_with_every_device_in_its_browser(page, lost):
    desk, laptop, second = lost
    at_desk = browser(desk.signed_in)
    listed = (await sync_to_async(at_desk.get)("/devices/")).json()["devices"]
    assert {each["name"]: each["with"] for each in listed} == {
        "Desk": [],
        "Laptop": [second.device],
        "Second": [laptop.device],
    }
    assert "session" not in json.dumps(listed)
    answer = await sync_to_async(post)(at_desk, "/devices/sign-out/", id=laptop.device)
    assert answer.json() == {"signed_out": 2}
    assert await laptop.closed() == 4401
    assert await signed_in(desk, laptop, second) == [True, False, False]
    assert await can_do_nothing(page, laptop)


async def test_all_but_one_keeps_what_is_in_the_same_browser(page, lost):
    desk, laptop, second = lost
    answer = await sync_to_async(post)(browser(laptop.signed_in), "/devices/sign-out/", all_but=laptop.device)
    assert answer.json() == {"signed_out": 1}
    assert await signed_in(desk, laptop, second) == [False, True, True]
    assert (await laptop.ping())["t"] == "pong"


async def test_the_operator_signs_out_the_whole_browser_too(page, people, lost):
    desk, laptop, second = lost
    panel = Client()
    await sync_to_async(panel.force_login)(people["operator"])
    chosen = {"action": "sign_out", "_selected_action": [second.device]}
    said = await sync_to_async(panel.post)(reverse("admin:devices_device_changelist"), chosen, follow=True)
    assert "2 signed out." in said.content.decode()
    assert await laptop.closed() == 4401
    assert await signed_in(desk, laptop, second) == [True, False, False]
    assert await can_do_nothing(page, laptop)


async def test_a_signed_out_device_with_a_session_that_lives_ends_at_the_sign_in(page, lost):
    _, laptop, second = lost
    await Device.objects.filter(pk=second.device).aupdate(signed_out_at=timezone.now())  # as an earlier version left it
    back = await page("bob", "Second", device=second.device, signed_in=second.signed_in, hello=False)
    with pytest.raises(Closed):
        await back.hello()
    assert await laptop.closed() == 4401
    assert await can_do_nothing(page, laptop)


async def test_a_device_that_makes_room_leaves_the_browser_signed_in_and_may_return(page, monkeypatch):
    monkeypatch.setattr(presence, "MAX_DEVICES", 2)
    first = await page("carol", "First")
    second = await page("carol", "Second", signed_in=first.signed_in)
    await first.close()
    await page("carol", "Third", signed_in=first.signed_in)
    assert await signed_in(first, second) == [False, True]
    assert (await second.ping())["t"] == "pong"
    back = await page("carol", "First", device=first.device, signed_in=first.signed_in)
    assert back.welcome["device"]["name"] == "First"


async def test_a_device_that_makes_room_and_is_alone_in_its_browser_leaves_no_sign_in_that_nobody_sees(
    page, monkeypatch
):
    monkeypatch.setattr(presence, "MAX_DEVICES", 1)
    first = await page("carol", "First")
    await first.close()
    await page("carol", "Second")
    assert await can_do_nothing(page, first)


async def subscribed(page, service):  # noqa: F811
    """The page's device can be woken, and its page is closed."""
    browser = Browser(service)
    await page.close()
    await Device.objects.filter(pk=page.device).aupdate(push=browser.subscription)
    return browser


async def test_logging_out_of_the_panel_signs_out_the_device_and_ends_its_push(page, service):  # noqa: F811
    phone = await page("operator", "Phone")
    second = await page("operator", "Second", signed_in=phone.signed_in)
    await subscribed(second, service)
    said = await sync_to_async(browser(phone.signed_in).post)("/admin/logout/")
    assert said["Location"] == "/accounts/login/"
    assert await phone.closed() == 4401
    assert await signed_in(phone, second) == [False, False]
    assert (await Device.objects.aget(pk=second.device)).push is None


def end(how, page, people):
    """Ends the sign-in behind this page as nobody of ours sees it."""
    user, session = people[page.user], Session.objects.filter(pk=session_of(page))
    if how == "session deleted":
        session.delete()
    elif how == "session run out":
        session.update(expire_date=timezone.now() - dt.timedelta(days=20))
    else:
        user.set_password("another one")
        user.save()


ENDS = ["session deleted", "session run out", "password changed"]


def swept(errands, true):
    """Runs the errands until it is true; whether that was within what one round of all sign-ins takes."""
    for _ in range(200):
        for errand in errands.due():
            errands.run(errand)
        if true():
            return True
        errands.turns = {errand: at - 10 for errand, at in errands.turns.items()}  # as if so many seconds had passed
    return False


@pytest.mark.parametrize("how", ENDS)
async def test_a_sign_in_that_has_ended_is_not_rung_and_takes_no_ring(page, people, service, how):  # noqa: F811
    desk = await page("carol", "Desk")
    old = await page("carol", "Old phone")
    desk_browser, _ = await subscribed(desk, service), await subscribed(old, service)
    await sync_to_async(end)(how, old, people)
    if how == "password changed":  # and carol has signed in at her desk with it
        back = await page("carol", "Desk", device=desk.device)
        await back.close()
        newest = Device.objects.filter(pk=old.device)
        await newest.aupdate(logged_in_at=timezone.now() + dt.timedelta(seconds=1))

    def over():
        return Device.objects.filter(pk=old.device, signed_out_at__isnull=False, push__isnull=True).exists()

    assert await sync_to_async(swept)(Errands(), over)
    assert await signed_in(desk) == [True]
    alice = await page("alice")
    call = (await alice.invite("carol"))["call"]["id"]
    path, _, body = await sync_to_async(service.push)()
    assert desk_browser.subscription["endpoint"].endswith(path)
    assert desk_browser.opens(body) == {"call": call}
    assert service.came.empty()


@pytest.mark.parametrize("how", ENDS)
async def test_nor_before_the_clock_has_come_by(page, people, service, how):  # noqa: F811
    desk, old = await page("bob", "Desk"), await page("bob", "Old phone")
    desk_browser, _ = await subscribed(desk, service), await subscribed(old, service)
    await sync_to_async(end)(how, old, people)
    if how == "password changed":
        back = await page("bob", "Desk", device=desk.device)
        await back.close()
    alice = await page("alice")
    await alice.invite("bob")  # rings all devices
    path, _, _ = await sync_to_async(service.push)()
    assert desk_browser.subscription["endpoint"].endswith(path)
    await sync_to_async(time.sleep)(0.3)
    assert service.came.empty()


@pytest.mark.parametrize("whose", ["own", "another's"])
async def test_a_password_that_is_changed_in_the_panel_signs_out_at_once(page, people, service, whose):  # noqa: F811
    panel, user = Client(), people["operator"] if whose == "own" else people["bob"]
    await sync_to_async(panel.force_login)(people["operator"])
    here = await page("operator", "Here", signed_in=f"sessionid={panel.cookies['sessionid'].value}")
    away = await page(user.username, "Away")
    await subscribed(away, service)
    since = (await Device.objects.aget(pk=here.device)).logged_in_at
    new = {"password1": "Quite-an0ther", "password2": "Quite-an0ther", "usable_password": "true"}
    own = {"old_password": "secret", "new_password1": "Quite-an0ther", "new_password2": "Quite-an0ther"}
    path = (
        reverse("admin:password_change")
        if whose == "own"
        else reverse("admin:auth_user_password_change", args=[user.pk])
    )
    said = await sync_to_async(panel.post)(path, own if whose == "own" else new)
    assert said.status_code == 302, said.content
    assert await signed_in(here, away) == [True, False]
    assert (await Device.objects.aget(pk=away.device)).push is None
    assert (await here.ping())["t"] == "pong"
    await here.close()
    cookie = f"{settings.SESSION_COOKIE_NAME}={panel.cookies['sessionid'].value}"
    await page("operator", "Here", device=here.device, signed_in=cookie)
    assert (await Device.objects.aget(pk=here.device)).logged_in_at == since  # it is the same sign-in


async def test_an_account_that_is_deactivated_in_the_panel_is_signed_out_at_once(page, people, service):  # noqa: F811
    panel, awake, asleep = Client(), await page("bob", "Awake"), await page("bob", "Asleep")
    await subscribed(asleep, service)
    await sync_to_async(panel.force_login)(people["operator"])
    path = reverse("admin:auth_user_change", args=[people["bob"].pk])
    said = await sync_to_async(panel.post)(
        path, {"username": "bob", "date_joined_0": "2026-01-01", "date_joined_1": "0:0"}
    )
    assert said.status_code == 302, said.content
    assert (await awake.until(lambda frame: frame["t"] == "bye"))["why"] == "deactivated"
    assert await signed_in(awake, asleep) == [False, False]


def test_a_round_of_all_sign_ins_takes_few_statements_and_signs_out_those_that_ended(people):
    now, store = timezone.now(), SessionStore()
    bob = {
        SESSION_KEY: str(people["bob"].pk),
        HASH_SESSION_KEY: people["bob"].get_session_auth_hash(),
        BACKEND_SESSION_KEY: settings.AUTHENTICATION_BACKENDS[-1],
    }
    later, data, keys = now + dt.timedelta(days=1), store.encode(bob), [stored_key(str(n)) for n in range(1200)]
    Session.objects.bulk_create([Session(session_key=key, session_data=data, expire_date=later) for key in keys])
    common = {"user": people["bob"], "name": "Phone", "logged_in_at": now, "last_seen_at": now, "online_until": now}
    Device.objects.bulk_create([Device(session=key, **common) for key in keys])
    errands, spent = Errands(), []
    for _ in range(3):
        with CaptureQueriesContext(connection) as asked:
            errands._end_sign_ins()
        spent.append(len(asked))
    assert (spent, errands.swept) == ([3, 3, 3], "")
    assert not Device.objects.exclude(signed_out_at=None).exists()
    Session.objects.filter(pk__in=keys[:30]).delete()
    assert swept(errands, lambda: not Device.objects.filter(session__in=keys[:30], signed_out_at=None).exists())
    assert not Device.objects.filter(session__in=keys[30:]).exclude(signed_out_at=None).exists()
