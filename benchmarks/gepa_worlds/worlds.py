"""What a task offers to an optimizer's runner, and one rollout of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

from promptjobs.core.prompt import Message, PromptTemplate, Section, render


@dataclass(frozen=True, slots=True)
class Splits:
    """Seeds to learn from, to choose by, and to report on only."""

    train: tuple[int, ...] = tuple(range(60))
    validation: tuple[int, ...] = tuple(range(1000, 1040))
    test: tuple[int, ...] = tuple(range(5000, 5200))


SPLITS = Splits()


@dataclass(frozen=True, slots=True)
class Verdict:
    """score: in [0, 1]."""

    score: float
    feedback: str


@dataclass(frozen=True, slots=True)
class Played:
    """One rollout. expected: "" for seeds that are not for training."""

    output: str
    score: float
    feedback: str
    expected: str


class Task(Protocol):
    """Pure: the same arguments give the same texts. baseline, handwritten: system texts, weak and good.

    description: what a task app would say of it. user_pattern: the user message with the placeholder {input}.
    samples: whether draws differ.
    """

    @property
    def name(self) -> str: ...
    @property
    def description(self) -> str: ...
    @property
    def baseline(self) -> str: ...
    @property
    def handwritten(self) -> str: ...
    @property
    def user_pattern(self) -> str: ...
    @property
    def samples(self) -> bool: ...
    @property
    def splits(self) -> Splits: ...

    def __hash__(self) -> int: ...

    def input(self, seed: int) -> str: ...

    def expected(self, seed: int) -> str: ...

    def answer(self, messages: Sequence[tuple[str, str]], draw: int = 0) -> str: ...

    def grade(self, seed: int, output: str) -> Verdict: ...

    def reflect(self, messages: Sequence[tuple[str, str]], temperature: float, draw: int, salt: int = 0) -> str: ...


@lru_cache(maxsize=20_000)
def play(task: Task, messages: tuple[Message, ...], seed: int, draw: int = 0) -> Played:
    """The policy model on messages that hold the input of `seed`."""
    output = task.answer([(message.role, message.content) for message in messages], draw)
    verdict = task.grade(seed, output)
    return Played(output, verdict.score, verdict.feedback, task.expected(seed) if seed in task.splits.train else "")


def template_of(task: Task, system: str) -> PromptTemplate:
    sections = (Section("system", "system", system, 0), Section("user", "user", task.user_pattern, 1))
    return PromptTemplate(sections, {"input": True})


def messages_for(task: Task, template: PromptTemplate, seed: int) -> tuple[Message, ...]:
    return render(template, {"input": task.input(seed)})


def score(task: Task, template: PromptTemplate, seeds: Sequence[int]) -> float:
    """The mean score on seeds; of three draws each, apart from those of any search, where the model samples."""
    draws = range(-3, 0) if task.samples else range(1)
    scores = [play(task, messages_for(task, template, seed), seed, draw).score for seed in seeds for draw in draws]
    return sum(scores) / len(scores)
