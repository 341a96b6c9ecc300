"""The commands on the prompts of jobs: compare two, and take one along."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from promptjobs.cli.exits import EXIT_CODES, reported
from promptjobs.cli.outcome import AsJson, Terminal, terminal_for
from promptjobs.cli.remote import ApiKey, Url, service_at
from promptjobs.cli.text import readable_json, write_json, write_line
from promptjobs.errors import OptionInvalid
from promptjobs.sdk.addresses import DEFAULT_URL
from promptjobs.sdk.client import Client

prompts_app = typer.Typer()

PROMPTS_PANEL = "Prompts of jobs"

OnePrompt = Annotated[str, typer.Argument(metavar="A", help="JOB for its best prompt, JOB:CANDIDATE or JOB@SNAPSHOT.")]
OtherPrompt = Annotated[str, typer.Argument(metavar="B", help="The prompt to compare it with, named in the same way.")]


class Format(StrEnum):
    """What a prompt, or a job's trials, can be taken along as."""

    MESSAGES = "messages"
    OPENAI = "openai"
    LANGCHAIN = "langchain"
    CURL = "curl"
    CSV = "csv"


@prompts_app.command(rich_help_panel=PROMPTS_PANEL, epilog=EXIT_CODES)
def diff(a: OnePrompt, b: OtherPrompt, url: Url = DEFAULT_URL, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Compare two prompts, message by message: side by side on a wide terminal, else as a unified diff.

    \b
    promptjobs diff pl_… pl_…
    promptjobs diff pl_…:CANDIDATE pl_…
    promptjobs diff pl_…@SNAPSHOT pl_… | less
    """
    terminal = terminal_for(as_json=as_json)
    with reported(terminal.err):
        from promptjobs.cli.diff_view import diff_json, print_diff
        from promptjobs.cli.prompt_diff import paired, parts_of
        from promptjobs.cli.selecting import select

        with service_at(url, api_key) as client:
            one, other = select(client, a), select(client, b)
        pairs = paired(parts_of(one.messages, one.modules), parts_of(other.messages, other.modules))
        if as_json:
            write_json(diff_json(one.label, other.label, pairs))
        elif all(pair.a == pair.b for pair in pairs):
            terminal.people.print("the prompts are the same")
        else:
            print_diff(terminal.out, one.label, other.label, pairs)


@prompts_app.command(rich_help_panel=PROMPTS_PANEL, epilog=EXIT_CODES)
def export(
    job_id: Annotated[str, typer.Argument(metavar="JOB", help="The job's id, pl_…")],
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    form: Annotated[
        Format, typer.Option("--format", help="Messages as JSON, a program, a command, or the trials as CSV.")
    ] = Format.MESSAGES,
    candidate: Annotated[
        str | None, typer.Option(help="Of this candidate, in place of the best.", show_default=False)
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Write it to this file.", show_default="stdout")] = None,
) -> None:
    """Take along a job's best prompt as it was evaluated, or its trials.

    \b
    promptjobs export pl_… --output best_prompt.json
    promptjobs export pl_… --format openai > classify.py
    promptjobs export pl_… --format csv --output trials.csv
    """
    terminal = terminal_for()
    with reported(terminal.err):
        from promptjobs.cli.prompt_file import check_writable

        if output is not None:
            check_writable(output)
        with service_at(url, api_key) as client:
            content = _content(client, form, job_id, candidate)
        _write(terminal, content, output)


def _content(client: Client, form: Format, job_id: str, candidate: str | None) -> str:
    from promptjobs.cli.exporting import exported
    from promptjobs.cli.selecting import select
    from promptjobs.cli.snippets import curl_snippet, langchain_snippet, openai_snippet
    from promptjobs.cli.trials_csv import trials_csv

    if form is Format.CSV:
        return trials_csv(client.trials(job_id, candidate_id=candidate))
    if set(job_id) & {":", "@"}:
        raise OptionInvalid("JOB", f"expected the id of a job, got {job_id!r}; a candidate is named with --candidate")
    selected = select(client, job_id if candidate is None else f"{job_id}:{candidate}")
    match form:
        case Format.MESSAGES:
            by_module = [{"module_id": name, "messages": said} for name, said in selected.modules.items()]
            return readable_json(by_module or selected.messages) + "\n"
        case Format.OPENAI:
            return openai_snippet(exported(client, selected))
        case Format.LANGCHAIN:
            return langchain_snippet(exported(client, selected))
        case Format.CURL:
            return curl_snippet(exported(client, selected))


def _write(terminal: Terminal, content: str, output: Path | None) -> None:
    """To the file, and say so; else to stdout, and nothing but that."""
    if output is None:
        write_line(content.removesuffix("\n"))
        return
    from promptjobs.cli.prompt_file import write_text

    write_text(output, content)
    terminal.err.print(Text(f"written to {output}", "green"), soft_wrap=True)
