"""Prints where experiments stand: one with its jobs, many as a table, and two jobs side by side."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from promptjobs.cli.experiment_cells import NONE, estimate, p_value
from promptjobs.cli.show import STYLE_OF_STATUS, age
from promptjobs.cli.text import cost, duration, one_line, score
from promptjobs.errors import OptionInvalid
from promptjobs.sdk.experiment_shapes import Experiment, ExperimentJob, JobComparison

WIDE = 120
"""Columns from which on the tables have room for what matters less."""


def print_status(out: Console, experiment: Experiment) -> None:
    """The experiment as a whole, and a line for each of its jobs."""
    counts = ", ".join(f"{count} {status}" for status, count in experiment["counts"].items() if count)
    style = STYLE_OF_STATUS.get(experiment["status"], "bold green")
    line = Text.assemble("experiment ", (one_line(experiment["name"]), "bold"), " ", (experiment["status"], style))
    out.print(line.append(f" · {counts} · {experiment['parallelism']} at a time", "dim"), soft_wrap=True)
    out.print(_jobs_table(experiment["jobs"], out.width))
    eta = experiment["eta_seconds"]
    rest = "" if eta is None or experiment["finished_at"] else f", about {duration(eta)} left"
    tokens, usd = experiment["total_tokens"], experiment["total_cost_usd"]
    said = f"{experiment['progress_pct']:.0f} % done{rest}; {tokens:,} tokens, {cost(usd)}"
    out.print(Text(said), soft_wrap=True)


def _jobs_table(jobs: Sequence[ExperimentJob], width: int) -> Table:
    is_wide = width >= WIDE
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("#", justify="right", no_wrap=True)
    table.add_column("job", overflow="fold")
    table.add_column("status", no_wrap=True)
    for name in ("done", "rollouts", "best", *(("baseline", "cost", "id") if is_wide else ())):
        table.add_column(name, justify="right", no_wrap=True)
    for job in jobs:
        told = job["status_json"]
        more = (score(told["baseline_score"]), cost(told["total_cost_usd"]), job["job_id"])
        table.add_row(
            str(job["position"]),
            Text(one_line(job["label"])),
            Text(job["status"], STYLE_OF_STATUS.get(job["status"], "")),
            NONE if told["progress_pct"] is None else f"{told['progress_pct']:.0f} %",
            f"{told['rollouts_completed'] or 0}/{told['total_rollouts'] or NONE}",
            score(told["best_score"]),
            *(more if is_wide else ()),
        )
    return table


def experiments_table(experiments: Sequence[Experiment], width: int, now: datetime | None = None) -> Table:
    """In the order in which they come. width: of the terminal, where ids are never cut; now: what ages refer to."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("experiment", no_wrap=True)
    table.add_column("name", overflow="fold")
    table.add_column("status", no_wrap=True)
    for name in ("jobs over", "age", *(("tokens", "cost") if width >= WIDE else ())):
        table.add_column(name, justify="right", no_wrap=True)
    for each in experiments:
        counts = each["counts"]
        over = sum(counts.get(status, 0) for status in ("succeeded", "failed", "cancelled"))
        spent = (f"{each['total_tokens']:,}", cost(each["total_cost_usd"])) if width >= WIDE else ()
        table.add_row(
            each["experiment_id"],
            Text(one_line(each["name"])),
            Text(each["status"], STYLE_OF_STATUS.get(each["status"], "bold green")),
            f"{over}/{each['num_jobs']}",
            age(datetime.fromisoformat(each["created_at"]), now or datetime.now(UTC)),
            *spent,
        )
    return table


# --- two jobs --------------------------------------------------------------------------------------------------------


def job_named(jobs: Sequence[ExperimentJob], argument: str, name: str) -> str:
    """The id of the job of that number, label or id. Raises OptionInvalid where there is none."""
    for job in jobs:
        if name in (job["job_id"], job["label"], str(job["position"])):
            return job["job_id"]
    raise OptionInvalid(argument, f"no job of the experiment has the number, label or id {name!r}")


def print_comparison(out: Console, found: JobComparison) -> None:
    """Who is better, by how much, and how sure that is."""
    first, second = one_line(found["first_label"]), one_line(found["second_label"])
    if found["difference"] is None:
        out.print(
            Text(f"{first} and {second} were measured on no {found['seeds']} seeds in common", "yellow"), soft_wrap=True
        )
        return
    out.print(
        Text.assemble((first, "bold"), " – ", (second, "bold"), ": ", estimate(found["difference"])), soft_wrap=True
    )
    out.print(_says(found, {found["first"]: first, found["second"]: second}), soft_wrap=True)
    seeds = f"{found['num_seeds']} {found['seeds']} seeds that both have"
    counts = f"the first is better on {found['wins']}, worse on {found['losses']}, the same on {found['ties']}"
    out.print(Text(f"On {seeds}: {counts}.", "dim"), soft_wrap=True)


def _says(found: Mapping[str, Any], labels: Mapping[str, str]) -> Text:
    how = f"p {_equal(found['p_value'])}" + (f", {found['test'].replace('_', ' ')}" if found["test"] else "")
    if found["winner"] is not None:
        return Text(f"{labels[found['winner']]} is better ({how}).", "green")
    more = found["seeds_needed"]
    told = "" if more is None else f"; about {more:,} seeds would tell a difference of this size in 4 of 5 cases"
    return Text(f"They are not told apart ({how}){told}.", "yellow")


def _equal(value: float | None) -> str:
    said = p_value(value)
    return said if said.startswith("<") or said == NONE else f"= {said}"
