"""Merges of two candidates: when one is tried, what it is made of, and that it has to prove itself."""

from collections.abc import Sequence

import pytest
from tests.fakes.gepa_runs import MODES, RuleWorld, pure, rule, rule_job
from tests.fakes.pure import Pure

from promptjobs.core.archive import Candidate, lineage
from promptjobs.core.asks import Completion
from promptjobs.core.crossover import Crossover
from promptjobs.core.lanes import Lane

BOTH = pytest.mark.parametrize("acceptance", MODES)

TWO_PARTS = {
    "messages": [
        {"role": "system", "pattern": "Answer."},
        {"role": "system", "pattern": "Be kind."},
        {"role": "user", "pattern": "Query: {query}"},
    ],
    "wildcards": {"query": "REQUIRED"},
}


def lines_of(candidate: Candidate) -> list[set[str]]:
    return [set(section.content.split("\n")) for section in candidate.template.sections]


def merges_of(run: Pure) -> list[Candidate]:
    """Children of two candidates that do not descend from each other."""
    by_id = {c.candidate_id: c for c in run.candidates}
    found = [c for c in run.candidates if c.operator == "merge" and len(c.parents) == 2]
    return [c for c in found if not any(a in lineage(by_id, b)[1:] for a in c.parents for b in c.parents)]


def searched(acceptance: str, arrival: int = 0, **changes: object) -> Pure:
    """A lane of a race lays its proposals over the best: only several lanes find things apart from each other."""
    lanes = 1 if acceptance == "full" else 4
    settings = {
        "lanes": lanes,
        "rollout__budget": 800,
        "population__crossover_rate": 1.0,
        "population__initial_size": 1,
    }
    run = pure(rule_job(acceptance=acceptance, **{**settings, **changes}), RuleWorld(noise=0.2), arrival)
    run.run()
    return run


@BOTH
def test_what_two_candidates_learnt_apart_is_put_together_line_by_line(acceptance: str) -> None:
    found = [merge for seed in range(2) for merge in told_merges(searched(acceptance, rng_seed=seed))]
    assert found
    for merge, first, second in found:
        assert lines_of(first)[0] < lines_of(merge)[0] <= lines_of(first)[0] | lines_of(second)[0]
        assert lines_of(merge)[0] & (lines_of(second)[0] - lines_of(first)[0])


def told_merges(run: Pure) -> list[tuple[Candidate, Candidate, Candidate]]:
    by_id = {c.candidate_id: c for c in run.candidates}
    return [(c, by_id[c.parents[0]], by_id[c.parents[1]]) for c in merges_of(run)]


@BOTH
def test_a_merge_is_measured_before_it_joins(acceptance: str) -> None:
    run = searched(acceptance)
    told = {event.data["candidate_id"]: event.data for event in run.events("proposal.scored")}
    merges = merges_of(run)
    assert merges
    front = set(run.optimizer.gepa.front_seeds)
    for merge in merges:
        asked = {ask.seed for ask in run.rollouts if ask.candidate_id == merge.candidate_id} & front
        assert asked
        assert told[merge.candidate_id]["accepted"] == (merge.candidate_id in run.optimizer.archive)
        assert len(asked) == 20 or not told[merge.candidate_id]["accepted"]


@pytest.mark.slow
@BOTH
@pytest.mark.parametrize(
    ("changes", "most"),
    [({"population__max_merges": 1}, 1), ({"population__max_merges": 0}, 0), ({"population__crossover_rate": 0.0}, 0)],
)
def test_merges_are_limited(acceptance: str, changes: dict[str, object], most: int) -> None:
    runs = [searched(acceptance, rng_seed=seed, **changes) for seed in range(2)]
    assert max(run.optimizer.crossover.merges for run in runs) == most


def test_each_merge_follows_an_acceptance_of_its_own() -> None:
    run = searched("full")
    accepted = 0
    for event in run.events():
        if event.type.endswith("proposal.scored"):
            accepted += event.data["accepted"]
        if event.type.endswith("transformation.proposed") and len(event.data["parents"]) == 2:
            assert accepted > 0
            accepted = 0
    assert len({c.parents for c in merges_of(run)}) == len(merges_of(run))


@BOTH
def test_components_of_either_side_are_merged_whole(acceptance: str) -> None:
    """Each rewrite changes one of two messages."""
    run = searched(acceptance, prompt=TWO_PARTS, mutation__rate=0.0, rng_seed=1, population__max_merges=50)
    by_id = {c.candidate_id: c for c in run.candidates}
    whole = 0
    for merge in merges_of(run):
        sides = [by_id[parent].template.sections for parent in merge.parents]
        each = [
            section.content in (ours.content, theirs.content)
            for section, ours, theirs in zip(merge.template.sections, *sides, strict=True)
        ]
        whole += all(each) and all(merge.template.sections != side for side in sides)
    assert whole


def test_a_merge_holds_the_examples_of_the_side_whose_section_it_took() -> None:
    """Examples stand in the first section, which may be the second parent's."""
    run = pure(rule_job(prompt=TWO_PARTS), RuleWorld())
    run.run(until=lambda run: bool(run.events("baseline")[:1]))
    search, base = run.optimizer, run.candidates[0]
    one, two = base.template.sections[:2]
    first, second = (
        made(search, base, {section.name: f"{section.content}\n{rule(n)}"}) for n, section in enumerate((two, one))
    )
    search.ladder.held[second.candidate_id] = (3, 4)
    merged = first.template.with_text({one.name: second.template.sections[0].content})
    source = Crossover(search)._source_of_examples(merged, first, second)
    assert source == second
    assert Crossover(search)._source_of_examples(first.template, first, second) == first


def made(search: object, base: Candidate, texts: dict[str, str]) -> Candidate:
    template = base.template.with_text(texts)
    return Candidate(template.digest(), 1, template, base.baseline_id, (base.candidate_id,), "reflection", 1)


def test_nothing_is_tried_before_anything_was_accepted() -> None:
    def useless(current: str, needed: Sequence[int], completion: Completion) -> str:
        return f"{current}\nUseless {completion.key.hex()[:6]}."

    run = pure(rule_job(population__crossover_rate=1.0, population__initial_size=1), RuleWorld(useless))
    run.run()
    assert {c.operator for c in run.candidates} == {"baseline", "reflection"}
    lane = Lane("0", 0)
    steps = run.optimizer.crossover.attempt(lane, lane.rng())
    with pytest.raises(StopIteration) as ended:
        next(steps)
    assert ended.value.value is None
