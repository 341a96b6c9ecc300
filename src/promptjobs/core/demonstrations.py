"""Demonstrations: solved examples as a component of a prompt, beside its instruction."""

import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from promptjobs.core.asks import RolloutBody
from promptjobs.core.prompt import PLACEHOLDER, PromptTemplate

MARK = "\n\n# Worked examples\n\n"
"""What stands between an instruction and its examples: how the two are told apart."""

OWN_HEADING = "\n\n## Worked examples\n\n"
"""What becomes of such a heading that a meta-model has written into an instruction."""

RUNGS = (4, 12, 30, 60, 120)
"""Numbers of examples that are tried, one after the other, for as long as they help."""

FEWEST = 4
LONGEST = 6_000
"""Characters of an example; a longer one would crowd out the instruction."""


@dataclass(frozen=True, slots=True)
class Example:
    """An input of the training data with its right answer."""

    seed: int
    input: str
    output: str


def own_text(content: str) -> str:
    """A section's text without its examples."""
    at = content.rfind(MARK)
    return content if at < 0 else content[:at]


def with_own_text(content: str, text: str) -> str:
    """The section with another instruction and the same examples."""
    at = content.rfind(MARK)
    return text if at < 0 else text.rstrip("\n") + content[at:]


def with_examples(content: str, examples: Sequence[Example]) -> str:
    """The section's instruction with exactly these examples."""
    text = own_text(content)
    shown = "\n\n".join(f"Input: {example.input}\nOutput: {example.output}" for example in examples)
    return f"{text.rstrip(chr(10))}{MARK}{shown}" if examples else text


def example_of(seed: int, body: RolloutBody, score: float, template: PromptTemplate) -> Example | None:
    """What a rollout teaches: the expected answer, or the given one where its score is perfect; None where neither.

    The input is what the task app said beyond the template's own lines. A text with one of the template's placeholders
    in it is no example: the placeholder would be filled in.
    """
    output = body.expected or (body.output if score >= 1.0 else "")
    text = _input_of(body, template)
    both = f"{text}\n{output}"
    is_safe = MARK not in both and not any(name in template.wildcards for name in PLACEHOLDER.findall(both))
    if not output.strip() or not text.strip() or not is_safe or len(both) > LONGEST:
        return None
    return Example(seed, text.strip("\n"), output.strip())


def _input_of(body: RolloutBody, template: PromptTemplate) -> str:
    """The first user message without the lines around its placeholders, and what follows as it is."""
    said = [message.content for message in body.messages if message.role == "user"]
    forms = [section.content for section in template.sections if section.role == "user"]
    parts = []
    for at, whole in enumerate(said):
        text = whole
        form = forms[at] if at < len(forms) else ""
        found = next((m for m in PLACEHOLDER.finditer(form) if m[1] in template.wildcards), None)
        if found:
            last = [m for m in PLACEHOLDER.finditer(form) if m[1] in template.wildcards][-1]
            lead = form[: form.rfind("\n", 0, found.start()) + 1]
            tail = form[last.end() :]
            tail = tail[tail.find("\n") :] if "\n" in tail else ""
            text = text.removeprefix(lead).removesuffix(tail) if tail else text.removeprefix(lead)
        parts.append(text)
    return "\n\n".join(parts)


@dataclass(slots=True)
class Ladder:
    """When to try how many examples. After a success the next step comes sooner, after a failure later.

    most: examples at most; 0 turns demonstrations off. interval: finished proposals between two tries.
    """

    most: int
    interval: int = 2
    examples: dict[int, Example] = field(default_factory=dict)
    held: dict[str, tuple[int, ...]] = field(default_factory=dict)
    is_open: bool = True
    _since: int = 0

    def learn(self, example: Example | None) -> None:
        if example is not None and self.most:
            self.examples.setdefault(example.seed, example)

    def proposal_finished(self) -> None:
        self._since += 1

    def next_count(self, candidate_id: str) -> int:
        """How many examples to try beside this candidate's instruction now; 0 where it is not the time."""
        has, known = len(self.held.get(candidate_id, ())), min(len(self.examples), self.most)
        if not self.is_open or self._since < self.interval or known < FEWEST:
            return 0
        count = next((min(rung, known) for rung in RUNGS if rung > has), 0)
        return count if count >= max(FEWEST, 1.5 * has) else 0

    def begin(self) -> None:
        """One try at a time."""
        self.is_open = False

    def end(self, has_won: bool) -> None:
        self.is_open = True
        self._since = 0
        self.interval = max(1, self.interval // 2) if has_won else min(64, 2 * self.interval)

    def draw(self, count: int, rng: random.Random, without: Collection[int] = ()) -> list[Example]:
        """`count` of the known examples, every answer as often as any other as far as there are such.

        without: seeds whose examples are not to be shown; there may be fewer than `count` then.
        """
        by_output: dict[str, list[Example]] = {}
        order = [self.examples[seed] for seed in sorted(self.examples) if seed not in without]
        rng.shuffle(order)
        for example in order:
            by_output.setdefault(example.output, []).append(example)
        groups, drawn = list(by_output.values()), list[Example]()
        for turn in range(max(map(len, groups), default=0)):
            drawn += [group[turn] for group in groups if turn < len(group)]
        chosen = drawn[:count]
        rng.shuffle(chosen)
        return chosen

    def seeds_of(self, candidate_id: str) -> Sequence[int]:
        """The seeds that a candidate has seen the answers of."""
        return self.held.get(candidate_id, ())

    def inherit(self, child: str, parent: str) -> None:
        if parent in self.held:
            self.held[child] = self.held[parent]


def texts_of(template: PromptTemplate) -> Mapping[str, str]:
    """Each section's instruction, by its name."""
    return {section.name: own_text(section.content) for section in template.sections}
