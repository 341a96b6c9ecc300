"""What commands on experiments have in common: following one, printing what came out, and the exit code."""

from rich.text import Text

from promptjobs.cli.exits import Exit
from promptjobs.cli.experiment_display import experiment_display_for
from promptjobs.cli.experiment_tables import print_results
from promptjobs.cli.follow import GIVE_UP_AFTER_SECONDS
from promptjobs.cli.outcome import Terminal
from promptjobs.cli.show import url_option
from promptjobs.cli.text import write_json
from promptjobs.sdk.client import Client
from promptjobs.sdk.experiment_shapes import EXPERIMENT_TERMINAL_STATUSES, Experiment, ExperimentResults

COMMAND = "promptjobs experiment"
SEED_SETS = ("search", "validation", "test")
"""In the order in which a job is measured on them."""


def follow_experiment(terminal: Terminal, client: Client, experiment: Experiment) -> ExperimentResults:
    """The results when all jobs are over; their events are shown on the way, from the first one on.

    experiment: with its jobs. Raises ConnectionFailed when the service stays away.
    """
    with experiment_display_for(terminal.out, experiment["jobs"], as_json=terminal.as_json) as display:
        events = client.follow_experiment(
            experiment["experiment_id"],
            give_up_after_seconds=GIVE_UP_AFTER_SECONDS,
            on_break=lambda broken: display.show_break(broken.cause, broken.attempt),
        )
        for event in events:
            display.show(event)
    return client.experiment_results(experiment["experiment_id"])


def exit_of(results: ExperimentResults) -> Exit:
    """Success where every job has succeeded; the worst that has happened to one otherwise."""
    counts = results["experiment"]["counts"]
    if counts.get("failed"):
        return Exit.JOB_FAILED
    is_cancelled = counts.get("cancelled") or results["experiment"]["status"] == "cancelled"
    return Exit.CANCELLED if is_cancelled else Exit.SUCCEEDED


def print_experiment_outcome(
    terminal: Terminal, url: str, results: ExperimentResults, started_by: str | None = None
) -> None:
    """The tables, or the results as JSON. started_by: the command that brings the service back, where it is gone."""
    if terminal.as_json:
        write_json(results)
    else:
        print_results(terminal.out, results)
        print_more(terminal, url, results, started_by)


def print_more(terminal: Terminal, url: str, results: ExperimentResults, started_by: str | None = None) -> None:
    """Commands for a shell that show more."""
    experiment, option = results["experiment"], url_option(url)
    name = experiment["experiment_id"]
    is_over = experiment["status"] in EXPERIMENT_TERMINAL_STATUSES
    best = _best_job(results)
    commands = [
        *([(started_by, "starts the service again")] if started_by else []),
        *([] if is_over else [(f"{COMMAND} watch {name}{option}", "follow it")]),
        (f"{COMMAND} results {name}{option} --compare all", "these tables again, and job against job"),
        (f"{COMMAND} results {name}{option} --format markdown", "for a report; or csv"),
        *([(f"{COMMAND} compare {name} 1 2{option}", "two of its jobs")] if len(results["jobs"]) > 1 else []),
        *([(f"promptjobs show {best}{option}", "the job that scored highest, and its prompt")] if best else []),
    ]
    terminal.out.print()
    terminal.out.print(Text("See more:", "bold"))
    for command, meaning in commands:
        terminal.out.print(Text.assemble(f"  {command}", (f"  # {meaning}", "dim")), soft_wrap=True)


def _best_job(results: ExperimentResults) -> str | None:
    """The id of the one with the highest score on the last seeds that any was measured on; of equal ones the first.

    A score on the search's own seeds says nothing against one on held-out seeds, however high it is.
    """
    scored = [job for job in results["jobs"] if job["eval_set"] is not None and job["best_score"] is not None]
    best = max(scored, key=lambda job: (SEED_SETS.index(job["eval_set"]), job["best_score"]), default=None)
    return best and best["job_id"]


def tell_left(terminal: Terminal, url: str, experiment_id: str) -> None:
    """How to come back to an experiment that goes on by itself."""
    option = url_option(url)
    terminal.people.print(Text(f"\nexperiment {experiment_id} goes on without us", "yellow"), soft_wrap=True)
    for command in ("watch", "results", "cancel"):
        terminal.people.print(Text(f"  {COMMAND} {command} {experiment_id}{option}"), soft_wrap=True)
