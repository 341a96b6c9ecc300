"""MIPRO jobs over HTTP, with task apps and models as processes see them: from the POST to the published prompt."""

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest

from promptjobs.db.session import Database
from tests.acceptance.client import JOBS, SYSTEM, USER, Api, Json
from tests.acceptance.faulty_app import FaultyApp, Visit, ask, mark
from tests.acceptance.faulty_model import HINT, POLICY, REFLECTOR, FaultyModel
from tests.acceptance.mipro_jobs import (
    BOOTSTRAP,
    ONLINE,
    STAGES,
    TEST,
    VALIDATION,
    config,
    counts_hints_and_examples,
    submit,
    succeeded,
)
from tests.acceptance.runs import calls_of

COMPLETE = "prompt.learning.mipro.complete"

RUN = {
    "bootstrap_train_seeds": list(BOOTSTRAP),
    "online_pool": list(ONLINE),
    "val_seeds": list(VALIDATION),
    "test_pool": list(TEST),
    "mipro.seeds": {},
    "mipro.meta": {},
    "mipro.meta_model": REFLECTOR,
    "mipro.meta_model_provider": "toy",
    "mipro.few_shot_score_threshold": 0.8,
    "mipro.num_iterations": 2,
    "mipro.tpe": {"gamma": 0.25, "n_candidates": 32, "n_startup_trials": 3},
    "policy.model": "the-model-of-the-file",
}
"""The small job in the words of the API's own example."""

OVERRIDES = {"prompt_learning.policy.model": POLICY, "prompt_learning.mipro.num_iterations": 3}


def filled(messages: list[Json], seed: int) -> list[Json]:
    """What a model is sent for a seed, by no code of the service."""
    return [{**each, "content": each["content"].replace("{question}", str(seed))} for each in messages]


def data_of(events: Sequence[Json], event_type: str) -> list[Json]:
    return [event["data"] for event in events if event["type"] == event_type]


# --- a whole job -----------------------------------------------------------------------------------------------------


async def test_a_job_in_the_words_of_the_example_improves_a_prompt_from_its_post_to_its_published_messages(
    api: Api, task_app: Any, ports: Any, stored: Database, model: FaultyModel
) -> None:
    model.replies[POLICY] = counts_hints_and_examples
    await task_app()
    job_id = await submit(api, config(ports.task_app_url, RUN), overrides=OVERRIDES)
    job = await succeeded(api, job_id)
    events = await api.events(job_id)
    trials = await api.read(job_id, "/trials", limit=200)
    snapshot = (await api.read(job_id, f"/snapshots/{job['best_snapshot_id']}"))["payload"]

    assert (job["algorithm"], job["policy"]["model"], job["rollout_budget"]) == ("mipro", POLICY, 120)
    assert job["best_score"] == snapshot["best_score"] > snapshot["baseline_score"]
    assert snapshot["test"]["best"]["mean"] > snapshot["test"]["baseline"]["mean"]
    assert_resolved((await api.read(job_id, "/config"))["resolved"])
    assert_told_in_order(events)
    assert_phases(trials, snapshot["best_candidate_id"])
    await assert_one_prompt_throughout(api, stored, job, snapshot)
    assert_shown_what_was_asked(model, snapshot)
    points = (await api.read(job_id, "/metrics"))["points"]
    assert [(point["value"], point["phase"]) for point in points] == [(each["score"], each["phase"]) for each in trials]
    assert_published(snapshot, events, trials)
    curve = (await api.read(job_id, "/learning-curve"))["points"]
    assert len(curve) == 1 + len(data_of(events, "mipro.new_incumbent"))
    assert [point["rollout_count"] for point in curve] == sorted(point["rollout_count"] for point in curve)
    assert all(point["messages"] for point in curve)


def assert_resolved(resolved: Json) -> None:
    mipro = resolved["mipro"]
    assert resolved["policy"]["model"] == POLICY
    assert mipro["meta_model"]["model"] == REFLECTOR
    seeds = [mipro[f"{name}_seeds"] for name in ("bootstrap", "online", "validation", "test")]
    assert seeds == [list(each) for each in (BOOTSTRAP, ONLINE, VALIDATION, TEST)]
    assert (mipro["num_iterations"], mipro["batch_size"], mipro["rollout_budget"]) == (3, 8, 120)
    assert mipro["tpe"]["n_candidates"] == 32


def assert_told_in_order(events: list[Json]) -> None:
    types = [event["type"] for event in events]
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert (types[0], types[-1]) == ("prompt.learning.created", COMPLETE)
    assert types.count(COMPLETE) == types.count("mipro.job.completed") == types.count("mipro.job.started") == 1
    milestones = [
        "mipro.job.started",
        "mipro.bootstrap.progress",
        "mipro.iteration.start",
        "mipro.instruction.proposed",
    ]
    milestones += ["mipro.trial.started", "mipro.trial.complete", "mipro.iteration.complete"]
    milestones += ["mipro.baseline.test", "mipro.topk.evaluated", "mipro.job.completed", COMPLETE]
    first = [types.index(milestone) for milestone in milestones]
    assert first == sorted(first)
    started, complete = data_of(events, "mipro.trial.started"), data_of(events, "mipro.trial.complete")
    assert [data["trial"] for data in started] == list(range(1, len(started) + 1))
    assert {data["trial"] for data in complete} == {data["trial"] for data in started}
    assert len({data["candidate_id"] for data in started}) == len(started), "no prompt is measured twice"
    begun = [data["iteration"] for data in data_of(events, "mipro.iteration.start")]
    assert (
        begun == [data["iteration"] for data in data_of(events, "mipro.iteration.complete")] == list(range(len(begun)))
    )
    counts = [data["rollouts_completed"] for data in data_of(events, "prompt.learning.progress")]
    assert all(earlier <= later <= 120 for earlier, later in pairwise(counts))


def assert_phases(trials: list[Json], best: str) -> None:
    """Each phase has its own seeds; those of the test are opened once and last, for the baseline and the winner."""
    allowed = {"bootstrap": BOOTSTRAP, "optimization": ONLINE, "validation": VALIDATION, "test": TEST}
    for phase, seeds in allowed.items():
        assert {seed for trial in trials if trial["phase"] == phase for seed in trial["seeds"]} <= set(seeds), phase
    assert list(dict.fromkeys(trial["phase"] for trial in trials if trial["phase"] != "validation")) == [
        "bootstrap",
        "optimization",
        "test",
    ]
    tested = [trial for trial in trials if trial["phase"] == "test"]
    assert trials[-2:] == tested
    assert {trial["candidate_id"] for trial in tested} == {best, trials[0]["candidate_id"]}
    assert all(trial["seeds"] == list(TEST) for trial in tested)
    assert any(trial["phase"] == "validation" and trial["candidate_id"] == best for trial in trials)


async def assert_one_prompt_throughout(api: Api, stored: Database, job: Json, snapshot: Json) -> None:
    """What was sent to the policy is, byte for byte, what is published; so it is for every other candidate."""
    calls = await calls_of(stored, job["job_id"])
    messages = {
        each["candidate_id"]: each["messages"] for each in await api.read(job["job_id"], "/candidates", limit=200)
    }
    stats, best = job["metadata"]["stats"], snapshot["best_candidate_id"]
    assert len(calls) == stats["total_rollouts"]
    for call in calls:
        assert call["messages"] == filled(messages[call["candidate_id"]], call["seed"])
    exported = snapshot["messages"]
    assert exported == job["best_prompt_messages"] == messages[best] == snapshot["best_prompt_messages"]
    assert {call["phase"] for call in calls if call["candidate_id"] == best} == {"optimization", "validation", "test"}
    assert exported[0]["content"].startswith(f"{SYSTEM}\n- hint") or len(exported) > 2
    assert exported[-1] == {"role": "user", "content": USER}


def assert_shown_what_was_asked(model: FaultyModel, snapshot: Json) -> None:
    """Proposals are made from inputs of seeds that may be learnt from, without the prompt's own examples."""
    shown = [asked.messages[-1]["content"] for asked in model.of(REFLECTOR)]
    assert len(shown) > 5, "more than the first batch"
    assert any(each["choice"].get("stage_default.demos_1") for each in snapshot["history"])
    inputs = [said for text in shown for said in re.findall(r"### Input\n(.*?)\n### Output", text, re.DOTALL)]
    asked = [re.fullmatch(r"Question: (\d+)", said) for said in inputs]
    assert all(asked), [said for said in inputs if not re.fullmatch(r"Question: (\d+)", said)][:3]
    assert {int(found[1]) for found in asked if found} <= {*BOOTSTRAP, *ONLINE}


def assert_published(snapshot: Json, events: list[Json], trials: list[Json]) -> None:
    """The result as clients of the API describe it, agreeing with what was measured."""
    best, history = snapshot["best_candidate"], snapshot["history"]
    assert best["version_id"] == snapshot["best_candidate_id"]
    assert best["is_incumbent"] in (True, False)
    assert best["full_score"] == snapshot["best_full_score"] == pytest.approx(snapshot["best_validation_score"])
    [winner] = data_of(events, "mipro.topk.evaluated")
    assert winner["test_score"] == snapshot["test"]["best"]["mean"]
    assert winner["stage_payloads"] == best["stage_payloads"]
    minibatches = [each["minibatch_score"] for each in history]
    assert snapshot["best_minibatch_score"] == max(minibatches)
    assert snapshot["total_trials"] == len(history) == len(data_of(events, "mipro.trial.started"))
    assert snapshot["category_costs"].keys() == {"policy", "proposal", "judge"}
    assert snapshot["total_cost_usd"] is None, "nobody knows the toy models' price"
    assert {each["candidate_id"] for each in snapshot["attempted_candidates"]} == {
        trial["candidate_id"] for trial in trials if not trial["is_baseline"]
    }
    ranks = [each["rank"] for each in snapshot["optimized_candidates"]]
    assert ranks == list(range(1, len(ranks) + 1))
    state = snapshot["optimizer_state"]
    assert set(state["dimensions"]) <= {
        f"stage_default.{name}" for name in ("instruction_1", "instruction_2", "instruction_3", "demos_1")
    }
    observed = {each["candidate_id"] for each in history} | {trials[0]["candidate_id"]}
    assert len(state["observations"]) == len(observed)
    bank = {each["instruction_id"]: each["text"] for each in snapshot["instruction_bank"]}
    assert {data["instruction_id"] for data in data_of(events, "mipro.instruction.proposed")} == bank.keys()
    assert best["instruction_lines"] == [bank[number] for number in best["instruction_indices"]]
    assert_examples(snapshot["bootstrap"], trials[0])


def assert_examples(bootstrap: Json, baseline: Json) -> None:
    """A right answer stands as it was given, any other with the one that the task app expected."""
    assert bootstrap["baseline_score"] == pytest.approx(baseline["score"])
    examples = bootstrap["few_shot_examples"]["stage_default"]
    assert {each["seed"] for each in examples} == set(BOOTSTRAP)
    for each in examples:
        right = {"role": "assistant", "content": f"level {each['seed'] % 10}"}
        assert each["messages"] == [{"role": "user", "content": USER.format(question=each["seed"])}, right]
        assert each["is_labelled"] == (mark(each["seed"], "level 0") < 1)


async def test_a_job_without_a_prompt_takes_the_task_apps_own_messages_for_its_baseline(
    api: Api, task_app: Any, ports: Any, model: FaultyModel
) -> None:
    await task_app()
    changes = {"initial_prompt": None, "mipro.num_iterations": 1}
    job = await succeeded(api, await submit(api, config(ports.task_app_url, changes)))
    snapshot = job["metadata"]["prompt_best_snapshot"]
    [system, user] = snapshot["baseline_prompt_messages"]
    assert system == {"role": "system", "content": SYSTEM}
    assert re.fullmatch(r"Question: \{\w+\}", user["content"])
    [told] = data_of(await api.events(job["job_id"]), "prompt.learning.mipro.baseline.messages")
    assert told["messages"] == [system, user]
    assert snapshot["best_score"] > snapshot["baseline_score"]


# --- bad input -------------------------------------------------------------------------------------------------------

NOWHERE = "http://127.0.0.1:9"
CYCLE = [{"module_id": "m", "stages": STAGES, "edges": [["plan", "solve"], ["solve", "plan"]]}]


@pytest.mark.parametrize(
    ("changes", "code", "field", "words"),
    [
        ({"mipro.seeds.online": []}, "mipro_configuration_error", "mipro.seeds.online", ["is required"]),
        ({"mipro.seeds.test": [101]}, "mipro_configuration_error", "mipro.seeds.test", ["101", "leak"]),
        ({"mipro.batch_size": "many"}, "mipro_configuration_error", "mipro.batch_size", ["many"]),
        ({"mipro.parallel_risk": "EXTREME"}, "mipro_configuration_error", "mipro.parallel_risk", ["EXTREME", "LOW"]),
        ({"mipro.tpe": {"gamma": 1.5}}, "mipro_configuration_error", "mipro.tpe.gamma", ["1.5"]),
        (
            {"mipro.meta": {"inference_url": "http://a.example"}},
            "mipro_configuration_error",
            "mipro.meta.inference_url",
            [],
        ),
        (
            {"mipro.generate_at_iterations": [0, 3]},
            "mipro_configuration_error",
            "mipro.generate_at_iterations",
            ["3", "0 to 2"],
        ),
        (
            {"initial_prompt": None, "mipro.modules": CYCLE},
            "mipro_configuration_error",
            "mipro.modules[0].edges",
            ["cycle"],
        ),
        (
            {"mipro.max_demo_set_size": 0, "mipro.max_instruction_sets": 0},
            "mipro_configuration_error",
            "mipro.max_demo_slots",
            ["nothing to search"],
        ),
        ({"mipro.rollout_budget": 30}, "budget_too_small", "mipro.rollout_budget", ["30", "are needed"]),
        ({"mipro.max_token_limit": 20}, "budget_exceeded_error", "mipro.max_token_limit", ["20"]),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
async def test_a_config_that_cannot_run_is_refused_with_its_field_and_the_reason(
    api: Api, changes: Json, code: str, field: str, words: Sequence[str]
) -> None:
    response = await api.create(config(NOWHERE, changes), algorithm="mipro")
    problem = response.json()
    assert (response.status_code, problem["code"]) == (422, code), problem
    assert field in problem["param"], problem
    assert all(word in problem["detail"] for word in words), problem["detail"]
    assert api.posted == []


async def test_an_unhealthy_task_app_ends_the_job_with_the_name_of_the_error(
    api: Api, task_app: Any, ports: Any
) -> None:
    await task_app(health=500)
    job_id = await submit(api, config(ports.task_app_url))
    job = await api.ended(job_id)
    assert (job["status"], job["algorithm"]) == ("failed", "mipro")
    for word in ("task_app_health_check_failed", ports.task_app_url, "/health", "500"):
        assert word in job["error"]
    last = (await api.events(job_id))[-1]
    assert (last["type"], last["data"]["error"]) == ("prompt.learning.mipro.failed", job["error"])


async def test_a_bootstrap_that_always_fails_ends_the_job_with_the_cause(
    api: Api, task_app: Any, ports: Any, model: FaultyModel
) -> None:
    async def wrong(app: FaultyApp, visit: Visit) -> str:
        return await ask(app.http, visit.url, [{"role": "user", "content": "Something else entirely"}])

    await task_app(talk=wrong)
    job = await api.ended(await submit(api, config(ports.task_app_url)))
    assert job["status"] == "failed"
    assert "every rollout of the baseline failed" in job["error"]
    assert "prompt_not_matched" in job["error"]


# --- an early end ----------------------------------------------------------------------------------------------------


async def test_a_job_that_is_cancelled_in_the_middle_publishes_the_best_so_far(
    api: Api, task_app: Any, ports: Any, model: FaultyModel
) -> None:
    app: FaultyApp = await task_app()
    long = {"mipro.num_iterations": 1000, "mipro.rollout_budget": 100_000}
    job_id = await submit(api, config(ports.task_app_url, long))
    await api.heard(job_id, "mipro.new_incumbent")
    app.close_gate()
    await app.visited(len(app.visits) + 1)
    assert (await api.cancel(job_id))["status"] == "running"
    job = await api.ended(job_id, seconds=10)
    assert (job["status"], job["finish_reason"]) == ("cancelled", "cancelled")
    events = await api.events(job_id)
    cancelled = "prompt.learning.mipro.cancelled"
    assert [event["seq"] for event in events if event["type"] == cancelled] == [len(events)]
    snapshot = job["best_snapshot"]
    assert len(HINT.findall(snapshot["messages"][0]["content"])) > 0
    assert job["best_score"] == snapshot["best_score"]
    assert snapshot["test"] is None
    assert (await api.http.post(f"{JOBS}/{job_id}/start")).status_code == 409
