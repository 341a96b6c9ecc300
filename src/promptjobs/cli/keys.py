"""`promptjobs keys`: makes, lists and revokes API keys, in the database of the settings."""

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from promptjobs.cli.exits import EXIT_CODES, Output, reported
from promptjobs.cli.outcome import terminal_for
from promptjobs.cli.text import write_json
from promptjobs.errors import InvalidRequest, OptionInvalid

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

    from promptjobs.db.api_keys import StoredKey

keys_app = typer.Typer(
    no_args_is_help=True,
    epilog=EXIT_CODES,
    help="API keys. Each belongs to an organisation, which sees its own jobs and no others.",
)

WIDE = 150
"""Columns from which on all that is known of a key has room in a line."""

DataDir = Annotated[Path | None, typer.Option(help="Where the embedded database is.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Only JSON on stdout.")]


@keys_app.command(epilog=EXIT_CODES)
def create(
    organisation: Annotated[str, typer.Option(help="Whose key it is; the name is yours to choose.")] = "default",
    name: Annotated[str, typer.Option(help="What it is for, in words.")] = "",
    for_metrics: Annotated[bool, typer.Option("--for-metrics", help="It opens /metrics, and nothing else.")] = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Make a key, and show it this once: only its SHA-256 is kept.

    From then on a service needs a key on every request, also one that listens
    on 127.0.0.1. A running one notices within seconds. Like all of these
    commands it works on the database of PROMPTJOBS_DATABASE_URL, or else on
    the embedded one.

    \b
    promptjobs keys create --organisation acme --name "CI"
    """
    with reported(Console(stderr=True)):
        from promptjobs.cli.database import carried_out

        async def make(connection: "AsyncConnection") -> "tuple[StoredKey, str]":
            from promptjobs.db import api_keys
            from promptjobs.db.api_keys import Purpose

            try:
                return await api_keys.create(
                    connection, organisation, name, Purpose.METRICS if for_metrics else Purpose.API
                )
            except InvalidRequest as error:
                raise OptionInvalid(f"--{error.param}", str(error).removeprefix(f"{error.param}: ")) from None

        stored, key = carried_out(make, data_dir)
        if as_json:
            write_json({**_shown(stored), "key": key})
            return
        Console(stderr=True).print(
            Text(f"{stored.id} of organisation {stored.organisation}; the key is shown only now:", "dim"),
            soft_wrap=True,
        )
        typer.echo(key)


@keys_app.command("list", epilog=EXIT_CODES)
def show_all(
    organisation: Annotated[str | None, typer.Option(help="Only those of this one.", show_default=False)] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """List the keys by what they begin with, revoked ones too."""
    with reported(Console(stderr=True)):
        from promptjobs.cli.database import carried_out

        async def read(connection: "AsyncConnection") -> "list[StoredKey]":
            from promptjobs.db import api_keys

            return await api_keys.read_all(connection, organisation)

        found = carried_out(read, data_dir)
        if as_json:
            write_json([_shown(each) for each in found])
            return
        if not found:
            Console(stderr=True).print(Text("there are no keys: a service on 127.0.0.1 needs none", "dim"))
            return
        out = terminal_for().out
        out.print(keys_table(found, out.width))


@keys_app.command(epilog=EXIT_CODES)
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="KEY_ID", help="As `keys list` shows it: key_…")],
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """From now on the key opens nothing; a running service notices within seconds. There is no way back."""
    with reported(Console(stderr=True)):
        from promptjobs.cli.database import carried_out

        async def end(connection: "AsyncConnection") -> "StoredKey":
            from promptjobs.db import api_keys

            return await api_keys.revoke(connection, key_id)

        stored = carried_out(end, data_dir)
        if as_json:
            write_json(_shown(stored))
        else:
            said = f"{stored.id} ({stored.prefix}…) of organisation {stored.organisation} is revoked"
            Output().print(Text(said), soft_wrap=True)


def keys_table(keys: "list[StoredKey]", width: int) -> Table:
    """width: of the output, where ids are never cut; a narrow one shows dates, and leaves out what matters least."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("id", no_wrap=True)
    for title in ("organisation", "name"):
        table.add_column(title, overflow="fold")
    is_wide = width >= WIDE
    titles = ("opens", "begins with", "made", "last used", "revoked") if is_wide else ("opens", "last used")
    for title in titles:
        table.add_column(title, no_wrap=True)
    for key in keys:
        if is_wide:
            times = (key.created_at, key.last_used_at, key.revoked_at)
            rest = (key.purpose, f"{key.prefix}…", *map(_when, times))
        else:
            rest = (key.purpose, "revoked" if key.revoked_at else _when(key.last_used_at)[:10])
        cells = (key.id, key.organisation, key.name, *rest)
        table.add_row(*(Text(cell) for cell in cells), style="dim" if key.revoked_at else "")
    return table


def _shown(key: "StoredKey") -> dict[str, Any]:
    times = {"created_at": key.created_at, "last_used_at": key.last_used_at, "revoked_at": key.revoked_at}
    return {
        "id": key.id,
        "organisation": key.organisation,
        "name": key.name,
        "purpose": key.purpose,
        "prefix": key.prefix,
        **{name: None if time is None else time.isoformat() for name, time in times.items()},
    }


def _when(time: datetime | None) -> str:
    return "" if time is None else f"{time.astimezone():%Y-%m-%d %H:%M}"
