"""Our GEPA beside the `gepa` package: held-out scores on four tasks at equal rollout budgets, over paired seeds.

Tasks and models are simulated in this process (gepa_worlds): no network, and the same run is the same to the digit.
Ours is driven in virtual time (rollouts of 50 ms in 64 slots, reflections of 1 s), so scores are those of its
concurrency. A seed is the random seed of the search and of the simulated reflection model. Methods: ours, reference
(its defaults), baseline, handwritten.
Run: python benchmarks/gepa_vs_reference.py [--seeds 20] [--tasks conventions,noisy] [--set gepa.acceptance=full]
     python benchmarks/gepa_vs_reference.py --bookkeeping | --wall
"""

import argparse
import json
import multiprocessing
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common import Machine, machine, print_json
from gepa_worlds import TASKS, score, template_of
from gepa_worlds.driving import Run, run_ours
from gepa_worlds.reference import run_reference
from paired import Estimate, difference, listed, override

METHODS = ("ours", "reference", "baseline", "handwritten")
SEARCHES = ("ours", "reference")


@dataclass(frozen=True, slots=True)
class Job:
    task: str
    method: str
    budget: int
    seed: int
    overrides: tuple[tuple[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Row:
    """One run in numbers. claimed: what the search itself reports on validation."""

    task: str
    method: str
    budget: int
    seed: int
    test: float
    claimed: float | None
    rollouts: int
    meta_calls: int
    virtual_seconds: float
    wall_seconds: float


def run(job: Job) -> Row:
    task, started = TASKS[job.task], time.perf_counter()
    if job.method == "ours":
        found = run_ours(task, job.budget, job.seed, dict(job.overrides))
    elif job.method == "reference":
        found = run_reference(task, job.budget, job.seed)
    else:
        found = _fixed(job)
    return Row(
        job.task,
        job.method,
        job.budget,
        job.seed,
        found.test,
        found.claimed,
        found.rollouts,
        found.meta_calls,
        found.virtual_seconds,
        time.perf_counter() - started,
    )


def _fixed(job: Job) -> Run:
    task = TASKS[job.task]
    text = task.baseline if job.method == "baseline" else task.handwritten
    template = template_of(task, text)
    validation = score(task, template, task.splits.validation)
    return Run(score(task, template, task.splits.test), validation, 0, 0, 0.0, text, template)


def jobs_of(options: argparse.Namespace) -> list[Job]:
    jobs = []
    for task in options.tasks:
        jobs += [Job(task, method, 0, 0, ()) for method in options.methods if method not in SEARCHES]
        for budget in options.budgets:
            for seed in range(options.seeds):
                searches = [method for method in options.methods if method in SEARCHES]
                jobs += [Job(task, method, budget, seed, tuple(options.overrides.items())) for method in searches]
    return jobs


def measured(jobs: Sequence[Job], processes: int) -> Iterator[Row]:
    if processes == 1:
        yield from map(run, jobs)
        return
    with multiprocessing.get_context("spawn").Pool(processes, maxtasksperchild=50) as pool:
        yield from pool.imap_unordered(run, jobs, chunksize=2)


# --- figures ---------------------------------------------------------------------------------------------------------


COLUMNS = (
    "budget",
    "method",
    "held-out score",
    "ours − reference",
    "claimed",
    "rollouts",
    "meta calls",
    "virtual s",
    "wall s",
)


def tables(rows: Sequence[Row]) -> Iterator[str]:
    """One Markdown table per task."""
    groups: dict[tuple[str, int, str], list[Row]] = defaultdict(list)
    for row in rows:
        groups[(row.task, row.budget, row.method)].append(row)
    for task in dict.fromkeys(row.task for row in rows):
        yield f"\n### {task}\n"
        yield f"| {' | '.join(COLUMNS)} |"
        yield "|" + "---|" * len(COLUMNS)
        keys = sorted((key for key in groups if key[0] == task), key=lambda key: (key[1], METHODS.index(key[2])))
        for _, budget, method in keys:
            gain = paired(groups, task, budget) if method == "ours" else None
            yield _line(budget, method, groups[(task, budget, method)], gain)


def paired(groups: Mapping[tuple[str, int, str], Sequence[Row]], task: str, budget: int) -> Estimate | None:
    """Ours minus the reference, over the seeds that both have run."""
    ours, theirs = ({row.seed: row.test for row in groups.get((task, budget, method), ())} for method in SEARCHES)
    return difference(ours, theirs)


def _line(budget: int, method: str, rows: Sequence[Row], gain: Estimate | None) -> str:
    def mean(name: str, form: str) -> str:
        return format(float(np.mean([getattr(row, name) for row in rows])), form)

    claimed = [row.claimed for row in rows if row.claimed is not None]
    shown = [str(budget or ""), method, str(Estimate.of([row.test for row in rows]))]
    shown.append("" if gain is None else gain.signed)
    shown.append(f"{np.mean(claimed):.3f}" if claimed else "")
    if method in SEARCHES:
        shown += [
            mean("rollouts", ".0f"),
            mean("meta_calls", ".1f"),
            mean("virtual_seconds", ".1f"),
            mean("wall_seconds", ".2f"),
        ]
    else:
        shown += [""] * 4
    return f"| {' | '.join(shown)} |"


def summary(rows: Sequence[Row]) -> dict[str, Any]:
    groups: dict[tuple[str, int, str], list[Row]] = defaultdict(list)
    for row in rows:
        groups[(row.task, row.budget, row.method)].append(row)
    figures: dict[str, Any] = {}
    for (task, budget, method), found in groups.items():
        estimate = Estimate.of([row.test for row in found])
        figures[f"{task}/{budget}/{method}"] = [estimate.mean, estimate.half_width, len(found)]
    return figures


# --- the command -----------------------------------------------------------------------------------------------------


def compare(options: argparse.Namespace, here: Machine) -> None:
    rows = sorted(
        measured(jobs_of(options), options.processes), key=lambda row: (row.task, row.budget, row.method, row.seed)
    )
    if options.json:
        kept = {
            "overrides": options.overrides,
            "rows": [[getattr(row, name) for name in Row.__slots__] for row in rows],
        }
        Path(options.json).write_text(json.dumps({"columns": Row.__slots__, **kept}))
    print(here)
    changed = ", ".join(f"{path}={value!r}" for path, value in options.overrides.items()) or "none"
    print(f"{options.seeds} paired seeds; overrides of our defaults: {changed}; ± is a 95 % interval (Student's t)")
    for line in tables(rows):
        print(line)
    print_json("gepa_vs_reference", here, summary(rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=listed(list(TASKS)), default=list(TASKS), help="names with commas")
    parser.add_argument("--budgets", type=lambda text: [int(one) for one in text.split(",")], default=[150, 400, 1000])
    parser.add_argument("--seeds", type=int, default=20, help="how many")
    parser.add_argument("--methods", type=listed(METHODS), default=list(METHODS), help="names with commas")
    parser.add_argument("--lanes", type=int, help="the same as --set gepa.lanes=N")
    parser.add_argument("--set", type=override, action="append", default=[], metavar="PATH=VALUE", dest="changes")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--json", help="write every run into this file")
    parser.add_argument("--wall", action="store_true", help="measure seconds on the wall clock instead")
    parser.add_argument("--bookkeeping", action="store_true", help="measure the CPU of an iteration instead")
    options = parser.parse_args()
    options.overrides = dict(options.changes) | ({} if options.lanes is None else {"gepa.lanes": options.lanes})
    here = machine()
    if options.bookkeeping:
        from gepa_worlds.bookkeeping import report

        report(here)
    elif options.wall:
        from gepa_worlds.wall import report_wall

        report_wall(options.overrides)
    else:
        compare(options, here)


if __name__ == "__main__":
    main()
