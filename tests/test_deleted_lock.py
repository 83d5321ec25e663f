"""The races are won by the locks and by nothing else: with a lock deleted, exactly the races that it decides fail.

`python benchmarks/deleted_lock.py` does the same with all races in each copy.
"""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from django.conf import settings

from benchmarks.deleted_lock import LOCKS, Verdict, without

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.xdist_group("deleted_lock"),
    pytest.mark.skipif(
        not settings.DATABASES["default"]["ENGINE"].endswith("postgresql"),
        reason="the locks that are deleted are PostgreSQL's row locks, which SQLite does not have",
    ),
]


# What each copy runs: to run all races in all copies would take minutes on a small machine.
SELECTION = {
    "call_lock": "not line_lock and not device_lock",
    "line_lock": "line_lock or device_lock",
    "device_lock": "line_lock or device_lock",
}


@pytest.fixture(scope="module")
def verdicts() -> Iterator[dict[str, Future[Verdict]]]:
    """For each lock how the tests went without it."""
    with ThreadPoolExecutor(len(LOCKS)) as pool:
        yield {lock: pool.submit(without, lock, SELECTION[lock]) for lock in LOCKS}


@pytest.mark.parametrize("lock", LOCKS)
def test_without_a_lock_exactly_the_races_that_it_decides_fail(verdicts, lock):
    verdict = verdicts[lock].result()
    assert verdict.is_clean, str(verdict)


def test_most_races_are_decided_by_the_lock_on_the_call(verdicts):
    lost = {lock: len(verdicts[lock].result().failed) for lock in LOCKS}
    assert lost["call_lock"] > 50 and lost["line_lock"] > 10 and lost["device_lock"] > 1
