"""Prints what an experiment is expected to take and cost: a line for each job, and the sum of all."""

from typing import Any

from rich.console import Console
from rich.text import Text

from promptjobs.cli.experiment_cells import Row, with_columns
from promptjobs.cli.text import cost, one_line
from promptjobs.sdk.experiment_shapes import ExperimentEstimate

NARROW = 100
"""Columns below which the table is set close."""


def print_experiment_estimate(out: Console, found: ExperimentEstimate) -> None:
    """Of each job as much as of all, without regard to their caps; then what was taken for granted."""
    jobs = "1 job" if found["num_jobs"] == 1 else f"{found['num_jobs']} jobs"
    said = f"{jobs}, {found['parallelism']} at a time: {found['rollouts']:,} rollouts in all"
    out.print(Text(said, "bold"), soft_wrap=True)
    figures = (("tokens", "right"), ("at most", "right"), ("cost", "right"), ("at most", "right"))
    table = with_columns(
        (("#", "right"), ("job", "fold"), ("rollouts", "right"), *figures), is_tight=out.width < NARROW
    )
    for job in found["jobs"]:
        one: Row = job["estimate"]
        rollouts = f"{one['rollouts']['total']:,}"
        table.add_row(str(job["position"]), Text(one_line(job["label"])), rollouts, *_figures(one))
    table.add_row("", "in all", f"{found['rollouts']:,}", *_figures(found), style="bold")
    out.print(table)
    if found["unpriced_models"]:
        models = one_line(", ".join(found["unpriced_models"]), 1000)
        said = f"No price is known of {models}: give one in prompt_learning.prices"
        out.print(Text(said, "yellow"), soft_wrap=True)
    out.print(Text(f"Assumed: {one_line('; '.join(found['assumptions']), 2000)}", "dim"), soft_wrap=True)


def _figures(found: Any) -> tuple[str, ...]:
    tokens, usd = found["tokens"], found["cost_usd"]
    return f"{tokens['expected']:,}", f"{tokens['at_most']:,}", cost(usd["expected"]), cost(usd["at_most"])
