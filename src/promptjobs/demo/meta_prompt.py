"""Reads a reflection meta-prompt: the current text, and the records of what went well and wrong with it."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

_FENCE = re.compile(
    r"^(?P<ticks>`{3,}|~{3,})[^\n`]*\n(?P<body>.*?)(?:(?<=\n)|\n)(?P=ticks)[ \t]*$", re.DOTALL | re.MULTILINE
)
_TAGGED = re.compile(r"<(?P<tag>current\w*|instruction|prompt)>\s*(?P<body>.*?)\s*</(?P=tag)>", re.DOTALL)
_NAMES_CURRENT = re.compile(r"(?i)\b(?:current|existing|instruction|prompt|text)\b")
_FIELDS = {
    "message": ("input", "inputs", "example input", "task input"),
    "output": ("output", "outputs", "generated output", "generated outputs", "model output", "response", "answer"),
    "feedback": ("feedback", "reviewer feedback", "critique"),
    "expected": ("expected", "expected output", "expected answer", "expected label", "correct answer", "gold"),
    "score": ("score", "reward"),
}
_FIELD_OF = {name: field for field, names in _FIELDS.items() for name in names}
_HEADING = re.compile(
    r"(?i)^\s*(?:(?P<mark>#{1,6}|\*\*)\s*)?(?P<name>" + "|".join(sorted(_FIELD_OF, key=len, reverse=True)) + r")"
    r"(?:\s+\d+)?\s*(?:\*\*)?\s*(?P<colon>:)?\s*(?:\*\*)?\s*(?P<rest>.*)$"
)
_OTHER_HEADING = re.compile(r"^\s*#{1,2}\s|^\s*-{3,}\s*$")
_DECORATION = re.compile(r"^\s*(?:#{3,6}\s.*|`{3,}\w*|~{3,}\w*)$")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


@dataclass(frozen=True, slots=True)
class Record:
    """One example: what came in, what the model answered, and what was said of it.

    Texts are "" and the score, in [0, 1], None where the prompt does not show them.
    """

    message: str
    output: str
    feedback: str
    expected: str
    score: float | None


@dataclass(frozen=True, slots=True)
class MetaPrompt:
    """The text to improve ("" where none is shown) and the records, in the order of the prompt."""

    current: str
    records: tuple[Record, ...]


def read_meta_prompt(text: str) -> MetaPrompt:
    """Read the current text from its fence (or tag) and the records from their headings; other text is skipped."""
    found = _find_current(text)
    if found is None:
        return MetaPrompt("", tuple(_records(text.splitlines())))
    rest = f"{text[: found.start()]}\n# \n{text[found.end() :]}"
    return MetaPrompt(found["body"].strip("\n"), tuple(_records(rest.splitlines())))


def _find_current(text: str) -> re.Match[str] | None:
    """The fence that the words before it announce as the current text, else a tagged part, else the first fence."""
    fences = list(_FENCE.finditer(text))
    for fence in fences:
        before = text[: fence.start()].rstrip().splitlines()[-3:]
        if not any(_HEADING.match(line) for line in before) and _NAMES_CURRENT.search("\n".join(before)):
            return fence
    return _TAGGED.search(text) or (fences[0] if fences else None)


def _records(lines: Iterable[str]) -> Iterable[Record]:
    gathered: dict[str, list[str]] = {}
    field: str | None = None
    for line in lines:
        heading = _HEADING.match(line)
        if heading and (heading["colon"] or (heading["mark"] and not heading["rest"])):
            field = _FIELD_OF[heading["name"].lower()]
            if field == "message" and gathered:
                yield _record(gathered)
                gathered = {}
            gathered.setdefault(field, []).append(heading["rest"])
        elif _OTHER_HEADING.match(line):
            field = None
        elif field is not None and not _DECORATION.match(line):
            gathered[field].append(line)
    if gathered:
        yield _record(gathered)


def _record(gathered: dict[str, list[str]]) -> Record:
    texts = {field: "\n".join(lines).strip() for field, lines in gathered.items()}
    number = _NUMBER.search(texts.get("score", ""))
    return Record(
        message=texts.get("message", ""),
        output=texts.get("output", ""),
        feedback=texts.get("feedback", ""),
        expected=texts.get("expected", ""),
        score=float(number[0]) if number else None,
    )
