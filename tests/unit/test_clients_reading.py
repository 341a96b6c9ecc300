"""Foreign text and JSON: what may be shown, what can be read, what counts as usage."""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptjobs.clients.json_reply import read_json
from promptjobs.clients.redaction import redacted, redacted_body, shown_url, without_repeated
from promptjobs.clients.usage import Usage, read_usage
from promptjobs.errors import InvalidReply

TOKEN = "Zk3vQ9xT1rB7yN5mL2pW8sD4fG6hJ0aC"
KEY = "sk_env_0123456789abcdef"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://user:pw@h.test:8443/a/b?key=secret#x", "https://h.test:8443/a/b"),
        (f"http://h.test/v1/{TOKEN}/cid_1/chat/completions?cid=1", "http://h.test/v1/Zk3vQ9…/cid_1/chat/completions"),
        ("http://[::1]:8700/x", "http://[::1]:8700/x"),
        ("http://[broken", "(not a URL)"),
    ],
)
def test_a_url_is_shown_without_credentials_query_and_tokens(url, shown):
    assert shown_url(url) == shown


@pytest.mark.parametrize(
    "text",
    [
        f"wrong key {KEY}",
        f"got {KEY[:9]}…, expected something else",
        f"Authorization: Bearer {KEY}",
        f'{{"api_key": "{KEY}", "got_prefix": "{KEY[:4]}"}}',
        f"could not post to http://h.test/v1/{TOKEN}/cid?api_key={KEY}",
        f"no trial {TOKEN}",
    ],
)
def test_no_secret_is_legible_in_foreign_text(text):
    shown = redacted(text, [KEY])
    assert KEY[:6] not in shown
    assert TOKEN[:12] not in shown


def test_a_prefix_that_a_server_reports_is_redacted_without_knowing_the_key():
    assert "abcd" not in redacted('{"auth": {"expected_prefix": "abcd", "key_prefixes": ["abcd"]}}')


def test_ordinary_errors_stay_readable():
    text = "ValueError: max_tokens: 5000 is above 4096 for model gpt-4o-mini"
    assert redacted(text, [KEY]) == text


def test_what_a_server_repeats_of_its_key_is_taken_out_of_every_text_of_its_reply():
    key = 'key"with\\marks'
    said = {"sent": [f"x-api-key: {key}", {key: 1.5}], "url": f"http://h.test/v1/{TOKEN}/cid", "score": 0.5}
    assert without_repeated(said, orjson.dumps(said), [key, TOKEN]) == {
        "sent": ["x-api-key: [key]", {"[key]": 1.5}],
        "url": "http://h.test/v1/[key]/cid",
        "score": 0.5,
    }


def test_a_key_so_short_that_it_stands_in_any_word_takes_nothing_out():
    said = {"output": "a knight"}
    assert without_repeated(said, orjson.dumps(said), ["k", "night"]) == said


@given(st.binary(max_size=5000))
def test_an_excerpt_is_one_short_line_that_can_be_stored(body):
    shown = redacted_body(body, [KEY])
    assert len(shown) <= 201
    assert not set(shown) & {"\n", "\r", "\x00"}
    shown.encode()


def nested(levels: int) -> bytes:
    return b"[" * levels + b"]" * levels


def test_64_levels_can_be_read_and_65_not():
    assert read_json(nested(64), "u")
    for levels in (65, 1000, 100_000):
        with pytest.raises(InvalidReply):
            read_json(nested(levels), "u")


def test_wide_json_is_not_deep():
    assert len(read_json(b"[" + b"{}," * 1000 + b"[]]", "u")) == 1001


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b'{"a": NaN}', {"a": "NaN"}),
        (b'{"a": -Infinity}', {"a": "-Infinity"}),
        (b'{"a": 1e999, "b": 1.5}', {"a": "1e999", "b": 1.5}),
        (b'{"a\\u0000": ["x\\u0000y"]}', {"a\ufffd": ["x\ufffdy"]}),
        (b'"\\\\u0000"', "\\u0000"),
    ],
)
def test_what_json_or_the_database_lacks_comes_out_as_text(body, value):
    assert read_json(body, "u") == value


@pytest.mark.parametrize(
    ("body", "cause"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><h1>busy</h1>", "HTML"),
        (b'{"a": ', "not JSON"),
        (b'"\\ud800"', "not JSON"),
        (b'["\\ud800", NaN]', "not JSON"),
        (b'"\xff"', "not JSON"),
        (b"[" * 5000 + b"NaN", "not JSON"),
    ],
)
def test_a_body_that_cannot_be_used_says_why(body, cause):
    with pytest.raises(InvalidReply, match=cause):
        read_json(body, "http://h.test")


@pytest.mark.parametrize(
    ("reported", "usage"),
    [
        ({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}, Usage(10, 5)),
        ({"total_tokens": 15}, Usage(unknown_tokens=15)),
        ({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 40}, Usage(10, 5, 25)),
        ({"prompt_tokens": 10, "prompt_tokens_details": {"cached_tokens": 4}}, Usage(10, cached_tokens=4)),
        ({"prompt_tokens": 10, "prompt_tokens_details": {"cached_tokens": 99}}, Usage(10, cached_tokens=10)),
        ({"prompt_tokens": 12.0, "completion_tokens": 3}, Usage(12, 3)),
        ({"prompt_tokens": -1, "completion_tokens": True, "total_tokens": 10**12}, Usage()),
        ({"prompt_tokens": float("nan"), "completion_tokens": "7", "total_tokens": None}, Usage()),
        ({"prompt_tokens": float("inf"), "prompt_tokens_details": [1]}, Usage()),
        ("a lot", Usage()),
        (None, Usage()),
    ],
)
def test_usage_is_read_strictly(reported, usage):
    assert read_usage({"usage": reported}) == usage


counts = st.integers(-10, 2 * 10**9) | st.floats() | st.sampled_from([None, True, "7", [], {}, {"cached_tokens": 9}])
fields = st.sampled_from(["prompt_tokens", "completion_tokens", "total_tokens", "prompt_tokens_details"])


@given(st.dictionaries(fields, counts))
def test_no_usage_gives_a_negative_or_huge_count(reported):
    usage = read_usage({"usage": reported})
    assert 0 <= usage.cached_tokens <= usage.prompt_tokens <= 10**9
    assert 0 <= usage.completion_tokens <= 10**9
    assert 0 <= usage.unknown_tokens <= 10**9
