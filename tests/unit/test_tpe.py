"""The sampler's laws: what it suggests, what it never suggests, what it learns and keeps."""

import itertools
import json
import math
import random
from collections.abc import Mapping
from dataclasses import asdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promptjobs.core.tpe import Config, Sampler, SamplerModel, TpeSettings

LAW = settings(deadline=None, derandomize=True, max_examples=25)
MODELS = list(SamplerModel)

dimensions = st.dictionaries(st.sampled_from("abcde"), st.integers(1, 4), min_size=1, max_size=3)
models = st.sampled_from(MODELS)


def sampler(space: Mapping[str, int], seed: int = 0, planned: int = 30, **chosen: object) -> Sampler:
    return Sampler(space, TpeSettings(**chosen), seed, planned)  # type: ignore[arg-type]


def worth(config: Config) -> float:
    """Something to learn: higher options are better, in every dimension."""
    return 1 - 1 / (1 + sum(config.values()))


def key(config: Config) -> tuple[tuple[str, int], ...]:
    return tuple(sorted(config.items()))


def run(made: Sampler, trials: int, top_k: int = 1) -> list[Config]:
    found: list[Config] = []
    while len(found) < trials and (configs := made.suggest_ranked(top_k)):
        for config in configs:
            made.observe(config, worth(config), weight=20)
        found += configs
    return found


# --- what is suggested -----------------------------------------------------------------------------------------------


@LAW
@given(space=dimensions, model=models, top_k=st.integers(1, 9), seed=st.integers(0, 9))
def test_every_configuration_is_suggested_once_and_then_none(
    space: dict[str, int], model: SamplerModel, top_k: int, seed: int
) -> None:
    made = sampler(space, seed, model=model)
    found = run(made, 1_000, top_k)
    every = itertools.product(*(range(size) for size in space.values()))
    assert sorted(map(key, found)) == sorted(key(dict(zip(space, point, strict=True))) for point in every)
    assert made.suggest_ranked(3) == []


@LAW
@given(model=models, top_k=st.integers(1, 8), seed=st.integers(0, 9))
def test_suggestions_of_a_large_space_are_distinct_and_within_it(model: SamplerModel, top_k: int, seed: int) -> None:
    space = {"instruction": 20, "demos": 7, "tip": 1, "order": 6}
    found = run(sampler(space, seed, model=model), 24, top_k)
    assert len({key(config) for config in found}) == len(found) >= 24
    assert all(config.keys() == space.keys() for config in found)
    assert all(0 <= config[name] < size for config in found for name, size in space.items())


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("space", [{}, {"only": 1}, {"a": 1, "b": 1}])
def test_a_space_of_one_configuration_has_one_suggestion(model: SamplerModel, space: dict[str, int]) -> None:
    made = sampler(space, planned=1, model=model)
    assert made.suggest_ranked(5) == [dict.fromkeys(space, 0)]
    made.observe(dict.fromkeys(space, 0), 0.5, weight=10)
    assert made.suggest_ranked(5) == []
    assert 0 < made.estimate(dict.fromkeys(space, 0)).mean < 1


@pytest.mark.parametrize("model", MODELS)
def test_pending_observed_claimed_and_discarded_configurations_are_not_suggested(model: SamplerModel) -> None:
    made = sampler({"a": 2, "b": 3}, n_startup_trials=0, model=model)
    made.observe({"a": 0, "b": 0}, 0.5)
    assert made.claim({"a": 0, "b": 1})
    made.discard({"a": 1, "b": 2})
    pending = made.suggest_ranked(1)
    rest = made.suggest_ranked(10)
    assert sorted(map(key, [*pending, *rest])) == sorted(key({"a": a, "b": b}) for a, b in [(0, 2), (1, 0), (1, 1)])


def test_a_configuration_can_be_claimed_once_and_not_after_it_was_seen() -> None:
    made = sampler({"a": 4})
    assert made.claim({"a": 1})
    assert not made.claim({"a": 1})
    made.observe({"a": 2}, 0.1)
    made.discard({"a": 3})
    assert not made.claim({"a": 2})
    assert not made.claim({"a": 3})


def test_what_was_withdrawn_comes_again_and_leaves_no_trace() -> None:
    made, other = sampler({"a": 3, "b": 2}), sampler({"a": 3, "b": 2})
    for each in (made, other):
        each.observe({"a": 0, "b": 0}, 0.4, weight=20)
        each.observe({"a": 1, "b": 0}, 0.6, weight=20)
    made.claim({"a": 2, "b": 1})
    made.withdraw({"a": 2, "b": 1})
    assert made.estimate({"a": 2, "b": 0}) == other.estimate({"a": 2, "b": 0})
    assert {"a": 2, "b": 1} in made.suggest_ranked(6)


def test_a_batch_is_not_all_around_the_best() -> None:
    """What is pending counts as seen, with nothing won: the next suggestion looks elsewhere."""
    made = sampler({f"d{n}": 6 for n in range(5)}, n_startup_trials=0)
    rng = random.Random(1)
    for _ in range(12):
        config = {f"d{n}": rng.randrange(6) for n in range(5)}
        made.observe(config, config["d0"] / 6, weight=30)
    batch = made.suggest_ranked(8)
    assert max(sum(a[name] != b[name] for name in a) for a, b in itertools.combinations(batch, 2)) >= 2
    assert sum(config["d0"] for config in batch) / 8 > 3


def test_startup_is_a_third_of_the_plan_and_no_more_than_ten() -> None:
    planned = {0: 0, 3: 1, 12: 4, 30: 10, 300: 10}
    assert {n: sampler({"a": 2}, planned=n).state()["startup_trials"] for n in planned} == planned
    assert Sampler({"a": 2}, TpeSettings(), 0).state()["startup_trials"] == 10
    assert Sampler({"a": 2}, TpeSettings(n_startup_trials=3), 0, 4).state()["startup_trials"] == 3


# --- seeds -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS)
def test_the_same_seed_gives_the_same_search_and_another_one_does_not(model: SamplerModel) -> None:
    space = {"a": 9, "b": 9, "c": 9}
    searches = [run(sampler(space, seed, model=model), 20, 3) for seed in (0, 0, 1)]
    assert searches[0] == searches[1] != searches[2]


def test_asking_for_beliefs_does_not_change_the_search() -> None:
    space = {"a": 9, "b": 9, "c": 9}
    asked, other = sampler(space), sampler(space)
    for _ in range(18):
        (one,), (two,) = asked.suggest_ranked(1), other.suggest_ranked(1)
        assert one == two
        asked.observe(one, worth(one), weight=20)
        other.observe(two, worth(two), weight=20)
        asked.estimate({"a": 1, "b": 2, "c": 3})
        asked.best_seen(3)


# --- what is learnt --------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_learning_beats_drawing_at_random(model: SamplerModel) -> None:
    """Additive effects under the noise of 40 answers; the best of 40 trials by estimate, mean of eight searches."""
    regrets: dict[float, list[float]] = {0.0: [], 1.0: []}
    for seed, epsilon in itertools.product(range(8), regrets):
        rng = random.Random(seed)
        effects = [[rng.gauss(0, 0.05) for _ in range(5)] for _ in range(6)]
        made = sampler({f"d{n}": 5 for n in range(6)}, seed, planned=40, epsilon=epsilon, model=model)

        def true(config: Config, effects: list[list[float]] = effects) -> float:
            return min(1.0, max(0.0, 0.5 + sum(effects[d][option] for d, option in enumerate(config.values()))))

        for _ in range(40):
            (config,) = made.suggest_ranked(1)
            made.observe(config, sum(rng.random() < true(config) for _ in range(40)) / 40, weight=40)
        (best,) = made.best_seen(1)
        regrets[epsilon].append(0.5 + sum(max(each) for each in effects) - true(best))
    assert sum(regrets[0.0]) < 0.75 * sum(regrets[1.0])


@LAW
@given(score=st.floats(0, 1), weights=st.lists(st.floats(0.5, 500), min_size=2, max_size=4, unique=True))
def test_an_estimate_moves_towards_its_observations_with_their_weight(score: float, weights: list[float]) -> None:
    distances = []
    for weight in sorted(weights):
        made = sampler({"a": 3, "b": 3})
        for option, mean in ((0, 0.4), (1, 0.5)):
            made.observe({"a": option, "b": 0}, mean, weight=20)
        made.observe({"a": 2, "b": 2}, score, weight=weight)
        estimate = made.estimate({"a": 2, "b": 2})
        distances.append(abs(estimate.mean - score))
        assert 0 <= estimate.mean <= 1
        assert 0 < estimate.sd < 0.5
    assert distances[-1] <= distances[0] + 0.02


def test_a_full_evaluation_says_more_than_a_minibatch() -> None:
    sds = []
    for weight in (10, 35, 300):
        made = sampler({"a": 4, "b": 4})
        rng = random.Random(3)
        for a, b in itertools.product(range(4), range(3)):
            made.observe({"a": a, "b": b}, 0.3 + 0.1 * a + rng.gauss(0, 0.03), weight=35)
        made.observe({"a": 2, "b": 3}, 0.52, weight=weight)
        sds.append(made.estimate({"a": 2, "b": 3}).sd)
    assert sds == sorted(sds, reverse=True)
    assert sds[2] < 0.7 * sds[0]


def test_an_estimate_shares_what_is_known_of_other_configurations() -> None:
    made = sampler({"a": 2, "b": 4, "c": 4})
    for b, c in itertools.product(range(4), range(3)):
        made.observe({"a": 0, "b": b, "c": c}, 0.3, weight=100)
        if (b, c) != (3, 2):
            made.observe({"a": 1, "b": b, "c": c}, 0.7, weight=100)
    unseen, known = made.estimate({"a": 1, "b": 3, "c": 2}), made.estimate({"a": 1, "b": 0, "c": 0})
    assert unseen.mean == pytest.approx(0.7, abs=0.06)
    assert known.mean == pytest.approx(0.7, abs=0.03)
    assert known.sd < unseen.sd


@LAW
@given(parts=st.lists(st.tuples(st.floats(0, 1), st.floats(1, 300)), min_size=1, max_size=5))
def test_observations_of_one_configuration_are_pooled_by_weight(parts: list[tuple[float, float]]) -> None:
    made = sampler({"a": 2})
    for score, weight in parts:
        made.observe({"a": 1}, score, weight=weight)
    total = sum(weight for _, weight in parts)
    (pooled,) = made.state()["observations"]
    assert pooled["config"] == {"a": 1}
    assert pooled["mean"] == pytest.approx(sum(score * weight for score, weight in parts) / total)
    assert (pooled["weight"], pooled["count"]) == (pytest.approx(total), len(parts))


def test_the_best_seen_are_those_of_the_best_estimates() -> None:
    made = sampler({"a": 5, "b": 5})
    run(made, 12)
    configs = [each["config"] for each in made.state()["observations"]]
    expected = sorted(configs, key=lambda config: -made.estimate(config).mean)
    assert made.best_seen(20) == expected
    assert made.best_seen(2, exclude=expected[:1]) == expected[1:3]
    assert made.best_seen(1, exclude=configs) == []


def test_a_lucky_minibatch_is_not_taken_for_the_best() -> None:
    made = sampler({"a": 6, "b": 6})
    for a, b in itertools.product(range(4), range(3)):
        made.observe({"a": a, "b": b}, 0.7 if a == 3 else 0.4, weight=200)
    made.observe({"a": 0, "b": 5}, 0.8, weight=3)
    assert made.best_seen(1)[0]["a"] == 3


def test_rebasing_replaces_all_that_was_observed() -> None:
    space = {"a": 4, "b": 4}
    known = [({"a": a, "b": b}, (a + b) / 8, 30.0) for a, b in [(0, 0), (1, 3), (2, 2), (3, 1)]]
    made, other = sampler(space), sampler(space)
    made.observe({"a": 3, "b": 3}, 1.0, weight=30)
    made.rebase(known)
    for config, score, weight in known:
        other.observe(config, score, weight=weight)
    assert made.state()["observations"] == other.state()["observations"]
    assert made.claim({"a": 3, "b": 3})
    assert made.estimate({"a": 1, "b": 2}).mean == pytest.approx(other.estimate({"a": 1, "b": 2}).mean, abs=0.05)


# --- spaces that grow ------------------------------------------------------------------------------------------------


def test_extending_keeps_what_is_known() -> None:
    made, whole = sampler({"a": 3, "b": 2}), sampler({"a": 5, "b": 2, "c": 4})
    for a, b, score in [(0, 0, 0.3), (1, 0, 0.5), (2, 1, 0.6)]:
        made.observe({"a": a, "b": b}, score, weight=25)
        whole.observe({"a": a, "b": b, "c": 0}, score, weight=25)
    made.discard({"a": 2, "b": 0})
    made.extend({"a": 5, "c": 4})
    assert made.state()["dimensions"] == {"a": 5, "b": 2, "c": 4}
    assert made.state()["observations"] == whole.state()["observations"]
    assert made.best_seen(3) == whole.best_seen(3)
    assert not made.claim({"a": 1, "b": 0, "c": 0})
    assert not made.claim({"a": 2, "b": 0, "c": 0})
    later = [key(config) for config in made.suggest_ranked(100)]
    assert len(set(later)) == len(later) == 5 * 2 * 4 - 4


@LAW
@given(space=dimensions, more=dimensions, model=models)
def test_a_space_may_grow_while_suggestions_are_pending(
    space: dict[str, int], more: dict[str, int], model: SamplerModel
) -> None:
    made = sampler(space, planned=6, model=model)
    first = run(made, 3) + made.suggest_ranked(2)
    grown = space | {name: max(size, space.get(name, 1)) for name, size in more.items()}
    made.extend(grown)
    every = {key(dict.fromkeys(grown, 0) | config) for config in first}
    every |= {key(config) for config in run(made, 1_000, 2)}
    assert len(every) == math.prod(grown.values())


# --- what is refused, what is shown ----------------------------------------------------------------------------------


@pytest.mark.parametrize("fewer", [{"a": 2}, {"c": 0}])
def test_a_dimension_never_loses_options(fewer: dict[str, int]) -> None:
    made = sampler({"a": 3})
    with pytest.raises(ValueError, match="at least"):
        made.extend(fewer)
    assert made.state()["dimensions"] == {"a": 3}


@pytest.mark.parametrize("config", [{}, {"a": 3}, {"a": -1}, {"a": 0, "b": 0}])
def test_a_configuration_outside_the_space_is_refused(config: Config) -> None:
    with pytest.raises(ValueError, match="must"):
        sampler({"a": 3}).observe(config, 0.5)


@pytest.mark.parametrize(("score", "weight"), [(1.1, 1), (-0.1, 1), (math.nan, 1), (0.5, 0), (0.5, math.inf)])
def test_a_score_or_weight_out_of_range_is_refused(score: float, weight: float) -> None:
    made = sampler({"a": 3})
    with pytest.raises(ValueError, match="must be"):
        made.observe({"a": 1}, score, weight=weight)
    assert made.state()["observations"] == []


@pytest.mark.parametrize(
    "wrong", [{"gamma": 0}, {"gamma": 1}, {"n_candidates": 0}, {"n_startup_trials": -1}, {"epsilon": 2}, {"alpha": 0}]
)
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        TpeSettings(**wrong)  # type: ignore[arg-type]


def test_the_state_is_json_and_says_what_is_under_way() -> None:
    made = sampler({"a": 3, "b": 3})
    run(made, 4)
    pending = made.suggest_ranked(2)
    state = json.loads(json.dumps(made.state()))
    assert state["settings"] == asdict(TpeSettings())
    assert state["pending"] == pending
    assert (len(state["observations"]), state["suggested"], state["rng_seed"]) == (4, 6, 0)
