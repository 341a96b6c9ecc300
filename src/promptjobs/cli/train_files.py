"""The files in which the SDK's experiment queue looks for a job's result, and the folder that its jobs may share."""

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TextIO

from promptjobs.cli.text import one_line
from promptjobs.errors import FileUnusable
from promptjobs.sdk.shapes import Job, Json

LOCK = ".promptjobs.lock"
READ_WITHIN_SECONDS = 6.0
"""The queue reads the newest files when a command has ended, after waiting up to 5 seconds for one of its threads."""


@dataclass(frozen=True, slots=True)
class ResultsFolder:
    """Where the files of jobs go, one job's after the other's."""

    path: Path

    @classmethod
    def at(cls, path: Path) -> Self:
        """Made where it is not there yet. Raises FileUnusable, before the job is paid for."""
        folder = cls(path)
        with _translated(path):
            path.mkdir(parents=True, exist_ok=True)
            with _opened(path / LOCK):
                pass
        return folder

    def write(
        self,
        files: Mapping[str, str],
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Write files by name, each whole or not at all. Raises FileUnusable.

        The queue takes the newest of a folder for those of the job that has just ended, and its jobs share one unless
        their configs say otherwise. So whoever finds files that are only just there waits until they have been read.
        """
        for name in files:
            if Path(name).name != name:
                raise FileUnusable(one_line(name), "the service has named it, and it would lie in another folder")
        with _translated(self.path), _opened(self.path / LOCK) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            age = clock() - os.fstat(lock.fileno()).st_mtime if lock.tell() else READ_WITHIN_SECONDS
            if 0 <= age < READ_WITHIN_SECONDS:
                sleep(READ_WITHIN_SECONDS - age)
            for name, content in files.items():
                part = self.path / f"{name}.part"
                with _opened(part) as file:
                    file.truncate(0)
                    file.write(content)
                part.replace(self.path / name)
            lock.truncate(0)
            lock.write("The time of this file is that of the last job's end.\n")


def _opened(path: Path) -> TextIO:
    """To append to. A link is not followed: others may write to the folder, and what it points to would be lost."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.fdopen(os.open(path, flags, 0o666), "a", encoding="utf-8", newline="")


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise FileUnusable(str(path), error.strerror or type(error).__name__) from error


def files_of(job: Job, curve: Sequence[Mapping[str, Any]], *, with_curve: bool) -> dict[str, str]:
    """The files of a job that has succeeded, by names that the queue's patterns find.

    curve: the job's learning curve. with_curve: it is a file as well. The queue makes a trial of each of its points,
    numbered from 1 in every job, and demands that the numbers differ within an experiment: the second job would break.
    """
    algorithm, job_id = job["algorithm"], job["job_id"]
    points = [_point(each) for each in curve]
    files = {
        f"{algorithm}_results_{job_id}.txt": _scores(job),
        f"{algorithm}_stats_{job_id}.json": _json(_stats(job, points)),
        f"{algorithm}_best_prompt_{job_id}.json": _json(_best_prompt(job)),
    }
    if with_curve and points:
        total = job["metadata"]["stats"]["total_rollouts"]
        end = {**points[-1], "rollout_count": total, "checkpoint_pct": 1.0, "is_end": True}
        content = {"job_id": job_id, "total_rollouts": total, "curve": [*points, end]}
        files[f"{algorithm}_learning_curve_{job_id}.json"] = _json(content)
    return files


def _scores(job: Job) -> str:
    """The scores on the seeds that the winner was judged by; one that was never measured is left out."""
    stats = job["metadata"]["stats"]
    scores = {"Baseline Score": stats["baseline_score"], "Best Score": job["best_score"]}
    lines = [f"{name}: {score:.6f}" for name, score in scores.items() if score is not None]
    return "\n".join([f"Job ID: {job['job_id']}", f"Status: {job['status']}", *lines, ""])


def _stats(job: Job, points: Sequence[Json]) -> Json:
    """All of the job's figures. A number of rollouts that is 0 is left out: the queue demands more."""
    stats = {name: value for name, value in job["metadata"]["stats"].items() if name != "total_rollouts" or value}
    return {
        "job_id": job["job_id"],
        "algorithm": job["algorithm"],
        "status": job["status"],
        "policy": job["policy"],
        **stats,
        "total_time": stats["total_time_seconds"],
        "learning_curve": points,
    }


def _best_prompt(job: Job) -> Json:
    """modules: of a program of several calls the messages of each."""
    snapshot = job["best_snapshot"] or {}
    found: Json = {
        "job_id": job["job_id"],
        "best_score": job["best_score"],
        "messages": job["best_prompt_messages"],
        "best_prompt": snapshot.get("best_prompt"),
    }
    return found | ({"modules": snapshot["modules"]} if "modules" in snapshot else {})


def _point(point: Mapping[str, Any]) -> Json:
    """Without its prompt. The score stands there twice: the queue takes a first one of 0 for a missing one."""
    kept = {name: point[name] for name in ("rollout_count", "performance", "checkpoint_pct", "candidate_id")}
    return {**kept, "aggregate_score": point["performance"], "created_at": point["metadata"]["created_at"]}


def _json(content: Json) -> str:
    return json.dumps(content, ensure_ascii=False, indent=2) + "\n"
