"""What a line of the log is about: keys of user, device and call, never names or what people said."""

import logging
from contextvars import ContextVar

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
