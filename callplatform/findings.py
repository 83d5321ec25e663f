"""What a check of the site finds, and checks that all come to an end. Imports nothing of the house."""

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Literal, NamedTuple

Level = Literal["ok", "warning", "error"]


class Finding(NamedTuple):
    """One line of the doctor: what was looked at, how it is, and in a sentence what to do."""

    what: str
    level: Level
    says: str


Check = Callable[[], Iterable[Finding]]


def found(checks: Mapping[str, Check], patience_s: float) -> Iterator[Finding]:
    """What the checks find, in their order. They run beside each other, and none for longer than `patience_s`: one that
    hangs is an error, and its thread is left behind."""
    answers: dict[str, queue.SimpleQueue[list[Finding]]] = {}
    for name, check in checks.items():
        answers[name] = queue.SimpleQueue()
        threading.Thread(target=_run, args=(name, check, answers[name]), name=f"doctor-{name}", daemon=True).start()
    end = time.monotonic() + patience_s
    for name, answer in answers.items():
        try:
            yield from answer.get(timeout=max(0.0, end - time.monotonic()))
        except queue.Empty:
            yield Finding(name, "error", f"no answer within {patience_s:g} s: what it asks is silent, or very slow.")


def _run(name: str, check: Check, answer: "queue.SimpleQueue[list[Finding]]") -> None:
    try:
        answer.put(list(check()))
    except Exception as error:  # a check that fails is a line as well, and hides no other
        answer.put([Finding(name, "error", f"it could not be looked at: {type(error).__name__}: {error}")])
