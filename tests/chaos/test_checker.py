"""The checker of the chaos suite finds what it looks for: faults are planted in a copy of the servers' code."""

import os
import shutil
from typing import NamedTuple

import pytest

from benchmarks.deleted_lock import LEFT_BEHIND, LOCKS
from tests.chaos.running import run_chaos
from tests.servers import ROOT, on_daphne

pytestmark = [
    on_daphne,
    pytest.mark.timeout(600),
    pytest.mark.xdist_group("chaos"),
    pytest.mark.skipif(not os.environ.get("LONG"), reason="make check-long runs it: finding a fault takes a while"),
]


class Plant(NamedTuple):
    """Pieces of code to replace in files, the fault during which it shows, and the column in which."""

    edits: list[tuple[str, str, str]]
    fault: str
    column: str


STORE = "    await models.store(ask, changes, facts.merged, now)\n"
NOTED = "        done.append(Change(call, after, command))\n"
DUE = "[Perform(call, machine.Due()) for call in calls]"
LOGGER = "log = logging.getLogger(__name__)\n"
PLANTS = {
    "a deleted lock": Plant(
        [(file, code, "") for file, code in LOCKS["line_lock"]], "PostgreSQL is slow", "4"
    ),
    "a change that is told before its commit": Plant(
        [("calls/switchboard.py", STORE, "    tell(*(change.after for change in changes))\n" + STORE)],
        "PostgreSQL is slow",
        "early",
    ),
    "deadlines that are lost with their process": Plant(
        [
            ("calls/switchboard.py", LOGGER, LOGGER + "MINE: set[uuid.UUID] = set()\n"),
            ("calls/switchboard.py", NOTED, NOTED + "        if call is None:\n            MINE.add(after.id)\n"),
            ("calls/switchboard.py", DUE, DUE.replace("]", " if call in MINE]")),
        ],
        "a server is killed",
        "deadlines",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PLANTS)
def test_what_is_planted_is_found(tmp_path, name):
    plant, copy = PLANTS[name], tmp_path / "copy"
    shutil.copytree(ROOT, copy, ignore=LEFT_BEHIND)
    for file, code, instead in plant.edits:
        text = (copy / file).read_text()
        assert text.count(code) == 1, f"{file} should have this once: {code}"
        (copy / file).write_text(text.replace(code, instead))
    result = run_chaos(tmp_path, "--source", str(copy), plant.fault)
    assert any(plant.column in outcome.found for outcome in result.outcomes)
