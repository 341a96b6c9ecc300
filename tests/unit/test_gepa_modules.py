"""A search over a program of two modules: which texts are changed, what they are changed by, and what comes of it."""

import re
from typing import Any

import pytest
from tests.fakes.gepa_runs import job, quality_of
from tests.fakes.programs import MODULES, PROGRAM, ProgramWorld
from tests.fakes.pure import Pure

from promptjobs.core.gepa import Gepa
from promptjobs.core.gepa_proposals import mutable_sections
from promptjobs.core.prompt import render
from promptjobs.core.result import snapshot_payload
from promptjobs.core.text_tokens import count_tokens

PLANNED, SOLVED = "plan/system_0", "solve/system_0"


def run_of(world: ProgramWorld, modules: list[dict[str, Any]] = MODULES, **changes: Any) -> Pure:
    config = job(prompt=None, modules=modules, **{"max_demonstrations": 0, **changes})
    return Pure(lambda: Gepa(config), world, config.gepa.rng_seed, config.gepa.turn_order)


def changed_sections(run: Pure) -> set[tuple[str, ...]]:
    return {tuple(event.data["mutation_params"]["sections"]) for event in run.events("transformation.proposed")}


def test_the_system_messages_of_every_module_may_change_up_to_its_slots() -> None:
    assert mutable_sections(PROGRAM) == (PLANNED, SOLVED)
    plain = PROGRAM.with_text({PLANNED: "{task}"})
    assert mutable_sections(plain) == ("plan/user_1", SOLVED)
    three = PROGRAM.part("plan").sections[0]
    more = [type(three)(f"plan/{n}", "system", f"text {n}", n, "plan") for n in range(4)]
    wide = type(PROGRAM)((*more, *PROGRAM.sections), PROGRAM.wildcards)
    assert mutable_sections(wide, {"plan": 2, "solve": 3}) == ("plan/0", "plan/1", SOLVED)


@pytest.mark.parametrize("acceptance", ["race", "full"])
def test_both_modules_improve(acceptance: str) -> None:
    run = run_of(ProgramWorld(), acceptance=acceptance, mutation__rate=0.0, rollout__budget=600)
    result = run.run()
    assert changed_sections(run) >= {(PLANNED,), (SOLVED,)}
    best = result.best.template
    assert min(quality_of(best.section(name).content) for name in (PLANNED, SOLVED)) >= 0.4
    assert [s.name for s in best.sections] == [s.name for s in PROGRAM.sections]
    assert best.section("plan/user_1") == PROGRAM.section("plan/user_1")
    payload = snapshot_payload(result, {})
    assert [part["module_id"] for part in payload["modules"]] == ["plan", "solve"]
    assert [m for part in payload["modules"] for m in part["messages"]] == payload["messages"]
    assert payload["messages"] == [message.to_json() for message in render(best)]


def test_all_components_are_rewritten_together_where_that_is_chosen() -> None:
    run = run_of(ProgramWorld(), component_selection="all", population__crossover_rate=0)
    run.run()
    reflected = [e for e in run.events("transformation.proposed") if e.data["mutation_type"] == "reflection"]
    assert {tuple(event.data["mutation_params"]["sections"]) for event in reflected} == {(PLANNED, SOLVED)}


def test_a_reflection_is_shown_the_calls_of_its_own_module() -> None:
    world = ProgramWorld()
    run_of(world).run()
    plans = [shown for shown in world.reflections if "Make a plan." in shown]
    solutions = [shown for shown in world.reflections if "Solve it." in shown]
    assert len(plans) > 1
    assert len(solutions) > 1
    assert len(plans) + len(solutions) == len(world.reflections)
    for shown in plans:
        assert re.search(r"### Input\nTask: task \d+\n", shown)
        assert re.search(r"### Output\nreply of plan on \d+\n", shown)
        assert "### Expected" not in shown
        assert re.search(r"The program's output: reply of solve on \d+\nExpected of the program: expected \d+\n", shown)
    for shown in solutions:
        assert re.search(r"### Input\nPlan: plan (\d+)\nTask: task \1\n### Output\nreply of solve on \1\n", shown)
        assert re.search(r"### Expected\nexpected \d+\n", shown)
        assert "reply of plan" not in shown


def test_a_module_that_makes_no_call_is_not_reflected_on() -> None:
    world = ProgramWorld(skipped=["solve"])
    run = run_of(world, mutation__rate=0.0)
    result = run.run()
    refusals = {(e.data["section"], e.data["reason"]) for e in run.events("proposal.refused") if "section" in e.data}
    assert refusals == {(SOLVED, "no_call")}
    assert result.best.template.section(SOLVED) == PROGRAM.section(SOLVED)
    assert quality_of(result.best.template.section(PLANNED).content) > 0.2


def test_a_module_keeps_to_its_own_limit() -> None:
    limit = sum(count_tokens(section.content, "gpt-4") for section in PROGRAM.part("plan").sections) + 1
    short = [MODULES[0] | {"max_tokens": limit}, MODULES[1]]
    free = run_of(ProgramWorld()).run()
    run = run_of(ProgramWorld(), short, population__crossover_rate=0)
    run.run()
    assert free.best.template.section(PLANNED) != PROGRAM.section(PLANNED)
    refused = [event for event in run.events("proposal.refused") if event.data["reason"] == "too_long"]
    assert all("module 'plan'" in event.data["detail"] for event in refused)
    assert refused


def test_demonstrations_stand_with_the_module_that_answers() -> None:
    run = run_of(ProgramWorld(), max_demonstrations=12, rollout__budget=500)
    run.run()
    shown = [c for c in run.candidates if c.operator == "demonstrations"]
    assert shown
    for candidate in shown:
        assert "# Worked examples" not in candidate.template.section(PLANNED).content
        text = candidate.template.section(SOLVED).content
        assert re.search(r"Input: Plan: plan (\d+)\nTask: task \1\nOutput: expected \1", text)
