"""What Hypothesis makes up: frames that are nearly right, and histories of one call.

FUZZ is how many times longer than in `make test` everything is tried: `make fuzz` sets it to 20. Each run tries
something else. What was found to be wrong once is kept, and tried first: in `corpus/frames.json` as texts, in
`corpus/histories.json` as lists of [second, command], in tests of the store as an `@example`. Hypothesis prints the
smallest case that fails; add it there, in the commit that mends the fault.
"""

import datetime as dt
import json
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from calls import machine, protocol
from calls.machine import Callee, Invite, Refused, Seat

CORPUS = Path(__file__).parent / "corpus"
TIMES = int(os.environ.get("FUZZ") or 1)
T0 = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


def tries(number: int) -> Callable[[Any], Any]:
    """How often a test is tried, in `make test`."""
    return settings(
        max_examples=number * TIMES,
        deadline=None,
        print_blob=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large],
    )


def corpus(name: str) -> list[Any]:
    found: list[Any] = json.loads((CORPUS / f"{name}.json").read_text())
    return found


# --- JSON, and frames that are made of it -----------------------------------------------------------------------------

texts = st.text(max_size=12) | st.sampled_from(["", "\0", "\ud800", "\\u0000", "\u202e", "x" * 200, "é", "🎉", "NaN"])
numbers = st.integers() | st.floats() | st.sampled_from([2**53, 2**63 - 1, 2**63, -(2**63), 10**400, 0.1, 1e308, -0.0])
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
ids = st.uuids().map(str)
others = st.none() | st.fixed_dictionaries({"call": ids, "do": st.sampled_from(["hangup", "hold", "x"])})
commands: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "hello": {
        "page": ids,
        "device": st.fixed_dictionaries({"id": st.none() | ids, "name": texts, "kind": st.just("web")}),
        "take": st.booleans(),
    },
    "invite": {
        "call": ids, "to": st.lists(texts, max_size=3), "kind": st.sampled_from(["audio", "video"]), "data": values,
        "ring_s": st.none() | st.integers(0, 130), "age": st.integers(-1, 20_000), "and": others,
    },
    "ringing": {"call": ids},
    "answer": {
        "call": ids, "data": values, "age": st.integers(-1, 20_000),
        "and": others,
    },
    "reject": {"call": ids, "data": values},
    "hangup": {"call": ids, "data": values},
    "end": {"call": ids, "data": values},
    "add": {"call": ids, "to": st.lists(texts, max_size=3)},
    "remove": {"call": ids, "user": texts},
    "move": {"call": ids},
    "hold": {"call": ids, "on": st.booleans(), "and": others},
    "transfer": {"call": ids, "to": st.none() | texts, "with": st.none() | ids, "stay": st.booleans(), "data": values},
    "media": {"call": ids, "mic": st.booleans(), "cam": st.booleans()},
    "signal": {"call": ids, "to": texts, "body": values},
    "token": {"token": texts},
    "multi_device": {"on": st.booleans()},
    "presence": {"of": st.lists(texts, max_size=3)},
    "ping": {"calls": st.dictionaries(ids, st.integers(), max_size=3)},
}  # fmt: skip


@st.composite
def frames(draw: Any) -> str:
    """The text of a frame of the contract, with some of its parts left out, replaced or damaged."""
    cmd = draw(st.sampled_from(sorted(commands)))
    frame: dict[str, Any] = {"id": draw(st.just("7") | texts), "cmd": cmd}
    frame |= draw(st.fixed_dictionaries(commands[cmd]))
    for _ in range(draw(st.integers(0, 2))):
        key = draw(st.sampled_from(sorted(frame)) | texts)
        if draw(st.booleans()):
            frame[key] = draw(values)
        else:
            frame.pop(key, None)
    text = json.dumps(frame, ensure_ascii=draw(st.booleans()))
    return draw(damaged(text)) if draw(st.integers(0, 3)) == 0 else text


@st.composite
def damaged(draw: Any, text: str) -> str:
    """The text with a piece cut out, doubled or put in."""
    start = draw(st.integers(0, len(text)))
    end = draw(st.integers(start, min(len(text), start + 20)))
    piece = draw(st.sampled_from(["", text[start:end] * 2, "[" * 50, '"', "\\", "\0", "1e999", "\\ud800", ","]) | texts)
    return text[:start] + piece + text[end:]


def as_said(value: Any) -> tuple[bool, Any]:
    """Whether a leg may have this as its own data, and what is kept of it."""
    try:
        return True, protocol.data_of(msgspec.Raw(json.dumps(value).encode()))
    except Refused:
        return False, None


legal_texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
legal_data = (
    st.recursive(
        st.none() | st.booleans() | numbers.filter(lambda number: number == number) | legal_texts,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(legal_texts, inner, max_size=4),
        max_leaves=8,
    )
    .map(as_said)
    .filter(lambda said: said[0])
    .map(lambda said: said[1])
)

# --- histories of one call --------------------------------------------------------------------------------------------

CALL = uuid.UUID(int=1)
PEOPLE = ("1", "2", "3")
NAMES = dict(zip(PEOPLE, ("alice", "bob", "carol"), strict=True))
device_ids = {key: [uuid.UUID(int=10 * int(key) + n) for n in range(3)] for key in PEOPLE}


@st.composite
def seats(draw: Any, keys: Any = PEOPLE, names: Any = legal_texts) -> Seat:
    key = draw(st.sampled_from(keys))
    device = draw(st.sampled_from(device_ids[key]))
    page = uuid.UUID(int=1000 + device.int * 10 + draw(st.integers(0, 1)))
    in_call = draw(st.none() | st.none() | st.none() | st.just(uuid.UUID(int=2)))
    return Seat(key, device, draw(names), page, in_call)


@st.composite
def callees(draw: Any) -> Callee:
    key = draw(st.sampled_from(PEOPLE[1:]))
    return Callee(
        key=key, user=NAMES[key], name=draw(legal_texts), multi=draw(st.booleans()),
        ring_on=draw(st.none() | st.sampled_from(device_ids[key])), reachable=draw(st.integers(0, 9)) > 0,
        online=draw(st.booleans()), active=draw(st.integers(0, 1)), limit=draw(st.integers(0, 3)),
        dnd=draw(st.integers(0, 9)) == 0,
    )  # fmt: skip


some_callees = st.lists(callees(), max_size=2, unique_by=lambda callee: callee.key)


@st.composite
def invites(draw: Any) -> Invite:
    by = draw(seats(PEOPLE[:1]))
    return Invite(
        call=CALL, by=by, user=NAMES[by.key], name=draw(legal_texts), multi=draw(st.booleans()),
        active=draw(st.integers(0, 1)), limit=draw(st.integers(0, 3)),
        callees=tuple(draw(some_callees)),
        kind=draw(st.sampled_from(["audio", "video"])), ring_s=draw(st.integers(1, 120) | st.floats(0.001, 1e6)),
        data=draw(legal_data),
    )  # fmt: skip


moments = st.integers(-60, 200).map(float) | st.floats(-1, 60_000)
people = st.sampled_from(PEOPLE)


@st.composite
def about_devices(draw: Any, kind: Any) -> Any:
    key = draw(people)
    device = draw(st.sampled_from(device_ids[key]))
    match kind:
        case machine.Silent:
            return kind(key, device, T0 + dt.timedelta(seconds=draw(moments)))
        case machine.SignedOut:
            return kind(key, device, draw(st.none() | st.sampled_from(device_ids[key])))
    return kind(key, device)


with_data = (machine.Answer, machine.Join, machine.Reject, machine.Hangup, machine.End)
orders = st.one_of(
    *(st.builds(kind, seats(), legal_data) for kind in with_data),
    st.builds(machine.Ringing, seats()),
    st.builds(machine.Move, seats()),
    st.builds(machine.Media, seats(), st.booleans(), st.booleans()),
    st.builds(machine.Hold, seats(), st.booleans()),
    st.builds(machine.Add, seats(), callees().map(lambda each: (each,)), st.just(45)),
    st.builds(machine.Remove, seats(), st.sampled_from(tuple(NAMES.values()))),
    st.builds(machine.HandOver, seats(), st.just(uuid.UUID(int=2))),
    st.tuples(seats(), callees()).map(lambda both: machine.Transfer(both[0], both[1], both[1].user, 45)),
    *(about_devices(kind) for kind in (machine.Silent, machine.Heard, machine.SignedOut)),
    st.just(machine.Due()),
    st.builds(machine.EndByOperator, legal_texts, legal_texts),
)
histories = st.tuples(invites(), st.lists(st.tuples(moments, orders), max_size=25))
