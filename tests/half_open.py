"""A TCP proxy that can stop forwarding and keep its connections open, as a failover without a reset leaves them."""

import asyncio
from contextlib import suppress


class HalfOpen:
    """Forwards to a host and port. What is sent to it is acknowledged in any case, up to the size of a buffer."""

    def __init__(self, host: str, port: int) -> None:
        self.host, self.host_port = host, port
        self.port = 0
        self.forwarding: list[asyncio.Event] = []  # one for each connection
        self.new_ones_too = False
        self.tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> "HalfOpen":
        self.server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    def freeze(self, *, new_ones_too: bool) -> None:
        """Forwards nothing more on the connections there are; with `new_ones_too`, nor on those made from now on."""
        self.new_ones_too = new_ones_too
        for each in self.forwarding:
            each.clear()

    def heal(self) -> None:
        """Forwards everything again, what was held back included."""
        self.new_ones_too = False
        for each in self.forwarding:
            each.set()

    async def stop(self) -> None:
        self.server.close()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        forwarding = asyncio.Event()
        if not self.new_ones_too:
            forwarding.set()
        self.forwarding.append(forwarding)
        there = await asyncio.open_connection(self.host, self.host_port)
        for source, target in ((reader, there[1]), (there[0], writer)):
            task = asyncio.create_task(self._pump(forwarding, source, target))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    @staticmethod
    async def _pump(forwarding: asyncio.Event, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await source.read(65_536):
                await forwarding.wait()
                target.write(data)
                await target.drain()
        target.close()
