"""Calls that were recorded a moment ago are told once, in their order, and forgotten when there are too many."""

from promptjobs.db.calls import CallRecord
from promptjobs.interceptor.recent import RecentCalls


def call(token: bytes, n: int) -> CallRecord:
    known = dict.fromkeys(CallRecord._fields) | {"token": token, "n": n}
    return CallRecord(**known)


def test_the_calls_of_a_token_are_told_once_and_in_order():
    recent = RecentCalls()
    for token, n in ((b"a", 7), (b"b", 1), (b"a", 3)):
        recent.add(call(token, n))
    assert [each.n for each in recent.take(b"a") or ()] == [7, 3]
    assert recent.take(b"a") is None
    assert [each.n for each in recent.take(b"b") or ()] == [1]


def test_of_too_many_tokens_the_oldest_have_to_be_read():
    recent = RecentCalls(most_tokens=2)
    for token in (b"a", b"b", b"c"):
        recent.add(call(token, 1))
    assert recent.take(b"a") is None
    assert recent.take(b"b") == [call(b"b", 1)]
    assert recent.take(b"c") == [call(b"c", 1)]
