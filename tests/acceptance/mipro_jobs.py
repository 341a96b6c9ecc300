"""Small MIPRO jobs with the toy task app, and a policy model to whom instructions and examples are both of use."""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from tests.acceptance.client import PROMPT, Api, Json
from tests.acceptance.faulty_model import HINT, Asked
from tests.acceptance.test_modules import PLAN, PLAN_USER, SOLVE, SOLVE_USER
from tests.fakes.config_bodies import mipro_body

BOOTSTRAP, ONLINE, VALIDATION, TEST = range(10), range(20, 36), range(100, 105), range(200, 208)

SMALL: Mapping[str, Any] = {
    "policy": {"provider": "toy", "model": "policy"},
    "initial_prompt": PROMPT,
    "mipro.rng_seed": 1,
    "mipro.meta": {"provider": "toy", "model": "reflector"},
    "mipro.rollout_budget": 120,
    "mipro.max_concurrent": 8,
    "mipro.num_iterations": 3,
    "mipro.num_evaluations_per_iteration": 4,
    "mipro.batch_size": 8,
    "mipro.seeds": {
        "bootstrap": list(BOOTSTRAP),
        "online": list(ONLINE),
        "validation": list(VALIDATION),
        "test": list(TEST),
    },
}
"""A job of about 120 rollouts and 20 calls of the meta-model."""

SOLVER = "solver"
STAGES = [
    {
        "stage_id": "plan",
        "baseline_messages": [{"role": "system", "content": PLAN}, {"role": "user", "content": PLAN_USER}],
        "wildcards": {"question": "REQUIRED"},
    },
    {
        "stage_id": "solve",
        "baseline_messages": [{"role": "system", "content": SOLVE}, {"role": "user", "content": SOLVE_USER}],
        "wildcards": {"plan": "REQUIRED", "question": "REQUIRED"},
        "policy": {"provider": "toy", "model": SOLVER},
    },
]
STAGED: Mapping[str, Any] = {
    "initial_prompt": None,
    "mipro.modules": [{"module_id": "pipeline", "stages": STAGES, "edges": [["plan", "solve"]]}],
    "mipro.seeds": {
        "bootstrap": [0, 10, 40, 50, 60, 3, 4, 5],
        "online": list(ONLINE),
        "validation": list(VALIDATION),
    },
}
"""A job whose task app talks as `plans_and_solves` does; its second stage has a model of its own."""


def config(task_app_url: str, changes: Mapping[str, Any] | None = None) -> Json:
    """The config body of a small job, with values set at paths below `prompt_learning`."""
    return mipro_body(deepcopy({**SMALL, "task_app_url": task_app_url, **(changes or {})}))


async def submit(api: Api, config_body: Json, **more: Any) -> str:
    """The id of a job that was accepted."""
    return await api.submit(config_body, algorithm="mipro", **more)


async def succeeded(api: Api, job_id: str) -> Json:
    """The job once it has succeeded, without a failed rollout."""
    job = await api.ended(job_id)
    assert job["status"] == "succeeded", job["error"]
    assert job["metadata"]["stats"]["failed_rollouts"] == 0
    return job


def counts_hints_and_examples(asked: Asked) -> str:
    """A policy to whom two worked examples, as messages, are worth a hint each."""
    examples = sum(message["role"] == "assistant" for message in asked.messages)
    return f"level {len(HINT.findall(asked.system)) + min(2, examples)}"
