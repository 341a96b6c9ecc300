"""The pattern found in a few of a task app's messages recognises all the others."""

import random
from dataclasses import dataclass

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from promptjobs.core.inference import infer_template
from promptjobs.core.prompt import Message, PromptPattern, render
from promptjobs.errors import PromptError

LAW = settings(deadline=None, derandomize=True, max_examples=100)

WORDS = ["what", "whatever", "when is", "who", "w", "{input}", "{input_2}", "a, b.", "é✓", "x" * 50, "-", "1"]
LITERALS = ["", "Classify.\n", "Query: ", "<q>", "Context:\n\n", "[INST] ", "a {input} b\nText: ", "\n"]
ENDS = ["", "\nAnswer:", "\n\nReply as {json}.\n", "\n"]


@dataclass(frozen=True)
class Shape:
    """One message of a task app: the same text each time, or text around a value."""

    role: str
    before: str
    after: str
    varies: bool

    def message(self, rng: random.Random) -> Message:
        words = " ".join(rng.choices(WORDS, k=rng.randint(0, 4))) if self.varies else "Be kind."
        return Message(self.role, f"{self.before}{words}{self.after}")


@st.composite
def apps(draw: st.DrawFn) -> list[Shape]:
    rng = random.Random(draw(st.integers(0, 2**32)))
    count = rng.randint(1, 4)
    return [
        Shape(rng.choice(["system", "user", "assistant"]), rng.choice(LITERALS), rng.choice(ENDS), rng.random() < 0.6)
        for _ in range(count)
    ]


def calls(app: list[Shape], rng: random.Random, count: int) -> list[tuple[Message, ...]]:
    return [tuple(shape.message(rng) for shape in app) for _ in range(count)]


@LAW
@given(apps(), st.integers(0, 2**32), st.integers(2, 4))
def test_the_pattern_matches_every_further_call_and_changes_none(app: list[Shape], seed: int, examples: int) -> None:
    rng = random.Random(seed)
    seen = calls(app, rng, examples)
    for at, shape in enumerate(app):
        # What is the same in every example cannot be told from text of the app's own.
        assume(not shape.varies or len({call[at].content for call in seen}) > 1)
    template = infer_template(seen)
    pattern = PromptPattern.of(template)
    for call in [*seen, *calls(app, rng, 10)]:
        found = pattern.match(call)
        assert render(template, found.values) == call
    constant = [shape for shape in app if not shape.varies]
    literal = [section for section in template.sections if not template.placeholders(section.name)]
    assert len(literal) == len(constant)


@LAW
@given(st.integers(0, 2**32))
def test_a_single_example_takes_user_messages_for_input_and_keeps_the_rest(seed: int) -> None:
    rng = random.Random(seed)
    app = [Shape("system", "Classify.", "", False), Shape("user", "Query: ", "\n", True)]
    [seen] = calls(app, rng, 1)
    template = infer_template([seen])
    assert template.sections[0].content == "Classify.Be kind."
    for call in calls(app, rng, 5):
        assert render(template, PromptPattern.of(template).match(call).values) == call


def user(*texts: str) -> list[list[Message]]:
    return [[Message("user", text)] for text in texts]


def test_letters_that_examples_share_by_chance_stay_part_of_the_input() -> None:
    template = infer_template(
        user("Query: what is it?\nIntent:", "Query: where is it?\nIntent:", "Query: who is it?\nIntent:")
    )
    assert template.sections[0].content == "Query: {input}\nIntent:"


def test_without_a_label_or_a_line_the_whole_text_is_input() -> None:
    assert infer_template(user("what is it?", "where is it?")).sections[0].content == "{input}"


def test_an_input_that_was_never_empty_may_be_so_later() -> None:
    template = infer_template(user("Query: a\nEnd", "Query: b\nEnd"))
    found = PromptPattern.of(template).match([Message("user", "Query: \nEnd")])
    assert dict(found.values) == {"input": ""}


def test_an_empty_example_does_not_confuse_where_the_input_stands() -> None:
    template = infer_template(user("Query: \nEnd", "Query: b\nEnd"))
    assert template.sections[0].content == "Query: {input}\nEnd"


def test_placeholders_have_names_that_the_texts_do_not_hold() -> None:
    examples = [
        [Message("system", "Say {input} or {input_3}."), Message("user", f"{n} {{input_2}}"), Message("user", str(n))]
        for n in range(3)
    ]
    template = infer_template(examples)
    assert [section.content for section in template.sections] == [
        "Say {input} or {input_3}.",
        "{input_4}",
        "{input_5}",
    ]
    assert set(template.wildcards) == {"input_4", "input_5"}


def test_only_messages_that_all_examples_have_are_taken() -> None:
    system, first, reply = Message("system", "s"), Message("user", "u"), Message("assistant", "a")
    template = infer_template([[system, first, reply], [system, first], [system, first, first]])
    assert [section.role for section in template.sections] == ["system", "user"]
    assert [section.name for section in template.sections] == ["system_0", "user_1"]


@pytest.mark.parametrize(
    "examples", [[], [[]], [[Message("system", "s")], [Message("user", "u")]], [[Message("user", "u")], []]]
)
def test_examples_without_a_message_in_common_are_refused(examples: list[list[Message]]) -> None:
    with pytest.raises(PromptError, match="set initial_prompt"):
        infer_template(examples)
