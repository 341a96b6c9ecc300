"""The shapes of traces, as the OpenAPI description shows them: a trial with its rollouts, and completions."""

from datetime import datetime
from typing import Any

from pydantic import ConfigDict, Field

from promptjobs.api.schemas import Answer

EXAMPLE_COMPLETION: dict[str, Any] = {
    "id": "0f5a9c1d2e3b4a5f8c7d6e5f4a3b2c1d",
    "n": 31,
    "purpose": "reflection",
    "provider": "groq",
    "model": "llama-3.3-70b-versatile",
    "draw": 0,
    "request": {
        "messages": [{"role": "user", "content": "# Current text\n…"}],
        "parameters": {"provider": "groq", "model": "llama-3.3-70b-versatile", "temperature": 1.0, "max_tokens": 8192},
    },
    "text": "```\nClassify the ticket as billing, bug or other.\n```",
    "finish_reason": "stop",
    "reason": None,
    "detail": None,
    "prompt_tokens": 1830,
    "completion_tokens": 212,
    "unknown_tokens": 0,
    "tokens": 2042,
    "cost_usd": 0.00125,
    "seconds": 1.9,
    "attempts": 1,
    "created_at": "2026-05-04T09:30:00.123456+00:00",
}


class CompletionObject(Answer):
    """One answer of a model that works for the search: the meta-model's, or the judge's."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [EXAMPLE_COMPLETION]})

    id: str
    n: int = Field(description="Number of the answer in its job; the list is in this order.")
    purpose: str = Field(description="reflection, proposal, judge …")
    provider: str
    model: str
    draw: int = Field(description="0, or the number of a repetition of the same request.")
    request: dict[str, Any] = Field(description="messages, and the model's parameters.")
    text: str | None = Field(description="The reply; null where there is none.")
    finish_reason: str | None
    reason: str | None = Field(description="Why there is no reply.")
    detail: str | None
    prompt_tokens: int
    completion_tokens: int
    unknown_tokens: int
    tokens: int = Field(description="Of all attempts.")
    cost_usd: float | None = Field(description="Null where the model's price is unknown.")
    seconds: float
    attempts: int
    created_at: datetime
