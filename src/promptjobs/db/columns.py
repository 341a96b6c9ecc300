"""What queries of many tables have in common: the columns of a record, and where a page of a list begins."""

from dataclasses import MISSING, fields
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, select
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import InstrumentedAttribute

from promptjobs.errors import InvalidRequest


def columns_of(record: type[Any], table: type[Any]) -> tuple[InstrumentedAttribute[Any], ...]:
    """The columns that a dataclass is made of, in the order of its fields, whose names they have.

    Fields with a default are left out: they are asked for apart, if at all.
    """
    return tuple(getattr(table, field.name) for field in fields(record) if field.default is MISSING)


async def created_at_of(
    connection: AsyncConnection, table: type[Any], item_id: str, noun: str, *ours: ColumnElement[bool]
) -> datetime:
    """When the item behind which a page starts was created. ours: what items of the list have in common.

    Raises InvalidRequest where the list has no such item.
    """
    query = select(table.created_at).where(table.id == item_id, *ours)
    found: datetime | None = (await connection.execute(query)).scalar_one_or_none()
    if found is None:
        raise InvalidRequest(f"there is no {noun} {item_id!r}", "after")
    return found
