"""Looks at a site from where people are: its address, its certificate, and the servers that find a way for media.

Every wait has a deadline of its own, and everything is asked as a browser asks it.
"""

import asyncio
import base64
import datetime as dt
import http.client
import secrets
import socket
import ssl
from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from aioice import stun as messages
from aioice.turn import create_turn_endpoint

from callplatform.findings import Finding
from calls import conf, ice

PATIENCE_S = 5.0  # for one answer
DAYS_LEFT = 14  # a certificate is renewed well before
PORTS = {"stun": 3478, "turn": 3478, "stuns": 5349, "turns": 5349}


class Answer(NamedTuple):
    status: int
    location: str
    body: bytes


def site(address: str) -> Iterator[Finding]:
    """Calls the site through its public address: does the proxy pass on the host, the scheme and the socket?"""
    if not address:
        yield Finding("address", "warning", "it is not known. Give it: manage.py doctor --address https://…")
        return
    try:
        alive, page = _get(address, "/healthz"), _get(address, "/accounts/login/")
        upgraded = _upgrade(address)
    except ssl.SSLError as error:
        yield Finding("address", "error", f"{address} has no certificate that browsers believe: {_why(error)}.")
        return
    except (OSError, http.client.HTTPException) as error:
        yield Finding("address", "error", f"{address} cannot be reached: {_why(error)}. Look at name, proxy and ports.")
        return
    if (alive.status, alive.body.strip()) != (200, b"ok"):
        yield Finding(
            "address", "error", f"{address}/healthz says {alive.status}: this site does not answer there.{_hint(alive)}"
        )
        return
    if page.status in (301, 302, 307, 308) and page.location == f"{address}/accounts/login/":
        yield Finding(
            "address",
            "error",
            f"{address} redirects to itself: the proxy has to set X-Forwarded-Proto to the scheme that people use.",
        )
        return
    if page.status != 200:
        yield Finding("address", "error", f"{address}/accounts/login/ says {page.status}.{_hint(page)}")
        return
    yield Finding("address", "ok", f"{address} answers.")
    if upgraded == 101:
        yield Finding("socket", "ok", f"{_socket(address)} opens.")
    elif upgraded == 403:
        yield Finding(
            "socket",
            "error",
            f"{_socket(address)} is refused: the proxy has to pass Host on as it came; else set CSRF_TRUSTED_ORIGINS.",
        )
    else:
        yield Finding(
            "socket",
            "error",
            f"{_socket(address)} says {upgraded}: the proxy has to pass Upgrade and Connection on, by HTTP/1.1.",
        )


def _hint(answer: Answer) -> str:
    return " The proxy has to pass Host on, and the host must be in ALLOWED_HOSTS." if answer.status == 400 else ""


def _socket(address: str) -> str:
    return f"{address.replace('http', 'ws', 1)}/ws/"


def _connection(address: str) -> http.client.HTTPConnection:
    parts = urlsplit(address)
    if parts.scheme == "https":
        return http.client.HTTPSConnection(parts.netloc, timeout=PATIENCE_S, context=ssl.create_default_context())
    return http.client.HTTPConnection(parts.netloc, timeout=PATIENCE_S)


def _get(address: str, path: str) -> Answer:
    connection = _connection(address)
    try:
        connection.request("GET", path, headers={"User-Agent": "callplatform-doctor"})
        answer = connection.getresponse()
        return Answer(answer.status, answer.headers.get("Location", ""), answer.read(100))
    finally:
        connection.close()


def _upgrade(address: str) -> int:
    """The status that a socket from a page of this site is answered with: that of the wallboard, which refuses a page
    of another site, while `/ws/` lets it say hello with a token."""
    connection = _connection(address)
    headers = {
        "Origin": address,
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": base64.b64encode(secrets.token_bytes(16)).decode(),
    }
    try:
        connection.request("GET", "/ws/wallboard/", headers=headers)
        return connection.getresponse().status
    finally:
        connection.close()


def certificate(address: str) -> Iterator[Finding]:
    """Whether browsers believe it, and for how long. A missing link of the chain is seen here, because nothing is
    remembered from other sites as browsers do it."""
    parts = urlsplit(address)
    if parts.scheme != "https" or not parts.hostname:
        return
    try:
        with (
            socket.create_connection((parts.hostname, parts.port or 443), PATIENCE_S) as plain,
            ssl.create_default_context().wrap_socket(plain, server_hostname=parts.hostname) as secure,
        ):
            known: dict[str, Any] = secure.getpeercert() or {}
    except ssl.SSLCertVerificationError as error:
        hint = ""
        if error.verify_code in (20, 21):  # the issuer is not known
            hint = " Let the proxy send the whole chain (fullchain.pem), or trust the authority on this machine."
        yield Finding("certificate", "error", f"browsers do not believe it: {error.verify_message}.{hint}")
        return
    except OSError as error:
        yield Finding("certificate", "error", f"it cannot be seen: {_why(error)}.")
        return
    ends = dt.datetime.fromtimestamp(ssl.cert_time_to_seconds(known["notAfter"]), dt.UTC)
    days = (ends - dt.datetime.now(dt.UTC)).days
    if days < DAYS_LEFT:
        yield Finding("certificate", "warning", f"it ends in {days} days, on {ends:%Y-%m-%d}: renew it.")
    else:
        yield Finding("certificate", "ok", f"it is believed, and ends in {days} days.")


def reaches(what: str, host: str, port: int) -> Finding:
    try:
        with (
            socket.create_connection((host, port), PATIENCE_S) as plain,
            ssl.create_default_context().wrap_socket(plain, server_hostname=host),
        ):
            return Finding(what, "ok", f"{host} can be reached.")
    except OSError as error:
        return Finding(
            what, "warning", f"{host} cannot be reached: {_why(error)}. Let the servers speak HTTPS outwards."
        )


# ── STUN and TURN ──


class Server(NamedTuple):
    """A server of STUN or TURN, from `turn:turn.example.com:3478?transport=udp`."""

    url: str
    host: str
    port: int
    transport: str
    secure: bool


def _server(url: str) -> Server:
    scheme, _, rest = url.partition(":")
    place, _, query = rest.partition("?")
    parts = urlsplit(f"//{place}")
    secure = scheme.endswith("s")
    transport = query.removeprefix("transport=") or ("tcp" if secure else "udp")
    return Server(url, parts.hostname or "", parts.port or PORTS[scheme], transport, secure)


def stun() -> Iterator[Finding]:
    """A real question for the own address to each server."""
    for url in conf.get("STUN_URLS"):
        server = _server(url)
        if server.transport != "udp":
            yield Finding("stun", "ok", f"{url} is not asked: only UDP is looked at.")
            continue
        try:
            seen = asyncio.run(asyncio.wait_for(_own_address(server), PATIENCE_S))
        except (OSError, TimeoutError, messages.TransactionError) as error:
            yield Finding("stun", "error", f"{url} does not answer: {_why(error)}. Look at the name and the firewall.")
        else:
            yield Finding("stun", "ok", f"{url} sees this machine as {seen[0]}.")


class _Asking(asyncio.DatagramProtocol):
    """Hands the answers of a STUN server to the one transaction that waits."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport
        self.transaction: messages.Transaction | None = None

    def send_stun(self, message: messages.Message, _addr: tuple[str, int]) -> None:
        self.transport.sendto(bytes(message))

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        if self.transaction:
            self.transaction.response_received(messages.parse_message(data), addr)

    def error_received(self, exc: Exception) -> None:
        """A port where nobody listens: the transaction runs out of time."""


async def _own_address(server: Server) -> tuple[str, int]:
    loop = asyncio.get_running_loop()
    place = (server.host, server.port)
    transport, protocol = await loop.create_datagram_endpoint(_Asking, remote_addr=place)
    try:
        request = messages.Message(messages.Method.BINDING, messages.Class.REQUEST)
        protocol.transaction = messages.Transaction(request, place, protocol)
        response, _ = await protocol.transaction.run()
        address: tuple[str, int] = response.attributes["XOR-MAPPED-ADDRESS"]
        return address
    finally:
        transport.close()


def turn() -> Iterator[Finding]:
    """A real relay of each server, with a password as devices get it, given back at once."""
    if not conf.get("TURN_URLS"):
        says = "none is set: calls do not get through every firewall. Set TURN_URLS and TURN_SECRET."
        yield Finding("turn", "warning", says)
        return
    (given,) = [each for each in ice.servers("doctor") if "credential" in each]
    for url in given["urls"]:
        server = _server(url)
        try:
            relay = asyncio.run(asyncio.wait_for(_relay(server, given["username"], given["credential"]), PATIENCE_S))
        except messages.TransactionFailed as error:
            code, reason = error.response.attributes.get("ERROR-CODE", (0, "no reason"))
            hint = " Is TURN_SECRET its static-auth-secret, and the clock right?" if code == 401 else ""
            yield Finding("turn", "error", f"{url} gives no relay: {code} {reason}.{hint}")
        except (OSError, TimeoutError, messages.TransactionError) as error:
            yield Finding("turn", "error", f"{url} does not answer: {_why(error)}. Look at the name and the firewall.")
        else:
            yield Finding("turn", "ok", f"{url} gave a relay at {relay[0]}.")


async def _relay(server: Server, username: str, credential: str) -> tuple[str, int]:
    transport, _ = await create_turn_endpoint(
        asyncio.DatagramProtocol,
        server_addr=(server.host, server.port),
        username=username,
        password=credential,
        ssl=ssl.create_default_context() if server.secure else None,
        transport=server.transport,
    )
    try:
        address: tuple[str, int] = transport.get_extra_info("sockname")
        return address
    finally:
        transport.close()
        await asyncio.sleep(0.2)  # for the answer to giving it back


def _why(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {PATIENCE_S:g} s"
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
