"""A policy model that sorts texts under labels whose names tell it nothing: all it knows of them is in its prompt.

Mechanics. The user message lists the labels ("Labels: a | b | c") and ends with the input. A statement that names one
or two labels speaks for them with its words, the rarer among labels the louder, and notions that it knows of the world
louder than plain words; "not" turns it around, hedges weaken it. Demonstrations vote by likeness, the best four of a
label. Noise belongs to the input and to the prompt. All that a prompt holds takes attention. A bare label comes where
the prompt asks for one or shows some, else often prose.
"""

import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from .chance import gumbel, share
from .clerk import AGAINST, HEDGE
from .prompt_reading import Shown, conversation, read_prompt
from .wording import Lexicon

SAID_WEIGHT, SHOWN_WEIGHT = 1.3, 3.0
PLAIN_WORD = 0.3  # of a notion
ATTENTION = 95.0
INPUT_NOISE, PROMPT_NOISE = 0.22, 0.12

LABELS = re.compile(r"^\s*Labels\s*:\s*(.+)$", re.MULTILINE)
BARE = re.compile(
    r"(?i)\blabel (?:only|alone)\b|\b(?:only|just|exactly|nothing but)\b.{0,24}\blabels?\b|\bbare label\b|\bone word\b"
)


@dataclass(frozen=True, slots=True)
class Reading:
    """evidence: feature to label and weight. shown: label and features of each demonstration."""

    evidence: Mapping[str, tuple[tuple[str, float], ...]]
    shown: tuple[tuple[str, frozenset[str]], ...]
    rarity: Mapping[str, float]
    attention: float
    is_bare: bool
    print: str


class Sorter:
    def __init__(self, marker: str, lexicon: Lexicon) -> None:
        self.marker = marker
        self.lexicon = lexicon
        self._read = lru_cache(maxsize=4096)(self._reading)

    def answer(self, messages: Sequence[tuple[str, str]]) -> str:
        instruction, turns, asked = conversation(messages)
        before, _, text = asked.rpartition(self.marker)
        found = LABELS.search(before)
        if not found:
            return "Which labels are there?"
        labels = tuple(label.strip() for label in found[1].split("|"))
        reading = self._read(instruction, turns, labels)
        scores = self._scores(reading, labels, text.strip())
        label = max(labels, key=lambda one: scores[one])
        if reading.is_bare or share("bare", reading.print, text) < 0.5:
            return label
        return f"This sounds like a call for {label} to me."

    def _reading(self, instruction: str, turns: tuple[tuple[str, str], ...], labels: tuple[str, ...]) -> Reading:
        prompt = read_prompt(instruction, turns)
        mention = re.compile(r"(?i)(?<![\w-])(?:" + "|".join(map(re.escape, labels)) + r")(?![\w-])")
        weights: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
        for statement in prompt.statements:
            named = [(found[0].lower(), found.start()) for found in mention.finditer(statement)]
            if not 1 <= len({label for label, _ in named}) <= 2:
                continue
            weight = 0.55 if HEDGE.search(statement) else 1.0
            words = self.lexicon.features(mention.sub(" ", statement))
            for label, start in named:
                signed = -0.6 * weight if AGAINST.search(statement[:start]) else weight / len(named)
                for word in words:
                    weights[word][label] += signed
        shown = [
            (label, words)
            for one in prompt.shown
            if (label := self._label(one, mention))
            for words in [self._words(one)]
        ]
        load = sum(0.8 + max(0, len(s.split()) - 22) / 22 for s in prompt.statements) + 0.5 * len(shown)
        return Reading(
            evidence={word: _weighed(by_label, len(labels)) for word, by_label in weights.items()},
            shown=tuple(shown),
            rarity=_rarity([words for _, words in shown]),
            attention=1.0 / (1.0 + (load / ATTENTION) ** 3),
            is_bare=bool(BARE.search(instruction)) or bool(shown),
            print=str(share(instruction, *turns)),
        )

    def _label(self, one: Shown, mention: re.Pattern[str]) -> str:
        found = mention.search(one.output)
        return found[0].lower() if found else ""

    def _words(self, one: Shown) -> frozenset[str]:
        return self.lexicon.features(one.input.rpartition(self.marker)[2])

    def _scores(self, reading: Reading, labels: Sequence[str], text: str) -> dict[str, float]:
        features = self.lexicon.features(text)
        own = _mass(features) or 1.0
        scores = dict.fromkeys(labels, 0.0)
        for feature in sorted(features):
            for label, weight in reading.evidence.get(feature, ()):
                scores[label] += SAID_WEIGHT * _loudness(feature) * weight * reading.attention
        votes: dict[str, list[float]] = defaultdict(list)
        for label, shown in reading.shown:
            common = math.fsum(reading.rarity[word] * _loudness(word) for word in features & shown)
            votes[label].append((common / math.sqrt(own * (_mass(shown) or 1.0))) ** 1.5)
        for label, given in votes.items():
            given.sort(reverse=True)
            scores[label] += SHOWN_WEIGHT * reading.attention * (given[0] + 0.3 * sum(given[1:4]))
        for label in labels:
            scores[label] += INPUT_NOISE * gumbel("input", text, label)
            scores[label] += PROMPT_NOISE * gumbel("prompt", reading.print, text, label)
        return scores


def _loudness(feature: str) -> float:
    return 1.0 if feature[0] == "#" else PLAIN_WORD


def _mass(features: frozenset[str]) -> float:
    return math.fsum(map(_loudness, features))


def _weighed(by_label: Mapping[str, float], count: int) -> tuple[tuple[str, float], ...]:
    """A word that speaks for many labels says little of any."""
    owners = sum(weight > 0 for weight in by_label.values())
    rarity = math.log((count + 1.0) / max(1, owners)) / math.log(count + 1.0)
    return tuple((label, rarity * max(-1.2, min(1.3, weight))) for label, weight in sorted(by_label.items()))


def _rarity(shown: Sequence[frozenset[str]]) -> dict[str, float]:
    counts: dict[str, int] = defaultdict(int)
    for words in shown:
        for word in words:
            counts[word] += 1
    return {word: 1.0 / (1.0 + math.log(count)) for word, count in counts.items()}
