"""A result as JSON: what a candidate adds to the baseline is told beside what it changes."""

from dataclasses import replace

from promptjobs.core.archive import Candidate
from promptjobs.core.prompt import Message, PromptTemplate, Section
from promptjobs.core.result import (
    Attempt,
    Finalist,
    Measured,
    Member,
    OptimizationResult,
    archive_json,
    attempted_json,
    final_scores_json,
    optimized_json,
    snapshot_payload,
)
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
    attempts = [Attempt(last, 0.5, 4, True)]
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


def test_every_final_score_has_the_number_of_seeds_that_it_rests_on() -> None:
    """Failures have no score: the winner and the baseline may rest on different numbers."""
    train, validation = Measured(4, {1: 1.0, 2: 0.0, 3: 0.5}, {1: 0.0}), Measured(2, {8: 1.0, 9: 0.5}, {8: 0.5})
    found = replace(result(CHANGED), train=train, validation=validation)
    scores = final_scores_json(found)
    assert (scores["best_score"], scores["best_score_seeds"]) == (0.75, 2)
    assert (scores["baseline_score"], scores["baseline_score_seeds"]) == (0.5, 1)
    assert (scores["best_train_score"], scores["best_train_score_seeds"]) == (0.5, 3)
    assert (scores["best_validation_score"], scores["best_validation_score_seeds"]) == (0.75, 2)
    assert (scores["best_test_score"], scores["best_test_score_seeds"]) == (None, 0)
    assert snapshot_payload(found, {}).items() >= scores.items()
    assert set(final_scores_json(None).values()) == {None, 0}


def test_members_and_finalists_tell_on_how_many_seeds_they_are_ranked() -> None:
    found = result(CHANGED)
    assert found.best is not None
    found = replace(found, archive=[Member(found.best, 0.9, 2, {1: 1.0, 2: 0.8}, True)])
    assert [each["num_seeds"] for each in archive_json(found)] == [2]
    assert [each["score"]["num_seeds"] for each in optimized_json(found)] == [2]
    assert Finalist(0, found.best, {1: 1.0}, (1, 2)).to_json()["num_seeds"] == 1
