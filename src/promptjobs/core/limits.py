"""How many rollouts a job needs and has: the plan that is checked at the start, and the budget that is never passed."""

import math
import random
from dataclasses import dataclass

from promptjobs.core.asks import digest
from promptjobs.core.config import GepaConfig, GepaJobConfig
from promptjobs.core.config_search import PROBES
from promptjobs.core.spending import Purse
from promptjobs.core.stops import StopReason
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

DUEL_TRIALS = 4
"""Trials of a duel beside those of its children: the reference in two blocks, the best child's second, a union."""


def evidence_size(gepa: GepaConfig) -> int:
    """How many examples a reflection is shown in the race."""
    return max(1, round(gepa.minibatch_size * EVIDENCE[gepa.proposer_effort]))


def probe_seeds(config: GepaJobConfig) -> tuple[int, ...]:
    return () if config.template() is not None else config.gepa.train_seeds[:PROBES]


def total_budget(gepa: GepaConfig) -> int:
    return min(gepa.rollout_budget, gepa.max_rollouts or gepa.rollout_budget)


def end_rollouts(gepa: GepaConfig, total: int | None = None) -> int:
    """What is kept for closing. In the race, a share of the budget for scoring the finalists again.

    It is no more than the finalists and the baseline need, and where validation seeds are held out, enough for the
    winner and the baseline. The paper's search measures all finalists. total: rollouts in all, by default the budget.
    """
    if gepa.acceptance == "full":
        return 0 if gepa.pareto_source == "validation" else len(gepa.validation_seeds) * (1 + gepa.validation_top_k)
    share = math.floor(gepa.finals_share * (total_budget(gepa) if total is None else total))
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


def warm_rollouts(gepa: GepaConfig) -> int:
    """The prompts that the search begins with beside its baseline, on the same seeds, by the policy itself."""
    return len(gepa.warm_prompts) * len(opening_seeds(gepa))


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


def draft_count(gepa: GepaConfig, left: int, trials: int | None = None) -> int:
    """How many proposals start from the baseline: at most a fifth of the budget is theirs.

    In the race each has evidence of its own, and what they and a duel cost must be left. left: rollouts of the search.
    trials: the same, where they are limited: a draft takes one for its evidence and one in the duel.
    """
    if gepa.acceptance == "full":
        return min(gepa.initial_size - 1, math.floor(DRAFT_SHARE * total_budget(gepa) / iteration_rollouts(gepa)))
    size = evidence_size(gepa)
    affordable = min(math.floor(DRAFT_SHARE * total_budget(gepa)), left - FIRST - SECOND) // (size + FIRST)
    evidence = -(-len(gepa.feedback_seeds) // size)
    proposals = gepa.num_generations * gepa.children_per_generation
    calls = proposals if gepa.max_meta_calls is None else gepa.max_meta_calls
    possible = affordable if trials is None else min(affordable, (trials - DUEL_TRIALS) // 2)
    return max(1, min(gepa.initial_size - 1, possible, evidence, proposals, calls))


def least_proposal(gepa: GepaConfig) -> int:
    """Rollouts without which a proposal is not begun where money is short: its evidence, and a first comparison."""
    if gepa.acceptance == "full":
        return iteration_rollouts(gepa)
    return evidence_size(gepa) + FIRST


def check_budget(config: GepaJobConfig) -> None:
    """Raises BudgetTooSmall where baseline, one iteration and the end do not fit. The test is not counted."""
    gepa = config.gepa
    parts = {
        "probes of the task app's messages": len(probe_seeds(config)),
        "baseline": len(opening_seeds(gepa)) * (1 + (gepa.proxy_models is not None)),
        "warm start": warm_rollouts(gepa),
        "one iteration": iteration_rollouts(gepa),
        "validation at the end": end_rollouts(gepa),
    }
    parts = {name: count for name, count in parts.items() if count}
    if total_budget(gepa) < sum(parts.values()):
        raise BudgetTooSmall(total_budget(gepa), sum(parts.values()), parts)


@dataclass(slots=True)
class Budget:
    """A hard cap on rollouts and trials: what may be asked is taken first, and what was not needed is given back.

    reserved: kept for the end of the search. trials: most of them before the end; None where they are not limited.
    trials_taken: those before the end, finished or under way. purse: None where money and tokens are not limited.
    refused: what the latest refusal was for.
    """

    total: int
    reserved: int
    used: int = 0
    trials: int | None = None
    trials_taken: int = 0
    purse: Purse | None = None
    refused: StopReason | None = None

    @property
    def left(self) -> int:
        """What the search may still take; of what money and tokens hold, never less than none."""
        left = self.total - self.reserved - self.used
        return left if self.purse is None else min(left, max(0, self.purse.holds(self.used)[0]))

    @property
    def trials_left(self) -> int | None:
        return None if self.trials is None else max(0, self.trials - self.trials_taken)

    def lacks(self, rollouts: int, trials: int = 0) -> StopReason | None:
        """Which limit does not hold so many more; None where all do."""
        if self.trials_left is not None and trials > self.trials_left:
            return StopReason.MAX_TRIALS
        if rollouts > self.total - self.reserved - self.used:
            return StopReason.ROLLOUT_BUDGET
        if self.purse is None or not rollouts:
            return None
        most, reason = self.purse.holds(self.used)
        return reason if rollouts > most else None

    def take(self, rollouts: int, trials: int = 0) -> bool:
        lacking = self.lacks(rollouts, trials)
        if lacking is not None:
            self.refused = lacking
            return False
        self.used += rollouts
        self.trials_taken += trials
        return True

    def give_back(self, rollouts: int, trials: int = 0) -> None:
        self.used -= rollouts
        self.trials_taken -= trials

    def begin_end(self, test: int) -> None:
        """The end may take what was kept for it. test: rollouts of its test, which are not counted but cost money."""
        self.reserved = 0
        self.trials = None
        if self.purse is not None:
            self.purse.begin_end(test, self.used)


@dataclass(slots=True)
class Reservation:
    """Rollouts and trials taken from the budget for one iteration; what is not spent goes back."""

    budget: Budget
    held: int
    trials: int = 0

    @staticmethod
    def of(budget: Budget, rollouts: int, trials: int = 0) -> "Reservation | None":
        return Reservation(budget, rollouts, trials) if budget.take(rollouts, trials) else None

    def spend(self, rollouts: int) -> None:
        if rollouts > self.held:
            raise ValueError(f"{rollouts} rollouts are to be spent, {self.held} were reserved")
        self.held -= rollouts

    def spend_trial(self) -> bool:
        """Whether one was reserved."""
        has_one = self.trials > 0
        self.trials -= has_one
        return has_one

    def release(self) -> None:
        self.budget.give_back(self.held, self.trials)
        self.held = self.trials = 0
