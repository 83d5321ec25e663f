"""Attacks with a browser that should not be signed in any more: a lost laptop, an old password, a sign-in long over."""

import json

import pytest
from asgiref.sync import sync_to_async
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from devices import presence
from devices.models import Device
from devices.sessions import stored_key
from tests.pages import Closed

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
