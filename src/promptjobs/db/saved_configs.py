"""Queries of configs that organisations have saved under names."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from promptjobs.db.columns import columns_of
from promptjobs.db.models import SavedConfig


@dataclass(frozen=True, slots=True)
class SavedRow:
    """config_body: JSON text without secrets."""

    name: str
    algorithm: str
    description: str | None
    config_body: str
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class NewConfig:
    """A config as it is stored. config_body: JSON text without secrets."""

    organisation: str
    name: str
    algorithm: str
    description: str | None
    config_body: str


COLUMNS = columns_of(SavedRow, SavedConfig)
KEY = (SavedConfig.organisation, SavedConfig.name)


async def create(connection: AsyncConnection, new: NewConfig) -> SavedRow | None:
    """None where the name is taken."""
    query = insert(SavedConfig).values(**_values(new)).on_conflict_do_nothing(index_elements=KEY)
    found = (await connection.execute(query.returning(*COLUMNS))).first()
    return None if found is None else SavedRow(*found)


async def put(connection: AsyncConnection, new: NewConfig) -> SavedRow:
    """Save the config, in place of an earlier one of that name."""
    query = insert(SavedConfig).values(**_values(new))
    given = query.excluded
    changes = {
        "algorithm": given.algorithm,
        "description": given.description,
        "config_body": given.config_body,
        "updated_at": func.clock_timestamp(),
    }
    query = query.on_conflict_do_update(index_elements=KEY, set_=changes)
    return SavedRow(*(await connection.execute(query.returning(*COLUMNS))).one())


def _values(new: NewConfig) -> dict[str, str | None]:
    return {
        "organisation": new.organisation,
        "name": new.name,
        "algorithm": new.algorithm,
        "description": new.description,
        "config_body": new.config_body,
    }


async def read(connection: AsyncConnection, organisation: str, name: str) -> SavedRow | None:
    query = select(*COLUMNS).where(SavedConfig.organisation == organisation, SavedConfig.name == name)
    found = (await connection.execute(query)).first()
    return None if found is None else SavedRow(*found)


async def read_page(connection: AsyncConnection, organisation: str, after: str | None, limit: int) -> list[SavedRow]:
    """By name; after: the name behind which the page starts, which need not exist."""
    query = select(*COLUMNS).where(SavedConfig.organisation == organisation).order_by(SavedConfig.name).limit(limit)
    if after is not None:
        query = query.where(SavedConfig.name > after)
    return [SavedRow(*row) for row in await connection.execute(query)]


async def remove(connection: AsyncConnection, organisation: str, name: str) -> bool:
    """Whether there was one."""
    query = delete(SavedConfig).where(SavedConfig.organisation == organisation, SavedConfig.name == name)
    return (await connection.execute(query.returning(SavedConfig.name))).first() is not None
