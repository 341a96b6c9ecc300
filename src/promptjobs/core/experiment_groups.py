"""What the jobs of one group, which differ in their random seed alone, have found on average."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from promptjobs.core.experiment_results import JobResult, last_set, mean_of
from promptjobs.core.seed_sets import SeedSet

Json = dict[str, Any]

SEED = "seed"
RNG_SEED = "rng_seed"


@dataclass(frozen=True, slots=True)
class Summary:
    """Mean and standard deviation over n jobs; mean is None for none, sd for fewer than two."""

    mean: float | None
    sd: float | None
    n: int

    @staticmethod
    def of(values: Sequence[float | None]) -> "Summary":
        """Of those that are known."""
        known = [value for value in values if value is not None]
        if not known:
            return Summary(None, None, 0)
        mean = math.fsum(known) / len(known)
        if len(known) == 1:
            return Summary(mean, None, 1)
        squares = math.fsum((value - mean) ** 2 for value in known)
        return Summary(mean, math.sqrt(squares / (len(known) - 1)), len(known))

    def to_json(self) -> Json:
        return {"mean": self.mean, "sd": self.sd, "n": self.n}


@dataclass(frozen=True, slots=True)
class GroupResult:
    """Jobs that differ in their random seed alone. settings: those that they have in common.

    eval_set: the last one on which any of them was measured; best, baseline and lift are of those that were. tokens,
    cost_usd, seconds: of those that ran and are over.
    """

    group: str
    settings: Mapping[str, Any]
    jobs: Sequence[JobResult]

    @property
    def eval_set(self) -> SeedSet | None:
        return last_set(self.jobs)

    @property
    def num_finished(self) -> int:
        return sum(job.is_over for job in self.jobs)

    @property
    def best(self) -> Summary:
        return Summary.of([mean_of(job.on(self.eval_set).best) for job in self.jobs])

    @property
    def baseline(self) -> Summary:
        return Summary.of([mean_of(job.on(self.eval_set).baseline) for job in self.jobs])

    @property
    def lift(self) -> Summary:
        return Summary.of([mean_of(job.on(self.eval_set).difference) for job in self.jobs])

    @property
    def spent(self) -> dict[str, Summary]:
        run = [job for job in self.jobs if job.is_over and job.seconds is not None]
        return {
            "tokens": Summary.of([job.total_tokens for job in run]),
            "cost_usd": Summary.of([job.total_cost_usd for job in run]),
            "seconds": Summary.of([job.seconds for job in run]),
        }

    def to_json(self) -> Json:
        return {
            "group": self.group,
            "settings": dict(self.settings),
            "num_jobs": len(self.jobs),
            "num_finished": self.num_finished,
            "eval_set": self.eval_set,
            "best": self.best.to_json(),
            "baseline": self.baseline.to_json(),
            "lift": self.lift.to_json(),
            **{name: summary.to_json() for name, summary in self.spent.items()},
        }


def groups_of(results: Sequence[JobResult]) -> list[GroupResult]:
    """In the order of their first jobs."""
    found: dict[str, list[JobResult]] = {}
    for result in results:
        found.setdefault(result.group, []).append(result)
    return [GroupResult(name, _common_settings(jobs), jobs) for name, jobs in found.items()]


def _common_settings(jobs: Sequence[JobResult]) -> dict[str, Any]:
    """Those of all of them, without the random seed, by which name or path it was ever given."""
    first, *others = (job.settings for job in jobs)
    return {
        name: value
        for name, value in first.items()
        if name != SEED
        and name.rpartition(".")[2] != RNG_SEED
        and all(name in other and other[name] == value for other in others)
    }
