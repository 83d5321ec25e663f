"""Looks again at the sign-ins behind this process's open sockets.

A sign-in is looked at when a device arrives. When it ends after that (a changed password, a session that was deleted or
ran out), it must not keep a socket, nor a call.
"""

import asyncio
import logging
import uuid
from collections.abc import Iterable
from typing import NamedTuple

from calls import pool, switchboard
from calls.hub import hub
from calls.logs import first_line
from devices import sessions

log = logging.getLogger(__name__)

LOOK_S = 60.0  # between two looks; a deactivated account does not wait for it, see the clock
CHUNK = 500  # sign-ins in one look at the database


class SignIn(NamedTuple):
    """Whose a socket is: the user's key, the stored key of the session, the device."""

    key: str
    session: str
    device: uuid.UUID


def ended(sign_ins: Iterable[SignIn]) -> list[SignIn]:
    """Those whose session is gone, or no longer fits the account."""
    asked = list(sign_ins)
    gone = sessions.ended((each.key, each.session) for each in asked)
    return [each for each in asked if (each.key, each.session) in gone]


def look(sign_ins: Iterable[SignIn]) -> None:
    """Signs out the devices of those that have ended."""
    for user, session in {(each.key, each.session) for each in ended(sign_ins)}:
        switchboard.end_sign_in(user, session)


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
