"""MIPRO from the command line, as the example configs and the demo start it."""

import json
import re
import shlex
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from promptjobs.cli.processes import child
from tests.acceptance.test_cli import ROOT, processes_of, run, serving

CONFIGS = ROOT / "configs"


@pytest.fixture(scope="module")
def data_dir() -> Iterator[Path]:
    """A directory that the database's own user can enter when the tests run as root."""
    path = Path(tempfile.mkdtemp(prefix="promptjobs-mipro-"))
    path.chmod(0o711)
    yield path
    assert processes_of(path) == []
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def models() -> Iterator[str]:
    with child("the models", ["promptjobs.demo.model_server"]) as process:
        yield process.read_url()


@pytest.fixture(scope="module")
def task_app() -> Iterator[str]:
    with child("the task app", ["promptjobs.demo.task_app"]) as process:
        yield process.read_url()


def documented_command(config: Path) -> list[str]:
    """The arguments of the `promptjobs run …` that the config's first lines show."""
    lines = [line.removeprefix("#").strip() for line in config.read_text(encoding="utf-8").splitlines()]
    first = next(place for place, line in enumerate(lines) if line.startswith("promptjobs run "))
    command = lines[first]
    while command.endswith("\\"):
        first += 1
        command = f"{command[:-1]}{lines[first]}"
    return shlex.split(command)[1:]


def job_of(stdout: str) -> dict[str, Any]:
    job: dict[str, Any] = json.loads(stdout.rstrip("\n").split("\n")[-1])
    return job


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_demo_of_mipro_improves_both_prompts_of_its_program(data_dir: Path):
    demo = run("demo", "--algorithm", "mipro", "--data-dir", str(data_dir))
    assert demo.returncode == 0, demo.stdout + demo.stderr
    assert "on 100 held-out test seeds, a clear gain" in demo.stdout
    assert re.search(r"examples: \d+ for summarize, \d+ for classify", demo.stdout)
    assert re.search(r"\d+ new instructions: \d+ for summarize, \d+ for classify", demo.stdout)
    shown = re.search(r"^\[\n.*?^\]$", demo.stdout, re.DOTALL | re.MULTILINE)
    assert shown
    prompts = {part["module_id"]: part["messages"] for part in json.loads(shown[0])}
    assert list(prompts) == ["summarize", "classify"]
    assert prompts["summarize"][-1]["content"] == "Customer message: {message}"
    assert prompts["classify"][-1]["content"] == "Summary: {summary}"
    assert re.search(r"^summarize: .*instruction.*example", demo.stdout, re.MULTILINE)
    assert processes_of(data_dir) == []


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_example_of_the_client_runs_with_the_command_in_its_first_lines(data_dir: Path, models: str, task_app: str):
    config = CONFIGS / "mipro_banking77.toml"
    arguments = documented_command(config)
    assert arguments[:2] == ["run", "configs/mipro_banking77.toml"]
    given = [text.replace("http://127.0.0.1:8701", task_app) for text in arguments[2:]]
    elsewhere = data_dir / "banking77"
    elsewhere.mkdir(mode=0o711)
    with serving(elsewhere, models) as (_, url):
        done = run("run", str(config), *given, "--url", url, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "warning: 6 trials (2 iterations of 3) are too few for the sampler to learn from" in done.stderr
    job, events = job_of(done.stdout), [json.loads(line) for line in done.stdout.splitlines()[:-1]]
    assert (job["status"], job["algorithm"]) == ("succeeded", "mipro")
    assert job["best_snapshot"]["test"]["seeds"] == 50
    assert job["best_snapshot"]["validation_summary"]["seeds"] == 10
    assert job["best_snapshot"]["baseline_prompt_messages"][0]["content"].startswith("Classify the customer message.")
    assert job["best_snapshot"]["test"]["best"]["mean"] >= job["best_snapshot"]["test"]["baseline"]["mean"]
    types = [event["type"] for event in events]
    assert types.count("mipro.iteration.start") == 2
    assert types.index("mipro.job.completed") < types.index("prompt.learning.mipro.complete") == len(types) - 1
