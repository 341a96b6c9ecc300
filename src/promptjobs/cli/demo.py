"""The demo: whole optimizations on this machine, with real processes and over HTTP."""

import asyncio
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar
from urllib.parse import urlsplit

import asyncpg
from rich.console import Console
from rich.text import Text

from promptjobs.cli.demo_job import OFFLINE, DemoOptions
from promptjobs.cli.outcome import Terminal
from promptjobs.cli.processes import Child, child
from promptjobs.cli.signals import interruptible, uninterrupted
from promptjobs.cli.text import duration
from promptjobs.db.embedded import EmbeddedServer
from promptjobs.db.session import Database
from promptjobs.errors import OptionInvalid
from promptjobs.errors.client import ClientError, ConnectionFailed, ServerError
from promptjobs.sdk.addresses import DEFAULT_URL
from promptjobs.sdk.client import Client
from promptjobs.settings import Settings, default_data_dir

CANCEL_ATTEMPTS = 50
PAUSE_SECONDS = 0.1
NEIGHBOUR_SECONDS = 5.0

NOT_OURS = ("PROMPTJOBS_DATABASE_URL", "PROMPTJOBS_PUBLIC_URL")
"""Settings of a real service that the demo's must not inherit: it brings its own database and lives on loopback."""


@dataclass(slots=True)
class Step:
    """A step of the start; result: what it has come to, for the line that stays."""

    result: str = ""


@dataclass(frozen=True, slots=True)
class Service:
    url: str
    process: Child


Outcome = TypeVar("Outcome")


class Run(Protocol[Outcome]):
    """What a demo runs once its service is up. name: what it creates, in a word."""

    name: str

    def introduce(self, say: Console) -> None:
        """Say what will happen, before it happens. Raises OptionInvalid, ProviderNotConfigured."""

    def create(self, client: Client, task_app_url: str) -> str:
        """Returns the id of what was created."""

    def follow(self, client: Client, created_id: str) -> Outcome:
        """What came out, at its end."""

    def cancel(self, client: Client, created_id: str) -> bool:
        """Ask for its end; returns whether that has come. May be repeated."""

    def show(self, outcome: Outcome, url: str, started_by: str | None = None) -> None:
        """started_by: the command that brings the service back, where it is gone by now."""


def run_demo(run: Run[Outcome], options: DemoOptions, settings: Settings, terminal: Terminal) -> Outcome:
    """Start everything, run, show what came out, end everything; returns what came out.

    Raises OptionInvalid and ProviderNotConfigured before anything is started, ProcessFailed, and KeyboardInterrupt
    after Ctrl-C, when what was created has been cancelled and every process has ended.
    """
    started_at = time.monotonic()
    run.introduce(terminal.people)
    _refuse_neighbours(settings.data_dir)
    # Signals interrupt the inner block only, so the processes are ended in peace.
    with uninterrupted(), ExitStack() as processes:
        with interruptible():
            task_app_url, service = _start(options, settings, terminal.people, processes)
            with Client(service.url) as client:
                outcome = _followed(run, client, service, task_app_url, terminal.people)
            if options.keep:
                run.show(outcome, service.url)
                _stay(service, terminal.people)
                return outcome
        with _step(terminal.people, "stopping") as step:
            processes.close()
            step.result = "all processes have ended"
    run.show(outcome, DEFAULT_URL, _serve_command(settings.data_dir))
    took = duration(time.monotonic() - started_at)
    terminal.people.print(Text(f"\nThe demo took {took} in all; its {run.name} is kept in {settings.data_dir}.", "dim"))
    return outcome


# --- processes -------------------------------------------------------------------------------------------------------


def _start(options: DemoOptions, settings: Settings, say: Console, processes: ExitStack) -> tuple[str, Service]:
    """The task app's URL, and the service. They end with `processes`, the service first."""

    def start(name: str, arguments: Sequence[str], environment: Mapping[str, str | None] | None = None) -> Child:
        with uninterrupted():
            return processes.enter_context(child(name, arguments, environment))

    environment: dict[str, str | None] = dict.fromkeys(NOT_OURS)
    task_app = start("the task app", ["promptjobs.demo.task_app"])
    if options.provider == OFFLINE:
        models = start("the model server", ["promptjobs.demo.model_server"])
        with _step(say, "model server") as step:
            step.result = models.read_url()
        environment["PROMPTJOBS_PROVIDER_DEMO_BASE_URL"] = f"{step.result}/v1"
    with _step(say, "task app") as step:
        step.result = task_app_url = task_app.read_url()
    if settings.allowed_targets is not None:
        targets = [*settings.allowed_targets, urlsplit(task_app_url).netloc]
        environment["PROMPTJOBS_ALLOWED_TARGETS"] = ",".join(targets)
    arguments = ["promptjobs", "serve", "--json", "--host", "127.0.0.1", "--port", str(options.port)]
    service = start("the service", [*arguments, "--data-dir", str(settings.data_dir)], environment)
    with _step(say, "service") as step:
        url = service.read_url()
        step.result = f"{url}, PostgreSQL in {settings.data_dir}"
    return task_app_url, Service(url, service)


@contextmanager
def _step(say: Console, name: str) -> Iterator[Step]:
    """A spinner while the block lasts, then a line with its result and how long it took."""
    started_at = time.monotonic()
    step = Step()
    with say.status(Text(name)):
        yield step
    took = duration(time.monotonic() - started_at)
    say.print(Text.assemble(("✓ ", "green"), f"{name:<14} {step.result} ", (f"({took})", "dim")), soft_wrap=True)


def _refuse_neighbours(data_dir: Path) -> None:
    """A worker of another service on the same database could take the demo's job, and does not know its models.

    Raises OptionInvalid where there is one.
    """
    if asyncio.run(_has_worker(EmbeddedServer.of(data_dir / "postgres").url)):
        raise OptionInvalid(
            "--data-dir", f"a promptjobs service is running on {data_dir}; stop it, or give the demo another directory"
        )


async def _has_worker(database_url: str) -> bool:
    database = Database.open(database_url, 1)
    try:
        async with asyncio.timeout(NEIGHBOUR_SECONDS):
            connection = await database.connect("promptjobs demo")
            try:
                query = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'promptjobs worker %'"
                return bool(await connection.fetchval(query))
            finally:
                connection.terminate()
    except (OSError, asyncpg.PostgresError):
        return False  # no server runs there, or it is on its way
    finally:
        await database.close()


# --- what is run -----------------------------------------------------------------------------------------------------


def _followed(run: Run[Outcome], client: Client, service: Service, task_app_url: str, say: Console) -> Outcome:
    created_id: str | None = None
    try:
        created_id = run.create(client, task_app_url)
        say.print(Text.assemble(("✓ ", "green"), f"{run.name:<14} {created_id}"), soft_wrap=True)
        return run.follow(client, created_id)
    except (ConnectionFailed, ServerError):
        if service.process.process.poll() is not None:
            raise service.process.failure() from None
        raise
    except (KeyboardInterrupt, OSError):  # Ctrl-C; or the terminal has gone, and cannot be written to
        with suppress(OSError):
            say.print(Text(f"\ncancelling the {run.name}, and ending all processes", "yellow"))
        if created_id is not None:
            _cancel(run, client, created_id)
        raise


def _cancel(run: Run[Outcome], client: Client, created_id: str) -> None:
    """Otherwise the next service on the same data would take it up again, without its task app."""
    with suppress(ClientError):
        for _ in range(CANCEL_ATTEMPTS):
            if run.cancel(client, created_id):
                return
            time.sleep(PAUSE_SECONDS)


def _stay(service: Service, say: Console) -> None:
    """Until Ctrl-C. Raises ProcessFailed when the service ends by itself."""
    say.print(Text(f"\nThe service stays up at {service.url} until Ctrl-C.", "bold"))
    try:
        service.process.process.wait()
    except KeyboardInterrupt:
        return
    raise service.process.failure()


def _serve_command(data_dir: Path) -> str:
    """What brings a service back that has the demo's job."""
    is_default = data_dir == default_data_dir()
    return "promptjobs serve" if is_default else f"promptjobs serve --data-dir {shlex.quote(str(data_dir))}"
