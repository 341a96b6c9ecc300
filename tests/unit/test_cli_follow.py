"""Following survives broken connections: every event is shown once, in order, and patience ends."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
import respx
from tests.fakes.event_streams import JOB, STREAM, URL, event, stream

from promptjobs.cli.follow import PATIENCE, Patience, follow
from promptjobs.cli.remote import JOBS_PATH, Event, Remote
from promptjobs.errors import RequestRefused, ServiceUnreachable

JOB_URL = f"{URL}{JOBS_PATH}/{JOB}"
REFUSED = httpx.ConnectError("Connection refused")


class BreakingStream(httpx.SyncByteStream):
    """A body that ends with a broken connection."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def __iter__(self) -> Iterator[bytes]:
        yield self._content
        raise httpx.ReadError("connection reset")


@dataclass
class Shown:
    """A display that keeps what it was told."""

    seqs: list[int] = field(default_factory=list)
    breaks: list[tuple[str, int]] = field(default_factory=list)

    def show(self, shown: Event) -> None:
        self.seqs.append(shown.seq)

    def show_break(self, cause: str, attempt: int) -> None:
        self.breaks.append((cause, attempt))


def follow_with(streams: list[Any], jobs: list[Any], patience: Patience = PATIENCE) -> tuple[Any, Shown, list[float]]:
    shown, pauses = Shown(), list[float]()
    with respx.mock, Remote(URL) as remote:
        respx.get(STREAM).mock(side_effect=streams)
        respx.get(JOB_URL).mock(side_effect=jobs)
        result = follow(remote, JOB, shown, patience, pauses.append)
        result["cursors"] = [
            call.request.headers.get("last-event-id")
            for call in respx.calls
            if call.request.url.path.endswith("stream")
        ]
    return result, shown, pauses


def over(status: str = "succeeded") -> httpx.Response:
    return httpx.Response(200, json={"job_id": JOB, "status": status})


def running() -> httpx.Response:
    return httpx.Response(200, json={"job_id": JOB, "status": "running"})


def test_job_is_returned_when_its_stream_has_ended():
    job, shown, pauses = follow_with([httpx.Response(200, content=stream(event(1), event(2)))], [over()])
    assert (job["status"], shown.seqs, shown.breaks, pauses) == ("succeeded", [1, 2], [], [])


def test_broken_stream_is_resumed_behind_the_last_whole_event():
    broken = stream(event(1), event(2)) + b'data: {"seq": 3, "ty'
    streams = [
        httpx.Response(200, stream=BreakingStream(broken)),
        REFUSED,
        httpx.Response(503, json={"code": "database_unavailable", "detail": "starting"}),
        httpx.Response(200, content=stream(event(3), event(4))),
    ]
    job, shown, pauses = follow_with(streams, [over()])
    assert shown.seqs == [1, 2, 3, 4]
    assert job["cursors"] == ["0", "2", "2", "2"]
    assert [attempt for _, attempt in shown.breaks] == [1, 2, 3]
    assert pauses == [0.25, 0.5, 1.0]


def test_end_of_a_stream_is_not_the_end_of_a_job():
    streams = [httpx.Response(200, content=stream(event(1))), httpx.Response(200, content=stream(event(2)))]
    job, shown, _ = follow_with(streams, [running(), over("cancelled")])
    assert (job["status"], shown.seqs) == ("cancelled", [1, 2])


def test_attempts_are_counted_anew_after_each_event():
    streams = [httpx.Response(200, stream=BreakingStream(stream(event(n)))) for n in range(1, 20)]
    job, shown, _ = follow_with([*streams, httpx.Response(204)], [over()])
    assert job["status"] == "succeeded"
    assert {attempt for _, attempt in shown.breaks} == {1}


def test_patience_ends():
    patience = Patience(attempts=4, first_seconds=1.0, most_seconds=3.0)
    shown, pauses = Shown(), list[float]()
    with respx.mock, Remote(URL) as remote:
        route = respx.get(STREAM).mock(side_effect=REFUSED)
        with pytest.raises(ServiceUnreachable, match="gave up after 4 attempts") as raised:
            follow(remote, JOB, shown, patience, pauses.append)
    assert raised.value.exit_code == 3
    assert pauses == [1.0, 2.0, 3.0, 3.0]
    assert route.call_count == 5


def test_service_that_ends_every_stream_at_once_is_not_asked_for_ever():
    with pytest.raises(ServiceUnreachable, match="the stream of events ended"):
        follow_with([httpx.Response(200, content=b": connected\n\n")] * 3, [running()] * 3, Patience(attempts=2))


def test_long_connections_without_events_are_no_failures():
    patience = Patience(attempts=1, lasting_seconds=0.0)
    streams = [httpx.Response(200, content=b": heartbeat\n\n")] * 5
    job, shown, _ = follow_with(streams, [*[running()] * 4, over()], patience)
    assert job["status"] == "succeeded"
    assert [attempt for _, attempt in shown.breaks] == [1, 1, 1, 1]


def test_unknown_job_is_not_waited_for():
    missing = httpx.Response(404, json={"code": "job_not_found", "detail": "there is no job"})
    with pytest.raises(RequestRefused):
        follow_with([missing], [])
