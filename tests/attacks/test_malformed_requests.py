"""Requests that no browser makes: bytes that a database does not take, numbers without end, paths that lead nowhere.
Each has an answer that is no fault of the server, and nothing of them is logged as one."""

import json
import re
import socket
import uuid
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from tests.pages import Live

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(scope="module")
def server(launch_once):
    return launch_once(PROXIES="1", PUSH_HOSTS="fcm.googleapis.com")


# As they stand in an address.
VALUES = (
    "%00", "a%00b", "%ff%fe", "%ed%a0%80", "%F0%9F%92%A9", "%", "%zz", "'", '"', "-1", "0", "1e999", "NaN", "9" * 400,
    "%D9%A3", "%C2%B2", "%5B", "x" * 3000, "%0d%0aX:%20y", "..%2f..%2f", "%E2%80%AE", "1.5", "None", "0001-01-01",
)  # fmt: skip
PLACES = (
    "/people/?q={}", "/people/?page={}", "/history/?q={}", "/history/?before={}", "/history/?missed={}", "/?answer={}",
    "/?device={}", "/accounts/login/?next={}", "/ringing/{}/", "/static/{}", "/{}", "/{}/", "/ws/{}",
    "/admin/{}/", "/admin/login/?next={}", "/admin/devices/device/?q={}", "/admin/devices/device/?online={}",
    "/admin/devices/device/?kind__exact={}", "/admin/devices/device/?p={}", "/admin/devices/device/?o={}",
    "/admin/devices/device/?user__id__exact={}", "/admin/devices/device/?{}=1", "/admin/devices/device/{}/change/",
    "/admin/devices/line/?q={}", "/admin/devices/line/{}/change/", "/admin/calls/call/?q={}",
    "/admin/calls/call/{}/change/", "/admin/auth/user/?q={}", "/admin/auth/user/{}/change/", "/admin/auth/user/?e={}",
    "/admin/auditlog/logentry/?q={}", "/admin/jsi18n/?{}", "/words.js?{}", "/admin/autocomplete/?term={}",
    "/admin/r/{}/1/",
)  # fmt: skip
# As they stand in a header.
BYTES = (
    b'"\\000"', b'"\\000abcdefgh"', b"\x00", b"\xff\xfe", b"\x80" * 40, b"x" * 4000, b'"', b"=;=;", b"\\", b"'", b"%00",
    b'"\\377\\376"', b"\xed\xa0\x80", b"a b", b"9" * 400,
)  # fmt: skip
HEADERS = (
    b"Cookie: sessionid=%s", b"Cookie: csrftoken=%s", b"Cookie: django_language=%s", b"Cookie: messages=%s",
    b"Cookie: %s", b"Accept-Language: %s", b"X-Forwarded-For: %s", b"X-Forwarded-For: fe80::1%%%s",
    b"X-Forwarded-Proto: %s", b"User-Agent: %s", b"Referer: %s", b"Origin: %s", b"If-Modified-Since: %s",
    b"Accept-Encoding: %s", b"Content-Type: %s", b"Range: bytes=%s", b"Authorization: Bearer %s",
)  # fmt: skip
NUL = "a\0b"
BODIES = (
    ("/history/seen/", {"until": NUL}), ("/history/seen/", {"until": "9999-12-31T23:59:59.999999-23:59"}),
    ("/history/seen/", {"until": "0001-01-01T00:00:00+23:59"}), ("/history/hide/", {"ids": [2**70, -1, 0]}),
    ("/devices/rename/", {"id": NUL, "name": NUL}), ("/devices/rename/", {"id": str(uuid.uuid4()), "name": "\u202e"}),
    ("/devices/sign-out/", {"id": NUL}), ("/line/favourite/", {"user": NUL, "on": True}),
    ("/line/favourite/", {"user": "x" * 151, "on": True}), ("/line/dnd/", {"on": "yes"}),
    ("/devices/push/", {"id": "{device}", "subscription": {"endpoint": NUL, "keys": {"p256dh": "a", "auth": "b"}}}),
    ("/devices/push/", {"id": "{device}", "subscription": {
        "endpoint": "https://fcm.googleapis.com/" + NUL, "keys": {"p256dh": "A" * 87, "auth": "A" * 22}}}),
    ("/devices/push/", {"id": "{device}", "subscription": {
        "endpoint": "https://[fcm.googleapis.com/", "keys": {"p256dh": "A" * 87, "auth": "A" * 22}}}),
    ("/devices/push/", {"id": "{device}", "subscription": {
        "endpoint": "https://fcm.googleapis.com:99999999/", "keys": {"p256dh": "A" * 87, "auth": "A" * 22}}}),
)  # fmt: skip
FORMS = (
    ("/accounts/login/", "username=a%00b&password=c%00d"), ("/accounts/login/", "username=%ff&password=%ff"),
    ("/accounts/login/?next=%00", "username=bob&password=wrong"), ("/admin/login/?next=%00", "username=%00&password=x"),
    ("/accounts/login/?x=%00", "username=%00&password=x&csrfmiddlewaretoken=%00"),
    ("/language/", "language=%00&next=%00"), ("/language/", "language=de&next=//evil%00"),
    ("/admin/devices/device/", "action=%00&_selected_action=%00"),
    ("/admin/devices/device/", "action=sign_out&_selected_action=%00&_selected_action=x"),
    ("/admin/calls/call/", "action=end&_selected_action=%00"), ("/admin/auth/user/add/", "username=%00"),
    ("/admin/devices/line/import/", "format=%00"), ("/admin/devices/line/export/", "format=%00&resource=%00"),
    ("/admin/devices/linegroup/add/", "name=a%00b"), ("/admin/jsi18n/", "%00=%00"), ("/", "%00"),
)  # fmt: skip


def status(url: str, request: bytes) -> int:
    """Of the answer; 0 when the server closes the connection without one."""
    place = urlsplit(url)
    with socket.create_connection((place.hostname, place.port), 20) as peer:
        peer.sendall(request)
        answer = b""
        while len(answer) < 12 and (more := peer.recv(65536)):
            answer += more
    return int(answer[9:12]) if answer.startswith(b"HTTP/1.1 ") else 0


def request(path: str, cookie: bytes, *headers: bytes, body: bytes = b"") -> bytes:
    method = "POST" if body else "GET"
    common = [b"Host: 127.0.0.1", b"Connection: close", b"Content-Length: %d" % len(body)]
    if not any(header.startswith(b"Cookie:") for header in headers):
        common.append(b"Cookie: " + cookie)
    return b"\r\n".join([f"{method} {path} HTTP/1.1".encode(), *common, *headers, b"", body])


def requests(cookie: bytes, device: str) -> Iterator[tuple[str, bytes]]:
    """What is sent, and how it is named where it fails: each place gets the worst
    values, and a quarter of the others."""
    for number, place in enumerate(PLACES):
        for value in (*VALUES[:2], *VALUES[2 + number % 4 :: 4]):
            path = place.replace("{}", value)
            yield f"GET {path[:80]}", request(path, cookie)
    for number, header in enumerate(HEADERS):
        for text in (*BYTES[:3], *BYTES[3 + number % 4 :: 4]):
            yield f"{(header % text)[:80]!r}", request("/people/", cookie, header % text)
    token = b"t" * 32
    checked = (b"Cookie: csrftoken=" + token + b"; " + cookie, b"X-CSRFToken: " + token)
    for path, content in BODIES:
        body = json.dumps(content).replace("{device}", device).encode()
        yield (
            f"POST {path} {body[:80]!r}",
            request(path, cookie, *checked, b"Content-Type: application/json", body=body),
        )
    for path, form in FORMS:
        kind = b"Content-Type: application/x-www-form-urlencoded"
        yield f"POST {path} {form}", request(path, cookie, *checked, kind, body=form.encode())


async def test_no_malformed_request_is_a_fault_of_the_server(server, live, people):
    operator = await live("operator", server=server)
    asked = list(requests(operator.cookie.encode(), operator.device))
    failed = [name for name, sent in asked if status(server.url.replace("ws", "http"), sent) >= 500]
    assert len(asked) > 200 and not failed
    assert "Traceback" not in server.logged()
    assert (await operator.ping())["t"] == "pong"


@pytest.mark.parametrize("path", ["/ws/nope", "/ws", "/ws/wallboard", "/nope/", "/", "/ws/%00", "/ws/%ff/", "//ws/"])
async def test_a_socket_that_leads_nowhere_is_refused_in_plain_words(server, path):
    with pytest.raises(InvalidStatus) as refused:
        await connect(f"{server.url}{path}", origin=server.url.replace("ws", "http"))
    assert refused.value.response.status_code in (403, 404)
    assert "Traceback" not in server.logged()


ORIGINS = ("http://[.]", "http://[::1]]", "http://[1.2]:80", "http://[:::::]", "http://a:99999", "://", "null", "\x80")


@pytest.mark.parametrize("origin", ORIGINS)
async def test_a_strange_origin_is_refused_or_comes_as_a_stranger(server, origin):
    place = server.url.replace("ws", "http")
    handshake = (
        b"GET /ws/ HTTP/1.1", b"Host: 127.0.0.1", b"Connection: Upgrade", b"Upgrade: websocket",
        b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", b"Origin: " + origin.encode(),
        b"", b"",
    )  # fmt: skip
    assert status(place, b"\r\n".join(handshake)) in (400, 101)
    assert "Traceback" not in server.logged()


@pytest.mark.parametrize(
    "cookie",
    [
        'sessionid="\\000abcdefgh"',
        "sessionid=\x00",
        'sessionid="\\377"',
        "sessionid=\xff\xfe",
        "sessionid=",
        "=;;=",
        "x",
    ],
)
async def test_a_malformed_cookie_is_no_session(page, server, cookie):
    nobody = await page("alice", signed_in=cookie, hello=False)
    assert await nobody.closed() == 4401
    if "\x00" not in cookie:  # which no client can send
        over_network = await Live(server.url, cookie.encode().decode("latin-1"), "alice").open()
        try:
            assert await over_network.closed() == 4401
        finally:
            await over_network.close()
        assert "Traceback" not in server.logged()


def test_the_address_of_an_interface_is_taken_without_its_name():
    """`fe80::1%eth0`: the part behind the percent sign is no part of an address for the database."""
    from calls import address

    scope = {"headers": [], "client": ["fe80::1%eth0", 1]}
    assert address.of_scope(scope) == "fe80::1"
    assert re.fullmatch(r"[0-9a-f:]+", address.of_scope({"headers": [], "client": ["fe80::1%\0", 1]}) or "")
