"""What a MIPRO job tells: the events that clients of the API read, and the fields of its result."""

from functools import cache
from typing import Any

import pytest
from tests.fakes.mipro_runs import JUDGE, REFERENCE, TEST, VALIDATION, Ran, check_run, mipro_job, ran, two_stages
from tests.fakes.mipro_world import MiproWorld

from promptjobs.core.asks import EventFact
from promptjobs.core.result import snapshot_payload


@cache
def usual() -> Ran:
    run = ran(
        mipro_job(num_iterations=6, rollout_budget=900, full_eval_every=2, seeds__reference=REFERENCE, max_spend_usd=9)
    )
    check_run(run)
    return run


READ = {
    "mipro.job.started": {"num_iterations", "num_trials_per_iteration"},
    "prompt.learning.mipro.start": {"rollout_budget"},
    "mipro.bootstrap.progress": set(),
    "prompt.learning.mipro.baseline": {"accuracy", "objectives", "baseline_score", "instance_scores", "prompt"},
    "mipro.iteration.start": {
        *("iteration", "num_iterations", "num_trials_per_iteration", "batch_size", "max_trials", "max_rollouts"),
        "max_wall_clock_seconds",
    },
    "mipro.instruction.proposed": {
        *("iteration", "stage_id", "module_id", "instruction_id", "instruction_text", "instruction_lines"),
        *("demo_indices", "proposal_id"),
    },
    "mipro.trial.started": {"iteration", "trial"},
    "mipro.trial.minibatch": {"iteration", "trial", "minibatch_score", "num_seeds", "num_instances"},
    "mipro.trial.complete": {"iteration", "trial", "minibatch_score", "num_seeds", "num_instances"},
    "mipro.trial.duplicate": {"iteration", "trial"},
    "mipro.fulleval.complete": {"iteration", "trial", "score", "seeds", "num_seeds"},
    "mipro.new_incumbent": {"iteration", "trial", "minibatch_score", "best_score", "num_seeds", "cumulative_trials"},
    "mipro.iteration.complete": {"iteration", "cumulative"},
    "mipro.budget.update": {"total_tokens", "policy_tokens", "total_cost_usd", "max_token_limit", "max_spend_usd"},
    "mipro.tpe.selected": set(),
    "mipro.tpe.update": set(),
    "mipro.tpe.rankings": set(),
    "mipro.baseline.test": {"test_score"},
    "mipro.topk.evaluated": {
        *("rank", "train_score", "test_score", "lift_absolute", "lift_percent", "instruction_text"),
        *("instruction_lines", "instruction_indices", "demo_indices", "stage_payloads", "test_per_seed"),
        "test_seed_scores",
    },
    "mipro.job.completed": {"best_score", "best_full_score", "best_minibatch_score"},
    "prompt.learning.trial.results": {"mean", "completed", "total"},
    "prompt.learning.proposal.scored": {
        *("version_id", "candidate_id", "score", "accuracy", "objectives", "accepted", "generation", "parent_id"),
        *("is_pareto", "mutation_type", "instance_scores", "seed_scores"),
    },
    "prompt.learning.progress": {
        *("rollouts_completed", "rollouts_total", "rollouts_remaining", "percent_rollouts", "percent_overall"),
        *("trials_completed", "transformations_tried", "transformations_planned", "best_score", "baseline_score"),
        "phase",
    },
    "prompt.learning.phase.changed": {"from_phase", "to_phase"},
    "prompt.learning.validation.scored": {"rank", "accuracy", "objectives", "is_baseline", "instance_scores"},
    "prompt.learning.validation.summary": {"baseline", "results"},
    "prompt.learning.best.prompt": {"best_score", "best_prompt"},
    "prompt.learning.top.prompt.content": {"rank", "train_accuracy", "val_accuracy", "template", "full_text"},
    "prompt.learning.final.results": {
        *("attempted_candidates", "optimized_candidates", "best_prompt", "best_score", "validation", "version_tree"),
    },
    "prompt.learning.mipro.termination.triggered": {"reason"},
}


@pytest.mark.parametrize("kind", READ)
def test_every_event_that_clients_read_is_told_with_its_fields(kind: str):
    found = [event for event in usual().pure.events() if event.type == kind]
    assert found
    for event in found:
        assert event.message.strip()
        assert READ[kind] <= set(event.data)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("mipro.optimization.exhausted", {"max_demo_set_size": 0, "generate_at_iterations": [0]}),
        ("mipro.iteration.skip_generation", {"generate_at_iterations": [0]}),
    ],
)
def test_what_happens_now_and_then_is_told_where_it_does(kind: str, changes: dict[str, Any]):
    config = mipro_job(**changes, instructions_per_batch=1, max_instruction_slots=1)
    assert ran(config).pure.events(kind)
    assert not usual().pure.events(kind)


def of(run: Ran, kind: str) -> list[EventFact]:
    return run.pure.events(kind)


def test_trials_are_told_in_order_each_with_a_beginning_and_an_end():
    run = usual()
    for kind in ("mipro.tpe.selected", "mipro.trial.started"):
        assert [event.data["trial"] for event in of(run, kind)] == list(range(1, len(run.trials) + 1))
    for kind in ("mipro.trial.minibatch", "mipro.trial.complete"):
        assert sorted(event.data["trial"] for event in of(run, kind)) == list(range(1, len(run.trials) + 1))
    for event in of(run, "mipro.trial.complete"):
        scores = [ask for ask in run.pure.rollouts if ask.candidate_id == event.data["candidate_id"]]
        told = [run.pure.answers[ask.key][0].score for ask in scores][: event.data["num_instances"]]
        assert event.data["minibatch_score"] == pytest.approx(sum(told) / len(told))


def test_a_new_incumbent_is_told_with_its_own_figures():
    run = usual()
    own = {each["candidate_id"]: each for each in run.trials}
    told = of(run, "mipro.new_incumbent")
    assert told
    assert run.base not in {event.data["candidate_id"] for event in told}
    for event in told:
        name = event.data["candidate_id"]
        assert event.data["minibatch_score"] == own[name]["minibatch_score"]
        assert event.data["num_seeds"] == own[name]["num_seeds"]
        assert 0 <= event.data["best_score"] <= 1


def test_cumulative_trials_are_counted_over_the_iterations():
    told = [event.data for event in of(usual(), "mipro.iteration.complete")]
    assert [data["iteration"] for data in told] == list(range(6))
    assert [data["cumulative"] for data in told] == [4 * n for n in range(1, 7)]


def test_the_test_is_told_with_the_lift_over_the_baseline():
    run = usual()
    [base], [best] = of(run, "mipro.baseline.test"), of(run, "mipro.topk.evaluated")
    test = run.result.test
    assert test is not None
    assert base.data["test_score"] == pytest.approx(sum(test.baseline.values()) / len(TEST))
    assert best.data["test_score"] == pytest.approx(sum(test.best.values()) / len(TEST))
    assert best.data["lift_absolute"] == pytest.approx(best.data["test_score"] - base.data["test_score"])
    assert [each["seed"] for each in best.data["test_seed_scores"]] == TEST
    assert best.data["train_score"] == run.result.best_score


def test_the_result_has_what_the_description_of_the_api_names():
    run = usual()
    extra = run.result.extra
    best, trials = run.result.best, run.trials
    assert best is not None
    candidate = extra["best_candidate"]
    assert candidate["version_id"] == best.candidate_id
    own = next(each for each in trials if each["candidate_id"] == best.candidate_id)
    assert candidate["trial_num"] == own["trial"]
    assert candidate["iteration"] == own["iteration"]
    assert candidate["minibatch_score"] == own["minibatch_score"]
    assert candidate["full_score"] == extra["best_full_score"] == pytest.approx(run.result.best_score)
    assert candidate["stage_payloads"] == own["stage_payloads"]
    banked = {entry["instruction_id"]: entry["text"] for entry in extra["instruction_bank"]}
    assert candidate["instruction_lines"] == [banked[i] for i in candidate["instruction_indices"]]
    assert extra["best_minibatch_score"] == max(each["minibatch_score"] for each in trials)
    assert extra["total_trials"] == len(trials)
    assert extra["final_balance_usd"] is extra["balance_type"] is None
    assert set(extra["category_costs"]) == {"policy", "proposal", "judge"}
    assert [entry["trial"] for entry in sorted(extra["history"], key=lambda e: e["trial"])] == list(
        range(1, len(trials) + 1)
    )
    observed = extra["optimizer_state"]["observations"]
    assert len(observed) == 1 + len({entry["candidate_id"] for entry in extra["history"]})


def test_the_snapshot_lists_attempted_and_optimized_candidates():
    run = usual()
    payload: dict[str, Any] = snapshot_payload(run.result, {})
    attempted = {entry["candidate_id"]: entry for entry in payload["attempted_candidates"]}
    assert set(attempted) == {each["candidate_id"] for each in run.trials}
    assert all(0 <= entry["accuracy"] <= 1 for entry in attempted.values())
    ranks = [entry["rank"] for entry in payload["optimized_candidates"]]
    assert ranks == list(range(1, len(ranks) + 1))
    scores = [entry["score"]["accuracy"] for entry in payload["optimized_candidates"]]
    assert scores == sorted(scores, reverse=True)
    assert payload["best_candidate_id"] == run.result.best.candidate_id  # type: ignore[union-attr]
    assert payload["finish_reason"] == "num_iterations"
    assert len(payload["validation"]) == len(run.result.finalists)
    assert {run.base, payload["best_candidate_id"]} <= set(run.result.lineage)


def test_finalists_are_told_by_rank():
    run = usual()
    ranked = [event.data for event in of(run, "validation.scored")]
    assert [data["rank"] for data in ranked] == list(range(len(ranked)))
    assert ranked[0]["accuracy"] == pytest.approx(run.result.best_score)
    assert all(set(data["seeds"]) == set(VALIDATION) for data in ranked)
    assert sum(data["is_baseline"] for data in ranked) == 1


def test_a_program_is_told_stage_by_stage():
    run = ran(two_stages(**JUDGE), MiproWorld(judge=lambda document: 0.6))
    started = of(run, "mipro.job.started")[0].data
    assert [stage["stage_id"] for stage in started["stages"]] == ["plan", "solve"]
    assert started["edges"] == [["plan", "solve"]]
    for event in of(run, "mipro.trial.started"):
        assert set(event.data["stage_payloads"]) == {"plan", "solve"}
        assert all(part["module_id"] == "program" for part in event.data["stage_payloads"].values())
    assert {event.data["stage_id"] for event in of(run, "mipro.instruction.proposed")} == {"plan", "solve"}
    modules = snapshot_payload(run.result, {})["modules"]
    assert [module["module_id"] for module in modules] == ["plan", "solve"]
