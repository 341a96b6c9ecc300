"""The merge of components against the reference implementation, and its sample of seeds."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
from gepa.proposer.merge import (
    MergeProposer,
    filter_ancestors,
    find_common_ancestor_pair,
    sample_and_attempt_merge_programs_by_common_predictors,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from promptjobs.core.archive import Candidate, lineage
from promptjobs.core.merging import Merge, choose_merge, common_ancestors, merge_subsample
from promptjobs.core.prompt import PromptTemplate, Section

LAW = settings(deadline=None, derandomize=True, max_examples=80)
NAMES = ("system", "style", "task")


def template_of(texts: Sequence[str]) -> PromptTemplate:
    return PromptTemplate(tuple(Section(NAMES[at], "system", text, at) for at, text in enumerate(texts)))


def texts_of(template: PromptTemplate) -> dict[str, str]:
    return {section.name: section.content for section in template.sections}


@dataclass
class Family:
    """Candidates by age, with what the reference needs to know of them."""

    members: list[Candidate]
    scores: list[float]

    @staticmethod
    def founded(*texts: str, score: float = 0.5) -> "Family":
        prompt = template_of(texts)
        return Family([Candidate(prompt.digest(), 0, prompt, prompt.digest())], [score])

    def born(self, parents: Sequence[int], *texts: str, score: float = 0.5) -> int | None:
        """The number of the new member; None where the text is known."""
        prompt, n = template_of(texts), len(self.members)
        if prompt.digest() in self.by_id:
            return None
        ids = tuple(self.members[p].candidate_id for p in parents)
        self.members.append(Candidate(prompt.digest(), n, prompt, self.members[0].candidate_id, ids, "reflection"))
        self.scores.append(score)
        return n

    @property
    def by_id(self) -> dict[str, Candidate]:
        return {c.candidate_id: c for c in self.members}

    @property
    def score_by_id(self) -> dict[str, float]:
        return {c.candidate_id: score for c, score in zip(self.members, self.scores, strict=True)}

    @property
    def programs(self) -> list[dict[str, str]]:
        return [texts_of(c.template) for c in self.members]

    @property
    def parents(self) -> list[list[int | None]]:
        return [[self.by_id[p].n for p in c.parents] or [None] for c in self.members]

    def id(self, n: int) -> str:
        return self.members[n].candidate_id

    def merge(self, *front: int, seed: int = 0, tried: Sequence[tuple[str, str, str]] = ()) -> Merge | None:
        ids = [self.id(n) for n in front]
        return choose_merge(ids, self.by_id, self.score_by_id, random.Random(seed), tried=tried)


@st.composite
def families(draw: st.DrawFn) -> Family:
    """Up to 14 candidates of three components, each with one or two of them changed, or merged from two."""
    rng = random.Random(draw(st.integers(0, 2**32)))
    family = Family.founded("a", "a", "a", score=rng.randint(1, 3) / 4)
    for _ in range(draw(st.integers(2, 14))):
        parents = rng.sample(range(len(family.members)), rng.choice([1, 1, 1, min(2, len(family.members))]))
        texts = [rng.choice([family.programs[p][name] for p in parents]) for name in NAMES]
        for at in rng.sample(range(3), rng.choice([1, 1, 2])):
            texts[at] = rng.choice("abcd")
        family.born(parents, *texts, score=rng.randint(1, 6) / 4)
    return family


# --- the reference ---------------------------------------------------------------------------------------------------


@LAW
@given(families())
def test_the_eligible_pairs_and_their_ancestors_equal_the_reference(family: Family) -> None:
    ancestors = [{family.by_id[c].n for c in lineage(family.by_id, m.candidate_id)[1:]} for m in family.members]
    for i in range(len(family.members)):
        for j in range(i + 1, len(family.members)):
            ours = common_ancestors(family.id(i), family.id(j), family.by_id, family.score_by_id)
            found = find_common_ancestor_pair(
                random.Random(0), family.parents, [i, j], ([], []), family.scores, family.programs, max_attempts=1
            )
            assert set(common_ancestors(family.id(j), family.id(i), family.by_id, family.score_by_id)) == set(ours)
            assert bool(ours) == (found is not None)
            if found is not None:
                common = ancestors[i] & ancestors[j]
                theirs = filter_ancestors(i, j, common, ([], []), family.scores, family.programs)
                assert {family.by_id[c].n for c in ours} == set(theirs)


@LAW
@given(families())
def test_the_child_of_each_triple_equals_the_reference(family: Family) -> None:
    """Parents of equal score are left out: there both toss a coin."""
    for i in range(len(family.members)):
        for j in range(i + 1, len(family.members)):
            if family.scores[i] == family.scores[j]:
                continue
            triples = [
                (family.id(i), family.id(j), c)
                for c in common_ancestors(family.id(i), family.id(j), family.by_id, family.score_by_id)
            ]
            for triple in triples:
                others = [other for other in triples if other != triple]
                merge = family.merge(i, j, tried=others)
                logged = [(i, j, family.by_id[c].n) for _, _, c in others]
                attempt = sample_and_attempt_merge_programs_by_common_predictors(
                    family.scores, random.Random(0), [i, j], (logged, []), family.programs, family.parents
                )
                assert attempt is not None
                child = template_of([attempt[0][name] for name in NAMES])
                if merge is None:
                    assert child.digest() in family.by_id
                else:
                    assert merge.key == triple
                    assert texts_of(merge.template) == attempt[0]


@LAW
@given(st.integers(0, 2**32), st.integers(5, 30), st.integers(1, 12))
def test_the_sample_of_seeds_equals_the_reference(seed: int, count: int, size: int) -> None:
    """Except where there are too few seeds: the reference then takes some twice."""
    rng = random.Random(seed)
    ours, theirs = ({n: rng.randrange(3) / 2 for n in rng.sample(range(count), count - 2)} for _ in range(2))
    common = sorted(ours.keys() & theirs.keys())
    sample = merge_subsample(ours, theirs, range(count), random.Random(seed), size)
    proposer = MergeProposer(None, None, None, True, 5, rng=random.Random(seed))  # type: ignore[arg-type]
    expected = proposer.select_eval_subsample_for_merged_program(ours, theirs, size)
    if len(common) >= size:
        assert sample == expected
    else:
        assert sorted(sample) == common
        assert len(expected) > len(set(expected)) or not common


# --- which merges there are ------------------------------------------------------------------------------------------


def test_two_children_that_changed_different_components_are_merged() -> None:
    family = Family.founded("a", "a", "a", score=0.3)
    family.born([0], "b", "a", "a", score=0.5)
    family.born([0], "a", "c", "a", score=0.4)
    merge = family.merge(2, 1)
    assert merge is not None
    assert merge.key == (family.id(1), family.id(2), family.id(0))
    assert texts_of(merge.template) == {"system": "b", "style": "c", "task": "a"}


def test_of_a_component_that_both_changed_the_better_ones_text_is_taken() -> None:
    family = Family.founded("a", "a", "a", score=0.3)
    family.born([0], "b", "a", "x", score=0.5)
    family.born([0], "a", "c", "y", score=0.4)
    merge = family.merge(1, 2)
    assert merge is not None
    assert texts_of(merge.template) == {"system": "b", "style": "c", "task": "x"}


def test_between_equals_a_coin_decides() -> None:
    family = Family.founded("a", "a", "a", score=0.3)
    family.born([0], "b", "a", "x")
    family.born([0], "a", "c", "y")
    merges = [family.merge(1, 2, seed=seed) for seed in range(40)]
    tosses = Counter(merge.template.section("task").content for merge in merges if merge)
    assert set(tosses) == {"x", "y"}
    assert sum(tosses.values()) == 40


def test_neither_a_descendant_nor_an_ancestor_that_was_better_makes_a_merge() -> None:
    family = Family.founded("a", "a", "a", score=0.6)
    family.born([0], "b", "a", "a", score=0.7)
    family.born([1], "b", "c", "a", score=0.8)
    family.born([0], "a", "a", "d", score=0.5)
    assert family.merge(1, 2) is None
    assert family.merge(1, 3) is None
    family.scores[3] = 0.6
    assert family.merge(1, 3) is not None


def test_a_merge_is_made_once_and_not_where_its_text_is_known() -> None:
    family = Family.founded("a", "a", "a", score=0.3)
    family.born([0], "b", "a", "a")
    family.born([0], "a", "c", "a")
    merge = family.merge(1, 2)
    assert merge is not None
    assert family.merge(1, 2, tried=[merge.key]) is None
    family.born([2], "b", "c", "a")
    assert family.merge(1, 2) is None


def test_a_prompt_of_one_component_has_no_merge() -> None:
    family = Family.founded("a", score=0.3)
    family.born([0], "b")
    family.born([0], "c")
    assert family.merge(1, 2) is None


def test_an_ancestor_without_a_score_or_with_other_components_is_passed_over() -> None:
    family = Family.founded("a", "a", "a", score=0.3)
    family.born([0], "b", "a", "a")
    family.born([0], "a", "c", "a")
    pair = (family.id(1), family.id(2))
    scores = {c: score for c, score in family.score_by_id.items() if c in pair}
    assert choose_merge(pair, family.by_id, scores, random.Random(0)) is None
    stranger = {**family.by_id, family.id(0): replace(family.members[0], prompt=template_of(["a", "a"]))}
    assert choose_merge(pair, stranger, family.score_by_id, random.Random(0)) is None


def test_pairs_that_cannot_be_compared_are_passed_over() -> None:
    family = Family.founded("a", "a", "a", score=0.3)
    family.born([0], "b", "a", "a")
    family.born([0], "a", "c", "a")
    family.born([0], "a", "a", "d")
    front = [family.id(n) for n in (1, 2, 3)]

    def has_third(first: str, second: str) -> bool:
        return family.id(3) in (first, second)

    for seed in range(20):
        merge = choose_merge(front, family.by_id, family.score_by_id, random.Random(seed), are_comparable=has_third)
        assert merge is not None
        assert merge.second.n == 3


def test_ancestors_that_all_score_nothing_are_drawn_evenly() -> None:
    """The reference raises here: its weights sum up to nothing."""
    family = Family.founded("a", "a", "a", score=0.0)
    family.born([0], "a", "a", "e", score=0.0)
    family.born([1], "b", "a", "e", score=0.2)
    family.born([1], "a", "c", "e", score=0.2)
    with pytest.raises(ValueError, match="Total of weights"):
        find_common_ancestor_pair(random.Random(0), family.parents, [2, 3], ([], []), family.scores, family.programs)
    ancestors = Counter(merge.ancestor.n for seed in range(100) if (merge := family.merge(2, 3, seed=seed)))
    assert set(ancestors) == {0, 1}


def test_the_sample_has_seeds_of_each_kind_and_none_twice() -> None:
    ours = {n: float(n < 10) for n in range(30)}
    theirs = {n: float(10 <= n < 20) for n in range(30)}
    for seed in range(20):
        sample = merge_subsample(ours, theirs, range(30), random.Random(seed))
        assert [sum(n // 10 == kind for n in sample) for kind in (0, 1, 2)] == [2, 2, 1]
    assert sorted(merge_subsample(ours, theirs, [3, 12, 25, 99], random.Random(0))) == [3, 12, 25]
    assert merge_subsample({}, ours, range(30), random.Random(0)) == []
