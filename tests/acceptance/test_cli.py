"""The command line as people use it: real processes, a real database, signals, and nothing left behind."""

import asyncio
import csv
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from promptjobs.cli.processes import child
from promptjobs.db.session import Database
from promptjobs.sdk.job_requests import JOBS_PATH

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "configs" / "gepa_demo.toml"
COMMAND = [sys.executable, "-m", "promptjobs"]
PATIENCE_SECONDS = 110
SMALL = ("--set", "prompt_learning.gepa.rollout.budget=340", "--set", "prompt_learning.gepa.evaluation.test_pool=null")


@pytest.fixture(scope="module")
def data_dir() -> Iterator[Path]:
    """A directory that the database's own user can enter when the tests run as root."""
    path = Path(tempfile.mkdtemp(prefix="promptjobs-cli-"))
    path.chmod(0o711)
    yield path
    assert processes_of(path) == []
    shutil.rmtree(path)


def processes_of(data_dir: Path) -> list[str]:
    """The command lines of all processes that name the directory: services, and the database."""
    found = [each.info["cmdline"] or [] for each in psutil.process_iter(["cmdline"])]
    return [" ".join(words) for words in found if any(str(data_dir) in word for word in words)]


def environment(**changes: str) -> dict[str, str]:
    """Ours without the settings of a service."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PROMPTJOBS_")}
    return kept | {"COLUMNS": "120"} | changes


def run(*arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, env=environment(**changes), timeout=PATIENCE_SECONDS
    )


@contextmanager
def started(*arguments: str, stderr: Any = subprocess.DEVNULL, **changes: str) -> Iterator[subprocess.Popen[str]]:
    """A command in a session of its own, as a terminal would start it; nothing of it outlives the block."""
    process = subprocess.Popen(
        [*COMMAND, *arguments],
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        env=environment(**changes),
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=PATIENCE_SECONDS)


@contextmanager
def serving(data_dir: Path, models: str, port: int = 0) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`promptjobs serve`, and its URL."""
    arguments = ("serve", "--json", "--port", str(port), "--data-dir", str(data_dir))
    with started(*arguments, PROMPTJOBS_PROVIDER_DEMO_BASE_URL=f"{models}/v1") as process:
        assert process.stdout is not None
        yield process, json.loads(process.stdout.readline())["url"]


@dataclass(frozen=True, slots=True)
class World:
    """A service with the offline models and the demo's task app beside it."""

    data_dir: Path
    url: str
    models: str
    task_app: str

    @property
    def arguments(self) -> tuple[str, ...]:
        """Of a `run` of the demo's job."""
        return ("run", str(CONFIG), "--url", self.url, "--set", f"prompt_learning.task_app_url={self.task_app}")


@pytest.fixture(scope="module")
def models() -> Iterator[str]:
    with child("the models", ["promptjobs.demo.model_server"]) as process:
        yield process.read_url()


@pytest.fixture(scope="module")
def task_app() -> Iterator[str]:
    with child("the task app", ["promptjobs.demo.task_app"]) as process:
        yield process.read_url()


@pytest.fixture(scope="module")
def world(data_dir: Path, models: str, task_app: str) -> Iterator[World]:
    with serving(data_dir, models) as (_, url):
        yield World(data_dir, url, models, task_app)


@pytest.fixture(scope="module")
def finished(world: World) -> dict[str, Any]:
    """A job that has succeeded."""
    done = run(*world.arguments, *SMALL, "--json")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.split("\n") if line]
    assert [each["seq"] for each in lines[:-1]] == list(range(1, len(lines)))
    job: dict[str, Any] = lines[-1]
    return job


# --- jobs ------------------------------------------------------------------------------------------------------------


def test_run_reports_the_job_as_the_service_has_it(world: World, finished: dict[str, Any]):
    assert httpx.get(f"{world.url}{JOBS_PATH}/{finished['job_id']}").json() == finished
    assert finished["status"] == "succeeded"


@pytest.mark.slow
def test_result_is_told_in_words_again_and_again(world: World, finished: dict[str, Any]):
    for command in ("show", "watch"):
        told = run(command, finished["job_id"], "--url", world.url)
        assert told.returncode == 0
        assert told.stderr == ""
        prompt = re.search(r"^\[\n.*?^\]$", told.stdout, re.DOTALL | re.MULTILINE)
        assert prompt
        assert json.loads(prompt[0]) == finished["best_prompt_messages"]
        best = finished["best_snapshot"]["validation_summary"]["best"]["mean"]
        assert f"→ {best:.3f} on 60 held-out validation seeds" in told.stdout


def test_commands_that_are_told_work_in_a_shell(world: World, finished: dict[str, Any]):
    told = run("show", finished["job_id"], "--url", world.url).stdout.partition("See more:\n")[2]
    lines = told.strip().splitlines()
    curls = [line for line in lines if line.strip().startswith("curl")]
    (address,) = [line for line in lines if line.strip().startswith("JOB=")]
    assert len(curls) == 5
    for curl in curls:
        fetched = subprocess.run(["sh", "-ec", f"{address}\n{curl}"], capture_output=True, text=True)
        assert finished["job_id"] in fetched.stdout or json.loads(fetched.stdout), curl


def test_jobs_are_listed(world: World, finished: dict[str, Any]):
    listed = json.loads(run("list", "--url", world.url, "--json").stdout)
    assert finished["job_id"] in [each["job_id"] for each in listed]


def test_the_prompt_is_exported_as_it_was_evaluated(world: World, finished: dict[str, Any], tmp_path: Path):
    export = ("export", finished["job_id"], "--url", world.url)
    assert json.loads(run(*export).stdout) == finished["best_prompt_messages"]
    found: dict[str, Any] = {"__name__": "snippet", "OpenAI": None}
    program = run(*export, "--format", "openai").stdout.replace("from openai import OpenAI\n", "")
    exec(compile(program, "snippet.py", "exec"), found)  # noqa: S102 - that it runs is what is tested
    filled = found["messages"]({"message": "{message}"})
    assert [each["role"] for each in filled] == [each["role"] for each in finished["best_prompt_messages"]]
    assert found["WILDCARDS"] == ("message",)
    output = tmp_path / "trials.csv"
    assert run(*export, "--format", "csv", "--output", str(output)).returncode == 0
    rows = list(csv.DictReader(output.read_text(encoding="utf-8").splitlines()))
    assert [int(row["n"]) for row in rows] == list(range(int(rows[0]["n"]), int(rows[0]["n"]) + len(rows)))
    assert sum(row["is_baseline"] == "true" for row in rows) >= 1


def test_prompts_of_a_job_are_compared(world: World, finished: dict[str, Any]):
    job_id, snapshot = finished["job_id"], finished["best_snapshot_id"]
    baseline = finished["best_snapshot"]["archive"][0]["candidate_id"]
    for other, is_same in ((f"{job_id}@{snapshot}", True), (f"{job_id}:{baseline}", False)):
        compared = run("diff", job_id, other, "--url", world.url, "--json")
        assert compared.returncode == 0, compared.stderr
        if is_same:
            assert json.loads(compared.stdout)["is_same"]
    piped = run("diff", job_id, f"{job_id}:{baseline}", "--url", world.url).stdout
    assert piped == "the prompts are the same\n" or piped.startswith(f"--- {job_id}\n+++ {job_id}:{baseline}\n")


def test_bar_is_drawn_on_a_terminal(world: World, finished: dict[str, Any]):
    ours, theirs = pty.openpty()
    watching = subprocess.Popen(
        [*COMMAND, "watch", finished["job_id"], "--url", world.url],
        stdout=theirs,
        stderr=theirs,
        env=environment(TERM="xterm-256color"),
    )
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
    text = re.sub(rb"\x1b\[[0-9;?]*[a-zA-Z]", b"", shown).decode()
    done = finished["progress"]["rollouts_completed"]
    assert f"{done}/340 rollouts" in text
    assert "━━━" in text
    assert "is the best so far" in text


def test_refused_config_is_told_with_its_field(world: World):
    refused = run(*world.arguments, "--set", "prompt_learning.gepa.rollout.budget=-1", "--json")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith("error: prompt_learning.gepa.rollout.budget: ")


def test_unknown_job_is_refused(world: World):
    refused = run("watch", "pl_unknown", "--url", world.url)
    assert (refused.returncode, refused.stderr) == (2, "error: there is no job 'pl_unknown' (job_not_found)\n")


def test_no_server_has_its_own_exit_code():
    missing = run("list", "--url", "http://127.0.0.1:9")
    assert (missing.returncode, missing.stdout) == (3, "")
    assert missing.stderr.count("\n") == 1


def test_failed_job_has_its_own_exit_code(world: World):
    failed = run(*replace(world, task_app="http://127.0.0.1:9").arguments)
    assert failed.returncode == 1
    assert "the task app at http://127.0.0.1:9 cannot be used" in failed.stdout


@pytest.mark.slow
def test_reader_that_goes_away_is_no_failure_of_the_job(world: World, finished: dict[str, Any]):
    watch = " ".join([*COMMAND, "watch", finished["job_id"], "--url", world.url])
    for option in ("--json", ""):
        piped = f"({watch} {option}; echo $? >&2) | head -n 1"
        shell = subprocess.run(["sh", "-c", piped], capture_output=True, text=True, env=environment())
        assert (shell.stdout.count("\n"), shell.stderr) == (1, "130\n")


@pytest.mark.slow
def test_cancelled_job_has_its_own_exit_code_and_ctrl_c_only_detaches(world: World):
    with started(*world.arguments, "--json") as following:
        assert following.stdout is not None
        job_id = json.loads(following.stdout.readline())["job_id"]
        os.killpg(following.pid, signal.SIGINT)
        assert following.wait(PATIENCE_SECONDS) == 130
    with started("watch", job_id, "--url", world.url, "--json") as watching:
        assert run("cancel", job_id, "--url", world.url).returncode == 0
        assert watching.stdout is not None
        last = json.loads(watching.stdout.read().rstrip("\n").split("\n")[-1])
        assert (watching.wait(PATIENCE_SECONDS), last["status"]) == (4, "cancelled")


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_service_may_be_replaced_while_a_job_is_followed(data_dir: Path, models: str, task_app: str):
    """The follower comes back to the new process, and tells every event once."""
    elsewhere = data_dir / "replaced"
    elsewhere.mkdir(mode=0o711)
    with serving(elsewhere, models) as (first, url):
        port = int(url.rpartition(":")[2])
        world = World(elsewhere, url, models, task_app)
        with started(*world.arguments, "--json", stderr=sys.stderr) as following:
            assert following.stdout is not None
            lines = [following.stdout.readline() for _ in range(30)]
            first.terminate()
            first.wait(PATIENCE_SECONDS)
            with serving(elsewhere, models, port):
                lines += following.stdout.read().splitlines()
                assert following.wait(PATIENCE_SECONDS) == 0
    told = [json.loads(line) for line in lines]
    assert [each["seq"] for each in told[:-1]] == list(range(1, len(told)))
    assert told[-1]["status"] == "succeeded"
    assert processes_of(elsewhere) == []


# --- the service -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_database_and_service_end_together_on_a_signal(data_dir: Path, models: str):
    elsewhere = data_dir / "ended"
    elsewhere.mkdir(mode=0o711)
    for number in (signal.SIGINT, signal.SIGHUP):  # SIGTERM ends every other service here
        with serving(elsewhere, models) as (service, url):
            assert httpx.get(f"{url}/readyz").status_code == 200
            assert any("postgres" in line for line in processes_of(elsewhere))
            service.send_signal(number)
            assert service.wait(PATIENCE_SECONDS) == 0
        assert processes_of(elsewhere) == []


@pytest.mark.slow
def test_port_in_use_is_one_line(world: World):
    port = world.url.rpartition(":")[2]
    refused = run("serve", "--port", port, "--data-dir", str(world.data_dir / "unused"))
    assert refused.returncode == 2
    assert f"error: --host, --port: 127.0.0.1:{port} is in use" in refused.stderr.splitlines()[-1]
    assert "Traceback" not in refused.stderr


@pytest.mark.slow
def test_database_that_cannot_start_is_one_line(tmp_path: Path):
    blocked = tmp_path / "file"
    blocked.touch()
    refused = run("serve", "--port", "0", "--data-dir", str(blocked))
    assert refused.returncode == 2
    assert refused.stderr.splitlines()[-1].startswith(f"error: cannot use {blocked}/postgres")
    assert "Traceback" not in refused.stderr


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_worker_takes_jobs_of_a_server_without_one(postgres: str, models: str, task_app: str):
    """Both share a database, and find its schema missing until it is migrated."""
    name = "cli_worker"
    url = postgres.replace("/promptjobs?", f"/{name}?")
    shared = {"PROMPTJOBS_DATABASE_URL": url, "PROMPTJOBS_PROVIDER_DEMO_BASE_URL": f"{models}/v1"}
    shared["PROMPTJOBS_ALLOWED_TARGETS"] = task_app.removeprefix("http://")
    create_database(postgres, name)
    unready = run("worker", **shared)
    assert (unready.returncode, "run `promptjobs migrate`" in unready.stderr) == (2, True)
    assert json.loads(run("migrate", "--json", **shared).stdout)["before"] is None
    with started("serve", "--no-worker", "--json", "--port", "0", **shared) as server:
        assert server.stdout is not None
        served = json.loads(server.stdout.readline())["url"]
        with started("worker", "--public-url", served, "--json", **shared) as worker:
            assert worker.stdout is not None
            assert json.loads(worker.stdout.readline())["worker_id"]
            arguments = World(Path(), served, models, task_app).arguments
            assert run(*arguments, *SMALL).returncode == 0
            worker.terminate()
            assert worker.wait(PATIENCE_SECONDS) == 0


def create_database(server_url: str, name: str) -> None:
    async def create() -> None:
        database = Database.open(server_url)
        connection = await database.connect()
        await connection.execute(f"CREATE DATABASE {name}")
        await connection.close()
        await database.close()

    asyncio.run(create())


# --- the demo --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def demo_dir(data_dir: Path) -> Path:
    path = data_dir / "demo"
    path.mkdir(mode=0o711)
    return path


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_demo_runs_a_whole_optimization_and_leaves_its_job(demo_dir: Path, models: str):
    """Whatever the environment says about a real service."""
    foreign = {"PROMPTJOBS_DATABASE_URL": "postgresql://nobody@127.0.0.1:9/none"}
    foreign |= {"PROMPTJOBS_ALLOWED_TARGETS": "127.0.0.1:9", "PROMPTJOBS_PUBLIC_URL": "http://127.0.0.1:9"}
    demo = run("demo", "--data-dir", str(demo_dir), **foreign)
    assert demo.returncode == 0, demo.stdout + demo.stderr
    assert "on 100 held-out test seeds, a clear gain" in demo.stdout
    assert processes_of(demo_dir) == []
    found = re.search(r"promptjobs show (pl_\w+)", demo.stdout)
    assert found
    assert f"promptjobs serve --data-dir {demo_dir}" in demo.stdout
    with serving(demo_dir, models) as (_, url):
        shown = run("show", found[1], "--url", url)
    assert "on 100 held-out test seeds, a clear gain" in shown.stdout


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_ctrl_c_ends_the_demo_and_all_its_processes(demo_dir: Path, models: str):
    with started("demo", "--json", "--data-dir", str(demo_dir)) as demo:
        assert demo.stdout is not None
        job_id = json.loads(demo.stdout.readline())["job_id"]
        family = [demo.pid, *(each.pid for each in psutil.Process(demo.pid).children(recursive=True))]
        assert len(family) >= 4  # itself, models, task app, service
        os.killpg(demo.pid, signal.SIGINT)
        assert demo.wait(PATIENCE_SECONDS) == 130
    assert [pid for pid in family if psutil.pid_exists(pid)] == []
    assert processes_of(demo_dir) == []
    with serving(demo_dir, models) as (_, url):
        assert json.loads(run("show", job_id, "--url", url, "--json").stdout)["status"] == "cancelled"


@pytest.mark.slow
def test_demo_that_is_interrupted_while_it_starts_leaves_nothing(demo_dir: Path):
    with started("demo", "--data-dir", str(demo_dir)) as demo:
        assert demo.stdout is not None
        while "task app" not in demo.stdout.readline():
            assert demo.poll() is None
        demo.send_signal(signal.SIGTERM)
        assert demo.wait(PATIENCE_SECONDS) == 130
    assert processes_of(demo_dir) == []


@pytest.mark.slow
def test_demo_keeps_away_from_a_directory_that_another_service_works_on(world: World):
    refused = run("demo", "--data-dir", str(world.data_dir))
    assert refused.returncode == 2
    assert refused.stderr.startswith(f"error: --data-dir: a promptjobs service is running on {world.data_dir}")


@pytest.mark.slow
def test_demo_that_cannot_start_its_service_says_why(demo_dir: Path, world: World):
    port = world.url.rpartition(":")[2]
    failed = run("demo", "--data-dir", str(demo_dir), "--port", port)
    assert failed.returncode == 2
    assert re.search(rf"error: the service ended with code 2: .*127\.0\.0\.1:{port} is in use", failed.stderr)
