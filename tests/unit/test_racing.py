"""The race: who goes when, what is measured again, what a winner counts for, and how lanes share what they find."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import pairwise

import pytest
from tests.fakes.gepa_runs import (
    ERROR,
    RULES,
    QualityWorld,
    RuleWorld,
    fenced,
    job,
    noisy,
    pure,
    rule,
    rule_job,
    stepping,
)
from tests.fakes.pure import Pure

from promptjobs.core.archive import Candidate
from promptjobs.core.asks import Completion, CompletionBody, FailureReason
from promptjobs.core.limits import FIRST, SECOND
from promptjobs.core.racing import SHRINKAGE
from promptjobs.core.trial import Phase

BLOCKS = FIRST + SECOND


def text(candidate: Candidate) -> str:
    return candidate.template.sections[0].content


def rules_of(candidate: Candidate) -> set[int]:
    lines = text(candidate).split("\n")
    return {number for number in range(RULES) if rule(number) in lines}


def seeds_of(run: Pure, phase: Phase = Phase.OPTIMIZATION) -> dict[str, set[int]]:
    """The seeds that each candidate was asked on."""
    found: dict[str, set[int]] = defaultdict(set)
    for ask in run.rollouts:
        if ask.phase is phase:
            found[ask.candidate_id].add(ask.seed)
    return found


def verdicts(run: Pure) -> dict[str, str]:
    return {event.data["candidate_id"]: event.data["reason"] for event in run.events("proposal.scored")}


def of_front(**changes: object) -> dict[str, object]:
    """A front of 30 seeds, and as many for feedback."""
    return {"evaluation__train_seeds": list(range(60)), "archive__pareto_set_size": 30, "finals_share": 0.0, **changes}


# --- two blocks ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lanes", [1, 4])
def test_who_is_clearly_worse_goes_after_the_first_block(lanes: int) -> None:
    config = job(**of_front(lanes=lanes, rollout__budget=600, max_demonstrations=0))
    run = pure(config, QualityWorld(score=lambda quality, seed, draw: quality, reflect=stepping(-0.1)))
    run.run()
    seeds, front = seeds_of(run), set(config.gepa.front_seeds)
    children = [c for c in run.candidates if not c.is_baseline]
    assert len(children) > 10
    judged = [c for c in children if verdicts(run)[c.candidate_id] in ("not improved", "a sibling was better")]
    assert len(judged) >= len(children) - lanes
    for child in judged:
        assert len(seeds[child.candidate_id] & front) == FIRST


def test_who_is_as_good_on_the_first_block_is_given_the_second() -> None:
    config = job(**of_front(rollout__budget=600, max_demonstrations=0, population__initial_size=1))
    run = pure(config, QualityWorld(score=lambda quality, seed, draw: quality, reflect=stepping(0.0)))
    run.run()
    front = set(config.gepa.front_seeds)
    children = [c for c in run.candidates if not c.is_baseline][:-1]
    assert {len(seeds_of(run)[c.candidate_id] & front) for c in children} == {BLOCKS}
    assert {verdicts(run)[c.candidate_id] for c in children} == {"not improved"}


def test_a_small_front_has_no_second_block() -> None:
    config = job(archive__pareto_set_size=5)
    run = pure(config, QualityWorld(score=lambda quality, seed, draw: quality, reflect=stepping(0.1)))
    result = run.run()
    assert len(result.archive) > 1
    assert {len(member.known) for member in result.archive} == {5}


def test_of_several_children_one_goes_on_after_the_first_block() -> None:
    """Every draft adds a rule, so the union is best."""
    config = rule_job(population__initial_size=5)
    run = pure(config, RuleWorld())
    run.run(until=lambda run: bool(run.events("frontier_updated")[1:]))
    base, *children = run.candidates
    told, front, seeds = verdicts(run), set(config.gepa.front_seeds), seeds_of(run)
    assert len(children) > 3
    assert Counter(told.values()) == {"a sibling was better": len(children) - 1, "accepted": 1}
    for child in children:
        block = FIRST if told[child.candidate_id] == "a sibling was better" else BLOCKS
        assert len(seeds[child.candidate_id] & front) == block
        assert child.parents == (base.candidate_id,)


def test_a_child_is_compared_on_four_fifths_of_the_blocks_and_on_no_fewer() -> None:
    """On what is answered every child is far better: one failing seed in ten is borne, three in ten are not."""
    for share, is_accepted in ((0.1, True), (0.3, False)):
        config = job(**of_front(archive__pareto_set_size=20, population__initial_size=1, rollout__budget=150))
        broken = config.gepa.front_seeds[: int(20 * share)]

        def score(quality: float, seed: int, draw: int, broken: Sequence[int] = broken) -> float | FailureReason:
            return ERROR if seed in broken and quality != 0.2 else quality

        run = pure(config, QualityWorld(score=score, reflect=stepping(0.3)))
        run.run()
        first = run.events("proposal.scored")[0]
        assert (first.data["reason"], first.data["accepted"]) == (
            "accepted" if is_accepted else "incomplete",
            is_accepted,
        )


def test_an_incomplete_child_is_no_lesson() -> None:
    config = job(population__initial_size=1, rollout__budget=200)
    answered = set(config.gepa.front_seeds[::3])

    def score(quality: float, seed: int, draw: int) -> float | FailureReason:
        return 0.5 if quality == 0.2 else 0.6 if seed in answered else ERROR

    run = pure(config, QualityWorld(score=score, reflect=stepping(0.1)))
    run.run()
    assert set(verdicts(run).values()) <= {"incomplete", "no budget left"}
    assert len(run.completions) > 3
    assert all("Tried before" not in ask.messages[0].content for ask in run.completions)


# --- what is measured, and what it counts for ------------------------------------------------------------------------


@pytest.mark.parametrize("lanes", [1, 4])
def test_nothing_is_asked_twice_and_the_reference_mostly_is_known(lanes: int) -> None:
    run = pure(rule_job(lanes=lanes), RuleWorld())
    result = run.run()
    assert set(Counter((ask.candidate_id, ask.seed) for ask in run.rollouts).values()) == {1}
    assert run.repeated == []
    assert result.progress["rollouts_completed"] == run.spent
    assert sum(trial.reused for trial in run.trials) > run.spent / 4


def test_the_estimate_is_the_references_and_the_shrunk_gain() -> None:
    """Every child is better than the best by 0.1, on each seed."""
    config = job(**of_front(parent_selection="current_best", rollout__budget=400, population__crossover_rate=0.0))
    run = pure(config, QualityWorld(score=lambda quality, seed, draw: quality, reflect=stepping(0.1)))
    run.run()
    gain = 0.1 * BLOCKS / (BLOCKS + SHRINKAGE)
    news = run.events("new_best")
    estimates = [event.data["best_score"] for event in news]
    assert len(estimates) > 3
    assert estimates[0] == pytest.approx(0.2 + gain)
    assert [after - before for before, after in pairwise(estimates)] == pytest.approx([gain] * (len(estimates) - 1))


def test_an_estimate_is_a_score() -> None:
    config = job(**of_front(rollout__budget=1500))
    run = pure(config, QualityWorld(score=lambda quality, seed, draw: min(1.0, 3 * quality), reflect=stepping(0.1)))
    result = run.run()
    assert all(0 <= member.score <= 1 for member in result.archive)


def test_after_rejections_the_second_block_holds_seeds_that_are_new_to_the_best() -> None:
    """Who won by luck on its seeds would else be measured on them again and again."""
    config = job(**of_front(rollout__budget=500, max_demonstrations=0, population__initial_size=1))
    run = pure(config, QualityWorld(score=lambda quality, seed, draw: quality, reflect=stepping(0.0)))
    run.run()
    known = seeds_of(run)[run.optimizer.base.candidate_id] & set(config.gepa.front_seeds)
    assert len(known) == 30 > BLOCKS


# --- several lanes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arrival", range(6))
def test_what_another_lane_found_meanwhile_is_merged_line_by_line_and_proves_itself(arrival: int) -> None:
    config = rule_job(lanes=4, rollout__budget=1500, population__crossover_rate=0.0, population__initial_size=1)
    run = pure(config, RuleWorld(), arrival)
    result = run.run()
    by_id = {c.candidate_id: c for c in run.candidates}
    told, seeds, front = verdicts(run), seeds_of(run), set(config.gepa.front_seeds)
    rebased = [c for c in run.candidates if len(c.parents) == 2]
    assert rebased
    for child in rebased:
        first, second = (by_id[parent] for parent in child.parents)
        assert rules_of(first) < rules_of(child)
        if child.operator == "merge":
            assert rules_of(child) <= rules_of(first) | rules_of(second)
    for child in run.candidates[1:]:
        if told[child.candidate_id] == "accepted":
            assert len(seeds[child.candidate_id] & front) >= BLOCKS
    assert result.best is not None
    assert rules_of(result.best) == set(range(RULES))


def test_drafts_and_their_union_come_first() -> None:
    run = pure(rule_job(lanes=4, population__initial_size=4), RuleWorld())
    run.run(until=lambda run: bool(run.events("frontier_updated")[1:]))
    base, *drafts, union = run.candidates
    assert [c.operator for c in (base, *drafts, union)] == ["baseline", *["reflection"] * 3, "merge"]
    assert {c.parents for c in (*drafts, union)} == {(base.candidate_id,)}
    assert rules_of(union) == set.union(*map(rules_of, drafts))
    # Each draft saw evidence of its own.
    assert len({ask.messages for ask in run.completions}) == 3
    shown = [set(t.seeds) for t in run.trials if set(t.seeds) <= set(run.optimizer.gepa.feedback_seeds)]
    assert sum(map(len, shown)) == len(set.union(*shown))


# --- variants --------------------------------------------------------------------------------------------------------


def forgetful(current: str, needed: Sequence[int], completion: Completion) -> str:
    """Nothing of the old text is kept."""
    return f"A new beginning {completion.key.hex()[:6]}."


def test_lines_that_a_rewrite_drops_are_kept_but_after_a_rejection() -> None:
    config = rule_job(population__initial_size=1, max_demonstrations=0, prompt=long_prompt())
    run = pure(config, RuleWorld(forgetful))
    run.run()
    assert set(verdicts(run).values()) <= {"not improved", "no budget left"}
    kept = ["Second line." in text(c).split("\n") for c in run.candidates[1:]]
    assert len(kept) > 6
    assert kept == [at % 2 == 0 for at in range(len(kept))]
    for child in run.candidates[2::2]:
        assert text(child).startswith("A new beginning")
        assert "\n" not in text(child)


def long_prompt() -> dict[str, object]:
    pattern = "First line.\nSecond line.\nThird line."
    return {
        "messages": [{"role": "system", "pattern": pattern}, {"role": "user", "pattern": "Query: {query}"}],
        "wildcards": {"query": "REQUIRED"},
    }


def test_a_rewrite_that_only_drops_lines_is_taken_as_it_is() -> None:
    """Laid over the prompt it would be the prompt again, and the search could never make one shorter."""
    run = pure(
        rule_job(population__initial_size=1, prompt=long_prompt(), population__num_generations=1),
        RuleWorld(lambda current, needed, completion: "First line.\nThird line."),
    )
    run.run()
    assert [text(c) for c in run.candidates[1:]] == ["First line.\nThird line."]


# --- what was tried before -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("proposer", "is_told"), [("dspy", True), ("synth", True), ("builtin", False)])
def test_a_rejected_edit_is_shown_to_the_parents_next_reflections(proposer: str, is_told: bool) -> None:
    def useless(current: str, needed: Sequence[int], completion: Completion) -> str:
        return f"{current}\nUseless {completion.key.hex()[:6]}."

    config = rule_job(population__initial_size=1, max_demonstrations=0, proposer_type=proposer)
    run = pure(config, RuleWorld(useless))
    run.run()
    edits = [text(c).split("\n")[-1] for c in run.candidates[1:]]
    asked = [ask.messages[0].content for ask in run.completions]
    assert len(asked) > 5
    for n, said in enumerate(asked):
        remembered = [edit for edit in edits[:n] if f"* {edit}" in said.split("\n")]
        assert remembered == (edits[max(0, n - 3) : n] if is_told else [])
        assert ("# Tried before, without success" in said) == bool(remembered)


def test_an_edit_that_helped_less_than_a_siblings_is_no_lesson() -> None:
    run = pure(job(population__initial_size=5, lanes=4), QualityWorld(reflect=stepping(0.1), score=lambda q, s, d: q))
    run.run()
    assert "a sibling was better" in verdicts(run).values()
    assert all("Tried before" not in ask.messages[0].content for ask in run.completions)


# --- the finalists ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lanes", [1, 4, 8])
@pytest.mark.parametrize("share", [0.0, 0.15, 0.5])
def test_finalists_are_measured_on_the_same_seeds_within_what_is_kept_for_them(lanes: int, share: float) -> None:
    config = job(
        acceptance="race",
        evaluation__validation_seeds=list(range(100, 140)),
        archive__pareto_source="validation",
        archive__pareto_set_size=40,
        finals_share=share,
        lanes=lanes,
    )
    run = pure(config, QualityWorld(score=noisy(), reflect=stepping(0.05)))
    result = run.run()
    closing = run.facts.index(run.events("termination.triggered")[0])
    before = sum(len(fact.trial.seeds) - fact.trial.reused for fact in run.facts[:closing] if hasattr(fact, "trial"))
    assert before <= 300 - min(int(share * 300), 4 * 20)
    assert run.spent <= 300
    assert result.finalists
    if share == 0.5:
        assert len(result.finalists) >= 3
        assert {len(finalist.scores) for finalist in result.finalists} == {40}


def test_the_winner_and_the_baseline_are_always_validated_on_all_held_out_seeds() -> None:
    config = job(finals_share=0.0, evaluation__validation_seeds=list(range(100, 140)))
    run = pure(config, QualityWorld(score=lambda quality, seed, draw: quality, reflect=stepping(0.02)))
    result = run.run()
    assert result.finish_reason == "rollout_budget"
    assert result.validation is not None
    assert (len(result.validation.best), len(result.validation.baseline)) == (40, 40)
    assert run.spent <= 300


def test_whoever_cannot_be_paid_is_told() -> None:
    told = Counter[str]()
    for budget in range(100, 200, 10):
        run = pure(job(lanes=8, rollout__budget=budget), QualityWorld(score=noisy()))
        run.run()
        assert {c.candidate_id for c in run.candidates[1:]} == verdicts(run).keys()
        told += Counter(verdicts(run).values())
    assert told["no budget left"] > 3


def test_a_reply_that_is_the_same_at_each_draft_makes_one_candidate() -> None:
    same = CompletionBody(fenced("Always this."), "stop")
    run = pure(rule_job(population__initial_size=4), QualityWorld(reflect=lambda quality, completion: same))
    run.run(until=lambda run: bool(run.events("proposal.scored")))
    assert [c.operator for c in run.candidates] == ["baseline", "reflection"]
    assert [event.data["reason"] for event in run.events("proposal.refused")] == ["duplicate"] * 2
