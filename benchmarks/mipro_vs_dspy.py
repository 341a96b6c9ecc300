"""Our MIPRO beside dspy.MIPROv2: held-out scores on four tasks at equal calls of the policy model, over paired seeds.

Tasks and models are those of gepa_worlds, simulated and the same for both. DSPy runs in an environment of its own:

    python -m venv .venv-peers && .venv-peers/bin/pip install -r benchmarks/peers.txt

Ours has its default settings. DSPy has the trainset that is our bootstrap and online seeds together, with its right
answers, and our validation seeds as its valset; settings that suit the budget, among them 16 labelled demonstrations
where its default is 4; and the largest number of trials whose run stays within the budget. Answers of DSPy's cache cost
it nothing, as repetitions cost ours nothing. The best prompts of both are scored here, by the same ruler. Most of the
time, the better part of an hour, is DSPy's; without its environment only ours is run.
Run: python benchmarks/mipro_vs_dspy.py [--seeds 20] [--tasks labels,noisy] [--set mipro.batch_size=20]
     python benchmarks/mipro_vs_dspy.py --wall
"""

import argparse
import json
import multiprocessing
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from common import Machine, machine, print_json
from gepa_worlds import TASKS, score, template_of
from gepa_worlds.driving import run_ours
from gepa_worlds.dspy_peers import HOW, Reply, replies, template_of_program
from paired import Estimate, difference, listed, override

METHODS = ("ours", "dspy", "baseline", "handwritten")
SEARCHES = ("ours", "dspy")
ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class Job:
    task: str
    method: str
    budget: int
    seed: int
    overrides: tuple[tuple[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Row:
    """One run in numbers. claimed: what the search itself reports on validation. demos: in the prompt it has
    found. seconds: of the run with its simulated models, in one process.
    """

    task: str
    method: str
    budget: int
    seed: int
    test: float
    claimed: float | None
    rollouts: int
    meta_calls: int
    demos: int
    seconds: float


Groups = Mapping[tuple[str, int, str], Sequence[Row]]


# --- runs ------------------------------------------------------------------------------------------------------------


def run(job: Job) -> Row:
    task, name = TASKS[job.task], (job.task, job.method, job.budget, job.seed)
    if job.method == "ours":
        found = run_ours(task, job.budget, job.seed, dict(job.overrides), algorithm="mipro")
        demos = sum(section.role == "assistant" for section in found.template.sections)
        return Row(*name, found.test, found.claimed, found.rollouts, found.meta_calls, demos, found.cpu_seconds)
    template = template_of(task, task.baseline if job.method == "baseline" else task.handwritten)
    claimed = score(task, template, task.splits.validation)
    return Row(*name, score(task, template, task.splits.test), claimed, 0, 0, 0, 0.0)


def dspy_job(task: str, budget: int, seed: int, demos: int) -> dict[str, Any]:
    """Settings among which DSPy's scores differ by less than their error, demonstrations aside."""
    candidates, minibatch = (4, 10) if budget < 300 else (8, 12) if budget < 800 else (14, 25)
    sizes = {"candidates": candidates, "minibatch": minibatch, "labeled": demos}
    return {"task": task, "budget": budget, "seed": seed, **sizes}


def dspy_row(reply: Reply) -> Row:
    task = TASKS[reply.job["task"]]
    template = template_of_program(task, reply.instruction, reply.demos)
    return Row(
        task.name,
        "dspy",
        reply.job["budget"],
        reply.job["seed"],
        score(task, template, task.splits.test),
        reply.claimed,
        reply.rollouts,
        reply.meta_calls,
        len(reply.demos),
        reply.seconds,
    )


def dspy_rows(options: argparse.Namespace) -> list[Row]:
    if options.load:
        return [Row(*row) for row in json.loads(Path(options.load).read_text())["rows"]]
    wanted = [(task, budget, seed) for task in options.tasks for budget in options.budgets for seed in options.range]
    jobs = [dspy_job(*one, options.dspy_demos) for one in wanted]
    parts = [jobs[at :: options.processes] for at in range(options.processes)]
    with ThreadPoolExecutor(options.processes) as pool:
        rows = [
            row
            for part in pool.map(lambda p: [*map(dspy_row, replies(options.peers_python, p))], parts)
            for row in part
        ]
    if options.save:
        Path(options.save).write_text(json.dumps({"columns": _columns(), "rows": [astuple(row) for row in rows]}))
    return rows


def our_rows(options: argparse.Namespace) -> list[Row]:
    jobs = [
        Job(task, method, 0, 0, ()) for task in options.tasks for method in options.methods if method not in SEARCHES
    ]
    if "ours" in options.methods:
        changes = tuple(options.overrides.items())
        wanted = [
            (task, budget, seed) for task in options.tasks for budget in options.budgets for seed in options.range
        ]
        jobs += [Job(task, "ours", budget, seed, changes) for task, budget, seed in wanted]
    if options.processes == 1:
        return [*map(run, jobs)]
    with multiprocessing.get_context("spawn").Pool(options.processes, maxtasksperchild=50) as pool:
        return [*pool.imap_unordered(run, jobs, chunksize=2)]


def _columns() -> list[str]:
    return [field.name for field in fields(Row)]


# --- figures ---------------------------------------------------------------------------------------------------------


COLUMNS = ("budget", "method", "held-out score", "ours − dspy", "claimed", "rollouts", "meta calls", "demos", "seconds")


def grouped(rows: Sequence[Row]) -> Groups:
    groups: dict[tuple[str, int, str], list[Row]] = defaultdict(list)
    for row in rows:
        groups[(row.task, row.budget, row.method)].append(row)
    return groups


def tables(groups: Groups) -> Iterator[str]:
    """One Markdown table per task."""
    for task in dict.fromkeys(task for task, _, _ in groups):
        yield f"\n### {task}\n"
        yield f"| {' | '.join(COLUMNS)} |"
        yield "|" + "---|" * len(COLUMNS)
        keys = sorted((key for key in groups if key[0] == task), key=lambda key: (key[1], METHODS.index(key[2])))
        for key in keys:
            yield _line(key[1], key[2], groups[key], gain(groups, task, key[1]) if key[2] == "ours" else None)


def gain(groups: Groups, task: str, budget: int) -> Estimate | None:
    ours, theirs = ({row.seed: row.test for row in groups.get((task, budget, method), ())} for method in SEARCHES)
    return difference(ours, theirs)


def _line(budget: int, method: str, rows: Sequence[Row], ahead: Estimate | None) -> str:
    def mean(name: str, form: str) -> str:
        return format(float(np.mean([getattr(row, name) for row in rows])), form)

    claimed = [row.claimed for row in rows if row.claimed is not None]
    shown = [str(budget or ""), method, str(Estimate.of([row.test for row in rows]))]
    shown += ["" if ahead is None else ahead.signed, f"{np.mean(claimed):.3f}" if claimed else ""]
    if method in SEARCHES:
        shown += [mean("rollouts", ".0f"), mean("meta_calls", ".1f"), mean("demos", ".1f"), mean("seconds", ".2f")]
    else:
        shown += [""] * 4
    return f"| {' | '.join(shown)} |"


def summary(groups: Groups) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for (task, budget, method), found in groups.items():
        estimate = Estimate.of([row.test for row in found])
        figures[f"{task}/{budget}/{method}"] = [estimate.mean, estimate.half_width, len(found)]
    return figures


# --- the command -----------------------------------------------------------------------------------------------------


def compare(options: argparse.Namespace, here: Machine) -> None:
    started = time.perf_counter()
    rows = [*(dspy_rows(options) if "dspy" in options.methods else ()), *our_rows(options)]
    rows.sort(key=lambda row: (row.task, row.budget, row.method, row.seed))
    if options.json:
        kept = {"overrides": options.overrides, "rows": [astuple(row) for row in rows]}
        Path(options.json).write_text(json.dumps({"columns": _columns(), **kept}))
    groups = grouped(rows)
    print(here)
    changed = ", ".join(f"{path}={value!r}" for path, value in options.overrides.items()) or "none"
    print(f"{options.seeds} paired seeds; overrides of our defaults: {changed}; ± is a 95 % interval (Student's t)")
    for line in tables(groups):
        print(line)
    print(f"\n{time.perf_counter() - started:.0f} s for all of it")
    print_json("mipro_vs_dspy", here, summary(groups))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=listed(list(TASKS)), default=list(TASKS), help="names with commas")
    parser.add_argument("--budgets", type=lambda text: [int(one) for one in text.split(",")], default=[150, 400, 1000])
    parser.add_argument("--seeds", type=int, default=20, help="how many")
    parser.add_argument("--methods", type=listed(METHODS), default=list(METHODS), help="names with commas")
    parser.add_argument("--set", type=override, action="append", default=[], metavar="PATH=VALUE", dest="changes")
    parser.add_argument("--dspy-demos", type=int, default=16, help="DSPy's max_labeled_demos")
    parser.add_argument("--peers-python", type=Path, default=ROOT / ".venv-peers" / "bin" / "python")
    parser.add_argument("--save", metavar="FILE", help="keep DSPy's runs")
    parser.add_argument("--load", metavar="FILE", help="take DSPy's runs from there instead of running it")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--json", metavar="FILE", help="write every run into this file")
    parser.add_argument("--wall", action="store_true", help="measure seconds on the wall clock instead")
    options = parser.parse_args()
    options.overrides, options.range = dict(options.changes), range(options.seeds)
    if "dspy" in options.methods and not options.load and not options.peers_python.exists():
        print(f"DSPy is left out: {options.peers_python} was not found. Make it by: {HOW}", file=sys.stderr)
        options.methods = [method for method in options.methods if method != "dspy"]
    if options.wall:
        from gepa_worlds.mipro_wall import report_wall

        report_wall(options.peers_python, options.overrides)
    else:
        compare(options, machine())


if __name__ == "__main__":
    main()
