"""A MIPRO job on a program of two LLM calls: each is a stage with a prompt, examples and a model of its own."""

import re
from collections import Counter
from typing import Any

import pytest

from promptjobs.db.session import Database
from tests.acceptance.client import Api, Json
from tests.acceptance.faulty_model import HINT, POLICY, REFLECTOR, FaultyModel
from tests.acceptance.mipro_jobs import (
    SOLVER,
    STAGED,
    config,
    counts_hints_and_examples,
    submit,
    succeeded,
)
from tests.acceptance.runs import calls_of
from tests.acceptance.test_modules import PLAN, PLAN_USER, SOLVE, SOLVE_USER, plans_and_solves

pytestmark = pytest.mark.slow


def sections_of(candidate: Json, module: str) -> list[Json]:
    """The module's messages in a candidate, as its sections hold them."""
    return [
        {"role": each["role"], "content": each["content"]} for each in candidate["sections"] if each["module"] == module
    ]


async def test_both_stages_of_a_program_get_instructions_examples_and_models_of_their_own(
    api: Api, task_app: Any, ports: Any, stored: Database, model: FaultyModel
) -> None:
    model.replies |= {POLICY: counts_hints_and_examples, SOLVER: counts_hints_and_examples}
    await task_app(talk=plans_and_solves)
    job = await succeeded(api, await submit(api, config(ports.task_app_url, STAGED)))
    snapshot = job["metadata"]["prompt_best_snapshot"]
    assert snapshot["best_score"] > snapshot["baseline_score"]

    listed = {each["candidate_id"]: each for each in await api.read(job["job_id"], "/candidates", limit=200)}
    calls = await calls_of(stored, job["job_id"])
    assert len(calls) == 2 * job["metadata"]["stats"]["total_rollouts"]
    sent = Counter[tuple[str, str]]()
    for call in calls:
        said = call["messages"][-1]["content"]
        module = "plan" if said.startswith("Question: ") else "solve"
        sent[module, call["model"]] += 1
        *before, asked = sections_of(listed[call["candidate_id"]], module)
        found = re.search(r"^Plan: (level \d+)$", said, re.MULTILINE)
        content = asked["content"].replace("{question}", str(call["seed"]))
        filled_in = content.replace("{plan}", found[1]) if found else content
        assert call["messages"] == [*before, {"role": "user", "content": filled_in}]
    assert sent == {("plan", POLICY): len(calls) // 2, ("solve", SOLVER): len(calls) // 2}
    assert_own_instructions_and_examples(listed.values(), snapshot)
    for shown in (asked.messages[-1]["content"] for asked in model.of(REFLECTOR)):
        assert "`plan` → `solve`" in shown or "plan → solve" in shown
        assert PLAN.splitlines()[0] in shown
        assert SOLVE.splitlines()[0] in shown


def assert_own_instructions_and_examples(candidates: Any, snapshot: Json) -> None:
    """Banks, examples and payloads are kept by stage; modules of the published prompt are theirs."""
    changed = set()
    for candidate in candidates:
        for module, instruction in (("plan", PLAN), ("solve", SOLVE)):
            system, *shown, _ = sections_of(candidate, module)
            assert system["content"].startswith(instruction)
            assert [each["role"] for each in shown] == ["user", "assistant"] * (len(shown) // 2)
            first = "Question: " if module == "plan" else "Plan: "
            assert all(each["content"].startswith(first) for each in shown[::2])
            changed |= {(module, "text")} if HINT.search(system["content"]) else set()
            changed |= {(module, "examples")} if shown else set()
    assert changed == {(module, what) for module in ("plan", "solve") for what in ("text", "examples")}
    examples = snapshot["bootstrap"]["few_shot_examples"]
    right = {0, 10, 40, 50, 60}
    assert {name: {each["seed"] for each in pool} for name, pool in examples.items()} == {"plan": right, "solve": right}
    assert {each["stage_id"] for each in snapshot["instruction_bank"]} == {"plan", "solve"}
    payloads = snapshot["best_candidate"]["stage_payloads"]
    assert {name: payload["module_id"] for name, payload in payloads.items()} == dict.fromkeys(
        ("plan", "solve"), "pipeline"
    )
    modules = {part["module_id"]: part["messages"] for part in snapshot["modules"]}
    assert snapshot["messages"] == [*modules["plan"], *modules["solve"]]
    assert modules["plan"][-1] == {"role": "user", "content": PLAN_USER}
    assert modules["solve"][-1] == {"role": "user", "content": SOLVE_USER}
