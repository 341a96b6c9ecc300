"""Limits on money, tokens and trials: a search ends early enough for its end, at any number of lanes."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes.config_bodies import body
from tests.fakes.gepa_runs import TEST, VALIDATION, QualityWorld, job, noisy, pure
from tests.fakes.mipro_runs import TEST as MIPRO_TEST
from tests.fakes.mipro_runs import mipro_job, ran
from tests.fakes.pure import Pure, Told

from promptjobs.core.asks import Answer, Ask, FailureReason, Rollout, Tier
from promptjobs.core.config import GepaJobConfig, SearchConfig, resolve
from promptjobs.core.result import OptimizationResult
from promptjobs.core.spending import Moments, Purse, limits_of, purse_of
from promptjobs.core.stats import Statistics
from promptjobs.core.stops import StopReason
from promptjobs.core.trial import Phase

CENT = 0.01
"""Of an average rollout of the worlds below."""


class PricedWorld(QualityWorld):
    """Rollouts cost a cent on average, more with a better prompt, and with luck; a proposal costs as much as eight.

    unknown: share of the rollouts whose cost nobody knows. validation: how much dearer its seeds are than the others.
    """

    unknown = 0.0
    validation = 1.0

    def answer(self, ask: Ask) -> Told:
        told, said = super().answer(ask)
        if told.is_failure:
            return told, said
        if not isinstance(ask, Rollout):
            return Answer(told.key, prompt_tokens=800, completion_tokens=100, cost_usd=8 * CENT), said
        luck = ask.key[0] / 255
        cost = CENT * (0.4 + self.quality[ask.candidate_id] + 0.4 * luck)
        cost *= self.validation if ask.seed in VALIDATION else 1.0
        tokens = round(10_000 * cost)
        known = ask.key[1] / 256 >= self.unknown
        return Answer(told.key, told.score, None, tokens, 2, cost_usd=cost if known else None), said


def priced(unknown: float = 0.0) -> PricedWorld:
    world = PricedWorld(score=noisy())
    world.unknown = unknown
    return world


def limited(config: GepaJobConfig, **changes: Any) -> GepaJobConfig:
    """With short replies of the policy: what the ledger reserves for one is about what it costs."""
    return config.model_copy(
        update={
            "gepa": config.gepa.model_copy(update=changes),
            "policy": config.policy.model_copy(update={"max_completion_tokens": 4}),
        }
    )


def spent(run: Pure, of_rollouts: bool = False) -> tuple[float, int]:
    """Dollars, those of unknown cost at none; and tokens."""
    asked = {ask.key for ask in (run.rollouts if of_rollouts else run.calls)}
    answers = [answer for key, (answer, _) in run.answers.items() if key in asked]
    return sum(a.cost_usd or 0.0 for a in answers), sum(a.prompt_tokens + a.completion_tokens for a in answers)


def seeds_tested(run: Pure) -> dict[str, set[int]]:
    found: dict[str, set[int]] = {}
    for ask in run.rollouts:
        if ask.phase is Phase.TEST:
            found.setdefault(ask.candidate_id, set()).add(ask.seed)
    return found


def check_end(run: Pure, result: OptimizationResult) -> None:
    """Winner and baseline on all of the validation and the test."""
    best, base = result.best, result.baseline
    assert best is not None
    assert base is not None
    assert seeds_tested(run) == {name: set(TEST) for name in (best.candidate_id, base.candidate_id)}
    for name in (best.candidate_id, base.candidate_id):
        assert set(VALIDATION) <= {ask.seed for ask in run.rollouts if ask.candidate_id == name}


LIMITS = {
    "max_spend_usd": (3.0, "cost_budget"),
    "max_rollout_spend_usd": (2.0, "rollout_cost_budget"),
    "max_total_tokens": (30_000, "token_budget"),
}


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("acceptance", ["race", "full"])
@pytest.mark.parametrize("lanes", [1, 3, 8])
def test_the_end_is_paid_out_of_what_the_search_has_left(limit: str, acceptance: str, lanes: int) -> None:
    most, reason = LIMITS[limit]
    config = job(rollout__budget=3000, acceptance=acceptance, lanes=lanes, population__num_generations=100)
    run = pure(limited(config, **{limit: most}), priced())
    result = run.run()
    usd, tokens = spent(run, of_rollouts=limit == "max_rollout_spend_usd")
    assert result.finish_reason == reason
    assert (tokens if reason == "token_budget" else usd) <= most
    assert (tokens if reason == "token_budget" else usd) > 0.6 * most
    check_end(run, result)


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(
    limit=st.sampled_from(sorted(LIMITS)),
    share=st.floats(1.0, 3.0),
    lanes=st.integers(1, 8),
    acceptance=st.sampled_from(["race", "full"]),
    rng_seed=st.integers(0, 5),
    unknown=st.sampled_from([0.0, 0.3]),
)
def test_no_search_spends_what_its_end_needs(
    limit: str, share: float, lanes: int, acceptance: str, rng_seed: int, unknown: float
) -> None:
    most = type(LIMITS[limit][0])(LIMITS[limit][0] * share)
    config = job(
        rollout__budget=2000,
        acceptance=acceptance,
        lanes=lanes,
        rng_seed=rng_seed,
        population__num_generations=60,
    )
    run = pure(limited(config, **{limit: most}), priced(unknown), rng_seed)
    result = run.run()
    usd, tokens = spent(run, of_rollouts=limit == "max_rollout_spend_usd")
    assert (tokens if limit == "max_total_tokens" else usd) <= most
    check_end(run, result)


def test_costs_that_are_not_known_count_as_the_mean_of_the_known() -> None:
    runs = []
    for unknown in (0.0, 0.5):
        config = job(rollout__budget=3000, population__num_generations=100)
        run = pure(limited(config, max_rollout_spend_usd=2.0), priced(unknown))
        assert run.run().finish_reason == "rollout_cost_budget"
        runs.append(len(run.rollouts))
    assert runs[1] == pytest.approx(runs[0], rel=0.25)


@pytest.mark.parametrize(("most", "seeds"), [(0.2, 4), (0.1, 3), (0.085, 2)])
def test_a_limit_that_does_not_hold_the_end_is_spent_on_what_is_known(most: float, seeds: int) -> None:
    run = pure(limited(job(rollout__budget=3000), max_rollout_spend_usd=most), priced())
    result = run.run()
    assert result.finish_reason == "rollout_cost_budget"
    assert result.best == result.baseline
    assert result.best is not None
    assert len(run.completions) == 0
    assert {name: len(found) for name, found in seeds_tested(run).items()} == {result.best.candidate_id: seeds}
    assert spent(run)[0] <= most


def test_a_test_that_is_not_paid_in_full_has_the_same_seeds_for_both() -> None:
    """Validation costs more than anything before it has foretold."""
    world = priced()
    world.validation = 2.2
    config = job(rollout__budget=3000, population__num_generations=100, evaluation__validation_top_k=1)
    run = pure(limited(config, max_rollout_spend_usd=2.0), world)
    result = run.run()
    assert result.best != result.baseline
    first, second = seeds_tested(run).values()
    assert first == second
    assert 0 < len(first) < len(TEST)
    assert spent(run, of_rollouts=True)[0] <= 2.0


def test_the_limit_on_proposals_ends_a_gepa_search_before_it_is_passed() -> None:
    config = job(rollout__budget=3000, population__num_generations=100, lanes=4)
    short = config.gepa.meta_model.model_copy(update={"max_tokens": 100})
    run = pure(limited(config, max_proposal_spend_usd=1.0, meta_model=short), priced())
    assert run.run().finish_reason == "proposal_cost_budget"
    assert 0.5 < 8 * CENT * len(run.completions) <= 1.0


def test_no_limit_changes_nothing() -> None:
    config = job(lanes=3)
    plain, limited_far_off = (pure(each, priced()) for each in (config, limited(config, max_spend_usd=1e6)))
    plain.run()
    limited_far_off.run()
    assert len(plain.rollouts) == len(limited_far_off.rollouts)
    assert purse_of(config.gepa, 512, Statistics(), Nobody()) is None


# --- MIPRO -----------------------------------------------------------------------------------------------------------

LARGE = {"num_iterations": 8, "rollout_budget": 900, "policy.max_completion_tokens": 4}


@pytest.mark.parametrize(
    ("limit", "most", "reason"),
    [
        ("max_spend_usd", 0.2, "cost_budget"),
        ("termination_config.max_rollout_cost_usd", 0.15, "rollout_cost_budget"),
        ("termination_config.max_total_tokens", 15_000, "token_budget"),
    ],
)
@pytest.mark.parametrize("risk", ["LOW", "HIGH"])
def test_the_end_of_a_mipro_search_is_paid_within_the_limit(limit: str, most: float, reason: str, risk: str) -> None:
    run = ran(mipro_job(**LARGE, parallel_risk=risk, **{limit: most}))
    result = run.result
    assert result.finish_reason == reason
    usd, tokens = spent(run.pure, of_rollouts=reason == "rollout_cost_budget")
    assert (tokens if reason == "token_budget" else usd) <= most
    assert result.best is not None
    assert seeds_tested(run.pure) == {name: set(MIPRO_TEST) for name in {result.best.candidate_id, run.base}}


# --- trials ----------------------------------------------------------------------------------------------------------


def of_the_search(run: Pure) -> int:
    """Trials before the end, which its own event begins."""
    end = next(
        i for i, turn in enumerate(run.turns) if any(f in turn.facts for f in run.events("termination.triggered"))
    )
    facts = [fact for turn in run.turns[:end] for fact in turn.facts]
    last = list(run.turns[end].facts)
    told = next(i for i, fact in enumerate(last) if fact in run.events("termination.triggered"))
    return sum(trial in [getattr(f, "trial", None) for f in (*facts, *last[:told])] for trial in run.trials)


@settings(max_examples=25, deadline=None)
@given(
    most=st.integers(2, 40),
    lanes=st.integers(1, 8),
    acceptance=st.sampled_from(["race", "full"]),
    arrival_seed=st.integers(0, 3),
    failing=st.sampled_from([0.0, 0.2]),
)
def test_max_trials_is_never_passed(most: int, lanes: int, acceptance: str, arrival_seed: int, failing: float) -> None:
    config = job(rollout__budget=2000, acceptance=acceptance, lanes=lanes, population__num_generations=60)
    run = pure(limited(config, max_trials=most), QualityWorld(score=noisy(failing)), arrival_seed)
    result = run.run()
    assert result.finish_reason == "max_trials"
    assert of_the_search(run) <= most
    assert result.test is not None


@pytest.mark.slow
@settings(max_examples=12, deadline=None)
@given(most=st.integers(1, 40), parallel=st.integers(1, 8), early=st.booleans())
def test_max_trials_is_never_passed_by_mipro(most: int, parallel: int, early: bool) -> None:
    changes = {"max_parallel_trials": parallel, "num_evaluations_per_iteration": 8, "early_stopping": early}
    run = ran(mipro_job(**LARGE, **changes, parallel_risk="HIGH", **{"termination_config.max_trials": most}))
    assert run.result.finish_reason == "max_trials"
    assert of_the_search(run.pure) <= most
    assert run.result.test is not None


# --- the purse by itself ---------------------------------------------------------------------------------------------


class Nobody:
    """A search whose end needs so many rollouts."""

    def __init__(self, end: int = 0) -> None:
        self.end = end
        self.calls_under_way = 0

    def end_rollouts(self, total: int) -> int:
        return min(self.end, total)


def config_with(**changes: Any) -> SearchConfig:
    return resolve("gepa", body(), None).config.search.model_copy(update=changes)


def purse(stats: Statistics, spender: Nobody, **changes: Any) -> Purse:
    found = purse_of(config_with(**changes), 0, stats, spender)
    assert found is not None
    return found


def learn(found: Purse, stats: Statistics, costs: list[float], name: str = "a", tier: Tier = Tier.HI) -> None:
    for seed, cost in enumerate(costs):
        ask = Rollout(name, seed, "policy", Phase.OPTIMIZATION, tier=tier)
        answer = Answer(ask.key, 0.5, cost_usd=cost)
        stats.count_rollout(answer, Phase.OPTIMIZATION)
        found.learn(ask, answer)


def test_what_is_left_is_counted_in_rollouts_beside_the_end_and_those_under_way() -> None:
    stats, spender = Statistics(), Nobody(20)
    found = purse(stats, spender, max_spend_usd=1.0)
    assert found.holds(0)[0] > 10**9
    learn(found, stats, [0.01] * 10)
    # 0.9 are left for 90 rollouts, 20 of them the end's.
    assert found.holds(10) == (70, StopReason.COST_BUDGET)
    assert found.holds(40) == (40, StopReason.COST_BUDGET)
    found.begin_end(5, 40)
    assert found.holds(40) == (85, StopReason.COST_BUDGET)


def test_the_dearest_candidate_is_what_the_end_is_reckoned_at() -> None:
    stats, spender = Statistics(), Nobody(0)
    found = purse(stats, spender, max_spend_usd=10.0)
    learn(found, stats, [0.01] * 30)
    before = found.holds(30)[0]
    learn(found, stats, [0.10] * 4, "longer")
    assert found.holds(34)[0] < before / 5


def test_a_stand_ins_prices_and_failures_teach_nothing() -> None:
    stats, spender = Statistics(), Nobody(0)
    found = purse(stats, spender, max_spend_usd=1.0)
    learn(found, stats, [0.5], tier=Tier.LO)
    ask = Rollout("a", 1, "policy", Phase.OPTIMIZATION)
    found.learn(ask, Answer(ask.key, None, FailureReason.PROVIDER_ERROR, cost_usd=0.0))
    assert found.holds(1)[0] > 10**9


def test_calls_under_way_and_the_next_one_are_paid_first() -> None:
    stats, spender = Statistics(), Nobody(0)
    found = purse(stats, spender, max_spend_usd=1.0)
    learn(found, stats, [0.01] * 10)
    stats.count_completion(Answer(b"", prompt_tokens=10, cost_usd=0.1))
    spender.calls_under_way = 2
    assert found.holds(10)[0] in (59, 60)
    assert found.holds(10, calls=1)[0] in (49, 50)
    assert found.refusal(10, 40) is None
    assert found.refusal(10, 60) is StopReason.COST_BUDGET


def test_the_cap_on_tokens_is_the_lowest_limit_that_is_enforced() -> None:
    config = mipro_job(max_token_limit=500, **{"termination_config.max_total_tokens": 900}).mipro
    assert config.token_cap == 500
    assert config.model_copy(update={"max_total_tokens": 400}).token_cap == 400
    assert config.model_copy(update={"enforce_token_limit": False}).token_cap == 900
    assert config_with().token_cap is None


def test_every_limit_on_money_and_tokens_is_one_of_the_purse() -> None:
    config = config_with(max_spend_usd=1.0, max_rollout_spend_usd=0.5, max_total_tokens=100)
    assert {limit.reason for limit in limits_of(config)} == {"cost_budget", "rollout_cost_budget", "token_budget"}
    assert limits_of(config_with()) == []


@given(values=st.lists(st.floats(0, 100), min_size=2, max_size=50))
def test_moments_are_those_of_the_values(values: list[float]) -> None:
    moments = Moments()
    for value in values:
        moments.add(value)
    mean = sum(values) / len(values)
    deviation = (sum((value - mean) ** 2 for value in values) / (len(values) - 1)) ** 0.5
    assert moments.mean == pytest.approx(mean)
    assert moments.deviation == pytest.approx(deviation, abs=1e-4)


def test_worlds_of_these_tests_are_what_they_say() -> None:
    run = pure(job(), priced())
    run.run()
    costs = [answer.cost_usd for ask in run.rollouts for answer in [run.answers[ask.key][0]] if answer.cost_usd]
    assert 0.5 * CENT < sum(costs) / len(costs) < 2 * CENT
