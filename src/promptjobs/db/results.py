"""Queries of what a job has found: trials, rollouts, the learning curve, snapshots, artifacts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any

import orjson
from sqlalchemy import Select, bindparam, literal, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import InstrumentedAttribute

from promptjobs.core.archive import Candidate
from promptjobs.core.asks import Tier
from promptjobs.core.trial import Phase, Trial
from promptjobs.db import events
from promptjobs.db.columns import columns_of, created_at_of
from promptjobs.db.history import candidate_from, trial_from
from promptjobs.db.models import Artifact, CandidateRow, RolloutRow, Snapshot, TrialRow
from promptjobs.db.statements import Statement
from promptjobs.errors import InvalidRequest, SnapshotNotFound

CURVE_TYPES = (
    "prompt.learning.gepa.baseline",
    "prompt.learning.gepa.new_best",
    "prompt.learning.mipro.baseline",
    "mipro.new_incumbent",
)
MAX_CURVE = 10_000


@dataclass(frozen=True, slots=True)
class Page:
    """Part of a list. after: the number of the item behind which it starts; since: created then or later."""

    limit: int
    after: int | None = None
    offset: int = 0
    since: datetime | None = None


# --- trials and rollouts ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StoredTrial:
    trial: Trial
    created_at: datetime


@dataclass(frozen=True, slots=True)
class StoredRollout:
    """An answered rollout. tokens are those of all its calls; body: JSON text, where it was asked for."""

    key: bytes
    candidate_id: str
    seed: int
    draw: int
    phase: str
    is_baseline: bool
    tier: str
    score: float | None
    reason: str | None
    detail: str | None
    prompt_tokens: int
    completion_tokens: int
    unknown_tokens: int
    cost_usd: float | None
    seconds: float
    attempts: int
    created_at: datetime
    body: str | None = None

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens + self.unknown_tokens


ROLLOUT_COLUMNS = columns_of(StoredRollout, RolloutRow)


async def read_trials(
    connection: AsyncConnection, job_id: str, page: Page, phase: Phase | None = None, candidate_id: str | None = None
) -> list[StoredTrial]:
    """Trials in their order."""
    query = select(TrialRow.__table__).where(TrialRow.job_id == job_id).order_by(TrialRow.n)
    if phase is not None:
        query = query.where(TrialRow.phase == phase)
    if candidate_id is not None:
        query = query.where(TrialRow.candidate_id == candidate_id)
    query = _paged(query, page, TrialRow.n, TrialRow.created_at)
    return [
        StoredTrial(trial_from(dict(row)), row["created_at"]) for row in (await connection.execute(query)).mappings()
    ]


async def read_trial_rollouts(
    connection: AsyncConnection, job_id: str, trials: Sequence[Trial]
) -> list[tuple[StoredRollout, ...]]:
    """For each trial the rollouts that its scores come from, in the order of its seeds; without bodies.

    A seed that was drawn again has several rollouts: the one whose outcome is the trial's is taken, and the last where
    none is, because a judge has scored it.
    """
    candidates = sorted({trial.candidate_id for trial in trials})
    seeds = sorted({seed for trial in trials for seed in trial.seeds})
    query = (
        select(*ROLLOUT_COLUMNS)
        .where(RolloutRow.job_id == job_id, RolloutRow.candidate_id.in_(candidates), RolloutRow.seed.in_(seeds))
        .where(RolloutRow.tier == Tier.HI)
        .order_by(RolloutRow.draw)
    )
    drawn: dict[tuple[str, int], list[StoredRollout]] = {}
    for row in await connection.execute(query):
        rollout = StoredRollout(*tuple(row))
        drawn.setdefault((rollout.candidate_id, rollout.seed), []).append(rollout)
    return [_of_trial(trial, drawn) for trial in trials]


def _of_trial(trial: Trial, drawn: dict[tuple[str, int], list[StoredRollout]]) -> tuple[StoredRollout, ...]:
    found = []
    for seed, score in zip(trial.seeds, trial.scores, strict=True):
        rollouts = drawn.get((trial.candidate_id, seed), [])
        matching = [rollout for rollout in rollouts if rollout.score == score] or rollouts
        found += matching[-1:]
    return tuple(found)


@dataclass(frozen=True, slots=True)
class RolloutFilter:
    """Which rollouts to list. after: the key of the rollout behind which the page starts."""

    limit: int
    after: bytes | None = None
    candidate_id: str | None = None
    seed: int | None = None
    phase: Phase | None = None


async def read_rollouts(connection: AsyncConnection, job_id: str, wanted: RolloutFilter) -> list[StoredRollout]:
    """Rollouts with their bodies, ordered by candidate, seed and draw, which never changes while a job runs.

    Raises InvalidRequest for a cursor that is no rollout of the job.
    """
    order = (RolloutRow.candidate_id, RolloutRow.seed, RolloutRow.draw, RolloutRow.key)
    query = select(*ROLLOUT_COLUMNS, RolloutRow.body).where(RolloutRow.job_id == job_id).order_by(*order)
    if wanted.after is not None:
        cursor = select(*order).where(RolloutRow.job_id == job_id, RolloutRow.key == wanted.after)
        found = (await connection.execute(cursor)).first()
        if found is None:
            raise InvalidRequest(f"there is no rollout {wanted.after.hex()!r}", "after")
        query = query.where(tuple_(*order) > tuple_(*(literal(value) for value in found)))
    if wanted.candidate_id is not None:
        query = query.where(RolloutRow.candidate_id == wanted.candidate_id)
    if wanted.seed is not None:
        query = query.where(RolloutRow.seed == wanted.seed)
    if wanted.phase is not None:
        query = query.where(RolloutRow.phase == wanted.phase)
    return [StoredRollout(*tuple(row)) for row in await connection.execute(query.limit(wanted.limit))]


@dataclass(frozen=True, slots=True)
class MeanScore:
    """A trial as a point of a metric. scored: how many rollouts the mean is taken over, at least 1."""

    n: int
    score: float
    scored: int
    phase: str
    candidate_id: str
    created_at: datetime


async def read_mean_scores(connection: AsyncConnection, job_id: str, limit: int) -> list[MeanScore]:
    """The newest `limit` trials that have a score, oldest first."""
    rows = await _mean_scores().rows(connection, job_id=job_id, limit=limit)
    return [
        MeanScore(n, score, len(seeds) - failed, phase, candidate_id, created_at)
        for n, score, seeds, failed, phase, candidate_id, created_at in reversed(rows)
    ]


@cache
def _mean_scores() -> Statement:
    columns = (TrialRow.n, TrialRow.score, TrialRow.seeds, TrialRow.failed, TrialRow.phase, TrialRow.candidate_id)
    query = select(*columns, TrialRow.created_at).where(
        TrialRow.job_id == bindparam("job_id"), TrialRow.score.is_not(None)
    )
    return Statement(query.order_by(TrialRow.n.desc()).limit(bindparam("limit")))


# --- the curve -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CurveEvent:
    """A baseline or new_best event and the candidate it names; data is JSON text."""

    seq: int
    type: str
    data: str
    created_at: datetime
    candidate: Candidate | None


async def read_curve(connection: AsyncConnection, job_id: str) -> list[CurveEvent]:
    """The events by which the best score rose, in order."""
    named = await events.read_after(connection, job_id, 0, MAX_CURVE, CURVE_TYPES)
    ids = [orjson.loads(event.data)["candidate_id"] for event in named]
    query = select(CandidateRow.__table__).where(CandidateRow.job_id == job_id, CandidateRow.candidate_id.in_(ids))
    found = {row["candidate_id"]: candidate_from(dict(row)) for row in (await connection.execute(query)).mappings()}
    return [
        CurveEvent(event.seq, event.type, event.data, event.created_at, found.get(candidate_id))
        for event, candidate_id in zip(named, ids, strict=True)
    ]


def curve_step(told: Mapping[str, Any]) -> tuple[int, float] | None:
    """(rollouts, best score) that the data of an event of the curve tells of; None where nothing was scored."""
    score = told["best_score"] if "best_score" in told else told["accuracy"]
    return None if score is None else (told["rollouts_completed"], score)


# --- snapshots and artifacts -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StoredSnapshot:
    """A published result; payload is JSON text, where it was asked for."""

    id: str
    job_id: str
    label: str
    score: float | None
    score_seeds: int | None
    created_at: datetime
    payload: str | None = None


SNAPSHOT_COLUMNS = columns_of(StoredSnapshot, Snapshot)


async def read_snapshots(
    connection: AsyncConnection, job_id: str, limit: int, after: str | None = None
) -> list[StoredSnapshot]:
    """The job's snapshots, newest first, without payloads. Raises InvalidRequest for a cursor that is none of them."""
    query = select(*SNAPSHOT_COLUMNS).where(Snapshot.job_id == job_id)
    if after is not None:
        created_at = await created_at_of(connection, Snapshot, after, "snapshot", Snapshot.job_id == job_id)
        query = query.where(tuple_(Snapshot.created_at, Snapshot.id) < tuple_(literal(created_at), literal(after)))
    query = query.order_by(Snapshot.created_at.desc(), Snapshot.id.desc()).limit(limit)
    return [StoredSnapshot(*row) for row in await connection.execute(query)]


async def read_snapshot(connection: AsyncConnection, job_id: str, snapshot_id: str) -> StoredSnapshot:
    """One snapshot with its payload. Raises SnapshotNotFound, also for another job's."""
    query = select(*SNAPSHOT_COLUMNS, Snapshot.payload).where(Snapshot.job_id == job_id, Snapshot.id == snapshot_id)
    found = (await connection.execute(query)).first()
    if found is None:
        raise SnapshotNotFound(snapshot_id)
    return StoredSnapshot(*tuple(found))


@dataclass(frozen=True, slots=True)
class StoredArtifact:
    id: str
    job_id: str
    snapshot_id: str
    label: str
    kind: str
    score: float | None
    score_seeds: int | None
    created_at: datetime


ARTIFACT_COLUMNS = columns_of(StoredArtifact, Artifact)


async def read_artifacts(
    connection: AsyncConnection, job_id: str, limit: int, after: str | None = None
) -> list[StoredArtifact]:
    """The job's artifacts, oldest first. Raises InvalidRequest for a cursor that is none of them."""
    query = select(*ARTIFACT_COLUMNS).where(Artifact.job_id == job_id)
    if after is not None:
        created_at = await created_at_of(connection, Artifact, after, "artifact", Artifact.job_id == job_id)
        query = query.where(tuple_(Artifact.created_at, Artifact.id) > tuple_(literal(created_at), literal(after)))
    query = query.order_by(Artifact.created_at, Artifact.id).limit(limit)
    return [StoredArtifact(*row) for row in await connection.execute(query)]


def _paged(
    query: Select[Any], page: Page, number: InstrumentedAttribute[int], created_at: InstrumentedAttribute[datetime]
) -> Select[Any]:
    if page.after is not None:
        query = query.where(number > page.after)
    if page.since is not None:
        query = query.where(created_at >= page.since)
    return query.offset(page.offset).limit(page.limit)
