"""Commands of a device over HTTP: a phone that was woken answers before its socket stands."""

import uuid
from typing import Any

from django.http import HttpRequest, HttpResponse
from ninja import Router
from ninja.security import HttpBearer

from calls import address, conf, machine, people, protocol, switchboard, tokens
from calls.allowance import Allowance
from calls.api import door, keys, pages, problems
from calls.api.problems import Problem
from calls.machine import Refused, Seat
from calls.switchboard import Other, Outcome
from calls.view import view
from devices import sessions, times
from devices.models import Device

router = Router(tags=["device"])

commands = Allowance()  # of each device
NOT_HERE = (protocol.Hello, protocol.Renew, protocol.Ping, protocol.Signal)


class a_token(HttpBearer):
    """The token of a device. A bad one is 401, and no cookie is looked at."""

    openapi_name = "token"

    def __call__(self, request: HttpRequest) -> Any:
        where = address.of_request(request)
        try:
            keys.failed.check(where)
            claims, user, device = _found(request)
        except Refused as refused:
            raise problems.of(refused) from None
        except tokens.Ended:  # nobody guesses
            raise Problem("unauthorized", "This is no token that is valid here.") from None
        except tokens.Wrong:
            try:
                keys.failed.spend(where)
            except Refused as refused:
                raise problems.of(refused) from None
            raise Problem("unauthorized", "This is no token that is valid here.") from None
        door.caller(request).origins = claims.origins
        return user, device

    def authenticate(self, request: HttpRequest, token: str) -> Any:
        raise NotImplementedError  # __call__ is all that is used


def _found(request: HttpRequest) -> tuple[tokens.Claims, str, uuid.UUID | None]:
    """What the token says, its user's key, and the device that it stays with. Raises Ended or Wrong."""
    kind, _, said = request.headers.get("Authorization", "").strip().partition(" ")
    if kind.lower() != "bearer":
        raise tokens.Wrong
    claims = tokens.admitted(said.strip())
    origin, own = request.headers.get("Origin", "").lower(), f"{request.scheme}://{request.get_host()}".lower()
    if origin and origin not in (own, *claims.origins):
        raise tokens.Wrong
    user = sessions.user_of(claims.session)
    if user is None:
        raise tokens.Wrong
    return claims, user, tokens.device_of(claims)


@router.post(
    "/device/commands",
    auth=a_token(),
    openapi_extra={
        "requestBody": {"content": {"application/json": {"schema": {"type": "object"}}}, "required": True},
        "responses": {200: {"description": "OK", "content": {"application/json": {"schema": {"type": "object"}}}}},
    },
)
def command(request: HttpRequest) -> HttpResponse:
    """A frame of the wire protocol, as a socket would send it; answers with the socket's reply. An answered leg belongs
    to the device's socket from its `hello` on."""
    pages.only(request)
    user, device_id = request.auth  # type: ignore[attr-defined]
    device = Device.objects.select_related("user").filter(pk=device_id, signed_out_at=None).first()
    if device is None:
        raise Problem("not_allowed", "This token has no device yet: say hello on a socket, or name one at mint.")
    try:
        commands.spend(device.pk)
    except Refused as refused:
        raise problems.of(refused) from None
    door.parse(request)  # whether it is JSON at all
    return HttpResponse(_answer(user, device, request.body.decode()), "application/json")


def _answer(user: str, device: Device, text: str) -> str:
    try:
        frame = protocol.parse(text)
    except Refused as refused:
        return protocol.reply(protocol.id_of(text), None, refused)
    if isinstance(frame, NOT_HERE):
        return protocol.reply(frame.id, None, protocol.bad("cmd", "This is said on a socket only."))
    seat = Seat(user, device.pk, device.name, device.page or tokens.page_of(device.pk))
    Device.objects.filter(pk=device.pk).update(last_seen_at=times.now())
    try:
        if isinstance(frame, protocol.Presence):
            online = people.online(frame.of)
            said = {name: "online" if name in online else "offline" for name in frame.of}
            return protocol.reply(frame.id, people=said)
        if isinstance(frame, protocol.MultiDevice):
            return protocol.reply(frame.id, line=switchboard.line_view(switchboard.switch_multi_device(user, frame.on)))
        outcome = _done(frame, seat, device)
    except Refused as refused:
        return protocol.reply(frame.id, None, refused)
    call, refused_as = outcome.call, outcome.refused
    seen = view(call, user, device.pk, times.now(), seat.page, conf.deadlines()) if call else None
    if call is not None and seen is None and refused_as is None:
        refused_as = Refused("not_found")
    return protocol.reply(frame.id, seen, refused_as)


def _done(frame: Any, seat: Seat, device: Device) -> Outcome:
    """What comes of a command on a call."""
    asked = protocol.other_command(frame, seat)
    other = Other(*asked) if asked else None
    age = getattr(frame, "age", 0)
    if isinstance(frame, protocol.Invite):
        if age > protocol.MAX_AGE_MS:
            raise Refused("expired")
        ring_s = frame.ring_s or conf.get("RING_S")
        to, data = frozenset(frame.to), protocol.data_of(frame.data)
        return switchboard.place(device.user, seat, frame.call, to, frame.kind, data, ring_s, other=other)
    if age > protocol.MAX_AGE_MS:
        raise Refused("expired")
    wanted: machine.Command = protocol.command(frame, seat, conf.get("RING_S"))
    return switchboard.perform(frame.call, wanted, other=other)
