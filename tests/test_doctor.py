"""`manage.py doctor`: what is wrong with a site is a line that says what to do, and nothing makes it hang."""

import asyncio
import http.server
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO

import pytest
from aioice import stun as messages
from django.core.management import CommandError, call_command

from callplatform import doctor, findings
from callplatform.findings import Finding
from scripts.services import free_port
from tests.conftest import ROOT

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def trying_out(settings):
    """As the environment of tests says; pytest-django switches it off."""
    settings.DEBUG = True


def look(*options: str) -> tuple[dict[str, Finding], str]:
    """What the doctor says: by what was looked at, and how it ends."""
    out, ended = StringIO(), ""
    try:
        call_command("doctor", *options, stdout=out, no_color=True)
    except CommandError as error:
        ended = str(error)
    lines = re.findall(r"^(ok|warning|error) +(\S.*?\S) {2,}(.*)$", out.getvalue(), re.MULTILINE)
    assert len(lines) == len(out.getvalue().splitlines())
    return {what: Finding(what, level, says) for level, what, says in lines}, ended


def test_what_works_is_ok_and_what_is_missing_is_a_sentence(people):
    found, ended = look()
    assert ended == "", found
    for what in ("database", "migrations", "clock", "redis", "static files", "accounts"):
        assert found[what].level == "ok", found[what]
    assert "PostgreSQL" in found["database"].says or "SQLite" in found["database"].says
    assert found["address"] == ("address", "warning", "it is not known. Give it: manage.py doctor --address https://…")
    assert "Set TURN_URLS and TURN_SECRET" in found["turn"].says
    assert "manage.py push_keys" in found["push"].says


def test_nobody_who_may_operate_is_a_warning(db):
    found, _ = look()
    assert found["accounts"].level == "warning" and "createsuperuser" in found["accounts"].says


@pytest.mark.parametrize(
    ("hosts", "address"),
    [
        (["localhost", "127.0.0.1", "calls.example.com"], "http://calls.example.com"),
        ([".example.com", "*"], ""),
        (["[::1]", "localhost"], ""),
    ],
)
def test_the_address_is_the_first_public_name(settings, hosts, address):
    settings.ALLOWED_HOSTS = hosts
    assert doctor.public_address() == address


def test_a_site_that_answers_at_its_address_is_ok_to_the_socket(servers):
    address = servers[0].url.replace("ws", "http", 1)
    found, _ = look("--address", address)
    assert found["address"] == ("address", "ok", f"{address} answers.")
    assert found["socket"].level == "ok", found["socket"]


def test_a_proxy_that_does_not_say_https_is_found_by_its_redirects(launch):
    """The server believes that it is asked by plain HTTP, and sends people to where they are already."""
    server = launch(HTTPS="on", SECRET_KEY="a key for tests, known to everybody, and long enough for them all")
    with proxy(server.url, redirect=True) as address:
        found, ended = look("--address", address)
    assert "has to set X-Forwarded-Proto" in found["address"].says
    assert ended


def test_a_proxy_that_does_not_pass_the_host_on_is_found(servers):
    with proxy(servers[0].url, host=b"unknown.example.com") as address:
        found, _ = look("--address", address)
    assert "says 400" in found["address"].says and "pass Host on" in found["address"].says
    with proxy(servers[0].url, host=b"localhost") as address:
        found, _ = look("--address", address)
    assert found["address"].level == "ok"
    assert "refused: the proxy has to pass Host on" in found["socket"].says


def test_a_proxy_that_does_not_pass_the_upgrade_on_is_found(servers):
    with proxy(servers[0].url, without=b"upgrade") as address:
        found, _ = look("--address", address)
    assert found["socket"].level == "error" and "pass Upgrade and Connection on" in found["socket"].says


def test_another_site_at_the_address_and_none_are_told_apart(people):
    class Other(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(404)

        def log_message(self, *_args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Other) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        found, ended = look("--address", address)
        server.shutdown()
    assert found["address"] == ("address", "error", f"{address}/healthz says 404: this site does not answer there.")
    assert ended == "1 error."
    found, _ = look("--address", f"http://127.0.0.1:{free_port()}")
    assert "cannot be reached: Connection refused." in found["address"].says


@contextmanager
def proxy(url: str, host: bytes = b"", without: bytes = b"", redirect: bool = False) -> Iterator[str]:
    """A proxy that treats the headers of requests as a careless configuration does. With `redirect` its address stands
    for an HTTPS one: redirects to HTTPS come back to it.
    """
    target, port = int(url.rpartition(":")[2]), free_port()
    address = f"http://127.0.0.1:{port}"

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n"))[:-4].split(b"\r\n")
        kept = [line for line in head[1:] if not without or without not in line.lower()]
        if host:
            kept = [b"Host: " + host if line.lower().startswith(b"host:") else line for line in kept]
        there, out = await asyncio.open_connection("127.0.0.1", target)
        out.write(b"\r\n".join([head[0], *kept]) + b"\r\n\r\n")
        try:
            while data := await there.read(65536):
                writer.write(data.replace(b"https://", b"http://") if redirect else data)
        finally:
            writer.close()
            out.close()

    async def end() -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        loop.stop()

    loop, ready = asyncio.new_event_loop(), threading.Event()

    async def serve() -> None:
        await asyncio.start_server(pass_on, "127.0.0.1", port)
        ready.set()

    loop.create_task(serve())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    assert ready.wait(10)
    try:
        yield address
    finally:
        asyncio.run_coroutine_threadsafe(end(), loop)
        thread.join(10)
        loop.close()


# --- STUN and TURN ---


@contextmanager
def stun_server() -> Iterator[int]:
    """Says to whoever asks that they are 192.0.2.7."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind(("127.0.0.1", 0))

        def answer() -> None:
            data, place = udp.recvfrom(2000)
            asked = messages.parse_message(data)
            response = messages.Message(messages.Method.BINDING, messages.Class.RESPONSE, asked.transaction_id)
            response.attributes["XOR-MAPPED-ADDRESS"] = ("192.0.2.7", 4000)
            udp.sendto(bytes(response), place)

        threading.Thread(target=answer, daemon=True).start()
        yield udp.getsockname()[1]


def test_a_stun_server_is_asked_and_a_silent_one_is_an_error(set_calls):
    with stun_server() as port:
        set_calls(STUN_URLS=[f"stun:127.0.0.1:{port}"])
        found, _ = look()
        assert found["stun"] == ("stun", "ok", f"stun:127.0.0.1:{port} sees this machine as 192.0.2.7.")
    set_calls(STUN_URLS=[f"stun:127.0.0.1:{port}"])
    found, ended = look()
    assert "does not answer: no answer within 5 s." in found["stun"].says
    assert ended == "1 error."


@pytest.mark.skipif(not shutil.which("turnserver"), reason="needs coturn (Debian: coturn)")
def test_a_turn_server_gives_a_relay_for_the_right_secret_only(set_calls, tmp_path):
    port = free_port()
    command = [
        "turnserver", "-n", "--use-auth-secret", "--static-auth-secret=right", "--realm=turn.example.com",
        "--listening-ip=127.0.0.1", "--relay-ip=127.0.0.1", f"--listening-port={port}", "--no-cli", "--no-tls",
        "--no-dtls", f"--userdb={tmp_path}/turndb", f"--pidfile={tmp_path}/pid", "--log-file=stdout",
    ]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as turn:
        try:
            end = time.monotonic() + 20
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError:
                    assert time.monotonic() < end and turn.poll() is None
                    time.sleep(0.05)
            for transport in ("udp", "tcp"):
                url = f"turn:127.0.0.1:{port}?transport={transport}"
                set_calls(TURN_URLS=[url], TURN_SECRET="right")
                found, _ = look()
                assert found["turn"] == ("turn", "ok", f"{url} gave a relay at 127.0.0.1.")
                set_calls(TURN_URLS=[url], TURN_SECRET="wrong")
                found, ended = look()
                assert "401 Unauthorized. Is TURN_SECRET its static-auth-secret" in found["turn"].says and ended
        finally:
            turn.terminate()


# --- the rest ---


def test_a_check_that_hangs_or_fails_is_a_line_and_hides_no_other():
    held = threading.Event()

    def hangs() -> Iterator[Finding]:
        held.wait(60)
        yield Finding("slow", "ok", "at last")

    def fails() -> Iterator[Finding]:
        raise OSError("no such thing")

    began = time.monotonic()
    checks = {"slow": hangs, "broken": fails, "good": lambda: [Finding("good", "ok", "yes")]}
    slow, broken, good = findings.found(checks, 0.3)
    assert time.monotonic() - began < 10
    held.set()
    assert slow == ("slow", "error", "no answer within 0.3 s: what it asks is silent, or very slow.")
    assert broken.level == "error" and "no such thing" in broken.says
    assert good.level == "ok"


@pytest.mark.parametrize("command", [["doctor"], ["migrate"], ["people", "README.md"]])
def test_a_database_that_is_away_is_a_sentence_for_every_command(command):
    environment = os.environ | {"DATABASE_URL": f"postgres://calls:secret@127.0.0.1:{free_port()}/calls"}
    ran = subprocess.run(
        [sys.executable, "manage.py", *command],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert ran.returncode == 1
    said = ran.stdout + ran.stderr
    assert "Connection refused. Look at DATABASE_URL." in said
    assert "secret" not in said and "Traceback" not in said
    assert command == ["doctor"] or len(ran.stderr.splitlines()) == 1
