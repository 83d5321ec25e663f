#!/usr/bin/env python3
"""Looks for passwords and keys in the tracked files, with detect-secrets. It asks nobody: nothing leaves the machine.

    python scripts/secret_scan.py [--accept]

What looks like a secret and is none, such as a password in an example, is listed in .secrets.baseline by its hash.
--accept adds what was found to that list; look at it first.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

from detect_secrets.core import baseline
from detect_secrets.core.secrets_collection import SecretsCollection
from detect_secrets.settings import default_settings

ROOT = Path(__file__).resolve().parent.parent
ACCEPTED = ROOT / ".secrets.baseline"
# Hashes of packages, foreign code as it was published, pictures, and the list itself.
LEFT_OUT = ("requirements", ".secrets.baseline", "tests/browser/axe-core/", "calls/static/calls/vendor/")
NO_TEXT = (".png", ".svg", ".mo", ".ico", ".woff2")


def tracked() -> list[str]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    names = [name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]
    return [name for name in names if not name.startswith(LEFT_OUT) and not name.endswith(NO_TEXT)]


def scan() -> SecretsCollection:
    os.chdir(ROOT)  # so that the accepted ones are kept by names that mean the same in every checkout
    found = SecretsCollection()
    with default_settings():
        found.scan_files(*tracked())
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--accept", action="store_true", help="add what was found to the accepted ones")
    accept = parser.parse_args().accept
    found = scan()
    if accept:
        with default_settings():
            baseline.save_to_file(found, str(ACCEPTED))
        return 0
    fresh = found - baseline.load(baseline.load_from_file(str(ACCEPTED)), str(ACCEPTED))
    for name, secret in sorted(fresh, key=lambda each: (each[0], each[1].line_number)):
        print(f"{name}:{secret.line_number}: {secret.type}")
    if fresh:
        print("Take it out, and change it where it is used. If it is none: python scripts/secret_scan.py --accept")
    return 1 if fresh else 0


if __name__ == "__main__":
    sys.exit(main())
