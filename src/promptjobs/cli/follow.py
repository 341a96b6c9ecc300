"""Shows a job's events until its end, however often the connection breaks on the way."""

from typing import Protocol

from promptjobs.sdk.client import Client
from promptjobs.sdk.events import Event
from promptjobs.sdk.shapes import Job

GIVE_UP_AFTER_SECONDS = 40.0
"""Somebody sits before a terminal: a service that is away for longer is said to be."""


class Display(Protocol):
    """Shows what happens to a job."""

    def show(self, event: Event) -> None: ...

    def show_break(self, cause: str, attempt: int) -> None:
        """The connection broke; attempt 1, 2 … to come back follows."""


def follow(client: Client, job_id: str, display: Display) -> Job:
    """Show every event once, in order, and return the job when it is over.

    Raises ConnectionFailed when the service stays away, and NotFoundError where there is no such job.
    """
    events = client.follow(
        job_id,
        give_up_after_seconds=GIVE_UP_AFTER_SECONDS,
        on_break=lambda broken: display.show_break(broken.cause, broken.attempt),
    )
    for event in events:
        display.show(event)
    return client.job(job_id)
