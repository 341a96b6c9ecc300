"""Follows a job to its end, however often the connection breaks on the way."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from promptjobs.cli.remote import TERMINAL, Event, Json, Remote
from promptjobs.errors import ServiceUnreachable


class Display(Protocol):
    """Shows what happens to a job."""

    def show(self, event: Event) -> None: ...

    def show_break(self, cause: str, attempt: int) -> None:
        """The connection broke; attempt 1, 2 … to come back follows."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a service that is away is waited for.

    attempts: in a row without a new event. Pauses between them start with first_seconds and double up to most_seconds.
    A connection that has lasted lasting_seconds was a good one, even without events.
    """

    attempts: int = 10
    first_seconds: float = 0.25
    most_seconds: float = 5.0
    lasting_seconds: float = 10.0

    def pause_seconds(self, attempt: int) -> float:
        return float(min(self.first_seconds * 2 ** (attempt - 1), self.most_seconds))


PATIENCE = Patience()


def follow(
    remote: Remote,
    job_id: str,
    display: Display,
    patience: Patience = PATIENCE,
    sleep: Callable[[float], None] = time.sleep,
) -> Json:
    """Show every event once, in order, and return the job when it is over.

    Raises ServiceUnreachable when `patience` ends, and RequestRefused where there is no such job.
    """
    seq = attempt = 0
    while True:
        connected_at = time.monotonic()
        try:
            for event in remote.events(job_id, seq):
                seq, attempt = event.seq, 0
                display.show(event)
            job = remote.job(job_id)
            if job["status"] in TERMINAL:
                return job
            cause = "the stream of events ended"
        except ServiceUnreachable as error:
            cause = error.cause
        if time.monotonic() - connected_at >= patience.lasting_seconds:
            attempt = 0
        attempt += 1
        if attempt > patience.attempts:
            raise ServiceUnreachable(remote.url, f"{cause}; gave up after {patience.attempts} attempts")
        display.show_break(cause, attempt)
        sleep(patience.pause_seconds(attempt))
