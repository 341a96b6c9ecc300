"""Which seeds a search uses for what: disjoint lists, the Pareto front's seeds and those that give feedback."""

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from promptjobs.core.config_values import listed
from promptjobs.errors import InvalidConfig

ParetoSource = Literal["train", "validation"]

LEAST_FEEDBACK = 3
"""Train seeds that are kept for feedback at least, where the front uses train seeds too."""


@dataclass(frozen=True, slots=True)
class SeedPlan:
    """front, feedback: ascending; disjoint, and both of the train seeds where `source` is train."""

    source: ParetoSource
    front: tuple[int, ...]
    feedback: tuple[int, ...]


def check_disjoint(lists: Mapping[str, tuple[int, ...]]) -> None:
    """lists: path to seeds. Raises InvalidConfig where a seed is in two of them: it would leak into the measurement."""
    paths = list(lists)
    for at, path in enumerate(paths):
        for earlier in paths[:at]:
            common = sorted(set(lists[path]) & set(lists[earlier]))
            if common:
                raise InvalidConfig(
                    f"seeds leak from {earlier}: {listed(common)}; a seed may stand in one list only", path
                )


def plan_seeds(
    train: tuple[int, ...],
    validation: tuple[int, ...],
    *,
    source: ParetoSource | None,
    pareto_set_size: int,
    feedback_fraction: float,
    rng_seed: int,
) -> SeedPlan:
    """Divide the seeds; the choice depends on `rng_seed` and on the sets, not on the order of the lists.

    source: None means train where there are at least pareto_set_size + 3 train seeds, else validation. Raises
    InvalidConfig where there are too few seeds for the source.
    """
    needed = pareto_set_size + LEAST_FEEDBACK
    numbers = (
        f"{len(train)} train seeds, and a front of {pareto_set_size} with {LEAST_FEEDBACK} for feedback needs {needed}"
    )
    rng = random.Random(rng_seed)
    if source == "train" and len(train) < needed:
        raise InvalidConfig(
            f"there are {numbers}: give more, or a smaller gepa.archive.pareto_set_size",
            "prompt_learning.gepa.archive.pareto_source",
        )
    if source == "train" or (source is None and len(train) >= needed):
        shuffled = sorted(train)
        rng.shuffle(shuffled)
        kept = max(LEAST_FEEDBACK, math.floor(feedback_fraction * len(train)))
        kept = min(kept, len(train) - pareto_set_size)
        front = shuffled[kept : kept + pareto_set_size]
        return SeedPlan("train", tuple(sorted(front)), tuple(sorted(shuffled[:kept])))
    if not validation:
        reason = "the front uses validation seeds" if source else f"there are {numbers}, so it uses validation seeds"
        raise InvalidConfig(
            f"expected seeds: {reason}; give some, or a smaller gepa.archive.pareto_set_size",
            "prompt_learning.gepa.evaluation.validation_seeds",
        )
    shuffled = sorted(validation)
    rng.shuffle(shuffled)
    return SeedPlan("validation", tuple(sorted(shuffled[:pareto_set_size])), tuple(sorted(train)))
