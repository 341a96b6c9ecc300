"""Queries of jobs as their readers see them: one, a page, its config, how far its stream goes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from functools import cache
from typing import Any, Self

from sqlalchemy import Select, Subquery, Text, and_, bindparam, cast, func, select, true, tuple_
from sqlalchemy.dialects.postgresql import JSON, JSONB
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import aliased

from promptjobs.core.ledger import Account, Amount
from promptjobs.db.columns import created_at_of
from promptjobs.db.ledger import Spending, spending_from
from promptjobs.db.ledger_statements import ACCOUNT_COLUMNS
from promptjobs.db.models import BalanceRow, CandidateRow, Event, Job, LedgerRow, Snapshot
from promptjobs.db.statements import Statement
from promptjobs.errors import JobNotFound


class JobStatus(StrEnum):
    """Where a job stands. A pending one waits for its start."""

    PENDING = "pending"
    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_terminal(self) -> bool:
        return self in (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED)


SPENT = tuple(
    func.coalesce(func.sum(column), 0).label(column.key)
    for column in (
        LedgerRow.usd,
        LedgerRow.tokens,
        LedgerRow.held_usd,
        LedgerRow.held_tokens,
        LedgerRow.unsettled_usd,
        LedgerRow.unsettled_tokens,
        LedgerRow.calls,
        LedgerRow.unpriced_calls,
    )
)


@dataclass(frozen=True, slots=True)
class Spent:
    """What a job has come to in all categories. unpriced_calls: those of `calls` whose price is unknown."""

    account: Account
    calls: int
    unpriced_calls: int

    @classmethod
    def of(cls, spending: Spending) -> Self:
        """The sum of the categories."""
        accounts = spending.accounts.values()
        settled = sum((each.settled for each in accounts), Amount())
        held = sum((each.held for each in accounts), Amount())
        unsettled = sum((each.unsettled for each in accounts), Amount())
        calls, unpriced = sum(spending.calls.values()), sum(spending.unpriced.values())
        return cls(Account(settled, held, unsettled), calls, unpriced)

    @classmethod
    def read(cls, sums: Sequence[Any]) -> Self:
        """sums: the columns SPENT of one row."""
        usd, tokens, held_usd, held_tokens, unsettled_usd, unsettled_tokens, calls, unpriced = sums
        held, unsettled = Amount(held_usd, int(held_tokens)), Amount(unsettled_usd, int(unsettled_tokens))
        return cls(Account(Amount(usd, int(tokens)), held, unsettled), calls, unpriced)


@dataclass(frozen=True, slots=True)
class JobRow:
    """A job as its readers see it, without secrets.

    config, warnings, metadata, progress: JSON texts. best_prompt: the best candidate's template while the job runs;
    best_messages: those that it has published; best_snapshot: the payload, where one job was asked for. All JSON texts.
    categories: what was spent on each, where one job was asked for. balance_usd: of its organisation, if it has one.
    parent_id: of the job that it was forked from, which may have been deleted. experiment_*: None for a job of its own;
    position: from 1 on; settings: JSON text of what tells it from the others; group: the same for jobs that differ in
    their random seed alone.
    """

    id: str
    organisation: str
    algorithm: str
    status: JobStatus
    parent_id: str | None
    config_name: str | None
    experiment_id: str | None
    experiment_position: int | None
    experiment_label: str | None
    experiment_group: str | None
    experiment_settings: str | None
    config: str
    warnings: str
    metadata: str
    error: str | None
    finish_reason: str | None
    best_score: float | None
    best_train_score: float | None
    best_validation_score: float | None
    best_snapshot_id: str | None
    progress: str | None
    last_seq: int
    cancel_requested_at: datetime | None
    pause_requested_at: datetime | None
    paused_at: datetime | None
    created_at: datetime
    updated_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    best_prompt: str | None
    best_messages: str | None
    best_snapshot: str | None
    spent: Spent
    categories: Spending | None
    balance_usd: Decimal | None


@dataclass(frozen=True, slots=True)
class JobFilter:
    """Which jobs to list. after: the id of the job behind which the page starts; since: created then or later.

    labels: what their metadata must hold, all of it.
    """

    organisation: str
    limit: int
    after: str | None = None
    offset: int = 0
    status: JobStatus | None = None
    algorithm: str | None = None
    since: datetime | None = None
    parent_id: str | None = None
    config_name: str | None = None
    experiment_id: str | None = None
    labels: Mapping[str, str] | None = None


COLUMNS = (
    Job.id,
    Job.organisation,
    Job.algorithm,
    Job.status,
    Job.parent_id,
    Job.config_name,
    Job.experiment_id,
    Job.experiment_position,
    Job.experiment_label,
    Job.experiment_group,
    Job.experiment_settings,
    Job.config,
    Job.warnings,
    Job.metadata_json,
    Job.error,
    Job.finish_reason,
    Job.best_score,
    Job.best_train_score,
    Job.best_validation_score,
    Job.best_snapshot_id,
    Job.progress,
    Job.last_seq,
    Job.cancel_requested_at,
    Job.pause_requested_at,
    Job.paused_at,
    Job.created_at,
    Job.updated_at,
    Job.started_at,
    Job.finished_at,
)


def _shown(chosen: Select[str, datetime]) -> tuple[Subquery, Select[*tuple[Any, ...]]]:
    """The jobs that are chosen, each with the prompt that is best now: of the terminal event once there is one, which
    is far smaller than the snapshot, else of the candidate in progress.

    Jobs are chosen before anything is read or joined: what is skipped or cut off costs no look beyond an index. The
    casts are to json, not jsonb: a text may hold what jsonb refuses, and what is taken out stays as it is.
    """
    page, end = chosen.subquery("page"), aliased(Event, name="terminal")
    best_id = cast(Job.progress, JSON)["best_candidate_id"].astext
    messages = cast(cast(end.data, JSON)["best_prompt_messages"], Text)
    is_published = Job.best_snapshot_id.is_not(None)
    candidate = and_(~is_published, CandidateRow.job_id == Job.id, CandidateRow.candidate_id == best_id)
    shown = (
        select(*COLUMNS, CandidateRow.prompt, messages, BalanceRow.usd)
        .select_from(page)
        .join(Job, Job.id == page.c.id)
        .outerjoin(end, and_(is_published, end.job_id == Job.id, end.seq == Job.last_seq))
        .outerjoin(CandidateRow, candidate)
        .outerjoin(BalanceRow, BalanceRow.organisation == Job.organisation)
    )
    return page, shown


@cache
def _one() -> Statement:
    """The job `job_id`, with its snapshot's payload and its accounts, each column of theirs as an array."""
    _, shown = _shown(select(Job.id, Job.created_at).where(Job.id == bindparam("job_id")))
    arrays = [func.array_agg(getattr(LedgerRow, name)).label(name) for name in ACCOUNT_COLUMNS]
    accounts = select(*arrays).where(LedgerRow.job_id == bindparam("job_id")).lateral("accounts")
    shown = shown.add_columns(Snapshot.payload, *accounts.c)
    return Statement(shown.outerjoin(Snapshot, Snapshot.id == Job.best_snapshot_id).join(accounts, true()))


@cache
def _page(named: frozenset[str]) -> Select[*tuple[Any, ...]]:
    """A page, newest first, with the sums of what was spent. named: which of the filters there are.

    Each such statement is built once: that takes longer than carrying it out.
    """
    filters = {
        "after": tuple_(Job.created_at, Job.id) < tuple_(bindparam("after_created_at"), bindparam("after")),
        "status": Job.status == bindparam("status"),
        "algorithm": Job.algorithm == bindparam("algorithm"),
        "since": Job.created_at >= bindparam("since"),
        "parent_id": Job.parent_id == bindparam("parent_id"),
        "config_name": Job.config_name == bindparam("config_name"),
        "experiment_id": Job.experiment_id == bindparam("experiment_id"),
        "labels": Job.labels.contains(bindparam("labels", type_=JSONB)),
    }
    chosen = select(Job.id, Job.created_at).order_by(Job.created_at.desc(), Job.id.desc())
    chosen = chosen.where(Job.organisation == bindparam("organisation"))
    chosen = chosen.where(*(filters[name] for name in filters if name in named))
    page, shown = _shown(chosen.offset(bindparam("offset")).limit(bindparam("limit")))
    sums = select(*SPENT).where(LedgerRow.job_id == page.c.id).lateral("spent")
    return shown.add_columns(*sums.c).join(sums, true()).order_by(page.c.created_at.desc(), page.c.id.desc())


async def read(connection: AsyncConnection, job_id: str) -> JobRow:
    """The job with its snapshot's payload and its spending by category. Raises JobNotFound."""
    found = await _one().row(connection, job_id=job_id)
    if found is None:
        raise JobNotFound(job_id)
    values = tuple(found.values())
    *columns, payload = values[: -len(ACCOUNT_COLUMNS)]
    arrays = (array or () for array in values[-len(ACCOUNT_COLUMNS) :])
    spending = spending_from(dict(zip(ACCOUNT_COLUMNS, row, strict=True)) for row in zip(*arrays, strict=True))
    return _row(columns, Spent.of(spending), spending, payload)


async def read_page(connection: AsyncConnection, wanted: JobFilter) -> list[JobRow]:
    """Jobs, newest first, without payloads and categories. Raises InvalidRequest for a cursor that is no job."""
    filters = {
        "status": wanted.status,
        "algorithm": wanted.algorithm,
        "since": wanted.since,
        "after": wanted.after,
        "parent_id": wanted.parent_id,
        "config_name": wanted.config_name,
        "experiment_id": wanted.experiment_id,
        "labels": dict(wanted.labels) if wanted.labels else None,
    }
    given: dict[str, Any] = {name: value for name, value in filters.items() if value is not None}
    query = _page(frozenset(given))
    given["organisation"] = wanted.organisation
    if wanted.after is not None:
        ours = Job.organisation == wanted.organisation
        given["after_created_at"] = await created_at_of(connection, Job, wanted.after, "job", ours)
    found = await connection.execute(query, {**given, "offset": wanted.offset, "limit": wanted.limit})
    return [_row(row[: -len(SPENT)], Spent.read(row[-len(SPENT) :])) for row in found]


def _row(
    columns: Sequence[Any], spent: Spent, categories: Spending | None = None, payload: str | None = None
) -> JobRow:
    job_id, organisation, algorithm, status, *rest, balance_usd = columns
    more = {"best_snapshot": payload, "spent": spent, "categories": categories, "balance_usd": balance_usd}
    return JobRow(job_id, organisation, algorithm, JobStatus(status), *rest, **more)


async def require(connection: AsyncConnection, job_id: str) -> None:
    """Raises JobNotFound."""
    if (await connection.execute(select(Job.id).where(Job.id == job_id))).first() is None:
        raise JobNotFound(job_id)


@dataclass(frozen=True, slots=True)
class StreamEnd:
    """How far a job's stream goes now; nothing will follow where is_final."""

    last_seq: int
    is_final: bool


async def stream_end(connection: AsyncConnection, job_id: str) -> StreamEnd:
    """Raises JobNotFound."""
    found = (await connection.execute(select(Job.last_seq, Job.status).where(Job.id == job_id))).first()
    if found is None:
        raise JobNotFound(job_id)
    return StreamEnd(found.last_seq, JobStatus(found.status).is_terminal)


@dataclass(frozen=True, slots=True)
class ConfigRow:
    """What was sent, what runs, and what was noted in between; JSON texts without secrets."""

    sent: str
    resolved: str
    warnings: str


async def read_config(connection: AsyncConnection, job_id: str) -> ConfigRow:
    """Raises JobNotFound."""
    query = select(Job.config_sent, Job.config, Job.warnings).where(Job.id == job_id)
    found = (await connection.execute(query)).first()
    if found is None:
        raise JobNotFound(job_id)
    return ConfigRow(*found)
