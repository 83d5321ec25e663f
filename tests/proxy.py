"""A TCP proxy whose connections can be made to fail in the ways in which networks do."""

import asyncio
import socket
import struct
from contextlib import suppress
from typing import Any

RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER with no time: the close is sent as a reset


class Link:
    """One connection through the proxy: a client, and the server behind it."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter | None) -> None:
        self.client, self.server = client, server
        self.frozen = False

    def reset(self) -> None:
        """Both ends see a connection that was reset, not one that was closed."""
        for writer in (self.client, self.server):
            if writer is not None:
                reset(writer)


class Proxy:
    """Forwards connections to a port. Must be used in one event loop."""

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self.target, self.port = (host, port), 0
        self.delay_s = 0.0  # added to each piece of data, in each direction
        self.frozen = False
        self.hard = False  # a server that ends a connection is passed on as a reset, at once behind its last bytes
        self.links: set[Link] = set()
        self.tasks: set[asyncio.Task[None]] = set()
        self.listener: asyncio.Server | None = None

    async def open(self) -> None:
        """Listens, on the port that it had before if it listened already."""
        if self.listener is None:
            self.listener = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
            self.port = self.listener.sockets[0].getsockname()[1]

    async def close(self) -> None:
        self.refuse()
        for task in list(self.tasks):
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    def refuse(self) -> None:
        """New connections are refused, and the open ones are reset, until `open`."""
        if self.listener is not None:
            self.listener.close()
            self.listener = None
        self.reset()

    def reset(self) -> None:
        """Resets all connections; new ones are served."""
        for link in list(self.links):
            link.reset()

    def freeze(self, *, new_ones_too: bool = True, gone: bool = False) -> None:
        """Makes the open connections half-open for good, and with `new_ones_too` those that are made before `thaw`:
        every byte of a client is acknowledged, and nothing is forwarded. The server behind sees silent connections; if
        it is `gone`, as when it has moved to another machine, its ends are reset."""
        self.frozen = new_ones_too
        for link in self.links:
            link.frozen = True
            if gone and link.server is not None:
                reset(link.server)

    def thaw(self) -> None:
        """New connections are forwarded again; those that were frozen stay silent."""
        self.frozen = False

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task: Any = asyncio.current_task()
        self.tasks.add(task)
        link = Link(writer, None)
        link.frozen = self.frozen
        self.links.add(link)
        try:
            if link.frozen:
                await self._swallow(reader)
                return
            try:
                back, link.server = await asyncio.open_connection(*self.target)
            except OSError:
                reset(writer)
                return
            answers = asyncio.create_task(self._pump(link, back, writer))
            try:
                await self._pump(link, reader, link.server)
                if link.frozen:
                    await self._swallow(reader)
                await answers
            finally:
                answers.cancel()
        except asyncio.CancelledError:
            pass  # by `close`; a task of asyncio's own streams may not end as cancelled
        finally:
            self.links.discard(link)
            self.tasks.discard(task)
            for end in (writer, link.server):
                if end is not None:
                    end.close()

    async def _pump(self, link: Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forwards one direction until its end, and passes on how it ended: a close as a close, a reset as a reset."""
        try:
            while data := await reader.read(64 * 1024):
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                if link.frozen:
                    return
                writer.write(data)
                if writer is link.client and self.hard and (reader.at_eof() or reader.exception()):
                    link.reset()
                    return
                await writer.drain()
        except OSError:
            if not link.frozen:
                link.reset()
        else:
            if link.frozen:
                return
            if writer is link.client and self.hard:
                link.reset()
            with suppress(OSError):
                writer.write_eof()

    @staticmethod
    async def _swallow(reader: asyncio.StreamReader) -> None:
        with suppress(OSError):
            while await reader.read(64 * 1024):
                pass


def reset(writer: asyncio.StreamWriter) -> None:
    """Ends the connection so that its other end sees a reset."""
    raw: Any = writer.get_extra_info("socket")
    if raw is not None:
        with suppress(OSError):
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    writer.transport.abort()
