"""Runs dspy.MIPROv2 on tasks: a program for the peers' environment that reads jobs and writes runs, a JSON line each.

DSPy's own settings, its cache and its threads are as a user of it would have them; models are called in this process,
through an engine of its LM. What is returned of the best program is its instruction and its demonstrations: they are
scored elsewhere, by the ruler that scores ours.
"""

import json
import logging
import math
import os
import sys
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from . import TASKS, Task
from .dspy_messages import INPUT, OUTPUT, conversation, wrapped
from .dspy_proposer import proposer_reply

TRIES = 4
"""Runs in which the number of trials is fitted to the budget."""


@dataclass(frozen=True, slots=True)
class Job:
    """budget: rollouts at most; 0 where `auto` decides. seconds: that every call lasts. threads: of DSPy's evaluation.

    candidates, minibatch, labeled, threshold: DSPy's num_candidates, minibatch_size, max_labeled_demos and
    metric_threshold. validation: how many validation seeds, None for the task's own. cache: whether DSPy's is on.
    """

    task: str
    budget: int
    seed: int
    auto: str | None = None
    candidates: int = 0
    minibatch: int = 0
    labeled: int = 4
    threshold: float | None = None
    threads: int = 1
    seconds: float = 0.0
    validation: int | None = None
    cache: bool = True


@dataclass(frozen=True, slots=True)
class Found:
    """rollouts: calls of the policy model. repeated: answers from DSPy's cache. claimed: on validation, in [0, 1]."""

    instruction: str
    demos: Sequence[tuple[str, str]]
    claimed: float
    rollouts: int
    repeated: int
    meta_calls: int
    trials: int
    seconds: float


class Engine:
    """A simulated model behind DSPy's LM. A request that comes again gets another draw."""

    def __init__(self, reply: Callable[[list[tuple[str, str]], int], str], seconds: float) -> None:
        self.calls = 0
        self._reply = reply
        self._seconds = seconds
        self._draws: Counter[tuple[tuple[str, str], ...]] = Counter()
        self._lock = threading.Lock()

    def complete(self, request: Any) -> Any:
        from dspy.lm15 import Message, Response, TextPart, Usage

        system = [("system", request.system)] if request.system is not None else []
        messages = [*system, *((message.role, message.text or "") for message in request.messages)]
        with self._lock:
            self.calls += 1
            draw = self._draws[tuple(messages)]
            self._draws[tuple(messages)] += 1
        if self._seconds:
            time.sleep(self._seconds)
        said = Message.assistant([TextPart(self._reply(messages, draw))])
        none = Usage(input_tokens=0, output_tokens=0, total_tokens=0)
        return Response(id=None, model=request.model, message=said, finish_reason="stop", usage=none)


class Meter:
    """DSPy's metric: the task's score. graded: answers so far, those of the cache included."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.graded = 0
        self._lock = threading.Lock()

    def __call__(self, example: Any, prediction: Any, trace: Any = None) -> float:
        with self._lock:
            self.graded += 1
        return self.task.grade(example.seed, prediction[OUTPUT] or "").score


def policy(task: Task) -> Callable[[list[tuple[str, str]], int], str]:
    return lambda messages, draw: wrapped({OUTPUT: task.answer(conversation(messages), draw if task.samples else 0)})


def prompt_model(seed: int) -> Callable[[list[tuple[str, str]], int], str]:
    return lambda messages, draw: proposer_reply(messages, draw, seed)


def examples(task: Task, seeds: Sequence[int]) -> list[Any]:
    """Inputs with their right answers; the seed is no field of the program."""
    import dspy

    shown = [(seed, task.user_pattern.replace("{input}", task.input(seed)), task.expected(seed)) for seed in seeds]
    return [dspy.Example(**{INPUT: text, OUTPUT: answer}, seed=seed).with_inputs(INPUT) for seed, text, answer in shown]


def compiled(job: Job, trials: int | None) -> Found:
    """One run. trials: DSPy's num_trials, None where `auto` decides."""
    import dspy

    dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=True)
    task, meter = TASKS[job.task], Meter(TASKS[job.task])
    answers, proposals = Engine(policy(task), job.seconds), Engine(prompt_model(job.seed), job.seconds)
    limits = {"max_tokens": 4000, "cache": job.cache}
    lm = dspy.LM("simulated/policy", engine=answers, temperature=0.0, **limits)
    dspy.configure(lm=lm)
    optimizer = dspy.MIPROv2(
        metric=meter,
        prompt_model=dspy.LM("simulated/reflector", engine=proposals, temperature=1.0, **limits),
        task_model=lm,
        auto=job.auto,
        num_candidates=job.candidates if job.auto is None else None,
        num_threads=job.threads,
        max_labeled_demos=job.labeled,
        metric_threshold=job.threshold,
        seed=1 + job.seed,  # DSPy takes 0 for none
    )
    sizes = {} if job.auto else {"num_trials": trials, "minibatch_size": job.minibatch}
    validation = task.splits.validation
    if job.validation is not None:
        validation = tuple(range(validation[0], validation[0] + job.validation))
    program = dspy.Predict(dspy.Signature(f"{INPUT} -> {OUTPUT}", task.baseline))
    sets = {"trainset": examples(task, task.splits.train), "valset": examples(task, validation)}
    started = time.perf_counter()
    best = optimizer.compile(program, **sets, **sizes)
    return Found(
        instruction=best.signature.instructions,
        demos=[(demo[INPUT], demo[OUTPUT]) for demo in best.demos],
        claimed=best.score / 100,
        rollouts=answers.calls,
        repeated=meter.graded - answers.calls,
        meta_calls=proposals.calls,
        trials=sum("mb_score" in log for log in best.trial_logs.values()),
        seconds=time.perf_counter() - started,
    )


def fitted(job: Job) -> Found:
    """The run with the most trials that stays within the budget, looked for in a few runs.

    What a bootstrap takes and what the cache saves shows only in the run. Where not even one trial fits, one is made.
    """
    validation = len(TASKS[job.task].splits.validation)
    each = job.minibatch + validation / 5  # of a trial, with its share of the full evaluations
    trials = max(1, int((job.budget - 2 * validation) / each))
    kept: tuple[int, Found] | None = None
    beyond = 1_000_000
    for _ in range(TRIES):
        found = compiled(job, trials)
        left = job.budget - found.rollouts
        if left >= 0:
            kept = trials, found
        else:
            beyond = trials
        each = max(each / 2, (found.rollouts - validation) / trials)
        wanted = trials + math.floor(left / each)
        trials = min(beyond - 1, max(wanted, 1 if kept is None else kept[0]))
        if trials < 1 or (kept is not None and trials <= kept[0]):
            break
    return kept[1] if kept is not None else compiled(job, 1)


def main() -> None:
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # DSPy prints its progress
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    for line in sys.stdin:
        job = Job(**json.loads(line))
        found = compiled(job, None) if job.auto else fitted(job)
        print(json.dumps({"job": asdict(job), "found": asdict(found)}), file=out, flush=True)


if __name__ == "__main__":
    main()
