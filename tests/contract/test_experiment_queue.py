"""`promptjobs train` as the SDK's experiment queue runs it: its options, its environment, its output and its files."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from promptjobs.cli.train_config import read_env_file, read_training
from promptjobs.cli.train_files import READ_WITHIN_SECONDS, ResultsFolder, files_of
from promptjobs.cli.train_run import fit_for_queue, tell_progress
from promptjobs.errors import FileUnusable
from promptjobs.errors.client import ConfigFileInvalid
from tests.acceptance import client, mipro_jobs
from tests.acceptance.client import Api
from tests.acceptance.faulty_app import FaultyApp
from tests.acceptance.faulty_model import POLICY, FaultyModel
from tests.acceptance.finished_job import Finished
from tests.acceptance.mipro_jobs import counts_hints_and_examples
from tests.acceptance.service import Ports, Process, serving_on
from tests.contract.queue_reading import (
    QueueFailed,
    Summary,
    arguments,
    final_figures,
    job_id_in,
    polled_progress,
    status_of,
    summary_of,
)

COMMAND = (sys.executable, "-m", "promptjobs", "train")
LONG = {"gepa.rollout.budget": 20_000, "gepa.population": {"num_generations": 10_000, "patience_generations": 10_000}}
FIGURES = json.dumps({"type": "prompt.learning.progress", "data": {"rollouts_completed": 5, "rollouts_total": 9}})
PATIENCE_SECONDS = 90.0

Json = dict[str, Any]


# --- files -----------------------------------------------------------------------------------------------------------


def written(folder: Path, job: Json, curve: list[Json], *, with_curve: bool = False) -> Summary:
    ResultsFolder.at(folder).write(files_of(job, curve, with_curve=with_curve))
    return summary_of(folder)


def test_the_queue_finds_a_jobs_result_in_its_folder(finished: Finished, tmp_path: Path) -> None:
    found = written(tmp_path / "results", finished.job, finished.curve)
    stats = finished.stats
    assert found.best == pytest.approx(finished.job["best_score"], abs=1e-6)
    assert found.baseline == pytest.approx(stats["baseline_score"], abs=1e-6)
    assert found.rollouts == stats["total_rollouts"]
    assert found.seconds == stats["total_time_seconds"]
    assert found.artifacts.keys() == {"stats_path", "results_txt_path", "best_prompt_path"}
    assert found.stats.items() >= stats.items()
    scores = [point["performance"] for point in finished.curve]
    assert [point["performance"] for point in found.stats["learning_curve"]] == scores
    best = json.loads(found.artifacts["best_prompt_path"].read_text())
    assert best["messages"] == finished.job["best_prompt_messages"]


def test_a_learning_curve_begins_at_a_baseline_of_zero_and_ends_with_all_rollouts(
    finished: Finished, tmp_path: Path
) -> None:
    """The queue takes a figure of 0 for none, and its first point that has a score for the baseline."""
    curve = deepcopy(finished.curve)
    curve[0]["performance"] = 0.0
    found = written(tmp_path, finished.job, curve, with_curve=True)
    assert found.baseline == 0.0
    assert found.best == max(point["performance"] for point in curve)
    assert found.rollouts == finished.stats["total_rollouts"]
    assert len(found.curve) == len(curve) + 1


def test_a_job_without_any_rollout_leaves_that_figure_out(finished: Finished, tmp_path: Path) -> None:
    job = deepcopy(finished.job)
    job["metadata"]["stats"]["total_rollouts"] = 0
    assert written(tmp_path, job, []).rollouts is None


def test_files_of_a_shared_folder_are_left_alone_until_the_queue_has_read_them(tmp_path: Path) -> None:
    folder, waited, now = ResultsFolder.at(tmp_path), list[float](), list[float]()

    def write(seconds_later: float) -> None:
        folder.write({"gepa_stats_pl_a.json": "{}"}, waited.append, lambda: now[0] + seconds_later)
        now[:] = [(tmp_path / ".promptjobs.lock").stat().st_mtime]

    now.append(0.0)
    write(0.0)
    assert waited == []
    write(READ_WITHIN_SECONDS + 1)
    assert waited == []
    ResultsFolder.at(tmp_path)
    write(1.0)
    assert waited == [pytest.approx(READ_WITHIN_SECONDS - 1)]


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FileUnusable, match="file/results"):
        ResultsFolder.at(tmp_path / "file" / "results")


# --- config and env file ---------------------------------------------------------------------------------------------


def test_paths_of_the_config_stay_here_and_count_from_its_directory(tmp_path: Path) -> None:
    (tmp_path / "keys.env").write_text("SYNTH_API_KEY=from-the-file\n")
    (tmp_path / "job.toml").write_text(
        'results_folder = "outer"\n[prompt_learning]\nresults_folder = "mine"\nenv_file_path = "keys.env"\nseed = 1\n'
    )
    found = read_training(tmp_path / "job.toml")
    assert found.body == {"prompt_learning": {"seed": 1}}
    assert found.results_folder == tmp_path / "mine"
    assert found.keys == {"SYNTH_API_KEY": "from-the-file"}


def test_without_paths_the_env_file_is_that_of_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The queue reads its own `.env` after it has copied the environment that the command gets."""
    (tmp_path / "job.toml").write_text("[prompt_learning]\n")
    monkeypatch.chdir(tmp_path)
    assert read_training(Path("job.toml")).keys == {}
    (tmp_path / ".env").write_text("SYNTH_API_KEY=nearby")
    found = read_training(Path("job.toml"))
    assert (found.keys, found.results_folder) == ({"SYNTH_API_KEY": "nearby"}, None)


@pytest.mark.parametrize("name", ["results_folder", "env_file_path"])
def test_what_is_no_path_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "job.toml").write_text(f"[prompt_learning]\n{name} = 3\n")
    with pytest.raises(ConfigFileInvalid, match=name):
        read_training(tmp_path / "job.toml")


def test_an_env_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    (tmp_path / "job.toml").write_text('env_file_path = "gone.env"')
    with pytest.raises(FileUnusable, match=r"gone\.env"):
        read_training(tmp_path / "job.toml")


def test_an_env_file_is_read_as_shells_and_their_kin_write_it(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(
        "# a comment\n\nPLAIN=a=b\nexport EXPORTED = spaced \nSINGLE='x # y'\nDOUBLE=\"z\" # why\nCUT=v # why\nEMPTY=\n"
        "no variable\n"
    )
    assert read_env_file(tmp_path / ".env") == {
        "PLAIN": "a=b",
        "EXPORTED": "spaced",
        "SINGLE": "x # y",
        "DOUBLE": "z",
        "CUT": "v",
        "EMPTY": "",
    }


# --- lines -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["0/20 rollouts failed", "Completed 0 / 9 rollouts", "rollouts=0/7", "3/20 rollouts"])
def test_words_of_others_are_never_read_as_a_progress(text: str) -> None:
    assert status_of(fit_for_queue(text)).done is None


def test_a_job_without_a_rollout_is_not_told_of(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    with pytest.raises(QueueFailed):
        status_of("rollouts=0/20")
    assert not tell_progress(0, 20, 1, 0.5)
    assert capsysbinary.readouterr().out == b""


def test_the_newest_progress_wins_over_words(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    assert tell_progress(12, 10, 3, 0.0)
    found = status_of("best: 0.9\n" + FIGURES + "\n" + capsysbinary.readouterr().out.decode())
    assert (found.done, found.total, found.trials, found.best) == (12, 12, 3, 0.0)


# --- the command -----------------------------------------------------------------------------------------------------


def toml_of(body: Mapping[str, Any]) -> str:
    """Everything but the outermost table is inline."""
    return "".join(
        f"[{table}]\n" + "".join(f"{name} = {_inline(value)}\n" for name, value in content.items())
        for table, content in body.items()
    )


def _inline(value: Any) -> str:
    match value:
        case dict():
            return "{" + ", ".join(f"{name} = {_inline(each)}" for name, each in value.items()) + "}"
        case list():
            return "[" + ", ".join(_inline(each) for each in value) + "]"
        case _:
            return json.dumps(value)


class Queue:
    """Runs the command as the queue does: its own environment, its working directory, one pipe for all output."""

    def __init__(self, directory: Path, url: str) -> None:
        self.directory, self.url, self.results = directory, url, directory / "results"

    def start(self, body: Json) -> "subprocess.Popen[str]":
        body["prompt_learning"] = {
            name: value for name, value in body["prompt_learning"].items() if value is not None
        } | {"results_folder": str(self.results)}
        config = self.directory / "job.toml"
        config.write_text(toml_of(body))
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PROMPTJOBS_")}
        return subprocess.Popen(
            [*COMMAND, *arguments(config, f"{self.url}/api")],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            cwd=self.directory,
            env=environment | {"PYTHONUNBUFFERED": "1", "SYNTH_API_KEY": "any", "ENVIRONMENT_API_KEY": "test-key"},
        )

    async def run(self, body: Json) -> tuple[int, str]:
        """The exit code, and all output."""
        process = self.start(body)
        try:
            output, _ = await asyncio.to_thread(process.communicate, timeout=PATIENCE_SECONDS)
        finally:
            process.kill()
        return process.returncode, output


@pytest.fixture
def queue(shared_service: Process, tmp_path: Path) -> Queue:
    return Queue(tmp_path, shared_service.url)


@asynccontextmanager
async def toys(ports: Ports) -> AsyncIterator[FaultyApp]:
    """The toy task app and models; instructions and examples are both of use."""
    model, app = FaultyModel(), FaultyApp()
    model.replies[POLICY] = counts_hints_and_examples
    async with serving_on(app.app(), ports.task_app), serving_on(model.app(), ports.model):
        yield app


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["gepa", "mipro"])
async def test_a_job_of_the_queue_ends_complete(queue: Queue, ports: Ports, algorithm: str) -> None:
    small = {"gepa": client, "mipro": mipro_jobs}[algorithm].config(ports.task_app_url)
    async with toys(ports) as app, Api.at(queue.url) as api:
        code, output = await queue.run(small)
        assert code == 0, output
        job_id = job_id_in(output)
        assert output.startswith(f"{job_id}\n")
        assert job_id is not None
        job, events = await api.read(job_id), await api.events(job_id)
    assert app.visits[0].request.headers["x-api-key"] == "test-key"
    assert (job["algorithm"], job["status"]) == (algorithm, "succeeded")
    assert not [warning for warning in job["warnings"] if "results_folder" in warning]

    polled, figures = polled_progress(events), final_figures(job)
    assert polled is not None
    assert len(figures) == 12
    status, found = status_of(output), summary_of(queue.results)
    assert (status.done, status.total, status.percent) == (figures["total_rollouts"], figures["total_rollouts"], 100)
    assert polled["rollouts_completed"] <= figures["total_rollouts"]
    assert status.trials == polled["trials_completed"]
    assert status.best == figures["best_score"] == pytest.approx(found.best, abs=1e-6)
    assert found.baseline == pytest.approx(figures["baseline_score"], abs=1e-6)
    assert found.rollouts == figures["total_rollouts"]
    assert found.stats["job_id"] == job_id
    assert found.stats["learning_curve"]
    assert json.loads(found.artifacts["best_prompt_path"].read_text())["messages"] == job["best_prompt_messages"]


@pytest.mark.slow
async def test_a_job_that_fails_says_why_and_leaves_no_files(queue: Queue, ports: Ports) -> None:
    async with Api.at(queue.url) as api:
        code, output = await queue.run(client.config(ports.closed_url))
        job = await api.read(job_id_in(output) or "")
    assert (code, job["status"]) == (1, "failed")
    assert job["error"].split(":")[0] in output
    assert summary_of(queue.results) == Summary()


@pytest.mark.slow
async def test_a_config_that_is_refused_says_why(queue: Queue, ports: Ports) -> None:
    code, output = await queue.run(client.config(ports.task_app_url, {"gepa.rollout.budget": -1}))
    assert code == 2
    assert "budget" in output
    assert job_id_in(output) is None


@pytest.mark.slow
def test_a_learning_curve_that_has_no_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "job.toml").write_text("[prompt_learning]\n")
    command = [*COMMAND, "--learning-curve", *arguments(tmp_path / "job.toml", "http://127.0.0.1:9/api")]
    found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS)
    assert found.returncode == 2
    assert "results_folder" in found.stderr


@pytest.mark.slow
async def test_a_command_that_is_ended_cancels_its_job(queue: Queue, ports: Ports) -> None:
    async with toys(ports) as app, Api.at(queue.url) as api:
        app.close_gate()
        process = queue.start(client.config(ports.task_app_url, LONG))
        assert process.stdout is not None
        try:
            job_id = (await asyncio.to_thread(process.stdout.readline)).strip()
            await app.visited(1)
            process.send_signal(signal.SIGTERM)
            assert (await api.ended(job_id))["status"] == "cancelled"
            assert await asyncio.to_thread(process.wait, PATIENCE_SECONDS) == 130
        finally:
            process.kill()
            process.stdout.close()


@pytest.mark.slow
async def test_a_job_whose_output_nobody_reads_any_more_is_cancelled(queue: Queue, ports: Ports) -> None:
    """So it is when the queue cancels an experiment: it ends its own worker, and tells the command nothing."""
    async with toys(ports), Api.at(queue.url) as api:
        process = queue.start(client.config(ports.task_app_url, LONG))
        assert process.stdout is not None
        try:
            job_id = (await asyncio.to_thread(process.stdout.readline)).strip()
            process.stdout.close()
            assert (await api.ended(job_id))["status"] == "cancelled"
            assert await asyncio.to_thread(process.wait, PATIENCE_SECONDS) == 130
        finally:
            process.kill()
