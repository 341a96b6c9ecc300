"""How commands end: their exit codes, and one line for what went wrong."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum

import typer
from rich.console import Console
from rich.text import Text

from promptjobs.cli.text import one_line
from promptjobs.errors import CommandFailed, EmbeddedPostgresFailed, PromptjobsError
from promptjobs.errors.client import ApiError, AuthenticationError, ConnectionFailed, ServerError

MAX_SHOWN = 2000


class Exit(IntEnum):
    """The exit codes of all commands. The words stand in every --help."""

    SUCCEEDED = 0
    JOB_FAILED = 1
    REFUSED = 2
    UNREACHABLE = 3
    CANCELLED = 4
    INTERRUPTED = 130


EXIT_CODES = (
    "Exit codes: 0 succeeded · 1 the job failed · 2 wrong usage, or refused · 3 the service cannot be reached · "
    "4 the job was cancelled · 130 interrupted"
)
EXIT_OF_STATUS = {"succeeded": Exit.SUCCEEDED, "failed": Exit.JOB_FAILED, "cancelled": Exit.CANCELLED}


@contextmanager
def reported(err: Console) -> Iterator[None]:
    """End the process with the right code, and one line on `err`, for every error that is raised on purpose."""
    try:
        yield
    except PromptjobsError as error:
        tell(err, "error", _said(error), "bold red")
        raise typer.Exit(_exit_of(error)) from None
    except KeyboardInterrupt:
        tell(err, "interrupted", "", "bold yellow")
        raise typer.Exit(Exit.INTERRUPTED) from None
    except BrokenPipeError:
        # Whoever read our output has gone, as `head` does. What is still buffered must not fail once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(Exit.INTERRUPTED) from None


class Output(Console):
    """A console that does not end the process by itself when its reader has gone."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def tell(err: Console, kind: str, message: str, style: str) -> None:
    """One line: the kind of message in `style`, then what it says."""
    line = Text.assemble((f"{kind}: " if message else kind, style), one_line(message, MAX_SHOWN))
    err.print(line, soft_wrap=True)


def _exit_of(error: PromptjobsError) -> int:
    match error:
        case CommandFailed():
            return error.exit_code
        case ConnectionFailed() | ServerError():
            return Exit.UNREACHABLE
        case _:
            return Exit.REFUSED


def _said(error: PromptjobsError) -> str:
    match error:
        case EmbeddedPostgresFailed():
            # The last line of the server's log is where it says why it gave up.
            return ": ".join([error.cause, *error.log.strip().splitlines()[-1:]])
        case ConnectionFailed():
            return f"{error}. Start one with `promptjobs serve`, or say where it is: --url or PROMPTJOBS_URL"
        case AuthenticationError() if error.code == "missing_api_key":
            return f"{error}. Give one with --api-key or PROMPTJOBS_API_KEY; `promptjobs keys create` makes one"
        case ApiError():
            return f"{error}{_advice(error)}"
        case _:
            return str(error)


def _advice(error: ApiError) -> str:
    """What to do about it, where the service cannot know the command that was meant."""
    match error.code:
        case "job_not_found" if "'exp_" in error.detail:
            return ". This is the id of an experiment: `promptjobs experiment status` tells of it"
        case "experiment_not_found" if "'pl_" in error.detail:
            return ". This is the id of a job: `promptjobs show` tells of it"
        case "experiment_conflict":
            return ". Wait for its end, or cancel it first"
        case "invalid_config" if error.param == "prompt_learning":
            return ". If it is an experiment, `promptjobs experiment submit` takes it"
        case "not_found":
            return ". Is the service of an older version, or has its address a path too many?"
        case _:
            return ""
