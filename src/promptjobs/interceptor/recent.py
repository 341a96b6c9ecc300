"""Calls that this process has recorded a moment ago, so that its own worker need not ask the database for them."""

from collections import OrderedDict

from promptjobs.db.calls import CallRecord

MOST_TOKENS = 2_000


class RecentCalls:
    """By token, until they are taken; of more than `most_tokens` the oldest are forgotten, and have to be read."""

    def __init__(self, most_tokens: int = MOST_TOKENS) -> None:
        self._most_tokens = most_tokens
        self._calls: OrderedDict[bytes, list[CallRecord]] = OrderedDict()

    def add(self, record: CallRecord) -> None:
        known = self._calls.get(record.token)
        if known is not None:
            known.append(record)
            return
        self._calls[record.token] = [record]
        if len(self._calls) > self._most_tokens:
            self._calls.popitem(last=False)

    def take(self, token: bytes) -> list[CallRecord] | None:
        """All calls under the token, in the order in which they were recorded; None where none is known here."""
        return self._calls.pop(token, None)
