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
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from common import machine
from comparison import FIXED, Comparison, Job, Row, fixed_row, measured
from gepa_worlds import TASKS, score
from gepa_worlds.driving import run_ours
from gepa_worlds.dspy_peers import HOW, Reply, replies, template_of_program

COMPARISON = Comparison("mipro_vs_dspy", "dspy", {"demos": ".1f", "seconds": ".2f"})
ROOT = Path(__file__).resolve().parent.parent


def run(job: Job) -> Row:
    if job.method in FIXED:
        return fixed_row(job)
    found = run_ours(TASKS[job.task], job.budget, job.seed, dict(job.overrides), algorithm="mipro")
    demos = sum(section.role == "assistant" for section in found.template.sections)
    # The seconds are those of the run with its simulated models, in one process.
    more = {"demos": demos, "seconds": found.cpu_seconds}
    return job.row(found.test, found.claimed, found.rollouts, found.meta_calls, **more)


def dspy_job(job: Job, demos: int) -> dict[str, Any]:
    """Settings among which DSPy's scores differ by less than their error, demonstrations aside."""
    candidates, minibatch = (4, 10) if job.budget < 300 else (8, 12) if job.budget < 800 else (14, 25)
    sizes = {"candidates": candidates, "minibatch": minibatch, "labeled": demos}
    return {"task": job.task, "budget": job.budget, "seed": job.seed, **sizes}


def dspy_row(reply: Reply) -> Row:
    task = TASKS[reply.job["task"]]
    template = template_of_program(task, reply.instruction, reply.demos)
    job = Job(task.name, "dspy", reply.job["budget"], reply.job["seed"])
    more = {"demos": len(reply.demos), "seconds": reply.seconds}
    return job.row(score(task, template, task.splits.test), reply.claimed, reply.rollouts, reply.meta_calls, **more)


def dspy_rows(options: argparse.Namespace) -> list[Row]:
    if options.load:
        return [Row(*row) for row in json.loads(Path(options.load).read_text())]
    wanted = [job for job in COMPARISON.jobs(options, ("dspy",)) if job.method == "dspy"]
    jobs = [dspy_job(job, options.dspy_demos) for job in wanted]
    parts = [jobs[at :: options.processes] for at in range(options.processes)]
    with ThreadPoolExecutor(options.processes) as pool:
        found = pool.map(lambda part: [*map(dspy_row, replies(options.peers_python, part))], parts)
        rows = [row for part in found for row in part]
    if options.save:
        Path(options.save).write_text(json.dumps([row.to_json() for row in rows]))
    return rows


def read_options() -> argparse.Namespace:
    parser = COMPARISON.parser(__doc__)
    parser.add_argument("--dspy-demos", type=int, default=16, help="DSPy's max_labeled_demos")
    parser.add_argument("--peers-python", type=Path, default=ROOT / ".venv-peers" / "bin" / "python")
    parser.add_argument("--save", metavar="FILE", help="keep DSPy's runs")
    parser.add_argument("--load", metavar="FILE", help="take DSPy's runs from there instead of running it")
    options = parser.parse_args()
    options.overrides = dict(options.changes)
    if "dspy" in options.methods and not options.load and not options.peers_python.exists():
        print(f"DSPy is left out: {options.peers_python} was not found. Make it by: {HOW}", file=sys.stderr)
        options.methods = [method for method in options.methods if method != "dspy"]
    return options


def main() -> None:
    options = read_options()
    if options.wall:
        from gepa_worlds.mipro_wall import report_wall

        report_wall(options.peers_python, options.overrides)
        return
    here, started = machine(), time.perf_counter()
    rows = dspy_rows(options) if "dspy" in options.methods else []
    rows += measured(run, COMPARISON.jobs(options, ("ours",)), options.processes)
    print(f"{time.perf_counter() - started:.0f} s for all of it")
    COMPARISON.report(rows, options, here)


if __name__ == "__main__":
    main()
