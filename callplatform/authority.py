"""A small authority of this machine's own, for HTTPS on a network at home or in an office, for which no public one
speaks.

Browsers give microphone and camera to pages on HTTPS only. The authority can speak for private addresses and for names
that end in .local, and for nothing else, so that its key is of no use elsewhere. Imports nothing of the house.
"""

import datetime as dt
import ipaddress
import os
import socket
from collections.abc import Iterable, Sequence
from pathlib import Path

import ifaddr
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

AUTHORITY_DAYS, CERTIFICATE_DAYS = 3650, 90
RENEWED_DAYS = 30  # before its end
PRIVATE = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "127.0.0.0/8")
NAMES = ("local", "localhost")


def addresses() -> list[str]:
    """This machine's private IPv4 addresses that others may reach."""
    networks = [ipaddress.ip_network(network) for network in PRIVATE[:-2]]
    found = {ip.ip for adapter in ifaddr.get_adapters() for ip in adapter.ips if isinstance(ip.ip, str)}
    known = sorted(map(ipaddress.IPv4Address, found))
    return [str(address) for address in known if any(address in network for network in networks)]


def names() -> list[str]:
    """What the machine is called on its network."""
    return ["localhost", f"{socket.gethostname().split('.')[0].lower()}.local"]


def certificate(directory: Path, for_addresses: Iterable[str], for_names: Iterable[str]) -> tuple[Path, Path, Path]:
    """The files of a chain, of its key, and of the authority's certificate, which devices are to trust.

    The chain is made anew when it is near its end, or when the addresses are others. The authority stays.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    wanted = [*map(ipaddress.ip_address, sorted({*for_addresses, "127.0.0.1"})), *sorted(set(for_names))]
    root, root_key = _authority(directory)
    chain, key = directory / "chain.pem", directory / "key.pem"
    if not (chain.exists() and key.exists() and _fits(chain, wanted, root)):
        secret = generate_private_key(SECP256R1())
        alternatives = [x509.DNSName(each) if isinstance(each, str) else x509.IPAddress(each) for each in wanted]
        made = (
            _begun("Calls on this network", root.subject, secret, CERTIFICATE_DAYS)
            .add_extension(x509.SubjectAlternativeName(alternatives), False)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), True)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key()), False)
            .sign(root_key, hashes.SHA256())
        )
        _write(key, _private(secret))
        _write(chain, made.public_bytes(Encoding.PEM) + root.public_bytes(Encoding.PEM))
    return chain, key, directory / "authority.crt"


def _fits(chain: Path, wanted: Sequence[object], root: x509.Certificate) -> bool:
    made = x509.load_pem_x509_certificate(chain.read_bytes())
    names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    left = made.not_valid_after_utc - dt.datetime.now(dt.UTC)
    return [name.value for name in names] == list(wanted) and left.days >= RENEWED_DAYS and made.issuer == root.subject


def _authority(directory: Path) -> tuple[x509.Certificate, EllipticCurvePrivateKey]:
    path, key_path = directory / "authority.crt", directory / "authority.key"
    if path.exists() and key_path.exists():
        kept = load_pem_private_key(key_path.read_bytes(), None)
        assert isinstance(kept, EllipticCurvePrivateKey)
        return x509.load_pem_x509_certificate(path.read_bytes()), kept
    key = generate_private_key(SECP256R1())
    name = f"Calls on {socket.gethostname()}"[:64]
    permitted: list[x509.GeneralName] = [x509.IPAddress(ipaddress.ip_network(network)) for network in PRIVATE]
    permitted += [x509.DNSName(each) for each in NAMES]
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)  # signs certificates and lists
    made = (
        _begun(name, x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), key, AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
        .add_extension(usage, True)
        .add_extension(x509.NameConstraints(permitted, None), True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        .sign(key, hashes.SHA256())
    )
    _write(key_path, _private(key))
    _write(path, made.public_bytes(Encoding.PEM))
    return made, key


def _begun(name: str, issuer: x509.Name, key: EllipticCurvePrivateKey, days: int) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    return (
        x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))  # a phone's clock may be behind
        .not_valid_after(now + dt.timedelta(days=days))
    )


def _private(key: EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _write(path: Path, content: bytes) -> None:
    """For its owner only, and whole."""
    part = path.with_suffix(".part")
    part.unlink(missing_ok=True)
    with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
    os.replace(part, path)
