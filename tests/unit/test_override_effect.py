"""An override that takes effect is accepted, whatever it says; one that does not is refused, and named."""

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from tests.fakes.config_bodies import PROMPT, body, body_of, mipro_body, mipro_sdk_0_4_11, sdk_0_2_24, sdk_0_4_11
from tests.fakes.experiments import two_search_config

from promptjobs.core.config import resolve
from promptjobs.core.config_body import KEY, SERVERS_KEY
from promptjobs.core.config_fields import ALGORITHMS, TABLE_OF
from promptjobs.core.config_support import SECTION, FieldSupport, FieldType
from promptjobs.core.experiment_drafts import expand, loaded
from promptjobs.core.experiment_plan import plan
from promptjobs.core.override_places import CHECKS, PLACE_OF
from promptjobs.errors import InvalidRequest
from promptjobs.errors.experiments import OverrideIneffective

Overrides = Mapping[str, Any]

JUDGED = {
    "verifier": {"enabled": True, "reward_source": "fused", "backend_model": "judge", "weight_outcome": 1.0},
    "proxy_models": {"lo_model": "small"},
    "warm_start": {"job_id": "pl_" + "0" * 32},
    "initial_prompt": PROMPT,
}
BODIES: Mapping[str, list[dict[str, Any]]] = {
    "gepa": [
        body({"initial_prompt": PROMPT}),
        body(
            {
                **JUDGED,
                "gepa.adaptive_pool": {"level": "HIGH"},
                "gepa.adaptive_batch": {"level": "HIGH"},
                "gepa.evaluation.train_seeds": list(range(400)),
                "gepa.evaluation.validation_seeds": list(range(1000, 1100)),
            }
        ),
        sdk_0_4_11(),
        sdk_0_2_24(),
    ],
    "mipro": [
        mipro_body({"initial_prompt": PROMPT}),
        mipro_body(
            {
                **JUDGED,
                "mipro.adaptive_pool": {"level": "HIGH"},
                "mipro.spec": {"rules": ["short"], "examples": ["one"]},
                "mipro.seeds.online": list(range(100, 400)),
            }
        ),
        mipro_sdk_0_4_11(),
    ],
}


def below(changes: Overrides) -> dict[str, Any]:
    return {f"{SECTION}.{path}": value for path, value in changes.items()}


def check(config: Mapping[str, Any], overrides: Overrides, matrix: Mapping[str, list[Any]] | None = None) -> None:
    """Raises what refuses the one job."""
    drafts = expand([{"config": config, "config_overrides": overrides}], matrix or {}, 200)
    plan([loaded(draft, draft.algorithm, config) for draft in drafts])


GEPA, MIPRO = body({"initial_prompt": PROMPT}), mipro_body({"initial_prompt": PROMPT})


# --- every field -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_it_is_known_of_every_field_where_the_config_that_runs_says_it(algorithm: str) -> None:
    fields = {
        field.path
        for field in TABLE_OF[algorithm].fields
        if field.supported and field.type not in (FieldType.REFUSED, FieldType.SECRET)
    }
    of_others = tuple(f"{SECTION}.{other}." for other in ALGORITHMS if other != algorithm)
    checks = {path for path in CHECKS if not path.startswith(of_others)}
    assert fields == checks | PLACE_OF[algorithm].keys()


NUMBERS = (0, 0.25, 0.5, 0.75, 1, 2, 3, 5, 10, 40, 100, 5000)
SEED_LISTS = [list(range(500, 540)), {"start": 600, "end": 640}, {"start": 600, "end": 640, "step": 2}]
NAMES = ["groq", "other", "llama-3.1-8b-instant", "gpt-4"]
PRICED = {"input_usd_per_million": 1, "output_usd_per_million": 2}
SAMPLES: Mapping[FieldType, list[Any]] = {
    FieldType.FLAG: [True, False],
    FieldType.NAME: NAMES,
    FieldType.TEXT: NAMES,
    FieldType.URL: ["http://127.0.0.1:1", "http://127.0.0.1:2/"],
    FieldType.CHOICES: [["score"], ["score", "cost"], ["score", "tokens"]],
    FieldType.STRINGS: [[], ["You"], ["assistant"]],
    FieldType.PATTERNS: [[], ["You"], ["assistant"]],
    FieldType.SEEDS: SEED_LISTS,
    FieldType.INTEGERS: [[0], [0, 1]],
    FieldType.OBJECT: [{"a": 1}, {"b": {"c": 2}}, {"a": None}],
    FieldType.CANDIDATES: ["best", "front", ["c_1"]],
    FieldType.PROMPT: [PROMPT, {**PROMPT, "name": "another"}],
    FieldType.SPEC: ["short", {"a": 1, "examples": [1]}, {"a": 2}],
    FieldType.SECRET: ["test-key-one", "test-key-two"],
    FieldType.PRICES: [{f"{provider}/llama-3.1-8b-instant": PRICED} for provider in ("groq", "other")],
}


def samples(field: FieldSupport) -> list[Any]:
    match field.type:
        case FieldType.INTEGER:
            return [number for number in NUMBERS if isinstance(number, int) and field.low <= number <= field.high]
        case FieldType.NUMBER:
            return [number for number in NUMBERS if field.low <= number <= field.high]
        case FieldType.CHOICE:
            return list(field.choices)
        case _:
            return SAMPLES.get(field.type, [])


def runs(algorithm: str, config: Mapping[str, Any], overrides: Overrides) -> tuple[str, str | None]:
    """All that will run, the key of the task app included."""
    found = resolve(algorithm, config, overrides)
    return found.config.model_dump_json(), found.task_app_key


FILTERS = ("mipro.spec_priority_threshold", "mipro.spec_include_examples")
"""They may leave out nothing, whatever they say."""


@st.composite
def settings_twice(draw: st.DrawFn) -> tuple[str, Mapping[str, Any], str, Any, Any]:
    algorithm = draw(st.sampled_from(ALGORITHMS))
    config = draw(st.sampled_from(BODIES[algorithm]))
    known = [field for field in TABLE_OF[algorithm].fields if field.supported and len(samples(field)) > 1]
    field = draw(st.sampled_from([each for each in known if not each.path.endswith(FILTERS)]))
    path = draw(st.sampled_from((field.path, *field.aliases)))
    first, second = draw(st.permutations(samples(field)))[:2]
    return algorithm, config, path, first, second


@given(settings_twice())
@settings(max_examples=60, deadline=None)
@example(("gepa", GEPA, f"{SECTION}.gepa.epsilon", 0.25, 0.5))
@example(("gepa", GEPA, f"{SECTION}.gepa.rollout.minibatch_size", 40, 100))
@example(("mipro", MIPRO, f"{SECTION}.mipro.proposer_mode", "synth", "gepa-ai"))
@example(("mipro", mipro_sdk_0_4_11(), f"{SECTION}.policy.model", "groq", "other"))
def test_two_values_that_are_accepted_never_run_as_the_same(
    case: tuple[str, Mapping[str, Any], str, Any, Any],
) -> None:
    algorithm, config, path, first, second = case
    for value in (first, second):
        try:
            check(config, {path: value})
        except InvalidRequest:
            assume(False)
    assert runs(algorithm, config, {path: first}) != runs(algorithm, config, {path: second})


@given(settings_twice())
@settings(max_examples=40, deadline=None)
def test_what_an_override_says_may_stand_in_the_config_as_well(
    case: tuple[str, Mapping[str, Any], str, Any, Any],
) -> None:
    _, config, path, value, _ = case
    try:
        check(config, {path: value})
    except InvalidRequest:
        assume(False)
    nested: Any = value
    for step in reversed(path.split(".")):
        nested = {step: nested}
    check(config, nested)
    check(config, {}, {path: [value]})
    check(config, {path: value}, {path: [value]})


# --- what takes effect -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "overrides"),
    [
        (GEPA, {"gepa.rng_seed": 0}),
        (GEPA, {"policy.temperature": 0}),
        (GEPA, {"gepa.rollout_budget": 400, "gepa.rollout.budget": 400}),
        (GEPA, {"policy.provider": "GROQ"}),
        (GEPA, {"task_app_url": "http://127.0.0.1:9/"}),
        (GEPA, {"gepa.evaluation.train_seeds": {"start": 0, "end": 20}, "gepa.evaluation_seeds": list(range(20))}),
        (body({"gepa.evaluation.train_seeds": {"start": 0, "end": 90}}), {"gepa.evaluation.train_seeds.end": 40}),
        (body({"gepa.rollout_budget": 300}), {"gepa.rollout.budget": 400}),
        (body({"gepa.mutation_rate": 0.5}), {"gepa.mutation.rate": None}),
        (body({"gepa.mutation.rate": 0.5}), {"gepa.mutation": None}),
        (mipro_body({"mipro.test_pool": [500]}), {"mipro.seeds.test": []}),
        (body({"verifier": JUDGED["verifier"]}), {"verifier": False}),
        (GEPA, {"verifier": False}),
        (GEPA, {"gepa.adaptive_pool": "LOW"}),
        (GEPA, {"gepa.adaptive_pool": {}}),
        (GEPA, {"gepa.adaptive_batch": False}),
        (GEPA, {"free_tier": False}),
        (GEPA, {"initial_prompt.name": "another"}),
        (GEPA, {"initial_prompt.messages": PROMPT["messages"], "initial_prompt.wildcards": None}),
        (GEPA, {"env_config": {"a.b": 1, "list": [{"c": None}]}}),
        (GEPA, {KEY: "test-key"}),
        (body({KEY: "test-key"}), {KEY: SERVERS_KEY}),
        (GEPA, {"termination_config.max_duration_minutes": 5}),
        (
            body({"termination_config.max_time_seconds": 900}),
            {"termination_config": {"max_duration_minutes": 5, "max_cost_usd": None}},
        ),
        (mipro_sdk_0_4_11(), {"mipro.demo": {}}),
        (body({"gepa.rollout.budget": 400}), {"termination_config.max_rollouts": 300}),
        (mipro_body({"mipro.max_token_limit": 10**7}), {"termination_config.max_total_tokens": 10**6}),
        (mipro_body({"mipro.enforce_token_limit": False}), {"mipro.max_token_limit": 10**6}),
        (GEPA, {"gepa.archive.feedback_fraction": 0.5, "gepa.epsilon": 0.1}),
    ],
)
def test_an_override_that_takes_effect_is_accepted(config: dict[str, Any], overrides: dict[str, Any]) -> None:
    check(config, below(overrides))


def test_overrides_of_a_config_without_its_section_may_do_without_it_too() -> None:
    check(GEPA[SECTION], {"policy.model": "other", f"{SECTION}.gepa.lanes": 4}, {"gepa.rollout.budget": [300, 400]})


# --- what does not ---------------------------------------------------------------------------------------------------


STAGED = mipro_sdk_0_4_11()
SLOTTED = mipro_body({"mipro.stages": [{"stage_id": "one", "max_demo_slots": 1, "baseline_instruction": "Say it."}]})
BY_GEPA = {SECTION: {**two_search_config()[SECTION], "algorithm": "gepa"}}
PRICE = {"policy.price": {"input_usd_per_million": 1, "output_usd_per_million": 2}}
DEAR = {"groq/llama-3.1-8b-instant": {"input_usd_per_million": 1, "output_usd_per_million": 9}}


@pytest.mark.parametrize(
    ("config", "overrides", "path", "why"),
    [
        # No setting at all, or none of this algorithm's.
        (GEPA, {"gepa.rng_sed": 1}, "gepa.rng_sed", r"no such setting; did you mean prompt_learning\.gepa\.rng_seed\?"),
        (GEPA, {"gepa": {"zzz": {"y": None}}}, "gepa.zzz.y", "no such setting"),
        (GEPA, {"metadata.note": "x"}, "metadata.note", "no such setting"),
        (GEPA, {"initial_prompt.foo": 1}, "initial_prompt.foo", "no such setting"),
        (GEPA, {"mipro.batch_size": 5}, "mipro.batch_size", "a setting of mipro jobs, and this one runs gepa"),
        (MIPRO, {"gepa": {"lanes": 5}}, "gepa.lanes", "a setting of gepa jobs, and this one runs mipro"),
        (MIPRO, {"gepa": None}, "gepa", "a setting of gepa jobs"),
        (BY_GEPA, {"mipro.rng_seed": 5}, "mipro.rng_seed", "a setting of mipro jobs"),
        (STAGED, {"mipro.results_file": "out.json"}, "mipro.results_file", "no file is written"),
        # Two overrides of one setting.
        (GEPA, {"gepa.rollout_budget": 300, "gepa.rollout.budget": 400}, "gepa.rollout_budget", "another name of"),
        (GEPA, {"gepa.rollout.budget": 400, "gepa.rollout_budget": None}, "gepa.rollout_budget", "another name of"),
        (GEPA, {"gepa.env_config.a": 1, "env_config.b": 2}, "gepa.env_config.a", "another name of"),
        (GEPA, {"verifier.enabled": False, "gepa.verifier": True}, "verifier.enabled", "another name of"),
        (GEPA, {"termination_config.max_time_seconds": 60, "termination_config.max_duration_minutes": 5},
         "termination_config.max_duration_minutes", r"60\.0 would run"),
        # Null and empty objects.
        (body({"gepa.mutation_rate": 0.5}), {"gepa.mutation": None}, "gepa.mutation", "still says it"),
        (GEPA, {"policy": {}}, "policy", "an empty one changes nothing"),
        (body({"env_config": {"a": 1}}), {"env_config": {}}, "env_config", "an empty one changes nothing"),
        (body({"gepa.adaptive_pool": {"level": "HIGH"}}), {"gepa.adaptive_pool": {}}, "gepa.adaptive_pool", "empty"),
        (body({KEY: "test-key"}), {KEY: None}, KEY, "takes no key back"),
        (body({KEY: "test-key"}), {KEY: ""}, KEY, "takes no key back"),
        # What the resolution makes of it.
        (body({"gepa.evaluation.train_seeds": {"start": 0, "end": 90, "step": 2}}),
         {"gepa.evaluation.train_seeds": {"start": 0, "end": 40}}, "gepa.evaluation.train_seeds",
         "a list of 20 would run: objects merge"),
        (GEPA, {"gepa.lanes": 1, "gepa.turn_order": "arrival"}, "gepa.turn_order", "'fixed' would run"),
        (GEPA, {"gepa.rollout.minibatch_size": 64}, "gepa.rollout.minibatch_size", "20 would run"),
        (MIPRO, {"mipro.batch_size": 64}, "mipro.batch_size", "40 would run"),
        (MIPRO, {"mipro.proposer_mode": "gepa-ai"}, "mipro.proposer_mode", "'synth' would run"),
        (GEPA, {"gepa.mutation.llm_provider": "groq", "policy.provider": "openai"}, "gepa.mutation.llm_provider",
         "'openai' would run"),
        (GEPA, {"gepa.adaptive_pool": {"level": "LOW", "anchor_size": 30, "warmup_iters": 5, "anneal_stop_iter": 20}},
         "gepa.adaptive_pool.anchor_size", "20 would run"),
        (STAGED, {"policy.model": "other"}, "policy.model", "every module has"),
        (SLOTTED, {"mipro.max_demo_slots": 7}, "mipro.max_demo_slots", "of its own"),
        (STAGED, {"initial_prompt.messages": PROMPT["messages"]}, "initial_prompt.messages", "is not used"),
        # What is switched off, or changes nothing as things are.
        (GEPA, {"verifier.weight_env": 2}, "verifier.weight_env", "switched off"),
        (GEPA, {"verifier": True}, "verifier", "no judge is asked"),
        (GEPA, {"gepa.adaptive_pool": {"level": "NONE", "anchor_size": 5}}, "gepa.adaptive_pool.anchor_size", "off"),
        (GEPA, {"warm_start.candidates": "best"}, "warm_start.candidates", "switched off"),
        (GEPA, {"gepa.epsilon": 0.3}, "gepa.epsilon", "has no effect with parent_selection"),
        (GEPA, {"gepa.finals_share": 0.3, "gepa.acceptance": "full"}, "gepa.finals_share", "no effect with acceptance"),
        (body({"termination_config.max_rollouts": 300}), {"gepa.rollout.budget": 400}, "gepa.rollout.budget", "lower"),
        (body({"gepa.rollout.budget": 300}), {"termination_config.max_rollouts": 400},
         "termination_config.max_rollouts", "the rollout budget is lower"),
        (mipro_body({"mipro.max_token_limit": 10**6}), {"termination_config.max_total_tokens": 10**7},
         "termination_config.max_total_tokens", "the other limit"),
        (GEPA, {"gepa.archive.feedback_fraction": 0.3}, "gepa.archive.feedback_fraction", "uses validation seeds"),
        (GEPA, {"gepa.population": {"max_merges": 0, "crossover_rate": 0.9}}, "gepa.population.crossover_rate", "is 0"),
        (MIPRO, {"mipro.spec_max_tokens": 100}, "mipro.spec_max_tokens", r"no mipro\.spec"),
        (MIPRO, {"mipro.spec_include_examples": False}, "mipro.spec_include_examples", r"no mipro\.spec"),
        (GEPA, {"initial_prompt.wildcards.nobody": "REQUIRED"}, "initial_prompt.wildcards.nobody", "does not say it"),
        (GEPA, {"initial_prompt.messages": [{"role": "user", "pattern": "{query} {intents}", "loud": True}]},
         "initial_prompt.messages", r"messages\[0\]\.loud is ignored"),
        (body(PRICE), {"prices": DEAR}, "prices.groq/llama-3.1-8b-instant.output_usd_per_million", "goes before"),
        (GEPA, {"prices": {"groq/nobody": DEAR["groq/llama-3.1-8b-instant"]}},
         "prices.groq/nobody.input_usd_per_million", "calls no such model"),
    ],
)  # fmt: skip
def test_an_override_that_takes_no_effect_is_refused_and_named(
    config: dict[str, Any], overrides: dict[str, Any], path: str, why: str
) -> None:
    with pytest.raises(OverrideIneffective, match=why) as refused:
        check(config, below(overrides))
    assert refused.value.path == f"{SECTION}.{path}"
    assert refused.value.param == f"jobs[0].config_overrides.{SECTION}.{path}"
    assert (refused.value.position, refused.value.status, refused.value.code) == (1, 422, "override_ineffective")


@pytest.mark.parametrize("name", ["backend", "task_url", "metadata", "auto_start"])
def test_what_steers_a_client_is_refused_as_an_override_of_a_job(name: str) -> None:
    for overrides, matrix, param in (({name: {}}, {}, f"jobs[0].config_overrides.{name}"), ({}, {name: [{}]}, None)):
        with pytest.raises(OverrideIneffective, match="steers the client") as refused:
            check(GEPA, overrides, matrix)
        assert refused.value.param == (param or f"matrix.{name}")


def test_a_path_without_its_section_is_refused_with_the_one_that_is_meant() -> None:
    with pytest.raises(OverrideIneffective, match=r"did you mean prompt_learning\.gepa\.rng_seed\?"):
        check(GEPA, {"gepa.rng_seed": 5})


@pytest.mark.parametrize(
    ("overrides", "matrix", "param", "why"),
    [
        ({"policy.model": "a"}, {"model": ["a", "b"]}, "jobs[0].config_overrides.prompt_learning.policy.model",
         r"matrix\.model overrides the same"),
        ({"policy": {"model": "a"}}, {f"{SECTION}.policy": [{"model": "b"}]},
         "jobs[0].config_overrides.prompt_learning.policy.model", r"matrix\.prompt_learning\.policy\.model overrides"),
        ({"policy": None}, {"model": ["a"]}, "jobs[0].config_overrides.prompt_learning.policy", r"matrix\.model"),
        ({"gepa.rollout_budget": 300}, {f"{SECTION}.gepa.rollout.budget": [400]},
         "jobs[0].config_overrides.prompt_learning.gepa.rollout_budget", "another name of the same setting"),
        ({}, {"seed": [1], f"{SECTION}.gepa.rng_seed": [2]}, "matrix.seed", r"matrix\.prompt_learning\.gepa\.rng_seed"),
        ({}, {f"{SECTION}.policy": [{"model": "a"}, {"modle": "b"}]}, "matrix.prompt_learning.policy.modle", "mean"),
        ({}, {f"{SECTION}.mipro.batch_size": [5]}, "matrix.prompt_learning.mipro.batch_size", "of mipro jobs"),
    ],
)  # fmt: skip
def test_of_the_jobs_override_and_the_matrix_the_one_that_loses_is_refused(
    overrides: dict[str, Any], matrix: dict[str, Any], param: str, why: str
) -> None:
    with pytest.raises(OverrideIneffective, match=why) as refused:
        check(GEPA, below(overrides), matrix)
    assert refused.value.param == param


def test_a_config_may_hold_both_algorithms_sections() -> None:
    config = two_search_config()
    shared = {f"{SECTION}.policy.temperature": [0.0, 0.5], "seed": [1, 2], "algorithm": ["gepa", "mipro"]}
    check(config, {}, shared)
    with pytest.raises(
        OverrideIneffective, match=r"job 2 \('mipro'\): matrix\.prompt_learning\.gepa\.lanes would have no"
    ):
        check(config, {}, {"algorithm": ["gepa", "mipro"], f"{SECTION}.gepa.lanes": [2]})


def test_every_alias_of_a_setting_overrides_what_the_config_says_by_any_other() -> None:
    for algorithm in ALGORITHMS:
        field = TABLE_OF[algorithm].at[f"{SECTION}.verifier.enabled"]
        names = [name.removeprefix(f"{SECTION}.") for name in (field.path, *field.aliases)]
        for name in names:
            for other in names:
                check(body_of(algorithm, {name: False}), below({other: False}))
