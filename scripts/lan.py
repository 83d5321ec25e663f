#!/usr/bin/env python3
"""Runs a command with the settings of a site on this machine's own network: `make run LAN=1`.

DEBUG is off, pages are on HTTPS, and the key is a random one that is kept in var/lan.
"""

import os
import secrets
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from callplatform import authority  # noqa: E402


def main() -> None:
    kept = ROOT / "var" / "lan" / "secret_key"
    kept.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not kept.exists():
        with open(os.open(kept, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_urlsafe(48))
    known = [*authority.addresses(), "127.0.0.1", *authority.names()]
    site = {"DEBUG": "off", "HTTPS": "on", "SECRET_KEY": kept.read_text(), "ALLOWED_HOSTS": ",".join(known)}
    command = sys.argv[1:]
    os.execvpe(command[0], command, os.environ | {"PORT": os.environ.get("PORT", "8443")} | site)


if __name__ == "__main__":
    main()
