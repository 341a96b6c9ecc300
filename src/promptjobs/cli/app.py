"""The commands and their options. What each does is imported when it runs, so that the first line comes at once."""

from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from promptjobs.cli.exits import EXIT_CODES, EXIT_OF_STATUS, Exit, Output, reported
from promptjobs.cli.outcome import (
    Terminal,
    follow_job,
    print_outcome,
    tell_detached,
    tell_warnings,
)
from promptjobs.cli.remote import DEFAULT_URL, TERMINAL, Json, Remote
from promptjobs.cli.text import write_json

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Optimizes prompts: runs the service, and talks to one.",
    epilog=EXIT_CODES,
)

SERVICE_PANEL, JOBS_PANEL = "The service", "Jobs of a service"
WIDE = 200
"""Columns where the output is no terminal: nothing is cut for a width that nobody has."""

JobId = Annotated[str, typer.Argument(metavar="JOB", help="The job's id, pl_…")]
Url = Annotated[str, typer.Option(help="Where the service is.")]
AsJson = Annotated[bool, typer.Option("--json", help="Only JSON on stdout.")]
Port = Annotated[int | None, typer.Option(min=0, max=65535, help="Port to listen on; 0 for any that is free.")]
DataDir = Annotated[Path | None, typer.Option(help="Where the embedded database is.", show_default=False)]
LogLevel = Annotated[str | None, typer.Option(help="debug, info, warning or error.", show_default=False)]


def _terminal(*, as_json: bool = False) -> Terminal:
    out = Output()
    return Terminal(out if out.is_terminal else Output(width=WIDE), Console(stderr=True), as_json)


@app.callback(invoke_without_command=True)
def show_version(
    is_asked: Annotated[bool, typer.Option("--version", is_eager=True, help="Show the version and exit.")] = False,
) -> None:
    if is_asked:
        typer.echo(version("promptjobs"))
        raise typer.Exit(Exit.SUCCEEDED)


# --- the service -----------------------------------------------------------------------------------------------------


@app.command(rich_help_panel=SERVICE_PANEL, epilog=EXIT_CODES)
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.", show_default="127.0.0.1")] = None,
    port: Port = None,
    data_dir: DataDir = None,
    no_worker: Annotated[bool, typer.Option("--no-worker", help="Only the API; a `worker` runs the jobs.")] = False,
    log_level: LogLevel = None,
    as_json: Annotated[bool, typer.Option("--json", help='Print {"url": …} on stdout when it is ready.')] = False,
) -> None:
    """Serve the API, and run jobs, until Ctrl-C.

    Options go before the settings PROMPTJOBS_HOST, PROMPTJOBS_PORT, PROMPTJOBS_DATA_DIR and PROMPTJOBS_LOG_LEVEL.
    Without PROMPTJOBS_DATABASE_URL it starts a PostgreSQL of its own in the data directory.

    \b
    promptjobs serve
    promptjobs serve --port 0 --data-dir ./data --json
    """
    terminal = _terminal(as_json=as_json)
    with reported(terminal.err):
        from promptjobs.cli.service import run_server
        from promptjobs.cli.service_settings import read_settings

        settings = read_settings(host=host, port=port, data_dir=data_dir, log_level=log_level)
        run_server(settings, terminal.err, with_worker=not no_worker, as_json=as_json)


@app.command(rich_help_panel=SERVICE_PANEL, epilog=EXIT_CODES)
def worker(
    public_url: Annotated[
        str | None, typer.Option(help="Where task apps reach the server.", show_default=False)
    ] = None,
    jobs: Annotated[int | None, typer.Option(min=1, max=1000, help="Jobs to run at a time.", show_default="8")] = None,
    log_level: LogLevel = None,
    as_json: Annotated[bool, typer.Option("--json", help='Print {"worker_id": …} on stdout when it is ready.')] = False,
) -> None:
    """Run jobs beside servers that share a database, until Ctrl-C.

    Needs PROMPTJOBS_DATABASE_URL. Options go before PROMPTJOBS_PUBLIC_URL, PROMPTJOBS_WORKER_JOBS and
    PROMPTJOBS_LOG_LEVEL.

    \b
    PROMPTJOBS_DATABASE_URL=postgresql://user:password@host/name promptjobs worker --public-url http://api:8700
    """
    terminal = _terminal(as_json=as_json)
    with reported(terminal.err):
        from promptjobs.cli.service import run_worker
        from promptjobs.cli.service_settings import read_settings

        settings = read_settings(public_url=public_url, worker_jobs=jobs, log_level=log_level)
        run_worker(settings, terminal.err, as_json=as_json)


@app.command(rich_help_panel=SERVICE_PANEL, epilog=EXIT_CODES)
def migrate(
    revision: Annotated[str, typer.Option(help="head, a revision, -1 for one back, or base.")] = "head",
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Bring the database to the schema of this version.

    That is the database of PROMPTJOBS_DATABASE_URL, or else the embedded one, which `serve` migrates by itself.

    \b
    promptjobs migrate
    promptjobs migrate --revision -1
    """
    terminal = _terminal(as_json=as_json)
    with reported(terminal.err):
        from promptjobs.cli.service import run_migration
        from promptjobs.cli.service_settings import read_settings

        before, after = run_migration(read_settings(data_dir=data_dir), revision)
        if as_json:
            write_json({"before": before, "after": after})
        else:
            arrow = f"{before or 'empty'} → {after or 'empty'}"
            terminal.out.print(Text(arrow + (", nothing to do" if before == after else "")))


@app.command(rich_help_panel=SERVICE_PANEL, epilog=EXIT_CODES)
def demo(
    algorithm: Annotated[
        str, typer.Option(help="gepa, for one prompt, or mipro, for a program of two calls.")
    ] = "gepa",
    provider: Annotated[str, typer.Option(help="demo, which is offline, or openai, groq, google, …")] = "demo",
    model: Annotated[str | None, typer.Option(help="Its model whose prompt is improved.", show_default=False)] = None,
    meta_model: Annotated[
        str | None, typer.Option(help="Its model that writes prompts.", show_default="the same")
    ] = None,
    budget: Annotated[
        int | None, typer.Option(min=1, help="Rollouts, the test's aside.", show_default="1000; 300 with a provider")
    ] = None,
    data_dir: DataDir = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="The service's port; 0 for any that is free.")] = 0,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the service up until Ctrl-C.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run a whole optimization on this machine: no key, no network, no database to set up.

    It starts two offline models, a task app and the service as processes of their own, posts a job, follows it, shows
    the result, and ends what it has started. With a provider, whose key is in the environment, the models are real.

    \b
    promptjobs demo
    promptjobs demo --algorithm mipro
    promptjobs demo --keep --port 8700
    OPENAI_API_KEY=… promptjobs demo --provider openai --model gpt-4o-mini
    """
    terminal = _terminal(as_json=as_json)
    terminal.people.print(Text("starting the demo", "dim"))
    with reported(terminal.err):
        from promptjobs.cli.demo import run_demo
        from promptjobs.cli.demo_job import DemoOptions
        from promptjobs.cli.service_settings import read_settings

        options = DemoOptions(provider.lower(), model, meta_model, budget, port, keep, algorithm.lower())
        job = run_demo(options, read_settings(data_dir=data_dir), terminal)
    raise typer.Exit(EXIT_OF_STATUS[job["status"]])


# --- jobs ------------------------------------------------------------------------------------------------------------


@app.command(rich_help_panel=JOBS_PANEL, epilog=EXIT_CODES)
def run(
    config: Annotated[Path, typer.Argument(metavar="CONFIG.toml", help="The job's config.")],
    url: Url = DEFAULT_URL,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Replace a value; dotted path, JSON or text. Repeatable."),
    ] = None,
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
    promptjobs run job.toml --set prompt_learning.policy.model=gpt-4o-mini --set prompt_learning.gepa.rollout.budget=400
    promptjobs run job.toml --json | tail -n 1 | jq .best_prompt_messages
    """
    terminal = _terminal(as_json=as_json)
    with reported(terminal.err):
        from promptjobs.cli.config_file import algorithm_of, read_config, read_overrides
        from promptjobs.cli.prompt_file import check_writable, write_prompt

        body, overrides = read_config(config), read_overrides(set_ or ())
        if output is not None:
            check_writable(output)
        with Remote(url) as remote:
            job = remote.create(algorithm_of(body), body, overrides)
            tell_warnings(terminal, job)
            if detach:
                _show_detached(terminal, remote.url, job)
                return
            if not as_json:
                terminal.out.print(Text.assemble("job ", (job["job_id"], "bold")))
            job = _followed(terminal, remote, job["job_id"])
            if output is not None:
                write_prompt(output, job, terminal.people)
            print_outcome(terminal, remote.url, job)
    raise typer.Exit(EXIT_OF_STATUS[job["status"]])


@app.command(rich_help_panel=JOBS_PANEL, epilog=EXIT_CODES)
def watch(
    job_id: JobId,
    url: Url = DEFAULT_URL,
    as_json: Annotated[bool, typer.Option("--json", help="Only JSON on stdout: events, then the job.")] = False,
) -> None:
    """Follow a job to its end, from its first event on, and show what came out. Ctrl-C leaves the job running."""
    terminal = _terminal(as_json=as_json)
    with reported(terminal.err), Remote(url) as remote:
        job = _followed(terminal, remote, job_id)
        print_outcome(terminal, remote.url, job)
    raise typer.Exit(EXIT_OF_STATUS[job["status"]])


@app.command(rich_help_panel=JOBS_PANEL, epilog=EXIT_CODES)
def show(job_id: JobId, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Show a job as it is now: its result, or how far it is. The exit code does not tell the job's status."""
    terminal = _terminal(as_json=as_json)
    with reported(terminal.err), Remote(url) as remote:
        print_outcome(terminal, remote.url, remote.job(job_id))


@app.command(rich_help_panel=JOBS_PANEL, epilog=EXIT_CODES)
def cancel(
    job_id: JobId,
    url: Url = DEFAULT_URL,
    reason: Annotated[str | None, typer.Option(help="Kept with the job.", show_default=False)] = None,
    as_json: AsJson = False,
) -> None:
    """Cancel a job. One that is running publishes the best it has; one that is over stays as it is."""
    terminal = _terminal(as_json=as_json)
    with reported(terminal.err), Remote(url) as remote:
        job = remote.cancel(job_id, reason)
        if as_json:
            write_json(job)
        elif job["status"] in TERMINAL:
            terminal.out.print(Text(f"job {job_id} is {job['status']}"), soft_wrap=True)
        else:
            terminal.out.print(Text(f"job {job_id} is asked to end; its worker publishes the best it has"))


@app.command(rich_help_panel=JOBS_PANEL, epilog=EXIT_CODES)
def jobs(
    url: Url = DEFAULT_URL,
    limit: Annotated[int, typer.Option(min=1, max=200, help="At most so many.")] = 20,
    status: Annotated[str | None, typer.Option(help="Only those with this status.", show_default=False)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Only JSON on stdout: one array.")] = False,
) -> None:
    """List jobs, newest first."""
    terminal = _terminal(as_json=as_json)
    with reported(terminal.err), Remote(url) as remote:
        found: list[Json] = remote.jobs(limit, status)
        if as_json:
            write_json(found)
        elif found:
            from promptjobs.cli.show import jobs_table

            terminal.out.print(jobs_table(found, terminal.out.width))
        else:
            terminal.out.print("no jobs")


def _followed(terminal: Terminal, remote: Remote, job_id: str) -> Json:
    """The job at its end. Ctrl-C leaves the job alone, says how to come back to it, and is raised again."""
    try:
        return follow_job(terminal, remote, job_id)
    except KeyboardInterrupt:
        tell_detached(terminal, remote.url, job_id)
        raise


def _show_detached(terminal: Terminal, url: str, job: dict[str, Any]) -> None:
    if terminal.as_json:
        write_json(job)
    else:
        tell_detached(terminal, url, job["job_id"])
