"""A job that is run for the SDK's experiment queue: created, told of in lines that it reads, and looked after."""

import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self

from promptjobs.cli.display import PROGRESS, break_line
from promptjobs.cli.notes import Notes
from promptjobs.cli.signals import interruptible, uninterrupted
from promptjobs.cli.text import one_line, write_json, write_line
from promptjobs.cli.train_files import ResultsFolder, files_of
from promptjobs.errors.client import ClientError
from promptjobs.sdk.client import Client
from promptjobs.sdk.events import Event
from promptjobs.sdk.shapes import Job

LINE_EVERY_SECONDS = 2.0
GIVE_UP_AFTER_SECONDS = 600.0
"""Nobody sits before the queue: the service may be away for as long as its owner takes to start it again."""

MAX_SHOWN = 2000
FRACTION = re.compile(r"(?<=\d)\s*/\s*(?=\d)")


@dataclass(frozen=True, slots=True)
class Run:
    """A job that was created, and that is cancelled when we are interrupted."""

    client: Client
    job_id: str

    @classmethod
    def create(cls, client: Client, body: Mapping[str, Any], task_app_api_key: str | None) -> Self:
        """Print the id, alone on the first line: the queue takes the first text that looks like one."""
        run: Self | None = None
        try:
            # A signal must not come between the answer and the id that is in it: nobody else would cancel the job.
            with uninterrupted():
                overrides = {"task_app_api_key": task_app_api_key} if task_app_api_key else None
                job = client.create(body, overrides=overrides)
                run = cls(client, job["job_id"])
            write_line(run.job_id)
            for warning in job["warnings"]:
                write_line(f"warning: {fit_for_queue(warning)}")
        except (KeyboardInterrupt, BrokenPipeError):
            if run is not None:
                run.cancel()
            raise
        return run

    def follow(self, folder: ResultsFolder | None, *, with_curve: bool) -> Job:
        """The job when it is over; files are written when it has succeeded.

        Raises KeyboardInterrupt and BrokenPipeError once the job is cancelled: the queue ends its command without
        telling anybody, and the job would go on and be paid for.
        """
        lines = QueueLines()
        try:
            with interruptible():
                for event in self.client.follow(
                    self.job_id,
                    give_up_after_seconds=GIVE_UP_AFTER_SECONDS,
                    on_break=lambda broken: write_line(fit_for_queue(break_line(broken.cause, broken.attempt))),
                ):
                    lines.show(event)
                job = self.client.job(self.job_id)
                if folder is not None and job["status"] == "succeeded":
                    curve = self.client.learning_curve(self.job_id)
                    folder.write(files_of(job, curve, with_curve=with_curve))
                lines.finish(job)
        except (KeyboardInterrupt, BrokenPipeError):
            self.cancel()
            raise
        return job

    def cancel(self) -> None:
        with uninterrupted(), suppress(ClientError):
            self.client.cancel(self.job_id, "the command that ran it was ended")


class QueueLines:
    """What is printed of a job. The queue finds figures in any text; the last JSON of a progress overrides them."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._notes = Notes()
        self._next_at = -LINE_EVERY_SECONDS

    def show(self, event: Event) -> None:
        for note in self._notes.lines(event):
            write_line(fit_for_queue(note.plain))
        if event.type == PROGRESS and self._clock() >= self._next_at:
            data = event.data
            if tell_progress(
                data["rollouts_completed"], data["rollouts_total"], data["trials_completed"], data["best_score"]
            ):
                self._next_at = self._clock() + LINE_EVERY_SECONDS

    def finish(self, job: Job) -> None:
        """How it has ended. All rollouts that were planned are done by then: those that were made."""
        stats = job["metadata"].get("stats") or {}
        done, score = stats.get("total_rollouts", 0), job["best_score"]
        tell_progress(done, done, stats.get("total_trials_evaluated"), score)
        write_line(fit_for_queue(f"{job['status']}: {job['error'] or job['finish_reason']}"))


def tell_progress(done: int, total: int, trials: int | None, best_score: float | None) -> bool:
    """Print a line that is JSON and says `progress:`; returns whether it did.

    The queue divides by the rollouts that are done, and takes a line that has none of them for a failure of the job.
    """
    if done < 1:
        return False
    figures = {"rollouts_completed": done, "rollouts_total": max(done, total), "trials_completed": trials}
    known = {name: value for name, value in (figures | {"best_score": best_score}).items() if value is not None}
    message = f"progress: rollouts={done}/{max(done, total)}"
    write_json({"type": PROGRESS, "message": message, "data": known})
    return True


def fit_for_queue(text: str) -> str:
    """One line without fractions: the queue would read "0/20 rollouts failed" as a progress."""
    return FRACTION.sub(" of ", one_line(text, MAX_SHOWN))
