"""Few-shot examples of a stage: made of its own calls in rollouts, and drawn into sets that a prompt may show."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb
from typing import Any

from promptjobs.core.asks import RolloutBody
from promptjobs.core.config_mipro import DEFAULT_STAGE
from promptjobs.core.demonstrations import LONGEST, MARK
from promptjobs.core.pipeline import ModuleCalls, calls_by_module
from promptjobs.core.prompt import PLACEHOLDER, Message, PromptPattern, PromptTemplate
from promptjobs.errors import PromptNotMatched

TRIES = 20
"""Draws in a row that may repeat a set before any set that is new will do."""


@dataclass(frozen=True, slots=True)
class FewShotExample:
    """A call of a stage with a good answer, as messages that can stand in a prompt; the last one is the answer.

    input_data: the wildcards' values in that call, else its text as "input". output_data: the answer as "output".
    score: the rollout's, in [0, 1]. is_labelled: the answer is the task app's own, 1 its score. seed: -1 for an example
    of another job.
    """

    seed: int
    stage_id: str
    input_data: Mapping[str, str]
    output_data: Mapping[str, str]
    score: float
    messages: tuple[Message, ...]
    is_labelled: bool = False

    @property
    def input(self) -> str:
        """All that comes before the answer, as one text; a dialogue says who speaks."""
        said = self.messages[:-1]
        is_dialogue = any(message.role != "user" for message in said)
        return "\n\n".join(f"[{m.role}]\n{m.content}" if is_dialogue else m.content for m in said)

    @property
    def output(self) -> str:
        return self.messages[-1].content

    def to_json(self) -> dict[str, Any]:
        return {
            "seed": self.seed,
            "stage_id": self.stage_id,
            "input_data": dict(self.input_data),
            "output_data": dict(self.output_data),
            "score": self.score,
            "messages": [message.to_json() for message in self.messages],
            "is_labelled": self.is_labelled,
        }


def few_shot_examples(
    template: PromptTemplate, body: RolloutBody, seed: int, score: float, *, threshold: float
) -> dict[str, FewShotExample]:
    """What a rollout with this prompt teaches, by module ("" for an undivided prompt).

    A rollout with at least the threshold's score is an example of each module's last call. Of a program of one module
    any rollout is one where the task app has told the right answer, which takes the place of one that is not perfect.
    An example shows what the task app said from the module's last user message on, byte for byte; calls that go
    through tools are none, nor are texts that are empty, longer than LONGEST, or would be filled in where they stand.
    """
    is_correct, is_whole = score >= threshold, len(template.modules) == 1
    found = {}
    for module, calls in calls_by_module(template, body).items():
        expected = body.expected if is_whole and score < 1.0 else ""
        if is_correct or expected:
            example = _example(template, module, calls, seed, 1.0 if expected else score, expected)
            if example is not None:
                found[module] = example
    return found


def _example(
    template: PromptTemplate, module: str, calls: ModuleCalls, seed: int, score: float, expected: str
) -> FewShotExample | None:
    """expected: the right answer, which takes the place of a wrong one; "" where the given one is right."""
    call, part = calls.calls[-1], template.part(module)
    try:
        values = PromptPattern.lenient(part).match(call.messages).values
    except PromptNotMatched:
        return None
    asked = _asked(part, call.messages)
    # What a wrong dialogue says on the way to its answer is no example.
    if not asked or (expected and any(message.role != "user" for message in asked)):
        return None
    messages = (*asked, Message("assistant", expected or call.reply))
    if not _can_stand([message.content for message in messages], template.wildcards):
        return None
    text = "\n\n".join(message.content for message in asked if message.role == "user")
    return FewShotExample(
        seed=seed,
        stage_id=module or DEFAULT_STAGE,
        input_data=dict(values) or {"input": text},
        output_data={"output": messages[-1].content},
        score=score,
        messages=messages,
        is_labelled=bool(expected),
    )


def _asked(part: PromptTemplate, messages: Sequence[Message]) -> tuple[Message, ...]:
    """From the last user message of the prompt itself on, what is said; nothing where that is no plain dialogue."""
    own = [at for at, section in enumerate(part.sections) if section.role == "user"]
    said = [*(messages[at] for at in own[-1:]), *messages[len(part.sections) :]]
    said = [message for message in said if message.role not in ("system", "developer")]
    while said and said[0].role == "assistant":
        said.pop(0)
    is_plain = all(message.role in ("user", "assistant") for message in said)
    return tuple(said) if is_plain and said and said[-1].role == "user" else ()


def _can_stand(texts: Sequence[str], wildcards: Mapping[str, bool]) -> bool:
    """Whether a prompt can hold these texts and they stay as they are."""
    whole = "\n".join(texts)
    return (
        all(text.strip() for text in texts)
        and len(whole) <= LONGEST
        and MARK.rstrip("\n") not in whole
        and not any(name in wildcards for name in PLACEHOLDER.findall(whole))
    )


def demo_sets(
    pool: Sequence[FewShotExample], max_size: int, max_sets: int, rng: random.Random
) -> list[tuple[int, ...]]:
    """At most max_sets sets of indices into the pool, no two of the same examples; all there are where they are fewer.

    Each set has 1 to max_size examples, all sizes as often as there are sets for; within a set every answer stands as
    often as any other, as far as that can be had. Any first sets of the list vary in size too.
    """
    sizes = range(1, min(max_size, len(pool)) + 1)
    sets: list[tuple[int, ...]] = []
    known: dict[int, set[frozenset[int]]] = {size: set() for size in sizes}
    while len(sets) < max_sets:
        open_sizes = [size for size in sizes if len(known[size]) < comb(len(pool), size)]
        if not open_sizes:
            break
        size = min(open_sizes, key=lambda each: (len(known[each]), -each))
        drawn = _new_set(pool, size, known[size], rng)
        known[size].add(frozenset(drawn))
        sets.append(drawn)
    return sets


def _new_set(
    pool: Sequence[FewShotExample], size: int, known: set[frozenset[int]], rng: random.Random
) -> tuple[int, ...]:
    """A set that is not known yet; there must be one."""
    for attempt in range(2 * TRIES):
        drawn = _balanced(pool, size, rng) if attempt < TRIES else rng.sample(range(len(pool)), size)
        if frozenset(drawn) not in known:
            return tuple(drawn)
    return next(each for each in combinations(range(len(pool)), size) if frozenset(each) not in known)


def _balanced(pool: Sequence[FewShotExample], size: int, rng: random.Random) -> list[int]:
    order = list(range(len(pool)))
    rng.shuffle(order)
    by_answer: dict[str, list[int]] = {}
    for index in order:
        by_answer.setdefault(pool[index].output, []).append(index)
    groups = list(by_answer.values())
    turns = range(max(map(len, groups)))
    chosen = [group[turn] for turn in turns for group in groups if turn < len(group)][:size]
    rng.shuffle(chosen)
    return chosen
