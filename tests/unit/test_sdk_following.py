"""Following a job: every event once and in order, over as many connections as it takes, and not for ever."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
import respx
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes.clients import Driven
from tests.fakes.event_streams import JOB, STREAM, URL, ending, event, stream

import promptjobs
from promptjobs import AsyncClient, Client
from promptjobs.errors.client import EventMalformed
from promptjobs.sdk.events import Decoder, Event
from promptjobs.sdk.following import LASTING_SECONDS, Break, Following, Patience, Waiting
from promptjobs.sdk.job_requests import JOBS_PATH

JOB_URL = f"{URL}{JOBS_PATH}/{JOB}"
REFUSED = httpx.ConnectError("Connection refused")
AWAY = httpx.Response(503, json={"code": "database_unavailable", "detail": "starting"})
OVER = httpx.Response(204)


class BreakingStream(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body that ends with a broken connection."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def __iter__(self) -> Iterator[bytes]:
        yield self._content
        raise httpx.ReadError("connection reset")

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self:
            yield chunk


def sent(*events: dict[str, Any]) -> httpx.Response:
    return httpx.Response(200, content=stream(*events))


def cut(content: bytes) -> httpx.Response:
    return httpx.Response(200, stream=BreakingStream(content))


class Followed:
    """What one who follows a job was told. cursors: what each connection asked for."""

    def __init__(self, kind: Any, streams: list[Any], after: int = 0, **options: Any) -> None:
        self.breaks: list[Break] = []
        self.cursors: list[str] = []
        self.events: list[Event] = []
        self.error: Exception | None = None
        with respx.mock, Driven(kind, URL) as client:
            route = respx.get(STREAM).mock(side_effect=streams)
            try:
                self.events = client.follow(JOB, after, on_break=self.breaks.append, **options)
            except promptjobs.ClientError as error:
                self.error = error
            self.cursors = [call.request.headers["last-event-id"] for call in route.calls]
            self.pauses = client.pauses

    @property
    def seqs(self) -> list[int]:
        return [each.seq for each in self.events]


@pytest.fixture(params=[Client, AsyncClient])
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


# --- streams ---------------------------------------------------------------------------------------------------------


def test_a_whole_stream_is_told_and_ends_with_the_terminal_event(kind: Any):
    told = Followed(kind, [sent(event(1, "line\u2028separator, \x85, and \x0b"), event(2, data="ü"), ending(3))])
    assert told.error is None
    assert (told.seqs, told.pauses, told.cursors) == ([1, 2, 3], [], ["0"])
    assert told.events[0].message == "line\u2028separator, \x85, and \x0b"
    assert [each.is_terminal for each in told.events] == [False, False, True]


def test_following_can_begin_anywhere(kind: Any):
    told = Followed(kind, [sent(event(4), ending(5))], after=3)
    assert (told.seqs, told.cursors) == ([4, 5], ["3"])


def test_a_cut_stream_goes_on_behind_the_last_whole_event(kind: Any):
    broken = stream(event(1), event(2)) + b'data: {"seq": 3, "ty'
    told = Followed(kind, [cut(broken), REFUSED, AWAY, sent(event(3), ending(4))])
    assert told.seqs == [1, 2, 3, 4]
    assert told.cursors == ["0", "2", "2", "2"]
    assert [each.attempt for each in told.breaks] == [1, 2, 3]
    assert [each.cause for each in told.breaks] == [
        "connection reset",
        "Connection refused",
        "starting (database_unavailable)",
    ]
    assert told.pauses == [each.pause_seconds for each in told.breaks]
    assert told.pauses == sorted(told.pauses)


def test_the_end_of_a_stream_is_not_the_end_of_a_job(kind: Any):
    told = Followed(kind, [sent(event(1)), sent(event(2)), OVER])
    assert (told.error, told.seqs, told.cursors) == (None, [1, 2], ["0", "1", "2"])


def test_a_job_that_is_over_has_no_more_events(kind: Any):
    told = Followed(kind, [OVER], after=9)
    assert (told.error, told.seqs, told.pauses) == (None, [], [])


def test_a_connection_that_breaks_behind_the_terminal_event_is_not_made_again(kind: Any):
    told = Followed(kind, [cut(stream(event(1), ending(2)))])
    assert (told.error, told.seqs, told.breaks) == (None, [1, 2], [])


def test_what_is_sent_again_is_told_once(kind: Any):
    told = Followed(kind, [cut(stream(event(1), event(2))), sent(event(1), event(2), event(3), ending(4))])
    assert told.seqs == [1, 2, 3, 4]


def test_a_gap_is_asked_for_again(kind: Any):
    told = Followed(kind, [sent(event(1), event(3)), sent(event(2), event(3), ending(4))])
    assert (told.seqs, told.cursors) == ([1, 2, 3, 4], ["0", "1"])
    assert [each.cause for each in told.breaks] == ["event 3 came after event 1"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "content",
    [
        b"data: hello\n\n",
        b"data: {}\n\n",
        b"data: [1]\n\n",
        b"data: \xff\n\n",
        stream(event(1) | {"seq": "1"}),
        stream(event(1) | {"seq": True}),
        stream(event(1) | {"seq": 0}),
        stream(event(1) | {"data": None}),
        stream(event(1) | {"created_at": "yesterday"}),
        stream(event(1) | {"message": 3}),
        b"data: " + b"[" * 100_000 + b"\n\n",
    ],
)
def test_a_malformed_event_is_asked_for_again_and_never_skipped(kind: Any, content: bytes):
    malformed = httpx.Response(200, content=content)
    told = Followed(kind, [malformed, sent(event(1), ending(2))])
    assert (told.seqs, [each.cause for each in told.breaks]) == ([1, 2], ["it sent an event that cannot be read"])
    told = Followed(kind, [lambda _: httpx.Response(200, content=content)] * 3, give_up_after_seconds=0)
    assert type(told.error) is promptjobs.UnexpectedAnswer


def test_attempts_are_counted_anew_after_each_event(kind: Any):
    told = Followed(kind, [*(cut(stream(event(n))) for n in range(1, 20)), OVER])
    assert told.error is None
    assert {each.attempt for each in told.breaks} == {1}


def test_patience_ends(kind: Any):
    told = Followed(kind, [REFUSED], give_up_after_seconds=0)
    assert type(told.error) is promptjobs.ConnectionFailed
    assert "Connection refused; gave up after 1 attempts" in str(told.error)


@pytest.mark.parametrize(
    ("status", "code", "error"),
    [
        (404, "job_not_found", promptjobs.NotFoundError),
        (401, "invalid_api_key", promptjobs.AuthenticationError),
        (422, "invalid_request", promptjobs.InvalidRequestError),
    ],
)
def test_a_refusal_is_not_waited_for(kind: Any, status: int, code: str, error: type):
    told = Followed(kind, [httpx.Response(status, json={"code": code, "detail": "no"})])
    assert (type(told.error), told.pauses) == (error, [])


def test_too_many_streams_are_waited_for_as_long_as_the_service_says(kind: Any):
    limited = httpx.Response(429, json={"code": "rate_limited", "detail": "streams"}, headers={"retry-after": "5"})
    told = Followed(kind, [limited, sent(ending(1))])
    assert told.seqs == [1]
    assert 5.0 <= told.pauses[0] <= 5.2


def test_a_cursor_below_zero_is_refused_at_once(kind: Any):
    with Driven(kind, URL) as client, pytest.raises(promptjobs.ArgumentInvalid, match="after"):
        client.follow(JOB, -1)


@respx.mock
def test_a_reader_may_stop_early():
    respx.get(STREAM).mock(side_effect=[cut(stream(event(1), event(2)))])
    with Client(URL) as client:
        events = client.follow(JOB)
        assert next(events).seq == 1
        events.close()  # type: ignore[attr-defined]


# --- waiting ---------------------------------------------------------------------------------------------------------


def status(name: str) -> httpx.Response:
    return httpx.Response(200, json={"job_id": JOB, "status": name})


def waited(kind: Any, answers: list[Any], **options: Any) -> tuple[Any, list[float]]:
    with respx.mock, Driven(kind, URL) as client:
        respx.get(JOB_URL).mock(side_effect=answers)
        return client.wait(JOB, **options), client.pauses


def test_a_job_is_waited_for_through_a_restart_of_the_service(kind: Any):
    job, pauses = waited(kind, [status("queued"), REFUSED, AWAY, status("running"), status("failed")])
    assert job["status"] == "failed"
    assert len(pauses) == 4


def test_waiting_ends_in_time(kind: Any):
    with pytest.raises(promptjobs.WaitTimedOut, match="is still running") as raised:
        waited(kind, [status("running")], timeout_seconds=0)
    assert (raised.value.job_id, raised.value.job_status) == (JOB, "running")


def test_waiting_for_what_is_not_there_ends_at_once(kind: Any):
    with pytest.raises(promptjobs.NotFoundError):
        waited(kind, [httpx.Response(404, json={"code": "job_not_found", "detail": "none"})])


# --- the state machines, with a clock of our own ---------------------------------------------------------------------


class Clock:
    """Stands still unless it is set."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


LOST = promptjobs.ConnectionFailed(URL, "lost")


def breaks_until_the_end(patience: Patience, clock: Clock) -> list[Break]:
    told: list[Break] = []

    def break_again_and_again() -> None:
        for _ in range(1000):
            told.append(patience.after(LOST))
            clock.now += told[-1].pause_seconds

    with pytest.raises(promptjobs.ConnectionFailed, match="gave up"):
        break_again_and_again()
    return told


def test_patience_lasts_as_long_as_it_was_told_and_no_longer():
    clock = Clock()
    told = breaks_until_the_end(Patience(URL, 60.0, clock), clock)
    assert sum(each.pause_seconds for each in told) <= 60.0
    assert sum(each.pause_seconds for each in told) > 60.0 - 8.0
    assert max(each.pause_seconds for each in told) <= 8.0


def test_patience_begins_anew_when_the_service_was_of_use():
    clock = Clock()
    patience = Patience(URL, 60.0, clock)
    breaks_until_the_end(patience, clock)
    patience.was_rewarded()
    assert patience.after(LOST).attempt == 1


def test_a_long_connection_without_events_is_no_failure():
    clock = Clock()
    following = Following(0, Patience(URL, 1.0, clock))
    for _ in range(20):
        following.connect()
        following.accepted(200)
        clock.now += LASTING_SECONDS
        assert following.broke(LOST).attempt == 1


def test_connections_that_end_at_once_are_failures():
    clock = Clock()
    following = Following(0, Patience(URL, 5.0, clock))

    def connect_again_and_again() -> None:
        for _ in range(50):
            following.connect()
            following.accepted(200)
            clock.now += following.broke(LOST).pause_seconds

    with pytest.raises(promptjobs.ConnectionFailed, match="gave up after"):
        connect_again_and_again()


def test_the_last_question_is_asked_when_the_time_is_up():
    clock = Clock()
    waiting = Waiting(JOB, 10.0, Patience(URL, 60.0, clock))
    running: Any = {"status": "running"}

    def ask_again_and_again() -> None:
        for _ in range(1000):
            pause = waiting.answered(running)
            assert pause is not None
            assert 0 < pause <= 2.0
            clock.now += pause

    with pytest.raises(promptjobs.WaitTimedOut):
        ask_again_and_again()
    assert clock.now == 10.0


# --- the decoder -----------------------------------------------------------------------------------------------------


def decoded(chunks: list[bytes]) -> list[bytes]:
    decoder = Decoder()
    return [content for chunk in chunks for content in decoder.feed(chunk)]


@given(st.lists(st.text(), max_size=5), st.data())
def test_events_do_not_depend_on_where_the_stream_is_cut(messages: list[str], data: st.DataObject):
    events = [event(number, message) for number, message in enumerate(messages, 1)]
    whole = stream(*events)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    chunks = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    assert [Event.parse(each).message for each in decoded(chunks)] == messages


def test_an_event_that_is_cut_off_is_dropped():
    assert decoded([b"data: 1\n\ndata: 2\n"]) == [b"1"]


def test_lines_may_end_as_on_other_systems_and_data_may_have_several():
    assert decoded([b"data: 1\r\ndata:2\r", b"\n\r\n", b": comment\n\n"]) == [b"1\n2"]


def test_an_event_without_an_end_is_not_kept_for_ever():
    decoder, chunk = Decoder(), b"x" * (1 << 20)
    for _ in range(64):
        assert list(decoder.feed(chunk)) == []
    with pytest.raises(EventMalformed):
        list(decoder.feed(chunk))


@pytest.mark.parametrize(
    ("name", "is_terminal"),
    [
        ("prompt.learning.gepa.complete", True),
        ("prompt.learning.mipro.failed", True),
        ("prompt.learning.gepa.cancelled", True),
        ("prompt.learning.gepa.generation.complete", False),
        ("mipro.job.completed", False),
        ("prompt.learning.proposal.failed", False),
    ],
)
def test_only_the_jobs_last_event_is_terminal(name: str, is_terminal: bool):
    content = stream(event(1) | {"type": name})
    (found,) = decoded([content])
    assert Event.parse(found).is_terminal is is_terminal
