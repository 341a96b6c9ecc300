"""Scores an answer to a ticket, and says what was wrong with it as a careful human reviewer would."""

from dataclasses import dataclass

from promptjobs.demo.dataset import Dataset, HouseRule, Ticket
from promptjobs.demo.wording import features

_QUOTES = "\"'`“”‘’"


@dataclass(frozen=True, slots=True)
class Review:
    """score: 1.0 for exactly the right label, else 0.0."""

    score: float
    feedback: str


def parse_label(answer: str, labels: tuple[str, ...]) -> str | None:
    """The label that the whole answer is, but for blanks, quotes and a final period; None when it is anything else."""
    bare = answer.strip().strip(_QUOTES).removesuffix(".").strip().strip(_QUOTES)
    return bare if bare in labels else None


def review(dataset: Dataset, ticket: Ticket, answer: str) -> Review:
    """Compare the answer with the ticket's label."""
    given = parse_label(answer, dataset.labels)
    if given == ticket.label:
        return Review(1.0, f"Right: {ticket.label} is the label for this message.")
    if given is not None:
        fault = f"Wrong: the answer is {given}, but the correct label is {ticket.label}."
    elif ticket.label in answer:
        fault = (
            f"The answer is prose around the correct label, {ticket.label}. "
            "It must be the label only and nothing else, so it scores 0."
        )
    else:
        fault = (
            "The answer is not one of the labels: it must be the label only and nothing else. "
            f"The correct label is {ticket.label}."
        )
    house_rule = dataset.house_rules[ticket.label]
    note = _closest_note(house_rule, ticket.message)
    return Review(0.0, f"{fault} House rule for {ticket.label}: {house_rule.rule}" + (f" Note: {note}" if note else ""))


def _closest_note(house_rule: HouseRule, message: str) -> str | None:
    """The note that shares most words with the message; None where no note shares any."""
    asked = set(features(message))
    shared = [len(asked.intersection(features(note))) for note in house_rule.notes]
    best = max(shared)
    return house_rule.notes[shared.index(best)] if best else None
