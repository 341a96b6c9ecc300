"""Scores an answer to a ticket, and says what was wrong with it as a careful human reviewer would."""

from dataclasses import dataclass

from promptjobs.demo.dataset import Dataset, HouseRule, Ticket
from promptjobs.demo.programs import CLASSIFY, SUMMARIZE
from promptjobs.demo.wording import feature, features, words

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
    fault = _fault(dataset, ticket, answer)
    if fault is None:
        return Review(1.0, _praise(ticket))
    return Review(0.0, f"{fault} House rule for {ticket.label}: {_rule(dataset, ticket)}")


def review_triage(dataset: Dataset, ticket: Ticket, summary: str, answer: str) -> Review:
    """Compare the answer with the ticket's label, and say which of the two steps went wrong, or that both did.

    The summary is at fault where it lost more than half of what the message has in common with the rule of its label;
    the classification where something of that was left, or was never there, or where its form is wrong.
    """
    fault = _fault(dataset, ticket, answer)
    if fault is None:
        return Review(1.0, _praise(ticket))
    deciding = _deciding(dataset.house_rules[ticket.label], ticket.message)
    known = set(features(summary))
    lost = [word for word, form in deciding.items() if form not in known]
    rule = _rule(dataset, ticket)
    said = [fault]
    if 2 * len(lost) > len(deciding):
        shown = ", ".join(f"'{word}'" for word in lost)
        said.append(f"Step {SUMMARIZE} went wrong: the summary leaves out {shown}. House rule for summaries: {rule}")
    else:
        said.append(f"Step {SUMMARIZE} was right.")
    if not deciding or len(lost) < len(deciding) or parse_label(answer, dataset.labels) is None:
        said.append(f"Step {CLASSIFY} went wrong: House rule for {ticket.label}: {rule}")
    else:
        said.append(f"Step {CLASSIFY} could not know better.")
    return Review(0.0, " ".join(said))


def _praise(ticket: Ticket) -> str:
    return f"Right: {ticket.label} is the label for this message."


def _fault(dataset: Dataset, ticket: Ticket, answer: str) -> str | None:
    """What is wrong with the answer itself; None where it is right."""
    given = parse_label(answer, dataset.labels)
    if given == ticket.label:
        return None
    if given is not None:
        return f"Wrong: the answer is {given}, but the correct label is {ticket.label}."
    if ticket.label in answer:
        return (
            f"The answer is prose around the correct label, {ticket.label}. "
            "It must be the label only and nothing else, so it scores 0."
        )
    return (
        "The answer is not one of the labels: it must be the label only and nothing else. "
        f"The correct label is {ticket.label}."
    )


def _rule(dataset: Dataset, ticket: Ticket) -> str:
    house_rule = dataset.house_rules[ticket.label]
    note = _closest_note(house_rule, ticket.message)
    return house_rule.rule + (f" Note: {note}" if note else "")


def _deciding(house_rule: HouseRule, message: str) -> dict[str, str]:
    """The words of the message that the rule of its label or a note on it speaks of, and their features."""
    told = set(features(" ".join([house_rule.rule, *house_rule.notes])))
    forms = {word: feature(word) for word in words(message)}
    return {word: form for word, form in forms.items() if form is not None and form in told}


def _closest_note(house_rule: HouseRule, message: str) -> str | None:
    """The note that shares most words with the message; None where no note shares any."""
    asked = set(features(message))
    shared = [len(asked.intersection(features(note))) for note in house_rule.notes]
    best = max(shared)
    return house_rule.notes[shared.index(best)] if best else None
