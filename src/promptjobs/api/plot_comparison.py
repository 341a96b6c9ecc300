"""Turns what a job's best and its baseline have scored on the same seeds into figures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncConnection

from promptjobs.api.plot_facts import NO_BEST, JobFacts
from promptjobs.core.result import Measured
from promptjobs.core.seed_sets import SeedSet, measured_sets
from promptjobs.core.verdict import Estimate, paired_difference
from promptjobs.db import candidates, seed_scores
from promptjobs.plots.figures import Differences, Distribution, SeedScores

SAME = "no candidate is better: the best is the baseline"


@dataclass(frozen=True, slots=True)
class SetPair:
    """Best and baseline on the seeds of a set that both have a score on, in the order of the seeds."""

    name: SeedSet
    best: Mapping[int, float]
    baseline: Mapping[int, float]

    @staticmethod
    def of(name: SeedSet, measured: Measured) -> "SetPair":
        seeds = sorted(measured.best.keys() & measured.baseline.keys())
        return SetPair(name, {s: measured.best[s] for s in seeds}, {s: measured.baseline[s] for s in seeds})


@dataclass(frozen=True, slots=True)
class Compared:
    """Held-out sets, the one that weighs most first; the search's seeds where there are none. is_same: whether the best
    is the baseline itself."""

    sets: Sequence[SetPair] = ()
    is_same: bool = False


async def _compared(connection: AsyncConnection, facts: JobFacts) -> Compared:
    baseline = await candidates.read_baseline(connection, facts.job_id)
    best_id = facts.standing.best_id
    if baseline is None or best_id is None:
        return Compared()
    scores = await seed_scores.read_scores(connection, facts.job_id, [best_id, baseline.candidate_id])
    ours, theirs = (seed_scores.all_scores(scores[each]) for each in (best_id, baseline.candidate_id))
    measured = measured_sets(facts.state.config, ours, theirs)
    pairs = [SetPair.of(name, measured[name]) for name in reversed(SeedSet) if name in measured]
    found = [pair for pair in pairs if pair.best]
    held_out = [pair for pair in found if pair.name is not SeedSet.SEARCH]
    return Compared(held_out or found, best_id == baseline.candidate_id)


async def distribution(connection: AsyncConnection, facts: JobFacts) -> Distribution:
    found = await _compared(connection, facts)
    sets = tuple(
        SeedScores(f"{len(each.best)} {each.name}", tuple(each.baseline.values()), tuple(each.best.values()))
        for each in reversed(found.sets)
    )
    note = SAME if found.is_same else ""
    return Distribution(facts.heading("Scores of baseline and best", note, None if sets else NO_BEST), sets)


async def differences(connection: AsyncConnection, facts: JobFacts) -> Differences:
    title = "Best against baseline, seed by seed"
    found = await _compared(connection, facts)
    if not found.sets:
        return Differences(facts.heading(title, nothing=NO_BEST), ())
    first = found.sets[0]
    values = tuple((seed, score - first.baseline[seed]) for seed, score in first.best.items())
    mean = f"mean difference {_shown(paired_difference(first.best, first.baseline))}"
    note = f"{len(values)} {first.name} seeds · {SAME if found.is_same else mean}"
    return Differences(facts.heading(title, note), values)


def _shown(found: Estimate | None) -> str:
    if found is None:
        return "unknown"
    span = found.span("+.3f")
    return f"{found.mean:+.3f}" + ("" if span is None else f" (95 %: {span})")
