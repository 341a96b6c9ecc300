"""The options of a search work from the config to the provider: judge, stand-in, demonstrations, guards."""

import json
import re
from collections import Counter
from collections.abc import Callable

import pytest

from tests.acceptance.client import JOBS, SYSTEM, USER, Api, Json, config
from tests.acceptance.faulty_app import FaultyApp, Visit, in_other_words, mark
from tests.acceptance.faulty_model import HINT, POLICY, REFLECTOR, Asked, FaultyModel, adds_a_hint, says_level
from tests.acceptance.runs import calls_of

pytestmark = pytest.mark.slow

JUDGE, SMALLER = "judge", "smaller"
STRICTNESS = 0.5
"""What the judge gives of what the task app gives."""

SHORT = {"gepa.rollout.budget": 80, "gepa.evaluation.test_pool": list(range(200, 204))}
JUDGED = {
    "gepa.verifier": {
        "enabled": True,
        "reward_source": "verifier",
        "backend_provider": "toy",
        "backend_model": JUDGE,
        "weight_outcome": 1.0,
    }
}


def judged_seed(asked: Asked) -> int:
    """The seed that the judge is asked about."""
    [said] = json.loads(asked.messages[-1]["content"])["input"]
    return int(said["content"].removeprefix("Question: "))


def judges(asked: Asked) -> str:
    """Half of the right score, with a reason that nobody else gives."""
    seed, output = judged_seed(asked), json.loads(asked.messages[-1]["content"])["output"]
    return json.dumps({"score": STRICTNESS * mark(seed, output), "reason": f"no verdict like that on {seed}"})


async def succeeded(api: Api, job_id: str) -> Json:
    job = await api.ended(job_id)
    assert job["status"] == "succeeded", job["error"]
    return job


def scores_by_trial(trials: list[Json]) -> dict[tuple[str, int], float | None]:
    return {
        (trial["candidate_id"], seed): score
        for trial in trials
        for seed, score in zip(trial["seeds"], trial["scores"], strict=True)
    }


# --- the judge -------------------------------------------------------------------------------------------------------


async def test_the_judges_scores_are_the_jobs_and_its_reasons_reach_the_reflection(
    api: Api, task_app, ports, model: FaultyModel
):
    model.replies[JUDGE] = judges
    await task_app()
    job = await succeeded(api, await api.submit(config(ports.task_app_url, {**SHORT, **JUDGED})))
    trials = await api.read(job["job_id"], "/trials", limit=200)
    given = {(row["candidate_id"], row["seed"]): row["score"] for row in await api.rollouts(job["job_id"])}
    scores = scores_by_trial(trials)
    assert scores == {name: STRICTNESS * given[name] for name in scores}
    assert 0 < job["metadata"]["stats"]["baseline_score"] < job["best_score"] <= STRICTNESS
    assert len(model.of(JUDGE)) == job["metadata"]["stats"]["judge_calls"] > 0
    for reflection in model.of(REFLECTOR):
        said = reflection.messages[-1]["content"]
        assert "The judge gave 0" in said
        assert "no verdict like that on" in said
        assert "more hints" in said, "the task app's own feedback stands beside it"
    shown = [message["content"] for asked in model.of(JUDGE) for message in asked.messages]
    assert not any("Hints" in text or HINT.search(text) for text in shown), "a prompt may not plead for itself"


async def test_a_seed_on_which_the_judge_fails_is_a_failed_seed_and_no_score_of_zero(
    api: Api, task_app, ports, model: FaultyModel
):
    job_id = await api.submit(config(ports.task_app_url, {**SHORT, **JUDGED}), auto_start=False)
    lost = (await api.read(job_id, "/config"))["resolved"]["gepa"]["front_seeds"][0]
    model.replies[JUDGE] = lambda asked: "I would rather not" if judged_seed(asked) == lost else judges(asked)
    await task_app()
    assert (await api.http.post(f"{JOBS}/{job_id}/start")).status_code == 200
    job = await succeeded(api, job_id)
    asked = Counter(judged_seed(each) for each in model.of(JUDGE))
    assert asked[lost] >= 2
    opening = (await api.read(job_id, "/trials", limit=1))[0]
    assert [seed for seed, score in zip(opening["seeds"], opening["scores"], strict=True) if score is None] == [lost]
    base = opening["candidate_id"]
    [rollout] = await api.read(job_id, "/rollouts", seed=lost, candidate_id=base)
    assert rollout["score"] == mark(lost, "level 0"), "what the task app gave stays on record"
    refused = [each for each in await api.events(job_id) if each["type"] == "prompt.learning.judgement.refused"]
    assert refused
    assert refused[0]["data"]["detail"] == "I would rather not"
    [start] = [each["data"] for each in await api.events(job_id) if each["type"] == "prompt.learning.gepa.baseline"]
    assert lost not in start["seeds"]
    assert start["accuracy"] > 0
    assert job["metadata"]["prompt_best_snapshot"]["is_baseline_best"] is False


# --- the stand-in ----------------------------------------------------------------------------------------------------


async def test_screenings_ask_the_stand_in_and_what_is_published_was_measured_on_the_policys_model(
    api: Api, task_app, ports, stored, model: FaultyModel
):
    proxied = {
        "proxy_models": {"lo_provider": "toy", "lo_model": SMALLER, "n_min_hi": 5},
        "gepa.rollout.budget": 200,
        "gepa.lanes": 1,
    }
    app: FaultyApp = await task_app()
    job = await succeeded(api, await api.submit(config(ports.task_app_url, proxied)))
    assert job["metadata"]["stats"]["best_score"] > job["metadata"]["stats"]["baseline_score"]
    calls = await calls_of(stored, job["job_id"])
    lo = [call for call in calls if call["model"] == SMALLER]
    assert len(lo) == len(model.of(SMALLER)) > 8, "more than the baseline's"
    assert len(calls) - len(lo) == len(model.of(POLICY))
    assert {visit.body["policy"]["config"]["model"] for visit in app.visits} == {POLICY, SMALLER}
    assert {call["phase"] for call in lo} == {"optimization"}
    messages = {each["candidate_id"]: each["messages"] for each in await api.read(job["job_id"], "/candidates")}
    assert all(call["messages"][0] == messages[call["candidate_id"]][0] for call in lo)
    types = Counter(event["type"] for event in await api.events(job["job_id"]))
    assert types["prompt.learning.proxy.ready"] == 1
    assert types["prompt.learning.proxy.screened"] > 0
    measured = {(call["candidate_id"], call["seed"]) for call in calls if call["model"] == POLICY}
    published = job["metadata"]["prompt_best_snapshot"]
    for each in [*published["archive"], *published["validation"]]:
        assert {(each["candidate_id"], seed) for seed in each["seeds"]} <= measured


# --- demonstrations --------------------------------------------------------------------------------------------------


def follows_examples(asked: Asked) -> str:
    """A policy to whom an example is worth as much as a hint."""
    hints, examples = HINT.findall(asked.system), re.findall(r"^Output: level \d", asked.system, re.MULTILINE)
    return f"level {len(hints) + len(examples)}"


async def test_exported_demonstrations_are_byte_for_byte_what_the_provider_saw(
    api: Api, task_app, ports, stored, model: FaultyModel
):
    model.replies[POLICY] = follows_examples
    await task_app()
    changes = {"gepa.rollout.budget": 150, "gepa.max_demonstrations": 4, "gepa.lanes": 1}
    job = await succeeded(api, await api.submit(config(ports.task_app_url, changes)))
    exported, best = job["best_prompt_messages"], job["metadata"]["prompt_best_snapshot"]["best_candidate_id"]
    instruction, heading, examples = exported[0]["content"].partition("\n\n# Worked examples\n\n")
    assert instruction.startswith(SYSTEM)
    assert heading
    shown = re.fullmatch(r"(?:Input: Question: \d+\nOutput: level \d\n*){4}", examples)
    assert shown, examples
    pairs = re.findall(r"Question: (\d+)\nOutput: level (\d)", examples)
    assert all(int(seed) % 10 == int(level) for seed, level in pairs)
    assert {int(seed) for seed, _ in pairs} <= set(range(20)), "train seeds only"
    calls = [call for call in await calls_of(stored, job["job_id"]) if call["candidate_id"] == best]
    assert {call["phase"] for call in calls} >= {"validation", "test"}
    seen = {json.dumps(asked.messages) for asked in model.of(POLICY)}
    for call in calls:
        expected = [exported[0], {"role": "user", "content": USER.format(question=call["seed"])}]
        assert call["messages"] == expected
        assert json.dumps(expected) in seen


async def test_without_demonstrations_no_prompt_shows_an_example(api: Api, task_app, ports, model: FaultyModel):
    model.replies[POLICY] = follows_examples
    await task_app()
    await succeeded(api, await api.submit(config(ports.task_app_url, {**SHORT, "gepa.max_demonstrations": 0})))
    assert not any("Output:" in asked.system for asked in model.of(POLICY))


# --- guards ----------------------------------------------------------------------------------------------------------

WORDY = re.compile(r"(?:word\d+x\d+ ?){14}")


def wordy(visit: Visit) -> list[Json]:
    """A question of words that no other seed has."""
    return [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": USER.format(question=" ".join(f"word{visit.seed}x{n}" for n in range(14)))},
    ]


def leaking(every: int) -> Callable[[Asked], str]:
    """A reflector that copies an example into the instruction each so many times."""
    asked_before = Counter[str]()

    def reply(asked: Asked) -> str:
        asked_before["times"] += 1
        honest = adds_a_hint(asked)
        found = WORDY.search(asked.messages[-1]["content"])
        if found is None or asked_before["times"] % every:
            return honest
        return honest.removesuffix("```") + f"- {found[0]}\n```"

    return reply


async def test_a_proposal_that_copies_an_example_is_refused_with_an_event_and_never_tried(
    api: Api, task_app, ports, model: FaultyModel
):
    model.replies |= {REFLECTOR: leaking(every=2), POLICY: says_level}
    await task_app(talk=in_other_words(wordy))
    changes = {**SHORT, "gepa.max_demonstrations": 0, "gepa.lanes": 1, "gepa.rollout.budget": 120}
    job = await succeeded(api, await api.submit(config(ports.task_app_url, changes)))
    refused = [
        event["data"]
        for event in await api.events(job["job_id"])
        if event["type"] == "prompt.learning.proposal.refused" and event["data"]["reason"] == "leak"
    ]
    assert refused
    assert all(re.search(r"word\d+x0 word\d+x1 ", data["detail"]) for data in refused)
    assert job["metadata"]["stats"]["best_score"] > job["metadata"]["stats"]["baseline_score"]
    listed = await api.read(job["job_id"], "/candidates", limit=200)
    assert not any(WORDY.search(candidate["messages"][0]["content"]) for candidate in listed)
    assert not any(WORDY.search(asked.system) for asked in model.of(POLICY))
