"""The baseline prompt of a config: messages, their order and names, and wildcards."""

from typing import Any

import pytest
from tests.fakes.config_bodies import PROMPT, body

from promptjobs.core.config import PromptConfig, resolve
from promptjobs.core.prompt import Message, PromptTemplate, Section, render
from promptjobs.errors import InvalidConfig

SYSTEM = {"role": "system", "pattern": "Answer {query}."}
USER = {"role": "user", "pattern": "Now: {query}"}


def prompt_of(prompt: Any) -> tuple[PromptConfig, tuple[str, ...]]:
    resolution = resolve("gepa", body({"initial_prompt": prompt}), None)
    assert resolution.config.initial_prompt is not None
    return resolution.config.initial_prompt, resolution.warnings


def refused(prompt: Any) -> InvalidConfig:
    with pytest.raises(InvalidConfig) as caught:
        resolve("gepa", body({"initial_prompt": prompt}), None)
    return caught.value


def test_prompt_becomes_a_template() -> None:
    prompt, warnings = prompt_of(PROMPT)
    assert warnings == ()
    assert prompt.template() == PromptTemplate(
        sections=(
            Section("system_0", "system", "You are a banking assistant.", 0),
            Section("user_1", "user", "Query: {query}\nIntents: {intents}", 1),
        ),
        wildcards={"query": True, "intents": False},
        id="banking77",
        name="Banking77",
    )


def test_job_without_a_prompt_has_no_template() -> None:
    assert resolve("gepa", body(), None).config.template() is None
    with_prompt = resolve("gepa", body({"initial_prompt": PROMPT}), None).config.template()
    assert with_prompt is not None
    assert render(with_prompt)[0] == Message("system", "You are a banking assistant.")


def test_messages_are_sorted_by_their_orders() -> None:
    prompt, _ = prompt_of({"messages": [USER | {"order": 7}, SYSTEM | {"order": -1, "name": "rules"}]})
    assert [(m.role, m.order, m.name) for m in prompt.messages] == [("system", -1, "rules"), ("user", 7, "user_1")]


def test_messages_without_orders_keep_the_order_of_the_list() -> None:
    prompt, _ = prompt_of({"messages": [USER | {"order": 0}, SYSTEM]})
    assert [(m.role, m.order, m.name) for m in prompt.messages] == [("user", 0, "user_0"), ("system", 1, "system_1")]


def test_content_is_another_name_of_pattern() -> None:
    prompt, _ = prompt_of({"messages": [{"role": "system", "content": "Be brief."}]})
    assert prompt.messages[0].pattern == "Be brief."


@pytest.mark.parametrize("wildcards", [None, {}])
def test_undeclared_placeholders_are_required_wildcards(wildcards: Any) -> None:
    prompt, _ = prompt_of(
        {"messages": [SYSTEM, USER | {"pattern": "{b} and {a}, not { c } or {1}"}], "wildcards": wildcards}
    )
    assert prompt.wildcards == {"query": "REQUIRED", "b": "REQUIRED", "a": "REQUIRED"}


def test_declared_wildcards_are_the_only_ones() -> None:
    pattern = 'Answer {query} as {label} in {"json": 1}'
    prompt, warnings = prompt_of(
        {"messages": [SYSTEM | {"pattern": pattern}], "wildcards": {"query": "optional", "gone": "Required"}}
    )
    assert prompt.wildcards == {"query": "OPTIONAL"}
    assert warnings == ("wildcard gone is in no message and is ignored",)


def test_wildcard_may_have_the_name_of_a_secret() -> None:
    prompt, _ = prompt_of({"messages": [SYSTEM | {"pattern": "{token}"}], "wildcards": {"token": "REQUIRED"}})
    assert prompt.wildcards == {"token": "REQUIRED"}


def test_unknown_keys_are_reported() -> None:
    _, warnings = prompt_of({"messages": [SYSTEM | {"weight": 1}], "style": "x", "metadata": {"a": 1}})
    assert warnings == (
        "unknown key prompt_learning.initial_prompt.style is ignored",
        "unknown key prompt_learning.initial_prompt.messages[0].weight is ignored",
    )


@pytest.mark.parametrize(
    ("prompt", "field"),
    [
        ("Be brief.", ""),
        ({}, ".messages"),
        ({"messages": []}, ".messages"),
        ({"messages": {"role": "system"}}, ".messages"),
        ({"messages": [SYSTEM] * 101}, ".messages"),
        ({"messages": ["text"]}, ".messages[0]"),
        ({"messages": [SYSTEM, {"role": "tool", "pattern": "x"}]}, ".messages[1].role"),
        ({"messages": [{"pattern": "x"}]}, ".messages[0].role"),
        ({"messages": [{"role": ["system"], "pattern": "x"}]}, ".messages[0].role"),
        ({"messages": [{"role": "system"}]}, ".messages[0].pattern"),
        ({"messages": [{"role": "system", "pattern": ""}]}, ".messages[0].pattern"),
        ({"messages": [{"role": "system", "pattern": 5}]}, ".messages[0].pattern"),
        ({"messages": [SYSTEM | {"content": "other"}]}, ".messages[0].pattern"),
        ({"messages": [SYSTEM | {"order": True}]}, ".messages[0].order"),
        ({"messages": [SYSTEM | {"order": 1.0}]}, ".messages[0].order"),
        ({"messages": [SYSTEM | {"order": 10**7}]}, ".messages[0].order"),
        ({"messages": [SYSTEM | {"name": 5}]}, ".messages[0].name"),
        ({"messages": [SYSTEM | {"order": 1}, USER | {"order": 1}]}, ".messages"),
        ({"messages": [SYSTEM | {"name": "user_1"}, USER]}, ".messages"),
        ({"messages": [SYSTEM | {"pattern": "{a}{b}"}]}, ".messages"),
        ({"messages": [SYSTEM], "id": 0}, ".id"),
        ({"messages": [SYSTEM], "name": "n" * 501}, ".name"),
        ({"messages": [SYSTEM], "wildcards": ["query"]}, ".wildcards"),
        ({"messages": [SYSTEM], "wildcards": {"query": "MAYBE"}}, ".wildcards.query"),
        ({"messages": [SYSTEM], "wildcards": {"query": True}}, ".wildcards.query"),
    ],
)
def test_malformed_prompts_are_refused(prompt: Any, field: str) -> None:
    assert refused(prompt).param == f"prompt_learning.initial_prompt{field}"
