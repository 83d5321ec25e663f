"""Devices that arrive and leave at the same moment share a transaction, and wait for nobody else."""

import asyncio
import uuid

import pytest
from django.conf import settings
from django.contrib.sessions.models import Session

from devices.models import Device
from devices.sessions import stored_key
from tests.gates import gate
from tests.pages import Closed

pytestmark = pytest.mark.django_db(transaction=True)
on_postgresql = pytest.mark.skipif(
    not settings.DATABASES["default"]["ENGINE"].endswith("postgresql"), reason="SQLite has no row locks"
)


async def test_devices_that_arrive_together_each_get_their_own(page, people):
    """Some are welcome, some are not, and none pays for another."""
    first = [await page(name, name.title()) for name in ("alice", "bob", "carol", "dave")]
    for each in first[:3]:
        await each.close()
    alice, bob, carol, dave = first
    await Session.objects.filter(pk=stored_key(bob.signed_in.partition("=")[2])).adelete()
    pages = [
        await page(each.user, signed_in=each.signed_in, device=each.device, hello=False) for each in (alice, bob, carol)
    ]
    pages.append(await page("dave", signed_in=dave.signed_in, device=dave.device, hello=False))  # in use
    pages.append(await page("alice", device=str(uuid.uuid4()), hello=False))  # no such device
    pages.append(await page("bob", device=carol.device, hello=False))  # somebody else's
    pages.append(await page("alice", hello=False))  # a new one

    async def said(each):
        try:
            answer = await each.hello()
        except Closed as closed:
            return closed.code
        return answer["error"]["code"] if answer["t"] == "reply" else answer["user"]["id"]

    answers = await asyncio.gather(*map(said, pages))
    assert answers == ["alice", 4401, "carol", "device_in_use", "not_found", "not_found", "alice"]
    assert pages[0].welcome["device"]["id"] == alice.device and pages[6].welcome["device"]["id"] != alice.device


@on_postgresql
async def test_a_row_that_is_held_delays_only_its_own_device(page, people):
    first, other = await page("alice", "Phone"), await page("bob", "Phone")
    await other.close()
    async with gate() as (link, waiters):
        await link.execute("SELECT 1 FROM devices_device WHERE id = %s FOR UPDATE", [first.device])
        leaving = asyncio.create_task(first.close())
        await waiters(1)
        back = await page("bob", "Phone", signed_in=other.signed_in, device=other.device)
        assert back.welcome["device"]["id"] == other.device
        await back.close()
        assert (await Device.objects.aget(pk=other.device)).socket is None
        assert not leaving.done()
    await leaving
    assert (await Device.objects.aget(pk=first.device)).socket is None


async def test_two_pages_that_want_one_device_at_once_get_it_one_after_the_other(page):
    first = await page("alice", "Phone")
    await first.close()
    pages = [await page("alice", signed_in=first.signed_in, device=first.device, hello=False) for _ in range(4)]
    answers = await asyncio.gather(*(each.hello(take=True) for each in pages))
    assert [each["t"] for each in answers] == ["welcome"] * 4
    row = await Device.objects.aget(pk=first.device)
    (holder,) = [each for each in pages if each.page == str(row.page)]
    for each in pages:
        if each is not holder:
            assert await each.closed() == 4409
    assert (await holder.ping())["t"] == "pong"
    assert row.logged_in_at == (await Device.objects.aget(pk=first.device)).logged_in_at
