"""The commands that run the service. What each needs is imported when it runs: the first line comes at once."""

from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from promptjobs.cli.balance import balance_app
from promptjobs.cli.exits import EXIT_CODES, EXIT_OF_STATUS, Exit, reported
from promptjobs.cli.experiment_commands import experiments_app
from promptjobs.cli.job_commands import JOBS_PANEL, jobs_app
from promptjobs.cli.keys import keys_app
from promptjobs.cli.outcome import AsJson, terminal_for
from promptjobs.cli.text import write_json
from promptjobs.cli.train import train_app

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Optimizes prompts: runs the service, and talks to one.",
    epilog=EXIT_CODES,
)

SERVICE_PANEL = "The service"

Port = Annotated[int | None, typer.Option(min=0, max=65535, help="Port to listen on; 0 for any that is free.")]
DataDir = Annotated[Path | None, typer.Option(help="Where the embedded database is.", show_default=False)]
LogLevel = Annotated[str | None, typer.Option(help="debug, info, warning or error.", show_default=False)]


@app.callback(invoke_without_command=True)
def show_version(
    is_asked: Annotated[bool, typer.Option("--version", is_eager=True, help="Show the version and exit.")] = False,
) -> None:
    if is_asked:
        typer.echo(version("promptjobs"))
        raise typer.Exit(Exit.SUCCEEDED)


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
    terminal = terminal_for(as_json=as_json)
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
    terminal = terminal_for(as_json=as_json)
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
    terminal = terminal_for(as_json=as_json)
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
    experiment: Annotated[
        bool, typer.Option("--experiment", help="Twelve jobs: both algorithms, two models, three seeds, compared.")
    ] = False,
    data_dir: DataDir = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="The service's port; 0 for any that is free.")] = 0,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the service up until Ctrl-C.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run a whole optimization on this machine: no key, no network, no database to set up.

    It starts offline models, a task app and the service as processes of their own, posts a job, follows it, shows the
    result, and ends what it has started. With a provider, whose key is in the environment, the models are real.

    \b
    promptjobs demo
    promptjobs demo --algorithm mipro
    promptjobs demo --experiment
    promptjobs demo --keep --port 8700
    OPENAI_API_KEY=… promptjobs demo --provider openai --model gpt-4o-mini
    """
    terminal = terminal_for(as_json=as_json)
    terminal.people.print(Text("starting the demo", "dim"))
    with reported(terminal.err):
        from promptjobs.cli.demo import run_demo
        from promptjobs.cli.demo_job import DemoOptions, check_experiment
        from promptjobs.cli.demo_runs import ExperimentRun, JobRun
        from promptjobs.cli.experiment_outcome import exit_of
        from promptjobs.cli.service_settings import read_settings

        options = DemoOptions(provider.lower(), model, meta_model, budget, port, keep, algorithm.lower())
        settings = read_settings(data_dir=data_dir)
        if experiment:
            check_experiment(options)
            code = exit_of(run_demo(ExperimentRun(terminal), options, settings, terminal))
        else:
            job = run_demo(JobRun(options, terminal), options, settings, terminal)
            code = EXIT_OF_STATUS[job["status"]]
    raise typer.Exit(code)


app.add_typer(keys_app, name="keys", rich_help_panel=SERVICE_PANEL)
app.add_typer(balance_app, name="balance", rich_help_panel=SERVICE_PANEL)
app.add_typer(jobs_app)
app.add_typer(experiments_app, name="experiment", rich_help_panel=JOBS_PANEL)
app.add_typer(train_app)
