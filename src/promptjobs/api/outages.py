"""Reads of the database for those who must not be told of an outage, since they would take it for an end."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection

from promptjobs.db.session import Database
from promptjobs.db.transactions import reading
from promptjobs.errors import DatabaseUnavailable

Found = TypeVar("Found")


async def read_at_last(
    database: Database, pause_seconds: float, query: Callable[[AsyncConnection], Awaitable[Found]]
) -> Found:
    """What the query finds; it is asked again after a pause for as long as the database cannot be reached."""
    while True:
        with contextlib.suppress(DatabaseUnavailable):
            async with reading(database) as connection:
                return await query(connection)
        await asyncio.sleep(pause_seconds)
