"""The jobs that an experiment's request makes: their order, labels, settings and groups."""

import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes.config_bodies import PROMPT, body, mipro_body
from tests.fakes.experiments import two_search_config

from promptjobs.core.config import resolve
from promptjobs.core.experiment_drafts import MAX_LABEL, expand, loaded
from promptjobs.core.experiment_plan import MAX_BYTES, MAX_OVERRIDES, PlannedJob, plan
from promptjobs.errors import InvalidConfig, InvalidRequest, MiproConfigurationError, NotYetSupported
from promptjobs.errors.experiments import OverrideIneffective

MOST = 200
SECTION = "prompt_learning"
LANES, BUDGET = f"{SECTION}.gepa.lanes", f"{SECTION}.gepa.rollout.budget"

Job = Mapping[str, Any]
Matrix = Mapping[str, Sequence[Any]]


def planned(jobs: Sequence[Job], matrix: Matrix | None = None) -> list[PlannedJob]:
    drafts = expand(jobs, matrix or {}, MOST)
    return plan([loaded(draft, draft.algorithm, draft.asked["config"]) for draft in drafts])


def labels(jobs: Sequence[Job], matrix: Matrix | None = None) -> list[str]:
    return [job.label for job in planned(jobs, matrix)]


GEPA: Job = {"config": body({"initial_prompt": PROMPT})}
BOTH: Job = {"config": two_search_config()}


# --- expansion -------------------------------------------------------------------------------------------------------


@given(
    st.lists(st.sampled_from("abc"), min_size=1, max_size=4),
    st.dictionaries(
        st.text("xyz", min_size=1), st.lists(st.integers(0, 99), min_size=1, max_size=4, unique=True), max_size=3
    ),
)
def test_every_job_is_combined_with_every_value_and_the_last_key_varies_fastest(
    names: list[str], matrix: dict[str, list[int]]
) -> None:
    jobs = [{"config": {"name": name}} for name in names]
    expected = [
        (index, dict(zip(matrix, values, strict=True)))
        for index in range(len(jobs))
        for values in product(*matrix.values())
    ]
    if len(expected) > MOST:
        with pytest.raises(InvalidRequest, match="at most 200"):
            expand(jobs, matrix, MOST)
        return
    drafts = expand(jobs, matrix, MOST)
    assert [(draft.index, draft.chosen) for draft in drafts] == expected
    assert [draft.position for draft in drafts] == list(range(1, len(drafts) + 1))


def test_an_expansion_that_is_too_large_is_refused_before_it_is_made() -> None:
    with pytest.raises(InvalidRequest, match=f"make {50**9} jobs"):
        expand([GEPA], {f"k{n}": list(range(50)) for n in range(9)}, MOST)


@pytest.mark.parametrize(
    ("jobs", "matrix", "param"),
    [
        ([], {}, "jobs"),
        ([{}], {}, "jobs[0].config"),
        ([GEPA, {"config": None}], {}, "jobs[1].config"),
        ([{"config": []}], {}, "jobs[0].config"),
        ([{"config_name": 5}], {}, "jobs[0].config_name"),
        ([{**GEPA, "overrides": {}}], {}, "jobs[0].'overrides'"),
        ([{**GEPA, "config_overrides": [1]}], {}, "jobs[0].config_overrides"),
        ([{**GEPA, "label": "  "}], {}, "jobs[0].label"),
        ([{**GEPA, "label": "x" * (MAX_LABEL + 1)}], {}, "jobs[0].label"),
        ([{**GEPA, "label": "a\0"}], {}, "jobs[0].label"),
        ([{**GEPA, "label": "a"}, {**GEPA, "label": "a"}], {}, "jobs[1].label"),
        ([GEPA], {"seed": []}, "matrix.seed"),
        ([GEPA], {"seed": list(range(51))}, "matrix.seed"),
        ([GEPA], {"seed": 3}, "matrix.seed"),
        ([BOTH], {"algorithm": [5]}, "jobs[0].algorithm"),
        ([BOTH], {}, "jobs[0].algorithm"),
    ],
)
def test_a_request_of_another_shape_is_refused_where_it_is_wrong(
    jobs: list[dict[str, Any]], matrix: dict[str, Any], param: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        planned(jobs, matrix)
    assert refused.value.param == param


def test_overrides_of_more_settings_than_anyone_would_name_are_refused() -> None:
    many = {f"{SECTION}.env_config": {f"key {n}": n for n in range(MAX_OVERRIDES + 1)}}
    with pytest.raises(InvalidRequest, match="at most 500 settings"):
        planned([{**GEPA, "config_overrides": many}])


def test_configs_that_are_too_large_together_are_refused() -> None:
    large = body({"initial_prompt": {"messages": [{"role": "system", "pattern": "x" * (MAX_BYTES // 100)}]}})
    with pytest.raises(InvalidRequest, match="bytes of JSON together"):
        planned([{"config": large}], {"seed": list(range(50)), "model": ["a", "b", "c"]})


# --- the algorithm ---------------------------------------------------------------------------------------------------


def naming(config: dict[str, Any], algorithm: str) -> dict[str, Any]:
    named = deepcopy(config)
    named[SECTION]["algorithm"] = algorithm
    return named


@pytest.mark.parametrize("config", [two_search_config(), naming(two_search_config(), "gepa")])
def test_one_config_runs_by_both_algorithms(config: dict[str, Any]) -> None:
    made = planned([{"config": config}], {"algorithm": ["gepa", "mipro"], "seed": [7, 8]})
    resolved = [resolve(job.algorithm, config, job.overrides).config for job in made]
    assert [(each.algorithm, each.search.rng_seed) for each in resolved] == [
        ("gepa", 7),
        ("gepa", 8),
        ("mipro", 7),
        ("mipro", 8),
    ]


def test_the_algorithm_is_that_of_the_job_before_that_of_its_config() -> None:
    config = naming(two_search_config(), "gepa")
    by_override = {"config_overrides": {f"{SECTION}.algorithm": "mipro"}}
    made = planned([{"config": config}, {"config": config, "algorithm": "mipro"}, {"config": config, **by_override}])
    assert [job.algorithm for job in made] == ["gepa", "mipro", "mipro"]


@pytest.mark.parametrize(
    ("job", "matrix"),
    [
        ({"algorithm": "gepa"}, {"algorithm": ["gepa", "mipro"]}),
        ({"algorithm": "gepa", "config_overrides": {f"{SECTION}.algorithm": "mipro"}}, {}),
        ({"config_overrides": {f"{SECTION}.algorithm": "mipro"}}, {"algorithm": ["gepa"]}),
    ],
)
def test_an_algorithm_that_does_not_run_is_refused(job: dict[str, Any], matrix: Matrix) -> None:
    with pytest.raises(OverrideIneffective, match="algorithm would have no effect"):
        planned([{**BOTH, **job}], matrix)


# --- labels and settings ---------------------------------------------------------------------------------------------


def test_labels_and_settings_say_what_varies() -> None:
    made = planned([BOTH], {"algorithm": ["gepa", "mipro"], "model": ["demo", "large"], "seed": [1, 2]})
    assert [job.label for job in made[:3]] == [
        "gepa · model=demo, seed=1",
        "gepa · model=demo, seed=2",
        "gepa · model=large, seed=1",
    ]
    assert made[-1].label == "mipro · model=large, seed=2"
    assert made[-1].settings == {"algorithm": "mipro", "model": "large", "seed": 2}
    assert list(made[0].settings) == ["algorithm", "model", "seed"]


def test_a_clients_label_is_followed_by_what_varies_in_its_own_jobs() -> None:
    wide = {**GEPA, "label": "wide", "config_overrides": {LANES: 4}}
    assert labels([{**GEPA, "label": "plain"}, wide]) == ["plain", "wide"]
    assert labels([{**GEPA, "label": "plain"}, wide], {"seed": [1]}) == ["plain", "wide"]
    assert labels([{**GEPA, "label": "plain"}, wide], {"seed": [1, 2]}) == [
        "plain · seed=1",
        "plain · seed=2",
        "wide · seed=1",
        "wide · seed=2",
    ]


def test_jobs_without_labels_are_told_apart_by_what_differs_or_else_by_numbers() -> None:
    other = {"config": body({"policy.model": "other"})}
    fewer = {**GEPA, "config_overrides": {BUDGET: 300}}
    assert labels([GEPA, fewer]) == ["gepa", "gepa · budget=300"]
    assert labels([GEPA, other]) == ["gepa · model=llama-3.1-8b-instant", "gepa · model=other"]
    assert labels([GEPA, GEPA, {**GEPA, "label": "gepa"}]) == ["gepa (2)", "gepa (3)", "gepa"]
    assert planned([GEPA, other])[1].settings == {"model": "other"}


def test_an_object_in_the_matrix_is_shown_by_its_parts() -> None:
    policies = [{"provider": "groq", "model": "a"}, {"provider": "openai", "model": "b", "temperature": 0.5}]
    made = planned([GEPA], {f"{SECTION}.policy": policies})
    assert made[1].label == "gepa · provider=openai, model=b, temperature=0.5"
    assert made[1].settings == {"provider": "openai", "model": "b", f"{SECTION}.policy.temperature": 0.5}


def test_what_is_long_is_shown_by_its_size_and_told_apart() -> None:
    seeds = [list(range(60)), list(range(1, 61))]
    made = planned([GEPA], {f"{SECTION}.gepa.evaluation.train_seeds": seeds})
    shown = [job.settings[f"{SECTION}.gepa.evaluation.train_seeds"] for job in made]
    assert all(value.startswith("60 items") for value in shown)
    assert shown[0] != shown[1]
    assert all(len(job.label) < 60 for job in made)


def test_no_secret_is_in_a_label_a_setting_a_group_or_a_refusal() -> None:
    made = planned([GEPA], {"task_app_api_key": ["test-key-one", "test-key-two"]})
    assert [job.label for job in made] == ["gepa", "gepa (2)"]
    assert "test-key" not in json.dumps([[job.label, job.group, dict(job.settings)] for job in made])
    twice = {"task_app_api_key": "test-key-one", f"{SECTION}.task_app_api_key": "test-key-two"}
    with pytest.raises(OverrideIneffective) as refused:
        planned([{**GEPA, "config_overrides": twice}])
    assert "test-key" not in json.dumps([str(refused.value), refused.value.facts])


@pytest.mark.parametrize("values", [[1, 1], [{"a": 1, "b": 2}, {"b": 2, "a": 1}], ["x", "y", "x"]])
def test_a_value_that_stands_twice_is_refused(values: list[Any]) -> None:
    with pytest.raises(InvalidRequest, match="expected values that differ"):
        expand([GEPA], {"seed": values}, MOST)


LABELS = st.none() | st.sampled_from(["gepa", "gepa (2)", "gepa · seed=1", "a", "é · x"])


@given(st.lists(LABELS, min_size=1, max_size=5), st.lists(st.integers(0, 2), max_size=3, unique=True))
@settings(max_examples=25, deadline=None)
def test_labels_are_unique_and_a_clients_own_stays_where_nothing_varies(
    given_labels: list[str | None], seeds: list[int]
) -> None:
    jobs = [GEPA if label is None else {**GEPA, "label": label} for label in given_labels]
    clients = [label for label in given_labels if label is not None]
    if len(set(clients)) < len(clients):
        return
    found = labels(jobs, {"seed": seeds} if seeds else {})
    assert len(set(found)) == len(found)
    if not seeds:
        assert [label for label, own in zip(found, given_labels, strict=True) if own is not None] == clients


# --- groups ----------------------------------------------------------------------------------------------------------


@given(
    st.lists(
        st.tuples(st.sampled_from(["gepa", "mipro"]), st.sampled_from(["a", "b"]), st.integers(0, 3)),
        min_size=1,
        max_size=6,
    ),
    st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_jobs_are_of_one_group_just_where_only_their_random_seed_differs(
    kinds: list[tuple[str, str, int]], has_many_seeds: bool
) -> None:
    config = two_search_config({"gepa.evaluation.train_seeds": list(range(90 if has_many_seeds else 20))})
    jobs = [
        {
            "config": config,
            "algorithm": algorithm,
            "config_overrides": {f"{SECTION}.policy.model": model, f"{SECTION}.{algorithm}.rng_seed": seed},
        }
        for algorithm, model, seed in kinds
    ]
    made = planned(jobs)
    unseeded = [
        resolve(algorithm, config, {f"{SECTION}.policy.model": model, f"{SECTION}.{algorithm}.rng_seed": 0})
        for algorithm, model, _ in kinds
    ]
    for first, mine in zip(made, unseeded, strict=True):
        for second, other in zip(made, unseeded, strict=True):
            assert (first.group == second.group) == (mine.config == other.config)


def test_a_group_is_called_what_its_jobs_are_without_the_seed() -> None:
    made = planned([BOTH], {"algorithm": ["gepa", "mipro"], "model": ["a", "b"], "seed": [1, 2, 3]})
    assert list(dict.fromkeys(job.group for job in made)) == [
        "gepa · model=a",
        "gepa · model=b",
        "mipro · model=a",
        "mipro · model=b",
    ]


def test_repetitions_that_a_client_has_labelled_itself_are_one_group() -> None:
    jobs = [
        {**GEPA, "label": f"run {seed}", "config_overrides": {f"{SECTION}.gepa.rng_seed": seed}} for seed in range(3)
    ]
    assert {job.group for job in planned(jobs)} == {"gepa"}


def test_groups_that_would_be_called_the_same_are_numbered() -> None:
    longer = {"config": body({"initial_prompt": PROMPT, "gepa.rollout.budget": 450})}
    assert [job.group for job in planned([GEPA, longer, GEPA])] == ["gepa", "gepa (2)", "gepa"]


# --- refusals of a job -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("job", "matrix", "kind", "param"),
    [
        (GEPA, {"seed": [1, -1]}, InvalidConfig, "matrix.seed"),
        ({**GEPA, "config_overrides": {LANES: 999}}, {}, InvalidConfig, f"jobs[0].config_overrides.{LANES}"),
        ({**GEPA, "config_overrides": {"a..b": 1}}, {}, InvalidConfig, "jobs[0].config_overrides"),
        ({"config": body({"gepa.lanes": 999})}, {"seed": [1]}, InvalidConfig, f"jobs[0].config.{LANES}"),
        ({"config": {"a": 1}, "algorithm": "gepa"}, {}, InvalidConfig, "jobs[0].config.prompt_learning"),
        (BOTH, {"algorithm": ["staged"]}, NotYetSupported, "matrix.algorithm"),
        ({**BOTH, "algorithm": "staged"}, {}, NotYetSupported, "jobs[0].algorithm"),
        (
            {"config": mipro_body({"mipro.num_iterations": 0})},
            {},
            MiproConfigurationError,
            "jobs[0].config.prompt_learning.mipro.num_iterations",
        ),
    ],
)
def test_what_refuses_a_job_keeps_its_class_and_names_the_job_and_the_place(
    job: dict[str, Any], matrix: Matrix, kind: type[InvalidRequest], param: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        planned([job], matrix)
    assert type(refused.value) is kind
    assert refused.value.param == param
    facts = refused.value.facts
    assert str(refused.value).startswith(f"job {facts['position']} ({facts['label']!r}): ")
