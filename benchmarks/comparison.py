"""What the comparisons of our searches with a peer's share: runs in numbers, tables by task, and their options."""

import argparse
import json
import multiprocessing
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common import Machine, print_json
from gepa_worlds import TASKS, score, template_of
from paired import Estimate, difference, listed, override

FIXED = ("baseline", "handwritten")
"""Methods that search nothing: the prompt that a search starts from, and one by somebody who knows the task."""


@dataclass(frozen=True, slots=True)
class Job:
    task: str
    method: str
    budget: int
    seed: int
    overrides: tuple[tuple[str, Any], ...] = ()

    def row(self, test: float, claimed: float | None, rollouts: int = 0, meta_calls: int = 0, **more: float) -> "Row":
        return Row(self.task, self.method, self.budget, self.seed, test, claimed, rollouts, meta_calls, more)


@dataclass(frozen=True, slots=True)
class Row:
    """One run in numbers. claimed: what the search itself reports on validation. more: figures of this comparison."""

    task: str
    method: str
    budget: int
    seed: int
    test: float
    claimed: float | None
    rollouts: int
    meta_calls: int
    more: Mapping[str, float]

    def to_json(self) -> list[Any]:
        return [getattr(self, name) for name in Row.__slots__]


Groups = Mapping[tuple[str, int, str], Sequence[Row]]


def fixed_row(job: Job) -> Row:
    """Of a method that searches nothing."""
    task = TASKS[job.task]
    template = template_of(task, task.baseline if job.method == "baseline" else task.handwritten)
    return job.row(score(task, template, task.splits.test), score(task, template, task.splits.validation))


def measured(run: Callable[[Job], Row], jobs: Sequence[Job], processes: int) -> Iterator[Row]:
    """The rows of the jobs, in any order; `run` is a function of a module."""
    if processes == 1:
        yield from map(run, jobs)
        return
    with multiprocessing.get_context("spawn").Pool(processes, maxtasksperchild=50) as pool:
        yield from pool.imap_unordered(run, jobs, chunksize=2)


@dataclass(frozen=True, slots=True)
class Comparison:
    """name: of the benchmark. peer: the method that ours is compared with. more: further columns, by the names of
    Row.more, with the format of their means."""

    name: str
    peer: str
    more: Mapping[str, str]

    @property
    def methods(self) -> tuple[str, ...]:
        return ("ours", self.peer, *FIXED)

    def jobs(self, options: argparse.Namespace, searches: Sequence[str]) -> list[Job]:
        """Those of the fixed methods, and of these searches, as far as they were asked for."""
        changes = tuple(options.overrides.items())
        jobs = [Job(task, method, 0, 0) for task in options.tasks for method in options.methods if method in FIXED]
        for task in options.tasks:
            for budget in options.budgets:
                for seed in range(options.seeds):
                    wanted = [method for method in options.methods if method in searches]
                    jobs += [Job(task, method, budget, seed, changes) for method in wanted]
        return jobs

    def report(self, rows: Sequence[Row], options: argparse.Namespace, here: Machine) -> None:
        """Print the tables and a JSON line, and write every run into the file of --json."""
        rows = sorted(rows, key=lambda row: (row.task, row.budget, row.method, row.seed))
        if options.json:
            kept = {"columns": Row.__slots__, "overrides": options.overrides, "rows": [row.to_json() for row in rows]}
            Path(options.json).write_text(json.dumps(kept))
        groups: dict[tuple[str, int, str], list[Row]] = defaultdict(list)
        for row in rows:
            groups[(row.task, row.budget, row.method)].append(row)
        print(here)
        changed = ", ".join(f"{path}={value!r}" for path, value in options.overrides.items()) or "none"
        print(f"{options.seeds} paired seeds; overrides of our defaults: {changed}; ± is a 95 % interval (Student's t)")
        for line in self._tables(groups):
            print(line)
        print_json(self.name, here, _summary(groups))

    def _tables(self, groups: Groups) -> Iterator[str]:
        """One Markdown table per task."""
        columns = ["budget", "method", "held-out score", f"ours − {self.peer}", "claimed", "rollouts", "meta calls"]
        columns += [name.replace("_", " ") for name in self.more]
        for task in dict.fromkeys(task for task, _, _ in groups):
            yield f"\n### {task}\n"
            yield f"| {' | '.join(columns)} |"
            yield "|" + "---|" * len(columns)
            of_task = (key for key in groups if key[0] == task)
            for key in sorted(of_task, key=lambda key: (key[1], self.methods.index(key[2]))):
                yield self._line(key, groups)

    def _line(self, key: tuple[str, int, str], groups: Groups) -> str:
        (_, budget, method), rows = key, groups[key]
        claimed = [row.claimed for row in rows if row.claimed is not None]
        ahead = self._gain(groups, *key[:2]) if method == "ours" else None
        shown = [str(budget or ""), method, str(Estimate.of([row.test for row in rows]))]
        shown += ["" if ahead is None else ahead.signed, f"{np.mean(claimed):.3f}" if claimed else ""]
        if method in FIXED:
            shown += [""] * (2 + len(self.more))
        else:
            shown += [f"{np.mean([row.rollouts for row in rows]):.0f}", f"{np.mean([r.meta_calls for r in rows]):.1f}"]
            shown += [
                format(float(np.mean([row.more[name] for row in rows])), form) for name, form in self.more.items()
            ]
        return f"| {' | '.join(shown)} |"

    def _gain(self, groups: Groups, task: str, budget: int) -> Estimate | None:
        """Ours minus the peer's, over the seeds that both have run."""
        ours, theirs = (
            {row.seed: row.test for row in groups.get((task, budget, method), ())} for method in ("ours", self.peer)
        )
        return difference(ours, theirs)

    def parser(self, description: str | None) -> argparse.ArgumentParser:
        """With the options that every comparison has; `overrides` has to be made of `changes`."""
        parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
        budgets = {"type": lambda text: [int(one) for one in text.split(",")], "default": [150, 400, 1000]}
        parser.add_argument("--tasks", type=listed(list(TASKS)), default=list(TASKS), help="names with commas")
        parser.add_argument("--budgets", **budgets, help="rollouts, with commas")
        parser.add_argument("--seeds", type=int, default=20, help="how many")
        parser.add_argument("--methods", type=listed(self.methods), default=[*self.methods], help="names with commas")
        parser.add_argument("--set", type=override, action="append", default=[], metavar="PATH=VALUE", dest="changes")
        parser.add_argument("--processes", type=int, default=2)
        parser.add_argument("--json", metavar="FILE", help="write every run into this file")
        parser.add_argument("--wall", action="store_true", help="measure seconds on the wall clock instead")
        return parser


def _summary(groups: Groups) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for (task, budget, method), found in groups.items():
        estimate = Estimate.of([row.test for row in found])
        figures[f"{task}/{budget}/{method}"] = [estimate.mean, estimate.half_width, len(found)]
    return figures
