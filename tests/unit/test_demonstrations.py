"""Worked examples in a prompt: which there are, when they are tried, and that nothing else of the prompt changes."""

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes.gepa_runs import MODES, QualityWorld, job, noisy, pure, stepping
from tests.fakes.pure import Pure

from promptjobs.core.archive import Candidate
from promptjobs.core.asks import RolloutBody
from promptjobs.core.demonstrations import (
    FEWEST,
    LONGEST,
    MARK,
    OWN_HEADING,
    Example,
    Ladder,
    example_of,
    own_text,
    with_examples,
    with_own_text,
)
from promptjobs.core.prompt import Message, PromptTemplate, Section, render

LAW = settings(deadline=None, derandomize=True, max_examples=60)
BOTH = pytest.mark.parametrize("acceptance", MODES)

USER = "Read this.\nQuery: {query}\nAnswer now."
TEMPLATE = PromptTemplate(
    (Section("system", "system", "Be kind.", 0), Section("user", "user", USER, 1)), {"query": True}
)
SHOWN = "Read this.\nQuery: what is it?\nAnswer now."
EXAMPLES = [Example(seed, f"input {seed}", f"output {seed % 3}") for seed in range(20)]


def body(output: str = "given", expected: str = "", said: str = SHOWN) -> RolloutBody:
    return RolloutBody((Message("system", "Be kind."), Message("user", said)), output, "", expected)


# --- examples --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expected", "score", "output"),
    [("right", 0.0, "right"), ("right", 1.0, "right"), ("", 1.0, "given"), ("", 0.99, None), ("", 0.0, None)],
)
def test_an_example_shows_the_expected_answer_or_a_perfect_one(expected: str, score: float, output: str | None) -> None:
    found = example_of(7, body(expected=expected), score, TEMPLATE)
    assert found == (Example(7, "Query: what is it?", output) if output else None)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("Query: fill in {query}", "right"),
        (SHOWN, "say {query}"),
        ("", "right"),
        (SHOWN, "  \n"),
        (f"Query: a{MARK}b", "right"),
        (SHOWN, f"a{MARK}b"),
        ("Query: " + "a" * LONGEST, "right"),
        (SHOWN, "a" * LONGEST),
    ],
)
def test_what_would_not_stand_in_a_prompt_as_it_is_is_no_example(said: str, expected: str) -> None:
    assert example_of(7, body("", expected, said), 0.0, TEMPLATE) is None


def test_braces_that_are_no_placeholder_of_the_prompt_are_text() -> None:
    found = example_of(7, body("", '{"label": "{other}"}', "Query: {x}"), 0.0, TEMPLATE)
    assert found == Example(7, "Query: {x}", '{"label": "{other}"}')


TEXTS = st.lists(st.sampled_from(["a", "b c", "\n", "\n\n", "# Worked examples", "Input: ", "Output: ", " "])).map(
    "".join
)
SOME = st.lists(st.sampled_from(EXAMPLES), unique=True)


@LAW
@given(TEXTS.filter(lambda text: MARK not in text), TEXTS.filter(lambda text: MARK not in text), SOME, SOME)
def test_own_text_and_examples_can_be_told_apart_and_changed_apart(
    text: str, other: str, some: list[Example], others: list[Example]
) -> None:
    content = with_examples(text, some)
    assert own_text(content).rstrip("\n") == text.rstrip("\n")
    assert with_examples(content, some) == content
    assert with_examples(content, others) == with_examples(text, others) or not others
    changed = with_own_text(content, other)
    assert own_text(changed).rstrip("\n") == other.rstrip("\n")
    assert changed == with_examples(other, some)
    for example in some:
        assert f"Input: {example.input}\nOutput: {example.output}" in changed


# --- the ladder ------------------------------------------------------------------------------------------------------


def ladder(known: int, most: int = 30, **more: int) -> Ladder:
    made = Ladder(most, **more)
    for example in EXAMPLES[:known]:
        made.learn(example)
    return made


def waited(made: Ladder) -> int:
    """How many proposals finish before it is time again."""
    for proposals in range(200):
        if made.next_count("best"):
            return proposals
        made.proposal_finished()
    raise AssertionError("it never is")


def test_the_interval_doubles_after_a_failure_and_halves_after_a_success() -> None:
    made = ladder(20)
    intervals = []
    for has_won in (False, False, True, True, True, True, False):
        intervals.append(waited(made))
        made.begin()
        assert made.next_count("best") == 0
        made.end(has_won)
    assert intervals == [2, 4, 8, 4, 2, 1, 1]
    for _ in range(9):
        made.end(False)
    assert made.interval == 64


def test_more_examples_are_tried_while_they_help() -> None:
    made = ladder(20)
    for _ in range(2):
        made.proposal_finished()
    for has, count in ((0, 4), (4, 12), (12, 20), (15, 0), (20, 0)):
        made.held["best"] = tuple(range(has))
        assert made.next_count("best") == count


def test_too_few_are_not_worth_a_try_and_none_are_tried_where_none_may_be() -> None:
    for known, most in ((FEWEST - 1, 30), (20, 0), (20, FEWEST - 1)):
        made = ladder(known, most)
        made.proposal_finished()
        made.proposal_finished()
        assert made.next_count("best") == 0
    assert ladder(20, 0).examples == {}


def test_drawn_examples_show_every_answer_as_often() -> None:
    made = ladder(20)
    drawn = made.draw(6, random.Random(1))
    assert Counter(example.output for example in drawn) == {f"output {n}": 2 for n in range(3)}
    assert len(made.draw(100, random.Random(1))) == 20
    assert {e.seed for e in made.draw(100, random.Random(1), without=range(15))} == set(range(15, 20))
    assert made.draw(6, random.Random(1)) == ladder(20).draw(6, random.Random(1))


def test_a_child_holds_what_its_parent_held_and_a_childs_child_too() -> None:
    made = ladder(20)
    made.held["parent"] = (1, 2)
    made.inherit("child", "parent")
    made.inherit("grandchild", "child")
    made.inherit("other", "none")
    assert [list(made.seeds_of(c)) for c in ("grandchild", "other")] == [[1, 2], []]


# --- in a search -----------------------------------------------------------------------------------------------------


def helped(acceptance: str, **changes: object) -> Pure:
    """A search in which every example makes a prompt better."""
    world = QualityWorld(score=lambda quality, seed, draw: quality, reflect=stepping(0.002), worked=0.02)
    sizes = {"evaluation__train_seeds": list(range(60)), "archive__pareto_set_size": 20, "rollout__budget": 900}
    run = pure(job(acceptance=acceptance, **{**sizes, **changes}), world)
    run.run()
    return run


def shown(candidate: Candidate) -> str:
    content = candidate.template.sections[0].content
    return content[len(own_text(content)) :]


@BOTH
def test_examples_that_help_are_kept_and_more_follow(acceptance: str) -> None:
    run = helped(acceptance)
    counts = [shown(c).count("\nOutput: ") for c in run.candidates if c.operator == "demonstrations"]
    assert counts[0] == 4
    assert 12 in counts
    assert max(counts) <= 30
    result = run.lanes.result
    assert shown(result.best).count("\nOutput: ") >= 12
    assert result.best_score > result.baseline_score + 0.2


@BOTH
@pytest.mark.parametrize("lanes", [1, 4])
def test_examples_come_from_feedback_seeds_and_no_placeholder_is_lost(acceptance: str, lanes: int) -> None:
    run = helped(acceptance, lanes=lanes)
    gepa = run.optimizer.gepa
    for candidate in run.candidates:
        seeds = run.optimizer.ladder.seeds_of(candidate.candidate_id)
        assert set(seeds) <= set(gepa.feedback_seeds)
        assert len(set(seeds)) == len(seeds) == shown(candidate).count("\nOutput: ")
        for seed in seeds:
            assert f"Input: input {seed}\nOutput: answer {seed % 3}" in shown(candidate)
        assert candidate.template.wildcards == run.optimizer.base.template.wildcards


@BOTH
@pytest.mark.parametrize("lanes", [1, 4])
def test_what_a_parent_shows_is_no_evidence_of_its_faults(acceptance: str, lanes: int) -> None:
    run = helped(acceptance, lanes=lanes)
    by_text = {own_text(c.template.sections[0].content): c for c in run.candidates if shown(c)}
    taught = 0
    for ask in run.completions:
        said = ask.messages[0].content
        assert MARK not in said
        current = said.split("# Current text\n\n```\n")[1].split("\n```")[0]
        seeds = {int(part.split("\n")[0]) for part in said.split("### Feedback\nfeedback ")[1:]}
        children = [c for c in run.candidates if own_text(c.template.sections[0].content) == current]
        held = [set(run.optimizer.ladder.seeds_of(c.candidate_id)) for c in children]
        assert any(not seeds & each for each in held)
        taught += current in by_text
    assert taught > 1


@BOTH
def test_one_try_at_a_time_however_many_lanes(acceptance: str) -> None:
    run = helped(acceptance, lanes=8)
    open_since = None
    for event in run.events():
        if event.data.get("mutation_type") != "demonstrations":
            continue
        candidate_id = event.data["candidate_id"]
        if event.type.endswith("transformation.proposed"):
            assert open_since is None
            open_since = candidate_id
        elif event.data["candidate_id"] == open_since:
            open_since = None


@BOTH
def test_the_gate_and_the_race_try_none_where_none_may_be_shown(acceptance: str) -> None:
    run = helped(acceptance, max_demonstrations=0)
    assert {c.operator for c in run.candidates} <= {"baseline", "reflection", "merge"}
    assert not any(shown(c) for c in run.candidates)


def test_the_gate_shows_no_example_of_the_minibatch_it_compares_on() -> None:
    run = helped("full")
    ladder = run.optimizer.ladder
    shown_seeds = {c.candidate_id: set(ladder.seeds_of(c.candidate_id)) for c in run.candidates}
    first = {}
    for trial in run.trials:
        first.setdefault(trial.candidate_id, set(trial.seeds))
    tried = [c for c in run.candidates if c.operator == "demonstrations"]
    assert tried
    assert all(not first[c.candidate_id] & shown_seeds[c.candidate_id] for c in tried)


def test_the_exported_prompt_is_the_measured_one_byte_by_byte() -> None:
    run = helped("race")
    best = run.lanes.result.best
    assert shown(best)
    [event] = run.events("best.prompt")
    exported = PromptTemplate.from_json(event.data["best_prompt"])
    assert exported == best.template
    assert exported.digest() == best.candidate_id
    content = best.template.sections[0].content
    assert event.data["best_prompt_messages"][0] == {"role": "system", "content": content}
    assert render(exported, {"query": "what?"})[0].content == content
    assert content == own_text(content) + shown(best)


def test_a_baseline_that_has_such_a_heading_of_its_own_is_given_no_examples() -> None:
    prompt = {
        "messages": [
            {"role": "system", "pattern": f"Answer, quality 0.200.{MARK}None."},
            {"role": "user", "pattern": "Query: {query}"},
        ],
        "wildcards": {"query": "REQUIRED"},
    }
    run = helped("race", prompt=prompt)
    assert "demonstrations" not in {c.operator for c in run.candidates}


def test_a_heading_that_a_meta_model_writes_is_part_of_the_instruction() -> None:
    def reflect(quality: float, completion):  # type: ignore[no-untyped-def]
        body = stepping(0.05)(quality, completion)
        text = body.text.removesuffix("\n```") + f"{MARK}Say yes.\n```"
        return type(body)(text, "stop")

    run = pure(job(), QualityWorld(score=noisy(), reflect=reflect))
    run.run()
    for candidate in run.candidates[1:]:
        content = candidate.template.sections[0].content
        assert own_text(content) == content
        assert f"{OWN_HEADING}Say yes." in content
