"""Experiments from the command line: real processes, a real database, a service that is replaced, the whole demo."""

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from promptjobs.cli.processes import child
from tests.acceptance.test_cli import (
    COMMAND,
    PATIENCE_SECONDS,
    ROOT,
    environment,
    processes_of,
    run,
    serving,
    started,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

EXPERIMENT = ROOT / "configs" / "experiments" / "experiment_demo.toml"
DEMO_SECONDS = 400
ANSI = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


@pytest.fixture(scope="module")
def data_dir() -> Iterator[Path]:
    """A directory that the database's own user can enter when the tests run as root."""
    path = Path(tempfile.mkdtemp(prefix="promptjobs-experiments-"))
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


def room(data_dir: Path, name: str) -> Path:
    """A directory of its own for a service."""
    path = data_dir / name
    path.mkdir(mode=0o711)
    return path


@pytest.fixture(scope="module")
def url(data_dir: Path, models: str) -> Iterator[str]:
    """A service."""
    with serving(room(data_dir, "service"), models) as (_, found):
        yield found


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Three short jobs of GEPA, two of which may run at a time."""
    shutil.copy(EXPERIMENT.with_name("experiment_gepa.toml"), tmp_path)
    overrides = {
        "prompt_learning.gepa.rollout.budget": 340,
        "prompt_learning.gepa.evaluation.test_pool": {"start": 2000, "end": 2020},
    }
    written = ", ".join(f'"{path}" = {_toml(value)}' for path, value in overrides.items())
    path = tmp_path / "small.toml"
    path.write_text(
        f'name = "small"\nparallelism = 2\n[[jobs]]\nconfig = "experiment_gepa.toml"\n'
        f"config_overrides = {{ {written} }}\n[matrix]\nseed = [0, 1, 2]\n"
    )
    return path


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{name} = {_toml(each)}" for name, each in value.items()) + " }"
    return json.dumps(value)


def submitted(file: Path, url: str, task_app: str) -> str:
    created = run("experiment", "submit", str(file), "--url", url, "--json", *set_task_app(task_app))
    assert created.returncode == 0, created.stderr
    return str(json.loads(created.stdout)["experiment_id"])


def set_task_app(task_app: str) -> tuple[str, str]:
    return "--set", f"prompt_learning.task_app_url={task_app}"


# --- following -------------------------------------------------------------------------------------------------------


def test_a_service_may_be_replaced_while_an_experiment_is_watched(
    data_dir: Path, models: str, task_app: str, small: Path
):
    """The follower comes back to the new process, and tells every event of every job once; then the results."""
    path = room(data_dir, "replaced")
    with serving(path, models) as (first, url):
        port = int(url.rpartition(":")[2])
        wanted = ("experiment", "submit", str(small), "--watch", "--json", "--url", url, *set_task_app(task_app))
        with started(*wanted, stderr=sys.stderr) as following:
            assert following.stdout is not None
            lines = [following.stdout.readline() for _ in range(60)]
            first.terminate()
            first.wait(PATIENCE_SECONDS)
            with serving(path, models, port):
                lines += following.stdout.read().splitlines()
                assert following.wait(PATIENCE_SECONDS) == 0
    *told, end, results = [json.loads(line) for line in lines]
    seqs = defaultdict(list)
    for event in told:
        seqs[event["label"]].append(event["seq"])
    assert sorted(seqs) == ["gepa · seed=0", "gepa · seed=1", "gepa · seed=2"]
    assert all(each == list(range(1, len(each) + 1)) for each in seqs.values())
    assert end["type"] == "experiment.completed"
    assert results["experiment"]["counts"]["succeeded"] == 3
    assert [job["eval_n"] for job in results["jobs"]] == [20, 20, 20]


def test_commands_tell_how_an_experiment_goes_and_end_it(url: str, task_app: str):
    experiment_id = submitted(EXPERIMENT, url, task_app)
    option = ("--url", url)
    with started("experiment", "watch", experiment_id, *option, "--json") as watching:
        assert watching.stdout is not None
        watching.stdout.readline()
        os.killpg(watching.pid, signal.SIGINT)
        assert watching.wait(PATIENCE_SECONDS) == 130
    assert json.loads(run("experiment", "status", experiment_id, *option, "--json").stdout)["status"] == "running"
    assert run("experiment", "delete", experiment_id, *option).returncode == 2
    assert run("experiment", "cancel", experiment_id, *option, "--reason", "enough").returncode == 0
    over = run("experiment", "watch", experiment_id, *option)
    assert (over.returncode, "cancelled" in over.stdout) == (4, True), over.stdout + over.stderr
    assert experiment_id in run("experiment", "list", *option).stdout
    assert run("experiment", "delete", experiment_id, *option).returncode == 0
    gone = run("experiment", "results", experiment_id, *option)
    assert (gone.returncode, gone.stderr.count("\n")) == (2, 1)


def test_a_refused_job_is_told_with_its_place_and_nothing_is_created(url: str, task_app: str, small: Path):
    before = run("experiment", "list", "--url", url, "--json").stdout
    wrong = ("--set", "prompt_learning.gepa.minibatch_size_of_mine=3")
    refused = run("experiment", "submit", str(small), "--url", url, *set_task_app(task_app), *wrong)
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "minibatch_size_of_mine" in refused.stderr
    assert "jobs[0]" in refused.stderr
    assert run("experiment", "list", "--url", url, "--json").stdout == before


def test_bars_of_running_jobs_are_drawn_on_a_terminal(url: str, task_app: str, small: Path):
    experiment_id = submitted(small, url, task_app)
    shown = on_a_terminal("experiment", "watch", experiment_id, "--url", url, columns=80)
    # What happened before the command has come is told job by job.
    assert re.search(r"0 of 3 over · [12] running · [12] queued", shown)
    assert re.search(r"gepa · seed=0 +━.* \d+/340 best", shown)
    tables = shown.partition("completed · 3 succeeded")[2].partition("See more:")[0]
    rows = [line for line in tables.splitlines() if re.match(r" [123A] ", line)]
    assert len(rows) == 8  # each job and the group twice: its scores, and what it took
    assert max(len(line.rstrip()) for line in rows) <= 80


# --- the demo --------------------------------------------------------------------------------------------------------


def figures(table: str, rows: int) -> list[list[str]]:
    """The rows of the first table whose lines begin with a number, cut at two blanks."""
    lines = [line.strip() for line in table.splitlines()]
    found = [re.split(r"  +", line) for line in lines if re.match(r"\d+  ", line)]
    return found[:rows]


def test_the_demo_compares_both_algorithms_on_both_models_with_nothing_missing(data_dir: Path, models: str):
    path = room(data_dir, "demo")
    demo = subprocess.run(
        [*COMMAND, "demo", "--experiment", "--data-dir", str(path)],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=DEMO_SECONDS,
    )
    assert demo.returncode == 0, demo.stdout + demo.stderr
    assert processes_of(path) == []
    rows = figures(demo.stdout.partition("completed · 12 succeeded")[2], 12)
    labels = [
        f"{algorithm} · model={model}, seed={seed}"
        for algorithm in ("gepa", "mipro")
        for model in ("demo-policy", "demo-policy-small")
        for seed in range(3)
    ]
    assert [row[1] for row in rows] == labels
    assert {len(row) for row in rows} == {14}
    assert not [cell for row in rows for cell in row if cell in ("–", "N/A", "unknown")]
    assert all(row[7] == "100 test" for row in rows)
    lifts = [float(row[6].split()[0]) for row in rows]
    assert min(lifts) > 0.1
    told = demo.stdout.partition("By group")[2]
    letters = re.findall(r"^ ([A-D])  (\S+) · model=(\S+) +3/3", told, re.MULTILINE)
    assert len(letters) == 4
    between = told.partition("Group against group")[2]
    for model in ("demo-policy", "demo-policy-small"):
        pair = sorted(letter for letter, _, of in letters if of == model)
        assert re.search(f"{pair[0]} .*{pair[1]} |{pair[1]} .*{pair[0]} ", between), model
    check_commands(demo.stdout, path, models)


def check_commands(said: str, path: Path, models: str) -> None:
    """What the demo tells to type works, on the service that it tells to start."""
    assert f"promptjobs serve --data-dir {path}" in said
    more = said.partition("See more:")[2]
    commands = re.findall(r"^  (promptjobs (?:experiment|show) [^#\n]+)", more, re.MULTILINE)
    assert len(commands) == 4
    with serving(path, models) as (_, url):
        for command in commands:
            again = run(*command.split()[1:], "--url", url)
            assert again.returncode == 0, again.stderr
            assert again.stdout


def test_ctrl_c_ends_the_demo_and_cancels_its_experiment(data_dir: Path, models: str):
    path = room(data_dir, "interrupted")
    with started("demo", "--experiment", "--json", "--data-dir", str(path)) as demo:
        assert demo.stdout is not None
        experiment_id = json.loads(demo.stdout.readline())["experiment_id"]
        family = [demo.pid, *(each.pid for each in psutil.Process(demo.pid).children(recursive=True))]
        assert len(family) >= 4  # itself, models, task app, service
        os.killpg(demo.pid, signal.SIGINT)
        assert demo.wait(PATIENCE_SECONDS) == 130
    assert [pid for pid in family if psutil.pid_exists(pid)] == []
    with serving(path, models) as (_, url):
        found = json.loads(run("experiment", "status", experiment_id, "--url", url, "--json").stdout)
    assert found["status"] == "cancelled"


def test_a_terminal_that_is_closed_ends_the_demo_as_ctrl_c_does(data_dir: Path, models: str):
    path = room(data_dir, "closed")
    ours, theirs = pty.openpty()
    command = [*COMMAND, "demo", "--experiment", "--data-dir", str(path)]
    changes = {"TERM": "xterm-256color", "COLUMNS": "200"}
    demo = subprocess.Popen(
        command, stdout=theirs, stderr=theirs, env=environment(**changes), start_new_session=True
    )  # fmt: skip
    os.close(theirs)
    said = ""
    while "seed=0 runs" not in said:
        said += os.read(ours, 65536).decode(errors="replace")
    os.close(ours)
    demo.send_signal(signal.SIGHUP)
    assert demo.wait(PATIENCE_SECONDS) != 0
    assert processes_of(path) == []
    with serving(path, models) as (_, url):
        [found] = json.loads(run("experiment", "list", "--url", url, "--json").stdout)
    assert found["status"] == "cancelled"


def on_a_terminal(*arguments: str, columns: int) -> str:
    """What the command writes, without colours and movements."""
    ours, theirs = pty.openpty()
    changes = {"TERM": "xterm-256color", "COLUMNS": str(columns), "LINES": "24"}
    watching = subprocess.Popen([*COMMAND, *arguments], stdout=theirs, stderr=theirs, env=environment(**changes))
    os.close(theirs)
    shown = b""
    try:
        while chunk := os.read(ours, 65536):
            shown += chunk
    except OSError:
        pass  # how Linux tells that the other side has closed
    finally:
        os.close(ours)
    assert watching.wait(PATIENCE_SECONDS) == 0
    return ANSI.sub("", shown.decode())
