"""What a person sees of a job that is followed: every event once, every break, and the job at its end."""

from dataclasses import dataclass, field

import httpx
import pytest
import respx
from tests.fakes.event_streams import JOB, STREAM, URL, ending, event, stream

from promptjobs import Client, Event, NotFoundError
from promptjobs.cli.follow import follow
from promptjobs.sdk.job_requests import JOBS_PATH

JOB_URL = f"{URL}{JOBS_PATH}/{JOB}"


@dataclass
class Shown:
    """A display that keeps what it was told."""

    seqs: list[int] = field(default_factory=list)
    breaks: list[tuple[str, int]] = field(default_factory=list)

    def show(self, shown: Event) -> None:
        self.seqs.append(shown.seq)

    def show_break(self, cause: str, attempt: int) -> None:
        self.breaks.append((cause, attempt))


@respx.mock
def test_events_and_breaks_are_shown_and_the_job_returned():
    refused = httpx.ConnectError("Connection refused")
    streams = [httpx.Response(200, content=stream(event(1))), refused, httpx.Response(200, content=stream(ending(2)))]
    respx.get(STREAM).mock(side_effect=streams)
    respx.get(JOB_URL).respond(json={"job_id": JOB, "status": "succeeded"})
    shown, pauses = Shown(), list[float]()
    with Client(URL, sleep=pauses.append) as client:
        job = follow(client, JOB, shown)
    assert job["status"] == "succeeded"
    assert shown.seqs == [1, 2]
    assert shown.breaks == [("the stream of events ended", 1), ("Connection refused", 2)]
    assert len(pauses) == 2


@respx.mock
def test_unknown_job_is_not_waited_for():
    respx.get(STREAM).respond(404, json={"code": "job_not_found", "detail": "there is no job"})
    with Client(URL) as client, pytest.raises(NotFoundError):
        follow(client, JOB, Shown())
