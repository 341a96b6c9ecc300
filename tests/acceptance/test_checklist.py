"""What clients of this kind of backend found missing, item by item: the checklist first, then the causes."""

from collections import Counter

import pytest

from promptjobs.demo.model_server import POLICY_MODEL
from tests.acceptance.client import Api, Json, config
from tests.acceptance.finished_job import Finished

COUNTS = ("trials_tried", "total_trials_evaluated", "total_tokens", "total_rollouts")
TOKEN_SUMS = tuple(
    f"{whose}_{kind}_tokens" for whose in ("rollouts", "mutation") for kind in ("prompt", "completion", "unknown")
)


def is_messages(value: object) -> bool:
    """A prompt as ready messages."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(each.keys() == {"role", "content"} and each["content"] for each in value)
    )


class TestChecklist:
    def test_snapshot_payload_contains_best_prompt_messages_array(self, finished: Finished):
        assert is_messages(finished.payload["best_prompt_messages"])
        sections = finished.payload["best_prompt"]["sections"]
        assert [section["content"] for section in sections] == [
            message["content"] for message in finished.payload["best_prompt_messages"]
        ]

    def test_snapshot_payload_contains_trials_tried_and_total_tokens(self, finished: Finished):
        assert finished.payload["trials_tried"] == finished.stats["trials_tried"] > 0
        assert finished.payload["total_tokens"] == finished.stats["total_tokens"] > 0

    def test_job_metadata_contains_stats_dict_with_trials_tokens_and_rollouts(self, finished: Finished):
        assert all(finished.stats[name] > 0 for name in COUNTS)
        assert finished.stats["total_tokens"] == sum(finished.stats[name] for name in TOKEN_SUMS)

    def test_trials_have_phase_field_in_metadata_json(self, finished: Finished):
        phases = Counter(trial["metadata_json"]["phase"] for trial in finished.trials)
        assert phases == Counter(trial["phase"] for trial in finished.trials)
        assert phases.keys() == {"optimization", "validation", "test"}

    def test_status_contains_final_stats_after_job_completion(self, finished: Finished):
        progress, stats = finished.job["progress"], finished.stats
        assert {name: progress[name] for name in (*COUNTS, *TOKEN_SUMS)} == {
            name: stats[name] for name in (*COUNTS, *TOKEN_SUMS)
        }
        assert progress["rollouts_completed"] == stats["total_rollouts"] - stats["test_rollouts_executed"]

    def test_variants_can_be_extracted_from_best_snapshot_payload_best_prompt_messages(self, finished: Finished):
        best = finished.job["best_snapshot"]
        assert is_messages(best["payload"]["best_prompt_messages"])
        assert best["payload"]["best_prompt_messages"] == best["messages"] == finished.job["best_prompt_messages"]

    def test_variants_can_be_extracted_from_archive_items_with_messages_field(self, finished: Finished):
        archive = finished.payload["archive"]
        assert len(archive) > 1
        assert all(is_messages(item["messages"]) for item in archive)
        assert len({str(item["messages"]) for item in archive}) == len(archive)
        assert finished.job["metadata"]["prompt_best_snapshot"]["archive"] == archive

    def test_trials_and_tokens_can_be_extracted_from_job_metadata_stats(self, finished: Finished):
        assert finished.stats["total_trials_evaluated"] == len(finished.trials)
        calls = finished.rows["calls"]
        used = sum(call["prompt_tokens"] + call["completion_tokens"] for call in calls)
        assert finished.stats["rollout_tokens_used"] == used
        assert finished.stats["total_tokens"] == used + finished.stats["mutation_tokens_used"]

    def test_eval_n_and_trial_n_can_be_counted_apart(self, finished: Finished):
        stats = finished.stats
        rollouts = Counter(row["phase"] for row in finished.rows["rollouts"])
        assert stats["validation_rollouts_executed"] == rollouts["validation"] > 0
        assert stats["optimization_rollouts_executed"] == rollouts["optimization"] > 0
        assert stats["optimization_trials_evaluated"] > stats["validation_trials_evaluated"] > 0


class TestMissingArtifacts:
    def test_snapshots_are_stored_and_the_best_one_is_named(self, finished: Finished):
        stored = {row["id"]: row["job_id"] for row in finished.rows["snapshots"]}
        assert set(stored.values()) == {finished.job["job_id"]}
        assert finished.job["best_snapshot_id"] in stored
        assert {each["id"] for each in finished.snapshots} == stored.keys()

    def test_the_artifacts_endpoint_returns_items_that_are_linked_to_snapshots(self, finished: Finished):
        assert finished.artifacts
        stored = {row["id"] for row in finished.rows["snapshots"]}
        for item in finished.artifacts:
            assert item["job_id"] == finished.job["job_id"]
            assert item["snapshot_id"] in stored
            assert item["label"]
            assert 0 <= item["score"] <= 1
            assert item["created_at"]

    def test_the_snapshot_of_every_artifact_can_be_fetched_with_its_messages(self, finished: Finished):
        snapshots = {each["id"]: each for each in finished.snapshots}
        for item in finished.artifacts:
            snapshot = snapshots[item["snapshot_id"]]
            assert is_messages(snapshot["payload"]["messages"])
            assert (snapshot["label"], snapshot["score"]) == (item["label"], item["score"])


class TestMissingTrialsAndTokens:
    def test_progress_events_carry_trials_tried_and_token_counts(self, finished: Finished):
        progress = list(finished.of_type("prompt.learning.progress"))
        wanted = {*COUNTS, *TOKEN_SUMS, "rollout_tokens_used"}
        assert all(wanted <= data.keys() for data in progress)
        tokens = [data["total_tokens"] for data in progress]
        assert tokens == sorted(tokens)
        assert tokens[-1] == finished.stats["total_tokens"]

    def test_the_terminal_event_carries_the_result_and_its_statistics(self, finished: Finished):
        [end] = finished.of_type("prompt.learning.gepa.complete")
        assert end["stats"] == finished.stats
        assert end["best_score"] == finished.job["best_score"]
        assert end["best_prompt_messages"] == finished.job["best_prompt_messages"]

    def test_trials_in_the_database_have_their_phase_and_their_tokens_can_be_summed(self, finished: Finished):
        assert all(row["phase"] for row in finished.rows["trials"])
        for trial in finished.trials:
            assert trial["metadata"]["tokens"] == sum(rollout["tokens"] for rollout in trial["rollouts"]) > 0


class TestMissingEvaluationDetails:
    def test_evaluation_seeds_are_counted_without_a_look_at_the_config(self, finished: Finished):
        assert finished.stats["eval_seeds_n"] == 20

    def test_the_validation_of_every_finalist_is_in_the_snapshot(self, finished: Finished):
        validation = finished.payload["validation"]
        assert [each["rank"] for each in validation] == list(range(len(validation)))
        assert validation[0]["candidate_id"] == finished.payload["best_candidate_id"]
        assert sum(each["is_baseline"] for each in validation) == 1
        assert len(validation) >= 2
        for each in validation:
            assert set(each["seeds"]) == set(range(1000, 1020))
            assert len(each["instance_scores"]) == 20
            assert each["accuracy"] == pytest.approx(sum(each["instance_scores"]) / 20)

    def test_lists_of_instance_scores_hold_numbers_that_belong_to_the_seeds_beside_them(self, finished: Finished):
        scores = {(row["candidate_id"], row["seed"]): row["score"] for row in finished.rows["rollouts"]}
        shown = [
            *finished.payload["archive"],
            *finished.payload["optimized_candidates"],
            *finished.payload["validation"],
        ]
        shown += finished.of_type("prompt.learning.gepa.baseline")
        for each in shown:
            listed = dict(zip(each["seeds"], each["instance_scores"], strict=True))
            assert listed == {seed: scores[each["candidate_id"], seed] for seed in listed}
            assert listed
        for item in finished.payload["optimized_candidates"]:
            assert item["score"]["instance_scores"] == item["instance_scores"]


class TestNoVariants:
    def test_every_prompt_that_was_evaluated_is_listed_with_its_messages(self, finished: Finished):
        listed = [candidate["candidate_id"] for candidate in finished.candidates]
        assert len(set(listed)) == len(listed)
        assert {row["candidate_id"] for row in finished.rows["rollouts"]} <= set(listed)
        assert all(is_messages(candidate["messages"]) for candidate in finished.candidates)

    def test_learning_curve_points_carry_candidate_messages_and_template(self, finished: Finished):
        assert len(finished.curve) > 1
        for point in finished.curve:
            assert is_messages(point["messages"])
            assert point["metadata"]["template"]["sections"]
            assert point["candidate_id"] in {candidate["candidate_id"] for candidate in finished.candidates}
        performance = [point["performance"] for point in finished.curve]
        assert performance == sorted(performance)
        counts = [point["rollout_count"] for point in finished.curve]
        assert counts == sorted(counts)

    def test_the_archive_is_kept_as_snapshots_too(self, finished: Finished):
        front = [item for item in finished.payload["archive"] if item["is_pareto"]]
        best = finished.payload["best_candidate_id"]
        others = [item for item in front if item["candidate_id"] != best]
        assert len(finished.snapshots) == 1 + len(others)

    def test_variants_can_be_sorted_by_score(self, finished: Finished):
        scores = [item["score"] for item in finished.payload["archive"]]
        assert scores == sorted(scores, reverse=True)
        ranked = finished.payload["optimized_candidates"]
        assert [item["rank"] for item in ranked] == list(range(1, len(ranked) + 1))

    def test_attempted_candidates_are_listed_with_accuracy_and_replacements(self, finished: Finished):
        attempted = finished.payload["attempted_candidates"]
        evaluated = {row["candidate_id"] for row in finished.rows["rollouts"]}
        baseline = finished.candidates[0]["candidate_id"]
        assert {each["candidate_id"] for each in attempted} == evaluated - {baseline}
        assert len(attempted) == len(evaluated) - 1
        for each in attempted:
            assert 0 <= each["accuracy"] <= 1
            assert all(change["new_text"] for change in each["object"]["text_replacements"])

    def test_every_attempt_was_told_with_its_scores_and_what_became_of_it(self, finished: Finished):
        told = {data["candidate_id"]: data for data in finished.of_type("prompt.learning.proposal.scored")}
        for each in finished.payload["attempted_candidates"]:
            assert told[each["candidate_id"]]["accepted"] == each["accepted"]
            assert len(told[each["candidate_id"]]["instance_scores"]) > 0
        assert {each["operator"] for each in finished.payload["attempted_candidates"]} > {"reflection"}

    def test_the_metric_that_clients_draw_has_one_point_per_trial_with_rising_steps(self, finished: Finished):
        assert {point["name"] for point in finished.metrics} == {"gepa.transformation.mean_score"}
        assert [point["step"] for point in finished.metrics] == [trial["n"] for trial in finished.trials]
        assert [point["value"] for point in finished.metrics] == [trial["score"] for trial in finished.trials]


class TestModelOverride:
    def test_the_policy_model_that_ran_is_the_one_of_the_override(self, finished: Finished):
        assert {call["model"] for call in finished.rows["calls"]} == {POLICY_MODEL}

    def test_the_policy_model_that_is_shown_is_the_one_that_ran(self, finished: Finished):
        policy = {"provider": "toy", "model": POLICY_MODEL}
        [start] = finished.of_type("prompt.learning.gepa.start")
        shown: list[Json] = [
            finished.job["policy"],
            finished.job["metadata"]["policy"],
            finished.payload["policy"],
            start["policy"],
        ]
        assert shown == [policy] * 4

    async def test_an_override_that_the_client_has_merged_already_changes_nothing(self, api: Api):
        merged = config("http://127.0.0.1:9", {"policy.model": "b"})
        job_id = await api.submit(merged, overrides={"prompt_learning.policy.model": "b"}, auto_start=False)
        assert (await api.read(job_id))["policy"] == {"provider": "toy", "model": "b"}
        assert (await api.read(job_id, "/config"))["resolved"]["policy"]["model"] == "b"
