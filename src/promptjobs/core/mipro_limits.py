"""How many rollouts a MIPRO job plans, and the least that it can be run with."""

from typing import TYPE_CHECKING

from promptjobs.core.config_mipro import MiproConfig
from promptjobs.core.config_search import PROBES
from promptjobs.core.mipro_plan import (
    FEWEST_SEEDS,
    end_rollouts,
    full_seeds,
    probe_seeds,
    reference_seeds,
    total_budget,
)
from promptjobs.core.text_tokens import count_tokens
from promptjobs.errors import BudgetExceededError, BudgetTooSmall

if TYPE_CHECKING:
    from promptjobs.core.config import MiproJobConfig

ROUNDS = 100


def planned_trials(mipro: MiproConfig) -> int:
    return mipro.num_iterations * mipro.num_evaluations_per_iteration


def opening_rollouts(mipro: MiproConfig) -> int:
    """The bootstrap, with a stand-in twice, and the reference corpus."""
    return len(mipro.bootstrap_seeds) * (1 + (mipro.proxy_models is not None)) + len(reference_seeds(mipro))


def iteration_rollouts(mipro: MiproConfig, seeds: int) -> int:
    """One iteration: its trials, and the best prompt so far on the same minibatch of so many seeds."""
    return (mipro.num_evaluations_per_iteration + 1) * seeds


def warm_rollouts(mipro: MiproConfig, seeds: int) -> int:
    """The prompts that the search begins with, and the baseline, on a first minibatch of so many seeds."""
    return (len(mipro.warm_prompts) + 1) * seeds if mipro.warm_prompts else 0


def planned_rollouts(mipro: MiproConfig, *, has_prompt: bool) -> int:
    """What a search needs that ends with its last iteration. has_prompt: the task app's messages need no probes.

    Full evaluations are counted as if each had a prompt of its own; the end as if no finalist had been measured.
    """
    each = len(full_seeds(mipro))
    opening = (0 if has_prompt else PROBES) + opening_rollouts(mipro)
    full = planned_trials(mipro) // mipro.full_eval_every * each
    return (
        opening
        + warm_rollouts(mipro, mipro.batch_size)
        + mipro.num_iterations * iteration_rollouts(mipro, mipro.batch_size)
        + full
        + (1 + mipro.validation_top_k) * each
    )


def check_budget(config: "MiproJobConfig") -> None:
    """Raises BudgetTooSmall where bootstrap, one iteration and the end do not fit; the test is not counted.

    With a small budget minibatches are small: the least that they are cut to is what an iteration needs.

    Raises BudgetExceededError where the limit on tokens does not hold the bootstrap's prompts alone.
    """
    mipro = config.mipro
    fewest = min(mipro.batch_size, FEWEST_SEEDS)
    parts = {
        "probes of the task app's messages": len(probe_seeds(config)),
        "bootstrap": opening_rollouts(mipro),
        "warm start": warm_rollouts(mipro, fewest),
        "one iteration": iteration_rollouts(mipro, fewest),
    }
    needed = _with_end(mipro, sum(parts.values()))
    parts["full evaluations at the end"] = needed - sum(parts.values())
    parts = {name: count for name, count in parts.items() if count}
    if total_budget(mipro) < needed:
        raise BudgetTooSmall(total_budget(mipro), needed, parts, "mipro.rollout_budget")
    _check_tokens(config)


def _with_end(mipro: MiproConfig, rest: int) -> int:
    """The smallest budget that leaves `rest` beside what is kept for the end, which grows with the budget."""
    total = rest
    for _ in range(ROUNDS):
        kept = end_rollouts(mipro.model_copy(update={"rollout_budget": total, "max_rollouts": None}))
        if rest + kept <= total:
            break
        total = rest + kept
    return total


def _check_tokens(config: "MiproJobConfig") -> None:
    mipro, template = config.mipro, config.template()
    if template is None or mipro.max_token_limit is None or not mipro.enforce_token_limit:
        return
    prompt = sum(count_tokens(section.content, mipro.token_counting_model) for section in template.sections)
    needed = prompt * len(mipro.bootstrap_seeds)
    if needed > mipro.max_token_limit:
        raise BudgetExceededError(mipro.max_token_limit, needed, "mipro.max_token_limit")
