"""Reads a prompt the way a small model might: candidate labels, what is said of each, demonstrations, answer style.

It knows no label and no task: all it returns comes from the text that it is given.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from promptjobs.demo.wording import features, words

_IDENTIFIER = re.compile(r"(?<![\w{])[A-Za-z][A-Za-z0-9]*(?:_[A-Za-z0-9]+)+(?![\w}])")
_LIST_OPENING = re.compile(
    r"(?i)\b(?:labels?|categor(?:y|ies)|class(?:es)?|intents?|options|one of)\b[^:\n]{0,40}:[ \t]*"
)
_BULLET = re.compile(r"^\s*(?:[-*•–]|\d+[.)])\s+")
_MARKUP = re.compile(r"[*`#\"“”]+")
_SENTENCE_END = re.compile(r"(?<=[.!?;])\s+")
_CLAUSE_END = re.compile(r",\s*|\s+but\s+|\s[—–-]\s|[():]\s*")
_ARROW = re.compile(r"\s*(?:->|=>|→|⇒)\s*")
_DEFINES = re.compile(
    r"^\s*(?:[:—–=-]+|means?\b|is\b(?:\s+for\b|\s+when\b)?|covers?\b|refers\s+to\b|when\b|if\b|for\b|applies\b)\s*"
)
_EXCLUDES = re.compile(
    r"(?i)^\s*(?:and\s+|but\s+)?(?:not|never|except|excluding|rather than|instead of|as opposed to|"
    r"(?:it\s+)?does not (?:cover|include)|do(?:es)? not use|don['’]t use)\b"
)
_NEGATED_MENTION = re.compile(
    r"(?i)(?:\bnot|\bnever|n['’]t|\binstead of|\brather than|\bavoid|\bexcept)\W+(?:\w+\W+){0,2}$"
)
_QUERY_OPENING = re.compile(
    r"(?im)^\s*(?:customer message|message|query|input|ticket|text|customer|utterance|summary)\s*:[ \t]*"
)
_DEMO_INPUT = re.compile(
    r"(?i)^\W*(?:customer message|message|input|query|text|customer|user|utterance|ticket|summary)\s*[:=]\s*(.+)$"
)
_DEMO_LABEL = re.compile(r"(?i)^\W*(?:correct )?(?:label|output|answer|intent|category|assistant|class)\s*[:=]\s*(.+)$")
_DEMO_LINE = re.compile(
    r"(?i)^\W*(?:message|input|query|text)\s*[:=]\s*(.+?)\s*[/|,;]\s*(?:label|output|answer)\s*[:=]\s*(.+)$"
)

_WHOLE = r"(?:label|category|class|intent|name|identifier|option|word)s?"
_ASKS_BARE = re.compile(
    rf"\b(?:only|just|exactly|solely)\b(?:\s+\w+){{0,3}}\s+{_WHOLE}\b|\b{_WHOLE}\s+(?:only|alone)\b|"
    r"\bnothing (?:else|but)\b|\bno (?:other|extra|additional) (?:text|words?)\b|\bbare label\b|"
    r"\b(?:no|without(?: any)?) (?:explanations?|prose|sentences?)\b|\b(?:do not|don['’]t|never) (?:explain|add)\b"
)
_ASKS_PROSE = re.compile(
    r"\bexplain (?:your|the|why|how|briefly)\b|\bbriefly explain\b|\bfull sentences?\b|\bstep by step\b|"
    r"\bgive (?:a|your) reasons?\b|\byour reasoning\b"
)
_ASKS_JSON = re.compile(r"\bjson\b")
_ASKS_CAPITALS = re.compile(r"\b(?:upper ?case|capital letters|all caps)\b")
_CLAUSE_START = re.compile(r"[,.;:!?\n]")
_NEGATION = re.compile(r"\b(?:not|never|no|without)\b|n['’]t\b")

_RULE_WEIGHT = 1.6  # "if …, then label" says more than "label: …"


@dataclass(frozen=True, slots=True)
class Statement:
    """`text` speaks for `label` (weight > 0) or against it (weight < 0)."""

    label: str
    text: str
    weight: float


@dataclass(frozen=True, slots=True)
class Demonstration:
    message: str
    label: str


@dataclass(frozen=True, slots=True)
class Guidance:
    """What one prompt says; `word_count` is its length in words, demonstrations included.

    bare_turns: the number of earlier exchanges where each was answered with a bare label, else 0.
    """

    labels: tuple[str, ...]
    statements: tuple[Statement, ...]
    demonstrations: tuple[Demonstration, ...]
    word_count: int
    asks_bare: bool
    asks_prose: bool
    asks_json: bool
    asks_capitals: bool
    bare_turns: int


def read_prompt(text: str, turns: Sequence[tuple[str, str]] = ()) -> Guidance:
    """Read the instruction `text`; `turns` are earlier (user, assistant) exchanges, taken as demonstrations."""
    labels = find_labels("\n".join([text, *(reply for _, reply in turns)]))
    demonstrations, lines = _split_demonstrations(text.splitlines(), labels)
    for message, reply in turns:
        if (label := _first_label(reply, labels)) is not None:
            demonstrations.append(Demonstration(message, label))
    asks_bare, refuses_bare = _wishes(_ASKS_BARE, text)
    return Guidance(
        labels=labels,
        statements=tuple(_statements(lines, labels)),
        demonstrations=tuple(demonstrations),
        word_count=len(words(text)) + sum(len(words(message)) for message, _ in turns),
        asks_bare=asks_bare,
        asks_prose=refuses_bare or _wishes(_ASKS_PROSE, text)[0],
        asks_json=_wishes(_ASKS_JSON, text)[0],
        asks_capitals=_wishes(_ASKS_CAPITALS, text)[0],
        bare_turns=len(turns) if all(reply.strip() in labels for _, reply in turns) else 0,
    )


def _wishes(pattern: re.Pattern[str], text: str) -> tuple[bool, bool]:
    """Whether the text asks for what the pattern matches, and whether it forbids it in a clause with a negation."""
    lowered = text.lower()
    asks = forbids = False
    for found in pattern.finditer(lowered):
        clause = _CLAUSE_START.split(lowered[: found.start()])[-1]
        if _NEGATION.search(clause):
            forbids = True
        else:
            asks = True
    return asks, forbids


def part_query(content: str) -> tuple[str, str]:
    """Part a user message into its instructions and its query.

    The query is the paragraph after the last opening such as `Message:`; without an opening it is the whole message.
    """
    openings = list(_QUERY_OPENING.finditer(content))
    if not openings:
        return "", content.strip()
    query, _, after = content[openings[-1].end() :].partition("\n\n")
    return f"{content[: openings[-1].start()]}\n{after}".strip(), query.strip()


def find_labels(text: str) -> tuple[str, ...]:
    """The candidate labels of `text` in order: identifiers with an underscore, else the items of a list of labels."""
    identifiers = tuple(dict.fromkeys(_IDENTIFIER.findall(text)))
    if len(identifiers) >= 2:
        return identifiers
    for opening in _LIST_OPENING.finditer(text):
        items = [item for item in map(_clean_item, _list_items(text[opening.end() :])) if item]
        if len(items) >= 2:
            return tuple(dict.fromkeys(items))
    return identifiers


def _list_items(rest: str) -> Iterable[str]:
    first, _, following = rest.partition("\n")
    if first.strip():
        sentence = re.split(r"\.(?:\s|$)", first)[0]
        items = re.split(r"[,;|]", sentence)
        return items if len(items) > 1 else re.split(r"\bor\b|\band\b", sentence)
    bullets = []
    for line in following.splitlines():
        if _BULLET.match(line):
            bullets.append(re.split(r":|\s[—–-]\s", _BULLET.sub("", line))[0])
        elif bullets:
            break
    return bullets


def _clean_item(item: str) -> str:
    cleaned = re.sub(r"^\s*(?:and|or)\s+", "", _MARKUP.sub("", item)).strip(" \t'.")
    return cleaned if len(cleaned.split()) <= 4 else ""


def mention_pattern(labels: Iterable[str]) -> re.Pattern[str]:
    """A pattern for any of the labels as whole words, the longest first."""
    longest_first = sorted(labels, key=lambda label: (-len(label), label))
    return re.compile(r"(?<!\w)(?:" + "|".join(map(re.escape, longest_first)) + r")(?!\w)")


def _first_label(text: str, labels: tuple[str, ...]) -> str | None:
    found = mention_pattern(labels).search(text) if labels else None
    return found[0] if found else None


def _split_demonstrations(lines: list[str], labels: tuple[str, ...]) -> tuple[list[Demonstration], list[str]]:
    """Part the demonstrations written out in the text from all other lines."""
    demonstrations: list[Demonstration] = []
    others: list[str] = []
    pending: str | None = None
    for line in lines:
        shown, label_line = _DEMO_LINE.match(line), _DEMO_LABEL.match(line)
        quoted = _ARROW.split(line) if line.lstrip(" -*•").startswith(('"', "“", "'")) else []
        if shown and (label := _first_label(shown[2], labels)):
            demonstrations.append(Demonstration(shown[1], label))
        elif len(quoted) == 2 and (label := _first_label(quoted[1], labels)):
            demonstrations.append(Demonstration(quoted[0], label))
        elif pending is not None and label_line and (label := _first_label(label_line[1], labels)):
            demonstrations.append(Demonstration(pending, label))
            pending = None
        elif opening := _DEMO_INPUT.match(line):
            pending = opening[1]
        else:
            others.append(line)
    return demonstrations, others


def _statements(lines: list[str], labels: tuple[str, ...]) -> Iterable[Statement]:
    if not labels:
        return
    mention = mention_pattern(labels)
    heading: str | None = None
    for raw in lines:
        line = _MARKUP.sub("", _BULLET.sub("", raw)).strip()
        mentioned = mention.findall(line)
        if not line:
            heading = None
        elif len(mentioned) >= 3 and len(features(mention.sub(" ", line))) < 2 * len(mentioned):
            continue
        else:
            head, rest = _headed(line, mention)
            if head is not None and not rest:
                heading = head
                continue
            for sentence in _SENTENCE_END.split(rest):
                yield from _read_sentence(sentence, head if head is not None else heading, mention)


def _headed(line: str, mention: re.Pattern[str]) -> tuple[str | None, str]:
    """Split `label: text`, or `label means text`, into label and text; without such a head the label is None."""
    opening = mention.match(line)
    if opening is None:
        return None, line
    rest = line[opening.end() :]
    if not rest.strip(" :."):
        return opening[0], ""
    defines = _DEFINES.match(rest)
    return (opening[0], rest[defines.end() :]) if defines else (None, line)


def _read_sentence(sentence: str, head: str | None, mention: re.Pattern[str]) -> Iterable[Statement]:
    """Say for which labels the sentence speaks, and against which."""
    said: list[str] = []
    excluded: list[str] = []
    favoured: list[str] = []
    refused: list[str] = []
    for clause in _CLAUSE_END.split(sentence):
        for found in mention.finditer(clause):
            negated = _NEGATED_MENTION.search(clause[: found.start()]) is not None
            (refused if negated else favoured).append(found[0])
        bare = mention.sub(" ", clause)
        (excluded if _EXCLUDES.match(clause) and features(bare) else said).append(bare)
    speaks, denies = ", ".join(said), ", ".join(excluded)
    others = [label for label in favoured if label != head]
    if head is None:
        yield from (Statement(label, speaks, _RULE_WEIGHT) for label in favoured)
        yield from (Statement(label, denies, -0.7) for label in favoured if denies)
        yield from (Statement(label, speaks, -0.5 if favoured else -1.0) for label in refused)
        return
    if others and not denies:
        yield from (Statement(label, speaks, _RULE_WEIGHT) for label in others)
        yield Statement(head, speaks, -0.5)
        return
    yield Statement(head, speaks, 1.0)
    if denies:
        yield Statement(head, denies, -0.7)
        yield from (Statement(label, denies, 1.0) for label in others)
    yield from (Statement(label, speaks, -0.5) for label in refused if label != head)
