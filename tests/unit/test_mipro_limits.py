"""What a MIPRO job plans, and the budgets that are refused."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes.config_bodies import PROMPT, mipro_body

from promptjobs.core.config import MiproJobConfig, resolve
from promptjobs.core.mipro_limits import check_budget, iteration_rollouts, opening_rollouts, planned_rollouts
from promptjobs.core.mipro_plan import FEWEST_SEEDS, end_rollouts, total_budget
from promptjobs.errors import BudgetExceededError, BudgetTooSmall

SIZES = {
    "mipro.seeds.bootstrap": list(range(6)),
    "mipro.seeds.online": list(range(20, 50)),
    "mipro.num_iterations": 4,
    "mipro.num_evaluations_per_iteration": 3,
    "mipro.batch_size": 10,
    "mipro.validation_top_k": 2,
}


def job(**changes: Any) -> MiproJobConfig:
    """Names with two underscores for dots."""
    under = {name.replace("__", "."): value for name, value in changes.items()}
    return resolve("mipro", mipro_body(SIZES | under), None).config


def fits(config: MiproJobConfig) -> bool:
    try:
        check_budget(config)
    except BudgetTooSmall:
        return False
    return True


def test_the_plan_is_bootstrap_iterations_full_evaluations_and_the_end() -> None:
    parts = {"bootstrap": 6, "iterations": 4 * (3 + 1) * 10, "full": 12 // 5 * 30, "end": 3 * 30}
    assert planned_rollouts(job().mipro, has_prompt=True) == sum(parts.values())
    assert planned_rollouts(job().mipro, has_prompt=False) == sum(parts.values()) + 3
    held_out = job(val_seeds=[100, 101], reference_pool=list(range(200, 230)))
    assert planned_rollouts(held_out.mipro, has_prompt=True) == 6 + 10 + 160 + 2 * 2 + 3 * 2


def test_a_stand_in_measures_the_bootstrap_too() -> None:
    assert opening_rollouts(job(proxy_models__lo_model="small").mipro) == 12


@given(
    iterations=st.integers(1, 50),
    trials=st.integers(1, 20),
    batch=st.integers(1, 30),
    validation=st.integers(0, 50),
    top=st.integers(1, 10),
    with_prompt=st.booleans(),
)
def test_a_budget_that_is_derived_holds_a_whole_search(
    iterations: int, trials: int, batch: int, validation: int, top: int, with_prompt: bool
) -> None:
    config = job(
        mipro__num_iterations=iterations,
        mipro__num_evaluations_per_iteration=trials,
        mipro__batch_size=batch,
        mipro__validation_top_k=top,
        val_seeds=list(range(100, 100 + validation)) or None,
        initial_prompt=PROMPT if with_prompt else None,
    )
    assert fits(config)
    opening = opening_rollouts(config.mipro) + (0 if with_prompt else 3)
    left = total_budget(config.mipro) - end_rollouts(config.mipro) - opening
    assert left >= iterations * iteration_rollouts(config.mipro, config.mipro.batch_size)


@given(validation=st.integers(0, 200), batch=st.integers(1, 30))
def test_the_least_budget_is_named_exactly(validation: int, batch: int) -> None:
    small = {"val_seeds": list(range(100, 100 + validation)) or None, "mipro__batch_size": batch}
    with pytest.raises(BudgetTooSmall) as caught:
        check_budget(job(mipro__rollout_budget=1, **small))
    error = caught.value
    assert (error.needed, error.param) == (sum(error.parts.values()), "mipro.rollout_budget")
    assert fits(job(mipro__rollout_budget=error.needed, **small))
    assert not fits(job(mipro__rollout_budget=error.needed - 1, **small))
    assert not fits(job(mipro__rollout_budget=error.needed, **small, termination_config__max_rollouts=error.needed - 1))


def test_parts_of_a_refusal_are_those_of_the_job() -> None:
    with pytest.raises(BudgetTooSmall) as caught:
        check_budget(job(mipro__rollout_budget=9))
    assert caught.value.parts == {
        "probes of the task app's messages": 3,
        "bootstrap": 6,
        "one iteration": 4 * FEWEST_SEEDS,
        "full evaluations at the end": 9 + 4 * FEWEST_SEEDS - 1,
    }


def test_tokens_that_the_baseline_alone_would_pass_are_refused() -> None:
    prompt = {"messages": [{"role": "system", "content": "word " * 100}]}
    with pytest.raises(BudgetExceededError) as caught:
        check_budget(job(initial_prompt=prompt, mipro__max_token_limit=500))
    error = caught.value
    assert (error.code, error.status, error.limit) == ("budget_exceeded_error", 422, 500)
    assert error.needed == pytest.approx(600, rel=0.05)
    check_budget(job(initial_prompt=prompt, mipro__max_token_limit=error.needed))
    check_budget(job(initial_prompt=prompt, mipro__max_token_limit=500, mipro__enforce_token_limit=False))
    check_budget(job(mipro__max_token_limit=1))
