"""Devices whose page is closed are woken: checked against a push service that verifies the signature and decrypts."""

import base64
import http.server
import json
import queue
import threading
import time
import uuid
from urllib.parse import parse_qs, urlsplit

import http_ece
import pytest
from asgiref.sync import sync_to_async
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from django.test import Client

from calls.after import push
from devices.models import Device

pytestmark = pytest.mark.django_db(transaction=True)

KEY = "m4Y6yUTgzdHuwkv_JcGpmMeqcmUFYFyKo1XnkPLVzRI"


def decode(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


class Browser:
    """What a browser keeps of a subscription, and how it opens what comes."""

    def __init__(self, service):
        self.key, self.auth = ec.generate_private_key(ec.SECP256R1()), b"sixteen letters!"
        public = self.key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        self.subscription = {
            "endpoint": f"{service.url}/{uuid.uuid4()}",
            "keys": {"p256dh": push.encode(public), "auth": push.encode(self.auth)},
        }

    def opens(self, body):
        return json.loads(http_ece.decrypt(body, private_key=self.key, auth_secret=self.auth, version="aes128gcm"))


class Service:
    """A push service on this machine. `answer` is the status that it gives; `hold` makes it slow."""

    def __init__(self):
        self.came, self.answer, self.hold = queue.Queue(), 201, threading.Event()
        self.hold.set()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.came.put((self.path, self.headers, body))
                outer.hold.wait(10)
                self.send_response(outer.answer)
                self.end_headers()

            def log_message(self, *args):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def push(self, wait=10):
        """The next push: where to, its headers and body, after its signature was verified."""
        path, headers, body = self.came.get(timeout=wait)
        signed = dict(part.strip().split("=", 1) for part in headers["Authorization"].removeprefix("vapid ").split(","))
        assert signed["k"] == push.public_key(KEY)
        head, claims, signature = signed["t"].split(".")
        raw = decode(signature)
        der = utils.encode_dss_signature(int.from_bytes(raw[:32]), int.from_bytes(raw[32:]))
        sender = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), decode(signed["k"]))
        sender.verify(der, f"{head}.{claims}".encode(), ec.ECDSA(hashes.SHA256()))
        said = json.loads(decode(claims))
        assert (said["aud"], said["sub"]) == (self.url, "mailto:ops@example.com")
        assert time.time() < said["exp"] <= time.time() + 24 * 3600
        return path, headers, body


@pytest.fixture
def service(settings):
    settings.CALLS = settings.CALLS | {"PUSH_KEY": KEY, "PUSH_CONTACT": "mailto:ops@example.com"}
    service = Service()
    yield service
    service.hold.set()
    service.server.shutdown()


@pytest.fixture
def sleeping(page, service):
    """A device of bob's that has subscribed and whose page is closed; with its browser."""

    async def sleeping(name="Phone"):
        phone, browser = await page("bob", name), Browser(service)
        await phone.close()
        device = Device.objects.filter(pk=phone.device)
        await sync_to_async(device.update)(push=browser.subscription)
        return phone, browser

    return sleeping


async def until(true):
    for _ in range(200):
        if await sync_to_async(true)():
            return True
        await sync_to_async(time.sleep)(0.05)
    return False


async def test_a_sleeping_device_is_woken_and_told_again_when_it_need_not_ring(page, sleeping, service):
    alice, (_, browser) = await page("alice"), await sleeping()
    desk = await page("bob", "Desk")
    awake = Browser(service)
    await sync_to_async(Device.objects.filter(pk=desk.device).update)(push=awake.subscription)
    call = (await alice.invite("bob"))["call"]["id"]
    path, headers, body = await sync_to_async(service.push)()
    assert path == urlsplit(browser.subscription["endpoint"]).path
    assert browser.opens(body) == {"call": call}
    assert (headers["Urgency"], headers["Content-Encoding"]) == ("high", "aes128gcm")
    assert 0 < int(headers["TTL"]) <= 45
    await desk.sees(call)
    await desk.ask("answer", call=call)
    again, headers, body = await sync_to_async(service.push)()
    assert (again, browser.opens(body)) == (path, {"call": call, "over": True})
    assert headers["Topic"] == uuid.UUID(call).hex
    assert service.came.empty()  # nobody pushes to a device that is online


async def test_the_woken_device_asks_who_calls_and_declines(page, sleeping, service):
    alice, (phone, _) = await page("alice"), await sleeping()
    call = (await alice.invite("bob", "video"))["call"]["id"]
    bob = Client(headers={"cookie": phone.signed_in}, enforce_csrf_checks=True)
    said = (await sync_to_async(bob.get)(f"/ringing/{call}/")).json()
    token = said.pop("token")
    assert said == {
        "rings": True, "title": "Alice", "body": "Incoming video call", "answer": "Answer", "reject": "Decline",
    }  # fmt: skip
    refused = await sync_to_async(bob.post)(f"/ringing/{call}/reject/")
    assert refused.status_code == 403
    bob = Client(
        headers={"cookie": f"{phone.signed_in}; csrftoken={bob.cookies['csrftoken'].value}"}, enforce_csrf_checks=True
    )
    done = await sync_to_async(bob.post)(f"/ringing/{call}/reject/", headers={"X-CSRFToken": token})
    assert done.json() == {"rejected": True}
    await alice.sees(call, state="ended", reason="rejected")
    over = (await sync_to_async(bob.get)(f"/ringing/{call}/")).json()
    assert over == {"rings": False, "title": "Alice", "body": "Declined", "passing": True}
    second = (await alice.invite("bob"))["call"]["id"]
    await alice.ask("hangup", call=second)
    missed = (await sync_to_async(bob.get)(f"/ringing/{second}/")).json()
    assert missed == {"rings": False, "title": "Missed call from Alice", "body": ""}


async def test_in_a_group_each_device_is_woken_and_told_when_its_own_leg_closes(page, sleeping, service):
    alice, carol, dave = await page("alice"), await page("carol"), await page("dave")
    (phone, browser), desk = await sleeping(), await page("bob", "Desk")
    call = str(uuid.uuid4())
    await alice.ask("invite", call=call, to=["carol", "dave"], kind="audio")
    for each in (carol, dave):
        await each.sees(call)
        await each.ask("answer", call=call)
    await dave.ask("add", call=call, to=["bob"])
    path, _, body = await sync_to_async(service.push)()
    assert browser.opens(body) == {"call": call}
    bob = Client(headers={"cookie": phone.signed_in})
    assert (await sync_to_async(bob.get)(f"/ringing/{call}/")).json()["title"] == "Dave", "who invited him"
    await desk.sees(call)
    await desk.ask("reject", call=call)
    again, _, body = await sync_to_async(service.push)()
    assert (again, browser.opens(body)) == (path, {"call": call, "over": True}), "although the call goes on"
    await alice.ask("transfer", call=call, to="bob")
    _, _, body = await sync_to_async(service.push)()
    assert browser.opens(body) == {"call": call}, "and woken when it rings again"
    await alice.ask("remove", call=call, user="bob")
    _, _, body = await sync_to_async(service.push)()
    assert browser.opens(body) == {"call": call, "over": True}
    missed = (await sync_to_async(bob.get)(f"/ringing/{call}/")).json()
    assert (missed["rings"], missed["title"]) == (False, "Missed call from Alice")


async def test_a_call_is_nobodys_business_but_the_callees(page, sleeping, cookie, service):
    alice, _ = await page("alice"), await sleeping()
    call = (await alice.invite("bob"))["call"]["id"]
    for name in ("carol", "alice", "bob"):  # bob under a sign-in that has no device
        other = Client(headers={"cookie": await sync_to_async(cookie)(name)})
        assert (await sync_to_async(other.get)(f"/ringing/{call}/")).status_code == 404
        assert (await sync_to_async(other.post)(f"/ringing/{call}/reject/")).status_code == 404
    assert (await sync_to_async(Client().get)(f"/ringing/{call}/")).status_code == 401


@pytest.mark.parametrize("status", [404, 410])
async def test_an_address_that_is_gone_is_forgotten(page, sleeping, service, status):
    service.answer = status
    alice, (phone, _) = await page("alice"), await sleeping()
    await alice.invite("bob")
    await sync_to_async(service.push)()
    assert await until(lambda: Device.objects.get(pk=phone.device).push is None)


async def test_a_slow_push_service_delays_no_call(page, sleeping, service):
    service.hold.clear()
    alice, carol, _ = await page("alice"), await page("carol"), await sleeping()
    first = (await alice.invite("bob"))["call"]
    assert first["state"] == "ringing"
    await sync_to_async(service.came.get)(timeout=10)  # it has the push, and does not answer
    await alice.ask("hangup", call=first["id"])
    assert (await carol.invite("bob"))["call"]["state"] == "ringing"
    service.hold.set()


async def test_where_nothing_is_set_up_nothing_is_pushed(page, sleeping, service, settings):
    settings.CALLS = settings.CALLS | {"PUSH_KEY": ""}
    alice, _ = await page("alice"), await sleeping()
    before = push.sender.waiting.qsize()
    assert (await alice.invite("bob"))["call"]["state"] == "ringing"
    assert (push.sender.waiting.qsize(), service.came.empty()) == (before, True)


async def test_only_known_push_services_are_knocked_at(page, service, settings):
    phone, browser = await page("bob", "Phone"), Browser(service)
    bob = Client(headers={"cookie": phone.signed_in})

    async def subscribe(endpoint, device=phone.device):
        subscription = endpoint and browser.subscription | {"endpoint": endpoint}
        body = json.dumps({"id": device, "subscription": subscription})
        return (await sync_to_async(bob.post)("/devices/push/", body, content_type="application/json")).status_code

    for endpoint in (
        browser.subscription["endpoint"],
        "https://10.0.0.1/x",
        "http://fcm.googleapis.com/x",
        "https://fcm.googleapis.com:8443/x",
        "https://me@fcm.googleapis.com/x",
        "https://evil.example/fcm.googleapis.com",
        "https://notify.windows.com.evil.example/x",
        "https://[::1/x",
        "https://10.0.0.5\\.notify.windows.com/x",  # who connects reads the host up to the backslash
        "https://10.0.0.5\\@fcm.googleapis.com/x",
        "https://fcm.googleapis.com/x\r\nHost: inner",
        "https://fcm.googleapis.com?x",
        "https://fcm.googleapis.\u212aom/x",
    ):
        assert await subscribe(endpoint) == 403, endpoint
    for endpoint in ("https://fcm.googleapis.com/fcm/send/x", "https://wns2-am3p.notify.windows.com/w/?token=x"):
        assert await subscribe(endpoint) == 200
    assert await subscribe("https://web.push.apple.com/x", str(uuid.uuid4())) == 404
    kept = await sync_to_async(Device.objects.get)(pk=phone.device)
    assert kept.push["endpoint"].startswith("https://wns2")
    assert await subscribe(None) == 200
    assert (await sync_to_async(Device.objects.get)(pk=phone.device)).push is None


async def test_a_device_that_is_signed_out_is_not_woken_any_more(page, sleeping, service):
    from calls import switchboard

    phone, _ = await sleeping()
    device = await sync_to_async(Device.objects.get)(pk=phone.device)
    await sync_to_async(switchboard.sign_out)(device)
    assert (await sync_to_async(Device.objects.get)(pk=phone.device)).push is None


def test_the_command_makes_keys_that_the_settings_take(capsys, settings):
    from django.core.management import call_command

    from callplatform.environment import Environment

    call_command("push_keys")
    said = {name: values[0] for name, values in parse_qs(capsys.readouterr().out.replace("\n", "&")).items()}
    assert push.is_key(said["PUSH_KEY"]) and not push.is_key("A" * 43)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in said.items():
            patch.setenv(name, value)
        assert Environment(None).push_key("PUSH_KEY") == said["PUSH_KEY"]
        assert Environment(None).contact("PUSH_CONTACT") == said["PUSH_CONTACT"]
