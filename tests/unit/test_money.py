"""Prices that limits need, and what ends a rollout whose call a cap did not hold."""

from copy import deepcopy
from typing import Any

import pytest
from tests.fakes.config_bodies import PROMPT, body, mipro_body

from promptjobs.core.config import JobConfig, resolve
from promptjobs.db.calls import CallRecord
from promptjobs.errors import UnpricedModel
from promptjobs.jobs.outcomes import exhausted_by
from promptjobs.jobs.pricing_check import check_priced, unpriced_models

PRICE = {"input_usd_per_million": 0.0, "output_usd_per_million": 0.0}
OWN = {"policy": {"provider": "vllm", "model": "mine"}}
META = {"gepa.mutation": {"llm_provider": "vllm", "llm_model": "writer"}}
JUDGE = {
    "verifier": {
        "enabled": True, "reward_source": "fused", "backend_provider": "ollama", "backend_model": "judge",
        "weight_outcome": 1.0,
    }
}  # fmt: skip
TOTAL = {"termination_config.max_cost_usd": 1.0}
ROLLOUTS = {"termination_config.max_rollout_cost_usd": 1.0}
PROPOSALS = {"termination_config.max_proposal_cost_usd": 1.0}
TOKENS = {"termination_config.max_total_tokens": 10**6}


def config(*changes: dict[str, Any]) -> JobConfig:
    """A GEPA job of models with listed prices, changed."""
    merged = {name: deepcopy(value) for change in changes for name, value in change.items()}
    return resolve("gepa", body({"initial_prompt": PROMPT, **merged}), None).config


# --- prices ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [TOTAL, ROLLOUTS, PROPOSALS, TOKENS])
def test_listed_models_need_no_price(limit: dict[str, Any]) -> None:
    check_priced(config(limit), has_balance=True)


def test_without_a_limit_in_usd_no_price_is_needed() -> None:
    check_priced(config(OWN, META), has_balance=False)
    check_priced(config(OWN, META, TOKENS), has_balance=False)


@pytest.mark.parametrize(
    ("changes", "has_balance", "field", "why"),
    [
        ((OWN, TOTAL), False, "prompt_learning.policy.model", "the job has a limit on its cost"),
        ((OWN,), True, "prompt_learning.policy.model", "what the organisation may spend is limited"),
        ((OWN, ROLLOUTS), False, "prompt_learning.policy.model", "a limit on the cost of its rollouts"),
        ((META, TOTAL), False, "prompt_learning.gepa.mutation.llm_model", "the job has a limit on its cost"),
        ((META, PROPOSALS), False, "prompt_learning.gepa.mutation.llm_model", "a limit on the cost of its proposals"),
        ((JUDGE, TOTAL), False, "prompt_learning.verifier.backend_model", "the job has a limit on its cost"),
    ],
)
def test_a_model_of_whose_calls_a_limit_speaks_needs_a_price(
    changes: tuple[dict[str, Any], ...], has_balance: bool, field: str, why: str
) -> None:
    with pytest.raises(UnpricedModel, match=why) as refused:
        check_priced(config(*changes), has_balance=has_balance)
    assert (refused.value.status, refused.value.code, refused.value.param) == (422, "unpriced_model", field)
    assert "prompt_learning.prices" in str(refused.value)


@pytest.mark.parametrize("changes", [(META, ROLLOUTS), (JUDGE, ROLLOUTS), (JUDGE, PROPOSALS)])
def test_a_limit_on_a_part_needs_no_price_of_the_other_parts(changes: tuple[dict[str, Any], ...]) -> None:
    check_priced(config(*changes), has_balance=False)


def test_a_stand_in_is_a_model_of_rollouts() -> None:
    proxy = {"proxy_models": {"lo_provider": "vllm", "lo_model": "cheap"}}
    with pytest.raises(UnpricedModel, match="vllm/cheap") as refused:
        check_priced(config(proxy, ROLLOUTS), has_balance=False)
    assert refused.value.param == "prompt_learning.proxy_models.lo_model"


def test_a_model_on_ones_own_machine_is_free_where_the_config_says_so() -> None:
    given = {"prices": {"vllm/mine": PRICE, "vllm/writer": PRICE}}
    check_priced(config(OWN, META, TOTAL, given), has_balance=True)
    check_priced(config(OWN, {**META, "policy.price": PRICE}, {"prices": {"vllm/writer": PRICE}}, TOTAL), True)


def test_every_model_without_a_price_is_named_once() -> None:
    same = {"gepa.mutation": {"llm_provider": "vllm", "llm_model": "mine"}}
    assert [used.field for used in unpriced_models(config(OWN, same, JUDGE))] == [
        "prompt_learning.policy.model",
        "prompt_learning.verifier.backend_model",
    ]


def test_mipro_names_its_own_field() -> None:
    found = resolve(
        "mipro",
        mipro_body({"mipro.meta": {"model": "writer", "provider": "vllm"}, "initial_prompt": PROMPT, **TOTAL}),
        None,
    ).config
    with pytest.raises(UnpricedModel) as refused:
        check_priced(found, has_balance=False)
    assert refused.value.param == "prompt_learning.mipro.meta.model"


# --- calls that a cap did not hold -----------------------------------------------------------------------------------


def call(error: str | None, status: int = 200) -> CallRecord:
    return CallRecord(
        b"t", 0, "pl_1", b"k", "c", 1, "optimization", 0, "toy", "m", False, status, error, "[]", None, None,
        1, 1, 0, 0.0, 0.1,
    )  # fmt: skip


def test_a_refused_call_tells_the_cap_and_the_words() -> None:
    refused = call("budget_exhausted: cost_budget: the job's limit of 1 USD: 0.9 are taken", 402)
    found = exhausted_by([call(None), refused, call("provider_error: no", 502)])
    assert found is not None
    assert (found.cap, found.words) == ("cost_budget", "the job's limit of 1 USD: 0.9 are taken")


@pytest.mark.parametrize("calls", [[], [call(None)], [call("provider_error: HTTP 402: pay", 402)]])
def test_other_calls_say_nothing_of_a_cap(calls: list[CallRecord]) -> None:
    assert exhausted_by(calls) is None
