"""MIPROv2 with lanes: instructions and examples, slot by slot, searched by a model of their scores. Pure.

Source: Opsahl-Ong et al. 2024, arXiv 2406.11695. Departures: proposals learn from failed rollouts and are made of the
incumbent, again and again; no prompt is measured twice; trials under way count in the model; the difficulty of the
seeds is taken out of the scores; a failure is never a score.
"""

from typing import Any

from promptjobs.core import mipro_events as events
from promptjobs.core.archive import Candidate
from promptjobs.core.asks import Fact, Fork, Step, Steps
from promptjobs.core.config import MiproJobConfig
from promptjobs.core.evaluations import Evaluations
from promptjobs.core.lanes import Cause, Lane
from promptjobs.core.limits import Budget
from promptjobs.core.mipro_beliefs import Beliefs
from promptjobs.core.mipro_closing import MiproClosing
from promptjobs.core.mipro_opening import Opening
from promptjobs.core.mipro_plan import (
    BARREN_ITERATIONS,
    end_rollouts,
    generates_at,
    generates_from,
    minibatch_size,
    parallel_trials,
    total_budget,
)
from promptjobs.core.mipro_proposing import Proposing
from promptjobs.core.mipro_rebuilding import rebuild
from promptjobs.core.mipro_space import Space
from promptjobs.core.mipro_spending import Spending
from promptjobs.core.mipro_trials import Trials
from promptjobs.core.mipro_warm_start import WarmStart
from promptjobs.core.optimizer import Adopted
from promptjobs.core.pools import AdaptivePool, FeedbackPool
from promptjobs.core.search_base import Search
from promptjobs.core.stops import SearchState, StopReason, Stops, mipro_stops, said_of
from promptjobs.core.trial import Phase


class Mipro(Search):
    """description: of the task, by its task app. reference_inputs: what the reference seeds' rollouts were asked."""

    algorithm = "mipro"
    search_version = 1
    space: Space
    beliefs: Beliefs
    trials: Trials

    def __init__(self, config: MiproJobConfig) -> None:
        self.config = config
        self.mipro = mipro = config.mipro
        budget = Budget(total_budget(mipro), end_rollouts(mipro))
        adaptive = mipro.adaptive_pool
        informative = AdaptivePool(adaptive, mipro.online_seeds, mipro.rng_seed) if adaptive else None
        pool = FeedbackPool(mipro.online_seeds, minibatch_size(mipro), mipro.rng_seed, informative)
        super().__init__(config, Evaluations.of(config, budget), budget, pool)
        self.full_seeds = mipro.validation_seeds or mipro.online_seeds
        self.description = ""
        self.reference_inputs: list[str] = []
        self.iteration = 0
        self.minibatch: tuple[int, ...] = ()
        self.spending = Spending(mipro, self.evaluations.stats)
        self.proposing = Proposing(self)
        self.warm = WarmStart(self)
        # The limits on calls of the meta-model end proposals, not the search among what was proposed.
        self.stops = Stops(mipro.model_copy(update={"max_meta_calls": None, "max_proposal_spend_usd": None}))
        self.is_begun = False
        self.barren = 0
        self.bootstrap_score: float | None = None

    def baseline(self) -> Candidate:
        if self.base is None:
            raise ValueError("the baseline is not known yet")
        return self.base

    @property
    def calls_under_way(self) -> int:
        return self.proposing.under_way

    def end_rollouts(self, total: int) -> int:
        return end_rollouts(self.mipro, total) + 2 * len(self.mipro.test_seeds)

    def incumbent(self) -> Candidate:
        """The candidate that the model believes in most."""
        return self.candidates[self.beliefs.best()]

    def full_score(self, candidate_id: str) -> float | None:
        """The mean on the seeds of full evaluations, where most of them are known."""
        scores = self.evaluations.scores(candidate_id, self.full_seeds)
        is_full = candidate_id in self.trials.full and scores
        return sum(scores.values()) / len(scores) if is_full else None

    def estimate_of(self, candidate: Candidate) -> float | None:
        return self.beliefs.estimate_of(candidate) if self.is_begun else None

    # --- the search --------------------------------------------------------------------------------------------------

    def search(self, lane: Lane) -> Steps:
        yield Step(facts=events.started(self.config, self.budget.total))
        yield from Opening(self).run(lane)
        yield from self.warm.measure(lane)
        while self.may_go_on():
            generates = generates_at(self.mipro, self.iteration) and self.proposing.may_call and self.proposing.has_room
            if generates or not self.trials.is_exhausted:
                unpaid = self.trials.unpaid()
                if unpaid is not None:
                    self.stop_for(unpaid)
                    break
                yield from self._iteration(lane, generates)
            self.iteration += 1
        self.finish_reason = self.finish_reason or StopReason.NUM_ITERATIONS

    def closing(self, lane: Lane, cause: Cause | None) -> Steps:
        return (yield from MiproClosing(self, cause).run(lane))

    def _iteration(self, lane: Lane, generates: bool) -> Steps:
        """Propose, where it is time to; then trials side by side on one minibatch."""
        mipro, trials, iteration = self.mipro, self.trials, self.iteration
        change = self.pool.next_iteration()
        if change is not None:
            yield Step(facts=[events.pool_changed(change)])
        self.minibatch = self.pool.next()
        plan = {
            "num_iterations": mipro.num_iterations,
            "num_trials_per_iteration": mipro.num_evaluations_per_iteration,
            "max_trials": mipro.max_trials,
            "max_rollouts": self.budget.total,
            "max_wall_clock_seconds": mipro.max_seconds,
        }
        yield Step(facts=[events.iteration_started(iteration, self.minibatch, plan, generates)])
        if generates:
            # The incumbent is measured while the meta-model writes.
            [proposed, _] = yield Fork([self._propose, trials.measure_incumbent])
            trials.extend(proposed)
        else:
            yield Step(facts=[events.generation_skipped(iteration)])
            yield from trials.measure_incumbent(lane)
        if iteration == 0:
            trials.try_examples()
        before = trials.done
        trials.left = mipro.num_evaluations_per_iteration
        yield Fork([trials.lane] * parallel_trials(mipro))
        self.barren = 0 if trials.done > before else self.barren + 1
        best = self.beliefs.best()
        value, seeds = self.beliefs.value(best), self.beliefs.seeds_of(best)
        told = [
            events.iteration_complete(iteration, trials.done, value, seeds),
            *events.sampler_updated(iteration, trials.done, self.beliefs.rankings()),
        ]
        yield Step(facts=[*told, *self.budget_facts(), *self.progress()])

    def _propose(self, lane: Lane) -> Steps:
        return (yield from self.proposing.generate(lane, self.iteration, set(self.minibatch)))

    @property
    def is_exhausted(self) -> bool:
        """Whether every configuration has been measured, and nothing new is to be hoped for."""
        if not self.trials.is_exhausted:
            return False
        proposing = self.proposing
        may_propose = generates_from(self.mipro, self.iteration) and proposing.may_call and proposing.has_room
        return self.barren >= BARREN_ITERATIONS or not may_propose

    def may_go_on(self) -> bool:
        """Whether another trial may begin; else `finish_reason` says why not."""
        if self.finish_reason is None:
            stats = self.evaluations.stats
            state = SearchState(
                trials=self.evaluations.trials,
                rollouts_left=self.budget.total - self.budget.reserved - stats.total_rollouts,
                best_score=self.beliefs.value(self.beliefs.best()),
            )
            own = mipro_stops(self.mipro, stats, iterations=self.iteration, is_exhausted=self.is_exhausted)
            reason = self.stops.reason(state, stats, own)
            self.finish_reason, self.finish_detail = reason, said_of(reason, stats)
        return self.finish_reason is None

    def stop_for(self, reason: StopReason) -> None:
        """Nothing further can be paid: the first reason is the one that is told."""
        self.finish_reason = self.finish_reason or reason

    # --- what is told ------------------------------------------------------------------------------------------------

    def progress_data(self) -> dict[str, Any]:
        stats, mipro = self.evaluations.stats, self.mipro
        total = self.budget.total
        done = min(total, stats.total_rollouts - stats.rollouts[Phase.TEST])
        planned = mipro.num_iterations * mipro.num_evaluations_per_iteration
        is_begun = self.is_begun and bool(self.beliefs.measured)
        best = self.beliefs.best() if is_begun else None
        tried = self.trials.done if is_begun else 0
        base = self.base.candidate_id if self.base is not None else ""
        is_measured = is_begun and base in self.beliefs.measured
        return {
            "phase": self.phase,
            "rollouts_completed": done,
            "rollouts_total": total,
            "rollouts_remaining": total - done,
            "percent_rollouts": done / total,
            "percent_overall": done / total,
            "trials_completed": self.evaluations.trials,
            "transformations_tried": min(tried, planned),
            "transformations_planned": planned,
            "best_score": self.beliefs.value(best) if best else None,
            "best_score_seeds": self.beliefs.seeds_of(best) if best else 0,
            "baseline_score": self.beliefs.value(base) if is_measured else None,
            "baseline_score_seeds": self.beliefs.seeds_of(base) if is_measured else 0,
            "best_candidate_id": best,
            "front": [],
            "generation": self.iteration,
            "iteration": self.iteration,
            "num_iterations": mipro.num_iterations,
            **stats.to_json(),
        }

    def budget_facts(self) -> list[Fact]:
        stats, mipro = self.evaluations.stats, self.mipro
        data = {
            "total_tokens": stats.total_tokens,
            "policy_tokens": stats.rollout_tokens.total,
            "total_cost_usd": stats.spent_usd,
            "max_token_limit": mipro.max_token_limit,
            "max_spend_usd": mipro.max_spend_usd,
        }
        return [events.budget_updated(data)]

    def adopt(self, adopted: Adopted) -> None:
        """Go on from what an earlier version has published."""
        rebuild(self, adopted)
