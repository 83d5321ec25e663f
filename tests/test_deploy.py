"""The files of deploy/, as far as the programs that read them are here: units, proxies, and the image's contents."""

import datetime as dt
import ipaddress
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from scripts.services import free_port
from tests.conftest import ROOT

DEPLOY = ROOT / "deploy"
UNITS = sorted((DEPLOY / "systemd").iterdir())


def needs(program: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not shutil.which(program), reason=f"needs {program}")


@needs("systemd-analyze")
@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_systemd_has_no_complaint_about_the_units(unit, tmp_path):
    """The paths are of a site; here the program is any that there is."""
    for path in UNITS:
        text = path.read_text().replace("/srv/callplatform/.venv/bin/python", sys.executable)
        name = path.name.replace("@.", "@8001.")
        (tmp_path / name).write_text(text)
    name = unit.name.replace("@.", "@8001.")
    verified = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", name],
        cwd=tmp_path, env=os.environ | {"SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    said = [line for line in verified.stderr.splitlines() if "callplatform" in line]
    assert (verified.returncode, said) == (0, []), verified.stderr


@needs("systemd-analyze")
@pytest.mark.parametrize("unit", [path for path in UNITS if path.suffix == ".service"], ids=lambda path: path.name)
def test_the_services_may_do_little_on_the_machine(unit, tmp_path):
    path = tmp_path / unit.name.replace("@.", "@8001.")
    path.write_text(unit.read_text())
    looked = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", str(path)],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    exposure = re.search(r"Overall exposure level for \S+: ([\d.]+)", looked.stdout)
    assert exposure, looked.stdout + looked.stderr
    assert float(exposure.group(1)) < 4


def test_every_unit_uses_commands_and_settings_that_there_are():
    own = {path.stem for path in ROOT.glob("call*/management/commands/*.py")}
    for unit in UNITS:
        for command in re.findall(r"manage\.py (\w+)", unit.read_text()):
            assert command in own, unit.name
    text = (ROOT / "compose.yaml").read_text()
    known = set(re.findall(r"^#?([A-Z][A-Z0-9_]*)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    (block,) = re.findall(r"environment: &environment\n((?:    .*\n)+)", text)
    assert set(re.findall(r"^    (\w+):", block, re.MULTILINE)) <= known


def test_the_readme_names_every_file_of_deploy():
    text = (ROOT / "README.md").read_text() + (ROOT / "docs" / "operating.md").read_text()
    for path in DEPLOY.iterdir():
        assert f"deploy/{path.name}" in text, path.name


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that is its own authority, and its key."""
    key, now = ec.generate_private_key(ec.SECP256R1()), dt.datetime.now(dt.UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=90))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    chain, secret = tmp_path / "fullchain.pem", tmp_path / "privkey.pem"
    chain.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    secret.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, plain)
    )
    return chain, secret


@contextmanager
def running(command: list[str], port: int, **environment: str) -> Iterator[None]:
    with subprocess.Popen(
        command, env=os.environ | environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as it:
        try:
            end = time.monotonic() + 20
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError:
                    assert it.stdout is not None
                    assert it.poll() is None, it.stdout.read().decode()
                    assert time.monotonic() < end
                    time.sleep(0.05)
            yield
        finally:
            it.terminate()


def doctor(environment: dict[str, str], address: str, authority: Path) -> dict[str, str]:
    """What the doctor says about the site through its proxy, which has this authority."""
    ran = subprocess.run(
        [sys.executable, "manage.py", "doctor", "--address", address],
        cwd=ROOT, env=environment | {"SSL_CERT_FILE": str(authority)},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    lines = re.findall(r"^(\w+) +(address|socket|certificate) +(.*)$", ran.stdout, re.MULTILINE)
    return {what: f"{level} {says}" for level, what, says in lines}


SITE = {
    "HTTPS": "on",
    "PROXIES": "1",
    "SECRET_KEY": "a key for tests, known to everybody, and long enough for them all",
}


@needs("nginx")
@pytest.mark.django_db(transaction=True)
def test_pages_and_a_socket_pass_through_nginx(launch, certificate, tmp_path):
    server = launch(**SITE)
    port, plain, (chain, key) = free_port(), free_port(), certificate
    text = (DEPLOY / "nginx.conf").read_text()
    text = text.replace("listen 443 ssl", f"listen 127.0.0.1:{port} ssl").replace("listen 80", f"listen {plain}")
    text = text.replace("calls.example.com;", "127.0.0.1;")
    text = text.replace("127.0.0.1:8001", server.url.removeprefix("ws://")).replace(
        "    server 127.0.0.1:8002 max_fails=0;     # in which the next must not be restarted\n", ""
    )
    text = re.sub(r"ssl_certificate +\S+;", f"ssl_certificate {chain};", text)
    text = re.sub(r"ssl_certificate_key +\S+;", f"ssl_certificate_key {key};", text)
    places = "".join(
        f"{what}_temp_path {tmp_path}/{what};\n" for what in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    configuration = tmp_path / "nginx.conf"
    configuration.write_text(
        f"daemon off;\npid {tmp_path}/pid;\nerror_log stderr;\nevents {{}}\n"
        f"http {{\naccess_log off;\n{places}{text}}}\n"
    )
    with running(["nginx", "-c", str(configuration), "-e", "stderr"], port):
        found = doctor(server.environment, f"https://127.0.0.1:{port}", chain)
    assert found["address"].startswith("ok"), found
    assert found["socket"].startswith("ok"), found
    assert found["certificate"].startswith("ok it is believed, and ends in 89 days"), found


@needs("caddy")
@pytest.mark.django_db(transaction=True)
def test_pages_and_a_socket_pass_through_caddy(launch, tmp_path):
    server, port = launch(**SITE), free_port()
    kept = tmp_path / "caddy"
    configuration = tmp_path / "Caddyfile"
    configuration.write_text(
        f"{{\n\tadmin off\n\tlocal_certs\n\tskip_install_trust\n\tauto_https disable_redirects\n"
        f"\tstorage file_system {kept}\n}}\n{(DEPLOY / 'Caddyfile').read_text()}"
    )
    site = {
        "SITE": f"https://127.0.0.1:{port}",
        "SERVERS": server.url.removeprefix("ws://"),
        "STATIC": str(tmp_path),
        "HOME": str(tmp_path),
    }
    with running(["caddy", "run", "--adapter", "caddyfile", "--config", str(configuration)], port, **site):
        authority = kept / "pki" / "authorities" / "local" / "root.crt"
        found = doctor(server.environment, f"https://127.0.0.1:{port}", authority)
    assert found["address"].startswith("ok"), found
    assert found["socket"].startswith("ok"), found
    assert "certificate" in found


def test_what_the_image_is_made_of_is_enough_to_collect_and_to_migrate(tmp_path):
    """The image itself needs Docker. Here its files are copied by the same list, and its commands are run on them."""
    copied = re.findall(r"^COPY (\S+) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    let_in = set(re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE))
    assert set(copied) == let_in
    for name in copied:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, tmp_path / name)
    environment = {
        "PATH": os.environ["PATH"],
        "SECRET_KEY": "made for this step alone, and long enough to be taken 123",
    }
    for command in (["collectstatic", "--noinput"], ["migrate", "--noinput"], ["roles"]):
        ran = subprocess.run(
            [sys.executable, "manage.py", *command],
            cwd=tmp_path, env=environment | {"ALLOWED_HOSTS": "calls.example.com"},
            capture_output=True, text=True, check=False, timeout=100,
        )  # fmt: skip
        assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "var" / "static" / "staticfiles.json").is_file()
