"""Replies to rollouts: scores strictly, texts tolerantly, in the shapes of every era."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptjobs.clients.json_reply import read_json
from promptjobs.clients.rollout_reply import RolloutReply, read_policy_url_reply, read_score, read_sdk_reply
from promptjobs.errors import InvalidReply, InvalidScore, TaskAppFailed

URL = "http://app.test"
SEED = 7
LM_CALL = {
    "type": "lm_call",
    "llm_request": {"messages": []},
    "llm_response": {"message": {"role": "assistant", "content": "the answer"}, "finish_reason": "stop"},
}


def sdk(body: Any) -> RolloutReply:
    return read_sdk_reply(body, SEED, URL)


def policy_url(body: Any) -> RolloutReply:
    return read_policy_url_reply(body, SEED, URL)


@pytest.mark.parametrize(
    "got", ["NaN", "Infinity", "-Infinity", "1e999", '"high"', '"0.5"', "null", "true", "-3", "1.1", "[]"]
)
def test_what_is_no_score_is_an_invalid_score_in_either_dialect(got):
    for body, read in (
        (f'{{"metrics": {{"outcome_reward": {got}, "reward_mean": 0.0}}}}', sdk),
        (f'{{"results": [{{"seed": 7, "score": {got}}}]}}', policy_url),
        (f'{{"scores": [{got}]}}', policy_url),
        (f'{{"score": {got}}}', policy_url),
    ):
        with pytest.raises(InvalidScore):
            read(read_json(body.encode(), URL))


def test_an_invalid_score_keeps_what_was_got_shortened():
    with pytest.raises(InvalidScore) as refused:
        read_score("high " * 100, URL)
    assert refused.value.got.startswith("'high high")
    assert len(refused.value.got) <= 81


@given(st.floats() | st.integers())
def test_a_score_is_in_the_unit_interval_or_refused(value):
    if math.isfinite(value) and 0 <= value <= 1:
        assert read_score(value, URL) == value
    elif not (math.isfinite(value) and -1e-9 <= value <= 1 + 1e-9):
        with pytest.raises(InvalidScore):
            read_score(value, URL)


def test_a_rounding_error_beyond_the_interval_is_forgiven():
    assert read_score(1.0000000000000002, URL) == 1.0
    assert read_score(-1e-17, URL) == 0.0


@pytest.mark.parametrize(
    ("body", "score"),
    [
        ({"reward_info": {"outcome_reward": 0.8}}, 0.8),
        ({"metrics": {"outcome_reward": 0.8, "reward_mean": 0.0, "outcome_objectives": None}}, 0.8),
        ({"reward_info": {"outcome_reward": 0.8}, "metrics": {"outcome_reward": 0.1}}, 0.8),
        ({"metrics": {"outcome_objectives": {"reward": 0.7}, "reward_mean": 0.0}}, 0.7),
        ({"metrics": {"mean_return": 0.6, "outcome_score": None, "episode_returns": [0.1]}}, 0.6),
        ({"metrics": {"mean_return": 0.6, "outcome_score": 0.5}}, 0.5),
        ({"metrics": {"reward_mean": 0.4, "episode_rewards": [0.1]}}, 0.4),
        ({"metrics": {"episode_rewards": [0.3, 0.9]}}, 0.3),
        ({"metrics": {"episode_returns": [1]}}, 1.0),
        ({"outcome_reward": 0.2}, 0.2),
        ({"reward_info": {"outcome_reward": 0}, "success_status": "success"}, 0.0),
    ],
)
def test_the_reward_is_found_in_every_era(body, score):
    assert sdk(body).score == score


@pytest.mark.parametrize("body", [{}, {"metrics": {}}, {"metrics": [1]}, {"metrics": {"episode_rewards": []}}])
def test_a_reply_without_a_reward_is_an_invalid_score(body):
    with pytest.raises(InvalidScore, match="None"):
        sdk(body)


@pytest.mark.parametrize("status", ["failure", "timeout", "network_error", "RUNTIME_ERROR"])
def test_a_reported_failure_is_no_score(status):
    body = {"reward_info": {"outcome_reward": 0.0}, "success_status": status, "status_detail": "the sandbox died"}
    with pytest.raises(TaskAppFailed, match="the sandbox died"):
        sdk(body)


@pytest.mark.parametrize(
    "body",
    [
        {"results": [{"seed": 7, "score": 0.0, "error": "policy returned 500"}]},
        {"score": 0.0, "error": {"message": "policy returned 500"}},
    ],
)
def test_an_error_in_a_result_is_no_score(body):
    with pytest.raises(TaskAppFailed, match="policy returned 500"):
        policy_url(body)


@pytest.mark.parametrize(
    ("body", "read"),
    [
        ({"results": [{"seed": 8, "score": 1.0}]}, policy_url),
        ({"results": [{"seed": "8", "score": 1.0}]}, policy_url),
        ({"results": [{"seed": 7, "score": 1.0}, {"seed": 8, "score": 1.0}]}, policy_url),
        ({"scores": [1.0, 0.5]}, policy_url),
        ({"scores": [1.0], "seeds": [8]}, policy_url),
        ({"score": 1.0, "seed": 8}, policy_url),
        ({"results": ["good"]}, policy_url),
        ({"metrics": {"outcome_reward": 1.0, "details": {"seed": 8}}}, sdk),
        ({"metrics": {"outcome_reward": 1.0}, "seed": 8}, sdk),
        ([0.5], sdk),
        ("0.5", policy_url),
    ],
)
def test_a_reply_for_another_seed_or_of_another_shape_is_invalid(body, read):
    with pytest.raises(InvalidReply):
        read(body)


def test_the_policy_url_result_is_read_whole():
    result = {
        "seed": 7,
        "score": 0.5,
        "feedback": "field x is wrong",
        "output": '{"x": 1}',
        "expected": {"x": 2},
        "error": None,
        "details": {"fields": 6},
    }
    assert policy_url({"results": [result], "errors": 0}) == RolloutReply(
        0.5, '{"x": 1}', "field x is wrong", '{"x":2}', {"fields": 6}
    )


def test_the_sdk_reply_is_read_whole():
    body = {
        "run_id": "r",
        "metrics": {"outcome_reward": 1.0, "details": {"feedback": "well done", "expected": "card_arrival"}},
        "trace": {
            "event_history": [LM_CALL | {"llm_response": {"message": {"content": "first"}}}, LM_CALL, {"type": "env"}]
        },
    }
    assert sdk(body) == RolloutReply(
        1.0, "the answer", "well done", "card_arrival", {"feedback": "well done", "expected": "card_arrival"}
    )


def test_without_feedback_the_details_are_the_feedback():
    reply = sdk({"reward_info": {"outcome_reward": 0.0, "details": {"predicted": "a", "wanted": "b"}}})
    assert (reply.feedback, reply.output) == ('{"predicted":"a","wanted":"b"}', "a")


@pytest.mark.parametrize(
    ("extra", "output"),
    [
        ({"trace": {"event_history": [{"type": "lm_call", "llm_response": {"message": {"content": None}}}]}}, ""),
        (
            {
                "trace": {
                    "event_history": [{"type": "lm_call", "llm_response": {"message": {"tool_calls": [{"n": 1}]}}}]
                }
            },
            '[{"n":1}]',
        ),
        ({"trajectories": [{"steps": [{"tool_calls": []}, {"tool_calls": [{"n": 2}]}]}]}, '[{"n":2}]'),
        ({"trace": None, "trajectories": []}, ""),
        ({"trace": {"event_history": ["?", 3]}}, ""),
    ],
)
def test_the_output_comes_from_the_trace_of_any_era(extra, output):
    assert sdk({"metrics": {"outcome_reward": 1.0}} | extra).output == output
