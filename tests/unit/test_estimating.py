"""The estimate of a job in dollars: what the core expects, at the prices that the job and the list know."""

from copy import deepcopy
from typing import Any

import pytest
from tests.fakes.config_bodies import PROMPT, body_of

from promptjobs.core.config import JobConfig, resolve
from promptjobs.core.estimate import estimate
from promptjobs.core.ledger import Category
from promptjobs.jobs.estimating import estimate_job

FREE = {"input_usd_per_million": 0.0, "output_usd_per_million": 0.0}
ONE_A_TOKEN = {"input_usd_per_million": 1e6, "output_usd_per_million": 1e6}
OWN = {
    "policy": {"provider": "vllm", "model": "mine", "max_completion_tokens": 64},
    "initial_prompt": PROMPT,
    "termination_config.max_total_tokens": 10**12,
}
LISTED_META: dict[str, dict[str, Any]] = {
    "gepa": {"gepa__mutation": {"llm_provider": "openai", "llm_model": "gpt-4o-mini"}},
    "mipro": {"mipro__meta": {"provider": "openai", "model": "gpt-4o-mini"}},
}
ALGORITHMS = pytest.mark.parametrize("algorithm", ["gepa", "mipro"])


def config(algorithm: str = "gepa", **more: Any) -> JobConfig:
    """more: fields below prompt_learning, with __ for a dot."""
    changes = {**deepcopy(OWN), **{name.replace("__", "."): value for name, value in more.items()}}
    return resolve(algorithm, body_of(algorithm, changes), None).config


def ranges(found: dict[str, Any], name: str) -> list[dict[str, Any]]:
    return [found[name], *found[name]["by_category"].values()]


@ALGORITHMS
def test_calls_and_tokens_are_the_cores_by_category(algorithm: str) -> None:
    job = config(algorithm)
    found, core = estimate_job(job), estimate(job)
    assert found["rollouts"]["total"] == sum(core.rollouts.values()) > 0
    assert list(found["calls"]["by_category"]) == [category.value for category in Category]
    for category in Category:
        of_category = [each for each in core.calls if each.category is category]
        assert found["calls"]["by_category"][category] == {
            "expected": sum(each.expected for each in of_category),
            "at_most": sum(each.at_most for each in of_category),
        }
    assert found["tokens"]["expected"] == core.tokens.total
    assert found["tokens"]["at_most"] == core.tokens_at_most.total


@ALGORITHMS
def test_at_a_dollar_a_token_the_cost_is_the_tokens(algorithm: str) -> None:
    """But for the rounding of an average call to whole tokens."""
    found = estimate_job(config(algorithm, prices={"vllm/mine": ONE_A_TOKEN}))
    for cost, tokens, calls in zip(*(ranges(found, name) for name in ("cost_usd", "tokens", "calls")), strict=True):
        assert tokens["expected"] <= cost["expected"] <= tokens["expected"] + 2 * calls["expected"]
        assert cost["at_most"] == pytest.approx(tokens["at_most"])
    assert found["unpriced_models"] == []


@ALGORITHMS
def test_a_model_without_a_price_leaves_its_categories_and_the_whole_unknown(algorithm: str) -> None:
    found = estimate_job(config(algorithm, **LISTED_META[algorithm]))
    cost = found["cost_usd"]
    assert found["unpriced_models"] == ["vllm/mine"]
    assert (cost["expected"], cost["at_most"]) == (None, None)
    assert cost["by_category"]["policy"] == {"expected": None, "at_most": None}
    assert 0 < cost["by_category"]["proposal"]["expected"] < cost["by_category"]["proposal"]["at_most"]
    assert cost["by_category"]["judge"] == {"expected": 0, "at_most": 0}


def test_what_is_free_costs_nothing() -> None:
    found = estimate_job(config(prices={"vllm/mine": FREE}))
    assert (found["cost_usd"]["expected"], found["cost_usd"]["at_most"]) == (0, 0)


def test_the_cap_that_holds_the_least_part_is_the_one_that_ends_the_job() -> None:
    prices = {"vllm/mine": ONE_A_TOKEN}
    free = estimate_job(config(prices=prices))
    assert (free["caps"], free["stopped_by"]) == ({"token_budget": 10**12}, None)
    tokens = int(free["tokens"]["expected"])
    found = estimate_job(
        config(
            prices=prices,
            termination_config__max_total_tokens=tokens // 2,
            termination_config__max_rollout_cost_usd=free["cost_usd"]["by_category"]["policy"]["expected"] / 3,
        )
    )
    assert found["stopped_by"] == "rollout_cost_budget"
    assert set(found["caps"]) == {"token_budget", "rollout_cost_budget"}
    assert {name: found[name] for name in ("calls", "tokens", "cost_usd")} == {
        name: free[name] for name in ("calls", "tokens", "cost_usd")
    }


def test_a_mipro_search_is_not_ended_by_its_proposals() -> None:
    found = estimate_job(
        config("mipro", prices={"vllm/mine": ONE_A_TOKEN}, termination_config__max_proposal_cost_usd=1.0)
    )
    assert (found["caps"]["proposal_cost_budget"], found["stopped_by"]) == (1.0, None)


def test_a_judge_is_priced_as_the_judge() -> None:
    judge = {
        "enabled": True, "reward_source": "fused", "backend_provider": "openai", "backend_model": "gpt-4o-mini",
        "weight_outcome": 1.0,
    }  # fmt: skip
    found = estimate_job(config(prices={"vllm/mine": FREE}, verifier=judge))
    assert found["calls"]["by_category"]["judge"]["expected"] == found["rollouts"]["total"]
    assert found["cost_usd"]["expected"] == found["cost_usd"]["by_category"]["judge"]["expected"] > 0
