"""Turns what the jobs of an experiment have found into the figures of its plots."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncConnection

from promptjobs.core.trial import Phase
from promptjobs.core.verdict import mean_estimate
from promptjobs.db import plot_data
from promptjobs.db.experiments import ExperimentRow
from promptjobs.db.plot_data import HeldOut, PlottedJob
from promptjobs.db.seed_scores import ByPhase
from promptjobs.plots.figures import CostPoint, CostScatter, Curve, CurveBundle, GroupBars, GroupScores, Heading

NONE_BEGUN = "none of the jobs has measured anything"
SETS = {Phase.TEST: "test", Phase.VALIDATION: "validation"}
SEARCH = "search"
MAX_GROUPS = 24
"""Lines of the picture of groups; the best are drawn."""


@dataclass(frozen=True, slots=True)
class ExperimentFacts:
    """What every plot of an experiment is made from. groups: in the order of their first jobs."""

    row: ExperimentRow
    jobs: Sequence[PlottedJob]
    groups: tuple[str, ...]

    def heading(self, title: str, note: str, nothing: str | None) -> Heading:
        """nothing: why there is nothing to show, if so."""
        about = f"{len(self.jobs)} jobs, {self.row.status}"
        if nothing is not None:
            is_over = self.row.status.is_terminal
            nothing = f"Nothing to show: {nothing}." if is_over else f"Nothing to show yet: {nothing} so far."
        return Heading(f"{title}: {self.row.name}", f"{about} · {note}" if note else about, nothing)


async def read_facts(connection: AsyncConnection, row: ExperimentRow) -> ExperimentFacts:
    jobs = await plot_data.read_jobs(connection, row.id)
    return ExperimentFacts(row, jobs, tuple(dict.fromkeys(job.group for job in jobs)))


async def curve_bundle(connection: AsyncConnection, facts: ExperimentFacts) -> CurveBundle:
    found = await plot_data.read_curves(connection, [job.id for job in facts.jobs])
    curves = []
    for job in facts.jobs:
        steps = found[job.id]
        if steps:
            spent = (job.progress or {}).get("rollouts_completed", 0)
            curves.append(Curve(facts.groups.index(job.group), tuple(sorted(steps)), spent))
    note = f"{len(curves)} with a score so far" if len(curves) < len(facts.jobs) else ""
    heading = facts.heading("Learning curves", note, None if curves else NONE_BEGUN)
    return CurveBundle(heading, facts.groups, tuple(curves))


# --- what can be compared --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Measured:
    """Scores on one set of seeds by job, of the best and of the baseline; a job without a score there is missing."""

    name: str
    best: Mapping[str, float]
    baseline: Mapping[str, float]

    @property
    def score_label(self) -> str:
        return f"score of the best on the {self.name} seeds (0 to 1)"

    def note(self, num_jobs: int) -> str:
        left = num_jobs - len(self.best)
        return f"{left} without a score on the {self.name} seeds so far" if left else f"on the {self.name} seeds"


async def _measured(connection: AsyncConnection, facts: ExperimentFacts) -> Measured:
    """One set for all: the last of them that any job has reached, for a search's scores are no test's."""
    held_out = await plot_data.read_held_out(connection, facts.jobs)
    for phase, name in SETS.items():
        found = _on(phase, name, held_out)
        if found.best:
            return found
    told = {job.id: job.progress for job in facts.jobs if job.progress is not None}
    best, baseline = (
        {job_id: each[name] for job_id, each in told.items() if each.get(name) is not None}
        for name in ("best_score", "baseline_score")
    )
    return Measured(SEARCH, best, baseline)


def _on(phase: Phase, name: str, held_out: Mapping[str, HeldOut]) -> Measured:
    best = {job_id: _mean(found.best, phase) for job_id, found in held_out.items()}
    baseline = {job_id: _mean(found.baseline, phase) for job_id, found in held_out.items()}
    return Measured(
        name,
        {job_id: score for job_id, score in best.items() if score is not None},
        {job_id: score for job_id, score in baseline.items() if score is not None},
    )


def _mean(by_phase: ByPhase, phase: Phase) -> float | None:
    return by_phase[phase].mean if phase in by_phase else None


async def group_bars(connection: AsyncConnection, facts: ExperimentFacts) -> GroupBars:
    measured = await _measured(connection, facts)
    rows = [row for row in (_group(name, facts, measured) for name in facts.groups) if row is not None]
    rows.sort(key=lambda row: -row.mean)
    note = measured.note(len(facts.jobs))
    note += f" · the {MAX_GROUPS} best of {len(rows)} groups" if len(rows) > MAX_GROUPS else ""
    heading = facts.heading("Scores by group", note, None if rows else NONE_BEGUN)
    return GroupBars(heading, measured.score_label, tuple(rows[:MAX_GROUPS]))


def _group(name: str, facts: ExperimentFacts, measured: Measured) -> GroupScores | None:
    ids = [job.id for job in facts.jobs if job.group == name]
    scores = tuple(measured.best[job_id] for job_id in ids if job_id in measured.best)
    if not scores:
        return None
    found = mean_estimate(scores)
    # Equal scores of a few seeds tell no spread, and no certainty either.
    low, high = (found.low, found.high) if len(set(scores)) > 1 else (None, None)
    baselines = tuple(measured.baseline[job_id] for job_id in ids if job_id in measured.baseline)
    return GroupScores(name, scores, baselines, math.fsum(scores) / len(scores), low, high)


async def cost_scatter(connection: AsyncConnection, facts: ExperimentFacts) -> CostScatter:
    """A job by all that it has cost, the meta-model's calls among it, and by what it has come to."""
    measured = await _measured(connection, facts)
    costs = await plot_data.read_job_costs(connection, list(measured.best))
    is_priced = bool(costs) and not any(cost.unpriced_calls for cost in costs.values())
    points = [
        CostPoint(
            costs[job.id].usd if is_priced else float(costs[job.id].tokens),
            measured.best[job.id],
            facts.groups.index(job.group),
        )
        for job in facts.jobs
        if job.id in costs
    ]
    return CostScatter(
        facts.heading("Cost and score", measured.note(len(facts.jobs)), None if points else NONE_BEGUN),
        unit="USD spent by the job" if is_priced else "tokens used by the job",
        score_label=f"score on the {measured.name} seeds (0 to 1)",
        groups=facts.groups,
        points=tuple(points),
    )
