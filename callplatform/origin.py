"""Which pages may open a socket with their cookies: those of this site, and of the origins that the operator trusts.

A browser sends its cookies with a socket that any page opens, and a socket carries no CSRF token: the Origin header is
the whole defence. So a socket with a foreign origin, or without one, is a stranger's: its cookies are dropped, and only
a token in its `hello` counts (calls/consumers.py).
"""

import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.http.request import split_domain_port, validate_host
from django.utils.http import is_same_domain

PORTS = {"http": "80", "https": "443"}


class OriginCheck:
    """Around the application of `/ws/`: a foreign socket comes without its cookies, as `stranger`."""

    def __init__(self, application: Any) -> None:
        self.application = application

    async def __call__(self, scope: Any, receive: Any, send: Any) -> Any:
        if is_allowed(scope["headers"]):
            return await self.application(scope, receive, send)
        headers = [header for header in scope["headers"] if header[0].lower() != b"cookie"]
        return await self.application({**scope, "headers": headers, "stranger": True}, receive, send)


def is_allowed(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    headers = list(headers)
    origins = [value.decode("latin-1").lower() for name, value in headers if name.lower() == b"origin"]
    hosts = [value.decode("latin-1").lower() for name, value in headers if name.lower() == b"host"]
    if len(origins) != 1 or len(hosts) > 1:
        return False
    origin = origins[0]
    scheme, _, netloc = origin.partition("://")
    if scheme not in PORTS or not is_host(netloc):
        return False
    if is_trusted(origin):
        return True
    if settings.SECURE_SSL_REDIRECT and scheme != "https":
        return False  # a page of ours never comes over plain HTTP, so this one is forged on the way
    host = hosts[0] if hosts else netloc
    return with_port(netloc, scheme) == with_port(host, scheme) and is_ours(host)


def is_host(netloc: str) -> bool:
    """Whether it is `name` or `name:port` and nothing else, which `null` is not taken for."""
    try:
        urlsplit(f"//{netloc}")
    except ValueError:  # what stands in brackets is no address
        return False
    return bool(re.fullmatch(r"([a-z0-9_.-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?", netloc))


def with_port(netloc: str, scheme: str) -> tuple[str, str]:
    name, port = split_domain_port(netloc)
    return name, port or PORTS[scheme]


def is_ours(netloc: str) -> bool:
    allowed = settings.ALLOWED_HOSTS
    if settings.DEBUG and not allowed:
        allowed = [".localhost", "127.0.0.1", "[::1]"]  # as Django does for pages
    name, _port = split_domain_port(netloc)
    return bool(name) and validate_host(name, allowed)


def is_trusted(origin: str) -> bool:
    """CSRF_TRUSTED_ORIGINS, read as Django reads them for forms: `https://*.example.com` means its subdomains."""
    parts = urlsplit(origin)
    for trusted in settings.CSRF_TRUSTED_ORIGINS:
        pattern = urlsplit(trusted.lower())
        same = is_same_domain(parts.netloc, pattern.netloc.lstrip("*")) if "*" in trusted else trusted.lower() == origin
        if same and parts.scheme == pattern.scheme:
            return True
    return False
