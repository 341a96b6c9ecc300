"""Calls and completions as the JSON that clients read: without the tokens and keys that they were made with."""

from collections.abc import Sequence
from typing import Any

import orjson

from promptjobs.api.wire import rollout_object
from promptjobs.db.results import StoredRollout
from promptjobs.db.traces import StoredCall, StoredCompletion

Json = dict[str, Any]


def shown_rollout(rollout: StoredRollout, calls: Sequence[StoredCall] | None) -> Json:
    """A rollout; with the calls of its LLM, where they were asked for."""
    shown = rollout_object(rollout)
    return shown if calls is None else {**shown, "calls": [_call_object(n, call) for n, call in enumerate(calls, 1)]}


def _call_object(n: int, call: StoredCall) -> Json:
    return {
        "n": n,
        "attempt": call.attempt,
        "provider": call.provider,
        "model": call.model,
        "streamed": call.streamed,
        "messages": orjson.Fragment(call.messages),
        "reply": None if call.reply is None else orjson.Fragment(call.reply),
        "finish_reason": call.finish_reason,
        **_usage(call),
        "seconds": call.seconds,
        "status": call.status,
        "error": call.error,
        "created_at": call.created_at,
    }


def completion_object(stored: StoredCompletion) -> Json:
    """A call of the meta-model or the judge; without a text where it has failed."""
    return {
        "id": stored.key.hex(),
        "n": stored.n,
        "purpose": stored.purpose,
        "provider": stored.provider,
        "model": stored.model,
        "draw": stored.draw,
        "request": orjson.Fragment(stored.request),
        "text": None if stored.reason is not None else orjson.loads(stored.body)["text"],
        "finish_reason": stored.finish_reason,
        "reason": stored.reason,
        "detail": stored.detail,
        **_usage(stored),
        "seconds": stored.seconds,
        "attempts": stored.attempts,
        "created_at": stored.created_at,
    }


def _usage(spent: StoredCall | StoredCompletion) -> Json:
    return {
        "prompt_tokens": spent.prompt_tokens,
        "completion_tokens": spent.completion_tokens,
        "unknown_tokens": spent.unknown_tokens,
        "tokens": spent.prompt_tokens + spent.completion_tokens + spent.unknown_tokens,
        "cost_usd": spent.cost_usd,
    }
