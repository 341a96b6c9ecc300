"""Our GEPA beside the `gepa` package: held-out scores on four tasks at equal rollout budgets, over paired seeds.

Tasks and models are simulated in this process (gepa_worlds): no network, and the same run is the same to the digit.
Ours is driven in virtual time (rollouts of 50 ms in 64 slots, reflections of 1 s), so scores are those of its
concurrency. A seed is the random seed of the search and of the simulated reflection model. Methods: ours, reference
(its defaults), baseline, handwritten.
Run: python benchmarks/gepa_vs_reference.py [--seeds 20] [--tasks conventions,noisy] [--set gepa.acceptance=full]
     python benchmarks/gepa_vs_reference.py --bookkeeping | --wall
"""

import argparse
import time

from common import machine
from comparison import FIXED, Comparison, Job, Row, fixed_row, measured
from gepa_worlds import TASKS
from gepa_worlds.driving import run_ours
from gepa_worlds.reference import run_reference

COMPARISON = Comparison("gepa_vs_reference", "reference", {"virtual_s": ".1f", "wall_s": ".2f"})
SEARCHES = ("ours", "reference")


def run(job: Job) -> Row:
    if job.method in FIXED:
        return fixed_row(job)
    task, started = TASKS[job.task], time.perf_counter()
    if job.method == "ours":
        found = run_ours(task, job.budget, job.seed, dict(job.overrides))
    else:
        found = run_reference(task, job.budget, job.seed)
    seconds = {"virtual_s": found.virtual_seconds, "wall_s": time.perf_counter() - started}
    return job.row(found.test, found.claimed, found.rollouts, found.meta_calls, **seconds)


def read_options() -> argparse.Namespace:
    parser = COMPARISON.parser(__doc__)
    parser.add_argument("--lanes", type=int, help="the same as --set gepa.lanes=N")
    parser.add_argument("--bookkeeping", action="store_true", help="measure the CPU of an iteration instead")
    options = parser.parse_args()
    options.overrides = dict(options.changes) | ({} if options.lanes is None else {"gepa.lanes": options.lanes})
    return options


def main() -> None:
    options = read_options()
    if options.bookkeeping:
        from gepa_worlds.bookkeeping import report

        report(machine())
    elif options.wall:
        from gepa_worlds.wall import report_wall

        report_wall(options.overrides)
    else:
        here = machine()
        rows = [*measured(run, COMPARISON.jobs(options, SEARCHES), options.processes)]
        COMPARISON.report(rows, options, here)


if __name__ == "__main__":
    main()
