"""From English text to comparable features: the notions that a lexicon knows, and the stems of all other words."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

WORD = re.compile(r"[a-z]+(?:-[a-z]+)*")

_STOP_WORDS = """
a about after again all also although always am an and another any anything are as at away be because been before being
both but by can cannot could did do does done down each either else even ever every everything few first follow follows
for from further get gets give given go goes gone had has have he her here his how however i if in instead into is it
its just keep kept last less let like made make many may me might more most much must my need needs never no none nor
not note nothing now of off often on once one only onto or other our out over own per please put rather s same say says
see set sets shall she should show since so some something still such t take taken tell than thank thanks that the
their them then there these they thing things this those though through to today too under until up upon us use used
uses very want was way we were what when whenever where which while who whose why will with within without would yes
yet you your
answer answers apply applies belong belongs case cases consider contain contains cover covers decide example examples
field fields input inputs mean means mention mentions mentioned object objects order orders output record records remark
remarks rule rules speak speaks statement such text use value values word words write message messages call calls item
items piece pieces treat treated handle handled mark marked
"""
STOP_WORDS = frozenset(_STOP_WORDS.split())


def stem(word: str) -> str:
    """The word without its commonest endings."""
    for ending in ("ingly", "edly", "ing", "ies", "ed", "es", "s", "ly"):
        if word.endswith(ending) and len(word) - len(ending) >= 3 and not word.endswith("ss"):
            return word[: -len(ending)] + ("y" if ending == "ies" else "")
    return word[:-1] if len(word) > 4 and word.endswith("e") else word


@dataclass(frozen=True)
class Lexicon:
    """notions: name to the pattern of what stands for it in any text. silent: words that say nothing in this domain."""

    notions: Mapping[str, re.Pattern[str]]
    silent: frozenset[str] = frozenset()
    _known: dict[str, frozenset[str]] = field(default_factory=dict, repr=False)

    def features(self, text: str) -> frozenset[str]:
        """Notions as "#name", all other content words as stems."""
        found = self._known.get(text)
        if found is None:
            if len(self._known) > 50_000:
                self._known.clear()
            found = self._known[text] = self._read(text)
        return found

    def _read(self, text: str) -> frozenset[str]:
        rest = text.lower()
        features = set()
        for name, pattern in self.notions.items():
            rest, count = pattern.subn(" ", rest)
            if count:
                features.add(f"#{name}")
        words = (word for word in WORD.findall(rest) if word not in STOP_WORDS and word not in self.silent)
        return frozenset(features | {stem(word) for word in words if len(word) > 2})


def notions(patterns: Mapping[str, str]) -> dict[str, re.Pattern[str]]:
    """Compile patterns of whole words, one per notion."""
    return {name: re.compile(rf"\b(?:{pattern})\b") for name, pattern in patterns.items()}
