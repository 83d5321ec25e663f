"""Acts on deadlines, and runs the errands that come with them. Deadlines are columns, so any number of clocks may run,
and none is missed for good.

Each server process runs one beside its sockets; `manage.py clock` is one on its own. A clock only finds what is due:
what then happens is decided under the call's lock, by the same rules as everything else.

Silence counts only while devices could be heard, and the rule for that is: with every tick, the clock of each server
process whose sockets' heartbeats are being stored leaves a mark in the database (models.Hearing). When the last mark is
older than a tick and BLIND_S, no heartbeat could be stored meanwhile, whether the database was frozen, could not write,
or was away, or all servers were; then silence counts from the next look. Devices that are connected have written their
heartbeats long before that silence is long enough to matter. A clock beside no sockets leaves no mark, and one that has
just begun counts silence from its first look.

Every time that a clock compares is the database's: those of the rows, and the one as of which it decides, which the
database says when it looks. So the clocks of the machines do not matter, and a tick that is delayed on its way (by a
frozen database, or a suspended machine) decides what was right when it looked.
"""

import asyncio
import datetime as dt
import logging
import time
from collections.abc import Callable

from django.utils import timezone

from calls import conf, events, metrics, pool, switchboard, tokens
from calls.after import refusals
from calls.api import door
from calls.desk import desk
from calls.hot import Watch
from calls.logs import Trouble
from calls.switchboard import Perform
from devices import times

log = logging.getLogger(__name__)
late = Trouble(log, "the clock cannot tick")
unrun = Trouble(log, "an errand waits")
skewed = Trouble(log, "not ready")

BATCH = 200  # due calls, and silent legs, taken in one tick
BLIND_S = 5.0  # beyond the time between two ticks; a longer gap between two marks means that nobody could be heard
BREATH_S = 0.05  # between two ticks when the first left something
ERRAND_S = 3.0  # between two errands of a kind: sockets of a deactivated account close within 5 s
SWEPT = 500  # devices whose sign-in one errand looks at: 100,000 of them take ten minutes
ENDING_S = 0.25  # for which one errand signs devices out: it must not hold up the deadlines
FORGET_S = 60.0  # for what is kept for minutes anyway
AHEAD_S = 2.0  # a machine whose clock is further off than this from the database's is not ready


class Last:
    """When a clock of this process last ticked, by time.monotonic()."""

    tick: float | None = None


last = Last()


class Clock:
    """One clock's memory: when it began to look, by the database's clock. With `serves` it stands beside sockets."""

    def __init__(self, serves: bool = True) -> None:
        self.serves = serves
        self.began: dt.datetime | None = None
        self.ticked = time.monotonic()

    def tick(self) -> bool:
        """Acts on what is due now; whether there may be more than it has taken."""
        gap_s = conf.get("CLOCK_S") + BLIND_S
        asked = timezone.now()
        found = switchboard.due(Watch(BATCH, gap_s, self.serves and not desk.is_deaf, self.began))
        times.compare(asked, found.at, timezone.now())
        self.began = self.began or found.at
        acted = [_act(found.due, found.at), _act(found.silent, found.at)]
        now = time.monotonic()
        metrics.CLOCK_LAG_S.set(max(0.0, now - self.ticked - conf.get("CLOCK_S")))
        metrics.TICKED.set_to_current_time()
        metrics.AHEAD_S.set(times.ahead_s())
        self.ticked = last.tick = now
        return any(did and len(orders) == BATCH for did, orders in zip(acted, (found.due, found.silent), strict=True))


def _act(orders: list[Perform], now: dt.datetime) -> bool:
    """Whether anything was done. What others hold is left to them. A batch that fails is tried call by call: one that
    cannot be decided must not hold up the others."""
    try:
        return any(switchboard.settle(orders, wait=False, now=now)) if orders else False
    except pool.AWAY:
        raise
    except Exception:
        done = False
        for order in orders:
            try:
                done |= any(switchboard.settle([order], wait=False, now=now))
            except Exception:
                log.exception("a deadline of call %s could not be acted on", order.call)
        return done


def skew() -> str | None:
    """In a sentence, that this machine's clock is too far from the database's; None when it is not.

    Calls do not go by it, but sessions, the passwords of TURN and the log do.
    """
    ahead_s = times.ahead_s()
    if abs(ahead_s) <= AHEAD_S:
        return None
    side = "ahead of" if ahead_s > 0 else "behind"
    return f"this machine's clock is {abs(ahead_s):.1f} s {side} the database's; set both by NTP"


async def run(serves: bool = True) -> None:
    """Ticks until cancelled, in a thread of its own. A tick that fails is tried again."""
    clock, thread = Clock(serves), pool.Apart("calls-clock")
    try:
        while True:
            more = False
            try:
                more = await thread.run(clock.tick)
                late.over()
            except pool.AWAY as error:
                late.met(error)
            except Exception:
                log.exception("the clock could not tick")
            sentence = skew()
            if sentence:
                skewed.met(sentence)
            else:
                skewed.over()
            await asyncio.sleep(BREATH_S if more else conf.get("CLOCK_S"))
    finally:
        thread.close()


class Errands:
    """What has to be done now and then, each by itself, and each within bounds."""

    def __init__(self) -> None:
        self.looked = times.now()
        self.every: dict[Callable[[], bool | None], float] = {
            refusals.write: 1.0,
            door.forget: FORGET_S,
            tokens.forget: FORGET_S,
            events.forget: FORGET_S,
            switchboard.sign_out_deactivated: ERRAND_S,
            self._end_sign_ins: ERRAND_S,
            self._tell_expired: ERRAND_S,
            self._forget_spent: FORGET_S,
        }
        self.swept = ""  # the session up to which the sign-ins were looked at
        self.turns = dict.fromkeys(self.every, 0.0)  # by time.monotonic()

    def due(self) -> list[Callable[[], bool | None]]:
        """Those whose turn has come, the longest overdue first."""
        now = time.monotonic()
        return [errand for errand in sorted(self.turns, key=self.turns.__getitem__) if self.turns[errand] <= now]

    def run(self, errand: Callable[[], bool | None]) -> None:
        """Runs one; when it leaves something, its next turn comes at once."""
        self.turns[errand] = time.monotonic() + self.every[errand]
        if errand():
            self.turns[errand] = 0.0

    @staticmethod
    def _forget_spent() -> bool:
        return switchboard.forget_spent(times.now())

    def _end_sign_ins(self) -> None:
        """Signs out devices whose sign-in has ended without a word: nobody may have a page of them open."""
        before = self.swept
        found, self.swept = switchboard.ended_sign_ins(self.swept, SWEPT)
        began = time.monotonic()
        for user, session in found:
            if time.monotonic() - began > ENDING_S:
                self.swept = before
                break
            try:
                switchboard.end_sign_in(user, session)
            except pool.AWAY:
                raise
            except Exception:
                log.exception("a sign-in that has ended could not be signed out")

    def _tell_expired(self) -> None:
        now = times.now()
        switchboard.tell_expired(self.looked, now)
        self.looked = now


async def run_errands() -> None:
    """Runs errands until cancelled, in a thread of its own: no deadline waits for one. One that fails is tried again in
    its next turn, and holds up no other."""
    errands, thread = Errands(), pool.Apart("calls-errands")
    try:
        while True:
            for errand in errands.due():
                try:
                    await thread.run(errands.run, errand)
                    unrun.over()
                except pool.AWAY as error:
                    unrun.met(error)
                except Exception:
                    log.exception("an errand failed")
            await asyncio.sleep(min(1.0, conf.get("CLOCK_S")))
    finally:
        thread.close()
