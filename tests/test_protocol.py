"""The wire contract as pure functions: frames in, refusals and replies out, and the closed sets."""

import json
import typing
import uuid

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calls import machine, protocol
from calls.machine import Refused, Seat
from tests.malformed import BOTTOMLESS, CALL, DEVICE, NO_COMMAND, NO_ID, NUL, WRONG, deep, frame

OTHER = "0190a1b2-0000-4000-8000-000000000001"
SEAT = Seat(key="1", device=uuid.uuid4(), name="Phone", page=uuid.uuid4())

settings.register_profile("pure", deadline=None, derandomize=True, max_examples=300)
pure = settings.get_profile("pure")


def argument(text: str) -> str:
    """The argument that the refusal of this frame names."""
    with pytest.raises(Refused) as refused:
        protocol.parse(text)
    assert refused.value.code == "bad_frame"
    assert refused.value.about["argument"] in refused.value.about["message"]
    return str(refused.value.about["argument"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            frame("hello", page=CALL, device=DEVICE),
            protocol.Hello("x", uuid.UUID(CALL), protocol.DeviceSaid(None, "Phone", "web")),
        ),
        (frame("invite", call=CALL, to=["bob"], kind="video"), protocol.Invite("x", uuid.UUID(CALL), ["bob"], "video")),
        (
            frame("invite", call=CALL, to=["bob"], kind="audio", ring_s=5, age=10**12),
            protocol.Invite("x", uuid.UUID(CALL), ["bob"], "audio", ring_s=5, age=10**12),
        ),
        (frame("ringing", call=CALL), protocol.Ringing("x", uuid.UUID(CALL))),
        (frame("answer", call=CALL), protocol.Answer("x", uuid.UUID(CALL))),
        (
            frame("answer", call=CALL, **{"and": {"call": OTHER, "do": "hangup"}}),
            protocol.Answer("x", uuid.UUID(CALL), also=protocol.Also(uuid.UUID(OTHER), "hangup")),
        ),
        (
            frame("hold", call=CALL, on=False, **{"and": {"call": OTHER, "do": "hold"}}),
            protocol.Hold("x", uuid.UUID(CALL), False, also=protocol.Also(uuid.UUID(OTHER), "hold")),
        ),
        (frame("transfer", call=CALL, to="carol"), protocol.Transfer("x", uuid.UUID(CALL), "carol")),
        (
            frame("transfer", call=CALL, stay=True, **{"with": OTHER}),
            protocol.Transfer("x", uuid.UUID(CALL), with_=uuid.UUID(OTHER), stay=True),
        ),
        (frame("reject", call=CALL), protocol.Reject("x", uuid.UUID(CALL))),
        (frame("hangup", call=CALL), protocol.Hangup("x", uuid.UUID(CALL))),
        (frame("end", call=CALL), protocol.End("x", uuid.UUID(CALL))),
        (frame("add", call=CALL, to=["bob"]), protocol.Add("x", uuid.UUID(CALL), ["bob"])),
        (frame("remove", call=CALL, user="bob"), protocol.Remove("x", uuid.UUID(CALL), "bob")),
        (frame("move", call=CALL), protocol.Move("x", uuid.UUID(CALL))),
        (frame("hold", call=CALL, on=True), protocol.Hold("x", uuid.UUID(CALL), True)),
        (frame("media", call=CALL, mic=False, cam=True), protocol.Media("x", uuid.UUID(CALL), False, True)),
        (
            '{"id":"x","cmd":"signal","call":"' + CALL + '","to":"bob","body":{"a": "\\u0000"}}',
            protocol.Signal("x", uuid.UUID(CALL), "bob", msgspec.Raw(b'{"a": "\\u0000"}')),
        ),
        (frame("multi_device", on=False), protocol.MultiDevice("x", False)),
        (frame("ping"), protocol.Ping("x")),
        (frame("ping", calls={CALL: 10**30}), protocol.Ping("x", {uuid.UUID(CALL): 10**30})),
        (frame("ping", id="x" * 64), protocol.Ping("x" * 64)),
        (frame("presence", of=["bob", "carol"]), protocol.Presence("x", of=["bob", "carol"])),
    ],
)
def test_each_command_of_the_contract_is_understood(text, expected):
    assert protocol.parse(text) == expected


def test_the_commands_are_those_of_the_contract():
    tags = {each.__struct_config__.tag for each in typing.get_args(protocol.AnyFrame)}
    assert tags == {
        "hello", "invite", "ringing", "answer", "reject", "hangup", "end", "add", "remove", "move", "hold",
        "transfer", "media", "signal", "multi_device", "ping", "presence", "token",
    }  # fmt: skip


def test_fields_that_nobody_knows_yet_are_ignored():
    assert protocol.parse(frame("ping", colour="red", t=[1])) == protocol.Ping("x")


@pytest.mark.parametrize("text", NO_COMMAND, ids=lambda text: text[:20])
def test_what_is_no_command_is_refused_as_a_whole(text):
    assert argument(text) in ("frame", "id")
    assert protocol.id_of(text) in (None, "x")


def test_data_too_deep_to_be_read_is_refused():
    with pytest.raises(Refused) as refused:
        protocol.data_of(protocol.parse(BOTTOMLESS).data)
    assert refused.value.code == "bad_frame"
    assert refused.value.about["argument"] in ("frame", "data")


@pytest.mark.parametrize(("text", "name"), WRONG, ids=lambda value: value[:60])
def test_a_wrong_argument_is_named(text, name):
    if name == "data":  # kept unread until it is needed
        parsed = protocol.parse(text)
        with pytest.raises(Refused) as refused:
            protocol.data_of(parsed.data)
        assert refused.value.about["argument"] == "data"
    else:
        assert argument(text) == name
        assert protocol.id_of(text) == "x"


@pytest.mark.parametrize("text", NO_ID)
def test_a_frame_without_a_usable_id_is_refused(text):
    assert argument(text) == "id"
    assert protocol.id_of(text) is None


@pytest.mark.parametrize("text", NUL)
def test_nul_characters_are_refused_everywhere_but_in_a_signal(text):
    assert argument(text) == "frame"


def test_a_backslash_is_not_taken_for_a_nul_character():
    answer = protocol.parse(frame("answer", call=CALL, data="C:\\u0000"))
    assert isinstance(answer, protocol.Answer)
    assert protocol.data_of(answer.data) == "C:\\u0000"


def test_a_lone_surrogate_is_no_text():
    assert argument('{"id":"x","cmd":"ping","a":"\ud800"}') == "frame"
    assert protocol.id_of('{"id":"x","a":"\ud800"}') == "x"
    assert protocol.id_of('{"id":"\ud800"}') is protocol.id_of(r'{"id":"\ud800"}') is None
    assert argument(frame("remove", call=CALL, user="\ud800")) == "frame"


def test_the_sizes_are_those_of_the_contract():
    assert (protocol.MAX_FRAME, protocol.MAX_BODY, protocol.MAX_DATA, protocol.MAX_AGE_MS) == (
        65536,
        32768,
        2048,
        10000,
    )
    padding = protocol.MAX_FRAME - len(frame("ping", a="").encode())
    assert protocol.parse(frame("ping", a="x" * padding))
    assert argument(frame("ping", a="x" * (padding + 1))) == "frame"
    wide = json.dumps({"id": "x", "cmd": "ping", "a": "ж" * (padding // 2 + 1)}, ensure_ascii=False)
    assert len(wide) < protocol.MAX_FRAME
    assert argument(wide) == "frame", "bytes count, not characters"
    assert protocol.parse(frame("signal", call=CALL, to="bob", body="x" * 32_766))
    longest = msgspec.Raw(json.dumps("x" * 2046).encode())
    assert len(bytes(longest)) == 2048
    assert protocol.data_of(longest) == "x" * 2046


@pytest.mark.parametrize(
    "said",
    [None, "", "héllo 🎉", 0, -1, 2**63 - 1, 0.1, 1e-300, True, [], {}, {"a": [1, {"b": None}]}, json.loads(deep(32))],
)
def test_data_is_any_json_that_rows_and_messages_keep_as_it_is(said):
    raw = msgspec.Raw(json.dumps(said).encode())
    assert protocol.data_of(raw) == said


def test_no_data_is_none():
    for text in (frame("answer", call=CALL), frame("answer", call=CALL, data=None)):
        answer = protocol.parse(text)
        assert isinstance(answer, protocol.Answer)
        assert protocol.data_of(answer.data) is None


@given(st.text(max_size=200))
@pure
def test_any_text_is_a_command_or_refused(text):
    try:
        protocol.parse(text)
    except Refused as refused:
        assert refused.code == "bad_frame"
    protocol.id_of(text)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
ARGUMENTS = [
    "id", "cmd", "call", "to", "kind", "data", "ring_s", "age", "and", "page", "device", "take", "mic", "cam", "body",
    "on", "calls", "user", "do", "with", "stay", "of", "token",
]  # fmt: skip
COMMANDS = [each.__struct_config__.tag for each in typing.get_args(protocol.AnyFrame)]


@given(
    st.dictionaries(st.sampled_from(ARGUMENTS), json_values | st.just(CALL) | st.just(["bob"]), max_size=8),
    st.sampled_from(COMMANDS),
)
@pure
def test_any_arguments_are_a_command_or_refused_by_the_name_of_one(arguments, cmd):
    text = json.dumps({"id": "x", **arguments, "cmd": cmd})
    try:
        parsed = protocol.parse(text)
        protocol.data_of(getattr(parsed, "data", msgspec.Raw()))
    except Refused as refused:
        assert refused.code == "bad_frame"
        assert refused.about["argument"] in {*ARGUMENTS, "frame"}


def test_a_frame_about_a_call_becomes_the_machine_s_command():
    call, other = uuid.UUID(CALL), uuid.UUID(OTHER)
    data = msgspec.Raw(b'{"a":1}')
    for said, asked in (
        (protocol.Ringing("x", call), machine.Ringing(SEAT)),
        (protocol.Answer("x", call, data), machine.Answer(SEAT, {"a": 1})),
        (protocol.Reject("x", call, data), machine.Reject(SEAT, {"a": 1})),
        (protocol.Hangup("x", call, data), machine.Hangup(SEAT, {"a": 1})),
        (protocol.End("x", call, data), machine.End(SEAT, {"a": 1})),
        (protocol.Move("x", call), machine.Move(SEAT)),
        (protocol.Media("x", call, True, False), machine.Media(SEAT, True, False)),
        (protocol.Add("x", call, ["dave", "carol"]), machine.Add(SEAT, (), 45, ("dave", "carol"))),
        (protocol.Remove("x", call, "dave"), machine.Remove(SEAT, "dave")),
        (protocol.Hold("x", call, True), machine.Hold(SEAT, True)),
        (protocol.Transfer("x", call, "dave", data=data), machine.Transfer(SEAT, None, "dave", 45, data={"a": 1})),
        (protocol.Transfer("x", call, None, other, True), machine.TakeOver(SEAT, other, stay=True)),
    ):
        assert protocol.command(said, SEAT, 45) == asked


def test_a_frame_may_ask_something_of_another_call():
    call, other = uuid.UUID(CALL), uuid.UUID(OTHER)
    hangup, hold = protocol.Also(other, "hangup"), protocol.Also(other, "hold")
    for said, asked in (
        (protocol.Answer("x", call, also=hangup), (other, machine.Hangup(SEAT))),
        (protocol.Invite("x", call, ["bob"], "audio", also=hold), (other, machine.Hold(SEAT, True))),
        (protocol.Hold("x", call, False, hold), (other, machine.Hold(SEAT, True))),
        (protocol.Transfer("x", call, with_=other), (other, machine.HandOver(SEAT, call))),
        (protocol.Answer("x", call), None),
        (protocol.Transfer("x", call, "dave"), None),
    ):
        assert protocol.other_command(said, SEAT) == asked
    for said, wrong in (
        (protocol.Answer("x", other, also=hangup), "and"),
        (protocol.Transfer("x", other, with_=other), "with"),
    ):
        with pytest.raises(Refused) as refused:
            protocol.other_command(said, SEAT)
        assert (refused.value.code, refused.value.about["argument"]) == ("bad_frame", wrong)


# The closed sets.

ABOUT = {
    "bad_frame": {"argument": "call", "message": "Wrong or missing: call."},
    "limit_reached": {"direction": "outgoing", "limit": 1, "active": 1},
    "answered_elsewhere": {"device": "Phone"},
    "call_ended": {"reason": "completed"},
    "in_call": {"call": CALL},
    "full": {"limit": 2},
    "rate_limited": {"retry_ms": 5},
    "unavailable": {"retry_ms": 1000},
}
CODES = {
    "bad_frame", "not_found", "not_allowed", "limit_reached", "answered_elsewhere", "call_ended", "in_call", "full",
    "device_in_use", "multi_device_off", "conflict", "expired", "rate_limited", "unavailable",
}  # fmt: skip


def test_the_codes_are_those_of_the_contract():
    assert set(protocol.MESSAGES) == CODES


@pytest.mark.parametrize("code", sorted(CODES))
def test_an_error_has_its_code_a_sentence_and_its_own_fields(code):
    about = ABOUT.get(code, {})
    error = protocol.error(Refused(code, **about))
    assert error.pop("code") == code
    message = error.pop("message")
    assert message and "{" not in message
    assert error == {name: value for name, value in about.items() if name != "message"}


def test_the_close_codes_are_those_of_the_contract():
    assert protocol.CLOSE == {
        "protocol": 4400, "signed_out": 4401, "deactivated": 4401, "token_ended": 4401, "no_hello": 4408,
        "replaced": 4409, "flooding": 4429, "restart": 1012,
    }  # fmt: skip


def test_the_states_and_reasons_are_those_of_the_contract():
    assert set(typing.get_args(machine.CallState)) == {"ringing", "active", "ended"}
    assert set(typing.get_args(machine.LegState)) == {
        "ringing", "joined", "rejected", "missed", "busy", "unreachable", "cancelled", "left", "lost", "removed",
    }  # fmt: skip
    assert set(typing.get_args(machine.Reason)) == {
        "completed", "cancelled", "rejected", "no_answer", "unreachable", "busy", "lost", "operator", "expired",
        "merged",
    }  # fmt: skip
    assert set(typing.get_args(protocol.DeviceKind)) == {"web", "ios", "android", "windows", "macos", "linux", "other"}


def test_a_reply_says_what_it_answers_how_it_went_and_how_the_call_stands():
    assert json.loads(protocol.reply("7", {"id": CALL})) == {"t": "reply", "re": "7", "ok": True, "call": {"id": CALL}}
    refused = json.loads(protocol.reply("8", {"id": CALL}, Refused("answered_elsewhere", device="Phone")))
    assert refused == {
        "t": "reply",
        "re": "8",
        "ok": False,
        "error": {"code": "answered_elsewhere", "message": "Answered on Phone", "device": "Phone"},
        "call": {"id": CALL},
    }
    assert json.loads(protocol.reply("9", line={"multi_device": True})) == {
        "t": "reply", "re": "9", "ok": True, "line": {"multi_device": True},
    }  # fmt: skip
    assert json.loads(protocol.reply(None, None, protocol.bad("frame"))) == {
        "t": "reply",
        "re": None,
        "ok": False,
        "error": {"code": "bad_frame", "message": "Wrong or missing: frame.", "argument": "frame"},
    }


def test_a_body_goes_through_as_it_came():
    body = b'{"sdp":"v=0\\r\\n\\ud800","n":1e400}'
    assert body.decode() in protocol.encode({"t": "signal", "body": msgspec.Raw(body)})
