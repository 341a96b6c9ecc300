"""Webhooks in the database, messages to them, and a sender of them that runs."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import asyncpg

from promptjobs.clients.http import Outgoing
from promptjobs.clients.webhooks import new_secret
from promptjobs.db import webhooks
from promptjobs.db.session import Database
from promptjobs.db.transactions import writing
from promptjobs.db.vault import Vault
from promptjobs.db.webhooks import NewWebhook
from promptjobs.jobs.webhooks import WebhookCourier, WebhookSender

KEY = bytes(range(32))
QUICK = (0.01, 0.01, 0.01)
"""Three retries as soon as possible: a message has four attempts."""


@dataclass(frozen=True)
class Hook:
    id: str
    secret: str


async def new_webhook(database: Database, url: str, organisation: str = "default", *event_types: str) -> Hook:
    webhook_id, secret = f"wh_{uuid.uuid4().hex}", new_secret().get_secret_value()
    sealed = Vault(KEY).seal(secret, f"webhook:{webhook_id}")
    async with writing(database) as connection:
        await webhooks.create(connection, NewWebhook(webhook_id, organisation, url, None, sealed, list(event_types)))
    return Hook(webhook_id, secret)


async def new_message(connection: asyncpg.Connection, webhook_id: str, payload: str = '{"type":"job.failed"}') -> str:
    message_id = f"msg_{uuid.uuid4().hex}"
    await connection.execute(
        "INSERT INTO webhook_deliveries(id, webhook_id, job_id, event_type, payload, next_attempt_at) "
        "VALUES ($1, $2, 'pl_gone', 'job.failed', $3, clock_timestamp())",
        message_id,
        webhook_id,
        payload,
    )
    await connection.execute("SELECT pg_notify('promptjobs_webhooks', '')")
    return message_id


async def delivery(connection: asyncpg.Connection, message_id: str) -> dict[str, Any]:
    return dict(await connection.fetchrow("SELECT * FROM webhook_deliveries WHERE id = $1", message_id))


def courier_of(outgoing: Outgoing, **options: Any) -> WebhookCourier:
    return WebhookCourier(outgoing, Vault(KEY), **{"schedule": QUICK, **options})


@asynccontextmanager
async def sending(database: Database, courier: WebhookCourier, **options: Any) -> AsyncIterator[WebhookSender]:
    """Leaving it waits until everything under way is recorded."""
    sender = WebhookSender(database.connect, courier, **options)
    running = asyncio.create_task(sender.run())
    try:
        yield sender
    finally:
        sender.stop()
        await running
