"""Searches that begin with prompts of another job: what is measured, what joins, and what it costs."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes import gepa_runs, mipro_runs
from tests.fakes.gepa_choices import LinesWorld, good, goodness, small_job
from tests.fakes.gepa_choices import ran as gepa_ran
from tests.fakes.gepa_runs import MODES, QualityWorld, best_quality, check_facts, noisy, quality_of, stepping, text_of
from tests.fakes.mipro_runs import check_run, mipro_job, two_stages
from tests.fakes.mipro_world import START
from tests.fakes.warm_prompts import warm_prompt, warmed

from promptjobs.core.demonstrations import MARK
from promptjobs.core.estimate import estimate
from promptjobs.core.limits import check_budget
from promptjobs.core.trial import Phase
from promptjobs.errors import BudgetTooSmall

TEXTS = st.lists(st.sampled_from([0.1, 0.2, 0.3, 0.5, 0.9]).map(text_of), max_size=4)


def gepa_of(mode: str, *texts: str, **changes: Any) -> Any:
    return warmed(gepa_runs.job(acceptance=mode, **changes), [warm_prompt(text) for text in texts])


def taken(run: Any) -> list[Any]:
    return [candidate for candidate in run.candidates if candidate.operator == "warm_start"]


# --- GEPA ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("order", [(0.5, 0.7, 0.3), (0.3, 0.5, 0.7)])
def test_a_search_goes_on_from_the_best_prompt_it_begins_with(mode: str, order: tuple[float, ...]) -> None:
    config = gepa_of(mode, *map(text_of, order))
    run = gepa_runs.pure(config, QualityWorld(reflect=stepping(0.0)))
    result = run.run()
    assert best_quality(result) == 0.7
    base = result.baseline
    assert base is not None
    assert [(each.parents, each.generation) for each in taken(run)] == [((base.candidate_id,), 1)] * 3
    first = run.completions[0].messages[0].content
    assert quality_of(first) > 0.2, "the first proposal is made of the baseline"


@pytest.mark.parametrize("mode", MODES)
def test_a_prompt_is_told_with_its_origin(mode: str) -> None:
    prompts = [warm_prompt(text_of(0.5), candidate_id="c_9"), warm_prompt(text_of(0.4))]
    run = gepa_runs.pure(warmed(gepa_runs.job(acceptance=mode), prompts))
    run.run()
    told = [event.data for event in run.events("transformation.proposed") if event.data["operator"] == "warm_start"]
    assert [data["origin"] for data in told] == [
        {"job_id": "pl_1", "candidate_id": "c_9"},
        {"job_id": None, "candidate_id": None},
    ]
    assert not [e for e in run.events("transformation.proposed") if "origin" in e.data and e.data not in told]


def test_a_race_gives_up_early_on_who_is_clearly_behind_but_not_on_the_first() -> None:
    run = gepa_runs.pure(gepa_of("race", text_of(0.05), text_of(0.05, "x"), text_of(0.9)))
    run.run()
    first, second, third = ({a.seed for a in run.rollouts if a.candidate_id == c.candidate_id} for c in taken(run))
    assert len(second) < len(first)
    assert len(first) <= len(third)
    scored = [event.data for event in run.events("proposal.scored") if event.data["mutation_type"] == "warm_start"]
    assert {data["candidate_id"]: data["accepted"] for data in scored} == {
        candidate.candidate_id: candidate is taken(run)[2] for candidate in taken(run)
    }


def test_prompts_that_are_good_at_different_things_all_join() -> None:
    def score(text: str, seed: int) -> float:
        return (
            0.9 if ("even" in text) == (seed % 2 == 0) and text != "" and text.split()[-1] in ("even", "odd") else 0.3
        )

    config = warmed(small_job(rollout__budget=120), [warm_prompt("Mind the even"), warm_prompt("Mind the odd")])
    run = gepa_ran(config, LinesWorld(score))
    assert {"Mind the even", "Mind the odd"} <= run.archived
    assert {"Mind the even", "Mind the odd"} <= run.front


def test_what_is_the_baseline_or_known_is_not_measured_again() -> None:
    same, twice = warm_prompt(text_of(0.2)), warm_prompt(text_of(0.6))
    run = gepa_runs.pure(warmed(gepa_runs.job(), [same, twice, twice]))
    run.run()
    assert [candidate.template.sections[0].content for candidate in taken(run)] == [text_of(0.6)]


def test_examples_that_were_messages_are_text_in_a_gepa_job() -> None:
    prompt = warm_prompt(text_of(0.4), ("Query: a", "one"), ("Query: b", "two"))
    run = gepa_runs.pure(warmed(gepa_runs.job(), [prompt]))
    run.run()
    [candidate] = taken(run)
    shown = "Input: Query: a\nOutput: one\n\nInput: Query: b\nOutput: two"
    assert candidate.template.sections[0].content == f"{text_of(0.4)}{MARK}{shown}"
    assert len(candidate.template.sections) == 2


def test_prompts_that_do_not_fit_the_task_apps_own_messages_are_told_and_left_out() -> None:
    fits = warm_prompt(text_of(0.7), user="input {input_1}")
    config = warmed(gepa_runs.job(prompt=None), [warm_prompt(text_of(0.6), candidate_id="c_1"), fits])
    run = gepa_runs.pure(config)
    result = run.run()
    base = result.baseline
    assert base is not None
    [refusal] = [e for e in run.events("warm_start.refused") if e.data["origin"]["candidate_id"] == "c_1"]
    assert refusal.level == "warning"
    assert "placeholders {query}" not in refusal.data["reason"]
    assert "placeholders none" in refusal.data["reason"]


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_the_budget_holds_with_any_prompts_to_begin_with(mode: str, data: st.DataObject) -> None:
    cold = data.draw(gepa_runs.jobs(mode))
    config = warmed(cold, [warm_prompt(text) for text in data.draw(TEXTS)])
    budget = gepa_runs.least_budget(config) + data.draw(st.sampled_from([0, 1, 30]))
    config = config.model_copy(update={"gepa": config.gepa.model_copy(update={"rollout_budget": budget})})
    run = gepa_runs.pure(config, QualityWorld(noisy(0.1)), arrival_seed=data.draw(st.integers(0, 3)))
    result = run.run()
    check_facts(run, config)
    assert result.best is not None


def test_the_least_budget_and_the_estimate_count_the_prompts() -> None:
    cold, warm = gepa_runs.job(), gepa_of("race", text_of(0.3), text_of(0.4))
    assert gepa_runs.least_budget(warm) == gepa_runs.least_budget(cold) + 2 * 8
    with pytest.raises(BudgetTooSmall) as refused:
        check_budget(gepa_of("race", text_of(0.3), rollout__budget=20))
    assert refused.value.parts["warm start"] == 8
    assert estimate(warm).rollouts_at_most == estimate(cold).rollouts_at_most
    assert estimate(warm).proposals_expected <= estimate(cold).proposals_expected


# --- MIPRO -----------------------------------------------------------------------------------------------------------


def test_texts_and_examples_become_options_and_are_measured_before_anything_is_proposed() -> None:
    prompt = warm_prompt("Answer well. good good", ("Query: x", "one"), ("Query: y", "two"), candidate_id="c_3")
    run = mipro_runs.ran(warmed(mipro_job(), [prompt]))
    [candidate] = taken(run.pure)
    assert candidate.parents == (run.base,)
    assert run.world.prompt(candidate.candidate_id).shown == 2
    [started] = [event.data for event in run.pure.events("trial.started") if "origin" in event.data]
    assert (started["origin"], started["trial"]) == ({"job_id": "pl_1", "candidate_id": "c_3"}, 1)
    calls = [ask.key for ask in run.pure.calls]
    measured = [ask.key for ask in run.pure.rollouts if ask.candidate_id == candidate.candidate_id]
    assert calls.index(measured[0]) < calls.index(run.proposals[0].key)
    [stage] = run.pure.optimizer.space.stages
    assert stage.bank[0].text == "Answer well. good good"
    check_run(run)


def test_a_program_begins_with_the_texts_of_its_stages() -> None:
    found = two_stages()
    base = found.template()
    assert base is not None
    sections = [
        {"role": s.role, "content": f"{s.content} good" if s.role == "system" else s.content, "module": s.module}
        for s in base.sections
    ]
    prompt = warm_prompt("").model_copy(
        update={"prompt": warm_prompt("").prompt.model_validate({"sections": sections})}
    )
    run = mipro_runs.ran(warmed(found, [prompt]))
    [candidate] = taken(run.pure)
    assert [s.content.endswith(" good") for s in candidate.template.sections] == [True, False, True, False]
    check_run(run)


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_the_budget_of_a_mipro_job_holds_with_any_prompts_to_begin_with(data: st.DataObject) -> None:
    cold = data.draw(mipro_runs.jobs())
    texts = data.draw(st.lists(st.sampled_from([START, f"{START} good", "Be good. good good"]), max_size=3))
    config = warmed(cold, [warm_prompt(text, ("Query: x", "one")) for text in texts])
    budget = mipro_runs.least_budget(config) + data.draw(st.sampled_from([0, 7, 40]))
    config = config.model_copy(update={"mipro": config.mipro.model_copy(update={"rollout_budget": budget})})
    run = mipro_runs.ran(config, arrival_seed=data.draw(st.integers(0, 3)))
    check_run(run)


def test_the_prompts_are_trials_on_the_first_minibatch() -> None:
    texts = [f"{START} good {n}" for n in range(3)]
    run = mipro_runs.ran(warmed(mipro_job(), [warm_prompt(text) for text in texts]))
    first = run.pure.trials[1]
    assert (first.candidate_id, first.phase) == (run.base, Phase.OPTIMIZATION)
    for candidate in taken(run.pure):
        assert run.seeds_of(candidate.candidate_id) & set(first.seeds)
    assert len(taken(run.pure)) == 3
    assert [each["trial"] for each in run.trials[:3]] == [1, 2, 3]


def test_a_gepa_search_in_a_world_of_lines_begins_where_another_one_has_ended() -> None:
    def score(text: str, seed: int) -> float:
        return min(1.0, 0.1 + 0.1 * goodness(text))

    cold = gepa_ran(small_job(rollout__budget=150), LinesWorld(score, good))
    best = cold.best
    warm = gepa_ran(warmed(small_job(rollout__budget=150), [warm_prompt(best)]), LinesWorld(score, good))
    assert goodness(warm.parents[0]) >= goodness(best)
    assert goodness(warm.best) > goodness(best)
