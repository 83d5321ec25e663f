"""How often each user may change what is the user's own: the line, the names of devices, the history.

Each such change writes a row and tells all of the user's devices, but none of them adds a row. So the allowance is kept
in memory, for each process by itself: it bounds the work that one user can cause, and need not be exact. What a leg of
a call may change is counted in its row instead (machine.py).
"""

import math
import threading
import time
from typing import Any

from calls.machine import Refused

AT_ONCE = 60  # far more than a person changes by hand
EACH_S = 1.0  # until one more change is allowed
KEPT = 10_000  # users remembered before those whose allowance is whole again are forgotten


class Allowance:
    """By the generic cell rate algorithm, as in machine.py; by time.monotonic(), in seconds."""

    def __init__(self) -> None:
        self.spent_until: dict[str, float] = {}
        self.lock = threading.Lock()

    def spend(self, key: Any) -> None:
        """One change of this user. Raises Refused as `rate_limited` when there have been too many."""
        now = time.monotonic()
        with self.lock:
            spent_until = max(now, self.spent_until.get(str(key), now)) + EACH_S
            wait = spent_until - now - AT_ONCE * EACH_S
            if wait > 0:
                raise Refused("rate_limited", retry_ms=math.ceil(wait * 1000))
            if len(self.spent_until) >= KEPT:
                self.spent_until = {user: until for user, until in self.spent_until.items() if until > now}
            self.spent_until[str(key)] = spent_until


own_changes = Allowance()
