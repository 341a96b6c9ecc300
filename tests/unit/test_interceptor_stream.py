"""Streams are cut into events wherever the network cut them, and tally up to the reply in one piece."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptjobs.clients.usage import Usage
from promptjobs.errors import InvalidReply
from promptjobs.interceptor.stream import MAX_EVENT_BYTES, EventCutter, Tally, data_of

LINE_END = st.sampled_from([b"\n", b"\r\n"])
LINES = st.sampled_from([b"data: {}", b"data:x", b": ping", b"event: e", b"id: 1"])


def event(body: Any, end: bytes = b"\n") -> bytes:
    return b"data: " + orjson.dumps(body) + end + end


def tallied(*bodies: Any, wants_usage: bool = False) -> tuple[Tally, list[bool]]:
    tally = Tally("p", wants_usage)
    return tally, [tally.read(event(body)) for body in bodies]


def delta(finish: str | None = None, **parts: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": parts, "finish_reason": finish}]}


@given(st.lists(st.tuples(st.lists(LINES, min_size=1, max_size=3), LINE_END), max_size=5), st.data())
def test_events_come_out_whole_however_they_came_in(
    events: list[tuple[list[bytes], bytes]], data: st.DataObject
) -> None:
    whole = [end.join(lines) + end + end for lines, end in events]
    stream = b"".join(whole)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    cutter = EventCutter("p")
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert [event for piece in pieces for event in cutter.feed(piece)] == whole
    assert cutter.rest() == b""


def test_what_follows_the_last_event_is_kept() -> None:
    cutter = EventCutter("p")
    assert cutter.feed(b"data: a\n\ndata: b\n") == [b"data: a\n\n"]
    assert cutter.rest() == b"data: b\n"


def test_event_without_an_end_is_refused() -> None:
    cutter = EventCutter("p")
    with pytest.raises(InvalidReply, match="too large"):
        cutter.feed(b"x" * (MAX_EVENT_BYTES + 1))


@pytest.mark.parametrize(
    ("raw", "data"),
    [
        (b"data: x\n\n", b"x"),
        (b"data:x\r\n\r\n", b"x"),
        (b"event: e\ndata: x\n\n", b"x"),
        (b"data: a\ndata: b\n\n", b"a\nb"),
        (b": ping\n\n", b""),
        (b"data: x", b"x"),
    ],
)
def test_data_of_an_event(raw: bytes, data: bytes) -> None:
    assert data_of(raw) == data


@given(st.lists(st.text(max_size=4)))
def test_pieces_of_content_are_joined(pieces: list[str]) -> None:
    tally, passed = tallied(delta(role="assistant"), *(delta(content=piece) for piece in pieces), delta("stop"))
    assert all(passed)
    content = "".join(pieces).replace("\x00", "\ufffd") if pieces else None
    assert orjson.loads(tally.message() or "") == {"role": "assistant", "content": content}
    assert tally.finish_reason == "stop"


def test_tool_calls_are_put_together_by_index() -> None:
    def part(index: int, text: str, **more: Any) -> dict[str, Any]:
        return {"index": index, "function": {"arguments": text, **more.pop("function", {})}, **more}

    tally, _ = tallied(
        delta(tool_calls=[part(0, "", id="a", type="function", function={"name": "f"})]),
        delta(tool_calls=[part(1, "[", id="b", type="function", function={"name": "g"})]),
        delta(tool_calls=[part(0, "{"), part(1, "]")]),
        delta(tool_calls=[part(0, "}"), None]),
        delta("tool_calls"),
    )
    assert orjson.loads(tally.message() or "")["tool_calls"] == [
        {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}},
        {"id": "b", "type": "function", "function": {"name": "g", "arguments": "[]"}},
    ]


USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


@pytest.mark.parametrize(
    "last",
    [
        {"choices": [], "usage": USAGE},
        {**delta("stop"), "usage": USAGE},
        {**delta("stop"), "x_groq": {"usage": USAGE}},
    ],
    ids=["alone", "with the end", "groq"],
)
@pytest.mark.parametrize("wants_usage", [False, True])
def test_usage_is_read_and_kept_back_only_where_it_comes_alone(last: dict[str, Any], wants_usage: bool) -> None:
    tally, passed = tallied({**delta(content="x"), "usage": None}, last, wants_usage=wants_usage)
    assert tally.usage == Usage(3, 2)
    assert passed == [True, wants_usage or bool(last["choices"])]


def test_chunks_without_choices_that_are_no_usage_pass() -> None:
    _, passed = tallied({"choices": [], "prompt_filter_results": []}, {"choices": [None]}, {"choices": "x"}, [], "x")
    assert passed == [True] * 5


def test_end_and_error_are_kept_back() -> None:
    tally = Tally("p", wants_usage=True)
    assert not tally.read(b"data: [DONE]\n\n")
    assert tally.is_done
    tally, passed = tallied({"error": {"message": "m"}})
    assert passed == [False]
    assert tally.error == {"message": "m"}
    assert tally.message() is None


def test_endless_reply_is_refused() -> None:
    piece = event(delta(content="x" * 2**20))
    with pytest.raises(InvalidReply, match="longer"):
        tallied(*[orjson.loads(data_of(piece))] * 5)
