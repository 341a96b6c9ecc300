"""What the client sent: overrides are merged idempotently, secrets never stay, and only storable JSON passes."""

import json
import math
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes.config_bodies import body, sdk_0_4_11

from promptjobs.core.config import GepaJobConfig, resolve
from promptjobs.core.config_body import as_json, merged, without_secrets
from promptjobs.errors import InvalidConfig

KEY = "test-key-9d1f"


def config_of(sent: dict[str, Any], overrides: dict[str, Any]) -> GepaJobConfig:
    return resolve("gepa", sent, overrides).config


def refused(sent: dict[str, Any], overrides: dict[str, Any] | None = None) -> InvalidConfig:
    with pytest.raises(InvalidConfig) as caught:
        resolve("gepa", sent, overrides)
    return caught.value


# --- overrides -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "overrides",
    [
        {"prompt_learning.policy.model": "other"},
        {"prompt_learning": {"policy": {"model": "other"}}},
        {"prompt_learning": {"policy.model": "other"}},
        {"prompt_learning.policy": {"model": "other"}},
    ],
)
def test_overrides_may_be_dotted_or_nested(overrides: dict[str, Any]) -> None:
    assert config_of(body(), overrides) == config_of(body({"policy.model": "other"}), {})


def test_control_keys_of_overrides_are_ignored() -> None:
    control = {"backend": "http://x", "task_url": "http://y", "metadata": {"a": 1}, "auto_start": False}
    resolution = resolve("gepa", body(), control)
    assert (resolution.config, resolution.warnings) == (config_of(body(), {}), ())


def test_override_goes_before_the_config_under_whichever_name() -> None:
    sent = body({"gepa.rollout_budget": 100, "train_seeds": list(range(20))})
    overrides = {"prompt_learning.gepa.rollout.budget": 50, "prompt_learning.gepa.evaluation.seeds": [7, 8, 9]}
    config = config_of(sent, overrides)
    assert config.gepa.rollout_budget == 50
    assert config.gepa.train_seeds == (7, 8, 9)
    merged_by_the_client = body(
        {"gepa.rollout_budget": 100, "gepa.rollout.budget": 50, "gepa.evaluation.seeds": [7, 8, 9]}
    )
    assert config_of(merged_by_the_client, overrides) == config


def test_null_override_unsets_a_value() -> None:
    assert config_of(body({"gepa.lanes": 3}), {"prompt_learning.gepa.lanes": None}).gepa.lanes == 8


@pytest.mark.parametrize("path", ["prompt_learning.policy.model.name", "prompt_learning.gepa.evaluation.train_seeds.0"])
def test_path_through_a_value_is_refused(path: str) -> None:
    assert refused(body(), {path: 1}).param == path


@pytest.mark.parametrize(
    "overrides",
    [
        {"prompt_learning.gepa.lanes": 1, "prompt_learning": {"gepa": {"lanes": 2}}},
        {"prompt_learning": {"gepa": {"lanes": 2}}, "prompt_learning.gepa.lanes": 1},
        {"prompt_learning.gepa.env_config.a": 1, "prompt_learning.gepa.env_config": 5},
    ],
)
def test_contradictory_overrides_are_refused(overrides: dict[str, Any]) -> None:
    assert "overridden twice" in str(refused(body(), overrides))


@pytest.mark.parametrize("key", ["", "prompt_learning..policy", ".policy", ".".join("a" * 40)])
def test_malformed_paths_are_refused(key: str) -> None:
    assert refused(body(), {key: 1}).param == "overrides"


def test_dots_in_free_form_keys_are_no_paths() -> None:
    config = config_of(body(), {"prompt_learning.gepa.env_config": {"v1.5": {"a.b": 1}}})
    assert config.task_app.env_config == {"v1.5": {"a.b": 1}}


NAMES = st.sampled_from(["a", "b", "a.b", "b.a", "a.b.c", "prompt_learning", "prompt_learning.a", "env_config"])
LEAVES = st.none() | st.integers(0, 2) | st.just([1])
TREES = st.dictionaries(NAMES, LEAVES | st.dictionaries(NAMES, LEAVES | st.just({"a.b": 1}), max_size=3), max_size=3)


@given(base=TREES, overrides=TREES)
def test_merging_is_idempotent_and_leaves_its_inputs_alone(base: dict[str, Any], overrides: dict[str, Any]) -> None:
    sent = {"prompt_learning": base}
    before = deepcopy((sent, overrides))
    try:
        once, _ = merged(sent, overrides)
    except InvalidConfig:
        once = None
    assert (sent, overrides) == before
    if once is not None:
        assert merged(once, overrides)[0] == once


@given(overrides=TREES)
def test_merged_body_holds_what_the_overrides_alone_hold(overrides: dict[str, Any]) -> None:
    def held(tree: Any, part: Any) -> bool:
        if isinstance(part, dict):
            return isinstance(tree, dict) and all(held(tree.get(key), inner) for key, inner in part.items())
        return bool(tree == part)

    try:
        whole, changes = merged({"prompt_learning": {"z": 1}}, overrides)
    except InvalidConfig:
        return
    assert held(whole, changes)


# --- secrets -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        ({"overrides": KEY, "top": "b", "section": "c", "gepa": "d"}, KEY),
        ({"top": KEY, "section": "c", "gepa": "d"}, KEY),
        ({"section": KEY, "gepa": "d"}, KEY),
        ({"gepa": KEY, "mipro": "e"}, KEY),
        ({"mipro": KEY}, KEY),
        ({"overrides": "", "top": KEY}, KEY),
        ({"overrides": "${ENVIRONMENT_API_KEY}", "top": "a"}, None),
        ({"overrides": KEY, "section": "${ENVIRONMENT_API_KEY}"}, KEY),
        ({"section": "${ENVIRONMENT_API_KEY}"}, None),
        ({}, None),
    ],
)
def test_task_app_key_is_taken_by_precedence(places: dict[str, str], expected: str | None) -> None:
    sent, overrides = body(), {}
    for place, value in places.items():
        target = {
            "overrides": overrides,
            "top": sent,
            "section": sent["prompt_learning"],
            "gepa": sent["prompt_learning"]["gepa"],
            "mipro": sent["prompt_learning"].setdefault("mipro", {}),
        }
        target[place]["task_app_api_key"] = value
    resolution = resolve("gepa", sent, overrides)
    assert resolution.task_app_key == expected
    stored = json.dumps(resolution.sent) + resolution.config.model_dump_json()
    assert not [value for value in places.values() if value and "$" not in value and f'"{value}"' in stored]


@pytest.mark.parametrize("wrong", [5, ["a"], "key\r\nX: y", " key", "schlüssel", "[redacted]", "${OTHER_KEY}"])
def test_key_that_cannot_be_sent_is_refused_and_not_shown(wrong: Any) -> None:
    error = refused(body(), {"task_app_api_key": wrong})
    assert error.param == "task_app_api_key"
    assert "key\r\n" not in str(error)
    assert "schl" not in str(error)


def test_secrets_are_in_neither_stored_form() -> None:
    sent = sdk_0_4_11() | {"display": {"api_key": KEY}}
    sent["prompt_learning"]["headers"] = [{"Authorization": f"Bearer {KEY}", "X-API-Key": KEY}]
    sent["prompt_learning"]["policy"]["apiKey"] = KEY
    sent["metadata"] = {
        "password": 1234,
        "client_secret": {"value": KEY},
        "access_token": KEY,
        "api_token": KEY,
        "sessionToken": KEY,
        "OPENAI_API_KEYS": [KEY],
    }
    overrides = {"prompt_learning.task_app_api_key": KEY, "prompt_learning.gepa.x.token": KEY}
    resolution = resolve("gepa", sent, overrides)
    stored = json.dumps(resolution.sent) + resolution.config.model_dump_json() + " ".join(resolution.warnings)
    assert resolution.task_app_key == KEY
    assert KEY not in stored
    assert "1234" not in stored
    assert "test-task-app-key" not in stored


def test_what_was_sent_is_kept_but_for_its_secrets() -> None:
    sent = sdk_0_4_11()
    expected = deepcopy(sent)
    expected["task_app_api_key"] = expected["prompt_learning"]["task_app_api_key"] = "[redacted]"
    resolution = resolve("gepa", sent, {"task_app_api_key": KEY, "auto_start": True})
    assert resolution.sent == {
        "algorithm": "gepa",
        "config_body": expected,
        "overrides": {"task_app_api_key": "[redacted]", "auto_start": True},
    }
    assert sent == sdk_0_4_11()


@pytest.mark.parametrize(
    "harmless",
    [
        {"backend_api_key_env": "SYNTH_API_KEY"},
        {"gepa": {"token": {"max_limit": None}}},
        {"gepa.token": {"counting_model": "gpt-4"}},
        {"wildcards": {"token": "REQUIRED", "secret": "optional"}},
        {"api_key": None, "password": ""},
        {"task_app_api_key": "${ENVIRONMENT_API_KEY}"},
        {"max_tokens": 5, "tokenizer": "a", "stop_tokens": ["b"]},
    ],
)
def test_harmless_values_stay(harmless: dict[str, Any]) -> None:
    assert without_secrets(harmless) == harmless


def test_secret_in_env_config_is_refused() -> None:
    error = refused(body({"gepa.env_config": {"dataset": [{"hf": {"api_key": KEY}}]}}))
    assert error.param == "prompt_learning.gepa.env_config.dataset[0].hf.api_key"
    assert KEY not in str(error)


# --- JSON ----------------------------------------------------------------------------------------------------------

DEEP: dict[str, Any] = {}
for _ in range(100):
    DEEP = {"a": DEEP}


@pytest.mark.parametrize(
    "wrong",
    [
        math.nan,
        -math.inf,
        2**63,
        -(2**63) - 1,
        "a\x00b",
        "\ud800",
        {"\x00": 1},
        {5: 1},
        {"k" * 501: 1},
        {1, 2},
        b"x",
        DEEP,
    ],
)
@pytest.mark.parametrize("place", ["gepa.env_config", "metadata", "unknown"])
def test_what_cannot_be_stored_is_refused_wherever_it_stands(wrong: Any, place: str) -> None:
    assert str(refused(body({f"{place}.inner": wrong}))).startswith(f"prompt_learning.{place.split('.')[0]}")
    assert str(refused(body(), {f"prompt_learning.{place}": {"inner": wrong}})).startswith("overrides.")


def test_copy_is_deep() -> None:
    inner = {"list": [1, (2, 3)]}
    copy = as_json(inner)
    assert copy == {"list": [1, [2, 3]]}
    assert copy["list"] is not inner["list"]
