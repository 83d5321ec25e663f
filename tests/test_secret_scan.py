"""`scripts/secret_scan.py` finds a secret that is new, and passes by what was accepted."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
KEY = "AKIA" + "IOSFODNN7EXAMPLE"  # in two parts, or the scan would find it here


@pytest.fixture
def scan(tmp_path):
    """Runs the scan in a repository of its own, with one file in it: `scan("--accept")`."""
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "secret_scan.py", tmp_path / "scripts")
    (tmp_path / "old.py").write_text(f'key = "{KEY}"\n')
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)

    def run(*options):
        subprocess.run(["git", "add", "."], cwd=tmp_path, check=True)
        command = [sys.executable, "scripts/secret_scan.py", *options]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    return run


def test_a_new_secret_is_found_and_an_accepted_one_is_not_wherever_it_stands(scan, tmp_path):
    assert scan("--accept").returncode == 0
    (tmp_path / "old.py").write_text(f'# moved down\n\nkey = "{KEY}"\n')
    assert scan().returncode == 0
    (tmp_path / "new.py").write_text(f'other = "{KEY[:-1]}X"\n')
    found = scan()
    assert found.returncode == 1
    assert found.stdout.startswith("new.py:1: AWS Access Key")
    assert KEY[:-1] not in found.stdout, "the secret itself is not printed"
