"""A job that is forked from one that is over goes on from its prompts, over HTTP, with real rollouts."""

from typing import Any

import pytest

from tests.acceptance.client import JOBS, Api, Json, config
from tests.acceptance.faulty_app import FaultyApp

pytestmark = pytest.mark.slow

MORE = {"gepa.turn_order": "fixed", "gepa.rollout.budget": 150, "gepa.max_demonstrations": 0}


async def succeeded(api: Api, job_id: str) -> Json:
    job = await api.ended(job_id)
    assert job["status"] == "succeeded", job["error"]
    return job


def texts(messages: list[Json]) -> list[str]:
    return [message["content"] for message in messages]


async def test_the_first_best_of_a_fork_is_at_least_its_parents_best_on_the_same_seeds(
    api: Api, task_app: Any, ports: Any
) -> None:
    app: FaultyApp = await task_app()
    parent = await succeeded(api, await api.submit(config(ports.task_app_url, MORE)))
    stats = parent["metadata"]["stats"]
    assert stats["best_score"] > stats["baseline_score"]
    asked = len(app.visits)
    answer = await api.http.post(f"{JOBS}/{parent['job_id']}/fork", json={"metadata": {"of": "a fork"}})
    assert answer.status_code == 200, answer.text
    job_id = answer.json()["job_id"]
    api.posted.append(job_id)
    fork = await succeeded(api, job_id)
    assert fork["parent_id"] == parent["job_id"]
    assert len(app.visits) > asked

    events = await api.events(job_id)
    began = [event["data"] for event in events if "origin" in event["data"]]
    best_of_parent = next(
        data for data in began if data["origin"] == {"job_id": parent["job_id"], "candidate_id": _best(parent)}
    )
    first = next(event["data"] for event in events if event["type"] == "prompt.learning.gepa.new_best")
    candidates = {each["candidate_id"]: each for each in await api.read(job_id, "/candidates", limit=200)}
    taken = candidates[best_of_parent["candidate_id"]]
    assert taken["operator"] == "warm_start"
    assert texts(taken["messages"]) == texts(parent["best_prompt_messages"])
    scores = scores_of(await api.read(job_id, "/trials", limit=200))
    ours, theirs = scores[first["candidate_id"]], scores[best_of_parent["candidate_id"]]
    common = ours.keys() & theirs.keys()
    assert sum(ours[seed] for seed in common) >= sum(theirs[seed] for seed in common)
    assert fork["best_score"] >= fork["metadata"]["stats"]["baseline_score"]
    assert await listed(api, f"parent_id={parent['job_id']}&metadata.of=a%20fork") == [job_id]


def _best(job: Json) -> str:
    found: str = job["metadata"]["prompt_best_snapshot"]["best_candidate_id"]
    return found


def scores_of(trials: list[Json]) -> dict[str, dict[int, float]]:
    """What each candidate has scored in the search, by seed."""
    found: dict[str, dict[int, float]] = {}
    for trial in trials:
        known = found.setdefault(trial["candidate_id"], {})
        pairs = zip(trial["seeds"], trial["scores"], strict=True)
        if trial["phase"] == "optimization":
            known |= {seed: score for seed, score in pairs if score is not None}
    return found


async def listed(api: Api, query: str) -> list[str]:
    answer = await api.http.get(f"{JOBS}?{query}")
    return [job["job_id"] for job in answer.json()]
