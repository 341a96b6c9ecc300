"""The modules of a config: what they mean, and what is refused with its path."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.config_bodies import PROMPT, body
from tests.fakes.programs import MODULES, PROGRAM

from promptjobs.core.asks import Tier
from promptjobs.core.config import GepaJobConfig, Price, read_config, resolve
from promptjobs.core.config_modules import MODULE_KEYS
from promptjobs.core.limits import probe_seeds
from promptjobs.core.policies import policy_digest, policy_of
from promptjobs.errors import InvalidConfig

PATH = "prompt_learning.gepa.modules"
CHEAP = {"input_usd_per_million": 0, "output_usd_per_million": 1.5}
DOCS = Path(__file__).parents[2] / "docs"


def resolved(modules: Any, **more: Any) -> tuple[GepaJobConfig, tuple[str, ...]]:
    resolution = resolve("gepa", body({"gepa.modules": modules, **more}), None)
    return resolution.config, resolution.warnings


def changed(at: int = 0, **changes: Any) -> list[dict[str, Any]]:
    """MODULES with some keys of one of them replaced; None removes a key."""
    modules = [dict(module) for module in MODULES]
    modules[at] = {name: value for name, value in (modules[at] | changes).items() if value is not None}
    return modules


def refused(modules: Any, **more: Any) -> InvalidConfig:
    with pytest.raises(InvalidConfig) as caught:
        resolved(modules, **more)
    return caught.value


def test_modules_are_one_prompt_whose_sections_carry_their_names() -> None:
    config, warnings = resolved(MODULES)
    assert config.template() == PROGRAM
    assert warnings == ()
    assert probe_seeds(config) == ()
    assert read_config(config.model_dump_json()) == config


def test_no_modules_are_as_good_as_none_given() -> None:
    assert resolved([]) == resolved(None)


def test_limits_of_a_module_are_its_own() -> None:
    config, _ = resolved(changed(1, max_tokens=500, allowed_tools=["lookup"], max_instruction_slots=1))
    assert (config.gepa.module_limits, config.gepa.allowed_tools) == ({"solve": 500}, {"solve": ("lookup",)})
    assert [module.max_instruction_slots for module in config.gepa.modules] == [3, 1]


def test_a_policy_that_repeats_the_jobs_says_nothing() -> None:
    policies: list[dict[str, Any]] = [
        {},
        {"provider": "GROQ", "model": "llama-3.1-8b-instant", "temperature": 0.0, "inference_mode": "synth_hosted"},
        {"provider": "groq", "inference_url": None, "max_completion_tokens": 512},
    ]
    for policy in policies:
        assert resolved(changed(policy=policy)) == resolved(MODULES)


@pytest.mark.parametrize(
    ("given", "own"),
    [
        ({"temperature": 0.7}, {"temperature": 0.7}),
        ({"max_completion_tokens": 64}, {"max_completion_tokens": 64}),
        ({"model": "big"}, {"model": "big", "price": None}),
        ({"provider": "OpenAI", "model": "gpt-4.1"}, {"provider": "openai", "model": "gpt-4.1", "price": None}),
        (
            {"model": "big", "price": {"input_usd_per_million": 2, "output_usd_per_million": 3}},
            {"model": "big", "price": Price(input_usd_per_million=2, output_usd_per_million=3)},
        ),
        ({"price": {"input_usd_per_million": 0, "output_usd_per_million": 1.5}}, {"price": Price(**CHEAP)}),
    ],
)
def test_a_policy_of_its_own_is_the_jobs_but_for_what_it_says(given: dict[str, Any], own: dict[str, Any]) -> None:
    price = {"input_usd_per_million": 1, "output_usd_per_million": 1}
    config, warnings = resolved(changed(1, policy=given), **{"policy.price": price})
    assert config.gepa.module_policies == {"solve": config.policy.model_copy(update=own)}
    assert (warnings, read_config(config.model_dump_json())) == ((), config)


@pytest.mark.parametrize(
    ("policy", "field", "said"),
    [
        ({"provider": "openai"}, ".model", "required"),
        ({"temperature": 3}, ".temperature", "from 0 to 2"),
        ({"max_completion_tokens": "64"}, ".max_completion_tokens", "integer"),
        ({"inference_mode": "bring_your_own"}, ".inference_mode", "synth_hosted"),
        ({"inference_url": "http://host"}, ".inference_url", "must be absent"),
        ({"price": {"input_usd_per_million": 1}}, ".price.output_usd_per_million", "required"),
        ({"price": {"input_usd_per_million": -1, "output_usd_per_million": 1}}, ".price.input_usd_per_million", "from"),
        ({"price": {"usd": 1}}, ".price", "object of"),
    ],
)
def test_a_policy_that_cannot_be_is_refused(policy: dict[str, Any], field: str, said: str) -> None:
    error = refused(changed(1, policy=policy))
    assert error.param == f"{PATH}[1].policy{field}"
    assert said in str(error)


def test_a_name_of_a_policy_belongs_to_the_whole_job() -> None:
    config, [warning] = resolved(changed(1, policy={"policy_name": "planner"}))
    assert config.gepa.module_policies == {}
    assert "policy_name has no effect" in warning


def test_the_stand_in_takes_the_place_of_every_model_and_keeps_the_other_parameters() -> None:
    config, warnings = resolved(
        changed(1, policy={"model": "big", "temperature": 0.7}), **{"proxy_models.lo_model": "small"}
    )
    own = config.gepa.module_policies["solve"]
    assert policy_of(config, Tier.HI, "solve") == own
    assert policy_of(config, Tier.LO, "solve") == own.model_copy(update={"model": "small"})
    assert policy_of(config, Tier.LO, "plan") == config.policy.model_copy(update={"model": "small"})
    assert warnings == ()


def test_policies_of_modules_are_part_of_what_determines_a_rollout() -> None:
    plain, _ = resolved(MODULES)
    found = [resolved(changed(at, policy={"temperature": t}))[0] for at in (0, 1) for t in (0.5, 0.7)]
    assert len({policy_digest(config) for config in [plain, *found]}) == 5


def test_modules_and_an_initial_prompt_are_too_much() -> None:
    assert refused(MODULES, initial_prompt=PROMPT).param == PATH


def test_unknown_keys_are_reported() -> None:
    _, warnings = resolved(changed(1, speed=3, metadata={"free": 1}, policy={"mood": "good"}))
    assert warnings == (f"unknown key {PATH}[1].policy.mood is ignored", f"unknown key {PATH}[1].speed is ignored")


SAME = [{"role": "system", "pattern": "Same."}]


@pytest.mark.parametrize(
    ("modules", "field", "said"),
    [
        ("plan", "", "list"),
        ([{"module_id": f"m{n}"} for n in range(21)], "", "1 to 20"),
        (["plan"], "[0]", "object"),
        (changed(module_id=None), "[0].module_id", "letters"),
        (changed(module_id="a/b"), "[0].module_id", "letters"),
        (changed(1, module_id="plan"), "[1].module_id", "another"),
        (changed(1, messages=None), "[1].messages", "required"),
        (changed(1, messages=[]), "[1].messages", "messages"),
        (changed(1, messages=[{"role": "tool", "pattern": "x"}]), "[1].messages[0].role", "one of"),
        (changed(1, messages=[{"role": "system", "pattern": "{a}{b}"}]), "[1].messages", "touch"),
        (changed(max_instruction_slots=0), "[0].max_instruction_slots", "from 1"),
        (changed(max_instruction_slots=True), "[0].max_instruction_slots", "integer"),
        (changed(max_tokens=0), "[0].max_tokens", "from 1"),
        (changed(allowed_tools="lookup"), "[0].allowed_tools", "list"),
        (changed(allowed_tools=[""]), "[0].allowed_tools", "names"),
        (changed(allowed_tools=["a", "a"]), "[0].allowed_tools", "distinct"),
        (changed(policy="groq"), "[0].policy", "object"),
        (changed(1, messages=MODULES[0]["messages"]), "[1].messages", "told"),
        (changed(1, messages=[{"role": "system", "pattern": "{x}"}]), "[0].messages", "told"),
        (changed(1, wildcards={"plan": "REQUIRED", "task": "OPTIONAL"}), "[0].wildcards", "another name"),
        (changed(1, wildcards={"plan": "REQUIRED"}), "[1].wildcards", "plain text"),
    ],
)
def test_what_is_wrong_is_refused_with_its_path(modules: Any, field: str, said: str) -> None:
    error = refused(modules)
    assert error.param == PATH + field
    assert said in str(error)


def test_a_module_that_is_too_long_itself_is_refused_unless_that_is_allowed() -> None:
    assert refused(changed(max_tokens=3)).param == PATH
    _, [warning] = resolved(changed(max_tokens=3), **{"gepa.token.enforce_pattern_limit": False})
    assert "module 'plan'" in warning


def test_document_names_every_key_of_a_module() -> None:
    page = (DOCS / "configuration.md").read_text(encoding="utf-8")
    assert all(f"`{key}`" in page for key in MODULE_KEYS)


def test_the_documented_example_resolves() -> None:
    page = (DOCS / "task-apps.md").read_text(encoding="utf-8")
    [text] = [block for block in re.findall(r"```toml\n(.*?)```", page, re.DOTALL) if "gepa.modules" in block]
    config, warnings = resolved(tomllib.loads(text)["prompt_learning"]["gepa"]["modules"])
    template = config.template()
    assert template is not None
    assert (template.modules, warnings) == (("search", "answer"), ())
