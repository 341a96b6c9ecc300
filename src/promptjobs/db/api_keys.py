"""API keys: made, found by what a request carries, listed, revoked."""

import hashlib
import re
import secrets
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import func, insert, select, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from promptjobs.db.columns import columns_of
from promptjobs.db.models import ApiKey
from promptjobs.errors import InvalidRequest, KeyNotFound

PREFIX = "pj_"
SECRET_BYTES = 32
SHOWN = 10
"""Characters of a key that are kept in clear: seven beyond the prefix, which is 42 of its 256 bits."""

ORGANISATION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
MAX_NAME = 200
SENT_KEY = re.compile(r"[\x21-\x7e]{32,200}")


class Purpose(StrEnum):
    """What a key opens: the API of its organisation, or /metrics alone."""

    API = "api"
    METRICS = "metrics"


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A key as its operator sees it, without what it opens with."""

    id: str
    organisation: str
    name: str
    purpose: Purpose
    prefix: str
    created_at: datetime
    last_used_at: datetime | None
    revoked_at: datetime | None


COLUMNS = columns_of(StoredKey, ApiKey)


def digest_of(key: str) -> bytes:
    """SHA-256, which is enough for 256 random bits: there is nothing to be guessed."""
    return hashlib.sha256(key.encode()).digest()


async def create(
    connection: AsyncConnection, organisation: str, name: str, purpose: Purpose = Purpose.API
) -> tuple[StoredKey, str]:
    """Make a key. It is returned in clear this once. Raises InvalidRequest."""
    key = PREFIX + secrets.token_urlsafe(SECRET_BYTES)
    if ORGANISATION.fullmatch(organisation) is None:
        raise InvalidRequest(
            f"expected a letter or digit, then up to 99 letters, digits, '.', '_' and '-', got {organisation[:100]!r}",
            "organisation",
        )
    if len(name) > MAX_NAME or not name.isprintable():
        raise InvalidRequest(f"expected at most {MAX_NAME} characters that can be printed", "name")
    row = {
        "id": f"key_{uuid.uuid4().hex}",
        "organisation": organisation,
        "name": name,
        "purpose": purpose,
        "prefix": key[:SHOWN],
        "digest": digest_of(key),
    }
    found = (await connection.execute(insert(ApiKey).values(row).returning(*COLUMNS))).one()
    return _stored(found), key


async def adopt(connection: AsyncConnection, key: str) -> None:
    """Know the key that an operator has chosen for the organisation `default`; a revoked one stays revoked.

    Raises InvalidRequest for one that is too short to be a secret.
    """
    if SENT_KEY.fullmatch(key) is None:
        raise InvalidRequest("expected 32 to 200 printable ASCII characters without spaces", "initial_api_key")
    row = {
        "id": f"key_{uuid.uuid4().hex}",
        "organisation": "default",
        "name": "initial",
        "purpose": Purpose.API,
        "prefix": key[:SHOWN],
        "digest": digest_of(key),
    }
    await connection.execute(upsert(ApiKey).values(row).on_conflict_do_nothing())


async def find(connection: AsyncConnection, digest: bytes) -> StoredKey | None:
    """The key, unless it is unknown or revoked; its use is noted, once a minute at most."""
    query = select(*COLUMNS).where(ApiKey.digest == digest, ApiKey.revoked_at.is_(None))
    found = (await connection.execute(query)).first()
    if found is None:
        return None
    now = func.clock_timestamp()
    is_due = ApiKey.last_used_at.is_(None) | (ApiKey.last_used_at < now - timedelta(minutes=1))
    await connection.execute(update(ApiKey).where(ApiKey.digest == digest, is_due).values(last_used_at=now))
    return _stored(found)


async def are_any(connection: AsyncConnection) -> bool:
    """Whether there is a key that opens the API."""
    query = select(ApiKey.id).where(ApiKey.revoked_at.is_(None), ApiKey.purpose == Purpose.API).limit(1)
    return (await connection.execute(query)).first() is not None


async def were_any(connection: AsyncConnection) -> bool:
    """Whether a key for the API was ever made: revoking the last one opens nothing."""
    return (
        await connection.execute(select(ApiKey.id).where(ApiKey.purpose == Purpose.API).limit(1))
    ).first() is not None


async def read_all(connection: AsyncConnection, organisation: str | None = None) -> list[StoredKey]:
    """All keys, oldest first, revoked ones too."""
    query = select(*COLUMNS).order_by(ApiKey.created_at, ApiKey.id)
    if organisation is not None:
        query = query.where(ApiKey.organisation == organisation)
    return [_stored(row) for row in await connection.execute(query)]


async def revoke(connection: AsyncConnection, key_id: str) -> StoredKey:
    """From now on the key opens nothing. Revoking it again changes nothing. Raises KeyNotFound."""
    now = func.coalesce(ApiKey.revoked_at, func.clock_timestamp())
    query = update(ApiKey).where(ApiKey.id == key_id).values(revoked_at=now).returning(*COLUMNS)
    found = (await connection.execute(query)).first()
    if found is None:
        raise KeyNotFound(key_id[:MAX_NAME])
    return _stored(found)


def _stored(row: Sequence[Any]) -> StoredKey:
    """row: of COLUMNS."""
    found = StoredKey(*row)
    return replace(found, purpose=Purpose(found.purpose))
