"""The demo's job: its config, and what options change in it."""

from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from promptjobs.cli.config_file import parse_config
from promptjobs.cli.remote import Json
from promptjobs.errors import OptionInvalid

OFFLINE = "demo"
CONFIG = "gepa_demo.toml"
GEPA = "prompt_learning.gepa"

SMALL_BELOW = 400
"""Budgets below this get the small plan: the end of the whole one would leave nothing to search with."""

SMALL_PLAN: Json = {
    f"{GEPA}.archive.pareto_set_size": 20,
    f"{GEPA}.evaluation.train_seeds": {"start": 0, "end": 60},
    f"{GEPA}.evaluation.validation_seeds": {"start": 1000, "end": 1040},
    f"{GEPA}.evaluation.test_pool": {"start": 2000, "end": 2050},
    f"{GEPA}.evaluation.validation_top_k": 2,
}
PROVIDER_BUDGET = 300
PROVIDER_COMPLETION_TOKENS = 256


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What was asked for. budget: None for the default of the provider; port: 0 for any that is free."""

    provider: str = OFFLINE
    model: str | None = None
    meta_model: str | None = None
    budget: int | None = None
    port: int = 0
    keep: bool = False


def demo_config() -> Json:
    """The config for the offline models; the same file stands among the examples."""
    return parse_config((files("promptjobs.demo") / CONFIG).read_bytes(), CONFIG)


def overrides_of(options: DemoOptions, task_app_url: str) -> Json:
    """What the options change in the config. Raises OptionInvalid for options that do not go together."""
    overrides: Json = {"prompt_learning.task_app_url": task_app_url}
    budget = options.budget
    if options.provider != OFFLINE:
        if not options.model:
            raise OptionInvalid("--model", f"is required with --provider {options.provider}")
        budget = budget or PROVIDER_BUDGET
        overrides |= {
            "prompt_learning.policy.provider": options.provider,
            "prompt_learning.policy.model": options.model,
            "prompt_learning.policy.max_completion_tokens": PROVIDER_COMPLETION_TOKENS,
            f"{GEPA}.mutation.llm_provider": options.provider,
            f"{GEPA}.mutation.llm_model": options.meta_model or options.model,
        }
    elif options.model or options.meta_model:
        raise OptionInvalid("--model", "the offline demo has models of its own; name a --provider as well")
    if budget is not None:
        overrides[f"{GEPA}.rollout.budget"] = budget
        overrides |= SMALL_PLAN if budget < SMALL_BELOW else {}
    return overrides


def calls_planned(overrides: Json) -> int:
    """At most so many calls of the policy's model: the budget, and both prompts on the test seeds."""
    gepa = demo_config()["prompt_learning"]["gepa"]

    def value(section: str, name: str) -> Any:
        return overrides.get(f"{GEPA}.{section}.{name}", gepa[section][name])

    test = value("evaluation", "test_pool")
    return int(value("rollout", "budget") + 2 * (test["end"] - test["start"]))
