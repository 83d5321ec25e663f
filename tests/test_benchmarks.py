"""`make bench`, ended by a supervisor before it is done."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PATIENCE_S = 60
pytestmark = pytest.mark.timeout(240)


def of_session(leader: int) -> set[str]:
    """Command lines of the processes in this session, but for what is dead already."""
    found = set()
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if os.getsid(int(place.name)) == leader and (command := (place / "cmdline").read_text()):
                found.add(command.replace("\0", " "))
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="the benchmark reads /proc")
def test_a_benchmark_that_is_ended_leaves_no_process() -> None:
    pytest.importorskip("picows", reason="make bench has packages of its own; make test SERVER=uvicorn installs them")
    command = [sys.executable, "-m", "benchmarks", "run", "--quick"]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, cwd=ROOT, stdout=quiet, stderr=quiet, start_new_session=True) as bench:
        try:
            until = time.monotonic() + PATIENCE_S
            while not any("manage.py serve" in line for line in of_session(bench.pid)):
                assert bench.poll() is None, "it has ended"
                assert time.monotonic() < until, "it measures no server"
                time.sleep(0.1)
            bench.terminate()
            assert bench.wait(PATIENCE_S) == 128 + signal.SIGTERM
            assert of_session(bench.pid) == set()
        finally:
            with suppress(ProcessLookupError):
                os.killpg(bench.pid, signal.SIGKILL)
