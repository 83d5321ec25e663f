"""Janus VideoRoom as the media engine of a call: one class, and this server as its only client.

A room is a call, and a feed is a leg: its epoch and its user. Each leg has a session of its own at Janus, with one
handle that it publishes by and one that it receives by. `Seat.stored()` is all that another process needs to go on with
it, by `claim`. The rooms' secrets are made from the API secret, so they need no storage.

Every request has a deadline. Nothing of this module knows of rows or of sockets.
"""

import asyncio
import contextlib
import hashlib
import hmac
import itertools
import json
import logging
from collections.abc import Callable, Coroutine, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import aiohttp
import msgspec

log = logging.getLogger(__name__)

REQUEST_S = 5.0  # for one answer of Janus
KEEP_ALIVE_S = 20.0  # Janus ends a session after 60 s without a word
RETRY_S = (0.1, 0.2, 0.5, 1.0)  # between two tries to connect; the last one is repeated
FEWEST_BITS = 128_000  # for a camera, when the room is full
MOST_BITS = 1_024_000

NO_ROOM, NO_FEED, ROOM_EXISTS = 426, 428, 427
NO_SESSION, NO_HANDLE = 458, 459

Of = Literal["publish", "receive"]
Kind = Literal["audio", "video"]
Answer = dict[str, Any]


class EngineDown(Exception):
    """Janus cannot be reached, or did not answer in time."""


class EngineRefused(Exception):
    """Janus refused a request. `code` is its own."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code


class Feed(msgspec.Struct, frozen=True):
    """What a leg publishes under: media belongs to one user and one epoch."""

    user: str
    epoch: int

    @property
    def name(self) -> str:
        return f"{self.epoch}:{self.user}"

    @classmethod
    def of(cls, name: str) -> Self:
        epoch, user = name.split(":", 1)
        return cls(user, int(epoch))


class Seat(msgspec.Struct):
    """A leg's place at the engine. `sections` says what it publishes, by mid; `received` what it has asked for."""

    room: str
    feed: Feed
    session: int
    publishes: int
    sections: dict[str, str]
    receives: int = 0
    received: set[str] = msgspec.field(default_factory=set)

    def stored(self) -> str:
        return msgspec.json.encode(self).decode()

    @classmethod
    def restored(cls, text: str) -> Self:
        return msgspec.json.decode(text, type=cls)


class Track(msgspec.Struct, frozen=True):
    """Whose media one section of an offer carries."""

    user: str
    epoch: int
    kind: Kind


@dataclass(frozen=True)
class Offer:
    """What a seat receives has changed; the page answers by `Engine.answer`. `tracks` are by mid."""

    sdp: str
    tracks: dict[str, Track]


@dataclass(frozen=True)
class Candidate:
    candidate: dict[str, Any]
    of: Of


@dataclass(frozen=True)
class Gone:
    """The engine does not know the seat any more: it was restarted, or the leg was removed. Publish anew."""


Heard = Offer | Candidate | Gone
Hear = Callable[[Seat, Heard], None]


@dataclass
class Kept:
    """A seat of this process, and the order in which its subscription changes: one at a time."""

    seat: Seat
    changing: asyncio.Lock = field(default_factory=asyncio.Lock)


class Engine:
    """One connection to Janus, for all legs of this process. `hear` is called for what comes unasked."""

    def __init__(self, url: str, secret: str, hear: Hear) -> None:
        self._url, self._secret, self._hear = url, secret, hear
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self._asked: dict[str, asyncio.Future[Answer]] = {}
        self._seats: dict[int, Kept] = {}  # by session
        self._numbers = itertools.count(1)
        self._connected = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._control: tuple[int, int] | None = None  # session and handle for rooms
        self._controlling = asyncio.Lock()

    async def __aenter__(self) -> Self:
        self._run(self._stay_connected())
        self._run(self._keep_alive())
        return self

    async def __aexit__(self, *_: object) -> None:
        """End the connection, and leave the sessions to whoever claims them."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- rooms ---

    async def version(self) -> str:
        return str((await self._ask({"janus": "info"}))["version_string"])

    async def open(self, room: str, publishers: int) -> None:
        """Make the room, if it is not there."""
        body = {"room": room, "publishers": publishers, "secret": self._word("secret", room)}
        body |= {"pin": self._word("pin", room), "bitrate": max(FEWEST_BITS, MOST_BITS // max(publishers, 1))}
        with _but(ROOM_EXISTS):
            await self._ask_room({"request": "create", **body})

    async def rooms(self) -> set[str]:
        """All rooms that the engine has, so that those without a live call can be closed."""
        return {str(one["room"]) for one in (await self._ask_room({"request": "list"}))["list"]}

    async def close(self, room: str) -> None:
        """Destroy the room, and end this process's seats in it without telling them. No room, no error."""
        ended = [session for session, kept in self._seats.items() if kept.seat.room == room]
        for session in ended:
            del self._seats[session]
            self._run(self._destroy(session))
        with _but(NO_ROOM):
            await self._ask_room({"request": "destroy", "room": room, "secret": self._word("secret", room)})

    async def remove(self, room: str, feed: Feed) -> None:
        """Take a leg out of the room: nobody sees or hears it from now on."""
        with _but(NO_ROOM, NO_FEED):
            await self._moderate(room, {"request": "kick", "id": feed.name})

    async def mute(self, seat: Seat, kind: Kind, muted: bool) -> None:
        """Stop or go on with the sound or picture of a leg in the engine, whatever its page does."""
        for mid in [mid for mid, of in seat.sections.items() if of == kind]:
            with _but(NO_ROOM, NO_FEED):
                await self._moderate(
                    seat.room, {"request": "moderate", "id": seat.feed.name, "mid": mid, "mute": muted}
                )

    # --- seats ---

    async def publish(self, room: str, feed: Feed, sdp: str) -> tuple[Seat, str]:
        """Take a new seat and publish by it. Returns the seat and the answer. What others publish comes as `Offer`."""
        session = int((await self._ask({"janus": "create"}))["data"]["id"])
        try:
            handle = await self._attach(session)
            seat = Seat(room, feed, session, handle, _sections(sdp))
            kept = self._seats[session] = Kept(seat)
            join = {"request": "join", "ptype": "publisher", "room": room, "id": feed.name}
            there = await self._message(session, handle, {**join, "pin": self._word("pin", room)})
            said = await self._message(session, handle, {"request": "publish"}, _jsep("offer", sdp))
            answer = str(said["jsep"]["sdp"])
        except BaseException:
            self._seats.pop(session, None)
            self._run(self._destroy(session))
            raise
        self._run(self._receive(kept, _feeds(there)))
        return seat, answer

    async def subscribe(self, seat: Seat, feeds: Iterable[str]) -> None:
        """Receive these feeds as well. What was received before goes on; the page is given an `Offer`."""
        kept = self._seats.get(seat.session)
        if kept is None:
            raise EngineRefused(NO_SESSION, "no such seat")
        async with kept.changing:
            new = sorted(set(feeds) - seat.received - {seat.feed.name})
            if not new:
                return
            try:
                offers = [await self._subscribe(seat, new)]
            except EngineRefused as refused:
                if refused.code != NO_FEED:
                    raise
                offers = []  # one of them has just left: each is asked for alone
                for name in new:
                    with _but(NO_FEED):
                        offers.append(await self._subscribe(seat, [name]))
        for said in offers:
            self._offered(seat, said)

    async def _subscribe(self, seat: Seat, names: list[str]) -> Answer:
        body: dict[str, Any] = {"request": "subscribe", "streams": [{"feed": name} for name in names]}
        if seat.receives:
            said = await self._message(seat.session, seat.receives, body)
        else:
            body |= {"request": "join", "ptype": "subscriber", "room": seat.room, "pin": self._word("pin", seat.room)}
            handle = await self._attach(seat.session)  # one that could not join ends with the session
            said = await self._message(seat.session, handle, body)
            seat.receives = handle
        seat.received |= set(names)
        return said

    async def answer(self, seat: Seat, sdp: str) -> None:
        """The page's answer to an `Offer`."""
        await self._message(seat.session, seat.receives, {"request": "start"}, _jsep("answer", sdp))

    async def candidate(self, seat: Seat, of: Of, candidate: dict[str, Any]) -> None:
        handle = seat.publishes if of == "publish" else seat.receives
        message = {"janus": "trickle", "session_id": seat.session, "handle_id": handle, "candidate": candidate}
        await self._ask(message, acknowledged=True)

    async def claim(self, seat: Seat) -> None:
        """Go on with a seat that another process had, or that a broken connection left behind.

        What came meanwhile is asked for now. Refused with NO_SESSION when the engine has ended the seat.
        """
        kept = self._seats.setdefault(seat.session, Kept(seat))
        try:
            await self._ask({"janus": "claim", "session_id": seat.session})
            people = await self._message(
                seat.session, seat.publishes, {"request": "listparticipants", "room": seat.room}
            )
        except EngineRefused:
            self._seats.pop(seat.session, None)
            raise
        there = {str(one["id"]) for one in people["plugindata"]["data"]["participants"] if one.get("publisher")}
        seat.received &= there
        await self._receive(kept, there)

    async def leave(self, seat: Seat) -> None:
        """End a leg's session, and with it what it publishes and receives."""
        self._seats.pop(seat.session, None)
        await self._destroy(seat.session)

    # --- what comes unasked ---

    def _event(self, said: Answer) -> None:
        kept = self._seats.get(said.get("session_id", 0))
        if kept is None:
            return
        seat, what = kept.seat, said["janus"]
        if what == "timeout":
            self._gone(seat)
        elif what == "trickle":
            of: Of = "publish" if said.get("sender") == seat.publishes else "receive"
            self._hear(seat, Candidate(said["candidate"], of))
        elif what == "event" and said.get("sender") == seat.receives:
            self._offered(seat, said)
        elif what == "event":
            data = said["plugindata"]["data"]
            if data.get("leaving") == "ok" or data.get("videoroom") == "destroyed":
                self._gone(seat)
                return
            seat.received -= {str(data[what]) for what in ("unpublished", "leaving") if what in data}
            self._run(self._receive(kept, _feeds(said)))

    def _offered(self, seat: Seat, said: Answer) -> None:
        if "jsep" not in said:
            return
        tracks = {}
        for stream in said["plugindata"]["data"].get("streams", ()):
            if stream.get("active") and stream["type"] in ("audio", "video"):
                feed = Feed.of(stream["feed_id"])
                tracks[str(stream["mid"])] = Track(feed.user, feed.epoch, stream["type"])
        self._hear(seat, Offer(str(said["jsep"]["sdp"]), tracks))

    def _gone(self, seat: Seat) -> None:
        if self._seats.pop(seat.session, None):
            self._run(self._destroy(seat.session))
            self._hear(seat, Gone())

    async def _receive(self, kept: Kept, feeds: set[str]) -> None:
        try:
            await self.subscribe(kept.seat, feeds)
        except EngineDown:
            pass  # asked for again when the seat is claimed
        except EngineRefused as refused:
            log.info("feeds not received", extra={"call": kept.seat.room, "why": str(refused)})

    # --- requests ---

    async def _moderate(self, room: str, body: dict[str, Any]) -> None:
        await self._ask_room({**body, "room": room, "secret": self._word("secret", room)})

    async def _ask_room(self, body: dict[str, Any]) -> dict[str, Any]:
        async with self._controlling:
            if self._control is None:
                session = int((await self._ask({"janus": "create"}))["data"]["id"])
                self._control = (session, await self._attach(session))
            session, handle = self._control
        data: dict[str, Any] = (await self._message(session, handle, body))["plugindata"]["data"]
        return data

    async def _attach(self, session: int) -> int:
        message = {"janus": "attach", "plugin": "janus.plugin.videoroom", "session_id": session}
        return int((await self._ask(message))["data"]["id"])

    async def _destroy(self, session: int) -> None:
        with contextlib.suppress(EngineDown, EngineRefused):
            await self._ask({"janus": "destroy", "session_id": session})

    async def _message(
        self, session: int, handle: int, body: dict[str, Any], jsep: dict[str, str] | None = None
    ) -> Answer:
        message: dict[str, Any] = {"janus": "message", "session_id": session, "handle_id": handle, "body": body}
        said = await self._ask(message | ({"jsep": jsep} if jsep else {}))
        data = said["plugindata"]["data"]
        if "error_code" in data:
            raise EngineRefused(int(data["error_code"]), str(data["error"]))
        return said

    async def _ask(self, message: dict[str, Any], acknowledged: bool = False) -> Answer:
        """Send and wait for the answer; `acknowledged` takes the bare receipt for one."""
        number = f"{'a' if acknowledged else 'r'}{next(self._numbers)}"
        future = self._asked[number] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(REQUEST_S):
                await self._connected.wait()
                if self._socket is None:
                    raise EngineDown("not connected")
                await self._socket.send_json({**message, "transaction": number, "apisecret": self._secret})
                said: Answer = await future
        except (TimeoutError, aiohttp.ClientError, ConnectionError) as error:
            raise EngineDown(str(error) or "no answer in time") from error
        finally:
            self._asked.pop(number, None)
        if said["janus"] == "error":
            raise EngineRefused(int(said["error"]["code"]), str(said["error"]["reason"]))
        return said

    def _word(self, purpose: str, room: str) -> str:
        return hmac.new(self._secret.encode(), f"{purpose}:{room}".encode(), hashlib.sha256).hexdigest()

    # --- the connection ---

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _stay_connected(self) -> None:
        tries = 0
        async with aiohttp.ClientSession() as client:
            while True:
                with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
                    async with asyncio.timeout(REQUEST_S):
                        socket = await client.ws_connect(self._url, protocols=("janus-protocol",), heartbeat=10)
                    try:
                        tries = 0
                        self._socket, self._control = socket, None
                        self._connected.set()
                        self._run(self._take_up())
                        async for message in socket:
                            if message.type == aiohttp.WSMsgType.TEXT:
                                self._take(message.data)
                    finally:
                        self._connected.clear()
                        self._socket = None
                        for future in self._asked.values():
                            if not future.done():
                                future.set_exception(EngineDown("the connection ended"))
                        await socket.close()
                await asyncio.sleep(RETRY_S[min(tries, len(RETRY_S) - 1)])
                tries += 1

    async def _take_up(self) -> None:
        """After a new connection: claim the seats; those that the engine has lost are told as gone."""
        for kept in list(self._seats.values()):
            try:
                await self.claim(kept.seat)
            except EngineRefused:
                self._hear(kept.seat, Gone())
            except EngineDown:
                return  # the next connection tries again

    def _take(self, text: str) -> None:
        """What cannot be understood is noted, and the connection goes on."""
        try:
            self._read(json.loads(text))
        except Exception:
            log.exception("a message of the media engine was not understood")

    def _read(self, said: Answer) -> None:
        number = said.get("transaction", "")
        future = self._asked.get(number)
        if said["janus"] == "ack" and not number.startswith("a"):
            return
        if future is None:
            self._event(said)
        elif not future.done():
            future.set_result(said)

    async def _keep_alive(self) -> None:
        while True:
            await asyncio.sleep(KEEP_ALIVE_S)
            sessions = [*self._seats, *([self._control[0]] if self._control else [])]
            for session in sessions:
                try:
                    await self._ask({"janus": "keepalive", "session_id": session}, acknowledged=True)
                except EngineDown:
                    break
                except EngineRefused:
                    if kept := self._seats.get(session):
                        self._gone(kept.seat)
                    else:
                        self._control = None


@contextlib.contextmanager
def _but(*codes: int) -> Iterator[None]:
    """What is already so is no error."""
    try:
        yield
    except EngineRefused as refused:
        if refused.code not in codes:
            raise


def _jsep(kind: str, sdp: str) -> dict[str, str]:
    return {"type": kind, "sdp": sdp}


def _feeds(said: Answer) -> set[str]:
    return {str(one["id"]) for one in said["plugindata"]["data"].get("publishers", ())}


def _sections(sdp: str) -> dict[str, str]:
    """The kind of each media section of an offer, by mid."""
    found, kind = {}, ""
    for line in sdp.splitlines():
        if line.startswith("m="):
            kind = line[2:].split(" ", 1)[0]
        elif line.startswith("a=mid:") and kind in ("audio", "video"):
            found[line[6:].strip()] = kind
    return found
