"""A proxy on this machine whose connections break after so many bytes of an answer."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from tests.fakes.pump import pump


@dataclass
class CutConnections:
    """limits: how many bytes each connection lets back, one after the other; those behind the last have no limit.

    url: where the service seems to be. cut: so many connections were broken so far.
    """

    service_url: str
    limits: Iterator[int]
    url: str = ""
    cut: int = field(default=0, init=False)
    _open: dict[asyncio.Task[None], tuple[asyncio.StreamWriter, ...]] = field(default_factory=dict, init=False)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        limit = next(self.limits, None)
        parts = urlsplit(self.service_url)
        their_reader, their_writer = await asyncio.open_connection(parts.hostname, parts.port)
        own_task = asyncio.current_task()
        assert own_task is not None
        self._open[own_task] = (writer, their_writer)
        sending = asyncio.create_task(pump(reader, their_writer))
        try:
            while data := await their_reader.read(2**16):
                if limit is not None and len(data) >= limit:
                    writer.write(data[:limit])
                    await writer.drain()
                    self.cut += 1
                    break
                limit = None if limit is None else limit - len(data)
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()
            their_writer.close()
            await sending
            del self._open[own_task]

    async def end(self) -> None:
        """Close what is open: the connections then end by themselves."""
        tasks = list(self._open)
        for writer in [each for pair in self._open.values() for each in pair]:
            writer.close()
        await asyncio.gather(*tasks)


@asynccontextmanager
async def cutting(service_url: str, limits: Iterator[int]) -> AsyncIterator[CutConnections]:
    proxy = CutConnections(service_url, limits)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield proxy
    finally:
        server.close()
        await proxy.end()
        await server.wait_closed()
