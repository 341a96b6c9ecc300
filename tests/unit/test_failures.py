"""Every failure has one kind, and counts of them are said in words."""

from promptjobs.core.asks import Answer, FailureReason
from promptjobs.core.failures import KINDS, UNPARSED, FailureKind, by_kind, said
from promptjobs.core.proposers.reflection import Refusal
from promptjobs.core.stats import Statistics
from promptjobs.core.trial import Phase

R = FailureReason


def failing(*reasons: FailureReason | None) -> Statistics:
    """Rollouts in this order; None for one that was answered."""
    statistics = Statistics()
    for reason in reasons:
        statistics.count_rollout(Answer(b"", None if reason else 1.0, reason), Phase.OPTIMIZATION)
    return statistics


def test_every_reason_has_a_kind_and_every_kind_a_reason() -> None:
    assert set(KINDS) == set(FailureReason)
    assert set(KINDS.values()) == set(FailureKind)


def test_provider_task_app_parse_and_prompt_errors_are_counted_apart() -> None:
    reasons = {R.PROVIDER_ERROR: 2, R.PROVIDER_TIMEOUT: 1, R.TASK_APP_UNREACHABLE: 4, R.INVALID_SCORE: 8}
    assert by_kind(reasons) == {"provider": 3, "task_app": 4, "parse": 8, "prompt": 0, "judge": 0}
    assert by_kind({R.TOOL_NOT_ALLOWED: 1, R.JUDGE_FAILED: 2})["prompt"] == 1


def test_a_failed_call_of_the_meta_model_is_not_a_reply_that_could_not_be_read() -> None:
    assert Refusal.FAILED not in UNPARSED
    assert {Refusal.UNREADABLE, Refusal.TRUNCATED, Refusal.NO_TEXT} <= UNPARSED
    assert not UNPARSED & {Refusal.LEAK, Refusal.UNCHANGED, Refusal.PLACEHOLDERS, Refusal.TOO_LONG}


def test_failures_are_said_with_the_most_frequent_first() -> None:
    assert said({R.INVALID_SCORE: 2, R.PROVIDER_ERROR: 7, R.TASK_APP_ERROR: 0}) == "7 provider_error, 2 invalid_score"
    assert said({R.PROVIDER_ERROR: 1, R.INVALID_SCORE: 1}) == "1 invalid_score, 1 provider_error"


def test_counters_tell_failures_by_kind_and_by_reason() -> None:
    statistics = failing(R.PROVIDER_ERROR, None, R.INVALID_SCORE, R.PROVIDER_ERROR)
    statistics.count_unjudged()
    found = statistics.to_json()
    assert found["failed_rollouts"] == 3
    assert found["failures"] == {"provider": 2, "task_app": 0, "parse": 1, "prompt": 0, "judge": 1}
    assert found["failures_by_reason"] == {"provider_error": 2, "invalid_score": 1, "judge_failed": 1}


def test_calls_of_the_meta_model_and_of_the_judge_have_failures_of_their_own() -> None:
    statistics = Statistics()
    statistics.count_completion(Answer(b"", reason=R.PROVIDER_ERROR))
    statistics.count_completion(Answer(b""))
    statistics.count_judgement(Answer(b"", reason=R.PROVIDER_TIMEOUT))
    statistics.count_proposal(is_refused=True, is_unparsed=True)
    statistics.count_proposal(is_refused=True)
    statistics.count_proposal(is_refused=False)
    found = statistics.to_json()
    assert (found["mutation_calls"], found["mutation_calls_failed"], found["judge_calls_failed"]) == (2, 1, 1)
    assert (found["trials_tried"], found["proposals_refused"], found["proposals_unparsed"]) == (3, 2, 1)
    assert (found["failed_rollouts"], sum(found["failures"].values())) == (0, 0)


def test_stops_by_failures_have_words() -> None:
    statistics = failing(R.INVALID_SCORE, None, R.PROVIDER_ERROR, R.TASK_APP_TIMEOUT, R.PROVIDER_ERROR)
    assert statistics.error_rate_said() == (
        "4 of 5 rollouts failed: 2 provider_error, 1 invalid_score, 1 task_app_timeout"
    )
    assert statistics.failing_said() == "the last 3 rollouts failed: 2 provider_error, 1 task_app_timeout"
