#!/usr/bin/env python3
"""A Janus with its VideoRoom, for trying and testing: found on this machine, or unpacked from Debian's packages.

    python scripts/janus.py DIR

unpacks Debian 12's Janus and what it needs into DIR, without root and without installing anything, unless DIR has it
already, and says where it is. `Janus(DIR)` starts it on free ports of 127.0.0.1, behind a random secret. A site
installs Janus 1.4.1 or newer instead.

Imports the standard library only, and nothing of the project.
"""

from __future__ import annotations

import contextlib
import os
import platform
import secrets
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

UNPACK_S = 120  # for the package archive
START_S = 15
PACKAGES = [
    "janus",
    "libconfig9",
    "libmicrohttpd12",
    "libnice10",
    "libsrtp2-1",
    "libusrsctp2",
    "libwebsockets17",
    "libsofia-sip-ua0",
    "liblua5.3-0",
    "libnanomsg5",
    "libpaho-mqtt1.3",
    "librabbitmq4",
    "libgupnp-igd-1.0-4",
    "libgupnp-1.6-0",
    "libgssdp-1.6-0",
    "libsoup-3.0-0",
    "libsoup-3.0-common",
    "libproxy1v5",
    "glib-networking",
    "glib-networking-common",
    "glib-networking-services",
]


class Missing(Exception):
    """A sentence for the person at the terminal."""


def unpacked(place: Path) -> Path:
    """The directory that holds `usr`, with Janus in it. Raises Missing."""
    root = place / "root"
    if (root / "usr/bin/janus").exists():
        return root
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        raise Missing("Janus is not here: there is no Debian package client to unpack it with.")
    fresh = place / "fresh"
    shutil.rmtree(fresh, ignore_errors=True)
    for part in ("lists/partial", "cache/archives/partial", "debs"):
        (fresh / part).mkdir(parents=True)
    options: list[str] = []
    if 'VERSION_ID="12"' not in Path("/etc/os-release").read_text():  # Debian 13 has no Janus
        sources = fresh / "sources"
        sources.mkdir()
        for given in (Path("/etc/apt/sources.list"), Path("/etc/apt/sources.list.d/debian.sources")):
            if given.exists():
                name = given.name.replace("sources.list", "debian.list")  # apt reads a file after its ending
                (sources / name).write_text(given.read_text().replace("trixie", "bookworm"))
        options += ["-o", "Dir::Etc::SourceList=/dev/null", "-o", f"Dir::Etc::SourceParts={sources}"]
        options += ["-o", f"Dir::State::Lists={fresh / 'lists'}", "-o", f"Dir::Cache={fresh / 'cache'}"]
    try:
        for words, where in ((["update"], fresh), (["download", *PACKAGES], fresh / "debs")):
            subprocess.run(
                ["apt-get", "-qq", *options, *words], cwd=where, check=True, capture_output=True, timeout=UNPACK_S
            )
        for package in (fresh / "debs").glob("*.deb"):
            subprocess.run(["dpkg-deb", "-x", package, fresh / "root"], check=True, capture_output=True)
        (fresh / "root").rename(root)
    except (subprocess.SubprocessError, OSError) as error:
        raise Missing(f"Janus is not here, and Debian's packages cannot be had: {error}") from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return root


class Janus:
    """One Janus, started by `start`, and again after `kill`, on the same port."""

    def __init__(self, root: Path, work: Path) -> None:
        self.root, self.work = root, work
        self.secret = secrets.token_urlsafe(24)
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self.library = root / "usr/lib" / f"{platform.machine()}-linux-gnu"
        self.write()

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    def write(self) -> None:
        here = self.library / "janus"
        (self.work / "janus.jcfg").write_text(f"""
general: {{
  configs_folder = "{self.work}"
  plugins_folder = "{here}/plugins"
  transports_folder = "{here}/transports"
  events_folder = "{here}/events"
  loggers_folder = "{here}/loggers"
  api_secret = "{self.secret}"
  session_timeout = 60
  reclaim_session_timeout = 30
  hide_dependencies = true
}}
media: {{ rtp_port_range = "40000-40400" }}
plugins: {{ disable = "libjanus_duktape.so,libjanus_lua.so" }}
transports: {{
  disable = "libjanus_http.so,libjanus_mqtt.so,libjanus_rabbitmq.so,libjanus_nanomsg.so,libjanus_pfunix.so"
}}
events: {{ broadcast = false }}
""")
        (self.work / "janus.jcfg").chmod(0o600)
        (self.work / "janus.transport.websockets.jcfg").write_text(f"""
general: {{ json = "compact"
  ws = true
  ws_port = {self.port}
  ws_ip = "127.0.0.1"
  wss = false }}
admin: {{ admin_ws = false }}
""")
        (self.work / "janus.plugin.videoroom.jcfg").write_text("general: { string_ids = true }\n")

    def start(self) -> None:
        with open(self.work / "janus.log", "ab") as log:
            self.process = subprocess.Popen(
                [self.root / "usr/bin/janus", "-F", self.work],
                env={**os.environ, "LD_LIBRARY_PATH": str(self.library)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        end = time.monotonic() + START_S
        while time.monotonic() < end and self.process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            time.sleep(0.02)
        self.kill()
        last = "\n".join((self.work / "janus.log").read_text(errors="replace").splitlines()[-5:])
        raise Missing(f"Janus did not start. The end of its log:\n{last}")

    def kill(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    try:
        print(unpacked(Path(sys.argv[1])))
    except Missing as missing:
        sys.exit(f"janus: {missing}")
