"""Scoring: only what is unknown is asked, each answer is paid for and counted once, and failures are no scores."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest
from tests.fakes.pure import Pure, Told

from promptjobs.core.archive import Candidate
from promptjobs.core.asks import Answer, Ask, Fact, FailureReason, Fork, Rollout, RolloutBody, Step, Steps
from promptjobs.core.evaluations import FINAL, Evaluations
from promptjobs.core.lanes import Cause, Lane
from promptjobs.core.limits import Budget, Reservation
from promptjobs.core.optimizer import Adopted
from promptjobs.core.trial import Phase, Trial

BASE = Candidate("base", 0, None, None)
CHILD = Candidate("child", 1, None, None, ("base",), "reflection", 1)
ERROR = FailureReason.TASK_APP_ERROR
OPTIMIZATION = Phase.OPTIMIZATION


@dataclass
class Listed:
    """Answers by (candidate, seed, draw); 0.5 where none is listed."""

    answers: dict[tuple[str, int, int], float | FailureReason] = field(default_factory=dict)

    def observe(self, facts: Sequence[Fact]) -> None:
        pass

    def answer(self, ask: Ask) -> Told:
        assert isinstance(ask, Rollout)
        found = self.answers.get((ask.candidate_id, ask.seed, ask.draw), 0.5)
        is_failure = isinstance(found, FailureReason)
        answer = Answer(ask.key, None if is_failure else found, found if is_failure else None, prompt_tokens=1)
        return answer, RolloutBody((), "", "")


class Scoring:
    """A search made of scripts, one lane each, over the same evaluations."""

    search_version = 1

    def __init__(self, *scripts: Callable[["Scoring", Lane], Steps], budget: int = 100) -> None:
        self.scripts = scripts
        self.budget = Budget(budget, 0)
        self.evaluations = Evaluations("policy", self.budget)

    def search(self, lane: Lane) -> Steps:
        yield Fork([lambda lane, script=script: script(self, lane) for script in self.scripts])

    def closing(self, lane: Lane, cause: Cause | None) -> Steps:
        yield Step()
        return None

    def adopt(self, adopted: Adopted) -> None:
        self.evaluations.adopt(adopted)

    def reserve(self, rollouts: int) -> Reservation:
        reservation = Reservation.of(self.budget, rollouts)
        assert reservation is not None
        return reservation


def scoring(
    *batches: Sequence[int], candidate: Candidate = CHILD, phase: Phase = OPTIMIZATION
) -> Callable[[Scoring, Lane], Steps]:
    """Trials on batches of seeds, each paid for by what it costs."""

    def script(search: Scoring, lane: Lane) -> Steps:
        for seeds in batches:
            reservation = None
            if phase is not Phase.TEST:
                reservation = search.reserve(search.evaluations.cost(candidate.candidate_id, seeds))
            yield from search.evaluations.score(lane, candidate, seeds, phase, reservation)
            if reservation is not None:
                assert reservation.held == 0

    return script


def run(
    *scripts: Callable[[Scoring, Lane], Steps],
    answers: dict[tuple[str, int, int], float | FailureReason] | None = None,
    budget: int = 100,
    arrival_seed: int = 0,
) -> Pure:
    pure = Pure(lambda: Scoring(*scripts, budget=budget), Listed(answers or {}), arrival_seed=arrival_seed)
    pure.run()
    return pure


def asked(pure: Pure) -> list[tuple[int, int]]:
    """(seed, draw) of the calls, sorted."""
    return sorted((ask.seed, ask.draw) for ask in pure.rollouts)


def test_a_trial_holds_the_answers_in_the_order_of_its_seeds() -> None:
    answers: dict[tuple[str, int, int], float | FailureReason] = {("child", 3, 0): 0.9, ("child", 1, 0): 0.1}
    pure = run(scoring([3, 1, 2]), answers=answers)
    expected = Trial(1, "child", OPTIMIZATION, False, (3, 1, 2), (0.9, 0.1, 0.5), lane="0.1.000", generation=1)
    assert pure.trials == [expected]


def test_only_what_is_unknown_is_asked_and_paid_for() -> None:
    pure = run(scoring([1, 2], [2, 3], [3, 1]))
    assert asked(pure) == [(1, 0), (2, 0), (3, 0)]
    assert [(trial.n, trial.reused) for trial in pure.trials] == [(1, 0), (2, 1), (3, 2)]
    assert pure.optimizer.budget.used == 3
    statistics = pure.optimizer.evaluations.stats.to_json()
    assert (statistics["total_rollouts"], statistics["reused_rollouts"]) == (3, 3)
    assert statistics["rollouts_prompt_tokens"] == 3


def test_the_baseline_is_marked_in_its_asks_and_trials() -> None:
    pure = run(scoring([1], candidate=BASE), scoring([1]))
    assert {(ask.candidate_id, ask.is_baseline) for ask in pure.rollouts} == {("base", True), ("child", False)}
    assert {(trial.candidate_id, trial.is_baseline) for trial in pure.trials} == {("base", True), ("child", False)}


def test_a_failure_is_tried_once_more_and_its_second_answer_counts() -> None:
    pure = run(scoring([1, 2]), answers={("child", 1, 0): ERROR, ("child", 1, 1): 0.75})
    assert asked(pure) == [(1, 0), (1, 1), (2, 0)]
    assert pure.trials[0].scores == (0.75, 0.5)
    assert pure.optimizer.budget.used == 3
    assert pure.optimizer.evaluations.stats.to_json()["failed_rollouts"] == 1


def test_what_fails_twice_has_no_score_and_is_not_asked_again() -> None:
    pure = run(scoring([1, 2], [1, 2]), answers={("child", 1, 0): ERROR, ("child", 1, 1): ERROR})
    assert asked(pure) == [(1, 0), (1, 1), (2, 0)]
    assert [trial.scores for trial in pure.trials] == [(None, 0.5), (None, 0.5)]
    assert [(trial.score, trial.failed) for trial in pure.trials] == [(0.5, 1), (0.5, 1)]
    assert pure.optimizer.evaluations.scores("child", [1, 2, 3]) == {2: 0.5}


@pytest.mark.parametrize("reason", list(FailureReason))
def test_a_failure_is_not_tried_again_where_that_could_not_help(reason: FailureReason) -> None:
    pure = run(scoring([1]), answers={("child", 1, 0): reason, ("child", 1, 1): reason})
    assert asked(pure) == ([(1, 0)] if reason in FINAL else [(1, 0), (1, 1)])


def test_a_second_try_needs_room_in_the_budget() -> None:
    answers: dict[tuple[str, int, int], float | FailureReason] = {("child", seed, 0): ERROR for seed in (1, 2)}
    pure = run(scoring([1, 2]), answers=answers, budget=3)
    assert asked(pure) == [(1, 0), (1, 1), (2, 0)]
    assert pure.trials[0].scores == (0.5, None)
    assert pure.optimizer.budget.used == 3


def test_a_score_of_zero_is_a_score() -> None:
    pure = run(scoring([1, 2]), answers={("child", 1, 0): 0.0})
    assert asked(pure) == [(1, 0), (2, 0)]
    assert (pure.trials[0].scores, pure.trials[0].score) == ((0.0, 0.5), 0.25)


def test_the_test_is_not_counted_against_the_budget_nor_are_its_second_tries() -> None:
    pure = run(scoring([1, 2], phase=Phase.TEST), answers={("child", 1, 0): ERROR}, budget=0)
    assert asked(pure) == [(1, 0), (1, 1), (2, 0)]
    assert pure.optimizer.budget.used == 0
    assert pure.optimizer.evaluations.stats.rollouts[Phase.TEST] == 3


@pytest.mark.parametrize("arrival_seed", range(10))
def test_lanes_that_want_the_same_rollout_share_it_its_price_and_its_second_try(arrival_seed: int) -> None:
    """Whichever lane sees the failure first, and whichever is told of the first try after the second was answered."""
    failing = {("child", seed, 0): ERROR for seed in (1, 2, 3)}
    answers = {**failing, ("child", 1, 1): 0.9, ("child", 2, 1): ERROR, ("child", 3, 1): 0.8}
    pure = run(
        scoring([1], [4], [2, 1]),
        scoring([1, 2, 3], [5, 3]),
        scoring([3, 6, 7, 8], [1, 2, 3]),
        answers=answers,
        arrival_seed=arrival_seed,
    )
    assert asked(pure) == [*((seed, draw) for seed in (1, 2, 3) for draw in (0, 1)), *((s, 0) for s in range(4, 9))]
    assert pure.repeated == []
    assert pure.optimizer.budget.used == len(pure.calls)
    assert pure.optimizer.evaluations.stats.total_rollouts == len(pure.calls)
    expected = {1: 0.9, 2: None, 3: 0.8, 4: 0.5, 5: 0.5, 6: 0.5, 7: 0.5, 8: 0.5}
    for trial in pure.trials:
        assert trial.scores == tuple(expected[seed] for seed in trial.seeds)
    assert sorted(trial.n for trial in pure.trials) == [1, 2, 3, 4, 5, 6, 7]


def test_trials_without_any_score_are_counted_in_a_row() -> None:
    answers: dict[tuple[str, int, int], float | FailureReason] = {
        ("child", n, 0): FailureReason.PROMPT_NOT_MATCHED for n in (1, 2)
    }
    assert run(scoring([3], [1], [2]), answers=answers).optimizer.evaluations.failed_trials_in_a_row == 2
    assert run(scoring([1], [2], [3, 1]), answers=answers).optimizer.evaluations.failed_trials_in_a_row == 0


def test_scores_that_were_known_before_do_not_end_a_row_of_failures() -> None:
    answers: dict[tuple[str, int, int], float | FailureReason] = {
        ("child", n, 0): FailureReason.PROMPT_NOT_MATCHED for n in (1, 2)
    }
    pure = run(scoring([3], [1], [3], [3, 2], [3]), answers=answers)
    assert pure.optimizer.evaluations.failed_trials_in_a_row == 2


def test_what_was_adopted_is_known_and_its_failures_are_asked_of_the_journal() -> None:
    """A trial does not tell why a rollout failed; the recorded answer does, and it costs no call."""
    answers: dict[tuple[str, int, int], float | FailureReason] = {("child", 2, 0): ERROR, ("child", 2, 1): ERROR}
    before = run(scoring([1, 2], [2, 3]), answers=answers)
    recorded = {OPTIMIZATION: len(before.calls)}

    def make() -> Scoring:
        search = Scoring(scoring([3, 2, 1, 4]))
        search.adopt(Adopted([CHILD], before.trials, recorded, 0))
        return search

    after = Pure(make, Listed(answers), answers=dict(before.answers))
    after.run()
    assert asked(after) == [(4, 0)]
    assert [(trial.n, trial.scores) for trial in after.trials] == [(3, (0.5, None, 0.5, 0.5))]
    assert after.optimizer.evaluations.known["child"][2].reason is ERROR
    assert after.optimizer.evaluations.stats.total_rollouts == len(before.calls) + 1
    assert after.optimizer.budget.used >= len(before.calls) + 1


def test_the_newest_score_of_a_seed_is_adopted() -> None:
    trials = [
        Trial(1, "child", OPTIMIZATION, False, (1, 2), (None, 0.25)),
        Trial(2, "child", OPTIMIZATION, False, (1,), (0.75,)),
    ]
    evaluations = Evaluations("policy", Budget(10, 0))
    evaluations.adopt(Adopted([CHILD], trials, {OPTIMIZATION: 4, Phase.TEST: 5}, 3))
    assert evaluations.scores("child", [1, 2]) == {1: 0.75, 2: 0.25}
    assert (evaluations.trials, evaluations.budget.used, evaluations.stats.completions) == (2, 4, 3)
    assert evaluations.cost("child", [1, 2, 3]) == 1
