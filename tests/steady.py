"""A PostgreSQL and a Redis that can be stopped and started again on the port that they had."""

import signal

from scripts import services


class Steady:
    """Keeps the first port that it is given."""

    _port = 0

    @property
    def port(self) -> int:
        return self._port

    @port.setter
    def port(self, number: int) -> None:
        self._port = self._port or number


class SteadyRedis(Steady, services.Redis):
    pass


class SteadyPostgres(Steady, services.Postgres):
    def stop(self, number: int = signal.SIGINT) -> None:
        """As an operator restarts it: what was committed is on disk."""
        services.Server.stop(self, number)
