"""What is wrong is said in words where clients look, and nothing is lost by it."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import httpx
import pytest

from tests.acceptance import faulty_app, faulty_model
from tests.acceptance.client import JOBS, ROOMY, SYSTEM, Api, Json, config
from tests.acceptance.faulty_app import NO_SCORES, FaultyApp, Visit, in_other_words, not_at_all, policy_url_results
from tests.acceptance.faulty_model import POLICY, REFLECTOR, FaultyModel

pytestmark = pytest.mark.slow

NOWHERE = "http://127.0.0.1:9"
# --- requests --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "status", "code", "words"),
    [
        ({"gepa.evaluation": {}}, 422, "invalid_config", ["train_seeds", "is required"]),
        ({"gepa.evaluation.train_seeds": []}, 422, "invalid_config", ["train_seeds", "is required"]),
        ({"gepa.evaluation.validation_seeds": [3]}, 422, "invalid_config", ["validation_seeds", "leak", "3"]),
        ({"policy.provider": "nobody"}, 422, "provider_not_configured", ["nobody"]),
        ({"policy.inference_url": "http://a.example"}, 422, "invalid_config", ["inference_url"]),
        ({"task_app_url": "ftp://a.example"}, 422, "invalid_config", ["task_app_url"]),
        ({"use_byok": True}, 422, "provider_not_configured", ["use_byok", "/api/provider-keys/"]),
        ({"gepa.evaluation.validation_pool": "hard"}, 422, "not_yet_supported", ["validation_pool"]),
        ({"gepa.rollout.budget": 20}, 422, "budget_too_small", ["20", "at least", "are needed"]),
        ({"gepa.rollout.budget": "many"}, 422, "invalid_config", ["budget", "many"]),
    ],
)
async def test_a_config_that_cannot_run_is_refused_with_the_field_and_the_reason(
    api: Api, changes: Json, status: int, code: str, words: Sequence[str]
):
    response = await api.create(config(NOWHERE, changes))
    problem = response.json()
    assert (response.status_code, problem["code"]) == (status, code), problem
    assert all(word in problem["detail"] for word in words), problem["detail"]
    assert problem["type"] == f"urn:promptjobs:problem:{code}"
    assert api.posted == []


async def test_a_budget_that_is_too_small_is_refused_with_the_numbers(api: Api):
    async def create(budget: int) -> httpx.Response:
        return await api.create(config(NOWHERE, {"gepa.rollout.budget": budget}), auto_start=False)

    problem = (await create(20)).json()
    needed = problem["needed"]
    assert problem["parts"]["baseline"] == 8
    assert problem["parts"]["validation at the end"] == 10, "the winner and the baseline"
    assert sum(problem["parts"].values()) == needed
    short = (await create(needed - 1)).json()
    assert (short["code"], short["budget"], short["needed"]) == ("budget_too_small", needed - 1, needed)
    assert (await create(needed)).status_code == 200


async def test_the_papers_search_needs_a_whole_front_in_each_iteration(api: Api):
    full = {"gepa.acceptance": "full", "gepa.rollout.budget": 43}
    problem = (await api.create(config(NOWHERE, full))).json()
    assert problem["parts"] == {"baseline": 8, "one iteration": 16, "validation at the end": 20}


@pytest.mark.parametrize(
    ("algorithm", "code"), [("gradient_descent", "invalid_config"), ("staged", "not_yet_supported")]
)
async def test_an_unknown_algorithm_is_refused_by_name(api: Api, algorithm: str, code: str):
    response = await api.http.post(JOBS, json={"algorithm": algorithm, "config_body": config(NOWHERE)})
    assert (response.status_code, response.json()["code"]) == (422, code)
    assert algorithm in response.json()["detail"]


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b"{", 400, "malformed_json"),
        (b"", 422, "invalid_request"),
        (b'{"algorithm": NaN}', 422, "invalid_request"),
        (b'{"algorithm": "gepa", "config_body": "\xff"}', 400, "malformed_json"),
        (b"[]", 422, "invalid_request"),
        (b'{"algorithm": "gepa"}', 422, "invalid_request"),
        (b"[" * 5000, 422, "invalid_request"),
        (b" " * 2**21, 413, "body_too_large"),
    ],
)
async def test_a_body_that_is_no_job_is_refused_as_a_problem(api: Api, content: bytes, status: int, code: str):
    response = await api.http.post(JOBS, content=content, headers={"content-type": "application/json"})
    assert (response.status_code, response.json()["code"]) == (status, code), response.text
    assert isinstance(response.json()["detail"], str)


async def test_unknown_keys_are_accepted_and_listed(api: Api):
    extra = {"gepa.my_own_knob": 3, "display": {"tui": True}, "policy.colour": "blue"}
    response = await api.create(config(NOWHERE, extra), auto_start=False, client_version="0.4.11")
    assert response.status_code == 200
    warnings = response.json()["warnings"]
    for name in ("my_own_knob", "colour", "client_version"):
        assert sum(name in warning for warning in warnings) == 1, warnings
    assert (await api.read(response.json()["job_id"], "/config"))["warnings"] == warnings


# --- task apps that are not there ------------------------------------------------------------------------------------


async def assert_failed(api: Api, job_id: str, *words: str) -> Json:
    """The job has failed, and says so wherever a client may look."""
    job = await api.ended(job_id)
    assert job["status"] == "failed"
    for word in words:
        assert word in job["error"], job["error"]
    events = await api.events(job_id)
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert events[-1]["type"] == "prompt.learning.gepa.failed"
    assert events[-1]["level"] == "error"
    assert events[-1]["data"]["error"] == job["error"]
    assert job["error"] in events[-1]["message"]
    return job


async def test_a_task_app_that_refuses_connections_fails_the_job_with_url_and_cause(api: Api, ports):
    await assert_failed(api, await api.submit(config(ports.closed_url)), ports.closed_url, "Connection refused")


async def test_a_task_app_whose_name_does_not_exist_fails_the_job_with_url_and_cause(api: Api):
    url = "http://no-such-host.invalid:8000"
    await assert_failed(api, await api.submit(config(url)), url, "name cannot be resolved")


@pytest.mark.slow
async def test_a_task_app_whose_name_is_no_name_fails_the_job_with_url_and_cause(api: Api):
    url = f"http://{'a' * 70}.example:8000"
    await assert_failed(api, await api.submit(config(url)), url, "name cannot be resolved")


async def test_a_task_app_that_may_not_be_dialled_fails_the_job_with_the_setting_that_would_allow_it(api: Api):
    await assert_failed(api, await api.submit(config(NOWHERE)), "127.0.0.1:9", "PROMPTJOBS_ALLOWED_TARGETS")


async def test_an_unhealthy_task_app_fails_the_job(api: Api, task_app, ports):
    await task_app(health=500)
    job_id = await api.submit(config(ports.task_app_url))
    await assert_failed(api, job_id, ports.task_app_url, "/health", "500")


async def test_a_wrong_key_fails_the_job_without_showing_either_key(api: Api, task_app, ports):
    app: FaultyApp = await task_app(key="the-right-key-0001")
    job_id = await api.submit(config(ports.task_app_url, {"task_app_api_key": "wrong-key-0002"}))
    job = await assert_failed(api, job_id, ports.task_app_url, "does not accept the API key")
    assert "wrong-" not in str(job)
    assert app.visits == []


# --- rollouts that go wrong ------------------------------------------------------------------------------------------


async def started_with_faults(api: Api, app: FaultyApp, url: str, faults: Sequence[Any]) -> tuple[str, list[int]]:
    """A job whose first seeds of the front each meet one list of faults; its id and those seeds."""
    job_id = await api.submit(config(url, ROOMY), auto_start=False)
    resolved = (await api.read(job_id, "/config"))["resolved"]
    seeds = resolved["gepa"]["front_seeds"][: len(faults)]
    for seed, listed in zip(seeds, faults, strict=True):
        app.fail(seed, listed)
    response = await api.http.post(f"{JOBS}/{job_id}/start")
    assert response.status_code == 200
    return job_id, seeds


async def rollouts_on(api: Api, job_id: str, seed: int, base: str) -> list[Json]:
    """The baseline's rollouts on a seed, by draw."""
    found: list[Json] = await api.read(job_id, "/rollouts", seed=seed, candidate_id=base)
    return sorted(found, key=lambda rollout: rollout["draw"])


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="sdk"),
        pytest.param(
            {"speaks": "policy_url", "shape": policy_url_results, "info": {}}, marks=pytest.mark.slow, id="policy_url"
        ),
    ],
)
async def test_a_score_that_is_no_number_in_the_unit_interval_fails_its_rollout_and_not_the_job(
    api: Api, task_app, ports, options: Json
):
    app: FaultyApp = await task_app(**options)
    forged = [[faulty_app.scores(literal)] * 9 for literal in NO_SCORES]
    job_id, seeds = await started_with_faults(api, app, ports.task_app_url, forged)
    job = await api.ended(job_id)
    assert job["status"] == "succeeded", job["error"]
    base = (await api.read(job_id, "/candidates"))[0]["candidate_id"]
    for seed, shown in zip(seeds, NO_SCORES.values(), strict=True):
        first, second = await rollouts_on(api, job_id, seed, base)
        assert first["score"] is second["score"] is None
        assert first["reason"] == second["reason"] == "invalid_score"
        assert shown in first["detail"], first["detail"]
    trials = await api.read(job_id, "/trials", limit=200)
    assert trials[0]["failed"] == len(NO_SCORES)
    assert sum(score is None for score in trials[0]["scores"]) == len(NO_SCORES)


async def test_scores_that_are_all_invalid_fail_the_job_with_what_came(api: Api, task_app, ports):
    app: FaultyApp = await task_app()
    for seed in range(20):
        app.fail(seed, [faulty_app.scores('"high"')] * 9)
    await assert_failed(api, await api.submit(config(ports.task_app_url)), "invalid_score", "[0, 1]", "high")


@pytest.mark.slow
async def test_each_fault_of_a_task_app_is_an_answer_of_its_own_or_is_waited_out(api: Api, task_app, ports, model):
    other = [{"role": "system", "content": "You answer riddles."}, {"role": "user", "content": "Question: 1"}]
    cases: dict[str, tuple[list[Any], list[tuple[str | None, int]]]] = {
        "hangs": ([faulty_app.hangs] * 2, [("task_app_timeout", 2), (None, 1)]),
        "500": ([faulty_app.refuses(500)] * 2, [("task_app_error", 1), ("task_app_error", 1)]),
        "500 once": ([faulty_app.refuses(500)], [("task_app_error", 1), (None, 1)]),
        "502, then well": ([faulty_app.refuses(502)] * 2, [(None, 3)]),
        "reset, then well": ([faulty_app.resets], [(None, 2)]),
        "HTML": ([faulty_app.sends(b"<html>busy</html>", "text/html")], [("invalid_reply", 1), (None, 1)]),
        "another seed": ([faulty_app.of_another_seed(1)], [("invalid_reply", 1), (None, 1)]),
        "no call": ([faulty_app.talks(not_at_all)] * 9, [("candidate_not_used", 1)]),
        "other words": ([faulty_app.talks(in_other_words(lambda _: other))] * 9, [("prompt_not_matched", 1)]),
    }
    app: FaultyApp = await task_app()
    job_id, seeds = await started_with_faults(api, app, ports.task_app_url, [faults for faults, _ in cases.values()])
    job = await api.ended(job_id)
    assert job["status"] == "succeeded", job["error"]
    base = (await api.read(job_id, "/candidates"))[0]["candidate_id"]
    outcomes = {}
    for name, seed in zip(cases, seeds, strict=True):
        found = await rollouts_on(api, job_id, seed, base)
        outcomes[name] = [(rollout["reason"], rollout["attempts"]) for rollout in found]
        assert outcomes[name] == cases[name][1], found
    assert all(asked.messages != other for asked in model.asked)
    failed = [rollout for rollout in await api.rollouts(job_id) if rollout["score"] is None]
    assert job["metadata"]["stats"]["failed_rollouts"] == len(failed)


async def test_a_task_app_that_ignores_the_interceptor_fails_the_job_at_once_and_says_so(
    api: Api, task_app, ports, model
):
    app: FaultyApp = await task_app(talk=not_at_all)
    job_id = await api.submit(config(ports.task_app_url))
    await assert_failed(api, job_id, "candidate_not_used", "inference_url")
    assert len(app.visits) == 8
    assert model.asked == []


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([{"role": "system", "content": SYSTEM.replace("Hints", "Rules")}], ["message 0", "'Hints: none.'", "'Rules"]),
        pytest.param(
            [{"role": "user", "content": "Question: 1"}],
            ["message 0", "role 'system'", "role 'user'"],
            marks=pytest.mark.slow,
        ),
        (
            [{"role": "system", "content": SYSTEM}, {"role": "user", "content": "Frage: 1"}],
            ["message 1", "'Question: '", "'Frage: 1'"],
        ),
    ],
)
async def test_messages_that_are_not_the_baselines_fail_the_job_with_the_first_difference(
    api: Api, task_app, ports, model, messages: list[Json], words: Sequence[str]
):
    await task_app(talk=in_other_words(lambda _: messages))
    job_id = await api.submit(config(ports.task_app_url))
    await assert_failed(api, job_id, "prompt_not_matched", *words)
    assert model.asked == []


async def test_rollouts_that_the_app_scores_although_its_model_refused_are_no_scores(api: Api, task_app, ports, model):
    async def undeterred(app: FaultyApp, visit: Visit) -> str:
        try:
            return await faulty_app.once(app, visit)
        except faulty_app.ModelRefused:
            return "level 9"

    await task_app(talk=undeterred)
    model.fail(POLICY, [faulty_model.refuses(400)] * 50)
    await assert_failed(api, await api.submit(config(ports.task_app_url)), "provider_error", "not now")


# --- providers that go wrong -----------------------------------------------------------------------------------------


async def test_a_provider_that_recovers_costs_no_rollout(api: Api, task_app, ports, model: FaultyModel):
    await task_app()
    faults = [
        faulty_model.refuses(429, **{"Retry-After": "0"}),
        faulty_model.refuses(500),
        faulty_model.refuses(503),
        faulty_model.resets,
    ]
    model.fail(POLICY, faults)
    job = await api.ended(await api.submit(config(ports.task_app_url)))
    assert job["status"] == "succeeded", job["error"]
    rollouts = await api.rollouts(job["job_id"])
    reasons = Counter(rollout["reason"] for rollout in rollouts)
    assert reasons[None] >= len(rollouts) - 1
    assert set(reasons) <= {None, "provider_error"}
    assert sum(rollout["attempts"] for rollout in rollouts) >= len(rollouts) + 3


@pytest.mark.parametrize(
    "fault",
    [
        faulty_model.refuses(404, b'{"error": {"message": "there is no such model"}}'),
        pytest.param(faulty_model.sends(b"<html>no such model</html>", "text/html"), marks=pytest.mark.slow),
        pytest.param(faulty_model.sends(b'{"choices": "no such model"}'), marks=pytest.mark.slow),
    ],
)
async def test_a_provider_that_never_answers_well_fails_the_job_and_is_named(
    api: Api, task_app, ports, model: FaultyModel, fault: faulty_model.Fault
):
    await task_app()
    model.fail(POLICY, [fault] * 200)
    await assert_failed(api, await api.submit(config(ports.task_app_url)), "provider_error", "toy")


async def test_a_reflection_model_that_never_answers_fails_the_job_and_what_was_measured_stays(
    api: Api, task_app, ports, model: FaultyModel
):
    await task_app()
    model.fail(REFLECTOR, [faulty_model.refuses(400, b'{"error": {"message": "no credit"}}')] * 50)
    job = await assert_failed(api, await api.submit(config(ports.task_app_url)), "meta-model", "no credit")
    assert job["best_snapshot"]["messages"][0]["content"] == SYSTEM
    assert job["metadata"]["stats"]["optimization_rollouts_executed"] >= 8
