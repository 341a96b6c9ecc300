"""A policy model that fills in forms: it does what its prompt says, right or wrong, and knows no convention.

Mechanics. The user message lists the fields with their permitted values ("field: a | b | c") and ends with the input.
Each statement of the prompt that names one or two values of a field is a rule; its other words are its condition, of
which as much holds as of the words is found in the input (notions count more than plain words, a square makes half a
match weak). Hedges weaken a rule, "always" strengthens it, "regardless" lets it win conflicts, "never" turns it
around, "unless" takes an exception out, "by default" drops the condition. A field's value is the one with the largest
sum of common sense, rules, demonstrations that are like the input, and noise that belongs to the input, to the prompt
and, where the model samples, to the draw. All that a prompt holds takes attention: rules and demonstrations count less
the more it says. JSON comes where the prompt insists on it or shows it.
"""

import json
import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from .chance import gumbel, share
from .prompt_reading import conversation, read_prompt
from .wording import Lexicon

RULE_WEIGHT = 3.2
SHOWN_WEIGHT = 2.6
PLAIN_WORD = 0.3  # of a notion
ATTENTION = 85.0  # statements at which everything counts half
INPUT_NOISE, PROMPT_NOISE = 0.24, 0.15

SPEC = re.compile(r"^\s*(\w+)\s*:\s*(\w+(?:\s*\|\s*\w+)+)\s*$", re.MULTILINE)
HEDGE = re.compile(
    r"(?i)\b(?:usually|often|maybe|perhaps|might|could|consider|generally|sometimes|possibly|probably|try)\b"
)
EMPHASIS = re.compile(r"(?i)\b(?:always|must|never|strictly|without exception)\b")
OVERRIDE = re.compile(r"(?i)\b(?:regardless|whatever|no matter|overrides?|takes? precedence|comes? first)\b[^,.;]*")
DEFAULT = re.compile(
    r"(?i)\b(?:default|otherwise|normally|everything else|anything else|all others?|any other|the rest)\b"
)
EVEN = re.compile(r"(?i)\b(?:even|also)\b(?:\s+(?:for|when|if|with))?")
EXCEPTION = re.compile(r"(?i)\b(?:unless|except(?:\s+(?:for|when|if))?|but not)\b")
AGAINST = re.compile(r"(?i)\b(?:never|not|n't|avoid|instead of|rather than|no longer)\W+(?:\w+\W+){0,3}$")
QUOTED = re.compile(r"[\"“][^\"”]+[\"”]")
ALTERNATIVES = re.compile(r"(?i)\bor\b|,|/|\bas well as\b")
Spec = tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True)
class Knowledge:
    """What the model knows of the world: words, and common sense as notion to (field, value, weight) triples.

    marker: opens the input in the user message. noise: per draw; 0 for a model that does not sample. slips: share of
    the answers that come out malformed.
    """

    lexicon: Lexicon
    sense: Mapping[str, tuple[tuple[str, str, float], ...]]
    habits: Mapping[str, tuple[str, float]]
    marker: str
    noise: float = 0.0
    slips: float = 0.0


@dataclass(frozen=True, slots=True)
class Rule:
    """bags: alternative conditions, each a set of features; () holds always. weight < 0 speaks against the value."""

    field: str
    value: str
    bags: tuple[frozenset[str], ...]
    excluded: frozenset[str]
    weight: float
    bonus: float


@dataclass(frozen=True, slots=True)
class Reading:
    rules: Mapping[str, tuple[Rule, ...]]
    shown: tuple[tuple[frozenset[str], Mapping[str, str]], ...]
    rarity: Mapping[str, float]
    attention: float
    json_wish: float
    shows_json: int
    print: str


class Clerk:
    def __init__(self, knowledge: Knowledge) -> None:
        self.knowledge = knowledge
        self._read = lru_cache(maxsize=4096)(self._reading)

    def answer(self, messages: Sequence[tuple[str, str]], draw: int = 0) -> str:
        """messages: (role, content). The same messages give the same answer, for a model that samples per draw."""
        instruction, turns, asked = conversation(messages)
        before, _, text = asked.rpartition(self.knowledge.marker)
        spec = _spec(before)
        if not spec:
            return "Which fields am I to fill in?"
        reading = self._read(instruction, turns, spec)
        salt = draw if self.knowledge.noise else 0
        values = self._values(reading, spec, text.strip(), salt)
        return self._phrase(reading, values, text, salt)

    # --- reading ---------------------------------------------------------------------------------------------------

    def _reading(self, instruction: str, turns: tuple[tuple[str, str], ...], spec: Spec) -> Reading:
        prompt = read_prompt(instruction, turns)
        rules: dict[str, list[Rule]] = defaultdict(list)
        load = 0.2 * prompt.headings + 0.6 * len(prompt.shown)
        for statement in prompt.statements:
            load += 0.8 + max(0, len(statement.split()) - 22) / 22
            for rule in self._rules(statement, spec):
                same = [r for r in rules[rule.field] if (r.value, r.bags) == (rule.value, rule.bags)]
                if not same:
                    rules[rule.field].append(rule)
        shown = [self._shown(one.input, one.output) for one in prompt.shown]
        return Reading(
            rules={field: tuple(found) for field, found in rules.items()},
            shown=tuple(shown),
            rarity=_rarity([features for features, _ in shown]),
            attention=1.0 / (1.0 + (load / ATTENTION) ** 3),
            json_wish=prompt.json_wish,
            shows_json=sum(one.output.lstrip().startswith("{") for one in prompt.shown),
            print=_print_of(instruction, turns),
        )

    def _shown(self, text: str, output: str) -> tuple[frozenset[str], Mapping[str, str]]:
        return self.knowledge.lexicon.features(text.rpartition(self.knowledge.marker)[2]), read_form(output)[0]

    def _rules(self, statement: str, spec: Spec) -> list[Rule]:
        named = _named(statement, spec)
        if not named:
            return []
        weight = (0.55 if HEDGE.search(statement) else 1.0) * (1.08 if EMPHASIS.search(statement) else 1.0)
        rest = list(statement)
        for _, _, start, end in named:
            rest[start:end] = " " * (end - start)
        condition, bonus = OVERRIDE.subn(" ", "".join(rest))
        condition, *exceptions = EXCEPTION.split(condition, maxsplit=1)
        excluded = self.knowledge.lexicon.features(exceptions[0]) if exceptions else frozenset()
        bags, default_bags = self._conditions(condition)
        if not bags and QUOTED.search(condition):
            return []  # a condition in words that say nothing here
        rules = []
        for field, value, start, _ in named:
            share_ = weight / (1.0 if len([n for n in named if n[0] == field]) == 1 else 2.0)
            signed = -0.8 * share_ if AGAINST.search(statement[:start]) else share_
            rules.append(Rule(field, value, bags, excluded, signed, 0.9 * min(1, bonus)))
            if default_bags:
                rules.append(Rule(field, value, default_bags, excluded, 0.8 * signed, 0.0))
        return rules

    def _conditions(self, text: str) -> tuple[tuple[frozenset[str], ...], tuple[frozenset[str], ...]]:
        """The bags of a condition; for a default none, but those of what it is said to hold for as well."""
        features = self.knowledge.lexicon.features
        if DEFAULT.search(text):
            parts = EVEN.split(text, maxsplit=1)
            even = [features(part) for part in ALTERNATIVES.split(parts[1])] if len(parts) > 1 else []
            return (), tuple(bag for bag in even if any(word.startswith("#") for word in bag))
        bags = [bag for part in ALTERNATIVES.split(text) if (bag := features(part))]
        if len(bags) > 1 and sum(any(word.startswith("#") for word in bag) for bag in bags) < 2:
            return (frozenset().union(*bags),), ()  # only one part says something: the others belong to it
        return tuple(bags), ()

    # --- answering -------------------------------------------------------------------------------------------------

    def _values(self, reading: Reading, spec: Spec, text: str, salt: int) -> dict[str, str]:
        features = self.knowledge.lexicon.features(text)
        like = _likeness(reading, features)
        values = {}
        for field, permitted in spec:
            scores = dict.fromkeys(permitted, 0.0)
            self._add_sense(scores, field, features)
            for value, score in _by_rules(reading.rules.get(field, ()), features).items():
                scores[value] += score * reading.attention
            for value, score in _by_likeness(like, field).items():
                if value in scores:
                    scores[value] += score * reading.attention
            values[field] = max(
                permitted, key=lambda value: scores[value] + self._noise(reading, text, field, value, salt)
            )
        return values

    def _add_sense(self, scores: dict[str, float], field: str, features: frozenset[str]) -> None:
        habit, weight = self.knowledge.habits.get(field, ("", 0.0))
        if habit in scores:
            scores[habit] += weight
        for feature in sorted(features):
            for sensed, value, weight in self.knowledge.sense.get(feature[1:], ()) if feature[0] == "#" else ():
                if sensed == field and value in scores:
                    scores[value] += weight

    def _noise(self, reading: Reading, text: str, field: str, value: str, salt: int) -> float:
        noise = INPUT_NOISE * _input_noise(text, field, value)
        noise += PROMPT_NOISE * gumbel("prompt", reading.print, text, field, value)
        if self.knowledge.noise:
            noise += self.knowledge.noise * gumbel("draw", salt, reading.print, text, field, value)
        return noise

    def _phrase(self, reading: Reading, values: Mapping[str, str], text: str, salt: int) -> str:
        drawn = share("form", reading.print, text, salt)
        if share("slip", reading.print, text, salt) < self.knowledge.slips:
            return json.dumps(values)[: -2 - int(drawn * 12)]
        wish = 2.6 * reading.json_wish * max(0.4, reading.attention) + min(2.4, 0.9 * reading.shows_json)
        if wish - 1.2 + 0.4 * math.log(drawn / (1 - drawn)) > 0:
            return json.dumps(values)
        if wish:
            return f"Here is the completed form:\n\n```json\n{json.dumps(values, indent=1)}\n```\nPlease check it."
        listed = "\n".join(f"* {field}: {value}" for field, value in values.items())
        return f"I would fill in the form like this.\n\n{listed}\n\nThis follows from the description."


@lru_cache(maxsize=64)
def _spec(text: str) -> Spec:
    return tuple((found[1], tuple(re.split(r"\s*\|\s*", found[2]))) for found in SPEC.finditer(text))


@lru_cache(maxsize=200_000)
def _input_noise(text: str, field: str, value: str) -> float:
    return gumbel("input", text, field, value)


def _print_of(instruction: str, turns: tuple[tuple[str, str], ...]) -> str:
    return "|".join([str(share(instruction)), *(str(share(*turn)) for turn in turns)])


@lru_cache(maxsize=64)
def _value_patterns(spec: Spec) -> tuple[tuple[str, str, re.Pattern[str]], ...]:
    return tuple(
        (field, value, re.compile(rf"(?i)(?<![\w-]){re.escape(value)}(?![\w-])"))
        for field, permitted in spec
        for value in permitted
    )


@lru_cache(maxsize=50_000)
def _named(statement: str, spec: Spec) -> tuple[tuple[str, str, int, int], ...]:
    """(field, value, start, end) of the permitted values that a statement names; three of a field are but a list."""
    found = [
        (field, value, match.start(), match.end())
        for field, value, pattern in _value_patterns(spec)
        if (match := pattern.search(statement))
    ]
    counts: dict[str, int] = defaultdict(int)
    for field, *_ in found:
        counts[field] += 1
    return tuple(one for one in found if counts[one[0]] <= 2)


def _rarity(shown: Sequence[frozenset[str]]) -> dict[str, float]:
    counts: dict[str, int] = defaultdict(int)
    for features in shown:
        for feature in features:
            counts[feature] += 1
    return {feature: math.log(1.0 + len(shown) / count) for feature, count in counts.items()}


def _likeness(reading: Reading, features: frozenset[str]) -> list[tuple[float, Mapping[str, str]]]:
    """Each demonstration's likeness to the input, in [0, 1]: the rarity of what both hold as a share of either's."""
    rarity = reading.rarity

    def mass(some: frozenset[str]) -> float:
        return math.fsum(rarity.get(one, 1.0) * (1.0 if one[0] == "#" else PLAIN_WORD) for one in some)

    own = mass(features)
    return [
        (mass(features & shown) / math.sqrt((own or 1.0) * (mass(shown) or 1.0)), values)
        for shown, values in reading.shown
    ]


def _by_likeness(like: Sequence[tuple[float, Mapping[str, str]]], field: str) -> dict[str, float]:
    votes: dict[str, list[float]] = defaultdict(list)
    for likeness, values in like:
        if field in values:
            votes[values[field]].append(likeness**2)
    scores = {}
    for value, given in votes.items():
        given.sort(reverse=True)
        scores[value] = SHOWN_WEIGHT * (given[0] + 0.25 * sum(given[1:4]))
    return scores


def _by_rules(rules: Sequence[Rule], features: frozenset[str]) -> dict[str, float]:
    pro: dict[str, list[float]] = defaultdict(list)
    con: dict[str, float] = defaultdict(float)
    for rule in rules:
        if rule.excluded and rule.excluded & features and _held(rule.excluded, features) > 0.5:
            continue
        strength = 0.5 if not rule.bags else max(_strength(bag, features) for bag in rule.bags)
        if not strength:
            continue
        score = RULE_WEIGHT * strength * rule.weight
        if score > 0:
            pro[rule.value].append(score + rule.bonus * (strength > 0.6))
        else:
            con[rule.value] = min(con[rule.value], score)
    scores = dict(con)
    for value, given in pro.items():
        given.sort(reverse=True)
        scores[value] = scores.get(value, 0.0) + given[0] + 0.25 * sum(given[1:3])
    return scores


def _held(bag: frozenset[str], features: frozenset[str]) -> float:
    return _weight(bag & features) / _weight(bag)


def _weight(bag: frozenset[str]) -> float:
    """Counted and not summed up, for sets have another order in every process."""
    notions = sum(one[0] == "#" for one in bag)
    return notions + PLAIN_WORD * (len(bag) - notions)


def _strength(bag: frozenset[str], features: frozenset[str]) -> float:
    held = _held(bag, features)
    if not held:
        return 0.0
    several = sum(one[0] == "#" for one in bag)
    return held**2 * (1.0 + 0.22 * max(0, several - 1) * (held > 0.8))


# --- the form of an answer -------------------------------------------------------------------------------------------


@lru_cache(maxsize=20_000)
def read_form(text: str) -> tuple[Mapping[str, str], bool]:
    """The fields of an answer, and whether it is the raw object that was wanted; leniently read where it is not."""
    for candidate, is_raw in ((text.strip(), True), (text[text.find("{") : text.rfind("}") + 1], False)):
        try:
            found = json.loads(candidate)
        except ValueError:
            continue
        if isinstance(found, dict):
            return {str(key): str(value) for key, value in found.items()}, is_raw
    return dict(re.findall(r"^\W*(\w+)\W*:\s*\W*(\w+)\W*$", text, re.MULTILINE)), False
