"""Any commands in any order, late ones too: a call refuses them or changes by one version, and can be decided again."""

import datetime as dt
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given

from calls import machine, protocol
from calls.machine import DEADLINES, Refused, decide, due_at
from calls.view import view
from tests.fuzz.made import CALL, T0, corpus, device_ids, histories, tries
from tests.truth import Replay


def check(history: list[tuple[float, Any]]) -> None:
    """Decides the commands one after the other, each at its second, and holds every step to the rules' own rules."""
    replay, call = Replay(DEADLINES), None
    for second, command in history:
        now = T0 + dt.timedelta(seconds=second)
        try:
            after = decide(call, command, now)
        except Refused as refused:
            assert refused.code in protocol.MESSAGES
            assert protocol.error(refused)["message"]
            continue
        if after is call:
            continue
        assert after.id == CALL and after.v == (call.v + 1 if call else 1)
        entry = json.loads(json.dumps(msgspec.to_builtins(command)))
        replay.add(CALL, after.v, now, msgspec.convert(entry, machine.Command))
        replay.check(after)
        assert (due_at(after) is None) == (after.state == "ended")
        for key, devices in device_ids.items():
            for device in devices:
                seen = view(after, key, device, now)
                assert seen is None or protocol.encode(seen)
        call = after


@pytest.mark.parametrize("history", corpus("histories"), ids=range(len(corpus("histories"))))
def test_what_was_found_once(history):
    check([(second, msgspec.convert(command, machine.Command)) for second, command in history])


@given(histories)
@tries(1200)
def test_any_history_of_a_call(history):
    invite, rest = history
    check([(0.0, invite), *rest])
