"""Runs the service's own search on a task without database and clock: a simulation of time that orders the answers.

Rollouts wait for one of the slots, reflections have room of their own; what finishes first in virtual time is delivered
first, so scores are those of real concurrency.
"""

import heapq
import time
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from promptjobs.core.asks import (
    DESCRIPTION,
    Answer,
    Ask,
    Body,
    CandidateFact,
    Completion,
    CompletionBody,
    Fact,
    Key,
    Recall,
    Rollout,
    RolloutBody,
)
from promptjobs.core.config import JobConfig, resolve
from promptjobs.core.lanes import Lanes, Outcome, distinct
from promptjobs.core.optimizers import optimizer_of
from promptjobs.core.prompt import PromptTemplate, full_text, render
from promptjobs.core.trial import Phase

from .chance import share
from .worlds import Task, messages_for, play, score, template_of

ROLLOUT_SECONDS, REFLECTION_SECONDS, JITTER, SLOTS = 0.05, 1.0, 0.2, 64
BOOTSTRAP = 20
"""Training seeds of MIPRO's bootstrap; the others are its online pool."""

USD_PER_MILLION = (0.1, 0.4)
TOKENS_PER_WORD = 1.35


@dataclass(frozen=True)
class Run:
    """What one run has found and spent.

    test, validation: mean scores of the prompt, measured apart from the search. claimed: the search's own figure.
    prompt: all messages as one text; template: the same as the core's prompt. depth: steps from the baseline to it.
    """

    test: float
    validation: float
    rollouts: int
    meta_calls: int
    virtual_seconds: float
    prompt: str
    template: PromptTemplate
    claimed: float | None = None
    cpu_seconds: float = 0.0
    finish_reason: str = ""
    depth: int = 0
    result: Any = field(default=None, repr=False)


def job_config(
    task: Task, budget: int, seed: int, overrides: Mapping[str, Any] | None = None, algorithm: str = "gepa"
) -> JobConfig:
    """The default config with the task's prompt and seeds. overrides: paths below `prompt_learning`."""
    config: dict[str, Any] = {
        "algorithm": algorithm,
        "task_app_url": "http://127.0.0.1:8701",
        "policy": {"provider": "local", "model": "policy"},
        "initial_prompt": {
            "messages": [
                {"role": "system", "pattern": task.baseline},
                {"role": "user", "pattern": task.user_pattern},
            ],
            "wildcards": {"input": "REQUIRED"},
        },
    }
    for path, value in {**PATHS[algorithm](task, budget, seed), **(overrides or {})}.items():
        *tables, last = path.split(".")
        target = config
        for table in tables:
            target = target.setdefault(table, {})
        target[last] = value
    return resolve(algorithm, {"prompt_learning": config}, {}).config


def _gepa_paths(task: Task, budget: int, seed: int) -> dict[str, Any]:
    return {
        "gepa.evaluation.train_seeds": list(task.splits.train),
        "gepa.evaluation.validation_seeds": list(task.splits.validation),
        "gepa.rollout.budget": budget,
        "gepa.rng_seed": seed,
        "gepa.mutation.llm_model": "reflector",
    }


def _mipro_paths(task: Task, budget: int, seed: int) -> dict[str, Any]:
    return {
        "bootstrap_train_seeds": list(task.splits.train[:BOOTSTRAP]),
        "online_pool": list(task.splits.train[BOOTSTRAP:]),
        "val_seeds": list(task.splits.validation),
        "mipro.rollout_budget": budget,
        "mipro.rng_seed": seed,
        "mipro.meta_model": "reflector",
        "mipro.meta_model_provider": "local",
    }


PATHS: Mapping[str, Callable[[Task, int, int], dict[str, Any]]] = {"gepa": _gepa_paths, "mipro": _mipro_paths}
"""How each algorithm is told of a task's seeds, the budget and the seed of the search."""


def run_ours(
    task: Task,
    budget: int,
    seed: int = 0,
    overrides: Mapping[str, Any] | None = None,
    lanes: int | None = None,
    slots: int = SLOTS,
    algorithm: str = "gepa",
) -> Run:
    """One run of the service's search; deterministic. lanes: shorthand for the override of `gepa.lanes`."""
    changes = dict(overrides or {}) | ({} if lanes is None else {"gepa.lanes": lanes})
    config = job_config(task, budget, seed, changes, algorithm)
    started = time.process_time()
    drive = Drive(task, config, seed, slots)
    result = drive.run()
    used = time.process_time() - started
    template = result.best.prompt if result.best is not None else template_of(task, task.baseline)
    measured = result.validation.best_score if result.validation is not None else None
    return Run(
        test=score(task, template, task.splits.test),
        validation=score(task, template, task.splits.validation),
        rollouts=drive.rollouts,
        meta_calls=drive.completions,
        virtual_seconds=drive.now,
        prompt=full_text(render(template)),
        template=template,
        claimed=None if measured is None else measured.mean,
        cpu_seconds=used,
        finish_reason=result.finish_reason,
        depth=0 if result.best is None else result.best.generation,
        result=result,
    )


class Drive:
    """One search from its start to its result. now: virtual seconds."""

    def __init__(self, task: Task, config: JobConfig, salt: int = 0, slots: int = SLOTS) -> None:
        self.task = task
        self.salt = salt
        self.optimizer = optimizer_of(config)
        self.lanes = Lanes(self.optimizer, config.search.rng_seed)
        self.is_fixed = config.search.turn_order == "fixed"
        self.now = 0.0
        self.rollouts = 0
        self.completions = 0
        self.facts: list[Fact] = []
        self._templates: dict[str, PromptTemplate] = {}
        self._answers: dict[Key, tuple[Answer, Body]] = {}
        self._sent: set[Key] = set()
        self._waiting: deque[Rollout] = deque()
        self._free = slots
        self._finishing: list[tuple[float, int, Ask]] = []
        self._numbers = 0
        self._missing: dict[str, set[Key]] = {}
        self._wanted_by: dict[Key, list[str]] = {}
        self._ready: deque[str] = deque()

    def run(self) -> Any:
        self._take(self.lanes.start())
        while not self.lanes.has_ended:
            while (path := self._next_lane()) is None:
                self._finish_one()
            told = [self._answers[ask.key][0] for ask in self.lanes.open[path].waiting]
            self._take(self.lanes.resume(path, told))
        return self.lanes.result

    def _next_lane(self) -> str | None:
        if not self.is_fixed:
            return self._ready.popleft() if self._ready else None
        path = self.lanes.next_in_fixed_order().path
        return path if not self._missing[path] else None

    def _take(self, turning: Generator[Recall, Any, Outcome]) -> None:
        try:
            recall = next(turning)
            while True:
                recall = turning.send([self._answers[key][1] for key in recall.keys])
        except StopIteration as end:
            outcome: Outcome = end.value
        for fact in outcome.facts:
            if isinstance(fact, CandidateFact):
                self._templates[fact.candidate.candidate_id] = fact.candidate.template
        self.facts += outcome.facts
        for lane in outcome.opened:
            self._open(lane.path, distinct(lane.waiting))

    def _open(self, path: str, asks: Mapping[Key, Ask]) -> None:
        missing = self._missing[path] = {key for key in asks if key not in self._answers}
        if not missing:
            self._ready.append(path)
        for key in asks:
            if key in missing:
                self._wanted_by.setdefault(key, []).append(path)
        for key, ask in asks.items():
            if key not in self._sent:
                self._sent.add(key)
                self._send(ask)

    def _send(self, ask: Ask) -> None:
        if isinstance(ask, Rollout):
            self.rollouts += ask.phase is not Phase.TEST
            self._waiting.append(ask)
            self._fill_slots()
        else:
            is_model = ask.purpose != DESCRIPTION
            self.completions += is_model
            self._start(ask, REFLECTION_SECONDS if is_model else 0.0)

    def _fill_slots(self) -> None:
        while self._waiting and self._free:
            self._free -= 1
            self._start(self._waiting.popleft(), ROLLOUT_SECONDS)

    def _start(self, ask: Ask, seconds: float) -> None:
        self._numbers += 1
        lasts = seconds * (1 - JITTER + 2 * JITTER * share("lasts", self.salt, ask.key.hex()))
        heapq.heappush(self._finishing, (self.now + lasts, self._numbers, ask))

    def _finish_one(self) -> None:
        assert self._finishing, "the search waits, and nothing is under way"
        before = self.now
        self.now, _, ask = heapq.heappop(self._finishing)
        assert self.now >= before
        self._answers[ask.key] = self._answer(ask)
        if isinstance(ask, Rollout):
            self._free += 1
            self._fill_slots()
        for path in self._wanted_by.pop(ask.key, []):
            missing = self._missing[path]
            missing.discard(ask.key)
            if not missing:
                self._ready.append(path)

    # --- the world ---------------------------------------------------------------------------------------------------

    def _answer(self, ask: Ask) -> tuple[Answer, Body]:
        if isinstance(ask, Completion):
            return completed(self.task, ask, self.salt)
        return played(self.task, self._templates[ask.candidate_id], ask)


# --- the world -------------------------------------------------------------------------------------------------------


def completed(task: Task, ask: Completion, salt: int) -> tuple[Answer, Body]:
    """By the reflection model; the description of the task is the task's own."""
    if ask.purpose == DESCRIPTION:
        return Answer(ask.key), CompletionBody(task.description, "stop")
    shown = [(message.role, message.content) for message in ask.messages]
    text = task.reflect(shown, ask.model.temperature, ask.draw, salt)
    prompt, completion, cost = _usage([content for _, content in shown], text)
    answer = Answer(ask.key, None, None, prompt, completion, 0, cost, REFLECTION_SECONDS)
    return answer, CompletionBody(text, "stop")


def played(task: Task, template: PromptTemplate, ask: Rollout) -> tuple[Answer, Body]:
    messages = messages_for(task, template, ask.seed)
    found = play(task, messages, ask.seed, ask.draw if task.samples else 0)
    prompt, completion, cost = _usage([message.content for message in messages], found.output)
    answer = Answer(ask.key, found.score, None, prompt, completion, 0, cost, ROLLOUT_SECONDS)
    return answer, RolloutBody(messages, found.output, found.feedback, found.expected)


def _usage(shown: Sequence[str], said: str) -> tuple[int, int, float]:
    """Prompt tokens, completion tokens, and their price in USD."""
    prompt = round(TOKENS_PER_WORD * sum(len(text.split()) for text in shown))
    completion = round(TOKENS_PER_WORD * len(said.split()))
    return prompt, completion, (prompt * USD_PER_MILLION[0] + completion * USD_PER_MILLION[1]) / 1e6
