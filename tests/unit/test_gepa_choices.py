"""What each choice of a GEPA search changes in its result, in worlds made for it, by either way of acceptance."""

import re
from typing import Any

import pytest
from tests.fakes.gepa_choices import (
    FIRST,
    LO,
    SECOND,
    START,
    TWO_PARTS,
    LinesWorld,
    Ran,
    Shown,
    adding,
    complementary,
    dead_end,
    easy_to_foretell,
    going_on,
    good,
    goodness,
    junk,
    lines,
    priced,
    ran,
    small_job,
)
from tests.fakes.gepa_runs import fraction

from promptjobs.core.asks import Rollout, Tier
from promptjobs.core.demonstrations import MARK
from promptjobs.core.trial import Phase

pytestmark = pytest.mark.slow

MODES = pytest.mark.parametrize("acceptance", ["race", "full"])


# --- who is changed next ---------------------------------------------------------------------------------------------


@MODES
@pytest.mark.parametrize(
    ("choice", "finds_the_way"),
    [
        ({"parent_selection": "pareto"}, True),
        ({"parent_selection": "current_best"}, False),
        ({"parent_selection": "epsilon_greedy", "epsilon": 0.5}, True),
        ({"parent_selection": "epsilon_greedy", "epsilon": 0.0}, False),
        ({"parent_selection": "top_k_pareto", "top_k": 2}, True),
        ({"parent_selection": "top_k_pareto", "top_k": 1}, False),
        ({"parent_selection": "pareto", "population__selection_pressure": 8}, False),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_who_leaves_the_best_alone_for_once_gets_out_of_a_dead_end(
    acceptance: str, choice: dict[str, Any], finds_the_way: bool
) -> None:
    run = ran(small_job(acceptance=acceptance, **choice), dead_end())
    assert ("the way" in lines(run.best)) == finds_the_way
    assert "dead end" in lines(run.parents[-1]) or finds_the_way
    assert len(run.parents) > 6


# --- what the front compares -----------------------------------------------------------------------------------------


FRONTS = [("objective", True), ("hybrid", True), ("cartesian", True), ("instance", False)]


@pytest.mark.parametrize("objective", ["cost", "tokens", "seconds"])
@pytest.mark.parametrize(("front", "is_kept"), FRONTS)
def test_a_cheaper_prompt_that_scores_as_well_survives_on_a_front_of_objectives(
    objective: str, front: str, is_kept: bool
) -> None:
    run = ran(small_job(front=front, objectives=["score", objective]), priced())
    assert (f"{START}\ncareful\nbriefly" in run.front) == is_kept
    assert run.result.best_score == pytest.approx(0.75)


@MODES
@pytest.mark.parametrize(("front", "is_kept"), FRONTS)
def test_a_cheaper_prompt_that_scores_less_survives_on_a_front_of_objectives_and_does_not_win(
    acceptance: str, front: str, is_kept: bool
) -> None:
    run = ran(small_job(acceptance=acceptance, front=front, objectives=["score", "tokens"]), priced())
    assert (START in run.front) == is_kept
    assert "careful" in lines(run.best)


# --- which component is rewritten ------------------------------------------------------------------------------------


def only_together() -> LinesWorld:
    def score(text: str, seed: int) -> float:
        return 0.9 if {"one", "other"} <= lines(text) else 0.5

    def reflect(shown: Shown) -> str:
        return f"{shown.text}\none" if FIRST in shown.text else f"{shown.text}\nother"

    return LinesWorld(score, reflect)


@MODES
@pytest.mark.parametrize(
    ("choice", "finds_both"),
    [
        ({"component_selection": "all"}, True),
        ({"component_selection": "round_robin", "mutation__rate": 1}, True),
        ({"component_selection": "round_robin", "mutation__rate": 0}, False),
    ],
    ids=["all", "each", "in turn"],
)
def test_sections_that_help_only_together_are_found_by_rewriting_all_of_them(
    acceptance: str, choice: dict[str, Any], finds_both: bool
) -> None:
    run = ran(small_job(acceptance=acceptance, initial_prompt=TWO_PARTS, **choice), only_together())
    assert ({"one", "other"} <= lines(run.best)) == finds_both
    if not finds_both:
        assert {FIRST, SECOND} <= set(run.parents), "each has had its turn"


# --- merges ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("choice", "merges"), [({"crossover_rate": 1}, 1), ({"crossover_rate": 0}, 0)])
def test_two_complementary_children_are_united_by_a_merge(choice: dict[str, float], merges: int) -> None:
    population = {f"population__{name}": value for name, value in choice.items()}
    config = small_job(
        acceptance="full",
        initial_prompt=TWO_PARTS,
        mutation__rate=0,
        population__initial_size=3,
        rollout__minibatch_size=8,
        rollout__budget=250,
        **population,
    )
    run = ran(config, complementary())
    assert run.operators("merge") == merges
    assert {"one", "other"} & lines(run.best)
    assert ({"one", "other"} <= lines(run.best)) == bool(merges)


@pytest.mark.parametrize(("rate", "most", "merges"), [(0, 5, [0]), (1, 1, [1]), (1, 5, [2, 3, 4, 5])])
def test_lanes_of_a_race_merge_what_they_have_found_apart(rate: float, most: int, merges: list[int]) -> None:
    """With one lane there is nothing apart: every child is laid over the best."""

    def score(text: str, seed: int) -> float:
        return min(0.95, 0.1 * goodness(text) + 0.5 * fraction("own", text, seed))

    config = small_job(
        initial_prompt=TWO_PARTS,
        lanes=4,
        rollout__budget=1000,
        population__num_generations=100,
        population__crossover_rate=rate,
        population__max_merges=most,
    )
    assert ran(config, LinesWorld(score, good)).pure.optimizer.crossover.merges in merges


# --- the pool and the batch ------------------------------------------------------------------------------------------


def mostly_easy() -> LinesWorld:
    """Every tenth question needs a rule of its own; all others are answered as well whatever the prompt says."""

    def score(text: str, seed: int) -> float:
        return 0.9 if seed % 10 or f"rule {seed // 10 % 6}" in lines(text) else 0.0

    def reflect(shown: Shown) -> str:
        hard = {int(seed) for seed in re.findall(r"question (\d+)", shown.message) if not int(seed) % 10}
        new = sorted({f"rule {seed // 10 % 6}" for seed in hard} - lines(shown.text))
        return f"{shown.text}\n{new[0]}" if new else junk(shown)

    return LinesWorld(score, reflect)


POOL = {
    "level": "HIGH",
    "pool_init_size": 60,
    "pool_min_size": 10,
    "anchor_size": 0,
    "warmup_iters": 2,
    "anneal_stop_iter": 10,
    "min_evals_per_example": 1,
    "heatup_size": 0,
}
WIDE = {
    "evaluation__train_seeds": list(range(60)),
    "evaluation__validation_seeds": list(range(300, 600, 10)),
    "archive__pareto_source": "validation",
    "archive__pareto_set_size": 12,
    "rollout__minibatch_size": 4,
    "population__initial_size": 1,
    "population__num_generations": 100,
}
"""60 feedback seeds, six of them hard; on the front all are."""


def test_a_pool_of_the_informative_seeds_learns_more_with_as_many_rollouts() -> None:
    def mean(**choice: Any) -> float:
        configs = [small_job(**WIDE, rollout__budget=300, rng_seed=seed, **choice) for seed in range(12)]
        return sum(ran(config, mostly_easy()).result.best_score or 0.0 for config in configs) / len(configs)

    assert mean(adaptive_pool=POOL) > mean() + 0.1


@MODES
def test_a_pool_shrinks_and_evidence_comes_from_what_is_left_of_it(acceptance: str) -> None:
    config = small_job(acceptance=acceptance, **WIDE, rollout__budget=400, adaptive_pool=POOL)
    run = ran(config, mostly_easy())
    sizes = [event.data["size"] for event in run.pure.events("adaptive_pool")]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] == 10
    last = run.pure.turns.index(
        next(t for t in reversed(run.pure.turns) if any(f in t.facts for f in run.pure.events("adaptive_pool")))
    )
    asked = {
        ask.seed
        for turn in run.pure.turns[last:]
        for _, asks in turn.opened
        for ask in asks
        if isinstance(ask, Rollout)
    }
    assert asked & set(range(60)) <= set(run.pure.optimizer.pool.active)
    without = ran(small_job(acceptance=acceptance, **WIDE, rollout__budget=400), mostly_easy())
    assert without.pure.events("adaptive_pool") == []


@MODES
def test_small_batches_make_more_proposals_of_as_many_rollouts(acceptance: str) -> None:
    def proposals(**choice: Any) -> int:
        config = small_job(acceptance=acceptance, **choice, population__num_generations=100)
        return len(ran(config, LinesWorld(lambda text, seed: 0.5 * fraction(text, seed))).parents)

    assert proposals(adaptive_batch="HIGH", rollout__minibatch_size=2) > proposals(rollout__minibatch_size=8)


@MODES
@pytest.mark.parametrize(("least", "is_taken"), [(0.0, True), (0.09, True), (0.11, False)])
def test_a_child_has_to_be_so_much_better_by_its_mean(acceptance: str, least: float, is_taken: bool) -> None:
    batch = {"level": "LOW", "reflection_minibatch_size": 4, "min_local_improvement": least}
    world = LinesWorld(lambda text, seed: 0.6 if "better" in lines(text) else 0.5, adding("better"))
    run = ran(small_job(acceptance=acceptance, adaptive_batch=batch), world)
    assert ("better" in lines(run.best)) == is_taken


# --- who scores ------------------------------------------------------------------------------------------------------


def disputed() -> LinesWorld:
    """The task app likes short answers, the judge long ones."""
    return LinesWorld(
        lambda text, seed: 0.8 if lines(text) == {START, "short"} else 0.4,
        lambda shown: junk(shown) if shown.text != START else f"{START}\n{('short', 'long')[shown.times % 2]}",
        judge=lambda output: 0.9 if lines(output) == {START, "long"} else 0.1,
    )


@MODES
@pytest.mark.parametrize(
    ("judge", "winner"),
    [
        ({"enabled": False}, "short"),
        ({"enabled": True, "reward_source": "verifier"}, "long"),
        ({"enabled": True, "reward_source": "fused", "weight_outcome": 1}, "long"),
        ({"enabled": True, "reward_source": "fused", "weight_outcome": 1, "weight_env": 9}, "short"),
    ],
    ids=["none", "alone", "as much", "little"],
)
def test_the_judge_changes_who_wins(acceptance: str, judge: dict[str, Any], winner: str) -> None:
    config = small_job(
        acceptance=acceptance,
        verifier={"backend_model": "judge", **judge},
        population__initial_size=3,
        parent_selection="epsilon_greedy",
        epsilon=1,
    )
    run = ran(config, disputed())
    assert run.best == f"{START}\n{winner}"


PROXY = {"proxy_models.lo_model": LO, "proxy_models.n_min_hi": 5}


@MODES
def test_a_stand_in_saves_rollouts_of_the_policys_model_and_the_winner_is_measured_on_that(acceptance: str) -> None:
    def search(**choice: Any) -> Ran:
        config = small_job(acceptance=acceptance, **choice, population__num_generations=4, rollout__budget=1500)
        return ran(
            config, LinesWorld(easy_to_foretell, going_on, lo=lambda text, seed: easy_to_foretell(text, seed) / 2)
        )

    alone, aided = search(), search(**PROXY)
    assert len(aided.parents) == len(alone.parents)
    assert aided.asked(Tier.LO)
    assert len(aided.asked(Tier.HI)) < len(alone.asked(Tier.HI))
    assert aided.result.best_score == pytest.approx(alone.result.best_score, abs=0.15)
    best = aided.result.best
    assert best is not None
    held_out = [ask for ask in aided.pure.rollouts if ask.phase in (Phase.VALIDATION, Phase.TEST)]
    assert {ask.tier for ask in held_out} == {Tier.HI}
    assert {ask.candidate_id for ask in held_out} >= {best.candidate_id}
    assert goodness(aided.best) > 1


@MODES
def test_a_stand_in_that_lies_is_found_out(acceptance: str) -> None:
    """It foretells well until it likes a line that the policy's model fails with."""

    def hi(text: str, seed: int) -> float:
        return 0.0 if "flattery" in text else easy_to_foretell(text, seed)

    def lo(text: str, seed: int) -> float:
        return 1.0 if "flattery" in text else easy_to_foretell(text, seed)

    def reflect(shown: Shown) -> str:
        good = goodness(shown.text)
        return going_on(shown) if good < 3 else f"{shown.text}\nflattery {shown.times}"

    config = small_job(acceptance=acceptance, **PROXY, population__num_generations=6, rollout__budget=1500)
    run = ran(config, LinesWorld(hi, reflect, lo=lo))
    flattered = [e for e in run.pure.events("proxy.screened") if "flattery" in run.text(e.data["candidate_id"])]
    assert flattered, "the stand-in was asked"
    assert "flattery" not in run.best
    assert goodness(run.best) == 3
    assert all(
        member.score == 0.0 for member in run.result.archive if "flattery" in run.text(member.candidate.candidate_id)
    )


# --- demonstrations, drafts, the archive -----------------------------------------------------------------------------


@MODES
@pytest.mark.parametrize(("most", "shows"), [(30, True), (0, False)])
def test_a_prompt_shows_examples_where_they_help_and_are_allowed(acceptance: str, most: int, shows: bool) -> None:
    def score(text: str, seed: int) -> float:
        return 0.3 + min(0.6, 0.1 * text.count("Output: "))

    run = ran(small_job(acceptance=acceptance, max_demonstrations=most), LinesWorld(score, is_known=True))
    assert (MARK in run.best) == shows
    assert (run.result.best_score or 0.0) > 0.6 if shows else run.result.best_score == pytest.approx(0.3)


@MODES
@pytest.mark.parametrize("size", [1, 3])
def test_so_many_drafts_are_made_of_the_baseline_whatever_the_first_of_them_is_worth(
    acceptance: str, size: int
) -> None:
    config = small_job(
        acceptance=acceptance, population__initial_size=size, parent_selection="current_best", rollout__budget=400
    )
    run = ran(config, LinesWorld(easy_to_foretell, good))
    assert run.parents[: max(1, size - 1)] == [START] * max(1, size - 1)
    assert run.parents[max(1, size - 1)] != START


def test_the_drafts_of_the_race_are_united() -> None:
    def score(text: str, seed: int) -> float:
        return 0.2 + 0.1 * goodness(text)

    def found(size: int) -> float:
        config = small_job(population__initial_size=size, population__num_generations=1, rollout__budget=400)
        return (
            ran(
                config, LinesWorld(score, lambda shown: good(shown) if shown.text == START else junk(shown))
            ).result.best_score
            or 0.0
        )

    assert found(1) == pytest.approx(0.3)
    assert found(4) > found(1) + 0.05


@MODES
def test_a_small_archive_forgets_whom_nothing_is_left_to_say_for(acceptance: str) -> None:
    def search(size: int) -> Ran:
        config = small_job(acceptance=acceptance, archive__size=size, parent_selection="epsilon_greedy", epsilon=1)
        return ran(config, LinesWorld(easy_to_foretell, going_on))

    large, small = search(64), search(2)
    assert len(large.result.archive) > 4
    assert len(small.result.archive) == 2
    gone = [event.data["evicted"] for event in small.pure.events("frontier_updated") if event.data["evicted"]]
    assert gone
    assert not {START} - small.archived, "the baseline stays"
