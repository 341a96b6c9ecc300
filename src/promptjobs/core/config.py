"""The resolved config of a job: what runs is what is stored and shown. `resolve` makes it, once per job."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from promptjobs.core.config_body import Json, as_json, merged, task_app_key, without_secrets
from promptjobs.core.config_fields import FIELD_AT, support_table
from promptjobs.core.config_gepa import GepaConfig, gepa_config
from promptjobs.core.config_modules import ModuleConfig, program_template, read_modules
from promptjobs.core.config_prompt import MessageConfig, PromptConfig, read_prompt
from promptjobs.core.config_sections import (
    AdaptiveBatchConfig,
    AdaptivePoolConfig,
    GuardsConfig,
    MetaModelConfig,
    Model,
    ProxyModelsConfig,
    Resolved,
    VerifierConfig,
)
from promptjobs.core.config_support import SECTION, FieldSupport
from promptjobs.core.config_values import Given, read_fields, shown
from promptjobs.core.prompt import PromptTemplate
from promptjobs.errors import InvalidConfig, NotYetSupported

__all__ = [
    "AdaptiveBatchConfig",
    "AdaptivePoolConfig",
    "FieldSupport",
    "GepaConfig",
    "GuardsConfig",
    "JobConfig",
    "MessageConfig",
    "MetaModelConfig",
    "ModuleConfig",
    "PolicyConfig",
    "Price",
    "PromptConfig",
    "ProxyModelsConfig",
    "Resolution",
    "TaskAppConfig",
    "VerifierConfig",
    "resolve",
    "support_table",
]

ALGORITHMS = ("gepa",)
LATER = ("mipro", "staged")
MAX_WARNINGS = 50


class TaskAppConfig(Resolved):
    """Where rollouts go. url: without a slash at its end. env_config: passed on as it is."""

    url: str
    id: str | None = None
    dialect: Literal["auto", "sdk", "policy_url"] = "auto"
    env_name: str = "banking77"
    env_config: dict[str, Any] = Field(default_factory=dict)


class Price(Resolved):
    input_usd_per_million: float
    output_usd_per_million: float


class PolicyConfig(Resolved):
    """The model under optimization. price: None where the server's price list decides."""

    provider: str
    model: str
    temperature: float = 0.0
    max_completion_tokens: int = 512
    policy_name: str | None = None
    price: Price | None = None


class JobConfig(Resolved):
    """All that determines a job, without secrets. Equal to what its JSON form reads back as."""

    algorithm: Literal["gepa"]
    task_app: TaskAppConfig
    policy: PolicyConfig
    initial_prompt: PromptConfig | None = None
    gepa: GepaConfig

    def template(self) -> PromptTemplate | None:
        """The baseline prompt; None where the task app's own messages are the baseline."""
        if self.gepa.modules:
            return program_template(self.gepa.modules)
        return None if self.initial_prompt is None else self.initial_prompt.template()


@dataclass(frozen=True, slots=True)
class Resolution:
    """A resolved request. sent: the request without its secrets. task_app_key: None means the server's own."""

    config: JobConfig
    warnings: tuple[str, ...]
    sent: Json
    task_app_key: str | None


def resolve(algorithm: str, config_body: Mapping[str, Any], overrides: Mapping[str, Any] | None) -> Resolution:
    """Read a request once and for all: overrides applied, aliases joined, defaults filled in, ranges checked.

    Raises InvalidConfig or NotYetSupported; `field` is the dotted path.
    """
    _check_algorithm(algorithm)
    body, changes = as_json(config_body), as_json(overrides or {}, ("overrides",))
    for name, tree in (("config_body", body), ("overrides", changes)):
        if not isinstance(tree, dict):
            raise InvalidConfig(f"expected an object, got {shown(tree)}", name)
    whole, changed = merged(body, changes)
    key = task_app_key(changed, body)
    whole, changed = without_secrets(whole), without_secrets(changed)
    named = whole[SECTION].get("algorithm")
    if named is not None and named != algorithm:
        raise InvalidConfig(f"is {shown(named)}, and the request says {shown(algorithm)}", f"{SECTION}.algorithm")
    given = read_fields(whole, changed)
    config, warnings = _job_config(given)
    warnings = [*given.warnings, *warnings]
    if len(warnings) > MAX_WARNINGS:
        warnings = [*warnings[:MAX_WARNINGS], f"and {len(warnings) - MAX_WARNINGS} more"]
    sent = without_secrets({"algorithm": algorithm, "config_body": body, "overrides": changes})
    return Resolution(config, tuple(warnings), sent, key)


def _check_algorithm(algorithm: str) -> None:
    if algorithm in LATER:
        raise NotYetSupported(
            f"{shown(algorithm)} is not supported yet: use one of {', '.join(ALGORITHMS)}", "algorithm"
        )
    if algorithm not in ALGORITHMS:
        raise InvalidConfig(f"expected one of {', '.join(ALGORITHMS)}, got {shown(algorithm)}", "algorithm")


def _job_config(given: Given) -> tuple[JobConfig, list[str]]:
    values = given.values
    for path in (f"{SECTION}.task_app_url", f"{SECTION}.policy.provider", f"{SECTION}.policy.model"):
        if values[path] is None:
            raise InvalidConfig(f"is required: a {FIELD_AT[path].expected}", path)
    policy = _policy(values)
    prompt, modules, prompt_warnings = _baseline(values, policy)
    template = program_template(modules) if modules else prompt.template() if prompt is not None else None
    gepa, gepa_warnings = gepa_config(given, Model(policy.provider, policy.model), template, modules)
    config = JobConfig(
        algorithm="gepa",
        task_app=TaskAppConfig(
            url=values[f"{SECTION}.task_app_url"],
            id=values[f"{SECTION}.task_app_id"],
            dialect=values[f"{SECTION}.task_app_dialect"],
            env_name=values[f"{SECTION}.gepa.env_name"],
            env_config=as_json(values[f"{SECTION}.gepa.env_config"]),
        ),
        policy=policy,
        initial_prompt=prompt,
        gepa=gepa,
    )
    if policy.price is None and "cost" in gepa.objectives:
        gepa_warnings.append(
            f"the objective cost compares nobody where the price of {policy.model} is not known; policy.price gives one"
        )
    return config, [*prompt_warnings, *gepa_warnings]


def _baseline(
    values: Mapping[str, Any], policy: PolicyConfig
) -> tuple[PromptConfig | None, tuple[ModuleConfig, ...], list[str]]:
    """The prompt or the modules that the job starts from, and warnings."""
    whole, divided = f"{SECTION}.initial_prompt", f"{SECTION}.gepa.modules"
    if values[divided] is not None:
        if values[whole] is not None:
            raise InvalidConfig("stands beside initial_prompt: the modules' messages are the baseline", divided)
        modules, warnings = read_modules(values[divided], divided, policy.model_dump())
        return None, modules, warnings
    if values[whole] is None:
        return None, (), []
    prompt, warnings = read_prompt(values[whole], whole)
    return prompt, (), warnings


def _policy(values: Mapping[str, Any]) -> PolicyConfig:
    prices = {name: values[f"{SECTION}.policy.price.{name}"] for name in Price.model_fields}
    missing = [name for name, price in prices.items() if price is None]
    if len(missing) == 1:
        raise InvalidConfig("is required where the other price is given", f"{SECTION}.policy.price.{missing[0]}")
    return PolicyConfig(
        provider=values[f"{SECTION}.policy.provider"].lower(),
        model=values[f"{SECTION}.policy.model"],
        temperature=values[f"{SECTION}.policy.temperature"],
        max_completion_tokens=values[f"{SECTION}.policy.max_completion_tokens"],
        policy_name=values[f"{SECTION}.policy.policy_name"],
        price=None if missing else Price(**prices),
    )
