"""The demo's program of two calls: who is at fault, and what the reflection model makes of that for each step."""

import json
import re

import pytest

from promptjobs.demo.dataset import load_dataset
from promptjobs.demo.meta_prompt import Record
from promptjobs.demo.programs import CLASSIFY, SUMMARIZE
from promptjobs.demo.reflection_model import FORMAT_RULE, reflect
from promptjobs.demo.review import review_triage
from promptjobs.demo.step_feedback import of_step, step_of

DATASET = load_dataset()
TICKET = next(ticket for ticket in DATASET.tickets.values() if "posted my renewed card" in ticket.message)
RULE = DATASET.house_rules[TICKET.label].rule
OTHER = next(label for label in DATASET.labels if label != TICKET.label)

WEAK = "Summarize the message in a few words."
LABELLING = "Classify the summary. Labels: red_box, blue_box."
SUMMARY_RULE = "anything with horses, donkeys or mules, alive or painted."
LOST = f"Step summarize went wrong: the summary leaves out 'mule'. House rule for summaries: {SUMMARY_RULE}"
LABEL_RULE = "Step classify went wrong: House rule for red_box: four legs, a tail and a long mane or long ears."
WRONG = "Wrong: the answer is blue_box, but the correct label is red_box."


def record(feedback: str, score: float = 0.0) -> Record:
    return Record("a mule in the rain", "blue_box", feedback, "", score)


def meta_prompt(
    current: str, *feedback: str, step: str | None = None, closing: str = "Answer with the whole new text."
) -> str:
    shown = "\n\n".join(
        f"## Example {n}\n### Input\nMessage: {n} mules\n### Output\nblue_box\n### Feedback\n{said}\nScore: 0"
        for n, said in enumerate(feedback, 1)
    )
    named = f"The text is for the step `{step}`.\n\n" if step else ""
    return (
        f"{named}# Current text of the instructions\n\n```\n{current}\n```\n\n# What came of it\n\n{shown}\n\n{closing}"
    )


def replied(text: str, seed: int = 0) -> str:
    reply = reflect([{"role": "user", "content": text}], seed)
    found = re.fullmatch(r"```\n(.*)\n```", reply, re.DOTALL)
    assert found is not None
    return found[1]


def first_with(text: str, wanted: str) -> str:
    """The first reply, over a few seeds, that kept the lesson whole: now and then one is dropped or garbled."""
    return next(improved for seed in range(20) if wanted in (improved := replied(text, seed)))


# --- who is at fault -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("summary", "answer", "said", "unsaid"),
    [
        (TICKET.message, OTHER, ["Step summarize was right.", f"Step {CLASSIFY} went wrong: House rule for "], []),
        ("I moved in March", OTHER, ["House rule for summaries: ", "could not know better."], ["House rule for card"]),
        ("renewed card", OTHER, ["House rule for summaries: ", f"House rule for {TICKET.label}: "], ["'renewed'"]),
        ("I moved in March", f"It is {TICKET.label}.", ["label only and nothing else", "classify went wrong"], []),
    ],
)
def test_feedback_says_which_step_went_wrong(summary: str, answer: str, said: list[str], unsaid: list[str]):
    verdict = review_triage(DATASET, TICKET, summary, answer)
    assert verdict.score == 0.0
    assert RULE in verdict.feedback
    assert all(text in verdict.feedback for text in said)
    assert not any(text in verdict.feedback for text in unsaid)


def test_what_a_summary_has_lost_is_named():
    feedback = review_triage(DATASET, TICKET, "I moved in March", OTHER).feedback
    assert re.search(r"the summary leaves out (?:'\w+', )*'renewed', 'card'", feedback)


def test_right_label_scores_one_whatever_the_summary():
    assert review_triage(DATASET, TICKET, "nothing", f" {TICKET.label}\n").score == 1.0


# --- which step a lesson is for --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "step"),
    [
        ("The text is for the step `summarize`. It is short.", "summarize"),
        ("the text is for the stage plan-1.", "plan-1"),
        ("Improve the text.", None),
    ],
)
def test_step_is_the_one_that_the_meta_prompt_names(text: str, step: str | None):
    assert step_of(text) == step


@pytest.mark.parametrize(
    ("step", "current", "parts"),
    [
        (SUMMARIZE, WEAK, [LOST]),
        (CLASSIFY, LABELLING, [LABEL_RULE]),
        (None, WEAK, [LOST]),
        (None, LABELLING, [LABEL_RULE]),
        ("elsewhere", LABELLING, []),
    ],
)
def test_feedback_is_cut_to_the_part_on_the_step(step: str | None, current: str, parts: list[str]):
    found = of_step([record(f"{WRONG} {LOST} {LABEL_RULE}")], step, current)
    assert [each.feedback for each in found] == [f"{WRONG} {part.partition(': ')[2]}" for part in parts]


def test_record_where_only_another_step_went_wrong_teaches_nothing():
    fine = record(f"{WRONG} {LOST} Step classify could not know better.")
    assert of_step([fine], CLASSIFY, LABELLING) == []
    assert of_step([record("no steps at all")], CLASSIFY, LABELLING) == [record("no steps at all")]


# --- what is learnt --------------------------------------------------------------------------------------------------


def test_rule_for_summaries_becomes_a_line_and_brings_no_label_along():
    improved = first_with(meta_prompt(WEAK, f"{WRONG} {LOST} {LABEL_RULE}", step=SUMMARIZE), SUMMARY_RULE)
    assert improved == f"{WEAK}\nName what the message is about, and keep its words on that:\n- {SUMMARY_RULE}"


def test_note_on_a_rule_that_is_known_joins_its_line():
    known = f"{WEAK}\n- {SUMMARY_RULE}"
    improved = first_with(meta_prompt(known, f"{LOST} Note: A pony in a field is such an animal."), "pony")
    assert improved == f"{WEAK}\n- {SUMMARY_RULE} A pony in a field is such an animal."


def test_where_there_is_nothing_to_learn_another_length_is_tried():
    learnt = [replied(meta_prompt(WEAK, f"{WRONG} {LABEL_RULE}"), seed) for seed in range(8)]
    assert all(re.fullmatch(rf"{WEAK}\nUse at most \d+ words\.", text) for text in learnt)
    assert len(set(learnt)) > 1
    again = replied(meta_prompt(learnt[0]))
    assert again != learnt[0]
    assert again.count("Use at most") == 1


def test_labelling_step_learns_its_own_rules_and_its_form_alone():
    prose = f"The answer is prose. It must be the label only. {LOST} {LABEL_RULE}"
    improved = first_with(meta_prompt(LABELLING, f"{WRONG} {prose}", step=CLASSIFY), "- red_box: four legs")
    assert FORMAT_RULE in improved
    assert SUMMARY_RULE not in improved


# --- other forms of a reply ------------------------------------------------------------------------------------------


def test_a_list_of_changes_has_the_whole_and_each_line_alone():
    current = f"{LABELLING}\nBe kind.\n- red_box: horses."
    told = [
        f"{WRONG} {LABEL_RULE}",
        "The correct label is blue_box. House rule for blue_box: the wide open sea or sky.",
    ]
    closing = "Answer with one JSON array of them between two lines of ``` and nothing else."
    text = first_with(meta_prompt(current, *told, closing=closing), "the wide open sea")
    whole, *parts = json.loads(text)
    assert set(whole) == {"type", "text"}
    assert whole["type"] == "replace"
    changed = current
    for part in parts:
        if part["type"] == "replace":
            assert part["find"] in current
            changed = changed.replace(part["find"], part["text"])
        else:
            changed += f"\n{part['text']}"
    assert sorted(filter(None, changed.splitlines())) == sorted(filter(None, whole["text"].splitlines()))


def test_data_are_described_from_the_examples_alone():
    shown = "\n\n".join(
        f"## Example {n}\n### Input\n{'word ' * 4}\n### Output\n{label}\nScore: 1"
        for n, label in enumerate(["red_box", "blue_box", "red_box"])
    )
    asked = f"You describe data.\n\n# The examples\n\n{shown}\n\nDescribe these data in two or three sentences."
    reply = reflect([{"role": "user", "content": asked}])
    assert reply == ("The inputs are texts of about 4 words. The outputs are short, such as these: red_box, blue_box.")
