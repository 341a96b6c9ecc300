"""How many rollouts a job needs and has: the plan that is checked at the start, and the budget that is never passed."""

from dataclasses import dataclass

from promptjobs.core.config import GepaConfig, JobConfig
from promptjobs.errors import BudgetTooSmall

PROBES = 3
"""Rollouts that gather the task app's own messages where the config has no initial prompt."""


def probe_seeds(config: JobConfig) -> tuple[int, ...]:
    return () if config.initial_prompt is not None else config.gepa.train_seeds[:PROBES]


def total_budget(gepa: GepaConfig) -> int:
    return min(gepa.rollout_budget, gepa.max_rollouts or gepa.rollout_budget)


def end_rollouts(gepa: GepaConfig) -> int:
    """What closing needs at most: the baseline and the finalists on the validation seeds, where those are held out."""
    if gepa.pareto_source == "validation":
        return 0
    return len(gepa.validation_seeds) * (1 + gepa.validation_top_k)


def iteration_rollouts(gepa: GepaConfig) -> int:
    """One iteration at most: parent and child on a minibatch, then the child on the front's seeds."""
    return 2 * gepa.minibatch_size + len(gepa.front_seeds)


def check_budget(config: JobConfig) -> None:
    """Raises BudgetTooSmall where baseline, one iteration and the end do not fit. The test is not counted."""
    gepa = config.gepa
    parts = {
        "probes of the task app's messages": len(probe_seeds(config)),
        "baseline": len(gepa.front_seeds),
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
