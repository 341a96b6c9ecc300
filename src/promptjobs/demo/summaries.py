"""The offline policy model's other skill: it shortens a message to the words that its prompt makes it look at."""

import math
import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from promptjobs.demo.chance import chance
from promptjobs.demo.prompt_reading import part_query
from promptjobs.demo.wording import feature, features, is_light, spelled_out, words

_ASKS_SUMMARY = re.compile(
    r"(?i)\bsummar|\bshorten|\bcondens|\bboil\w* down\b|\bin (?:a few|your own|\w+) words\b|\bkey ?words\b|"
    r"\b(?:state|say|note|extract|restate) (?:briefly )?(?:what|the (?:problem|issue|intent|request|facts))\b"
)
_LIMIT = re.compile(
    r"(?i)\b(?:at most|up to|no more than|about|around|within|in|with|use)\s+(\d{1,2}|[a-z]+)\s+words\b"
)
_NUMBERS = {"three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10, "twelve": 12}
_IGNORES = re.compile(r"(?i)\b(?:ignore|skip|omit|leave out|drop|never (?:keep|mention)|do not (?:keep|mention))\b")
_SENTENCE_END = re.compile(r"(?<=[.!?;])\s+|\n+")
_BULLET = re.compile(r"^\s*(?:[-*•–]|\d+[.)])\s+")
_EXAMPLE_INPUT = re.compile(r"(?i)^\W*(?:(?:input|customer message|message|text|query)\s*[:=]\s*)+(?P<text>\S.*)$")
_EXAMPLE_OUTPUT = re.compile(r"(?i)^\W*(?:output|summary|answer|assistant)\s*[:=]\s*(?P<text>\S.*)$")

_WORDS = 3  # of a summary whose length nobody has named or shown
_FULL_ATTENTION_WORDS = 900  # a prompt of up to this many words is read with full attention
_FADING_WORDS = 400  # so many words more halve what it says
_TOLD_WEIGHT = 1.5  # of a word that the instruction speaks of, or against it where it says to leave it out
_SHOWN_WEIGHT = 0.35  # of a word that a demonstration keeps; one that it drops weighs against itself
_DROPPED_WEIGHT = -0.15
_SHOWN_CAP = 1.0
_TOPIC_WORDS = 4  # of a line of the instruction, to name what a message is about
_HEAD_WORDS = 6
_PAIR_WEIGHT = 0.6  # of two neighbouring words, beside the words themselves
_LENGTH_EXPONENT = 0.3  # how much a line pays for being long
_FEWEST_SHARED = 2  # words that a message has of what it is about
_SURE = 0.8  # a topic is named where the second one's score is below this share of its own
_EARLINESS = 1.0  # what the beginning of a message is worth: attention wanders
_FANCY = 0.3  # what chance may add to a word: the message and the word decide it


@dataclass(frozen=True, slots=True)
class Topic:
    """What messages may be about, as a line of the instruction or a demonstration says. name: words to say it in."""

    name: tuple[str, ...]
    features: frozenset[str]


@dataclass(frozen=True, slots=True)
class Brief:
    """What a prompt says about summaries.

    weights: how much a feature is worth keeping. rarity: of a feature among the topics. limit: words of a summary.
    """

    weights: Mapping[str, float]
    topics: tuple[Topic, ...]
    rarity: Mapping[str, float]
    limit: int


def asks_summary(instruction: str) -> bool:
    return _ASKS_SUMMARY.search(instruction) is not None


def summarize(instruction: str, turns: Sequence[tuple[str, str]], query: str) -> str:
    """The words of `query` that the instruction and the demonstrations make important, in their order.

    turns: earlier (user, assistant) exchanges. In front stand the first words of the instruction's line that the query
    is about, where one is ahead of all others. Without any guidance the beginning and chance decide what is kept. The
    same texts always give the same summary.
    """
    brief = _read(instruction, tuple(turns))
    spoken = words(spelled_out(query))
    forms = [None if is_light(word) else feature(word) for word in spoken]
    worth: dict[str, float] = {}
    for place, form in enumerate(forms):
        if form is not None and form not in worth:
            early = _EARLINESS * (1.0 - place / len(forms))
            worth[form] = brief.weights.get(form, 0.0) + early + _FANCY * chance(query, form)
    kept = set(sorted(worth, key=lambda form: (-worth[form], form))[: brief.limit])
    shown = [
        place
        for place, form in enumerate(forms)
        if form in kept or (is_light(spoken[place]) and place + 1 < len(forms) and forms[place + 1] in kept)
    ]
    rest = " ".join(spoken[place] for place in shown)
    topic = " ".join(_topic(brief, query))
    return f"{topic}: {rest}" if topic and rest else topic or rest or "nothing in particular"


def _topic(brief: Brief, query: str) -> tuple[str, ...]:
    asked = features(query)
    scores = [_closeness(topic, asked, brief.rarity) for topic in brief.topics]
    ranking = sorted(range(len(scores)), key=lambda index: (-scores[index], index))
    if not ranking or not scores[ranking[0]]:
        return ()
    if len(ranking) > 1 and scores[ranking[1]] > _SURE * scores[ranking[0]]:
        return ()
    return brief.topics[ranking[0]].name


def _closeness(topic: Topic, asked: Iterable[str], rarity: Mapping[str, float]) -> float:
    """0 where the message has too few words of the topic: one alone is no sign."""
    shared = [one for one in asked if one in topic.features]
    if sum(" " not in one for one in shared) < _FEWEST_SHARED:
        return 0.0
    return sum(rarity[one] for one in shared) / float(len(topic.features) ** _LENGTH_EXPONENT)


@lru_cache(maxsize=1024)
def _read(instruction: str, turns: tuple[tuple[str, str], ...]) -> Brief:
    text, examples = _part_examples(instruction)
    shown = [*examples, *((part_query(asked)[1], reply) for asked, reply in turns)]
    count = len(words(instruction)) + sum(len(words(f"{asked} {reply}")) for asked, reply in turns)
    attention = 1.0 / (1.0 + max(0, count - _FULL_ATTENTION_WORDS) / _FADING_WORDS)
    told: dict[str, float] = {}
    for sentence in _SENTENCE_END.split(text):
        told |= dict.fromkeys(_singles(sentence), -_TOLD_WEIGHT if _IGNORES.search(sentence) else _TOLD_WEIGHT)
    learnt: dict[str, float] = defaultdict(float)
    for message, summary in shown:
        kept = _singles(summary)
        for form in _singles(message) | kept:
            learnt[form] += _SHOWN_WEIGHT if form in kept else _DROPPED_WEIGHT
    weights = {
        form: attention * (told.get(form, 0.0) + max(-_SHOWN_CAP, min(_SHOWN_CAP, learnt.get(form, 0.0))))
        for form in told.keys() | learnt.keys()
    }
    topics = _joined([*_topics(text), *_shown_topics(shown)])
    owners = Counter(one for topic in topics for one in topic.features)
    rarity = {
        one: attention * math.log((len(topics) + 0.5) / count) * (_PAIR_WEIGHT if " " in one else 1.0)
        for one, count in owners.items()
    }
    return Brief(weights, topics, rarity, _limit(text, [summary for _, summary in shown]))


def _topics(text: str) -> Iterable[Topic]:
    """The items of the lists in the text, without the few words and the colon that they may begin with."""
    for line in text.splitlines():
        if not _BULLET.match(line):
            continue
        item = _BULLET.sub("", line)
        head, _, rest = item.partition(":")
        said = rest if rest and len(head.split()) <= _HEAD_WORDS else item
        name = [word for word in words(spelled_out(said)) if not is_light(word) and feature(word) is not None]
        if len(name) >= _TOPIC_WORDS:
            yield Topic(tuple(name[:_TOPIC_WORDS]), frozenset(features(said)))


def _shown_topics(shown: Iterable[tuple[str, str]]) -> Iterable[Topic]:
    """What the demonstrations teach to say of a message in words that it does not have."""
    for message, summary in shown:
        said = _singles(message)
        name = [word for word in words(spelled_out(summary)) if feature(word) not in {None, *said}]
        if name:
            yield Topic(tuple(name[:_TOPIC_WORDS]), frozenset(features(message)))


def _joined(topics: Iterable[Topic]) -> tuple[Topic, ...]:
    """One topic for each name, with the features of all that have it."""
    by_name: dict[tuple[str, ...], frozenset[str]] = {}
    for topic in topics:
        by_name[topic.name] = by_name.get(topic.name, frozenset()) | topic.features
    return tuple(Topic(name, found) for name, found in by_name.items())


def _singles(text: str) -> set[str]:
    return {form for form in features(text) if " " not in form}


def _part_examples(instruction: str) -> tuple[str, list[tuple[str, str]]]:
    """Part the demonstrations written out in the text, a line each for input and output, from all other lines."""
    lines: list[str] = []
    examples: list[tuple[str, str]] = []
    pending: str | None = None
    for line in instruction.splitlines():
        if pending is not None and (found := _EXAMPLE_OUTPUT.match(line)):
            examples.append((pending, found["text"]))
            pending = None
        elif found := _EXAMPLE_INPUT.match(line):
            pending = found["text"]
        else:
            lines.append(line)
    return "\n".join(lines), examples


def _limit(text: str, summaries: Sequence[str]) -> int:
    """How many words to write: as the text says last, else as many as the demonstrations show."""
    named = [_NUMBERS.get(number.lower(), number) for number in _LIMIT.findall(text)]
    limits = [int(number) for number in named if str(number).isdigit()]
    if limits:
        return max(1, limits[-1])
    return max(1, round(statistics.median(len(_singles(one)) for one in summaries))) if summaries else _WORDS
