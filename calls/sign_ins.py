"""Looks again at the sign-ins behind this process's open sockets.

Channels' middleware looks once, when a socket connects. A sign-in that has ended since (a changed password, a session
that was deleted or ran out) must not keep a socket, nor a call.
"""

import asyncio
import logging
import uuid
from collections.abc import Iterable
from functools import lru_cache
from importlib import import_module
from typing import Any, NamedTuple

from django.conf import settings
from django.contrib.auth import HASH_SESSION_KEY, SESSION_KEY, get_user_model
from django.contrib.auth.base_user import AbstractBaseUser
from django.utils import timezone

from calls import pool, switchboard
from calls.hub import hub
from calls.logs import first_line
from devices.models import Device

log = logging.getLogger(__name__)

LOOK_S = 60.0  # between two looks; a deactivated account does not wait for it, see the clock
CHUNK = 500  # sign-ins in one look at the database

Who = tuple[str | None, str | None]  # the user's key, and the proof that belongs to the password
NOBODY: Who = (None, None)


class SignIn(NamedTuple):
    """A socket's claim to be somebody."""

    key: str
    session_key: str
    device: uuid.UUID


def ended(sign_ins: Iterable[SignIn]) -> list[SignIn]:
    """Those whose session is gone, or no longer fits the account."""
    claims = list(sign_ins)
    proofs = _proofs({claim.key for claim in claims})
    sessions = _sessions({claim.session_key for claim in claims})

    def holds(claim: SignIn) -> bool:
        key, proof = sessions.get(claim.session_key, NOBODY)
        return key == claim.key and proof in proofs.get(claim.key, ())

    return [claim for claim in claims if not holds(claim)]


def _proofs(keys: set[str]) -> dict[str, frozenset[str]]:
    """What a session of each of these users has to hold one of; those who are deactivated are not in it."""
    model: Any = get_user_model()
    users = model._default_manager.filter(pk__in=keys, is_active=True)
    if model.get_session_auth_hash is AbstractBaseUser.get_session_auth_hash:  # so the password alone makes the proof
        return {str(pk): _proofs_by(model, password) for pk, password in users.values_list("pk", "password")}
    return {str(user.pk): _proofs_of(user) for user in users}


@lru_cache(maxsize=10_000)
def _proofs_by(model: Any, password: str) -> frozenset[str]:
    return _proofs_of(model(password=password))


def _proofs_of(user: Any) -> frozenset[str]:
    return frozenset((user.get_session_auth_hash(), *user.get_session_auth_fallback_hash()))


def look(sign_ins: Iterable[SignIn]) -> None:
    """Signs out the devices of those that have ended."""
    gone = {(claim.device, claim.session_key) for claim in ended(sign_ins)}
    for device in Device.objects.filter(pk__in=[device for device, _ in gone], signed_out_at=None):
        if (device.pk, device.session_key) in gone:  # else somebody has signed in there since
            switchboard.sign_out(device)


async def run() -> None:
    """Looks at every open socket of this process, again and again, until cancelled."""
    while True:
        await asyncio.sleep(LOOK_S)
        claims = [claim for group in hub.sockets.values() for socket in group if (claim := socket.sign_in)]
        for start in range(0, len(claims), CHUNK):
            try:
                await pool.run(look, claims[start : start + CHUNK])
            except pool.AWAY as error:
                log.warning("the sign-ins were not looked at: %s", first_line(error))
            except Exception:
                log.exception("the sign-ins were not looked at")


def _sessions(keys: set[str]) -> dict[str, Who]:
    store = import_module(settings.SESSION_ENGINE).SessionStore
    if hasattr(store, "get_model_class"):  # sessions in the database: all at once
        sessions = store.get_model_class().objects.filter(session_key__in=keys, expire_date__gt=timezone.now())
        return {key: _who(store, data) for key, data in sessions.values_list("session_key", "session_data")}
    return {key: _said(store(key).load()) for key in keys}


@lru_cache(maxsize=10_000)
def _who(store: Any, data: str) -> Who:
    """A session hardly ever changes from one look to the next, and takes longer to decode than to read."""
    return _said(store().decode(data))


def _said(session: dict[str, Any]) -> Who:
    return session.get(SESSION_KEY), session.get(HASH_SESSION_KEY)
