"""Seconds on the wall clock: DSPy's light setting and ours at equal rollouts, every call 50 ms, 16 slots.

DSPy runs in 16 threads, as its users have it; ours through the service's runner with its journal in Postgres. In both,
every rollout and every call of the meta-model sleeps its 50 ms.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import uvloop

from common import Machine, machine, postgres_server, postgres_version, print_json, print_table, schema

from .driving import job_config
from .dspy_peers import replies, template_of_program
from .museum import CONVENTIONS
from .wall import SleepingWorld, ours
from .worlds import score

SECONDS, SLOTS, VALIDATION = 0.05, 16, 100
"""Of a call; at a time; seeds of the validation, DSPy's light setting's own."""

ENDLESS = {"mipro.num_iterations": 1_000}
"""So that the budget ends the search."""


def report_wall(python: Path, overrides: Mapping[str, Any], seed: int = 0) -> None:
    """Twice: without DSPy's cache, when each of its evaluations is a call, and with it."""
    task = CONVENTIONS
    job = {"task": task.name, "budget": 0, "seed": seed, "auto": "light", "threads": SLOTS, "seconds": SECONDS}
    jobs = [{**job, "validation": VALIDATION, "cache": cache} for cache in (False, True)]
    figures: dict[str, dict[str, float]] = {}
    with postgres_server() as server:
        for name, theirs in zip(("no cache", "its cache"), replies(python, jobs), strict=True):
            template = template_of_program(task, theirs.instruction, theirs.demos)
            found = _figures(theirs.seconds, theirs.rollouts, theirs.meta_calls)
            figures[f"dspy.MIPROv2, light, {name}"] = found | {"score": score(task, template, task.splits.test)}
            ran, here = uvloop.run(_ours(server.url, theirs.rollouts, seed, overrides))
            figures[f"ours, at most {theirs.rollouts} rollouts"] = ran
    print(f"every call {SECONDS * 1e3:.0f} ms, {SLOTS} slots; ideal: all calls of the run, {SLOTS} at a time; {here}")
    columns = ["seconds", "ideal", "rollouts", "meta_calls", "score"]
    print_table(["", *columns], [[name, *(found[column] for column in columns)] for name, found in figures.items()])
    print_json("mipro_wall", here, figures)


async def _ours(url: str, budget: int, seed: int, overrides: Mapping[str, Any]) -> tuple[dict[str, float], Machine]:
    task, first = CONVENTIONS, CONVENTIONS.splits.validation[0]
    seeds = {"val_seeds": list(range(first, first + VALIDATION))}
    config = job_config(task, budget, seed, {**seeds, **ENDLESS, **overrides}, "mipro")
    async with schema(url) as database:
        found = await ours(database, config, SleepingWorld(task, seed, SECONDS), SLOTS)
        shown = _figures(found["seconds"], int(found["rollouts"]), int(found["meta_calls"]))
        return shown | {"score": found["score"], "cpu": found["cpu"]}, machine(await postgres_version(database))


def _figures(seconds: float, rollouts: int, meta_calls: int) -> dict[str, float]:
    ideal = SECONDS * (rollouts + meta_calls) / SLOTS
    return {"seconds": seconds, "ideal": ideal, "rollouts": rollouts, "meta_calls": meta_calls}
