"""Statements of hot paths: built and compiled once, and carried out by the driver.

Of a small read, what SQLAlchemy does around the driver takes eight times as long as the driver itself
(docs/benchmarks.md, "The API").
"""

from typing import Any

import asyncpg
from sqlalchemy import ClauseElement
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.ext.asyncio import AsyncConnection

from promptjobs.db.transactions import driver_of


class Statement:
    """A statement whose values are all of types that the driver knows: no enums, no JSON but as text."""

    def __init__(self, query: ClauseElement) -> None:
        """query: with a named `bindparam` for each value that is given later."""
        dialect = PGDialect_asyncpg()  # type: ignore[no-untyped-call]
        compiled: Any = query.compile(dialect=dialect)
        self.sql = str(compiled)
        self._names: tuple[str, ...] = tuple(compiled.positiontup or ())
        self._known: dict[str, Any] = {name: value for name, value in compiled.params.items() if value is not None}

    async def rows(self, connection: AsyncConnection, **values: Any) -> list[asyncpg.Record]:
        """values: by the names of the `bindparam`s, every one of them."""
        found: list[asyncpg.Record] = await (await driver_of(connection)).fetch(self.sql, *self._arguments(values))
        return found

    async def row(self, connection: AsyncConnection, **values: Any) -> asyncpg.Record | None:
        """The first one."""
        return await (await driver_of(connection)).fetchrow(self.sql, *self._arguments(values))

    def _arguments(self, values: dict[str, Any]) -> list[Any]:
        given = {**self._known, **values}
        return [given[name] for name in self._names]
