"""A GEPA job from its POST to its published prompt, over HTTP, with the demo's task app and models."""

from collections import Counter
from itertools import pairwise

import pytest

from promptjobs.core.trial import Phase
from promptjobs.demo.dataset import BASELINE_SYSTEM, USER_PATTERN, load_dataset
from promptjobs.demo.model_server import POLICY_MODEL
from tests.acceptance.client import Api, Json, config
from tests.acceptance.faulty_app import FaultyApp
from tests.acceptance.finished_job import CLIENT_METADATA, Finished

TERMINAL_TYPES = tuple(f"prompt.learning.gepa.{outcome}" for outcome in ("complete", "failed", "cancelled"))


def filled(messages: list[Json], seed: int) -> list[Json]:
    """What a model is sent for a seed: the exported messages with the ticket put in, by no code of the service."""
    ticket = load_dataset().ticket(seed)
    return [{**message, "content": message["content"].replace("{message}", ticket.message)} for message in messages]


def test_the_job_succeeds_with_a_better_prompt_on_held_out_data(finished: Finished):
    assert finished.created["status"] == "queued"
    assert finished.job["status"] == "succeeded"
    assert finished.job["error"] is None
    assert finished.job["started_at"] < finished.job["finished_at"]
    test = finished.payload["test"]
    assert test["seeds"] == 40
    assert test["best"]["mean"] > test["baseline"]["mean"]
    assert finished.job["best_score"] > finished.stats["baseline_score"]


def test_events_are_numbered_without_a_gap_and_end_with_the_only_terminal_one(finished: Finished):
    assert [event["seq"] for event in finished.events] == list(range(1, len(finished.events) + 1))
    types = [event["type"] for event in finished.events]
    assert types[0] == "prompt.learning.created"
    assert types[-1] == TERMINAL_TYPES[0]
    assert [each for each in types if each in TERMINAL_TYPES] == [types[-1]]
    assert all(event["message"] and event["level"] in ("info", "warning", "error") for event in finished.events)


def test_polling_and_the_stream_give_the_same_events(finished: Finished):
    assert [received.event for received in finished.streamed] == finished.events
    assert finished.polled == finished.events


def test_a_client_that_polls_until_the_status_is_final_has_then_read_the_terminal_event(finished: Finished):
    assert finished.polled[-1]["type"] == TERMINAL_TYPES[0]


def test_the_stream_delivers_while_the_job_runs(finished: Finished):
    *before, _ = zip(finished.arrivals, finished.events, strict=True)
    lags = [arrived - event["timestamp_ms"] / 1000 for arrived, event in before]
    assert max(lags) < 2.0
    assert finished.arrivals[-1] - finished.arrivals[0] > 1.0


def test_the_terminal_event_comes_alone_half_a_second_after_the_others(finished: Finished):
    *_, before, last = [received.arrived for received in finished.streamed]
    assert last - before >= 0.45


def test_scores_in_events_are_in_the_unit_interval_and_progress_never_falls(finished: Finished):
    progress = list(finished.of_type("prompt.learning.progress"))
    assert progress
    for data in progress:
        assert data["rollouts_total"] > 0
        assert 0 <= data["rollouts_completed"] <= data["rollouts_total"]
        assert 0 <= data["percent_overall"] <= 1
        assert data["best_score"] is None or 0 <= data["best_score"] <= 1
    counts = [data["rollouts_completed"] for data in progress]
    assert all(earlier <= later for earlier, later in pairwise(counts))


def test_statistics_equal_the_rows_of_the_tables(finished: Finished):
    rollouts, stats = finished.rows["rollouts"], finished.stats
    by_phase = Counter(row["phase"] for row in rollouts)
    assert stats["total_rollouts"] == len(rollouts)
    for phase in Phase:
        assert stats[f"{phase}_rollouts_executed"] == by_phase[phase]
    assert stats["failed_rollouts"] == sum(row["score"] is None for row in rollouts) == 0
    assert stats["mutation_calls"] == len(finished.rows["completions"])
    trials = Counter(row["phase"] for row in finished.rows["trials"])
    assert stats["total_trials_evaluated"] == trials.total()
    for phase in ("optimization", "validation", "test"):
        assert stats[f"{phase}_trials_evaluated"] == trials[phase]
    assert stats["reused_rollouts"] == sum(row["reused"] for row in finished.rows["trials"])


def test_tokens_and_cost_are_those_of_the_metered_calls(finished: Finished):
    calls, stats = finished.rows["calls"], finished.stats
    assert stats["metered_calls"] == len(calls) == stats["total_rollouts"]
    for kind in ("prompt", "completion", "unknown"):
        assert stats[f"rollouts_{kind}_tokens"] == sum(call[f"{kind}_tokens"] for call in calls)
        mutation = sum(row[f"{kind}_tokens"] for row in finished.rows["completions"])
        assert stats[f"mutation_{kind}_tokens"] == mutation
    assert stats["rollouts_prompt_tokens"] > 0
    assert stats["mutation_completion_tokens"] > 0
    paid = stats["rollouts_prompt_tokens"] * 1e-6 + stats["rollouts_completion_tokens"] * 2e-6
    assert abs(stats["rollouts_cost_usd"] - paid) < 1e-9


def test_a_model_of_unknown_price_makes_the_cost_unknown_and_not_zero(finished: Finished):
    assert finished.stats["mutation_cost_usd"] is None
    assert finished.stats["total_cost_usd"] is None


def test_no_rollout_was_made_twice(finished: Finished):
    rollouts = finished.rows["rollouts"]
    assert len({(row["candidate_id"], row["seed"], row["draw"]) for row in rollouts}) == len(rollouts)
    assert finished.stats["abandoned_rollouts"] == 0
    assert {row["attempts"] for row in rollouts} == {1}


def test_trials_show_the_rollouts_behind_their_scores(finished: Finished):
    assert [trial["n"] for trial in finished.trials] == list(range(1, len(finished.trials) + 1))
    shown = {
        (trial["candidate_id"], rollout["seed"], rollout["draw"]): rollout["score"]
        for trial in finished.trials
        for rollout in trial["rollouts"]
    }
    assert len(shown) == finished.stats["total_rollouts"]
    assert shown == {(r["candidate_id"], r["seed"], r["draw"]): r["score"] for r in finished.rows["rollouts"]}
    for trial in finished.trials:
        assert trial["scores"] == [rollout["score"] for rollout in trial["rollouts"]]


def test_the_exported_prompt_is_the_one_that_was_evaluated_byte_for_byte(finished: Finished):
    best = finished.payload["best_candidate_id"]
    calls = [call for call in finished.rows["calls"] if call["candidate_id"] == best]
    assert {call["phase"] for call in calls} >= {"optimization", "validation", "test"}
    exported = finished.payload["best_prompt_messages"]
    assert exported[0]["content"] != BASELINE_SYSTEM
    for call in calls:
        assert call["messages"] == filled(exported, call["seed"])


def test_every_candidate_was_evaluated_with_its_own_prompt(finished: Finished):
    messages = {candidate["candidate_id"]: candidate["messages"] for candidate in finished.candidates}
    assert len(messages) > 2
    for call in finished.rows["calls"]:
        assert call["messages"] == filled(messages[call["candidate_id"]], call["seed"])


def test_the_baseline_is_what_the_task_app_says_by_itself(finished: Finished):
    baseline = finished.payload["baseline_prompt_messages"]
    assert baseline == [{"role": "system", "content": BASELINE_SYSTEM}, {"role": "user", "content": USER_PATTERN}]


def test_the_test_seeds_were_opened_once_and_last_for_baseline_and_winner(finished: Finished):
    tested = [trial for trial in finished.trials if trial["phase"] == "test"]
    assert finished.trials[-len(tested) :] == tested
    best = finished.payload["best_candidate_id"]
    assert {trial["candidate_id"] for trial in tested} == {best, finished.candidates[0]["candidate_id"]}
    held_out = set(range(2000, 2040))
    assert all(set(trial["seeds"]) == held_out for trial in tested)
    assert not any(set(trial["seeds"]) & held_out for trial in finished.trials if trial["phase"] != "test")


def test_what_the_client_sent_as_metadata_is_kept(finished: Finished):
    assert CLIENT_METADATA.items() <= finished.job["metadata"].items()


def test_published_metadata_agrees_with_the_job(finished: Finished):
    job, metadata = finished.job, finished.job["metadata"]
    assert metadata["prompt_best_snapshot_id"] == job["best_snapshot_id"] == finished.best_snapshot["id"]
    assert metadata["prompt_best_snapshot"] == finished.payload
    assert metadata["prompt_best_score"] == job["best_score"] == finished.payload["best_score"]
    assert metadata["prompt_best_train_score"] == job["best_train_score"] == finished.payload["best_train_score"]
    assert metadata["prompt_best_validation_score"] == job["best_validation_score"] == job["best_score"]
    assert metadata["algorithm"] == "gepa"
    assert metadata["task_app_url"] == job["task_app_url"]


def test_the_config_is_shown_as_sent_and_as_it_ran(finished: Finished):
    sent, resolved = finished.config["sent"], finished.config["resolved"]
    assert sent["config_body"]["prompt_learning"]["policy"]["model"] == "the-model-of-the-file"
    assert sent["overrides"] == {"prompt_learning.policy.model": POLICY_MODEL}
    assert resolved["policy"]["model"] == POLICY_MODEL
    assert resolved["gepa"]["rollout_budget"] == 340
    assert finished.config["warnings"] == finished.job["warnings"]


def test_the_budget_is_kept(finished: Finished):
    assert finished.stats["total_rollouts"] - finished.stats["test_rollouts_executed"] <= 340


def test_the_list_shows_the_job_without_the_content_of_its_snapshot(finished: Finished):
    assert finished.listed["status"] == "succeeded"
    assert finished.listed["best_score"] == finished.job["best_score"]
    assert "prompt_best_snapshot" not in finished.listed["metadata"]


@pytest.mark.slow
async def test_four_jobs_at_once_end_without_a_rollout_of_each_other(api: Api, task_app, ports):
    app: FaultyApp = await task_app()
    jobs = [await api.submit(config(ports.task_app_url, {"gepa.rng_seed": n})) for n in range(4)]
    ended = [await api.ended(job_id) for job_id in jobs]
    assert [job["status"] for job in ended] == ["succeeded"] * 4
    runs = Counter(visit.body["run_id"] for visit in app.visits)
    assert runs == {job["job_id"]: job["metadata"]["stats"]["total_rollouts"] for job in ended}
