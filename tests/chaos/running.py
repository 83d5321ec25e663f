"""Runs the short form in a process of its own, for tests: it needs other settings than theirs."""

import signal
import subprocess
import sys
from pathlib import Path

import msgspec

from tests.chaos.result import Result
from tests.servers import ROOT

LONGEST_S = 500


def run_chaos(place: Path, *options: str) -> Result:
    """`place` is a directory for the result; `options` are those of the command line."""
    result = place / "result.json"
    command = [sys.executable, "-m", "tests.chaos", "--short", "--json", str(result), *options]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        said, _ = process.communicate(timeout=LONGEST_S)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)  # so that it ends what it has started
            process.wait(30)
    print(said)
    assert result.exists(), "the run did not come to its end"
    return msgspec.json.decode(result.read_bytes(), type=Result)
