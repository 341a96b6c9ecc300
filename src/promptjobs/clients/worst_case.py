"""The most that a call can use, before it is made. Pure."""

from collections.abc import Mapping
from typing import Any

import orjson

TOKENS_PER_MESSAGE = 8
"""What a model's chat template puts around a message, beyond the bytes of its JSON form."""

TOKENS_PER_PART = 20_000
"""The most that an image, a file or a sound counts for, whatever its size in bytes."""

MEDIA = frozenset({"image_url", "input_audio", "file", "video_url"})
"""Types of parts whose bytes are not read as text."""

TOOL_TOKENS = 1_000
"""The most that providers add of their own where a call carries tools."""


def most_prompt_tokens(body: Mapping[str, Any], size: int) -> int:
    """An upper bound of the prompt tokens of a chat completion.

    body: with its messages decoded, in OpenAI's form; size: bytes of the whole body as JSON. A token has at least one
    byte. Parts that are not text count as TOKENS_PER_PART instead of their bytes, unless they may be text after all.
    """
    messages = body["messages"]
    tokens = size + TOKENS_PER_MESSAGE * len(messages)
    for message in messages:
        content = message.get("content")
        if isinstance(content, list):
            tokens += sum(_beyond_bytes(part) for part in content if part.get("type") != "text")
    return tokens + (TOOL_TOKENS if body.get("tools") or body.get("functions") else 0)


def _beyond_bytes(part: Mapping[str, Any]) -> int:
    """What a part that is not text counts for, less its bytes."""
    more = TOKENS_PER_PART - len(orjson.dumps(part))
    return more if part.get("type") in MEDIA else max(more, 0)
