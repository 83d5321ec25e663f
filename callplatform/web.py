"""HTTP for Django, in lanes: which request takes which, and what is said to those whose turn does not come.

Pages, sign-ins, static files, the HTTP API and what machines ask have a lane each, so that none of them waits for
another.
"""

import io
import ipaddress
import json
import re
from functools import cache
from urllib.parse import parse_qs

from django.conf import settings
from django.core.handlers.asgi import ASGIRequest
from django.template.loader import render_to_string
from django.utils import translation

from callplatform.lanes import Application, Client, Lane, Lanes, Receive, Scope, Send
from calls import address

pages = Lane(settings.PAGE_THREADS, wait_s=5, queue=256)
# A password takes a third of a second of one core to be checked. More than one at a time, and a server process, which
# has one core as a rule, would do little else.
sign_ins = Lane(settings.SIGN_INS_AT_ONCE, wait_s=10, queue=32)
files = Lane(4, wait_s=10, queue=512)
machines = Lane(4, wait_s=3, queue=64)
api = Lane(settings.API_THREADS, wait_s=5, queue=256)
# Whoever waits for events holds a thread, and no connection meanwhile.
followers = Lane(16, wait_s=5, queue=64)

FOR_MACHINES = {"/healthz", "/readyz"}
FIGURES = "/metrics"
# What checks or makes a password: both ways to sign in, and in the panel a new account and a changed password.
HASHES = re.compile(r"/(login|password|password_change|user/add)/$")
API = "/api/v1/"
KEY = re.compile(r"bearer\s+(cpk_[0-9a-f]+)_", re.IGNORECASE)  # the public part
SESSION = re.compile(rf"(?:^|;)\s*{re.escape(settings.SESSION_COOKIE_NAME)}=([^;]*)")


def lane_of(scope: Scope) -> Lane:
    path = scope["path"]
    if path in FOR_MACHINES or (path == FIGURES and _header(scope, b"authorization")):
        return machines
    if path.startswith(settings.STATIC_URL):
        return files
    if API in path:
        waits = path.endswith("/events") and "wait_s" in parse_qs(scope["query_string"].decode("latin-1"), True)
        return followers if waits else api
    return sign_ins if scope["method"] == "POST" and HASHES.search(path) else pages


def client_of(scope: Scope) -> Client:
    """The address, of IPv6 the network that one customer has, and the session, or key, that the request says it has."""
    where = address.of_scope(scope) or ""
    if ":" in where:
        where = str(ipaddress.ip_network((where, 64), strict=False))
    if API in scope["path"]:
        said = KEY.match(_header(scope, b"authorization").decode("latin-1"))
    else:
        said = SESSION.search(_header(scope, b"cookie").decode("latin-1"))
    return Client(where, said[1] if said else "")


def busy(scope: Scope) -> tuple[str, bytes]:
    """What says to try again: a page in the client's language, or a problem of the API."""
    if API in scope["path"]:
        title = "Too many requests are being worked on. Try again in a moment."
        problem = {"type": "about:blank", "title": title, "status": 503, "detail": title, "code": "unavailable"}
        return "application/problem+json", json.dumps(problem).encode()
    try:
        language = translation.get_language_from_request(ASGIRequest(scope, io.BytesIO()))
    except UnicodeDecodeError:
        language = settings.LANGUAGE_CODE
    return "text/html; charset=utf-8", _busy(language, lane_of(scope) is sign_ins)


@cache
def _busy(language: str, signing_in: bool) -> bytes:
    with translation.override(language):
        return render_to_string("calls/busy.html", {"signing_in": signing_in}).encode()


def _header(scope: Scope, name: bytes) -> bytes:
    return b"; ".join(value for each, value in scope["headers"] if each.lower() == name)


def in_lanes(django: Application) -> Application:
    """Django's application, with a bound on how much of it one client can have."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        """What knows no session is asked without cookies: with one, Django would look for it."""
        if lane_of(scope) in (files, machines, api, followers):
            scope = {**scope, "headers": [header for header in scope["headers"] if header[0].lower() != b"cookie"]}
        await django(scope, receive, send)

    return Lanes(answer, lane_of, client_of, busy)
