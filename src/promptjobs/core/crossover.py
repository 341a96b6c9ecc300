"""Crossover: children of two candidates of the archive, made without a call of the meta-model."""

import random
from itertools import combinations
from typing import TYPE_CHECKING

from promptjobs.core.archive import Candidate, lineage
from promptjobs.core.asks import Steps
from promptjobs.core.demonstrations import texts_of
from promptjobs.core.gepa_proposals import rewritten
from promptjobs.core.lanes import Lane
from promptjobs.core.line_merging import merged_texts
from promptjobs.core.merging import MergeKey, choose_merge
from promptjobs.core.prompt import PromptTemplate

if TYPE_CHECKING:
    from promptjobs.core.gepa import Gepa

MAX_PAIRS = 100


class Crossover:
    """Tried once after each acceptance, with the probability crossover_rate, where two candidates can be merged."""

    def __init__(self, search: "Gepa") -> None:
        self.search = search
        self.merges = 0
        self._accepted = 0
        self._tried: set[MergeKey] = set()

    def attempt(self, lane: Lane, rng: random.Random) -> Steps:
        """Returns whether a merged child joined the archive; None where none was tried."""
        search, gepa = self.search, self.search.gepa
        if self.merges >= gepa.max_merges or search.accepted == self._accepted:
            return None
        self._accepted = search.accepted
        if rng.random() >= gepa.crossover_rate:
            return None
        found = self._of_components(rng) or self._of_lines(rng)
        if found is None:
            return None
        template, first, second = found
        child = yield from search.proposals.candidate(template, [first, second], "merge", search.finished)
        if child is None:
            return None
        self.merges += 1
        search.ladder.inherit(child.candidate_id, self._source_of_examples(template, first, second).candidate_id)
        reference = max((first, second), key=lambda c: search.archive.ranking[c.candidate_id])
        return (yield from search.acceptance.settle(lane, reference, [child]))

    def _source_of_examples(self, template: PromptTemplate, first: Candidate, second: Candidate) -> Candidate:
        """Whose examples the merged prompt shows: they stand in the first of the sections that may change."""
        name = self.search.proposals.mutable[0]
        shown = template.section(name).content
        has_second = shown != first.template.section(name).content and shown == second.template.section(name).content
        return second if has_second else first

    def _of_components(self, rng: random.Random) -> tuple[PromptTemplate, Candidate, Candidate] | None:
        """Whole components from either side, by the paper's conditions."""
        search = self.search
        front = [c for c in search.archive.front if c in search.archive]
        merge = choose_merge(front, search.candidates, search.archive.ranking, rng, tried=self._tried)
        if merge is None:
            return None
        self._tried.add(merge.key)
        return merge.template, merge.first, merge.second

    def _of_lines(self, rng: random.Random) -> tuple[PromptTemplate, Candidate, Candidate] | None:
        """What two candidates of one ancestor have learnt apart from each other, line by line; the better one leads."""
        search = self.search
        values, front = search.archive.ranking, [c for c in search.archive.front if c in search.archive]
        ancestors = {c: lineage(search.candidates, c)[1:] for c in front}
        pairs = list(combinations(front, 2))
        for pair in rng.sample(pairs, min(len(pairs), MAX_PAIRS)):
            first, second = sorted(pair, key=lambda c: (-values[c], search.candidates[c].n))
            common = next((c for c in ancestors[first] if c in ancestors[second]), None)
            if first in ancestors[second] or second in ancestors[first] or common is None:
                continue
            key = (first, second, common)
            if key in self._tried:
                continue
            self._tried.add(key)
            base, ours, theirs = (texts_of(search.candidates[c].template) for c in (common, first, second))
            found = merged_texts(base, ours, theirs)
            if found:
                return (
                    rewritten(search.candidates[first].template, found),
                    search.candidates[first],
                    search.candidates[second],
                )
        return None
