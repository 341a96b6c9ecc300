"""The demo's jobs are such that the service accepts them, with every option."""

from pathlib import Path
from typing import Any

import pytest

from promptjobs.cli.demo_job import (
    SMALL_BELOW,
    DemoOptions,
    calls_planned,
    check_experiment,
    demo_config,
    overrides_of,
)
from promptjobs.cli.demo_runs import demo_experiment
from promptjobs.core.config import GepaJobConfig, JobConfig, MiproJobConfig, resolve
from promptjobs.core.optimizers import check_budget
from promptjobs.demo.dataset import load_dataset
from promptjobs.demo.programs import TRIAGE_ENV, triage_program
from promptjobs.errors import BudgetTooSmall, OptionInvalid
from promptjobs.sdk.config_files import algorithm_of
from promptjobs.sdk.experiment_files import experiment_of

TASK_APP = "http://127.0.0.1:8001"
OPENAI = {"provider": "openai", "model": "gpt-4o-mini"}
ALGORITHMS = ("gepa", "mipro")


def resolved(options: DemoOptions) -> JobConfig:
    config = demo_config(options.algorithm)
    assert algorithm_of(config) == options.algorithm
    resolution = resolve(algorithm_of(config), config, overrides_of(options, TASK_APP))
    assert resolution.warnings == ()
    check_budget(resolution.config)
    return resolution.config


def seeds_of(config: JobConfig) -> set[int]:
    match config:
        case GepaJobConfig(gepa=gepa):
            return {*gepa.train_seeds, *gepa.validation_seeds, *gepa.test_seeds}
        case MiproJobConfig(mipro=mipro):
            return {*mipro.bootstrap_seeds, *mipro.online_seeds, *mipro.validation_seeds, *mipro.test_seeds}
    raise TypeError(type(config))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"budget": SMALL_BELOW},
        {"budget": SMALL_BELOW - 1},
        {"budget": 200},
        OPENAI,
        OPENAI | {"meta_model": "gpt-4o", "budget": 1000},
    ],
)
def test_job_is_accepted_and_its_seeds_have_tickets(algorithm: str, changes: dict[str, Any]):
    options = DemoOptions(algorithm=algorithm, **changes)
    config = resolved(options)
    assert config.task_app.url == TASK_APP
    assert seeds_of(config) <= set(load_dataset().tickets)
    search = config.search
    calls = max(1, len(search.modules))
    assert calls_planned(options, overrides_of(options, TASK_APP)) == calls * (
        search.rollout_budget + 2 * len(search.test_seeds)
    )


@pytest.mark.parametrize(("algorithm", "budget"), [("gepa", 1000), ("mipro", 800)])
def test_offline_demo_runs_the_example_as_it_is(algorithm: str, budget: int):
    config = resolved(DemoOptions(algorithm=algorithm))
    assert (config.policy.provider, config.policy.model) == ("demo", "demo-policy")
    assert (config.search.meta_model.model, config.search.rollout_budget) == ("demo-reflector", budget)


def test_mipro_knows_the_prompts_that_the_task_app_sends():
    config = resolved(DemoOptions(algorithm="mipro"))
    assert config.task_app.env_name == TRIAGE_ENV
    known = [[message.pattern for message in module.messages] for module in config.search.modules]
    steps = triage_program(load_dataset().labels).steps
    assert known == [[step.system, step.user] for step in steps]
    assert [module.module_id for module in config.search.modules] == [step.name for step in steps]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_provider_runs_both_models_on_a_small_budget(algorithm: str):
    config = resolved(DemoOptions(algorithm=algorithm, **OPENAI))
    meta = config.search.meta_model
    assert (config.policy.provider, config.policy.model) == (meta.provider, meta.model) == ("openai", "gpt-4o-mini")
    assert config.search.rollout_budget == 300
    other = resolved(DemoOptions(algorithm=algorithm, **OPENAI, meta_model="gpt-4o"))
    assert other.search.meta_model.model == "gpt-4o"


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_budget_that_holds_no_search_is_told_by_the_service(algorithm: str):
    with pytest.raises(BudgetTooSmall):
        resolved(DemoOptions(budget=80, algorithm=algorithm))


@pytest.mark.parametrize(
    ("options", "option"),
    [
        ({"provider": "openai"}, "--model"),
        ({"model": "gpt-4o-mini"}, "--model"),
        ({"meta_model": "gpt-4o-mini"}, "--model"),
        ({"algorithm": "staged"}, "--algorithm"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options: dict[str, Any], option: str):
    with pytest.raises(OptionInvalid, match=option):
        overrides_of(DemoOptions(**options), TASK_APP)


# --- the experiment --------------------------------------------------------------------------------------------------


def jobs_of_experiment() -> dict[str, JobConfig]:
    found = {}
    for job in demo_experiment(TASK_APP)["jobs"]:
        resolution = resolve(job["label"], job["config"], job["config_overrides"])
        # One list of prices serves all jobs, whatever models they call.
        assert all(warning.startswith("prices.") for warning in resolution.warnings)
        check_budget(resolution.config)
        found[job["label"]] = resolution.config
    return found


def test_the_experiments_jobs_can_be_compared_seed_by_seed():
    jobs = jobs_of_experiment()
    gepa, mipro = jobs["gepa"], jobs["mipro"]
    assert isinstance(gepa, GepaJobConfig)
    assert isinstance(mipro, MiproJobConfig)
    assert gepa.initial_prompt == mipro.initial_prompt
    assert (gepa.policy, gepa.task_app) == (mipro.policy, mipro.task_app)
    assert gepa.task_app.url == TASK_APP
    ours, theirs = gepa.search, mipro.search
    assert (ours.rollout_budget, ours.meta_model) == (theirs.rollout_budget, theirs.meta_model)
    assert (ours.validation_seeds, ours.test_seeds) == (theirs.validation_seeds, theirs.test_seeds)
    assert {*mipro.mipro.bootstrap_seeds, *mipro.mipro.online_seeds} == set(gepa.gepa.train_seeds)
    assert seeds_of(gepa) | seeds_of(mipro) <= set(load_dataset().tickets)


def test_the_experiment_is_of_both_algorithms_on_two_models_with_three_seeds():
    experiment = demo_experiment(TASK_APP)
    assert experiment["matrix"] == {"model": ["demo-policy", "demo-policy-small"], "seed": [0, 1, 2]}
    assert [job["label"] for job in experiment["jobs"]] == list(ALGORITHMS)


def test_the_experiment_is_the_example_that_the_repository_shows():
    root = Path(__file__).parents[2]
    examples = sorted((root / "configs" / "experiments").glob("experiment_*.toml"))
    assert len(examples) == 3
    for path in examples:
        assert path.read_bytes() == (root / "src/promptjobs/demo" / path.name).read_bytes()
        assert experiment_of(path)


@pytest.mark.parametrize("changes", [OPENAI, {"budget": 500}, {"algorithm": "mipro"}])
def test_an_experiment_takes_no_options_of_a_job(changes: dict[str, Any]):
    check_experiment(DemoOptions(port=8700, keep=True))
    with pytest.raises(OptionInvalid, match="--experiment"):
        check_experiment(DemoOptions(**changes))
