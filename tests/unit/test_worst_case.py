"""What a call is reserved at is never less than what it turns out to use and cost."""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptjobs.clients.pricing import Price, cost_usd, most_usd
from promptjobs.clients.usage import Usage
from promptjobs.clients.worst_case import TOKENS_PER_PART, TOOL_TOKENS, most_prompt_tokens
from promptjobs.core.ledger import usd, usd_at_most

MODELS = [
    ("openai", "gpt-4o-mini", None),
    ("openai", "gpt-4o", None),
    ("google", "gemini-2.5-pro", None),
    ("anthropic", "claude-sonnet-4-5", None),
    ("groq", "llama-3.3-70b-versatile", None),
    ("mine", "m", Price(0.1, 0.7)),
    ("mine", "m", Price(3.0, 1.0)),
    ("mine", "m", Price(0.0, 0.0)),
]


@given(st.sampled_from(MODELS), st.integers(1, 10**6), st.integers(0, 10**5), st.data())
def test_no_usage_within_the_tokens_costs_more(
    model: tuple[str, str, Price | None], prompt: int, completion: int, data: st.DataObject
) -> None:
    used = data.draw(st.integers(0, prompt))
    cached = data.draw(st.integers(0, used))
    said = data.draw(st.integers(0, completion))
    unknown = data.draw(st.integers(0, completion - said))
    provider, name, price = model
    cost = cost_usd(provider, name, Usage(used, said, unknown, cached), price)
    most = most_usd(provider, name, prompt, completion, price)
    assert most is not None
    assert usd(cost or 0.0) <= usd_at_most(most)


def test_price_that_is_not_known_has_no_bound() -> None:
    assert most_usd("openai", "my-own-model", 1, 1) is None


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=300), min_size=1, max_size=5))
def test_text_has_no_more_tokens_than_its_body_has_bytes(texts: list[str]) -> None:
    messages = [{"role": "user", "content": text} for text in texts]
    body = {"messages": messages}
    assert most_prompt_tokens(body, len(orjson.dumps(body))) >= sum(len(text.encode()) + 8 for text in texts)


@pytest.mark.parametrize(
    ("part", "beyond"),
    [
        ({"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 90_000}}, TOKENS_PER_PART),
        ({"type": "input_audio", "input_audio": {"data": "AAAA"}}, TOKENS_PER_PART),
        ({"type": "document", "text": "A" * 90_000}, None),
        ({"type": "document", "text": "A"}, TOKENS_PER_PART),
    ],
    ids=["large image", "small sound", "large part of another type", "small part of another type"],
)
def test_parts_that_are_no_text_count_whatever_their_bytes(part: dict[str, object], beyond: int | None) -> None:
    message = {"role": "user", "content": [{"type": "text", "text": "See:"}, part]}
    size = len(orjson.dumps({"messages": [message]}))
    expected = size if beyond is None else size - len(orjson.dumps(part)) + beyond
    assert most_prompt_tokens({"messages": [message]}, size) == expected + 8


def test_tools_cost_more_than_their_text() -> None:
    body = {"messages": [{"role": "user", "content": None}], "tools": [{"type": "function", "function": {"name": "f"}}]}
    assert most_prompt_tokens(body, 500) == 508 + TOOL_TOKENS
