"""Starts the peers' environment, has it run DSPy's jobs, and makes candidates of our own kind of what it finds."""

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from promptjobs.core.prompt import PromptTemplate, Section

from . import Task

BENCHMARKS = Path(__file__).resolve().parent.parent
HOW = "python -m venv .venv-peers && .venv-peers/bin/pip install -r benchmarks/peers.txt"


class PeersMissing(RuntimeError):
    """There is no environment of the peers, or their side of the benchmark failed."""


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to one job. repeated: rollouts that DSPy's cache saved. seconds: of the whole run, on the wall."""

    job: Mapping[str, Any]
    instruction: str
    demos: Sequence[tuple[str, str]]
    claimed: float
    rollouts: int
    repeated: int
    meta_calls: int
    trials: int
    seconds: float


def replies(python: Path, jobs: Sequence[Mapping[str, Any]]) -> Iterator[Reply]:
    """One process answers all jobs, in their order. Raises PeersMissing."""
    if not python.exists():
        raise PeersMissing(f"{python} was not found; make it by: {HOW}")
    paths = [str(BENCHMARKS), str(BENCHMARKS.parent / "src")]
    environment = {"PATH": os.environ.get("PATH", ""), "PYTHONPATH": os.pathsep.join(paths)}
    environment |= {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "TQDM_DISABLE": "1", "PYTHONHASHSEED": "0"}
    with (
        tempfile.TemporaryDirectory(prefix="promptjobs-peers-") as directory,
        tempfile.TemporaryFile("w+") as errors,
        tempfile.TemporaryFile("w+") as asked,
    ):
        asked.write("".join(f"{json.dumps(job)}\n" for job in jobs))
        asked.seek(0)
        process = subprocess.Popen(
            [str(python), "-m", "gepa_worlds.dspy_runs"],
            cwd=directory,
            env=environment | {"HOME": directory, "DSPY_CACHEDIR": directory},
            stdin=asked,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        try:
            assert process.stdout is not None
            for job, line in zip(jobs, process.stdout, strict=False):
                found = json.loads(line)["found"]
                demos = [(shown, answer) for shown, answer in found.pop("demos")]
                yield Reply(job=job, demos=demos, **found)
            if process.wait():
                errors.seek(0)
                raise PeersMissing(f"{python} ended with {process.returncode}: {errors.read()[-2000:]}")
        finally:
            process.kill()
            process.wait()


def template_of_program(task: Task, instruction: str, demos: Sequence[tuple[str, str]]) -> PromptTemplate:
    """A program of DSPy's as its adapter sends it: instruction, demonstrations as turns, the input."""
    shown = [(role, text) for pair in demos for role, text in zip(("user", "assistant"), pair, strict=True)]
    messages = [("system", instruction), *shown, ("user", task.user_pattern)]
    sections = (Section(f"message_{at}", role, text, at) for at, (role, text) in enumerate(messages))
    return PromptTemplate(tuple(sections), {"input": True})
