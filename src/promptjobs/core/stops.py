"""When a search ends: every condition but the deadline and the wishes of its user, looked at between proposals."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from promptjobs.core.config_gepa import GepaConfig
from promptjobs.core.config_mipro import MiproConfig
from promptjobs.core.config_search import SearchConfig
from promptjobs.core.stats import Statistics

FEWEST_ANSWERS = 20
"""A rate of errors is looked at from so many answers on: a first failure would be a rate of 1."""


class StopReason(StrEnum):
    """Why a search has ended. The values are part of the API; the earlier of two that hold at once is told."""

    SCORE_THRESHOLD = "score_threshold"
    MAX_CONSECUTIVE_ERRORS = "max_consecutive_errors"
    MAX_ERROR_RATE = "max_error_rate"
    TOKEN_BUDGET = "token_budget"  # noqa: S105 - the name of a limit
    COST_BUDGET = "cost_budget"
    ROLLOUT_COST_BUDGET = "rollout_cost_budget"
    PROPOSAL_COST_BUDGET = "proposal_cost_budget"
    MAX_META_CALLS = "max_meta_calls"
    NUM_GENERATIONS = "num_generations"
    PATIENCE_GENERATIONS = "patience_generations"
    NUM_ITERATIONS = "num_iterations"
    MAX_TRIALS = "max_trials"
    NOTHING_TO_LEARN = "nothing_to_learn"
    EXHAUSTED = "exhausted"
    ROLLOUT_BUDGET = "rollout_budget"


MIPRO_STOPS = frozenset({StopReason.NUM_ITERATIONS, StopReason.EXHAUSTED})
"""Those that only a MIPRO search has."""


@dataclass(frozen=True, slots=True)
class SearchState:
    """What the stops of every search need to know besides the counters.

    trials: in all. rollouts_left: of the search's part of the budget. best_score: the estimate of the best candidate,
    None before the baseline has one. has_evidence: False where nothing that is known leaves anything to propose from.
    meta_calls_under_way: asked for and not answered yet. unpaid: the limit on money or tokens that does not hold what
    comes next beside the end; None where all do.
    """

    trials: int
    rollouts_left: int
    best_score: float | None
    has_evidence: bool = True
    meta_calls_under_way: int = 0
    unpaid: StopReason | None = None


class Stops:
    """The limits of one config, as far as every search has them."""

    def __init__(self, config: SearchConfig) -> None:
        self._config = config

    def reason(self, state: SearchState, stats: Statistics, own: Mapping[StopReason, bool]) -> StopReason | None:
        """Why nothing further may begin; None where it may. own: what else the algorithm ends by, and whether so."""
        config = self._config
        calls = stats.completions + state.meta_calls_under_way
        holds = {
            StopReason.SCORE_THRESHOLD: state.best_score is not None
            and _reached(state.best_score, config.score_threshold),
            StopReason.MAX_CONSECUTIVE_ERRORS: _reached(stats.failed_in_a_row, config.max_consecutive_errors),
            StopReason.MAX_ERROR_RATE: self._fails_too_often(stats),
            StopReason.TOKEN_BUDGET: _reached(stats.total_tokens, config.max_total_tokens),
            StopReason.COST_BUDGET: _reached(stats.spent_usd, config.max_spend_usd),
            StopReason.ROLLOUT_COST_BUDGET: _reached(stats.rollout_tokens.cost_usd, config.max_rollout_spend_usd),
            StopReason.PROPOSAL_COST_BUDGET: _reached(stats.mutation_tokens.cost_usd, config.max_proposal_spend_usd),
            StopReason.MAX_META_CALLS: _reached(calls, config.max_meta_calls),
            StopReason.MAX_TRIALS: _reached(state.trials, config.max_trials),
            StopReason.NOTHING_TO_LEARN: not state.has_evidence,
            StopReason.ROLLOUT_BUDGET: state.rollouts_left <= 0,
        }
        if state.unpaid is not None:
            holds[state.unpaid] = True
        return next((reason for reason in StopReason if holds.get(reason) or own.get(reason)), None)

    def _fails_too_often(self, stats: Statistics) -> bool:
        most, answers = self._config.max_error_rate, stats.total_rollouts
        return most is not None and answers >= FEWEST_ANSWERS and stats.total_failed > most * answers


def said_of(reason: StopReason | None, stats: Statistics) -> str | None:
    """What a search has ended by, in words, where the reason alone does not say it: failures, money, tokens."""
    match reason:
        case StopReason.MAX_CONSECUTIVE_ERRORS:
            return stats.failing_said()
        case StopReason.MAX_ERROR_RATE:
            return stats.error_rate_said()
        case StopReason.COST_BUDGET:
            return f"{stats.spent_usd:.4f} USD were spent, and what was left was kept for the end of the search"
        case StopReason.ROLLOUT_COST_BUDGET:
            spent = stats.rollout_tokens.cost_usd
            return f"{spent:.4f} USD were spent on rollouts, and what was left was kept for the end of the search"
        case StopReason.PROPOSAL_COST_BUDGET:
            return f"{stats.mutation_tokens.cost_usd:.4f} USD were spent on proposals, which leaves none for another"
        case StopReason.TOKEN_BUDGET:
            return f"{stats.total_tokens} tokens were used, and what was left was kept for the end of the search"
        case _:
            return None


def _reached(value: float, limit: float | None) -> bool:
    return limit is not None and value >= limit


def gepa_stops(config: GepaConfig, *, proposals: int, generation: int, best_generation: int) -> dict[StopReason, bool]:
    """proposals: begun, those under way included. generation: how many are complete; best_generation: the same when
    the best candidate was found."""
    return {
        StopReason.NUM_GENERATIONS: proposals >= config.num_generations * config.children_per_generation,
        StopReason.PATIENCE_GENERATIONS: generation - best_generation >= config.patience_generations,
    }


def mipro_stops(
    config: MiproConfig, stats: Statistics, *, iterations: int, is_exhausted: bool, tokens_ahead: int = 0
) -> dict[StopReason, bool]:
    """iterations: finished. is_exhausted: every configuration has been tried, and nothing new can be proposed.

    tokens_ahead: what the next trial is known to need; with it the limit on tokens is not passed.
    """
    limit = config.max_token_limit if config.enforce_token_limit else None
    return {
        StopReason.TOKEN_BUDGET: _reached(stats.total_tokens, limit)
        or (limit is not None and stats.total_tokens + tokens_ahead > limit),
        StopReason.NUM_ITERATIONS: iterations >= config.num_iterations,
        StopReason.EXHAUSTED: is_exhausted,
    }


@dataclass(frozen=True, slots=True)
class Binding:
    """The stop that comes first as far as can be told beforehand, and how many proposals there are until then."""

    reason: StopReason
    proposals: int


def binding(
    config: GepaConfig, *, search_rollouts: int, rollouts_per_proposal: float, trials_per_proposal: float = 2.0
) -> Binding:
    """Which of generations, rollouts, trials and calls of the meta-model ends the search, by what a proposal needs.

    search_rollouts: what is left for proposals after the baseline and without the end. Both figures for a proposal
    are above 0; each needs one call of the meta-model. The other stops depend on what comes out.
    """
    most = {
        StopReason.NUM_GENERATIONS: float(config.num_generations * config.children_per_generation),
        StopReason.ROLLOUT_BUDGET: search_rollouts / rollouts_per_proposal,
    }
    if config.max_trials is not None:
        most[StopReason.MAX_TRIALS] = config.max_trials / trials_per_proposal
    if config.max_meta_calls is not None:
        most[StopReason.MAX_META_CALLS] = float(config.max_meta_calls)
    reason = min(most, key=lambda name: most[name])
    return Binding(reason, max(0, math.floor(most[reason])))
