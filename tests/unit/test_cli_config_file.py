"""A job's TOML file and the --set options become exactly what is sent, or one clear error."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptjobs.cli.config_file import algorithm_of, parse_config, read_config, read_overrides
from promptjobs.cli.demo_job import demo_config
from promptjobs.errors import FileUnusable, OptionInvalid

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"[a\nb = 1", "not valid TOML: Expected ']' at the end of a table declaration (at line 1, column 3)"),
        (b"a = 1\na = 2", "not valid TOML: Cannot overwrite a value (at"),
        (b"a = '\xff'", "not UTF-8 at byte 5"),
        (b"when = 2026-05-04", "it holds a date or time, 2026-05-04; write it in quotes"),
        (b"a = [nan]", "cannot be sent as JSON"),
    ],
)
def test_file_that_cannot_be_sent_is_told_with_its_name_and_place(content: bytes, told: str):
    with pytest.raises(FileUnusable) as raised:
        parse_config(content, "job.toml")
    assert str(raised.value).startswith("job.toml: ")
    assert told in str(raised.value)


def test_file_that_is_not_there_is_told(tmp_path: Path):
    with pytest.raises(FileUnusable, match=r"none\.toml: No such file"):
        read_config(tmp_path / "none.toml")


def test_file_is_sent_as_it_is(tmp_path: Path):
    path = tmp_path / "job.toml"
    path.write_text('[prompt_learning]\nalgorithm = "gepa"\nseeds = [1, 2]\n', encoding="utf-8")
    assert read_config(path) == {"prompt_learning": {"algorithm": "gepa", "seeds": [1, 2]}}


@pytest.mark.parametrize(
    ("config", "algorithm"),
    [
        ({"prompt_learning": {"algorithm": "mipro"}}, "mipro"),
        ({"algorithm": "mipro"}, "mipro"),
        ({"prompt_learning": {}}, "gepa"),
        ({}, "gepa"),
        ({"prompt_learning": 3}, "gepa"),
    ],
)
def test_algorithm_is_the_configs(config: dict[str, object], algorithm: str):
    assert algorithm_of(config) == algorithm


@given(st.dictionaries(st.from_regex(r"[a-z_.]+", fullmatch=True), JSON, max_size=4))
def test_every_json_value_can_be_set(values: dict[str, object]):
    options = [f"{key}={json.dumps(value)}" for key, value in values.items()]
    assert read_overrides(options) == values


def test_value_that_is_no_json_is_text_and_keeps_its_equals_signs():
    options = ["prompt_learning.policy.model=gpt-4o-mini", "a=b=c", "empty=", 'quoted="7"', "odd=NaN"]
    assert read_overrides(options) == {
        "prompt_learning.policy.model": "gpt-4o-mini",
        "a": "b=c",
        "empty": "",
        "quoted": "7",
        "odd": "NaN",
    }


@pytest.mark.parametrize("options", [["no_sign"], ["=1"], ["a=1", "a=2"]])
def test_option_that_sets_nothing_or_twice_is_refused(options: list[str]):
    with pytest.raises(OptionInvalid, match="--set"):
        read_overrides(options)


@pytest.mark.parametrize("algorithm", ["gepa", "mipro"])
def test_demo_runs_the_example_that_the_repository_shows(algorithm: str):
    root, name = Path(__file__).parents[2], f"{algorithm}_demo.toml"
    example = root / "configs" / name
    assert read_config(example) == demo_config(algorithm)
    assert example.read_bytes() == (root / "src/promptjobs/demo" / name).read_bytes()
