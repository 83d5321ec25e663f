"""`manage.py clock`: one clock on its own, for sites whose server processes are short of time. Any number may run."""

import asyncio
from typing import Any

from django.core.management.base import BaseCommand

from calls import clock
from calls.hub import hub


class Command(BaseCommand):
    help = "Acts on calls' deadlines until stopped. Server processes do the same beside their sockets."

    def handle(self, *args: Any, **options: Any) -> None:
        self.stdout.write("The clock runs. Stop it with Ctrl-C.")
        self.stdout.flush()
        try:
            asyncio.run(self._run())
        except KeyboardInterrupt:
            self.stdout.write("The clock has stopped.")

    async def _run(self) -> None:
        await hub.start()
        await asyncio.gather(clock.run(serves=False), clock.run_errands())
