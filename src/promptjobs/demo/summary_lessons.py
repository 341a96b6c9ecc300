"""What the offline reflection model adds to an instruction for summaries: a list of the rules that feedback tells."""

import re
from collections.abc import Sequence

from promptjobs.demo.chance import chance
from promptjobs.demo.meta_prompt import Record
from promptjobs.demo.wording import features

_HEADER = "Name what the message is about, and keep its words on that:"
_LESSONS_PER_CALL = 4
_DROPS, _BLURS = 0.15, 0.25  # upper ends of the ranges of chance in which a lesson goes wrong
_BLURRED_WORDS = 5
_LENGTHS = (3, 4, 6, 8, 12)
_LENGTH = re.compile(r"Use at most (?P<words>\d+) words\.")
_RULE = re.compile(r"(?i)\b(?:house )?rules? for summar\w+:\s*(?P<rule>\S.*)$", re.DOTALL)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")
_OPENING = re.compile(r"^[A-Za-z][\w'’ ]{0,24}:\s*")
_UNSAFE = re.compile(r"[`{}]")


def with_summary_lessons(current: str, records: Sequence[Record], request: str) -> str:
    """The text with a handful of rules more, or with another length where there is nothing to learn.

    request: decides which rules are forgotten or blurred, and the length.
    """
    taught: dict[str, list[str]] = {}
    for record in records:
        found = _RULE.search(record.feedback)
        if not found or (record.score is not None and record.score >= 1.0):
            continue
        rule, *notes = (_UNSAFE.sub("", part).strip() for part in _SENTENCE_END.split(found["rule"]))
        if len(features(rule)) >= 4:
            taught.setdefault(rule, []).extend(_OPENING.sub("", note) for note in notes)
    kept = [rule for rule in taught if chance(request, "drop", rule) >= _DROPS][:_LESSONS_PER_CALL]
    improved = current
    for rule in kept:
        improved = _merged(improved, rule, taught[rule], is_blurred=chance(request, "drop", rule) < _BLURS)
    return improved if improved != current else _of_other_length(current, request)


def _of_other_length(text: str, request: str) -> str:
    known = _LENGTH.search(text)
    others = [length for length in _LENGTHS if known is None or int(known["words"]) != length]
    line = f"Use at most {others[int(chance(request, 'length') * len(others))]} words."
    return _LENGTH.sub(line, text) if known else f"{text.rstrip()}\n{line}"


def _merged(text: str, rule: str, notes: Sequence[str], *, is_blurred: bool) -> str:
    """A rule that the text has already gains the first note that it lacks."""
    if rule not in text:
        words = rule.split()
        line = f"- {' '.join(words[:_BLURRED_WORDS]).rstrip(',.:;')}." if is_blurred else f"- {rule}"
        if line in text.splitlines():
            return text
        text = f"{text.rstrip()}\n{line}" if _HEADER in text else f"{text.rstrip()}\n{_HEADER}\n{line}"
        if is_blurred:
            return text
    new = next((note for note in notes if note and note not in text), None)
    return text.replace(rule, f"{rule} {new}", 1) if new else text
