"""The candidate takes the baseline's place in the messages, and nothing else changes."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptjobs.core.prompt import Message, PromptPattern, PromptTemplate, Section, render
from promptjobs.errors import PromptNotMatched
from promptjobs.interceptor.rewrite import plain_messages, rewrite

NAMES = ("query", "tool", "context")
ROLES = st.sampled_from(["system", "user", "assistant", "developer"])
# Literals end and begin with characters that no value has, so that there is one way only to match.
LITERAL = st.text("abc {}\n", max_size=8).map(lambda text: f"<{text}>")
VALUE = st.one_of(st.sampled_from([f"{{{name}}}" for name in NAMES]), st.text("xyz{}\\\n%$é", min_size=1, max_size=8))


def template(pieces: list[tuple[str, list[str], list[str]]]) -> PromptTemplate:
    """pieces: role, literals, and the wildcards between them, for each section."""
    sections = []
    for order, (role, literals, names) in enumerate(pieces):
        text = "".join(part for pair in zip(literals, [f"{{{name}}}" for name in names], strict=False) for part in pair)
        sections.append(Section(f"s{order}", role, text + literals[-1], order))
    return PromptTemplate(tuple(sections), dict.fromkeys(NAMES, True))


@st.composite
def pieces(draw: st.DrawFn) -> tuple[str, list[str], list[str]]:
    names = draw(st.lists(st.sampled_from(NAMES), max_size=3))
    return draw(ROLES), draw(st.lists(LITERAL, min_size=len(names) + 1, max_size=len(names) + 1)), names


TEMPLATES = st.lists(pieces(), min_size=1, max_size=3).map(template)
VALUES = st.fixed_dictionaries(dict.fromkeys(NAMES, VALUE))
REST = st.lists(
    st.fixed_dictionaries(
        {"role": ROLES, "content": st.one_of(st.none(), st.text(max_size=5))}, optional={"x": st.integers()}
    ),
    max_size=3,
)


def sent(messages: tuple[Message, ...]) -> list[dict[str, Any]]:
    return [message.to_json() for message in messages]


@given(TEMPLATES, TEMPLATES, VALUES, REST)
def test_rewriting_the_rendered_baseline_is_rendering_the_candidate(
    baseline: PromptTemplate, candidate: PromptTemplate, values: dict[str, str], rest: list[dict[str, Any]]
) -> None:
    messages = sent(render(baseline, values)) + rest
    captured = {name: values[name] for s in baseline.sections for name in baseline.placeholders(s.name)}
    rewritten = rewrite(messages, PromptPattern.of(baseline), candidate)
    assert rewritten == sent(render(candidate, captured)) + rest
    assert all(mine is theirs for mine, theirs in zip(rewritten[len(candidate.sections) :], rest, strict=True))


@given(TEMPLATES, VALUES, REST)
def test_the_baseline_as_its_own_candidate_changes_nothing(
    baseline: PromptTemplate, values: dict[str, str], rest: list[dict[str, Any]]
) -> None:
    messages = sent(render(baseline, values)) + rest
    assert rewrite(messages, PromptPattern.of(baseline), baseline) == messages


@given(TEMPLATES, VALUES, st.data())
def test_one_changed_literal_is_no_match(baseline: PromptTemplate, values: dict[str, str], data: st.DataObject) -> None:
    messages = sent(render(baseline, values))
    at = data.draw(st.integers(0, len(messages) - 1))
    messages[at]["content"] = "#" + messages[at]["content"][1:]
    with pytest.raises(PromptNotMatched) as failed:
        rewrite(messages, PromptPattern.of(baseline), baseline)
    assert failed.value.index == at


ONE = PromptTemplate((Section("s", "system", "About {topic}.", 0),), {"topic": True})
OTHER = PromptTemplate((Section("s", "system", "{topic}, then {query}, and {topic}!", 0),), {"topic": True})
PATTERN = PromptPattern.of(ONE)


def test_braces_in_a_value_are_not_expanded() -> None:
    [message] = rewrite([{"role": "system", "content": "About {query}{topic}."}], PATTERN, OTHER)
    assert message == {"role": "system", "content": "{query}{topic}, then {query}, and {query}{topic}!"}


def test_parts_are_matched_joined_and_the_other_parts_stay() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:,"}}
    marked = {"type": "text", "text": "About ", "cache_control": {"type": "ephemeral"}}
    content = [marked, image, {"type": "text", "text": "cats."}]
    [message] = rewrite([{"role": "system", "content": content, "name": "n"}], PATTERN, OTHER)
    text = "cats, then {query}, and cats!"
    assert message == {"role": "system", "name": "n", "content": [{**marked, "text": text}, image]}


def test_roles_must_be_equal() -> None:
    with pytest.raises(PromptNotMatched, match="role 'developer'"):
        rewrite([{"role": "developer", "content": "About cats."}], PATTERN, OTHER)


@pytest.mark.parametrize(
    "candidate",
    [
        PromptTemplate((), {}),
        PromptTemplate((Section("s", "user", "x", 0),), {}),
    ],
    ids=["fewer messages", "other role"],
)
def test_what_is_not_text_is_never_dropped(candidate: PromptTemplate) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:,"}}
    messages = [{"role": "system", "content": [{"type": "text", "text": "About cats."}, image]}]
    with pytest.raises(PromptNotMatched, match="image_url"):
        rewrite(messages, PATTERN, candidate)


TURN = PromptTemplate(
    (Section("a", "system", "Be kind.", 0), Section("b", "user", "Query: {query}", 1)), {"query": True}
)
DEMO = st.tuples(st.sampled_from(["user", "assistant", "system"]), st.text("xyz{}\n", max_size=6))
IMAGE = {"type": "image_url", "image_url": {"url": "data:,"}}


@given(VALUE, st.lists(DEMO, max_size=4), st.integers(0, 2), REST)
def test_demos_get_nothing_of_the_message_they_stand_before(
    value: str, demos: list[tuple[str, str]], at: int, rest: list[dict[str, Any]]
) -> None:
    added = [Section(f"demo_{n}", role, text, 0) for n, (role, text) in enumerate(demos)]
    candidate = PromptTemplate((*TURN.sections[:at], *added, *TURN.sections[at:]), TURN.wildcards)
    parts = [{"type": "text", "text": "Query: "}, IMAGE, {"type": "text", "text": value}]
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": parts, "name": "n"}]
    shown = [{"role": role, "content": text} for role, text in demos]
    asked = {"role": "user", "name": "n", "content": [{"type": "text", "text": f"Query: {value}"}, IMAGE]}
    assert rewrite(messages + rest, PromptPattern.of(TURN), candidate) == [
        *[messages[0], asked][:at],
        *shown,
        *[messages[0], asked][at:],
        *rest,
    ]


def test_a_section_keeps_its_own_extras_wherever_it_stands() -> None:
    """The parts of a message belong to the section of its name, not to the one at its index."""
    turned = PromptTemplate((TURN.sections[1], TURN.sections[0]), TURN.wildcards)
    messages = [
        {"role": "system", "content": "Be kind.", "name": "s"},
        {"role": "user", "content": "Query: x", "name": "u"},
    ]
    assert rewrite(messages, PromptPattern.of(TURN), turned) == messages[::-1]


def test_a_candidate_without_the_section_may_lose_its_text_only() -> None:
    lacking = PromptTemplate((TURN.sections[0], Section("other", "user", "{query}?", 1)), TURN.wildcards)
    plain = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Query: x"}]
    assert rewrite(plain, PromptPattern.of(TURN), lacking) == [plain[0], {"role": "user", "content": "x?"}]
    with pytest.raises(PromptNotMatched, match="name") as failed:
        rewrite([plain[0], {**plain[1], "name": "u"}], PromptPattern.of(TURN), lacking)
    assert failed.value.index == 1


def test_plain_messages_read_every_form_of_content() -> None:
    contents: list[Any] = ["a", None, [], [{"type": "text", "text": "b"}, {"type": "x"}, {"type": "text", "text": "c"}]]
    assert [m.content for m in plain_messages([{"role": "user", "content": c} for c in contents])] == [
        "a",
        "",
        "",
        "bc",
    ]
    assert plain_messages([{"role": "assistant", "tool_calls": []}]) == (Message("assistant", ""),)
