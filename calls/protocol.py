"""The wire contract: a text frame becomes a frame value, or is refused as `bad_frame` naming the argument.

Pure: imports neither Django nor Channels nor asyncio. Sizes and the closed sets of codes stand here and nowhere else.
"""

import json
import re
import uuid
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Raw, Struct

from calls import machine
from calls.machine import Refused, Seat
from calls.view import View

VERSION = 1
MAX_FRAME = 64 * 1024  # bytes of one text frame
MAX_BODY = 32 * 1024  # bytes of a signal's body
MAX_DATA = 2 * 1024  # bytes of a leg's own data
MAX_DEPTH = 32  # of arrays and objects in it
MAX_NUMBER = 2**63  # in it, and its negative: larger ones do not come back from every row and message as they went
MAX_FLOAT = 2**53  # likewise with a fraction or an exponent: PostgreSQL gives a larger one back as another integer
MAX_AGE_MS = 10_000  # an invite or answer that waited longer in a client is not acted on

CLOSE: dict[str, int] = {
    "protocol": 4400,
    "signed_out": 4401,
    "deactivated": 4401,
    "token_ended": 4401,
    "no_hello": 4408,
    "replaced": 4409,
    "flooding": 4429,
    "restart": 1012,
}

MESSAGES: dict[str, str] = {
    "bad_frame": "This frame is not part of the protocol.",
    "not_found": "There is no such call or person for you.",
    "not_allowed": "This cannot be done to the call now.",
    "limit_reached": "You have reached your limit of {direction} calls: {limit}.",
    "answered_elsewhere": "Answered on {device}",
    "call_ended": "The call has ended.",
    "in_call": "This device is in another call.",
    "full": "A call has room for {limit} people.",
    "device_in_use": "Another page holds this device.",
    "multi_device_off": "The operator has not allowed several devices to ring.",
    "conflict": "This call id was used for another call.",
    "expired": "This was asked too long ago.",
    "rate_limited": "Too many commands. Try again in a moment.",
    "unavailable": "Nothing was done. Try again in a moment.",
}

Id = Annotated[str, Meta(min_length=1, max_length=64)]
Username = Annotated[str, Meta(min_length=1, max_length=150)]
Names = Annotated[list[Username], Meta(min_length=1, max_length=64)]
Age = Annotated[int, Meta(ge=0)]
Token = Annotated[str, Meta(min_length=1, max_length=4096)]
DeviceKind = Literal["web", "ios", "android", "windows", "macos", "linux", "other"]


class DeviceSaid(Struct, frozen=True):
    id: uuid.UUID | None
    name: Annotated[str, Meta(min_length=1, max_length=64, pattern=r"\S")]
    kind: DeviceKind


class Frame(Struct, frozen=True, tag_field="cmd", tag=str.lower):
    id: Id


class Hello(Frame, frozen=True):
    page: uuid.UUID
    device: DeviceSaid
    take: bool = False
    token: Token | None = None


class Renew(Frame, frozen=True, tag="token"):
    """A newer token on the open socket."""

    token: Token


class Also(Struct, frozen=True):
    """What to do with another call in the same decision."""

    call: uuid.UUID
    do: Literal["hangup", "hold"]


class Invite(Frame, frozen=True, rename={"also": "and"}):
    call: uuid.UUID
    to: Names
    kind: machine.Kind
    data: Raw = Raw()
    ring_s: Annotated[int, Meta(ge=5, le=120)] | None = None
    also: Also | None = None
    age: Age = 0


class Ringing(Frame, frozen=True):
    call: uuid.UUID


class Answer(Frame, frozen=True, rename={"also": "and"}):
    call: uuid.UUID
    data: Raw = Raw()
    also: Also | None = None
    age: Age = 0


class Reject(Frame, frozen=True):
    call: uuid.UUID
    data: Raw = Raw()


class Hangup(Frame, frozen=True):
    call: uuid.UUID
    data: Raw = Raw()


class End(Frame, frozen=True):
    call: uuid.UUID
    data: Raw = Raw()


class Add(Frame, frozen=True):
    call: uuid.UUID
    to: Names


class Remove(Frame, frozen=True):
    call: uuid.UUID
    user: Username


class Move(Frame, frozen=True):
    call: uuid.UUID


class Hold(Frame, frozen=True, rename={"also": "and"}):
    call: uuid.UUID
    on: bool
    also: Also | None = None


class Transfer(Frame, frozen=True, rename={"with_": "with"}):
    """Blind with `to`, attended with `with`, which with `stay` brings two calls together."""

    call: uuid.UUID
    to: Username | None = None
    with_: uuid.UUID | None = None
    stay: bool = False
    data: Raw = Raw()


class Media(Frame, frozen=True):
    call: uuid.UUID
    mic: bool
    cam: bool


class Signal(Frame, frozen=True):
    call: uuid.UUID
    to: Username
    body: Raw


class MultiDevice(Frame, frozen=True, tag="multi_device"):
    on: bool


class Ping(Frame, frozen=True):
    calls: Annotated[dict[uuid.UUID, int], Meta(max_length=64)] = {}


class Presence(Frame, frozen=True):
    of: Annotated[list[Username], Meta(min_length=1, max_length=100)]


AboutCall = Ringing | Answer | Reject | Hangup | End | Add | Remove | Move | Hold | Transfer | Media
AnyCommand = Hello | Renew | Invite | AboutCall | Signal | MultiDevice
AnyFrame = AnyCommand | Ping | Presence

OtherCommand = machine.Hangup | machine.Hold | machine.HandOver  # what may be asked of another call besides

_decoder = msgspec.json.Decoder(AnyFrame)
_encoder = msgspec.json.Encoder()
_ARGUMENT = re.compile(r"\$\.([a-z_]+)")
_HALF = re.compile("[\ud800-\udfff]")  # of a surrogate pair, which no answer can say
_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")  # its escape, and not that of a backslash in front of u0000
_FIELD = re.compile(r"field `([a-z_]+)`")


def parse(text: str) -> AnyFrame:
    """The frame, or `Refused("bad_frame", argument=…)`. The caller finds the frame's id with `id_of`."""
    try:
        raw = text.encode()
        if len(raw) > MAX_FRAME:
            raise bad("frame")
        frame = _decoder.decode(raw)
    except msgspec.ValidationError as error:
        raise bad(_argument(str(error))) from None
    except (UnicodeError, msgspec.DecodeError, RecursionError):
        raise bad("frame") from None
    if isinstance(frame, Signal):
        if len(bytes(frame.body)) > MAX_BODY:
            raise bad("body")
    elif "\\u0000" in text and _NUL.search(text):  # no database keeps it, and no name or text needs it
        raise bad("frame")
    wrong = _wrong(frame)
    if wrong is not None:
        raise bad(wrong)
    return frame


def _wrong(frame: AnyFrame) -> str | None:
    """The argument that is at fault, if each of them is well formed and yet they do not go together."""
    match frame:
        case Invite(to=to) | Add(to=to) if len(set(to)) < len(to):
            return "to"
        case Transfer(to=to, with_=other, stay=stay):
            if (to is None) == (other is None):
                return "to"
            return "stay" if stay and other is None else None
    return None


def id_of(text: str) -> str | None:
    """The id of a frame that could not be parsed, if it has a usable one, so that its refusal finds its command."""
    try:
        said = json.loads(text)  # reads a half of a surrogate pair, for which frames are refused
    except (ValueError, RecursionError):
        return None
    found = said.get("id") if isinstance(said, dict) else None
    usable = isinstance(found, str) and 1 <= len(found) <= 64 and not _HALF.search(found)
    return found if usable else None


def data_of(raw: Raw) -> Any:
    """A leg's own data, as a JSON value; None when there is none."""
    if not bytes(raw):
        return None
    if len(bytes(raw)) > MAX_DATA:
        raise bad("data")
    try:
        data = msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        raise bad("data") from None
    if not _can_be_kept(data):
        raise bad("data")
    return data


def _can_be_kept(data: Any, depth: int = 0) -> bool:
    if isinstance(data, float):
        return -MAX_FLOAT < data < MAX_FLOAT
    if isinstance(data, int):
        return -MAX_NUMBER < data < MAX_NUMBER
    if isinstance(data, (list, dict)):
        inner = data.values() if isinstance(data, dict) else data
        return depth < MAX_DEPTH and all(_can_be_kept(each, depth + 1) for each in inner)
    return True


def command(frame: AboutCall, by: Seat, ring_s: float) -> machine.Command:
    """What the frame asks of a call. People who are to be rung are given by name; `ring_s` is for how long they ring,
    in seconds."""
    match frame:
        case Ringing():
            return machine.Ringing(by)
        case Answer():
            return machine.Answer(by, data_of(frame.data))
        case Reject():
            return machine.Reject(by, data_of(frame.data))
        case Hangup():
            return machine.Hangup(by, data_of(frame.data))
        case End():
            return machine.End(by, data_of(frame.data))
        case Move():
            return machine.Move(by)
        case Media():
            return machine.Media(by, frame.mic, frame.cam)
        case Add():
            return machine.Add(by, (), ring_s, unknown=tuple(frame.to))
        case Remove():
            return machine.Remove(by, frame.user)
        case Hold():
            return machine.Hold(by, frame.on)
        case Transfer(to=str(name)):
            return machine.Transfer(by, None, name, ring_s, data=data_of(frame.data))
        case Transfer(with_=uuid.UUID() as other):
            return machine.TakeOver(by, other, stay=frame.stay)
    raise AssertionError(frame)


def other_command(frame: Invite | AboutCall, by: Seat) -> tuple[uuid.UUID, OtherCommand] | None:
    """The other call that the frame asks something of in the same decision, and what. Refused as `bad_frame` if it is
    no other one."""
    match frame:
        case Transfer(call=call, with_=uuid.UUID() as other):
            if other == call:
                raise bad("with")
            return other, machine.HandOver(by, call)
        case Invite(also=Also(other, do)) | Answer(also=Also(other, do)) | Hold(also=Also(other, do)):
            if other == frame.call:
                raise bad("and")
            return other, machine.Hangup(by) if do == "hangup" else machine.Hold(by, True)
    return None


def bad(argument: str, message: str | None = None) -> Refused:
    """The refusal of a frame, naming the argument at fault (`frame` when it is the whole)."""
    return Refused("bad_frame", argument=argument, message=message or f"Wrong or missing: {argument}.")


def error(refused: Refused) -> dict[str, Any]:
    """A refusal as the wire shows it: `code`, `message`, and the fields that belong to the code."""
    about = {"message": MESSAGES[refused.code].format_map(refused.about), **refused.about}
    return {"code": refused.code, **about}


def reply(re: str | None, view: View | Raw | None = None, refused: Refused | None = None, **more: Any) -> str:
    """The one reply to a command."""
    frame: dict[str, Any] = {"t": "reply", "re": re, "ok": refused is None}
    if refused is not None:
        frame["error"] = error(refused)
    if view is not None:
        frame["call"] = view
    return encode({**frame, **more})


def event(view: str) -> str:
    """The frame that tells of a change, with the view as text."""
    return encode({"t": "call", "call": Raw(view.encode())})


def encode(frame: Any) -> str:
    """A frame, or a part of one, as text."""
    return _encoder.encode(frame).decode()


def _argument(message: str) -> str:
    """The argument that msgspec complains about: the one that its path begins with, or that it misses."""
    missing = _FIELD.search(message)
    path = _ARGUMENT.search(message)
    if path is not None:
        return path.group(1)
    if missing is not None:
        return missing.group(1)
    return "cmd" if "Invalid value" in message or "cmd" in message else "frame"
