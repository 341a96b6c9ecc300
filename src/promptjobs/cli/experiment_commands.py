"""The commands on the experiments of a service: many jobs, created together and compared in one table."""

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from promptjobs.cli.exits import EXIT_CODES, reported
from promptjobs.cli.experiment_result_commands import ExperimentId, experiment_results_app
from promptjobs.cli.key_values import read_values
from promptjobs.cli.outcome import AsJson, Terminal, terminal_for
from promptjobs.cli.remote import ApiKey, Url, service_at
from promptjobs.cli.text import write_json
from promptjobs.sdk.addresses import DEFAULT_URL
from promptjobs.sdk.client import Client
from promptjobs.sdk.experiment_shapes import EXPERIMENT_TERMINAL_STATUSES, Experiment

experiments_app = typer.Typer(
    no_args_is_help=True,
    help="Many jobs at once: variants of configs, models and seeds, side by side in one table.",
    epilog=EXIT_CODES,
)

MAX_LISTED = 10_000

ExperimentFile = Annotated[Path, typer.Argument(metavar="EXPERIMENT.toml", help="The experiment.")]
EventsThenResults = Annotated[bool, typer.Option("--json", help="Only JSON on stdout: events, then the results.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a value in every job; as of `run`. Repeatable."),
]


@experiments_app.command(epilog=EXIT_CODES)
def submit(
    file: ExperimentFile,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    set_: Set = None,
    parallelism: Annotated[
        int | None, typer.Option(min=1, max=64, help="Jobs at a time.", show_default="the file's, or 3")
    ] = None,
    watch_: Annotated[bool, typer.Option("--watch", help="Follow it to its end, and show the results.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Only JSON on stdout: the experiment; with --watch events, then the results.")
    ] = False,
) -> None:
    """Create an experiment: all of its jobs, or none where one is refused. It goes on by itself.

    \b
    promptjobs experiment submit configs/experiments/experiment_demo.toml --watch
    promptjobs experiment submit experiment.toml --parallelism 8 --set prompt_learning.task_app_url=http://app:8001
    promptjobs experiment submit experiment.toml --json | jq -r .experiment_id
    """
    terminal = terminal_for(as_json=as_json)
    with reported(terminal.err):
        from promptjobs.cli.experiment_file import experiment_from

        wanted = experiment_from(file, read_values("--set", set_ or ()), parallelism)
        with service_at(url, api_key) as client:
            created = client.create_experiment(wanted)
            if not watch_:
                _show_created(terminal, client.url, created)
                return
            _watched(terminal, client, created)


@experiments_app.command(epilog=EXIT_CODES)
def estimate(
    file: ExperimentFile, url: Url = DEFAULT_URL, api_key: ApiKey = None, set_: Set = None, as_json: AsJson = False
) -> None:
    """Tell what an experiment would take and cost, job by job, without creating it. Refused is what `submit` refuses.

    \b
    promptjobs experiment estimate experiment.toml
    """
    terminal = terminal_for(as_json=as_json)
    with reported(terminal.err):
        from promptjobs.cli.experiment_file import experiment_from

        wanted = experiment_from(file, read_values("--set", set_ or ()))
        with service_at(url, api_key) as client:
            found = client.estimate_experiment(wanted)
        if as_json:
            write_json(found)
        else:
            from promptjobs.cli.experiment_estimate import print_experiment_estimate

            print_experiment_estimate(terminal.out, found)


@experiments_app.command(epilog=EXIT_CODES)
def watch(
    experiment_id: ExperimentId, url: Url = DEFAULT_URL, api_key: ApiKey = None, as_json: EventsThenResults = False
) -> None:
    """Follow an experiment to its end, from its first event on, and show the results. Ctrl-C leaves it running.

    It comes back by itself where the connection breaks. The exit code is 1 where a job has failed, and 4 where none has
    but one was cancelled.
    """
    terminal = terminal_for(as_json=as_json)
    with reported(terminal.err), service_at(url, api_key) as client:
        _watched(terminal, client, client.experiment(experiment_id))


@experiments_app.command(epilog=EXIT_CODES)
def status(
    experiment_id: ExperimentId, url: Url = DEFAULT_URL, api_key: ApiKey = None, as_json: AsJson = False
) -> None:
    """Show how far each job is. The exit code does not tell the experiment's status."""
    terminal = terminal_for(as_json=as_json)
    with reported(terminal.err), service_at(url, api_key) as client:
        found = client.experiment(experiment_id)
        if as_json:
            write_json(found)
        else:
            from promptjobs.cli.experiment_show import print_status

            print_status(terminal.out, found)


@experiments_app.command("list", epilog=EXIT_CODES)
def list_experiments(
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    limit: Annotated[int, typer.Option(min=1, max=MAX_LISTED, help="At most so many.")] = 20,
    status_: Annotated[
        str | None, typer.Option("--status", help="Only those with this status.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Only JSON on stdout: one array.")] = False,
) -> None:
    """List experiments, newest first.

    \b
    promptjobs experiment list --status running
    """
    terminal = terminal_for(as_json=as_json)
    with reported(terminal.err), service_at(url, api_key) as client:
        found = list(client.experiments(status=status_, limit=limit))
        if as_json:
            write_json(found)
        elif found:
            from promptjobs.cli.experiment_show import experiments_table

            terminal.out.print(experiments_table(found, terminal.out.width))
        else:
            terminal.out.print("no experiments")


@experiments_app.command(epilog=EXIT_CODES)
def cancel(
    experiment_id: ExperimentId,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    reason: Annotated[str | None, typer.Option(help="Kept with its jobs.", show_default=False)] = None,
    as_json: AsJson = False,
) -> None:
    """Cancel an experiment. Jobs that run publish the best they have; those that wait never start."""
    terminal = terminal_for(as_json=as_json)
    with reported(terminal.err), service_at(url, api_key) as client:
        found = client.cancel_experiment(experiment_id, reason)
        if as_json:
            write_json(found)
            return
        is_over = found["status"] in EXPERIMENT_TERMINAL_STATUSES
        standing = f"is {found['status']}" if is_over else "is asked to end; its jobs publish the best they have"
        terminal.out.print(Text(f"experiment {experiment_id} {standing}"), soft_wrap=True)


@experiments_app.command(epilog=EXIT_CODES)
def delete(
    experiment_id: ExperimentId, url: Url = DEFAULT_URL, api_key: ApiKey = None, as_json: AsJson = False
) -> None:
    """Delete an experiment that is over, with its jobs and everything they have left. There is no way back.

    \b
    promptjobs experiment cancel exp_…; promptjobs experiment watch exp_…
    promptjobs experiment delete exp_…
    """
    terminal = terminal_for(as_json=as_json)
    with reported(terminal.err), service_at(url, api_key) as client:
        client.delete_experiment(experiment_id)
        if as_json:
            write_json({"experiment_id": experiment_id, "deleted": True})
        else:
            terminal.out.print(Text(f"experiment {experiment_id} is deleted"), soft_wrap=True)


def _show_created(terminal: Terminal, url: str, experiment: Experiment) -> None:
    if terminal.as_json:
        write_json(experiment)
        return
    _tell_created(terminal, experiment)
    from promptjobs.cli.experiment_outcome import tell_left

    tell_left(terminal, url, experiment["experiment_id"])


def _tell_created(terminal: Terminal, experiment: Experiment) -> None:
    jobs, at_a_time = experiment["num_jobs"], experiment["parallelism"]
    said = f": {jobs} {'job' if jobs == 1 else 'jobs'}, {at_a_time} at a time"
    terminal.people.print(Text.assemble("experiment ", (experiment["experiment_id"], "bold"), said), soft_wrap=True)


def _watched(terminal: Terminal, client: Client, experiment: Experiment) -> None:
    """To its end, with the exit code of what came out. Ctrl-C leaves it alone, says how to come back, and is raised."""
    from promptjobs.cli.experiment_outcome import exit_of, follow_experiment, print_experiment_outcome, tell_left

    _tell_created(terminal, experiment)
    try:
        found = follow_experiment(terminal, client, experiment)
    except KeyboardInterrupt:
        tell_left(terminal, client.url, experiment["experiment_id"])
        raise
    print_experiment_outcome(terminal, client.url, found)
    raise typer.Exit(exit_of(found))


experiments_app.add_typer(experiment_results_app)
