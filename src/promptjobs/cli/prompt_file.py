"""Writes the best prompt to a file: its messages as JSON, ready for a chat completion, or those of each module."""

from pathlib import Path

from rich.console import Console
from rich.text import Text

from promptjobs.cli.text import readable_json
from promptjobs.errors import FileUnusable
from promptjobs.sdk.shapes import Job


def check_writable(path: Path) -> None:
    """Before the job is paid for. Raises FileUnusable; a file that is there keeps its content."""
    try:
        existed = path.exists()
        with path.open("a"):
            pass
        if not existed:
            path.unlink()
    except OSError as error:
        raise FileUnusable(str(path), error.strerror or type(error).__name__) from error


def write_prompt(path: Path, job: Job, say: Console) -> None:
    """Raises FileUnusable. A job without a best prompt leaves the file as it is, and says so."""
    snapshot, messages = job["best_snapshot"], job["best_prompt_messages"]
    if snapshot is not None and "modules" in snapshot:
        messages = snapshot["modules"]
    if messages is None:
        say.print(Text(f"{path} is not written: the job has no best prompt", "yellow"), soft_wrap=True)
        return
    write_text(path, readable_json(messages) + "\n")
    say.print(Text(f"the best prompt is in {path}", "green"), soft_wrap=True)


def write_text(path: Path, text: str) -> None:
    """In UTF-8, with line feeds as they are. Raises FileUnusable."""
    try:
        path.write_text(text, encoding="utf-8", newline="")
    except OSError as error:
        raise FileUnusable(str(path), error.strerror or type(error).__name__) from error
