"""The fields of a config one by one: aliases, ranges and types, what is not supported, what is unknown."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes.config_bodies import body

from promptjobs.core.config import JobConfig, Resolution, resolve, support_table
from promptjobs.core.config_fields import FIELD_AT, FIELDS, SECTION, TABLES, FieldSupport, FieldType
from promptjobs.errors import InvalidConfig, InvalidRequest, NotYetSupported


def config_of(sent: dict[str, Any]) -> JobConfig:
    return resolve("gepa", sent, None).config


def refused(sent: dict[str, Any], kind: type[InvalidRequest] = InvalidConfig) -> InvalidRequest:
    with pytest.raises(kind) as caught:
        resolve("gepa", sent, None)
    return caught.value


def short(path: str) -> str:
    return path.removeprefix(f"{SECTION}.")


# --- aliases -------------------------------------------------------------------------------------------------------

SAMPLES = {
    "gepa.env_config": {"a": 1},
    "gepa.rollout.budget": 77,
    "gepa.rollout.max_concurrent": 5,
    "gepa.rollout.minibatch_size": 4,
    "gepa.evaluation.train_seeds": [1, 2, 3],
    "gepa.evaluation.validation_seeds": [201, 202],
    "gepa.evaluation.test_pool": [301],
    "gepa.evaluation.validation_top_k": 2,
    "gepa.mutation.llm_model": "other",
    "gepa.mutation.llm_provider": "groq",
    "gepa.population.num_generations": 3,
    "gepa.population.children_per_generation": 2,
    "gepa.population.selection_pressure": 2.5,
    "gepa.population.patience_generations": 9,
    "gepa.archive.pareto_set_size": 4,
    "gepa.archive.pareto_eps": 0.25,
    "gepa.archive.feedback_fraction": 0.75,
}
ALIASES = [
    (short(field.path), short(alias))
    for field in FIELDS
    if field.supported and field.type is not FieldType.SECRET and field.type is not FieldType.UPSTREAM
    for alias in field.aliases
]


@pytest.mark.parametrize(("path", "alias"), ALIASES)
def test_alias_is_the_same_setting(path: str, alias: str) -> None:
    by_alias = config_of(body({path: None, alias: SAMPLES[path]}))
    assert by_alias == config_of(body({path: SAMPLES[path]}))
    assert by_alias == config_of(body({path: SAMPLES[path], alias: SAMPLES[path]}))


@pytest.mark.parametrize(("path", "alias"), ALIASES)
def test_alias_with_another_value_is_refused(path: str, alias: str) -> None:
    other = {int: 1, float: 0.5, str: "another", list: [3], dict: {"b": 2}}[type(SAMPLES[path])]
    error = refused(body({path: SAMPLES[path], alias: other}))
    assert "the same setting" in str(error)


def test_list_and_range_of_the_same_seeds_agree() -> None:
    assert config_of(body({"train_seeds": {"start": 0, "end": 20}})) == config_of(body())


GIVEN = (
    "task_app_url",
    "policy.provider",
    "policy.model",
    "gepa.evaluation.train_seeds",
    "gepa.evaluation.validation_seeds",
)


@pytest.mark.parametrize("path", [short(path) for path in FIELD_AT if short(path) not in GIVEN])
def test_null_means_not_given(path: str) -> None:
    assert config_of(body({path: None})) == config_of(body())


# --- ranges and types ----------------------------------------------------------------------------------------------

NUMBERS = [f for f in FIELDS if f.supported and f.type in (FieldType.INTEGER, FieldType.NUMBER)]


@pytest.mark.parametrize("field", NUMBERS, ids=lambda field: field.path)
def test_numbers_outside_their_range_are_refused(field: FieldSupport) -> None:
    for wrong in (field.low - 0.001, field.low - 1, field.high + 1, True, "3", [1], {}):
        error = refused(body({short(field.path): wrong}))
        assert error.field == field.path
        assert field.expected in str(error)
    for wrong in (math.nan, math.inf, 2**63):
        assert refused(body({short(field.path): wrong})).field == field.path


@pytest.mark.parametrize("field", NUMBERS, ids=lambda field: field.path)
def test_bounds_of_numbers_are_accepted(field: FieldSupport) -> None:
    for bound in (field.low, field.high):
        prices = {f: bound for f in map(short, FIELD_AT) if ".price." in f and ".price." in field.path}
        assert resolve("gepa", body({short(field.path): bound, **prices}), None)


@pytest.mark.parametrize("field", NUMBERS, ids=lambda field: field.path)
def test_integers_are_no_floats(field: FieldSupport) -> None:
    prices = {f: 1.0 for f in map(short, FIELD_AT) if ".price." in f and ".price." in field.path}
    sent = body({short(field.path): 1.0, **prices})
    if field.type is FieldType.INTEGER:
        assert refused(sent).field == field.path
    else:
        assert resolve("gepa", sent, None)


def test_error_names_the_value_and_what_would_be_right() -> None:
    error = refused(body({"gepa.rollout.budget": 0}))
    assert str(error) == "prompt_learning.gepa.rollout.budget: expected integer from 1 to 1000000000, got 0"
    assert (error.status, error.code) == (422, "invalid_config")


@pytest.mark.parametrize(
    ("path", "wrong"),
    [
        ("policy.provider", ""),
        ("policy.model", 4),
        ("policy.model", "m" * 501),
        ("policy.inference_mode", "bring_your_own"),
        ("task_app_dialect", "soap"),
        ("gepa.turn_order", "random"),
        ("gepa.metaprompt", "  "),
        ("gepa.env_config", [1]),
        ("gepa.archive.pareto_source", "test"),
        ("gepa.rollout", 5),
        ("policy", "gpt"),
    ],
)
def test_wrong_types_are_refused_with_their_path(path: str, wrong: Any) -> None:
    error = refused(body({path: wrong}))
    assert error.field == f"{SECTION}.{path}"


@pytest.mark.parametrize(
    "wrong",
    [
        "127.0.0.1:8701",
        "ftp://host/",
        "http://",
        "http://host:99999",
        "http://host:0",
        "http://host/?a=1",
        "http://host/#top",
        "http://ho st",
        "http://[::1",
        "http://host\n.example",
        7,
    ],
)
def test_task_app_url_must_be_http(wrong: Any) -> None:
    assert refused(body({"task_app_url": wrong})).field == "prompt_learning.task_app_url"


def test_credentials_in_the_task_app_url_are_refused_and_not_shown() -> None:
    assert "hunter2" not in str(refused(body({"task_app_url": "http://me:hunter2@host"})))


def test_final_slash_of_the_task_app_url_is_dropped() -> None:
    assert config_of(body({"task_app_url": "https://host/app/"})).task_app.url == "https://host/app"


@pytest.mark.parametrize("missing", ["task_app_url", "policy.provider", "policy.model"])
def test_required_fields(missing: str) -> None:
    error = refused(body({missing: None}))
    assert error.field == f"{SECTION}.{missing}"
    assert "is required" in str(error)


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=3) | st.sampled_from(["start", "end", "step", "level", "enabled"]), inner)
        | st.fixed_dictionaries(
            {"messages": st.lists(st.fixed_dictionaries({"role": st.just("user"), "pattern": inner}))}
        )
    ),
    max_leaves=6,
)


@given(path=st.sampled_from([short(path) for path in sorted({*FIELD_AT, *TABLES})]), value=ANYTHING)
def test_any_value_anywhere_is_read_or_refused_with_its_path(path: str, value: Any) -> None:
    outcome: Resolution | InvalidRequest
    try:
        outcome = resolve("gepa", {SECTION: value} if path == SECTION else body({path: value}), None)
    except InvalidRequest as exc:
        outcome = exc
    if isinstance(outcome, Resolution):
        assert JobConfig.model_validate_json(outcome.config.model_dump_json()) == outcome.config
    else:
        assert (outcome.field or "").startswith(SECTION)
        assert len(str(outcome)) < 1000


# --- what is not supported, and what is unknown --------------------------------------------------------------------

UNSUPPORTED = {
    "free_tier": True,
    "use_byok": True,
    "gepa.use_byok": True,
    "verifier": {"enabled": True},
    "judge": {"enabled": True},
    "gepa.verifier": {"enabled": True},
    "proxy_models": {"hi_model": "a"},
    "gepa.proxy_models": {},
    "max_cost_usd": 1,
    "termination_config.max_cost_usd": 10.0,
    "gepa.max_spend_usd": 1.5,
    "gepa.proposer_type": "synth",
    "gepa.proposer_effort": "HIGH",
    "gepa.proposer_output_tokens": "SLOW",
    "gepa.modules": [{"module_id": "m"}],
    "gepa.adaptive_pool": {},
    "gepa.adaptive_batch": {"level": "LOW"},
    "gepa.spec_path": "spec.json",
    "gepa.evaluation.validation_pool": "val",
    "gepa.validation_pool": "val",
    "gepa.mutation.rate": 0.4,
    "gepa.mutation_rate": 0,
    "gepa.mutation.prompt": "Write.",
    "gepa.population.initial_size": 21,
    "gepa.initial_population_size": 5,
    "gepa.population.crossover_rate": 0,
    "gepa.archive.size": 10,
    "gepa.token.max_limit": 10,
    "gepa.token.counting_model": "gpt-5",
    "gepa.token.enforce_pattern_limit": False,
    "gepa.token.max_spend_usd": 0,
}


@pytest.mark.parametrize("path", UNSUPPORTED)
def test_known_field_that_is_not_carried_out_is_refused(path: str) -> None:
    error = refused(body({path: UNSUPPORTED[path]}), NotYetSupported)
    assert error.field == f"{SECTION}.{path}"
    assert error.code == "not_yet_supported"
    assert "leave it out" in str(error)


@pytest.mark.parametrize("path", [f.path for f in support_table() if not f.supported and f.default is not None])
def test_default_of_an_unsupported_field_is_accepted(path: str) -> None:
    sent = body({short(path): FIELD_AT[path].default})
    assert config_of(sent) == config_of(body())


@pytest.mark.parametrize(
    ("path", "harmless"),
    [
        ("use_byok", False),
        ("gepa.modules", []),
        ("gepa.adaptive_pool", {"level": "NONE", "anchor_size": 0}),
        ("gepa.adaptive_batch", {"level": "none"}),
        ("verifier", {"enabled": False, "timeout": 5.0}),
        ("gepa.verifier", {}),
    ],
)
def test_section_that_is_switched_off_is_accepted(path: str, harmless: Any) -> None:
    assert config_of(body({path: harmless})) == config_of(body())


def test_unknown_keys_are_reported() -> None:
    sent = body({"foo.bar": 1, "gepa.rollout.speed": 3, "metadata": {"free": {"form": 1}}, "gepa.env_config": {"x": 1}})
    sent["display"] = {"tui": True}
    sent["metadata"] = {"a": 1}
    sent["prompt_learning"]["policy"]["policy.model"] = "dotted"
    assert sorted(resolve("gepa", sent, None).warnings) == [
        "unknown key display is ignored",
        "unknown key prompt_learning.foo is ignored",
        "unknown key prompt_learning.gepa.rollout.speed is ignored",
        "unknown key prompt_learning.policy.policy.model is ignored",
    ]


def test_number_of_warnings_is_bounded() -> None:
    warnings = resolve("gepa", body() | {f"key{index}": 1 for index in range(300)}, None).warnings
    assert len(warnings) == 51
    assert warnings[-1] == "and 250 more"


# --- the table of fields -------------------------------------------------------------------------------------------


def test_every_path_means_one_field() -> None:
    assert len(FIELD_AT) == sum(1 + len(field.aliases) for field in FIELDS)
    assert not TABLES & set(FIELD_AT)
