"""The HTTP API: keys and scopes, people and lines, calls, and what is refused in which words."""

import datetime as dt
import io
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
from asgiref.sync import sync_to_async
from auditlog.models import LogEntry
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group
from django.core.management import CommandError, call_command
from django.db import connection
from django.test import Client
from django.utils import timezone

from calls.api import keys, users
from calls.api.site import api as site
from calls.models import ApiKey, ApiReply, Call
from devices.models import Device, Line, LineGroup
from tests.api_kit import Api, code
from tests.panel_kit import browser_in_role
from tests.race_kit import Handset

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def fresh_rates():
    keys._rates.cache_clear()
    keys.failed.spent_until.clear()


@pytest.fixture
def all_scopes(people):
    return Api(*keys.SCOPES, name="everything")


# --- keys -------------------------------------------------------------------------------------------------------------


def test_a_key_is_shown_once_and_only_its_hash_is_stored(people):
    out = io.StringIO()
    call_command("api_key", "crm", "--scope", "users:read", "--expires", "2999-01-01", stdout=out)
    shown = out.getvalue().splitlines()[-1]
    secret = shown.split("_", 2)[2]
    key = ApiKey.objects.get(name="crm")
    assert shown.startswith(f"cpk_{key.pk}_")
    assert secret not in str(ApiKey.objects.values()) and secret not in str(LogEntry.objects.values())
    me = Client().get("/api/v1/me", headers={"Authorization": f"Bearer {shown}"})
    assert me.json() == {"name": "crm", "scopes": ["users:read"], "expires": "2999-01-01T00:00:00Z"}
    assert me["Cache-Control"] == "no-store" and me["RateLimit-Limit"] == "200"
    for wrong in (["crm", "--scope", "users:read"], ["x"], ["y", "--scope", "users:read", "--network", "nonsense"]):
        with pytest.raises(CommandError):
            call_command("api_key", *wrong)
    call_command("api_key", "--revoke", "crm", stdout=out)
    assert code(Client().get("/api/v1/me", headers={"Authorization": f"Bearer {shown}"})) == (401, "unauthorized")


def test_whatever_is_wrong_with_a_key_is_the_same_401(people):
    good, ended = Api("users:read"), Api("users:read", name="old", expires_at=timezone.now() - dt.timedelta(seconds=1))
    elsewhere = Api("users:read", name="far", networks=["192.0.2.0/24"])
    answers = []
    for said in (
        None, "", "Bearer", "Basic eDp5", f"Bearer {good.shown}x", f"Bearer cpk_000000000000_{'x' * 43}", "Bearer \x00",
        f"Bearer {ended.shown}", f"Bearer {elsewhere.shown}",
    ):  # fmt: skip
        headers = {} if said is None else {"Authorization": said}
        response = Client().get("/api/v1/users", headers=headers)
        assert code(response) == (401, "unauthorized") and response["WWW-Authenticate"].startswith("Bearer")
        answers.append({name: value for name, value in response.json().items() if name != "request_id"})
    assert all(answer == answers[0] for answer in answers)
    assert good.get("/users").status_code == 200


def test_a_cookie_opens_nothing(people):
    client = Client()
    client.force_login(people["operator"])
    assert client.get("/api/v1/users").status_code == 401


def test_wrong_keys_of_one_address_are_slowed_down(people):
    found = [Client().get("/api/v1/me", headers={"Authorization": "Bearer cpk_x_y"}).status_code for _ in range(25)]
    assert found[0] == 401 and found[-1] == 429
    assert Api("users:read").get("/me").status_code == 200, "somebody else behind the same address"


def test_a_key_has_a_rate_of_its_own(people, set_calls):
    set_calls(API_RATE=1, API_BURST=3)
    one, other = Api("users:read"), Api("users:read", name="other")
    found = [one.get("/me") for _ in range(5)]
    assert [each.status_code for each in found] == [200, 200, 200, 429, 429]
    assert found[0]["RateLimit-Remaining"] == "2" and int(found[3]["Retry-After"]) >= 1
    assert other.get("/me").status_code == 200


CALL, DEVICE, TOKEN, HOOK = (uuid.UUID(int=number) for number in range(1, 5))
OPERATIONS = [
    ("GET", "/users", "users:read"),
    ("GET", "/users/bob", "users:read"),
    ("PUT", "/users/bob", "users:write"),
    ("DELETE", "/users/nobody", "users:erase"),
    ("GET", "/users/bob/line", "users:read"),
    ("PATCH", "/users/bob/line", "lines:write"),
    ("GET", "/users/bob/devices", "devices:read"),
    ("DELETE", f"/devices/{DEVICE}", "devices:write"),
    ("POST", "/users/bob/tokens", "tokens:mint"),
    ("GET", "/users/bob/tokens", "tokens:mint"),
    ("DELETE", "/users/bob/tokens", "tokens:mint"),
    ("DELETE", f"/tokens/{TOKEN}", "tokens:mint"),
    ("GET", "/events", "events:read"),
    ("GET", "/webhooks", "webhooks:read"),
    ("POST", "/webhooks", "webhooks:write"),
    ("PATCH", f"/webhooks/{HOOK}", "webhooks:write"),
    ("DELETE", f"/webhooks/{HOOK}", "webhooks:write"),
    ("POST", f"/webhooks/{HOOK}/rotate", "webhooks:write"),
    ("POST", f"/webhooks/{HOOK}/test", "webhooks:write"),
    ("GET", f"/webhooks/{HOOK}/deliveries", "webhooks:read"),
    ("POST", f"/webhooks/{HOOK}/replay", "webhooks:write"),
    ("GET", "/calls", "calls:read"),
    ("GET", f"/calls/{CALL}", "calls:read"),
    ("GET", f"/calls/{CALL}/events", "calls:read"),
    ("POST", f"/calls/{CALL}/end", "calls:write"),
    ("POST", f"/calls/{CALL}/legs", "calls:write"),
    ("DELETE", f"/calls/{CALL}/legs/bob", "calls:write"),
]


@pytest.mark.parametrize(("method", "path", "scope"), OPERATIONS)
def test_every_operation_needs_its_scope_and_no_other(people, method, path, scope):
    body = {} if method in ("PUT", "PATCH", "POST") else None
    without = Api(*(set(keys.SCOPES) - {scope}), name="without").ask(method, path, body)
    assert code(without) == (403, "forbidden") and without.json()["scope"] == scope
    assert Api(scope, name="with").ask(method, path, body).status_code in (200, 201, 204, 404, 422)


def test_every_operation_of_the_document_is_in_that_list(people):
    document = Client().get("/api/v1/openapi.json").json()
    found = {
        (method.upper(), path.removeprefix("/api/v1")) for path, said in document["paths"].items() for method in said
    }
    listed = {
        (m, p.replace("bob", "{username}").replace("nobody", "{username}").replace(str(CALL), "{call_id}"))
        for m, p, _ in OPERATIONS
    }
    listed = {(m, p.replace(f"{DEVICE}", "{device_id}").replace(f"{TOKEN}", "{jti}")) for m, p in listed}
    listed = {(m, p.replace(f"{HOOK}", "{webhook_id}")) for m, p in listed}
    assert found - {("GET", "/me"), ("POST", "/device/commands")} == listed  # these need no scope


def test_the_panel_makes_keys_shows_them_once_and_revokes_them(people):
    for role, may in (("viewer", False), ("operator", False), ("administrator", True)):
        assert (browser_in_role(people["carol"], role).get("/admin/calls/apikey/").status_code == 200) is may
    panel = browser_in_role(people["carol"], "administrator")
    said = {"name": "crm", "scopes": ["users:read"], "networks": "", "expires_at_0": "", "expires_at_1": ""}
    wrong = panel.post("/admin/calls/apikey/add/", said | {"networks": "nonsense"})
    assert "is no network" in wrong.content.decode() and not ApiKey.objects.exists()
    made = panel.post("/admin/calls/apikey/add/", said)
    shown = made.content.decode().partition('<code id="key">')[2].partition("</code>")[0]
    assert "no-store" in made["Cache-Control"]
    ask = lambda: Client().get("/api/v1/users", headers={"Authorization": f"Bearer {shown}"}).status_code  # noqa: E731
    assert ask() == 200
    key = ApiKey.objects.get()
    page = panel.get(f"/admin/calls/apikey/{key.pk}/change/").content.decode()
    assert shown.split("_", 2)[2] not in page and key.digest not in page
    panel.post("/admin/calls/apikey/", {"action": "revoke", "_selected_action": [key.pk]})
    assert ask() == 401
    changes = panel.get("/admin/auditlog/logentry/?what=apikey").content.decode()
    assert "crm" in changes and "revoked" in changes and key.digest not in changes


# --- errors and repeats -----------------------------------------------------------------------------------------------


def test_errors_are_problems_in_the_promised_order(all_scopes):
    ask = all_scopes
    assert code(ask.get("/nothing/here")) == (404, "not_found")
    assert code(ask.post("/users")) == (405, "method_not_allowed")
    assert code(ask.patch("/users/nobody/line", {"dnd": "maybe"})) == (404, "not_found")
    assert code(ask.post(f"/calls/{CALL}/legs", {"to": []})) == (404, "not_found")
    wrong = ask.patch("/users/bob/line", {"dnd": "maybe", "max_incoming": -1, "colour": "red"})
    assert code(wrong) == (422, "invalid")
    assert {each["field"] for each in wrong.json()["errors"]} == {"/dnd", "/max_incoming", "/colour"}
    for query in ("limit=0", "limit=201", "limit=x", "colour=red", "after=%00", "after=abc", "limit=1&limit=2"):
        wrong = ask.get(f"/users?{query}")
        assert code(wrong) == (422, "invalid"), query
        assert wrong.json()["errors"][0]["field"] == f"?{query.partition('=')[0]}"


@pytest.mark.parametrize(
    ("body", "kind", "expected"),
    [
        (b"{", "application/json", (400, "bad_frame")),
        (b"[" * 60_000, "application/json", (400, "bad_frame")),
        (b'{"name": "\\ud800"}', "application/json", (400, "bad_frame")),
        (b'{"name": "\xff"}', "application/json", (400, "bad_frame")),
        (b"name=x", "application/x-www-form-urlencoded", (415, "unsupported_type")),
        (b'"' + b"x" * 65_536 + b'"', "application/json", (413, "too_large")),
        (b"x" * 3_000_000, "application/json", (413, "too_large")),
        (b"[]", "application/json", (422, "invalid")),
        (b'{"name": "\\u0000"}', "application/json", (422, "invalid")),
    ],
)
def test_a_body_that_cannot_be_meant_is_refused_and_changes_nothing(all_scopes, body, kind, expected):
    headers = {"Authorization": f"Bearer {all_scopes.shown}"}
    answer = Client().put("/api/v1/users/bob", body, content_type=kind, headers=headers)
    assert code(answer) == expected


def test_a_post_that_is_sent_again_is_done_once(all_scopes, ringing_call):
    path = f"/calls/{ringing_call}/end"
    first = all_scopes.post(path, {"note": "Closing"}, Idempotency_Key="one")
    again = all_scopes.post(path, {"note": "Closing"}, Idempotency_Key="one")
    assert first.status_code == again.status_code == 200 and first.content == again.content
    assert "Idempotency-Replayed" not in first and again["Idempotency-Replayed"] == "true"
    assert code(all_scopes.post(path, {"note": "Other"}, Idempotency_Key="one")) == (422, "invalid")
    assert code(all_scopes.post(path, {}, Idempotency_Key="")) == (422, "invalid")
    other = Api("calls:write", name="other")
    assert "Idempotency-Replayed" not in other.post(path, {"note": "Closing"}, Idempotency_Key="one")
    stored = ApiReply.objects.get(key=all_scopes.key)
    assert b"Closing" not in bytes(stored.content)
    ApiReply.objects.filter(pk=stored.pk).update(status=None)
    assert code(all_scopes.post(path, {"note": "Closing"}, Idempotency_Key="one")) == (409, "conflict")


# --- people, lines, devices -------------------------------------------------------------------------------------------


def test_people_are_listed_page_by_page_and_found_by_words(all_scopes):
    found, after = [], ""
    while after is not None:
        page = all_scopes.get(f"/users?limit=2{after and '&after=' + after}").json()
        found += [each["username"] for each in page["items"]]
        after = page["next"]
    assert found == ["alice", "bob", "carol", "dave", "operator"]
    (bob,) = all_scopes.get("/users?q=bob").json()["items"]
    assert bob == {"username": "bob", "name": "Bob", "active": True, "online": False, "in_call": False}
    cursor = all_scopes.get("/users?limit=2").json()["next"]
    assert code(all_scopes.get(f"/users?q=a&after={cursor}")) == (422, "invalid")


def test_a_person_is_made_changed_deactivated_and_erased(all_scopes):
    made = all_scopes.put("/users/erin", {"name": "Erin M. Gray", "email": "erin@example.com"})
    assert made.status_code == 201 and made.json()["name"] == "Erin M. Gray"
    assert Line.objects.filter(user__username="erin").exists()
    assert not Client().login(username="erin", password="")
    changed = all_scopes.put("/users/erin", {"password": "a long walk home"})
    assert changed.status_code == 200 and changed.json()["name"] == "Erin M. Gray"
    assert all_scopes.get("/users/erin").json()["active"] is True
    assert all_scopes.put("/users/erin", {"active": False}).json()["active"] is False
    for wrong, field in (({"email": "no"}, "/email"), ({"password": "12345"}, "/password")):
        answer = all_scopes.put("/users/erin", wrong)
        assert code(answer) == (422, "invalid") and answer.json()["errors"][0]["field"] == field
    assert code(all_scopes.put("/users/what%20ever", {})) == (422, "invalid")
    said = str(list(LogEntry.objects.values_list("changes", "additional_data")))
    assert "key everything" in said and "long walk" not in said and "pbkdf2" not in said
    assert all_scopes.delete("/users/erin").status_code == 204
    assert code(all_scopes.get("/users/erin")) == (404, "not_found")


@pytest.mark.parametrize("name", ["-h", "--version", "-erin"])
def test_a_user_name_that_looks_like_an_option_is_erased_like_any_other(all_scopes, name):
    assert all_scopes.put(f"/users/{name}", {}).status_code == 201
    assert all_scopes.delete(f"/users/{name}").status_code == 204
    assert code(all_scopes.get(f"/users/{name}")) == (404, "not_found")


def until_read(query):
    """Until another connection's last statement was like this."""
    sql = "SELECT FROM pg_stat_activity WHERE query LIKE %s AND state <> 'active' AND pid <> pg_backend_pid()"
    end = time.monotonic() + 8
    while time.monotonic() < end:
        with connection.cursor() as cursor:
            cursor.execute(sql, [query])
            if cursor.fetchone() is not None:
                return
    raise AssertionError(query)


@pytest.mark.skipif(connection.vendor != "postgresql", reason="SQLite has one writer at a time")
def test_what_an_operator_changes_while_a_password_is_hashed_stays(all_scopes, people):
    assert users.hashing.acquire(timeout=5)  # the request waits for its turn to hash
    try:
        asking = ThreadPoolExecutor(1).submit(all_scopes.put, "/users/bob", {"password": "a long walk home"})
        until_read('%FROM "auth_user" WHERE "auth_user"."username" = \'bob\'%')
        get_user_model().objects.filter(pk=people["bob"].pk).update(is_active=False, email="bob@example.com")
    finally:
        users.hashing.release()
    assert asking.result(30).status_code == 200
    people["bob"].refresh_from_db()
    bob = people["bob"]
    assert (bob.is_active, bob.email) == (False, "bob@example.com") and bob.check_password("a long walk home")


def test_nobody_gives_a_key_more_than_they_may_do_themselves(people):
    call_command("roles", verbosity=0)
    people["alice"].is_staff = True
    people["alice"].save()
    people["alice"].groups.add(Group.objects.get(name="administrator"))
    administrator = Client()
    administrator.force_login(people["alice"])
    said = {"name": "too much", "networks": "", "expires_at_0": "", "expires_at_1": ""}
    for scope in ("users:erase", "tokens:mint"):
        refused = administrator.post("/admin/calls/apikey/add/", said | {"scopes": [scope]})
        assert b"is not one of the available choices" in refused.content, scope
    assert not ApiKey.objects.exists()
    assert administrator.post("/admin/calls/apikey/add/", said | {"scopes": ["calls:read"]}).status_code == 200
    assert ApiKey.objects.get().scopes == ["calls:read"]


def test_accounts_of_staff_can_be_read_and_not_changed(all_scopes, people):
    assert all_scopes.get("/users/operator/line").status_code == 200
    for answer in (
        all_scopes.put("/users/operator", {"password": "a long walk home"}),
        all_scopes.patch("/users/operator/line", {"dnd": True}),
        all_scopes.delete("/users/operator"),
    ):
        assert code(answer) == (403, "forbidden")
    people["operator"].refresh_from_db()
    assert people["operator"].check_password("secret")


def test_a_line_says_what_holds_and_who_says_so(all_scopes):
    LineGroup.objects.create(name="Desk", max_incoming=4)
    told = all_scopes.patch("/users/bob/line", {"group": "Desk", "max_outgoing": 2, "may_transfer": False}).json()
    assert told["own"]["max_incoming"] is None and told["in_force"]["max_incoming"] == 4
    assert told["from"]["max_incoming"] == "group" and told["from"]["max_outgoing"] == "own"
    assert told["from"]["max_legs"] == "platform" and told["in_force"]["max_legs"] == 9
    told = all_scopes.patch("/users/bob/line", {"edition": "off"}).json()
    assert told["own"]["multi_device"] is True and told["in_force"]["multi_device"] is False
    until = all_scopes.patch("/users/bob/line", {"edition": "until", "edition_until": "2999-01-01T00:00:00Z"}).json()
    assert until["in_force"]["edition_until"] == "2999-01-01T00:00:00Z"
    assert all_scopes.patch("/users/bob/line", {"edition": None, "group": None}).json()["own"]["group"] is None
    for wrong in ({"edition": "until"}, {"edition_until": "2999-01-01T00:00:00Z"}, {"group": "?"}, {"max_legs": 1}):
        assert code(all_scopes.patch("/users/bob/line", wrong)) == (422, "invalid"), wrong


async def test_a_device_is_listed_told_of_changes_and_signed_out(page, people):
    ask = await sync_to_async(Api)("devices:read", "devices:write", "lines:write", "users:write", "users:read")
    phone = await page("bob", "Phone")
    (device,) = (await sync_to_async(ask.get)("/users/bob/devices")).json()["items"]
    assert (device["id"], device["name"], device["online"]) == (phone.device, "Phone", True)
    assert (await sync_to_async(ask.get)("/users/bob")).json()["online"] is True
    await sync_to_async(ask.patch)("/users/bob/line", {"max_incoming": 7})
    assert (await phone.until(lambda frame: frame["t"] == "line"))["line"]["max_incoming"] == 7
    assert (await sync_to_async(ask.delete)(f"/devices/{phone.device}")).status_code == 204
    assert (await phone.until(lambda frame: frame["t"] == "bye"))["why"] == "signed_out"
    assert (await sync_to_async(ask.delete)(f"/devices/{phone.device}")).status_code == 204
    laptop = await page("bob", "Laptop")
    await sync_to_async(ask.put)("/users/bob", {"active": False})
    assert (await laptop.until(lambda frame: frame["t"] == "bye"))["why"] == "deactivated"


def test_a_device_of_staff_is_not_signed_out(all_scopes, people):
    now = timezone.now()
    times = {"logged_in_at": now, "last_seen_at": now, "online_until": now}
    device = Device.objects.create(user=people["operator"], name="Desk", **times)
    assert code(all_scopes.delete(f"/devices/{device.pk}")) == (403, "forbidden")


# --- calls ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def ringing_call(people):
    alice = Handset(people["alice"], "Laptop")
    Handset(people["bob"], "Phone")
    call = uuid.uuid4()
    assert alice.invites(people["bob"], call=call).do().refused is None
    return call


async def test_calls_are_listed_read_and_ended(talking, people):
    alice, _phone, _laptop, call = talking
    ask = await sync_to_async(Api)("calls:read", "calls:write", "users:read")
    (listed,) = (await sync_to_async(ask.get)("/calls?state=live&user=bob")).json()["items"]
    told = (await sync_to_async(ask.get)(f"/calls/{call}")).json()
    assert listed == told and told["state"] == "active" and told["host"] == "alice"
    assert {leg["user"]: leg["device"]["name"] for leg in told["legs"]} == {"alice": "Laptop", "bob": "Phone"}
    assert (await sync_to_async(ask.get)("/users/bob")).json()["in_call"] is True
    ended = await sync_to_async(ask.post)(f"/calls/{call}/end", {"note": "Maintenance"})
    assert ended.status_code == 200 and ended.json()["reason"] == "operator"
    assert (await alice.sees(call, state="ended"))["note"] == "Maintenance"
    again = await sync_to_async(ask.post)(f"/calls/{call}/end", {"note": "Other"})
    assert again.status_code == 200 and again.json()["note"] == "Maintenance"
    story = (await sync_to_async(ask.get)(f"/calls/{call}/events?limit=2")).json()
    assert [each["type"] for each in story["items"]] == ["Invite", "Answer"]
    rest = (await sync_to_async(ask.get)(f"/calls/{call}/events?after={story['next']}")).json()
    assert rest["items"][-1]["operator"] == "key crm" and rest["next"] is None
    assert (await sync_to_async(ask.get)("/calls?state=live")).json()["items"] == []


async def test_people_are_added_to_a_call_and_taken_out(talking, page, people):
    alice, _phone, _laptop, call = talking
    ask = await sync_to_async(Api)("calls:write")
    carol = await page("carol")
    added = await sync_to_async(ask.post)(f"/calls/{call}/legs", {"to": ["carol"]})
    assert added.status_code == 200 and added.json()["group"] is True
    assert (await carol.sees(call, state="active"))["me"]["state"] == "ringing"
    unknown = await sync_to_async(ask.post)(f"/calls/{call}/legs", {"to": ["nobody"]})
    assert code(unknown) == (404, "not_found") and unknown.json()["users"] == ["nobody"]
    assert (await sync_to_async(ask.delete)(f"/calls/{call}/legs/carol")).status_code == 204
    assert (await sync_to_async(ask.delete)(f"/calls/{call}/legs/carol")).status_code == 204
    assert code(await sync_to_async(ask.delete)(f"/calls/{call}/legs/dave")) == (404, "not_found")
    await alice.sees(call, state="active")


def test_lists_of_calls_go_on_where_they_stopped(all_scopes, people, django_assert_max_num_queries):
    at = timezone.now()
    for number in range(7):
        row = {"v": 1, "kind": "audio", "host": people["alice"], "placed_at": at - dt.timedelta(minutes=number // 2)}
        Call.objects.create(id=uuid.uuid4(), state="ended" if number else "active", **row)
    found, after = [], ""
    while after is not None:
        with django_assert_max_num_queries(12):
            page = all_scopes.get(f"/calls?limit=3{after and '&after=' + after}").json()
        found += page["items"]
        after = page["next"]
    assert len({each["id"] for each in found}) == len(found) == 7
    assert [each["placed_at"] for each in found] == sorted((each["placed_at"] for each in found), reverse=True)
    since = (at - dt.timedelta(seconds=61)).isoformat().replace("+", "%2B")
    assert len(all_scopes.get(f"/calls?since={since}").json()["items"]) == 4
    assert len(all_scopes.get(f"/calls?until={since}").json()["items"]) == 3
    assert code(all_scopes.get("/calls?since=2020-01-01T00:00:00")) == (422, "invalid")
    assert code(all_scopes.get("/calls?user=nobody")) == (404, "not_found")


# --- the document -----------------------------------------------------------------------------------------------------


def test_the_document_and_its_page_ask_for_no_key_and_nobody_else(people):
    document = Client().get("/api/v1/openapi.json").json()
    assert document["openapi"].startswith("3.1") and "CallTold" in document["components"]["schemas"]
    page = Client().get("/api/v1/docs").content.decode()
    assert "swagger" in page and "https://" not in page.replace('"/static', "")


ODD: list[object] = [
    None,
    True,
    -1,
    2**70,
    1.5,
    "",
    "x" * 500,
    "\0",
    "é" * 200,
    [],
    ["\0"],
    [[]],
    {},
    {"a": 1},
    "2999-13-01",
    "NaN",
]


def test_no_bad_input_is_ever_a_fault(all_scopes, ringing_call, people, caplog, set_calls):
    """Every operation of the document with odd values in each place: a problem, or what the document promises."""
    set_calls(API_BURST=100_000)
    document = site.get_openapi_schema()
    places = {"username": ["bob", "%00", "x" * 200, "%F0%9F%98%80", "../x"], "call_id": [str(ringing_call), str(CALL)],
              "device_id": [str(DEVICE), "nonsense"], "jti": [str(TOKEN)], "webhook_id": [str(HOOK)]}  # fmt: skip
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            promised = {int(status) for status in operation["responses"]}
            for name, values in [("", [""]), *((n, v) for n, v in places.items() if f"{{{n}}}" in path)]:
                for value in values:
                    address = path.removeprefix("/api/v1").replace(f"{{{name}}}", value)
                    for other, known in places.items():
                        address = address.replace(f"{{{other}}}", known[0])
                    for query in _queries(operation):
                        answer = all_scopes.ask(method.upper(), address + query)
                        assert answer.status_code in promised | {405}, (method, address, query, answer.content)
                    for body in _bodies(operation, document):
                        answer = all_scopes.ask(method.upper(), address, body)
                        assert answer.status_code in promised, (method, address, body, answer.content)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def _queries(operation):
    yield ""
    for parameter in operation.get("parameters", ()):
        if parameter["in"] == "query":
            for odd in ("", "%00", "-1", "9" * 30, "%F0%9F%98%80", "x" * 300, "0001-01-01T00:00:00Z", "null"):
                yield f"?{parameter['name']}={odd}"


def _bodies(operation, document):
    content = operation.get("requestBody", {}).get("content", {}).get("application/json")
    if content is None:
        return
    schema = content["schema"]
    while "$ref" in schema or "allOf" in schema:
        reference = schema.get("$ref") or schema["allOf"][0]["$ref"]
        schema = document["components"]["schemas"][reference.rpartition("/")[2]]
    yield from ODD
    for name in schema.get("properties", ()):
        for odd in ODD:
            yield {name: odd}
