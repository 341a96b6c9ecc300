"""Token usage as a provider reports it, read strictly: what is not a plausible count is taken as missing."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

LARGEST = 10**9
"""More tokens than any one call can have."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one call.

    unknown_tokens were reported only in a total, without a split; cached_tokens are those of the prompt tokens that
    the provider charges as a cache hit.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    unknown_tokens: int = 0
    cached_tokens: int = 0

    @property
    def is_reported(self) -> bool:
        """Whether the provider said anything: every call has at least one prompt token."""
        return self.prompt_tokens + self.unknown_tokens > 0

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens + self.unknown_tokens


def read_usage(body: Mapping[str, Any]) -> Usage:
    """The usage of a chat completion, or of a stream's last chunk: `body` is the whole decoded object.

    Missing or invalid counts are 0. What the total has beyond prompt and completion is unknown_tokens: some providers
    leave reasoning tokens out of the completion but bill them.
    """
    reported = body.get("usage")
    if not isinstance(reported, dict):
        return Usage()
    prompt, completion = _count(reported.get("prompt_tokens")), _count(reported.get("completion_tokens"))
    details = reported.get("prompt_tokens_details")
    cached = _count(details.get("cached_tokens")) if isinstance(details, dict) else 0
    return Usage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        unknown_tokens=max(0, _count(reported.get("total_tokens")) - prompt - completion),
        cached_tokens=min(cached, prompt),
    )


def _count(value: object) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if type(value) is int and 0 <= value <= LARGEST else 0
