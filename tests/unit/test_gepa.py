"""GEPA in worlds of known answers: what it may spend and ask, what it decides, what it tells."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes.gepa_runs import (
    ERROR,
    MODES,
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
    Completion,
    CompletionBody,
    Fact,
    FailureReason,
)
from promptjobs.core.config import GepaJobConfig
from promptjobs.core.limits import end_rollouts, iteration_rollouts
from promptjobs.core.result import OptimizationResult
from promptjobs.core.trial import Phase

LAW = settings(deadline=None, derandomize=True, max_examples=80)
BOTH = pytest.mark.parametrize("acceptance", MODES)


# --- any job, any order of answers -----------------------------------------------------------------------------------


@BOTH
@LAW
@given(st.data(), st.integers(0, 2**32), st.sampled_from([0.0, 0.2]), st.sampled_from([0.0, 0.03]))
def test_every_run_keeps_to_its_budget_and_tells_the_truth(
    acceptance: str, data: st.DataObject, arrival: int, failing: float, worked: float
) -> None:
    config = data.draw(jobs(acceptance))
    run = pure(config, QualityWorld(score=noisy(failing), worked=worked), arrival)
    result = run.run()
    check_facts(run, config)
    check_held_out(run, config, result)
    check_verdicts(run, result)


def check_verdicts(run: Pure, result: OptimizationResult) -> None:
    """Nobody is judged twice, and the archive is the baseline with those who were accepted."""
    told = run.events("proposal.scored")
    assert set(Counter(event.data["candidate_id"] for event in told).values()) <= {1}
    accepted = {event.data["candidate_id"] for event in told if event.data["accepted"]}
    assert result.baseline is not None
    assert {member.candidate.candidate_id for member in result.archive} == {*accepted, result.baseline.candidate_id}
    assert {a.candidate.candidate_id for a in result.attempts if a.accepted} == accepted


def check_held_out(run: Pure, config: GepaJobConfig, result: OptimizationResult) -> None:
    """Held-out seeds are opened after the search, validation before test, each for those who may see them."""
    gepa, best, base = config.gepa, result.best, result.baseline
    assert best is not None
    assert base is not None
    phases = [ask.phase for ask in run.rollouts]
    assert phases == sorted(phases, key=list(Phase).index)
    validated = {ask.candidate_id for ask in run.rollouts if ask.phase is Phase.VALIDATION}
    if gepa.pareto_source == "train":
        top = [member.candidate.candidate_id for member in result.archive[: gepa.validation_top_k]]
        # In the race, as many as can be paid: the winner and the baseline always.
        least = {*top, base.candidate_id} if gepa.acceptance == "full" else {top[0], base.candidate_id}
        assert least <= validated <= {*top, base.candidate_id}
        assert all((ask.seed in gepa.validation_seeds) == (ask.phase is Phase.VALIDATION) for ask in run.rollouts)
    else:
        assert validated == set()
    tested = Counter((ask.candidate_id, ask.seed) for ask in run.rollouts if ask.phase is Phase.TEST and not ask.draw)
    expected = {(c.candidate_id, seed) for c in (base, best) for seed in gepa.test_seeds}
    assert tested == Counter(expected)
    assert all((ask.seed in gepa.test_seeds) == (ask.phase is Phase.TEST) for ask in run.rollouts)


@BOTH
@settings(LAW, max_examples=30)
@given(st.data(), st.integers(0, 2**32))
def test_in_fixed_order_the_same_answers_give_the_same_facts(
    acceptance: str, data: st.DataObject, arrival: int
) -> None:
    config = data.draw(jobs(acceptance))
    fixed = config.model_copy(update={"gepa": config.gepa.model_copy(update={"turn_order": "fixed"})})
    one, other = (pure(fixed, QualityWorld(score=noisy(0.1), worked=0.03), seed) for seed in (arrival, arrival + 1))
    assert one.run() == other.run()
    assert one.turns == other.turns
    assert one.chain == other.chain


@settings(LAW, max_examples=30)
@given(st.data(), st.integers(0, 2**32))
def test_with_one_lane_the_order_of_turns_is_no_choice(data: st.DataObject, arrival: int) -> None:
    config = data.draw(jobs("full"))
    alone = [
        config.model_copy(update={"gepa": config.gepa.model_copy(update={"turn_order": order, "lanes": 1})})
        for order in ("arrival", "fixed")
    ]
    one, other = (pure(each, QualityWorld(score=noisy(0.1)), arrival) for each in alone)
    assert one.run() == other.run()
    assert searched(one) == searched(other)


@settings(LAW, max_examples=30)
@given(st.data(), st.integers(0, 2**32))
def test_with_one_lane_a_race_decides_the_same_at_any_arrival(data: st.DataObject, arrival: int) -> None:
    """Drafts and the two sides of a duel are asked at the same time: in which order trials are told is left open."""
    config = data.draw(jobs("race"))
    alone = config.model_copy(update={"gepa": config.gepa.model_copy(update={"turn_order": "arrival", "lanes": 1})})
    one, other = (pure(alone, QualityWorld(score=noisy()), seed) for seed in (arrival, arrival + 1))
    first, second = one.run(), other.run()
    assert (first.best, first.archive, first.finalists) == (second.best, second.archive, second.finalists)
    assert one.candidates == other.candidates
    assert Counter(one.calls) == Counter(other.calls)
    assert Counter((t.candidate_id, t.seeds, t.scores) for t in one.trials) == Counter(
        (t.candidate_id, t.seeds, t.scores) for t in other.trials
    )


def searched(run: Pure) -> list[Fact]:
    """The facts of the search alone, without its first event, which names the order."""
    return run.facts[1 : run.facts.index(run.events("termination.triggered")[0])]


@BOTH
@pytest.mark.parametrize("lanes", [1, 2, 8])
@pytest.mark.parametrize("budget", [100, 200, 400])
def test_the_search_goes_on_until_no_iteration_fits(acceptance: str, lanes: int, budget: int) -> None:
    """A lane that cannot reserve its worst case does not stop the others, which give back what they do not need."""
    config = job(acceptance=acceptance, lanes=lanes, rollout__budget=budget, population__num_generations=1000)
    run = pure(config, QualityWorld(score=noisy()))
    result = run.run()
    assert result.finish_reason == "rollout_budget"
    searched = sum(ask.phase is Phase.OPTIMIZATION for ask in run.rollouts)
    assert budget - end_rollouts(config.gepa) - searched < iteration_rollouts(config.gepa)


# --- what is decided -------------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("lanes", [1, 4])
def test_a_child_that_is_better_on_every_seed_wins(acceptance: str, lanes: int) -> None:
    config = job(acceptance=acceptance, lanes=lanes)
    run = pure(config, QualityWorld(score=lambda quality, seed, draw: quality, reflect=stepping(0.1)))
    result = run.run()
    assert best_quality(result) == max(quality_of(c.template.sections[0].content) for c in run.candidates) > 0.4
    assert result.best_score == pytest.approx(best_quality(result))
    assert result.baseline_score == pytest.approx(0.2)
    news = [event.data["best_score"] for event in run.events("new_best")]
    assert news == sorted(set(news))
    # The race takes a part of each difference for luck.
    assert news[-1] == pytest.approx(best_quality(result)) if acceptance == "full" else news[-1] < best_quality(result)


@BOTH
def test_failures_do_not_pull_a_mean_down(acceptance: str) -> None:
    """With half of the tries failing and every score 0.6, every mean is 0.6, and nobody is better."""

    def held_out(quality: float, seed: int, draw: int) -> float | FailureReason:
        return ERROR if fraction("held out", quality, seed, draw) < 0.5 and seed not in range(20) else 0.6

    def children(quality: float, seed: int, draw: int) -> float | FailureReason:
        return ERROR if fraction("children", quality, seed, draw) < 0.5 and quality != 0.2 else 0.6

    for failing in (held_out, children):
        config = job(acceptance=acceptance, lanes=4, rollout__budget=400)
        run = pure(config, QualityWorld(score=failing, reflect=stepping(0.01)))
        result = run.run()
        assert any(None in trial.scores for trial in run.trials)
        assert {round(trial.score, 9) for trial in run.trials if trial.score is not None} == {0.6}
        assert not any(event.data["accepted"] for event in run.events("proposal.scored"))
        assert (result.best_score, result.baseline_score) == (pytest.approx(0.6), pytest.approx(0.6))


@BOTH
def test_seeds_on_which_the_baseline_failed_are_left_out_of_the_front(acceptance: str) -> None:
    config = job(acceptance=acceptance)
    broken = config.gepa.front_seeds[3]
    world = QualityWorld(score=lambda quality, seed, draw: ERROR if seed == broken else quality, reflect=stepping(0.1))
    run = pure(config, world)
    result = run.run()
    assert broken not in run.optimizer.archive.seeds
    assert len(run.optimizer.archive.seeds) == 7
    assert best_quality(result) > 0.2
    assert result.train is not None
    assert result.train.seeds == 7


@BOTH
def test_a_proposal_that_is_known_is_not_evaluated_again(acceptance: str) -> None:
    world = QualityWorld(
        score=lambda quality, seed, draw: quality,
        reflect=lambda quality, completion: CompletionBody(fenced(text_of(0.1, "always")), "stop"),
    )
    run = pure(job(acceptance=acceptance, lanes=2, population__num_generations=4), world)
    run.run()
    refused = [event.data["reason"] for event in run.events("proposal.refused")]
    assert set(refused) == {"duplicate"}
    assert len(refused) == len(run.completions) - 1
    assert len(run.candidates) == 2
    assert len({completion.key for completion in run.completions}) == len(run.completions) == 20


REFUSALS = {
    "truncated": CompletionBody(fenced("a new text"), "length"),
    "no_text": CompletionBody("I would rather not.", "stop"),
    "several_texts": CompletionBody(f"{fenced('one')}\n{fenced('two')}", "stop"),
    "empty": CompletionBody(fenced("  "), "stop"),
    "reasoning": CompletionBody(fenced("<think>Hm.</think> a new text"), "stop"),
    "unchanged": CompletionBody(fenced(text_of(0.2)), "stop"),
    "too_long": CompletionBody(fenced("word " * 1000), "stop"),
    # Rendered, the user's text would stand in the system message.
    "placeholders": CompletionBody(fenced("Answer {query}, {kindly}."), "stop"),
}


@BOTH
@pytest.mark.parametrize("reason", list(REFUSALS))
def test_each_refusal_is_told_with_its_reason_and_makes_no_candidate(acceptance: str, reason: str) -> None:
    config = job(acceptance=acceptance, population__num_generations=1, proposed_prompt_max_tokens=1000)
    run = pure(config, QualityWorld(score=noisy(), reflect=lambda quality, completion: REFUSALS[reason]))
    run.run()
    refused = run.events("proposal.refused")
    assert {(event.data["reason"], event.level) for event in refused} == {(reason, "warning")}
    assert len(refused) == len(run.completions) == 5
    assert refused[0].data["parent_id"] == run.optimizer.base.candidate_id
    assert len(run.candidates) == 1


GUARDS = {
    "too_long": {"guards__max_tokens": 40},
    "grew": {"guards__max_growth": 1.5},
    "frozen": {"guards__frozen": ["Answer with care"]},
    "matched": {"guards__must_not_match": ["pink (elephant|mouse)"]},
    "not_matched": {"guards__must_match": ["^Answer"]},
    "leak": {"guards__leak_ngram": 2},
}


@BOTH
@pytest.mark.parametrize("reason", list(GUARDS))
def test_guards_refuse_and_tell(acceptance: str, reason: str) -> None:
    """The text is refused by the guard that is asked for, and taken without it."""
    text = "A pink elephant answers each input 1 and input 2 and input 3 at length, " * 3 + "quality 0.900."

    def reflect(quality: float, completion: Completion) -> CompletionBody:
        return CompletionBody(fenced(f"{text} {completion.key.hex()[:4]}"), "stop")

    changes = {"acceptance": acceptance, "population__initial_size": 1, "population__num_generations": 1}
    without = {"guards__leak_ngram": 0}
    free, guarded = (
        pure(job(**{**changes, **without, **guards}), QualityWorld(reflect=reflect)) for guards in ({}, GUARDS[reason])
    )
    free.run()
    guarded.run()
    assert free.events("proposal.refused") == []
    refused = [event.data["reason"] for event in guarded.events("proposal.refused")]
    assert set(refused) == {reason}
    assert len(refused) == len(guarded.completions)
    assert len(guarded.candidates) == 1 < len(free.candidates)


@BOTH
@pytest.mark.parametrize("lanes", [1, 4])
def test_perfect_scores_need_no_reflection(acceptance: str, lanes: int) -> None:
    run = pure(job(acceptance=acceptance, lanes=lanes), QualityWorld(score=lambda quality, seed, draw: 1.0))
    result = run.run()
    assert run.completions == []
    assert (result.best, result.best_score, result.finish_reason) == (result.baseline, 1.0, "nothing_to_learn")


@BOTH
@pytest.mark.parametrize("lanes", [1, 4])
def test_a_meta_model_that_always_says_the_same_ends_the_search(acceptance: str, lanes: int) -> None:
    config = job(acceptance=acceptance, lanes=lanes, rollout__budget=5000, population__num_generations=1000)
    same = CompletionBody(fenced(text_of(0.1, "always")), "stop")
    run = pure(config, QualityWorld(score=noisy(), reflect=lambda quality, completion: same))
    assert run.run().finish_reason == "nothing_to_learn"
    assert len(run.completions) <= 60
    assert run.spent <= 100


# --- what is told ----------------------------------------------------------------------------------------------------


@BOTH
def test_the_events_carry_the_texts_that_clients_read(acceptance: str) -> None:
    config = job(acceptance=acceptance, finals_share=0.4)
    run = pure(config, QualityWorld(score=lambda quality, seed, draw: quality, reflect=stepping(0.1)))
    result = run.run()
    best = result.best.template
    text, base = best.sections[0].content, text_of(0.2)
    [best_prompt] = run.events("best.prompt")
    assert best_prompt.data["best_prompt"] == best.to_json()
    assert best_prompt.data["best_prompt_messages"][0] == {"role": "system", "content": text}
    top = run.events("top.prompt.content")
    assert [event.data["rank"] for event in top] == [1, 2, 3, 4]
    assert top[0].data["template"] == best.to_json()
    assert top[0].data["full_text"] == f"[system | system_0]\n{text}\n\n[user | user_1]\nQuery: {{query}}"
    assert top[0].data["val_accuracy"] == pytest.approx(result.best_score)
    estimate = result.archive[0].score
    assert top[0].data["train_accuracy"] == pytest.approx(estimate)
    assert estimate == pytest.approx(result.best_score) or acceptance == "race"
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


@BOTH
def test_the_baseline_prompt_is_gathered_from_the_task_apps_messages(acceptance: str) -> None:
    config = job(acceptance=acceptance, prompt=None)
    run = pure(config, QualityWorld(score=lambda quality, seed, draw: quality, reflect=stepping(0.1)))
    result = run.run()
    assert [section.content for section in result.baseline.template.sections] == [text_of(0.2), "{input}"]
    assert [ask.phase for ask in run.rollouts[:3]] == [Phase.BOOTSTRAP] * 3
    assert best_quality(result) > 0.2
    [found] = run.events("baseline.messages")
    assert found.data["messages"][0]["content"] == text_of(0.2)


@BOTH
def test_finalists_are_ranked_by_validation_and_the_front_does_not_decide(acceptance: str) -> None:
    """The best of the front is the worst on validation."""

    def score(quality: float, seed: int, draw: int) -> float:
        return quality if seed < 100 else 1 - quality

    run = pure(job(acceptance=acceptance), QualityWorld(score=score, reflect=stepping(0.1)))
    result = run.run()
    assert result.best == result.baseline
    assert [round(finalist.accuracy, 3) for finalist in result.finalists] == sorted(
        (round(finalist.accuracy, 3) for finalist in result.finalists), reverse=True
    )
    assert (result.best_score, result.baseline_score) == (pytest.approx(0.8), pytest.approx(0.8))
    assert result.archive[0].candidate != result.baseline


def test_a_front_of_validation_seeds_is_not_validated_again() -> None:
    config = job(acceptance="full", archive__pareto_source="validation", archive__pareto_set_size=4)
    run = pure(config, QualityWorld(score=lambda quality, seed, draw: quality, reflect=stepping(0.1)))
    result = run.run()
    assert len(config.gepa.front_seeds) == 4 < len(VALIDATION)
    assert {ask.seed for ask in run.rollouts} == {*TRAIN, *config.gepa.front_seeds, *TEST}
    assert {trial.phase for trial in run.trials} == {Phase.OPTIMIZATION, Phase.TEST}
    assert (result.finalists, result.train) == ([], None)
    assert result.validation is not None
    assert (result.validation.seeds, result.best_score) == (4, pytest.approx(best_quality(result)))


@BOTH
def test_the_test_is_carried_out_whatever_is_left_of_the_budget(acceptance: str) -> None:
    config = job(acceptance=acceptance, evaluation__test_pool=list(range(200, 260)))
    config = config.model_copy(update={"gepa": config.gepa.model_copy(update={"rollout_budget": least_budget(config)})})
    result = pure(config, QualityWorld(score=lambda quality, seed, draw: quality, reflect=stepping(0.1))).run()
    assert result.test is not None
    assert (result.test.seeds, len(result.test.best), len(result.test.baseline)) == (60, 60, 60)
