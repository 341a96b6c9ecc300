"""Where a setting stands in the config that runs, and whether it says there what an override says."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from promptjobs.core.config import JobConfig
from promptjobs.core.config_fields import ALGORITHMS, TABLE_OF
from promptjobs.core.config_gepa import TAKEN as OF_GEPA
from promptjobs.core.config_policy import Price
from promptjobs.core.config_reading_mipro import TAKEN as OF_MIPRO
from promptjobs.core.config_support import SECTION, FieldType
from promptjobs.core.policies import price_of

Check = Callable[[Any, JobConfig], bool]
"""Whether an override's value is what runs."""

ABSENT = object()

_JOB = {
    "algorithm": "algorithm",
    "task_app_url": "task_app.url",
    "task_app_id": "task_app.id",
    "task_app_dialect": "task_app.dialect",
    "use_byok": "use_byok",
    "policy.policy_name": "policy.policy_name",
    "policy.price.input_usd_per_million": "policy.price.input_usd_per_million",
    "policy.price.output_usd_per_million": "policy.price.output_usd_per_million",
    "termination_config.max_time_seconds": "search.max_seconds",
    "termination_config.max_duration_minutes": "search.max_seconds",
    "warm_start.job_id": "search.warm_start.job_id",
    "warm_start.candidates": "search.warm_start.candidates",
    "warm_start.max_candidates": "search.warm_start.max_candidates",
}
_GEPA = {
    **{path: f"search.{name}" for name, path in OF_GEPA.items()},
    "gepa.rollout.budget": "search.rollout_budget",
    "gepa.rollout.minibatch_size": "search.minibatch_size",
    "gepa.evaluation.train_seeds": "search.train_seeds",
    "gepa.evaluation.validation_seeds": "search.validation_seeds",
    "gepa.evaluation.test_pool": "search.test_seeds",
    "gepa.archive.pareto_source": "search.pareto_source",
    **{f"gepa.mutation.llm_{name}": f"search.meta_model.{name}" for name in ("provider", "model", "temperature")},
    "gepa.mutation.llm_max_tokens": "search.meta_model.max_tokens",
}
_MIPRO = {
    **{path: f"search.{name}" for name, path in OF_MIPRO.items()},
    "mipro.rollout_budget": "search.rollout_budget",
    "mipro.batch_size": "search.batch_size",
    "mipro.proposer_mode": "search.proposer_mode",
    **{f"mipro.seeds.{name}": f"search.{name}_seeds" for name in ("bootstrap", "online", "validation", "test")},
    "mipro.seeds.reference": "search.reference_seeds",
    **{f"mipro.meta.{name}": f"search.meta_model.{name}" for name in ("provider", "model", "temperature")},
    "mipro.meta.max_tokens": "search.meta_model.max_tokens",
}
_SECTIONS = {
    "gepa.guards": "guards",
    "gepa.adaptive_pool": "adaptive_pool",
    "gepa.adaptive_batch": "adaptive_batch",
    "mipro.adaptive_pool": "adaptive_pool",
    "mipro.tpe": "tpe",
    "verifier": "verifier",
    "verifier.backend_options": "verifier",
    "proxy_models": "proxy_models",
}


def _places(algorithm: str, own: Mapping[str, str]) -> dict[str, str]:
    found = {**_JOB, **own}
    for field in TABLE_OF[algorithm].fields:
        table, _, name = field.path.removeprefix(f"{SECTION}.").rpartition(".")
        if field.supported and field.type is not FieldType.REFUSED and table in _SECTIONS:
            found.setdefault(f"{table}.{name}", f"search.{_SECTIONS[table]}.{name}")
    return {f"{SECTION}.{path}": place for path, place in found.items()}


PLACE_OF: Mapping[str, Mapping[str, str]] = {"gepa": _places("gepa", _GEPA), "mipro": _places("mipro", _MIPRO)}
"""By algorithm and a field's path: where the config that runs has it, unless CHECKS says how it is looked up."""


def _lower(value: Any) -> Any:
    return value.lower()


_AS_RUN: Mapping[str, Callable[[Any], Any]] = {
    "gepa.mutation.llm_provider": _lower,
    "mipro.meta.provider": _lower,
    "verifier.backend_provider": _lower,
    "proxy_models.hi_provider": _lower,
    "proxy_models.lo_provider": _lower,
    "termination_config.max_duration_minutes": lambda minutes: 60 * minutes,
    "gepa.guards.leak_ngram": lambda words: words or None,
}
AS_RUN = {f"{SECTION}.{path}": convert for path, convert in _AS_RUN.items()}
"""How a value that was read is said by the config that runs, where that is not in the same way."""


def found_at(config: JobConfig, place: str) -> Any:
    """ABSENT where the section that it stands in is switched off."""
    found: Any = config
    for step in place.split("."):
        if found is None:
            return ABSENT
        found = getattr(found, step)
    return found


def contains(found: Any, value: Any) -> bool:
    """Whether all that `value` says is in `found`; an object that says nothing is only in another such."""
    if isinstance(value, Mapping):
        if not isinstance(found, Mapping):
            return False
        return all(key in found and contains(found[key], inner) for key, inner in value.items()) and (
            bool(value) or not found
        )
    if isinstance(value, list | tuple):
        return isinstance(found, list | tuple) and len(found) == len(value) and all(map(contains, found, value))
    return isinstance(found, bool) == isinstance(value, bool) and bool(found == value)


# --- settings that are looked up in a way of their own ---------------------------------------------------------------


def _policy(name: str, as_run: Callable[[Any], Any] = lambda value: value) -> Check:
    """The model that is called is the job's own, or a module's."""

    def check(value: Any, config: JobConfig) -> bool:
        modules = config.search.modules
        policies = [module.policy or config.policy for module in modules] if modules else [config.policy]
        return any(getattr(policy, name) == as_run(value) for policy in policies)

    return check


def _switch(section: str) -> Check:
    def check(value: Any, config: JobConfig) -> bool:
        found = getattr(config.search, section)
        return found is None if value == "NONE" else found is not None and bool(found.level == value)

    return check


def _is_judged(value: Any, config: JobConfig) -> bool:
    return value is (config.search.verifier is not None)


def _reward_source(value: Any, config: JobConfig) -> bool:
    judge = config.search.verifier
    return bool(value == ("task_app" if judge is None else judge.reward_source))


def _env_config(value: Any, config: JobConfig) -> bool:
    return contains(config.task_app.env_config, value)


def _env_name(value: Any, config: JobConfig) -> bool:
    return bool(config.task_app.env_name == value)


def _json_schema(value: Any, config: JobConfig) -> bool:
    return contains(found_at(config, "search.guards.json_schema"), value)


def _prompt(value: Any, config: JobConfig) -> bool:
    """A stage that has taken over the prompt's messages has none of its names; what no stage has is warned of."""
    prompt = config.initial_prompt
    if prompt is None:
        return "messages" in value
    wildcards = value.get("wildcards") or {}
    texts = {name: value[name] for name in ("id", "name") if value.get(name) is not None}
    return all(prompt.wildcards.get(name) == str(kind).upper() for name, kind in wildcards.items()) and all(
        getattr(prompt, name) == text for name, text in texts.items()
    )


def _prices(value: Any, config: JobConfig) -> bool:
    """What a policy says of its own price goes before."""
    for key, price in value.items():
        provider, _, model = (part.strip() for part in key.partition("/"))
        found = price_of(config, provider.lower(), model)
        given = {name: float(price[name]) for name in Price.model_fields if price.get(name) is not None}
        if found is None or not contains(found.model_dump(), given):
            return False
    return True


def _spec(value: Any, config: JobConfig) -> bool:
    spec = config.search.spec
    return spec is not None and (spec == value if isinstance(value, str) else contains(json.loads(spec), value))


def _of_spec(default: Any) -> Check:
    return lambda value, config: config.search.spec is not None or value == default


def _slots(name: str) -> Check:
    return lambda value, config: any(getattr(stage, name) == value for stage in found_at(config, "search.stages"))


def _warm_prompts(value: Any, config: JobConfig) -> bool:
    return any(prompt.job_id is None for prompt in config.search.warm_prompts)


def _as_read(value: Any, config: JobConfig) -> bool:
    """All of it is read, or refused; what in it is not used is warned of."""
    return True


_CHECKS: Mapping[str, Check] = {
    "policy.provider": _policy("provider", _lower),
    "policy.model": _policy("model"),
    "policy.temperature": _policy("temperature"),
    "policy.max_completion_tokens": _policy("max_completion_tokens"),
    "policy.inference_mode": _as_read,
    "initial_prompt": _prompt,
    "prices": _prices,
    "warm_start.prompts": _warm_prompts,
    "verifier.enabled": _is_judged,
    "verifier.reward_source": _reward_source,
    **{f"{algorithm}.env_name": _env_name for algorithm in ALGORITHMS},
    **{f"{algorithm}.env_config": _env_config for algorithm in ALGORITHMS},
    **{f"{algorithm}.modules": _as_read for algorithm in ALGORITHMS},
    **{f"{algorithm}.adaptive_pool.level": _switch("adaptive_pool") for algorithm in ALGORITHMS},
    "gepa.adaptive_batch.level": _switch("adaptive_batch"),
    "gepa.guards.json_schema": _json_schema,
    "mipro.stages": _as_read,
    "mipro.edges": _as_read,
    "mipro.policy_config": _as_read,
    "mipro.results_file": _as_read,
    "mipro.spec": _spec,
    "mipro.spec_include_examples": _of_spec(True),
    "mipro.spec_priority_threshold": _of_spec(None),
    "mipro.max_instruction_slots": _slots("max_instruction_slots"),
    "mipro.max_demo_slots": _slots("max_demo_slots"),
}
CHECKS = {f"{SECTION}.{path}": check for path, check in _CHECKS.items()}
"""By a field's path. The key of the task app is in no config: see `override_effect`."""

_OWN_MODELS = "every module has a model, or a parameter of it, of its own"
WHY = {
    **{
        f"{SECTION}.policy.{name}": _OWN_MODELS
        for name in ("provider", "model", "temperature", "max_completion_tokens")
    },
    f"{SECTION}.verifier.enabled": "no judge is asked where verifier.reward_source is task_app",
    f"{SECTION}.verifier.reward_source": "no judge is asked where verifier.enabled is false",
    f"{SECTION}.prices": "what a policy says of its own price goes before",
    f"{SECTION}.warm_start.prompts": "they are the baseline, or another one of them",
    f"{SECTION}.mipro.spec": "it is left out of what the meta-model is shown",
    f"{SECTION}.mipro.spec_include_examples": "there is no mipro.spec",
    f"{SECTION}.mipro.spec_priority_threshold": "there is no mipro.spec",
    **{
        f"{SECTION}.mipro.{name}": "every stage has slots of its own"
        for name in ("max_instruction_slots", "max_demo_slots")
    },
}
"""Why a check fails, by the field's path, where it can be for one reason alone."""


# --- settings that count in some cases only --------------------------------------------------------------------------


InUse = tuple[Callable[[Any, Any], bool], str]
"""Whether a value, as it was read, counts in a search's config; and why it does not."""

ALWAYS: InUse = (lambda _value, _search: True, "")
_BUDGET: InUse = (
    lambda value, search: search.max_rollouts is None or search.max_rollouts >= value,
    "termination_config.max_rollouts is lower, and ends the search before",
)
_TOKENS: InUse = (
    lambda value, search: search.token_cap == value,
    "the other limit on the tokens of the job is lower",
)
_IN_USE: Mapping[str, InUse] = {
    "gepa.rollout.budget": _BUDGET,
    "mipro.rollout_budget": _BUDGET,
    "termination_config.max_rollouts": (
        lambda value, search: search.rollout_budget >= value,
        "the rollout budget is lower, and ends the search before",
    ),
    "termination_config.max_total_tokens": _TOKENS,
    "mipro.max_token_limit": (
        lambda value, search: not search.enforce_token_limit or _TOKENS[0](value, search),
        _TOKENS[1],
    ),
    "gepa.archive.feedback_fraction": (
        lambda _, search: search.pareto_source == "train",
        "the front uses validation seeds, so all train seeds are for feedback",
    ),
    "gepa.lane_depth": (lambda _, search: search.acceptance == "race", 'it has no meaning with gepa.acceptance "full"'),
    "gepa.population.crossover_rate": (lambda _, search: search.max_merges > 0, "gepa.population.max_merges is 0"),
    "gepa.population.max_merges": (lambda _, search: search.crossover_rate > 0, "gepa.population.crossover_rate is 0"),
    "gepa.mutation.rate": (
        lambda _, search: search.component_selection != "all",
        'all components are rewritten with gepa.component_selection "all"',
    ),
    "mipro.spec_max_tokens": (lambda _, search: search.spec is not None, "there is no mipro.spec"),
    "verifier.spec_max_tokens": (
        lambda _, search: search.verifier.spec_context is not None,
        "there is no verifier.spec_context",
    ),
}
IN_USE = {f"{SECTION}.{path}": condition for path, condition in _IN_USE.items()}
"""By a field's path. What the field's default says is never in question: it is what runs without the override too."""
