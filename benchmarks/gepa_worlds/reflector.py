"""A reflection model: reads any meta-prompt, learns some lessons from its records, and writes them into the text.

Mechanics. It takes up to ten lessons a call (lessons.py), misses some and spoils some. A rewrite of the whole text
loses lines, more of them the longer the text is, now and then most of a long one; it spoils a few, takes out lines that
the feedback contradicts, and adds phrases that say nothing. Where the meta-prompt asks for changes only (replies.py),
the rest of the text stays as it is, and a change may go to the wrong line. One reply in a hundred lacks its fence.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from .chance import Dice
from .lessons import Error, errors_of, learn, spoiled
from .meta_reading import MetaPrompt, Record, read_meta_prompt
from .prompt_reading import BULLET
from .replies import Change, form_of, written
from .wording import STOP_WORDS, WORD

DROPPED = 0.04
DROPPED_PER_LINE = 0.002
"""For each line beyond twenty: a long text loses more of itself."""
COLLAPSES = 0.06
SPOILS_OLD = 0.04
REPAIRS = 0.35
FILLS = 0.4
UNFENCED = 0.01

FILLER = (
    "Work with care and check the result twice.",
    "Pay attention to every detail of the input.",
    "Accuracy and consistency matter most of all.",
    "Think about the whole before you decide.",
    "Stay calm and professional at all times.",
    "Take all the circumstances into account.",
    "A good answer is a complete answer.",
)
OPENINGS = (
    "You are a seasoned expert for this kind of task.",
    "What follows sums up the lessons of earlier work.",
    "Read these guidelines before you begin.",
)
HEADINGS = ("", "", "Guidelines:", "Lessons learned:", "Rules:")
KEEPS = re.compile(
    r"(?i)\b(?:keep|preserve|retain)\b[^.\n]{0,40}\b(?:works?|rules?|existing|all|rest|lines?|what)\b|"
    r"\bdo not (?:drop|lose)\b"
)


@dataclass(frozen=True, slots=True)
class Reflector:
    def reply(self, messages: Sequence[tuple[str, str]], temperature: float = 1.0, draw: int = 0, salt: int = 0) -> str:
        """The same messages, draw and salt give the same reply; at temperature 0 draws are alike.

        salt: another model of the same skill, for repeated measurements.
        """
        text = "\n\n".join(content for _, content in messages)
        dice = Dice("reflector", salt, draw if temperature > 0 else 0, text)
        meta = read_meta_prompt(text)
        form = form_of(meta.rest, bool(meta.numbers))
        if form.kind == "text":
            reply = rewritten(meta, dice)
            return reply if dice.hits(UNFENCED) else written(form, reply, [], dice)
        return written(form, "", changes(meta, dice, additions_only=form.kind == "additions"), dice)


def rewritten(meta: MetaPrompt, dice: Dice) -> str:
    """The whole new text."""
    errors, _ = errors_of(meta.records)
    keep = 0.6 if KEEPS.search(meta.rest) else 1.0
    lines: list[str] = []
    for at, text in enumerate(meta.texts[:3]):
        lines = (
            _merged(lines, _old_lines(text, errors, meta.records, keep, dice))
            if at
            else _old_lines(text, errors, meta.records, keep, dice)
        )
    new = [lesson for lesson in _new_lessons(meta, lines, dice) if not (_is_known(lesson, lines) and dice.hits(0.6))]
    if new:
        heading = dice.among(HEADINGS)
        lines += [heading] * bool(heading and heading not in lines)
        lines += [f"- {lesson}" for lesson in new]
    if dice.hits(FILLS):
        lines.append(dice.among(FILLER))
    if dice.hits(FILLS / 3) and not any(opening in lines for opening in OPENINGS):
        lines.insert(0, dice.among(OPENINGS))
    return "\n".join(lines) or "Do the task."


def _old_lines(text: str, errors: Sequence[Error], records: Sequence[Record], keep: float, dice: Dice) -> list[str]:
    lines = [line.rstrip() for line in text.split("\n") if line.strip()]
    rate = keep * (DROPPED + DROPPED_PER_LINE * max(0, len(lines) - 20))
    collapses = len(lines) > 8 and dice.hits(COLLAPSES * keep)
    values = sorted({value for error in errors for value in (error.value, error.wrong) if value})
    kept = []
    for at, line in enumerate(lines):
        is_dropped = dice.hits(0.55 if collapses else rate if at else rate / 2)
        if "{" in line or _is_heading(line):
            is_dropped = False
        contradicts = at > 0 and _contradicts(line, errors, records) and dice.hits(REPAIRS)
        if not is_dropped and not contradicts:
            kept.append(spoiled(line, values, dice) if dice.hits(SPOILS_OLD) else line)
    return kept


def _is_heading(line: str) -> bool:
    return line.lstrip().startswith("#") or (line.rstrip().endswith(":") and len(line.split()) <= 8)


def _contradicts(line: str, errors: Sequence[Error], records: Sequence[Record]) -> bool:
    """Whether a line gives the value that the feedback calls wrong, for the field or for an input like that."""
    said = set(WORD.findall(line.lower()))
    for error in errors:
        if error.wrong and error.value and error.wrong.lower() in said and error.value.lower() not in said:
            is_like = (said - STOP_WORDS) & _words(records[error.record].input) - {error.wrong.lower()}
            if error.field in said or is_like:
                return True
    return False


def _merged(lines: list[str], others: Sequence[str]) -> list[str]:
    """Two texts in one: what the second says beyond the first is added."""
    merged = list(lines)
    for line in others:
        if line not in merged and (_is_heading(line) or not _is_known(BULLET.sub("", line), merged)):
            merged.append(line)
    return merged


def _new_lessons(meta: MetaPrompt, lines: Sequence[str], dice: Dice) -> list[str]:
    lessons = learn(meta.records, dice)
    standing = "\n".join(lines)
    return [
        lesson
        for lesson in lessons
        if lesson not in standing and not (_is_known(lesson, meta.rejected) and dice.hits(0.7))
    ]


def _is_known(lesson: str, lines: Sequence[str]) -> bool:
    """Whether some line says nearly the same in nearly the same words."""
    words = _words(lesson)
    return any(len(words & other) > 0.7 * len(words | other) for line in lines if (other := _words(line)))


def _words(text: str) -> set[str]:
    return set(WORD.findall(text.lower())) - STOP_WORDS


def changes(meta: MetaPrompt, dice: Dice, additions_only: bool) -> list[Change]:
    """What is to change in the text: lessons as additions, contradicted lines taken out or put right."""
    text = meta.texts[0] if meta.texts else ""
    lines = [line for line in text.split("\n") if line.strip()]
    first = meta.numbers[0] if meta.numbers else 1
    errors, _ = errors_of(meta.records)
    lessons = [
        lesson for lesson in _new_lessons(meta, lines, dice) if not (_is_known(lesson, lines) and dice.hits(0.6))
    ]
    found: list[Change] = []
    for at, line in enumerate(lines if not additions_only else []):
        if at and not _is_heading(line) and _contradicts(line, errors, meta.records) and dice.hits(REPAIRS):
            hit = at if not dice.hits(0.04) else dice.between(0, len(lines) - 1)
            related = [lesson for lesson in lessons if _words(lesson) & _words(line)]
            new = f"- {related[0]}" if related else ""
            found.append(Change("replace" if new else "delete", first + hit, lines[hit], new))
            lessons = [one for one in lessons if one not in related[:1]]
        elif at and not _is_heading(line) and dice.hits(0.004):
            found.append(Change("delete", first + at, line, ""))
    for other in meta.texts[1:3]:
        bare = [BULLET.sub("", line) for line in other.split("\n") if line.strip() and not _is_heading(line)]
        found += [Change("add", 0, "", f"- {line}") for line in bare if not _is_known(line, lines) and dice.hits(0.9)]
    found += [Change("add", 0, "", f"- {lesson}") for lesson in lessons]
    if dice.hits(FILLS / 2):
        found.append(Change("add", 0, "", f"- {dice.among(FILLER)}"))
    return found
