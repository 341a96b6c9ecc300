"""The resolved config of a GEPA search, and how it comes from the fields of a request."""

from typing import Any, Literal

from promptjobs.core.config_fields import TABLE_OF
from promptjobs.core.config_modules import ModuleConfig
from promptjobs.core.config_policy import read_prices
from promptjobs.core.config_search import PRICES, STOPS, SearchConfig, max_seconds
from promptjobs.core.config_sections import (
    REPLY_TOKENS,
    AdaptiveBatchConfig,
    GuardsConfig,
    Model,
    adaptive_batch,
    adaptive_pool,
    guards,
    meta_model,
    proxy_models,
    verifier,
)
from promptjobs.core.config_seeds import ParetoSource, check_disjoint, plan_seeds
from promptjobs.core.config_support import SECTION
from promptjobs.core.config_values import Given
from promptjobs.core.config_warm_start import read_warm_start
from promptjobs.core.guards import Breach, Guards
from promptjobs.core.json_contract import JsonContract
from promptjobs.core.prompt import PromptTemplate
from promptjobs.core.text_patterns import compile_pattern
from promptjobs.core.text_tokens import count_tokens
from promptjobs.errors import InvalidConfig

TRAIN = f"{SECTION}.gepa.evaluation.train_seeds"
VALIDATION = f"{SECTION}.gepa.evaluation.validation_seeds"
TEST = f"{SECTION}.gepa.evaluation.test_pool"

DEFAULT_BUDGET = 500
FIELD_AT = TABLE_OF["gepa"].at

Objective = Literal["score", "cost", "tokens", "seconds"]


class GepaConfig(SearchConfig):
    """The search. Lists of seeds are disjoint, but for the front's and feedback's, which are parts of the others.

    front_seeds: score candidates for the Pareto front. feedback_seeds: minibatches are drawn from them; at least
    `minibatch_size`. lane_depth: proposals that each lane must
    have room for. objectives: of these, only the score is better when it is higher. initial_size: the baseline and
    its first drafts. finals_share: of the budget, kept for scoring the finalists again. max_demonstrations: 0 where
    prompts hold none. token_max_limit: the same as guards.max_tokens. adaptive_batch: None where switched off.
    """

    lanes: int = 8
    lane_depth: int = 5
    minibatch_size: int = 8
    train_seeds: tuple[int, ...]
    validation_seeds: tuple[int, ...] = ()
    pareto_source: ParetoSource
    front_seeds: tuple[int, ...]
    feedback_seeds: tuple[int, ...]
    validation_top_k: int = 3

    acceptance: Literal["race", "full"] = "race"
    front: Literal["instance", "objective", "hybrid", "cartesian"] = "instance"
    objectives: tuple[Objective, ...] = ("score",)
    parent_selection: Literal["pareto", "current_best", "epsilon_greedy", "top_k_pareto"] = "pareto"
    epsilon: float = 0.1
    top_k: int = 5
    component_selection: Literal["round_robin", "all"] = "round_robin"
    pareto_set_size: int = 64
    pareto_eps: float = 1e-6
    archive_size: int = 64
    feedback_fraction: float = 0.5
    selection_pressure: float = 1.0
    initial_size: int = 20
    crossover_rate: float = 0.5
    max_merges: int = 5
    mutation_rate: float = 0.3
    max_demonstrations: int = 30
    finals_share: float = 0.15

    num_generations: int = 10
    children_per_generation: int = 5
    patience_generations: int = 3

    proposer_type: Literal["dspy", "builtin", "synth", "gepa-ai"] = "dspy"
    mutation_prompt: str | None = None
    proposed_prompt_max_tokens: int = 32_000

    guards: GuardsConfig = GuardsConfig()
    token_max_limit: int | None = None
    enforce_pattern_limit: bool = True

    adaptive_batch: AdaptiveBatchConfig | None = None


TAKEN = {
    "rng_seed": "gepa.rng_seed",
    "lanes": "gepa.lanes",
    "lane_depth": "gepa.lane_depth",
    "turn_order": "gepa.turn_order",
    "max_concurrent": "gepa.rollout.max_concurrent",
    "validation_top_k": "gepa.evaluation.validation_top_k",
    "acceptance": "gepa.acceptance",
    "front": "gepa.front",
    "objectives": "gepa.objectives",
    "parent_selection": "gepa.parent_selection",
    "epsilon": "gepa.epsilon",
    "top_k": "gepa.top_k",
    "component_selection": "gepa.component_selection",
    "pareto_set_size": "gepa.archive.pareto_set_size",
    "pareto_eps": "gepa.archive.pareto_eps",
    "archive_size": "gepa.archive.size",
    "feedback_fraction": "gepa.archive.feedback_fraction",
    "selection_pressure": "gepa.population.selection_pressure",
    "initial_size": "gepa.population.initial_size",
    "crossover_rate": "gepa.population.crossover_rate",
    "max_merges": "gepa.population.max_merges",
    "mutation_rate": "gepa.mutation.rate",
    "max_demonstrations": "gepa.max_demonstrations",
    "finals_share": "gepa.finals_share",
    "num_generations": "gepa.population.num_generations",
    "children_per_generation": "gepa.population.children_per_generation",
    "patience_generations": "gepa.population.patience_generations",
    "proposer_type": "gepa.proposer_type",
    "proposer_effort": "gepa.proposer_effort",
    "proposer_output_tokens": "gepa.proposer_output_tokens",
    "mutation_prompt": "gepa.mutation.prompt",
    "metaprompt": "gepa.metaprompt",
    "spec": "gepa.spec",
    "proposed_prompt_max_tokens": "gepa.proposed_prompt_max_tokens",
    "token_max_limit": "gepa.token.max_limit",
    "token_counting_model": "gepa.token.counting_model",
    "enforce_pattern_limit": "gepa.token.enforce_pattern_limit",
    "max_meta_calls": "gepa.max_meta_calls",
    **STOPS,
}
"""Fields of GepaConfig that are taken over as they are, with their paths below `prompt_learning`."""


def gepa_config(
    given: Given, policy: Model, prompt: PromptTemplate | None, modules: tuple[ModuleConfig, ...]
) -> tuple[GepaConfig, list[str]]:
    """The search that the fields describe, and warnings about what in it has no effect.

    prompt: of all modules; None where the task app's own messages are the baseline. Raises InvalidConfig for what
    cannot be together.
    """
    taken = {name: given.values[f"{SECTION}.{path}"] for name, path in TAKEN.items()}
    if taken["lanes"] == 1:
        taken["turn_order"] = "fixed"  # nothing would be gained by the order in which answers come
    train, validation, test = (given.values[path] for path in (TRAIN, VALIDATION, TEST))
    if not train:
        raise InvalidConfig(f"is required: a {FIELD_AT[TRAIN].expected}", TRAIN)
    if "score" not in taken["objectives"]:
        raise InvalidConfig("must hold the score, by which the winner is chosen", f"{SECTION}.gepa.objectives")
    check_disjoint({TRAIN: train, VALIDATION: validation, TEST: test})
    plan = plan_seeds(
        train,
        validation,
        source=given.values[f"{SECTION}.gepa.archive.pareto_source"],
        pareto_set_size=taken["pareto_set_size"],
        feedback_fraction=taken["feedback_fraction"],
        rng_seed=taken["rng_seed"],
    )
    closed = {"validation": validation, "test": test, "front": plan.front}
    pool, pool_warnings = adaptive_pool(given, "gepa.adaptive_pool", plan.feedback, closed)
    batch = adaptive_batch(given)
    minibatch, minibatch_warnings = _minibatch_size(given, batch, len(plan.feedback))
    judge, judge_warnings = verifier(given, policy)
    warm, warm_warnings = read_warm_start(given)
    config = GepaConfig(
        **taken,
        minibatch_size=minibatch,
        rollout_budget=given.values[f"{SECTION}.gepa.rollout.budget"] or taken["max_rollouts"] or DEFAULT_BUDGET,
        train_seeds=train,
        validation_seeds=validation,
        test_seeds=test,
        pareto_source=plan.source,
        front_seeds=plan.front,
        feedback_seeds=plan.feedback,
        meta_model=meta_model(given, policy, "gepa.mutation", "llm_", REPLY_TOKENS[taken["proposer_output_tokens"]]),
        guards=guards(given),
        max_seconds=max_seconds(given),
        prices=read_prices(given.values[PRICES], PRICES),
        adaptive_pool=pool,
        adaptive_batch=batch,
        verifier=judge,
        proxy_models=proxy_models(given, policy),
        modules=modules,
        warm_start=warm,
    )
    guard_warnings = _check_guards(config, prompt)
    section_warnings = [*pool_warnings, *judge_warnings, *warm_warnings]
    return config, [*minibatch_warnings, *section_warnings, *guard_warnings, *_without_effect(config)]


def _minibatch_size(given: Given, batch: AdaptiveBatchConfig | None, seeds: int) -> tuple[int, list[str]]:
    path = f"{SECTION}.gepa.rollout.minibatch_size"
    warnings = []
    wanted = given.values[path]
    if batch is not None:
        if wanted not in (FIELD_AT[path].default, batch.reflection_minibatch_size):
            warnings.append(
                f"a minibatch has {batch.reflection_minibatch_size} seeds by gepa.adaptive_batch; "
                f"gepa.rollout.minibatch_size, {wanted}, is not used"
            )
        wanted = batch.reflection_minibatch_size
    if seeds < wanted:
        warnings.append(f"a minibatch of {wanted} is cut to {seeds}: there are no more seeds for feedback")
    return min(wanted, seeds), warnings


def _check_guards(config: GepaConfig, prompt: PromptTemplate | None) -> list[str]:
    """Warnings about guards that the baseline prompt itself does not keep.

    Raises InvalidConfig for a pattern or a schema that cannot be used, a frozen span that the prompt does not hold, and
    a prompt that is longer than prompts may be.
    """
    path, rules, model = f"{SECTION}.gepa.guards", config.guards, config.token_counting_model
    if prompt is None:
        for name in ("must_match", "must_not_match"):
            for pattern in getattr(rules, name):
                compile_pattern(pattern, f"{path}.{name}")
        if rules.json_schema is not None:
            JsonContract(rules.json_schema, f"{path}.json_schema")
        return []
    limits = config.module_limits
    contract = Guards(rules, prompt, lambda text: count_tokens(text, model), module_limits=limits, field=path)
    found = contract.check_baseline()
    if found is None:
        return []
    if found.reason is Breach.TOO_LONG and config.enforce_pattern_limit:
        raise InvalidConfig(
            f"the baseline prompt is too long itself: {found.detail}, by the count for {model}; raise the limit, "
            "shorten the prompt, or set gepa.token.enforce_pattern_limit to false",
            f"{SECTION}.gepa.modules" if found.module else f"{SECTION}.gepa.token.max_limit",
        )
    return [f"the baseline prompt does not keep gepa.guards: {found.reason}: {found.detail}"]


def _without_effect(config: GepaConfig) -> list[str]:
    """What was asked for and changes nothing, in words."""
    found = []
    if config.objectives == ("score",) and config.front in ("objective", "cartesian"):
        same = "holds one candidate, the best" if config.front == "objective" else 'is the same as "instance"'
        found.append(f'a front by "{config.front}" with the score as its only objective {same}: see gepa.objectives')
    if len(config.objectives) > 1 and config.front == "instance":
        found.append('a front by "instance" compares scores alone: gepa.objectives has no effect on it')
    if config.epsilon != _default("epsilon") and config.parent_selection != "epsilon_greedy":
        found.append(f'gepa.epsilon has no effect with parent_selection "{config.parent_selection}"')
    if config.top_k != _default("top_k") and config.parent_selection != "top_k_pareto":
        found.append(f'gepa.top_k has no effect with parent_selection "{config.parent_selection}"')
    if config.finals_share != _default("finals_share") and config.acceptance == "full":
        found.append('gepa.finals_share has no effect with acceptance "full", which measures all finalists')
    return found


def _default(name: str) -> Any:
    return GepaConfig.model_fields[name].default
