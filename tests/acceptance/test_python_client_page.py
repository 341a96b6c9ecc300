"""Every block of docs/python-client.md is run as it stands, against the live service."""

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from promptjobs.demo.model_server import create_model_app
from promptjobs.demo.task_app import create_task_app
from tests.acceptance.service import Ports, Process, serving_on

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "python-client.md").read_text(encoding="utf-8")


@pytest.fixture
async def world(ports: Ports) -> AsyncIterator[None]:
    async with serving_on(create_task_app(), ports.task_app), serving_on(create_model_app(), ports.model):
        yield


def job_toml(ports: Ports) -> str:
    """The demo's config, made small, for the models of the shared service."""
    text = (ROOT / "configs" / "gepa_demo.toml").read_text(encoding="utf-8")
    for old, new in (
        ("http://127.0.0.1:8701", ports.task_app_url),
        ('provider = "demo"', 'provider = "toy"'),
        ("budget = 1000", "budget = 300"),
        ("end = 100 }", "end = 60 }"),
        ("end = 1060 }", "end = 1020 }"),
        ("end = 2100 }", "end = 2020 }"),
        ("pareto_set_size = 40", "pareto_set_size = 20"),
    ):
        assert old in text
        text = text.replace(old, new)
    return text


def blocks(language: str) -> list[str]:
    found: list[str] = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    return found


async def run(command: list[str], directory: Path, url: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PROMPTJOBS_")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}"
    environment = {**kept, "PATH": path, "PROMPTJOBS_URL": url, "COLUMNS": "200"}
    return await asyncio.to_thread(
        subprocess.run, command, cwd=directory, env=environment, capture_output=True, text=True, timeout=110
    )


async def test_every_python_block_runs(world: None, shared_service: Process, ports: Ports, tmp_path: Path):
    assert len(blocks("python")) == 7
    (tmp_path / "job.toml").write_text(job_toml(ports), encoding="utf-8")
    (tmp_path / "page.py").write_text("\n".join(blocks("python")), encoding="utf-8")
    done = await run([sys.executable, "page.py"], tmp_path, shared_service.url)
    assert done.returncode == 0, done.stderr
    assert "prompt.learning.gepa.complete" in done.stdout
    assert "422 " in done.stdout
    assert (tmp_path / "report.html").stat().st_size > 1000


async def test_every_command_works_in_a_shell(world: None, shared_service: Process, ports: Ports, tmp_path: Path):
    (script,) = blocks("sh")
    (tmp_path / "job.toml").write_text(job_toml(ports), encoding="utf-8")
    done = await run(["sh", "-ec", script], tmp_path, shared_service.url)
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith("the prompts are the same")
    for name in ("best_prompt.json", "classify.py", "prompt.py", "ask.sh", "trials.csv"):
        assert (tmp_path / name).stat().st_size > 0
