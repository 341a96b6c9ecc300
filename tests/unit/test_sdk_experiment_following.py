"""Following an experiment: each event of each job once and in order, then its end, whatever breaks."""

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
import respx
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes.clients import Driven
from tests.fakes.event_streams import URL, event

import promptjobs
from promptjobs import AsyncClient, Client
from promptjobs.sdk.experiment_following import ExperimentEvent, ExperimentFollowing
from promptjobs.sdk.experiment_requests import EXPERIMENTS_PATH
from promptjobs.sdk.following import Patience

EXPERIMENT = "exp_0c4d1e7a2b9f4c6d8e3f5a7b9c1d2e4f"
STREAM = f"{URL}{EXPERIMENTS_PATH}/{EXPERIMENT}/events/stream"
REFUSED = httpx.ConnectError("Connection refused")
OVER = httpx.Response(204)
END = {
    "experiment_id": EXPERIMENT,
    "type": "experiment.completed",
    "message": "over",
    "status": "completed",
    "counts": {"succeeded": 2},
}


@pytest.fixture(params=[Client, AsyncClient])
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


def of_job(position: int, seq: int, /, **changes: Any) -> dict[str, Any]:
    place = {"experiment_id": EXPERIMENT, "job_id": f"pl_{position}", "position": position, "label": f"job {position}"}
    return event(seq) | place | changes


def stream(*events: dict[str, Any], ids: tuple[str | None, ...] = ()) -> bytes:
    """ids: of the events, in their order; none for those that have none."""
    parts = [": connected\n\n"]
    for at, each in enumerate(events):
        cursor = ids[at] if at < len(ids) else None
        head = "" if cursor is None else f"id: {cursor}\n"
        parts.append(f"{head}event: {each['type']}\ndata: {json.dumps(each)}\n\n: heartbeat\n\n")
    return "".join(parts).encode()


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


def cut(content: bytes) -> httpx.Response:
    return httpx.Response(200, stream=BreakingStream(content))


class Followed:
    """What one who follows an experiment was told. cursors: what each connection asked for; None for the beginning."""

    def __init__(self, kind: Any, streams: list[Any], cursor: str | None = None, **options: Any) -> None:
        self.events: list[ExperimentEvent] = []
        self.causes: list[str] = []
        self.error: Exception | None = None
        with respx.mock, Driven(kind, URL) as client:
            route = respx.get(STREAM).mock(side_effect=streams)
            options |= {"on_break": lambda broken: self.causes.append(broken.cause)}
            try:
                self.events = client.follow_experiment(EXPERIMENT, cursor, **options)
            except promptjobs.ClientError as error:
                self.error = error
            self.cursors = [call.request.headers.get("last-event-id") for call in route.calls]

    @property
    def keys(self) -> list[tuple[int | None, int | None]]:
        return [(each.position, each.seq) for each in self.events]


LAST = (None, None)


def test_a_whole_stream_is_told_to_the_experiments_end(kind: Any):
    ending = of_job(1, 2, type="prompt.learning.gepa.complete", message="line\u2028separator")
    told = Followed(kind, [httpx.Response(200, content=stream(of_job(1, 1), of_job(2, 1), ending, END))])
    assert (told.error, told.cursors) == (None, [None])
    assert told.keys == [(1, 1), (2, 1), (1, 2), LAST]
    assert [each.is_terminal for each in told.events] == [False, False, False, True]
    first, *_, third, last = told.events
    assert (first.experiment_id, first.job_id, first.label) == (EXPERIMENT, "pl_1", "job 1")
    assert (third.message, third.level) == ("line\u2028separator", "info")
    assert (last.job_id, last.created_at, last.type) == (None, None, "experiment.completed")
    assert last.data == {"status": "completed", "counts": {"succeeded": 2}}


def test_a_cut_stream_goes_on_at_the_last_id_and_tells_nothing_twice(kind: Any):
    first = stream(of_job(1, 1), of_job(2, 1), of_job(1, 2), ids=(None, "1:1.2:1")) + b'data: {"seq": 3, "ty'
    again = stream(of_job(1, 2), of_job(1, 3), END, ids=(None, "1:3.2:1", "end"))
    told = Followed(kind, [cut(first), REFUSED, httpx.Response(200, content=again)])
    assert told.keys == [(1, 1), (2, 1), (1, 2), (1, 3), LAST]
    assert told.cursors == [None, "1:1.2:1", "1:1.2:1"]
    assert told.causes == ["connection reset", "Connection refused"]
    assert [each.cursor for each in told.events] == ["", "1:1.2:1", "1:1.2:1", "1:3.2:1", "end"]


def test_following_can_begin_anywhere(kind: Any):
    whole = stream(of_job(1, 8), of_job(1, 9), END, ids=(None, "1:9"))
    told = Followed(kind, [httpx.Response(200, content=whole)], "1:7")
    assert (told.keys, told.cursors) == ([(1, 8), (1, 9), LAST], ["1:7"])
    assert [each.cursor for each in told.events] == ["1:7", "1:9", "1:9"]


def test_an_experiment_that_is_over_has_no_more_events(kind: Any):
    told = Followed(kind, [OVER], "end")
    assert (told.error, told.events) == (None, [])


def test_the_end_of_a_stream_is_not_the_end_of_an_experiment(kind: Any):
    told = Followed(kind, [httpx.Response(200, content=stream(of_job(1, 1), ids=("1:1",))), OVER])
    assert (told.error, told.keys, told.cursors) == (None, [(1, 1)], [None, "1:1"])
    assert told.causes == ["the stream of events ended"]


@pytest.mark.parametrize("cursor", [None, "1:1"])
def test_a_gap_is_asked_for_again(kind: Any, cursor: str | None):
    broken = stream(of_job(2, 1), of_job(1, 2), of_job(2, 3)) if cursor else stream(of_job(2, 1), of_job(2, 3))
    whole = stream(of_job(2, 1), of_job(1, 1), of_job(1, 2), of_job(2, 2), of_job(2, 3), END)
    told = Followed(kind, [httpx.Response(200, content=each) for each in (broken, whole)], cursor)
    assert told.causes == ["event 3 of job pl_2 came after event 1"]
    assert [seq for position, seq in told.keys if position == 2] == [1, 2, 3]
    assert told.cursors == [cursor, cursor]


@pytest.mark.parametrize(
    "content",
    [
        b"data: hello\n\n",
        b"data: {}\n\n",
        b"data: [1]\n\n",
        b"data: \xff\n\n",
        b"data: " + b"[" * 100_000 + b"\n\n",
        stream(event(1)),
        stream(of_job(1, 1, position="1")),
        stream(of_job(1, 1, position=True)),
        stream(of_job(1, 1, label=None)),
        stream(of_job(1, 1, seq=0)),
        stream(of_job(1, 1, data=None)),
        stream(END | {"counts": None}),
        stream(END | {"status": 1}),
        stream({name: value for name, value in END.items() if name != "counts"}),
    ],
)
def test_a_malformed_event_is_asked_for_again_and_never_skipped(content: bytes):
    malformed, good = httpx.Response(200, content=content), httpx.Response(200, content=stream(of_job(1, 1), END))
    told = Followed(Client, [malformed, good])
    assert (told.keys, told.causes) == ([(1, 1), LAST], ["it sent an event that cannot be read"])


def test_an_experiment_that_was_deleted_is_told(kind: Any):
    gone = httpx.Response(404, json={"code": "experiment_not_found", "detail": "none"})
    told = Followed(kind, [httpx.Response(200, content=stream(of_job(1, 1))), gone])
    assert type(told.error) is promptjobs.NotFoundError


@given(
    st.lists(st.tuples(st.integers(1, 4), st.integers(0, 3)), max_size=25),
    st.lists(st.integers(0, 30), max_size=6),
    st.data(),
)
def test_each_event_is_told_once_wherever_the_connection_breaks(
    written: list[tuple[int, int]], breaks: list[int], data: st.DataObject
):
    """The service goes on behind the last id that it was told, whichever of the events had one."""
    seqs: dict[int, int] = {}
    history: list[dict[str, Any]] = []
    cursors: list[str] = []
    for position, more in written:
        for _ in range(more + 1):
            seqs[position] = seqs.get(position, 0) + 1
            history.append(of_job(position, seqs[position]))
            cursors.append(str(len(history)))
    following = ExperimentFollowing("", Patience(URL))
    told: list[ExperimentEvent] = []
    for cut_at in [*breaks, len(history)]:
        following.connect()
        begin = int(following.cursor or 0)
        ids = tuple(data.draw(st.sampled_from([None, cursor])) for cursor in cursors[begin:])
        content = stream(*history[begin : max(begin, cut_at)], ids=ids)
        told += following.received(content)
    told += following.received(stream(END, ids=("end",)))
    assert [(each.job_id, each.seq) for each in told[:-1]] == [(each["job_id"], each["seq"]) for each in history]
    assert told[-1].is_terminal
    assert following.is_over
