"""STUN and TURN servers for a client, with short-lived credentials.

The credential is coturn's REST scheme (`use-auth-secret`): the username is `expiry:user`, the password its HMAC-SHA1.
"""

import base64
import hashlib
import hmac
import time
from typing import Any

from calls import conf


def servers(username: str) -> list[dict[str, Any]]:
    """The `iceServers` of one user, good for TURN_TTL_S seconds."""
    found: list[dict[str, Any]] = []
    if conf.get("STUN_URLS"):
        found.append({"urls": conf.get("STUN_URLS")})
    if conf.get("TURN_URLS"):
        name = f"{int(time.time() + conf.get('TURN_TTL_S'))}:{username}"
        digest = hmac.new(conf.get("TURN_SECRET").encode(), name.encode(), hashlib.sha1).digest()
        credential = base64.b64encode(digest).decode()
        found.append({"urls": conf.get("TURN_URLS"), "username": name, "credential": credential})
    return found
