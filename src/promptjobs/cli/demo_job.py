"""The demo's job: its config by algorithm, and what options change in it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import Any

from promptjobs.errors import OptionInvalid
from promptjobs.sdk.config_files import SECTION, parse_config
from promptjobs.sdk.shapes import Json

OFFLINE = "demo"
SMALL_BELOW = 400
"""Budgets below this get the small plan: the end of the whole one would leave nothing to search with."""

PROVIDER_BUDGET = 300
PROVIDER_COMPLETION_TOKENS = 256


@dataclass(frozen=True, slots=True)
class Plan:
    """What differs from algorithm to algorithm; keys are dotted paths below `prompt_learning`.

    title: what the demo does. calls: of the policy's model in a rollout. test_seeds: where the held-out seeds are.
    small: what a small budget changes.
    """

    title: str
    config: str
    calls: int
    budget: str
    meta_provider: str
    meta_model: str
    test_seeds: str
    small: Mapping[str, Any]


PLANS = {
    "gepa": Plan(
        title="GEPA improves the prompt of a ticket classifier",
        config="gepa_demo.toml",
        calls=1,
        budget="gepa.rollout.budget",
        meta_provider="gepa.mutation.llm_provider",
        meta_model="gepa.mutation.llm_model",
        test_seeds="gepa.evaluation.test_pool",
        small={
            "gepa.archive.pareto_set_size": 20,
            "gepa.evaluation.train_seeds": {"start": 0, "end": 60},
            "gepa.evaluation.validation_seeds": {"start": 1000, "end": 1040},
            "gepa.evaluation.test_pool": {"start": 2000, "end": 2050},
            "gepa.evaluation.validation_top_k": 2,
        },
    ),
    "mipro": Plan(
        title="MIPRO improves both prompts of a program that summarizes a ticket and classifies the summary",
        config="mipro_demo.toml",
        calls=2,
        budget="mipro.rollout_budget",
        meta_provider="mipro.meta.provider",
        meta_model="mipro.meta.model",
        test_seeds="mipro.seeds.test",
        small={
            "mipro.num_iterations": 4,
            "mipro.batch_size": 12,
            "mipro.seeds.bootstrap": {"start": 0, "end": 30},
            "mipro.seeds.validation": {"start": 1000, "end": 1020},
            "mipro.seeds.test": {"start": 2000, "end": 2050},
        },
    ),
}
DEFAULT = "gepa"


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What was asked for. budget: None for the default of the provider; port: 0 for any that is free."""

    provider: str = OFFLINE
    model: str | None = None
    meta_model: str | None = None
    budget: int | None = None
    port: int = 0
    keep: bool = False
    algorithm: str = DEFAULT

    @property
    def plan(self) -> Plan:
        """Raises OptionInvalid for an algorithm that the demo does not have."""
        if self.algorithm not in PLANS:
            raise OptionInvalid("--algorithm", f"is one of {', '.join(PLANS)}, got {self.algorithm!r}")
        return PLANS[self.algorithm]


def check_experiment(options: DemoOptions) -> None:
    """Raises OptionInvalid for options that change a job: an experiment's jobs are those of its file."""
    if replace(options, port=0, keep=False) != DemoOptions():
        raise OptionInvalid("--experiment", "goes with --data-dir, --port, --keep and --json only")


def demo_config(algorithm: str = DEFAULT) -> Json:
    """The config for the offline models; the same file stands among the examples."""
    name = PLANS[algorithm].config
    return parse_config((files("promptjobs.demo") / name).read_bytes(), name)


def overrides_of(options: DemoOptions, task_app_url: str) -> Json:
    """What the options change in the config. Raises OptionInvalid for options that do not go together."""
    plan = options.plan
    changed: Json = {"task_app_url": task_app_url}
    budget = options.budget
    if options.provider != OFFLINE:
        if not options.model:
            raise OptionInvalid("--model", f"is required with --provider {options.provider}")
        budget = budget or PROVIDER_BUDGET
        changed |= {
            "policy.provider": options.provider,
            "policy.model": options.model,
            "policy.max_completion_tokens": PROVIDER_COMPLETION_TOKENS,
            plan.meta_provider: options.provider,
            plan.meta_model: options.meta_model or options.model,
        }
    elif options.model or options.meta_model:
        raise OptionInvalid("--model", "the offline demo has models of its own; name a --provider as well")
    if budget is not None:
        changed[plan.budget] = budget
        changed |= plan.small if budget < SMALL_BELOW else {}
    return {f"{SECTION}.{path}": value for path, value in changed.items()}


def calls_planned(options: DemoOptions, overrides: Json) -> int:
    """At most so many calls of the policy's model: the budget, and the baseline and the winner on the test seeds."""
    plan = options.plan

    def value(path: str) -> Any:
        found: Any = demo_config(options.algorithm)[SECTION]
        for name in path.split("."):
            found = found[name]
        return overrides.get(f"{SECTION}.{path}", found)

    test = value(plan.test_seeds)
    return int(plan.calls * (value(plan.budget) + 2 * (test["end"] - test["start"])))
