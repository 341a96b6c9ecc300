"""A task app that calls its model twice in a rollout, with two prompts: both are optimized as one program."""

import re
from collections import Counter
from typing import Any

from tests.acceptance.client import Api, Json, config
from tests.acceptance.faulty_app import FaultyApp, Visit, ask
from tests.acceptance.faulty_model import REFLECTOR
from tests.acceptance.test_dialects import calls_of

PLAN, SOLVE = "You make a plan.\nHints: none.", "You carry out a plan.\nHints: none."
PLAN_USER, SOLVE_USER = "Question: {question}", "Plan: {plan}\nQuestion: {question}"
MODULES = [
    {
        "module_id": "plan",
        "messages": [{"role": "system", "pattern": PLAN}, {"role": "user", "pattern": PLAN_USER}],
        "wildcards": {"question": "REQUIRED"},
    },
    {
        "module_id": "solve",
        "messages": [{"role": "system", "pattern": SOLVE}, {"role": "user", "pattern": SOLVE_USER}],
        "wildcards": {"plan": "REQUIRED", "question": "REQUIRED"},
        "max_tokens": 4000,
        "allowed_tools": [],
        "policy": {"provider": "toy", "model": "policy"},
    },
]
PROGRAM = {
    "initial_prompt": None,
    "gepa.modules": MODULES,
    "gepa.evaluation.test_pool": None,
    "gepa.rollout.budget": 120,
    "gepa.mutation.rate": 0.0,
    "gepa.max_demonstrations": 0,
}


def hints(reply: str) -> int:
    found = re.fullmatch(r"level (\d+)", reply)
    return int(found[1]) if found else 0


async def plans_and_solves(app: FaultyApp, visit: Visit) -> str:
    """The answer is as good as the hints of both steps together, and bad where either step has none."""
    system, user = {"role": "system", "content": PLAN}, {"role": "user", "content": f"Question: {visit.seed}"}
    plan = await ask(app.http, visit.url, [system, user])
    said = SOLVE_USER.format(plan=plan, question=visit.seed)
    solution = await ask(app.http, visit.url, [{"role": "system", "content": SOLVE}, {"role": "user", "content": said}])
    return f"level {hints(plan) + hints(solution)}"


async def test_both_prompts_of_a_program_are_optimized_and_every_call_carries_its_own(
    api: Api, task_app: Any, ports: Any, stored: Any, model: Any
) -> None:
    await task_app(talk=plans_and_solves)
    job_id = await api.submit(config(ports.task_app_url, PROGRAM))
    job = await api.ended(job_id)
    assert job["status"] == "succeeded", job["error"]
    stats = job["metadata"]["stats"]
    assert (stats["failed_rollouts"], stats["bootstrap_rollouts_executed"]) == (0, 0)
    assert stats["best_score"] > stats["baseline_score"]

    best: Json = {part["module_id"]: part["messages"] for part in job["best_snapshot"]["modules"]}
    assert job["best_prompt_messages"] == [*best["plan"], *best["solve"]]
    for module, system, user in (("plan", PLAN, PLAN_USER), ("solve", SOLVE, SOLVE_USER)):
        assert best[module][0]["content"].startswith(f"{system}\n- hint"), module
        assert best[module][1] == {"role": "user", "content": user}

    candidates = {each["candidate_id"]: each["sections"] for each in await api.read(job_id, "/candidates", limit=200)}
    calls = await calls_of(stored, job_id)
    assert len(calls) == 2 * stats["total_rollouts"]
    sent = Counter()
    for call in calls:
        text = {section["name"]: section["content"] for section in candidates[call["candidate_id"]]}
        system, user = call["messages"]
        module = "plan" if user["content"].startswith("Question: ") else "solve"
        sent[module] += 1
        assert system == {"role": "system", "content": text[f"{module}/system_0"]}
        plan = re.findall(r"^Plan: (level \d+)$", user["content"], re.MULTILINE)
        form = PLAN_USER.format(question=call["seed"])
        assert user["content"] == (form if module == "plan" else SOLVE_USER.format(plan=plan[0], question=call["seed"]))
    assert sent == {"plan": stats["total_rollouts"], "solve": stats["total_rollouts"]}
    assert {(section["name"], section["module"]) for section in next(iter(candidates.values()))} == {
        (f"{module}/{name}", module) for module in ("plan", "solve") for name in ("system_0", "user_1")
    }

    reflections = [asked.messages[-1]["content"] for asked in model.of(REFLECTOR)]
    for shown in reflections:
        is_plan = PLAN in shown
        assert is_plan != (SOLVE in shown)
        assert ("### Input\nQuestion: " in shown) == is_plan
        assert ("### Input\nPlan: level " in shown) != is_plan


async def test_a_tool_that_a_module_may_not_carry_fails_the_rollout_by_name(
    api: Api, task_app: Any, ports: Any
) -> None:
    async def carries_a_tool(app: FaultyApp, visit: Visit) -> str:
        tool = {"type": "function", "function": {"name": "delete_everything", "parameters": {"type": "object"}}}
        said = SOLVE_USER.format(plan="none", question=visit.seed)
        messages = [{"role": "system", "content": SOLVE}, {"role": "user", "content": said}]
        async with app.http.post(
            f"{visit.url}/chat/completions", json={"messages": messages, "tools": [tool]}
        ) as reply:
            assert reply.status == 400
        return "level 9"

    await task_app(talk=carries_a_tool)
    job_id = await api.submit(config(ports.task_app_url, PROGRAM))
    job = await api.ended(job_id)
    assert job["status"] == "failed"
    assert "tool_not_allowed" in job["error"]
    assert "'delete_everything'" in job["error"]
