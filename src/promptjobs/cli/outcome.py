"""What commands on jobs have in common: where they write, following a job, and printing what came out."""

from dataclasses import dataclass
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from promptjobs.cli.display import display_for
from promptjobs.cli.exits import Output, tell
from promptjobs.cli.follow import follow
from promptjobs.cli.show import print_job, print_more, url_option
from promptjobs.cli.text import write_json
from promptjobs.sdk.client import Client
from promptjobs.sdk.shapes import Job

AsJson = Annotated[bool, typer.Option("--json", help="Only JSON on stdout.")]

WIDE = 200
"""Columns where the output is no terminal: nothing is cut for a width that nobody has."""


@dataclass(frozen=True, slots=True)
class Terminal:
    """out: stdout. err: stderr. as_json: stdout is for programs, and gets nothing but JSON."""

    out: Console
    err: Console
    as_json: bool = False

    @property
    def people(self) -> Console:
        """Where what is only for people goes."""
        return self.err if self.as_json else self.out


def terminal_for(*, as_json: bool = False) -> Terminal:
    """Stdout and stderr of this process."""
    out = Output()
    return Terminal(out if out.is_terminal else Output(width=WIDE), Console(stderr=True), as_json)


def tell_warnings(terminal: Terminal, job: Job) -> None:
    for warning in job["warnings"]:
        tell(terminal.err, "warning", warning, "bold yellow")


def follow_job(terminal: Terminal, client: Client, job_id: str) -> Job:
    """The job when it is over; its events are shown on the way."""
    with display_for(terminal.out, as_json=terminal.as_json) as display:
        return follow(client, job_id, display)


def tell_detached(terminal: Terminal, url: str, job_id: str) -> None:
    """How to come back to a job that goes on by itself."""
    option = url_option(url)
    terminal.people.print(Text(f"\njob {job_id} goes on without us", "yellow"), soft_wrap=True)
    terminal.people.print(Text(f"  promptjobs watch {job_id}{option}"), soft_wrap=True)
    terminal.people.print(Text(f"  promptjobs cancel {job_id}{option}"), soft_wrap=True)


def tell_unstarted(terminal: Terminal, url: str, job_id: str) -> None:
    """How to start a job that waits for it."""
    terminal.people.print(Text(f"job {job_id} waits for its start", "yellow"), soft_wrap=True)
    terminal.people.print(Text(f"  promptjobs start {job_id}{url_option(url)}"), soft_wrap=True)


def print_outcome(
    terminal: Terminal, url: str, job: Job, started_by: str | None = None, *, needs_key: bool = False
) -> None:
    """The job as it is now. started_by: the command that brings the service back, where it is gone by now."""
    if terminal.as_json:
        write_json(job)
    else:
        print_job(terminal.out, job)
        print_more(terminal.out, url, job, started_by, needs_key=needs_key)
