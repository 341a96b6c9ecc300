"""Finds the words of a known example that were copied into a text."""

import re
from collections.abc import Iterable, Iterator
from itertools import pairwise

# A Chinese character or a kana is a word of its own: no spaces part them.
WORD = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]|[^\W_\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]+")
COMMON = 3
MAX_NGRAMS = 200_000


class Leaks:
    """An index of the runs of n words that the known examples hold.

    Words are compared without regard to case, spaces and punctuation. A run that COMMON different examples hold (all of
    them, where only two are known) is the form of the task and no leak; neither is one of the `shared` texts. A copy
    that is shorter than n words is never found, nor is a paraphrase.
    Learning takes one pass over a text and about 100 bytes a word; past MAX_NGRAMS nothing more is learned.
    """

    def __init__(self, n: int, shared: Iterable[str] = ()) -> None:
        """n: at least 1."""
        if n < 1:
            raise ValueError(f"n must be at least 1, got {n}")
        self.n = n
        self._ids: dict[str, int] = {}
        self._holders: dict[int, int] = {}
        self._examples: set[int] = set()
        for text in shared:
            for key in self._keys(self._learned(text)):
                self._holders[key] = COMMON

    @property
    def is_full(self) -> bool:
        return len(self._holders) >= MAX_NGRAMS

    def learn(self, texts: Iterable[str]) -> None:
        """Each text is one example; one that is known already counts once."""
        for text in texts:
            if self.is_full:
                return
            ids = self._learned(text)
            # Words are numbered as they come: a hash of numbers is the same in every process, one of strings is not.
            example = hash(tuple(ids))
            if example in self._examples:
                continue
            self._examples.add(example)
            for key in set(self._keys(ids)):
                self._holders[key] = min(COMMON, self._holders.get(key, 0) + 1)

    def find(self, text: str, beside: Iterable[str] = ()) -> str | None:
        """The first passage of the text that was copied, as it stands there; None where nothing was.

        beside: texts whose runs of words are no leak in this one, such as the text before a change.
        """
        excused = {key for other in beside for _, key in self._copied(other)}
        first: int | None = None
        last = -1
        for at, key in self._copied(text):
            if key in excused:
                continue
            if first is None:
                first = last = at
            elif at == last + 1:
                last = at
            else:
                break
        if first is None:
            return None
        spans = [found.span() for found in WORD.finditer(text)]
        return text[spans[first][0] : spans[last + self.n - 1][1]]

    def _learned(self, text: str) -> list[int]:
        return [self._ids.setdefault(word, len(self._ids)) for word in words(text)]

    def _keys(self, ids: list[int]) -> Iterator[int]:
        return (hash(tuple(ids[at : at + self.n])) for at in range(len(ids) - self.n + 1))

    def _copied(self, text: str) -> Iterator[tuple[int, int]]:
        """The place of each run of n words that few examples hold, in words, and its key. Unknown words end a run."""
        common = min(COMMON, max(2, len(self._examples)))
        ids = [self._ids.get(word, -1) for word in words(text)]
        breaks = [-1, *(at for at, number in enumerate(ids) if number < 0), len(ids)]
        for before, after in pairwise(breaks):
            for at in range(before + 1, after - self.n + 1):
                key = hash(tuple(ids[at : at + self.n]))
                if 0 < self._holders.get(key, 0) < common:
                    yield at, key


def words(text: str) -> list[str]:
    """The text's words, casefolded."""
    return [word.casefold() for word in WORD.findall(text)]
