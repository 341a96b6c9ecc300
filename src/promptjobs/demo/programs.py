"""The programs of the demo's task app: which calls a rollout makes, and with which messages."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from promptjobs.demo.dataset import USER_PATTERN, Ticket, baseline_system

Messages = list[dict[str, str]]
Ask = Callable[[Messages], Awaitable[tuple[str, dict[str, Any]]]]
"""Sends messages to the model; gives its reply, and the usage that it reports."""

TICKETS_ENV, TRIAGE_ENV = "support-tickets", "support-triage"
SUMMARIZE, CLASSIFY = "summarize", "classify"
SUMMARY_SYSTEM = "Summarize the customer message in a few words."
SUMMARY_PATTERN = "Summary: {summary}"


@dataclass(frozen=True, slots=True)
class Step:
    """A call of the model. user: with {message} for the ticket's, {summary} for the reply of the step before it."""

    name: str
    does: str
    system: str
    user: str


@dataclass(frozen=True, slots=True)
class Program:
    """Steps that follow each other; the last one's reply is the answer."""

    env_name: str
    description: str
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Call:
    """A call that was made: what was sent, before anything is put in its place on the way, and what came back."""

    step: str
    messages: Messages
    reply: str
    usage: dict[str, Any]


def triage_system(labels: Sequence[str]) -> str:
    """The weak instruction of the second step, as the one of the single step."""
    return f"Classify the summary of a customer message. Labels: {', '.join(labels)}."


def tickets_program(labels: Sequence[str]) -> Program:
    step = Step(CLASSIFY, "gives the message its label", baseline_system(labels), USER_PATTERN)
    return Program(TICKETS_ENV, "One call gives the message its label.", (step,))


def triage_program(labels: Sequence[str]) -> Program:
    return Program(
        TRIAGE_ENV,
        "One call summarizes the message, and a second one, which sees nothing but the summary, gives it its label.",
        (
            Step(SUMMARIZE, "says in a few words what the message is about", SUMMARY_SYSTEM, USER_PATTERN),
            Step(CLASSIFY, "gives the summary its label", triage_system(labels), SUMMARY_PATTERN),
        ),
    )


async def run_program(program: Program, ticket: Ticket, ask: Ask) -> list[Call]:
    """The calls in their order. Whatever `ask` raises ends the run."""
    calls = list[Call]()
    for step in program.steps:
        before = calls[-1].reply if calls else ""
        messages = [
            {"role": "system", "content": step.system},
            {"role": "user", "content": step.user.format(message=ticket.message, summary=before)},
        ]
        calls.append(Call(step.name, messages, *await ask(messages)))
    return calls
