"""The end of a job tells every webhook that wants to know, once, in the transaction that ends it."""

import asyncio
from typing import Any

import asyncpg
import orjson
import pytest

from promptjobs.api.webhook_schemas import JobEndedMessage
from promptjobs.core.config import resolve
from promptjobs.core.lanes import Cause
from promptjobs.core.stats import Statistics
from promptjobs.db import job_commands
from promptjobs.db.leases import claim_next
from promptjobs.db.publishing import Ending, end_job, load_spent
from promptjobs.db.session import Database
from promptjobs.db.transactions import writing
from promptjobs.db.webhook_messages import CHANNEL
from promptjobs.jobs.publish import ending_of
from tests.fakes.config_bodies import body
from tests.fakes.journaled import new_job
from tests.fakes.webhooks import new_webhook

pytestmark = pytest.mark.slow

CONFIG = resolve("gepa", body(), None).config
URL = "https://hooks.example.com/"


async def queued(database: Database, connection: asyncpg.Connection, organisation: str = "default") -> str:
    job_id = await new_job(database)
    await connection.execute(
        "UPDATE jobs SET organisation = $2, metadata = $3 WHERE id = $1", job_id, organisation, '{"team":"support"}'
    )
    return job_id


async def claimed(database: Database, connection: asyncpg.Connection, organisation: str = "default") -> tuple[str, int]:
    await queued(database, connection, organisation)
    claim = await claim_next(connection, "worker-1", 60.0)
    assert claim is not None
    return claim.job_id, claim.epoch


def ending(status: str = "failed") -> Ending:
    return Ending(status, "because", None, f"prompt.learning.gepa.{status}", "the end", {}, {})


async def told(connection: asyncpg.Connection, job_id: str) -> dict[str, str]:
    """The types of the messages about a job, by the webhook that they are for."""
    rows = await connection.fetch("SELECT webhook_id, event_type FROM webhook_deliveries WHERE job_id = $1", job_id)
    assert len({row["webhook_id"] for row in rows}) == len(rows)
    return {row["webhook_id"]: row["event_type"] for row in rows}


async def payload(connection: asyncpg.Connection, job_id: str) -> dict[str, Any]:
    found = await connection.fetchval("SELECT payload FROM webhook_deliveries WHERE job_id = $1", job_id)
    JobEndedMessage.model_validate_json(found)
    message: dict[str, Any] = orjson.loads(found)
    return message


@pytest.mark.parametrize("status", ["succeeded", "failed", "cancelled"])
async def test_each_webhook_that_wants_to_know_is_told_once(
    database: Database, connection: asyncpg.Connection, status: str
) -> None:
    everything = await new_webhook(database, URL)
    failures = await new_webhook(database, URL, "default", "job.failed", "job.cancelled")
    disabled = await new_webhook(database, URL)
    await connection.execute("UPDATE webhooks SET disabled_at = clock_timestamp() WHERE id = $1", disabled.id)
    await new_webhook(database, URL, "somebody-else")
    job_id, epoch = await claimed(database, connection)
    for _ in range(2):
        await end_job(connection, job_id, epoch, ending(status))
    wanted = [everything.id] if status == "succeeded" else [everything.id, failures.id]
    assert await told(connection, job_id) == dict.fromkeys(wanted, f"job.{status}")


async def test_senders_are_told_when_the_job_has_ended_and_there_is_something_to_send(
    database: Database, connection: asyncpg.Connection
) -> None:
    heard: asyncio.Queue[str] = asyncio.Queue()
    await connection.add_listener(CHANNEL, lambda *said: heard.put_nowait(said[-1]))
    job_id, epoch = await claimed(database, connection)
    await end_job(connection, job_id, epoch, ending())
    assert heard.empty()
    await new_webhook(database, URL)
    job_id, epoch = await claimed(database, connection)
    await end_job(connection, job_id, epoch, ending())
    async with asyncio.timeout(10):
        await heard.get()


async def test_the_message_tells_what_the_job_has_come_to_and_no_prompt(
    database: Database, connection: asyncpg.Connection
) -> None:
    await new_webhook(database, URL)
    job_id, epoch = await claimed(database, connection)
    spent = await load_spent(connection, job_id)
    end = ending_of(CONFIG, None, Statistics(), spent, Cause.ERRORS, "the task app is away")
    await end_job(connection, job_id, epoch, end)
    message = await payload(connection, job_id)
    row = await connection.fetchrow("SELECT finished_at, metadata FROM jobs WHERE id = $1", job_id)
    data = message["data"]
    assert (message["type"], message["timestamp"]) == ("job.failed", row["finished_at"].isoformat())
    assert (data["job_id"], data["status"], data["error"]) == (job_id, "failed", "the task app is away")
    assert data["metadata"] == {"team": "support"}
    assert data["stats"]["total_rollouts"] == 0
    assert "stats" in orjson.loads(row["metadata"])
    assert not {"best_prompt", "best_prompt_messages"} & data.keys()


async def test_a_job_that_is_cancelled_before_it_started_is_told_of(
    database: Database, connection: asyncpg.Connection
) -> None:
    hook = await new_webhook(database, URL)
    job_id = await queued(database, connection)
    async with writing(database) as transaction:
        await job_commands.cancel(transaction, job_id, "not needed")
        await job_commands.cancel(transaction, job_id, "not needed")
    assert await told(connection, job_id) == {hook.id: "job.cancelled"}
    data = (await payload(connection, job_id))["data"]
    assert (data["finish_reason"], data["finish_detail"], data["started_at"]) == ("cancelled", "not needed", None)
    assert data["metadata"] == {"team": "support"}


async def test_an_end_that_is_rolled_back_has_told_nobody(database: Database, connection: asyncpg.Connection) -> None:
    await new_webhook(database, URL)
    job_id, epoch = await claimed(database, connection)
    whole = connection.transaction()
    await whole.start()
    await end_job(connection, job_id, epoch, ending())
    await whole.rollback()
    assert await told(connection, job_id) == {}
    waiting = await queued(database, connection)

    async def cancel_in_vain() -> None:
        async with writing(database) as transaction:
            await job_commands.cancel(transaction, waiting, None)
            raise LookupError

    with pytest.raises(LookupError):
        await cancel_in_vain()
    assert await told(connection, waiting) == {}
    assert await connection.fetchval("SELECT status FROM jobs WHERE id = $1", waiting) == "queued"


async def test_the_end_of_a_job_waits_for_a_webhook_that_is_being_deleted_and_passes_it_over(
    database: Database, connection: asyncpg.Connection
) -> None:
    """Its reference would fail, and the end of the job with it."""
    kept, deleted = [await new_webhook(database, URL) for _ in range(2)]
    job_id, epoch = await claimed(database, connection)
    other = await database.connect()
    watcher = await database.connect()
    try:
        deleting = other.transaction()
        await deleting.start()
        await other.execute("DELETE FROM webhooks WHERE id = $1", deleted.id)
        end = asyncio.create_task(end_job(connection, job_id, epoch, ending()))
        waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        async with asyncio.timeout(10):
            while not await watcher.fetchval(waits):
                assert not end.done()
        await deleting.commit()
        await end
    finally:
        other.terminate()
        watcher.terminate()
    assert await told(connection, job_id) == {kept.id: "job.failed"}


async def test_the_messages_about_a_job_outlive_it(database: Database, connection: asyncpg.Connection) -> None:
    hook = await new_webhook(database, URL)
    job_id, epoch = await claimed(database, connection)
    await end_job(connection, job_id, epoch, ending())
    async with writing(database) as transaction:
        await job_commands.remove(transaction, job_id)
    assert await told(connection, job_id) == {hook.id: "job.failed"}
