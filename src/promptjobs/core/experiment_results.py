"""What the jobs of an experiment have found: a row for each job."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from promptjobs.core.result import Measured
from promptjobs.core.seed_sets import SeedSet, are_held_out
from promptjobs.core.verdict import Estimate, paired_difference

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Variant:
    """A prompt of a job's archive. rank: 1 is the best. score: what it is ranked by, on so many seeds."""

    rank: int
    candidate_id: str
    score: float
    num_seeds: int
    is_best: bool
    is_baseline: bool
    messages: Sequence[Mapping[str, str]] | None


@dataclass(frozen=True, slots=True)
class Figures:
    """The best prompt and the baseline on one set. difference: paired, over the seeds that both have a score on."""

    best: Estimate | None = None
    baseline: Estimate | None = None
    difference: Estimate | None = None

    @staticmethod
    def of(measured: Measured) -> "Figures":
        difference = paired_difference(measured.best, measured.baseline)
        return Figures(measured.best_score, measured.baseline_score, difference)

    def to_json(self) -> Json:
        shown = {"best": self.best, "baseline": self.baseline, "difference": self.difference}
        return {name: found and found.to_json() for name, found in shown.items()}


UNKNOWN = Figures()


@dataclass(frozen=True)
class JobResult:
    """What a job of an experiment has come to so far. settings: what tells it from the others. policy:
    "provider/model" of the config that runs. seed: of its random numbers.

    measured: by set of seeds, the newest known scores. trials: evaluations of a prompt; trials_tried: prompts proposed.
    cost_usd: without the calls whose price is unknown (unpriced_calls). seconds: without pauses, None before the start.
    num_variants: of the archive, of which `variants` are the best.
    """

    job_id: str
    position: int
    label: str
    group: str
    settings: Mapping[str, Any]
    algorithm: str
    status: str
    is_over: bool
    policy: str
    seed: int
    finish_reason: str | None
    error: str | None
    seconds: float | None
    trials: int = 0
    trials_tried: int = 0
    rollouts: int = 0
    failed_rollouts: int = 0
    total_tokens: int = 0
    cost_usd: float = 0.0
    unpriced_calls: int = 0
    best_id: str | None = None
    baseline_id: str | None = None
    measured: Mapping[SeedSet, Measured] = field(default_factory=dict)
    variants: Sequence[Variant] = ()
    num_variants: int = 0

    @cached_property
    def eval_set(self) -> SeedSet | None:
        """The last set on which the best prompt was measured: the one that the job is told by."""
        known = [name for name in SeedSet if name in self.measured and self.measured[name].best]
        return known[-1] if known else None

    @cached_property
    def figures(self) -> Mapping[SeedSet, "Figures"]:
        return {name: Figures.of(measured) for name, measured in self.measured.items()}

    def on(self, name: SeedSet | None) -> "Figures":
        """What was measured on a set, nothing on one that was not."""
        return UNKNOWN if name is None else self.figures.get(name, UNKNOWN)

    @property
    def shown(self) -> "Figures":
        """Those of the set that the job is told by."""
        return self.on(self.eval_set)

    @property
    def total_cost_usd(self) -> float | None:
        """None where the price of a call is unknown: a sum of what is known would be too low."""
        return None if self.unpriced_calls else self.cost_usd

    @property
    def is_baseline_best(self) -> bool | None:
        """None where nothing has been measured that would tell."""
        return None if self.best_id is None or self.eval_set is None else self.best_id == self.baseline_id

    @property
    def note(self) -> str | None:
        """Why figures are missing, or are not what they seem."""
        notes = [_why_nothing(self)] if self.eval_set is None else []
        if self.eval_set is not None and not self.is_over:
            notes.append("figures so far")
        if self.eval_set is not None and self.is_over and not are_held_out(self.measured):
            notes.append("no held-out seeds were measured")
        if self.eval_set is not None and self.shown.difference is None:
            notes.append("the baseline has no score on these seeds")
        if self.unpriced_calls:
            calls = "1 call" if self.unpriced_calls == 1 else f"{self.unpriced_calls} calls"
            notes.append(f"the price of {calls} is not known")
        return "; ".join(notes) or None


def mean_of(found: Estimate | None) -> float | None:
    return None if found is None else found.mean


def last_set(results: Sequence[JobResult]) -> SeedSet | None:
    """The last set on which the best prompt of any of them was measured."""
    known = {result.eval_set for result in results}
    return next((name for name in reversed(SeedSet) if name in known), None)


def _why_nothing(found: JobResult) -> str:
    if not found.is_over:
        return "it has not started" if found.seconds is None else "nothing is measured yet"
    if found.seconds is None:
        return f"it was {found.status} before it started"
    said = f": {found.error}" if found.error else ""
    return f"it was over ({found.status}) before anything was measured{said}"


def row_json(found: JobResult) -> Json:
    """A job as a row."""
    shown = found.shown
    return {
        "position": found.position,
        "label": found.label,
        "job_id": found.job_id,
        "algorithm": found.algorithm,
        "settings": dict(found.settings),
        "group": found.group,
        "status": found.status,
        "policy": found.policy,
        "seed": found.seed,
        "baseline_score": mean_of(shown.baseline),
        "best_score": mean_of(shown.best),
        "lift": mean_of(shown.difference),
        **{name.value: found.on(name).to_json() if name in found.measured else None for name in SeedSet},
        "eval_set": found.eval_set,
        "eval_n": shown.best.n if shown.best else 0,
        "trials": found.trials,
        "trials_tried": found.trials_tried,
        "rollouts": found.rollouts,
        "failed_rollouts": found.failed_rollouts,
        "total_tokens": found.total_tokens,
        "total_cost_usd": found.total_cost_usd,
        "unpriced_calls": found.unpriced_calls,
        "seconds": found.seconds,
        "finish_reason": found.finish_reason,
        "error": found.error,
        "is_baseline_best": found.is_baseline_best,
        "note": found.note,
        "num_variants": found.num_variants,
        "variants": [_variant_json(variant) for variant in found.variants],
    }


def _variant_json(variant: Variant) -> Json:
    return {
        "rank": variant.rank,
        "candidate_id": variant.candidate_id,
        "score": variant.score,
        "num_seeds": variant.num_seeds,
        "is_best": variant.is_best,
        "is_baseline": variant.is_baseline,
        "messages": variant.messages,
    }


def counted_jobs(count: int) -> str:
    """ "1 job", "12 jobs"."""
    return "1 job" if count == 1 else f"{count} jobs"
