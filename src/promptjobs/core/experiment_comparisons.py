"""Who is better among the jobs of an experiment, and among its groups, when all that was looked at is counted."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, TypeVar

from promptjobs.core.comparison import ALPHA, NOTHING, Comparison, compare, holm
from promptjobs.core.experiment_groups import GroupResult, groups_of
from promptjobs.core.experiment_results import JobResult, last_set, row_json
from promptjobs.core.run_comparison import RunComparison, compare_runs
from promptjobs.core.seed_sets import SeedSet

Json = dict[str, Any]
Side = TypeVar("Side")
Compared = TypeVar("Compared", "JobComparison", "GroupComparison")

MAX_COMPARED = 50
"""Jobs that are compared each with each."""

MAX_GROUPS_PAIRED = 25
"""Of more groups only who leads is compared with the others, unless all are asked for: that takes seconds."""

NO_SEEDS = "they have no scored seeds in common"
ONE_RUN = "one run of a group tells nothing of how runs differ"
ONE_SEED = "one seed tells nothing of how seeds differ"


class Compare(StrEnum):
    """Which comparisons are asked for: of who leads with each other one, of each with each, or none."""

    LEADER = "leader"
    ALL = "all"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class JobComparison:
    """The best prompts of two jobs on one set of seeds, None where they have none in common. p_adjusted: by Holm."""

    first: JobResult
    second: JobResult
    seeds: SeedSet | None
    found: Comparison
    p_adjusted: float | None

    @property
    def winner(self) -> JobResult | None:
        return _winner(self.first, self.second, self.found, self.p_adjusted)

    @property
    def note(self) -> str | None:
        if not self.found.num_seeds:
            return NO_SEEDS
        return ONE_SEED if self.found.p_value is None else None

    def to_json(self) -> Json:
        return {
            "first": self.first.job_id,
            "second": self.second.job_id,
            "first_label": self.first.label,
            "second_label": self.second.label,
            "seeds": self.seeds,
            **_figures(self.found, self.p_adjusted),
            "winner": None if self.winner is None else self.winner.job_id,
            "seeds_needed": self.found.seeds_needed,
            "note": self.note,
        }


@dataclass(frozen=True, slots=True)
class GroupComparison:
    """Two groups on one set of seeds, over the runs of each."""

    first: GroupResult
    second: GroupResult
    seeds: SeedSet | None
    found: RunComparison
    p_adjusted: float | None

    @property
    def winner(self) -> GroupResult | None:
        return _winner(self.first, self.second, self.found, self.p_adjusted)

    @property
    def note(self) -> str | None:
        if not self.found.num_seeds:
            return NO_SEEDS
        if self.found.p_value is not None:
            return None
        return ONE_RUN if min(self.found.our_runs, self.found.their_runs) < 2 else ONE_SEED

    def to_json(self) -> Json:
        return {
            "first": self.first.group,
            "second": self.second.group,
            "first_runs": self.found.our_runs,
            "second_runs": self.found.their_runs,
            "seeds": self.seeds,
            **_figures(self.found, self.p_adjusted),
            "winner": None if self.winner is None else self.winner.group,
            "seeds_needed": self.found.seeds_needed,
            "runs_needed": self.found.runs_needed,
            "note": self.note,
        }


def _figures(found: Comparison | RunComparison, p_adjusted: float | None) -> Json:
    return {
        "num_seeds": found.num_seeds,
        "difference": found.difference and found.difference.to_json(),
        "wins": found.wins,
        "losses": found.losses,
        "ties": found.ties,
        "p_value": found.p_value,
        "p_adjusted": p_adjusted,
        "test": found.method,
    }


def _winner(first: Side, second: Side, found: Comparison | RunComparison, p_adjusted: float | None) -> Side | None:
    if p_adjusted is None or p_adjusted >= ALPHA or found.difference is None:
        return None
    return first if found.difference.mean > 0 else second


# --- jobs ------------------------------------------------------------------------------------------------------------


def compare_jobs(results: Sequence[JobResult], wanted: Compare) -> list[JobComparison]:
    """Of the jobs that have a score. Who leads stands first in its comparisons; else who has the smaller position.

    Each is adjusted as one of all pairs of those jobs: who leads was found by looking at all of them. Up to
    MAX_COMPARED jobs all pairs are compared, whatever is shown, so that a pair has the same figures in either view.
    """
    scored = [result for result in results if result.eval_set is not None]
    leader = leading(scored)
    if wanted is Compare.NONE or leader is None:
        return []
    pairs = _oriented(scored, leader)
    if len(scored) > MAX_COMPARED and wanted is Compare.LEADER:
        pairs = [pair for pair in pairs if leader in pair]
    found = _adjusted([compared(first, second) for first, second in pairs], _pairs(len(scored)))
    return [each for each in found if wanted is Compare.ALL or leader in (each.first, each.second)]


def _oriented(sides: Sequence[Side], leader: Side | None) -> list[tuple[Side, Side]]:
    """All pairs, each in its order, but who leads first."""
    pairs = itertools.combinations(sides, 2)
    return [(second, first) if second is leader else (first, second) for first, second in pairs]


def compared(first: JobResult, second: JobResult, wanted: SeedSet | None = None) -> JobComparison:
    """wanted: on which seeds; None: on the last set that both have scores in, at best on common seeds.

    p_adjusted is that of this comparison alone.
    """
    names = [wanted] if wanted is not None else list(reversed(SeedSet))
    both = [name for name in names if _scores(first, name) and _scores(second, name)]
    found: dict[SeedSet, Comparison] = {}
    for name in both:
        found[name] = compare(_scores(first, name), _scores(second, name))
        if found[name].num_seeds:
            return JobComparison(first, second, name, found[name], found[name].p_value)
    return JobComparison(first, second, both[0] if both else wanted, NOTHING, None)


def leading(results: Sequence[JobResult]) -> JobResult | None:
    """Whose best prompt has the highest mean on the last set that any was measured on; of equal ones the first."""
    name = last_set(results)
    known = [(found.mean, -result.position, result) for result in results if (found := result.on(name).best)]
    return max(known, key=lambda each: each[:2])[2] if known else None


def _scores(result: JobResult, name: SeedSet) -> Mapping[int, float]:
    return result.measured[name].best if name in result.measured else {}


def _pairs(count: int) -> int:
    return count * (count - 1) // 2


# --- groups ----------------------------------------------------------------------------------------------------------


def compare_groups(groups: Sequence[GroupResult], wanted: Compare) -> list[GroupComparison]:
    """Of the groups that have a score, where any has several runs. Who leads is compared with all others, and with each
    other are those that differ in one setting; or each with each.

    They are adjusted like those of jobs.
    """
    scored = [group for group in groups if group.eval_set is not None]
    if wanted is Compare.NONE or all(len(group.jobs) < 2 for group in scored):
        return []
    leader = _leading_group(scored)
    pairs = _oriented(scored, leader)
    if len(scored) > MAX_GROUPS_PAIRED and wanted is Compare.LEADER:
        pairs = [pair for pair in pairs if leader in pair]
    found = _adjusted([_compared_groups(first, second) for first, second in pairs], _pairs(len(scored)))
    return [
        each
        for each in found
        if wanted is Compare.ALL
        or leader in (each.first, each.second)
        or _differ_in_one(each.first.settings, each.second.settings)
    ]


def _compared_groups(first: GroupResult, second: GroupResult) -> GroupComparison:
    found, shown = RunComparison(0, 0, 0), None
    for name in reversed(SeedSet):
        ours, theirs = ([s for job in group.jobs if (s := _scores(job, name))] for group in (first, second))
        if ours and theirs:
            known = compare_runs(ours, theirs)
            if known.num_seeds or shown is None:
                found, shown = known, name
            if known.num_seeds:
                break
    return GroupComparison(first, second, shown, found, found.p_value)


def _leading_group(groups: Sequence[GroupResult]) -> GroupResult | None:
    name = last_set([job for group in groups for job in group.jobs])
    known = [group for group in groups if group.eval_set is name]
    return max(known, key=lambda group: group.best.mean or 0.0, default=None)


def _differ_in_one(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    names = first.keys() | second.keys()
    return [first.get(name) == second.get(name) for name in names].count(False) == 1


def _adjusted(found: list[Compared], family: int) -> list[Compared]:
    adjusted = holm([each.found.p_value for each in found], family)
    return [replace(each, p_adjusted=p) for each, p in zip(found, adjusted, strict=True)]


# --- all of it -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ExperimentResults:
    """All that an experiment has found so far. experiment: itself, in a few fields of JSON."""

    experiment: Mapping[str, Any]
    jobs: Sequence[JobResult]
    groups: Sequence[GroupResult]
    comparisons: Sequence[JobComparison]
    group_comparisons: Sequence[GroupComparison]

    @staticmethod
    def of(experiment: Mapping[str, Any], jobs: Sequence[JobResult], wanted: Compare) -> "ExperimentResults":
        groups = groups_of(jobs)
        return ExperimentResults(experiment, jobs, groups, compare_jobs(jobs, wanted), compare_groups(groups, wanted))

    def to_json(self) -> Json:
        return {
            "experiment": dict(self.experiment),
            "jobs": [row_json(job) for job in self.jobs],
            "groups": [group.to_json() for group in self.groups],
            "comparisons": [each.to_json() for each in self.comparisons],
            "group_comparisons": [each.to_json() for each in self.group_comparisons],
        }
