"""Records every call: its row is committed before the task app has the end of the reply."""

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import asyncpg

from promptjobs.clients.pricing import cost_usd
from promptjobs.clients.usage import Usage
from promptjobs.core.ledger import category_of
from promptjobs.core.trial import Phase
from promptjobs.db.calls import Bill, CallRecord, insert_calls
from promptjobs.db.groups import Groups
from promptjobs.db.ledger import Hold
from promptjobs.errors import MeteringUnavailable
from promptjobs.interceptor.grants import Grant
from promptjobs.interceptor.recent import RecentCalls
from promptjobs.interceptor.terms import Policy
from promptjobs.telemetry import tracing
from promptjobs.telemetry.call_tallies import outcome_of
from promptjobs.telemetry.metrics import CALLS

CATEGORIES: dict[str, str] = {phase: category_of(phase) for phase in Phase}
NO_USAGE = Usage()
NUMBERS = 2**31
PATIENCE_SECONDS = 5.0
MAX_TEXT = 1_000
"""Characters of an error or a finish reason that are kept."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a call ended. error: "code: detail".

    may_cost: False where the provider certainly charges nothing. is_sent: False where it has certainly seen nothing of
    the call. reply: JSON text of the first choice's message.
    """

    status: int
    error: str | None = None
    reply: str | None = None
    finish_reason: str | None = None
    usage: Usage = NO_USAGE
    may_cost: bool = True
    is_sent: bool = True


INTERRUPTED = Outcome(503, error="interrupted: the service stopped during the call")


class _Pending:
    """A record on its way. sent: it was part of a statement, so a row with its number may be its own."""

    __slots__ = ("bill", "record", "sent")

    def __init__(self, record: CallRecord, bill: Bill) -> None:
        self.record, self.bill, self.sent = record, bill, False


class Meter:
    """Writes calls in groups over a connection of its own, and settles them with the same statement.

    recent: where recorded calls are kept for the worker of this process; None where it has to read them, because
    another process may serve the same token.

    A call's number comes from one counter of this process that starts at a random place, so replicas that serve the
    same token hardly ever meet, and a statement of unknown outcome can be sent again. If they do meet, the call gets
    another number: a row that was there before the first attempt is another replica's.
    """

    def __init__(
        self, connect: Callable[[], Awaitable[asyncpg.Connection]], *, patience_seconds: float = PATIENCE_SECONDS
    ) -> None:
        self.groups: Groups[_Pending, None] = Groups(
            "meter", connect, self._store, _unavailable, keep=True, patience_seconds=patience_seconds
        )
        self.recent: RecentCalls | None = None
        self._number = secrets.randbelow(NUMBERS)

    def put(self, call: "Call", outcome: Outcome, seconds: float) -> "asyncio.Future[None]":
        """Queue the call, whoever waits for it."""
        self._number = (self._number + 1) % NUMBERS
        grant, policy, messages, usage = call.grant, call.policy, call.messages, outcome.usage
        is_known = usage.is_reported or not outcome.may_cost
        hold_id = None if call.hold is None else call.hold.id
        record = CallRecord(
            token=grant.digest,
            n=self._number,
            job_id=grant.job_id,
            key=grant.key,
            candidate_id=grant.candidate_id,
            seed=grant.seed,
            phase=grant.phase,
            attempt=grant.attempt,
            provider=policy.provider,
            model=policy.model,
            streamed=call.streamed,
            status=outcome.status,
            error=_storable(outcome.error),
            messages=messages,
            reply=outcome.reply,
            finish_reason=_storable(outcome.finish_reason),
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            unknown_tokens=usage.unknown_tokens,
            cost_usd=_cost(call, outcome),
            seconds=seconds,
        )
        _tell(record, policy, call.traceparent)
        bill = Bill(hold_id, usage.total_tokens if is_known else None, int(outcome.is_sent))
        return self.groups.put(_Pending(record, bill), len(messages) + len(outcome.reply or ""))

    async def _store(self, connection: asyncpg.Connection, group: Sequence[_Pending]) -> Sequence[None]:
        """Commit the group. Raises what asyncpg raises; then the outcome may be unknown and the group comes again."""
        todo = list(group)
        while todo:
            new = [pending for pending in todo if not pending.sent]
            for pending in todo:
                pending.sent = True
            stored = await insert_calls(
                connection, [pending.record for pending in todo], [pending.bill for pending in todo]
            )
            todo = [pending for pending in new if (pending.record.token, pending.record.n) not in stored]
            for pending in todo:
                pending.record = pending.record._replace(n=secrets.randbelow(NUMBERS))
                pending.sent = False
        if self.recent is not None:
            for pending in group:
                self.recent.add(pending.record)
        return [None] * len(group)


@dataclass(slots=True)
class Call:
    """A call under way: all that its row needs but the outcome.

    policy: the job's until the call's module is known. started: by `time.perf_counter`. hold: what is reserved for the
    call. is_put: its row is on its way, and with it the hold's release. traceparent: the task app's span.
    """

    meter: Meter
    grant: Grant
    policy: Policy
    started: float
    streamed: bool = False
    messages: str = "[]"
    hold: Hold | None = None
    is_put: bool = False
    traceparent: str | None = None

    async def record(self, outcome: Outcome) -> None:
        """Commit the call. Raises MeteringUnavailable after a few seconds, but the row is written when it can be."""
        try:
            await self.put(outcome)
        except asyncpg.PostgresError as exc:
            # The job was deleted, and its rows with it, while the call was under way.
            raise MeteringUnavailable("the call cannot be recorded: its job is gone") from exc

    def put(self, outcome: Outcome) -> "asyncio.Future[None]":
        """Leave the call to the writer: for those who cannot wait."""
        self.is_put = True
        return self.meter.put(self, outcome, time.perf_counter() - self.started)


def _cost(call: Call, outcome: Outcome) -> float | None:
    """In USD; None where it is unknown."""
    if not outcome.may_cost:
        return 0.0
    policy, usage = call.policy, outcome.usage
    cost = cost_usd(policy.provider, policy.model, usage, policy.price)
    if cost is not None and usage.unknown_tokens and call.hold is not None:
        # Tokens without a split are charged at the dearer rate: of two upper bounds the lower one holds.
        return min(cost, float(call.hold.amount.usd))
    return cost


def _tell(record: CallRecord, policy: Policy, traceparent: str | None) -> None:
    """Count the call, and make its span."""
    category, error = CATEGORIES.get(record.phase, record.phase), record.error_code
    CALLS.count(
        category,
        record.provider,
        record.model,
        outcome_of(error, record.status),
        record.prompt_tokens,
        record.completion_tokens,
        record.unknown_tokens,
        record.cost_usd,
        record.seconds,
    )
    if tracing.is_on():
        tracing.record(
            tracing.Chat(
                record.job_id,
                record.candidate_id,
                record.phase,
                category,
                record.provider,
                record.model,
                policy.temperature,
                policy.max_completion_tokens,
                record.streamed,
                error,
                record.finish_reason,
                record.prompt_tokens,
                record.completion_tokens,
                record.cost_usd,
                record.seconds,
                traceparent,
            )
        )


def _unavailable() -> MeteringUnavailable:
    return MeteringUnavailable("calls cannot be recorded at present, so none is made: try again later")


def _storable(text: str | None) -> str | None:
    """Text that Postgres takes, shortened."""
    return None if text is None else text[:MAX_TEXT].replace("\x00", "\ufffd").encode("utf-8", "replace").decode()
