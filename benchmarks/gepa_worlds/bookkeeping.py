"""What an iteration costs in CPU besides rollouts and reflections, as the number of candidates grows.

In this world every proposal is new and better on the seeds it learns from, so that each is accepted and scored on all
of the 200 validation seeds, where the front is spread over many candidates.
"""

import statistics
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

from common import Machine, print_json, print_table
from promptjobs.core.asks import Answer, Ask, Body, Completion, Recall
from promptjobs.core.config import JobConfig, support_table
from promptjobs.core.lanes import Outcome

from .chance import share
from .driving import Drive, job_config
from .reference import Adapter, run_reference
from .worlds import Splits, Task, Verdict

CANDIDATES, SEEDS = 1_000, 200
WINDOW = 50
"""Iterations of which the median is shown."""

PLANS: Mapping[str, Any] = {
    "gepa.lanes": 1,
    "gepa.archive.size": CANDIDATES + 1,
    "gepa.archive.pareto_source": "validation",
    "gepa.archive.pareto_set_size": SEEDS,
    "gepa.population.num_generations": 1_000_000,
    "gepa.population.patience_generations": 1_000_000,
    "gepa.population.crossover_rate": 0.0,
    "gepa.population.initial_size": 1,
    "gepa.rollout.minibatch_size": 3,
    "gepa.max_demonstrations": 0,
}


STEPS = Splits(tuple(range(60)), tuple(range(1000, 1000 + SEEDS)), (5000,))


@dataclass(frozen=True)
class Ladder:
    """A task of worlds.Task: a text "step n" is better the larger n is, on train seeds; elsewhere luck decides."""

    name: str = "ladder"
    baseline: str = "step 0 of the ladder"
    handwritten: str = "step 9999 of the ladder"
    user_pattern: str = "Input: {input}"
    samples: bool = False
    splits: Splits = STEPS

    def input(self, seed: int) -> str:
        return str(seed)

    def expected(self, seed: int) -> str:
        return ""

    def answer(self, messages: Sequence[tuple[str, str]], draw: int = 0) -> str:
        return messages[0][1]

    def grade(self, seed: int, output: str) -> Verdict:
        step = int(output.split()[1])
        if seed < 1000:
            return Verdict(step / 10_000, "Climb on.")
        return Verdict(0.3 + 0.6 * share(output, seed), "Climb on.")

    def reflect(self, messages: Sequence[tuple[str, str]], temperature: float, draw: int, salt: int = 0) -> str:
        text = "\n".join(content for _, content in messages)
        step = int(text[text.index("step ") :].split()[1])
        return f"```\nstep {step + 1} of the ladder, number {share(text, draw)}\n```"


class Marks:
    """The optimizer's own CPU seconds at the start of each reflection."""

    def __init__(self) -> None:
        self.own: list[float] = []

    def milliseconds(self, at: int) -> float | None:
        """CPU of an iteration, the median of those up to number `at`; None where there were not so many.

        The mean would tell of the collector of garbage, which now and then goes through the whole simulation.
        """
        if at >= len(self.own):
            return None
        return 1e3 * statistics.median(after - before for before, after in pairwise(self.own[at - WINDOW : at + 1]))


class TimedDrive(Drive):
    """Of ours only the turns count, not the simulation around them."""

    def __init__(self, task: Task, config: JobConfig) -> None:
        super().__init__(task, config)
        self.marks = Marks()
        self._own = 0.0

    def _take(self, turning: Generator[Recall, Any, Outcome]) -> None:
        super()._take(self._timed(turning))

    def _timed(self, turning: Generator[Recall, Any, Outcome]) -> Generator[Recall, Any, Outcome]:
        sent: Any = None
        while True:
            started = time.thread_time()
            try:
                recall = turning.send(sent)
            except StopIteration as end:
                outcome: Outcome = end.value
                return outcome
            finally:
                self._own += time.thread_time() - started
            sent = yield recall

    def _answer(self, ask: Ask) -> tuple[Answer, Body]:
        if isinstance(ask, Completion):
            self.marks.own.append(self._own)
        return super()._answer(ask)


class TimedAdapter(Adapter):
    """Of the reference everything counts but the adapter's own work."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.marks = Marks()
        self._aside = 0.0

    def evaluate(self, *given: Any, **named: Any) -> Any:
        started = time.thread_time()
        try:
            return super().evaluate(*given, **named)
        finally:
            self._aside += time.thread_time() - started

    def reflect(self, prompt: Any) -> str:
        started = time.thread_time()
        self.marks.own.append(started - self._aside)
        try:
            return super().reflect(prompt)
        finally:
            self._aside += time.thread_time() - started


def ours(candidates: int, acceptance: str = "full") -> Marks:
    """In a race a proposal costs a tenth of the paper's rollouts."""
    rollouts = (candidates + 2) * (SEEDS + 6 if acceptance == "full" else 40)
    known = {field.path for field in support_table() if field.supported}
    plans = {path: value for path, value in PLANS.items() if f"prompt_learning.{path}" in known}
    task = Ladder()
    drive = TimedDrive(task, job_config(task, rollouts, 0, {**plans, "gepa.acceptance": acceptance}))
    drive.run()
    return drive.marks


def reference(candidates: int) -> Marks:
    adapter = TimedAdapter(Ladder())
    run_reference(adapter.task, (candidates + 1) * (SEEDS + 6), 0, adapter)
    return adapter.marks


def report(here: Machine, candidates: int = CANDIDATES) -> None:
    """Print CPU milliseconds of an iteration for growing archives."""
    sizes = [size for size in (100, 250, 500, 750, 1_000) if size <= candidates]
    print(f"CPU ms of an iteration (median of {WINDOW}), {SEEDS} validation seeds, full accepts every proposal; {here}")
    figures: dict[str, dict[int, float | None]] = {}
    searches = {"ours, race": partial(ours, acceptance="race"), "ours, full": ours, "gepa 0.1.4": reference}
    for name, measure in searches.items():
        marks = measure(candidates)
        figures[name] = {size: marks.milliseconds(size - 1) for size in sizes}
    print_table(["proposals", *map(str, sizes)], [[name, *found.values()] for name, found in figures.items()])
    print_json("gepa_bookkeeping", here, figures)
