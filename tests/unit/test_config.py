"""Resolving a config: the bodies that clients send, the algorithm, the policy and the meta-model."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes.config_bodies import TRAIN, VALIDATION, body, body_of, sdk_0_2_24, sdk_0_4_11

from promptjobs.core.config import (
    GepaConfig,
    GepaJobConfig,
    MetaModelConfig,
    PolicyConfig,
    Price,
    TaskAppConfig,
    read_config,
    resolve,
)
from promptjobs.core.config_fields import TABLE_OF
from promptjobs.core.config_support import UPSTREAM
from promptjobs.errors import InvalidConfig, NotYetSupported

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=8)
SCALARS = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
)
JSON = st.recursive(SCALARS | TEXT, lambda inner: st.lists(inner, max_size=3), max_leaves=5)


def config_of(sent: dict[str, Any]) -> GepaJobConfig:
    return resolve("gepa", sent, None).config


def refused(sent: dict[str, Any]) -> InvalidConfig:
    with pytest.raises(InvalidConfig) as caught:
        resolve("gepa", sent, None)
    return caught.value


# --- whole bodies --------------------------------------------------------------------------------------------------


def test_smallest_body_resolves_to_the_defaults() -> None:
    assert config_of(body()) == GepaJobConfig(
        algorithm="gepa",
        task_app=TaskAppConfig(url="http://127.0.0.1:8701"),
        policy=PolicyConfig(provider="groq", model="llama-3.1-8b-instant"),
        gepa=GepaConfig(
            rollout_budget=500,
            train_seeds=tuple(TRAIN),
            validation_seeds=tuple(VALIDATION),
            pareto_source="validation",
            front_seeds=tuple(VALIDATION),
            feedback_seeds=tuple(TRAIN),
            meta_model=MetaModelConfig(provider="groq", model="llama-3.1-8b-instant"),
        ),
    )


def test_body_of_sdk_0_4_11_resolves_without_a_warning() -> None:
    resolution = resolve("gepa", sdk_0_4_11(), {"task_app_api_key": "test-task-app-key"})
    assert resolution.warnings == ()
    assert resolution.task_app_key == "test-task-app-key"
    assert resolution.config.gepa.rollout_budget == 300
    assert resolution.config.gepa.pareto_source == "train"
    assert resolution.config.task_app.env_config == {"split": "train"}
    assert resolution.config.gepa.meta_model == MetaModelConfig(provider="groq", model="llama-3.1-8b-instant")


def test_body_of_sdk_0_2_24_resolves_without_a_warning() -> None:
    resolution = resolve("gepa", sdk_0_2_24(), None)
    assert resolution.warnings == ()
    assert resolution.config.gepa.train_seeds == tuple(range(100))
    assert resolution.config.gepa.meta_model == MetaModelConfig(provider="openai", model="gpt-4o-mini")


def test_section_may_stand_at_the_top() -> None:
    section = sdk_0_4_11()["prompt_learning"]
    at_top = resolve("gepa", section, {"policy.temperature": 0.5, "prompt_learning.gepa.lanes": 2})
    wrapped = resolve(
        "gepa",
        {"prompt_learning": section},
        {"prompt_learning": {"policy": {"temperature": 0.5}}, "prompt_learning.gepa.lanes": 2},
    )
    assert (at_top.config, at_top.task_app_key) == (wrapped.config, wrapped.task_app_key)
    assert at_top.config.gepa.lanes == 2


@pytest.mark.parametrize("empty", [{}, {"prompt_learning": None}, {"policy": {}}, {"prompt_learning": [1]}])
def test_body_without_a_config_is_refused(empty: dict[str, Any]) -> None:
    assert refused(empty).param == "prompt_learning"


def test_body_and_overrides_must_be_objects() -> None:
    wrong: Any = [1]
    assert refused(wrong).param == "config_body"
    with pytest.raises(InvalidConfig, match=r"overrides: expected an object, got a list of 1"):
        resolve("gepa", body(), wrong)


@given(
    env_config=st.dictionaries(TEXT.map(lambda key: f"x{key}"), JSON, max_size=4),
    temperature=st.floats(0, 2),
    train=st.sets(st.integers(0, 2**53), min_size=1, max_size=90).map(sorted),
)
def test_resolved_config_survives_json(env_config: dict[str, Any], temperature: float, train: list[int]) -> None:
    config = config_of(
        body(
            {
                "gepa.env_config": env_config,
                "policy.temperature": temperature,
                "gepa.evaluation.train_seeds": train,
                "gepa.evaluation.validation_seeds": [seed for seed in range(500, 700) if seed not in train],
                "policy.price": {"input_usd_per_million": 0.05, "output_usd_per_million": 1},
                "initial_prompt": {"messages": [{"role": "system", "content": "Answer {question} briefly."}]},
            }
        )
    )
    assert read_config(config.model_dump_json()) == config
    assert config.task_app.env_config == env_config


# --- the algorithm -------------------------------------------------------------------------------------------------


def test_unknown_algorithm_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InvalidConfig, match="expected one of gepa, mipro, got 'genetic'"):
        resolve("genetic", body(), None)


def test_later_algorithm_is_not_yet_supported() -> None:
    with pytest.raises(NotYetSupported, match="algorithm: 'staged' is not supported yet"):
        resolve("staged", {"pipeline": {}}, None)


def test_section_must_agree_with_the_request_about_the_algorithm() -> None:
    assert refused(body({"algorithm": "mipro"})).param == "prompt_learning.algorithm"
    assert config_of(body({"algorithm": None})) == config_of(body())


def test_section_of_another_algorithm_is_reported_and_not_used() -> None:
    resolution = resolve("gepa", body({"mipro": {"num_iterations": 3}}), None)
    assert resolution.warnings == ("prompt_learning.mipro belongs to another algorithm and is ignored",)
    assert resolution.config == config_of(body())


# --- the policy, the meta-model and the budget ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("algorithm", "path"),
    [(name, path) for name, table in TABLE_OF.items() for path, field in table.at.items() if field.refusal == UPSTREAM],
)
def test_upstream_address_is_refused_with_the_reason(algorithm: str, path: str) -> None:
    sent = body_of(algorithm, {path.removeprefix("prompt_learning."): "https://api.example.com/v1"})
    with pytest.raises(InvalidConfig) as caught:
        resolve(algorithm, sent, None)
    error = caught.value
    assert error.param == path
    assert "provider registry" in str(error)


def test_prices_come_in_pairs() -> None:
    error = refused(body({"policy.price.input_usd_per_million": 1}))
    assert error.param == "prompt_learning.policy.price.output_usd_per_million"
    price = {"input_usd_per_million": 1, "output_usd_per_million": 0}
    assert config_of(body({"policy.price": price})).policy.price == Price(**price)


def test_meta_model_defaults_to_the_policy() -> None:
    def meta(**mutation: Any) -> MetaModelConfig:
        return config_of(body({"gepa.mutation": mutation})).gepa.meta_model

    assert meta() == MetaModelConfig(provider="groq", model="llama-3.1-8b-instant")
    assert meta(llm_model="big") == MetaModelConfig(provider="groq", model="big")
    assert meta(llm_model="big", llm_provider="OpenAI", llm_temperature=0.5, llm_max_tokens=100) == MetaModelConfig(
        provider="openai", model="big", temperature=0.5, max_tokens=100
    )


def test_another_provider_for_the_meta_model_needs_a_model() -> None:
    error = refused(body({"gepa.mutation.llm_provider": "openai"}))
    assert error.param == "prompt_learning.gepa.mutation.llm_model"


def test_budget_defaults_to_the_rollouts_that_the_job_may_make() -> None:
    limits = {"max_rollouts": 120, "max_trials": 7, "max_time_seconds": 60}
    capped = config_of(body({"termination_config": limits})).gepa
    assert (capped.rollout_budget, capped.max_rollouts, capped.max_trials, capped.max_seconds) == (120, 120, 7, 60.0)
    both = config_of(body({"termination_config": limits, "gepa.rollout.budget": 90})).gepa
    assert (both.rollout_budget, both.max_rollouts) == (90, 120)
