"""The commands on what an experiment has found: its tables, and two of its jobs seed by seed."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, cast

import typer
from rich.text import Text

from promptjobs.cli.exits import EXIT_CODES, reported
from promptjobs.cli.outcome import AsJson, Terminal, terminal_for
from promptjobs.cli.remote import ApiKey, Url, service_at
from promptjobs.cli.text import write_json, write_line
from promptjobs.errors import OptionInvalid
from promptjobs.sdk.addresses import DEFAULT_URL
from promptjobs.sdk.client import Client
from promptjobs.sdk.experiment_requests import Compared, TableFormat

experiment_results_app = typer.Typer()

ExperimentId = Annotated[str, typer.Argument(metavar="EXPERIMENT", help="The experiment's id, exp_…")]
JobName = Annotated[str, typer.Argument(help="A job of it: its number, its label or its id.")]


class Shown(StrEnum):
    """How results are shown."""

    TABLE = "table"
    MARKDOWN = "markdown"
    CSV = "csv"


class Compare(StrEnum):
    """Which jobs are compared with which: the best with each other, every two, or none."""

    LEADER = "leader"
    ALL = "all"
    NONE = "none"


class Seeds(StrEnum):
    """On which seeds two jobs are compared. held_out: the most trustworthy that both have."""

    HELD_OUT = "held_out"
    SEARCH = "search"
    VALIDATION = "validation"
    TEST = "test"


@experiment_results_app.command(epilog=EXIT_CODES)
def results(
    experiment_id: ExperimentId,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    form: Annotated[Shown, typer.Option("--format", help="Tables for a terminal, for a report, or data.")] = (
        Shown.TABLE
    ),
    compare_: Annotated[
        Compare | None, typer.Option("--compare", help="Show job against job, too.", show_default=False)
    ] = None,
    variants: Annotated[
        int | None,
        typer.Option(min=0, max=50, help="With another form than tables: so many prompts a job.", show_default="5"),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Write it to this file.", show_default="stdout")] = None,
    as_json: AsJson = False,
) -> None:
    """Show what an experiment has found so far: its jobs, groups of them, and which of two is better.

    \b
    promptjobs experiment results exp_…
    promptjobs experiment results exp_… --compare all
    promptjobs experiment results exp_… --format csv --output results.csv
    promptjobs experiment results exp_… --json | jq '.jobs[] | [.label, .best_score]'
    """
    terminal = terminal_for(as_json=as_json)
    with reported(terminal.err):
        _check_together(form, output, as_json=as_json)
        with service_at(url, api_key) as client:
            if form is Shown.TABLE:
                _show_tables(terminal, client, experiment_id, compare_, variants)
            else:
                text = client.experiment_results_text(
                    experiment_id, cast(TableFormat, form.value), compare=_compared(compare_), variants=variants
                )
                _write(terminal, text, output)


@experiment_results_app.command(epilog=EXIT_CODES)
def compare(
    experiment_id: ExperimentId,
    first: JobName,
    second: JobName,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    seeds: Annotated[Seeds, typer.Option(help="Of these seeds.")] = Seeds.HELD_OUT,
    as_json: AsJson = False,
) -> None:
    """Compare the best prompts of two jobs, seed by seed over those that both were measured on.

    \b
    promptjobs experiment compare exp_… 1 7
    promptjobs experiment compare exp_… "gepa · seed=0" pl_… --seeds validation
    """
    terminal = terminal_for(as_json=as_json)
    with reported(terminal.err), service_at(url, api_key) as client:
        from promptjobs.cli.experiment_pair import job_named, print_comparison

        jobs = client.experiment(experiment_id)["jobs"]
        ids = job_named(jobs, "FIRST", first), job_named(jobs, "SECOND", second)
        found = client.compare_jobs(experiment_id, *ids, seeds=seeds.value)
        if as_json:
            write_json(found)
        else:
            print_comparison(terminal.out, found)


def _compared(choice: Compare | None) -> Compared | None:
    return None if choice is None else choice.value


def _check_together(form: Shown, output: Path | None, *, as_json: bool) -> None:
    """Raises OptionInvalid for options that do not go together, and FileUnusable."""
    if as_json and form is not Shown.TABLE:
        raise OptionInvalid("--format", "does not go with --json")
    if output is not None:
        if form is Shown.TABLE:
            raise OptionInvalid("--output", "goes with --format markdown or csv")
        from promptjobs.cli.prompt_file import check_writable

        check_writable(output)


def _show_tables(
    terminal: Terminal, client: Client, experiment_id: str, compared: Compare | None, variants: int | None
) -> None:
    found = client.experiment_results(experiment_id, compare=_compared(compared), variants=variants)
    if terminal.as_json:
        write_json(found)
        return
    from promptjobs.cli.experiment_tables import print_results

    print_results(terminal.out, found, with_job_comparisons=compared is not None)


def _write(terminal: Terminal, text: str, output: Path | None) -> None:
    """To the file, and say so; else to stdout, and nothing but that."""
    if output is None:
        write_line(text.removesuffix("\n"))
        return
    from promptjobs.cli.prompt_file import write_text

    write_text(output, text)
    terminal.err.print(Text(f"written to {output}", "green"), soft_wrap=True)
