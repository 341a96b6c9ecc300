"""Finds the pattern of a task app's own messages from a few examples of them."""

import re
from collections.abc import Sequence

from promptjobs.core.prompt import Message, PromptTemplate, Section
from promptjobs.errors import PromptError

# Text that examples share by chance must not become literal: what is common is cut back to a line or a label.
PREFIX_END = re.compile(r"(?:\n|[:>\]]\s*)", re.DOTALL)
SUFFIX_START = re.compile(r"\n")


def infer_template(examples: Sequence[Sequence[Message]]) -> PromptTemplate:
    """A template whose literal text all examples share; what differs becomes a wildcard.

    examples: the messages of the first LLM call of some rollouts, on different seeds. With one example only, every
    user message is taken to be input. Raises PromptError where the examples have no message in common.
    """
    shared = _shared_roles(examples)
    if not shared:
        raise PromptError("the task app's LLM calls share no messages: set initial_prompt in the config")
    columns = [[example[at].content for example in examples] for at in range(len(shared))]
    varying = [at for at, texts in enumerate(columns) if _varies(shared[at], texts)]
    taken = {name for texts in columns for text in texts for name in re.findall(r"\{(\w+)\}", text)}
    names = dict(zip(varying, _free_names(len(varying), taken), strict=True))
    sections, wildcards = [], {}
    for at, (role, texts) in enumerate(zip(shared, columns, strict=True)):
        content = texts[0]
        if at in names:
            prefix, suffix = _common(texts)
            content = f"{prefix}{{{names[at]}}}{suffix}"
            wildcards[names[at]] = False  # a few examples do not show that an input is never empty
        sections.append(Section(f"{role}_{at}", role, content, at))
    return PromptTemplate(tuple(sections), wildcards, id="inferred", name="the task app's own messages")


def _shared_roles(examples: Sequence[Sequence[Message]]) -> list[str]:
    roles: list[str] = []
    for column in zip(*examples, strict=False):
        if len({message.role for message in column}) > 1:
            break
        roles.append(column[0].role)
    return roles


def _varies(role: str, texts: Sequence[str]) -> bool:
    return len(set(texts)) > 1 or (len(texts) == 1 and role == "user")


def _free_names(count: int, taken: set[str]) -> list[str]:
    candidates = ["input", *(f"input_{n}" for n in range(2, count + len(taken) + 2))]
    return [name for name in candidates if name not in taken][:count]


def _common(texts: Sequence[str]) -> tuple[str, str]:
    """Prefix and suffix that all texts share, cut back to a boundary; they never overlap."""
    shortest = min(texts, key=len)
    if len(set(texts)) == 1:
        return "", ""
    length = next((i for i in range(len(shortest)) if len({text[i] for text in texts}) > 1), len(shortest))
    boundary = max((m.end() for m in PREFIX_END.finditer(shortest[:length])), default=0)
    prefix = shortest[:boundary]
    room = len(shortest) - len(prefix)
    back = next((i for i in range(1, room + 1) if len({text[-i] for text in texts}) > 1), room + 1) - 1
    tail = shortest[len(shortest) - back :] if back else ""
    found = SUFFIX_START.search(tail)
    return prefix, tail[found.start() :] if found else ""
