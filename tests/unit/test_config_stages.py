"""The stages of a MIPRO job's config: what they mean, and what is refused with its path."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.config_bodies import PROMPT, mipro_body

from promptjobs.core.config import MiproConfig, MiproJobConfig, resolve
from promptjobs.core.config_stages import MODULE_KEYS, STAGE_KEYS
from promptjobs.errors import MiproConfigurationError

TABLE = "prompt_learning.mipro"
DOCS = Path(__file__).parents[2] / "docs"


def resolved(changes: dict[str, Any]) -> tuple[MiproJobConfig, tuple[str, ...]]:
    resolution = resolve("mipro", mipro_body(changes), None)
    return resolution.config, resolution.warnings


def mipro(changes: dict[str, Any]) -> MiproConfig:
    return resolved(changes)[0].mipro


def refused(changes: dict[str, Any]) -> MiproConfigurationError:
    with pytest.raises(MiproConfigurationError) as caught:
        resolved(changes)
    return caught.value


def stage(stage_id: str, **more: Any) -> dict[str, Any]:
    """A stage whose first message names it; None removes a key."""
    made = {"stage_id": stage_id, "baseline_instruction": f"Do {stage_id}.", **more}
    return {name: value for name, value in made.items() if value is not None}


def module(*stages: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"module_id": "m", "stages": list(stages), **more}


def test_a_stage_without_messages_begins_with_its_instruction() -> None:
    config, warnings = resolved({"mipro.modules": [module(stage("a", baseline_messages=[]), stage("b"))]})
    template = config.template()
    assert template is not None
    assert [(s.name, s.module, s.role, s.content) for s in template.sections] == [
        ("a/system_0", "a", "system", "Do a."),
        ("b/system_0", "b", "system", "Do b."),
    ]
    assert warnings == ()


def test_slots_are_the_stages_or_the_jobs() -> None:
    stages = [stage("a", max_instruction_slots=0, max_demo_slots=3), stage("b")]
    config = mipro({"mipro.stages": stages, "mipro.max_instructions": 1, "mipro.max_demo_slots": 2})
    assert [(s.max_instruction_slots, s.max_demo_slots) for s in config.stages] == [(0, 3), (1, 2)]
    assert [m.max_instruction_slots for m in config.modules] == [0, 1]


def test_stages_may_stand_without_modules_and_edges_anywhere() -> None:
    config = mipro(
        {
            "mipro.modules": [module(stage("a"), stage("b"), edges=[["a", "b"]])],
            "mipro.stages": [stage("c", module_id="other"), stage("d")],
            "mipro.edges": [["b", "c"], ["a", "b"], ["c", "d"]],
        }
    )
    assert [(s.stage_id, s.module_id) for s in config.stages] == [
        *(("a", "m"), ("b", "m")),
        *(("c", "other"), ("d", "module_default")),
    ]
    assert config.edges == (("a", "b"), ("b", "c"), ("c", "d"))


def test_a_stage_has_a_policy_tools_and_a_limit_of_its_own() -> None:
    own = stage("b", policy={"model": "big"}, allowed_tools=["lookup"], max_tokens=50)
    config, warnings = resolved({"mipro.stages": [stage("a"), own]})
    assert config.mipro.module_policies == {"b": config.policy.model_copy(update={"model": "big"})}
    assert (config.mipro.allowed_tools, config.mipro.module_limits) == ({"b": ("lookup",)}, {"b": 50})
    old = stage("b", policy_config={"model": "big"}, policy={"model": "big"}, allowed_tools=["lookup"], max_tokens=50)
    assert resolved({"mipro.stages": [stage("a"), old]}) == (config, warnings)


def test_the_only_stage_may_take_the_jobs_prompt() -> None:
    config, warnings = resolved({"initial_prompt": PROMPT, "mipro.stages": [stage("a", baseline_instruction=None)]})
    plain, _ = resolved({"initial_prompt": PROMPT})
    one, other = config.template(), plain.template()
    assert one is not None
    assert other is not None
    assert [(s.role, s.content) for s in one.sections] == [(s.role, s.content) for s in other.sections]
    assert (one.modules, other.modules, config.initial_prompt, warnings) == (("a",), ("",), None, ())


def test_a_prompt_beside_stages_that_have_their_own_is_reported() -> None:
    config, [warning] = resolved({"initial_prompt": PROMPT, "mipro.stages": [stage("a"), stage("b")]})
    assert config.initial_prompt is None
    assert "initial_prompt is not used" in warning


def test_an_instruction_that_is_nowhere_is_reported() -> None:
    messages = [{"role": "system", "content": "Something else."}]
    config, [warning] = resolved({"mipro.stages": [stage("a", baseline_messages=messages)]})
    assert config.mipro.stages[0].baseline_instruction is None
    assert "first system message" in warning


def test_unknown_keys_of_stages_are_reported() -> None:
    _, found = resolved({"mipro.modules": [module(stage("a", speed=1, metadata={}), colour="red")]})
    assert found == (
        f"unknown key {TABLE}.modules[0].stages[0].speed is ignored",
        f"unknown key {TABLE}.modules[0].colour is ignored",
    )


@pytest.mark.parametrize(
    ("modules", "field", "said"),
    [
        ("m", "modules", "list"),
        (["m"], "modules[0]", "object"),
        ([module()], "modules[0].stages", "required"),
        ([{"stages": [stage("a")]}], "modules[0].module_id", "letters"),
        ([module(stage("a")), module(stage("b"))], "modules[1].module_id", "another"),
        ([module(stage("a"), stage("a"))], "modules[0].stages[1].stage_id", "another"),
        ([module("a")], "modules[0].stages[0]", "object"),
        ([module(stage("a b"))], "modules[0].stages[0].stage_id", "letters"),
        ([module(stage("a", baseline_instruction=""))], "modules[0].stages[0].baseline_instruction", "required"),
        ([module(stage("a", baseline_instruction=4))], "modules[0].stages[0].baseline_instruction", "string"),
        ([module(stage("a", baseline_messages="x"))], "modules[0].stages[0].baseline_messages", "list"),
        (
            [module(stage("a", baseline_messages=[{"role": "tool", "content": "x"}]))],
            "modules[0].stages[0].baseline_messages[0].role",
            "one of",
        ),
        ([module(stage("a", max_demo_slots=-1))], "modules[0].stages[0].max_demo_slots", "from 0"),
        ([module(stage("a", max_instruction_slots=21))], "modules[0].stages[0].max_instruction_slots", "to 20"),
        ([module(stage("a", max_tokens=0))], "modules[0].stages[0].max_tokens", "from 1"),
        ([module(stage("a", allowed_tools="x"))], "modules[0].stages[0].allowed_tools", "list"),
        ([module(stage("a", policy={"temperature": 9}))], "modules[0].stages[0].policy.temperature", "to 2"),
        (
            [module(stage("a", policy={"model": "x"}, policy_config={"model": "y"}))],
            "modules[0].stages[0].policy_config",
            "same setting",
        ),
        (
            [module(stage("a"), stage("b", baseline_instruction="Do a."))],
            "modules[0].stages[1].baseline_messages",
            "told",
        ),
        ([module(stage("a"), edges=[["a", "x"]])], "modules[0].edges[0]", "no stage"),
        ([module(stage("a"), edges=[["a", "a"]])], "modules[0].edges[0]", "cycle"),
        ([module(stage("a"), edges=[["a"]])], "modules[0].edges[0]", "pair"),
        ([module(stage("a"), edges="a")], "modules[0].edges", "list"),
        (
            [module(stage("a"), stage("b"), stage("c"), edges=[["a", "b"], ["b", "c"], ["c", "b"]])],
            "modules[0].edges[1]",
            "cycle",
        ),
        ([module(*(stage(f"s{n}") for n in range(21)))], "modules[0].stages", "at most 20"),
        ([{**module(stage(f"s{n}")), "module_id": f"m{n}"} for n in range(21)], "modules", "at most 20"),
        ([module(stage("a", max_tokens=1))], "modules", "stage 'a'"),
    ],
)
def test_what_is_wrong_with_stages_is_refused_with_its_path(modules: Any, field: str, said: str) -> None:
    error = refused({"mipro.modules": modules})
    assert error.param == f"{TABLE}.{field}"
    assert said in str(error)


def test_more_stages_than_a_job_may_have_are_refused_wherever_they_stand() -> None:
    stages = [stage(f"s{n}") for n in range(20)]
    assert refused({"mipro.modules": [module(*stages)], "mipro.stages": [stage("t")]}).param == f"{TABLE}.stages"


def test_document_names_every_key_of_a_stage_and_its_example_resolves() -> None:
    page = (DOCS / "configuration.md").read_text(encoding="utf-8")
    assert all(f"`{key}`" in page for key in STAGE_KEYS | MODULE_KEYS)
    [text] = [block for block in re.findall(r"```toml\n(.*?)```", page, re.DOTALL) if "mipro.modules" in block]
    config, warnings = resolved({"mipro.modules": tomllib.loads(text)["prompt_learning"]["mipro"]["modules"]})
    assert (config.mipro.edges, warnings) == ((("classify", "check"),), ())
    assert config.mipro.module_policies["check"].temperature == 0.3
