"""Task apps of each era: what they demand of a request for a rollout, and what they reply."""

import pytest

from promptjobs.clients.rollout_reply import read_policy_url_reply, read_sdk_reply
from promptjobs.clients.task_app import Policy, RolloutRequest, policy_url_body, sdk_body
from tests.contract.event_table import Json

pytestmark = pytest.mark.slow

URL = "http://127.0.0.1:8101"
CORRELATION_ID = "trace_5b0f7c1e9d8a4b6f8c2d3e4f"
INFERENCE_URL = f"http://127.0.0.1:8700/interceptor/v1/trial/{CORRELATION_ID}"
REQUEST = RolloutRequest(
    seed=3,
    run_id="pl_0",
    inference_url=INFERENCE_URL,
    policy=Policy("llama-3.1-8b-instant", "groq", 0.2, 64),
    env_name="tickets",
    env_config={"split": "train"},
    correlation_id=CORRELATION_ID,
)

REQUIRED: dict[str, dict[str, type]] = {
    "0.2": {"run_id": str, "env": dict, "policy": dict, "ops": list, "mode": str, "record": dict},
    "0.4": {"run_id": str, "env": dict, "policy": dict, "mode": str, "record": dict},
    "0.6": {"trace_correlation_id": str, "env": dict, "policy": dict},
}
"""What a request must have, by the version of the SDK that the task app is made with."""

LM_CALL = {
    "type": "lm_call",
    "llm_request": {"messages": [{"role": "user", "content": "a ticket"}]},
    "llm_response": {"message": {"role": "assistant", "content": "billing"}, "usage": {}, "finish_reason": None},
    "correlation_id": CORRELATION_ID,
}
TRACE = {"schema_version": "3.0", "event_history": [LM_CALL], "metadata": {"trace_correlation_id": CORRELATION_ID}}

REPLIES: dict[str, Json] = {
    "0.2": {
        "run_id": "pl_0",
        "trajectories": [
            {
                "env_id": "tickets",
                "policy_id": "policy",
                "steps": [
                    {
                        "obs": {},
                        "tool_calls": [],
                        "reward": 0.5,
                        "done": True,
                        "truncated": None,
                        "info": {"messages": []},
                    }
                ],
                "final": {"reward": 0.5},
                "length": 1,
                "inference_url": INFERENCE_URL,
                "decision_samples": None,
            }
        ],
        "branches": {},
        "metrics": {
            "episode_returns": [0.5],
            "mean_return": 0.5,
            "num_steps": 1,
            "num_episodes": 1,
            "outcome_score": None,
            "events_score": None,
            "details": {},
        },
        "aborted": False,
        "ops_executed": 1,
        "trace_correlation_id": None,
        "trace": TRACE,
        "pipeline_metadata": {"trace_correlation_id": CORRELATION_ID},
    },
    "0.4": {
        "run_id": "pl_0",
        "metrics": {
            "outcome_objectives": None,
            "event_objectives": None,
            "outcome_reward": 0.5,
            "event_rewards": None,
            "episode_rewards": [],
            "reward_mean": 0.0,
            "num_steps": 1,
            "num_episodes": 1,
            "outcome_score": None,
            "events_score": None,
            "details": {},
        },
        "trace": TRACE,
        "trace_correlation_id": CORRELATION_ID,
        "inference_url": INFERENCE_URL,
        "branches": {},
        "aborted": False,
        "pipeline_metadata": {},
    },
    "0.6": {
        "trace_correlation_id": CORRELATION_ID,
        "reward_info": {
            "outcome_reward": 0.5,
            "event_rewards": None,
            "outcome_objectives": {"reward": 0.5},
            "details": {},
        },
        "trace": TRACE,
        "inference_url": INFERENCE_URL,
        "artifact": None,
        "success_status": "success",
        "status_detail": None,
    },
}
"""As a task app made with each version replies, with the defaults that its models fill in."""


@pytest.mark.parametrize("era", REQUIRED)
def test_one_request_has_what_every_era_demands(era: str) -> None:
    body = sdk_body(REQUEST)
    for name, kind in REQUIRED[era].items():
        assert isinstance(body[name], kind), name
    assert body["mode"] == "eval"
    assert body["env"] == {"env_name": "tickets", "config": {"split": "train", "index": 3}, "seed": 3}


def test_the_interceptors_url_is_the_only_address_of_a_model() -> None:
    """Task apps refuse any other, and find the correlation id in it or beside it."""
    config = sdk_body(REQUEST)["policy"]["config"]
    assert config["inference_url"] == INFERENCE_URL
    assert config["trace_correlation_id"] == CORRELATION_ID
    assert config["inference_url"].endswith(f"/{CORRELATION_ID}")
    assert CORRELATION_ID.startswith(("trace_", "cid_", "eval_"))
    assert not {"api_base", "base_url"} & set(config)


@pytest.mark.parametrize("era", REPLIES)
def test_the_reply_of_each_era_is_read_with_what_the_model_said(era: str) -> None:
    """`reward_mean` is 0.0 by default where outcome_reward says 0.5."""
    reply = read_sdk_reply(REPLIES[era], 3, URL)
    assert reply.score == 0.5
    assert reply.output == "billing"


@pytest.mark.parametrize("reply", [{"results": [{"seed": 3, "score": 0.5}]}, {"scores": [0.5]}, {"score": 0.5}])
def test_the_other_dialect_is_asked_and_read_for_one_seed(reply: Json) -> None:
    body = policy_url_body(REQUEST)
    assert body["policy_url"] == INFERENCE_URL
    assert body["seeds"] == [3]
    assert read_policy_url_reply(reply, 3, URL).score == 0.5
