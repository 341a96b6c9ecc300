"""Crossover: what two candidates have learnt apart from each other, put into one.

`choose_merge` takes whole components from either side and so needs a prompt of several; `three_way` merges the lines
of a single text. Source of the first: Agrawal et al. 2025, arXiv 2507.19457, algorithm 4 (system-aware merge).
"""

import math
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from promptjobs.core.archive import Candidate, lineage
from promptjobs.core.prompt import PromptTemplate

MAX_PAIRS = 1_000
"""So many pairs are looked at for one merge: a front can have as many survivors as keys."""

MergeKey = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Merge:
    """A child of two candidates and of the ancestor that tells which of them changed what. first is the older one."""

    first: Candidate
    second: Candidate
    ancestor: Candidate
    template: PromptTemplate

    @property
    def key(self) -> MergeKey:
        return self.first.candidate_id, self.second.candidate_id, self.ancestor.candidate_id


def choose_merge(
    front: Sequence[str],
    candidates: Mapping[str, Candidate],
    scores: Mapping[str, float],
    rng: random.Random,
    *,
    tried: Collection[MergeKey] = (),
    are_comparable: Callable[[str, str], bool] | None = None,
) -> Merge | None:
    """A merge of two survivors that was not tried and whose text is new, or None.

    candidates: all of the search, by the digest of their prompt; scores: the ranking values of survivors and
    ancestors. A common ancestor is drawn in proportion to its score. are_comparable: whether two have enough seeds
    in common to check a child against both.
    """
    ancestors = {candidate_id: lineage(candidates, candidate_id)[1:] for candidate_id in front}
    pairs = list(combinations(sorted(front, key=lambda c: candidates[c].n), 2))
    for first, second in rng.sample(pairs, min(len(pairs), MAX_PAIRS)):
        if are_comparable is not None and not are_comparable(first, second):
            continue
        common = _common_ancestors(first, second, ancestors, candidates, scores)
        common = [c for c in common if (first, second, c) not in tried]
        while common:
            ancestor = _drawn(common, scores, rng)
            common.remove(ancestor)
            sides = candidates[first], candidates[second], candidates[ancestor]
            template = _child(*sides, scores, rng)
            if template.digest() not in candidates:
                return Merge(*sides, template)
    return None


def common_ancestors(
    first: str, second: str, candidates: Mapping[str, Candidate], scores: Mapping[str, float]
) -> list[str]:
    """The ancestors over which two candidates can be merged; none where one descends from the other.

    Such an ancestor scores no better than either and has a component that exactly one of them changed.
    """
    ancestors = {candidate_id: lineage(candidates, candidate_id)[1:] for candidate_id in (first, second)}
    return _common_ancestors(first, second, ancestors, candidates, scores)


def _common_ancestors(
    first: str,
    second: str,
    ancestors: Mapping[str, Sequence[str]],
    candidates: Mapping[str, Candidate],
    scores: Mapping[str, float],
) -> list[str]:
    if first in ancestors[second] or second in ancestors[first]:
        return []
    least, others = min(scores[first], scores[second]), set(ancestors[second])
    return [
        c
        for c in ancestors[first]
        if c in others
        and c in scores
        and scores[c] <= least
        and _complement_each_other(candidates[first], candidates[second], candidates[c])
    ]


def _components(candidate: Candidate) -> dict[str, str]:
    return {section.name: section.content for section in candidate.prompt.sections} if candidate.prompt else {}


def _complement_each_other(first: Candidate, second: Candidate, ancestor: Candidate) -> bool:
    """Whether there is a component that exactly one of the two changed."""
    ours, theirs, base = _components(first), _components(second), _components(ancestor)
    if not base or not list(base) == list(ours) == list(theirs):
        return False
    return any(ours[name] != theirs[name] and was in (ours[name], theirs[name]) for name, was in base.items())


def _child(
    first: Candidate, second: Candidate, ancestor: Candidate, scores: Mapping[str, float], rng: random.Random
) -> PromptTemplate:
    """Of each component the changed side; where both changed it, the better candidate's; of equals, either."""
    ours, theirs = _components(first), _components(second)
    better = scores[first.candidate_id] - scores[second.candidate_id]
    texts = {}
    for name, was in _components(ancestor).items():
        if ours[name] == theirs[name] or theirs[name] == was:
            texts[name] = ours[name]
        elif ours[name] == was or better < 0:
            texts[name] = theirs[name]
        else:
            texts[name] = ours[name] if better > 0 else rng.choice((ours[name], theirs[name]))
    return ancestor.template.with_text(texts)


def _drawn(ancestors: Sequence[str], scores: Mapping[str, float], rng: random.Random) -> str:
    weights = [max(0.0, scores[c]) for c in ancestors]
    return rng.choices(ancestors, weights if sum(weights) > 0 else None)[0]


def merge_subsample(
    scores_a: Mapping[int, float],
    scores_b: Mapping[int, float],
    seeds: Sequence[int],
    rng: random.Random,
    size: int = 5,
) -> list[int]:
    """`size` of the seeds that both have scores on: a third each where a is better, where b is, and where they tie.

    What one third lacks is drawn from all that are left; fewer seeds are returned where there are no more.
    """
    common = [seed for seed in seeds if seed in scores_a and seed in scores_b]
    strata = (
        [seed for seed in common if scores_a[seed] > scores_b[seed]],
        [seed for seed in common if scores_b[seed] > scores_a[seed]],
        [seed for seed in common if scores_a[seed] == scores_b[seed]],
    )
    third = max(1, math.ceil(size / len(strata)))
    chosen: list[int] = []
    for stratum in strata:
        chosen += rng.sample(stratum, min(len(stratum), third, size - len(chosen)))
    left = [seed for seed in common if seed not in chosen]
    return chosen + rng.sample(left, min(len(left), size - len(chosen)))
