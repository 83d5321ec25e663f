"""What a site may set about calls: `settings.CALLS`, with the protocol's defaults for whatever it leaves out."""

from functools import cache
from typing import Any

from django.conf import settings
from django.core.signals import setting_changed

from calls.machine import Deadlines

SLACK_S = 5.0  # for a ping on its way

DEFAULTS: dict[str, Any] = {
    "RING_S": 45,
    "RING_GRACE_S": 2,
    "CALLER_SILENT_S": 20,
    "DEVICE_SILENT_S": 10,
    "LEG_LOST_S": 45,
    "LONGEST_CALL_S": 8 * 3600,
    "PING_S": 20,
    "PING_CALL_S": 5,
    "PONG_S": 10,
    "HELLO_S": 10,
    "MAX_INCOMING": 1,
    "MAX_OUTGOING": 1,
    "MAX_LEGS": 9,
    "MESH_VIDEO": 4,
    "END_WITH_HOST": False,
    "ALONE_S": 60,
    "HELD_ALONE_S": 600,
    "FRAME_RATE": 200,
    "FRAME_BURST": 1000,
    "CLOCK_S": 1,
    "DB_THREADS": 8,
    "PROXIES": 0,
    "METRICS_TOKEN": "",
    "TOKEN_SECRET": "",
    "JWT_ISSUER": "",
    "JWT_AUDIENCE": "",
    "JWT_SECRET": "",
    "JWT_JWKS_URL": "",
    "JWT_CLAIM": "sub",
    "JWT_CREATE": False,
    "WEBHOOK_NETWORKS": [],
    "API_RATE": 50,
    "API_BURST": 200,
    "KEEP_DAYS": 0,
    "STUN_URLS": [],
    "TURN_URLS": [],
    "TURN_SECRET": "",
    "TURN_TTL_S": 3600,
    "PUSH_KEY": "",
    "PUSH_CONTACT": "",
    "PUSH_HOSTS": [
        "fcm.googleapis.com",
        "jmt17.google.com",
        ".push.services.mozilla.com",
        ".notify.windows.com",
        "web.push.apple.com",
    ],
}


@cache
def get(name: str) -> Any:
    """One setting; seconds are numbers, rates are frames per second."""
    return getattr(settings, "CALLS", {}).get(name, DEFAULTS[name])


@cache
def deadlines() -> Deadlines:
    """The deadlines that `machine.decide` acts on."""
    return Deadlines(
        ring_grace=get("RING_GRACE_S"),
        caller_silent=get("CALLER_SILENT_S"),
        device_silent=get("DEVICE_SILENT_S"),
        leg_lost=get("LEG_LOST_S"),
        longest_call=get("LONGEST_CALL_S"),
        alone=get("ALONE_S"),
        held_alone=get("HELD_ALONE_S"),
    )


@cache
def stays_s() -> float:
    """How long a device that was heard from counts as online, in seconds."""
    return float(get("PING_S") + get("PONG_S") + SLACK_S)


def _forget(*, setting: str, **_: object) -> None:
    if setting == "CALLS":
        get.cache_clear()
        deadlines.cache_clear()
        stays_s.cache_clear()


setting_changed.connect(_forget)  # sent by override_settings only
