"""Experiments as the JSON that clients read; what their jobs show is derived from rows, and stored nowhere else."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy.ext.asyncio import AsyncConnection

from promptjobs.core.job_progress import STUCK_SECONDS, Course, eta_of_all, fraction_done
from promptjobs.db.events import LastEvent, read_last
from promptjobs.db.experiment_standing import OpenJob, OverJobs, Totals, read_open, read_over, read_totals
from promptjobs.db.experiments import ExperimentRow
from promptjobs.db.jobs import JobRow, JobStatus
from promptjobs.jobs.experiments import ExperimentView

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Standing:
    """How the jobs of an experiment stand: those that are not over, those that are, and what all have spent."""

    open: Sequence[OpenJob]
    over: OverJobs
    totals: Totals


async def experiment_objects(connection: AsyncConnection, rows: Sequence[ExperimentRow]) -> list[Json]:
    """As in lists: without their jobs."""
    standings = await _read(connection, [row.id for row in rows])
    # In a thread, here and below: their configs may be megabytes together, and others are served meanwhile.
    return await asyncio.to_thread(lambda: [experiment_object(row, standings[row.id]) for row in rows])


async def experiment_with_jobs(connection: AsyncConnection, view: ExperimentView) -> Json:
    """One experiment, with its jobs."""
    standing = (await _read(connection, [view.row.id]))[view.row.id]
    told = await read_last(connection, [job.id for job in view.jobs])
    by_id = {job.job_id: job for job in standing.open}

    def written() -> Json:
        jobs = [experiment_job(job, by_id.get(job.id), told.get(job.id)) for job in view.jobs]
        return {**experiment_object(view.row, standing), "jobs": jobs}

    return await asyncio.to_thread(written)


async def _read(connection: AsyncConnection, ids: Sequence[str]) -> Mapping[str, Standing]:
    open_jobs: dict[str, list[OpenJob]] = {experiment_id: [] for experiment_id in ids}
    for job in await read_open(connection, ids):
        open_jobs[job.experiment_id].append(job)
    over, totals = await read_over(connection, ids), await read_totals(connection, ids)
    none, nothing = OverJobs(0, 0.0), Totals(0, 0.0, 0)
    return {each: Standing(open_jobs[each], over.get(each, none), totals.get(each, nothing)) for each in ids}


def course_of(job: OpenJob) -> Course:
    if job.config is None:
        return Course(0.0, job.running_seconds)
    config = orjson.loads(job.config)
    progress = None if job.progress is None else orjson.loads(job.progress)
    return Course(fraction_done(progress, config[config["algorithm"]]), job.running_seconds)


# --- the experiment --------------------------------------------------------------------------------------------------


def experiment_object(row: ExperimentRow, standing: Standing) -> Json:
    """An experiment without its jobs."""
    courses = [course_of(job) for job in standing.open]
    done = row.num_jobs - len(courses) + sum(course.fraction for course in courses)
    totals = standing.totals
    return {
        "experiment_id": row.id,
        "id": row.id,
        "organisation": row.organisation,
        "name": row.name,
        "description": row.description,
        "status": row.status,
        "parallelism": row.parallelism,
        "num_jobs": row.num_jobs,
        "counts": counts_json(row),
        "progress_pct": 100 * done / row.num_jobs if row.num_jobs else 0.0,
        "eta_seconds": _eta_seconds(row, standing, courses),
        "total_tokens": totals.tokens,
        "total_cost_usd": None if totals.unpriced_calls else totals.usd,
        "created_at": row.created_at,
        "started_at": row.started_at,
        "finished_at": row.finished_at,
        "updated_at": row.updated_at,
        "cancel_requested_at": row.cancel_requested_at,
        "metadata": orjson.Fragment(row.metadata),
    }


def counts_json(row: ExperimentRow) -> dict[str, int]:
    """Its jobs by status, every status among them."""
    return {status.value: row.counts.get(status, 0) for status in JobStatus}


def _eta_seconds(row: ExperimentRow, standing: Standing, courses: Sequence[Course]) -> float | None:
    """Until all jobs are over but those that are set aside; None where it cannot be told, or where all others are.

    courses: of the open jobs, in their order.
    """
    if row.status.is_terminal:
        return 0.0
    by_status = [(job.status, course) for job, course in zip(standing.open, courses, strict=True)]
    running = [course for status, course in by_status if status is JobStatus.RUNNING]
    waiting = [course for status, course in by_status if status is JobStatus.QUEUED]
    over = [Course(1.0, standing.over.mean_seconds)] * standing.over.count
    return eta_of_all(row.parallelism, over, running, waiting) if running or waiting else None


# --- its jobs --------------------------------------------------------------------------------------------------------


def experiment_job(row: JobRow, job: OpenJob | None, told: LastEvent | None) -> Json:
    """A job in its experiment. job: None for one that is over. told: its last event."""
    return {
        "job_id": row.id,
        "position": row.experiment_position,
        "label": row.experiment_label,
        "group": row.experiment_group,
        "settings": orjson.Fragment(row.experiment_settings or "{}"),
        "algorithm": row.algorithm,
        "status": row.status,
        "error": row.error,
        "finish_reason": row.finish_reason,
        "created_at": row.created_at,
        "started_at": row.started_at,
        "finished_at": row.finished_at,
        "status_json": status_json(row, job, told),
    }


def status_json(row: JobRow, job: OpenJob | None, told: LastEvent | None) -> Json:
    """How far a job has come, by the names that the SDK's queue of experiments has for it. job: None for one that is
    over, and has come to its end however it has ended.
    """
    # As it is stored, also by another version: one job that cannot be run here must not hide the others.
    config = orjson.loads(row.config)
    progress = {} if row.progress is None else orjson.loads(row.progress)
    figures = _figures(row, progress)
    total = progress.get("rollouts_total", config[config["algorithm"]]["rollout_budget"])
    course = Course(1.0, 0.0) if job is None else course_of(job)
    silent = job.silent_seconds if job is not None and job.status is JobStatus.RUNNING else None
    return {
        "job_id": row.id,
        "backend_job_id": row.id,
        "policy": f"{config['policy']['provider']}/{config['policy']['model']}",
        "environment": config["task_app"]["env_name"],
        "phase": progress.get("phase"),
        "rollouts_completed": min(total, figures["rollouts_completed"]),
        "total_rollouts": total,
        "trials_completed": progress.get("transformations_tried", 0),
        "trials_total": progress.get("transformations_planned"),
        "current_trial": figures["trials"],
        "best_score": figures["best_score"],
        "best_score_seeds": figures["best_score_seeds"],
        "baseline_score": figures["baseline_score"],
        "total_tokens": row.spent.account.settled.tokens,
        "total_cost_usd": None if row.spent.unpriced_calls else float(row.spent.account.settled.usd),
        "progress_pct": 100 * course.fraction,
        "eta_seconds": None if row.status is JobStatus.PAUSED else course.eta_seconds,
        "last_event": told,
        "last_event_seq": told.seq if told else 0,
        "time_since_progress_seconds": silent,
        "stuck_warning": silent is not None and silent >= STUCK_SECONDS,
    }


def _figures(row: JobRow, progress: Mapping[str, Any]) -> Json:
    """Of a job that is over what it has published, which is complete; else, and for one that nobody has run, what its
    progress says."""
    stats = orjson.loads(row.metadata).get("stats") if row.status.is_terminal and row.started_at else None
    if stats is None:
        return {
            "rollouts_completed": progress.get("rollouts_completed", 0),
            "trials": progress.get("trials_completed", 0),
            "best_score": progress.get("best_score"),
            "best_score_seeds": progress.get("best_score_seeds"),
            "baseline_score": progress.get("baseline_score"),
        }
    return {
        "rollouts_completed": stats["total_rollouts"] - stats.get("test_rollouts_executed", 0),
        "trials": stats.get("total_trials_evaluated", progress.get("trials_completed", 0)),
        "best_score": row.best_score,
        "best_score_seeds": stats.get("best_score_seeds"),
        "baseline_score": stats.get("baseline_score"),
    }
