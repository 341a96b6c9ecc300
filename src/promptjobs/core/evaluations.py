"""What is known of candidates on seeds: scoring with reuse, one trial at a time, and the counters that follow."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from promptjobs.core.archive import Candidate
from promptjobs.core.asks import Answer, Fact, FailureReason, Key, Rollout, Step, Steps, Tier, TrialFact
from promptjobs.core.judging import Judging
from promptjobs.core.lanes import Lane
from promptjobs.core.limits import Budget, Reservation
from promptjobs.core.optimizer import Adopted
from promptjobs.core.policies import policy_digest
from promptjobs.core.proxy import Plan, Proxy
from promptjobs.core.screening import Screening, screened
from promptjobs.core.stats import Statistics
from promptjobs.core.trial import Phase, Trial
from promptjobs.core.verifier import Verifier

if TYPE_CHECKING:
    from promptjobs.core.config import JobConfig

FINAL = frozenset({FailureReason.PROMPT_NOT_MATCHED, FailureReason.TOOL_NOT_ALLOWED, FailureReason.CANDIDATE_NOT_USED})
"""Failures that another try would only repeat."""

Known = dict[str, dict[int, Answer]]
"""Answers by candidate and seed."""


@dataclass(slots=True)
class Ledger:
    """What one model has answered. policy: hash of what else determines its rollouts.

    told: as the task app scored it. known: with the final scores; without a judge the same object.
    """

    tier: Tier
    policy: str
    told: Known = field(default_factory=dict)
    known: Known = field(default_factory=dict)
    asked: set[tuple[str, int]] = field(default_factory=set)

    def rollout(self, candidate: Candidate, seed: int, phase: Phase, draw: int = 0) -> Rollout:
        return Rollout(candidate.candidate_id, seed, self.policy, phase, candidate.is_baseline, draw, self.tier)

    def missing(self, candidate_id: str, seeds: Sequence[int]) -> list[int]:
        """The seeds that have to be asked and paid for; those that another lane has under way are not."""
        return [seed for seed in seeds if (candidate_id, seed) not in self.asked]


class Evaluations:
    """Scores by candidate and seed.

    policy: hash of what else determines a rollout's answer. verifier: judges every rollout that has a score, and what
    is known is then the judged one. proxy: learns from the scores of a cheaper model whose rollouts have the hash
    `lo_policy`.
    """

    def __init__(
        self,
        policy: str,
        budget: Budget,
        *,
        verifier: Verifier | None = None,
        proxy: Proxy | None = None,
        lo_policy: str = "",
    ) -> None:
        self.budget = budget
        self.stats = Statistics()
        self.trials = 0
        self.failed_trials_in_a_row = 0
        self.proxy = proxy
        self._judging = None if verifier is None else Judging(verifier, self.stats)
        self._hi, self._lo = self._ledger(Tier.HI, policy), self._ledger(Tier.LO, lo_policy)
        self._retried: set[Key] = set()
        self._counted: set[Key] = set()

    @staticmethod
    def of(config: "JobConfig", budget: Budget) -> "Evaluations":
        """With the judge and the stand-in that the config asks for."""
        search = config.search
        lo_policy = "" if search.proxy_models is None else policy_digest(config, Tier.LO)
        return Evaluations(
            policy_digest(config),
            budget,
            verifier=Verifier.of(search.verifier),
            proxy=Proxy.of(search.proxy_models),
            lo_policy=lo_policy,
        )

    def _ledger(self, tier: Tier, policy: str) -> Ledger:
        told: Known = {}
        return Ledger(tier, policy, told, told if self._judging is None else {})

    # --- what is known -----------------------------------------------------------------------------------------------

    @property
    def policy(self) -> str:
        return self._hi.policy

    @property
    def known(self) -> Known:
        """Answers of the model under optimization, with their final scores; the keys are those of the rollouts."""
        return self._hi.known

    def cost(self, candidate_id: str, seeds: Sequence[int]) -> int:
        """How many rollouts are new; those that another lane has under way are not."""
        return len(self._hi.missing(candidate_id, seeds))

    def screening_cost(self, candidate_id: str, seeds: Sequence[int]) -> int:
        """How many rollouts `screen` may need at most."""
        cost = self.cost(candidate_id, seeds)
        return cost if self.proxy is None else cost + len(self._lo.missing(candidate_id, seeds))

    def scores(self, candidate_id: str, seeds: Sequence[int]) -> dict[int, float]:
        """The known scores on `seeds`, without the failures."""
        return _scores(self._hi.known, candidate_id, seeds)

    def feedback(self, candidate_id: str, seed: int) -> str | None:
        """What the judge said of the rollout, beside the task app's feedback; None where it was not judged."""
        answer = self._hi.known.get(candidate_id, {}).get(seed)
        return None if self._judging is None or answer is None else self._judging.said_of(answer.key)

    # --- measuring ---------------------------------------------------------------------------------------------------

    def score(
        self,
        lane: Lane,
        candidate: Candidate,
        seeds: Sequence[int],
        phase: Phase,
        reservation: Reservation | None,
        facts: Sequence[Fact] = (),
    ) -> Steps:
        """Evaluate a candidate; returns the Trial. Only what is unknown is asked.

        A seed that failed is asked once more, where that may help and the budget has room. reservation: pays for the
        new rollouts; None where they are not counted (the test). facts go out with the first asks.
        """
        return (yield from self._trial((self._hi,), lane, candidate, seeds, phase, reservation, facts))

    def screen(
        self,
        lane: Lane,
        candidate: Candidate,
        seeds: Sequence[int],
        phase: Phase,
        reservation: Reservation,
        facts: Sequence[Fact] = (),
    ) -> Steps:
        """Scores to compare a candidate by; returns a Screening. Without a proxy it is a trial like any other.

        While the proxy learns, or is checked, the trial is measured by both models. Where it may be relied on, the
        cheap model alone is asked, there is no trial, and scores that are not known are foretold. What is accepted has
        to be scored afterwards. reservation: for `screening_cost`.
        """
        proxy = self.proxy
        ledgers: tuple[Ledger, ...] = (self._hi,)
        unknown = [seed for seed in seeds if seed not in self._hi.known.get(candidate.candidate_id, {})]
        plan = proxy.plan() if proxy is not None and unknown else Plan.HI
        if proxy is not None and plan is Plan.LO:
            yield from self._measure((self._lo,), candidate, unknown, phase, reservation, facts)
            facts = ()
            lo = _scores(self._lo.known, candidate.candidate_id, unknown)
            proxy.silent(not lo)
            if lo and proxy.is_usable:
                proxy.stood_in(candidate.candidate_id, list(lo))
                found = screened(proxy, seeds, self.scores(candidate.candidate_id, seeds), lo)
                yield Step(facts=[found.event(proxy, candidate), *proxy.take_events()])
                return found
        elif plan in (Plan.PAIR, Plan.VERIFY):
            ledgers = (self._hi, self._lo)
        trial: Trial = yield from self._trial(ledgers, lane, candidate, seeds, phase, reservation, facts)
        return Screening(trial.seeds, trial.scores, frozenset())

    def _trial(
        self,
        ledgers: Sequence[Ledger],
        lane: Lane,
        candidate: Candidate,
        seeds: Sequence[int],
        phase: Phase,
        reservation: Reservation | None,
        facts: Sequence[Fact],
    ) -> Steps:
        """Measure, and make a trial of what the model under optimization has scored."""
        candidate_id = candidate.candidate_id
        known = self._hi.known.setdefault(candidate_id, {})
        fresh = self.cost(candidate_id, seeds)
        open_seeds = [seed for seed in seeds if seed not in known]
        yield from self._measure(ledgers, candidate, seeds, phase, reservation, facts)
        self.trials += 1
        if reservation is None or not reservation.spend_trial():
            self.budget.trials_taken += 1
        trial = Trial(
            n=self.trials,
            candidate_id=candidate_id,
            phase=phase,
            is_baseline=candidate.is_baseline,
            seeds=tuple(seeds),
            scores=tuple(known[seed].score for seed in seeds),
            reused=len(seeds) - fresh,
            lane=lane.path,
            generation=candidate.generation,
        )
        self.stats.trials[phase] += 1
        self.stats.reused += trial.reused
        if open_seeds:  # scores that were known before say nothing about the world as it is now
            is_answered = any(known[seed].score is not None for seed in open_seeds)
            self.failed_trials_in_a_row = 0 if is_answered else self.failed_trials_in_a_row + 1
        yield Step(facts=[TrialFact(trial), *(self.proxy.take_events() if self.proxy else ())])
        return trial

    def _measure(
        self,
        ledgers: Sequence[Ledger],
        candidate: Candidate,
        seeds: Sequence[int],
        phase: Phase,
        reservation: Reservation | None,
        facts: Sequence[Fact],
    ) -> Steps:
        """Have every seed answered in each of the ledgers, failures tried once more, and the judge heard."""
        candidate_id = candidate.candidate_id
        fresh = {ledger.tier: ledger.missing(candidate_id, seeds) for ledger in ledgers}
        if reservation is not None:
            reservation.spend(sum(map(len, fresh.values())))
        asks = []
        for ledger in ledgers:
            ledger.asked.update((candidate_id, seed) for seed in fresh[ledger.tier])
            told = ledger.told.setdefault(candidate_id, {})
            asks += [ledger.rollout(candidate, seed, phase) for seed in seeds if seed not in told]
        yield from self._ask(asks, phase, facts)
        yield from self._retry(ledgers, candidate, seeds, phase, counted=reservation is not None)
        yield from self._judge(ledgers, candidate, seeds)
        if self.proxy is not None:
            for ledger in ledgers:
                for seed, score in _scores(ledger.known, candidate_id, seeds).items():
                    self.proxy.scored(ledger.tier, candidate_id, seed, score)

    def _ask(self, asks: Sequence[Rollout], phase: Phase, facts: Sequence[Fact] = ()) -> Steps:
        answers = yield Step(asks, facts)
        for ask, answer in zip(asks, answers, strict=True):
            told = (self._hi if ask.tier is Tier.HI else self._lo).told[ask.candidate_id]
            # Another lane may have had its second try while this one waited for the rest of its batch.
            if ask.draw or ask.seed not in told:
                told[ask.seed] = answer
            if ask.key not in self._counted:
                self._counted.add(ask.key)
                self.stats.count_rollout(answer, phase)
                if self.budget.purse is not None:
                    self.budget.purse.learn(ask, answer)
                if self.proxy is not None:
                    self.proxy.paid(ask.tier, _cost(answer))

    def _retry(
        self, ledgers: Sequence[Ledger], candidate: Candidate, seeds: Sequence[int], phase: Phase, counted: bool
    ) -> Steps:
        """Once more for what failed; the draw tells the second answer from the first. Lanes that retry share it."""
        asks = []
        for ledger in ledgers:
            told = ledger.told[candidate.candidate_id]
            for seed in [seed for seed in seeds if told[seed].is_failure]:
                first, second = (ledger.rollout(candidate, seed, phase, draw) for draw in (0, 1))
                may_help = told[seed].reason not in FINAL and told[seed].key == first.key
                is_paid = second.key in self._retried or not counted
                if may_help and (is_paid or self.budget.take(1)):
                    self._retried.add(second.key)
                    asks.append(second)
        if asks:
            yield from self._ask(asks, phase)

    def _judge(self, ledgers: Sequence[Ledger], candidate: Candidate, seeds: Sequence[int]) -> Steps:
        """Make known what was told: with the judge's score, where there is a judge and the rollout has not failed."""
        if self._judging is None:
            return
        candidate_id = candidate.candidate_id
        changed: list[tuple[Ledger, int, Answer]] = []
        for ledger in ledgers:
            told, known = ledger.told[candidate_id], ledger.known.setdefault(candidate_id, {})
            new = [seed for seed in seeds if seed not in known or known[seed].key != told[seed].key]
            changed += [(ledger, seed, told[seed]) for seed in new]
        answered = [answer for _, _, answer in changed if not answer.is_failure]
        judged = yield from self._judging.judge(answered, candidate.prompt)
        for ledger, seed, answer in changed:
            known = ledger.known[candidate_id]
            # Where another lane has had a second try meanwhile, its answer is the one that stays.
            if seed not in known or ledger.told[candidate_id][seed].key == answer.key:
                known[seed] = judged.get(answer.key, answer)

    # --- another version's work --------------------------------------------------------------------------------------

    def adopt(self, adopted: Adopted) -> None:
        """Take over what an earlier version of the search has published.

        What had failed is unknown again: its reason is not part of a trial, but its answer is recorded. So are the
        answers of a stand-in, which is learned anew.
        """
        for trial in adopted.trials:
            self.trials = max(self.trials, trial.n)
            self.budget.trials_taken += 1
            self.stats.trials[trial.phase] += 1
            self.stats.reused += trial.reused
            known = self._hi.known.setdefault(trial.candidate_id, {})
            told = self._hi.told.setdefault(trial.candidate_id, {})
            for seed, score in zip(trial.seeds, trial.scores, strict=True):
                tries = [Rollout(trial.candidate_id, seed, self.policy, trial.phase, draw=draw) for draw in (0, 1)]
                self._counted.update(ask.key for ask in tries)
                if score is not None:
                    self._hi.asked.add((trial.candidate_id, seed))
                    told[seed] = known[seed] = Answer(tries[0].key, score)
                    if self.proxy is not None:
                        self.proxy.scored(Tier.HI, trial.candidate_id, seed, score)
        for phase, rollouts in adopted.rollouts.items():
            self.stats.rollouts[phase] = rollouts
        self.stats.completions = adopted.completions
        self.budget.used += sum(count for phase, count in adopted.rollouts.items() if phase is not Phase.TEST)


def _scores(known: Known, candidate_id: str, seeds: Sequence[int]) -> dict[int, float]:
    answers = known.get(candidate_id, {})
    found = ((seed, answers[seed].score) for seed in seeds if seed in answers)
    return {seed: score for seed, score in found if score is not None}


def _cost(answer: Answer) -> float | None:
    """What the answer has cost; None where tokens were used whose price is unknown."""
    has_tokens = answer.prompt_tokens or answer.completion_tokens or answer.unknown_tokens
    return 0.0 if answer.cost_usd is None and not has_tokens else answer.cost_usd
