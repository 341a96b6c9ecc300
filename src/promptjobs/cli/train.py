"""The command that the published SDK's experiment queue runs: creates a job, follows it, writes its result.

The queue names it in EXPERIMENT_QUEUE_TRAIN_CMD, adds the options, and reads what it prints; see docs/clients.md.
"""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from promptjobs.cli.exits import EXIT_CODES, EXIT_OF_STATUS, reported
from promptjobs.cli.outcome import terminal_for
from promptjobs.cli.remote import service_at
from promptjobs.errors import OptionInvalid
from promptjobs.sdk.addresses import DEFAULT_URL
from promptjobs.sdk.environment import API_KEY_VARIABLE, URL_VARIABLE

train_app = typer.Typer()

QUEUE_PANEL = "For other programs"
QUEUE_KEY_VARIABLE = "SYNTH_API_KEY"
TASK_APP_KEY_VARIABLE = "ENVIRONMENT_API_KEY"


class JobType(StrEnum):
    """What kind of job it is: there is one, which the queue and the SDK's own command call by different names."""

    PROMPT_LEARNING = "prompt_learning"
    PROMPT = "prompt"


class StreamFormat(StrEnum):
    """How the job is shown: as lines."""

    CLI = "cli"


@train_app.command(rich_help_panel=QUEUE_PANEL, epilog=EXIT_CODES)
def train(
    config: Annotated[Path, typer.Option("--config", metavar="CONFIG.toml", help="The job's config.")],
    backend: Annotated[
        str, typer.Option(envvar=URL_VARIABLE, help="Where the service is, with or without /api.")
    ] = DEFAULT_URL,
    job_type: Annotated[JobType, typer.Option("--type", help="The one kind of job.")] = JobType.PROMPT_LEARNING,
    poll: Annotated[bool, typer.Option("--poll/--no-poll", help="Wait for the job's end.")] = True,
    stream_format: Annotated[StreamFormat, typer.Option(help="The one way to show it: lines.")] = StreamFormat.CLI,
    api_key: Annotated[
        str | None,
        typer.Option(envvar=[QUEUE_KEY_VARIABLE, API_KEY_VARIABLE], help="A key of the service.", show_default=False),
    ] = None,
    task_app_api_key: Annotated[
        str | None, typer.Option(envvar=TASK_APP_KEY_VARIABLE, help="The task app's key.", show_default=False)
    ] = None,
    learning_curve: Annotated[
        bool, typer.Option("--learning-curve", help="Write it as a file too: only for experiments of one job.")
    ] = False,
) -> None:
    """Run a job for the experiment queue of the SDK synth-ai: EXPERIMENT_QUEUE_TRAIN_CMD="promptjobs train".

    The result's files go to the config's results_folder, where it names one. The job is cancelled when the command is
    interrupted, or when nobody reads its output any more.

    \b
    promptjobs train --type prompt_learning --config job.toml --backend http://127.0.0.1:8700/api --poll
    """
    terminal = terminal_for()
    with reported(terminal.err):
        from promptjobs.cli.train_config import read_training
        from promptjobs.cli.train_files import ResultsFolder
        from promptjobs.cli.train_run import Run

        training = read_training(config)
        results = training.results_folder if poll else None
        if learning_curve and results is None:
            raise OptionInvalid("--learning-curve", "needs --poll, and a results_folder in the config")
        folder = None if results is None else ResultsFolder.at(results)
        key = api_key or training.keys.get(QUEUE_KEY_VARIABLE)
        task_app_key = task_app_api_key or training.keys.get(TASK_APP_KEY_VARIABLE)
        with service_at(backend.rstrip("/").removesuffix("/api"), key) as client:
            run = Run.create(client, training.body, task_app_key)
            if not poll:
                return
            job = run.follow(folder, with_curve=learning_curve)
    raise typer.Exit(EXIT_OF_STATUS[job["status"]])
