"""Templates, the renderer, and the pattern that finds a template's values again."""

import json
import time
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promptjobs.core.prompt import Message, PromptPattern, PromptTemplate, Section, full_text, render
from promptjobs.errors import PromptError, PromptNotMatched

LAW = settings(deadline=None, derandomize=True, max_examples=50)

NAMES = ("q1", "q2", "q3")
ROLES = ("system", "developer", "user", "assistant")
PLAIN = st.sampled_from(
    ["", "a", "ab", "b\n", "\n\n", " ", "{", "}", "{}", "{a}", '{"a": "b"}', "é✓", "a: ", "q", "{q"]
)
"""Text that cannot name a wildcard, for it has no digit."""

VALUE = st.sampled_from(["x", "1", "xx", " ", "{q1}", "{", "}", "{x}", "x\n\ny", "é", "q2}", "\r\n"])


@st.composite
def templates(draw: st.DrawFn) -> PromptTemplate:
    """Between two wildcards stands a "|", which no value holds: where a value ends is never in doubt."""
    sections = []
    for n in range(draw(st.integers(1, 3))):
        names = draw(st.lists(st.sampled_from(NAMES), max_size=4))
        content = draw(PLAIN)
        for at, name in enumerate(names):
            bar = "|" if at + 1 < len(names) else draw(st.sampled_from(["|", ""]))
            content += f"{{{name}}}" + bar + (draw(PLAIN) if bar else "")
        sections.append(Section(f"section_{n}", draw(st.sampled_from(ROLES)), content, n))
    wildcards = {name: draw(st.booleans()) for name in NAMES}
    return PromptTemplate(tuple(sections), wildcards, id="an id", name="a name")


VALUES = st.fixed_dictionaries(dict.fromkeys(NAMES, st.builds(str.__add__, VALUE, VALUE)))


def one(content: str, *required: str, optional: tuple[str, ...] = (), role: str = "system") -> PromptTemplate:
    wildcards = dict.fromkeys(required, True) | dict.fromkeys(optional, False)
    return PromptTemplate((Section("system", role, content, 0),), wildcards)


def said(*contents: str, role: str = "system") -> list[Message]:
    return [Message(role, content) for content in contents]


# --- rendering -------------------------------------------------------------------------------------------------------


@LAW
@given(templates(), VALUES, st.lists(PLAIN, max_size=2))
def test_pattern_finds_the_values_that_were_rendered(
    template: PromptTemplate, values: dict[str, str], after: list[str]
) -> None:
    held = {name for section in template.sections for name in template.placeholders(section.name)}
    found = PromptPattern.of(template).match([*render(template, values), *said(*after, role="user")])
    assert dict(found.values) == {name: value for name, value in values.items() if name in held}
    assert found.rest == len(template.sections)


@LAW
@given(templates(), VALUES)
def test_rendering_the_values_found_gives_the_same_messages(template: PromptTemplate, values: dict[str, str]) -> None:
    messages = render(template, values)
    assert render(template, PromptPattern.of(template).match(messages).values) == messages


def test_a_value_is_never_searched_for_placeholders() -> None:
    template = one("{a} and {b}", "a", "b")
    assert render(template, {"a": "{b} {a} {{b}}", "b": "{a}"}) == (Message("system", "{b} {a} {{b}} and {a}"),)


def test_without_values_and_for_names_that_are_no_wildcard_the_text_stays() -> None:
    template = one('{a} {other} {"json": {a}} {not a name}', "a")
    assert render(template)[0].content == template.sections[0].content
    filled = render(template, {"a": "x", "other": "y"})
    assert filled[0].content == 'x {other} {"json": x} {not a name}'


def test_full_text_names_each_role() -> None:
    messages = (Message("system", "one"), Message("user", "two\nlines"))
    assert full_text(messages) == "[system]\none\n\n[user]\ntwo\nlines"


# --- matching --------------------------------------------------------------------------------------------------------


def refused(template: PromptTemplate, messages: list[Message]) -> PromptNotMatched:
    with pytest.raises(PromptNotMatched) as caught:
        PromptPattern.of(template).match(messages)
    return caught.value


@LAW
@given(templates(), VALUES, st.data())
def test_the_first_message_that_differs_is_named(
    template: PromptTemplate, values: dict[str, str], data: st.DataObject
) -> None:
    messages = list(render(template, values))
    at = data.draw(st.integers(0, len(messages) - 1))
    others = [role for role in ROLES if role != messages[at].role]
    messages[at] = replace(messages[at], role=data.draw(st.sampled_from(others)))
    assert refused(template, messages).index == at


@pytest.mark.parametrize(
    ("content", "got", "expected", "found"),
    [
        ("Be kind.", "Be cold.", "'kind.'", "'cold.'"),
        ("Be kind.", "Be k", "'ind.'", "''"),
        ("Be kind.", "Be kind. Now.", "the end of the message", "' Now.'"),
        ("Q: {q}\nEnd", "Q: x\nend", r"'\nEnd'", r"'x\nend'"),
        ("Q: {q}", "Q: ", "a value for {q}", "''"),
        ("Q: {q} {mid}.", "Q:  x.", "' '", "' x.'"),
        ("{q}, {mid}, {q}", "x, y, z", "{q} = 'x' again", "'z'"),
        ("{q}, {mid}, {q}", "x, y, xz", "the end of the message", "'z'"),
    ],
)
def test_the_first_difference_is_named(content: str, got: str, expected: str, found: str) -> None:
    error = refused(one(content, "q", "mid"), said(got))
    assert (error.index, error.expected, error.got) == (0, expected, found)


def test_a_missing_message_and_a_wrong_role_are_named() -> None:
    template = PromptTemplate((Section("s", "system", "one", 0), Section("u", "user", "two", 1)))
    missing = refused(template, said("one"))
    assert (missing.index, missing.expected, missing.got) == (1, "a user message", "only 1 messages")
    role = refused(template, said("one", "two"))
    assert (role.index, role.expected, role.got) == (1, "role 'user'", "role 'system'")


def test_a_long_difference_is_shown_shortened() -> None:
    assert len(str(refused(one("a" * 5_000), said("b" * 100_000)))) < 500


def test_a_required_wildcard_needs_a_value_and_an_optional_one_does_not() -> None:
    for content, text in (("<{a}>", "<>"), ("{a}", ""), ("{a}>", ">"), ("<{a}> {a}", "<> ")):
        assert dict(PromptPattern.of(one(content, optional=("a",))).match(said(text)).values) == {"a": ""}
        refused(one(content, "a"), said(text))


def test_a_required_value_is_taken_past_the_text_that_follows_it() -> None:
    """Where the text after a wildcard stands at once, the value begins with it rather than being empty."""
    assert PromptPattern.of(one("{a}--{b}", "a", "b")).match(said("----x")).values == {"a": "-", "b": "-x"}
    assert PromptPattern.of(one("{a}--{b}", "b", optional=("a",))).match(said("----x")).values == {"a": "", "b": "--x"}


def test_a_repeated_wildcard_must_repeat_within_and_across_messages() -> None:
    sections = (Section("s", "system", "{a} is {a}", 0), Section("u", "user", "say {a}", 1))
    pattern = PromptPattern.of(PromptTemplate(sections, {"a": True}))
    assert pattern.match([Message("system", "x is x"), Message("user", "say x")]).values == {"a": "x"}
    for system, user in (("x is y", "say x"), ("x is x", "say y"), ("x is x", "say xx"), ("x is xx", "say x")):
        with pytest.raises(PromptNotMatched):
            pattern.match([Message("system", system), Message("user", user)])


def test_a_repeated_value_may_hold_the_text_that_follows_its_second_place() -> None:
    template = one("Q: {q}\n---\nAgain: {q}, then {r}", "q", "r")
    values = {"q": "first, then second", "r": "x"}
    assert PromptPattern.of(template).match(list(render(template, values))).values == values


@pytest.mark.parametrize("content", ["{a}{b}", "x {a}{b} y", "{a}{a}", "{a} {b}{a}"])
def test_wildcards_that_touch_are_refused(content: str) -> None:
    with pytest.raises(PromptError, match="'system' touch"):
        PromptPattern.of(one(content, "a", optional=("b",)))


def test_wildcards_at_the_ends_and_beside_plain_braces_do_not_touch() -> None:
    sections = (Section("s", "system", "{a}{plain}{b}", 0), Section("u", "user", "{a}", 1))
    PromptPattern.of(PromptTemplate(sections, {"a": True, "b": True}))


@pytest.mark.parametrize("unit", ["a", "ab", "aab", "aaaaaaab"])
def test_matching_adversarial_text_takes_linear_time(unit: str) -> None:
    """200 KB that nearly match, again and again: with backtracking this would not end."""
    names = [f"w{n}" for n in range(10)]
    template = one("".join(f"{{{name}}}aab" for name in names) + "!", *names)
    text = unit * (200_000 // len(unit))
    start = time.process_time()
    for end in ("", "!", "aab!"):
        try:
            PromptPattern.of(template).match(said(text + end))
        except PromptNotMatched:
            continue
    assert time.process_time() - start < 0.5


# --- templates -------------------------------------------------------------------------------------------------------


@LAW
@given(templates(), PLAIN)
def test_with_text_replaces_the_named_text_and_keeps_the_rest(template: PromptTemplate, text: str) -> None:
    changed = template.with_text({"section_0": text})
    assert changed.section("section_0") == replace(template.section("section_0"), content=text)
    assert changed.sections[1:] == template.sections[1:]
    assert (changed.wildcards, changed.id, changed.name) == (template.wildcards, template.id, template.name)
    assert changed.with_text({"section_0": template.sections[0].content}) == template


def test_an_unknown_section_is_refused() -> None:
    with pytest.raises(PromptError, match="no section 'other'"):
        one("text").with_text({"other": "x"})


def test_placeholders_are_listed_as_often_as_they_stand_there() -> None:
    assert one("{a} {b} {no} {a}", "a", optional=("b",)).placeholders("system") == ("a", "b", "a")


@LAW
@given(templates(), templates())
def test_equal_digests_mean_equal_messages_and_wildcards(one: PromptTemplate, other: PromptTemplate) -> None:
    same = render(one) == render(other) and one.wildcards == other.wildcards
    assert (one.digest() == other.digest()) == same


def test_the_digest_depends_on_all_that_is_sent() -> None:
    base = PromptTemplate((Section("s", "system", "ab", 0), Section("u", "user", "c", 1)), {"q": True})
    s, u = base.sections
    others = [
        replace(base, sections=(replace(s, content="a"), replace(u, content="bc"))),
        replace(base, sections=(replace(s, role="user"), u)),
        replace(base, sections=(u, s)),
        replace(base, sections=(s,)),
        replace(base, sections=(replace(s, content="ab\n"), u)),
        replace(base, wildcards={"q": False}),
        replace(base, wildcards={}),
    ]
    assert len({template.digest() for template in [base, *others]}) == len(others) + 1


def test_the_digest_does_not_depend_on_names_and_numbers() -> None:
    base = PromptTemplate((Section("s", "system", "\ud800 text", 0),), {"q": True, "r": False}, "id", "name")
    section = replace(base.sections[0], name="other", order=7)
    assert PromptTemplate((section,), {"r": False, "q": True}, "x", "y").digest() == base.digest()


@LAW
@given(templates())
def test_a_template_survives_json(template: PromptTemplate) -> None:
    assert PromptTemplate.from_json(json.loads(json.dumps(template.to_json()))) == template
