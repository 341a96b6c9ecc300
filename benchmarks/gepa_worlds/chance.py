"""Chance without a state: draws that nothing but the given parts decide, on every machine and in every process."""

import hashlib
import math
from collections.abc import Sequence
from typing import Any, TypeVar

Item = TypeVar("Item")


def share(*parts: Any) -> float:
    """A number in (0, 1), spread evenly over parts."""
    drawn = hashlib.blake2b("\x1f".join(map(str, parts)).encode("utf-8", "replace"), digest_size=7).digest()
    return (int.from_bytes(drawn) + 0.5) / 2.0**56


def gumbel(*parts: Any) -> float:
    """Noise for a choice by the largest score: mean 0.58, standard deviation 1.28."""
    return -math.log(-math.log(share(*parts)))


class Dice:
    """A sequence of draws that its parts decide."""

    def __init__(self, *parts: Any) -> None:
        self._key = hashlib.blake2b("\x1f".join(map(str, parts)).encode("utf-8", "replace"), digest_size=12).hexdigest()
        self._thrown = 0

    def share(self) -> float:
        self._thrown += 1
        return share(self._key, self._thrown)

    def hits(self, probability: float) -> bool:
        return self.share() < probability

    def among(self, items: Sequence[Item]) -> Item:
        return items[int(self.share() * len(items))]

    def between(self, low: int, high: int) -> int:
        """A whole number from low to high, both included."""
        return low + int(self.share() * (high - low + 1))

    def shuffled(self, items: Sequence[Item]) -> list[Item]:
        drawn = [(self.share(), at) for at in range(len(items))]
        return [items[at] for _, at in sorted(drawn)]
