"""The resolved config of a job: what runs is what is stored and shown. `resolve` makes it, once per job."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from promptjobs.core.config_body import Json, as_json, merged, task_app_key, without_secrets
from promptjobs.core.config_fields import FIELD_AT, SECTION, FieldSupport, support_table
from promptjobs.core.config_prompt import MessageConfig, PromptConfig, read_prompt
from promptjobs.core.config_seeds import ParetoSource, check_disjoint, plan_seeds
from promptjobs.core.config_values import read_fields, shown
from promptjobs.core.prompt import PromptTemplate
from promptjobs.errors import InvalidConfig, NotYetSupported

__all__ = [
    "FieldSupport",
    "GepaConfig",
    "JobConfig",
    "MessageConfig",
    "MetaModelConfig",
    "PolicyConfig",
    "Price",
    "PromptConfig",
    "Resolution",
    "TaskAppConfig",
    "resolve",
    "support_table",
]

ALGORITHMS = ("gepa",)
LATER = ("mipro", "staged")
DEFAULT_BUDGET = 500
MAX_WARNINGS = 50

TRAIN = f"{SECTION}.gepa.evaluation.train_seeds"
VALIDATION = f"{SECTION}.gepa.evaluation.validation_seeds"
TEST = f"{SECTION}.gepa.evaluation.test_pool"


class _Resolved(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TaskAppConfig(_Resolved):
    """Where rollouts go. url: without a slash at its end. env_config: passed on as it is."""

    url: str
    id: str | None = None
    dialect: Literal["auto", "sdk", "policy_url"] = "auto"
    env_name: str = "banking77"
    env_config: dict[str, Any] = {}


class Price(_Resolved):
    input_usd_per_million: float
    output_usd_per_million: float


class PolicyConfig(_Resolved):
    """The model under optimization. price: None where the server's price list decides."""

    provider: str
    model: str
    temperature: float = 0.0
    max_completion_tokens: int = 512
    policy_name: str | None = None
    price: Price | None = None


class MetaModelConfig(_Resolved):
    """The model that writes new prompts."""

    provider: str
    model: str
    temperature: float = 1.0
    max_tokens: int = 8192


class GepaConfig(_Resolved):
    """The search. Lists of seeds are disjoint, but for the front's and feedback's, which are parts of the others.

    front_seeds: score candidates for the Pareto front. feedback_seeds: minibatches are drawn from them; at least
    `minibatch_size`. max_trials, max_rollouts, max_seconds: None where nothing stops the search.
    """

    rng_seed: int = 0
    lanes: int = 8
    turn_order: Literal["arrival", "fixed"] = "arrival"
    max_concurrent: int = 20
    minibatch_size: int = 8
    rollout_budget: int
    train_seeds: tuple[int, ...]
    validation_seeds: tuple[int, ...] = ()
    test_seeds: tuple[int, ...] = ()
    pareto_source: ParetoSource
    front_seeds: tuple[int, ...]
    feedback_seeds: tuple[int, ...]
    validation_top_k: int = 3
    pareto_set_size: int = 64
    pareto_eps: float = 1e-6
    feedback_fraction: float = 0.5
    selection_pressure: float = 1.0
    num_generations: int = 10
    children_per_generation: int = 5
    patience_generations: int = 3
    meta_model: MetaModelConfig
    metaprompt: str | None = None
    proposed_prompt_max_tokens: int = 32_000
    max_trials: int | None = None
    max_rollouts: int | None = None
    max_seconds: float | None = None


class JobConfig(_Resolved):
    """All that determines a job, without secrets. Equal to what its JSON form reads back as."""

    algorithm: Literal["gepa"]
    task_app: TaskAppConfig
    policy: PolicyConfig
    initial_prompt: PromptConfig | None = None
    gepa: GepaConfig

    def template(self) -> PromptTemplate | None:
        """The baseline prompt; None where the task app's own messages are the baseline."""
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
    config, warnings = _job_config(given.values)
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


GEPA_FIELDS = {
    "rng_seed": "rng_seed",
    "lanes": "lanes",
    "turn_order": "turn_order",
    "max_concurrent": "rollout.max_concurrent",
    "validation_top_k": "evaluation.validation_top_k",
    "pareto_set_size": "archive.pareto_set_size",
    "pareto_eps": "archive.pareto_eps",
    "feedback_fraction": "archive.feedback_fraction",
    "selection_pressure": "population.selection_pressure",
    "num_generations": "population.num_generations",
    "children_per_generation": "population.children_per_generation",
    "patience_generations": "population.patience_generations",
    "metaprompt": "metaprompt",
    "proposed_prompt_max_tokens": "proposed_prompt_max_tokens",
}
"""Fields of GepaConfig that are taken over as they are, with their paths below `gepa`."""


def _job_config(values: Mapping[str, Any]) -> tuple[JobConfig, list[str]]:
    for path in (f"{SECTION}.task_app_url", f"{SECTION}.policy.provider", f"{SECTION}.policy.model"):
        if values[path] is None:
            raise InvalidConfig(f"is required: a {FIELD_AT[path].expected}", path)
    prompt, prompt_warnings = None, list[str]()
    if values[f"{SECTION}.initial_prompt"] is not None:
        prompt, prompt_warnings = read_prompt(values[f"{SECTION}.initial_prompt"], f"{SECTION}.initial_prompt")
    policy = _policy(values)
    gepa, gepa_warnings = _gepa(values, policy)
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
    return config, [*prompt_warnings, *gepa_warnings]


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


def _gepa(values: Mapping[str, Any], policy: PolicyConfig) -> tuple[GepaConfig, list[str]]:
    taken = {name: values[f"{SECTION}.gepa.{path}"] for name, path in GEPA_FIELDS.items()}
    train, validation, test = values[TRAIN], values[VALIDATION], values[TEST]
    if not train:
        raise InvalidConfig(f"is required: a {FIELD_AT[TRAIN].expected}", TRAIN)
    check_disjoint({TRAIN: train, VALIDATION: validation, TEST: test})
    plan = plan_seeds(
        train,
        validation,
        source=values[f"{SECTION}.gepa.archive.pareto_source"],
        pareto_set_size=taken["pareto_set_size"],
        feedback_fraction=taken["feedback_fraction"],
        rng_seed=taken["rng_seed"],
    )
    wanted = values[f"{SECTION}.gepa.rollout.minibatch_size"]
    minibatch = min(wanted, len(plan.feedback))
    warnings = []
    if minibatch < wanted:
        warnings.append(f"a minibatch of {wanted} is cut to {minibatch}: there are no more seeds for feedback")
    max_rollouts = values[f"{SECTION}.termination_config.max_rollouts"]
    config = GepaConfig(
        **taken,
        minibatch_size=minibatch,
        rollout_budget=values[f"{SECTION}.gepa.rollout.budget"] or max_rollouts or DEFAULT_BUDGET,
        train_seeds=train,
        validation_seeds=validation,
        test_seeds=test,
        pareto_source=plan.source,
        front_seeds=plan.front,
        feedback_seeds=plan.feedback,
        meta_model=_meta_model(values, policy),
        max_trials=values[f"{SECTION}.termination_config.max_trials"],
        max_rollouts=max_rollouts,
        max_seconds=values[f"{SECTION}.termination_config.max_time_seconds"],
    )
    return config, warnings


def _meta_model(values: Mapping[str, Any], policy: PolicyConfig) -> MetaModelConfig:
    path = f"{SECTION}.gepa.mutation"
    model, provider = values[f"{path}.llm_model"], (values[f"{path}.llm_provider"] or policy.provider).lower()
    if model is None:
        # SDK 0.2.24 fills in groq where its user named no provider.
        if provider not in (policy.provider, "groq"):
            raise InvalidConfig("is required where llm_provider is not the policy's provider", f"{path}.llm_model")
        model, provider = policy.model, policy.provider
    return MetaModelConfig(
        provider=provider,
        model=model,
        temperature=values[f"{path}.llm_temperature"],
        max_tokens=values[f"{path}.llm_max_tokens"],
    )
