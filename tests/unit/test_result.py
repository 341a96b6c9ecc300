"""A result as JSON: what a candidate adds to the baseline is told beside what it changes."""

from dataclasses import replace

from promptjobs.core.archive import Candidate
from promptjobs.core.prompt import Message, PromptTemplate, Section
from promptjobs.core.result import Attempt, OptimizationResult, attempted_json, snapshot_payload
from promptjobs.core.transform import PromptTransformation

BASELINE = PromptTemplate(
    (Section("plan/s", "system", "Plan.", 0, "plan"), Section("plan/u", "user", "Query: {query}", 1, "plan")),
    {"query": True},
)
CHANGED = BASELINE.with_text({"plan/s": "Plan well."})
DEMOS = (
    Section("plan/demo_1_user", "user", "Query: a", 1, "plan"),
    Section("plan/demo_1_assistant", "assistant", "b", 2, "plan"),
)
SHOWN = replace(CHANGED, sections=(CHANGED.sections[0], *DEMOS, replace(CHANGED.sections[1], order=3)))


def candidate(number: int, template: PromptTemplate) -> Candidate:
    return Candidate(template.digest(), number, template, None, operator="mipro" if number else "baseline")


def result(best: PromptTemplate) -> OptimizationResult:
    first, last = candidate(0, BASELINE), candidate(1, best)
    attempts = [Attempt(last, 0.5, True)]
    return OptimizationResult(last, first, None, None, None, [], [], attempts, [], "done", None, {})


def test_a_change_of_texts_alone_has_no_demos() -> None:
    [attempted] = attempted_json(result(CHANGED))
    assert attempted["object"].keys() == {"text_replacements"}
    assert snapshot_payload(result(CHANGED), {})["transformation"] == attempted["object"]


def test_messages_that_are_added_stand_beside_the_replacements_and_among_the_messages() -> None:
    [attempted] = attempted_json(result(SHOWN))
    payload = snapshot_payload(result(SHOWN), {})
    change = {
        "section": "plan/s",
        "apply_to_role": "system",
        "old_text": "Plan.",
        "new_text": "Plan well.",
    }
    assert attempted["object"] == {"text_replacements": [change], "demos": [demo.to_json() for demo in DEMOS]}
    assert payload["transformation"] == attempted["object"]
    assert PromptTransformation.from_json(payload["transformation"]).apply(BASELINE) == SHOWN
    assert payload["messages"][1:3] == [Message("user", "Query: a").to_json(), Message("assistant", "b").to_json()]
    assert attempted["prompt_length"] == len("Plan well.Query: aQuery: {query}b")
