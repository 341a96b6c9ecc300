"""Task apps of every dialect and era run a whole job, and the prompt that is scored is the one that ran."""

import pytest

from tests.acceptance.client import SYSTEM, USER, Api, Json, config
from tests.acceptance.faulty_app import (
    FaultyApp,
    mark,
    policy_url_results,
    policy_url_scores,
    sdk_0_2,
    sdk_0_4,
    sdk_0_6,
    streamed,
    twice,
)
from tests.acceptance.runs import calls_of

pytestmark = pytest.mark.slow

SHORT = {"gepa.rollout.budget": 60, "gepa.evaluation.test_pool": None}


def baseline_scores(trials: list[Json]) -> dict[int, float]:
    return {
        seed: score
        for trial in trials
        if trial["is_baseline"]
        for seed, score in zip(trial["seeds"], trial["scores"], strict=True)
    }


async def assert_improved(api: Api, job_id: str) -> Json:
    """The job has found a better prompt, no rollout failed, and the baseline's scores are those that the app gave."""
    job = await api.ended(job_id)
    assert job["status"] == "succeeded", job["error"]
    stats = job["metadata"]["stats"]
    assert stats["failed_rollouts"] == 0
    assert stats["best_score"] > stats["baseline_score"]
    trials = await api.read(job_id, "/trials", limit=200)
    scores = baseline_scores(trials)
    assert scores == {seed: mark(seed, "level 0") for seed in scores}
    return job


@pytest.mark.slow
@pytest.mark.parametrize("shape", [sdk_0_2, sdk_0_4, sdk_0_6])
async def test_replies_of_every_era_of_the_sdk_are_read(api, task_app, ports, shape):
    app: FaultyApp = await task_app(shape=shape)
    await assert_improved(api, await api.submit(config(ports.task_app_url, SHORT)))
    bodies = [visit.body for visit in app.visits]
    for required in ("run_id", "trace_correlation_id", "env", "policy", "ops", "mode"):
        assert all(body[required] for body in bodies)
    assert all(body["policy"]["config"]["model"] == "policy" for body in bodies)


@pytest.mark.parametrize(
    ("options", "changes"),
    [
        pytest.param({"info": {"name": "toy"}}, {}, id="detected: no taskset"),
        pytest.param(
            {"info": {"name": "toy"}, "info_by": ("POST",)}, {}, id="detected: POST only", marks=pytest.mark.slow
        ),
        pytest.param(
            {"info": None}, {"task_app_dialect": "policy_url"}, id="set in the config", marks=pytest.mark.slow
        ),
    ],
)
async def test_apps_that_are_given_a_policy_url_and_seeds_run_a_job(api, task_app, ports, options, changes):
    app: FaultyApp = await task_app(speaks="policy_url", shape=policy_url_results, **options)
    await assert_improved(api, await api.submit(config(ports.task_app_url, {**SHORT, **changes})))
    assert all(len(visit.body["seeds"]) == 1 for visit in app.visits)
    assert len({visit.url for visit in app.visits}) == len(app.visits)
    assert {visit.body["policy_config"]["model"] for visit in app.visits} == {"policy"}


@pytest.mark.slow
async def test_a_bare_list_of_scores_is_a_reply(api, task_app, ports):
    await task_app(speaks="policy_url", shape=policy_url_scores, info={"name": "toy"})
    await assert_improved(api, await api.submit(config(ports.task_app_url, SHORT)))


async def test_a_dialect_in_the_config_goes_before_what_the_app_says(api, task_app, ports):
    app: FaultyApp = await task_app(info={"name": "toy"})
    job_id = await api.submit(config(ports.task_app_url, {**SHORT, "task_app_dialect": "sdk"}))
    await assert_improved(api, job_id)
    assert all("policy_url" not in visit.body for visit in app.visits)


async def test_every_call_of_a_rollout_gets_the_candidates_prompt_and_is_counted(api, task_app, ports, stored):
    await task_app(talk=twice)
    job_id = await api.submit(config(ports.task_app_url, SHORT))
    job = await assert_improved(api, job_id)
    candidates = {each["candidate_id"]: each["messages"] for each in await api.read(job_id, "/candidates")}
    calls = await calls_of(stored, job_id)
    stats = job["metadata"]["stats"]
    assert len(calls) == 2 * stats["total_rollouts"]
    assert sum(call["prompt_tokens"] + call["completion_tokens"] for call in calls) == stats["rollout_tokens_used"]
    assert {len(call["messages"]) for call in calls} == {2, 4}
    for call in calls:
        system, user, *rest = call["messages"]
        assert system == candidates[call["candidate_id"]][0]
        assert user == {"role": "user", "content": USER.format(question=call["seed"])}
        assert [message["role"] for message in rest] in ([], ["assistant", "user"])
        assert all(message["content"] == "Are you sure?" for message in rest[1:])


async def test_without_an_initial_prompt_the_baseline_is_gathered_from_the_apps_own_messages(
    api, task_app, ports, stored
):
    await task_app()
    job_id = await api.submit(config(ports.task_app_url, {**SHORT, "initial_prompt": None}))
    found = await api.heard(job_id, "prompt.learning.gepa.baseline.messages")
    system, user = found["data"]["messages"]
    assert system == {"role": "system", "content": SYSTEM}
    assert user == {"role": "user", "content": USER.replace("{question}", "{input}")}
    job = await assert_improved(api, job_id)
    probed = [call for call in await calls_of(stored, job_id) if call["phase"] == "bootstrap"]
    assert len(probed) == job["metadata"]["stats"]["bootstrap_rollouts_executed"] == 3
    assert [call["messages"][0]["content"] for call in probed] == [SYSTEM] * 3
    assert job["best_prompt_messages"][0]["content"].startswith(f"{SYSTEM}\n- hint")


async def test_a_task_app_that_streams_with_the_real_client_runs_a_job(api, task_app, ports, stored):
    await task_app(talk=streamed)
    job_id = await api.submit(config(ports.task_app_url, SHORT))
    job = await assert_improved(api, job_id)
    calls = await calls_of(stored, job_id)
    assert {call["streamed"] for call in calls} == {True}
    assert min(call["completion_tokens"] for call in calls) == 2
    assert len(calls) == job["metadata"]["stats"]["total_rollouts"]
