"""The secrets that organisations have left with us, and the task-app keys of jobs: sealed before they are stored."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

import asyncpg
from pydantic import SecretStr
from sqlalchemy import delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from promptjobs.db.models import SecretRow
from promptjobs.db.transactions import driver_of
from promptjobs.db.vault import VERSION, Vault


class SecretKind(StrEnum):
    """What a secret is for: a provider of that name, or the environment variable of that name of a task app."""

    PROVIDER = "provider"
    ENVIRONMENT = "environment"


@dataclass(frozen=True, slots=True)
class SecretEntry:
    """A secret as it may be shown: without its value."""

    id: str
    name: str
    created_at: datetime
    updated_at: datetime


class Sealed(NamedTuple):
    """A secret as it is stored."""

    organisation: str
    kind: SecretKind
    name: str
    sealed: str


_SHOWN = (SecretRow.id, SecretRow.name, SecretRow.created_at, SecretRow.updated_at)


def context_of(kind: SecretKind, organisation: str, name: str) -> str:
    """What a secret is sealed for: a row that is copied to another organisation or name cannot be opened."""
    return f"{kind}:{organisation}:{name}"


async def put(
    connection: AsyncConnection, vault: Vault, organisation: str, kind: SecretKind, name: str, value: str
) -> SecretEntry:
    """Keep the secret, in place of an earlier one of that name."""
    sealed = vault.seal(value, context_of(kind, organisation, name))
    row = insert(SecretRow).values(
        organisation=organisation, kind=kind, name=name, id=f"sec_{uuid.uuid4().hex}", sealed=sealed
    )
    changes = {"sealed": row.excluded.sealed, "updated_at": func.clock_timestamp()}
    columns = [SecretRow.organisation, SecretRow.kind, SecretRow.name]
    query = row.on_conflict_do_update(index_elements=columns, set_=changes).returning(*_SHOWN)
    return SecretEntry(*(await connection.execute(query)).one())


async def entries(connection: AsyncConnection, organisation: str, kind: SecretKind) -> list[SecretEntry]:
    """The organisation's secrets of a kind, by name."""
    query = select(*_SHOWN).where(SecretRow.organisation == organisation, SecretRow.kind == kind)
    return [SecretEntry(*row) for row in await connection.execute(query.order_by(SecretRow.name))]


async def remove(connection: AsyncConnection, organisation: str, kind: SecretKind, name: str) -> bool:
    """Whether there was one."""
    ours = (SecretRow.organisation == organisation, SecretRow.kind == kind, SecretRow.name == name)
    return (await connection.execute(delete(SecretRow).where(*ours).returning(SecretRow.id))).first() is not None


async def sealed_of(connection: AsyncConnection, organisation: str, kind: SecretKind) -> list[Sealed]:
    """The organisation's secrets of a kind, for the vault."""
    found = await load_sealed(await driver_of(connection), [organisation])
    return [each for each in found if each.kind is kind]


_SEALED = "SELECT organisation, kind, name, sealed FROM secrets WHERE organisation = ANY($1::text[])"


async def load_sealed(connection: asyncpg.Connection, organisations: Sequence[str]) -> list[Sealed]:
    """All secrets of the organisations."""
    return [
        Sealed(row[0], SecretKind(row[1]), row[2], row[3]) for row in await connection.fetch(_SEALED, organisations)
    ]


# --- the key of a job's task app -------------------------------------------------------------------------------------


def seal_task_app_key(vault: Vault, key: str | None, job_id: str) -> str | None:
    """The key as the job's row may hold it; None where the job brings none."""
    return None if key is None else vault.seal(key, f"task_app_key:{job_id}")


def open_task_app_key(vault: Vault, stored: str | None, job_id: str) -> SecretStr | None:
    """The job's own key, also one that an earlier version has stored as it was. Raises SecretUnreadable."""
    if stored is None:
        return None
    if not stored.startswith(f"{VERSION}."):
        return SecretStr(stored)
    return vault.unseal(stored, f"task_app_key:{job_id}")
