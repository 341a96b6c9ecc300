"""Task "labels": radio calls to a harbour office go to one of twelve desks with the names of birds.

Mechanics. Each label stands for two unrelated themes that its name does not tell; a call is made of the phrases of one
theme, with some talk around it. The score is 1 for exactly the right label, else 0; feedback is bare ("Wrong: expected
heron."). The policy model (sorter.py) knows what most of the words are about and nothing of the labels, so that
labelled calls as demonstrations help at once, and instructions as far as they name the right words.
"""

import re
import tomllib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

from .chance import Dice, share
from .reflector import Reflector
from .sorter import Sorter
from .wording import STOP_WORDS, WORD, Lexicon, notions
from .worlds import SPLITS, Splits, Verdict

SHIPS = ("Astrid", "Maren", "Kormoran", "Blue Tide", "Selma", "Orion", "Vega", "Nora", "Pelikan", "Ida")
OPENINGS = (
    "Harbour office, this is {ship}:",
    "{ship} calling:",
    "Good morning, {ship} here:",
    "Motor vessel {ship}:",
    "",
)
ENDINGS = ("over", "please advise", "we stand by", "do you read", "", "", "")


Theme = tuple[str, tuple[str, ...], tuple[str, ...]]
"""Title, what is said of it, and details that may follow."""

UNDERSTOOD = 0.85
"""Share of a theme's own words of which the policy model knows what they belong to."""


def _themes() -> dict[str, list[Theme]]:
    """Themes by label."""
    found: dict[str, list[Theme]] = {}
    for theme in tomllib.loads(Path(__file__).with_name("harbour.toml").read_text(encoding="utf-8"))["themes"]:
        read = (theme["title"], tuple(theme["subjects"]), tuple(theme["details"]))
        found.setdefault(theme["label"], []).append(read)
    return found


READ = _themes()


def _lexicon() -> Lexicon:
    """The world as the policy model knows it: most of the words that only one theme uses stand for its notion."""
    used: dict[str, set[str]] = defaultdict(set)
    for title, subjects, details in (theme for themes in READ.values() for theme in themes):
        for word in WORD.findall(" ".join([title, *subjects, *details]).lower()):
            used[word].add(title)
    known: dict[str, list[str]] = defaultdict(list)
    for word, titles in sorted(used.items()):
        if len(titles) == 1 and len(word) > 3 and word not in STOP_WORDS and share("understood", word) < UNDERSTOOD:
            known[min(titles)].append(word)
    return Lexicon(notions({title: "|".join(map(re.escape, words)) for title, words in known.items()}))


def _handwritten() -> str:
    lines = ["Sort radio calls to a harbour office. Answer with the label only. What belongs to each label:"]
    for label, themes in READ.items():
        for title, subjects, details in themes:
            lines.append(f"- {label}: {title}, such as {subjects[0]}, {subjects[1]}, {subjects[3]}, {details[0]}.")
    return "\n".join(lines)


@dataclass(frozen=True)
class LabelTask:
    """A task of worlds.Task."""

    name: str = "labels"
    description: str = "Radio calls to a harbour office are sorted under twelve labels, each of them a desk's name."
    baseline: str = "Sort the radio call. Answer with the label only."
    splits: Splits = SPLITS
    samples: bool = False

    @cached_property
    def handwritten(self) -> str:
        return _handwritten()

    @cached_property
    def user_pattern(self) -> str:
        return f"Labels: {' | '.join(READ)}\n\nRadio call: {{input}}"

    @cached_property
    def _sorter(self) -> Sorter:
        return Sorter("Radio call:", _lexicon())

    def input(self, seed: int) -> str:
        return _call(seed)[0]

    def expected(self, seed: int) -> str:
        return _call(seed)[1]

    def answer(self, messages: Sequence[tuple[str, str]], draw: int = 0) -> str:
        return self._sorter.answer(messages)

    def grade(self, seed: int, output: str) -> Verdict:
        label = _call(seed)[1]
        if output.strip().strip(".\"'`").lower() == label:
            return Verdict(1.0, "Right.")
        return Verdict(0.0, f"Wrong: expected {label}.")

    def reflect(self, messages: Sequence[tuple[str, str]], temperature: float, draw: int, salt: int = 0) -> str:
        return Reflector().reply(messages, temperature, draw, salt)


@lru_cache(maxsize=5000)
def _call(seed: int) -> tuple[str, str]:
    dice = Dice("call", seed)
    label = dice.among(list(READ))
    _, subjects, details = dice.among(READ[label])
    said = [dice.among(subjects)]
    if dice.hits(0.65):
        said.append(dice.among(details))
    ending = dice.among(ENDINGS)
    opening = dice.among(OPENINGS).format(ship=dice.among(SHIPS))
    return " ".join(part for part in (opening, ", ".join(said + [ending] * bool(ending)) + ".") if part), label


LABEL_TASK = LabelTask()
