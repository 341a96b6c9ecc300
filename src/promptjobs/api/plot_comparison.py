"""Turns what a job's best and its baseline have scored on the same seeds into figures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncConnection

from promptjobs.api.plot_facts import NO_BEST, JobFacts
from promptjobs.core.trial import Phase
from promptjobs.core.verdict import Estimate, paired_difference
from promptjobs.db import candidates, seed_scores
from promptjobs.db.seed_scores import PhaseScores, search_scores
from promptjobs.plots.figures import Differences, Distribution, SeedScores

SETS = {Phase.TEST: "test", Phase.VALIDATION: "validation"}
SEARCH = "search"
SAME = "no candidate is better: the best is the baseline"


@dataclass(frozen=True, slots=True)
class SetPair:
    """Best and baseline on the seeds of a set that both have a score on."""

    name: str
    best: Mapping[int, float]
    baseline: Mapping[int, float]


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
    ours, theirs = scores[best_id], scores[baseline.candidate_id]
    none = PhaseScores()
    held_out = [_pair(name, ours.get(phase, none), theirs.get(phase, none)) for phase, name in SETS.items()]
    searched = _pair(SEARCH, search_scores(ours), search_scores(theirs))
    found = [each for each in held_out if each.best] or ([searched] if searched.best else [])
    return Compared(found, best_id == baseline.candidate_id)


def _pair(name: str, best: PhaseScores, baseline: PhaseScores) -> SetPair:
    seeds = sorted(best.scores.keys() & baseline.scores.keys())
    return SetPair(name, {s: best.scores[s] for s in seeds}, {s: baseline.scores[s] for s in seeds})


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
    interval = "" if found.low is None or found.high is None else f" (95 %: {found.low:+.3f} to {found.high:+.3f})"
    return f"{found.mean:+.3f}{interval}"
