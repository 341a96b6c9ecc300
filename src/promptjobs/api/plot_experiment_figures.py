"""Turns what the jobs of an experiment have found into the figures of its plots."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncConnection

from promptjobs.api.plot_facts import headed
from promptjobs.core.experiment_results import JobResult, counted_jobs, last_set
from promptjobs.core.seed_sets import SeedSet
from promptjobs.core.verdict import mean_estimate
from promptjobs.db import plot_data
from promptjobs.db.experiment_results import read_results
from promptjobs.db.experiments import ExperimentRow
from promptjobs.plots.figures import CostPoint, CostScatter, Curve, CurveBundle, GroupBars, GroupScores, Heading

NONE_BEGUN = "none of the jobs has measured anything"
MAX_GROUPS = 24
"""Lines of the picture of groups; the best are drawn."""


@dataclass(frozen=True, slots=True)
class ExperimentFacts:
    """What every plot of an experiment is made from. groups: in the order of their first jobs."""

    row: ExperimentRow
    jobs: Sequence[JobResult]
    groups: tuple[str, ...]

    def heading(self, title: str, note: str, nothing: str | None) -> Heading:
        """nothing: why there is nothing to show, if so."""
        about = f"{counted_jobs(len(self.jobs))}, {self.row.status}"
        return headed(f"{title}: {self.row.name}", about, note, nothing, is_over=self.row.status.is_terminal)


async def read_facts(connection: AsyncConnection, row: ExperimentRow) -> ExperimentFacts:
    jobs = await read_results(connection, row.id)
    return ExperimentFacts(row, jobs, tuple(dict.fromkeys(job.group for job in jobs)))


async def curve_bundle(connection: AsyncConnection, facts: ExperimentFacts) -> CurveBundle:
    found = await plot_data.read_curves(connection, [job.job_id for job in facts.jobs])
    curves = [
        Curve(facts.groups.index(job.group), tuple(sorted(drawn.steps)), drawn.rollouts)
        for job in facts.jobs
        if (drawn := found.get(job.job_id)) is not None and drawn.steps
    ]
    note = f"{len(curves)} with a score so far" if len(curves) < len(facts.jobs) else ""
    heading = facts.heading("Learning curves", note, None if curves else NONE_BEGUN)
    return CurveBundle(heading, facts.groups, tuple(curves))


# --- what can be compared --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OnOneSet:
    """Scores on one set of seeds by job, of the best and of the baseline; a job without a score there is missing."""

    seeds: SeedSet
    best: Mapping[str, float]
    baseline: Mapping[str, float]

    def note(self, num_jobs: int) -> str:
        left = num_jobs - len(self.best)
        return f"{left} without a score on the {self.seeds} seeds so far" if left else f"on the {self.seeds} seeds"


def _on_one_set(facts: ExperimentFacts) -> OnOneSet:
    """One set for all: the last of them that any job has reached, for a search's scores are no test's."""
    name = last_set(facts.jobs) or SeedSet.SEARCH
    on = {job.job_id: job.on(name) for job in facts.jobs}
    best = {job_id: found.best.mean for job_id, found in on.items() if found.best is not None}
    baseline = {job_id: found.baseline.mean for job_id, found in on.items() if found.baseline is not None}
    return OnOneSet(name, best, baseline)


async def group_bars(_: AsyncConnection, facts: ExperimentFacts) -> GroupBars:
    measured = await asyncio.to_thread(_on_one_set, facts)
    rows = [row for row in (_group(name, facts, measured) for name in facts.groups) if row is not None]
    rows.sort(key=lambda row: -row.mean)
    note = measured.note(len(facts.jobs))
    note += f" · the {MAX_GROUPS} best of {len(rows)} groups" if len(rows) > MAX_GROUPS else ""
    heading = facts.heading("Scores by group", note, None if rows else NONE_BEGUN)
    score_label = f"score of the best on the {measured.seeds} seeds (0 to 1)"
    return GroupBars(heading, score_label, tuple(rows[:MAX_GROUPS]))


def _group(name: str, facts: ExperimentFacts, measured: OnOneSet) -> GroupScores | None:
    ids = [job.job_id for job in facts.jobs if job.group == name]
    scores = tuple(measured.best[job_id] for job_id in ids if job_id in measured.best)
    if not scores:
        return None
    found = mean_estimate(scores)
    # Equal scores of a few seeds tell no spread, and no certainty either.
    low, high = (found.low, found.high) if len(set(scores)) > 1 else (None, None)
    baselines = tuple(measured.baseline[job_id] for job_id in ids if job_id in measured.baseline)
    return GroupScores(name, scores, baselines, found.mean, low, high)


async def cost_scatter(_: AsyncConnection, facts: ExperimentFacts) -> CostScatter:
    """A job by all that it has cost, the meta-model's calls among it, and by what it has come to."""
    measured = await asyncio.to_thread(_on_one_set, facts)
    jobs = [job for job in facts.jobs if job.job_id in measured.best]
    is_priced = not any(job.unpriced_calls for job in jobs)
    points = [
        CostPoint(
            job.cost_usd if is_priced else float(job.total_tokens),
            measured.best[job.job_id],
            facts.groups.index(job.group),
        )
        for job in jobs
    ]
    return CostScatter(
        facts.heading("Cost and score", measured.note(len(facts.jobs)), None if points else NONE_BEGUN),
        unit="USD spent by the job" if is_priced else "tokens used by the job",
        score_label=f"score on the {measured.seeds} seeds (0 to 1)",
        groups=facts.groups,
        points=tuple(points),
    )
