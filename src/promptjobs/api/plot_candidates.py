"""Turns a job's candidates into the figures of its front, and of what each costs and scores."""

import math
from collections.abc import Iterable, Mapping, Sequence

from sqlalchemy.ext.asyncio import AsyncConnection

from promptjobs.api.plot_facts import FULL_SHARE, NO_FRONT, NOT_BEGUN, JobFacts
from promptjobs.core.trial import Phase
from promptjobs.db import candidates, plot_data, seed_scores
from promptjobs.db.archive import ArchiveMember, read_archive
from promptjobs.db.plot_data import PlottedTrial
from promptjobs.db.seed_scores import ByPhase, Cost, PhaseScores, all_scores, search_scores
from promptjobs.plots.figures import CostPoint, CostScatter, FrontMap, FrontRow

MAX_ROWS = 24
MAX_COLUMNS = 200

Scores = Mapping[int, float]
"""By seed."""


# --- the front -------------------------------------------------------------------------------------------------------


async def front_map(connection: AsyncConnection, facts: JobFacts) -> FrontMap:
    """GEPA's front, or the configurations that MIPRO ranks first; the baseline below them."""
    archive = await read_archive(connection, facts.job_id, facts.standing)
    has_front = facts.standing.algorithm == "gepa"
    members = [member for member in archive.members if member.is_pareto or not has_front]
    shown = members[:MAX_ROWS]
    rows = await _rows(connection, facts.job_id, shown, has_front)
    seeds = _by_ease([scores for _, scores in rows])
    columns = tuple(seeds) if len(seeds) <= MAX_COLUMNS else _spread(seeds)
    note = f"{len(members)} on the front" if has_front else f"{len(members)} configurations"
    note += f", the {MAX_ROWS} best shown" if len(members) > MAX_ROWS else ""
    note += f" · {len(columns)} of {len(seeds)} seeds shown" if len(columns) < len(seeds) else ""
    title = "Pareto front, seed by seed" if has_front else "Leading configurations, seed by seed"
    return FrontMap(
        facts.heading(title, note if members else "", None if members and seeds else NO_FRONT),
        seeds=columns,
        rows=tuple(FrontRow(name, tuple(scores.get(seed) for seed in columns)) for name, scores in rows),
        eps=archive.eps,
    )


async def _rows(
    connection: AsyncConnection, job_id: str, members: Sequence[ArchiveMember], has_front: bool
) -> list[tuple[str, Scores]]:
    """Names and scores. The baseline's are those on the others' seeds."""
    baseline = await candidates.read_baseline(connection, job_id)
    ids = [member.candidate.candidate_id for member in members]
    others = [] if baseline is None or baseline.candidate_id in ids else [baseline.candidate_id]
    scores = await seed_scores.read_scores(connection, job_id, [*ids, *others])
    # What MIPRO publishes of its configurations are validation seeds, which few of them have come to.
    known: list[Scores] = [
        member.known if has_front else search_scores(scores[member.candidate.candidate_id]).scores for member in members
    ]
    rows = [(f"candidate {m.candidate.n} · {m.score:.3f}", found) for m, found in zip(members, known, strict=True)]
    seeds = {seed for found in known for seed in found}
    for other in others:
        known_of_it = all_scores(scores[other]).items()
        rows.append(("baseline", {seed: score for seed, score in known_of_it if seed in seeds}))
    return rows


def _by_ease(known: Sequence[Scores]) -> list[int]:
    """The seeds on which any was measured, the easiest first."""
    by_seed: dict[int, list[float]] = {}
    for scores in known:
        for seed, score in scores.items():
            by_seed.setdefault(seed, []).append(score)
    return sorted(by_seed, key=lambda seed: (-math.fsum(by_seed[seed]) / len(by_seed[seed]), seed))


def _spread(seeds: Sequence[int]) -> tuple[int, ...]:
    return tuple(seeds[at * len(seeds) // MAX_COLUMNS] for at in range(MAX_COLUMNS))


# --- cost and score --------------------------------------------------------------------------------------------------

COST_GROUPS = ("on few seeds", "fully evaluated", "baseline", "best")


async def cost_scatter(connection: AsyncConnection, facts: JobFacts) -> CostScatter:
    """A candidate by what a rollout with it costs, and by its mean on the search's seeds."""
    trials = await plot_data.read_trials(connection, facts.job_id)
    by_candidate = _by_candidate(trials)
    baselines = {trial.candidate_id for trial in trials if trial.is_baseline}
    costs = await seed_scores.read_costs(connection, facts.job_id, list(by_candidate))
    is_priced = bool(costs) and all(cost.cost_usd is not None for cost in costs.values())
    first = next((t for t in trials if t.is_baseline and t.phase is Phase.OPTIMIZATION), None)
    needed = FULL_SHARE * len(first.seeds) if first is not None else 0.0
    points = []
    for candidate_id, by_phase in by_candidate.items():
        scores, cost = search_scores(by_phase), costs.get(candidate_id)
        if scores.mean is None or cost is None or not cost.rollouts:
            continue
        group = int(len(scores.scores) >= needed)
        group = 3 if candidate_id == facts.standing.best_id else 2 if candidate_id in baselines else group
        points.append(CostPoint(_per_rollout(cost, is_priced), scores.mean, group))
    return CostScatter(
        facts.heading("Cost and score of the candidates", f"{len(points)} candidates", None if points else NOT_BEGUN),
        unit="USD for 1,000 rollouts" if is_priced else "tokens of a rollout, on average",
        score_label="mean score in the search (0 to 1)",
        groups=COST_GROUPS,
        points=tuple(points),
        accompanying=(0,),
    )


def _by_candidate(trials: Iterable[PlottedTrial]) -> dict[str, ByPhase]:
    found: dict[str, ByPhase] = {}
    for trial in trials:
        known = found.setdefault(trial.candidate_id, {}).setdefault(trial.phase, PhaseScores())
        for seed, score in zip(trial.seeds, trial.scores, strict=True):
            known.add(seed, score)
    return found


def _per_rollout(cost: Cost, is_priced: bool) -> float:
    if is_priced:
        return 1000 * (cost.cost_usd or 0.0) / cost.rollouts
    return cost.tokens / cost.rollouts
