"""Reads what the jobs of an experiment have found: a few queries, however many jobs there are."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import func, select, true
from sqlalchemy.ext.asyncio import AsyncConnection

from promptjobs.core.experiment_results import JobResult
from promptjobs.core.rejections import BASELINES
from promptjobs.core.seed_sets import measured_sets
from promptjobs.db.experiment_standing import RUNNING_SECONDS, SPENT, Totals
from promptjobs.db.experiment_variants import Marked, Pair, Ranked, each, each_pair, read_variants
from promptjobs.db.jobs import JobStatus
from promptjobs.db.models import CandidateRow, Job, LedgerRow, Snapshot, TrialRow
from promptjobs.db.seed_scores import PhaseScores

Json = Mapping[str, Any]
BEST_ID = '"best_candidate_id":"'
ID_CHARACTERS = 200

COUNTERS = {
    "trials": "total_trials_evaluated",
    "trials_tried": "trials_tried",
    "rollouts": "total_rollouts",
    "failed_rollouts": "failed_rollouts",
}
"""Of a result, by the names that a job's statistics have."""


@dataclass(frozen=True, slots=True)
class _Job:
    """A row of the jobs. best_id: of its progress or, as soon as it has published, of that. state: its statistics."""

    row: Any
    config: Json
    state: Json
    best_id: str | None

    @property
    def is_over(self) -> bool:
        return JobStatus(self.row.status).is_terminal


async def read_results(
    connection: AsyncConnection, experiment_id: str, *, variants: int = 0, job_ids: Sequence[str] | None = None
) -> list[JobResult]:
    """In the order of the jobs' positions. variants: so many of each job's best prompts at most.

    job_ids: of these alone; ids that are none of the experiment's jobs are left out.
    """
    rows = (await connection.execute(_jobs(experiment_id, job_ids))).all()
    # In a thread, here and below: configs and scores may be megabytes, and others are served meanwhile.
    jobs = await asyncio.to_thread(lambda: [_job(row) for row in rows])
    ids = [job.row.id for job in jobs]
    baselines = await _read_baselines(connection, ids)
    best = {job.row.id: job.best_id for job in jobs if job.best_id is not None}
    scores = await _read_scores(connection, {*best.items(), *baselines.items()})
    spent = await _read_spent(connection, ids)
    marked = [Marked(job.row.id, job.row.best_snapshot_id, job.best_id, baselines.get(job.row.id)) for job in jobs]
    shown = await read_variants(connection, marked, variants) if variants else {}
    found = _Found(best, baselines, scores, spent, shown)
    return await asyncio.to_thread(lambda: [found.result(job) for job in jobs])


@dataclass(frozen=True, slots=True)
class _Found:
    """What the jobs have come to, by their ids. best, baselines: ids of candidates, by which `scores` are known."""

    best: Mapping[str, str]
    baselines: Mapping[str, str]
    scores: Mapping[Pair, Mapping[int, float]]
    spent: Mapping[str, Totals]
    shown: Mapping[str, Ranked]

    def result(self, job: _Job) -> JobResult:
        job_id = job.row.id
        both = (self.best, self.baselines)
        ours, theirs = (self.scores.get((job_id, ids_of.get(job_id, "")), {}) for ids_of in both)
        totals = self.spent.get(job_id, Totals(0, 0.0, 0))
        ranked = self.shown.get(job_id, Ranked(0, ()))
        return JobResult(
            **_told(job),
            total_tokens=totals.tokens,
            cost_usd=totals.usd,
            unpriced_calls=totals.unpriced_calls,
            best_id=job.best_id,
            baseline_id=self.baselines.get(job_id),
            measured=measured_sets(job.config, ours, theirs),
            variants=ranked.variants,
            num_variants=ranked.total,
        )


def _told(job: _Job) -> dict[str, Any]:
    """What the job's own row says."""
    row, config = job.row, job.config
    return {
        "job_id": row.id,
        "position": row.experiment_position,
        "label": row.experiment_label,
        "group": row.experiment_group,
        "settings": orjson.loads(row.experiment_settings),
        "algorithm": row.algorithm,
        "status": row.status,
        "is_over": job.is_over,
        "policy": f"{config['policy']['provider']}/{config['policy']['model']}",
        "seed": config[row.algorithm]["rng_seed"],
        "finish_reason": row.finish_reason,
        "error": row.error,
        "seconds": None if row.seconds is None else max(0.0, round(row.seconds, 3)),
        **{name: job.state.get(counter, 0) for name, counter in COUNTERS.items()},
    }


# --- jobs ------------------------------------------------------------------------------------------------------------


def _jobs(experiment_id: str, job_ids: Sequence[str] | None) -> Any:
    """The rows that results are made of, without their payloads."""
    # The first of the names in the payload is its own: what stands before it is text, in which quotes are escaped. The
    # payload is not cast, since a prompt may hold what the cast refuses.
    at = func.strpos(Snapshot.payload, BEST_ID)
    best_id = func.substr(Snapshot.payload, at + len(BEST_ID), ID_CHARACTERS)
    query = (
        select(
            Job.id,
            Job.experiment_position,
            Job.experiment_label,
            Job.experiment_group,
            Job.experiment_settings,
            Job.algorithm,
            Job.status,
            Job.config,
            Job.metadata_json.label("metadata"),
            Job.progress,
            Job.finish_reason,
            Job.error,
            Job.best_snapshot_id,
            Job.started_at,
            RUNNING_SECONDS.label("seconds"),
            func.nullif(at, 0).label("has_best"),
            best_id.label("best_id"),
        )
        .outerjoin(Snapshot, Snapshot.id == Job.best_snapshot_id)
        .where(Job.experiment_id == experiment_id)
        .order_by(Job.experiment_position)
    )
    return query if job_ids is None else query.where(Job.id.in_(job_ids))


def _job(row: Any) -> _Job:
    """What it says of itself while it runs stands in its progress; afterwards in its metadata, among the client's."""
    progress = {} if row.progress is None else orjson.loads(row.progress)
    is_published = JobStatus(row.status).is_terminal and row.started_at is not None
    state = orjson.loads(row.metadata).get("stats", progress) if is_published else progress
    published = row.best_id.partition('"')[0] if row.has_best else None
    best_id = progress.get("best_candidate_id") if row.best_snapshot_id is None else published
    return _Job(row, orjson.loads(row.config), state, best_id)


async def _read_baselines(connection: AsyncConnection, job_ids: Sequence[str]) -> dict[str, str]:
    """By job, the prompt that all others are compared with: the newest, where the task app's own came first."""
    wanted = each(job_ids)
    newest = (
        select(CandidateRow.candidate_id)
        .where(CandidateRow.job_id == wanted.c.job_id, CandidateRow.operator.in_(BASELINES))
        .order_by(CandidateRow.n.desc())
        .limit(1)
        .lateral("newest")
    )
    query = select(wanted.c.job_id, newest.c.candidate_id).select_from(wanted).join(newest, true())
    return {row.job_id: row.candidate_id for row in await connection.execute(query)}


async def _read_scores(connection: AsyncConnection, pairs: set[Pair]) -> dict[Pair, Mapping[int, float]]:
    """By seed, whatever they were measured for: the seeds of a job's sets are apart."""
    wanted = each_pair(pairs)
    query = (
        select(TrialRow.job_id, TrialRow.candidate_id, TrialRow.seeds, TrialRow.scores)
        .join(wanted, (wanted.c.job_id == TrialRow.job_id) & (wanted.c.candidate_id == TrialRow.candidate_id))
        .order_by(TrialRow.job_id, TrialRow.n)
    )
    return await asyncio.to_thread(_by_pair, (await connection.execute(query)).all())


def _by_pair(trials: Sequence[Any]) -> dict[Pair, Mapping[int, float]]:
    """trials: (job, candidate, seeds, scores as JSON text), in their order."""
    found: dict[Pair, PhaseScores] = {}
    for job_id, candidate_id, seeds, scores in trials:
        known = found.setdefault((job_id, candidate_id), PhaseScores())
        for seed, score in zip(seeds, orjson.loads(scores), strict=True):
            known.add(seed, score)
    return {pair: known.scores for pair, known in found.items()}


async def _read_spent(connection: AsyncConnection, job_ids: Sequence[str]) -> dict[str, Totals]:
    """By job; those without a call are left out."""
    query = select(LedgerRow.job_id, *SPENT).where(LedgerRow.job_id.in_(job_ids)).group_by(LedgerRow.job_id)
    return {row.job_id: Totals.of(row) for row in await connection.execute(query)}
