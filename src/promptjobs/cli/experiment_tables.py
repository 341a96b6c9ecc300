"""The tables of an experiment's results: its jobs, then its groups, then which of two is better."""

from collections.abc import Callable, Iterator, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from promptjobs.cli.experiment_cells import (
    NONE,
    Row,
    clock,
    counted,
    estimate,
    headline,
    letter,
    style_of,
    with_columns,
)
from promptjobs.cli.experiment_group_tables import group_notes, group_tables, print_comparisons
from promptjobs.cli.experiment_progress import MARK_OF_STATUS
from promptjobs.cli.text import cost, duration, one_line, score
from promptjobs.sdk.experiment_shapes import ExperimentResults

WHOLE = 180
"""Columns from which on a job's figures stand in one line; with fewer its scores and what it took are two tables."""


def print_results(out: Console, results: ExperimentResults, *, with_job_comparisons: bool = False) -> None:
    """All that is known so far. with_job_comparisons: job against job too, and not only group against group."""
    jobs, groups = results["jobs"], results["groups"]
    out.print()
    out.print(headline(results["experiment"]), soft_wrap=True)
    for table in _job_tables(jobs, out.width):
        out.print(table)
    for note in _notes(jobs):
        out.print(Text(note, "dim"), soft_wrap=True)
    if any(group["num_jobs"] > 1 for group in groups):
        out.print()
        out.print(Text("By group: mean ± standard deviation of its jobs", "bold"), soft_wrap=True)
        for table in group_tables(groups, out.width):
            out.print(table)
        for note in group_notes(groups):
            out.print(Text(note, "dim"), soft_wrap=True)
    if results["group_comparisons"]:
        letters = {group["group"]: (letter(index), one_line(group["group"])) for index, group in enumerate(groups)}
        print_comparisons(out, "Group against group", results["group_comparisons"], letters)
    if with_job_comparisons and results["comparisons"]:
        numbers = {job["job_id"]: (str(job["position"]), one_line(job["label"])) for job in jobs}
        print_comparisons(out, "Job against job", results["comparisons"], numbers)


# --- jobs ------------------------------------------------------------------------------------------------------------

SPENT_COLUMNS = (
    ("trials", "right"), ("rollouts", "right"), ("tokens", "right"), ("cost", "right"), ("time", "right"),
)  # fmt: skip


def _job_tables(jobs: Sequence[Row], width: int) -> Iterator[Table]:
    if width >= WHOLE:
        yield _whole_table(jobs)
        return
    # Where there is little room, what is the same for all jobs stands in a note below.
    are_alike = _common_seeds(jobs) is not None
    seeds = () if are_alike else (("seeds", "right"),)
    first = (("#", "right"), ("job", "fold"), ("base", "right"), ("best", "right"), ("lift", "left"), *seeds)
    scores = with_columns(first, is_tight=True)
    second = (("#", "right"), ("policy", "left"), *SPENT_COLUMNS, ("ended by", "fold"))
    spent = with_columns(second, is_tight=True)
    for job in jobs:
        mark = Text(MARK_OF_STATUS.get(job["status"], "…"), style_of(job["status"]) or "dim")
        number = Text.assemble(f"{job['position']} ", mark)
        shown = _scores(job)[:3] if are_alike else _scores(job)
        scores.add_row(number, Text(one_line(job["label"])), *shown)
        spent.add_row(str(job["position"]), _policy(job), *_spent(job, clock), _ended_by(job))
    yield scores
    yield spent


def _whole_table(jobs: Sequence[Row]) -> Table:
    scores = (("baseline", "right"), ("best", "right"), ("lift", "left"), ("seeds", "right"))
    names = (("#", "right"), ("job", "fold"), ("status", "left"), ("policy", "left"))
    table = with_columns((*names, *scores, *SPENT_COLUMNS, ("ended by", "fold")))
    for job in jobs:
        status = Text(job["status"], style_of(job["status"]) or "dim")
        number, label = str(job["position"]), Text(one_line(job["label"]))
        table.add_row(number, label, status, _policy(job), *_scores(job), *_spent(job), _ended_by(job))
    return table


def _policy(job: Row) -> Text:
    return Text(one_line(job["policy"] or NONE))


def _scores(job: Row) -> tuple[str, Text, Text, str]:
    """Baseline, best, lift, seeds."""
    shown = job["eval_set"]
    lift = None if shown is None else job[shown]["difference"]
    return score(job["baseline_score"]), Text(score(job["best_score"]), "bold"), estimate(lift), _seeds(job)


def _seeds(job: Row) -> str:
    return NONE if job["eval_set"] is None else f"{job['eval_n']} {job['eval_set']}"


def _common_seeds(jobs: Sequence[Row]) -> str | None:
    """What all jobs with a score were measured on, where that is the same."""
    found = {_seeds(job) for job in jobs if job["eval_set"] is not None}
    return found.pop() if len(found) == 1 else None


def _spent(job: Row, written: Callable[[float], str] = duration) -> tuple[str, ...]:
    seconds = job["seconds"]
    return (
        counted(job["trials"]),
        counted(job["rollouts"]),
        counted(job["total_tokens"]),
        _cost(job),
        NONE if seconds is None else written(seconds),
    )


def _cost(job: Row) -> str:
    usd = job["total_cost_usd"]
    return NONE if usd is None else cost(usd)


def _ended_by(job: Row) -> str:
    """Why a job that has succeeded did not go on; of any other its status too, unless that says it all."""
    reason = one_line(job["finish_reason"] or "").replace("_", " ")
    status = "" if job["status"] == "succeeded" else job["status"]
    return ", ".join(dict.fromkeys(part for part in (status, reason) if part)) or NONE


def _notes(jobs: Sequence[Row]) -> Iterator[str]:
    """How the figures are to be read, and why some are missing."""
    scored = [job for job in jobs if job["best_score"] is not None]
    seeds = _common_seeds(jobs)
    where = "the seeds that are named" if seeds is None else f"{seeds} seeds"
    if scored:
        yield f"Scores are means over {where}. Lift: best less baseline, paired, with its 95 % interval."
    if kept := [str(job["position"]) for job in scored if job["is_baseline_best"]]:
        yield f"The baseline stays the best prompt of {_numbers(kept)}."
    positions: dict[str, list[str]] = {}
    for job in jobs:
        if said := "; ".join(part for part in (job["error"] or job["note"], _paired(job)) if part):
            positions.setdefault(one_line(said), []).append(str(job["position"]))
    for said, of in positions.items():
        yield f"{', '.join(of)}: {said}"


def _paired(job: Row) -> str | None:
    """What tells why a lift is not the best less the baseline that stand beside it."""
    figures = None if job["eval_set"] is None else job[job["eval_set"]]
    if figures is None or None in (figures["difference"], figures["best"], figures["baseline"]):
        return None
    pairs = figures["difference"]["n"]
    is_of_all = pairs == figures["best"]["n"] == figures["baseline"]["n"]
    return (
        None
        if is_of_all
        else f"the lift is over the {counted(pairs)} seeds on which baseline and best both have a score"
    )


def _numbers(positions: Sequence[str]) -> str:
    return f"{'job' if len(positions) == 1 else 'jobs'} {', '.join(positions)}"
