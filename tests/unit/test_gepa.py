"""GEPA in worlds of known answers: what it may spend and ask, what it decides, what it tells."""

import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes.gepa_runs import (
    ERROR,
    TEST,
    TRAIN,
    VALIDATION,
    QualityWorld,
    best_quality,
    check_facts,
    fenced,
    fraction,
    job,
    jobs,
    least_budget,
    noisy,
    pure,
    quality_of,
    stepping,
    text_of,
)
from tests.fakes.pure import Pure

from promptjobs.core.asks import (
    CompletionBody,
    Fact,
    FailureReason,
)
from promptjobs.core.config import JobConfig
from promptjobs.core.limits import end_rollouts, iteration_rollouts
from promptjobs.core.result import OptimizationResult
from promptjobs.core.trial import Phase

LAW = settings(deadline=None, derandomize=True, max_examples=40)


# --- any job, any order of answers -----------------------------------------------------------------------------------


@LAW
@given(jobs(), st.integers(0, 2**32), st.sampled_from([0.0, 0.2]))
def test_every_run_keeps_to_its_budget_and_tells_the_truth(config: JobConfig, arrival: int, failing: float) -> None:
    run = pure(config, QualityWorld(score=noisy(failing)), arrival)
    result = run.run()
    check_facts(run, config)
    check_held_out(run, config, result)


def check_held_out(run: Pure, config: JobConfig, result: OptimizationResult) -> None:
    """Held-out seeds are opened after the search, validation before test, each for those who may see them."""
    gepa, best, base = config.gepa, result.best, result.baseline
    assert best is not None
    assert base is not None
    phases = [ask.phase for ask in run.rollouts]
    assert phases == sorted(phases, key=list(Phase).index)
    validated = {ask.candidate_id for ask in run.rollouts if ask.phase is Phase.VALIDATION}
    if gepa.pareto_source == "train":
        top = [member.candidate.candidate_id for member in result.archive[: gepa.validation_top_k]]
        assert validated == {*top, base.candidate_id}
        assert all((ask.seed in gepa.validation_seeds) == (ask.phase is Phase.VALIDATION) for ask in run.rollouts)
    else:
        assert validated == set()
    tested = Counter((ask.candidate_id, ask.seed) for ask in run.rollouts if ask.phase is Phase.TEST and not ask.draw)
    expected = {(c.candidate_id, seed) for c in (base, best) for seed in gepa.test_seeds}
    assert tested == Counter(expected)
    assert all((ask.seed in gepa.test_seeds) == (ask.phase is Phase.TEST) for ask in run.rollouts)


@settings(LAW, max_examples=15)
@given(jobs(), st.integers(0, 2**32))
def test_in_fixed_order_the_same_answers_give_the_same_facts(config: JobConfig, arrival: int) -> None:
    fixed = config.model_copy(update={"gepa": config.gepa.model_copy(update={"turn_order": "fixed"})})
    one, other = (pure(fixed, QualityWorld(score=noisy(0.1)), seed) for seed in (arrival, arrival + 1))
    assert one.run() == other.run()
    assert one.turns == other.turns
    assert one.chain == other.chain


@settings(LAW, max_examples=10)
@given(jobs(), st.integers(0, 2**32))
def test_with_one_lane_the_order_of_turns_is_no_choice(config: JobConfig, arrival: int) -> None:
    alone = [
        config.model_copy(update={"gepa": config.gepa.model_copy(update={"turn_order": order, "lanes": 1})})
        for order in ("arrival", "fixed")
    ]
    one, other = (pure(each, QualityWorld(score=noisy(0.1)), arrival) for each in alone)
    assert one.run() == other.run()
    assert searched(one) == searched(other)


def searched(run: Pure) -> list[Fact]:
    """The facts of the search alone, without its first event, which names the order."""
    return run.facts[1 : run.facts.index(run.events("termination.triggered")[0])]


@pytest.mark.parametrize("lanes", [1, 2, 4, 8])
@pytest.mark.parametrize("budget", [100, 200, 400])
def test_the_search_goes_on_until_no_iteration_fits(lanes: int, budget: int) -> None:
    """A lane that cannot reserve its worst case does not stop the others, which give back what they do not need."""
    config = job(lanes=lanes, rollout__budget=budget, population__num_generations=1000)
    run = pure(config, QualityWorld(score=noisy()))
    result = run.run()
    assert result.finish_reason == "rollout_budget"
    searched = sum(ask.phase is Phase.OPTIMIZATION for ask in run.rollouts)
    assert budget - end_rollouts(config.gepa) - searched < iteration_rollouts(config.gepa)


# --- what is decided -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lanes", [1, 4])
def test_a_child_that_is_better_on_every_seed_wins(lanes: int) -> None:
    run = pure(job(lanes=lanes), QualityWorld(score=lambda quality, seed, draw: quality, reflect=stepping(0.1)))
    result = run.run()
    assert best_quality(result) == max(quality_of(c.template.sections[0].content) for c in run.candidates) > 0.4
    assert result.best_score == pytest.approx(best_quality(result))
    assert result.baseline_score == pytest.approx(0.2)
    assert all(
        attempt.accepted for attempt in result.attempts if attempt.candidate.parents == (result.baseline.candidate_id,)
    )
    news = [event.data["best_score"] for event in run.events("new_best")]
    assert news == sorted(set(news))
    assert math.isclose(news[-1], best_quality(result))


@pytest.mark.parametrize("by", [0.0, -0.1])
def test_a_child_that_is_not_better_is_rejected_and_costs_no_front(by: float) -> None:
    run = pure(job(lanes=4), QualityWorld(score=lambda quality, seed, draw: quality, reflect=stepping(by)))
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


def test_failures_do_not_pull_a_mean_down() -> None:
    """With half of the tries failing and every score 0.6, every mean is 0.6, and nobody is better."""

    def held_out(quality: float, seed: int, draw: int) -> float | FailureReason:
        return ERROR if fraction("held out", quality, seed, draw) < 0.5 and seed not in range(20) else 0.6

    def children(quality: float, seed: int, draw: int) -> float | FailureReason:
        return ERROR if fraction("children", quality, seed, draw) < 0.5 and quality != 0.2 else 0.6

    for failing in (held_out, children):
        run = pure(job(lanes=4, rollout__budget=400), QualityWorld(score=failing, reflect=stepping(0.01)))
        result = run.run()
        assert any(None in trial.scores for trial in run.trials)
        assert {round(trial.score, 9) for trial in run.trials if trial.score is not None} == {0.6}
        assert {event.data["reason"] for event in run.events("proposal.scored")} <= {"not improved", "incomplete"}
        assert (result.best_score, result.baseline_score) == (pytest.approx(0.6), pytest.approx(0.6))


@pytest.mark.parametrize(("failing", "reason"), [(2, "accepted"), (3, "incomplete")])
def test_a_child_is_compared_on_four_fifths_of_its_seeds_and_on_no_fewer(failing: int, reason: str) -> None:
    """A minibatch of all ten feedback seeds; on those that are answered, every child is far better."""
    config = job(rollout__minibatch_size=10, rollout__budget=100)
    broken = config.gepa.feedback_seeds[:failing]

    def score(quality: float, seed: int, draw: int) -> float | FailureReason:
        return quality if quality == 0.2 else ERROR if seed in broken else 0.9

    run = pure(config, QualityWorld(score=score, reflect=stepping(0.1)))
    run.run()
    first = run.events("proposal.scored")[0]
    assert (first.data["reason"], first.data["accepted"]) == (reason, reason == "accepted")


def test_seeds_on_which_the_baseline_failed_are_left_out_of_the_front() -> None:
    broken = job().gepa.front_seeds[3]
    world = QualityWorld(score=lambda quality, seed, draw: ERROR if seed == broken else quality, reflect=stepping(0.1))
    run = pure(job(), world)
    result = run.run()
    assert broken not in run.optimizer.archive.seeds
    assert len(run.optimizer.archive.seeds) == 7
    assert best_quality(result) > 0.2
    assert result.train is not None
    assert result.train.seeds == 7


def test_a_proposal_that_is_known_is_not_evaluated_again() -> None:
    world = QualityWorld(
        score=lambda quality, seed, draw: quality,
        reflect=lambda quality, completion: CompletionBody(fenced(text_of(0.1, "always")), "stop"),
    )
    run = pure(job(lanes=2, population__num_generations=4), world)
    run.run()
    refused = [event.data["reason"] for event in run.events("proposal.refused")]
    assert set(refused) == {"duplicate"}
    assert len(refused) == len(run.completions) - 1
    assert len(run.candidates) == 2
    assert len({completion.key for completion in run.completions}) == len(run.completions) == 20


def test_a_proposal_that_names_an_input_of_another_message_is_refused() -> None:
    """Rendered, the user's text would stand in the system message."""
    world = QualityWorld(
        score=noisy(), reflect=lambda quality, completion: CompletionBody(fenced("Answer {query}, {kindly}."), "stop")
    )
    run = pure(job(population__num_generations=1), world)
    run.run()
    assert {event.data["reason"] for event in run.events("proposal.refused")} == {"placeholders"}
    assert len(run.candidates) == 1


def test_perfect_scores_need_no_reflection() -> None:
    run = pure(job(lanes=2), QualityWorld(score=lambda quality, seed, draw: 1.0))
    result = run.run()
    assert run.completions == []
    assert (result.best, result.best_score) == (result.baseline, 1.0)


# --- what is told ----------------------------------------------------------------------------------------------------


def test_the_events_carry_the_texts_that_clients_read() -> None:
    run = pure(job(), QualityWorld(score=lambda quality, seed, draw: quality, reflect=stepping(0.1)))
    result = run.run()
    best = result.best.template
    text, base = best.sections[0].content, text_of(0.2)
    [best_prompt] = run.events("best.prompt")
    assert best_prompt.data["best_prompt"] == best.to_json()
    assert best_prompt.data["best_prompt_messages"][0] == {"role": "system", "content": text}
    top = run.events("top.prompt.content")
    assert [event.data["rank"] for event in top] == [1, 2, 3, 4]
    assert top[0].data["template"] == best.to_json()
    assert top[0].data["full_text"] == f"[system]\n{text}\n\n[user]\nQuery: {{query}}"
    assert top[0].data["train_accuracy"] == top[0].data["val_accuracy"] == pytest.approx(result.best_score)
    assert top[-1].data["template"]["sections"][0]["content"] == base
    [final] = run.events("final.results")
    assert final.data["best_prompt"] == best.to_json()
    assert final.data["validation"][0]["rank"] == 0
    change = final.data["attempted_candidates"][0]["object"]["text_replacements"]
    assert [(c["old_text"], c["apply_to_role"]) for c in change] == [(base, "system")]
    assert final.data["optimized_candidates"][0]["object"]["data"] == best.to_json()
    assert {node["candidate_id"] for node in final.data["version_tree"]} == {
        m.candidate.candidate_id for m in result.archive
    }
    validated = run.events("validation.scored")
    assert [(event.data["rank"], event.data["is_baseline"]) for event in validated] == [
        (0, False),
        (1, False),
        (2, False),
        (3, True),
    ]
    assert text in validated[0].data["content"]
    [baseline] = run.events("gepa.baseline")
    assert baseline.data["prompt"]["sections"][0]["content"] == base
    proposed = run.events("transformation.proposed")
    assert [event.data["transformation_text"] for event in proposed] == [
        c.template.sections[0].content for c in run.candidates[1:]
    ]


def test_the_baseline_prompt_is_gathered_from_the_task_apps_messages() -> None:
    run = pure(job(prompt=None), QualityWorld(score=lambda quality, seed, draw: quality, reflect=stepping(0.1)))
    result = run.run()
    assert [section.content for section in result.baseline.template.sections] == [text_of(0.2), "{input}"]
    assert [ask.phase for ask in run.rollouts[:3]] == [Phase.BOOTSTRAP] * 3
    assert best_quality(result) > 0.2
    [found] = run.events("baseline.messages")
    assert found.data["messages"][0]["content"] == text_of(0.2)


def test_finalists_are_ranked_by_validation_and_the_front_does_not_decide() -> None:
    """The best of the front is the worst on validation."""

    def score(quality: float, seed: int, draw: int) -> float:
        return quality if seed < 100 else 1 - quality

    run = pure(job(), QualityWorld(score=score, reflect=stepping(0.1)))
    result = run.run()
    assert result.best == result.baseline
    assert [round(finalist.accuracy, 3) for finalist in result.finalists] == sorted(
        (round(finalist.accuracy, 3) for finalist in result.finalists), reverse=True
    )
    assert (result.best_score, result.baseline_score) == (pytest.approx(0.8), pytest.approx(0.8))
    assert result.archive[0].candidate != result.baseline


def test_a_front_of_validation_seeds_is_not_validated_again() -> None:
    config = job(archive__pareto_source="validation", archive__pareto_set_size=4)
    run = pure(config, QualityWorld(score=lambda quality, seed, draw: quality, reflect=stepping(0.1)))
    result = run.run()
    assert len(config.gepa.front_seeds) == 4 < len(VALIDATION)
    assert {ask.seed for ask in run.rollouts} == {*TRAIN, *config.gepa.front_seeds, *TEST}
    assert {trial.phase for trial in run.trials} == {Phase.OPTIMIZATION, Phase.TEST}
    assert (result.finalists, result.train) == ([], None)
    assert result.validation is not None
    assert (result.validation.seeds, result.best_score) == (4, pytest.approx(best_quality(result)))


def test_the_test_is_carried_out_whatever_is_left_of_the_budget() -> None:
    config = job(evaluation__test_pool=list(range(200, 260)))
    config = config.model_copy(update={"gepa": config.gepa.model_copy(update={"rollout_budget": least_budget(config)})})
    result = pure(config, QualityWorld(score=lambda quality, seed, draw: quality, reflect=stepping(0.1))).run()
    assert result.test is not None
    assert (result.test.seeds, len(result.test.best), len(result.test.baseline)) == (60, 60, 60)
