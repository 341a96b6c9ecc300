"""Scores with a judge: blended, asked for once, and a failed judgement is a failure of its seed and no score."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from tests.fakes.pure import Pure, Told

from promptjobs.core.archive import Candidate
from promptjobs.core.asks import (
    Answer,
    Ask,
    CallBody,
    Completion,
    CompletionBody,
    Fact,
    FailureReason,
    Fork,
    MetaModel,
    Rollout,
    RolloutBody,
    Step,
    Steps,
)
from promptjobs.core.evaluations import Evaluations
from promptjobs.core.lanes import Cause, Lane
from promptjobs.core.limits import Budget, Reservation
from promptjobs.core.optimizer import Adopted
from promptjobs.core.prompt import Message
from promptjobs.core.trial import Phase
from promptjobs.core.verifier import Verifier

BASE = Candidate("base", 0, None, None)
CHILD = Candidate("child", 1, None, None, ("base",), "reflection", 1)
ERROR = FailureReason.TASK_APP_ERROR
MODEL = MetaModel("fake", "judge", 0.0)

ENV = {"base": 0.75, "child": 0.5}
"""What the task app gives: it prefers the baseline."""
JUDGED = {"base": 0.25, "child": 1.0}
"""What the judge gives: it prefers the child."""

Judge = Callable[[dict[str, Any], int], str | FailureReason]
"""(the document that the judge is shown, draw) to its reply."""


def of_the_candidate(document: dict[str, Any], draw: int) -> str:
    name = document["output"].split()[0]
    return json.dumps({"score": JUDGED[name], "reason": f"it is {name}"})


@dataclass
class Judged:
    """Rollouts by candidate, seed and draw; completions by a judge. calls: of each rollout's LLM."""

    judge: Judge = of_the_candidate
    failing: dict[tuple[str, int, int], FailureReason] = field(default_factory=dict)
    calls: tuple[CallBody, ...] = ()
    same_output: bool = False

    def observe(self, facts: Sequence[Fact]) -> None:
        pass

    def answer(self, ask: Ask) -> Told:
        if isinstance(ask, Rollout):
            reason = self.failing.get((ask.candidate_id, ask.seed, ask.draw))
            score = None if reason else ENV[ask.candidate_id]
            output = ask.candidate_id if self.same_output else f"{ask.candidate_id} {ask.seed} {ask.draw}"
            return Answer(ask.key, score, reason, 5), RolloutBody((), output, "told", calls=self.calls)
        reply = self.judge(json.loads(ask.messages[1].content), ask.draw)
        if isinstance(reply, FailureReason):
            return Answer(ask.key, reason=reply, prompt_tokens=2), CompletionBody("the judge is away", "error")
        return Answer(ask.key, prompt_tokens=7, completion_tokens=3, cost_usd=0.5), CompletionBody(reply, "stop")


Script = Callable[["Scoring", Lane], Steps]


class Scoring:
    """Scripts over the same evaluations, one lane each."""

    search_version = 1

    def __init__(self, scripts: Sequence[Script], verifier: Verifier | None) -> None:
        self.scripts = scripts
        self.budget = Budget(100, 0)
        self.evaluations = Evaluations("policy", self.budget, verifier=verifier)

    def search(self, lane: Lane) -> Steps:
        yield Fork([lambda lane, script=script: script(self, lane) for script in self.scripts])

    def closing(self, lane: Lane, cause: Cause | None) -> Steps:
        yield Step()
        return None

    def adopt(self, adopted: Adopted) -> None:
        self.evaluations.adopt(adopted)


def scoring(candidate: Candidate, *batches: Sequence[int]) -> Script:
    def script(search: Scoring, lane: Lane) -> Steps:
        for seeds in batches:
            cost = search.evaluations.cost(candidate.candidate_id, seeds)
            reservation = Reservation.of(search.budget, cost)
            yield from search.evaluations.score(lane, candidate, seeds, Phase.OPTIMIZATION, reservation)

    return script


def fused(env: float = 1.0, event: float = 0.0, outcome: float = 1.0) -> Verifier:
    return Verifier(MODEL, weight_env=env, weight_event=event, weight_outcome=outcome)


def run(*scripts: Script, verifier: Verifier | None, world: Judged | None = None, arrival_seed: int = 0) -> Pure:
    pure = Pure(lambda: Scoring(scripts, verifier), world or Judged(), arrival_seed=arrival_seed)
    pure.run()
    return pure


def means(pure: Pure) -> dict[str, float | None]:
    return {trial.candidate_id: trial.score for trial in pure.trials}


# --- what it changes -------------------------------------------------------------------------------------------------


def test_the_judge_changes_which_candidate_is_better_as_far_as_its_weight_goes() -> None:
    both = (scoring(BASE, [1, 2]), scoring(CHILD, [1, 2]))
    assert means(run(*both, verifier=None)) == {"base": 0.75, "child": 0.5}
    assert means(run(*both, verifier=fused(env=0.0))) == {"base": 0.25, "child": 1.0}
    assert means(run(*both, verifier=fused())) == {"base": 0.5, "child": 0.75}
    assert means(run(*both, verifier=fused(env=9.0))) == pytest.approx({"base": 0.7, "child": 0.55})


def test_calls_are_judged_one_by_one_where_events_count() -> None:
    def judge(document: dict[str, Any], draw: int) -> str:
        score = {"1 of 2": 0.0, "2 of 2": 0.5}[document["call"]] if "call" in document else 1.0
        return json.dumps({"score": score, "reason": "r"})

    calls = tuple(CallBody((Message("user", "go on"),), f"reply {n}") for n in range(2))
    several, one = Judged(judge, calls=calls), Judged(judge)
    assert means(run(scoring(CHILD, [1]), verifier=fused(0.0, 1.0, 0.0), world=several)) == {"child": 0.25}
    assert means(run(scoring(CHILD, [1]), verifier=fused(0.0, 1.0, 1.0), world=several)) == {"child": 0.625}
    assert means(run(scoring(CHILD, [1]), verifier=fused(0.0, 1.0, 0.0), world=one)) == {"child": 1.0}


# --- what is asked ---------------------------------------------------------------------------------------------------


def test_a_batch_is_judged_in_one_step_after_its_rollouts() -> None:
    pure = run(scoring(CHILD, [1, 2, 3]), verifier=fused())
    opened = [[type(ask) for ask in asks] for turn in pure.turns for _, asks in turn.opened]
    assert opened == [[Rollout] * 3, [Completion] * 3]
    assert {ask.purpose for ask in pure.completions} == {"judge"}


def test_what_is_known_is_not_judged_again() -> None:
    pure = run(scoring(CHILD, [1, 2], [2, 3], [1, 2, 3]), verifier=fused())
    assert (len(pure.rollouts), len(pure.completions), pure.repeated) == (3, 3, [])


@pytest.mark.parametrize("arrival_seed", range(10))
def test_lanes_share_rollouts_and_judgements(arrival_seed: int) -> None:
    """No lane sees a score before the judge has spoken, whoever has asked."""
    failing = {("child", 2, 0): ERROR, ("child", 5, 0): ERROR, ("child", 5, 1): ERROR}
    scripts = [scoring(CHILD, [1], [4, 2]), scoring(CHILD, [1, 2, 3], [5, 1]), scoring(CHILD, [3, 5], [1, 2, 4])]
    pure = run(*scripts, verifier=fused(), world=Judged(failing=failing), arrival_seed=arrival_seed)
    assert pure.repeated == []
    assert sorted((ask.seed, ask.draw) for ask in pure.rollouts) == [
        (1, 0), (2, 0), (2, 1), (3, 0), (4, 0), (5, 0), (5, 1),
    ]  # fmt: skip
    assert len(pure.completions) == 4
    for trial in pure.trials:
        assert trial.scores == tuple(None if seed == 5 else 0.75 for seed in trial.seeds)


def test_equal_outputs_are_judged_once() -> None:
    pure = run(scoring(CHILD, [1, 2, 3], [4]), verifier=fused(), world=Judged(same_output=True))
    assert (len(pure.rollouts), len(pure.completions)) == (4, 1)
    assert [trial.score for trial in pure.trials] == [0.75, 0.75]


def test_the_budget_counts_rollouts_and_the_counters_count_everything() -> None:
    pure = run(scoring(CHILD, [1, 2, 3]), verifier=fused())
    statistics = pure.optimizer.evaluations.stats.to_json()
    assert pure.optimizer.budget.used == 3
    assert (statistics["total_rollouts"], statistics["judge_calls"], statistics["mutation_calls"]) == (3, 3, 0)
    assert (statistics["rollouts_prompt_tokens"], statistics["judge_tokens_used"]) == (15, 30)
    assert (statistics["judge_cost_usd"], statistics["mutation_cost_usd"]) == (1.5, 0.0)
    assert (statistics["total_tokens"], pure.optimizer.evaluations.stats.spent_usd) == (45, 1.5)


# --- failures --------------------------------------------------------------------------------------------------------


def test_a_failed_rollout_is_not_judged() -> None:
    failing = {("child", 1, draw): ERROR for draw in (0, 1)}
    pure = run(scoring(CHILD, [1, 2]), verifier=fused(), world=Judged(failing=failing))
    assert pure.trials[0].scores == (None, 0.75)
    assert len(pure.completions) == 1


@pytest.mark.parametrize("reply", ["<think>hm</think> 1", '{"score": 2, "reason": ""}', ""])
def test_a_reply_that_is_no_judgement_is_asked_for_once_more_and_then_the_seed_has_failed(reply: str) -> None:
    def judge(document: dict[str, Any], draw: int) -> str:
        return reply if document["output"].startswith("child 1 ") else of_the_candidate(document, draw)

    pure = run(scoring(CHILD, [1, 2], [1, 2]), verifier=fused(), world=Judged(judge))
    assert [trial.scores for trial in pure.trials] == [(None, 0.75), (None, 0.75)]
    assert len(pure.rollouts) == 2, "the rollout was not at fault"
    assert sorted(ask.draw for ask in pure.completions) == [0, 0, 1]
    known = pure.optimizer.evaluations.known["child"][1]
    assert (known.score, known.reason) == (None, FailureReason.JUDGE_FAILED)
    [event] = pure.events("judgement.refused")
    assert event.data["rollout_id"] == known.key.hex()


def test_the_second_reply_counts() -> None:
    def judge(document: dict[str, Any], draw: int) -> str:
        return of_the_candidate(document, draw) if draw else "I would say 0.5"

    pure = run(scoring(CHILD, [1]), verifier=fused(), world=Judged(judge))
    assert pure.trials[0].scores == (0.75,)
    assert pure.events("judgement.refused") == []


def test_a_judge_that_is_away_is_not_asked_again() -> None:
    world = Judged(lambda document, draw: FailureReason.PROVIDER_TIMEOUT)
    pure = run(scoring(CHILD, [1, 2], [3]), verifier=fused(), world=world)
    assert [trial.scores for trial in pure.trials] == [(None, None), (None,)]
    assert len(pure.completions) == 3
    assert pure.optimizer.evaluations.failed_trials_in_a_row == 2


# --- what reflection may read ----------------------------------------------------------------------------------------


def test_the_judges_reason_can_be_read_by_candidate_and_seed() -> None:
    evaluations = run(scoring(CHILD, [1]), verifier=fused()).optimizer.evaluations
    assert evaluations.feedback("child", 1) == "The judge gave 1: it is child"
    assert (evaluations.feedback("child", 2), evaluations.feedback("base", 1)) == (None, None)


def test_so_can_the_reason_why_there_is_no_judgement() -> None:
    world = Judged(lambda document, draw: FailureReason.PROVIDER_ERROR)
    evaluations = run(scoring(CHILD, [1]), verifier=fused(), world=world).optimizer.evaluations
    assert evaluations.feedback("child", 1) == "The judge gave no score: the judge's model failed. the judge is away"


def test_without_a_judge_there_is_no_such_feedback() -> None:
    assert run(scoring(CHILD, [1]), verifier=None).optimizer.evaluations.feedback("child", 1) is None


# --- another version's work ------------------------------------------------------------------------------------------


def test_adopted_scores_are_the_blended_ones_and_are_not_judged_again() -> None:
    before = run(scoring(CHILD, [1, 2]), verifier=fused())

    def make() -> Scoring:
        search = Scoring([scoring(CHILD, [2, 3])], fused())
        search.adopt(Adopted([CHILD], before.trials, {Phase.OPTIMIZATION: 2}, 2))
        return search

    after = Pure(make, Judged(), answers=dict(before.answers))
    after.run()
    assert [trial.scores for trial in after.trials] == [(0.75, 0.75)]
    assert (len(after.rollouts), len(after.completions)) == (1, 1)
