"""Text frames that are no command of the contract, and for each the argument that its refusal has to name."""

import json
from typing import Any

CALL = "0190a1b2-0000-4000-8000-000000000000"
DEVICE = {"id": None, "name": "Phone", "kind": "web"}


def frame(cmd: Any, **args: Any) -> str:
    """A frame's text, its id "x" unless another is given."""
    return json.dumps({"id": "x", "cmd": cmd, **args})


def deep(levels: int) -> str:
    return "[" * levels + "]" * levels


# Nothing in these can be told apart as a command with an id: the refusal has `re` null and names the frame.
NO_COMMAND = [
    "",
    " ",
    "hello",
    "{",
    '{"id":"x","cmd":"ping"',
    '{"id":"x","cmd":"ping"} {}',
    "{'id':'x','cmd':'ping'}",
    '{"id":"x","cmd":"ping","calls":NaN}',
    '{"id":"x","cmd":"ping","calls":{"\\ud800":1}}',
    f'{{"id":"x","cmd":"answer","call":"{CALL}","data":"\\ud800"}}',
    "[]",
    '["ping"]',
    f"[{frame('ping')}]",
    "0",
    "-1e5",
    "9" * 5000,
    "1e999",
    "true",
    "null",
    '"ping"',
    deep(100),
    deep(30_000),
    "[" * 60_000,
    '{"a":' * 10_000,
]

# How deep it can read depends on the version of Python, and so what the refusal names: the frame, or its data.
BOTTOMLESS = f'{{"id":"x","cmd":"answer","call":"{CALL}","data":{deep(30_000)}}}'

# These have an id, and the refusal answers it.
WRONG = [
    # which command
    ('{"id":"x"}', "cmd"),
    (frame("nope"), "cmd"),
    (frame("Ping"), "cmd"),
    (frame("due"), "cmd"),
    (frame("endbyoperator"), "cmd"),
    (frame(""), "cmd"),
    (frame(5), "cmd"),
    (frame(None), "cmd"),
    (frame(["ping"]), "cmd"),
    # hello
    (frame("hello"), "page"),
    (frame("hello", page="a page", device=DEVICE), "page"),
    (frame("hello", page=None, device=DEVICE), "page"),
    (frame("hello", page=CALL), "device"),
    (frame("hello", page=CALL, device="Phone"), "device"),
    (frame("hello", page=CALL, device={"name": "Phone", "kind": "web"}), "device"),
    (frame("hello", page=CALL, device={**DEVICE, "id": 5}), "device"),
    (frame("hello", page=CALL, device={**DEVICE, "name": ""}), "device"),
    (frame("hello", page=CALL, device={**DEVICE, "name": " \t"}), "device"),
    (frame("hello", page=CALL, device={**DEVICE, "name": "x" * 65}), "device"),
    (frame("hello", page=CALL, device={**DEVICE, "kind": "toaster"}), "device"),
    (frame("hello", page=CALL, device=DEVICE, take="yes"), "take"),
    # invite
    (frame("invite"), "call"),
    (frame("invite", call="a call", to=["bob"], kind="audio"), "call"),
    (frame("invite", call=7, to=["bob"], kind="audio"), "call"),
    (frame("invite", call=CALL, kind="audio"), "to"),
    (frame("invite", call=CALL, to="bob", kind="audio"), "to"),
    (frame("invite", call=CALL, to=[], kind="audio"), "to"),
    (frame("invite", call=CALL, to=[1], kind="audio"), "to"),
    (frame("invite", call=CALL, to=[""], kind="audio"), "to"),
    (frame("invite", call=CALL, to=["x" * 151], kind="audio"), "to"),
    (frame("invite", call=CALL, to=["bob"] * 65, kind="audio"), "to"),
    (frame("invite", call=CALL, to=["bob", "bob"], kind="audio"), "to"),
    (frame("invite", call=CALL, to=["bob"], kind="audio", **{"and": "hold"}), "and"),
    (frame("invite", call=CALL, to=["bob"]), "kind"),
    (frame("invite", call=CALL, to=["bob"], kind="smell"), "kind"),
    (frame("invite", call=CALL, to=["bob"], kind="audio", ring_s=4), "ring_s"),
    (frame("invite", call=CALL, to=["bob"], kind="audio", ring_s=121), "ring_s"),
    (frame("invite", call=CALL, to=["bob"], kind="audio", ring_s=10**30), "ring_s"),
    (frame("invite", call=CALL, to=["bob"], kind="audio", ring_s="45"), "ring_s"),
    (frame("invite", call=CALL, to=["bob"], kind="audio", ring_s=True), "ring_s"),
    (frame("invite", call=CALL, to=["bob"], kind="audio", age=-1), "age"),
    (frame("invite", call=CALL, to=["bob"], kind="audio", age=None), "age"),
    (frame("invite", call=CALL, to=["bob"], kind="audio", data="x" * 2047), "data"),
    (f'{{"id":"x","cmd":"invite","call":"{CALL}","to":["bob"],"kind":"audio","data":{deep(33)}}}', "data"),
    (f'{{"id":"x","cmd":"invite","call":"{CALL}","to":["bob"],"kind":"audio","data":{deep(500)}}}', "data"),
    (f'{{"id":"x","cmd":"invite","call":"{CALL}","to":["bob"],"kind":"audio","data":{"9" * 2000}}}', "data"),
    (f'{{"id":"x","cmd":"invite","call":"{CALL}","to":["bob"],"kind":"audio","data":[1e22]}}', "data"),
    (f'{{"id":"x","cmd":"invite","call":"{CALL}","to":["bob"],"kind":"audio","data":{{"n":-1e308}}}}', "data"),
    (f'{{"id":"x","cmd":"answer","call":"{CALL}","data":5.907583878052321e+16}}', "data"),
    (f'{{"id":"x","cmd":"invite","call":"{CALL}","to":["bob"],"kind":"audio","data":1e999}}', "data"),
    # what is done to a call
    (frame("ringing"), "call"),
    (frame("ringing", call=None), "call"),
    (frame("answer"), "call"),
    (frame("answer", call=CALL, age="now"), "age"),
    (frame("answer", call=CALL, data="x" * 2047), "data"),
    (frame("answer", call=CALL, **{"and": 7}), "and"),
    (frame("answer", call=CALL, **{"and": {"do": "hangup"}}), "and"),
    (frame("answer", call=CALL, **{"and": {"call": "a call", "do": "hangup"}}), "and"),
    (frame("answer", call=CALL, **{"and": {"call": CALL, "do": "forget"}}), "and"),
    (frame("reject", call=[CALL]), "call"),
    (frame("reject", call=CALL, data="x" * 2047), "data"),
    (frame("hangup", call=CALL + "0"), "call"),
    (frame("hangup", call=CALL, data="x" * 2047), "data"),
    (frame("end", call={}), "call"),
    (frame("end", call=CALL, data="x" * 2047), "data"),
    (frame("add", call=CALL), "to"),
    (frame("add", call=CALL, to=[None]), "to"),
    (frame("add", call=CALL, to=["bob", "bob"]), "to"),
    (frame("remove", call=CALL), "user"),
    (frame("remove", call=CALL, user=5), "user"),
    (frame("move", call="../../etc/passwd"), "call"),
    (frame("hold", call=CALL), "on"),
    (frame("hold", call=CALL, on=0), "on"),
    (frame("hold", call=CALL, on=False, **{"and": {"call": CALL, "do": "unhold"}}), "and"),
    (frame("transfer", call=CALL), "to"),
    (frame("transfer", call=CALL, to="bob", **{"with": CALL}), "to"),
    (frame("transfer", call=CALL, to=["bob"]), "to"),
    (frame("transfer", call=CALL, **{"with": "a call"}), "with"),
    (frame("transfer", call=CALL, to="bob", stay=True), "stay"),
    (frame("transfer", call=CALL, stay=1, **{"with": CALL}), "stay"),
    (frame("media", call=CALL, cam=True), "mic"),
    (frame("media", call=CALL, mic=True), "cam"),
    (frame("media", call=CALL, mic=1, cam=True), "mic"),
    (frame("media", call=CALL, mic=True, cam="off"), "cam"),
    # signal
    (frame("signal", call=CALL, to="bob"), "body"),
    (frame("signal", call=CALL, body={}), "to"),
    (frame("signal", call=CALL, to=["bob"], body={}), "to"),
    (frame("signal", call=CALL, to="", body={}), "to"),
    (frame("signal", call=CALL, to="bob", body="x" * 32_767), "body"),
    # the others
    (frame("multi_device"), "on"),
    (frame("multi_device", on="true"), "on"),
    (frame("ping", calls=5), "calls"),
    (frame("ping", calls=[CALL]), "calls"),
    (frame("ping", calls={"a call": 1}), "calls"),
    (frame("ping", calls={CALL: "1"}), "calls"),
    (frame("ping", calls={CALL: None}), "calls"),
    (frame("ping", calls={f"0190a1b2-0000-4000-8000-{n:012}": 1 for n in range(65)}), "calls"),
]

# An id that is none: the refusal names it, and has nothing to answer to.
NO_ID = [
    '{"cmd":"ping"}',
    frame("ping", id=""),
    frame("ping", id="x" * 65),
    frame("ping", id=5),
    frame("ping", id=None),
    frame("ping", id=["x"]),
]

# No database keeps a NUL character, so no argument may have one.
NUL = [
    frame("hello", page=CALL, device={**DEVICE, "name": "Ph\0ne"}),
    frame("invite", call=CALL, to=["bob\0"], kind="audio"),
    frame("invite", call=CALL, to=["bob"], kind="audio", data={"\0": 1}),
    frame("answer", call=CALL, data=["\0"]),
    frame("remove", call=CALL, user="\0"),
    frame("ping", id="\0"),
]
