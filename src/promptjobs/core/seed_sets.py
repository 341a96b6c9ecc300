"""The sets of seeds that a job's best prompt and its baseline are compared on, and what they have scored on each."""

from collections.abc import Collection, Mapping
from enum import StrEnum
from typing import Any

from promptjobs.core.result import Measured


class SeedSet(StrEnum):
    """Which seeds a figure is of, in the order in which they weigh: by what is not searched with, a job is told."""

    SEARCH = "search"
    VALIDATION = "validation"
    TEST = "test"


def are_held_out(measured: Collection[str]) -> bool:
    """Whether one of these sets did not steer the search. Without search seeds, the validation seeds did."""
    return SeedSet.TEST in measured or {SeedSet.SEARCH, SeedSet.VALIDATION} <= set(measured)


def seed_sets(config: Mapping[str, Any]) -> dict[SeedSet, tuple[int, ...]]:
    """The seeds of a job that its best prompt and its baseline are compared on. config: resolved, as JSON.

    They are those of what it publishes: `train` (here `search`), `validation_summary` and `test`.
    """
    search = config[config["algorithm"]]
    if config["algorithm"] == "gepa":
        has_search, steering = search["pareto_source"] == "train", search["front_seeds"]
    else:
        has_search, steering = bool(search["validation_seeds"]), search["online_seeds"]
    return {
        SeedSet.SEARCH: tuple(steering) if has_search else (),
        SeedSet.VALIDATION: tuple(search["validation_seeds"] if has_search else steering),
        SeedSet.TEST: tuple(search["test_seeds"]),
    }


def measured_sets(
    config: Mapping[str, Any], best: Mapping[int, float], baseline: Mapping[int, float]
) -> dict[SeedSet, Measured]:
    """Best prompt and baseline on each of the sets where one of them has a score. best, baseline: scores by seed."""
    found = {}
    for name, seeds in seed_sets(config).items():
        ours = {seed: best[seed] for seed in seeds if seed in best}
        theirs = {seed: baseline[seed] for seed in seeds if seed in baseline}
        if ours or theirs:
            found[name] = Measured(len(seeds), ours, theirs)
    return found
