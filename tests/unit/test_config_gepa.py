"""The search's config: each field arrives where the search reads it, and what cannot be."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes.config_bodies import PROMPT, body

from promptjobs.core.config import (
    GepaConfig,
    GepaJobConfig,
    GuardsConfig,
    Price,
    read_config,
    resolve,
)
from promptjobs.core.config_fields import FIELDS
from promptjobs.core.config_gepa import TAKEN
from promptjobs.core.config_support import SECTION, FieldType
from promptjobs.core.text_tokens import count_tokens
from promptjobs.errors import InvalidConfig


def gepa(changes: dict[str, Any]) -> GepaConfig:
    return resolve("gepa", body(changes), None).config.gepa


def warnings(changes: dict[str, Any]) -> tuple[str, ...]:
    return resolve("gepa", body(changes), None).warnings


def refused(changes: dict[str, Any]) -> InvalidConfig:
    with pytest.raises(InvalidConfig) as caught:
        resolve("gepa", body(changes), None)
    return caught.value


# --- each field arrives ----------------------------------------------------------------------------------------------

ONE_PRICE = {"input_usd_per_million": 1.0, "output_usd_per_million": 2.0}

ARRIVES = [
    ("gepa.acceptance", "full", "acceptance", "full"),
    ("gepa.lane_depth", 2, "lane_depth", 2),
    ("gepa.front", "hybrid", "front", "hybrid"),
    ("gepa.objectives", ["tokens", "score"], "objectives", ("score", "tokens")),
    ("gepa.parent_selection", "current_best", "parent_selection", "current_best"),
    ("gepa.epsilon", 0.3, "epsilon", 0.3),
    ("gepa.top_k", 2, "top_k", 2),
    ("gepa.component_selection", "all", "component_selection", "all"),
    ("gepa.population.crossover_rate", 0, "crossover_rate", 0.0),
    ("gepa.population.max_merges", 0, "max_merges", 0),
    ("gepa.population.initial_size", 1, "initial_size", 1),
    ("gepa.mutation.rate", 1, "mutation_rate", 1.0),
    ("gepa.archive.size", 7, "archive_size", 7),
    ("gepa.max_demonstrations", 0, "max_demonstrations", 0),
    ("gepa.finals_share", 0.2, "finals_share", 0.2),
    ("gepa.max_meta_calls", 9, "max_meta_calls", 9),
    ("gepa.proposer_type", "gepa-ai", "proposer_type", "gepa-ai"),
    ("gepa.proposer_effort", "low_context", "proposer_effort", "LOW_CONTEXT"),
    ("gepa.proposer_output_tokens", "SLOW", "proposer_output_tokens", "SLOW"),
    ("gepa.mutation.prompt", "Write.", "mutation_prompt", "Write."),
    ("gepa.metaprompt", "Be brief.", "metaprompt", "Be brief."),
    ("gepa.spec", "One label.", "spec", "One label."),
    ("gepa.token.max_limit", 900, "token_max_limit", 900),
    ("gepa.token.counting_model", "gpt-5", "token_counting_model", "gpt-5"),
    ("gepa.token.enforce_pattern_limit", False, "enforce_pattern_limit", False),
    ("gepa.guards.max_tokens", 900, "token_max_limit", 900),
    ("gepa.guards.max_tokens", 900, "guards", GuardsConfig(max_tokens=900)),
    ("gepa.guards.max_growth", 2, "guards", GuardsConfig(max_growth=2.0)),
    ("gepa.guards.frozen", [" a "], "guards", GuardsConfig(frozen=(" a ",))),
    ("gepa.guards.must_match", ["a+"], "guards", GuardsConfig(must_match=("a+",))),
    ("gepa.guards.must_not_match", ["b"], "guards", GuardsConfig(must_not_match=("b",))),
    ("gepa.guards.json_schema", {"type": "object"}, "guards", GuardsConfig(json_schema={"type": "object"})),
    ("gepa.guards.leak_ngram", 0, "guards", GuardsConfig(leak_ngram=None)),
    ("termination_config.max_trials", 5, "max_trials", 5),
    ("termination_config.max_trials_allowed", 5, "max_trials", 5),
    ("termination_config.max_rollouts", 80, "max_rollouts", 80),
    ("termination_config.max_time_seconds", 90, "max_seconds", 90.0),
    ("termination_config.max_duration_minutes", 2, "max_seconds", 120.0),
    ("termination_config.max_total_tokens", 10_000, "max_total_tokens", 10_000),
    ("termination_config.max_cost_usd", 2, "max_spend_usd", 2.0),
    ("termination_config.max_total_spend_usd", 2, "max_spend_usd", 2.0),
    ("termination_config.max_rollout_cost_usd", 2, "max_rollout_spend_usd", 2.0),
    ("termination_conditions.max_proposal_cost_usd", 1, "max_proposal_spend_usd", 1.0),
    ("prices", {"XAI/grok": ONE_PRICE}, "prices", {"xai/grok": Price(**ONE_PRICE)}),
    ("gepa.token.max_spend_usd", 2, "max_spend_usd", 2.0),
    ("termination_config.max_error_rate", 0.5, "max_error_rate", 0.5),
    ("termination_config.max_consecutive_errors", 4, "max_consecutive_errors", 4),
    ("termination_config.score_threshold", 0.9, "score_threshold", 0.9),
]


@pytest.mark.parametrize(("path", "sent", "name", "resolved"), ARRIVES, ids=lambda value: str(value)[:40])
def test_field_is_carried_by_the_resolved_config(path: str, sent: Any, name: str, resolved: Any) -> None:
    assert getattr(gepa({path: sent}), name) == resolved
    assert getattr(gepa({}), name) != resolved


def test_every_field_of_the_resolved_config_is_tested() -> None:
    elsewhere = {"rng_seed", "lanes", "turn_order", "max_concurrent", "validation_top_k", "pareto_set_size"}
    elsewhere |= {"pareto_eps", "feedback_fraction", "selection_pressure", "proposed_prompt_max_tokens"}
    elsewhere |= {"num_generations", "children_per_generation", "patience_generations"}
    assert set(TAKEN) - elsewhere <= {name for _, _, name, _ in ARRIVES}


def test_every_default_of_a_field_is_that_of_the_resolved_config() -> None:
    defaults = {field.path: field.default for field in FIELDS}
    for name, path in TAKEN.items():
        assert GepaConfig.model_fields[name].default == defaults[f"{SECTION}.{path}"], name


def test_the_shorter_of_two_times_counts() -> None:
    both = {"termination_config.max_time_seconds": 90, "termination_config.max_duration_minutes": 1}
    assert gepa(both).max_seconds == 60.0
    assert gepa(both | {"termination_config.max_time_seconds": 30}).max_seconds == 30.0


def test_two_caps_on_the_spend_must_agree() -> None:
    error = refused({"gepa.token.max_spend_usd": 2, "termination_config.max_cost_usd": 1})
    assert "the same setting" in str(error)


@given(sent=st.fixed_dictionaries({}, optional={path: st.just(value) for path, value, _, _ in ARRIVES[:20]}))
def test_resolved_search_survives_json(sent: dict[str, Any]) -> None:
    config = resolve("gepa", body(sent | {"gepa.adaptive_pool": "LOW", "gepa.adaptive_batch": True}), None).config
    assert read_config(config.model_dump_json()) == config


def test_config_stored_by_an_earlier_version_is_read_with_the_defaults() -> None:
    config = resolve("gepa", body(), None).config
    stored = config.model_dump(mode="json")
    old = {"rng_seed", "lanes", "rollout_budget", "train_seeds", "validation_seeds", "pareto_source", "front_seeds"}
    old |= {"feedback_seeds", "meta_model"}
    stored["gepa"] = {name: value for name, value in stored["gepa"].items() if name in old}
    assert GepaJobConfig.model_validate(stored) == config


# --- objectives and fronts -------------------------------------------------------------------------------------------


def test_score_is_always_an_objective() -> None:
    assert refused({"gepa.objectives": ["cost"]}).param == "prompt_learning.gepa.objectives"


def test_share_for_the_finals_is_the_races() -> None:
    assert warnings({"gepa.finals_share": 0.3}) == ()
    assert warnings({"gepa.finals_share": 0.3, "gepa.acceptance": "full"}) == (
        'gepa.finals_share has no effect with acceptance "full", which measures all finalists',
    )


@pytest.mark.parametrize(("size", "tokens"), [("RAPID", 2_048), ("FAST", 8_192), ("SLOW", 32_768)])
def test_replies_of_the_meta_model_are_as_long_as_proposals_may_be(size: str, tokens: int) -> None:
    assert gepa({"gepa.proposer_output_tokens": size}).meta_model.max_tokens == tokens
    shorter = {"gepa.proposer_output_tokens": size, "gepa.mutation.llm_max_tokens": 99}
    assert gepa(shorter).meta_model.max_tokens == 99


@pytest.mark.parametrize("front", ["objective", "cartesian"])
def test_front_of_objectives_with_the_score_alone_is_reported(front: str) -> None:
    [warning] = warnings({"gepa.front": front})
    assert "its only objective" in warning
    assert warnings({"gepa.front": front, "gepa.objectives": ["score", "tokens"]}) == ()


def test_objectives_that_no_front_compares_are_reported() -> None:
    [warning] = warnings({"gepa.objectives": ["score", "seconds"]})
    assert "gepa.objectives has no effect" in warning


def test_cost_without_a_price_is_reported() -> None:
    sent = {"gepa.objectives": ["score", "cost"], "gepa.front": "hybrid"}
    [warning] = warnings(sent)
    assert "price of llama-3.1-8b-instant" in warning
    assert warnings(sent | {"policy.price": {"input_usd_per_million": 1, "output_usd_per_million": 2}}) == ()


@pytest.mark.parametrize(
    ("path", "value", "selection"),
    [("gepa.epsilon", 0.2, "epsilon_greedy"), ("gepa.top_k", 3, "top_k_pareto")],
)
def test_parameter_of_another_selection_is_reported(path: str, value: float, selection: str) -> None:
    [warning] = warnings({path: value})
    assert f'{path} has no effect with parent_selection "pareto"' in warning
    assert warnings({path: value, "gepa.parent_selection": selection}) == ()


# --- limits on prompts -----------------------------------------------------------------------------------------------


def prompt_tokens() -> int:
    prompt = resolve("gepa", body({"initial_prompt": PROMPT}), None).config.initial_prompt
    assert prompt is not None
    return sum(count_tokens(message.pattern, "gpt-4") for message in prompt.messages)


def test_baseline_longer_than_the_limit_is_refused_where_that_is_enforced() -> None:
    length = prompt_tokens()
    sent = {"initial_prompt": PROMPT, "gepa.token.max_limit": length - 1}
    error = refused(sent)
    assert error.param == "prompt_learning.gepa.token.max_limit"
    assert f"{length} tokens" in str(error)
    assert gepa(sent | {"gepa.token.max_limit": length}).guards.max_tokens == length
    assert gepa(sent | {"gepa.token.enforce_pattern_limit": False}).guards.max_tokens == length - 1


@pytest.mark.parametrize("prompt", [None, PROMPT])
@pytest.mark.parametrize(
    ("name", "wrong"),
    [("must_match", ["(a"]), ("must_not_match", ["(?=a)"]), ("json_schema", {"type": "prose"})],
)
def test_guard_that_cannot_be_used_is_refused(name: str, wrong: Any, prompt: Any) -> None:
    assert refused({"initial_prompt": prompt, f"gepa.guards.{name}": wrong}).param == f"{SECTION}.gepa.guards.{name}"


def test_frozen_span_must_stand_in_the_prompt() -> None:
    assert refused({"initial_prompt": PROMPT, "gepa.guards.frozen": ["No."]}).param == f"{SECTION}.gepa.guards.frozen"
    assert warnings({"initial_prompt": PROMPT, "gepa.guards.frozen": ["banking"]}) == ()


def test_guard_that_the_baseline_does_not_keep_is_reported() -> None:
    [warning] = warnings({"initial_prompt": PROMPT, "gepa.guards.must_not_match": ["(?i)BANK"]})
    assert "the baseline prompt does not keep gepa.guards" in warning


def test_schema_may_describe_what_has_a_secrets_name() -> None:
    schema = {"properties": {"token": {"type": "string"}, "api_key": {"type": "null"}}}
    assert gepa({"gepa.guards.json_schema": schema}).guards.json_schema == schema


# --- files of the client ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "instead"),
    [("gepa.spec_path", "gepa.spec"), ("verifier.spec_path", "spec_context"), ("gepa.judge.spec_path", "spec_context")],
)
def test_path_of_a_client_is_refused_with_what_to_do(path: str, instead: str) -> None:
    error = refused({path: "spec.json"})
    assert error.param == f"prompt_learning.{path}"
    assert f"send the text itself in {instead}" in str(error)


def test_refused_fields_say_why() -> None:
    assert all(bool(field.refusal) == (field.type is FieldType.REFUSED) for field in FIELDS)
