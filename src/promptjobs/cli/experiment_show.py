"""Prints where experiments stand: one with its jobs, or many as a table."""

from collections.abc import Sequence
from datetime import UTC, datetime

from rich.console import Console
from rich.table import Table
from rich.text import Text

from promptjobs.cli.experiment_cells import NONE, headline, style_of, with_columns
from promptjobs.cli.show import age
from promptjobs.cli.text import cost, duration, one_line, score
from promptjobs.sdk.experiment_shapes import Experiment, ExperimentJob
from promptjobs.sdk.shapes import TERMINAL_STATUSES

WIDE = 120
"""Columns from which on the tables have room for what matters less."""


def print_status(out: Console, experiment: Experiment) -> None:
    """The experiment as a whole, and a line for each of its jobs."""
    out.print(headline(experiment, f"{experiment['parallelism']} at a time"), soft_wrap=True)
    out.print(_jobs_table(experiment["jobs"], out.width))
    eta = experiment["eta_seconds"]
    rest = "" if eta is None or experiment["finished_at"] else f", about {duration(eta)} left"
    tokens, usd = experiment["total_tokens"], experiment["total_cost_usd"]
    said = f"{experiment['progress_pct']:.0f} % done{rest}; {tokens:,} tokens, {cost(usd)}"
    out.print(Text(said), soft_wrap=True)


def _jobs_table(jobs: Sequence[ExperimentJob], width: int) -> Table:
    is_wide = width >= WIDE
    figures = ("done", "rollouts", "best", *(("baseline", "cost", "id") if is_wide else ()))
    first = (("#", "right"), ("job", "fold"), ("status", "left"))
    table = with_columns((*first, *((name, "right") for name in figures)))
    for job in jobs:
        told = job["status_json"]
        more = (score(told["baseline_score"]), cost(told["total_cost_usd"]), job["job_id"])
        table.add_row(
            str(job["position"]),
            Text(one_line(job["label"])),
            Text(job["status"], style_of(job["status"])),
            NONE if told["progress_pct"] is None else f"{told['progress_pct']:.0f} %",
            f"{told['rollouts_completed'] or 0}/{told['total_rollouts'] or NONE}",
            score(told["best_score"]),
            *(more if is_wide else ()),
        )
    return table


def experiments_table(experiments: Sequence[Experiment], width: int, now: datetime | None = None) -> Table:
    """In the order in which they come. width: of the terminal, where ids are never cut; now: what ages refer to."""
    figures = ("jobs over", "age", *(("tokens", "cost") if width >= WIDE else ()))
    first = (("experiment", "left"), ("name", "fold"), ("status", "left"))
    table = with_columns((*first, *((name, "right") for name in figures)))
    for each in experiments:
        counts = each["counts"]
        over = sum(counts.get(status, 0) for status in TERMINAL_STATUSES)
        spent = (f"{each['total_tokens']:,}", cost(each["total_cost_usd"])) if width >= WIDE else ()
        table.add_row(
            each["experiment_id"],
            Text(one_line(each["name"])),
            Text(each["status"], style_of(each["status"])),
            f"{over}/{each['num_jobs']}",
            age(datetime.fromisoformat(each["created_at"]), now or datetime.now(UTC)),
            *spent,
        )
    return table
