"""A real server, outside debug, on a database of its own."""

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg
from psycopg import sql

from tests.servers import COMMAND

ROOT = Path(__file__).resolve().parent.parent.parent
PASSWORD = "a-password-for-browser-tests"
START_S = 60


class Site:
    """The listening socket is opened here and handed down: a restart keeps the address, and refuses no connection."""

    def __init__(self, var: Path, database_url: str, redis_url: str) -> None:
        self.var = var
        self.server_url = database_url
        self.database = f"browser_{secrets.token_hex(4)}"
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        self.log = var / "serve.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.commands: subprocess.Popen[str] | None = None
        parts = urlsplit(database_url)
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
        self.environment = kept | {
            "DJANGO_SETTINGS_MODULE": "tests.browser.served_settings",
            "SITE_VAR": str(var),
            "ENV_FILE": os.devnull,
            "DATABASE_URL": urlunsplit(parts._replace(path=f"/{self.database}")),
            "REDIS_URL": redis_url,
            "DEBUG": "off",
            "HTTPS": "off",
            "SECRET_KEY": secrets.token_urlsafe(50),
            "ALLOWED_HOSTS": "127.0.0.1",
            "DEMO_PASSWORD": PASSWORD,
            "PUSH_KEY": "m4Y6yUTgzdHuwkv_JcGpmMeqcmUFYFyKo1XnkPLVzRI",
            "PUSH_CONTACT": "mailto:ops@example.com",
        }

    def make(self) -> None:
        """The database, the static files under their hashed names, and the demo's people."""
        self._admin("CREATE DATABASE {}")
        for command in (["migrate", "--noinput"], ["collectstatic", "--noinput"], ["roles"], ["demo"]):
            self.manage(*command)

    def manage(self, *command: str) -> str:
        """What `manage.py` says to this command. One process runs them all."""
        if self.commands is None:
            with open(self.log, "ab") as log:
                self.commands = subprocess.Popen(
                    [sys.executable, "-m", "tests.browser.commands"],
                    cwd=ROOT,
                    env=self.environment,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                )
        assert self.commands.stdin and self.commands.stdout
        print(json.dumps(command), file=self.commands.stdin, flush=True)
        good, said = json.loads(self.commands.stdout.readline() or '[false, "It ended."]')
        assert good, said
        return said

    def line(self, user: str, *changes: str) -> str:
        """What the operator does to a line: `site.line("bob", "--multi-device", "off")`."""
        return self.manage("line", user, *changes)

    def forget(self) -> None:
        """What earlier tests left behind goes: histories, favourites, and the languages that were chosen."""
        with psycopg.connect(self.environment["DATABASE_URL"], autocommit=True) as connection:
            connection.execute("UPDATE calls_leg SET hidden = true WHERE NOT hidden")
            connection.execute("UPDATE devices_line SET language = '', favourites = '[]'")

    def as_made(self, user: str) -> None:
        """The line is again what the demo made it. Nobody is told: it is for the time between tests."""
        with psycopg.connect(self.environment["DATABASE_URL"], autocommit=True) as connection:
            made = "multi_device = %s, may_switch = false, max_incoming = NULL, max_outgoing = NULL"
            whose = "user_id = (SELECT id FROM auth_user WHERE username = %s)"
            connection.execute(f"UPDATE devices_line SET {made} WHERE {whose}", [user == "bob", user])

    def start(self) -> None:
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, *COMMAND, "--fd", str(self.socket.fileno())],
                cwd=ROOT, env=self.environment, stdout=log, stderr=log, pass_fds=[self.socket.fileno()],
            )  # fmt: skip
        end = time.monotonic() + START_S
        while True:
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < end, self.log.read_text()
            try:
                urllib.request.urlopen(f"{self.url}/accounts/login/", timeout=5).close()
                return
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)

    def stop(self) -> None:
        process, self.process = self.process, None
        if process is None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def drop(self) -> None:
        if self.commands is not None:
            self.commands.communicate()
        self.socket.close()
        self._admin("DROP DATABASE IF EXISTS {} WITH (FORCE)")

    def _admin(self, statement: str) -> None:
        with psycopg.connect(self.server_url, autocommit=True) as connection:
            connection.execute(sql.SQL(statement).format(sql.Identifier(self.database)))
