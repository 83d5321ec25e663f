"""A system check of the setting without which devices cannot know their sign-in."""

from collections.abc import Iterator
from importlib import import_module
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, register

from devices import sessions


@register
def session_engine(**_kwargs: Any) -> Iterator[CheckMessage]:
    """A device keeps the hash of its session's key, and to sign it out deletes the session with this hash."""
    store = getattr(import_module(settings.SESSION_ENGINE), "SessionStore", object)
    if not issubclass(store, sessions.SessionStore):
        yield Error(
            f"SESSION_ENGINE is {settings.SESSION_ENGINE!r}: with it, signing out a device would leave its session, "
            "and the keys of sessions would be stored in clear.",
            hint='Set SESSION_ENGINE = "devices.sessions", or an engine whose SessionStore inherits from that one. '
            "Set it before `manage.py migrate`, which then hashes the keys of the sessions that there are.",
            id="devices.E001",
        )
