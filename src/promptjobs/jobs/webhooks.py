"""Sends the messages to webhooks that are due, again and again until they are delivered or given up."""

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

import asyncpg
from pydantic import SecretStr

from promptjobs.clients import webhooks as receivers
from promptjobs.clients.http import Outgoing
from promptjobs.clients.redaction import redacted
from promptjobs.clients.webhooks import Acknowledgement, SignedMessage
from promptjobs.db import webhook_messages as messages
from promptjobs.db.groups import OUTAGE
from promptjobs.db.vault import Vault
from promptjobs.db.webhook_messages import CHANNEL, TEST_TYPE, Attempt, Busy, ClaimedMessage, DeliveryStatus
from promptjobs.errors import DeadlineExceeded, SecretUnreadable, TargetNotAllowed, WorldError

log = logging.getLogger(__name__)

SCHEDULE = (5.0, 30.0, 120.0, 600.0, 3_600.0, 21_600.0, 86_400.0)
"""Seconds from a failed attempt to the next one; after the last of them the message is given up."""

JITTER = 0.2
"""A retry comes up to so much sooner or later: not all messages of an outage come back at once."""

DEADLINE_SECONDS = 15.0
LEASE_SECONDS = 60.0
"""Who has claimed a message and not recorded it for so long is taken for dead. Well above the deadline."""

GRACE_SECONDS = 5.0
POLL_SECONDS = 10.0
SHORTEST_WAIT_SECONDS = 0.05
RECONNECT_SECONDS = 0.5
CONNECT_SECONDS = 5.0
ROUND_SECONDS = 10.0
PRUNE_SECONDS = 3_600.0
MOST_PRUNINGS = 100

MOST_AT_ONCE, MOST_FOR_ORGANISATION, MOST_FOR_WEBHOOK = 10, 5, 2
"""Messages that a process sends at the same time: a receiver that stalls holds up neither its owner's others, nor
other organisations."""

GONE = 410
ASKS_FOR_TIME = frozenset({429, 503})


def context_of(webhook_id: str) -> str:
    """What a webhook's secret is sealed for."""
    return f"webhook:{webhook_id}"


class WebhookCourier:
    """Makes single attempts, and knows what may be sent where. outgoing: the session of the task apps."""

    def __init__(
        self,
        outgoing: Outgoing,
        vault: Vault,
        *,
        schedule: Sequence[float] = SCHEDULE,
        deadline_seconds: float = DEADLINE_SECONDS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """clock: the Unix time that messages are signed with."""
        self._outgoing, self._vault = outgoing, vault
        self._schedule, self._deadline_seconds, self._clock = tuple(schedule), deadline_seconds, clock

    def check_url(self, url: str) -> None:
        """Raises InvalidRequest, TargetNotAllowed, TargetForbidden."""
        receivers.check_url(url, self._outgoing)

    def seal(self, secret: SecretStr, webhook_id: str) -> str:
        return self._vault.seal(secret.get_secret_value(), context_of(webhook_id))

    async def attempt(self, message: ClaimedMessage) -> Attempt:
        """Send the message once. Whatever happens there is an outcome; only cancellation raises."""
        try:
            secret = self._vault.unseal(message.secret, context_of(message.webhook_id))
            signed = SignedMessage(message.id, int(self._clock()), message.payload, secret)
            answered = await receivers.send(self._outgoing, message.url, signed, self._deadline_seconds)
        except SecretUnreadable as error:
            log.error("a webhook's secret cannot be opened", extra={"webhook_id": message.webhook_id})
            return self._again(message, str(error))
        except WorldError as error:
            return self._again(message, _said(error))
        return self._read(message, answered)

    def _read(self, message: ClaimedMessage, answered: Acknowledgement) -> Attempt:
        status = answered.status
        if 200 <= status < 300:
            return Attempt(DeliveryStatus.DELIVERED, response_status=status)
        if status == GONE:
            said = "HTTP 410: the receiver wants no more messages; the webhook was disabled"
            return Attempt(DeliveryStatus.FAILED, None, status, said, disables=True)
        if 300 <= status < 400:
            return self._again(message, f"HTTP {status}: redirects are not followed", status)
        wanted = answered.retry_after_seconds if status in ASKS_FOR_TIME else None
        return self._again(message, f"HTTP {status}", status, wanted or 0.0)

    def _again(
        self, message: ClaimedMessage, said: str, status: int | None = None, least_seconds: float = 0.0
    ) -> Attempt:
        """A retry, unless there have been enough. A test is not repeated: whoever asked for it is told."""
        if message.event_type == TEST_TYPE or message.attempts > len(self._schedule):
            return Attempt(DeliveryStatus.FAILED, None, status, said)
        delay = self._schedule[message.attempts - 1] * random.uniform(1 - JITTER, 1 + JITTER)
        return Attempt(DeliveryStatus.PENDING, max(delay, least_seconds), status, said)


def _said(error: WorldError) -> str:
    """In words, without what a receiver or a resolver should not tell us about our network."""
    match error:
        case TargetNotAllowed():
            return "its address may not be dialled"
        case DeadlineExceeded():
            return f"no reply within {error.seconds:g} s"
        case _:
            return redacted(str(error))


class WebhookSender:
    """One runs in every process. `run` returns after `stop`, when what was under way has ended, or its grace has.

    Messages are sent at least once: one whose sender dies before it has recorded the outcome is sent again.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[asyncpg.Connection]],
        courier: WebhookCourier,
        *,
        lease_seconds: float = LEASE_SECONDS,
        grace_seconds: float = GRACE_SECONDS,
        poll_seconds: float = POLL_SECONDS,
    ) -> None:
        """lease_seconds: longer than the courier's deadline."""
        self._connect, self._courier = connect, courier
        self._lease_seconds, self._grace_seconds, self._poll_seconds = lease_seconds, grace_seconds, poll_seconds
        self._under_way: dict[asyncio.Task[None], ClaimedMessage] = {}
        self._ended: list[tuple[ClaimedMessage, Attempt]] = []
        self._wake = asyncio.Event()
        self._stops_at: float | None = None
        self._prune_at = 0.0

    def stop(self) -> None:
        """Claim no more; what is under way has the grace to end."""
        self._stops_at = time.monotonic() + self._grace_seconds
        self._wake.set()

    async def run(self) -> None:
        """Send until stopped. Raises only what is a defect."""
        async with asyncio.TaskGroup() as sending:
            while True:
                connection: asyncpg.Connection | None = None
                try:
                    async with asyncio.timeout(CONNECT_SECONDS):
                        connection = await self._connect()
                    await self._serve(connection, sending)
                    break
                except OUTAGE as error:
                    log.warning("messages to webhooks wait", extra={"cause": type(error).__name__})
                finally:
                    if connection is not None:
                        connection.terminate()
                if self._stops_at is not None:
                    break
                self._wake.clear()
                await self._pause(RECONNECT_SECONDS)
            for task in list(self._under_way):
                task.cancel()

    async def _serve(self, connection: asyncpg.Connection, sending: asyncio.TaskGroup) -> None:
        """Work over this connection until stopped. Nobody else uses it, so that its statements never meet."""
        await connection.add_listener(CHANNEL, self._told)
        connection.add_termination_listener(self._told)
        while True:
            self._wake.clear()
            async with asyncio.timeout(ROUND_SECONDS):
                idle_seconds = await self._round(connection, sending)
            if idle_seconds is None:
                return
            await self._pause(idle_seconds)

    async def _round(self, connection: asyncpg.Connection, sending: asyncio.TaskGroup) -> float | None:
        """Record what has ended, and claim what is due. Returns how long nothing has to be done; None at the end."""
        await self._record(connection)
        if self._stops_at is None:
            await self._prune(connection)
            await self._claim(connection, sending)
            return await self._seconds_idle(connection)
        left = self._stops_at - time.monotonic()
        if left > 0 and self._under_way:
            return left
        await self._give_up(connection)
        return None

    async def _record(self, connection: asyncpg.Connection) -> None:
        while self._ended:
            message, attempt = self._ended[0]
            await messages.record(connection, message, attempt)
            del self._ended[0]
            if attempt.disables:
                log.warning("a receiver is gone: its webhook is disabled", extra={"webhook_id": message.webhook_id})
            if attempt.status is DeliveryStatus.FAILED:
                named = {"webhook_id": message.webhook_id, "delivery_id": message.id, "attempts": message.attempts}
                log.warning("a message to a webhook was given up", extra=named)

    async def _prune(self, connection: asyncpg.Connection) -> None:
        if time.monotonic() < self._prune_at:
            return
        self._prune_at = time.monotonic() + PRUNE_SECONDS
        for _ in range(MOST_PRUNINGS):
            if not await messages.prune(connection):
                return

    async def _claim(self, connection: asyncpg.Connection, sending: asyncio.TaskGroup) -> None:
        while self._stops_at is None and len(self._under_way) < MOST_AT_ONCE:
            message = await messages.claim(connection, self._busy(), self._lease_seconds)
            if message is None:
                return
            task = sending.create_task(self._send(message))
            self._under_way[task] = message
            task.add_done_callback(self._forget)

    def _busy(self) -> Busy:
        webhooks = Counter(message.webhook_id for message in self._under_way.values())
        organisations = Counter(message.organisation for message in self._under_way.values())
        return Busy(
            [each for each, count in webhooks.items() if count >= MOST_FOR_WEBHOOK],
            [each for each, count in organisations.items() if count >= MOST_FOR_ORGANISATION],
        )

    async def _send(self, message: ClaimedMessage) -> None:
        attempt = await self._courier.attempt(message)
        self._ended.append((message, attempt))

    def _forget(self, task: asyncio.Task[None]) -> None:
        del self._under_way[task]
        self._wake.set()

    async def _seconds_idle(self, connection: asyncpg.Connection) -> float:
        """Until there may be something to do, if nobody says so before."""
        if len(self._under_way) >= MOST_AT_ONCE:
            return self._poll_seconds
        due = await messages.seconds_until_due(connection, self._busy())
        return self._poll_seconds if due is None else min(max(due, SHORTEST_WAIT_SECONDS), self._poll_seconds)

    async def _give_up(self, connection: asyncpg.Connection) -> None:
        """What is still under way is left to the next process, which need not wait for our lease to end."""
        left = dict(self._under_way)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        await self._record(connection)
        for task, message in left.items():
            if task.cancelled():
                said = "the service was stopped before the receiver had replied"
                await messages.record(connection, message, Attempt(DeliveryStatus.PENDING, 0.0, None, said))

    def _told(self, *_: object) -> None:
        self._wake.set()

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            pass
