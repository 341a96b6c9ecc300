"""The options of a MIPRO search work from the config to the provider: judge, stand-in, examples as text, limits."""

import json
import re
from collections import Counter
from typing import Any

import pytest

from promptjobs.db.session import Database
from tests.acceptance.client import SYSTEM, USER, Api, Json
from tests.acceptance.faulty_model import HINT, POLICY, REFLECTOR, Asked, FaultyModel, says_level
from tests.acceptance.mipro_jobs import BOOTSTRAP, TEST, VALIDATION, config, submit, succeeded
from tests.acceptance.runs import calls_of
from tests.acceptance.test_search_options import JUDGE, SMALLER, STRICTNESS, follows_examples, judges, scores_by_trial

pytestmark = pytest.mark.slow

VERIFIER = {
    "enabled": True,
    "reward_source": "verifier",
    "backend_provider": "toy",
    "backend_model": JUDGE,
    "weight_outcome": 1.0,
}


async def test_the_judges_scores_are_the_jobs_and_its_reasons_reach_the_meta_model(
    api: Api, task_app: Any, ports: Any, model: FaultyModel
) -> None:
    model.replies[JUDGE] = judges
    await task_app()
    changes = {"mipro.verifier": VERIFIER, "mipro.num_iterations": 1}
    job = await succeeded(api, await submit(api, config(ports.task_app_url, changes)))
    given = {(row["candidate_id"], row["seed"]): row["score"] for row in await api.rollouts(job["job_id"])}
    scores = scores_by_trial(await api.read(job["job_id"], "/trials", limit=200))
    assert scores == {name: STRICTNESS * given[name] for name in scores}
    assert job["metadata"]["stats"]["baseline_score"] < job["best_score"] <= STRICTNESS
    proposals = [asked.messages[-1]["content"] for asked in model.of(REFLECTOR)]
    assert proposals
    assert all("no verdict like that on" in shown and "more hints" in shown for shown in proposals)


async def test_minibatches_ask_the_stand_in_and_what_is_published_was_measured_on_the_policys_model(
    api: Api, task_app: Any, ports: Any, stored: Database, model: FaultyModel
) -> None:
    await task_app()
    changes = {"proxy_models": {"lo_provider": "toy", "lo_model": SMALLER}, "mipro.rollout_budget": 160}
    job = await succeeded(api, await submit(api, config(ports.task_app_url, changes)))
    calls = await calls_of(stored, job["job_id"])
    asked = Counter((call["model"], call["phase"]) for call in calls)
    assert asked[SMALLER, "bootstrap"] == asked[POLICY, "bootstrap"] == len(BOOTSTRAP)
    assert asked[SMALLER, "optimization"] > asked[POLICY, "optimization"]
    assert {phase for name, phase in asked if name == SMALLER} == {"bootstrap", "optimization"}
    types = Counter(event["type"] for event in await api.events(job["job_id"]))
    assert types["prompt.learning.proxy.ready"] == 1
    assert types["prompt.learning.proxy.screened"] > 0
    measured = {(call["candidate_id"], call["seed"]) for call in calls if call["model"] == POLICY}
    snapshot = job["metadata"]["prompt_best_snapshot"]
    for each in [*snapshot["archive"], *snapshot["validation"]]:
        assert {(each["candidate_id"], seed) for seed in each["seeds"]} <= measured
    assert len(HINT.findall(snapshot["messages"][0]["content"])) > 0


async def test_examples_as_text_are_byte_for_byte_what_the_provider_saw(
    api: Api, task_app: Any, ports: Any, stored: Database, model: FaultyModel
) -> None:
    model.replies[POLICY] = follows_examples
    await task_app()
    changes = {"mipro.demo_format": "text", "mipro.max_instruction_sets": 0, "mipro.max_demo_set_size": 8}
    job = await succeeded(api, await submit(api, config(ports.task_app_url, changes)))
    snapshot = job["metadata"]["prompt_best_snapshot"]
    assert model.of(REFLECTOR) == [], "nothing is proposed"
    [system, user] = snapshot["messages"]
    assert user["content"] == USER
    assert system["content"].startswith(f"{SYSTEM}\n\n# Worked examples\n\n")
    shown = [
        (int(seed), int(level)) for seed, level in re.findall(r"Question: (\d+)\nOutput: level (\d)", system["content"])
    ]
    assert {seed for seed, _ in shown} <= set(BOOTSTRAP)
    assert all(seed % 10 == level for seed, level in shown)
    pool = snapshot["bootstrap"]["few_shot_examples"]["stage_default"]
    assert [seed for seed, _ in shown] == [pool[index]["seed"] for index in snapshot["best_candidate"]["demo_indices"]]
    sent = [
        call for call in await calls_of(stored, job["job_id"]) if call["candidate_id"] == snapshot["best_candidate_id"]
    ]
    assert {call["seed"] for call in sent} >= {*VALIDATION, *TEST}
    for call in sent:
        assert call["messages"] == [system, {"role": "user", "content": USER.format(question=call["seed"])}]


async def test_a_limit_on_tokens_ends_the_search_before_it_is_passed(
    api: Api, task_app: Any, ports: Any, model: FaultyModel
) -> None:
    await task_app()
    free = await succeeded(api, await submit(api, config(ports.task_app_url)))
    used = free["metadata"]["stats"]["total_tokens"]
    limit = used * 2 // 3
    job = await succeeded(api, await submit(api, config(ports.task_app_url, {"mipro.max_token_limit": limit})))
    assert job["finish_reason"] == "token_budget"
    assert job["metadata"]["stats"]["total_tokens"] <= limit
    assert job["metadata"]["prompt_best_snapshot"]["validation_summary"]["best"] is not None
    told = [event["data"] for event in await api.events(job["job_id"]) if event["type"] == "mipro.budget.update"]
    assert told[-1]["max_token_limit"] == limit


def proposes_programs(asked: Asked) -> str:
    """A meta-model that changes texts by program; the builtin mode asks for a JSON array."""
    program = "for m in messages:\n    if m['role'] == 'system':\n        m['content'] += '\\n- hint by program'"
    return f"```\n{json.dumps([{'type': 'python', 'text': program}])}\n```"


@pytest.mark.parametrize("is_allowed", [True, False])
async def test_programs_are_run_where_they_are_allowed_and_never_sent(
    api: Api, task_app: Any, ports: Any, model: FaultyModel, is_allowed: bool
) -> None:
    model.replies |= {REFLECTOR: proposes_programs, POLICY: says_level}
    await task_app()
    changes: Json = {"mipro.allow_python": is_allowed, "mipro.proposer_mode": "builtin", "mipro.max_demo_sets": 0}
    job = await succeeded(api, await submit(api, config(ports.task_app_url, {**changes, "mipro.num_iterations": 1})))
    snapshot = job["metadata"]["prompt_best_snapshot"]
    events = await api.events(job["job_id"])
    refused = [each["data"]["reason"] for each in events if each["type"] == "prompt.learning.proposal.refused"]
    wanted = f"{SYSTEM}\n- hint by program" if is_allowed else SYSTEM
    assert snapshot["messages"][0]["content"] == wanted
    assert ("python_off" in refused) is not is_allowed
    assert not any("for m in messages" in asked.system for asked in model.of(POLICY))
