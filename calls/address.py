"""Where a request or a socket came from: the peer, or what the site's own proxies say of it."""

import ipaddress
from collections.abc import Iterable
from typing import Any

from django.http import HttpRequest

from calls import conf


def of_request(request: HttpRequest) -> str | None:
    """The address that a page was asked for from."""
    return _address(request.META.get("REMOTE_ADDR"), request.META.get("HTTP_X_FORWARDED_FOR", ""))


def of_scope(scope: dict[str, Any]) -> str | None:
    """The address that a socket came from."""
    headers: Iterable[tuple[bytes, bytes]] = scope.get("headers", ())
    said = ",".join(value.decode("latin-1") for name, value in headers if name == b"x-forwarded-for")
    return _address((scope.get("client") or (None,))[0], said)


def _address(peer: str | None, forwarded: str) -> str | None:
    """Each proxy of ours adds whom it heard at the end; what stands before that, anybody may have written."""
    proxies, said = conf.get("PROXIES"), forwarded.split(",")
    address = said[-proxies].strip() if 0 < proxies <= len(said) else peer
    try:
        return str(ipaddress.ip_address((address or "").partition("%")[0]))  # without an interface: fe80::1%eth0
    except ValueError:
        return None
