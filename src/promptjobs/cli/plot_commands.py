"""The command that has plots of jobs and experiments drawn, and writes them to files."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from promptjobs.cli.exits import EXIT_CODES, reported
from promptjobs.cli.outcome import Terminal, terminal_for
from promptjobs.cli.remote import ApiKey, Url, service_at
from promptjobs.errors import CommandFailed, FileUnusable, OptionInvalid
from promptjobs.errors.client import ServerError
from promptjobs.sdk.addresses import DEFAULT_URL
from promptjobs.sdk.client import Client
from promptjobs.sdk.shapes import Json

plots_app = typer.Typer()

PLOTS_PANEL = "Plots of jobs and experiments"
EXPERIMENT_PREFIX = "exp_"
NOT_INSTALLED = "plots_not_installed"
STDOUT = Path("-")


class PlotFormat(StrEnum):
    SVG = "svg"
    PNG = "png"


@plots_app.command(rich_help_panel=PLOTS_PANEL, epilog=EXIT_CODES)
def plot(
    item_id: Annotated[str, typer.Argument(metavar="ID", help="A job, pl_…, or an experiment, exp_…")],
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    name: Annotated[str | None, typer.Option(help="Which plot.", show_default="list them")] = None,
    output: Annotated[
        Path | None, typer.Option(help="The file, .svg or .png; - for stdout.", show_default="ID.NAME.FORMAT, here")
    ] = None,
    form: Annotated[
        PlotFormat | None, typer.Option("--format", help="svg or png.", show_default="the file's, else svg")
    ] = None,
) -> None:
    """Draw a plot of a job or an experiment, as things stand now; without a name, list those that there are.

    \b
    promptjobs plot pl_…
    promptjobs plot pl_… --name learning-curve --output curve.svg
    promptjobs plot exp_… --name score-by-group --format png
    """
    terminal = terminal_for()
    with reported(terminal.err), service_at(url, api_key) as client:
        if name is None:
            if output is not None or form is not None:
                raise OptionInvalid("--name", "say which plot is to be written")
            _list(terminal, _plots(client, item_id))
            return
        form = _format_of(output, form)
        path = output or Path(f"{item_id}.{name}.{form.value}")
        content = _drawn(client, item_id, name, form)
        if path == STDOUT:
            typer.get_binary_stream("stdout").write(content)
            return
        _write(path, content)
        terminal.people.print(Text(f"written to {path}", "green"), soft_wrap=True)


def _format_of(output: Path | None, form: PlotFormat | None) -> PlotFormat:
    """Raises OptionInvalid for a file whose name tells neither format, or another one."""
    suffix = "" if output is None else output.suffix.lower().removeprefix(".")
    known = PlotFormat(suffix) if suffix in list(PlotFormat) else None
    if form is not None and known not in (None, form):
        raise OptionInvalid("--format", f"{form} is asked for, and the file is named {output}")
    if form is None and known is None and output not in (None, STDOUT):
        raise OptionInvalid("--output", f"expected a name that ends with .svg or .png, got {output}")
    return form or known or PlotFormat.SVG


def _plots(client: Client, item_id: str) -> list[Json]:
    try:
        return client.experiment_plots(item_id) if item_id.startswith(EXPERIMENT_PREFIX) else client.plots(item_id)
    except ServerError as error:
        raise _said(error) from error


def _drawn(client: Client, item_id: str, name: str, form: PlotFormat) -> bytes:
    try:
        if item_id.startswith(EXPERIMENT_PREFIX):
            return client.experiment_plot(item_id, name, form.value)
        return client.plot(item_id, name, form.value)
    except ServerError as error:
        raise _said(error) from error


def _said(error: ServerError) -> ServerError | CommandFailed:
    """A service that draws no plots is there all the same."""
    return CommandFailed(str(error)) if error.code == NOT_INSTALLED else error


def _list(terminal: Terminal, found: list[Json]) -> None:
    width = max(len(each["name"]) for each in found)
    for each in found:
        terminal.out.print(Text.assemble((f"{each['name']:<{width}}  ", "bold"), each["shows"]), soft_wrap=True)


def _write(path: Path, content: bytes) -> None:
    """Raises FileUnusable."""
    try:
        path.write_bytes(content)
    except OSError as error:
        raise FileUnusable(str(path), error.strerror or type(error).__name__) from error
