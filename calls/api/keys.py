"""Keys of other people's servers: `cpk_<id>_<secret>`. Only hashes are stored, so a key is shown once, when it is made.

The secret has 256 random bits, so its hash needs neither salt nor stretching.
"""

import datetime as dt
import hashlib
import hmac
import ipaddress
import logging
import secrets
from collections.abc import Collection, Iterable
from functools import cache

from django.core.exceptions import ValidationError
from django.core.signals import setting_changed
from django.db import IntegrityError
from django.db.models import Q

from calls import conf
from calls.allowance import Allowance, Left
from calls.api import problems
from calls.api.problems import Problem
from calls.machine import Refused
from calls.models import ApiKey
from devices import times

log = logging.getLogger(__name__)

SCOPES = {
    "users:read": "Read people, whether they are online or in a call, and their lines",
    "users:write": "Make people, change and deactivate them",
    "users:erase": "Erase everything personal of a person, for good",
    "lines:write": "Change lines: limits, multi-device, do not disturb, group",
    "devices:read": "Read people's devices",
    "devices:write": "Sign devices out",
    "tokens:mint": "Make tokens, with which an app is a device of a person, and revoke them",
    "calls:read": "Read calls and their stories",
    "calls:write": "End calls, add people and take them out",
    "events:read": "Read events",
    "webhooks:read": "Read webhooks and their deliveries",
    "webhooks:write": "Make, change and test webhooks; making one needs events:read too",
}
PREFIX = "cpk"
USED_S = 60  # `used_at` is written at most this often
FAILED_AT_ONCE, FAILED_S = 20, 5.0  # wrong keys of one address


def make(
    name: str, scopes: Collection[str], expires_at: dt.datetime | None = None, networks: Collection[str] = ()
) -> tuple[ApiKey, str]:
    """A new key: its row, and the key itself, which nobody can read again. Raises ValidationError."""
    key = ApiKey(name=name, scopes=sorted(set(scopes)), expires_at=expires_at, networks=list(networks))
    shown = give_secret(key)
    check(key)
    key.full_clean()
    try:
        key.save(force_insert=True)
    except IntegrityError:
        raise ValidationError({"name": "There is a key with this name."}) from None
    return key, shown


def give_secret(key: ApiKey) -> str:
    """Gives a new key, which is saved by whoever calls, its secret. Returns what is shown once."""
    secret = secrets.token_urlsafe(32)
    key.digest = digest(secret)
    return f"{PREFIX}_{key.pk}_{secret}"


def check(key: ApiKey) -> None:
    """Raises ValidationError for scopes or networks that there are not."""
    if unknown := set(key.scopes) - set(SCOPES):
        raise ValidationError({"scopes": f"There is no scope {min(unknown)!r}."})
    if not key.scopes:
        raise ValidationError({"scopes": "Choose at least one scope."})
    for network in key.networks:
        try:
            ipaddress.ip_network(network)
        except ValueError:
            raise ValidationError({"networks": f"{network!r} is no network, such as 192.0.2.0/24."}) from None


def revoke(key: ApiKey) -> bool:
    """Ends the key at once. Whether it had not ended before."""
    if key.revoked_at is not None:
        return False
    key.revoked_at = times.now()
    key.save(update_fields=["revoked_at"])
    return True


def authenticate(authorization: str, address: str | None) -> tuple[ApiKey, str]:
    """The key of a request and its secret. Raises Problem: 401 for whatever is wrong with it, always in the same words;
    429 when too many wrong ones came from this address. A right one is let in all the same: others may be behind the
    same address, and nobody guesses a secret of 256 bits."""
    found = _found(authorization, address)
    if found is None:
        try:
            failed.spend(address)
        except Refused as refused:
            raise problems.of(refused) from None
        raise Problem("unauthorized")
    key = found[0]
    now = times.now()
    lately = now - dt.timedelta(seconds=USED_S)
    if key.used_at is None or key.used_at < lately:
        ApiKey.objects.filter(Q(used_at=None) | Q(used_at__lt=lately), pk=key.pk).update(used_at=now)
    return found


def _found(authorization: str, address: str | None) -> tuple[ApiKey, str] | None:
    kind, _, said = authorization.strip().partition(" ")
    prefix, id, secret = [*said.strip().split("_", 2), "", ""][:3]
    if kind.lower() != "bearer" or prefix != PREFIX or "\0" in id:
        return None
    key = ApiKey.objects.filter(pk=id[:16]).first()
    stored = key.digest if key else digest("")
    if not hmac.compare_digest(stored, digest(secret)) or key is None:
        return None
    if key.revoked_at is not None or (key.expires_at is not None and key.expires_at <= times.now()):
        return None
    if key.networks and not is_in(address, key.networks):
        log.warning("the API key %r was used from %s, which is none of its networks", key.name, address)
        return None
    return key, secret


def is_in(address: str | None, networks: Iterable[str]) -> bool:
    """Whether the address belongs to one of the networks."""
    if address is None:
        return False
    found = ipaddress.ip_address(address)
    found = getattr(found, "ipv4_mapped", None) or found
    return any(found in ipaddress.ip_network(network) for network in networks)


def digest(secret: str) -> str:
    return hashlib.sha256(secret.encode(errors="surrogatepass")).hexdigest()


def spend(key: ApiKey) -> Left:
    """Counts one request of the key. Raises Problem when there have been too many."""
    try:
        return _rates().spend(key.pk)
    except Refused as refused:
        raise problems.of(refused) from None


@cache
def _rates() -> Allowance:
    return Allowance(conf.get("API_BURST"), 1 / conf.get("API_RATE"))


failed = Allowance(FAILED_AT_ONCE, FAILED_S)


def _forget(*, setting: str, **_: object) -> None:
    if setting == "CALLS":
        _rates.cache_clear()


setting_changed.connect(_forget)  # sent by override_settings only
