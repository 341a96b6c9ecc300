"""The fields of a config one by one: aliases, ranges and types, what is not supported, what is unknown."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes.config_bodies import body, body_of

from promptjobs.core.config import JobConfig, Resolution, read_config, resolve, support_table
from promptjobs.core.config_fields import ALGORITHMS, FIELDS, TABLE_OF
from promptjobs.core.config_support import SECTION, FieldSupport, FieldType
from promptjobs.core.config_values import read
from promptjobs.errors import InvalidConfig, InvalidRequest, NotYetSupported


def config_of(sent: dict[str, Any]) -> JobConfig:
    return resolve(sent["prompt_learning"]["algorithm"], sent, None).config


def refused(sent: dict[str, Any], kind: type[InvalidRequest] = InvalidConfig) -> InvalidRequest:
    with pytest.raises(kind) as caught:
        resolve(sent["prompt_learning"]["algorithm"], sent, None)
    return caught.value


def short(path: str) -> str:
    return path.removeprefix(f"{SECTION}.")


# --- aliases -------------------------------------------------------------------------------------------------------

SAMPLES = {
    "gepa.evaluation.train_seeds": [1, 2, 3],
    "gepa.evaluation.validation_seeds": [201, 202],
    "gepa.evaluation.test_pool": [301],
    "gepa.mutation.llm_provider": "groq",
    "gepa.archive.pareto_set_size": 4,
    "gepa.token.max_limit": 5000,
    "proxy_models.hi_provider": "groq",
    "proxy_models.hi_model": "llama-3.1-8b-instant",
    "mipro.seeds.bootstrap": [1, 2],
    "mipro.seeds.online": [21, 22],
    "mipro.seeds.validation": [61],
    "mipro.seeds.test": [71],
    "mipro.seeds.reference": [81],
    "mipro.meta.provider": "groq",
    "mipro.proposer_mode": "dspy",
    "mipro.adaptive_pool.level": "HIGH",
}
"""Values that go with the small body; elsewhere, two of the field's type will do."""


def samples(field: FieldSupport) -> tuple[Any, Any]:
    """Two values that differ from each other and from the default."""
    match field.type:
        case FieldType.INTEGER:
            found: list[Any] = [v for v in (40, 41, 77, 7, 9) if v != field.default and v <= field.high]
        case FieldType.NUMBER:
            found = [value for value in (0.25, 0.75, 30.0, 40.0) if field.low <= value <= field.high]
        case FieldType.CHOICE:
            found = [choice for choice in field.choices if choice != field.default] + [field.default]
        case FieldType.FLAG:
            found = [not field.default, bool(field.default)]
        case FieldType.OBJECT:
            found = [{"a": 1}, {"b": 2}]
        case FieldType.SEEDS | FieldType.INTEGERS:
            found = [[3], [4]]
        case _:
            found = ["http://one", "http://another"] if field.type is FieldType.URL else ["one", "another"]
    first = SAMPLES.get(short(field.path), found[0])
    return first, found[1] if found[1] != first else found[0]


ALIASES = [
    (algorithm, short(field.path), short(alias))
    for algorithm in ALGORITHMS
    for field in TABLE_OF[algorithm].fields
    if field.supported and field.type not in (FieldType.SECRET, FieldType.REFUSED)
    for alias in field.aliases
]


def beside(path: str) -> dict[str, Any]:
    """What a field needs beside it, so that it is read at all."""
    if path.startswith("verifier."):
        judge = {"enabled": True, "reward_source": "fused", "backend_model": "judge", "weight_outcome": 1.0}
        return {f"verifier.{name}": value for name, value in judge.items() if path != f"verifier.{name}"} | (
            {"verifier.weight_event": 1.0}
            if path in ("verifier.weight_outcome", "verifier.backend_event_enabled")
            else {}
        )
    if path.startswith("proxy_models."):
        return {} if path == "proxy_models.lo_model" else {"proxy_models.lo_model": "small"}
    return {}


def outcome(algorithm: str, changes: dict[str, Any]) -> JobConfig | str:
    try:
        return config_of(body_of(algorithm, changes))
    except InvalidConfig as exc:
        return str(exc)


@pytest.mark.parametrize(("algorithm", "path", "alias"), ALIASES)
def test_alias_is_the_same_setting(algorithm: str, path: str, alias: str) -> None:
    value, _ = samples(TABLE_OF[algorithm].at[f"{SECTION}.{path}"])
    expected = outcome(algorithm, {**beside(path), path: value})
    assert expected != outcome(algorithm, beside(path)) or path in SAMPLES
    assert outcome(algorithm, {**beside(path), path: None, alias: value}) == expected
    assert outcome(algorithm, {**beside(path), path: value, alias: value}) == expected


@pytest.mark.parametrize(("algorithm", "path", "alias"), ALIASES)
def test_alias_with_another_value_is_refused(algorithm: str, path: str, alias: str) -> None:
    value, other = samples(TABLE_OF[algorithm].at[f"{SECTION}.{path}"])
    error = refused(body_of(algorithm, {**beside(path), path: value, alias: other}))
    assert "the same setting" in str(error)


def test_list_and_range_of_the_same_seeds_agree() -> None:
    assert config_of(body({"train_seeds": {"start": 0, "end": 20}})) == config_of(body())


GIVEN = (
    "task_app_url",
    "policy.provider",
    "policy.model",
    "gepa.evaluation.train_seeds",
    "gepa.evaluation.validation_seeds",
    "mipro.seeds.bootstrap",
    "mipro.seeds.online",
    "algorithm",
)
PATHS = [(algorithm, short(path)) for algorithm in ALGORITHMS for path in TABLE_OF[algorithm].at]


@pytest.mark.parametrize(("algorithm", "path"), [one for one in PATHS if one[1] not in GIVEN])
def test_null_means_not_given(algorithm: str, path: str) -> None:
    assert config_of(body_of(algorithm, {path: None})) == config_of(body_of(algorithm))


# --- ranges and types ----------------------------------------------------------------------------------------------

NUMBERS = [f for f in FIELDS if f.supported and f.type in (FieldType.INTEGER, FieldType.NUMBER)]


def small(field: FieldSupport, value: Any) -> dict[str, Any]:
    """A body of a job that has the field."""
    return body_of("mipro" if short(field.path).startswith("mipro.") else "gepa", {short(field.path): value})


@pytest.mark.parametrize("field", NUMBERS, ids=lambda field: field.path)
def test_numbers_outside_their_range_are_refused(field: FieldSupport) -> None:
    for wrong in (field.low - 0.001, field.low - 1, field.high + 1, True, "3", [1], {}):
        error = refused(small(field, wrong))
        assert error.param == field.path
        assert field.expected in str(error)
    for wrong in (math.nan, math.inf, 2**63):
        assert refused(small(field, wrong)).param == field.path


@pytest.mark.parametrize("field", NUMBERS, ids=lambda field: field.path)
def test_bounds_of_numbers_are_accepted(field: FieldSupport) -> None:
    for bound in (field.low, field.high):
        assert read(field, field.path, bound) == bound


@pytest.mark.parametrize("field", NUMBERS, ids=lambda field: field.path)
def test_integers_are_no_floats(field: FieldSupport) -> None:
    if field.type is FieldType.INTEGER:
        assert refused(small(field, float(field.high))).param == field.path
    elif int(field.high) >= field.low:
        whole = read(field, field.path, int(field.high))
        assert (whole, type(whole)) == (int(field.high), float)


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
        ("gepa.objectives", "score"),
        ("gepa.objectives", []),
        ("gepa.objectives", ["score", "score"]),
        ("gepa.objectives", ["beauty"]),
        ("gepa.objectives", [["score"]]),
        ("gepa.guards.frozen", "text"),
        ("gepa.guards.frozen", [""]),
        ("gepa.guards.frozen", ["x"] * 51),
        ("gepa.guards.must_match", ["x" * 501]),
        ("gepa.guards.json_schema", True),
        ("gepa.token.enforce_pattern_limit", "yes"),
        ("policy", "gpt"),
    ],
)
def test_wrong_types_are_refused_with_their_path(path: str, wrong: Any) -> None:
    error = refused(body({path: wrong}))
    assert error.param == f"{SECTION}.{path}"


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
    assert refused(body({"task_app_url": wrong})).param == "prompt_learning.task_app_url"


def test_credentials_in_the_task_app_url_are_refused_and_not_shown() -> None:
    assert "hunter2" not in str(refused(body({"task_app_url": "http://me:hunter2@host"})))


def test_final_slash_of_the_task_app_url_is_dropped() -> None:
    assert config_of(body({"task_app_url": "https://host/app/"})).task_app.url == "https://host/app"


@pytest.mark.parametrize("missing", ["task_app_url", "policy.provider", "policy.model"])
def test_required_fields(missing: str) -> None:
    error = refused(body({missing: None}))
    assert error.param == f"{SECTION}.{missing}"
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


ANYWHERE = [(name, short(path)) for name, table in TABLE_OF.items() for path in sorted({*table.at, *table.tables})]


@given(place=st.sampled_from(ANYWHERE), value=ANYTHING)
def test_any_value_anywhere_is_read_or_refused_with_its_path(place: tuple[str, str], value: Any) -> None:
    outcome: Resolution | InvalidRequest
    algorithm, path = place
    try:
        sent = {SECTION: value} if path == SECTION else body_of(algorithm, {path: value})
        outcome = resolve(algorithm, sent, None)
    except InvalidRequest as exc:
        outcome = exc
    if isinstance(outcome, Resolution):
        assert read_config(outcome.config.model_dump_json()) == outcome.config
    else:
        assert (outcome.param or "").startswith(SECTION)
        assert len(str(outcome)) < 1000


# --- what is not supported, and what is unknown --------------------------------------------------------------------

UNSUPPORTED = {
    "free_tier": True,
    "gepa.evaluation.validation_pool": "val",
    "gepa.validation_pool": "val",
}


@pytest.mark.parametrize("path", UNSUPPORTED)
def test_known_field_that_is_not_carried_out_is_refused(path: str) -> None:
    error = refused(body({path: UNSUPPORTED[path]}), NotYetSupported)
    assert error.param == f"{SECTION}.{path}"
    assert error.code == "not_yet_supported"
    assert "leave it out" in str(error)


@pytest.mark.parametrize("field", [f for f in support_table() if not f.supported and f.default is not None])
def test_default_of_an_unsupported_field_is_accepted(field: FieldSupport) -> None:
    assert config_of(small(field, field.default)) == config_of(small(field, None))


@pytest.mark.parametrize(
    ("path", "harmless"),
    [
        ("gepa.modules", []),
        ("gepa.adaptive_pool", {"level": "NONE", "anchor_size": 0}),
        ("gepa.adaptive_pool", "none"),
        ("gepa.adaptive_batch", {"level": "none"}),
        ("gepa.adaptive_batch", False),
        ("verifier", {"enabled": False, "timeout": 5.0}),
        ("verifier", False),
        ("gepa.verifier", {}),
        ("gepa.proxy_models", {}),
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


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_path_means_one_field(algorithm: str) -> None:
    table = TABLE_OF[algorithm]
    assert len(table.at) == sum(1 + len(field.aliases) for field in table.fields)
    assert not table.tables & set(table.at)


def test_no_algorithm_knows_the_fields_of_another() -> None:
    for algorithm in ALGORITHMS:
        for other in set(ALGORITHMS) - {algorithm}:
            inside = f"{SECTION}.{other}"
            assert [path for path in TABLE_OF[algorithm].at if path.startswith(inside)] == [inside]


def test_the_tables_of_the_algorithms_hold_every_field_between_them() -> None:
    found = {field.path for table in TABLE_OF.values() for field in table.fields}
    assert found == {field.path for field in support_table()}
