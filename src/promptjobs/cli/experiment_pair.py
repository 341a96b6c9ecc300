"""Prints how two jobs of an experiment compare, and finds the jobs that are named on the command line."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from promptjobs.cli.experiment_cells import NONE, estimate, p_value
from promptjobs.cli.text import one_line
from promptjobs.errors import OptionInvalid
from promptjobs.sdk.experiment_shapes import ExperimentJob, JobComparison


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
