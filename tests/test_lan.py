"""HTTPS on the own network: a certificate that devices can trust, and a server that speaks it."""

import asyncio
import datetime as dt
import os
import re
import signal
import ssl
import subprocess
import sys
import time
from contextlib import suppress

import pytest
import requests
from cryptography import x509
from websockets.asyncio.client import connect

from callplatform import authority
from scripts.services import free_port
from tests.conftest import ROOT
from tests.pages import Live


def test_a_certificate_is_kept_renewed_and_made_for_new_addresses(tmp_path, monkeypatch):
    chain, _, root = authority.certificate(tmp_path / "lan", ["192.168.7.5"], ["host.local"])
    first, trusted = chain.read_bytes(), root.read_bytes()
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "lan").iterdir()} == {0o600}
    authority.certificate(tmp_path / "lan", ["192.168.7.5"], ["host.local"])
    assert chain.read_bytes() == first
    authority.certificate(tmp_path / "lan", ["192.168.7.6"], ["host.local"])
    second = chain.read_bytes()
    assert second != first and root.read_bytes() == trusted
    monkeypatch.setattr(authority, "RENEWED_DAYS", 91)
    authority.certificate(tmp_path / "lan", ["192.168.7.6"], ["host.local"])
    assert chain.read_bytes() != second and root.read_bytes() == trusted
    made = x509.load_pem_x509_certificate(chain.read_bytes())
    assert made.not_valid_after_utc - dt.datetime.now(dt.UTC) < dt.timedelta(days=398)  # or iOS refuses it


def test_the_authority_can_speak_for_private_addresses_only(tmp_path):
    """By OpenSSL, as browsers do: a certificate of it for a public address is not believed."""
    for address, believed in (("10.1.2.3", True), ("8.8.8.8", False)):
        chain, _, root = authority.certificate(tmp_path, [address], [])
        verified = subprocess.run(
            ["openssl", "verify", "-CAfile", str(root), str(chain)], capture_output=True, text=True, check=False
        )
        assert (verified.returncode == 0) is believed, verified.stdout + verified.stderr


def signed_in(address, name, password, root):
    """The cookie of a browser that trusts the authority, and signed in by the form."""
    browser = requests.Session()
    browser.verify, browser.trust_env = str(root), False
    page = browser.get(f"{address}/accounts/login/", timeout=20)
    token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page.text).group(1)
    form = {"username": name, "password": password, "csrfmiddlewaretoken": token}
    answer = browser.post(f"{address}/accounts/login/", form, headers={"Referer": address}, timeout=20)
    assert answer.status_code == 200 and answer.url == f"{address}/", answer.text[:500]
    kept = next(each for each in browser.cookies if each.name == "sessionid")
    assert kept.secure
    return f"sessionid={kept.value}"


@pytest.mark.timeout(240)
async def test_make_run_on_the_network_serves_https_to_whoever_trusts_the_authority(checkout, monkeypatch):
    own = ("DATABASE_URL", "REDIS_URL", "SECRET_KEY", "DEBUG", "MAKEFLAGS", "ALLOWED_HOSTS", "ENV_FILE")
    environment = {name: value for name, value in os.environ.items() if name not in own}
    port = free_port()
    environment |= {"PORT": str(port), "DJANGO_SETTINGS_MODULE": "callplatform.settings"}
    command = ["make", "--old-file", ".venv/installed", "run", "LAN=1", f"PY={sys.executable}"]
    address, root = f"https://127.0.0.1:{port}", checkout / "var" / "lan" / "authority.crt"
    log = checkout / "log"
    with (
        log.open("w") as out,
        subprocess.Popen(  # noqa: ASYNC220
            command, cwd=checkout, env=environment, stdout=out, stderr=out, start_new_session=True
        ) as made,
    ):
        try:
            end = time.monotonic() + 120
            while "Listening on" not in log.read_text():
                assert made.poll() is None and time.monotonic() < end, log.read_text()
                await asyncio.sleep(0.1)
            said = log.read_text()
            assert f"Listening on https://0.0.0.0:{port}/" in said
            for own_address in authority.addresses():
                assert f"On this network: https://{own_address}:{port}/" in said
            sign_ins = dict(re.findall(r"^(\w+) +(\S+)$", (checkout / "var" / "demo-sign-ins.txt").read_text(), re.M))
            with pytest.raises(ssl.SSLCertVerificationError):
                await connect(f"wss://127.0.0.1:{port}/ws/")
            monkeypatch.setenv("SSL_CERT_FILE", str(root))
            pages = {}
            for name in ("alice", "bob"):
                cookie = await asyncio.to_thread(signed_in, address, name, sign_ins[name], root)
                pages[name] = await Live(f"wss://127.0.0.1:{port}", cookie, name).open()
                assert (await pages[name].hello())["t"] == "welcome"
            call = (await pages["alice"].invite("bob", "video"))["call"]["id"]
            await pages["bob"].sees(call, state="ringing")
            assert (await pages["bob"].ask("answer", call=call))["ok"]
            await pages["alice"].sees(call, state="active")
            for each in pages.values():
                await each.close()
        finally:
            with suppress(ProcessLookupError):
                os.killpg(made.pid, signal.SIGKILL)


def test_https_needs_settings_that_know_of_it(tmp_path):
    environment = os.environ | {"DATABASE_URL": f"sqlite:///{tmp_path}/calls.sqlite3", "HTTPS": "off", "REDIS_URL": ""}
    for command in (["migrate"], ["serve", "--https"]):
        ran = subprocess.run(
            [sys.executable, "manage.py", *command],
            cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
    assert ran.returncode == 1 and "HTTPS is off: set HTTPS=on, or use `make run LAN=1`." in ran.stderr
