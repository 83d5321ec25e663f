"""System checks: combinations of settings that would lose calls or let strangers in, refused before the first socket.

Single values are refused when settings.py reads them; here is what is wrong only together. Errors stop every command.
"""

from collections.abc import Iterator
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning, register

GENERATED_KEY_PREFIXES = (settings.GENERATED_KEY_PREFIX, "django-insecure-")
SAMPLES = ("long-random-text-of-your-own", "a-long-random-secret")  # what the README shows
SHORTEST_KEY, FEWEST_CHARACTERS = 50, 8  # 50 random decimal digits have all ten of them, or nearly
MAKE_KEY = 'Make your own: python3 -c "import secrets; print(secrets.token_urlsafe(48))"'


@register
def processes(**_kwargs: Any) -> Iterator[CheckMessage]:
    """What several server processes share must be shared in truth."""
    in_memory = settings.CHANNEL_LAYERS["default"]["BACKEND"].endswith(".InMemoryChannelLayer")
    if in_memory and settings.PROCESSES > 1:
        yield Error(
            "REDIS_URL is not set, but PROCESSES is above 1: devices on different processes would not hear each other.",
            hint="Set REDIS_URL, or PROCESSES=1.",
            id="callplatform.E001",
        )
    elif in_memory and not settings.DEBUG:
        yield Warning(
            "REDIS_URL is not set: only one server process may run, and `manage.py clock` and other commands "
            "cannot tell devices what they did.",
            hint="Set REDIS_URL.",
            id="callplatform.W001",
        )
    if is_sqlite() and settings.PROCESSES > 1:
        yield Error(
            "DATABASE_URL is SQLite, but PROCESSES is above 1: it has no row locks to share between processes.",
            hint="Use PostgreSQL, or PROCESSES=1.",
            id="callplatform.E002",
        )


@register
def database(**_kwargs: Any) -> Iterator[CheckMessage]:
    """A call is decided by one short transaction that holds the call's lock from its first read."""
    config = settings.DATABASES["default"]
    mode = str(config.get("OPTIONS", {}).get("transaction_mode", "")).upper()
    if is_sqlite() and mode not in ("IMMEDIATE", "EXCLUSIVE"):
        yield Error(
            "SQLite's transaction_mode is not IMMEDIATE: two answers at once could both read before either writes.",
            hint="Take transaction_mode out of DATABASE_URL.",
            id="callplatform.E003",
        )
    if config.get("ATOMIC_REQUESTS"):
        yield Error(
            "ATOMIC_REQUESTS is on: a call's own transaction would not be committed when the devices are told of it.",
            hint="Take ATOMIC_REQUESTS out of DATABASE_URL.",
            id="callplatform.E005",
        )


@register
def strangers(**_kwargs: Any) -> Iterator[CheckMessage]:
    """What is convenient in debug, and an open door outside."""
    if settings.DEBUG:
        return
    if settings.SECRET_KEY.startswith(GENERATED_KEY_PREFIXES):
        yield Error(
            "SECRET_KEY is one that was generated for debug.",
            hint=MAKE_KEY,
            id="callplatform.E004",
        )
    elif (
        len(settings.SECRET_KEY) < SHORTEST_KEY
        or len(set(settings.SECRET_KEY)) < FEWEST_CHARACTERS
        or any(sample in settings.SECRET_KEY for sample in SAMPLES)
    ):
        yield Error(
            f"SECRET_KEY can be guessed: it has fewer than {SHORTEST_KEY} characters, or fewer than "
            f"{FEWEST_CHARACTERS} different ones, or is the sample of a document. Whoever guesses it can sign in as "
            "anybody.",
            hint=MAKE_KEY,
            id="callplatform.E008",
        )
    if settings.CALLS["TURN_SECRET"] in SAMPLES:
        yield Error(
            "TURN_SECRET is the sample of a document: whoever has read it can relay through your TURN server.",
            hint="Set the secret that you gave to the TURN server, after you have made your own.",
            id="callplatform.E009",
        )
    if "*" in settings.ALLOWED_HOSTS:
        yield Error(
            "ALLOWED_HOSTS has a '*': every page on the web could open sockets with your users' sessions.",
            hint="Name the hosts.",
            id="callplatform.E006",
        )
    elif not settings.ALLOWED_HOSTS:
        yield Warning(
            "ALLOWED_HOSTS is empty: every request will be answered with 400.",
            hint="Name the hosts.",
            id="callplatform.W002",
        )


@register
def deadlines(**_kwargs: Any) -> Iterator[CheckMessage]:
    """A device must be heard before it counts as silent, and be silent before it is lost."""
    s = settings.CALLS
    for lower, upper, strict, why in (
        ("PING_CALL_S", "DEVICE_SILENT_S", True, "every device in a call would be shown as offline between two pings"),
        ("PING_CALL_S", "CALLER_SILENT_S", True, "every call would be cancelled between two pings of the caller"),
        ("DEVICE_SILENT_S", "LEG_LOST_S", False, "a device would lose its call before it is shown as offline"),
    ):
        if s[lower] > s[upper] or (strict and s[lower] == s[upper]):
            relation = "below" if strict else "at most"
            yield Error(
                f"{lower} is {s[lower]:g}, and must be {relation} {upper}, which is {s[upper]:g}: else {why}.",
                id="callplatform.E007",
            )
    if s["PING_CALL_S"] + s["PONG_S"] >= s["LEG_LOST_S"]:
        yield Warning(
            f"PING_CALL_S and PONG_S are {s['PING_CALL_S'] + s['PONG_S']:g} together, and LEG_LOST_S is "
            f"{s['LEG_LOST_S']:g}: a device would notice a dead socket only after its call is lost.",
            id="callplatform.W003",
        )


def is_sqlite() -> bool:
    return bool(settings.DATABASES["default"]["ENGINE"] == "django.db.backends.sqlite3")
