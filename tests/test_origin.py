"""A socket that is opened by a page of this site has its cookies; any other is a stranger's, without them."""

from typing import Any

import pytest
from channels.testing import WebsocketCommunicator

from callplatform.origin import OriginCheck


async def accept(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    cookies = [value for name, value in scope["headers"] if name == b"cookie"]
    assert cookies == ([] if scope.get("stranger") else [b"sessionid=x"])
    await send({"type": "websocket.close"} if scope.get("stranger") else {"type": "websocket.accept"})


async def is_open_to(origin: str | None, host: str | None = "calls.example.com", *more: tuple[bytes, bytes]) -> bool:
    headers = [(b"cookie", b"sessionid=x"), (b"user-agent", b"test"), *more]
    headers += [(b"origin", origin.encode("latin-1"))] if origin is not None else []
    headers += [(b"host", host.encode("latin-1"))] if host is not None else []
    socket = WebsocketCommunicator(OriginCheck(accept), "/ws/", headers=headers)
    accepted, _ = await socket.connect(timeout=5)
    return accepted


@pytest.fixture(autouse=True)
def site(settings: Any) -> None:
    settings.DEBUG = False
    settings.ALLOWED_HOSTS = ["calls.example.com", ".example.org", "127.0.0.1", "[::1]"]
    settings.CSRF_TRUSTED_ORIGINS = ["https://intranet.example.net:8443", "https://*.partner.example"]
    settings.SECURE_SSL_REDIRECT = False


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("https://calls.example.com", "calls.example.com"),
        ("http://calls.example.com", "calls.example.com"),
        ("https://CALLS.example.com", "Calls.Example.com"),
        ("https://calls.example.com", "calls.example.com:443"),
        ("http://calls.example.com:80", "calls.example.com"),
        ("http://calls.example.com:8000", "calls.example.com:8000"),
        ("http://127.0.0.1:8000", "127.0.0.1:8000"),
        ("http://[::1]:8000", "[::1]:8000"),
        ("https://a.b.example.org", "a.b.example.org"),
        ("https://intranet.example.net:8443", "calls.example.com"),
        ("https://a.partner.example", "calls.example.com"),
        ("https://partner.example", "calls.example.com"),  # Django lets a form from there, too
        ("https://calls.example.com", None),
    ],
)
async def test_pages_of_the_site_and_of_trusted_origins_may(origin: str, host: str | None) -> None:
    assert await is_open_to(origin, host)


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        (None, "calls.example.com"),
        ("", "calls.example.com"),
        ("null", "calls.example.com"),
        ("http://[.]", "[.]"),  # Python's own parser raises for these
        ("http://[1.2]:80", "calls.example.com"),
        ("http://[:::::]", "calls.example.com"),
        ("https://evil.example", "calls.example.com"),
        ("https://evil.example", "evil.example"),
        ("https://evil.example", None),
        ("https://calls.example.com.evil.example", "calls.example.com"),
        ("https://calls.example.com:8443", "calls.example.com"),
        ("http://127.0.0.1:9000", "127.0.0.1:8000"),
        ("https://a.example.org", "calls.example.com"),
        ("https://user@calls.example.com", "calls.example.com"),
        ("https://calls.example.com/", "calls.example.com"),
        ("https://evil.example#calls.example.com", "calls.example.com"),
        ("ftp://calls.example.com", "calls.example.com"),
        ("file://", "calls.example.com"),
        ("https://calls.example.com\xe9", "calls.example.com"),
        ("https://intranet.example.net", "calls.example.com"),
        ("http://a.partner.example", "calls.example.com"),
        ("https://evilpartner.example", "calls.example.com"),
        ("https://calls.example.com", "not a host"),
    ],
)
async def test_everybody_else_is_refused(origin: str | None, host: str | None) -> None:
    assert not await is_open_to(origin, host)


async def test_two_origins_or_two_hosts_are_refused() -> None:
    assert not await is_open_to("https://calls.example.com", "calls.example.com", (b"origin", b"https://evil.example"))
    assert not await is_open_to("https://calls.example.com", "calls.example.com", (b"host", b"evil.example"))


async def test_with_https_a_page_over_plain_http_is_refused(settings: Any) -> None:
    settings.SECURE_SSL_REDIRECT = True
    assert await is_open_to("https://calls.example.com")
    assert not await is_open_to("http://calls.example.com")


async def test_in_debug_without_hosts_localhost_may(settings: Any) -> None:
    settings.DEBUG = True
    settings.ALLOWED_HOSTS = []
    assert await is_open_to("http://localhost:8000", "localhost:8000")
    assert await is_open_to("http://127.0.0.1:8000", "127.0.0.1:8000")
    assert not await is_open_to("http://192.168.1.5:8000", "192.168.1.5:8000")


async def test_outside_debug_without_hosts_nobody_may(settings: Any) -> None:
    settings.ALLOWED_HOSTS = []
    assert not await is_open_to("http://localhost:8000", "localhost:8000")
