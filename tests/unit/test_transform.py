"""Transformations: derived from two prompts, applied to the first, they give the second."""

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promptjobs.core.prompt import PromptTemplate, Section
from promptjobs.core.transform import PromptTransformation, TextReplacement, diff
from promptjobs.errors import PromptError, TransformNotApplied

LAW = settings(deadline=None, derandomize=True, max_examples=50)

TEXTS = st.lists(st.sampled_from(["", "a", "a\n", "{q}", "é ✓"]), min_size=3, max_size=3)


def prompt(texts: list[str]) -> PromptTemplate:
    roles = ("system", "user", "assistant")
    sections = [Section(f"s{n}", roles[n], text, n) for n, text in enumerate(texts)]
    return PromptTemplate(tuple(sections), {"q": True}, "an id", "a name")


@LAW
@given(TEXTS, TEXTS)
def test_the_difference_applied_to_the_first_gives_the_second(before: list[str], after: list[str]) -> None:
    one, other = prompt(before), prompt(after)
    change = diff(one, other)
    assert change.apply(one) == other
    assert len(change.replacements) == sum(a != b for a, b in zip(before, after, strict=True))


@LAW
@given(TEXTS, TEXTS)
def test_a_transformation_survives_json(before: list[str], after: list[str]) -> None:
    change = diff(prompt(before), prompt(after))
    assert PromptTransformation.from_json(json.loads(json.dumps(change.to_json()))) == change


def test_a_transformation_keeps_all_that_it_does_not_name() -> None:
    before = prompt(["one", "two", "three"])
    after = diff(before, prompt(["one", "2", "three"])).apply(replace(before, id="other", name="other", wildcards={}))
    assert after == replace(prompt(["one", "2", "three"]), id="other", name="other", wildcards={})


@pytest.mark.parametrize(
    "change", [TextReplacement("s0", "system", "ONE", "x"), TextReplacement("s0", "user", "one", "x")]
)
def test_a_text_or_role_that_is_not_the_one_meant_is_refused(change: TextReplacement) -> None:
    with pytest.raises(TransformNotApplied, match="'s0'"):
        PromptTransformation((change,)).apply(prompt(["one", "two", "three"]))


def test_a_section_that_does_not_exist_is_refused() -> None:
    with pytest.raises(PromptError, match="'other'"):
        PromptTransformation((TextReplacement("other", "system", "one", "x"),)).apply(prompt(["one", "two", "three"]))


def test_a_change_of_roles_alone_is_no_difference() -> None:
    before = prompt(["one", "two", "three"])
    after = replace(before, sections=tuple(replace(section, role="user") for section in before.sections))
    assert diff(before, after).replacements == ()


def test_a_prompt_that_lacks_a_section_is_no_change_of_the_other() -> None:
    before = prompt(["one", "two", "three"])
    with pytest.raises(PromptError, match="'s2'"):
        diff(before, replace(before, sections=before.sections[:2]))


DEMOS = st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["", "solve"])), max_size=3)


def with_demos(template: PromptTemplate, demos: list[tuple[int, str]]) -> PromptTemplate:
    """demos: before which section each is put, and its module."""
    sections = list(template.sections)
    for number, (at, module) in enumerate(demos):
        sections.insert(at, Section(f"demo_{number}", "assistant", f"text {number}", 0, module))
    return replace(template, sections=tuple(replace(section, order=order) for order, section in enumerate(sections)))


@LAW
@given(TEXTS, TEXTS, DEMOS)
def test_messages_that_are_added_are_part_of_the_difference_and_of_its_json(
    before: list[str], after: list[str], demos: list[tuple[int, str]]
) -> None:
    one, other = prompt(before), with_demos(prompt(after), demos)
    body = json.loads(json.dumps(diff(one, other).to_json()))
    assert PromptTransformation.from_json(body).apply(one) == other
    assert [demo["name"] for demo in body.get("demos", [])] == [
        section.name for section in other.sections if section.name.startswith("demo")
    ]


@LAW
@given(TEXTS, TEXTS, DEMOS)
def test_the_texts_alone_give_the_second_without_what_is_added(
    before: list[str], after: list[str], demos: list[tuple[int, str]]
) -> None:
    body = diff(prompt(before), with_demos(prompt(after), demos)).to_json()
    assert body == {**diff(prompt(before), prompt(after)).to_json(), **({"demos": body["demos"]} if demos else {})}
    alone = PromptTransformation.from_json({"text_replacements": body["text_replacements"]})
    assert alone.apply(prompt(before)) == prompt(after)
