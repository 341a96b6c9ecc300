"""The commands on the jobs of a service. What each needs is imported when it runs: the first line comes at once."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from promptjobs.cli.exits import EXIT_CODES, EXIT_OF_STATUS, reported
from promptjobs.cli.key_values import read_texts, read_values
from promptjobs.cli.outcome import (
    AsJson,
    Terminal,
    follow_job,
    print_outcome,
    tell_detached,
    tell_unstarted,
    tell_warnings,
    terminal_for,
)
from promptjobs.cli.plot_commands import plots_app
from promptjobs.cli.prompt_commands import prompts_app
from promptjobs.cli.remote import ApiKey, Url, service_at
from promptjobs.cli.text import write_json
from promptjobs.errors import OptionInvalid
from promptjobs.sdk.addresses import DEFAULT_URL
from promptjobs.sdk.client import Client
from promptjobs.sdk.shapes import TERMINAL_STATUSES, Job

jobs_app = typer.Typer()

JOBS_PANEL = "Jobs of a service"
MAX_LISTED = 10_000

ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG.toml", help="The job's config.")]
JobId = Annotated[str, typer.Argument(metavar="JOB", help="The job's id, pl_…")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Replace a value; dotted path, JSON or text. Repeatable."),
]
Metadata = Annotated[
    list[str] | None,
    typer.Option("--metadata", metavar="KEY=VALUE", help="Kept with the job; JSON or text. Repeatable."),
]
Wanted = Callable[[Client, str], Job]


@jobs_app.command(rich_help_panel=JOBS_PANEL, epilog=EXIT_CODES)
def run(
    config: ConfigFile,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    set_: Set = None,
    metadata: Metadata = None,
    no_start: Annotated[bool, typer.Option("--no-start", help="Only create the job: it waits for its start.")] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Do not wait for the job's end.")] = False,
    output: Annotated[
        Path | None, typer.Option(help="Write the best prompt's messages to this file.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Only JSON on stdout: events, then the job.")] = False,
) -> None:
    """Create a job, follow it, and show what came out. Ctrl-C leaves the job running.

    \b
    promptjobs run configs/gepa_support_tickets.toml --output best_prompt.json
    promptjobs run configs/mipro_support_tickets.toml --detach
    promptjobs run job.toml --no-start --metadata team=support
    promptjobs run job.toml --set prompt_learning.policy.model=gpt-4o-mini --set prompt_learning.gepa.rollout.budget=400
    promptjobs run job.toml --json | tail -n 1 | jq .best_prompt_messages
    """
    terminal = terminal_for(as_json=as_json)
    with reported(terminal.err):
        from promptjobs.cli.prompt_file import check_writable, write_prompt
        from promptjobs.sdk.config_files import read_config

        body, overrides = read_config(config), read_values("--set", set_ or ())
        labels = read_values("--metadata", metadata or ())
        if output is not None:
            if no_start or detach:
                raise OptionInvalid("--output", "a prompt is written at the job's end, which is not waited for")
            check_writable(output)
        with service_at(url, api_key) as client:
            job = client.create(body, overrides=overrides, metadata=labels or None, auto_start=not no_start)
            if no_start or detach:
                tell_warnings(terminal, job)
                _show_left(terminal, client.url, job)
                return
            if not as_json:
                terminal.out.print(Text.assemble("job ", (job["job_id"], "bold")))
            tell_warnings(terminal, job)
            job = _followed(terminal, client, job["job_id"])
            if output is not None:
                write_prompt(output, job, terminal.people)
            print_outcome(terminal, client.url, job, needs_key=client.has_key)
    raise typer.Exit(EXIT_OF_STATUS[job["status"]])


@jobs_app.command(rich_help_panel=JOBS_PANEL, epilog=EXIT_CODES)
def watch(
    job_id: JobId,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: Annotated[bool, typer.Option("--json", help="Only JSON on stdout: events, then the job.")] = False,
) -> None:
    """Follow a job to its end, from its first event on, and show what came out. Ctrl-C leaves the job running."""
    terminal = terminal_for(as_json=as_json)
    with reported(terminal.err), service_at(url, api_key) as client:
        job = _followed(terminal, client, job_id)
        print_outcome(terminal, client.url, job, needs_key=client.has_key)
    raise typer.Exit(EXIT_OF_STATUS[job["status"]])


@jobs_app.command(rich_help_panel=JOBS_PANEL, epilog=EXIT_CODES)
def show(job_id: JobId, url: Url = DEFAULT_URL, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Show a job as it is now: its result, or how far it is. The exit code does not tell the job's status."""
    terminal = terminal_for(as_json=as_json)
    with reported(terminal.err), service_at(url, api_key) as client:
        print_outcome(terminal, client.url, client.job(job_id), needs_key=client.has_key)


@jobs_app.command("list", rich_help_panel=JOBS_PANEL, epilog=EXIT_CODES)
def list_jobs(
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    limit: Annotated[int, typer.Option(min=1, max=MAX_LISTED, help="At most so many.")] = 20,
    status: Annotated[str | None, typer.Option(help="Only those with this status.", show_default=False)] = None,
    algorithm: Annotated[str | None, typer.Option(help="Only gepa, or only mipro.", show_default=False)] = None,
    metadata: Annotated[
        list[str] | None,
        typer.Option("--metadata", metavar="KEY=VALUE", help="Only those whose metadata has it. Repeatable."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Only JSON on stdout: one array.")] = False,
) -> None:
    """List jobs, newest first.

    \b
    promptjobs list --status running
    promptjobs list --algorithm gepa --metadata team=support --limit 100 --json
    """
    terminal = terminal_for(as_json=as_json)
    with reported(terminal.err), service_at(url, api_key) as client:
        labels = read_texts("--metadata", metadata or ())
        found = list(client.jobs(status=status, algorithm=algorithm, metadata=labels, limit=limit))
        if as_json:
            write_json(found)
        elif found:
            from promptjobs.cli.show import jobs_table

            terminal.out.print(jobs_table(found, terminal.out.width))
        else:
            terminal.out.print("no jobs")


@jobs_app.command(rich_help_panel=JOBS_PANEL, epilog=EXIT_CODES)
def estimate(
    config: ConfigFile, url: Url = DEFAULT_URL, api_key: ApiKey = None, set_: Set = None, as_json: AsJson = False
) -> None:
    """Tell what a job would take and cost, without creating it. A config that cannot run is refused as by `run`.

    \b
    promptjobs estimate job.toml
    promptjobs estimate job.toml --set prompt_learning.gepa.rollout.budget=400 --json
    """
    terminal = terminal_for(as_json=as_json)
    with reported(terminal.err):
        from promptjobs.sdk.config_files import read_config

        body, overrides = read_config(config), read_values("--set", set_ or ())
        with service_at(url, api_key) as client:
            found = client.estimate(body, overrides=overrides)
        if as_json:
            write_json(found)
        else:
            from promptjobs.cli.estimate import print_estimate

            print_estimate(terminal.out, found)


@jobs_app.command(rich_help_panel=JOBS_PANEL, epilog=EXIT_CODES)
def start(job_id: JobId, url: Url = DEFAULT_URL, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Start a job that was created with `run --no-start`. One that was started before stays as it is."""
    _command(job_id, url, api_key, as_json, Client.start)


@jobs_app.command(rich_help_panel=JOBS_PANEL, epilog=EXIT_CODES)
def pause(job_id: JobId, url: Url = DEFAULT_URL, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Pause a job. One that is running first finishes what is under way; nothing of it is lost or paid again."""
    _command(job_id, url, api_key, as_json, Client.pause)


@jobs_app.command(rich_help_panel=JOBS_PANEL, epilog=EXIT_CODES)
def resume(job_id: JobId, url: Url = DEFAULT_URL, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Let a paused job go on where it was, or call off a pause that has not begun."""
    _command(job_id, url, api_key, as_json, Client.resume)


@jobs_app.command(rich_help_panel=JOBS_PANEL, epilog=EXIT_CODES)
def cancel(
    job_id: JobId,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    reason: Annotated[str | None, typer.Option(help="Kept with the job.", show_default=False)] = None,
    as_json: AsJson = False,
) -> None:
    """Cancel a job. One that is running publishes the best it has; one that is over stays as it is."""
    _command(job_id, url, api_key, as_json, lambda client, job_id: client.cancel(job_id, reason))


@jobs_app.command(rich_help_panel=JOBS_PANEL, epilog=EXIT_CODES)
def delete(job_id: JobId, url: Url = DEFAULT_URL, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Delete a job that is over, with its events, rollouts, snapshots and artifacts. There is no way back.

    \b
    promptjobs cancel pl_… && promptjobs watch pl_…
    promptjobs delete pl_…
    """
    terminal = terminal_for(as_json=as_json)
    with reported(terminal.err), service_at(url, api_key) as client:
        client.delete(job_id)
        if as_json:
            write_json({"job_id": job_id, "deleted": True})
        else:
            terminal.out.print(Text(f"job {job_id} is deleted"), soft_wrap=True)


def _followed(terminal: Terminal, client: Client, job_id: str) -> Job:
    """The job at its end. Ctrl-C leaves the job alone, says how to come back to it, and is raised again."""
    try:
        return follow_job(terminal, client, job_id)
    except KeyboardInterrupt:
        tell_detached(terminal, client.url, job_id)
        raise


def _show_left(terminal: Terminal, url: str, job: Job) -> None:
    """A job that is not waited for."""
    if terminal.as_json:
        write_json(job)
    elif job["status"] == "pending":
        tell_unstarted(terminal, url, job["job_id"])
    else:
        tell_detached(terminal, url, job["job_id"])


def _command(job_id: str, url: str, api_key: str | None, as_json: bool, wanted: Wanted) -> None:
    """Send a command, and tell how the job stands now."""
    terminal = terminal_for(as_json=as_json)
    with reported(terminal.err), service_at(url, api_key) as client:
        job = wanted(client, job_id)
        if as_json:
            write_json(job)
        else:
            terminal.out.print(Text(f"job {job_id} {_standing(job)}"), soft_wrap=True)


def _standing(job: Job) -> str:
    status = job["status"]
    if status not in TERMINAL_STATUSES and job["cancel_requested_at"]:
        return "is asked to end; its worker publishes the best it has"
    if status == "running" and job["pause_requested_at"]:
        return "is asked to pause; what is under way is finished first"
    if status == "paused":
        return "is paused until `promptjobs resume`"
    return {"pending": "waits for its start", "queued": "waits for a worker"}.get(status, f"is {status}")


jobs_app.add_typer(prompts_app)
jobs_app.add_typer(plots_app)
