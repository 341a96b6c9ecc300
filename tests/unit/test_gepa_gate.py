"""The paper's gate: a minibatch for parent and child, the front's seeds for whoever is better on it."""

import pytest
from tests.fakes.gepa_runs import (
    ERROR,
    TEST,
    QualityWorld,
    RuleWorld,
    best_quality,
    job,
    noisy,
    pure,
    rule_job,
    stepping,
)

from promptjobs.core.asks import FailureReason
from promptjobs.core.gepa_gate import FAILURES_IN_A_ROW, MERGE_SEEDS
from promptjobs.core.trial import Phase
from promptjobs.errors import JobFailed

FULL = {"acceptance": "full"}


@pytest.mark.parametrize("by", [0.0, -0.1])
def test_a_child_that_is_not_better_is_rejected_and_costs_no_front(by: float) -> None:
    run = pure(job(**FULL, lanes=4), QualityWorld(score=lambda quality, seed, draw: quality, reflect=stepping(by)))
    result = run.run()
    assert result.best == result.baseline
    assert [member.candidate for member in result.archive] == [result.baseline]
    scored = run.events("proposal.scored")
    assert {(event.data["accepted"], event.data["reason"]) for event in scored} == {(False, "not improved")}
    children = {ask.seed for ask in run.rollouts if not ask.is_baseline}
    assert children <= {*run.optimizer.gepa.feedback_seeds}
    assert run.events("new_best") == []
    assert result.test is not None
    assert len(run.rollouts) - run.spent == len(TEST)


@pytest.mark.parametrize(("failing", "reason"), [(2, "accepted"), (3, "incomplete")])
def test_a_child_is_compared_on_four_fifths_of_its_seeds_and_on_no_fewer(failing: int, reason: str) -> None:
    """A minibatch of all ten feedback seeds; on those that are answered, every child is far better."""
    config = job(**FULL, rollout__minibatch_size=10, rollout__budget=100)
    broken = config.gepa.feedback_seeds[:failing]

    def score(quality: float, seed: int, draw: int) -> float | FailureReason:
        return quality if quality == 0.2 else ERROR if seed in broken else 0.9

    run = pure(config, QualityWorld(score=score, reflect=stepping(0.1)))
    run.run()
    first = run.events("proposal.scored")[0]
    assert (first.data["reason"], first.data["accepted"]) == (reason, reason == "accepted")


def test_an_improved_child_is_scored_on_the_whole_front_and_ranked_by_its_mean() -> None:
    config = job(**FULL)
    run = pure(config, QualityWorld(score=noisy(), reflect=stepping(0.1)))
    result = run.run()
    assert len(result.archive) > 2
    for member in result.archive:
        assert member.known.keys() == set(config.gepa.front_seeds)
        assert member.score == pytest.approx(sum(member.known.values()) / len(member.known))


def test_parent_and_child_are_compared_on_the_same_minibatch() -> None:
    run = pure(job(**FULL, max_demonstrations=0), QualityWorld(score=noisy()))
    run.run()
    feedback = set(run.optimizer.gepa.feedback_seeds)
    by_id = {c.candidate_id: c for c in run.candidates}
    first = {}
    for trial in run.trials:
        first.setdefault(trial.candidate_id, trial)
    seen = {(trial.candidate_id, trial.seeds) for trial in run.trials}
    for candidate in run.candidates[1:]:
        if candidate.operator != "reflection" or candidate.candidate_id not in first:
            continue
        minibatch = first[candidate.candidate_id].seeds
        assert set(minibatch) <= feedback
        assert len(minibatch) == 4
        assert (by_id[candidate.parents[0]].candidate_id, minibatch) in seen


def test_drafts_start_from_the_baseline() -> None:
    config = job(**FULL, rollout__budget=800, population__initial_size=6)
    run = pure(config, QualityWorld(score=lambda quality, seed, draw: quality, reflect=stepping(0.05)))
    run.run()
    assert run.optimizer.drafts == 5
    base, *children = [c for c in run.candidates if c.operator != "merge"]
    assert {c.parents for c in children[:5]} == {(base.candidate_id,)}
    assert any(c.parents != (base.candidate_id,) for c in children[5:])


def test_a_merge_needs_the_better_parents_sum_on_a_few_seeds() -> None:
    config = rule_job(**FULL, rollout__budget=2000, population__crossover_rate=1.0, population__initial_size=4)
    run = pure(config, RuleWorld())
    result = run.run()
    merges = [c for c in run.candidates if c.operator == "merge"]
    assert merges
    for merge in merges:
        first = next(trial for trial in run.trials if trial.candidate_id == merge.candidate_id)
        assert len(first.seeds) == MERGE_SEEDS
    assert result.best_score is not None
    assert result.best_score > 0.5


def test_minibatches_that_fail_end_the_job() -> None:
    feedback = set(job(**FULL).gepa.feedback_seeds)
    world = QualityWorld(score=lambda quality, seed, draw: ERROR if seed in feedback and seed % 2 else quality)
    with pytest.raises(JobFailed, match=f"{FAILURES_IN_A_ROW} (minibatches in a row had too few scores|trials)"):
        pure(job(**FULL, rollout__budget=2000, rollout__minibatch_size=8), world).run()


def test_failures_of_a_child_are_no_scores() -> None:
    """Where every answered rollout is better, a child with one failure in twenty joins or is incomplete."""

    def score(quality: float, seed: int, draw: int) -> float | FailureReason:
        return ERROR if quality != 0.2 and seed == 3 else quality

    run = pure(job(**FULL, rollout__budget=500), QualityWorld(score=score, reflect=stepping(0.1)))
    result = run.run()
    assert {event.data["reason"] for event in run.events("proposal.scored")} <= {"accepted", "incomplete"}
    means = [trial.score for trial in run.trials if trial.phase is Phase.OPTIMIZATION]
    assert all(mean is None or mean > 0.19 for mean in means)
    assert best_quality(result) >= 0.2
