"""The end of a MIPRO job: finalists in full, the held-out test once, and the result."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from promptjobs.core import mipro_events as events
from promptjobs.core.archive import Candidate, lineage
from promptjobs.core.asks import Fact, Fork, Step, Steps
from promptjobs.core.closing import Closing
from promptjobs.core.lanes import Lane
from promptjobs.core.limits import COMMON_SHARE
from promptjobs.core.mipro_result_events import job_completed, tested
from promptjobs.core.result import Attempt, Finalist, Member, OptimizationResult
from promptjobs.core.search_events import closing_events
from promptjobs.core.trial import Phase

if TYPE_CHECKING:
    from promptjobs.core.mipro import Mipro

MEMBERS = 64
"""Candidates of the result's archive."""


class MiproClosing(Closing):
    """Who was measured in full, and the best of the others, on the validation seeds."""

    search: "Mipro"

    def run(self, lane: Lane) -> Steps:
        search = self.search
        self.begin(len(search.mipro.test_seeds))
        search.spending.held.clear()
        search.spending.kept = len(search.mipro.test_seeds)
        yield Step(facts=[events.stopping(self.reason, self.detail), *search.budget_facts()])
        finalists = yield from self._validate(lane)
        best = finalists[0].candidate if finalists else self._best_so_far()
        if self.may_ask and best is not None and search.is_begun and search.mipro.test_seeds:
            yield from self._test(best)
        result = self._result(best, finalists)
        full = search.full_score(best.candidate_id) if best is not None and search.is_begun else None
        payload = self._payload(best) if best is not None and search.is_begun else {}
        told: list[Fact] = [*tested(result, payload), *closing_events(result, search.evaluations.stats)]
        told.append(job_completed(result, full, self._best_minibatch()))
        yield Step(facts=[*told, *search.progress()])
        return result

    def _best_so_far(self) -> Candidate | None:
        search = self.search
        return search.incumbent() if search.is_begun and search.beliefs.measured else search.base

    # --- measuring ---------------------------------------------------------------------------------------------------

    def _validate(self, lane: Lane) -> Steps:
        """The finalists, best first, by their full evaluations; none where nothing was measured in full."""
        search = self.search
        if not search.is_begun:
            return []
        seeds = search.full_seeds
        top = self._finalists(seeds)
        if self.may_ask:
            search.finalists = len(top)
            yield Step(facts=search.enter(Phase.VALIDATION))
            yield Fork([self.scoring(candidate, seeds, Phase.VALIDATION) for candidate in top])
            search.beliefs.refresh()
        ranked = self.ranked(top, seeds, COMMON_SHARE, of_all=False)
        search.trials.full.update(finalist.candidate.candidate_id for finalist in ranked)
        return ranked

    def rank_value(self, candidate: Candidate) -> float:
        return self.search.beliefs.value(candidate.candidate_id)

    def payable(self, candidate: Candidate, rollouts: int) -> int:
        """By the limits on tokens and dollars too; what is paid is held until it is known."""
        spending, tokens = self.search.spending, self._tokens(candidate)
        spending.release(candidate.candidate_id)
        paid = super().payable(candidate, spending.held_by_limit(tokens, rollouts))
        spending.reserve(candidate.candidate_id, tokens, paid)
        return paid

    def _finalists(self, seeds: Sequence[int]) -> list[Candidate]:
        """The winner so far, the baseline, and as many of the next best as can be measured in full."""
        search = self.search
        base = search.baseline()
        trials, ranked = search.trials, search.beliefs.ranked()
        known = [name for name in ranked if name in trials.full]
        best = [name for name in ranked if name not in trials.full][: search.mipro.validation_top_k]
        names = dict.fromkeys([*ranked[:1], base.candidate_id, *known, *best])
        top = [search.candidates[name] for name in ranked]
        order = [search.candidates[name] for name in names]
        if not self.may_ask:
            return order
        search.spending.longest = max(map(self._tokens, order))
        left, chosen = search.budget.left, list[Candidate]()
        for candidate in order:
            cost, tokens = search.evaluations.cost(candidate.candidate_id, seeds), self._tokens(candidate)
            if cost <= left and search.spending.held_by_limit(tokens, cost) == cost:
                left -= cost
                search.spending.reserve(candidate.candidate_id, tokens, cost)
                chosen.append(candidate)
        return chosen or top[:1]

    def _tokens(self, candidate: Candidate) -> int:
        """Of its prompt, by our own count."""
        return sum(self.search.space.count_tokens(section.content) for section in candidate.template.sections)

    def _test(self, best: Candidate) -> Steps:
        search = self.search
        base = search.baseline()
        candidates = [best] if base == best else [base, best]
        search.spending.kept = 0
        search.spending.held.clear()
        seeds = self.tested(len(candidates), search.mipro.test_seeds)
        # Both on the same seeds, also where a limit on tokens does not hold all of them.
        longest = max(map(self._tokens, candidates))
        seeds = seeds[: search.spending.held_by_limit(longest, len(candidates) * len(seeds)) // len(candidates)]
        yield Step(facts=search.enter(Phase.TEST))
        yield Fork([self.scoring(c, seeds, Phase.TEST) for c in candidates if seeds])

    # --- the result --------------------------------------------------------------------------------------------------

    def _result(self, best: Candidate | None, finalists: Sequence[Finalist]) -> OptimizationResult:
        search, mipro = self.search, self.search.mipro
        has_validation = bool(mipro.validation_seeds)
        return OptimizationResult(
            best=best,
            baseline=search.base,
            train=self.measured(best, mipro.online_seeds) if best and has_validation else None,
            validation=self.measured(best, search.full_seeds) if best else None,
            test=self.measured(best, mipro.test_seeds) if best else None,
            archive=self._members(),
            finalists=list(finalists),
            attempts=self._attempts(),
            lineage=lineage(search.candidates, best.candidate_id) if best else [],
            finish_reason=self.reason,
            detail=self.detail,
            progress=search.progress_data(),
            extra=self._extra(best),
        )

    def _members(self) -> list[Member]:
        search = self.search
        if not search.is_begun:
            return []
        beliefs, members = search.beliefs, []
        for name in beliefs.ranked()[:MEMBERS]:
            known = search.evaluations.scores(name, search.full_seeds)
            candidate, value, seeds = search.candidates[name], beliefs.value(name), beliefs.seeds_of(name)
            members.append(Member(candidate, value, seeds, known, name in search.trials.full))
        return members

    def _attempts(self) -> list[Attempt]:
        search = self.search
        if not search.is_begun:
            return []
        base = search.baseline().candidate_id
        reference = search.beliefs.value(base)
        return [
            Attempt(search.candidates[name], found.mean, found.seeds, search.beliefs.value(name) > reference)
            for name, found in search.beliefs.measured.items()
            if name != base
        ]

    def _best_minibatch(self) -> float | None:
        scores = [each["minibatch_score"] for each in self.search.trials.history] if self.search.is_begun else []
        return max((score for score in scores if score is not None), default=None)

    def _extra(self, best: Candidate | None) -> dict[str, Any]:
        """What only MIPRO has: the candidate by its slots, the bootstrap's examples, the model's state and history."""
        search = self.search
        stats = search.evaluations.stats
        costs = {
            "policy": stats.rollout_tokens.known_cost_usd,
            "proposal": stats.mutation_tokens.known_cost_usd,
            "judge": stats.judge_tokens.known_cost_usd,
        }
        figures = {
            "total_cost_usd": stats.total_cost_usd,
            "category_costs": costs,
            "final_balance_usd": None,
            "balance_type": None,
        }
        if not search.is_begun:
            return figures
        trials = search.trials
        return {
            **figures,
            "best_candidate": self._candidate_json(best) if best is not None else None,
            "best_minibatch_score": self._best_minibatch(),
            "best_full_score": search.full_score(best.candidate_id) if best is not None else None,
            "total_trials": trials.done,
            "bootstrap": {
                "baseline_score": search.bootstrap_score,
                "few_shot_examples": {
                    stage.stage_id: [example.to_json() for example in stage.pool] for stage in search.space.stages
                },
            },
            "instruction_bank": [made.to_json() for stage in search.space.stages for made in stage.bank],
            "demo_sets": {stage.stage_id: [list(each) for each in stage.sets] for stage in search.space.stages},
            "optimizer_state": search.beliefs.state(),
            "history": list(trials.history),
        }

    def _payload(self, candidate: Candidate) -> dict[str, dict[str, Any]]:
        return self.search.space.payload(self.search.beliefs.choices.get(candidate.candidate_id, {}))

    def _candidate_json(self, candidate: Candidate) -> dict[str, Any]:
        """A candidate by its slots, in the shape that clients of the API read."""
        name, search = candidate.candidate_id, self.search
        payload, tried, is_full = self._payload(candidate), search.trials.tried(name), name in search.trials.full
        return {
            "version_id": name,
            "trial_num": tried["trial"] if tried else 0,
            "iteration": tried["iteration"] if tried else 0,
            "instruction_text": "\n".join(part["instruction_text"] for part in payload.values()),
            "instruction_lines": [line for part in payload.values() for line in part["instruction_lines"]],
            "instruction_indices": [i for part in payload.values() for i in part["instruction_ids"]],
            "demo_indices": [i for part in payload.values() for i in part["demo_indices"]],
            "minibatch_score": tried["minibatch_score"] if tried else None,
            "num_seeds": tried["seeds"] if tried else 0,
            "full_score": search.full_score(name),
            "full_num_seeds": len(search.evaluations.scores(name, search.full_seeds)) if is_full else 0,
            "is_incumbent": name == search.beliefs.best(),
            "stage_payloads": payload,
        }
