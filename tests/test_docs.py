"""What the documents say is so: tables are compared with the code, examples are replayed, links and names exist."""

import json
import re
import uuid
from pathlib import Path
from typing import Any, get_args

import pytest

from calls import conf, machine, protocol
from calls.hub import hub

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
PROTOCOL = (ROOT / "docs" / "protocol.md").read_text()


def section(text: str, title: str) -> str:
    """The text under a heading, up to the next one of any level."""
    found = re.search(rf"^#+ {re.escape(title)}\n(.*?)(?=^#+ |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, f"no section {title!r}"
    return found.group(1)


def rows(text: str) -> list[list[str]]:
    """The cells of the tables in a text, without the heads."""
    lines = re.findall(r"^\|.*\|$", re.sub(r"^\|.*\|\n\|[-|]+\|$", "", text, flags=re.MULTILINE), re.MULTILINE)
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def words(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


# --- the protocol's tables --------------------------------------------------------------------------------------------


def test_the_protocol_names_every_command():
    commands = {kind.__struct_config__.tag for kind in get_args(protocol.AnyFrame)}
    described = [words(row[0])[0] for row in rows(section(PROTOCOL, "Commands"))]
    assert {*described, "hello"} == commands
    refused = [word for row in rows(section(PROTOCOL, "What refuses what")) for word in words(row[0])]
    assert {*refused, "hello", "ping"} == commands


def test_the_protocol_names_every_event():
    code = (ROOT / "calls/consumers.py").read_text() + (ROOT / "calls/protocol.py").read_text()
    sent = set(re.findall(r'"t": "(\w+)"', code))
    assert {words(row[0])[0] for row in rows(section(PROTOCOL, "Events"))} == sent


def test_the_protocol_names_every_refusal_and_its_fields_are_in_the_message():
    described = {words(row[0])[0]: row[1] for row in rows(section(PROTOCOL, "Replies and errors"))}
    assert described.keys() == protocol.MESSAGES.keys()
    for code, message in protocol.MESSAGES.items():
        for field in re.findall(r"{(\w+)}", message):
            assert f"`{field}`" in described[code], code
    for row in rows(section(PROTOCOL, "What refuses what")):
        assert set(words(re.sub(r"\(.*?\)", "", row[1]))) <= protocol.MESSAGES.keys(), row


def test_the_protocol_names_every_close_code():
    described = {(words(row[1])[0], int(row[0])) for row in rows(section(PROTOCOL, "Connection"))}
    assert described == set(protocol.CLOSE.items())


def test_the_protocol_names_every_state_and_reason():
    described = {row[0]: row[1] for row in rows(section(PROTOCOL, "The view"))}
    for name, kind in (
        ("call state", machine.CallState),
        ("leg state", machine.LegState),
        ("call reason", machine.Reason),
    ):
        assert set(words(re.sub(r"\(.*", "", described[name]))) == set(get_args(kind)), name


def test_the_protocol_has_the_deadlines_in_force():
    for what, default, setting in rows(section(PROTOCOL, "Deadlines")):
        assert float(default.split()[0]) == conf.DEFAULTS[words(setting)[0]], what


# --- the protocol's examples ------------------------------------------------------------------------------------------

EXAMPLES = {
    title: "".join(re.findall(r"```wire\n(.*?)```", body, re.DOTALL))
    for title, body in re.findall(r"^### (.+?)\n(.*?)(?=^### |\Z)", PROTOCOL, re.MULTILINE | re.DOTALL)
    if "```wire" in body
}
STEP = re.compile(r"^(\w.*?) +(→|←|--) (.*(?:\n +.*)*)$", re.MULTILINE)
NAME = re.compile(r"<[\w ]+>")
TIMES = ("ring_ms", "secs", "retry_ms")
REST = "…"


def read(text: str) -> Any:
    """An example's JSON. A `…` before the end of an object or a list means that there is more."""
    text = re.sub(r"…(\s*})", r'"…":0\1', text)
    return json.loads(re.sub(r"…(\s*])", r'"…"\1', text))


class Replay:
    """One example: the ids that its `<names>` stand for, and the people's sockets."""

    def __init__(self, open_page: Any) -> None:
        self.open_page = open_page
        self.ids: dict[str, str] = {}
        self.sockets: dict[str, Any] = {}
        self.sign_ins: dict[str, str] = {}
        self.devices: dict[str, str] = {}
        self.deaf: Any = None  # whom the hub does not reach, with the key of the user

    async def step(self, who: str, sign: str, what: str) -> None:
        if sign == "→":
            if who not in self.sockets:
                user = who.split("'")[0]
                socket = await self.open_page(user, hello=False, signed_in=self.sign_ins.get(user, ""))
                self.sockets[who], self.sign_ins[user] = socket, socket.signed_in
            await self.sockets[who].transmit(json.dumps(self.spell(read(what))))
        elif sign == "←":
            frame = json.loads(await self.sockets[who].receive())
            self.compare(read(what), frame, who)
            if frame["t"] == "welcome":
                self.devices[who] = frame["device"]["id"]
            elif frame["t"] == "reply" and self.deaf:  # whatever was to be lost has been said by now
                hub.join(*self.deaf)
                self.deaf = None
        elif what.startswith("leaves"):
            await self.sockets.pop(who).close()
        elif what.startswith("misses"):
            everybody = [(key, socket) for key, group in hub.sockets.items() for socket in group]
            (self.deaf,) = [each for each in everybody if str(each[1].sign_in.device) == self.devices[who]]
            hub.part(*self.deaf)
        else:
            code = re.fullmatch(r"closed by the server with (\d+)", what)
            assert code and await self.sockets.pop(who).closed() == int(code.group(1)), f"{who} {what}"

    def spell(self, value: Any) -> Any:
        """The value with ids in the place of names; a name that is new gets a new id."""
        if isinstance(value, dict):
            return {self.spell(key): self.spell(each) for key, each in value.items()}
        if isinstance(value, list):
            return [self.spell(each) for each in value]
        if isinstance(value, str) and NAME.fullmatch(value):
            return self.ids.setdefault(value, str(uuid.uuid4()))
        return value

    def compare(self, said: Any, real: Any, where: str) -> None:
        """The documented value against the real one: the same keys and values, apart from ids and times."""
        if isinstance(said, dict):
            assert isinstance(real, dict), where
            more = said.pop(REST, None) is not None
            missing, extra = said.keys() - real.keys(), real.keys() - said.keys()
            assert not missing and (more or not extra), f"{where}: missing {missing}, undocumented {extra}"
            for key, value in said.items():
                if key in TIMES:
                    assert type(real[key]) is int and (key == "secs" or bool(real[key]) == bool(value)), (
                        f"{where}.{key}"
                    )
                else:
                    self.compare(value, real[key], f"{where}.{key}")
        elif isinstance(said, list):
            more = said[-1:] == [REST]
            said = said[:-1] if more else said
            assert len(said) <= len(real) if more else len(said) == len(real), f"{where}: {real}"
            for n, value in enumerate(said):
                self.compare(value, real[n], f"{where}[{n}]")
        elif isinstance(said, str) and NAME.fullmatch(said):
            assert self.ids.setdefault(said, real) == real, where
        else:
            assert said == real, where

    async def finish(self) -> None:
        """Nobody has heard anything that the example does not tell."""
        for who, socket in self.sockets.items():
            await socket.transmit('{"id":"the end","cmd":"ping"}')
            frame = json.loads(await socket.receive())
            assert frame["t"] == "pong", f"{who} was also told {frame}"


def test_the_protocol_has_its_examples():
    assert len(EXAMPLES) >= 8
    for title, text in EXAMPLES.items():
        assert "\n".join(match.group(0) for match in STEP.finditer(text)) == text.strip(), title


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("title", EXAMPLES)
async def test_the_example_is_what_really_happens(page, title):
    replay = Replay(page)
    for who, sign, what in STEP.findall(EXAMPLES[title]):
        await replay.step(who, sign, what)
    await replay.finish()


# --- the other documents ----------------------------------------------------------------------------------------------


def test_every_package_has_a_line_in_the_decisions():
    required = [(ROOT / name).read_text() for name in ("requirements.in", "requirements-dev.in")]
    packages = set(re.findall(r"^([A-Za-z][\w.-]*)", "\n".join(required), re.MULTILINE))
    decided = rows((ROOT / "docs/decisions.md").read_text().partition("## The house")[0])
    assert {words(row[0])[0] for row in decided} == packages
    assert all(all(row) for row in decided), "why, licence, and what instead"


def test_the_architecture_draws_every_module_in_its_room():
    drawing = section((ROOT / "docs/architecture.md").read_text(), "Rooms").split("```")[1]
    for room in ("callplatform", "devices", "calls"):
        (drawn,) = re.findall(rf"^{room}/.*\n((?:  .*\n)+)", drawing, re.MULTILINE)
        modules = {path.name for path in ROOT.glob(f"{room}/*.py")} - {"__init__.py", "apps.py"}
        assert set(re.findall(r"\b\w+\.py\b", drawn)) - {"apps.py"} == modules


def test_the_tests_that_documents_name_exist():
    for document in DOCUMENTS:
        for path, test in re.findall(r"\b(tests/[\w/]+\.py)(?:::(\w+))?", document.read_text()):
            assert (ROOT / path).is_file(), f"{document.name}: {path}"
            assert not test or re.search(rf"def {test}\b", (ROOT / path).read_text()), (
                f"{document.name}: {path}::{test}"
            )


def test_every_threat_has_tests_that_exist():
    """SECURITY.md's tables `| threat | what holds it | test |`, if it has any."""
    tables = re.findall(
        r"^\| threat \| what holds it \| test \|\n\|[-|]+\|\n((?:\|.*\|\n)+)", (ROOT / "SECURITY.md").read_text(), re.M
    )
    for threat, holds, test in (row for table in tables for row in rows(table)):
        named = re.findall(r"`(tests/[\w/.]+)::([^`]+)`", test)
        assert holds and named, threat
        for path, name in named:
            code = (ROOT / path).read_text()
            found = re.search(rf"def {name}\b", code) if path.endswith(".py") else name in code
            assert found, f"{threat}: {path}::{name}"


def test_links_lead_somewhere():
    for document in DOCUMENTS:
        for link in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
            if "://" in link:
                continue
            path, _, anchor = link.partition("#")
            target = document.parent / path if path else document
            assert target.exists(), f"{document.name}: {link}"
            heads = re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE) if anchor else []
            assert not anchor or anchor in {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}, (
                f"{document.name}: {link}"
            )


def test_the_commands_and_settings_that_documents_name_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    settings = set(re.findall(r"^#?([A-Z][A-Z0-9_]*)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    own = {path.stem for path in ROOT.glob("call*/management/commands/*.py")}
    for document in DOCUMENTS:
        text = document.read_text()
        code = "\n".join(re.findall(r"```(?!wire|python).*?```|`[^`\n]+`", text, re.DOTALL))
        for target in re.findall(r"\bmake ([a-z-]+)", code):
            assert target in targets, f"{document.name}: make {target}"
        for command in re.findall(r"manage\.py (\w+)", code):
            assert command in own | {"migrate", "collectstatic", "createsuperuser", "runserver"}, (
                f"{document.name}: {command}"
            )
        for name in re.findall(r"^[ `]*([A-Z][A-Z0-9_]+)=\S*$", code, re.MULTILINE):
            assert name in settings, f"{document.name}: {name}"


def test_the_pictures_that_are_kept_are_those_that_documents_show():
    shown = {name for document in DOCUMENTS for name in re.findall(r"screens/([\w-]+\.png)\)", document.read_text())}
    assert shown == {picture.name for picture in (ROOT / "docs" / "screens").glob("*.png")}


@pytest.mark.parametrize(
    ("title", "file"),
    [("Races", "test_races.py"), ("Races of groups, hold and transfer", "test_group_races.py")],
)
def test_each_race_of_the_document_is_a_heading_of_the_race_tests(title, file):
    headings = re.findall(r"^# --- (.+?) -+$", (ROOT / "tests" / file).read_text(), re.MULTILINE)
    assert [row[0] for row in rows(section((ROOT / "docs" / "races.md").read_text(), title))] == headings
