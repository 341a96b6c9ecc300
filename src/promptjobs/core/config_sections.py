"""The sections of a search's config that stand for themselves: guards, adaptive pool and batch, judge, proxy."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict

from promptjobs.core.config_support import SECTION
from promptjobs.core.config_values import Given, listed, shown
from promptjobs.errors import InvalidConfig

AdaptiveLevel = Literal["LOW", "MODERATE", "HIGH"]


class Resolved(BaseModel):
    """Base of everything that is stored as a job's config: frozen, and without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class MetaModelConfig(Resolved):
    """The model that writes new prompts."""

    provider: str
    model: str
    temperature: float = 1.0
    max_tokens: int = 8192


class GuardsConfig(Resolved):
    """What a proposed prompt must keep to; what does not is refused before a rollout is spent on it.

    max_tokens: of the whole prompt. max_growth: most tokens as a multiple of the baseline prompt's, both without
    examples. frozen: spans that must stay to the character. must_match, must_not_match: regular expressions of RE2,
    which has no lookaround and no backreferences, searched in each changed section without its examples. A pattern of
    must_match binds the sections whose baseline it matches; where it matches in none of them, every section that is
    changed. must_not_match binds every changed section. json_schema: for every text that is JSON, and every fenced JSON
    block. leak_ngram: so many words in a row of an example may not stand in an instruction; None where that is not
    checked.
    """

    max_tokens: int | None = None
    max_growth: float | None = None
    frozen: tuple[str, ...] = ()
    must_match: tuple[str, ...] = ()
    must_not_match: tuple[str, ...] = ()
    json_schema: dict[str, Any] | None = None
    leak_ngram: int | None = 12


class AdaptivePoolConfig(Resolved):
    """A pool of feedback seeds that shrinks to the informative ones.

    The pool is counted in seeds, the schedule in proposals. anchor_size <= pool_min_size <= pool_init_size.
    heatup_reserve_pool: seeds that join later; None for the feedback seeds outside the pool.
    """

    level: AdaptiveLevel
    anchor_size: int
    pool_init_size: int
    pool_min_size: int
    warmup_iters: int
    anneal_stop_iter: int
    pool_update_period: int = 3
    min_evals_per_example: int = 3
    k_info_prompts: int = 10
    info_buffer_factor: float = 0.9
    info_epsilon: float = 1e-6
    anchor_selection_method: Literal["random", "clustering"] = "clustering"
    exploration_strategy: Literal["random", "diversity"] = "diversity"
    heatup_reserve_pool: tuple[int, ...] | None = None
    heatup_trigger: Literal["after_min_size", "immediate", "every_N_trials_after_min"] = "after_min_size"
    heatup_size: int = 20
    heatup_cooldown_trials: int = 50
    heatup_schedule: Literal["repeat", "once"] = "repeat"


class AdaptiveBatchConfig(Resolved):
    """Smaller minibatches, and accepted children scored on a part of the front's seeds.

    reflection_minibatch_size: also stands in GepaConfig.minibatch_size, cut to the seeds there are.
    min_local_improvement: a child's mean on the minibatch must pass its parent's by more than this.
    """

    level: AdaptiveLevel
    reflection_minibatch_size: int
    min_local_improvement: float = 0.0
    val_evaluation_mode: Literal["full", "subsample"] = "subsample"
    val_subsample_size: int
    candidate_selection_strategy: Literal["coverage", "random"] = "coverage"


class VerifierConfig(Resolved):
    """A judge, which is a model. Outcome: it scores the final output. Event: it scores each LLM call of a rollout.

    reward_source: `verifier`, the judge's score alone; `fused`, the mean of the task app's (weight_env) and the
    judge's scores by their weights. backend_event_enabled, backend_outcome_enabled: exactly where the weight is above
    0; one of them is. concurrency: judge calls in flight. timeout: seconds of one. spec_max_tokens: longest part of
    spec_context that the judge is shown.
    """

    reward_source: Literal["verifier", "fused"]
    backend_provider: str
    backend_model: str
    temperature: float = 0.0
    max_tokens: int = 2048
    backend_event_enabled: bool = False
    backend_outcome_enabled: bool = True
    concurrency: int = 8
    timeout: float = 60.0
    weight_env: float = 1.0
    weight_event: float = 0.0
    weight_outcome: float = 1.0
    spec_context: str | None = None
    spec_max_tokens: int = 5000


class ProxyModelsConfig(Resolved):
    """A cheaper model (lo) as a stand-in for the policy's (hi), for as long as its scores foretell the policy's."""

    hi_provider: str
    hi_model: str
    lo_provider: str
    lo_model: str
    n_min_hi: int = 5
    r2_thresh: float = 0.5
    r2_stop: float = 0.2
    sigma_max: float = 1e6
    sigma_stop: float = 1e9
    verify_every: int = 0
    proxy_patience_usd: float = -100.0


class Model(NamedTuple):
    """A model by the names that the server's registry knows it by."""

    provider: str
    model: str


def _section(given: Given, path: str) -> dict[str, Any]:
    """The values of the fields that stand directly below a path, by their names."""
    start = f"{SECTION}.{path}."
    return {
        name.removeprefix(start): value
        for name, value in given.values.items()
        if name.startswith(start) and "." not in name.removeprefix(start)
    }


def _is_given(given: Given, path: str) -> bool:
    return any(name.startswith(f"{SECTION}.{path}.") for name in given.given)


def _own(given: Given, path: str, preset: Mapping[str, int], filled: Mapping[str, int]) -> dict[str, int]:
    """The values that a section gives in the place of its level's.

    filled: what the SDK's class fills in where its user gave none; a section with exactly these has none of its own.
    """
    section = _section(given, path)
    own = {name: section[name] for name in preset if section[name] is not None}
    return {} if own == filled else own


# --- models ----------------------------------------------------------------------------------------------------------


REPLY_TOKENS = {"RAPID": 2_048, "FAST": 8_192, "SLOW": 32_768}
"""Most tokens of a reply of the meta-model, by `proposer_output_tokens`."""


def meta_model(given: Given, policy: Model, path: str, prefix: str, most_tokens: int) -> MetaModelConfig:
    """The policy's where none is named. path, prefix: of its fields. most_tokens: of its replies, and by default."""
    section = _section(given, path)
    model, provider = section[f"{prefix}model"], (section[f"{prefix}provider"] or policy.provider).lower()
    if model is None:
        # SDK 0.2.24 fills in groq where its user named no provider.
        if provider not in (policy.provider, "groq"):
            raise InvalidConfig(
                f"is required where {prefix}provider is not the policy's provider", f"{SECTION}.{path}.{prefix}model"
            )
        provider, model = policy
    return MetaModelConfig(
        provider=provider,
        model=model,
        temperature=section[f"{prefix}temperature"],
        max_tokens=section[f"{prefix}max_tokens"] or most_tokens,
    )


def proxy_models(given: Given, policy: Model) -> ProxyModelsConfig | None:
    """None where the section is absent. hi is the policy's model: a job optimizes the prompt of one model."""
    if not _is_given(given, "proxy_models"):
        return None
    path, section = f"{SECTION}.proxy_models", _section(given, "proxy_models")
    hi = Model((section["hi_provider"] or policy.provider).lower(), section["hi_model"] or policy.model)
    for name, here, policys in zip(("hi_provider", "hi_model"), hi, policy, strict=True):
        if here != policys:
            raise InvalidConfig(f"is {shown(here)}, and must be the policy's, {shown(policys)}", f"{path}.{name}")
    if section["lo_model"] is None:
        raise InvalidConfig("is required in this section", f"{path}.lo_model")
    lo = Model((section["lo_provider"] or policy.provider).lower(), section["lo_model"])
    if lo == policy:
        raise InvalidConfig("is the policy's model, which cannot stand in for itself", f"{path}.lo_model")
    if section["r2_stop"] > section["r2_thresh"]:
        raise InvalidConfig(f"must be at most r2_thresh, {section['r2_thresh']:g}", f"{path}.r2_stop")
    if section["sigma_stop"] < section["sigma_max"]:
        raise InvalidConfig(f"must be at least sigma_max, {section['sigma_max']:g}", f"{path}.sigma_stop")
    names = {"hi_provider": hi.provider, "hi_model": hi.model, "lo_provider": lo.provider, "lo_model": lo.model}
    return ProxyModelsConfig(**(section | names))


# --- the judge -------------------------------------------------------------------------------------------------------


def verifier(given: Given, policy: Model) -> tuple[VerifierConfig | None, list[str]]:
    """The judge, and warnings. None where it is off, or where the score is the task app's alone."""
    path, section = f"{SECTION}.verifier", _section(given, "verifier")
    if not section.pop("enabled"):
        return None, []
    if section["reward_source"] == "task_app":
        return None, ['the judge is not asked: verifier.reward_source is "task_app", not "verifier" or "fused"']
    if section["backend_model"] is None:
        raise InvalidConfig("is required where a judge is asked", f"{path}.backend_model")
    weights = _weights(section, path)
    options = _section(given, "verifier.backend_options")
    read = {name: section[name] for name in ("reward_source", "backend_model", "concurrency", "timeout")}
    return VerifierConfig(
        **read,
        **weights,
        **options,
        backend_provider=(section["backend_provider"] or policy.provider).lower(),
        backend_event_enabled=weights["weight_event"] > 0,
        backend_outcome_enabled=weights["weight_outcome"] > 0,
        spec_context=section["spec_context"],
        spec_max_tokens=section["spec_max_tokens"],
    ), []


def _weights(section: Mapping[str, Any], path: str) -> dict[str, float]:
    """The weights as they count: 0 for what is not judged. Raises InvalidConfig where the judge has none."""
    kinds = ("outcome", "event")
    for kind in kinds:
        if section[f"weight_{kind}"] > 0 and not section[f"backend_{kind}_enabled"]:
            raise InvalidConfig(
                f"is {section[f'weight_{kind}']:g}, and backend_{kind}_enabled is false", f"{path}.weight_{kind}"
            )
    weights = {kind: section[f"weight_{kind}"] for kind in kinds}
    is_fused = section["reward_source"] == "fused"
    if not any(weights.values()):
        judged = next((kind for kind in kinds if section[f"backend_{kind}_enabled"]), None)
        if is_fused or judged is None:
            raise InvalidConfig(
                "is 0, and so is weight_event: the judge needs a weight, and what has one must be enabled",
                f"{path}.weight_outcome",
            )
        weights[judged] = 1.0
    env = section["weight_env"] if is_fused else 0.0
    return {"weight_env": env, "weight_outcome": weights["outcome"], "weight_event": weights["event"]}


# --- prompts, pools and batches --------------------------------------------------------------------------------------


def guards(given: Given) -> GuardsConfig:
    section = _section(given, "gepa.guards")
    section["leak_ngram"] = section["leak_ngram"] or None
    return GuardsConfig(max_tokens=given.values[f"{SECTION}.gepa.token.max_limit"], **section)


BATCHES = {
    "LOW": {"reflection_minibatch_size": 5, "val_subsample_size": 80},
    "MODERATE": {"reflection_minibatch_size": 3, "val_subsample_size": 64},
    "HIGH": {"reflection_minibatch_size": 2, "val_subsample_size": 48},
}


def adaptive_batch(given: Given) -> AdaptiveBatchConfig | None:
    path = "gepa.adaptive_batch"
    section = _section(given, path)
    if not _is_given(given, path) or section["level"] == "NONE":
        return None
    preset = BATCHES[section["level"]]
    return AdaptiveBatchConfig(**(section | preset | _own(given, path, preset, BATCHES["MODERATE"])))


POOLS = {
    level: dict(
        zip(("anchor_size", "pool_init_size", "pool_min_size", "warmup_iters", "anneal_stop_iter"), row, strict=True)
    )
    for level, row in {
        "LOW": (50, 150, 100, 10, 30),
        "MODERATE": (30, 100, 50, 5, 20),
        "HIGH": (20, 60, 30, 3, 10),
    }.items()
}
FILLED_POOL = {"anchor_size": 30, "warmup_iters": 5, "anneal_stop_iter": 20}


def adaptive_pool(
    given: Given,
    path: str,
    feedback: tuple[int, ...],
    closed: Mapping[str, tuple[int, ...]],
    what: str = "feedback",
) -> tuple[AdaptivePoolConfig | None, list[str]]:
    """The pool, and warnings. Its sizes are cut to the feedback seeds, which the search calls `what`.

    closed: seeds that must not be learnt from.
    """
    section = _section(given, path)
    if not _is_given(given, path) or section["level"] == "NONE":
        return None, []
    preset = POOLS[section["level"]]
    sizes = _pool_sizes(preset, _own(given, path, preset, FILLED_POOL), f"{SECTION}.{path}")
    for name, seeds in closed.items():
        common = sorted(set(section["heatup_reserve_pool"] or ()) & set(seeds))
        if common:
            raise InvalidConfig(
                f"holds {name} seeds, which must not be learnt from: {listed(common)}",
                f"{SECTION}.{path}.heatup_reserve_pool",
            )
    warnings = []
    there = len(feedback)
    if sizes["pool_min_size"] >= there:
        warnings.append(
            f"{path} never shrinks: there are {there} {what} seeds, and it keeps at least {sizes['pool_min_size']}"
        )
    elif sizes["pool_init_size"] > there:
        warnings.append(f"{path} begins with all {there} {what} seeds, not {sizes['pool_init_size']}")
    cut = {name: min(sizes[name], there) for name in ("anchor_size", "pool_init_size", "pool_min_size")}
    return AdaptivePoolConfig(**(section | sizes | cut)), warnings


def _pool_sizes(preset: Mapping[str, int], own: Mapping[str, int], path: str) -> dict[str, int]:
    """Sizes and schedule: what is not given is the level's, moved as far as what is given asks for."""
    anchor = own.get("anchor_size")
    least = own.get("pool_min_size", max(preset["pool_min_size"], anchor or 0))
    initial = own.get("pool_init_size", max(preset["pool_init_size"], least))
    if "pool_min_size" not in own:
        least = min(least, initial)
    if anchor is None:
        anchor = min(preset["anchor_size"], least)
    stop = own.get("anneal_stop_iter", max(preset["anneal_stop_iter"], own.get("warmup_iters", 0)))
    warmup = own.get("warmup_iters", min(preset["warmup_iters"], stop))
    for name, value, bound, most in (
        ("pool_min_size", least, "pool_init_size", initial),
        ("anchor_size", anchor, "pool_min_size", least),
        ("warmup_iters", warmup, "anneal_stop_iter", stop),
    ):
        if value > most:
            raise InvalidConfig(f"is {value}, and must be at most {bound}, {most}", f"{path}.{name}")
    return {
        "anchor_size": anchor,
        "pool_init_size": initial,
        "pool_min_size": least,
        "warmup_iters": warmup,
        "anneal_stop_iter": stop,
    }
