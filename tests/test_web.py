"""Which request takes which lane, and who is taken for one client."""

import json

import pytest
from django.contrib.auth.hashers import MD5PasswordHasher
from django.db import connection
from django.test import Client

from callplatform import web


def scope(path="/", method="GET", client="192.0.2.1", **headers):
    said = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return {"type": "http", "method": method, "path": path, "headers": said, "client": [client, 1], "query_string": b""}


@pytest.mark.parametrize(
    ("asked", "lane"),
    [
        (scope("/"), web.pages),
        (scope("/accounts/login/"), web.pages),
        (scope("/accounts/login/", "POST"), web.sign_ins),
        (scope("/admin/login/", "POST"), web.sign_ins),
        (scope("/admin/password_change/", "POST"), web.sign_ins),
        (scope("/admin/auth/user/add/", "POST"), web.sign_ins),
        (scope("/admin/auth/user/7/password/", "POST"), web.sign_ins),
        (scope("/static/calls/main.js"), web.files),
        (scope("/healthz"), web.machines),
        (scope("/readyz"), web.machines),
        (scope("/metrics", authorization="Bearer x"), web.machines),
        (scope("/metrics", cookie="sessionid=x"), web.pages),
    ],
)
def test_each_kind_of_request_has_a_lane_of_its_own(asked, lane):
    assert web.lane_of(asked) is lane


def test_a_client_is_an_address_and_a_session(settings):
    cookie = "csrftoken=a; sessionid=mine; language=de"
    assert web.client_of(scope(cookie=cookie)) == ("192.0.2.1", "mine")
    assert web.client_of(scope(cookie="xsessionid=not")) == ("192.0.2.1", "")
    assert web.client_of(scope(client="2001:db8:1:2::7")) == web.client_of(scope(client="2001:db8:1:2:3::8"))
    assert web.client_of(scope(client="2001:db8:1:3::7")) != web.client_of(scope(client="2001:db8:1:2::7"))
    settings.CALLS = settings.CALLS | {"PROXIES": 1}
    assert web.client_of(scope(x_forwarded_for="203.0.113.9, 198.51.100.1")).address == "198.51.100.1"


async def test_machines_and_files_are_asked_without_cookies_and_pages_with_theirs():
    heard = []

    async def application(scope, receive, send):
        heard.append(any(name == b"cookie" for name, _ in scope["headers"]))

    site = web.in_lanes(application)
    for path in ("/healthz", "/static/calls/main.js", "/people/"):
        await site(scope(path, cookie="sessionid=x"), None, None)
    assert heard == [False, False, True]


async def test_the_api_has_a_lane_of_its_own_shared_fairly_by_keys_and_knows_no_cookie():
    asked = scope("/api/v1/calls", authorization="Bearer cpk_0123456789ab_secret", cookie="sessionid=x")
    assert web.lane_of(asked) is web.api and web.client_of(asked).session == "cpk_0123456789ab"
    kind, body = web.busy(asked)
    assert kind == "application/problem+json" and json.loads(body)["code"] == "unavailable"


@pytest.mark.parametrize(
    ("language", "words"), [("de", "Der Server hat zu viel zu tun."), ("en", "The server has too much to do.")]
)
def test_who_has_to_come_back_is_told_so_in_a_language_of_theirs(language, words):
    assert words in web.busy(scope(accept_language=language))[1].decode()


class Noting(MD5PasswordHasher):
    """Notes whether a connection is held while a password is hashed."""

    algorithm = "noting"
    held: list[bool] = []

    def encode(self, password, salt):
        self.held.append(connection.connection is not None)
        return super().encode(password, salt)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("name", "password", "status"), [("bob", "right", 302), ("bob", "no", 200), ("who", "no", 200)]
)
def test_no_connection_is_held_while_a_password_is_hashed(people, settings, name, password, status):
    settings.PASSWORD_HASHERS = [f"{__name__}.Noting"]
    people["bob"].set_password("right")
    people["bob"].save()
    Noting.held.clear()
    assert Client().post("/accounts/login/", {"username": name, "password": password}).status_code == status
    assert Noting.held == [False]


@pytest.mark.django_db(transaction=True)
def test_what_is_tried_while_a_name_is_locked_is_not_written_down(people, settings):
    """Such a try costs no hash, so nothing would bound how much is written."""
    from axes.models import AccessAttempt

    for _ in range(15):
        Client().post("/accounts/login/", {"username": "bob", "password": "wrong"})
    attempt = AccessAttempt.objects.get()
    assert attempt.failures_since_start == settings.AXES_FAILURE_LIMIT
    attempt.delete()
