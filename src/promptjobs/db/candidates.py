"""Queries of candidates with what has become of them, of refused proposals, and of how their job stands."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson
from sqlalchemy import ARRAY, BindParameter, ColumnElement, Text, all_, and_, any_, func, literal, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from promptjobs.core.archive import Candidate
from promptjobs.core.rejections import (
    BASELINES,
    CandidateStatus,
    Rejection,
    RejectionCode,
    Verdict,
    rejection_of,
    status_of,
)
from promptjobs.db.events import EventRow, read_after
from promptjobs.db.history import candidate_from
from promptjobs.db.jobs import JobStatus
from promptjobs.db.models import CandidateRow, Event, Job, Snapshot
from promptjobs.db.results import Page
from promptjobs.errors import CandidateNotFound, JobNotFound

SCORED = "prompt.learning.proposal.scored"
CONFIGURED = "mipro.trial.started"
REFUSED = ("prompt.learning.proposal.refused", "mipro.trial.refused", "mipro.trial.duplicate")
DUPLICATE = "duplicate"
"""The code of a prompt that is known already, where the event names none."""


# --- how the job stands ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Standing:
    """best_id: the candidate that was published, or that is best so far. front: ids; MIPRO has none."""

    algorithm: str
    status: JobStatus
    best_id: str | None
    front: frozenset[str]

    @property
    def is_over(self) -> bool:
        return self.status.is_terminal


async def read_standing(connection: AsyncConnection, job_id: str) -> Standing:
    """Raises JobNotFound."""
    # The first of the names in the payload is its own: what stands before it is text, in which quotes are escaped. The
    # payload is not cast, since a prompt may hold what the cast refuses.
    best = func.substring(Snapshot.payload, '"best_candidate_id":"([^"]+)"')
    query = (
        select(Job.algorithm, Job.status, Job.progress, Job.best_snapshot_id, best)
        .outerjoin(Snapshot, Snapshot.id == Job.best_snapshot_id)
        .where(Job.id == job_id)
    )
    found = (await connection.execute(query)).first()
    if found is None:
        raise JobNotFound(job_id)
    algorithm, status, progress, snapshot_id, published_id = found
    state = {"best_candidate_id": None, "front": []} if progress is None else orjson.loads(progress)
    best_id = state["best_candidate_id"] if snapshot_id is None else published_id
    return Standing(algorithm, JobStatus(status), best_id, frozenset(state["front"]))


async def is_over(connection: AsyncConnection, job_id: str) -> bool:
    """Whether nothing will follow. Raises JobNotFound."""
    status = (await connection.execute(select(Job.status).where(Job.id == job_id))).scalar_one_or_none()
    if status is None:
        raise JobNotFound(job_id)
    return JobStatus(status).is_terminal


# --- candidates ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class JudgedCandidate:
    """A candidate with what has become of it."""

    candidate: Candidate
    created_at: datetime
    status: CandidateStatus
    rejection: Rejection | None
    is_pareto: bool
    is_best: bool


@dataclass(frozen=True, slots=True)
class CandidateFilter:
    """None: whatever it is."""

    status: CandidateStatus | None = None
    operator: str | None = None
    is_pareto: bool | None = None


Verdicts = Mapping[str, Verdict]
"""By candidate, the last that its search told of it."""


async def read_verdicts(connection: AsyncConnection, job_id: str, candidate_id: str | None = None) -> Verdicts:
    """candidate_id: of whom alone. They are read here and not by the database, which takes ten times as long for it."""
    query = select(Event.data).where(Event.job_id == job_id, Event.type == SCORED).order_by(Event.seq)
    if candidate_id is not None:
        query = query.where(func.strpos(Event.data, f'"candidate_id":"{candidate_id}"') > 0)
    found = {}
    for text in (await connection.execute(query)).scalars():
        data = orjson.loads(text)
        found[data["candidate_id"]] = Verdict(data["accepted"], data.get("reason"), data["score"])
    return found


async def read_judged(
    connection: AsyncConnection, job_id: str, standing: Standing, page: Page, wanted: CandidateFilter
) -> list[JudgedCandidate]:
    """Candidates in the order in which they were proposed, by two queries."""
    verdicts = await read_verdicts(connection, job_id)
    query = select(CandidateRow.__table__).where(CandidateRow.job_id == job_id)
    if page.after is not None:
        query = query.where(CandidateRow.n > page.after)
    if page.since is not None:
        query = query.where(CandidateRow.created_at >= page.since)
    if wanted.status is not None:
        query = query.where(_has(wanted.status, verdicts, standing.is_over))
    if wanted.operator is not None:
        query = query.where(CandidateRow.operator == wanted.operator)
    if wanted.is_pareto is not None:
        is_there = CandidateRow.candidate_id.in_(standing.front)
        query = query.where(is_there if wanted.is_pareto else ~is_there)
    query = query.order_by(CandidateRow.n).offset(page.offset).limit(page.limit)
    return [_judged(dict(row), verdicts, standing) for row in (await connection.execute(query)).mappings()]


async def read_one(connection: AsyncConnection, job_id: str, standing: Standing, candidate_id: str) -> JudgedCandidate:
    """Raises CandidateNotFound, also for another job's."""
    query = select(CandidateRow.__table__).where(
        CandidateRow.job_id == job_id, CandidateRow.candidate_id == candidate_id
    )
    found = (await connection.execute(query)).mappings().first()
    if found is None:
        raise CandidateNotFound(candidate_id)
    return _judged(dict(found), await read_verdicts(connection, job_id, candidate_id), standing)


async def read_by_ids(connection: AsyncConnection, job_id: str, candidate_ids: Sequence[str]) -> dict[str, Candidate]:
    """Those of them that the job has."""
    query = select(CandidateRow.__table__).where(
        CandidateRow.job_id == job_id, CandidateRow.candidate_id.in_(candidate_ids)
    )
    return {row["candidate_id"]: candidate_from(dict(row)) for row in (await connection.execute(query)).mappings()}


async def read_baseline(connection: AsyncConnection, job_id: str) -> Candidate | None:
    """The prompt that all others are compared with; the task app's own messages where their pattern is not known."""
    query = (
        select(CandidateRow.__table__)
        .where(CandidateRow.job_id == job_id, CandidateRow.operator.in_(BASELINES))
        .order_by(CandidateRow.n.desc())
        .limit(1)
    )
    found = (await connection.execute(query)).mappings().first()
    return None if found is None else candidate_from(dict(found))


async def count_statuses(
    connection: AsyncConnection, job_id: str, is_over: bool
) -> Counter[tuple[CandidateStatus, RejectionCode | None]]:
    """How many candidates there are of each status, the rejected ones by why."""
    verdicts = await read_verdicts(connection, job_id)
    query = select(CandidateRow.candidate_id, CandidateRow.operator).where(CandidateRow.job_id == job_id)
    found: Counter[tuple[CandidateStatus, RejectionCode | None]] = Counter()
    for candidate_id, operator in await connection.execute(query):
        verdict = verdicts.get(candidate_id)
        status = status_of(operator, verdict, is_over)
        rejection = rejection_of(status, verdict)
        found[status, None if rejection is None else rejection.code] += 1
    return found


def _has(status: CandidateStatus, verdicts: Verdicts, is_over: bool) -> ColumnElement[bool]:
    """Which rows have the status: where nothing was told of a candidate, it is the one that this leaves."""
    is_baseline = CandidateRow.operator.in_(BASELINES)
    if status is CandidateStatus.BASELINE:
        return is_baseline
    told = [each for each, verdict in verdicts.items() if status_of("", verdict, is_over) is status]
    found: ColumnElement[bool] = CandidateRow.candidate_id == any_(_texts(told))
    if status_of("", None, is_over) is status:
        found = or_(found, CandidateRow.candidate_id != all_(_texts(verdicts)))
    return and_(~is_baseline, found)


def _texts(values: Iterable[str]) -> BindParameter[list[str]]:
    return literal(list(values), ARRAY(Text))


def _judged(row: dict[str, Any], verdicts: Verdicts, standing: Standing) -> JudgedCandidate:
    candidate = candidate_from(row)
    verdict = verdicts.get(candidate.candidate_id)
    status = status_of(candidate.operator, verdict, standing.is_over)
    return JudgedCandidate(
        candidate,
        row["created_at"],
        status,
        rejection_of(status, verdict),
        candidate.candidate_id in standing.front,
        candidate.candidate_id == standing.best_id,
    )


# --- what only events tell -------------------------------------------------------------------------------------------


async def read_choices(
    connection: AsyncConnection, job_id: str, candidate_ids: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Of MIPRO's candidates, what was chosen for each stage, by candidate; the baseline has no choice."""
    wanted = frozenset(candidate_ids)
    query = select(Event.data).where(Event.job_id == job_id, Event.type == CONFIGURED)
    told = map(orjson.loads, (await connection.execute(query)).scalars())
    return {data["candidate_id"]: data["stage_payloads"] for data in told if data["candidate_id"] in wanted}


async def read_refused(connection: AsyncConnection, job_id: str, after: int, limit: int) -> list[EventRow]:
    """The events of proposals that never became candidates, in order. after: an event's number."""
    return await read_after(connection, job_id, after, limit, REFUSED)


async def count_refused(connection: AsyncConnection, job_id: str) -> Counter[str]:
    """How many proposals never became candidates, by the codes of why."""
    query = select(Event.data).where(Event.job_id == job_id, Event.type.in_(REFUSED))
    told = map(orjson.loads, (await connection.execute(query)).scalars())
    return Counter(data.get("reason", DUPLICATE) for data in told)
