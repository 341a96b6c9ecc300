"""The resolved config of a job: what runs is what is stored and shown. `resolve` makes it, once per job."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from promptjobs.core.config_body import Json, as_json, merged, task_app_key, without_secrets
from promptjobs.core.config_fields import ALGORITHMS, TABLE_OF, support_table
from promptjobs.core.config_gepa import GepaConfig, gepa_config
from promptjobs.core.config_mipro import MiproConfig, StageConfig, TpeConfig
from promptjobs.core.config_modules import ModuleConfig, program_template, read_modules
from promptjobs.core.config_policy import PolicyConfig, Price, job_policy
from promptjobs.core.config_prompt import MessageConfig, PromptConfig, read_prompt
from promptjobs.core.config_reading_mipro import mipro_config, planned_anew
from promptjobs.core.config_search import SearchConfig
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
from promptjobs.core.config_warm_start import WarmPrompt, WarmStartConfig
from promptjobs.core.policies import price_of, used_models
from promptjobs.core.prompt import PromptTemplate
from promptjobs.core.warm_start_check import fitting
from promptjobs.errors import InvalidConfig, MiproConfigurationError, NotYetSupported

__all__ = [
    "AdaptiveBatchConfig",
    "AdaptivePoolConfig",
    "FieldSupport",
    "GepaConfig",
    "GepaJobConfig",
    "GuardsConfig",
    "JobConfig",
    "MessageConfig",
    "MetaModelConfig",
    "MiproConfig",
    "MiproJobConfig",
    "ModuleConfig",
    "PolicyConfig",
    "Price",
    "PromptConfig",
    "ProxyModelsConfig",
    "Resolution",
    "SearchConfig",
    "StageConfig",
    "TaskAppConfig",
    "TpeConfig",
    "VerifierConfig",
    "WarmPrompt",
    "WarmStartConfig",
    "begun_with",
    "read_config",
    "resolve",
    "support_table",
]

LATER = ("staged",)
MAX_WARNINGS = 50


class TaskAppConfig(Resolved):
    """Where rollouts go. url: without a slash at its end. env_config: passed on as it is."""

    url: str
    id: str | None = None
    dialect: Literal["auto", "sdk", "policy_url"] = "auto"
    env_name: str = "banking77"
    env_config: dict[str, Any] = Field(default_factory=dict)


class JobConfig(Resolved, ABC):
    """All that determines a job, without secrets. Equal to what its JSON form reads back as.

    The search stands below the algorithm's name: {"algorithm": "gepa", ..., "gepa": {...}}. use_byok: whether providers
    are called with the organisation's own keys; None: where it has left one.
    """

    algorithm: Literal["gepa", "mipro"]
    task_app: TaskAppConfig
    policy: PolicyConfig
    initial_prompt: PromptConfig | None = None
    use_byok: bool | None = None

    @property
    @abstractmethod
    def search(self) -> SearchConfig: ...

    def template(self) -> PromptTemplate | None:
        """The baseline prompt; None where the task app's own messages are the baseline."""
        if self.search.modules:
            return program_template(self.search.modules)
        return None if self.initial_prompt is None else self.initial_prompt.template()


class GepaJobConfig(JobConfig):
    algorithm: Literal["gepa"]
    gepa: GepaConfig

    @property
    def search(self) -> GepaConfig:
        return self.gepa


class MiproJobConfig(JobConfig):
    algorithm: Literal["mipro"]
    mipro: MiproConfig

    @property
    def search(self) -> MiproConfig:
        return self.mipro


_STORED: TypeAdapter[GepaJobConfig | MiproJobConfig] = TypeAdapter(
    Annotated[GepaJobConfig | MiproJobConfig, Field(discriminator="algorithm")]
)


def read_config(stored: str | bytes) -> JobConfig:
    """The config that `JobConfig.model_dump_json` has written, this version's or an earlier one's."""
    return _STORED.validate_json(stored)


@dataclass(frozen=True, slots=True)
class Resolution:
    """A resolved request. sent: the request without its secrets. task_app_key: None means the server's own."""

    config: JobConfig
    warnings: tuple[str, ...]
    sent: Json
    task_app_key: str | None


def resolve(algorithm: str, config_body: Mapping[str, Any], overrides: Mapping[str, Any] | None) -> Resolution:
    """Read a request once and for all: overrides applied, aliases joined, defaults filled in, ranges checked.

    Raises InvalidConfig, of a MIPRO job MiproConfigurationError, or NotYetSupported; `param` is the dotted path.
    """
    _check_algorithm(algorithm)
    with _told_as(algorithm):
        found = _resolved(algorithm, config_body, overrides)
        warm = found.config.search.warm_start
        return found if warm is None or warm.job_id is not None else _fitted(found)


def begun_with(found: Resolution, earlier: Sequence[WarmPrompt]) -> Resolution:
    """With the prompts of the earlier job that `warm_start.job_id` names; the request's own stand behind them.

    Raises InvalidConfig, of a MIPRO job MiproConfigurationError, where one of them does not fit.
    """
    warm = found.config.search.warm_start
    if warm is None:
        raise ValueError("this job has no warm start")
    whole = warm.model_copy(update={"prompts": (*earlier, *warm.prompts)})
    with _told_as(found.config.algorithm):
        return _fitted(replace(found, config=_with_warm_start(found.config, whole)))


def _fitted(found: Resolution) -> Resolution:
    warm, said = fitting(found.config)
    return replace(found, config=_with_warm_start(found.config, warm), warnings=(*found.warnings, *said))


def _with_warm_start(config: JobConfig, warm: WarmStartConfig | None) -> JobConfig:
    search = config.search.model_copy(update={"warm_start": warm})
    if isinstance(search, MiproConfig):
        search = planned_anew(search, has_prompt=config.template() is not None)
    return config.model_copy(update={config.algorithm: search})


@contextmanager
def _told_as(algorithm: str) -> Iterator[None]:
    """What is wrong with the config of a MIPRO job has a class of its own."""
    try:
        yield
    except InvalidConfig as error:
        if algorithm != "mipro":
            raise
        detail = str(error) if error.param is None else str(error).removeprefix(f"{error.param}: ")
        raise MiproConfigurationError(detail, error.param) from error


def _resolved(algorithm: str, config_body: Mapping[str, Any], overrides: Mapping[str, Any] | None) -> Resolution:
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
    given = read_fields(whole, changed, TABLE_OF[algorithm])
    for path in (f"{SECTION}.task_app_url", f"{SECTION}.policy.provider", f"{SECTION}.policy.model"):
        if given.values[path] is None:
            raise InvalidConfig(f"is required: a {TABLE_OF[algorithm].at[path].expected}", path)
    config, warnings = _mipro_job(given) if algorithm == "mipro" else _gepa_job(given)
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


def _gepa_job(given: Given) -> tuple[JobConfig, list[str]]:
    values = given.values
    policy = job_policy(values)
    prompt, modules, prompt_warnings = _baseline(values, policy)
    template = program_template(modules) if modules else prompt.template() if prompt is not None else None
    gepa, gepa_warnings = gepa_config(given, Model(policy.provider, policy.model), template, modules)
    config = GepaJobConfig(
        algorithm="gepa",
        task_app=_task_app(values, "gepa"),
        policy=policy,
        initial_prompt=prompt,
        use_byok=values[f"{SECTION}.use_byok"],
        gepa=gepa,
    )
    if "cost" in gepa.objectives and price_of(config, policy.provider, policy.model) is None:
        gepa_warnings.append(
            f"the objective cost compares nobody where the price of {policy.model} is not known; policy.price gives one"
        )
    return config, [*prompt_warnings, *gepa_warnings, *_unused_prices(config)]


def _mipro_job(given: Given) -> tuple[JobConfig, list[str]]:
    values, path = given.values, f"{SECTION}.initial_prompt"
    policy = job_policy(values)
    prompt, prompt_warnings = (None, []) if values[path] is None else read_prompt(values[path], path)
    mipro, prompt, warnings = mipro_config(given, policy, prompt)
    config = MiproJobConfig(
        algorithm="mipro",
        task_app=_task_app(values, "mipro"),
        policy=policy,
        initial_prompt=prompt,
        use_byok=values[f"{SECTION}.use_byok"],
        mipro=mipro,
    )
    return config, [*prompt_warnings, *warnings, *_unused_prices(config)]


def _unused_prices(config: JobConfig) -> list[str]:
    used = {f"{each.provider}/{each.model}" for each in used_models(config)}
    return [
        f"prices.{name} has no effect: the job calls no such model" for name in config.search.prices if name not in used
    ]


def _task_app(values: Mapping[str, Any], algorithm: str) -> TaskAppConfig:
    return TaskAppConfig(
        url=values[f"{SECTION}.task_app_url"],
        id=values[f"{SECTION}.task_app_id"],
        dialect=values[f"{SECTION}.task_app_dialect"],
        env_name=values[f"{SECTION}.{algorithm}.env_name"],
        env_config=as_json(values[f"{SECTION}.{algorithm}.env_config"]),
    )


def _baseline(
    values: Mapping[str, Any], policy: PolicyConfig
) -> tuple[PromptConfig | None, tuple[ModuleConfig, ...], list[str]]:
    """The prompt or the modules that a GEPA job starts from, and warnings."""
    whole, divided = f"{SECTION}.initial_prompt", f"{SECTION}.gepa.modules"
    if values[divided] is not None:
        if values[whole] is not None:
            raise InvalidConfig("stands beside initial_prompt: the modules' messages are the baseline", divided)
        modules, warnings = read_modules(values[divided], divided, policy)
        return None, modules, warnings
    if values[whole] is None:
        return None, (), []
    prompt, warnings = read_prompt(values[whole], whole)
    return prompt, (), warnings
