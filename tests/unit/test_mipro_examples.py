"""The example configs of MIPRO resolve, fit the demo's task app, and say what they are meant to say."""

import tomllib
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.config_bodies import mipro_seed_banking77

from promptjobs.core.config import MiproJobConfig, resolve
from promptjobs.core.optimizers import check_budget, optimizer_of
from promptjobs.demo.dataset import USER_PATTERN, baseline_system, load_dataset
from promptjobs.demo.model_server import POLICY_MODEL, REFLECTION_MODEL

CONFIGS = Path(__file__).parents[2] / "configs"
DATASET = load_dataset()


def body(name: str) -> dict[str, Any]:
    return tomllib.loads((CONFIGS / name).read_text(encoding="utf-8"))


def resolved(name: str) -> tuple[MiproJobConfig, tuple[str, ...]]:
    resolution = resolve("mipro", body(name), None)
    assert isinstance(resolution.config, MiproJobConfig)
    assert resolution.task_app_key is None
    return resolution.config, tuple(resolution.warnings)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("mipro_*.toml")), ids=lambda path: path.name)
def test_example_can_be_run(path: Path):
    config, _ = resolved(path.name)
    check_budget(config)
    assert optimizer_of(config).algorithm == "mipro"


@pytest.mark.parametrize("name", ["mipro_demo.toml", "mipro_support_tickets.toml"])
def test_own_examples_resolve_without_a_warning_and_their_seeds_have_tickets(name: str):
    config, warnings = resolved(name)
    assert warnings == ()
    mipro = config.mipro
    seeds = [*mipro.bootstrap_seeds, *mipro.online_seeds, *mipro.validation_seeds, *mipro.test_seeds]
    assert set(seeds) <= set(DATASET.tickets)


def test_example_of_one_prompt_fits_the_demos_task_app():
    config, _ = resolved("mipro_support_tickets.toml")
    assert config.initial_prompt is not None
    assert [m.pattern for m in config.initial_prompt.messages] == [baseline_system(DATASET.labels), USER_PATTERN]


def test_demo_example_names_the_offline_models():
    config, _ = resolved("mipro_demo.toml")
    assert (config.policy.model, config.mipro.meta_model.model) == (POLICY_MODEL, REFLECTION_MODEL)
    assert [stage.stage_id for stage in config.mipro.stages] == ["summarize", "classify"]
    assert config.mipro.edges == (("summarize", "classify"),)


def test_example_of_the_client_has_every_value_of_the_original_and_nothing_else():
    assert body("mipro_banking77.toml") == {"prompt_learning": mipro_seed_banking77()["prompt_learning"]}


def test_example_of_the_client_means_what_it_says_and_warns_where_it_cannot_learn():
    config, warnings = resolved("mipro_banking77.toml")
    mipro = config.mipro
    assert config.template() is None  # the prompt is gathered from the task app
    assert (mipro.bootstrap_seeds, mipro.online_seeds) == (tuple(range(15)), tuple(range(20, 40)))
    assert (mipro.validation_seeds, mipro.test_seeds) == (tuple(range(100, 110)), tuple(range(40, 90)))
    assert (mipro.num_iterations, mipro.num_evaluations_per_iteration, mipro.batch_size) == (2, 3, 5)
    assert (mipro.meta_model.provider, mipro.meta_model.model) == ("groq", "openai/gpt-oss-120b")
    assert (mipro.tpe.gamma, mipro.tpe.n_candidates, mipro.tpe.n_startup_trials) == (0.25, 32, 10)
    assert any("too few for the sampler to learn from" in warning for warning in warnings)
