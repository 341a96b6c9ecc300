"""The counters of a job add up, under the names that clients read."""

import json

from promptjobs.core.asks import Answer, FailureReason
from promptjobs.core.stats import Statistics, Tokens
from promptjobs.core.trial import Phase, Trial


def counted() -> Statistics:
    statistics = Statistics()
    for phase, rollouts in ((Phase.BOOTSTRAP, 1), (Phase.OPTIMIZATION, 4), (Phase.VALIDATION, 3), (Phase.TEST, 2)):
        for n in range(rollouts):
            answer = Answer(b"", 0.5, None, prompt_tokens=10, completion_tokens=n, cost_usd=0.001)
            statistics.count_rollout(answer, phase)
        statistics.trials[phase] += 1
    statistics.count_rollout(Answer(b"", None, FailureReason.TASK_APP_ERROR), Phase.OPTIMIZATION)
    statistics.count_completion(Answer(b"", prompt_tokens=100, unknown_tokens=7, cost_usd=0.25))
    statistics.count_judgement(Answer(b"", prompt_tokens=20, cost_usd=0.5))
    statistics.trials_tried, statistics.proposals_refused, statistics.reused = 5, 2, 9
    return statistics


def test_the_parts_add_up_to_the_totals() -> None:
    found = counted().to_json()
    parts = ("bootstrap", "optimization", "validation", "test")
    assert [found[f"{part}_rollouts_executed"] for part in parts] == [1, 5, 3, 2]
    assert found["total_rollouts"] == 11
    assert (found["failed_rollouts"], found["reused_rollouts"], found["mutation_calls"]) == (1, 9, 1)
    assert found["judge_calls"] == 1
    assert [found[f"{part}_trials_evaluated"] for part in parts[1:]] == [1, 1, 1]
    assert found["total_trials_evaluated"] == 4
    assert (found["trials_tried"], found["transformations_evaluated"]) == (5, 3)
    assert found["rollouts_prompt_tokens"] == 100
    assert found["rollouts_completion_tokens"] == 0 + (0 + 1 + 2 + 3) + (0 + 1 + 2) + (0 + 1)
    assert found["rollout_tokens_used"] == found["rollouts_prompt_tokens"] + found["rollouts_completion_tokens"]
    assert (found["mutation_prompt_tokens"], found["mutation_unknown_tokens"]) == (100, 7)
    used = [found[f"{part}_tokens_used"] for part in ("rollout", "mutation", "judge")]
    assert used[1:] == [107, 20]
    assert found["total_tokens"] == sum(used)
    assert (found["rollouts_cost_usd"], found["mutation_cost_usd"], found["judge_cost_usd"]) == (0.01, 0.25, 0.5)
    assert found["total_cost_usd"] == 0.76


def test_a_cost_is_not_told_where_any_part_of_it_is_unknown() -> None:
    statistics = counted()
    statistics.count_completion(Answer(b"", prompt_tokens=3))
    found = statistics.to_json()
    assert (found["rollouts_cost_usd"], found["mutation_cost_usd"], found["total_cost_usd"]) == (0.01, None, None)


def test_what_is_known_to_be_spent_leaves_out_what_is_unknown() -> None:
    statistics = counted()
    statistics.count_completion(Answer(b"", prompt_tokens=3))
    assert (round(statistics.spent_usd, 9), statistics.total_tokens) == (0.76, counted().total_tokens + 3)


def test_failures_in_a_row_end_with_a_success() -> None:
    statistics, seen = Statistics(), []
    for reason in (FailureReason.INVALID_SCORE, FailureReason.PROVIDER_ERROR, None, FailureReason.PROVIDER_ERROR):
        statistics.count_rollout(Answer(b"", None if reason else 1.0, reason), Phase.OPTIMIZATION)
        seen.append(statistics.failed_in_a_row)
    assert (seen, statistics.total_failed) == ([1, 2, 0, 1], 3)


def test_an_answer_without_a_call_costs_nothing() -> None:
    tokens = Tokens()
    tokens.add(Answer(b"", None, FailureReason.TASK_APP_UNREACHABLE))
    assert (tokens.known_cost_usd, tokens.unpriced, tokens.total) == (0.0, 0, 0)
    tokens.add(Answer(b"", 0.5, unknown_tokens=1))
    assert (tokens.known_cost_usd, tokens.unpriced, tokens.total) == (None, 1, 1)


def test_a_new_job_has_counted_nothing_and_says_so_in_json() -> None:
    found = json.loads(json.dumps(Statistics().to_json()))
    failures = found.pop("failures"), found.pop("failures_by_reason")
    assert failures == (dict.fromkeys(("provider", "task_app", "parse", "prompt", "judge"), 0), {})
    assert set(found.values()) == {0}


def test_counters_of_two_jobs_are_not_shared() -> None:
    one, other = Statistics(), Statistics()
    one.count_rollout(Answer(b"", 1.0), Phase.TEST)
    assert other.total_rollouts == 0


def test_a_trial_scores_the_mean_of_what_was_answered() -> None:
    trial = Trial(1, "c", Phase.OPTIMIZATION, False, (1, 2, 3, 4), (1.0, None, 0.0, 0.5))
    assert (trial.score, trial.failed, trial.known_scores) == (0.5, 1, (1.0, 0.0, 0.5))
    assert Trial(2, "c", Phase.TEST, False, (1, 2), (None, None)).score is None
