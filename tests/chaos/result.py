"""What a run comes to: written as JSON for tests, and as docs/reliability.md."""

import msgspec


class Outcome(msgspec.Struct):
    """What one fault came to, in all its tries. `found` counts violations by column, `sentences` say what they were."""

    name: str
    tries: int = 0
    calls: int = 0
    commands: int = 0
    skipped: str = ""
    recovery_s: list[float] = []
    found: dict[str, int] = {}
    sentences: list[str] = []
    unavailable: int = 0  # orders that were answered so
    repaired: int = 0  # views that devices learned by a ping
    given_up: int = 0  # connections on which a ping had no answer in time


class Result(msgspec.Struct):
    """`load` is the factor by which deadlines were stretched at the end. Times in seconds."""

    date: str
    seed: int
    postgres: str
    redis: str
    people: int
    devices: int
    took_s: float
    load: float
    outcomes: list[Outcome]

    @property
    def violations(self) -> int:
        return sum(sum(outcome.found.values()) for outcome in self.outcomes)
