"""Seconds on the wall clock: 1,500 rollouts of 50 ms, reflections of 1 s, 64 slots; ours with its journal in Postgres.

The reference's adapter evaluates in a pool of 64 threads, several batches at once where its setting has them, and its
reflections of one iteration run side by side.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import uvloop
from gepa.core.adapter import EvaluationBatch
from gepa.strategies.proposal_sampling import PxNSampling

from common import Machine, machine, postgres_server, postgres_version, print_json, print_table, schema
from journal_load import claimed, connections_of, writer_of
from promptjobs.core.asks import DESCRIPTION, Ask, CandidateFact, Completion, Fact
from promptjobs.core.config import JobConfig
from promptjobs.core.optimizers import optimizer_of
from promptjobs.core.prompt import PromptTemplate
from promptjobs.db.journal import AnswerRecord, TokenRecord, body_text
from promptjobs.db.session import Database
from promptjobs.jobs.runner import Run as JobRun

from .driving import REFLECTION_SECONDS, ROLLOUT_SECONDS, SLOTS, completed, job_config, played
from .museum import CONVENTIONS
from .reference import Adapter, run_reference
from .worlds import Task, score, template_of

BUDGET = 1_500
STOPS = {"gepa.population.num_generations": 100_000, "gepa.population.patience_generations": 100_000}
"""So that the budget ends the search, as it does the reference's."""

SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "ours, defaults": {},
    "ours, 1 lane": {"gepa.lanes": 1},
    "ours, wide: 32 lanes, depth 1": {"gepa.lanes": 32, "gepa.lane_depth": 1},
}


# --- ours ------------------------------------------------------------------------------------------------------------


class SleepingWorld:
    """The task, whose answers take as long as those of a model."""

    def __init__(self, task: Task, salt: int, reflection_seconds: float = REFLECTION_SECONDS) -> None:
        self.task = task
        self.salt = salt
        self.reflection_seconds = reflection_seconds
        self.rollouts = 0
        self.completions = 0
        self._templates: dict[str, PromptTemplate] = {}

    def observe(self, facts: Sequence[Fact]) -> None:
        for fact in facts:
            if isinstance(fact, CandidateFact):
                self._templates[fact.candidate.candidate_id] = fact.candidate.template

    def tokens(self, asks: Sequence[Ask]) -> list[TokenRecord]:
        return []

    async def answer(self, ask: Ask) -> AnswerRecord:
        if isinstance(ask, Completion):
            answer, body = completed(self.task, ask, self.salt)
            if ask.purpose != DESCRIPTION:
                self.completions += 1
                await asyncio.sleep(self.reflection_seconds)
            return AnswerRecord(ask, answer, body_text(body), finish_reason="stop")
        self.rollouts += 1
        await asyncio.sleep(ROLLOUT_SECONDS)
        answer, body = played(self.task, self._templates[ask.candidate_id], ask)
        return AnswerRecord(ask, answer, body_text(body))


async def ours(database: Database, config: JobConfig, world: SleepingWorld, slots: int = SLOTS) -> dict[str, float]:
    claim, task, connections = await claimed(database), world.task, connections_of(database)
    run = JobRun(
        job_id=claim.job_id,
        connections=connections,
        make_writer=lambda next_n: writer_of(connections, claim, next_n),
        world=world,
        make_optimizer=lambda: optimizer_of(config),
        rng_seed=config.search.rng_seed,
        turn_order=config.search.turn_order,
        slots=slots,
    )
    started, cpu = time.perf_counter(), time.process_time()
    result = await run.run()
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    template = result.best.prompt if result.best is not None else template_of(task, task.baseline)
    depth = 0 if result.best is None else result.best.generation
    return _figures(seconds, cpu, score(task, template, task.splits.test), world.rollouts, world.completions, depth)


# --- the reference ---------------------------------------------------------------------------------------------------


class SleepingAdapter(Adapter):
    """Every rollout waits in a thread of the pool. It is the reflection model, too, one that takes several prompts."""

    total_cost = 0.0

    def __init__(self, task: Task, pool: ThreadPoolExecutor) -> None:
        super().__init__(task)
        self._pool = pool

    def evaluate(self, batch: list[int], candidate: dict[str, str], capture_traces: bool = False) -> Any:
        list(self._pool.map(lambda _: time.sleep(ROLLOUT_SECONDS), batch))
        return super().evaluate(batch, candidate, capture_traces)

    def batch_evaluate(self, items: list[tuple[dict[str, str], list[int]]]) -> list[EvaluationBatch[Any, Any]]:
        everything = [seed for _, batch in items for seed in batch]
        list(self._pool.map(lambda _: time.sleep(ROLLOUT_SECONDS), everything))
        return [super(SleepingAdapter, self).evaluate(batch, candidate, True) for candidate, batch in items]

    def reflect(self, prompt: Any) -> str:
        time.sleep(REFLECTION_SECONDS)
        return super().reflect(prompt)

    @property
    def reflection_model(self) -> Any:
        return self

    def __call__(self, prompt: Any) -> str:
        return self.reflect(prompt)

    def batch_complete(self, prompts: list[Any], **_: Any) -> list[str]:
        """The reflections of one iteration side by side, which the reference asks for where the model offers it."""
        time.sleep(REFLECTION_SECONDS)
        texts = [prompt if isinstance(prompt, str) else prompt[-1]["content"] for prompt in prompts]
        return [super(SleepingAdapter, self).reflect(text) for text in texts]


def reference(task: Task, seed: int, **settings: Any) -> dict[str, float]:
    with ThreadPoolExecutor(SLOTS) as pool:
        adapter = SleepingAdapter(task, pool)
        started, cpu = time.perf_counter(), time.process_time()
        found = run_reference(task, BUDGET, seed, adapter, **settings)
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    return _figures(seconds, cpu, found.test, found.rollouts, found.meta_calls, found.depth)


def _figures(seconds: float, cpu: float, test: float, rollouts: int, meta_calls: int, depth: int) -> dict[str, float]:
    figures = {"seconds": seconds, "cpu": cpu, "score": test, "rollouts": rollouts}
    return {**figures, "meta_calls": meta_calls, "depth": depth}


# --- both ------------------------------------------------------------------------------------------------------------


def report_wall(overrides: Mapping[str, Any], seed: int = 0) -> None:
    task = CONVENTIONS
    figures: dict[str, dict[str, float]] = {}
    with postgres_server() as server:

        async def all_of_ours() -> Machine:
            async with schema(server.url) as database:
                for name, changes in SETTINGS.items():
                    config = job_config(task, BUDGET, seed, {**STOPS, **overrides, **changes})
                    figures[name] = await ours(database, config, SleepingWorld(task, seed))
                return machine(await postgres_version(database))

        here = uvloop.run(all_of_ours())
    figures["gepa 0.1.4, defaults"] = reference(task, seed)
    figures["gepa 0.1.4, 4×4"] = reference(task, seed, sampling_strategy=PxNSampling(4, 4))
    lasting = f"rollouts of {ROLLOUT_SECONDS * 1e3:.0f} ms, reflections of {REFLECTION_SECONDS:g} s"
    print(f"{BUDGET:,} {lasting}, {SLOTS} slots; {here}")
    print_table(
        ["", "seconds", "CPU s", "held-out score", "rollouts", "meta calls", "lineage depth"],
        [[name, *found.values()] for name, found in figures.items()],
    )
    print_json("gepa_wall", here, figures)
