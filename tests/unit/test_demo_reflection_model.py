"""The offline reflection model improves a text by the records of its meta-prompt, and by nothing else."""

import re

import pytest

from promptjobs.demo.meta_prompt import Record, read_meta_prompt
from promptjobs.demo.reflection_model import FORMAT_RULE, reflect
from promptjobs.demo.wording import words

CURRENT = "Classify the message. Labels: red_box, blue_box.\nMessage: {message}"
TOLD = (
    "Wrong: the answer is blue_box, but the correct label is red_box. "
    "House rule for red_box: anything with horses, donkeys or mules. Note: A pony in a field is such an animal."
)
PROSE = "The answer is prose around the correct label, red_box. It must be the label only and nothing else."


def meta_prompt(*records: tuple[str, str, str, float], current: str = CURRENT) -> str:
    shown = "\n\n".join(
        f"# Example {place}\n## Input\nMessage: {message}\n## Output\n{output}\n## Feedback\n{feedback}\nScore: {score}"
        for place, (message, output, feedback, score) in enumerate(records, start=1)
    )
    return (
        "Improve an instruction. Keep placeholders such as {message}.\n\n"
        f"The current instruction:\n```\n{current}\n```\n\n"
        f"{shown}\n\n# Task\nAnswer with the new text inside a single ``` fence."
    )


def improve(text: str, seed: int = 0) -> str:
    reply = reflect([{"role": "user", "content": text}], seed)
    found = re.fullmatch(r"```\n(.*)\n```", reply, re.DOTALL)
    assert found is not None
    return found[1]


def first_faithful(text: str, wanted: str) -> str:
    """The first reply, over a few seeds, that kept the lesson whole: now and then one is dropped or garbled."""
    return next(improved for seed in range(20) if wanted in (improved := improve(text, seed)))


def test_the_meta_prompt_is_read_into_current_text_and_records():
    read = read_meta_prompt(meta_prompt(("a horse", "blue_box", TOLD, 0.0), ("sky", "blue_box", "Right.", 1.0)))
    assert read.current == CURRENT
    assert read.records == (
        Record("Message: a horse", "blue_box", TOLD, "", 0.0),
        Record("Message: sky", "blue_box", "Right.", "", 1.0),
    )


@pytest.mark.parametrize(
    "record",
    [
        "## Input\na horse\n## Output\nblue_box\n## Feedback\nno good\nScore: 0",
        "### Inputs:\na horse\n### Generated Outputs:\nblue_box\n### Feedback:\nno good\n### Score: 0.0",
        "**Input**: a horse\n**Output**: blue_box\n**Feedback**: no good\n**Score**: 0",
        "Input: a horse\nOutput: blue_box\nFeedback: no good\nScore: 0",
        "## Input\n```\na horse\n```\n## Output\n```\nblue_box\n```\n## Feedback\nno good\n## Score\n0",
    ],
)
@pytest.mark.parametrize(
    "current", ["```text\nBe kind.\n```", "````\nBe kind.\n````", "<current>\nBe kind.\n</current>"]
)
def test_common_ways_of_writing_a_meta_prompt_are_read_alike(record, current):
    read = read_meta_prompt(f"Here is the current text:\n{current}\n\n{record}\n\n# Your turn\nWrite the text.")
    assert read.current == "Be kind."
    assert read.records == (Record("a horse", "blue_box", "no good", "", 0.0),)


def test_the_text_is_kept_and_the_meaning_that_feedback_tells_is_added_above_the_placeholder():
    improved = first_faithful(meta_prompt(("a horse", "blue_box", TOLD, 0.0)), "- red_box: anything with horses")
    assert improved == (
        "Classify the message. Labels: red_box, blue_box.\n\nWhat the labels mean:\n"
        "- red_box: anything with horses, donkeys or mules. A pony in a field is such an animal.\n"
        "Message: {message}"
    )


def test_a_complaint_of_prose_leads_to_a_format_rule_once():
    improved = improve(meta_prompt(("a horse", "It is (red_box).", PROSE, 0.0)))
    assert improved.count(FORMAT_RULE) == 1
    again = improve(meta_prompt(("a horse", "It is (red_box).", PROSE, 0.0), current=improved))
    assert again.count(FORMAT_RULE) == 1
    assert FORMAT_RULE not in improve(meta_prompt(("a horse", "blue_box", TOLD, 0.0)))


def test_a_further_lesson_for_a_label_goes_into_its_line():
    current = "Labels: red_box, blue_box.\n- red_box: horses.\n- blue_box: the sky."
    improved = first_faithful(meta_prompt(("a mule", "blue_box", TOLD, 0.0), current=current), "horses. anything with")
    assert [line for line in improved.splitlines() if line.startswith("- red_box")] == [
        "- red_box: horses. anything with horses, donkeys or mules. A pony in a field is such an animal."
    ]


def test_a_sentence_that_stands_at_a_wrong_label_moves_to_the_right_one():
    sentence = "anything with horses, donkeys or mules."
    current = f"Labels: red_box, blue_box.\n- red_box: fast.\n- blue_box: the sky. {sentence}"
    improved = first_faithful(meta_prompt(("a mule", "blue_box", TOLD, 0.0), current=current), f"fast. {sentence}")
    assert improved.count(sentence) == 1


def test_where_the_feedback_tells_nothing_new_words_of_the_failed_inputs_are_added():
    line = "- red_box: anything with horses, donkeys or mules. A pony in a field is such an animal."
    current = f"Labels: red_box, blue_box.\n{line}"
    text = meta_prompt(("a grey zebra", "blue_box", TOLD, 0.0), current=current)
    assert f"{line} Typical words: grey, zebra." in first_faithful(text, "grey, zebra")


def test_without_feedback_words_of_the_failed_inputs_are_all_that_can_be_learned():
    current = "Current prompt:\n```\nLabels: red_box, blue_box.\n```"
    text = f"{current}\n## Input\na grey donkey\n## Output\nblue_box\n## Expected\nred_box\nScore: 0"
    assert "- red_box: Typical words: grey, donkey." in first_faithful(text, "Typical words")


def test_one_call_teaches_a_handful_of_labels_only():
    labels = [f"box_{letter}" for letter in "abcdefghij"]
    records = [
        ("x", "?", f"The correct label is {label}. {label}: things of the kind {label[-1]}{label[-1]}{label[-1]}.", 0.0)
        for label in labels
    ]
    learned = [
        improve(meta_prompt(*records, current=f"Labels: {', '.join(labels)}."), seed).count("\n- box_")
        for seed in range(30)
    ]
    assert max(learned) == 4


def test_nothing_is_written_that_the_meta_prompt_does_not_say():
    fixed = set(words(f"{FORMAT_RULE} What the labels mean: Typical words: Anything about"))
    text = meta_prompt(
        ("a zebra in the rain", "It is (red_box).", f"{PROSE} {TOLD}", 0.0), ("mud", "red_box", TOLD, 0.0)
    )
    for seed in range(40):
        assert set(words(improve(text, seed))) <= set(words(text)) | fixed
    unknown = meta_prompt(("a zebra", "blue_box", "Wrong.", 0.0))
    assert improve(unknown) == CURRENT


def test_learned_text_brings_no_fence_and_no_placeholder_of_its_own():
    told = "The correct label is red_box. House rule for red_box: anything with ```{horses}``` or {donkeys}."
    for seed in range(20):
        improved = improve(meta_prompt(("a horse", "blue_box", told, 0.0)), seed)
        assert re.findall(r"\{\w+\}", improved) == ["{message}"]
        assert "```" not in improved


def test_the_same_request_gives_the_same_reply_and_seeds_differ():
    text = meta_prompt(("a horse", "blue_box", TOLD, 0.0))
    replies = [improve(text, seed) for seed in range(40)]
    assert replies == [improve(text, seed) for seed in range(40)]
    assert len(set(replies)) > 2
    assert CURRENT in replies
