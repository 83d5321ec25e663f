"""The ASGI server: daphne, with a bound on what one peer can cost, closes that a client can read, and an orderly end.

The only module that knows daphne, autobahn and Twisted. It knows nothing of Django or of calls, so it serves any ASGI
application, and another ASGI server can serve ours. It leans on internals of daphne 4.2, of autobahn and of Twisted,
whose versions are locked; tests/test_server.py holds every promise made here.
"""

import asyncio
import contextlib
import logging
import os
import select
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar

import uvloop

# Daphne makes its loop as it is imported. On this one a call costs a quarter less.
_before = asyncio.get_event_loop_policy()
asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
from daphne.server import Server as DaphneServer  # noqa: E402 - before all else of Twisted
from daphne.server import twisted_loop  # noqa: E402

asyncio.set_event_loop_policy(_before)

from autobahn.util import encode_truncate  # noqa: E402
from autobahn.websocket import ConnectionDeny  # noqa: E402
from daphne.http_protocol import HTTPFactory, WebRequest  # noqa: E402
from daphne.ws_protocol import WebSocketFactory, WebSocketProtocol  # noqa: E402
from twisted.internet import reactor as twisted_reactor  # noqa: E402
from twisted.logger import LogLevel, formatEvent, globalLogBeginner  # noqa: E402
from twisted.web.http import HTTPChannel  # noqa: E402

logger = logging.getLogger(__name__)
reactor: Any = twisted_reactor  # its type knows only what all reactors have

Message = dict[str, Any]
Hook = Callable[[], Awaitable[None]]

FRAME_BYTES = 64 * 1024  # of one frame, and of one message
NOT_THE_PROTOCOL = 4400  # closes the socket of a peer that sends more
OUTBOX_BYTES = 1024 * 1024  # unsent; a peer that leaves more unread is dropped, reconnects, and is told the present
OUTBOX_PATIENCE = 64 * 1024  # unsent; from here on an application that sends in a loop lets the peer read in between
INBOX_WEIGHT = 128 * 1024  # unread; a character may take 4 bytes in memory, and one more message may follow
MESSAGE_WEIGHT = 1024  # what an empty message counts: 128 of them fill the inbox
PIECES = 64  # of a message that is still coming, each with its own cost in memory; more are made one
READ_BYTES = 4 * 1024  # parsed in one go, while all other sockets wait: it may be 700 pings
FLOODING = 4429  # closes the socket of a peer that sends too many frames
PIECE_COSTS = 30  # what a frame that is not a whole text counts: a ping, a pong, a part of a message
FLOODED_S = 1.0  # for a flooding peer to read why it is closed; what it sends meanwhile is thrown away unread
BODY_BYTES = 2_621_440  # of one HTTP request: Django's own limit, but daphne would hold all of it in memory first
HANG_UP_S = 2  # for a peer to take the last words of a connection that is closed
BACKLOG = 1024  # connections not accepted yet: a restart brings all devices back at once
HANDSHAKE_S = 10  # for the application to accept a socket
SAY = "callplatform.say"  # an extension of ASGI: a plain function that sends a text
PATIENCE = "callplatform.patience"  # another: the application says that it awaits nothing urgent
PATIENCE_S = 0.1  # the longest that a patient socket is not looked at


def log_fault(event: Any) -> None:
    """Twisted's log tells what clients do; only what it calls an error is ours."""
    if event.get("log_level") in (LogLevel.error, LogLevel.critical):
        failure = event.get("log_failure")
        cause = (failure.type, failure.value, failure.getTracebackObject()) if failure else None
        logger.error("%s", formatEvent(event), exc_info=cause)


class Inbox(asyncio.Queue[Message]):
    """What the application has not read yet of one socket. When it is full the socket is not read: its peer waits."""

    def __init__(self, owner: "WebSocket") -> None:
        super().__init__()
        self.owner = owner

    def _put(self, message: Message) -> None:
        super()._put(message)
        self.owner.unread += self._weigh(message)
        if self.owner.unread >= INBOX_WEIGHT:
            self.owner.pause()

    def _get(self) -> Message:
        message = super()._get()
        before = self.owner.unread
        self.owner.unread -= self._weigh(message)
        if before >= INBOX_WEIGHT // 2 > self.owner.unread:
            self.owner.resume()
        return message

    @staticmethod
    def _weigh(message: Message) -> int:
        return MESSAGE_WEIGHT + len(message.get("text") or message.get("bytes") or "")


class Patient:
    """Sockets from which nothing urgent is expected. When they are many they are read together, ten times a second: to
    be woken for one ping costs more than to answer it."""

    def __init__(self, many: int) -> None:
        self.many = many
        self.sockets: set[WebSocket] = set()
        self.together: dict[int, WebSocket] = {}  # those that are read so, by descriptor
        self.poll = select.epoll()
        self.looking = False

    def add(self, socket: "WebSocket") -> None:
        self.sockets.add(socket)
        if len(self.sockets) == self.many:
            for each in self.sockets:
                self._join(each)
        elif len(self.sockets) > self.many:
            self._join(socket)

    def _join(self, socket: "WebSocket") -> None:
        if socket.paused or socket.number >= 0:
            return
        socket.transport.stopReading()
        socket.number = socket.transport.fileno()
        self.together[socket.number] = socket
        self.poll.register(socket.number, select.EPOLLIN)
        if not self.looking:
            self.looking = True
            twisted_loop.call_later(PATIENCE_S, self._look)

    def remove(self, socket: "WebSocket") -> None:
        self.sockets.discard(socket)
        if socket.number >= 0:
            with contextlib.suppress(OSError):  # it may be closed by now
                self.poll.unregister(socket.number)
            del self.together[socket.number]
            socket.number = -1
            socket.transport.resumeProducing()

    def _look(self) -> None:
        for number, _ in self.poll.poll(0):
            socket = self.together.get(number)
            if socket is None:
                continue
            try:
                data = os.read(number, READ_BYTES)
            except BlockingIOError:
                continue
            except OSError:
                data = b""
            try:
                if data:
                    socket.dataReceived(data)
            except Exception:
                logger.exception("A socket failed, and is dropped")
                socket.dropConnection(abort=True)
            if not data:  # the reactor reads its end
                self.remove(socket)
        self.looking = bool(self.together)
        if self.looking:
            twisted_loop.call_later(PATIENCE_S, self._look)


class WebSocket(WebSocketProtocol):
    """One socket. Autobahn's names are overridden in the order in which a socket lives."""

    # What each frame needs, most of it autobahn's, side by side and not spread over a dict of seventy names: of
    # thousands of sockets none is in the processor's cache, and to fetch them is most of what a ping costs.
    __slots__ = (
        "application_queue",
        "asked",
        "current_frame",
        "data",
        "flooded",
        "frame_data",
        "heard",
        "inside_message",
        "message_data",
        "number",
        "paused",
        "state",
        "take",
        "tokens",
        "transport",
        "unread",
    )
    frame_rate: ClassVar[float]
    frame_burst: ClassVar[float]
    CONFIG_ATTRS: ClassVar[list[str]] = []  # else each socket has a copy of all options, and says so to a log
    frame_data: list[bytes]
    message_data: list[bytes]
    paused: bool
    number: int  # its descriptor, while it is read together with other patient ones
    heard: float  # when something came, and when a ping was sent, on the loop's clock
    asked: float
    unread: int  # the weight of its inbox
    take: Callable[[str], bool] | None  # what is offered each text first, while the application is patient
    tokens: float  # how much it may send now; see `serve`
    __hash__ = object.__hash__  # daphne's are the same, but slow
    __eq__ = object.__eq__

    def connectionMade(self) -> None:
        self.paused, self.number, self.heard, self.asked, self.take = False, -1, 0.0, 0.0, None
        self.unread, self.tokens = 0, self.frame_burst
        self.flooded = False
        super().connectionMade()
        self.transport.bufferSize = READ_BYTES

    def onOpen(self) -> None:
        super().onOpen()
        self.note_heard()
        self.server.open.add(self)

    def dataReceived(self, data: bytes) -> None:
        if self.flooded:
            return
        if self.state == self.STATE_OPEN:
            self.note_heard()
            if not self.is_midway:
                data = self._take_texts(data)
                if not data:
                    return
        elif hasattr(self, "handshake_deferred"):  # not accepted yet; RFC 6455, 4.1: the client must wait for that
            self.dropConnection(abort=True)
            return
        super().dataReceived(data)
        if self.number >= 0 and self.is_midway:  # the reactor reads the rest
            self.server.patient.remove(self)

    def _take_texts(self, data: bytes) -> bytes:
        """Takes the whole texts that the data begins with, and leaves the rest to autobahn, which takes ten times as
        long over a frame: everything but a text that came in one piece, and whatever is wrong."""
        at = 0
        while len(data) - at > 6 and data[at] == 0x81 and 0x80 <= data[at + 1] < 0xFF:
            size, start = data[at + 1] & 0x7F, at + 2
            if size == 126:
                size, start = int.from_bytes(data[start : start + 2], "big"), start + 2
                if size < 126:
                    break
            end = start + 4 + size
            if end > len(data):
                break
            mask = int.from_bytes(data[start : start + 4] * (size // 4 + 1), "little")
            masked = int.from_bytes(data[start + 4 : end], "little")
            try:
                text = (masked ^ mask & (1 << 8 * size) - 1).to_bytes(size, "little").decode()
            except UnicodeDecodeError:
                break
            self.tokens -= 1
            if self.tokens < 0:  # autobahn counts this frame and those behind it
                break
            if self.take is None or self.unread or not self.take(text):
                self.application_queue.put_nowait({"type": "websocket.receive", "text": text})
            at = end
        return data[at:]

    def onFrameBegin(self) -> None:
        """Every frame counts, whatever is in it: a ping or an empty piece of a message costs as much work as a text."""
        super().onFrameBegin()
        frame: Any = self.current_frame
        self.tokens -= 1 if frame.opcode == self.MESSAGE_TYPE_TEXT and frame.fin else PIECE_COSTS
        if self.tokens < 0 and not self.flooded:
            self.flooded = True
            self.close(FLOODING, "flooding")
            twisted_loop.call_later(FLOODED_S, self.dropConnection, True)

    @property
    def is_midway(self) -> bool:
        """Whether the rest of a message is on its way."""
        return bool(self.data) or self.current_frame is not None or self.inside_message

    def note_heard(self) -> None:
        now = twisted_loop.time()
        self.tokens = min(self.frame_burst, self.tokens + (now - self.heard) * self.frame_rate)
        self.heard = now

    def pause(self) -> None:
        self.server.patient.remove(self)
        self.paused = True
        self.transport.pauseProducing()

    def resume(self) -> None:
        if self.paused:
            self.paused = False
            self.transport.resumeProducing()

    def onMessageFrameData(self, payload: bytes) -> None:
        super().onMessageFrameData(payload)
        if len(self.frame_data) > PIECES:
            self.frame_data = [b"".join(self.frame_data)]

    def onMessageFrame(self, payload: list[bytes]) -> None:
        super().onMessageFrame(payload)
        if len(self.message_data) > PIECES:
            self.message_data = [b"".join(self.message_data)]

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        if self.state == self.STATE_OPEN:
            super().onMessage(payload, isBinary)

    def onPing(self, payload: bytes) -> None:
        super().onPing(payload)
        self._bound_outbox()

    def look_after(self, now: float, ping_interval: float, ping_timeout: float) -> None:
        """Asks a peer that was silent for a while whether it is still there, and drops one that does not say so."""
        if self.state != self.STATE_OPEN:
            return
        if self.paused:  # what it says may lie unread behind a flood
            self.note_heard()
        elif self.asked > self.heard:
            if now - self.asked > ping_timeout:
                self.onAutoPingTimeout()
        elif now - self.heard > ping_interval:
            self.asked = now
            self.sendPing()
            self._bound_outbox()

    def _max_message_size_exceeded(self, msg_size: int, max_msg_size: int, reason: str) -> None:
        self._fail_connection(NOT_THE_PROTOCOL, f"a message may have at most {max_msg_size} bytes")

    def handle_reply(self, message: Message) -> None:
        if self.state == self.STATE_CONNECTING:
            super().handle_reply(message)
        elif self.state == self.STATE_OPEN:  # else nobody hears it any more, which is not the application's fault
            if message.get("type") == "websocket.send" and self._is_text(message) and self.say(message["text"]):
                return
            if message.get("type") == PATIENCE:
                self.take = message["take"]
                (self.server.patient.remove if self.take is None else self.server.patient.add)(self)
            elif message.get("type") == "websocket.close":
                self.close(message.get("code") or 1000, message.get("reason") or "")
            else:
                super().handle_reply(message)
                self._bound_outbox()

    @staticmethod
    def _is_text(message: Message) -> bool:
        return bool(message.get("text")) and not message.get("bytes")

    def say(self, text: str) -> bool:
        """Sends a text at once, and not by way of the reactor's next round, when nothing is waiting before it. Whether
        it was sent: a socket that is not open, or has anything unsent, takes none."""
        transport = self.transport
        if self.server.tls is not None:
            return False  # what goes past the transport would go in the clear
        if self.state != self.STATE_OPEN or transport.dataBuffer or transport._tempDataBuffer:
            return False
        payload = text.encode()
        size = len(payload)
        if size < 126:
            frame = bytes((0x81, size)) + payload
        elif size < 65536:
            frame = b"\x81\x7e" + size.to_bytes(2, "big") + payload
        else:
            frame = b"\x81\x7f" + size.to_bytes(8, "big") + payload
        try:
            sent = transport.socket.send(frame)
        except OSError:  # it is full, or gone, which the reactor finds out
            sent = 0
        if sent < len(frame):
            transport.write(frame[sent:])
            self._bound_outbox()
        return True

    def outbox(self) -> int:
        """Bytes held for a peer that has not read them; 64 for each piece's own object."""
        transport = self.transport
        return len(transport.dataBuffer) + transport._tempDataLen + 64 * len(transport._tempDataBuffer)

    def _bound_outbox(self) -> None:
        if self.outbox() > OUTBOX_BYTES:
            self.dropConnection(abort=True)

    def close(self, code: int, reason: str = "") -> None:
        """Begins the closing handshake of an open socket."""
        if code not in self.CLOSE_STATUS_CODES_ALLOWED and not 3000 <= code <= 4999:
            raise ValueError(f"{code} is not a close code that may be sent")
        if self.state == self.STATE_OPEN:
            self.sendCloseFrame(code, encode_truncate(reason, 123))
            self.server.patient.remove(self)
            self.resume()  # or its answer would lie unread behind a flood

    def application_ended(self, failed: bool) -> None:
        if self.state == self.STATE_OPEN:
            self.close(1011 if failed else 1000)
        elif hasattr(self, "handshake_deferred") and self.state == self.STATE_CONNECTING:
            self.handshake_deferred.errback(ConnectionDeny(500, "Internal Server Error"))
            del self.handshake_deferred

    def dropConnection(self, abort: bool = False) -> None:
        super().dropConnection(abort)
        if not abort:  # what is unsent goes first, for which a peer that does not read would be waited for for ever
            twisted_loop.call_later(self.closeHandshakeTimeout, self.transport.abortConnection)

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        if hasattr(self, "server"):  # else the handshake failed before there was an application
            super().onClose(wasClean, 1005 if code is None else code, reason)


class Flow:
    """Whether there is room for more of an answer, as Twisted tells whoever it takes for its producer."""

    def __init__(self) -> None:
        self.room = asyncio.Event()
        self.resumeProducing()

    def pauseProducing(self) -> None:
        self.room.clear()

    def resumeProducing(self) -> None:
        self.room.set()

    stopProducing = resumeProducing


class Request(WebRequest):
    """One HTTP request, which may be the handshake of a socket."""

    flow: Flow | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, parsePOSTFormSubmission=False, **kwargs)  # Django parses forms, within its limits

    def handleContentChunk(self, data: bytes) -> None:
        super().handleContentChunk(data)
        if self.content.tell() > BODY_BYTES and not self.transport.disconnecting:
            self.transport.write(b"HTTP/1.1 413 Content Too Large\r\nConnection: close\r\n\r\n")
            self.channel.loseConnection()

    def process(self) -> Any:
        if self.transport.disconnecting:
            return None
        if self.server.stopping:
            return self.basic_error(503, b"Service Unavailable", "The server is restarting.")
        headers = self.requestHeaders
        if headers.getRawHeaders(b"upgrade", [b""])[0].lower() == b"websocket" and (
            self.content.read(1)  # would be taken for frames, all in one go
            or not all(value.isascii() for value in headers.getRawHeaders(b"sec-websocket-protocol", []))
        ):
            return self.basic_error(400, b"Bad Request", "This is no handshake.")
        headers.removeHeader(b"daphne-root-path")  # a client's word for where the site is mounted
        return super().process()

    def handle_reply(self, message: Message) -> None:
        super().handle_reply(message)
        if self._response_started and self.flow is None and not self.finished and self.channel is not None:
            self.flow = Flow()
            self.registerProducer(self.flow, True)

    def finish(self) -> None:
        if self.flow is not None:
            self.unregisterProducer()
            self.flow.stopProducing()  # everything is said
        super().finish()

    def connectionLost(self, reason: Any) -> None:
        if self.flow is not None:
            self.flow.stopProducing()
        super().connectionLost(reason)

    async def taken(self, patience: float) -> None:
        """Returns when the peer has read most of what there is. One that reads nothing for `patience` s is dropped."""
        if self.flow is None:
            return
        try:
            async with asyncio.timeout(patience):
                await self.flow.room.wait()
        except TimeoutError:
            if self.channel is not None:
                self.transport.abortConnection()

    def application_ended(self, failed: bool) -> None:
        if self.finished or self.channel is None:
            return
        if self._response_started:
            self.transport.abortConnection()  # half an answer must not look like a whole one
        else:
            self.basic_error(500, b"Internal Server Error", "The application gave no answer.")


class Channel(HTTPChannel):
    """A connection on which requests come, one after the other, each within its time. Twisted's own timeout begins anew
    with every byte, so that a byte a minute would hold a connection for good."""

    abortTimeout = HANG_UP_S
    factory: Any  # a RequestFactory
    transport: Any
    address: str  # the peer's
    waits = True  # for the first byte of a request
    coming = False  # a request is on its way

    def connectionMade(self) -> None:
        super().connectionMade()
        self.factory.note_unfinished(self)

    def dataReceived(self, data: bytes) -> None:
        if self.waits:
            self.waits, self.coming = False, True
            self.setTimeout(self.factory.headers_timeout)
        super().dataReceived(data)

    def resetTimeout(self) -> None:
        """Bytes that trickle in gain no time."""

    def allHeadersReceived(self) -> None:
        super().allHeadersReceived()
        self.setTimeout(self.factory.body_timeout)

    def allContentReceived(self) -> None:
        self.coming = False
        self.factory.note_finished(self)
        super().allContentReceived()

    def requestDone(self, request: Any) -> None:
        self.waits, self._savedTimeOut = True, self.factory.idle_timeout
        super().requestDone(request)

    def timeoutConnection(self) -> None:
        if self.coming:
            self.transport.write(b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n")
        super().timeoutConnection()

    def connectionLost(self, reason: Any = None) -> None:
        self.factory.note_finished(self)
        super().connectionLost(reason)


class RequestFactory(HTTPFactory):
    """Makes a channel for each connection, and knows those that have not sent a whole request yet, by address."""

    protocol: Any = Channel

    def __init__(
        self,
        server: "Server",
        headers_timeout: float,
        body_timeout: float,
        idle_timeout: float,
        unfinished_per_address: int,
    ) -> None:
        super().__init__(server)
        self.timeOut = self.headers_timeout = headers_timeout
        self.body_timeout, self.idle_timeout = body_timeout, idle_timeout
        self.most = unfinished_per_address
        self.unfinished: dict[str, dict[Channel, None]] = {}  # of each address, the oldest first

    def buildProtocol(self, addr: Any) -> Any:
        channel = super().buildProtocol(addr)
        channel.requestFactory = Request
        channel.address = getattr(addr, "host", "")
        return channel

    def note_unfinished(self, channel: Channel) -> None:
        """When an address has too many, the oldest is dropped: a client that works sends its request at once."""
        of_address = self.unfinished.setdefault(channel.address, {})
        if len(of_address) >= self.most:
            oldest = next(iter(of_address))
            del of_address[oldest]
            oldest.transport.abortConnection()
        of_address[channel] = None

    def note_finished(self, channel: Channel) -> None:
        of_address = self.unfinished.get(channel.address, {})
        of_address.pop(channel, None)
        if not of_address:
            self.unfinished.pop(channel.address, None)


class Server(DaphneServer):
    """Runs one application instance per request or socket, and ends in order on SIGTERM or SIGINT."""

    def __init__(
        self,
        application: Any,
        ping_interval: float,
        ping_timeout: float,
        closing_timeout: float,
        reading_timeout: float,
        many_patient: int,
        frame_rate: float,
        frame_burst: float,
        headers_timeout: float,
        body_timeout: float,
        idle_timeout: float,
        unfinished_per_address: int,
    ) -> None:
        super().__init__(application, endpoints=["given to run()"], server_name="")
        self.connections: dict[Any, dict[str, Any]] = {}
        self.patient = Patient(many_patient)
        self.open: set[WebSocket] = set()
        self.ping_interval, self.ping_timeout = ping_interval, ping_timeout
        self.closing_timeout, self.reading_timeout = closing_timeout, reading_timeout
        self.stopping = False
        self.tls: Any = None
        self.http_factory = RequestFactory(self, headers_timeout, body_timeout, idle_timeout, unfinished_per_address)
        self.ws_factory = WebSocketFactory(self, server="")
        self.ws_factory.protocol = WebSocket
        WebSocket.frame_rate, WebSocket.frame_burst = frame_rate, frame_burst
        self.ws_factory._batched_timer = twisted_loop  # autobahn's own fires up to 1 s early: a close of 1 s is none
        self.ws_factory.setProtocolOptions(
            allowNullOrigin=True,  # whose origin may connect is the application's to say
            autoPingInterval=0,  # a timer for each socket, and a ping to those that were heard just now
            closeHandshakeTimeout=closing_timeout,
            failByDrop=False,  # say why before dropping
            maxFramePayloadSize=FRAME_BYTES,
            maxMessagePayloadSize=FRAME_BYTES,
            openHandshakeTimeout=HANDSHAKE_S,
        )
        for name in WebSocketProtocol.CONFIG_ATTRS:
            option = getattr(self.ws_factory, name)
            setattr(WebSocket, name, staticmethod(option) if callable(option) else option)

    def speak_tls(self, chain: str, key: str) -> None:
        from twisted.internet.ssl import DefaultOpenSSLContextFactory

        self.tls = DefaultOpenSSLContextFactory(key, chain)
        self.tls.getContext().use_certificate_chain_file(chain)
        self.patient.many = sys.maxsize

    def run(self, listener: socket.socket, on_start: Hook | None, on_stop: Hook | None) -> None:
        observers: Any = [log_fault]
        globalLogBeginner.beginLoggingTo(observers, redirectStandardIO=False, discardBuffer=True)
        asyncio.set_event_loop(twisted_loop)
        lifetime = twisted_loop.create_task(self._live(listener, on_start, on_stop))
        reactor.run(installSignalHandlers=False)
        lifetime.result()

    async def _live(self, listener: socket.socket, on_start: Hook | None, on_stop: Hook | None) -> None:
        signalled = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            twisted_loop.add_signal_handler(number, signalled.set)
        try:
            if on_start is not None:
                await on_start()
            listener.setblocking(False)
            port = reactor.adoptStreamPort(listener.fileno(), listener.family, self._factory())
            host, number = listener.getsockname()[:2]
            listener.close()  # the reactor has its own copy
            scheme = "http" if self.tls is None else "https"
            sys.stdout.write(f"Listening on {scheme}://{f'[{host}]' if ':' in host else host}:{number}/\n")
            sys.stdout.flush()
            watch = twisted_loop.create_task(self._watch())
            await signalled.wait()
            watch.cancel()
            port.stopListening()
            await self._stop(on_stop)
        finally:
            reactor.stop()

    def _factory(self) -> Any:
        if self.tls is None:
            return self.http_factory
        from twisted.protocols.tls import TLSMemoryBIOFactory  # loads OpenSSL, which few sites need here

        return TLSMemoryBIOFactory(self.tls, False, self.http_factory)

    async def _watch(self) -> None:
        """Pings whoever was silent, all in one sweep."""
        while True:
            await asyncio.sleep(self.ping_interval / 8)
            now = twisted_loop.time()
            for protocol in [each for each in self.open if now - each.heard > self.ping_interval]:
                protocol.look_after(now, self.ping_interval, self.ping_timeout)

    async def _stop(self, on_stop: Hook | None) -> None:
        self.stopping = True
        if on_stop is not None:
            try:
                await asyncio.wait_for(on_stop(), self.closing_timeout)
            except Exception:
                logger.exception("on_stop failed; its sockets are closed without it")
        deadline = twisted_loop.time() + self.closing_timeout
        while twisted_loop.time() < deadline:
            await asyncio.sleep(0.05)  # what on_stop set in motion has its turn first
            busy = self._busy()
            for protocol in busy:
                if isinstance(protocol, WebSocket):
                    protocol.close(1012, "restart")  # again and again: one may have been connecting until now
            if not busy:
                break
        applications = [task for entry in self.connections.values() if (task := entry.get("application_instance"))]
        for task in applications:
            task.cancel()
        if applications:
            await asyncio.wait(applications, timeout=self.closing_timeout)

    def _busy(self) -> list[Any]:
        return [
            protocol
            for protocol, entry in self.connections.items()
            if ("application_instance" in entry and not entry["application_instance"].done())
            or (isinstance(protocol, WebSocket) and "disconnected" not in entry)
        ]

    def create_application(self, protocol: Any, scope: dict[str, Any]) -> asyncio.Queue[Message] | None:
        if protocol not in self.connections:
            return None
        inbox = asyncio.Queue[Message]()
        scope["asgi"] = {"version": "3.0"}
        if isinstance(protocol, WebSocket):
            inbox, scope["extensions"] = Inbox(protocol), {SAY: {"text": protocol.say}, PATIENCE: {}}
        task = twisted_loop.create_task(self._run_application(protocol, scope, inbox))
        self.connections[protocol]["application_instance"] = task
        task.add_done_callback(lambda _: self._forget(protocol))
        return inbox

    async def _run_application(self, protocol: Any, scope: dict[str, Any], inbox: asyncio.Queue[Message]) -> None:
        async def send(message: Message) -> None:
            if not isinstance(protocol, WebSocket) or protocol.state == protocol.STATE_CONNECTING:
                await self.handle_reply(protocol, message)
                if isinstance(protocol, Request):
                    await protocol.taken(self.reading_timeout)
                return
            protocol.handle_reply(message)
            if protocol.outbox() > OUTBOX_PATIENCE:
                await asyncio.sleep(0)

        failed = True
        try:
            await self.application(scope, inbox.get, send)
            failed = False
        except Exception:
            logger.exception("The application failed at %r", scope["path"])
        finally:
            protocol.application_ended(failed)

    def protocol_disconnected(self, protocol: Any) -> None:
        """Gives the application of a peer that is gone a while to notice. Daphne looks at all of them every second."""
        entry = self.connections.get(protocol)
        if entry is None or "disconnected" in entry:
            return
        if isinstance(protocol, WebSocket):
            self.patient.remove(protocol)
            protocol.take = None
            self.open.discard(protocol)
        super().protocol_disconnected(protocol)
        task = entry.get("application_instance")
        if task is not None and not task.done():
            entry["overdue"] = twisted_loop.call_later(self.application_close_timeout, task.cancel)
        self._forget(protocol)

    def _forget(self, protocol: Any) -> None:
        """Once both the peer and the application are through."""
        entry = self.connections.get(protocol, {})
        task = entry.get("application_instance")
        if "disconnected" in entry and (task is None or task.done()):
            if "overdue" in entry:
                entry["overdue"].cancel()
            del self.connections[protocol]


def serve(
    application: Any,
    host: str,
    port: int,
    *,
    fd: int | None = None,
    on_start: Hook | None = None,
    on_stop: Hook | None = None,
    ping_interval: float = 25.0,
    ping_timeout: float = 10.0,
    closing_timeout: float = 5.0,
    reading_timeout: float = 60.0,
    many_patient: int = 1000,
    frame_rate: float = 1e9,
    frame_burst: float = 1e9,
    headers_timeout: float = 10.0,
    body_timeout: float = 60.0,
    idle_timeout: float = 30.0,
    unfinished_per_address: int = 1000,
    certificate: tuple[str, str] | None = None,
) -> None:
    """Serves the ASGI application until SIGTERM or SIGINT; exits with 1 and one sentence when it cannot listen.

    Port 0 is any free port, and `fd` an inherited socket that listens already, which goes before host and port. Prints
    `Listening on http://127.0.0.1:8000/` once it answers. `on_start` runs in the event loop before the first connection
    is answered; what it raises ends the server. A peer that was silent for `ping_interval` seconds is sent a ping, and
    dropped when nothing comes back within `ping_timeout` seconds. `closing_timeout`, in seconds, is how long a peer has
    to answer a close, and how long each step has when the server stops: `on_stop` (which should close the application's
    sockets; the others are closed with 1012), then the applications that are left, then those that had to be cancelled.
    An application waits for the peer to read its answer, and a peer that reads nothing for `reading_timeout` seconds is
    dropped. An application that awaits nothing urgent from a socket may send {"type": "callplatform.patience", "take":
    function}: from `many_patient` such sockets on, they are read ten times a second, until it says {…, "take": None}.
    Meanwhile `function(text)` is offered each text when nothing is unread before it; what it returns False for is
    received like everything else.
    scope["extensions"]["callplatform.say"]["text"] is a function that sends a text at once. What it returns False for
    has to be sent like everything else: the socket is not open, or something is unsent before it.
    A socket may send `frame_burst` frames at once and `frame_rate` a second for long; a frame that is not a whole text
    counts as 30. Beyond that it is closed with 4429, and dropped a second later. The default is practically no bound.
    A request has `headers_timeout` seconds from its first byte to the end of its headers, and `body_timeout` seconds
    for its body; a connection without a request is closed after `headers_timeout` seconds when it is new, else after
    `idle_timeout` seconds. Of the connections of one address on which no whole request has come yet, the oldest is
    dropped when there are more than `unfinished_per_address`. With `certificate`, the paths of a chain and of its key,
    it speaks HTTPS, and reads no sockets together: meant for a few devices, since a proxy does it with less work.
    """
    try:
        if fd is not None:
            listener = socket.socket(fileno=fd)
        else:
            family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            listener = socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except OSError as error:
        place = f"{host}:{port}" if fd is None else f"file descriptor {fd}"
        sys.exit(f"Cannot listen on {place}: {str(error.strerror).partition(' (')[0]}.")
    server = Server(
        application,
        ping_interval,
        ping_timeout,
        closing_timeout,
        reading_timeout,
        many_patient,
        frame_rate,
        frame_burst,
        headers_timeout,
        body_timeout,
        idle_timeout,
        unfinished_per_address,
    )
    if certificate is not None:
        server.speak_tls(*certificate)
    server.run(listener, on_start, on_stop)
