"""What a line of the log is about: keys of user, device and call, never names or what people said. And how often
something is said that happens again and again."""

import logging
import threading
import time
from contextvars import ContextVar

REPEAT_S = 60.0  # between two lines about the same trouble

_about: ContextVar[dict[str, object] | None] = ContextVar("about", default=None)


def about(**keys: object) -> None:
    """From here on, lines of this task are about these; what is not named again stays as it was."""
    _about.set((_about.get() or {}) | keys)


class Context(logging.Filter):
    """Puts the keys onto every line."""

    def filter(self, record: logging.LogRecord) -> bool:
        for name, key in (_about.get() or {}).items():
            setattr(record, name, str(key))
        return True


def first_line(error: object) -> str:
    """What an error says, without the hints and positions that a database adds."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


class Trouble:
    """A fault outside this process, such as a database that is away, that each of many attempts meets.

    It is logged as one sentence when it begins, and once a minute while it lasts. May be used from any thread.
    """

    def __init__(self, log: logging.Logger, what: str) -> None:
        self.log, self.what = log, what
        self.lock = threading.Lock()
        self.said_at: float | None = None
        self.unsaid = 0

    def met(self, error: object) -> None:
        """An attempt failed; of the error, or the reason in words, the first line is logged."""
        with self.lock:
            now = time.monotonic()
            if self.said_at is not None and now - self.said_at < REPEAT_S:
                self.unsaid += 1
                return
            more = f" ({self.unsaid} times more since the last line about it)" if self.unsaid else ""
            self.said_at, self.unsaid = now, 0
        self.log.warning("%s: %s%s", self.what, first_line(error), more)

    def over(self) -> None:
        """An attempt succeeded: the next failure is a new trouble."""
        if self.said_at is None:
            return
        with self.lock:
            self.said_at, self.unsaid = None, 0
        self.log.info("%s: no longer", self.what)
