"""Tokens: an app of somebody else is a device of a person, from a page of its own or from none."""

import asyncio
import datetime as dt
import json
import threading
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import jwt
import pytest
from asgiref.sync import sync_to_async
from cryptography.hazmat.primitives.asymmetric import rsa
from django.test import Client
from django.utils import timezone

from callplatform.origin import OriginCheck
from calls import tokens
from calls.api import keys
from calls.consumers import STRANGERS, SignalingConsumer
from calls.hub import hub
from calls.models import Token
from devices.models import Device
from devices.sessions import SessionStore
from tests.api_kit import Api, code
from tests.pages import Local
from tests.panel_kit import browser_in_role

pytestmark = pytest.mark.django_db(transaction=True)
SHOP = "https://shop.example.com"


@pytest.fixture(autouse=True)
def fresh(settings):
    settings.ALLOWED_HOSTS = ["testserver", "calls.example.com"]
    keys._rates.cache_clear()
    keys.failed.spent_until.clear()


@pytest.fixture
def back_end(people):
    return Api("tokens:mint", "users:write", "users:read")


@pytest.fixture
async def app():
    """Opens a socket without a cookie: `await app("alice", token)`, from a page of `origin`, or from no page."""
    opened = []

    async def open_app(user, token=None, origin=None, cookie="", name="App", **hello):
        headers = [(b"host", b"calls.example.com"), (b"cookie", cookie.encode())]
        headers += [(b"origin", origin.encode())] if origin else []
        local = Local(OriginCheck(SignalingConsumer.as_asgi()), headers, user, name=name, **hello)
        opened.append(await local.open())
        local.answer = await say_hello(local, token) if token else None
        return local

    yield open_app
    for local in opened:
        await local.close()
    await hub.stop()


async def say_hello(local, token):
    device = {"id": local.device, "name": local.name, "kind": "ios"}
    re = await local.say("hello", page=local.page, device=device, token=token)
    answer = await local.until(lambda frame: frame.get("re") == re or frame["t"] == "bye")
    if answer["t"] == "welcome":
        local.device = answer["device"]["id"]
    return answer


def minted(back_end, user="alice", **body):
    return back_end.post(f"/users/{user}/tokens", body).json()


mint = sync_to_async(minted)


async def test_an_app_without_a_cookie_rings_and_answers(app, back_end, page):
    made = await mint(back_end, "bob", origins=[SHOP])
    phone = await app("bob", made["token"], origin=SHOP)
    assert phone.answer["t"] == "welcome" and phone.answer["user"]["id"] == "bob"
    native = await app("bob", (await mint(back_end, "bob"))["token"], name="Native")
    assert native.answer["t"] == "welcome"
    alice = await page("alice")
    call = (await alice.invite("bob"))["call"]["id"]
    await phone.sees(call, state="ringing")
    assert (await phone.ask("answer", call=call))["ok"]
    assert (await alice.sees(call, state="active"))["state"] == "active"
    await native.sees(call, state="active")


async def test_only_the_tokens_own_pages_and_the_sites_may_use_it(app, back_end):
    token = (await mint(back_end, origins=[SHOP]))["token"]
    for origin, answer in (
        (SHOP, "welcome"), ("https://SHOP.example.com", "welcome"), ("https://calls.example.com", "welcome"),
        ("https://evil.example.com", "bye"), ("null", "bye"), (f"{SHOP}:8443", "bye"),
        ("http://shop.example.com", "bye"),
    ):  # fmt: skip
        there = await app("alice", token, origin=origin, device=None)
        assert there.answer["t"] == answer, origin
        if answer == "bye":
            assert there.answer["why"] == "signed_out" and await there.closed() == 4401
        else:
            await there.close()
            await sync_to_async(Token.objects.update)(device=None)


async def test_a_foreign_page_has_no_use_of_the_cookie(app, cookie, people):
    signed_in = await sync_to_async(cookie)("alice")
    for origin in (None, "https://evil.example.com"):
        there = await app("alice", origin=origin, cookie=signed_in)
        device = {"id": None, "name": "x", "kind": "web"}
        await there.say("hello", page=there.page, device=device)
        assert (await there.until(lambda frame: frame["t"] == "bye"))["why"] == "signed_out"
        assert await there.closed() == 4401


async def test_a_stranger_who_shows_no_token_is_sent_away_and_few_may_wait(app, set_calls, people):
    set_calls(HELLO_S=0.2)
    silent = await app("alice")
    assert (await silent.until(lambda frame: frame["t"] == "bye"))["why"] == "signed_out"
    await silent.close()
    set_calls(HELLO_S=30)
    waiting = [await app("alice") for _ in range(STRANGERS)]
    with pytest.raises(AssertionError):
        await app("alice")
    await waiting[0].close()
    assert await app("alice")


@pytest.mark.parametrize("how", ["garbage", "none", "other_secret", "other_audience", "ended", "forged_jti"])
async def test_what_is_no_token_of_this_site_opens_nothing(app, back_end, how):
    good = await mint(back_end)
    said = jwt.decode(good["token"], options={"verify_signature": False})
    now = timezone.now()
    bad = {
        "garbage": lambda: "x.y.z",
        "none": lambda: jwt.encode(said, None, "none"),
        "other_secret": lambda: jwt.encode(said, "x" * 32, "HS256"),
        "other_audience": lambda: jwt.encode(said | {"aud": "panel"}, tokens._secret(), "HS256"),
        "ended": lambda: jwt.encode(said | {"exp": int(now.timestamp()) - 60}, tokens._secret(), "HS256"),
        "forged_jti": lambda: jwt.encode(said | {"jti": str(uuid.uuid4())}, tokens._secret(), "HS256"),
    }[how]()
    there = await app("alice", bad)
    assert there.answer["why"] == ("token_ended" if how == "ended" else "signed_out")
    assert await there.closed() == 4401


async def test_a_token_stays_with_its_device(app, back_end):
    made = await mint(back_end, device={"name": "Till 3", "kind": "other"})
    till = await app("alice", made["token"])
    assert till.answer["device"] == {"id": made["device"], "name": "Till 3", "kind": "other"}
    plain = await mint(back_end)
    first = await app("alice", plain["token"])
    second = await app("alice", plain["token"])
    assert second.answer["error"]["code"] == "device_in_use", "the token names the device of its first hello"
    assert first.device != made["device"]


async def test_a_token_opens_no_page(back_end, people):
    made = await mint(back_end)
    for cookie in (made["token"], made["jti"], uuid.UUID(made["jti"]).hex):
        client = Client()
        client.cookies["sessionid"] = cookie
        assert (await sync_to_async(client.get)("/people/")).status_code == 401
    stored = await sync_to_async(Token.objects.get)()
    assert made["token"] not in str(stored.__dict__)


@pytest.mark.parametrize("how", ["token", "all", "device", "deactivated", "panel"])
async def test_a_revoked_token_closes_its_socket_at_once(app, back_end, people, how):
    made = await mint(back_end)
    there = await app("alice", made["token"])
    panel = await sync_to_async(browser_in_role)(people["carol"], "operator")
    done = {
        "token": lambda: back_end.delete(f"/tokens/{made['jti']}"),
        "all": lambda: back_end.delete("/users/alice/tokens"),
        "device": lambda: Api("devices:write", name="other").delete(f"/devices/{there.device}"),
        "deactivated": lambda: back_end.put("/users/alice", {"active": False}),
        "panel": lambda: panel.post("/admin/calls/token/", {"action": "revoke", "_selected_action": [made["jti"]]}),
    }[how]
    assert (await sync_to_async(done)()).status_code in (200, 204, 302)
    assert await there.closed(5) == 4401
    if how == "deactivated":
        assert (await sync_to_async(back_end.put)("/users/alice", {"active": True})).status_code == 200
    again = await app("alice", made["token"])
    assert again.answer["why"] == "signed_out"
    assert (await sync_to_async(back_end.get)("/users/alice/tokens")).json()["items"] == []


async def test_a_device_is_warned_renews_on_the_open_socket_and_stays(app, back_end, monkeypatch):
    monkeypatch.setattr("calls.consumers.TOKEN_WARNS_S", 3600.0)
    first = await mint(back_end, ttl_s=3600)
    there = await app("alice", first["token"])
    warned = await there.until(lambda frame: frame["t"] == "token")
    assert 3_500_000 < warned["ends_ms"] <= 3_600_000
    second = await mint(back_end, ttl_s=7200)
    assert (await there.ask("token", token=second["token"]))["ok"]
    stranger = (await mint(back_end, "bob"))["token"]
    assert (await there.ask("token", token=stranger))["error"]["code"] == "not_allowed"
    assert (await there.ask("token", token="x"))["error"]["code"] == "not_allowed"
    (live,) = (await sync_to_async(back_end.get)("/users/alice/tokens")).json()["items"]
    assert (live["jti"], live["device"]) == (second["jti"], there.device)
    device = await Device.objects.aget(pk=there.device)
    assert device.signed_out_at is None and (await there.ping())["t"] == "pong"
    await sync_to_async(back_end.delete)(f"/tokens/{second['jti']}")
    assert await there.closed(5) == 4401


async def test_a_token_that_ends_closes_its_socket_but_not_a_call_at_once(app, back_end, monkeypatch, page):
    monkeypatch.setattr("calls.tokens.GRACE_S", 1.0)
    token = (await mint(back_end, ttl_s=1))["token"]
    idle = await app("alice", token)
    assert (await idle.until(lambda frame: frame["t"] == "bye"))["why"] == "token_ended"
    assert await idle.closed() == 4401
    carol, alice = await page("carol"), await app("alice", (await mint(back_end, ttl_s=2))["token"])
    call = (await carol.invite("alice"))["call"]["id"]
    await alice.sees(call, state="ringing")
    assert (await alice.ask("answer", call=call))["ok"]
    began = asyncio.get_running_loop().time()
    assert (await alice.until(lambda frame: frame["t"] == "bye"))["why"] == "token_ended"
    assert asyncio.get_running_loop().time() - began > 1


def test_who_gets_no_token(back_end, people):
    assert code(back_end.post("/users/operator/tokens")) == (403, "forbidden")
    assert code(back_end.post("/users/nobody/tokens")) == (404, "not_found")
    back_end.put("/users/bob", {"active": False})
    assert code(back_end.post("/users/bob/tokens")) == (409, "not_allowed")
    for wrong in (
        {"ttl_s": 0}, {"ttl_s": 86_401}, {"origins": ["shop"]}, {"origins": [f"{SHOP}/x"]}, {"device": {"name": "x"}},
        {"device": {"name": "\u200b", "kind": "web"}}, {"device": {"name": "x", "kind": "toaster"}},
    ):  # fmt: skip
        assert code(back_end.post("/users/alice/tokens", wrong)) == (422, "invalid"), wrong
    assert not Token.objects.exists()


def test_tokens_that_have_ended_are_forgotten(back_end, people):
    minted(back_end)
    Token.objects.update(expires_at=timezone.now() - dt.timedelta(hours=1))
    assert tokens.forget() is False and not Token.objects.exists()
    assert SessionStore.get_model_class().objects.filter(expire_date__gt=timezone.now()).count() <= 1


# --- JWTs of somebody else --------------------------------------------------------------------------------------------


ISSUER, SECRET = "https://shop.example.com", "a secret that both share, long enough"


@pytest.fixture
def trusted(set_calls):
    set_calls(JWT_ISSUER=ISSUER, JWT_AUDIENCE="calls", JWT_SECRET=SECRET)
    return set_calls


def theirs(name="alice", key=SECRET, algorithm="HS256", headers=None, **said):
    ends = int(timezone.now().timestamp()) + 600
    return jwt.encode({"iss": ISSUER, "aud": "calls", "sub": name, "exp": ends, **said}, key, algorithm, headers)


async def test_a_jwt_of_the_trusted_issuer_signs_a_device_in_until_it_is_revoked(app, trusted, back_end):
    token = theirs(org=[SHOP])
    there = await app("alice", token, origin=SHOP)
    assert there.answer["user"]["id"] == "alice"
    (live,) = (await sync_to_async(back_end.get)("/users/alice/tokens")).json()["items"]
    await sync_to_async(back_end.delete)(f"/tokens/{live['jti']}")
    assert await there.closed(5) == 4401
    assert (await app("alice", token, origin=SHOP)).answer["why"] == "signed_out", "it does not come back as a new one"
    assert (await app("alice", theirs(jti="another"))).answer["t"] == "welcome"


async def test_what_the_other_issuer_cannot_sign_in(app, trusted, people):
    day = int(timezone.now().timestamp()) + 90_000
    refused = [
        theirs("operator"), theirs("nobody"), theirs(key="x" * 40), theirs(aud="other"), theirs(exp=day), theirs(sub=7),
        theirs(org="x"), jwt.encode({"iss": ISSUER, "aud": "calls", "sub": "alice"}, SECRET, "HS256"), theirs("a\0b"),
        jwt.encode({"iss": ISSUER, "aud": "calls", "sub": "alice", "exp": day - 86_000}, None, "none"),
    ]  # fmt: skip
    for number, token in enumerate(refused):
        assert (await app("alice", token)).answer["why"] == "signed_out", number
    assert (await app("alice", theirs(exp=day - 90_100))).answer["why"] == "token_ended"
    trusted(JWT_ISSUER="")
    assert (await app("alice", theirs())).answer["why"] == "signed_out"


async def test_people_are_made_on_first_sight_where_the_site_says_so(app, trusted):
    trusted(JWT_CREATE=True, JWT_CLAIM="email")
    there = await app("frank", theirs("x", email="frank@example.com"))
    assert there.answer["user"]["id"] == "frank@example.com"
    assert (await app("frank", theirs("x", email="no name/"))).answer["why"] == "signed_out"


async def test_keys_that_the_issuer_publishes_are_asked_for_rarely(app, trusted, people):
    mine, other = (rsa.generate_private_key(65537, 2048) for _ in range(2))
    asked = []
    public = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(mine.public_key())) | {"kid": "one", "use": "sig"}

    class Keys(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"keys": [public]}).encode())

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Keys)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    trusted(JWT_SECRET="", JWT_JWKS_URL=f"http://127.0.0.1:{server.server_port}/keys")
    try:
        signed = theirs(key=mine, algorithm="RS256", headers={"kid": "one"})
        assert (await app("alice", signed)).answer["t"] == "welcome"
        for forged in (
            theirs(key=other, algorithm="RS256", headers={"kid": "one"}),
            *(theirs(key=other, algorithm="RS256", headers={"kid": f"{number}"}) for number in range(3)),
            theirs(headers={"kid": "one"}, key=public["n"]),  # HS256, by what everybody can read
        ):
            assert (await app("alice", forged)).answer["why"] == "signed_out"
        assert len(asked) == 1
    finally:
        server.shutdown()
        server.server_close()


# --- commands over HTTP -----------------------------------------------------------------------------------------------


class Phone:
    """An app that was woken: it has a token, and no socket yet."""

    def __init__(self, made):
        self.token, self.device = made["token"], made["device"]

    def post(self, frame, **headers):
        headers = {"Authorization": f"Bearer {self.token}", **headers}
        return Client().post("/api/v1/device/commands", frame, "application/json", headers=headers)

    async def command(self, cmd, **args):
        answer = await sync_to_async(self.post)({"id": "1", "cmd": cmd, **args})
        assert answer.status_code == 200, answer.content
        return answer.json()


async def test_a_woken_phone_answers_before_its_socket_and_then_has_the_call(app, back_end, page):
    made = await mint(back_end, "bob", device={"name": "Phone", "kind": "ios"})
    phone, alice = Phone(made), await page("alice")
    call = (await alice.invite("bob"))["call"]["id"]
    answered = await phone.command("answer", call=call)
    assert answered["t"] == "reply" and answered["ok"] and answered["call"]["me"]["here"] is True
    await alice.sees(call, state="active")
    again = await phone.command("answer", call=call)
    assert again["ok"], "a repeat"
    socket = await app("bob", made["token"], name="Phone", device=made["device"])
    (seen,) = socket.answer["calls"]
    assert "signal" in seen["me"]["can"] and seen["me"]["here"] is True
    assert (await phone.command("hangup", call=call))["ok"]
    assert (await alice.sees(call, state="ended"))["reason"] == "completed"


async def test_a_phone_without_a_socket_calls_and_is_refused_as_on_the_socket(back_end, page, people):
    phone = Phone(await mint(back_end, "bob", device={"name": "Phone", "kind": "ios"}))
    call = str(uuid.uuid4())
    alice = await page("alice")
    assert (await phone.command("invite", call=call, to=["alice"], kind="audio"))["ok"]
    await alice.sees(call, state="ringing")
    assert (await phone.command("presence", of=["alice", "carol"]))["people"] == {"alice": "online", "carol": "offline"}
    refused = {
        "not_found": await phone.command("hangup", call=str(uuid.uuid4())),
        "expired": await phone.command("invite", call=str(uuid.uuid4()), to=["alice"], kind="audio", age=60_000),
        "multi_device_off": await phone.command("multi_device", on=True),
        "bad_frame": await phone.command("ping"),
    }
    for expected, reply in refused.items():
        assert (reply["ok"], reply["error"]["code"]) == (False, expected)
    assert (await phone.command("nonsense"))["error"]["code"] == "bad_frame"


def test_who_gives_no_commands_over_http(back_end, people):
    made = minted(back_end, "bob", device={"name": "Phone", "kind": "ios"}, origins=[SHOP])
    ping = {"id": "1", "cmd": "presence", "of": ["bob"]}
    deviceless = Phone(minted(back_end, "bob"))
    assert code(deviceless.post(ping)) == (409, "not_allowed")
    for bad in (back_end.shown, "x", made["token"] + "x"):
        assert code(Phone({"token": bad, "device": None}).post(ping)) == (401, "unauthorized")
    phone = Phone(made)
    assert code(phone.post(ping, Origin="https://evil.example.com")) == (401, "unauthorized")
    answered = phone.post(ping, Origin=SHOP)
    assert answered.status_code == 200 and answered["Access-Control-Allow-Origin"] == SHOP
    assert "Access-Control-Allow-Origin" not in back_end.get("/users", Origin=SHOP)
    asked = Client().options("/api/v1/device/commands", headers={"Origin": SHOP})
    assert asked.status_code == 204 and "Access-Control-Allow-Credentials" not in asked
    for body, status in (("{", 400), ("x" * 70_000, 413)):
        headers = {"Authorization": f"Bearer {phone.token}"}
        answer = Client().post("/api/v1/device/commands", body, "application/json", headers=headers)
        assert answer.status_code == status
    back_end.delete(f"/tokens/{made['jti']}")
    assert code(phone.post(ping)) == (401, "unauthorized")
