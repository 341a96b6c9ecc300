"""Options of the form KEY=VALUE become values, or one clear error."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptjobs.cli.key_values import read_texts, read_values
from promptjobs.errors import OptionInvalid

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@pytest.mark.slow
@given(st.dictionaries(st.from_regex(r"[a-z_.]+", fullmatch=True), JSON, max_size=4))
def test_every_json_value_can_be_set(values: dict[str, object]):
    options = [f"{key}={json.dumps(value)}" for key, value in values.items()]
    assert read_values("--set", options) == values


def test_value_that_is_no_json_is_text_and_keeps_its_equals_signs():
    options = ["prompt_learning.policy.model=gpt-4o-mini", "a=b=c", "empty=", 'quoted="7"', "odd=NaN"]
    assert read_values("--set", options) == {
        "prompt_learning.policy.model": "gpt-4o-mini",
        "a": "b=c",
        "empty": "",
        "quoted": "7",
        "odd": "NaN",
    }


@pytest.mark.parametrize("options", [["no_sign"], ["=1"], ["a=1", "a=2"]])
def test_option_that_sets_nothing_or_twice_is_refused(options: list[str]):
    with pytest.raises(OptionInvalid, match="--set"):
        read_values("--set", options)


def test_a_filter_is_text_whatever_it_looks_like():
    assert read_texts("--metadata", ["n=3", 'quoted="7"', "flag=true"]) == {"n": "3", "quoted": '"7"', "flag": "true"}
