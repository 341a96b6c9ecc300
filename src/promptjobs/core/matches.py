"""In how many dimensions points agree: a table of points that grows, compared with each other and with any point."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast, overload

import numpy as np
from numpy.typing import NDArray

from promptjobs.core.choices import Point

Counts = NDArray[np.int16]
"""(points, rows): in how many dimensions a point agrees with a row of the table."""

_ROWS = 64
"""Room for rows at first; it doubles."""


@dataclass(frozen=True, slots=True)
class Neighbours(Sequence[Point]):
    """Each of the points with each of the changes, the changes of the first point first; made when asked for.

    dimensions, options: (changes,) what is put in where.
    """

    points: Sequence[Point]
    dimensions: NDArray[np.intp]
    options: NDArray[np.intp]

    def __len__(self) -> int:
        return len(self.points) * len(self.dimensions)

    @overload
    def __getitem__(self, at: int) -> Point: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[Point]: ...
    def __getitem__(self, at: int | slice) -> Point | Sequence[Point]:
        if isinstance(at, slice):
            return [self[each] for each in range(*at.indices(len(self)))]
        point, change = divmod(range(len(self))[at], len(self.dimensions))
        changed = list(self.points[point])
        changed[int(self.dimensions[change])] = int(self.options[change])
        return tuple(changed)


class Matches:
    """Points in rows, in the order they were added, with their agreements."""

    def __init__(self, sizes: Sequence[int]) -> None:
        """sizes: the number of options of each dimension."""
        self.length = 0
        self._starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.intp)
        self._dimension = np.repeat(np.arange(len(sizes)), sizes)
        self._uses = np.zeros(self._starts[-1], np.intp)
        self._order: NDArray[np.intp] | None = None
        self._has = np.zeros((self._starts[-1], _ROWS), bool)
        """(options of all dimensions, rows): whether the row has the option."""
        self._between = np.zeros((_ROWS, _ROWS), np.int16)

    def add(self, point: Point) -> int:
        """The number of the new row."""
        if self.length == self._between.shape[0]:
            self._has = np.pad(self._has, ((0, 0), (0, self.length)))
            self._between = np.pad(self._between, ((0, self.length), (0, self.length)))
        row, options = self.length, self._options(point)
        self._order = None
        self.length += 1
        self._has[options, row] = True
        self._uses[options] += 1
        counts = self._has[options, : self.length].sum(axis=0, dtype=np.int16)
        self._between[row, : self.length] = self._between[: self.length, row] = counts
        return row

    def between(self) -> Counts:
        """The rows with each other."""
        return self._between[: self.length, : self.length]

    def of(self, points: Sequence[Point]) -> Counts:
        """Each point with the rows."""
        options = np.asarray(points, np.intp).reshape(len(points), -1) + self._starts[:-1]
        return cast(Counts, self._has[options, : self.length].sum(axis=1, dtype=np.int16))

    def neighbours(self, points: Sequence[Point], at_most: int) -> tuple["Neighbours", Counts]:
        """For each of the points those that differ from it in one dimension, with the rows; some are the point itself.

        Options that no row has are alike to a model of agreements: the first of each dimension stands for all. Where a
        point has more than `at_most`, these come first, and then the options that most rows have.
        """
        chosen = self._changes()[:at_most]
        dimension = self._dimension[chosen]
        mine = self._has[np.asarray(points, np.intp) + self._starts[:-1], : self.length].astype(np.int16)
        rest = mine.sum(axis=1, dtype=np.int16)[:, None, :] - mine
        counts = rest[:, dimension, :] + self._has[chosen, : self.length]
        changes = Neighbours(points, dimension, chosen - self._starts[dimension])
        return changes, counts.reshape(-1, self.length)

    def _changes(self) -> NDArray[np.intp]:
        """The first unused option of each dimension, then the used ones, those that most rows have first."""
        if self._order is None:
            used, unused = np.flatnonzero(self._uses), np.flatnonzero(self._uses == 0)
            first = unused[np.unique(self._dimension[unused], return_index=True)[1]]
            self._order = np.concatenate([first, used[np.argsort(-self._uses[used], kind="stable")]])
        return self._order

    def _options(self, point: Point) -> NDArray[np.intp]:
        return self._starts[:-1] + np.asarray(point, np.intp)
