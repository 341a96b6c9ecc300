"""DSPy's chat format: lifts what a simulated model is to see out of DSPy's messages, and wraps its answer.

Both sides of a comparison so show the models the same: an instruction, demonstrations as turns, and an input.
"""

import re
from collections.abc import Mapping, Sequence

INPUT, OUTPUT = "request", "answer"
"""The fields of the program that is optimized."""

HEADER = re.compile(r"^\[\[ ## (\w+) ## \]\][ \t]*$", re.MULTILINE)
NAMED = re.compile(r"`\[\[ ## (\w+) ## \]\]`")
REMINDER = "\n\nRespond with the corresponding output fields, starting with the field "
OBJECTIVE = "In adhering to this structure, your objective is:"
INDENT = " " * 8
COMPLETED = "completed"


def fields(text: str) -> dict[str, str]:
    """The fields of one message, without the reminder of what to answer."""
    parts = HEADER.split(text.partition(REMINDER)[0])
    return {name: content.strip("\n") for name, content in zip(parts[1::2], parts[2::2], strict=True)}


def asked(messages: Sequence[tuple[str, str]]) -> tuple[dict[str, str], list[str]]:
    """The input fields of the last message, and the names of the fields that are to be answered."""
    content = messages[-1][1]
    names = NAMED.findall(content.partition(REMINDER)[2])
    return fields(content), [name for name in names if name != COMPLETED]


def instruction(system: str) -> str:
    """What the program's author or the optimizer has written, without DSPy's own words."""
    lines = system.partition(OBJECTIVE)[2].split("\n")[1:]
    return "\n".join(line.removeprefix(INDENT).rstrip() for line in lines)


def conversation(messages: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """The program's call as a plain conversation: system, demonstrations as turns, the input."""
    plain = []
    for role, content in messages:
        if role == "system":
            plain.append((role, instruction(content)))
        else:
            plain.append((role, fields(content)[INPUT if role == "user" else OUTPUT]))
    return plain


def wrapped(values: Mapping[str, str]) -> str:
    parts = [f"[[ ## {name} ## ]]\n{value}" for name, value in values.items()]
    return "\n\n".join([*parts, f"[[ ## {COMPLETED} ## ]]"])
