"""How a MIPRO job divides its rollouts and its time: the end's share, lanes, and when new instructions are proposed."""

from typing import TYPE_CHECKING

from promptjobs.core.config_mipro import MiproConfig
from promptjobs.core.config_search import PROBES

if TYPE_CHECKING:
    from promptjobs.core.config import MiproJobConfig

FINALS_SHARE = 0.2
"""Of the budget, kept for measuring the finalists in full."""

RISK = {"LOW": 0.1, "MEDIUM": 0.25, "HIGH": 1.0}
"""Share of the planned trials that may be under way without knowing each other's results, by `parallel_risk`."""

FEWEST_PARALLEL = 2
"""Trials at a time that even the lowest risk allows."""

GENERATE_EVERY = 1
"""Iterations from one batch of proposals to the next, where the config does not say when."""

FEWEST_MINIBATCHES = 40
"""The search's part of the budget holds so many minibatches at least, as long as they have FEWEST_SEEDS."""

FEWEST_SEEDS = 8

MOST_DEMO_SETS = 12

BARREN_ITERATIONS = 3
"""Iterations in a row that propose and find nothing new to measure, after which the search ends."""

REFERENCES = 10
"""Seeds of the reference corpus that are read at most: a meta-prompt shows no more."""


def total_budget(mipro: MiproConfig) -> int:
    return min(mipro.rollout_budget, mipro.max_rollouts or mipro.rollout_budget)


def probe_seeds(config: "MiproJobConfig") -> tuple[int, ...]:
    """Seeds of the rollouts that gather the task app's own messages; none where the prompt is known."""
    return () if config.template() is not None else config.mipro.bootstrap_seeds[:PROBES]


def reference_seeds(mipro: MiproConfig) -> tuple[int, ...]:
    return mipro.reference_seeds[:REFERENCES]


def full_seeds(mipro: MiproConfig) -> tuple[int, ...]:
    """Those of a full evaluation."""
    return mipro.validation_seeds or mipro.online_seeds


def minibatch_size(mipro: MiproConfig) -> int:
    """Seeds of a minibatch: fewer than asked for where a budget was given that holds only a few of those."""
    most = min(mipro.batch_size, len(mipro.online_seeds))
    if not mipro.is_budget_given:
        return most
    search = total_budget(mipro) - end_rollouts(mipro) - len(mipro.bootstrap_seeds) - len(reference_seeds(mipro))
    return min(most, max(FEWEST_SEEDS, search // FEWEST_MINIBATCHES))


def demo_set_count(mipro: MiproConfig) -> int:
    """Sets of examples to choose from: no more than the planned trials can tell apart."""
    planned = mipro.num_iterations * mipro.num_evaluations_per_iteration
    return min(mipro.max_demo_sets, max(2, planned // 4), MOST_DEMO_SETS)


def end_rollouts(mipro: MiproConfig, total: int | None = None) -> int:
    """What is kept for the end: enough for the winner and the baseline, and no more than all finalists need.

    total: rollouts in all, by default the budget.
    """
    each, total = len(full_seeds(mipro)), total_budget(mipro) if total is None else total
    everybody = (1 + mipro.validation_top_k) * each
    return min(everybody, max(2 * each, int(FINALS_SHARE * total)), total // 2)


def parallel_trials(mipro: MiproConfig) -> int:
    """Trials side by side, at least one and at most those of an iteration."""
    planned = mipro.num_iterations * mipro.num_evaluations_per_iteration
    allowed = max(FEWEST_PARALLEL, round(RISK[mipro.parallel_risk] * planned))
    return max(1, min(allowed, mipro.num_evaluations_per_iteration, mipro.max_parallel_trials or allowed))


def generates_at(mipro: MiproConfig, iteration: int) -> bool:
    """Whether new instructions are proposed before this iteration's trials."""
    if mipro.generate_at_iterations is not None:
        return iteration in mipro.generate_at_iterations
    return iteration % GENERATE_EVERY == 0


def generates_from(mipro: MiproConfig, iteration: int) -> bool:
    """Whether new instructions are proposed in this iteration or a later one."""
    return any(generates_at(mipro, each) for each in range(iteration, mipro.num_iterations))
