"""The offline reflection model: improves an instruction by what the meta-prompt's own text says, and not perfectly."""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from promptjobs.demo.chance import chance
from promptjobs.demo.meta_prompt import MetaPrompt, Record, read_meta_prompt
from promptjobs.demo.prompt_reading import find_labels, mention_pattern, part_query
from promptjobs.demo.reply_forms import describes_data, description, in_form
from promptjobs.demo.step_feedback import of_step, step_of
from promptjobs.demo.summaries import asks_summary
from promptjobs.demo.summary_lessons import with_summary_lessons
from promptjobs.demo.wording import feature, features, words

_LESSONS_PER_CALL = 4
_SENTENCES_PER_LESSON = 2
_BLURRED_WORDS = 5
_CUES_PER_LESSON = 2
_CUES_PER_LABEL = 12
_DROPS, _BLURS, _MISPLACES = 0.15, 0.25, 0.32  # upper ends of the ranges of chance in which a lesson goes wrong
_MEANINGS = "What the labels mean:"
_CUES = "Typical words:"
FORMAT_RULE = "Answer with the label only: no other words, nothing else."

_COMPLAINS_OF_FORM = re.compile(
    r"(?i)\bprose\b|\b(?:only|just|exactly|nothing but)\s+(?:\w+\s+){0,2}label\b|\blabel (?:only|alone)\b|"
    r"\bnothing else\b|\bbare label\b|\b(?:extra|other) (?:text|words)\b"
)
_ALREADY_BARE = re.compile(
    r"(?i)\blabel (?:only|alone)\b|\b(?:only|just|exactly) (?:\w+ ){0,2}label\b|\bnothing else\b"
)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")
_OPENING = re.compile(r"^[A-Za-z][\w'’ ]{0,24}:\s*")
_PLACEHOLDER = re.compile(r"\{\w+\}")
_UNSAFE = re.compile(r"[`{}]")


@dataclass(frozen=True, slots=True)
class Lesson:
    """What one reflection would add for a label: sentences of the feedback, else words of the inputs."""

    label: str
    sentences: tuple[str, ...]
    cues: tuple[str, ...]
    mistaken_for: str | None


def reflect(messages: Sequence[Mapping[str, str]], seed: int = 0) -> str:
    """Answer a reflection meta-prompt with an improved text in one fence, or with the list of changes that it asks for.

    messages: items with `role` and `content`. All that is added comes from the records in them; placeholders of the
    current text stay. A meta-prompt that wants the examples described gets that. The same messages and seed give the
    same reply; another seed may drop or garble other lessons.
    """
    text = "\n\n".join(message["content"] for message in messages)
    meta = read_meta_prompt(text)
    if describes_data(text):
        return description(meta)
    meta = replace(meta, records=tuple(of_step(meta.records, step_of(text), meta.current)))
    request = hashlib.blake2b(f"{seed}\x1f{text}".encode(), digest_size=16).hexdigest()
    improved = meta.current
    if asks_summary(improved) and not find_labels(improved):
        return in_form(text, meta.current, with_summary_lessons(improved, meta.records, request))
    if _needs_format_rule(meta):
        improved = _insert(improved, FORMAT_RULE)
    for lesson in _choose(_lessons(meta), request):
        improved = _merge(improved, _spoil(lesson, request))
    return in_form(text, meta.current, improved)


def _needs_format_rule(meta: MetaPrompt) -> bool:
    complaints = any(_COMPLAINS_OF_FORM.search(record.feedback) for record in meta.records)
    return complaints and _ALREADY_BARE.search(meta.current) is None


def _lessons(meta: MetaPrompt) -> list[Lesson]:
    """At most one lesson per label that failed records show to be the right one, those with most failures first."""
    shown = [part for record in meta.records for part in (record.feedback, record.expected, record.output)]
    labels = find_labels("\n".join([meta.current, *shown]))
    if not labels:
        return []
    mention = mention_pattern(labels)
    failed = [(record, gold) for record in meta.records if _is_failure(record) and (gold := _gold(record, mention))]
    meanings = _meanings([record for record, _ in failed], mention)
    cues = _cues(meta.current, failed)
    lessons = []
    for gold, _ in Counter(gold for _, gold in failed).most_common():
        own = [record for record, label in failed if label == gold]
        told = [meanings[gold]] if gold in meanings else []
        remarks = [remark for record in own for remark in _remarks(record.feedback, mention)]
        written = _line_of(gold, meta.current).lower()
        new = [sentence for sentence in dict.fromkeys([*told, *remarks]) if sentence.lower() not in written]
        wrong = (_mentioned(record.output, mention) for record in own)
        mistaken = next((label for label in wrong if label not in (None, gold)), None)
        learned = tuple(new[:_SENTENCES_PER_LESSON])
        lessons.append(Lesson(gold, learned, () if learned else tuple(cues[gold]), mistaken))
    return [lesson for lesson in lessons if lesson.sentences or lesson.cues]


def _is_failure(record: Record) -> bool:
    return record.score is None or record.score < 1.0


def _mentioned(text: str, mention: re.Pattern[str]) -> str | None:
    found = mention.search(text)
    return found[0] if found else None


def _gold(record: Record, mention: re.Pattern[str]) -> str | None:
    """The right label by what the record says: expected, or named right in the feedback, or answered with success."""
    if record.expected:
        return _mentioned(record.expected, mention)
    named = re.search(
        r"(?i:\b(?:correct|right|expected|gold|true)\b|\bshould (?:be|have been)\b)[^.\n]{0,40}?"
        + rf"(?P<label>{mention.pattern})",
        record.feedback,
    )
    if named:
        return named["label"]
    if record.score is not None and record.score >= 1.0:
        return _mentioned(record.output, mention)
    new = set(mention.findall(record.feedback)) - set(mention.findall(record.output))
    return new.pop() if len(new) == 1 else None


def _meanings(records: Iterable[Record], mention: re.Pattern[str]) -> dict[str, str]:
    """What the feedback says that labels mean: sentences of the form `label: …`, `label covers …`."""
    defines = re.compile(
        rf"(?P<label>{mention.pattern})[`'\"]?\s*"
        r"(?:means?|covers?|is (?:used )?for|applies (?:to|when)|stands for|[:=—–])"
        r"\s*:?\s*(?P<text>\S.{14,})"
    )
    meanings: dict[str, str] = {}
    for record in records:
        for sentence in _SENTENCE_END.split(record.feedback):
            if found := defines.search(sentence):
                meanings.setdefault(found["label"], _UNSAFE.sub("", found["text"]).strip().rstrip(".") + ".")
    return meanings


def _remarks(feedback: str, mention: re.Pattern[str]) -> list[str]:
    """Further sentences of the feedback that teach something: they name no label and do not speak of the form."""
    sentences = [_OPENING.sub("", _UNSAFE.sub("", sentence)).strip() for sentence in _SENTENCE_END.split(feedback)]
    return [
        sentence
        for sentence in sentences
        if not mention.search(sentence) and not _COMPLAINS_OF_FORM.search(sentence) and len(features(sentence)) >= 4
    ]


def _cues(current: str, failed: Sequence[tuple[Record, str]]) -> dict[str, list[str]]:
    """Per label, words that stand in inputs of this label only, and nowhere in the current text."""
    written = {feature(word) for word in words(current)}
    owners: dict[str, set[str]] = defaultdict(set)
    seen: dict[str, Counter[str]] = {gold: Counter() for _, gold in failed}
    for record, gold in failed:
        for word in dict.fromkeys(words(part_query(record.message)[1])):
            if (form := feature(word)) is not None and form not in written:
                owners[form].add(gold)
                seen[gold][word] += 1
    return {
        gold: [word for word, _ in counts.most_common() if len(owners[feature(word) or ""]) == 1]
        for gold, counts in seen.items()
    }


def _choose(lessons: Sequence[Lesson], request: str) -> list[Lesson]:
    """A handful of lessons; a few are forgotten."""
    kept = [lesson for lesson in lessons if chance(request, "drop", lesson.label) >= _DROPS]
    return kept[:_LESSONS_PER_CALL]


def _spoil(lesson: Lesson, request: str) -> Lesson:
    """Now and then the lesson is blurred to its first words, or put down for the label that it was mistaken for."""
    drawn = chance(request, "drop", lesson.label)
    if drawn < _BLURS:
        blurred = tuple(
            f"Anything about {' '.join(s.split()[:_BLURRED_WORDS]).rstrip(',.:;')}." for s in lesson.sentences[:1]
        )
        return replace(lesson, sentences=blurred, cues=lesson.cues[:1])
    if drawn < _MISPLACES and lesson.mistaken_for is not None:
        return replace(lesson, label=lesson.mistaken_for)
    return lesson


def _line_pattern(label: str) -> re.Pattern[str]:
    return re.compile(rf"^[ \t]*[-*•]?[ \t]*[`*]*{re.escape(label)}[`*]*[ \t]*[:—–=].*$", re.MULTILINE)


def _line_of(label: str, text: str) -> str:
    """The line that says what the label means, "" where there is none."""
    found = _line_pattern(label).search(text)
    return found[0] if found else ""


def _merge(text: str, lesson: Lesson) -> str:
    """Put the lesson into the label's own line, or into a new line below the others; it stands nowhere else then."""
    for sentence in lesson.sentences:
        text = text.replace(f" {sentence}", "")
    found = _line_pattern(lesson.label).search(text)
    line = found[0] if found else f"- {lesson.label}:"
    before, marker, listed = line.partition(_CUES)
    line = " ".join([before.rstrip(), *lesson.sentences]) + (f" {marker}{listed}" if marker else "")
    if lesson.cues:
        line = _add_cues(line, lesson.cues[:_CUES_PER_LESSON])
    if found:
        return text[: found.start()] + line + text[found.end() :]
    return _insert(text if _MEANINGS in text else _insert(text, f"\n{_MEANINGS}"), line)


def _add_cues(line: str, cues: Sequence[str]) -> str:
    before, marker, listed = line.partition(_CUES)
    known = [word for word in listed.strip(" .").split(", ") if word] if marker else []
    room = [*known, *(cue for cue in cues if cue not in known)][:_CUES_PER_LABEL]
    return f"{before.rstrip()} {_CUES} {', '.join(room)}."


def _insert(text: str, line: str) -> str:
    """Add a line at the end, above closing lines that hold a placeholder."""
    lines = text.rstrip().splitlines()
    place = len(lines)
    while place and _PLACEHOLDER.search(lines[place - 1]):
        place -= 1
    return "\n".join([*lines[:place], line, *lines[place:]]).lstrip("\n")
