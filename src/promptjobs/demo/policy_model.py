"""The offline policy model: labels or shortens a message by its prompt's words alone, imperfectly and always alike."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from promptjobs.demo.chance import chance
from promptjobs.demo.prompt_reading import Guidance, part_query, read_prompt
from promptjobs.demo.summaries import asks_summary, summarize
from promptjobs.demo.wording import features

_WEIGHT_CAP = 1.5  # however often a prompt repeats a word for a label
_LENGTH_EXPONENT = 0.3  # how much a label pays for being described at length
_DEMO_WORD_WEIGHT = 0.3  # of a word in a demonstration
_DEMO_LIKENESS_WEIGHT = 1.0  # of a demonstration that is the message itself


@dataclass(frozen=True, slots=True)
class Ability:
    """What tells one such model from another.

    attention_words: a prompt of up to so many words is read with full attention. fading_words: so many words more halve
    what its statements weigh. pair_weight: of two neighbouring words, beside the words themselves. noise: what chance
    may add to a score; the message and the label decide it. sure: a bare answer that nobody asked for needs the second
    score below this share of the best.
    """

    attention_words: int
    fading_words: int
    pair_weight: float
    noise: float
    sure: float


WHOLE = Ability(attention_words=900, fading_words=400, pair_weight=0.6, noise=0.15, sure=0.55)
SMALL = Ability(attention_words=60, fading_words=60, pair_weight=0.0, noise=0.6, sure=0.4)
"""It soon loses the thread of a long prompt, reads words one by one, guesses more, and talks more."""


@dataclass(frozen=True, slots=True)
class Reading:
    """A prompt made ready for answering: per feature, its (label index, weight) pairs.

    turns: the earlier (user, assistant) exchanges.
    """

    instruction: str
    turns: tuple[tuple[str, str], ...]
    guidance: Guidance
    weights: Mapping[str, tuple[tuple[int, float], ...]]
    lengths: tuple[float, ...]
    demonstrations: tuple[tuple[int, frozenset[str]], ...]
    rarity: Mapping[str, float]


def answer(messages: Sequence[Mapping[str, str]], ability: Ability = WHOLE) -> str:
    """Answer the last user message by what the other messages say.

    messages: items with `role` and `content`. The reply is a bare label, or prose around one where the prompt does
    not insist on a bare label and the choice is not clear; where the prompt knows no labels and asks for a summary, it
    is one. The same messages always give the same reply of the same ability.
    """
    context, query = _part(messages)
    reading = _read(context, ability)
    if not reading.guidance.labels and asks_summary(reading.instruction):
        return summarize(reading.instruction, reading.turns, query)
    return _phrase(reading, query, _scores(reading, query, ability.noise), ability.sure)


def _part(messages: Sequence[Mapping[str, str]]) -> tuple[tuple[tuple[str, str], ...], str]:
    """Part the conversation into its context, as (role, content) pairs, and the message to answer."""
    context = [(message["role"], message["content"]) for message in messages]
    last = max((index for index, (role, _) in enumerate(context) if role == "user"), default=None)
    if last is None:
        return tuple(context), ""
    before, query = part_query(context.pop(last)[1])
    return (*context, ("system", before)), query


@lru_cache(maxsize=1024)
def _read(context: tuple[tuple[str, str], ...], ability: Ability) -> Reading:
    instruction = "\n".join(content for role, content in context if role in ("system", "developer"))
    turns, asked = [], None
    for role, content in context:
        if role == "user":
            asked = part_query(content)[1]
        elif role == "assistant" and asked is not None:
            turns.append((asked, content))
            asked = None
    return _weigh(instruction, tuple(turns), ability)


def _weigh(instruction: str, turns: tuple[tuple[str, str], ...], ability: Ability) -> Reading:
    guidance = read_prompt(instruction, turns)
    place = {label: index for index, label in enumerate(guidance.labels)}
    beyond = max(0, guidance.word_count - ability.attention_words)
    attention = 1.0 / (1.0 + beyond / ability.fading_words)
    evidence: dict[str, dict[int, float]] = defaultdict(lambda: defaultdict(float))
    for label, index in place.items():
        for feature in features(label.replace("_", " ").replace("-", " ")):
            evidence[feature][index] += 1.0
    for statement in guidance.statements:
        for feature in features(statement.text):
            evidence[feature][place[statement.label]] += statement.weight * attention
    for shown in guidance.demonstrations:
        for feature in features(shown.message):
            evidence[feature][place[shown.label]] += _DEMO_WORD_WEIGHT * attention
    demonstrations = tuple(
        (place[shown.label], frozenset(features(shown.message))) for shown in guidance.demonstrations
    )
    weights: dict[str, tuple[tuple[int, float], ...]] = {}
    lengths = [1.0] * len(place)
    for feature, by_label in evidence.items():
        owners = sum(max(0.0, weight) for weight in by_label.values()) / max(1e-9, *by_label.values())
        rarity = math.log((len(place) + 0.5) / max(1.0, owners)) * (ability.pair_weight if " " in feature else 1.0)
        weights[feature] = tuple(
            (i, rarity * max(-1.0, min(weight, _WEIGHT_CAP))) for i, weight in sorted(by_label.items())
        )
        for index, weight in weights[feature]:
            lengths[index] += max(0.0, weight) * (" " not in feature)
    return Reading(
        instruction,
        turns,
        guidance,
        weights,
        tuple(length**_LENGTH_EXPONENT for length in lengths),
        demonstrations,
        _rarity(demonstrations),
    )


def _rarity(demonstrations: tuple[tuple[int, frozenset[str]], ...]) -> dict[str, float]:
    counts: dict[str, int] = defaultdict(int)
    for _, shown in demonstrations:
        for feature in shown:
            counts[feature] += 1
    return {feature: math.log((len(demonstrations) + 1) / count) for feature, count in counts.items()}


def _scores(reading: Reading, query: str, noise: float) -> list[float]:
    asked = features(query)
    scores = [0.0] * len(reading.guidance.labels)
    for feature in asked:
        for index, weight in reading.weights.get(feature, ()):
            scores[index] += weight
    scores = [score / length for score, length in zip(scores, reading.lengths, strict=True)]
    nearest = [0.0] * len(scores)
    for index, shown in reading.demonstrations:
        shared = math.fsum(reading.rarity[feature] for feature in shown.intersection(asked))
        if shared:
            nearest[index] = max(nearest[index], shared / math.sqrt(len(shown) * len(asked)))
    return [
        score + _DEMO_LIKENESS_WEIGHT * near**2 + noise * chance(query, label)
        for score, near, label in zip(scores, nearest, reading.guidance.labels, strict=True)
    ]


def _phrase(reading: Reading, query: str, scores: list[float], sure: float) -> str:
    guidance = reading.guidance
    topic = " ".join(query.split()[:6]).rstrip(".,!?") or "nothing in particular"
    if not scores:
        return f"I think this is about: {topic}."
    ranking = sorted(range(len(scores)), key=lambda index: (-scores[index], index))
    label = guidance.labels[ranking[0]]
    if guidance.asks_capitals:
        label = label.upper()
    if guidance.asks_json:
        return f'{{"label": "{label}"}}'
    if _answers_bare(guidance, query, scores, ranking, sure):
        return label
    return f"I think this is about: {topic}. It looks like a case of {label.replace('_', ' ').lower()} ({label})."


def _answers_bare(guidance: Guidance, query: str, scores: list[float], ranking: list[int], sure: float) -> bool:
    """Whether the model gives the label alone; contradictory wishes are decided by the message."""
    if guidance.asks_bare and guidance.asks_prose:
        return chance(query, "style") < 0.5
    if guidance.asks_bare or guidance.asks_prose:
        return guidance.asks_bare
    if chance(query, "imitation") < guidance.bare_turns / (guidance.bare_turns + 1):
        return True
    return len(ranking) > 1 and scores[ranking[1]] < sure * scores[ranking[0]]
