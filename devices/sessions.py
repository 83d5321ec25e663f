"""Django's sessions in the database, but the key is stored only as a hash: `SESSION_ENGINE = "devices.sessions"`.

The cookie holds the key. The table, and the devices that signed in with the session, hold SHA-256 of it. Who reads a
list, an export or a backup of the database cannot make a cookie of what stands there. Imports nothing of the house.

The hash is cut to 40 hexadecimal digits, because the column of Django's table is that long. These 160 bits are enough:
the server makes the keys, 32 random characters (165 bits), so nobody can look for two keys of one hash, and to find a
key for a given hash takes about 2 to the power of 160 tries. For the same reason the hash needs neither salt nor
stretching.
"""

import hashlib
from collections.abc import Iterable
from copy import copy
from functools import lru_cache
from importlib import import_module
from typing import Any, NamedTuple

from django.conf import settings
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY, get_user_model
from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.sessions.backends import db
from django.http import parse_cookie
from django.utils import timezone

LENGTH = 40


def stored_key(key: str | None) -> str:
    """The key of a session as the database has it; "" for none. `key` is a cookie's text, and may be any text."""
    return hashlib.sha256(key.encode(errors="surrogatepass")).hexdigest()[:LENGTH] if key else ""


def of_headers(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The stored key of the session whose cookie a request has, from the headers of its ASGI scope; "" for none."""
    cookies = b"; ".join(value for name, value in headers if name == b"cookie").decode("latin-1")
    return stored_key(parse_cookie(cookies).get(settings.SESSION_COOKIE_NAME))


class Claim(NamedTuple):
    """Whom a session belongs to: the user's key as text, and the proof, which only fits the password of that time."""

    user: str
    proof: str


@lru_cache(maxsize=10_000)
def claim(data: str) -> Claim | None:
    """What is claimed by the data of a session, as the table has it; None when nobody is signed in with it.

    A session hardly ever changes, and to decode it takes longer than to read it.
    """
    said = import_module(settings.SESSION_ENGINE).SessionStore().decode(data)
    if said.get(BACKEND_SESSION_KEY) not in settings.AUTHENTICATION_BACKENDS:
        return None
    return Claim(str(said.get(SESSION_KEY)), str(said.get(HASH_SESSION_KEY)))


def claims(stored: Iterable[str], *, lock: bool = False) -> dict[str, Claim]:
    """The claims of those of the sessions that exist and have not run out. With `lock`, whoever deletes one of them
    waits until the transaction ends."""
    sessions = SessionStore.get_model_class().objects.filter(pk__in=stored, expire_date__gt=timezone.now())
    if lock:
        sessions = sessions.select_for_update(no_key=True)
    return {key: found for key, data in sessions.values_list("pk", "session_data") if (found := claim(data))}


def user_of(stored: str) -> str | None:
    """The key of the user who is signed in with the session of this stored key; None when nobody is."""
    found = claims([stored]).get(stored)
    return found.user if found and found.proof in proofs([found.user]).get(found.user, ()) else None


def stands(user: Any, password: str, claimed: Claim) -> bool:
    """Whether the user is the one that a session claims, is active, and has the password that it was made with.

    `password` is its hash, which is given beside the user: users are kept in memory, and are read without it.
    """
    return bool(user.is_active) and str(user.pk) == claimed.user and claimed.proof in _proofs(user, password)


def proofs(users: Iterable[str]) -> dict[str, frozenset[str]]:
    """For each of these keys of users that is of an active one: the proofs of which a session has to hold one."""
    model: Any = get_user_model()
    found = model._default_manager.filter(pk__in=users, is_active=True)
    if _by_password(model):
        return {str(pk): _proofs_of(model(password=hash)) for pk, hash in found.values_list("pk", "password")}
    return {str(user.pk): _proofs_of(user) for user in found}


def _proofs(user: Any, password: str) -> frozenset[str]:
    model: Any = type(user)
    if _by_password(model):
        return _proofs_of(model(password=password))
    whole = copy(user)
    whole.password = password
    return _proofs_of(whole)


def _by_password(model: Any) -> bool:
    """Whether nothing but the password makes the proof, so that it takes no more of the user to make it."""
    return model.get_session_auth_hash is AbstractBaseUser.get_session_auth_hash


def _proofs_of(user: Any) -> frozenset[str]:
    """Made anew each time: a cache would keep the hashes of passwords in memory, and save 11 microseconds."""
    return frozenset((user.get_session_auth_hash(), *user.get_session_auth_fallback_hash()))


SignIn = tuple[str, str]
"""The key of a user as text, and the stored key of a session."""


def ended(sign_ins: Iterable[SignIn]) -> set[SignIn]:
    """Those whose session is gone, has run out, or does not fit the account: the password is another one, or it is not
    active."""
    asked = set(sign_ins)
    proven, claimed = proofs({user for user, _ in asked}), claims({stored for _, stored in asked})

    def holds(user: str, stored: str) -> bool:
        found = claimed.get(stored)
        return found is not None and found.user == user and found.proof in proven.get(user, ())

    return {each for each in asked if not holds(*each)}


def end(stored: str) -> None:
    """Deletes the session with this stored key, if there is one."""
    SessionStore.get_model_class().objects.filter(pk=stored).delete()


class SessionStore(db.SessionStore):
    """As its parent, which finds a session by the key itself. The data is signed under the class's name, which is the
    same: so a session that the parent stored can be read."""

    @property
    def stored_key(self) -> str:
        return stored_key(self.session_key)

    def exists(self, session_key: str) -> bool:
        return bool(super().exists(stored_key(session_key)))

    async def aexists(self, session_key: str) -> bool:
        return bool(await super().aexists(stored_key(session_key)))

    def create_model_instance(self, data: dict[str, Any]) -> Any:
        return self._hashed(super().create_model_instance(data))

    async def acreate_model_instance(self, data: dict[str, Any]) -> Any:
        return self._hashed(await super().acreate_model_instance(data))

    def delete(self, session_key: str | None = None) -> None:
        key = session_key or self.session_key
        if key is not None:
            super().delete(stored_key(key))

    async def adelete(self, session_key: str | None = None) -> None:
        key = session_key or self.session_key
        if key is not None:
            await super().adelete(stored_key(key))

    def _get_session_from_db(self) -> Any:
        return self._found(self._mine().first())

    async def _aget_session_from_db(self) -> Any:
        return self._found(await self._mine().afirst())

    def _mine(self) -> Any:
        return self.model.objects.filter(pk=self.stored_key, expire_date__gt=timezone.now())

    def _found(self, session: Any) -> Any:
        if session is None:
            self._session_key = None  # a key that somebody else chose is never given to a new session
        return session

    def _hashed(self, session: Any) -> Any:
        session.session_key = self.stored_key
        return session
