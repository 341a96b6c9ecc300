"""What an experiment is expected to need and to cost: the estimates of its jobs, and their sums, as JSON."""

from collections.abc import Mapping, Sequence
from typing import Any

from promptjobs.core.experiment_plan import PlannedJob

SUMMED = ("calls", "tokens", "cost_usd")
BOUNDS = ("expected", "at_most")


def summed(planned: Sequence[PlannedJob], estimates: Sequence[Mapping[str, Any]], parallelism: int) -> dict[str, Any]:
    """estimates: of the planned jobs, in their order. A cost is None where that of one of the jobs is not known."""
    return {
        "num_jobs": len(planned),
        "parallelism": parallelism,
        "rollouts": sum(one["rollouts"]["total"] for one in estimates),
        **{name: {bound: _total([one[name][bound] for one in estimates]) for bound in BOUNDS} for name in SUMMED},
        "assumptions": _union(estimates, "assumptions"),
        "unpriced_models": _union(estimates, "unpriced_models"),
        "jobs": [
            {
                "position": job.draft.position,
                "label": job.label,
                "group": job.group,
                "settings": dict(job.settings),
                "algorithm": job.algorithm,
                "estimate": dict(one),
            }
            for job, one in zip(planned, estimates, strict=True)
        ],
    }


def _total(amounts: Sequence[float | None]) -> float | None:
    known = [amount for amount in amounts if amount is not None]
    return sum(known) if len(known) == len(amounts) else None


def _union(estimates: Sequence[Mapping[str, Any]], name: str) -> list[str]:
    return list(dict.fromkeys(each for one in estimates for each in one[name]))
