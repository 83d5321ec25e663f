"""One user makes as many devices as a script can: there are never more than the limit, and each one costs a while."""

import pytest
from asgiref.sync import sync_to_async
from django.conf import settings as site

from calls import switchboard
from calls.consumers import TOO_MANY_MS
from devices import presence
from devices.models import Device
from tests.race_kit import Handset, Work, at_once

pytestmark = pytest.mark.django_db(transaction=True)
on_postgresql = pytest.mark.skipif(
    not site.DATABASES["default"]["ENGINE"].endswith("postgresql"), reason="SQLite lets one write at a time"
)

AT_ONCE = 6


@pytest.fixture
def most(monkeypatch):
    monkeypatch.setattr(presence, "MAX_DEVICES", 3)
    return 3


def signed_in(user):
    return Device.objects.filter(user=user, signed_out_at=None).count()


def arrives(handset, **how):
    """As a socket does it: what was crowded out is told."""

    def arrive():
        arrival = handset.arrive(**how)
        if arrival.crowded_out is not None:
            switchboard.sign_out(arrival.crowded_out)

    return Work(arrive)


@on_postgresql
def test_new_devices_that_say_hello_at_once(people, most):
    handsets = [Handset(people["carol"], f"Device {number}") for number in range(AT_ONCE)]
    assert signed_in(people["carol"]) == most
    for _ in range(3):
        at_once(*(arrives(handset, new=True) for handset in handsets))
        assert signed_in(people["carol"]) == most


@on_postgresql
def test_signed_out_devices_that_sign_in_again_at_once(people, most):
    handsets = [Handset(people["carol"], f"Device {number}") for number in range(AT_ONCE)]
    for handset in handsets:
        switchboard.sign_out(handset.row)
    at_once(*(arrives(handset, sign_in=" again") for handset in handsets))
    assert signed_in(people["carol"]) == most


async def test_new_devices_one_after_the_other(page, people, monkeypatch):
    monkeypatch.setattr(site, "DEVICES_AN_HOUR", 3)
    first = await page("carol", "Device 0")
    for number in (1, 2):
        await page("carol", f"Device {number}")
    again = await page("carol", "Device 3", hello=False)
    for _ in range(5):
        error = (await again.hello())["error"]
        assert (error["code"], error["retry_ms"]) == ("rate_limited", TOO_MANY_MS)
    assert await Device.objects.filter(user=people["carol"]).acount() == 3, "a refused hello makes no row"
    assert await sync_to_async(signed_in)(people["carol"]) == 3
    await first.close()
    back = await page("carol", device=first.device, signed_in=first.signed_in)
    assert back.device == first.device, "a device that is known comes back as ever"
    await page("dave")
