"""The config of a MIPRO job: what clients send is read, every field arrives, and what cannot be is refused."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes.config_bodies import (
    BOOTSTRAP,
    ONLINE,
    PROMPT,
    body,
    mipro_body,
    mipro_sdk_0_2_24,
    mipro_sdk_0_4_11,
    mipro_seed_banking77,
)

from promptjobs.core.config import (
    AdaptivePoolConfig,
    MetaModelConfig,
    MiproConfig,
    MiproJobConfig,
    PolicyConfig,
    Price,
    StageConfig,
    TaskAppConfig,
    TpeConfig,
    VerifierConfig,
    read_config,
    resolve,
)
from promptjobs.core.config_fields import FIELDS
from promptjobs.core.config_reading_mipro import TAKEN
from promptjobs.core.optimizers import check_budget, optimizer_of
from promptjobs.errors import InvalidConfig, MiproConfigurationError, NotYetSupported

TABLE = "prompt_learning.mipro"


def resolved(changes: dict[str, Any] | None = None) -> tuple[MiproJobConfig, tuple[str, ...]]:
    resolution = resolve("mipro", mipro_body(changes), None)
    return resolution.config, resolution.warnings


def mipro(changes: dict[str, Any] | None = None) -> MiproConfig:
    return resolved(changes)[0].mipro


def warned(changes: dict[str, Any]) -> tuple[str, ...]:
    return resolved(changes)[1]


def refused(changes: dict[str, Any]) -> MiproConfigurationError:
    with pytest.raises(MiproConfigurationError) as caught:
        resolved(changes)
    return caught.value


# --- whole bodies ----------------------------------------------------------------------------------------------------


def test_smallest_body_resolves_to_the_defaults() -> None:
    assert resolved() == (
        MiproJobConfig(
            algorithm="mipro",
            task_app=TaskAppConfig(url="http://127.0.0.1:8701"),
            policy=PolicyConfig(provider="groq", model="llama-3.1-8b-instant"),
            mipro=MiproConfig(
                rollout_budget=3 + 15 + 20 * 6 * 32 + 20 * 40 + 4 * 40,
                meta_model=MetaModelConfig(provider="groq", model="llama-3.1-8b-instant"),
                bootstrap_seeds=tuple(BOOTSTRAP),
                online_seeds=tuple(ONLINE),
            ),
        ),
        (),
    )


def test_the_example_of_the_apis_description_is_what_it_says() -> None:
    resolution = resolve("mipro", mipro_seed_banking77(), None)
    assert resolution.config == MiproJobConfig(
        algorithm="mipro",
        task_app=TaskAppConfig(url="http://127.0.0.1:8102", id="banking77"),
        policy=PolicyConfig(provider="groq", model="openai/gpt-oss-20b"),
        mipro=MiproConfig(
            rollout_budget=3 + 15 + 2 * 4 * 5 + 10 + 4 * 10,
            meta_model=MetaModelConfig(provider="groq", model="openai/gpt-oss-120b"),
            bootstrap_seeds=tuple(range(15)),
            online_seeds=tuple(range(20, 40)),
            validation_seeds=tuple(range(100, 110)),
            test_seeds=tuple(range(40, 90)),
            num_iterations=2,
            num_evaluations_per_iteration=3,
            batch_size=5,
            tpe=TpeConfig(gamma=0.25, n_candidates=32, n_startup_trials=10),
        ),
    )
    few, random, small = resolution.warnings
    assert few.startswith("6 trials (2 iterations of 3) are too few")
    assert random == "all 6 trials are drawn at random: mipro.tpe.n_startup_trials is 10"
    assert small.startswith("a minibatch of 5 seeds says little")
    check_budget(resolution.config)


def test_body_of_sdk_0_4_11_is_accepted() -> None:
    resolution = resolve("mipro", mipro_sdk_0_4_11(), {"task_app_api_key": "test-task-app-key"})
    config = resolution.config.mipro
    assert resolution.task_app_key == "test-task-app-key"
    assert resolution.warnings == ("a minibatch of 32 is cut to 20: there are no more online seeds",)
    assert resolution.config.task_app.env_config == {"split": "train"}
    assert (config.bootstrap_seeds, config.reference_seeds) == (tuple(range(15)), tuple(range(90, 100)))
    assert config.meta_model == MetaModelConfig(
        provider="groq", model="openai/gpt-oss-120b", temperature=0.3, max_tokens=600
    )
    assert config.module_policies == {}
    assert config.stages == (
        StageConfig(
            stage_id="classify",
            module_id="classifier",
            baseline_instruction="You are a banking assistant.",
            max_instruction_slots=2,
        ),
        StageConfig(stage_id="check", module_id="classifier", baseline_instruction="Check the intent."),
    )
    check_budget(resolution.config)


def test_body_of_sdk_0_2_24_is_accepted() -> None:
    resolution = resolve("mipro", mipro_sdk_0_2_24(), None)
    config = resolution.config.mipro
    assert resolution.warnings == ("a minibatch of 32 is cut to 20: there are no more online seeds",)
    assert config.meta_model == MetaModelConfig(provider="openai", model="gpt-4o-mini")
    assert config.validation_seeds == tuple(range(100, 110))
    assert (config.stages[0].stage_id, config.modules) == ("stage_default", ())
    assert resolution.config.template() is not None


@pytest.mark.parametrize("sent", [mipro_body(), mipro_seed_banking77(), mipro_sdk_0_2_24(), mipro_sdk_0_4_11()])
def test_a_config_survives_json_and_has_an_optimizer(sent: dict[str, Any]) -> None:
    config = resolve("mipro", sent, None).config
    assert read_config(config.model_dump_json()) == config
    assert config.search is config.mipro
    assert type(optimizer_of(config)).__name__ == "Mipro"


def test_section_of_the_other_algorithm_is_reported_and_not_used() -> None:
    config, warnings = resolved({"gepa": {"lanes": 4}})
    assert (config, warnings) == (
        resolved()[0],
        ("prompt_learning.gepa belongs to another algorithm and is ignored",),
    )


# --- fields ----------------------------------------------------------------------------------------------------------

ONE_PRICE = {"input_usd_per_million": 1.0, "output_usd_per_million": 2.0}

ARRIVES: list[tuple[str, Any, str, Any]] = [
    ("mipro.rng_seed", 7, "rng_seed", 7),
    ("mipro.turn_order", "fixed", "turn_order", "fixed"),
    ("mipro.max_concurrent", 3, "max_concurrent", 3),
    ("mipro.seeds.bootstrap", [1], "bootstrap_seeds", (1,)),
    ("mipro.seeds.online", {"start": 20, "end": 55}, "online_seeds", tuple(range(20, 55))),
    ("val_seeds", [100], "validation_seeds", (100,)),
    ("mipro.test_pool", [200], "test_seeds", (200,)),
    ("reference_pool", [300], "reference_seeds", (300,)),
    ("mipro.num_iterations", 7, "num_iterations", 7),
    ("mipro.num_evaluations_per_iteration", 9, "num_evaluations_per_iteration", 9),
    ("mipro.batch_size", 30, "batch_size", 30),
    ("mipro.early_stopping", False, "early_stopping", False),
    ("mipro.full_eval_every", 7, "full_eval_every", 7),
    ("mipro.validation_top_k", 2, "validation_top_k", 2),
    ("mipro.max_parallel_trials", 3, "max_parallel_trials", 3),
    ("mipro.parallel_risk", "high", "parallel_risk", "HIGH"),
    ("mipro.few_shot_score_threshold", 1, "few_shot_score_threshold", 1.0),
    ("mipro.max_demo_set_size", 3, "max_demo_set_size", 3),
    ("mipro.max_demo_sets", 5, "max_demo_sets", 5),
    ("mipro.min_bootstrap_demos", 2, "min_bootstrap_demos", 2),
    ("mipro.demo_format", "text", "demo_format", "text"),
    ("mipro.instructions.proposer_mode", "dspy", "proposer_mode", "dspy"),
    ("mipro.instructions.proposer_effort", "HIGH", "proposer_effort", "HIGH"),
    ("mipro.proposer_output_tokens", "SLOW", "proposer_output_tokens", "SLOW"),
    ("mipro.metaprompt", "Be kind.", "metaprompt", "Be kind."),
    ("mipro.spec", "Always answer.", "spec", "Always answer."),
    ("mipro.spec_max_tokens", 100, "spec_max_tokens", 100),
    ("mipro.instructions.instructions_per_batch", 4, "instructions_per_batch", 4),
    ("mipro.max_instruction_sets", 9, "max_instruction_sets", 9),
    ("mipro.instructions.duplicate_retry_limit", 2, "duplicate_retry_limit", 2),
    ("mipro.instructions.generate_at_iterations", [3, 0], "generate_at_iterations", (0, 3)),
    ("mipro.transform_strict", True, "transform_strict", True),
    ("mipro.instructions.transform_case_sensitive", False, "transform_case_sensitive", False),
    ("mipro.transform_match_mode", "exact", "transform_match_mode", "exact"),
    ("mipro.instructions.allow_python", True, "allow_python", True),
    ("mipro.max_meta_calls", 9, "max_meta_calls", 9),
    ("mipro.tpe.gamma", 0.1, "tpe", TpeConfig(gamma=0.1)),
    ("mipro.tpe.n_candidates", 5, "tpe", TpeConfig(n_candidates=5)),
    ("mipro.tpe.n_startup_trials", 5, "tpe", TpeConfig(n_startup_trials=5)),
    ("mipro.tpe.epsilon", 0.25, "tpe", TpeConfig(epsilon=0.25)),
    ("mipro.tpe.alpha", 2, "tpe", TpeConfig(alpha=2.0)),
    ("mipro.max_token_limit", 10**6, "max_token_limit", 10**6),
    ("mipro.enforce_token_limit", False, "enforce_token_limit", False),
    ("mipro.token_counting_model", "gpt-4o", "token_counting_model", "gpt-4o"),
    ("mipro.max_prompt_tokens", 900, "max_prompt_tokens", 900),
    ("mipro.max_rollout_spend_usd", 2, "max_rollout_spend_usd", 2.0),
    ("mipro.max_proposal_spend_usd", 1, "max_proposal_spend_usd", 1.0),
    ("mipro.termination_config.max_rollout_cost_usd", 2, "max_rollout_spend_usd", 2.0),
    ("termination_config.max_proposal_cost_usd", 1, "max_proposal_spend_usd", 1.0),
    ("prices", {"xai/grok": ONE_PRICE}, "prices", {"xai/grok": Price(**ONE_PRICE)}),
    ("mipro.max_spend_usd", 3, "max_spend_usd", 3.0),
    ("mipro.max_total_tokens", 5000, "max_total_tokens", 5000),
    ("mipro.max_wall_clock_seconds", 60, "max_seconds", 60.0),
    ("mipro.termination_config.max_duration_minutes", 2, "max_seconds", 120.0),
    ("termination_config.max_trials_allowed", 40, "max_trials", 40),
    ("mipro.termination_config.max_rollouts", 5000, "max_rollouts", 5000),
    ("termination_conditions.max_error_rate", 0.5, "max_error_rate", 0.5),
    ("mipro.termination_conditions.max_consecutive_errors", 4, "max_consecutive_errors", 4),
    ("termination_config.score_threshold", 0.9, "score_threshold", 0.9),
    ("mipro.rollout_budget", 2000, "rollout_budget", 2000),
]


@pytest.mark.parametrize(("path", "sent", "name", "found"), ARRIVES, ids=lambda value: str(value)[:40])
def test_field_is_carried_by_the_resolved_config(path: str, sent: Any, name: str, found: Any) -> None:
    assert getattr(mipro({path: sent}), name) == found
    assert getattr(mipro(), name) != found


def test_every_field_of_the_resolved_config_is_tested() -> None:
    elsewhere = {"meta_model", "adaptive_pool", "verifier", "proxy_models", "modules", "stages", "edges", "warm_start"}
    assert set(MiproConfig.model_fields) - elsewhere == {name for _, _, name, _ in ARRIVES} | {"is_budget_given"}
    assert set(TAKEN) <= set(MiproConfig.model_fields)


def test_every_default_of_a_field_is_that_of_the_resolved_config() -> None:
    defaults = {field.path: field.default for field in FIELDS}
    for name, path in TAKEN.items():
        assert MiproConfig.model_fields[name].default == defaults[f"prompt_learning.{path}"], name
    for name, field in TpeConfig.model_fields.items():
        assert field.default == defaults[f"{TABLE}.tpe.{name}"], name
    for name in ("max_instruction_slots", "max_demo_slots"):
        assert StageConfig.model_fields[name].default == defaults[f"{TABLE}.{name}"], name


def test_the_old_name_of_a_proposer_is_the_new_one() -> None:
    assert mipro({"mipro.proposer_mode": "gepa-ai"}) == mipro({"mipro.proposer_mode": "synth"})


ANY = {path: st.just(value) for path, value, _, _ in ARRIVES if path != "mipro.seeds.bootstrap"}


@given(sent=st.fixed_dictionaries({}, optional=ANY))
def test_any_of_them_together_survive_json(sent: dict[str, Any]) -> None:
    config, _ = resolved(sent)
    assert read_config(config.model_dump_json()) == config


def test_what_both_algorithms_have_is_the_same_in_both() -> None:
    judge = {"enabled": True, "reward_source": "fused", "backend_model": "judge", "weight_outcome": 1.0}
    shared = {"verifier": judge, "proxy_models.lo_model": "small", "termination_config.max_cost_usd": 2}
    one, other = mipro(shared), resolve("gepa", body(shared), None).config.gepa
    for name in ("verifier", "proxy_models", "max_spend_usd"):
        assert getattr(one, name) == getattr(other, name)
    assert isinstance(one.verifier, VerifierConfig)
    assert mipro({"mipro.verifier": judge, "mipro.proxy_models.lo_model": "small"}).verifier == one.verifier


@pytest.mark.parametrize("path", ["adaptive_pool", "mipro.adaptive_pool"])
def test_the_pool_is_of_online_seeds(path: str) -> None:
    config, warnings = resolved({path: "high"})
    assert config.mipro.adaptive_pool == AdaptivePoolConfig(
        level="HIGH", anchor_size=20, pool_init_size=40, pool_min_size=30, warmup_iters=3, anneal_stop_iter=10
    )
    assert warnings == ("mipro.adaptive_pool begins with all 40 online seeds, not 60",)


def test_a_heat_up_learns_from_no_held_out_seed() -> None:
    reserve = {"adaptive_pool.level": "HIGH", "adaptive_pool.heatup_reserve_pool": [200, 100]}
    assert mipro(reserve).adaptive_pool is not None
    assert refused({**reserve, "test_pool": [200]}).param == f"{TABLE}.adaptive_pool.heatup_reserve_pool"
    assert refused({**reserve, "val_seeds": [100]}).param == f"{TABLE}.adaptive_pool.heatup_reserve_pool"


def test_the_meta_model_is_the_policys_or_the_named_one() -> None:
    policys = MetaModelConfig(provider="groq", model="llama-3.1-8b-instant")
    assert mipro({"mipro.meta": {}}).meta_model == policys
    named = {"model": "gpt-4.1", "provider": "OpenAI", "temperature": 0.3, "max_tokens": 600}
    assert mipro({"mipro.meta": named}).meta_model == MetaModelConfig(**named | {"provider": "openai"})
    assert mipro({"mipro.meta_model": "big"}).meta_model == policys.model_copy(update={"model": "big"})
    assert refused({"mipro.meta.provider": "openai"}).param == f"{TABLE}.meta.model"
    assert mipro({"mipro.proposer_output_tokens": "RAPID", "mipro.meta.max_tokens": 9000}).meta_model.max_tokens == 2048


def test_a_repeated_policy_says_nothing_and_another_one_is_refused() -> None:
    same = {"provider": "Groq", "model": "llama-3.1-8b-instant", "inference_mode": "synth_hosted", "temperature": 0}
    assert resolved({"mipro.policy_config": same}) == resolved({"mipro.policy_config": {}}) == resolved()
    error = refused({"mipro.policy_config": {"temperature": 0.5}})
    assert error.param == f"{TABLE}.policy_config.temperature"
    assert (
        refused({"mipro.policy_config": {"inference_url": "http://x"}}).param == f"{TABLE}.policy_config.inference_url"
    )
    assert warned({"mipro.policy_config": {"mood": 1}}) == (f"unknown key {TABLE}.policy_config.mood is ignored",)


def test_a_file_of_the_clients_is_not_written() -> None:
    [warning] = warned({"mipro.results_file": "results.txt"})
    assert "mipro.results_file is ignored" in warning


@pytest.mark.parametrize("name", ["demo", "grounding", "meta_update"])
def test_settings_that_nobody_describes_are_refused_unless_empty(name: str) -> None:
    assert resolved({f"mipro.{name}": {}}) == resolved()
    with pytest.raises(NotYetSupported) as caught:
        resolved({f"mipro.{name}": {"a": 1}})
    assert caught.value.param == f"{TABLE}.{name}"


# --- the specification -----------------------------------------------------------------------------------------------

SPEC = {
    "title": "Bank",
    "principles": [
        {"text": "Be exact.", "priority": 9, "examples": ["one"]},
        {"text": "Be brief.", "priority": 2},
        {"text": "Be kind."},
        "Plain.",
    ],
}


def test_a_specification_may_be_an_object() -> None:
    shown = mipro({"mipro.spec": SPEC}).spec
    assert shown is not None
    assert [word in shown for word in ("Bank", "exact", "one", "brief", "kind", "Plain")] == [True] * 6


def test_parts_of_a_specification_may_be_left_out() -> None:
    shown = mipro({"mipro.spec": SPEC, "mipro.spec_include_examples": False, "mipro.spec_priority_threshold": 3}).spec
    assert shown is not None
    assert [word in shown for word in ("exact", "one", "brief", "kind", "Plain")] == [True, False, False, True, True]


@pytest.mark.parametrize(("name", "value"), [("include_examples", False), ("priority_threshold", 3)])
def test_a_free_text_has_no_parts(name: str, value: Any) -> None:
    error = refused({"mipro.spec": "Be brief.", f"mipro.spec_{name}": value})
    assert error.param == f"{TABLE}.spec_{name}"
    [warning] = warned({f"mipro.spec_{name}": value})
    assert "no mipro.spec" in warning


def test_what_the_sdk_fills_in_for_a_specification_is_harmless() -> None:
    filled = {"mipro.spec_max_tokens": 5000, "mipro.spec_include_examples": True, "mipro.spec_priority_threshold": None}
    assert resolved(filled) == resolved()


# --- what is refused, and what is said -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "field", "said"),
    [
        ({"mipro.seeds.bootstrap": []}, "seeds.bootstrap", "required"),
        ({"mipro.seeds.online": None}, "seeds.online", "required"),
        ({"val_seeds": [3]}, "seeds.validation", "leak"),
        ({"val_seeds": [25]}, "seeds.validation", "leak"),
        ({"test_pool": [3]}, "seeds.test", "leak"),
        ({"test_pool": [25]}, "seeds.test", "leak"),
        ({"test_pool": [100], "val_seeds": [100]}, "seeds.test", "leak"),
        ({"test_pool": [100], "reference_pool": [100]}, "seeds.test", "leak"),
        ({"mipro.generate_at_iterations": [0, 20]}, "generate_at_iterations", "0 to 19"),
        ({"mipro.generate_at_iterations": [0, 0]}, "generate_at_iterations", "twice"),
        ({"mipro.generate_at_iterations": [-1]}, "generate_at_iterations", "from 0"),
        ({"mipro.generate_at_iterations": 3}, "generate_at_iterations", "list"),
        ({"mipro.min_bootstrap_demos": 16}, "min_bootstrap_demos", "15 bootstrap seeds"),
        ({"mipro.max_demo_slots": 0, "mipro.generate_at_iterations": []}, "max_demo_slots", "nothing to search"),
        ({"mipro.max_demo_set_size": 0, "mipro.max_instruction_slots": 0}, "max_demo_slots", "nothing to search"),
        ({"mipro.max_demo_sets": 0, "mipro.max_instruction_sets": 0}, "max_demo_slots", "nothing to search"),
        ({"mipro.max_prompt_tokens": 3, "initial_prompt": PROMPT}, "max_prompt_tokens", "has 19 tokens"),
        ({"mipro.spec_path": "spec.json"}, "spec_path", "mipro.spec"),
        ({"mipro.spec": {}}, "spec", "object"),
        ({"mipro.spec": [1]}, "spec", "object"),
        (
            {"mipro.spec": {"examples": [1]}, "mipro.spec_include_examples": False},
            "spec",
            "nothing is left",
        ),
        ({"mipro.tpe": {"gamma": 1}}, "tpe.gamma", "from 0.001"),
        ({"mipro.edges": [["a", "b"]]}, "edges", "the job has none"),
    ],
)
def test_what_cannot_be_is_refused_with_its_path(changes: dict[str, Any], field: str, said: str) -> None:
    error = refused(changes)
    assert (error.param, error.code, error.status) == (f"{TABLE}.{field}", "mipro_configuration_error", 422)
    assert said in str(error)
    assert str(error).count(field) == 1 or "mipro.spec" in said


def test_refusals_of_other_jobs_keep_their_code() -> None:
    with pytest.raises(InvalidConfig) as caught:
        resolve("gepa", body({"gepa.lanes": 0}), None)
    assert caught.value.code == "invalid_config"


def test_shared_seeds_that_do_not_leak_are_reported() -> None:
    [warning] = warned({"mipro.seeds.bootstrap": [1, 20, 21]})
    assert "bootstrap and online seeds share 20, 21" in warning
    [warning] = warned({"val_seeds": [100, 101], "reference_pool": [101, 102]})
    assert "reference and validation seeds share 101" in warning


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"mipro.num_iterations": 2, "mipro.num_evaluations_per_iteration": 5}, "10 trials"),
        ({"mipro.tpe.n_startup_trials": 100}, "all 100 trials"),
        ({"mipro.tpe.epsilon": 1}, "all trials are drawn at random"),
        ({"mipro.batch_size": 9}, "a minibatch of 9 seeds says little"),
        ({"mipro.batch_size": 41}, "a minibatch of 41 is cut to 40"),
    ],
)
def test_what_cannot_learn_is_run_with_a_warning(changes: dict[str, Any], said: str) -> None:
    [warning] = warned(changes)
    assert said in warning


def test_the_budget_is_the_given_one_or_what_the_plan_needs() -> None:
    derived, given_, capped = (
        mipro(),
        mipro({"mipro.rollout_budget": 700}),
        mipro({"termination_config.max_rollouts": 600}),
    )
    assert [(c.rollout_budget, c.is_budget_given) for c in (derived, given_, capped)] == [
        (4818, False),
        (700, True),
        (600, True),
    ]
    both = mipro({"mipro.rollout_budget": 700, "termination_config.max_rollouts": 600})
    assert (both.rollout_budget, both.max_rollouts) == (700, 600)
