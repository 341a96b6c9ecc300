"""Runs the service's own processes: server, worker, migration."""

import asyncio
import errno
import os
import signal
import socket
from collections.abc import Callable, Coroutine
from types import FrameType
from typing import Any
from urllib.parse import urlsplit

import uvloop
from alembic.util import CommandError
from rich.console import Console
from rich.text import Text
from sqlalchemy.exc import SQLAlchemyError

from promptjobs.api import server
from promptjobs.cli.database import database_url, opened, require_schema
from promptjobs.cli.logs import log_to_stderr
from promptjobs.cli.signals import handled
from promptjobs.cli.text import write_json
from promptjobs.db.migrate import migrate
from promptjobs.errors import DatabaseUnavailable, OptionInvalid, ProcessFailed
from promptjobs.settings import Settings

Ready = Callable[[str], None]


# --- server and worker -----------------------------------------------------------------------------------------------


def run_server(settings: Settings, err: Console, *, with_worker: bool, as_json: bool) -> None:
    """Serve until a signal. Raises OptionInvalid where it cannot listen, EmbeddedPostgresFailed, DatabaseUnavailable,
    and ProcessFailed where it gave up while it was starting."""
    log_to_stderr(settings.log_level, settings.log_format)
    err.print(Text(f"starting promptjobs with {_database(settings)}", "dim"), soft_wrap=True)

    def announce(url: str, *, needs_key: bool) -> None:
        keys = "needed on every request" if needs_key else "not needed on this machine, which alone can reach it"
        rows = [("API", url), ("docs", f"{url}/docs"), ("data", _database(settings)), ("keys", keys)]
        err.print(Text("promptjobs is ready", "bold green"))
        for name, value in rows:
            err.print(Text(f"  {name:<5} {value}"), soft_wrap=True)
        if not with_worker:
            err.print(Text("  no worker here: jobs wait until `promptjobs worker` runs"), soft_wrap=True)
        if as_json:
            write_json({"url": url})

    async def serve(ready: Ready) -> None:
        def started(listening: server.Listening) -> None:
            announce(listening.url, needs_key=listening.needs_key)
            ready(listening.url)

        await _check_database(settings)
        await server.serve(settings, with_worker=with_worker, ready=started)

    try:
        _run_until_signal(serve)
    except OSError as error:
        raise OptionInvalid("--host, --port", _cannot_listen(settings, error)) from error


def run_worker(settings: Settings, err: Console, *, as_json: bool) -> None:
    """Work until a signal. Raises OptionInvalid without a database that other processes can reach."""
    if settings.database_url is None:
        said = "a worker alone needs a database that it shares with a server; `promptjobs serve` has its own worker"
        raise OptionInvalid("PROMPTJOBS_DATABASE_URL is not set", said)
    log_to_stderr(settings.log_level, settings.log_format)
    err.print(Text(f"starting a worker with {_database(settings)}", "dim"), soft_wrap=True)

    async def work(ready: Ready) -> None:
        def started(worker_id: str) -> None:
            err.print(Text(f"worker {worker_id} is ready", "bold green"), soft_wrap=True)
            if as_json:
                write_json({"worker_id": worker_id})
            ready(worker_id)

        await _check_database(settings)
        await server.work(settings, ready=started)

    _run_until_signal(work)


def _run_until_signal(start: Callable[[Ready], Coroutine[Any, Any, None]]) -> None:
    """Run what ends by itself on a signal once it is ready.

    One that comes before waits until then, so that nothing is left half started; a second one cancels. The server
    raises its signals again when it has stopped: without handlers of ours they would end the process before it has
    stopped its database. Raises ProcessFailed when `start` gave up without an error.
    """
    is_ready = False
    early: list[int] = []

    async def main() -> None:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()

        def on_signal(number: int, frame: FrameType | None) -> None:
            early.append(number)
            if is_ready and number == signal.SIGHUP:
                signal.raise_signal(signal.SIGTERM)  # the server knows only SIGINT and SIGTERM
            elif not is_ready and len(early) > 1 and task is not None:
                loop.call_soon_threadsafe(task.cancel)

        def ready(_: str) -> None:
            nonlocal is_ready
            is_ready = True
            if early:
                signal.raise_signal(signal.SIGTERM)

        with handled(on_signal):
            await start(ready)

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    if not is_ready and not early:
        raise ProcessFailed("the service", "did not start; its log says why")


def _cannot_listen(settings: Settings, error: OSError) -> str:
    address = f"{settings.host}:{settings.port}"
    if error.errno == errno.EADDRINUSE:
        return f"{address} is in use; choose another port, or --port 0 for any that is free"
    if isinstance(error, socket.gaierror) or error.strerror is None:
        return f"cannot listen on {address}: {error}"
    return f"cannot listen on {address}: {os.strerror(error.errno) if error.errno else error.strerror}"


# --- the database ----------------------------------------------------------------------------------------------------


def _database(settings: Settings) -> str:
    """Where the data is, without the password."""
    if settings.database_url is None:
        return f"its own PostgreSQL in {settings.data_dir}"
    parts = urlsplit(settings.database_url)
    return f"PostgreSQL at {parts.hostname or 'a local socket'}{parts.path}"


async def _check_database(settings: Settings) -> None:
    """A database that is not ours to start must be there, with this version's schema. Raises DatabaseUnavailable."""
    if settings.database_url is None:
        return
    async with opened(settings.database_url) as database:
        await require_schema(database)


def run_migration(settings: Settings, revision: str) -> tuple[str | None, str | None]:
    """Bring the database of the settings, or the embedded one, to `revision`; the revisions before and after.

    Raises OptionInvalid for a revision that does not exist, EmbeddedPostgresFailed, DatabaseUnavailable.
    """
    log_to_stderr(settings.log_level, settings.log_format)
    with database_url(settings) as url:
        return asyncio.run(_migrate(url, revision))


async def _migrate(url: str, revision: str) -> tuple[str | None, str | None]:
    async with opened(url) as database:
        try:
            return await migrate(database, revision)
        except CommandError as error:
            raise OptionInvalid("--revision", str(error)) from error
        except SQLAlchemyError as error:
            raise DatabaseUnavailable(f"the migration failed, and changed nothing: {error}") from error
