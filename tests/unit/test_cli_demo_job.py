"""The demo's job is one that the service accepts, with every option."""

from typing import Any

import pytest

from promptjobs.cli.config_file import algorithm_of
from promptjobs.cli.demo_job import SMALL_BELOW, DemoOptions, calls_planned, demo_config, overrides_of
from promptjobs.core.config import JobConfig, resolve
from promptjobs.core.limits import check_budget
from promptjobs.demo.dataset import load_dataset
from promptjobs.errors import BudgetTooSmall, OptionInvalid

TASK_APP = "http://127.0.0.1:8001"
OPENAI = DemoOptions(provider="openai", model="gpt-4o-mini")


def resolved(options: DemoOptions) -> JobConfig:
    config = demo_config()
    resolution = resolve(algorithm_of(config), config, overrides_of(options, TASK_APP))
    assert resolution.warnings == ()
    check_budget(resolution.config)
    return resolution.config


@pytest.mark.parametrize(
    "options",
    [
        DemoOptions(),
        DemoOptions(budget=SMALL_BELOW),
        DemoOptions(budget=SMALL_BELOW - 1),
        DemoOptions(budget=200),
        OPENAI,
        DemoOptions("openai", "gpt-4o-mini", "gpt-4o", 1000),
    ],
)
def test_job_is_accepted_and_its_seeds_have_tickets(options: DemoOptions):
    config = resolved(options)
    assert config.task_app.url == TASK_APP
    gepa = config.gepa
    assert {*gepa.train_seeds, *gepa.validation_seeds, *gepa.test_seeds} <= set(load_dataset().tickets)
    assert calls_planned(overrides_of(options, TASK_APP)) == gepa.rollout_budget + 2 * len(gepa.test_seeds)


def test_offline_demo_runs_the_example_as_it_is():
    config = resolved(DemoOptions())
    assert (config.policy.provider, config.policy.model, config.gepa.rollout_budget) == ("demo", "demo-policy", 1000)


def test_provider_runs_both_models_on_a_small_budget():
    config = resolved(OPENAI)
    meta = config.gepa.meta_model
    assert (config.policy.provider, config.policy.model) == (meta.provider, meta.model) == ("openai", "gpt-4o-mini")
    assert config.gepa.rollout_budget == 300
    assert resolved(DemoOptions("openai", "gpt-4o-mini", "gpt-4o")).gepa.meta_model.model == "gpt-4o"


def test_budget_that_holds_no_search_is_told_by_the_service():
    with pytest.raises(BudgetTooSmall):
        resolved(DemoOptions(budget=100))


@pytest.mark.parametrize("options", [{"provider": "openai"}, {"model": "gpt-4o-mini"}, {"meta_model": "gpt-4o-mini"}])
def test_options_that_do_not_go_together_are_refused(options: dict[str, Any]):
    with pytest.raises(OptionInvalid, match="--model"):
        overrides_of(DemoOptions(**options), TASK_APP)
