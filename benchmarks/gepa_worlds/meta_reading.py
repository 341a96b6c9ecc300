"""Reads a meta-prompt in any reasonable layout: the texts to improve, the records, and what is to be written."""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache

FENCE = re.compile(
    r"^(?P<ticks>`{3,}|~{3,})[^\n`]*\n(?P<body>.*?)(?:(?<=\n)|\n)(?P=ticks)[ \t]*$", re.DOTALL | re.MULTILINE
)
TAGGED = re.compile(
    r"<(?P<tag>(?:current|parent|first|second|other|base)?_?(?:text|instructions?|prompt|candidate|version)(?:_\w{1,3})?)>"
    r"\s*(?P<body>.*?)\s*</(?P=tag)>",
    re.DOTALL | re.IGNORECASE,
)
NAMES_TEXT = re.compile(r"(?i)\b(?:current|existing|instructions?|prompts?|texts?|candidates?|versions?|parents?)\b")
REJECTED = re.compile(
    r"(?i)\b(?:rejected|already tried|tried before|did not help|made it worse|failed (?:edits|attempts|changes))\b"
)
NUMBERED = re.compile(r"^\s*\[?(\d+)[\].:|)]\s?(.*)$")

FIELDS = {
    "start": r"(?:example|record|case|sample|trace|rollout|failure|success) #?\d+",
    "input": r"(?:task |user |example )?inputs?|query|user message|question|item input",
    "output": r"(?:generated |model |actual |given )?outputs?|(?:assistant'?s? )?(?:response|reply)|prediction|"
    r"(?:model )?answer",
    "feedback": r"(?:reviewer |evaluator |evaluation )?feedback|critique|comments?|what went wrong|error analysis",
    "expected": r"(?:expected|gold)(?: (?:output|answer|response|label))?|"
    r"(?:correct|right|reference) (?:output|answer|label)|target",
    "score": r"score|reward",
}
_NAMES = "|".join(f"(?P<{name}>{pattern})" for name, pattern in FIELDS.items())
HEADING = re.compile(
    rf"^\s*(?P<mark>#{{1,6}}\s*|\*\*|<|\[\[ ## |[-*]\s+)?(?:{_NAMES})(?:\s*\([^)\n]{{0,40}}\))?\s*"
    r"(?P<end>\*\*\s*:?|:\s*\*{0,2}|>| ## \]\]|(?=$))\s*(?P<rest>.*)$",
    re.IGNORECASE,
)
OPERATION = re.compile(
    r"^\W{0,6}(?:ADD|INSERT|DELETE|REMOVE|REPLACE)\b|^\W*\"(?:op|operation|action|edit)\"", re.MULTILINE
)
SECTION = re.compile(r"^\s*#{1,2}\s+\S|^\s*-{3,}\s*$|^\s*</(?:examples?|records?)>\s*$", re.IGNORECASE)
DECORATION = re.compile(r"^\s*(?:`{3,}\w*|~{3,}\w*|</\w+>)\s*$")
CLOSING_TAG = re.compile(r"</\w+>\s*$")
ASKING = re.compile(
    r"(?i)^\s*(?:your task is|now |please |read (?:the|all)|provide |write |return |answer with|respond |reply with)"
)


@dataclass(frozen=True, slots=True)
class Record:
    """One example; texts are "" where they are not shown."""

    input: str = ""
    output: str = ""
    feedback: str = ""
    expected: str = ""
    score: float | None = None


@dataclass(frozen=True, slots=True)
class MetaPrompt:
    """texts: what is to be improved, and others of its kind. numbers: of the first text's lines, where they were shown.

    rest: all that is neither a text nor a record, for what is asked. rejected: edits that are said to have failed.
    """

    texts: tuple[str, ...]
    numbers: tuple[int, ...]
    records: tuple[Record, ...]
    rest: str
    rejected: tuple[str, ...] = field(default=())


@lru_cache(maxsize=256)
def read_meta_prompt(text: str) -> MetaPrompt:
    found = _texts(text)
    rest = text
    for match in reversed(found):
        rest = f"{rest[: match.start()]}\n# \n{rest[match.end() :]}"
    records = _json_records(rest)
    other: list[str] = []
    if not records:
        records = list(_records(rest.split("\n"), other))
    texts = [match["body"].strip("\n") for match in found]
    numbers: tuple[int, ...] = ()
    if texts:
        texts[0], numbers = _without_numbers(texts[0])
    return MetaPrompt(
        tuple(texts), numbers, tuple(records), "\n".join(other) if other else rest, tuple(_rejected(rest))
    )


def _texts(text: str) -> list[re.Match[str]]:
    """Fences that the words before them announce as the text, else tagged parts, else the first fence."""
    fences = list(FENCE.finditer(text))
    announced = []
    for fence in fences:
        before = [line for line in text[: fence.start()].rstrip().split("\n")[-2:] if line.strip()]
        words = "\n".join(before)
        if REJECTED.search(words) or any(HEADING.match(line) for line in before):
            continue
        is_example = re.search(
            r"(?i)\b(?:like this|for example|in this form|format|within|between|reply|examples of)\b", words
        )
        if NAMES_TEXT.search(words) and not is_example and _is_text(fence["body"]):
            announced.append(fence)
    if announced:
        return announced
    tagged = [match for match in TAGGED.finditer(text) if match["body"] and len(match["body"]) > 10]
    return tagged or fences[:1]


def _is_text(body: str) -> bool:
    """Whether a fence holds a text, and neither records nor an example of a reply."""
    if OPERATION.search(body):
        return False
    return sum(bool(HEADING.match(line)) for line in body.split("\n")) < 3 or "# Example" not in body


def _without_numbers(text: str) -> tuple[str, tuple[int, ...]]:
    """A text whose every line was numbered for reference, without the numbers."""
    lines = [line for line in text.split("\n") if line.strip()]
    found = [NUMBERED.match(line) for line in lines]
    if len(lines) < 1 or not all(found):
        return text, ()
    numbers = tuple(int(match[1]) for match in found if match)
    if list(numbers) != list(range(numbers[0], numbers[0] + len(numbers))):
        return text, ()
    return "\n".join(match[2] for match in found if match), numbers


def _records(lines: Iterable[str], other: list[str]) -> Iterable[Record]:
    gathered: dict[str, list[str]] = {}
    current: str | None = None
    for line in lines:
        heading = HEADING.match(line)
        if heading and (heading["mark"] or heading["end"]):
            name = next(name for name in FIELDS if heading[name])
            if (
                name == "start"
                or (name == "input" and gathered)
                or (name in ("feedback", "output") and name in gathered)
            ):
                if gathered:
                    yield _record(gathered)
                gathered = {}
            current = None if name == "start" else name
            if current:
                gathered.setdefault(current, []).append(CLOSING_TAG.sub("", heading["rest"] or ""))
        elif SECTION.match(line) or (ASKING.match(line) and current in ("feedback", "score", "expected")):
            current = None
            other.append(line)
        elif current is None:
            other.append(line)
        elif not DECORATION.match(line):
            gathered[current].append(line)
    if gathered:
        yield _record(gathered)


def _record(gathered: dict[str, list[str]]) -> Record:
    texts = {name: "\n".join(lines).strip() for name, lines in gathered.items()}
    number = re.search(r"\d+(?:\.\d+)?", texts.pop("score", ""))
    return Record(**texts, score=float(number[0]) if number else None)


def _json_records(text: str) -> list[Record]:
    """Records that are written as JSON objects with an input and an output or feedback."""
    decoder, records = json.JSONDecoder(), []
    patterns = {name: re.compile(rf"(?:{pattern})$", re.IGNORECASE) for name, pattern in FIELDS.items()}
    at = 0
    while (at := text.find("{", at)) >= 0:
        try:
            found, end = decoder.raw_decode(text, at)
        except ValueError:
            at += 1
            continue
        named = {
            name: value if isinstance(value, str) else json.dumps(value)
            for key, value in found.items()
            if (name := next((n for n, p in patterns.items() if p.match(key.replace("_", " "))), None))
        }
        if "input" in named and ({"output", "feedback"} & set(named)):
            records.append(_record({name: [value] for name, value in named.items() if name != "start"}))
            at = end
        else:
            at += 1
    return records


def _rejected(text: str) -> Iterable[str]:
    """The lines below a heading that speaks of rejected edits, up to the next heading."""
    is_open = False
    for line in text.split("\n"):
        if re.match(r"^\s*(?:#{1,6}\s|\*\*)|.*:\s*$", line) or not line.strip():
            is_heading = bool(line.strip())
            is_open = bool(REJECTED.search(line)) if is_heading else is_open
        elif is_open and not DECORATION.match(line):
            yield from (part.lstrip("-*• +") for part in line.strip().split(" / "))
