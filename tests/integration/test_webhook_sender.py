"""Messages reach their receivers, signed, at least once, and none through an address that may not be dialled."""

import asyncio
import signal
import socket
import sys
from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta

import asyncpg
import pytest
from aiohttp.abc import AbstractResolver, ResolveResult
from standardwebhooks import WebhookVerificationError

from promptjobs.clients.http import Outgoing
from promptjobs.db import webhook_messages
from promptjobs.db.session import Database
from promptjobs.db.vault import Vault
from promptjobs.db.webhook_messages import Attempt, Busy, DeliveryStatus
from promptjobs.jobs.webhooks import MOST_FOR_WEBHOOK, SCHEDULE, WebhookCourier
from tests.fakes.receiver import Answer, Receiver, answering, babble, flood, receiving, reset, stall
from tests.fakes.webhooks import KEY, QUICK, courier_of, delivery, new_message, new_webhook, sending

pytestmark = pytest.mark.slow


@pytest.fixture
async def outgoing() -> AsyncIterator[Outgoing]:
    async with Outgoing(allow_loopback=True) as opened:
        yield opened


async def test_a_message_arrives_as_it_is_stored_and_verifies_with_the_reference_library(
    database: Database, connection: asyncpg.Connection, outgoing: Outgoing, receiver: Receiver
) -> None:
    hook = await new_webhook(database, receiver.url)
    payload = '{"type":"job.failed","data":{"error":"é \\u2028 1.0"}}'
    async with sending(database, courier_of(outgoing)):
        message_id = await new_message(connection, hook.id, payload)
        [received] = await receiver.count(1)
    assert (received.body.decode(), received.id) == (payload, message_id)
    assert received.headers["content-type"] == "application/json"
    assert received.verified(hook.secret) == received.message
    other = await new_webhook(database, receiver.url)
    with pytest.raises(WebhookVerificationError):
        received.verified(other.secret)
    row = await delivery(connection, message_id)
    assert (row["status"], row["attempts"], row["response_status"]) == ("delivered", 1, 204)
    assert (row["error"], row["next_attempt_at"]) == (None, None)
    assert row["delivered_at"] >= row["created_at"]


async def test_a_message_is_sent_again_under_its_id_until_it_is_taken(
    database: Database, connection: asyncpg.Connection, outgoing: Outgoing, receiver: Receiver
) -> None:
    receiver.answers.extend([answering(500), answering(302, location=receiver.url), answering(404)])
    hook = await new_webhook(database, receiver.url)
    message_id = await new_message(connection, hook.id)
    async with sending(database, courier_of(outgoing)):
        received = await receiver.count(4)
    assert [each.id for each in received] == [message_id] * 4
    assert {each.path for each in received} == {"/hook"}
    assert all(each.verified(hook.secret) for each in received)
    row = await delivery(connection, message_id)
    assert (row["status"], row["attempts"], row["response_status"], row["error"]) == ("delivered", 4, 204, None)


@pytest.mark.parametrize(
    ("answer", "status", "said"),
    [
        (answering(500, b"password=hunter2"), 500, "HTTP 500"),
        (answering(301, location="http://169.254.169.254/"), 301, "HTTP 301: redirects are not followed"),
        (reset, None, "cannot be reached"),
        (babble, None, "it is not HTTP"),
        (stall, None, "no reply within 0.3 s"),
    ],
    ids=["error", "redirect", "reset", "babble", "stall"],
)
async def test_a_message_that_nobody_takes_is_given_up_after_its_retries(
    database: Database,
    connection: asyncpg.Connection,
    outgoing: Outgoing,
    receiver: Receiver,
    answer: Answer,
    status: int | None,
    said: str,
) -> None:
    receiver.usual = answer
    hook = await new_webhook(database, receiver.url)
    message_id = await new_message(connection, hook.id)
    async with sending(database, courier_of(outgoing, schedule=(0.01,), deadline_seconds=0.3)):
        await receiver.count(2)
    row = await delivery(connection, message_id)
    assert (row["status"], row["attempts"], row["response_status"]) == ("failed", 2, status)
    assert said in row["error"]
    assert row["next_attempt_at"] is None


async def test_a_good_status_counts_whatever_becomes_of_the_body(
    database: Database, connection: asyncpg.Connection, outgoing: Outgoing, receiver: Receiver
) -> None:
    receiver.usual = flood
    hook = await new_webhook(database, receiver.url)
    message_id = await new_message(connection, hook.id)
    async with sending(database, courier_of(outgoing)):
        await receiver.count(1)
    assert (await delivery(connection, message_id))["status"] == "delivered"


async def test_a_receiver_that_is_gone_disables_its_webhook(
    database: Database, connection: asyncpg.Connection, outgoing: Outgoing, receiver: Receiver
) -> None:
    receiver.usual = answering(410)
    hook = await new_webhook(database, receiver.url)
    message_id = await new_message(connection, hook.id)
    async with sending(database, courier_of(outgoing)):
        await receiver.count(1)
    row = await delivery(connection, message_id)
    assert (row["status"], row["attempts"], row["response_status"]) == ("failed", 1, 410)
    assert await connection.fetchval("SELECT disabled_at IS NOT NULL FROM webhooks WHERE id = $1", hook.id)
    await new_message(connection, hook.id)
    assert await webhook_messages.claim(connection, Busy(), 60.0) is None


@pytest.mark.parametrize(("status", "is_heeded"), [(429, True), (503, True), (500, False)])
async def test_retry_after_is_heeded_where_it_means_later(
    database: Database,
    connection: asyncpg.Connection,
    outgoing: Outgoing,
    receiver: Receiver,
    status: int,
    is_heeded: bool,
) -> None:
    receiver.usual = answering(status, retry_after="4000")
    hook = await new_webhook(database, receiver.url)
    message_id = await new_message(connection, hook.id)
    async with sending(database, courier_of(outgoing, schedule=(100.0,))):
        await receiver.count(1)
    wait = (await delivery(connection, message_id))["next_attempt_at"] - await connection.fetchval(
        "SELECT clock_timestamp()"
    )
    assert (timedelta(seconds=3_900) < wait <= timedelta(seconds=4_000)) is is_heeded
    assert wait > timedelta(seconds=70)


async def test_retries_follow_the_schedule_and_then_end(
    database: Database, connection: asyncpg.Connection, outgoing: Outgoing, receiver: Receiver
) -> None:
    receiver.usual = answering(500)
    hook = await new_webhook(database, receiver.url)
    await new_message(connection, hook.id)
    courier = WebhookCourier(outgoing, Vault(KEY))
    delays = []
    for _ in range(len(SCHEDULE) + 1):
        message = await webhook_messages.claim(connection, Busy(), 60.0)
        assert message is not None
        attempt = await courier.attempt(message)
        delays.append(attempt.delay_seconds)
        await webhook_messages.record(connection, message, attempt)
        await connection.execute("UPDATE webhook_deliveries SET next_attempt_at = clock_timestamp()")
    assert delays.pop() is None
    assert attempt.status is DeliveryStatus.FAILED
    assert all(0.8 * due <= (delay or 0) <= 1.2 * due for due, delay in zip(SCHEDULE, delays, strict=True))


# --- several senders -------------------------------------------------------------------------------------------------


async def test_two_senders_send_every_message_once_and_few_at_a_time_to_one_receiver(
    database: Database, connection: asyncpg.Connection, outgoing: Outgoing, receiver: Receiver
) -> None:
    hooks = [await new_webhook(database, receiver.url, f"org{n}") for n in range(4)]
    sent = [await new_message(connection, hook.id) for hook in hooks for _ in range(10)]
    async with sending(database, courier_of(outgoing)), sending(database, courier_of(outgoing)):
        await receiver.count(len(sent))
    assert Counter(each.id for each in receiver.received) == Counter(sent)
    assert await connection.fetchval("SELECT count(*) FROM webhook_deliveries WHERE status = 'delivered'") == len(sent)
    assert receiver.concurrent <= 2 * len(hooks) * MOST_FOR_WEBHOOK


async def test_a_receiver_that_stalls_holds_up_no_other(
    database: Database, connection: asyncpg.Connection, outgoing: Outgoing, receiver: Receiver
) -> None:
    async with receiving() as slow:
        slow.usual = stall
        stalling = [await new_webhook(database, slow.url) for _ in range(6)]
        for hook in stalling:
            for _ in range(3):
                await new_message(connection, hook.id)
        last = await new_message(connection, (await new_webhook(database, receiver.url, "other")).id)
        async with sending(database, courier_of(outgoing, deadline_seconds=30.0), grace_seconds=0.0):
            [received] = await receiver.count(1)
            assert received.id == last
            assert slow.concurrent <= 5


async def test_the_outcome_of_an_attempt_that_lost_its_lease_is_not_recorded(
    database: Database, connection: asyncpg.Connection, receiver: Receiver
) -> None:
    hook = await new_webhook(database, receiver.url)
    message_id = await new_message(connection, hook.id)
    late = await webhook_messages.claim(connection, Busy(), 0.0)
    newer = await webhook_messages.claim(connection, Busy(), 60.0)
    assert late is not None
    assert newer is not None
    assert (late.id, late.attempts, newer.attempts) == (message_id, 1, 2)
    await webhook_messages.record(connection, late, Attempt(DeliveryStatus.FAILED, error="too late"))
    assert (await delivery(connection, message_id))["status"] == "pending"
    await webhook_messages.record(connection, newer, Attempt(DeliveryStatus.DELIVERED, response_status=200))
    assert (await delivery(connection, message_id))["status"] == "delivered"


async def test_what_a_sender_cannot_finish_is_left_to_the_next_one_at_once(
    database: Database, connection: asyncpg.Connection, outgoing: Outgoing, receiver: Receiver
) -> None:
    receiver.answers.append(stall)
    hook = await new_webhook(database, receiver.url)
    message_id = await new_message(connection, hook.id)
    async with sending(database, courier_of(outgoing), grace_seconds=0.0):
        await receiver.count(1)
    assert (await delivery(connection, message_id))["status"] == "pending"
    async with sending(database, courier_of(outgoing)):
        received = await receiver.count(2)
    assert [each.id for each in received] == [message_id] * 2
    assert (await delivery(connection, message_id))["status"] == "delivered"


async def test_a_lost_connection_to_the_database_costs_no_message(
    database: Database, connection: asyncpg.Connection, outgoing: Outgoing, receiver: Receiver
) -> None:
    hook = await new_webhook(database, receiver.url)
    async with sending(database, courier_of(outgoing)):
        first = await new_message(connection, hook.id)
        await receiver.count(1)
        await connection.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        second = await new_message(connection, hook.id)
        await receiver.count(2)
    assert Counter(each.id for each in receiver.received) == {first: 1, second: 1}
    rows = [await delivery(connection, each) for each in (first, second)]
    assert [row["status"] for row in rows] == ["delivered", "delivered"]


@pytest.mark.slow
async def test_a_message_whose_sender_was_killed_before_it_recorded_the_outcome_is_sent_again_under_its_id(
    database: Database, connection: asyncpg.Connection, outgoing: Outgoing, receiver: Receiver
) -> None:
    hook = await new_webhook(database, receiver.url)
    message_id = await new_message(connection, hook.id)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.fakes.sender_process", database.engine.url.render_as_string(False), "0.5"
    )

    async def killing(_: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
        process.kill()
        await process.wait()

    receiver.answers.append(killing)
    try:
        await receiver.count(1)
        async with sending(database, courier_of(outgoing)):
            received = await receiver.count(2)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == -signal.SIGKILL
    assert [each.id for each in received] == [message_id] * 2
    assert all(each.verified(hook.secret) for each in received)
    row = await delivery(connection, message_id)
    assert (row["status"], row["attempts"]) == ("delivered", 2)


# --- what must not be reached ----------------------------------------------------------------------------------------


class Names(AbstractResolver):
    """Answers the next of `answers` at every question."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = self.answers.pop(0)
        return [
            ResolveResult(hostname=host, host=each, port=port, family=family, proto=0, flags=socket.AI_NUMERICHOST)
            for each in found
        ]

    async def close(self) -> None:
        pass


@pytest.mark.parametrize(
    "resolved",
    [["127.0.0.1"], ["93.184.216.34", "127.0.0.1"], ["169.254.169.254"], ["::ffff:10.0.0.1"]],
    ids=["loopback", "one of two", "metadata", "mapped"],
)
async def test_a_name_of_an_inner_address_is_not_dialled(
    database: Database, connection: asyncpg.Connection, receiver: Receiver, resolved: list[str]
) -> None:
    hook = await new_webhook(database, f"http://rebound.test:{receiver.port}/")
    message_id = await new_message(connection, hook.id)
    async with Outgoing(resolver=Names(resolved)) as closed:
        message = await webhook_messages.claim(connection, Busy(), 60.0)
        assert message is not None
        attempt = await courier_of(closed).attempt(message)
    assert (attempt.status, attempt.error) == (DeliveryStatus.PENDING, "its address may not be dialled")
    assert message.id == message_id
    assert receiver.received == []


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "169.254.169.254", "[::ffff:169.254.169.254]", "0"])
async def test_an_inner_address_is_not_dialled(
    database: Database, connection: asyncpg.Connection, receiver: Receiver, host: str
) -> None:
    hook = await new_webhook(database, f"http://{host}:{receiver.port}/")
    await new_message(connection, hook.id)
    message = await webhook_messages.claim(connection, Busy(), 60.0)
    assert message is not None
    async with Outgoing() as closed:
        attempt = await courier_of(closed).attempt(message)
    assert attempt.error == "its address may not be dialled"
    assert receiver.received == []


async def test_what_was_checked_is_what_is_dialled(
    database: Database, connection: asyncpg.Connection, receiver: Receiver
) -> None:
    """A name that means another address at the next question has no second question to be asked."""
    name = f"rebound.test:{receiver.port}"
    hook = await new_webhook(database, f"http://{name}/")
    await new_message(connection, hook.id)
    message = await webhook_messages.claim(connection, Busy(), 60.0)
    assert message is not None
    names = Names(["127.0.0.1"], ["169.254.169.254"])
    async with Outgoing(frozenset({name}), resolver=names) as allowed:
        attempt = await courier_of(allowed).attempt(message)
    assert attempt.status is DeliveryStatus.DELIVERED
    assert names.answers == [["169.254.169.254"]]


async def test_a_secret_that_cannot_be_opened_sends_nothing_and_is_tried_again(
    database: Database, connection: asyncpg.Connection, outgoing: Outgoing, receiver: Receiver
) -> None:
    hook = await new_webhook(database, receiver.url)
    await new_message(connection, hook.id)
    message = await webhook_messages.claim(connection, Busy(), 60.0)
    assert message is not None
    attempt = await WebhookCourier(outgoing, Vault(bytes(32)), schedule=QUICK).attempt(message)
    assert attempt.status is DeliveryStatus.PENDING
    assert receiver.received == []


async def test_messages_are_kept_for_thirty_days(
    database: Database, connection: asyncpg.Connection, outgoing: Outgoing, receiver: Receiver
) -> None:
    hook = await new_webhook(database, receiver.url)
    old, new = [await new_message(connection, hook.id) for _ in range(2)]
    for message_id, days in ((old, 31), (new, 29)):
        await connection.execute(
            "UPDATE webhook_deliveries SET created_at = clock_timestamp() - make_interval(days => $2), "
            "status = 'delivered' WHERE id = $1",
            message_id,
            days,
        )
    async with sending(database, courier_of(outgoing)):
        await new_message(connection, hook.id)
        await receiver.count(1)
    kept = {row["id"] for row in await connection.fetch("SELECT id FROM webhook_deliveries")}
    assert old not in kept
    assert new in kept
