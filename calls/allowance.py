"""How often something may be done: changes that users make of what is theirs, and requests of API keys.

The allowance is kept in memory, for each process by itself: it bounds the work that one user or key can cause, and need
not be exact. What a leg of a call may change is counted in its row instead (machine.py).
"""

import math
import threading
import time
from typing import Any, NamedTuple

from calls.machine import Refused

AT_ONCE = 60  # far more than a person changes by hand
EACH_S = 1.0  # until one more change is allowed
KEPT = 10_000  # users remembered before those whose allowance is whole again are forgotten


class Left(NamedTuple):
    """What there is of an allowance: how many at once, how many of them are left, and seconds until it is whole."""

    at_once: int
    remaining: int
    whole_s: float


class Allowance:
    """By the generic cell rate algorithm, as in machine.py; by time.monotonic(), in seconds."""

    def __init__(self, at_once: int = AT_ONCE, each_s: float = EACH_S) -> None:
        self.at_once, self.each_s = at_once, each_s
        self.spent_until: dict[str, float] = {}
        self.lock = threading.Lock()

    def spend(self, key: Any) -> Left:
        """One of this user's. Raises Refused as `rate_limited` when there have been too many."""
        now = time.monotonic()
        with self.lock:
            spent_until = max(now, self.spent_until.get(str(key), now)) + self.each_s
            wait = spent_until - now - self.at_once * self.each_s
            if wait > 0:
                raise Refused("rate_limited", retry_ms=math.ceil(wait * 1000))
            if len(self.spent_until) >= KEPT:
                self.spent_until = {user: until for user, until in self.spent_until.items() if until > now}
            self.spent_until[str(key)] = spent_until
        return Left(self.at_once, max(0, round(-wait / self.each_s)), spent_until - now)

    def check(self, key: Any) -> None:
        """Raises the same when nothing is left, and spends nothing."""
        now = time.monotonic()
        wait = self.spent_until.get(str(key), now) + self.each_s - now - self.at_once * self.each_s
        if wait > 0:
            raise Refused("rate_limited", retry_ms=math.ceil(wait * 1000))


own_changes = Allowance()
