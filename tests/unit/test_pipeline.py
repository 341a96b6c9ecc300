"""Programs of several modules: their prompts as one, whose call it is, and what each module said in a rollout."""

import json
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from tests.fakes.programs import PLAN, PROGRAM, SOLVE

from promptjobs.core.asks import CallBody, RolloutBody
from promptjobs.core.pipeline import ModuleCalls, ProgramPattern, ambiguity, calls_by_module, without_examples
from promptjobs.core.prompt import Message, PromptTemplate, Section, render
from promptjobs.errors import PromptError, PromptNotMatched
from promptjobs.interceptor.rewrite import rewrite

PLAIN = replace(PROGRAM, sections=tuple(replace(section, module="") for section in PROGRAM.sections))
VALUES = {"task": "count {plan}", "plan": "1. count"}


def test_a_section_without_a_module_is_stored_and_hashed_as_before() -> None:
    assert "module" not in json.dumps(PLAIN.to_json())
    one = PromptTemplate((Section("s", "system", "text", 0),), {"q": True})
    assert one.digest() == "1962157cab9d83bd323f425feb10c5f2"


def test_a_program_is_read_back_as_it_was_stored() -> None:
    assert PromptTemplate.from_json(json.loads(json.dumps(PROGRAM.to_json()))) == PROGRAM
    assert PromptTemplate.from_json(PLAIN.to_json()) == PLAIN


def test_the_division_is_part_of_the_hash() -> None:
    moved = replace(PROGRAM.sections[1], module="solve")
    other = replace(PROGRAM, sections=(PROGRAM.sections[0], moved, *PROGRAM.sections[2:]))
    assert len({PLAIN.digest(), PROGRAM.digest(), other.digest()}) == 3


def test_the_messages_of_the_program_are_those_of_its_modules_in_a_row() -> None:
    assert PROGRAM.modules == ("plan", "solve")
    assert render(PROGRAM.part("plan")) + render(PROGRAM.part("solve")) == render(PROGRAM)
    assert (PLAIN.modules, PLAIN.part("")) == (("",), PLAIN)


@given(st.text(min_size=1), st.text(min_size=1), st.sampled_from(["plan", "solve"]), st.lists(st.text(), max_size=2))
def test_a_call_gets_the_candidates_messages_of_its_module(task: str, plan: str, module: str, more: list[str]) -> None:
    # A plan that holds the text behind it can be read in two ways.
    assume(f"{plan}\nTask: ".find("\nTask: ", 1) == len(plan))
    candidate = PROGRAM.with_text({"plan/system_0": "New plan.", "solve/system_0": "New {task} solution."})
    values = {"task": task, "plan": plan} if module == "solve" else {"task": task}
    rest = [{"role": "user", "content": text} for text in more]
    said = [message.to_json() for message in render(PROGRAM.part(module), values)]
    found = ProgramPattern.of(PROGRAM).find([Message(m["role"], m["content"]) for m in said + rest])
    assert found.module == module
    expected = [message.to_json() for message in render(candidate.part(module), values)]
    assert rewrite(said + rest, found.pattern, candidate.part(module)) == expected + rest


def test_a_call_of_no_module_names_the_closest() -> None:
    pattern = ProgramPattern.of(PROGRAM)
    with pytest.raises(PromptNotMatched, match="any module; 'solve' comes closest: expected") as failed:
        pattern.find([Message("system", SOLVE), Message("user", "Plan: x\nNo task")])
    assert (failed.value.module, failed.value.index) == ("solve", 1)
    with pytest.raises(PromptNotMatched, match="'plan' comes closest"):
        pattern.find([Message("system", f"{PLAN[:-5]}?"), Message("user", "Task: x")])


def test_an_undivided_prompt_has_every_call() -> None:
    assert ProgramPattern.of(PLAIN).find([Message("user", "anything")]).module == ""


def program(first: str, second: str, **wildcards: bool) -> PromptTemplate:
    sections = (Section("a/s", "system", first, 0, "a"), Section("b/s", "system", second, 1, "b"))
    return PromptTemplate(sections, wildcards)


@pytest.mark.parametrize(
    ("template", "found"),
    [
        (PROGRAM, None),
        (program("Plan {x}.", "Solve {x}.", x=True), None),
        (program("Plan.", "Plan."), ("a", "b")),
        (program("{x}", "Solve it.", x=True), ("a", "b")),
        (program("Solve it.", "Solve {x}", x=True), ("b", "a")),
        (program("Plan.", "Plan.{x}", x=False), ("a", "b")),
        (program("Plan.", "Plan.{x}", x=True), None),
    ],
)
def test_modules_that_cannot_be_told_apart_are_found(template: PromptTemplate, found: tuple[str, str] | None) -> None:
    assert ambiguity(template) == found


def test_a_module_whose_messages_begin_anothers_takes_its_calls() -> None:
    longer = (
        *PROGRAM.sections[:2],
        *(replace(s, module="solve", name=f"solve/{s.order}") for s in PROGRAM.sections[:2]),
    )
    more = Section("solve/9", "user", "And now?", 9, "solve")
    assert ambiguity(replace(PROGRAM, sections=(*longer, more))) == ("plan", "solve")


def test_wildcards_that_touch_are_refused_in_a_pattern_and_read_over_in_evidence() -> None:
    touching = program("Plan.", "{x}{y} go", x=True, y=True)
    with pytest.raises(PromptError):
        ProgramPattern.of(touching)
    call = CallBody((Message("system", "12 go"),), "done")
    assert calls_by_module(touching, RolloutBody(call.messages, "done", "")) == {"b": ModuleCalls((call,), True)}


def test_the_calls_of_a_rollout_are_told_apart() -> None:
    plan, again, solve = (
        CallBody(render(PROGRAM.part(module), VALUES), reply)
        for module, reply in (("plan", "one"), ("plan", "two"), ("solve", "three"))
    )
    other = CallBody((Message("user", "hello"),), "?")
    body = RolloutBody(plan.messages, "out", "", calls=(plan, other, again, solve))
    assert calls_by_module(PROGRAM, body) == {
        "plan": ModuleCalls((plan, again), answered=False),
        "solve": ModuleCalls((solve,), answered=True),
    }
    alone = RolloutBody(plan.messages, "out", "")
    assert calls_by_module(PROGRAM, alone) == {"plan": ModuleCalls((CallBody(plan.messages, "out"),), answered=True)}


# --- worked examples -------------------------------------------------------------------------------------------------


def with_examples(template: PromptTemplate, module: str) -> PromptTemplate:
    """The prompt with a worked example before the module's last message."""
    own = [at for at, section in enumerate(template.sections) if section.module == module]
    pair = [("user", "count to 2"), ("assistant", "1, 2")]
    shown = [Section(f"{module}/demo_{role}", role, text, 0, module, is_example=True) for role, text in pair]
    sections = [*template.sections[: own[-1]], *shown, *template.sections[own[-1] :]]
    return replace(template, sections=tuple(replace(s, order=order) for order, s in enumerate(sections)))


@pytest.mark.parametrize("module", ["plan", "solve"])
def test_without_its_examples_a_rollout_holds_what_the_task_app_said(module: str) -> None:
    shown = with_examples(PROGRAM, module)
    rest = (Message("assistant", "well"), Message("user", "go on"))
    said = [
        (*render(template.part(each), VALUES), *rest) for template in (shown, PROGRAM) for each in ("plan", "solve")
    ]
    foreign = CallBody((Message("user", "something else"),), "no")
    calls = tuple(CallBody(messages, "yes") for messages in said)
    with_them = RolloutBody(said[1], "yes", "told", calls=(*calls[:2], foreign))
    without_them = RolloutBody(said[3], "yes", "told", calls=(*calls[2:], foreign))
    assert with_them != without_them
    assert without_examples(shown, with_them) == without_them
    assert without_examples(PROGRAM, without_them) is without_them


def test_calls_by_module_hold_no_examples() -> None:
    shown = with_examples(PROGRAM, "plan")
    calls = [CallBody(render(template.part("plan"), VALUES), "yes") for template in (shown, PROGRAM)]
    found = calls_by_module(shown, RolloutBody((), "yes", "told", calls=(calls[0],)))
    assert found == {"plan": ModuleCalls((calls[1],), answered=True)}


def test_examples_of_an_undivided_prompt_are_left_out_too() -> None:
    shown = with_examples(PLAIN, "")
    body = RolloutBody(render(shown, VALUES), "yes", "told")
    assert without_examples(shown, body) == replace(body, messages=render(PLAIN, VALUES))


def test_that_a_section_is_an_example_is_stored_and_not_hashed() -> None:
    shown = with_examples(PROGRAM, "plan")
    assert PromptTemplate.from_json(json.loads(json.dumps(shown.to_json()))) == shown
    assert "is_example" not in json.dumps(PROGRAM.to_json())
    as_own = replace(shown, sections=tuple(replace(section, is_example=False) for section in shown.sections))
    assert as_own.digest() == shown.digest()
