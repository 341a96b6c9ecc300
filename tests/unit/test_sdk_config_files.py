"""A job's TOML file becomes exactly what is sent, or one clear error."""

from pathlib import Path

import pytest

from promptjobs import ConfigFileInvalid
from promptjobs.cli.demo_job import demo_config
from promptjobs.sdk.config_files import MAX_BYTES, algorithm_of, config_of, parse_config, read_config


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
    with pytest.raises(ConfigFileInvalid) as raised:
        parse_config(content, "job.toml")
    assert str(raised.value).startswith("job.toml: ")
    assert told in str(raised.value)


def test_file_that_is_not_there_is_told(tmp_path: Path):
    with pytest.raises(ConfigFileInvalid, match=r"none\.toml: No such file"):
        read_config(tmp_path / "none.toml")


def test_file_that_is_too_large_is_not_read_whole(tmp_path: Path):
    path = tmp_path / "job.toml"
    path.write_bytes(b"#" * (MAX_BYTES + 1))
    with pytest.raises(ConfigFileInvalid, match="at most"):
        read_config(path)


def test_what_is_no_path_is_the_config_itself():
    config = {"prompt_learning": {}}
    assert config_of(config) is config


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


@pytest.mark.parametrize("algorithm", ["gepa", "mipro"])
def test_demo_runs_the_example_that_the_repository_shows(algorithm: str):
    root, name = Path(__file__).parents[2], f"{algorithm}_demo.toml"
    example = root / "configs" / name
    assert read_config(example) == demo_config(algorithm)
    assert example.read_bytes() == (root / "src/promptjobs/demo" / name).read_bytes()
