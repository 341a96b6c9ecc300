"""Queries of an organisation's webhooks and of the messages to them."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import delete, func, insert, select, text, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from promptjobs.db import events
from promptjobs.db.columns import columns_of, created_at_of
from promptjobs.db.models import Webhook, WebhookDelivery
from promptjobs.db.webhook_messages import (
    CHANNEL,
    TEST_TYPE,
    ClaimedMessage,
    DeliveryStatus,
    message_body,
)
from promptjobs.errors import DeliveryNotFound, WebhookNotFound
from promptjobs.errors.webhooks import TooManyWebhooks, WebhookDisabled

MOST_WEBHOOKS = 20
"""Of an organisation."""


@dataclass(frozen=True, slots=True)
class NewWebhook:
    """secret: sealed. event_types: empty for all."""

    id: str
    organisation: str
    url: str
    description: str | None
    secret: str
    event_types: list[str]


@dataclass(frozen=True, slots=True)
class StoredWebhook:
    """A webhook as its owners see it, without its secret."""

    id: str
    url: str
    description: str | None
    event_types: list[str]
    created_at: datetime
    updated_at: datetime
    disabled_at: datetime | None


COLUMNS = columns_of(StoredWebhook, Webhook)


async def create(connection: AsyncConnection, webhook: NewWebhook) -> StoredWebhook:
    """Raises TooManyWebhooks."""
    # Until this transaction ends, nobody else counts and adds.
    lock = text("SELECT pg_advisory_xact_lock(hashtextextended('promptjobs webhooks ' || :organisation, 0))")
    await connection.execute(lock, {"organisation": webhook.organisation})
    counted = select(func.count()).where(Webhook.organisation == webhook.organisation)
    if (await connection.execute(counted)).scalar_one() >= MOST_WEBHOOKS:
        raise TooManyWebhooks(MOST_WEBHOOKS)
    query = insert(Webhook).values(
        id=webhook.id,
        organisation=webhook.organisation,
        url=webhook.url,
        description=webhook.description,
        secret=webhook.secret,
        event_types=webhook.event_types,
    )
    return StoredWebhook(*(await connection.execute(query.returning(*COLUMNS))).one())


async def read_page(
    connection: AsyncConnection, organisation: str, limit: int, after: str | None
) -> list[StoredWebhook]:
    """Newest first. Raises InvalidRequest for a cursor that is no webhook."""
    query = select(*COLUMNS).where(Webhook.organisation == organisation)
    if after is not None:
        created_at = await created_at_of(connection, Webhook, after, "webhook", Webhook.organisation == organisation)
        query = query.where(tuple_(Webhook.created_at, Webhook.id) < tuple_(created_at, after))
    query = query.order_by(Webhook.created_at.desc(), Webhook.id.desc()).limit(limit)
    return [StoredWebhook(*row) for row in await connection.execute(query)]


async def read(connection: AsyncConnection, organisation: str, webhook_id: str) -> StoredWebhook:
    """Raises WebhookNotFound, also for another organisation's."""
    query = select(*COLUMNS).where(Webhook.id == webhook_id, Webhook.organisation == organisation)
    found = (await connection.execute(query)).first()
    if found is None:
        raise WebhookNotFound(webhook_id)
    return StoredWebhook(*found)


async def change(
    connection: AsyncConnection,
    organisation: str,
    webhook_id: str,
    values: Mapping[str, Any],
    *,
    is_disabled: bool | None = None,
) -> StoredWebhook:
    """Set what is given: url, description, event_types, secret (sealed). What was due when a webhook was disabled is
    due again when it is enabled. Raises WebhookNotFound.
    """
    changes = dict(values)
    if is_disabled is not None:
        now = func.clock_timestamp()
        changes["disabled_at"] = func.coalesce(Webhook.disabled_at, now) if is_disabled else None
    query = (
        update(Webhook)
        .where(Webhook.id == webhook_id, Webhook.organisation == organisation)
        .values(updated_at=func.clock_timestamp(), **changes)
        .returning(*COLUMNS)
    )
    found = (await connection.execute(query)).first()
    if found is None:
        raise WebhookNotFound(webhook_id)
    await events.notify(connection, CHANNEL, "")
    return StoredWebhook(*found)


async def remove(connection: AsyncConnection, organisation: str, webhook_id: str) -> None:
    """With all messages to it. Raises WebhookNotFound."""
    query = delete(Webhook).where(Webhook.id == webhook_id, Webhook.organisation == organisation)
    if (await connection.execute(query)).rowcount == 0:
        raise WebhookNotFound(webhook_id)


# --- messages --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StoredDelivery:
    """A message as its owners see it. job_id is empty for a test; payload: JSON text, where one was asked for."""

    id: str
    webhook_id: str
    job_id: str
    event_type: str
    status: DeliveryStatus
    attempts: int
    next_attempt_at: datetime | None
    response_status: int | None
    error: str | None
    created_at: datetime
    delivered_at: datetime | None
    payload: str | None = None


DELIVERY_COLUMNS = columns_of(StoredDelivery, WebhookDelivery)


@dataclass(frozen=True, slots=True)
class DeliveryFilter:
    """Which messages of a webhook to list. after: the id of the one behind which the page starts."""

    limit: int
    after: str | None = None
    status: DeliveryStatus | None = None


async def read_deliveries(
    connection: AsyncConnection, organisation: str, webhook_id: str, wanted: DeliveryFilter
) -> list[StoredDelivery]:
    """Newest first, without payloads. Raises WebhookNotFound; InvalidRequest for a cursor that is no message."""
    await read(connection, organisation, webhook_id)
    table = WebhookDelivery
    query = select(*DELIVERY_COLUMNS).where(table.webhook_id == webhook_id)
    if wanted.status is not None:
        query = query.where(table.status == wanted.status)
    if wanted.after is not None:
        created_at = await created_at_of(connection, table, wanted.after, "delivery", table.webhook_id == webhook_id)
        query = query.where(tuple_(table.created_at, table.id) < tuple_(created_at, wanted.after))
    query = query.order_by(table.created_at.desc(), table.id.desc()).limit(wanted.limit)
    return [_delivery(row) for row in await connection.execute(query)]


async def read_delivery(
    connection: AsyncConnection, organisation: str, webhook_id: str, delivery_id: str
) -> StoredDelivery:
    """With its payload. Raises WebhookNotFound, DeliveryNotFound."""
    await read(connection, organisation, webhook_id)
    query = select(*DELIVERY_COLUMNS, WebhookDelivery.payload).where(
        WebhookDelivery.id == delivery_id, WebhookDelivery.webhook_id == webhook_id
    )
    found = (await connection.execute(query)).first()
    if found is None:
        raise DeliveryNotFound(delivery_id)
    return _delivery(found)


def _delivery(row: Any) -> StoredDelivery:
    delivery_id, webhook_id, job_id, event_type, status, *rest = row
    return StoredDelivery(delivery_id, webhook_id, job_id, event_type, DeliveryStatus(status), *rest)


async def redeliver(connection: AsyncConnection, organisation: str, webhook_id: str, delivery_id: str) -> None:
    """Have a message sent once more, whatever has come of it; one that is being sent right now may go out twice.

    Raises WebhookNotFound, DeliveryNotFound, WebhookDisabled.
    """
    webhook = await read(connection, organisation, webhook_id)
    if webhook.disabled_at is not None:
        raise WebhookDisabled(webhook_id)
    query = (
        update(WebhookDelivery)
        .where(WebhookDelivery.id == delivery_id, WebhookDelivery.webhook_id == webhook_id)
        .values(status=DeliveryStatus.PENDING, next_attempt_at=func.clock_timestamp())
    )
    if (await connection.execute(query)).rowcount == 0:
        raise DeliveryNotFound(delivery_id)
    await events.notify(connection, CHANNEL, "")


async def add_test(
    connection: AsyncConnection, organisation: str, webhook_id: str, message_id: str, lease_seconds: float
) -> ClaimedMessage:
    """A test message, claimed for whoever asks for it. Raises WebhookNotFound."""
    query = select(Webhook.url, Webhook.secret, func.clock_timestamp()).where(
        Webhook.id == webhook_id, Webhook.organisation == organisation
    )
    found = (await connection.execute(query.with_for_update(read=True, key_share=True))).first()
    if found is None:
        raise WebhookNotFound(webhook_id)
    url, secret, now = found
    payload = message_body(TEST_TYPE, now, {"webhook_id": webhook_id})
    lease = func.make_interval(0, 0, 0, 0, 0, 0, lease_seconds)
    await connection.execute(
        insert(WebhookDelivery).values(
            id=message_id,
            webhook_id=webhook_id,
            job_id="",
            event_type=TEST_TYPE,
            payload=payload,
            attempts=1,
            next_attempt_at=func.clock_timestamp() + lease,
        )
    )
    return ClaimedMessage(message_id, webhook_id, organisation, TEST_TYPE, payload, 1, url, secret)
