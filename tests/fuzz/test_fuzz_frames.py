"""Whatever text comes over a socket is a frame of the contract, or is refused by the name of what is wrong with it."""

import json
from typing import get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calls import machine, protocol
from calls.machine import Refused
from tests.fuzz.made import commands, corpus, frames, tries
from tests.walk import PHONE


def check(text: str) -> None:
    """What has to hold of any text."""
    id = protocol.id_of(text)
    assert id is None or json.loads(protocol.reply(id))["re"] == id
    try:
        frame = protocol.parse(text)
        data = protocol.data_of(getattr(frame, "data", msgspec.Raw()))
        command = protocol.command(frame, PHONE, 45) if isinstance(frame, protocol.AboutCall) else None
    except Refused as refused:
        assert refused.code in ("bad_frame", "not_allowed")
        error = json.loads(protocol.reply(id, None, refused))["error"]
        assert refused.code == "not_allowed" or error["argument"] in error["message"]
        return
    assert protocol.parse(text) == frame and frame.id == id, "the same text is the same frame"
    kept = msgspec.json.encode(data)
    assert b"\\u0000" not in kept.replace(b"\\\\", b"") and msgspec.json.decode(kept) == data
    if command is not None:
        entry = json.loads(json.dumps(msgspec.to_builtins(command)))
        assert msgspec.convert(entry, machine.Command) == command, "an entry keeps the command"


def test_every_command_is_made_up():
    assert set(commands) == {kind.__struct_config__.tag for kind in get_args(protocol.AnyFrame)}


@pytest.mark.parametrize("text", corpus("frames"), ids=lambda text: ascii(text)[:40])
def test_what_was_found_once(text):
    check(text)


@given(st.text(max_size=300) | st.binary(max_size=300).map(lambda raw: raw.decode("utf-8", "surrogateescape")))
@tries(4000)
def test_any_text(text):
    check(text)


@given(frames())
@tries(3000)
def test_frames_that_are_nearly_right(text):
    check(text)
