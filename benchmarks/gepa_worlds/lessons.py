"""What a reflection model learns from records: conventions that are explained, and guesses where nothing is.

It knows no task. All comes from the words of the records: sentences of the feedback that follow an error are taken
over; an error without an explanation is turned into a guess at the words of the input that called for the value.
"""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from .chance import Dice, share
from .meta_reading import Record
from .wording import STOP_WORDS, WORD

CAPACITY = (8, 10)
"""Lessons of one call, from and to; what is beyond is lost."""

EXPLAINED, INDUCED, NAMED = 0.78, 0.35, 0.62
"""Shares of explained, guessed, and label lessons that are picked up at all."""

GARBLED, WIDENED, HEDGED = 0.06, 0.05, 0.07
"""Shares of lessons that get a wrong value, lose a part of their condition, or are weakened."""

ERROR = re.compile(
    r"(?:(?P<field>\w+)\s*:\s*)?"
    r"(?i:\bexpected|\b(?:the )?(?:correct|right) (?:label|answer|value) (?:is|was)|\bshould (?:be|have been))"
    r"[:\s]+[\"'`]?(?P<value>[\w-]+)[\"'`]?(?:,?\s*(?:but )?(?i:got|not|was|received)\s+[\"'`]?(?P<wrong>[\w-]+))?"
)
SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")
OF_FORM = re.compile(
    r"(?i)\braw json\b|\bonly json\b|\bjson object\b|\b(?:only|just|bare|exactly)\b.{0,20}\blabel\b|"
    r"\blabel (?:only|alone)\b|\bnothing (?:else|around)\b|\bone word\b"
)
PRAISE = re.compile(r"(?i)^\W*(?:all|everything|right|correct|good|well done|perfect)\b")
NO_FIELDS = frozenset({"wrong", "incorrect", "error", "feedback", "no", "not"})
NO_VALUES = frozenset({"nothing", "none", "a", "an", "the", "one"})
CUT = re.compile(
    r"\s*\b(?:from|for|of|with|in|that|to)\b (?:an? |the )?[\w-]+(?: [\w-]+)?(?=[.,]| (?:goes|gets?|are|is|travel))"
)
VERBS = re.compile(r"\b(gets?|go(?:es)?|is|are|needs?|travels?)\b")


@dataclass(frozen=True, slots=True)
class Error:
    """One error of one record. field: "" where the answer is a single label. reasons: what the feedback says of it."""

    record: int
    field: str
    value: str
    wrong: str
    reasons: tuple[str, ...]


def errors_of(records: Sequence[Record]) -> tuple[list[Error], list[str]]:
    """Errors, and sentences about the form of the answer."""
    errors: list[Error] = []
    forms: list[str] = []
    for at, record in enumerate(records):
        if not record.feedback:
            errors += _compared(at, record)
            continue
        found: list[Error] = []
        loose: list[str] = []
        for sentence in SENTENCE_END.split(re.sub(r"[ \t]+", " ", record.feedback)):
            said = ERROR.search(sentence)
            if said and said["value"].lower() not in NO_VALUES:
                field = "" if not said["field"] or said["field"].lower() in NO_FIELDS else said["field"]
                wrong = said["wrong"] or ("" if field else record.output.strip()[:40])
                found.append(Error(at, field, said["value"], wrong, ()))
            elif OF_FORM.search(sentence):
                forms.append(sentence.strip())
            elif PRAISE.match(sentence) or len(sentence.split()) < 4:
                continue
            elif found:
                last = found[-1]
                found[-1] = Error(at, last.field, last.value, last.wrong, (*last.reasons, sentence.strip()))
            else:
                loose.append(sentence.strip())
        errors += found or [Error(at, "", "", "", tuple(loose))] * bool(loose)
    return errors, list(dict.fromkeys(forms))


def _compared(at: int, record: Record) -> list[Error]:
    """Errors that only a comparison of output and expected answer shows; of a solved example all is to be learnt."""
    if record.score == 1.0 and not record.expected:
        record = Record(record.input, "{}" if record.output.lstrip().startswith("{") else "", "", record.output, 1.0)
    if not record.expected or record.expected.strip() == record.output.strip():
        return []
    try:
        wanted, given = json.loads(record.expected), json.loads(record.output)
    except ValueError:
        words = record.expected.split()
        return [Error(at, "", words[0], record.output.strip()[:40], ())] if len(words) == 1 else []
    if not isinstance(wanted, dict) or not isinstance(given, dict):
        return []
    return [
        Error(at, f, str(v), str(given.get(f, "")), ()) for f, v in wanted.items() if str(given.get(f, "")) != str(v)
    ]


def learn(records: Sequence[Record], dice: Dice) -> list[str]:
    """The lessons of one call as statements, at most CAPACITY of them."""
    errors, forms = errors_of(records)
    values: dict[str, set[str]] = defaultdict(set)
    for error in errors:
        values[error.field].update(value for value in (error.value, error.wrong) if value and value not in NO_VALUES)
    lessons = [form for form in forms[:1] if dice.hits(0.9)]
    room = dice.between(*CAPACITY)
    shared = _shared_words(records, errors)
    for error in dice.shuffled(errors):
        if len(lessons) >= room:
            break
        if error.reasons:
            told = [reason for reason in error.reasons if dice.hits(EXPLAINED)]
            lessons += [spoiled(reason, sorted(values[error.field]), dice) for reason in told if reason not in lessons]
        elif error.value and dice.hits(INDUCED if error.field else NAMED):
            lesson = _guess(error, records[error.record].input, shared, dice)
            if lesson and lesson not in lessons:
                lessons.append(spoiled(lesson, sorted(values[error.field]), dice))
    return lessons


def spoiled(lesson: str, values: Sequence[str], dice: Dice) -> str:
    """The lesson, or what a careless writer makes of it."""
    if dice.hits(GARBLED):
        held = [value for value in values if re.search(rf"\b{re.escape(value)}\b", lesson)]
        others = [value for value in values if value not in held]
        if held and others:
            lesson = re.sub(rf"\b{re.escape(held[0])}\b", dice.among(others), lesson, count=1)
    if dice.hits(WIDENED):
        lesson = CUT.sub("", lesson, count=1)
    if dice.hits(HEDGED):
        lesson = VERBS.sub(r"usually \1", lesson, count=1)
    return lesson


def _shared_words(records: Sequence[Record], errors: Sequence[Error]) -> dict[tuple[str, str], list[str]]:
    """Words that two or more inputs with the same expected value share, and no input with another value holds."""
    inputs = [set(WORD.findall(_body(record.input).lower())) - STOP_WORDS for record in records]
    owners: dict[tuple[str, str], list[int]] = defaultdict(list)
    for error in errors:
        if error.value and not error.reasons:
            owners[(error.field, error.value)].append(error.record)
    shared = {}
    for (field, value), held in owners.items():
        foreign = {at for (f, v), others in owners.items() if f == field and v != value for at in others}
        counts = Counter(word for at in dict.fromkeys(held) for word in inputs[at] if len(word) > 3)
        # Chance and not the order of a set decides between words that are as frequent: sets differ by process.
        ranked = sorted(counts.items(), key=lambda item: (-item[1], share("rank", item[0])))
        found = [word for word, n in ranked if n > 1 and not any(word in inputs[at] for at in foreign)]
        if found:
            shared[(field, value)] = sorted(found[:6])
    return shared


def _guess(error: Error, text: str, shared: dict[tuple[str, str], list[str]], dice: Dice) -> str:
    common = shared.get((error.field, error.value), [])
    if common and dice.hits(0.6):
        words = " or ".join(f'"{word}"' for word in dice.shuffled(common)[:3])
        if error.field:
            return f"Set {error.field} to {error.value} where the input mentions {words}."
        return f"{error.value}: inputs that mention {words}."
    phrase = snippet(text, dice)
    if not phrase:
        return ""
    if error.field:
        return f'Set {error.field} to {error.value} where the input says "{phrase}".'
    return dice.among(
        [f'{error.value}: inputs such as "{phrase}".', f'Answer {error.value} when the input says "{phrase}".']
    )


def _body(text: str) -> str:
    """What follows the last heading of an input: requests and lists of values come before it."""
    lines = [line for line in text.split("\n") if "|" not in line]
    headings = [at for at, line in enumerate(lines[:-1]) if line.rstrip().endswith(":")]
    return "\n".join(lines[headings[-1] + 1 :] if headings else lines)


def snippet(text: str, dice: Dice) -> str:
    """Some words of an input that seem to matter: one of its short lines, or a few words in a row of a longer one."""
    lines = [line.strip() for line in _body(text).split("\n") if line.strip() and not line.strip().endswith(":")]
    choices: list[str] = []
    for line in lines[-6:]:
        if re.match(r"^\w+: ", line) and len(line.split()) <= 6:
            choices.append(line.partition(": ")[2])
            continue
        for sentence in SENTENCE_END.split(line.partition(": ")[2] or line):
            words = sentence.strip(" .!?").split()
            if len(words) >= 3:
                length = min(len(words), dice.between(4, 9))
                start = dice.between(0, len(words) - length)
                choices.append(" ".join(words[start : start + length]))
    return re.sub(r"[\"“”`{}]", "", dice.among(choices)) if choices else ""
