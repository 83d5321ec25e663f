#!/usr/bin/env python3
"""Deletes a lock, and looks whether exactly the races that it decides go wrong.

    python benchmarks/deleted_lock.py [call_lock] [line_lock] [device_lock]

For each lock the tree is copied to a temporary directory, the lock is deleted from the copy, and the race tests run
there, with some ordinary tests. Those marked with the name of the lock must fail, all others must pass: a race
that is won without its lock proves nothing. Those marked `by_chance` are not judged. On a PostgreSQL of its own,
unless DATABASE_URL names another.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from scripts import services  # noqa: E402

LOCKS = {  # where each is taken
    "call_lock": [("calls/hot.py", 'ORDER BY id FOR NO KEY UPDATE{" SKIP LOCKED" if skip_locked else ""}')],
    "line_lock": [
        ("calls/hot.py", 'ORDER BY user_id FOR NO KEY UPDATE{" SKIP LOCKED" if skip_locked else ""}'),
        ("devices/models.py", '.select_for_update(no_key=True, skip_locked=skip_locked, of=("self",))'),
    ],
    "device_lock": [("devices/presence.py", ".select_for_update(no_key=True)")],
}
RACES = ("tests/test_races.py", "tests/test_group_races.py")
ORDINARY = ("tests/test_policy.py", "tests/test_protocol.py")
LEFT_BEHIND = shutil.ignore_patterns(".*_cache", ".git", ".hypothesis", ".venv", "__pycache__", "node_modules", "var")
QUICKLY = ("-q", "--tb=no", "--assert=plain", "-p", "no:hypothesispytest", "-p", "no:cacheprovider")
REPORT = "DELETED_LOCK_REPORT"  # the file in which the tests of a copy note how they went


class Verdict(NamedTuple):
    """How the tests went without a lock. The lists of the last two should be empty."""

    lock: str
    failed: list[str]  # as they should: races that need the lock
    passed: list[str]  # as they should
    failed_wrongly: list[str]
    passed_wrongly: list[str]
    output: str

    @property
    def is_clean(self) -> bool:
        return bool(self.failed and self.passed) and not self.failed_wrongly and not self.passed_wrongly

    def __str__(self) -> str:
        lines = [f"Without the {self.lock}: {len(self.failed)} races fail, {len(self.passed)} other tests pass."]
        lines += [f"  fails, and should pass: {test}" for test in self.failed_wrongly]
        lines += [f"  passes, and should fail: {test}" for test in self.passed_wrongly]
        return "\n".join(lines if self.failed or self.passed else [*lines, self.output])


def without(lock: str, selection: str = "") -> Verdict:
    """Runs the tests without the lock, or those that `selection` (an expression of marks) selects.

    DATABASE_URL has to name a PostgreSQL, on which a database is made for it and dropped.
    """
    with tempfile.TemporaryDirectory(prefix=f"without-{lock}-") as place:
        copy = Path(place) / "copy"
        shutil.copytree(ROOT, copy, ignore=LEFT_BEHIND)
        for file, code in LOCKS[lock]:
            text = (copy / file).read_text()
            if text.count(code) != 1:
                raise LookupError(f"{file} should have {code} once: it is there {text.count(code)} times")
            (copy / file).write_text(text.replace(code, ""))
        report = Path(place) / "report"
        report.touch()
        database = urlsplit(os.environ["DATABASE_URL"])._replace(path=f"/without_{lock}_{os.getpid()}").geturl()
        environment = os.environ | {"DATABASE_URL": database, REPORT: str(report)}
        environment.pop("REDIS_URL", None)  # each on its own: what one publishes is not for another
        ran = subprocess.run(
            [
                sys.executable,
                "-m",
                "pytest",
                *QUICKLY,
                "-p",
                "benchmarks.deleted_lock",
                "-m",
                selection,
                *RACES,
                *ORDINARY,
            ],
            cwd=copy,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return judge(lock, report.read_text().splitlines(), ran.stdout)


def judge(lock: str, notes: Iterable[str], output: str) -> Verdict:
    needs: dict[str, bool] = {}
    failed: dict[str, bool] = {}
    for note in map(json.loads, notes):
        test = note["test"]
        needs[test] = lock in note["marks"]
        failed[test] = failed.get(test, False) or note["failed"]

    def tests(need: bool, fail: bool) -> list[str]:
        return [test for test in needs if (needs[test], failed[test]) == (need, fail)]

    return Verdict(lock, tests(True, True), tests(False, False), tests(False, True), tests(True, False), output)


def pytest_runtest_logreport(report: Any) -> None:
    """In the copy, where pytest loads this file as a plugin: notes each phase of each test that is judged."""
    if "by_chance" in report.keywords:
        return
    note = {
        "test": report.nodeid,
        "marks": [name for name in LOCKS if name in report.keywords],
        "failed": report.failed,
    }
    with open(os.environ[REPORT], "a") as file:
        file.write(json.dumps(note) + "\n")


def main() -> int:
    locks = sys.argv[1:] or list(LOCKS)
    with services.running() as urls, ThreadPoolExecutor(len(locks)) as pool:
        os.environ |= urls
        verdicts = list(pool.map(without, locks))
    for verdict in verdicts:
        print(verdict)
    return 0 if all(verdict.is_clean for verdict in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
