"""The documentation of the config lists every field as it is, and the example files resolve."""

import json
import tomllib
from pathlib import Path

import pytest

from promptjobs.core.config import FieldSupport, resolve, support_table
from promptjobs.core.config_prompt import MESSAGE_KEYS, PROMPT_KEYS
from promptjobs.core.config_support import FieldType
from promptjobs.core.stops import MIPRO_STOPS, StopReason
from promptjobs.demo.dataset import USER_PATTERN, Split, baseline_system, load_dataset
from promptjobs.demo.model_server import POLICY_MODEL, REFLECTION_MODEL

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
SEARCH_TABLES = ("termination_config.", "verifier.", "proxy_models.")
EXAMPLES = sorted((ROOT / "configs").glob("gepa_*.toml"))


def row(field: FieldSupport) -> str:
    default = "" if field.default is None or field.default == () else f"`{json.dumps(field.default)}`"
    names = ", ".join(f"`{alias}`" for alias in field.aliases)
    return f"| `{field.path}` | {field.expected} | {default} | {field.meaning} | {names} |"


def test_document_lists_every_field_as_it_is_and_no_other() -> None:
    written = [line for line in DOCUMENT.splitlines() if line.startswith("| `prompt_learning.")]
    assert written == [row(field) for field in support_table()]


def test_refused_fields_stand_below_their_heading() -> None:
    supported, refused = DOCUMENT.split("## Known, and not carried out yet")
    for field in support_table():
        assert f"| `{field.path}` |" in (supported if field.supported else refused)


def test_document_names_every_key_of_a_prompt() -> None:
    for key in PROMPT_KEYS | MESSAGE_KEYS:
        assert f"`{key}`" in DOCUMENT or f"`messages[].{key}`" in DOCUMENT


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_example_resolves_without_a_warning(path: Path) -> None:
    resolution = resolve("gepa", tomllib.loads(path.read_text(encoding="utf-8")), None)
    assert resolution.warnings == ()
    assert resolution.task_app_key is None


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_example_fits_the_demos_task_app(path: Path) -> None:
    config = resolve("gepa", tomllib.loads(path.read_text(encoding="utf-8")), None).config
    data = load_dataset()
    assert config.initial_prompt is not None
    assert [m.pattern for m in config.initial_prompt.messages] == [baseline_system(data.labels), USER_PATTERN]
    assert list(config.gepa.train_seeds) == data.seeds(Split.TRAIN)
    assert list(config.gepa.validation_seeds) == data.seeds(Split.VALIDATION)
    assert list(config.gepa.test_seeds) == data.seeds(Split.TEST)


def test_demo_example_names_the_offline_models() -> None:
    text = (ROOT / "configs" / "gepa_demo.toml").read_text(encoding="utf-8")
    config = resolve("gepa", tomllib.loads(text), None).config
    assert (config.policy.model, config.gepa.meta_model.model) == (POLICY_MODEL, REFLECTION_MODEL)


def test_page_of_gepa_explains_every_setting_of_the_search_and_every_stop() -> None:
    page = (ROOT / "docs" / "gepa.md").read_text(encoding="utf-8")
    for field in support_table():
        name = field.path.removeprefix("prompt_learning.").removeprefix("gepa.")
        is_of_search = name != field.path.removeprefix("prompt_learning.") or name.startswith(SEARCH_TABLES)
        if field.supported and field.type is not FieldType.REFUSED and is_of_search:
            assert f"`{name}`" in page, name
    for reason in set(StopReason) - MIPRO_STOPS:
        assert f"| `{reason}` |" in page
