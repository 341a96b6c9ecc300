"""A connection to Postgres that breaks at the worst moment: after a statement, before its reply."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from promptjobs.db.session import Database
from tests.fakes.pump import pump


class Cutter:
    """Stands between the service and Postgres. The next reply with `cut_at` in it is lost, and so is its connection.

    The statement that it answers was carried out. lost: replies so far. The next one with `freeze_at` in it sets
    `frozen`, and is lost no sooner than `thawed` is set: until then the service seems to stand still.
    """

    def __init__(self, server: Path) -> None:
        self.server = server
        self.cut_at: bytes | None = None
        self.freeze_at: bytes | None = None
        self.frozen, self.thawed = asyncio.Event(), asyncio.Event()
        self.lost = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        their_reader, their_writer = await asyncio.open_unix_connection(self.server)
        sending = asyncio.create_task(pump(reader, their_writer))
        try:
            while data := await their_reader.read(2**16):
                if self.cut_at is not None and self.cut_at in data:
                    self.cut_at, self.lost = None, self.lost + 1
                    break
                if self.freeze_at is not None and self.freeze_at in data:
                    self.freeze_at = None
                    self.frozen.set()
                    await self.thawed.wait()
                    break
                writer.write(data)
                await writer.drain()
        finally:
            writer.close()
            their_writer.close()
            await sending


@asynccontextmanager
async def through_cutter(database: Database, directory: Path) -> AsyncIterator[tuple[Database, Cutter]]:
    """The same database, reached through a Cutter."""
    url = database.engine.url
    cutter = Cutter(Path(str(url.query["host"])) / ".s.PGSQL.5432")
    server = await asyncio.start_unix_server(cutter.serve, directory / ".s.PGSQL.5432")
    cut = Database.open(url.update_query_dict({"host": str(directory)}).render_as_string(False))
    try:
        yield cut, cutter
    finally:
        server.close()
        await server.wait_closed()
        await cut.close()
