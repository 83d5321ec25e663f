"""Acts on deadlines. They are columns, so any number of clocks may run, and none is missed for good.

Each server process runs one beside its sockets; `manage.py clock` is one on its own. A clock only finds what is due:
what then happens is decided under the call's lock, by the same rules as everything else.
"""

import asyncio
import logging
import time

from django.utils import timezone

from calls import conf, metrics, pool, switchboard
from calls.after import refusals
from calls.switchboard import Perform

log = logging.getLogger(__name__)

BATCH = 200  # due calls taken in one tick
ERRAND_S = 3.0  # between two errands of a kind: sockets of a deactivated account close within 5 s
FORGET_S = 60.0  # for what is kept for minutes anyway
BLIND_S = 5.0  # a gap between ticks after which silence is counted anew: nobody could be heard meanwhile


class Last:
    """When a clock of this process last ticked, by time.monotonic()."""

    tick: float | None = None


last = Last()


class Clock:
    """One clock's memory: since when it has watched without a gap, and what errands it has."""

    def __init__(self) -> None:
        self.watching_since = self.looked = self.at = timezone.now()
        self.ticked = time.monotonic()
        self.every = {
            switchboard.sign_out_deactivated: ERRAND_S,
            self._tell_expired: ERRAND_S,
            self._forget_spent: FORGET_S,
        }
        self.turns = dict.fromkeys(self.every, 0.0)  # by time.monotonic()

    def tick(self) -> None:
        """Everything that is due now."""
        now = timezone.now()
        # By either clock: time.monotonic() stands still while a machine is suspended, and the time of day may be set.
        gap = max(time.monotonic() - self.ticked, abs((now - self.at).total_seconds()))
        if gap > conf.get("CLOCK_S") + BLIND_S:
            self.watching_since = now
        due, silent = switchboard.due(now, self.watching_since, BATCH)
        _act(due)
        _act(silent)
        refusals.write()
        self._run_errand()
        metrics.CLOCK_LAG_S.set(max(0.0, time.monotonic() - self.ticked - conf.get("CLOCK_S")))
        metrics.TICKED.set_to_current_time()
        self.ticked, self.at = time.monotonic(), timezone.now()
        last.tick = self.ticked

    def _run_errand(self) -> None:
        """One in a tick: all at once would hold up the sockets of a busy process for longer than a call takes."""
        errand, now = min(self.turns, key=self.turns.__getitem__), time.monotonic()
        if self.turns[errand] <= now:
            self.turns[errand] = now + self.every[errand]
            errand()

    @staticmethod
    def _forget_spent() -> None:
        switchboard.forget_spent(timezone.now())

    def _tell_expired(self) -> None:
        now = timezone.now()
        switchboard.tell_expired(self.looked, now)
        self.looked = now


def _act(orders: list[Perform]) -> None:
    """What others hold is left to them. A batch that fails is tried call by call: one that cannot be decided must not
    hold up the others."""
    for start in range(0, len(orders), BATCH):
        batch = orders[start : start + BATCH]
        try:
            switchboard.settle(batch, wait=False)
        except pool.AWAY:
            raise
        except Exception:
            for order in batch:
                try:
                    switchboard.settle([order], wait=False)
                except Exception:
                    log.exception("a deadline of call %s could not be acted on", order.call)


async def run() -> None:
    """Ticks until cancelled. A tick that fails is tried again."""
    clock = Clock()
    while True:
        try:
            await pool.run(clock.tick)
        except pool.AWAY as error:
            log.warning("the clock could not tick: %s", str(error).strip().partition("\n")[0])
        except Exception:
            log.exception("the clock could not tick")
        await asyncio.sleep(conf.get("CLOCK_S"))
