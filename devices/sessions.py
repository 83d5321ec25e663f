"""Django's sessions in the database, but the key is stored only as a hash: `SESSION_ENGINE = "devices.sessions"`.

The cookie holds the key. The table, and the devices that signed in with the session, hold SHA-256 of it. Who reads a
list, an export or a backup of the database cannot make a cookie of what stands there. Imports nothing of the house.

The hash is cut to 40 hexadecimal digits, because the column of Django's table is that long. These 160 bits are enough:
the server makes the keys, 32 random characters (165 bits), so nobody can look for two keys of one hash, and to find a
key for a given hash takes about 2 to the power of 160 tries. For the same reason the hash needs neither salt nor
stretching.
"""

import hashlib
from typing import Any

from django.contrib.sessions.backends import db
from django.utils import timezone

LENGTH = 40


def stored_key(key: str | None) -> str:
    """The key of a session as the database has it; "" for none. `key` is a cookie's text, and may be any text."""
    return hashlib.sha256(key.encode(errors="surrogatepass")).hexdigest()[:LENGTH] if key else ""


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
