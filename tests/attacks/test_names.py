"""Attacks by the name of a device: it is shown in lists, in calls, and to the operator."""

import json

import pytest
from asgiref.sync import sync_to_async
from django.test import Client
from django.urls import reverse

from devices.models import Device

pytestmark = pytest.mark.django_db(transaction=True)

UNSEEN = [
    " \t",
    "\u200b\u200d\u2060",
    "\u202e",
    "\u3164\u115f",
    "\u2800",
    "\ue000",
    "\u0301\u0301",
    "\x07\x1b",
    "\U000e0041",
]
CLEANED = [
    ("Pho\u200bne", "Phone"),
    ("\u202eenohP\u202c", "enohP"),
    ("A\u0301rbol", "\u00c1rbol"),
    ("Ph\u200bo\u0301ne", "Ph\u00f3ne"),
    ("Z" + "\u0351" * 40, "Z" + "\u0351" * 4),
    ("Z" + "\u0351\u200d" * 20, "Z" + "\u0351\u200d" * 3 + "\u0351"),
    ("Desk\r\n2", "Desk 2"),
    ("  Küche   oben ", "Küche oben"),
    ("می\u200cخواهم", "می\u200cخواهم"),
    ("👩\u200d💻 work", "👩\u200d💻 work"),
    ("ทีวี", "ทีวี"),
    ("電話", "電話"),
]


@pytest.mark.parametrize("name", UNSEEN)
async def test_a_name_in_which_nothing_can_be_seen_is_refused(page, people, name):
    phone = await page("bob", "Phone", hello=False)
    device = {"id": None, "name": name, "kind": "web"}
    refused = await phone.ask("hello", page=phone.page, device=device)
    assert (refused["ok"], refused["error"]["code"], refused["error"]["argument"]) == (False, "bad_frame", "device")
    assert (await phone.hello())["device"]["name"] == "Phone"

    def renamed():
        bob = Client(headers={"cookie": phone.signed_in})
        body = json.dumps({"id": phone.device, "name": name})
        operator = Client()
        operator.force_login(people["operator"])
        asked = bob.post("/devices/rename/", body, content_type="application/json")
        form = operator.post(reverse("admin:devices_device_change", args=[phone.device]), {"name": name})
        return asked.status_code, form.status_code, Device.objects.get(pk=phone.device).name

    assert await sync_to_async(renamed)() == (400, 200, "Phone")


@pytest.mark.parametrize(("name", "shown"), CLEANED)
async def test_what_cannot_be_seen_is_taken_out_of_a_name(page, people, name, shown):
    phone = await page("bob", name, hello=False)
    assert (await phone.hello())["device"]["name"] == shown

    def renamed():
        bob = Client(headers={"cookie": phone.signed_in})
        Device.objects.update(name="Before")
        bob.post("/devices/rename/", json.dumps({"id": phone.device, "name": name}), content_type="application/json")
        found = [Device.objects.get().name]
        operator = Client()
        operator.force_login(people["operator"])
        Device.objects.update(name="Before")
        operator.post(reverse("admin:devices_device_change", args=[phone.device]), {"name": name})
        return [*found, Device.objects.get().name]

    assert await sync_to_async(renamed)() == [shown, shown]
