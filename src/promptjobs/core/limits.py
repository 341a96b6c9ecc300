"""How many rollouts a job needs and has: the plan that is checked at the start, and the budget that is never passed."""

import math
import random
from dataclasses import dataclass

from promptjobs.core.asks import digest
from promptjobs.core.config import GepaConfig, GepaJobConfig
from promptjobs.core.config_search import PROBES
from promptjobs.errors import BudgetTooSmall

FIRST, SECOND = 6, 14
"""Seeds of the two blocks of a duel in the race."""

COMMON_SHARE = 0.8
"""A comparison counts where at least this share of its seeds was answered for both sides."""

EVIDENCE = {"LOW_CONTEXT": 0.5, "LOW": 1.5, "MEDIUM": 2.0, "HIGH": 3.0}
"""Examples of a reflection in the race by proposer_effort, as a multiple of the minibatch."""

USUAL_PROPOSAL = 36
"""Rollouts of a proposal in the race: many children go after the first block, and much is known already."""

DRAFT_SHARE = 0.2


def evidence_size(gepa: GepaConfig) -> int:
    """How many examples a reflection is shown in the race."""
    return max(1, round(gepa.minibatch_size * EVIDENCE[gepa.proposer_effort]))


def probe_seeds(config: GepaJobConfig) -> tuple[int, ...]:
    return () if config.template() is not None else config.gepa.train_seeds[:PROBES]


def total_budget(gepa: GepaConfig) -> int:
    return min(gepa.rollout_budget, gepa.max_rollouts or gepa.rollout_budget)


def end_rollouts(gepa: GepaConfig) -> int:
    """What is kept for closing. In the race, a share of the budget for scoring the finalists again.

    It is no more than the finalists and the baseline need, and where validation seeds are held out, enough for the
    winner and the baseline. The paper's search measures all finalists.
    """
    if gepa.acceptance == "full":
        return 0 if gepa.pareto_source == "validation" else len(gepa.validation_seeds) * (1 + gepa.validation_top_k)
    share = math.floor(gepa.finals_share * total_budget(gepa))
    if gepa.pareto_source == "train" and gepa.validation_seeds:
        everybody = (1 + gepa.validation_top_k) * len(gepa.validation_seeds)
        return max(2 * len(gepa.validation_seeds), min(share, everybody))
    return min(share, (1 + gepa.validation_top_k) * max(0, len(gepa.front_seeds) - FIRST - SECOND))


def opening_seeds(gepa: GepaConfig) -> tuple[int, ...]:
    """The seeds on which the baseline is scored at the start."""
    if gepa.acceptance == "full":
        return gepa.front_seeds
    order = list(gepa.front_seeds)
    random.Random(digest("opening", gepa.rng_seed)).shuffle(order)
    return tuple(sorted(order[: FIRST + SECOND]))


def iteration_rollouts(gepa: GepaConfig) -> int:
    """One iteration: in the race evidence and a duel with the best, else two minibatches and the front's seeds."""
    if gepa.acceptance == "full":
        return 2 * gepa.minibatch_size + len(gepa.front_seeds)
    front = len(gepa.front_seeds)
    return evidence_size(gepa) + min(FIRST + SECOND, front)


def lane_count(gepa: GepaConfig, left: int) -> int:
    """How many lanes go on after the drafts: no more than leave each a row of proposals that build on each other.

    left: rollouts of the search.
    """
    if gepa.acceptance == "full":
        return gepa.lanes
    proposals = left / USUAL_PROPOSAL - draft_count(gepa, left)
    return max(1, min(gepa.lanes, round(proposals / gepa.lane_depth)))


def draft_count(gepa: GepaConfig, left: int) -> int:
    """How many proposals start from the baseline: at most a fifth of the budget is theirs.

    In the race each has evidence of its own, and what they and a duel cost must be left. left: rollouts of the search.
    """
    if gepa.acceptance == "full":
        return min(gepa.initial_size - 1, math.floor(DRAFT_SHARE * total_budget(gepa) / iteration_rollouts(gepa)))
    size = evidence_size(gepa)
    affordable = min(math.floor(DRAFT_SHARE * total_budget(gepa)), left - FIRST - SECOND) // (size + FIRST)
    evidence = -(-len(gepa.feedback_seeds) // size)
    proposals = gepa.num_generations * gepa.children_per_generation
    calls = proposals if gepa.max_meta_calls is None else gepa.max_meta_calls
    return max(1, min(gepa.initial_size - 1, affordable, evidence, proposals, calls))


def check_budget(config: GepaJobConfig) -> None:
    """Raises BudgetTooSmall where baseline, one iteration and the end do not fit. The test is not counted."""
    gepa = config.gepa
    parts = {
        "probes of the task app's messages": len(probe_seeds(config)),
        "baseline": len(opening_seeds(gepa)) * (1 + (gepa.proxy_models is not None)),
        "one iteration": iteration_rollouts(gepa),
        "validation at the end": end_rollouts(gepa),
    }
    parts = {name: count for name, count in parts.items() if count}
    if total_budget(gepa) < sum(parts.values()):
        raise BudgetTooSmall(total_budget(gepa), sum(parts.values()), parts)


@dataclass(slots=True)
class Budget:
    """A hard cap on rollouts: what may be asked is taken first, and what was not needed is given back.

    reserved: kept for the end of the search.
    """

    total: int
    reserved: int
    used: int = 0

    @property
    def left(self) -> int:
        """What the search may still take."""
        return self.total - self.reserved - self.used

    def take(self, rollouts: int) -> bool:
        if rollouts > self.left:
            return False
        self.used += rollouts
        return True

    def give_back(self, rollouts: int) -> None:
        self.used -= rollouts

    def release_reserve(self) -> None:
        """The end has begun: it may take what was kept for it."""
        self.reserved = 0
