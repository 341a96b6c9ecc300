"""Merging the lines of prompt texts: two edits of one text, and a rewrite that must not lose what it forgot."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from promptjobs.core.prompt import PLACEHOLDER

BULLET = re.compile(r"\s*(?:[-*+•·]|\d{1,3}[.)])\s+")
PUNCTUATION = re.compile(r"[\s.,;:!?\"'`*_()\[\]•·–—#’‘“”-]+")

SIMILAR = 0.5
"""A line is another one reworded where they share at least this part of their words (Dice's coefficient)."""


SAID = 0.6
"""An added line says what another text says already where they share at least this part of their words."""


def normalised(line: str) -> str:
    """The line without bullet, case and punctuation: lines that are equal so say the same. Empty for a separator."""
    return PUNCTUATION.sub(" ", BULLET.sub("", line, count=1).casefold()).strip()


def three_way(base: str, ours: str, theirs: str) -> str | None:
    """`ours` with what `theirs` changed in `base`; None where they clash, or where nothing of theirs is new to ours.

    They clash where both changed the same line into different ones, or one deleted what the other reworded. Lines
    that both added are kept once, even where case, bullets or punctuation differ. Every placeholder of base stays,
    as often as all three hold it. Line ends are those of ours, as single newlines.
    """
    was = _lines(base)
    mine, yours = _Changes.of(was, _lines(ours)), _Changes.of(was, _lines(theirs))
    added = {normalised(line) for line in mine.added(was)} - {""}
    merged: list[str] = []
    for at in range(len(was) + 1):
        merged += mine.inserted[at]
        if yours.inserted[at] != mine.inserted[at]:
            merged += _new_ones(yours.inserted[at], added)
        if at == len(was):
            break
        left, right = mine.fates[at], yours.fates[at]
        if left == was[at]:
            merged += [] if right is None else [right] if right == left else _new_ones([right], added)
        elif right in (was[at], left) or _say_the_same(left, right):
            merged += [] if left is None else [left]
        else:
            return None
    text = "\n".join(merged).rstrip("\n")
    if text == "\n".join(_lines(ours)):
        return None
    return text + _line_end(ours) if _keeps_placeholders(text, base, ours, theirs) else None


def apply_additions(base: str, proposed: str) -> str:
    """`base` with the lines that `proposed` adds and rewords; lines that it merely dropped are kept.

    A line is reworded where it stands for a line with which it shares half of the words, or where as many new lines
    stand for as many old ones. Old lines that the proposal says elsewhere, or whose placeholders it holds elsewhere,
    are not kept; those with a placeholder that it lacks always are.
    """
    old, new = _lines(base), _lines(proposed)
    rule = _Keeping({normalised(line) for line in new}, _names(base), _names(proposed))
    merged: list[str] = []
    for tag, i1, i2, j1, j2 in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if tag == "equal":
            merged += old[i1:i2]
        else:
            merged += _overlaid(old[i1:i2], new[j1:j2], rule, has_anchor=i1 > 0)
    return "\n".join(merged).rstrip("\n") + _line_end(base)


def merged_texts(base: Mapping[str, str], best: Mapping[str, str], texts: Mapping[str, str]) -> dict[str, str]:
    """What `texts` changed in `base`, merged into `best`: by name, the texts in which that brings something new."""
    new = {name: novel(text, base[name], best[name]) for name, text in texts.items()}
    merged = {name: three_way(base[name], best[name], text) for name, text in new.items()}
    return {name: text for name, text in merged.items() if text is not None}


def novel(text: str, base: str, best: str) -> str:
    """Without the lines added to `base` that `best`, or `text` itself, says already, be it in other words."""
    was = Counter(normalised(line) for line in _lines(base))
    said = [set(normalised(line).split()) for line in _lines(best) if normalised(line)]
    kept, held = list[str](), Counter[str]()
    for line in text.split("\n"):
        key = normalised(line)
        held[key] += 1
        is_added = bool(key) and held[key] > was[key]
        if not is_added or (held[key] == 1 and not any(_dice(set(key.split()), other) >= SAID for other in said)):
            kept.append(line)
    return "\n".join(kept)


@dataclass(frozen=True, slots=True)
class _Changes:
    """What became of each line of a text (None: deleted), and what was inserted before each and after the last."""

    fates: list[str | None]
    inserted: list[list[str]]

    @staticmethod
    def of(base: Sequence[str], side: Sequence[str]) -> "_Changes":
        fates: list[str | None] = list(base)
        inserted: list[list[str]] = [[] for _ in range(len(base) + 1)]
        for tag, i1, i2, j1, j2 in SequenceMatcher(None, base, side, autojunk=False).get_opcodes():
            if tag != "equal":
                paired = min(i2 - i1, j2 - j1)
                fates[i1:i2] = [*side[j1 : j1 + paired], *[None] * (i2 - i1 - paired)]
                inserted[i2] += side[j1 + paired : j2]
        return _Changes(fates, inserted)

    def added(self, base: Sequence[str]) -> list[str]:
        replacing = [fate for fate, line in zip(self.fates, base, strict=True) if fate is not None and fate != line]
        return [*replacing, *(line for block in self.inserted for line in block)]


def _new_ones(block: Sequence[str], known: set[str]) -> list[str]:
    """The lines that are not known; separators stay only where they separate something new."""
    kept = [line for line in block if normalised(line) not in known]
    has_lost = len(kept) < len(block)
    return kept if not has_lost or any(normalised(line) for line in kept) else []


def _say_the_same(left: str | None, right: str | None) -> bool:
    return left is not None and right is not None and normalised(left) == normalised(right) != ""


def _keeps_placeholders(text: str, base: str, ours: str, theirs: str) -> bool:
    found, counts = _names(text), [_names(side) for side in (base, ours, theirs)]
    for name, count in counts[0].items():
        is_fixed = all(side[name] == count for side in counts)
        if found[name] < 1 or (is_fixed and found[name] != count):
            return False
    return True


@dataclass(frozen=True, slots=True)
class _Keeping:
    """Which lines of an old text stay when a new one is laid over it."""

    said: set[str]
    needed: Counter[str]
    held: Counter[str]

    def is_lacking(self, line: str) -> bool:
        return any(not self.held[name] for name in _names(line))

    def is_dropped(self, line: str) -> bool:
        """Whether the new text holds nothing like it."""
        names = _names(line)
        is_elsewhere = bool(names) and all(self.held[name] >= self.needed[name] for name in names)
        return bool(normalised(line)) and normalised(line) not in self.said and not is_elsewhere


def _overlaid(old: Sequence[str], new: Sequence[str], rule: _Keeping, has_anchor: bool) -> list[str]:
    """A block of new lines over one of old ones.

    has_anchor: whether a line that both texts have stands before them. A new line then follows at once what it follows
    in the new text, and so stays in its section; what was dropped comes after it.
    """
    pairs = list(zip(range(len(old)), range(len(new)), strict=True)) if len(old) == len(new) else _reworded(old, new)
    merged: list[str] = []
    i = j = 0
    for old_at, new_at in [*pairs, (len(old), len(new))]:
        dropped, added = _kept(old[i:old_at], rule), new[j:new_at]
        merged += [*added, *dropped] if has_anchor or i else [*dropped, *added]
        if old_at < len(old):
            merged += [old[old_at]] if rule.is_lacking(old[old_at]) else []
            merged.append(new[new_at])
        i, j = old_at + 1, new_at + 1
    return merged


def _kept(block: Sequence[str], rule: _Keeping) -> list[str]:
    """The dropped lines of a block, and the separators between them."""
    if not any(rule.is_dropped(line) for line in block):
        return []
    return [line for line in block if not normalised(line) or rule.is_dropped(line)]


def _reworded(old: Sequence[str], new: Sequence[str]) -> list[tuple[int, int]]:
    """Pairs of old and new lines that share most words, in the order of both, with the greatest sum of shares."""
    ours, theirs = ([set(normalised(line).split()) for line in side] for side in (old, new))
    best = [[0.0] * (len(new) + 1) for _ in range(len(old) + 1)]
    share = [[_dice(a, b) for b in theirs] for a in ours]
    for i in reversed(range(len(old))):
        for j in reversed(range(len(new))):
            paired = share[i][j] + best[i + 1][j + 1] if share[i][j] >= SIMILAR else 0.0
            best[i][j] = max(best[i + 1][j], best[i][j + 1], paired)
    pairs, i, j = [], 0, 0
    while i < len(old) and j < len(new):
        if best[i][j] == best[i + 1][j]:
            i += 1
        elif best[i][j] == best[i][j + 1]:
            j += 1
        else:
            pairs.append((i, j))
            i, j = i + 1, j + 1
    return pairs


def _dice(a: set[str], b: set[str]) -> float:
    return 2 * len(a & b) / (len(a) + len(b)) if a and b else 0.0


def _names(text: str) -> Counter[str]:
    return Counter(PLACEHOLDER.findall(text))


def _lines(text: str) -> list[str]:
    body = text.replace("\r\n", "\n").rstrip("\n")
    return body.split("\n") if body else []


def _line_end(text: str) -> str:
    unified = text.replace("\r\n", "\n")
    return unified[len(unified.rstrip("\n")) :]
