"""What each option of a MIPRO search changes in its run, in worlds made for it."""

import json
import re
from typing import Any

import pytest
from tests.fakes.gepa_runs import fraction
from tests.fakes.mipro_runs import JUDGE, ONLINE, Ran, check_run, mipro_job, pure, ran, two_stages
from tests.fakes.mipro_world import LO, SUMMARY, Asked, MiproWorld, Prompt, fenced, graded, quality, threshold
from tests.fakes.pure import Pure

from promptjobs.core.asks import Rollout, Tier
from promptjobs.core.mipro_plan import parallel_trials
from promptjobs.core.trial import Phase

pytestmark = pytest.mark.slow

# --- side by side ----------------------------------------------------------------------------------------------------

WIDE = {"num_iterations": 2, "num_evaluations_per_iteration": 20, "rollout_budget": 2000, "turn_order": "fixed"}


def watched(**changes: Any) -> tuple[int, int]:
    """Most trials at a time, and when the last one ended by the clock of the lanes."""
    run = pure(mipro_job(**WIDE, **changes, max_demo_set_size=0, instructions_per_batch=4))
    most, ended = 0, 0

    def watch(run: Pure) -> bool:
        nonlocal most, ended
        waiting = [lane for lane in run.lanes.waiting_lanes() if isinstance(lane.waiting[0], Rollout)]
        most = max(most, len(waiting)) if run.optimizer.phase is Phase.OPTIMIZATION else most
        ended = max(ended, *(lane.virtual_time for lane in run.lanes.open.values()), 0)
        return False

    run.run(until=watch)
    return most, ended


def test_the_risk_bounds_the_trials_under_way_and_with_them_the_time():
    found = {risk: watched(parallel_risk=risk) for risk in ("LOW", "MEDIUM", "HIGH")}
    for risk, (most, _) in found.items():
        assert most <= parallel_trials(mipro_job(**WIDE, parallel_risk=risk).mipro)
    assert found["LOW"][0] == 4
    assert found["LOW"][0] < found["MEDIUM"][0] < found["HIGH"][0]
    assert found["LOW"][1] > found["MEDIUM"][1] > found["HIGH"][1]
    assert watched(parallel_risk="HIGH", max_parallel_trials=1)[0] == 1


def test_trials_side_by_side_are_all_different():
    run = ran(mipro_job(**WIDE, parallel_risk="HIGH"))
    check_run(run)
    assert len(run.trials) > 20


# --- which seeds -----------------------------------------------------------------------------------------------------

POOL = {
    "pool_init_size": 24,
    "pool_min_size": 8,
    "anchor_size": 2,
    "warmup_iters": 1,
    "anneal_stop_iter": 6,
    "pool_update_period": 1,
    "min_evals_per_example": 2,
    "heatup_size": 0,
}
HARD = [seed for seed in ONLINE if seed % 4 == 0]


def mostly_easy(prompt: Prompt, seed: int) -> float:
    """Six of the online seeds tell prompts apart; on all others every prompt scores the same."""
    return quality(prompt) * fraction(prompt.text, seed) if seed in HARD else 0.5


def test_an_adaptive_pool_shrinks_to_the_seeds_that_tell_prompts_apart():
    config = mipro_job(adaptive_pool=POOL, num_iterations=10, rollout_budget=1500, batch_size=8)
    run = ran(config, MiproWorld(score=mostly_easy))
    check_run(run)
    changes = [event.data for event in run.pure.events("mipro.adaptive_pool")]
    sizes = [change["size"] for change in changes]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] == 8
    active = set(run.pure.optimizer.pool.active)
    assert len(active & set(HARD)) >= 4
    assert run.pure.events("mipro.iteration.start")[-1].data["seeds"]
    assert set(run.pure.events("mipro.iteration.start")[-1].data["seeds"]) <= active
    assert ran(mipro_job()).pure.events("mipro.adaptive_pool") == []


# --- who scores ------------------------------------------------------------------------------------------------------


def test_a_stand_in_saves_rollouts_of_the_policys_model_and_the_winner_is_measured_on_that():
    def search(**choice: Any) -> Ran:
        changes = {"num_iterations": 8, "rollout_budget": 2000, "max_demo_set_size": 0, "early_stopping": False}
        world = MiproWorld(score=graded, lo=lambda prompt, seed: graded(prompt, seed) / 2)
        return ran(mipro_job(**changes, **choice), world)

    alone, aided = search(), search(**{"proxy_models.lo_model": LO})
    check_run(aided)
    assert len(aided.trials) == len(alone.trials)
    assert aided.asked(Phase.OPTIMIZATION, Tier.LO)
    assert len(aided.asked(Phase.OPTIMIZATION)) < 0.6 * len(alone.asked(Phase.OPTIMIZATION))
    assert any(each["is_foretold"] for each in aided.trials)
    held_out = [ask for ask in aided.pure.rollouts if ask.phase in (Phase.VALIDATION, Phase.TEST)]
    assert {ask.tier for ask in held_out} == {Tier.HI}
    assert aided.result.best_score == pytest.approx(alone.result.best_score, abs=0.1)


def test_with_a_judge_scores_are_the_judges():
    def judge(document: str) -> float:
        return 0.9 if json.loads(document)["output"] == "answer 0" else 0.3

    run = ran(mipro_job(**JUDGE, max_demo_set_size=0), MiproWorld(judge=judge))
    check_run(run)
    for trial in run.pure.trials:
        told = [0.9 if seed % 3 == 0 else 0.3 for seed in trial.seeds]
        assert list(trial.scores) == pytest.approx(told)
    assert all("so it is" in ask.messages[0].content for ask in run.proposals)
    [event] = run.pure.events("bootstrap.progress")
    assert event.data["score"] == pytest.approx((4 * 0.9 + 6 * 0.3) / 10)


# --- proposals -------------------------------------------------------------------------------------------------------


def iterations_of(run: Ran, kind: str) -> set[int]:
    return {event.data["iteration"] for event in run.pure.events(kind)}


def test_instructions_are_proposed_in_the_iterations_that_are_named():
    run = ran(mipro_job(generate_at_iterations=[0, 2]))
    assert iterations_of(run, "mipro.instruction.proposed") == {0, 2}
    assert iterations_of(run, "mipro.iteration.skip_generation") == {1, 3}
    told = {event.data["iteration"]: event.data["generates"] for event in run.pure.events("mipro.iteration.start")}
    assert told == {0: True, 1: False, 2: True, 3: False}
    always = ran(mipro_job())
    assert iterations_of(always, "mipro.instruction.proposed") == {0, 1, 2, 3}


def test_dspy_asks_for_one_summary_of_the_data_before_anything_else():
    run = ran(mipro_job(proposer_mode="dspy"))
    summaries = [ask for ask in run.proposals if ask.messages[0].content.startswith("You describe data.")]
    assert summaries == run.proposals[:1]
    assert all(SUMMARY in ask.messages[0].content for ask in run.proposals[1:])
    assert run.best.good > 1
    assert all(SUMMARY not in ask.messages[0].content for ask in ran(mipro_job()).proposals)


def several(asked: Asked) -> str:
    words = [f"good{int(1e9 * fraction(asked.message, asked.draw, n))}" for n in range(3)]
    return fenced(json.dumps([{"type": "follow", "text": word} for word in words]))


def test_builtin_makes_several_changes_of_one_reply():
    run = ran(mipro_job(proposer_mode="builtin", num_iterations=2), MiproWorld(reply=several))
    assert len(run.proposals) == 2
    assert len(run.pure.events("mipro.instruction.proposed")) == 6
    assert run.best.good > 1
    check_run(run)


@pytest.mark.parametrize("mode", ["synth", "dspy", "builtin"])
def test_proposals_are_shown_what_went_wrong_what_was_tried_and_the_users_words(mode: str):
    config = mipro_job(proposer_mode=mode, metaprompt="Be kind.", spec="Answers are one of three.")
    run = ran(config)
    proposals = [ask.messages[0].content for ask in run.proposals if "Current text" in ask.messages[0].content]
    for message in proposals:
        assert "Be kind." in message
        assert "Answers are one of three." in message
    wrong = [seed for seed in range(10) if threshold(run.world.prompt(run.base), seed) == 0.0]
    feedback = set(map(int, re.findall(r"### Feedback\nseed (\d+)\.", proposals[0])))
    assert feedback
    assert feedback <= set(wrong)
    assert "# Earlier versions" not in proposals[0]
    later = [message for message in proposals if "# Earlier versions, best first" in message]
    assert later
    assert re.search(r"^\* 0\.\d+ in \d+ trials?: .*good\d+", later[-1], re.MULTILINE)


def test_a_stage_learns_from_its_own_calls_and_is_told_the_program():
    run = ran(two_stages())
    for ask in run.proposals:
        message = ask.messages[0].content
        assert "plan → solve" in message
        stage = re.search(r"The text is for the step `(\w+)`", message)
        assert stage
        other = {"plan": "solve", "solve": "plan"}[stage[1]]
        assert re.search(rf"### Output\n{stage[1]} \d", message)
        assert not re.search(rf"### Output\n{other} \d", message)
    assert len(run.proposals) >= 4


def long_question(seed: int) -> str:
    return " ".join(f"word{int(1e6 * fraction(seed, n))}" for n in range(20))


def test_texts_that_repeat_an_example_are_refused():
    def copying(asked: Asked) -> str:
        [copied, *_] = re.findall(r"### Input\nQuery: (.*)", asked.message)
        return fenced(f"{asked.text}\nSuch as {copied}")

    run = ran(mipro_job(max_demo_set_size=1), MiproWorld(reply=copying, question=long_question))
    assert {event.data["reason"] for event in run.pure.events("proposal.refused")} == {"leak"}
    assert run.result.extra["instruction_bank"] == []
    assert all("Such as" not in run.world.prompt(name).text for name in run.world.templates)


# --- the sampler and the bank ----------------------------------------------------------------------------------------


def test_the_samplers_settings_are_the_jobs():
    settings = {"gamma": 0.4, "n_candidates": 7, "n_startup_trials": 3, "epsilon": 0.5, "alpha": 2.0}
    run = ran(mipro_job(tpe=settings))
    told = run.result.extra["optimizer_state"]["settings"]
    assert {name: told[name] for name in settings} == settings


@pytest.mark.parametrize(("sizes", "most"), [({"max_demo_set_size": 2}, 2), ({"max_demo_set_size": 1}, 1)])
def test_sets_of_examples_are_no_larger_than_allowed(sizes: dict[str, int], most: int):
    run = ran(mipro_job(**sizes), MiproWorld(is_known=True))
    assert {len(each) for each in run.result.extra["demo_sets"]["stage_default"]} == set(range(1, most + 1))
    assert max(run.world.prompt(each["candidate_id"]).shown for each in run.trials) == most


def test_there_are_no_more_sets_of_examples_than_allowed():
    run = ran(mipro_job(max_demo_sets=1), MiproWorld(is_known=True))
    assert len(run.result.extra["demo_sets"]["stage_default"]) == 1
    assert run.result.extra["optimizer_state"]["dimensions"]["stage_default.demos_1"] == 2


def test_two_slots_of_examples_show_each_example_once():
    config = mipro_job(max_demo_slots=2, num_iterations=8, rollout_budget=900, max_instruction_slots=0)
    run = ran(config, MiproWorld(is_known=True))
    both = [
        each
        for each in run.result.extra["history"]
        if all(each["choice"].get(f"stage_default.demos_{n}") for n in (1, 2))
    ]
    assert both
    for each in both:
        indices = run.pure.optimizer.space.stages[0].examples(each["choice"])
        assert len(set(indices)) == len(indices)
        assert run.world.prompt(each["candidate_id"]).shown == len(indices)


@pytest.mark.parametrize("top", [1, 4])
def test_so_many_finalists_are_measured_in_full(top: int):
    config = mipro_job(validation_top_k=top, rollout_budget=600, num_iterations=6, full_eval_every=10_000)
    finalists = ran(config).result.finalists
    assert len(finalists) == 1 + top
