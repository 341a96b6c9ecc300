"""The demo's programs in this process: its models and its reviewer answer the asks of a search, over no network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from promptjobs.core.asks import (
    DESCRIPTION,
    Answer,
    Ask,
    CallBody,
    CandidateFact,
    Completion,
    CompletionBody,
    Fact,
    RolloutBody,
)
from promptjobs.core.prompt import PromptTemplate, render
from promptjobs.demo.dataset import Dataset, Ticket, load_dataset
from promptjobs.demo.policy_model import answer
from promptjobs.demo.programs import Program, triage_program
from promptjobs.demo.reflection_model import reflect
from promptjobs.demo.review import Review, review, review_triage
from tests.fakes.pure import Told

DATASET = load_dataset()


def run_calls(template: PromptTemplate, ticket: Ticket) -> list[CallBody]:
    """The calls of the program whose prompt this is, module by module."""
    calls: list[CallBody] = []
    for module in template.modules:
        values = {"message": ticket.message, "summary": calls[-1].reply if calls else ""}
        messages = render(template.part(module), values)
        calls.append(CallBody(messages, answer([message.to_json() for message in messages])))
    return calls


def judged(ticket: Ticket, calls: Sequence[CallBody], dataset: Dataset = DATASET) -> Review:
    if len(calls) == 1:
        return review(dataset, ticket, calls[0].reply)
    return review_triage(dataset, ticket, calls[0].reply, calls[-1].reply)


def mean_score(template: PromptTemplate, seeds: Sequence[int]) -> float:
    """What the prompt scores when its program runs with it."""
    tickets = [DATASET.ticket(seed) for seed in seeds]
    return sum(judged(ticket, run_calls(template, ticket)).score for ticket in tickets) / len(tickets)


@dataclass
class DemoWorld:
    """templates: of the candidates that the search has told of, by id."""

    program: Program = field(default_factory=lambda: triage_program(DATASET.labels))
    templates: dict[str, PromptTemplate] = field(default_factory=dict)
    reviews: dict[tuple[str, int], Review] = field(default_factory=dict)

    def observe(self, facts: Sequence[Fact]) -> None:
        for fact in facts:
            if isinstance(fact, CandidateFact):
                self.templates[fact.candidate.candidate_id] = fact.candidate.template

    def answer(self, ask: Ask) -> Told:
        if isinstance(ask, Completion):
            if ask.purpose == DESCRIPTION:
                return Answer(ask.key), CompletionBody(self.program.description, "stop")
            text = reflect([message.to_json() for message in ask.messages], ask.draw)
            return Answer(ask.key), CompletionBody(text, "stop")
        ticket = DATASET.ticket(ask.seed)
        calls = run_calls(self.templates[ask.candidate_id], ticket)
        found = judged(ticket, calls)
        self.reviews[ask.candidate_id, ask.seed] = found
        body = RolloutBody(
            calls[0].messages,
            calls[-1].reply,
            found.feedback,
            ticket.label,
            tuple(calls) if calls[1:] else (),
        )
        return Answer(ask.key, found.score), body

    def scores_of(self, candidate_id: str, seeds: Sequence[int]) -> Mapping[int, float]:
        """What the search was told of a candidate."""
        return {seed: self.reviews[candidate_id, seed].score for seed in seeds if (candidate_id, seed) in self.reviews}
