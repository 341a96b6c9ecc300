"""The demo's tickets: which seed stands for which customer message, and what the support team means by each label."""

import hashlib
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from importlib.resources import files
from types import MappingProxyType

from pydantic import BaseModel, ConfigDict

from promptjobs.errors import InvalidRequest


class Split(StrEnum):
    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


FIRST_SEED = MappingProxyType({Split.TRAIN: 0, Split.VALIDATION: 1000, Split.TEST: 2000})
_PER_LABEL = {Split.TRAIN: 10, Split.VALIDATION: 6, Split.TEST: 10}


class _LabelEntry(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str
    rule: str
    notes: list[str]
    messages: list[str]


class _TicketFile(BaseModel):
    model_config = ConfigDict(extra="forbid")

    labels: list[_LabelEntry]


@dataclass(frozen=True, slots=True)
class HouseRule:
    """How the support team uses one label: a rule in one sentence, and notes on particular cases."""

    label: str
    rule: str
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Ticket:
    seed: int
    split: Split
    message: str
    label: str


@dataclass(frozen=True, slots=True)
class Dataset:
    """Tickets by seed, and house rules by label in the order of the file."""

    house_rules: Mapping[str, HouseRule]
    tickets: Mapping[int, Ticket]

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(self.house_rules)

    def seeds(self, split: Split) -> list[int]:
        """The seeds of one split, ascending. Every run of as many seeds as there are labels holds each label once."""
        return [seed for seed, ticket in sorted(self.tickets.items()) if ticket.split is split]

    def ticket(self, seed: int) -> Ticket:
        """The ticket of `seed`; InvalidRequest when no split holds it."""
        if seed not in self.tickets:
            ranges = ", ".join(f"{split} {self.seeds(split)[0]}..{self.seeds(split)[-1]}" for split in Split)
            raise InvalidRequest(f"seed {seed} is not in the data set ({ranges})", "env.seed")
        return self.tickets[seed]


@lru_cache(maxsize=1)
def load_dataset() -> Dataset:
    """Read the tickets and split them: stratified by label, in an order that only the messages' hashes decide."""
    text = (files("promptjobs.demo") / "data" / "tickets.toml").read_text(encoding="utf-8")
    entries = _TicketFile.model_validate(tomllib.loads(text)).labels
    house_rules = {entry.name: HouseRule(entry.name, entry.rule, tuple(entry.notes)) for entry in entries}
    tickets = [ticket for place, entry in enumerate(entries) for ticket in _split(entry, place, len(entries))]
    by_seed = {ticket.seed: ticket for ticket in sorted(tickets, key=lambda ticket: ticket.seed)}
    return Dataset(MappingProxyType(house_rules), MappingProxyType(by_seed))


def _split(entry: _LabelEntry, place: int, label_count: int) -> list[Ticket]:
    shuffled = sorted(entry.messages, key=lambda message: hashlib.sha256(message.encode()).digest())
    tickets: list[Ticket] = []
    for split, count in _PER_LABEL.items():
        taken = shuffled[len(tickets) : len(tickets) + count]
        first = FIRST_SEED[split] + place
        tickets += [Ticket(first + turn * label_count, split, text, entry.name) for turn, text in enumerate(taken)]
    return tickets


USER_PATTERN = "Customer message: {message}"


def baseline_system(labels: Sequence[str]) -> str:
    """The weak instruction that the demo starts from: it names the labels and says nothing about them."""
    return f"Classify the customer message. Labels: {', '.join(labels)}."


BASELINE_SYSTEM = baseline_system(load_dataset().labels)
