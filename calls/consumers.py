"""A socket of one device: frames in, frames out. A translator that holds no rule of calls.

It is a Channels consumer with its own receive loop: no thread hop and no layer subscription for each socket (the hub
has one for the process), and a clean-up that runs however the socket ends.
"""

import asyncio
import logging
import math
import random
import time
import types
import uuid
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence
from functools import partial
from typing import Any, TypeVar, overload

import msgspec
from channels.consumer import AsyncConsumer

from calls import address, conf, ice, logs, machine, metrics, models, people, pool, protocol, switchboard, tokens
from calls.arrivals import Visit
from calls.desk import NotHeld, desk
from calls.hub import RETURN_MS, Said, hub
from calls.logs import Trouble
from calls.machine import Refused, Seat
from calls.sign_ins import SignIn
from calls.switchboard import Beat, CatchUp, Goodbye, Mail, Other, Outcome, Perform, Place, Renamed
from calls.view import View, view
from calls.view import shape as shape_of
from devices import names, presence, sessions, times
from devices.presence import Hello

log = logging.getLogger(__name__)
undone = Trouble(log, "the database did not do what a device asked")
unknown = Trouble(log, "a socket cannot be signed in")
unleft = Trouble(log, "a device that left stays online until its deadline")

T = TypeVar("T")

BEAT_S = 2.0  # presence is written at most this often
MAX_UNSENT = 256  # frames waiting for a slow reader; one more drops the socket
MAX_DEBT = 1000  # frames refused as over the rate and not waited for; then the socket is closed as flooding
REFLECT_S = 300.0  # from the first refused hello: a person may have to say whether to take over
MAX_HELLOS = 10  # refused on one socket, which is closed then
SILENT_S = 1.0  # a socket that has said nothing for so long is told whether there is a sign-in behind its cookie
UNAVAILABLE_MS = 1000
WAYS = {"outgoing": "out", "incoming": "in"}  # of a limit, and of the legs that it counts
BACK_MS = (1000, 5000)  # a socket that cannot be signed in is asked to come back after some time between these
TOO_MANY_MS = 60_000  # for a new device, when the user has made very many in the last hour
TOKEN_WARNS_S = 60.0  # before a token ends, its device is told
STRANGERS = 20  # sockets of one address that come without a cookie and have shown no token yet
PRESENCE_MS = 1000  # for the next question for presence, when one is still being answered
SAY = "callplatform.say"  # what our own server offers: to send a text without a coroutine
PATIENCE = "callplatform.patience"  # and to read sockets that only ping all together


strangers: Counter[str] = Counter()  # such sockets of each address


class SignalingConsumer(AsyncConsumer):
    """See the module. One command at a time for each socket, in the order in which they came."""

    async def __call__(self, scope: Any, receive: Callable[[], Awaitable[Any]], send: Any) -> None:
        self.receive, self.transmit = receive, send
        self.session = sessions.of_headers(scope["headers"])  # who it belongs to is looked up with hello
        self.user: Any = None
        self.key = self.username = ""
        self.address = address.of_scope(scope)
        self.origin = _origin(scope["headers"])
        self.stranger = bool(scope.get("stranger"))  # opened by a page of another site, or by no page: needs a token
        self.token: tokens.Claims | None = None
        self.token_device: uuid.UUID | None = None
        self.token_due: asyncio.TimerHandle | None = None
        self.counted_out = False
        self.socket_id = uuid.uuid4()
        self.device_id: uuid.UUID | None = None  # held from the moment it arrived, even if its hello then failed
        self.seat: Seat | None = None
        self.calls: dict[uuid.UUID, machine.Call] = {}  # the last seen value of each live call of this device
        self.held_back: list[Said] | None = None  # what happens while the welcome is being made
        self.hellos = 0  # that were refused
        self.unsent: deque[dict[str, Any]] = deque()
        self.sender: asyncio.Task[None] | None = None
        self.closing = self.patient = False
        offered = scope.get("extensions", {})
        self.say: Callable[[str], bool] | None = offered.get(SAY, {}).get("text")
        self.can_be_patient = PATIENCE in offered
        self.busy = False  # with a command, before which nothing that comes later is answered
        self.obeying = False
        self.asks_presence = False
        self.told: tuple[machine.Call, str] | None = None  # a change that this device asked for, and its view
        self.beat: Beat | None = None  # its device and this socket, once it has said hello
        self.beat_at = 0.0
        self.pong_at = 0.0
        self.ice_at = 0.0
        self.tokens, self.refilled = float(conf.get("FRAME_BURST")), time.monotonic()
        try:
            await hub.start()
            await self._converse()
        finally:
            self._forget_stranger()
            if self.token_due is not None:
                self.token_due.cancel()
            hub.part(self.key, self)
            if self.device_id is not None:
                await self._leave(self.device_id)

    async def _converse(self) -> None:
        await self.receive()  # websocket.connect
        if self.stranger:
            strangers[self.address or ""] += 1
            if strangers[self.address or ""] > STRANGERS:
                await self.transmit({"type": "websocket.close"})
                return
        await self.transmit({"type": "websocket.accept"})
        self._expect_hello(conf.get("HELLO_S"))
        self.silent = asyncio.get_running_loop().call_later(SILENT_S, self._doubt)
        try:
            while (message := await self.receive())["type"] != "websocket.disconnect":
                if not self.closing:
                    await self._hear(message)
        finally:
            self.hello_due.cancel()
            self.silent.cancel()

    async def _hear(self, message: dict[str, Any]) -> None:
        text = message.get("text")
        if text is None or len(text) > protocol.MAX_FRAME:
            self.bye("protocol", 0)
            return
        try:
            self._spend_token()
            frame = protocol.parse(text)
        except Refused as refused:
            self._reply(protocol.id_of(text), None, refused)
            await asyncio.sleep(0)  # a flood of refusals waits for nothing else: the sender and others have their turn
            return
        if isinstance(frame, protocol.Ping):
            self._ping(frame)
        elif isinstance(frame, protocol.Presence):
            self._ask_presence(frame)
        else:
            self._be_patient(False)
            self.busy = True
            await self._answer(frame.id, self._obey(frame))
            self.busy = False

    def _overhear(self, text: str) -> bool:
        """Takes a ping, or a question for presence, without waking this socket's task, which takes as long as to answer
        it. Returns False for any other frame, and for one that would be refused: those go to `_hear`."""
        if self.closing or self.busy or self._refill() < 1:
            return False
        try:
            frame = protocol.parse(text)
        except Refused:
            return False
        if not isinstance(frame, protocol.Ping | protocol.Presence):
            return False
        self.tokens -= 1
        if isinstance(frame, protocol.Ping):
            self._ping(frame)
        else:
            self._ask_presence(frame)
        return True

    async def _answer(self, re: str, obeying: Coroutine[Any, Any, None]) -> None:
        """Says so when obeying a frame is refused or fails."""
        try:
            await obeying
        except Refused as refused:
            self._reply(re, None, refused)
            await asyncio.sleep(0)  # as above
        except pool.AWAY as error:
            undone.met(error)
            self._reply(re, None, Refused("unavailable", retry_ms=UNAVAILABLE_MS))
        except Exception:
            log.exception("a command failed")
            self._reply(re, None, Refused("unavailable", retry_ms=UNAVAILABLE_MS))

    async def _obey(self, frame: protocol.AnyCommand) -> None:
        if isinstance(frame, protocol.Hello):
            self.silent.cancel()
            if self.hellos == 0:
                self.hello_due.cancel()
            try:
                await self._hello(frame)
            finally:
                if self.seat is None:
                    self._count_refused_hello()
            return
        seat = self.seat
        if seat is None:
            raise protocol.bad("cmd", "Say hello first.")
        match frame:
            case protocol.Signal():
                await self._signal(seat, frame)
            case protocol.Renew():
                await self._renew(seat, frame)
            case protocol.MultiDevice():
                line = await pool.run(switchboard.switch_multi_device, seat.key, frame.on)
                self._send(protocol.reply(frame.id, line=switchboard.line_view(line)))
            case protocol.Invite():
                logs.about(call=frame.call)
                if frame.age > protocol.MAX_AGE_MS and frame.call not in self.calls:  # else it was placed in time
                    raise Refused("expired")
                data, ring_s = protocol.data_of(frame.data), frame.ring_s or conf.get("RING_S")
                other = _other(frame, seat)
                place = Place(self.user, seat, frame.call, frozenset(frame.to), frame.kind, data, ring_s, other)
                await self._settle(frame.id, seat, await self._ask(seat, place))
            case _:
                logs.about(call=frame.call)
                known = self.calls.get(frame.call)
                try:
                    if isinstance(frame, protocol.Answer) and frame.age > protocol.MAX_AGE_MS:
                        _refuse_old(known, seat)
                    command = protocol.command(frame, seat, conf.get("RING_S"))
                    order = Perform(frame.call, command, _other(frame, seat), known)
                except Refused as refused:
                    self._reply(frame.id, known, refused)
                    await asyncio.sleep(0)
                    return
                await self._settle(frame.id, seat, await self._ask(seat, order))

    async def _hello(self, frame: protocol.Hello) -> None:
        if self.seat is not None:
            raise protocol.bad("cmd", "This socket has said hello already.")
        logs.about(socket=self.socket_id)
        device = frame.device
        if not await self._may_come(frame):
            return
        id, name = self.token_device or device.id or self.device_id, names.clean(device.name)
        if not name:
            raise protocol.bad("device")
        hello = Hello(self.session, id, name, device.kind, frame.page, self.socket_id, frame.take, self.address)
        visit = Visit(hello, self._join)
        self.held_back = []
        try:
            arrived = await desk.arrive(visit)
            self.device_id, self.user = visit.device, arrived.arrival.user
            if self.token is not None:
                await self._bind(self.token, arrived.arrival.device.pk)
            self.username = self.user.get_username()
            seat = Seat(self.key, arrived.arrival.device.pk, arrived.arrival.device.name, frame.page)
            logs.about(user=self.key, device=seat.device)
            calls = [await self._taken(seat, await self._heard(seat, call)) for call in arrived.calls]
            self.seat, self.beat = seat, Beat(str(seat.device), str(self.socket_id))
        except presence.InUse:
            raise Refused("device_in_use") from None
        except presence.NotYours:
            raise Refused("not_found") from None
        except presence.TooMany:
            raise Refused("rate_limited", retry_ms=TOO_MANY_MS) from None
        except presence.SignedOut:
            if self.key:  # else a browser that is still signed in would be sent from the sign-in back here, in circles
                await pool.run(switchboard.end_sign_in, self.key, self.session)
            self.bye("signed_out", 0)
            return
        finally:
            self.device_id = visit.device or self.device_id
            waiting, self.held_back = self.held_back, None
            if self.seat is None:
                hub.part(self.key, self)
                for said in waiting:
                    if said.what == "bye":
                        self.take(said)
        self._forget_stranger()
        self._watch_token()
        self.beat_at = self.pong_at = self.ice_at = time.monotonic()
        views = [seen for call in calls if (seen := self._view(call)) and call.state != "ended"]
        self._send(
            protocol.encode(
                {
                    "t": "welcome",
                    "re": frame.id,
                    "v": protocol.VERSION,
                    "user": {"id": self.username, "name": models.name_of(self.user)},
                    "device": {"id": str(seat.device), "name": seat.name, "kind": arrived.arrival.device.kind},
                    "line": switchboard.line_view(arrived.line),
                    "calls": views,
                    "ice": ice.servers(self.username),
                    "ping_s": conf.get("PING_S"),
                    "ping_call_s": conf.get("PING_CALL_S"),
                    "pong_s": conf.get("PONG_S"),
                }
            )
        )
        for said in waiting:
            self.take(said)

    async def _may_come(self, frame: protocol.Hello) -> bool:
        """Whether this hello has a sign-in behind it, as far as that is known before its session is looked at. With a
        token no cookie counts."""
        if frame.token is None:
            if not self.session or self.token is not None:
                self.bye("signed_out", 0)
            return not self.closing
        try:
            claims = await pool.run(tokens.admitted, frame.token)
            if self.stranger and self.origin is not None and self.origin not in claims.origins:
                raise tokens.Wrong
            self.token_device = await pool.run(tokens.device_of, claims)
        except tokens.Ended:
            self.bye("token_ended", 0)
            return False
        except tokens.Wrong:
            self.bye("signed_out", 0)
            return False
        self.token, self.session = claims, claims.session
        return True

    async def _bind(self, token: tokens.Claims, device: uuid.UUID) -> None:
        """The token stays with the device of its first hello. Raises NotYours for another one."""
        if self.token_device is None and not await pool.run(tokens.bind, token, device):
            await pool.run(presence.sign_out, [device], times.now())
            raise presence.NotYours
        self.token_device = device

    async def _renew(self, seat: Seat, frame: protocol.Renew) -> None:
        """The socket goes on with a newer token."""
        if self.token is None:
            raise Refused("not_allowed")
        try:
            claims = await pool.run(tokens.admitted, frame.token)
        except tokens.Ended:
            raise Refused("expired") from None
        except tokens.Wrong:
            raise Refused("not_allowed") from None
        fits = claims.user == self.username and (not self.stranger or self.origin in (None, *claims.origins))
        if not fits or not await pool.run(tokens.renew, claims, seat.key, seat.device, self.session):
            raise Refused("not_allowed")
        self.token, self.session = claims, claims.session
        self._watch_token()
        self._send(protocol.reply(frame.id))

    def _watch_token(self) -> None:
        """Tells the device shortly before its token ends, and says goodbye when it has; in a call a little later."""
        if self.token_due is not None:
            self.token_due.cancel()
        if self.token is not None:
            left_s = (self.token.ends - times.now()).total_seconds()
            wait_s = max(0.0, left_s - TOKEN_WARNS_S)
            self.token_due = asyncio.get_running_loop().call_later(wait_s, self._token_ends_soon)

    def _token_ends_soon(self) -> None:
        assert self.token is not None
        left_s = max(0.0, (self.token.ends - times.now()).total_seconds())
        self._send(protocol.encode({"t": "token", "ends_ms": round(1000 * left_s)}))
        self.token_due = asyncio.get_running_loop().call_later(left_s, self._token_has_ended, tokens.GRACE_S)

    def _token_has_ended(self, grace_s: float) -> None:
        seat = self.seat
        joined = seat is not None and any(
            leg.state == "joined" and leg.device == seat.device for call in self.calls.values() for leg in call.legs
        )
        if grace_s and joined:
            self.token_due = asyncio.get_running_loop().call_later(grace_s, self._token_has_ended, 0.0)
        else:
            self.bye("token_ended", 0)

    def _forget_stranger(self) -> None:
        """The socket does not wait any more: it has shown a token, or is gone."""
        if self.stranger and not self.counted_out:
            self.counted_out = True
            strangers[self.address or ""] -= 1
            if strangers[self.address or ""] <= 0:
                del strangers[self.address or ""]

    def _join(self, key: str) -> None:
        """From here on what is said to the user is heard."""
        self.key = key
        hub.join(key, self)

    def _ping(self, frame: protocol.Ping) -> None:
        """Changes nothing, so nothing has to wait for it; nor does it take a task: most sockets only ping."""
        seat = self.seat
        if seat is None:
            self._reply(frame.id, None, protocol.bad("cmd", "Say hello first."))
            return
        page = CatchUp(seat.key, frozenset(frame.calls))
        desk.look(page, self._beat(), partial(self._looked, seat, frame))

    def _looked(self, seat: Seat, frame: protocol.Ping, found: list[machine.Call] | Exception) -> None:
        if isinstance(found, list) and not any(switchboard.is_back(call, seat.key, seat.device) for call in found):
            self._pong(frame, found)
        else:
            hub.spawn(self._answer(frame.id, self._pong_later(seat, frame, found)))

    async def _pong_later(self, seat: Seat, frame: protocol.Ping, found: list[machine.Call] | Exception) -> None:
        if isinstance(found, NotHeld):
            raise await self._not_held()
        if isinstance(found, Exception):
            self._send_elsewhere()
            raise found
        self._pong(frame, [await self._heard(seat, call) for call in found])

    def _send_elsewhere(self) -> None:
        """A device in a call whose heartbeats cannot be stored here is silent for the other processes, which would end
        its call. One of them may reach the database: so it is told to come back; the load balancer decides where."""
        if self.calls and not hub.alone and time.monotonic() - self.pong_at > conf.get("DEVICE_SILENT_S"):
            soon = random.randint(*RETURN_MS)  # noqa: S311
            asyncio.get_running_loop().call_soon(self.bye, "restart", soon)  # after the reply

    def _pong(self, frame: protocol.Ping, calls: Sequence[machine.Call]) -> None:
        views = {call.id: seen for call in calls if (seen := self._view(call))}
        newer = [seen for id, seen in views.items() if seen.v > frame.calls.get(id, 0)]
        if newer:
            metrics.REPAIRED.inc(len(newer))
        self.pong_at = time.monotonic()
        pong: dict[str, Any] = {"t": "pong", "re": frame.id, "calls": newer}
        gone = [str(id) for id in frame.calls if id not in views]
        if gone:
            pong["gone"] = gone
        if self.pong_at - self.ice_at > conf.get("TURN_TTL_S") / 2:
            self.ice_at = self.pong_at
            pong["ice"] = ice.servers(self.username)
        self._send(protocol.encode(pong))
        if not self.calls:
            self._be_patient(True)

    def _ask_presence(self, frame: protocol.Presence) -> None:
        """Beside everything else, like a ping: no command waits for it. One question at a time for each socket."""
        if self.seat is None:
            self._reply(frame.id, None, protocol.bad("cmd", "Say hello first."))
        elif self.asks_presence:
            self._reply(frame.id, None, Refused("rate_limited", retry_ms=PRESENCE_MS))
        else:
            self.asks_presence = True
            hub.spawn(self._answer(frame.id, self._tell_presence(frame)))

    async def _tell_presence(self, frame: protocol.Presence) -> None:
        try:
            found = await people.presence.of(frame.of)
        finally:
            self.asks_presence = False
        self._send(protocol.reply(frame.id, people=found))

    async def _heard(self, seat: Seat, call: machine.Call) -> machine.Call:
        """The call, after the others were told that this device, silent for a while, is back in it."""
        if not switchboard.is_back(call, seat.key, seat.device):
            return call
        return (await self._ask(seat, Perform(call.id, machine.Heard(seat.key, seat.device), known=call))).call or call

    async def _taken(self, seat: Seat, call: machine.Call) -> machine.Call:
        """The call, after this page took what its device has answered over HTTP."""
        mine = machine.leg_of(call, seat.key)
        if mine is None or mine.device != seat.device or mine.page != tokens.page_of(seat.device):
            return call
        return (await self._ask(seat, Perform(call.id, machine.Move(seat), known=call))).call or call

    async def _signal(self, seat: Seat, frame: protocol.Signal) -> None:
        call = self.calls.get(frame.call)
        if call is None:  # a frame was lost: look once
            known = await self._ask(seat, CatchUp(seat.key, frozenset({frame.call})))
            call = next((each for each in known if each.id == frame.call and self._view(each)), None)
        if call is None:
            raise Refused("not_found")
        try:
            switchboard.signal(call, seat, frame.to, frame.body)
        except Refused as refused:
            self._reply(frame.id, call, refused)

    @overload
    async def _ask(self, seat: Seat, asked: Place | Perform) -> Outcome: ...

    @overload
    async def _ask(self, seat: Seat, asked: CatchUp) -> list[machine.Call]: ...

    async def _ask(self, seat: Seat, asked: Place | Perform | CatchUp) -> Any:
        """What the desk says to this device, with a heartbeat when one is due."""
        began, self.obeying = time.perf_counter(), True
        try:
            outcome = await self._held(desk.ask(asked, self._beat()))
        finally:
            self.obeying = False
        metrics.COMMAND_S.labels(_kind(asked)).observe(time.perf_counter() - began)
        return outcome

    def _beat(self) -> Beat | None:
        """The device and its socket, when it is time to note that it was heard from."""
        now = time.monotonic()
        if now - self.beat_at < BEAT_S:
            return None
        self.beat_at = now
        return self.beat

    async def _held(self, outcome: Awaitable[T]) -> T:
        """What comes of it, if the device is still this socket's."""
        try:
            return await outcome
        except NotHeld:
            raise await self._not_held() from None

    async def _not_held(self) -> Refused:
        """Says goodbye after the reply, which is this: the bye of whoever has the device now was lost on its way."""
        held = self.device_id is not None and await pool.run(presence.is_signed_in, self.device_id)
        asyncio.get_running_loop().call_soon(self.bye, "replaced" if held else "signed_out", 0)
        return Refused("device_in_use" if held else "not_allowed")

    async def _settle(self, re: str, seat: Seat, outcome: Outcome) -> None:
        refused = outcome.refused
        if refused is not None and refused.code == "limit_reached":
            refused.about["calls"] = await self._in_the_way(seat, refused.about["direction"])
        self._reply(re, outcome.call, refused)

    async def _in_the_way(self, seat: Seat, direction: str) -> list[View]:
        """The user's own calls that use up a limit, wherever they are: so that they can be continued or ended."""
        found = []
        for call in await self._ask(seat, CatchUp(seat.key)):
            mine = machine.leg_of(call, seat.key)
            if mine is not None and mine.state in machine.LIVE and mine.dir == WAYS[direction]:
                seen = self._render(call, anywhere=True)
                found += [seen] if seen else []
        return found

    # What the hub brings, in the event loop.

    def take(self, said: Said) -> None:
        """Something that was said to this user."""
        if self.held_back is not None:
            self.held_back.append(said)
            return
        content = said.content
        match said.what, content:
            case "call", machine.Call():
                self._take_call(content, said.views)
            case "signal", Mail():
                if self._is_mine(content):
                    sender = {"user": content.sender, "epoch": content.sender_epoch}
                    mail = {"t": "signal", "call": str(content.call), "from": sender, "body": msgspec.Raw(content.body)}
                    self._send(protocol.encode(mail))
            case "line", dict():
                self._send(protocol.encode({"t": "line", "line": content}))
            case "history", dict():
                self._send(protocol.encode({"t": "history", **content}))
            case "device", Renamed():
                self._rename(content)
            case "bye", Goodbye():
                if content.device == self.device_id and content.socket in (None, self.socket_id):
                    self.bye(content.why, 0)

    def _rename(self, said: Renamed) -> None:
        if self.seat is not None and said.device == self.seat.device:
            self.seat = msgspec.structs.replace(self.seat, name=said.name)
            device = {"id": str(said.device), "name": said.name, "kind": said.kind}
            self._send(protocol.encode({"t": "device", "device": device}))

    def _take_call(self, call: machine.Call, views: dict[Any, tuple[str, str]]) -> None:
        assert self.seat is not None
        known = self.calls.get(call.id)
        if known is not None and known.v >= call.v:
            return
        seat = self.seat
        shape = shape_of(call, seat.key, seat.device, seat.page)
        self._note(call, shape is not None)
        if shape is not None:
            if shape not in views:
                text = protocol.encode(self._render(call))
                views[shape] = text, protocol.event(text)
            text, event = views[shape]
            if self.obeying:
                self.told = call, text
            self._send(event)
        elif call.state == "ended":  # nothing of the call itself, but the person may have missed it
            self._send(protocol.encode({"t": "history"}))

    @property
    def sign_in(self) -> SignIn | None:
        """Whose socket this is, once it has said hello."""
        return SignIn(self.seat.key, self.session, self.seat.device) if self.seat else None

    def bye(self, why: str, retry_ms: int) -> None:
        """Says why and closes the socket, once."""
        if self.closing:
            return
        self._send(protocol.encode({"t": "bye", "why": why, "retry_ms": retry_ms}))
        self._close(why)

    def _count_refused_hello(self) -> None:
        """The time to reflect begins with the first one, and is not extended by those that follow."""
        self.hellos += 1
        if self.hellos == 1:
            self._expect_hello(REFLECT_S)
        elif self.hellos == MAX_HELLOS:
            asyncio.get_running_loop().call_soon(self._miss_hello)  # after the reply

    def _doubt(self) -> None:
        """The socket has said nothing yet, so nobody has checked its cookie. Checks now for a sign-in behind it."""
        if not self.closing and not self.stranger:
            hub.spawn(self._look_at_sign_in())

    async def _look_at_sign_in(self) -> None:
        try:
            if await pool.run(sessions.user_of, self.session) is None:
                self.bye("signed_out", 0)
            unknown.over()
        except pool.AWAY as error:
            unknown.met(error)
            if self.seat is None:
                self.bye("restart", random.randint(*BACK_MS))  # noqa: S311

    def _expect_hello(self, within_s: float) -> None:
        self.hello_due = asyncio.get_running_loop().call_later(within_s, self._miss_hello)

    def _miss_hello(self) -> None:
        if self.seat is not None:
            return
        if self.stranger and not self.hellos:
            self.bye("signed_out", 0)
        self._close("no_hello")

    def _close(self, why: str) -> None:
        if not self.closing:
            self.closing = True
            self._post({"type": "websocket.close", "code": protocol.CLOSE[why], "reason": why})

    def _view(self, call: machine.Call) -> View | None:
        """This device's view of the call, which is noted."""
        seen = self._render(call)
        self._note(call, seen is not None)
        return seen

    def _render(self, call: machine.Call, *, anywhere: bool = False) -> View | None:
        """This device's view of the call; `anywhere`: also if another device of the user has it or had it."""
        assert self.seat is not None
        seat = self.seat
        return view(call, seat.key, seat.device, times.now(), seat.page, conf.deadlines(), anywhere=anywhere)

    def _note(self, call: machine.Call, visible: bool) -> None:
        """Signals and later frames are held against the last value seen."""
        if call.state == "ended":
            self.calls.pop(call.id, None)
        elif visible:
            known = self.calls.get(call.id)
            if known is None or known.v <= call.v:
                self.calls[call.id] = call
                self._be_patient(False)

    def _be_patient(self, patient: bool) -> None:
        """Tells our own server whether this device is in no call and only pings. While that is so, what it sends may be
        read together with what others send, a little later."""
        if self.patient != patient and self.can_be_patient:
            self.patient = patient
            self._post({"type": PATIENCE, "take": self._overhear if patient else None})

    def _is_mine(self, mail: Mail) -> bool:
        if self.seat is None or (mail.device, mail.page) != (self.seat.device, self.seat.page):
            return False
        known = self.calls.get(mail.call)
        if known is None:
            return True
        mine, theirs = machine.leg_of(known, self.key), machine.leg_named(known, mail.sender)
        return bool(mine and theirs and mine.epoch <= mail.epoch and theirs.epoch <= mail.sender_epoch)

    def _reply(self, re: str | None, call: machine.Call | None, refused: Refused | None) -> None:
        seen: Any = None
        if self.told is not None and self.told[0] is call:  # the event of this change: the reply shows the same
            seen = msgspec.Raw(self.told[1].encode())
        elif call is not None and self.seat is not None:
            seen = self._view(call)
        self.told = None
        if call is not None and seen is None and refused is None:
            seen = self._render(call, anywhere=True) if self.seat is not None else None  # ended from this device
            refused = None if seen else Refused("not_found")
        self._send(protocol.reply(re, seen, refused))

    def _spend_token(self) -> None:
        """A refused frame costs its token too: whoever does not wait gets into debt, and is closed at the end of it."""
        self.tokens = self._refill() - 1
        if self.tokens < -MAX_DEBT:
            self.bye("flooding", 10_000)
        if self.tokens < 0:
            raise Refused("rate_limited", retry_ms=math.ceil(1000 * (1 - self.tokens) / conf.get("FRAME_RATE")))

    def _refill(self) -> float:
        """The tokens that there are by now."""
        now = time.monotonic()
        self.tokens = min(conf.get("FRAME_BURST"), self.tokens + (now - self.refilled) * conf.get("FRAME_RATE"))
        self.refilled = now
        return self.tokens

    # Out, in order, never more than a bounded number of frames waiting.

    def _send(self, text: str) -> None:
        if not self.closing and (self.unsent or self.say is None or not self.say(text)):
            self._post({"type": "websocket.send", "text": text})

    def _post(self, message: dict[str, Any]) -> None:
        if len(self.unsent) >= MAX_UNSENT:
            self.closing = True
            self.unsent.clear()
            message = {"type": "websocket.close", "code": protocol.CLOSE["flooding"], "reason": "slow reader"}
        self.unsent.append(message)
        if self.sender is None or self.sender.done():
            self._send_now()

    def _send_now(self) -> None:
        """Sends without a task of its own, as far as the server takes it at once. The rest goes when there is room."""
        while self.unsent:
            sending = self.transmit(self.unsent.popleft())
            try:
                wanted = sending.send(None)
            except StopIteration:
                continue
            except Exception as error:
                self._unsendable(error)
                return
            self.sender = asyncio.create_task(self._send_all(_going_on(sending, wanted)))
            return

    async def _send_all(self, begun: Awaitable[None]) -> None:
        try:
            await begun
            while self.unsent:
                await self.transmit(self.unsent.popleft())
        except Exception as error:
            self._unsendable(error)

    def _unsendable(self, error: Exception) -> None:
        log.debug("a frame was not sent: %s", error)  # the socket is gone; its disconnect is on the way here
        self.unsent.clear()

    async def _leave(self, device_id: uuid.UUID) -> None:
        try:
            await desk.leave(Beat(str(device_id), str(self.socket_id)))
        except pool.AWAY as error:
            unleft.met(error)


def _origin(headers: Sequence[tuple[bytes, bytes]]) -> str | None:
    return next((value.decode("latin-1").lower() for name, value in headers if name.lower() == b"origin"), None)


def _kind(asked: Place | Perform | CatchUp) -> str:
    if isinstance(asked, Perform):
        return type(asked.command).__name__.lower()
    return "invite" if isinstance(asked, Place) else "signal"


@types.coroutine
def _going_on(begun: Coroutine[Any, Any, None], wanted: Any) -> Generator[Any, Any, None]:
    """The rest of a coroutine that has begun and waits for something."""
    while True:
        step: Callable[[Any], Any]
        try:
            value = yield wanted
            step = begun.send
        except BaseException as error:
            step, value = begun.throw, error
        try:
            wanted = step(value)
        except StopIteration:
            return


def _other(frame: protocol.Invite | protocol.AboutCall, seat: Seat) -> Other | None:
    asked = protocol.other_command(frame, seat)
    return Other(*asked) if asked else None


def _refuse_old(call: machine.Call | None, seat: Seat) -> None:
    """Refuses an answer that waited too long in the client. If this device has joined already, the answer is a repeat
    of one that came in time, and passes."""
    leg = machine.leg_of(call, seat.key) if call else None
    if leg is None or leg.state != "joined" or leg.device != seat.device:
        raise Refused("expired")
