"""A program of two LLM calls: its config, its prompt, and a pure world that scores either module's text."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from promptjobs.core.asks import (
    Answer,
    Ask,
    CallBody,
    CandidateFact,
    Completion,
    CompletionBody,
    Fact,
    RolloutBody,
)
from promptjobs.core.prompt import PromptTemplate, Section, render
from tests.fakes.gepa_runs import fenced, quality_of, text_of
from tests.fakes.pure import Told

PLAN, SOLVE = text_of(0.2, "Make a plan."), text_of(0.2, "Solve it.")

MODULES: list[dict[str, Any]] = [
    {
        "module_id": "plan",
        "messages": [
            {"role": "system", "pattern": PLAN, "order": 0},
            {"role": "user", "pattern": "Task: {task}", "order": 1},
        ],
        "wildcards": {"task": "REQUIRED"},
    },
    {
        "module_id": "solve",
        "messages": [{"role": "system", "pattern": SOLVE}, {"role": "user", "pattern": "Plan: {plan}\nTask: {task}"}],
    },
]

PROGRAM = PromptTemplate(
    (
        Section("plan/system_0", "system", PLAN, 0, "plan"),
        Section("plan/user_1", "user", "Task: {task}", 1, "plan"),
        Section("solve/system_0", "system", SOLVE, 2, "solve"),
        Section("solve/user_1", "user", "Plan: {plan}\nTask: {task}", 3, "solve"),
    ),
    {"task": True, "plan": True},
)
"""What MODULES mean."""


@dataclass
class ProgramWorld:
    """Both modules count half: a rollout's score is the mean of the numbers in their texts.

    skipped: modules that make no call. Each reflection makes the text that it was shown better by a tenth, up to 0.9.
    """

    skipped: Sequence[str] = ()
    templates: dict[str, PromptTemplate] = field(default_factory=dict)
    reflections: list[str] = field(default_factory=list)

    def observe(self, facts: Sequence[Fact]) -> None:
        for fact in facts:
            if isinstance(fact, CandidateFact):
                self.templates[fact.candidate.candidate_id] = fact.candidate.template

    def answer(self, ask: Ask) -> Told:
        if isinstance(ask, Completion):
            shown = ask.messages[0].content
            self.reflections.append(shown)
            name = "Make a plan." if "Make a plan." in shown else "Solve it."
            text = text_of(min(0.9, quality_of(shown) + 0.1), f"{name} {ask.key.hex()[:6]}")
            return Answer(ask.key), CompletionBody(fenced(text), "stop")
        template = self.templates[ask.candidate_id]
        values = {"task": f"task {ask.seed}", "plan": f"plan {ask.seed}"}
        calls = tuple(
            CallBody(render(template.part(module), values), f"reply of {module} on {ask.seed}")
            for module in template.modules
            if module not in self.skipped
        )
        qualities = [quality_of(template.section(f"{module}/system_0").content) for module in template.modules]
        body = RolloutBody(
            calls[0].messages,
            calls[-1].reply,
            f"feedback {ask.seed}",
            f"expected {ask.seed}",
            calls if calls[1:] else (),
        )
        return Answer(ask.key, sum(qualities) / len(qualities)), body
