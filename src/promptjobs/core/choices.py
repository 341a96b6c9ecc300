"""A search space of named dimensions with numbered options: checking, encoding, drawing and enumerating its points."""

import itertools
import math
import random
from collections.abc import Container, Iterator, Mapping

Point = tuple[int, ...]
"""An option for each dimension, in the order of the dimensions."""

_DRAWS = 64
"""Draws until the points are enumerated instead; that happens only where most of a space is taken."""


class Choices:
    """Dimensions in a fixed order; option 0 of each means "leave as is". Dimensions and options may be added."""

    def __init__(self, dimensions: Mapping[str, int]) -> None:
        """dimensions: name -> number of options, at least 1. Raises ValueError."""
        self._sizes: dict[str, int] = {}
        self.extend(dimensions)

    @property
    def dimensions(self) -> dict[str, int]:
        return dict(self._sizes)

    @property
    def sizes(self) -> tuple[int, ...]:
        return tuple(self._sizes.values())

    @property
    def count(self) -> int:
        """The number of points; 1 without dimensions."""
        return math.prod(self._sizes.values())

    def extend(self, dimensions: Mapping[str, int]) -> None:
        """Add options to known dimensions, and new dimensions at the end; those not named stay as they are.

        Points of before go on with `padded`. Raises ValueError where a dimension would lose options.
        """
        for name, size in dimensions.items():
            known = self._sizes.get(name, 1)
            if size < known:
                raise ValueError(f"dimension {name!r} must have at least {known} options, got {size}")
        self._sizes |= dimensions

    def padded(self, point: Point) -> Point:
        """A point of before an extension: 0 in the dimensions that have come since."""
        return point + (0,) * (len(self._sizes) - len(point))

    def encode(self, config: Mapping[str, int]) -> Point:
        """The point of a configuration that names every dimension. Raises ValueError."""
        if config.keys() != self._sizes.keys():
            raise ValueError(f"a configuration must name {sorted(self._sizes)}, got {sorted(config)}")
        for name, size in self._sizes.items():
            if not 0 <= config[name] < size:
                raise ValueError(f"option of {name!r} must be in 0..{size - 1}, got {config[name]}")
        return tuple(config[name] for name in self._sizes)

    def decode(self, point: Point) -> dict[str, int]:
        return dict(zip(self._sizes, point, strict=True))

    def draw(self, rng: random.Random) -> Point:
        """A point, all equally likely."""
        return tuple([int(rng.random() * size) for size in self._sizes.values()])

    def draw_without(self, taken: Container[Point], rng: random.Random) -> Point:
        """A point that is not taken. Raises ValueError where there is none."""
        for _ in range(_DRAWS):
            point = self.draw(rng)
            if point not in taken:
                return point
        free = next(self.without(taken), None)
        if free is None:
            raise ValueError(f"all of the {self.count} points are taken")
        return free

    def without(self, taken: Container[Point]) -> Iterator[Point]:
        """All points that are not taken, in lexicographic order."""
        every = itertools.product(*(range(size) for size in self._sizes.values()))
        return (point for point in every if point not in taken)
