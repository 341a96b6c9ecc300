"""The sampler's mathematics against plain forms of it: agreements, posterior, densities, expected improvement."""

import itertools
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from promptjobs.core.choices import Choices, Point
from promptjobs.core.improvement import Improvement, expected_improvement, ranked, significant
from promptjobs.core.matches import Matches
from promptjobs.core.parzen import Parzen
from promptjobs.core.surrogate import LEAST_VARIANCE, LEVEL_SD, NOISES, SHAPES, SPREADS, Hyperparameters, Surrogate

LAW = settings(deadline=None, derandomize=True, max_examples=30)

SIZES = (4, 3, 5)
EVERY = list(itertools.product(*map(range, SIZES)))


def agreements(one: Point, two: Point) -> int:
    return sum(a == b for a, b in zip(one, two, strict=True))


def observed(seed: int, count: int = 12, pending: int = 0) -> tuple[Surrogate, list[Point], list[float], list[float]]:
    rng = random.Random(seed)
    points = rng.sample(EVERY, count + pending)
    means, weights = [rng.random() for _ in range(count)], [rng.uniform(5, 300) for _ in range(count)]
    made = Surrogate(SIZES)
    for point in points[count:]:
        made.add(point)
    for point, mean, weight in zip(points, means, weights, strict=False):
        made.observe(point, mean, weight)
    return made, points, means, weights


@LAW
@given(points=st.lists(st.sampled_from(EVERY), min_size=1, max_size=70), start=st.sampled_from(EVERY))
def test_agreements_are_counted(points: list[Point], start: Point) -> None:
    made = Matches(SIZES)
    for point in points:
        made.add(point)
    assert made.between().tolist() == [[agreements(a, b) for b in points] for a in points]
    assert made.of(EVERY).tolist() == [[agreements(a, b) for b in points] for a in EVERY]
    neighbours, counts = made.neighbours([start, points[0]], 100)
    assert counts.tolist() == [[agreements(a, b) for b in points] for a in neighbours]
    near = {point for point in EVERY if agreements(point, start) >= 2}
    used = {(d, option) for point in points for d, option in enumerate(point)}
    found = set(itertools.islice(neighbours, len(neighbours) // 2))
    assert found <= near
    assert {p for p in near if all((d, o) in used for d, o in enumerate(p) if o != start[d])} - {start} <= found


def covariance(these: Hyperparameters, agree: int) -> float:
    additive, pairwise, product, decay = SHAPES[these.shape]
    shape = additive * agree / 3 + pairwise * agree * (agree - 1) / 6 + product * np.exp(-decay * (3 - agree))
    return float(LEVEL_SD**2 + SPREADS[these.spread] ** 2 * shape)


@LAW
@given(seed=st.integers(0, 1_000), pending=st.integers(0, 3))
def test_the_posterior_is_that_of_the_textbook(seed: int, pending: int) -> None:
    """Rasmussen and Williams 2006, equations 2.25 and 2.26; a pending point narrows variances and moves no mean."""
    made, points, means, weights = observed(seed, pending=pending)
    these, n = made.hyperparameters, len(means)
    assert these is not None
    centre = float(np.average(means, weights=weights))
    variance = max(LEAST_VARIANCE, centre * (1 - centre)) * NOISES[these.noise]
    known = np.array([[covariance(these, agreements(a, b)) for b in points] for a in points])
    known += 1e-8 * np.eye(len(points))
    known += np.diag([variance / weight for weight in [*weights, *[sorted(weights)[n // 2]] * pending]])
    across = np.array([[covariance(these, agreements(a, b)) for b in points] for a in EVERY])
    expected = centre + across[:, :n] @ np.linalg.solve(known[:n, :n], np.array(means) - centre)
    variances = covariance(these, 3) - np.einsum("ij,ij->i", across, np.linalg.solve(known, across.T).T)
    found_means, found_sds = made.posterior(EVERY)
    np.testing.assert_allclose(found_means, expected, rtol=1e-6)
    np.testing.assert_allclose(found_sds, np.sqrt(variances), rtol=1e-5)
    assert set(made.observed()[0]) == set(points[:n])
    order = [EVERY.index(point) for point in made.observed()[0]]
    np.testing.assert_allclose(made.observed()[1], expected[order], rtol=1e-6)


@LAW
@given(
    scores=st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=40),
    weights=st.lists(st.floats(1e-3, 1e9), min_size=40, max_size=40),
    sizes=st.sampled_from([(1,), (50,), (3, 20), (2, 2, 2, 6)]),
)
def test_no_scores_and_weights_break_the_factorization(
    scores: list[float], weights: list[float], sizes: tuple[int, ...]
) -> None:
    made, every = Surrogate(sizes), list(itertools.product(*map(range, sizes)))
    for point, score, weight in zip(every, scores, weights, strict=False):
        made.observe(point, score, weight)
    means, sds = made.posterior(every)
    assert np.all((means > -0.5) & (means < 1.5))
    assert np.all((sds > 0) & (sds < 0.5))


def test_nothing_observed_is_the_prior() -> None:
    made = Surrogate(SIZES)
    made.add((0, 0, 0))
    means, sds = made.posterior(EVERY)
    assert set(means) == {0.5}
    assert sds == pytest.approx([covariance(Hyperparameters(), 3) ** 0.5] * len(EVERY))


def simulated(effects: float, answers: int, seed: int) -> Surrogate:
    """Most of a space of 64 points, whose options have effects of this standard deviation, or, below 0, none."""
    rng = np.random.default_rng(seed)
    single = rng.normal(0, max(effects, 1e-9), (3, 4))
    made = Surrogate((4, 4, 4))
    for point in itertools.islice(itertools.product(range(4), repeat=3), 60):
        worth = min(1.0, max(0.0, 0.5 + sum(single[d, option] for d, option in enumerate(point))))
        made.observe(point, rng.binomial(answers, worth) / answers, answers)
    return made


def test_the_likelihood_tells_effects_from_noise() -> None:
    """Without effects a point's own score says little about its neighbours; with them nearly all."""
    near = [(0, 0, 0), (0, 0, 1)]
    for seed in range(3):
        shared = {}
        for effects in (0.0, 0.1):
            made = simulated(effects, 100, seed)
            points, means = made.observed()
            shared[effects] = float(means[[points.index(point) for point in points]].std())
            assert all(point in points for point in near)
        assert shared[0.0] < 0.04 < 0.08 < shared[0.1]


@LAW
@given(
    kernels=st.lists(st.sampled_from(EVERY), max_size=8, unique=True),
    alpha=st.floats(0.05, 20),
)
def test_densities_are_mixtures_and_sum_to_one(kernels: list[Point], alpha: float) -> None:
    """Each kernel: (alpha / n + [same]) / (1 + options * alpha / n), n counting the uniform one."""
    prior = alpha / (len(kernels) + 1)
    plain = [1 / len(EVERY)] * len(EVERY) if not kernels else []
    for point in EVERY if kernels else []:
        each = [
            float(
                np.prod([(prior + (a == b)) / (1 + size * prior) for a, b, size in zip(point, k, SIZES, strict=True)])
            )
            for k in kernels
        ]
        plain.append((sum(each) + 1 / len(EVERY)) / (len(kernels) + 1))
    found = np.exp(Parzen(kernels, SIZES, alpha).log_density(EVERY))
    np.testing.assert_allclose(found, plain, rtol=1e-9)
    assert float(found.sum()) == pytest.approx(1)


def test_draws_have_the_density() -> None:
    made, rng, draws = Parzen([(0, 0, 0), (3, 2, 4)], SIZES, 0.5), random.Random(0), 6_000
    counts = dict.fromkeys(EVERY, 0)
    for _ in range(draws):
        counts[made.draw(rng)] += 1
    expected = np.exp(made.log_density(EVERY)) * draws
    assert stats.chisquare(list(counts.values()), expected * draws / expected.sum()).pvalue > 0.001


@LAW
@given(mean=st.floats(-1, 1), sd=st.floats(0.05, 1), best=st.floats(-1, 1))
def test_expected_improvement_is_the_mean_of_the_improvement(mean: float, sd: float, best: float) -> None:
    def gain(value: float) -> float:
        return float((value - best) * stats.norm.pdf(value, mean, sd))

    expected, _ = integrate.quad(gain, best, max(best, mean) + 10 * sd, epsabs=1e-10)
    found = expected_improvement(np.array([mean]), np.array([sd]), best)
    assert found == pytest.approx([expected], abs=1e-7)


def test_a_climb_finds_what_looking_everywhere_finds() -> None:
    for seed in range(6):
        made, points, _, _ = observed(seed, count=20)
        everywhere, climbed = Improvement(made, points), Improvement(made, points)
        everywhere.rank(EVERY)
        climbed.rank(EVERY[:4])
        climbed.climb()
        assert everywhere.found not in points
        assert climbed.found not in points
        means, sds = made.posterior([p for p in (everywhere.found, climbed.found) if p])
        values = expected_improvement(means, sds, float(made.observed()[1].max()))
        assert values[1] >= 0.7 * values[0]


def test_ranks_do_not_depend_on_the_last_digits() -> None:
    values = np.array([0.1 + 0.2, 0.3, 0.5, 0.3 - 1e-15, 0.0, -0.3])
    assert ranked(values) == [2, 0, 1, 3, 4, 5]
    assert significant(np.array([123456789.4, 1.00000000049, 0.0])) == pytest.approx([123456789, 1, 0], rel=1e-12)


def test_a_point_is_drawn_from_what_is_left() -> None:
    choices, rng = Choices({"a": 3, "b": 50}), random.Random(0)
    taken = {(a, b) for a in range(3) for b in range(50)} - {(2, 49)}
    assert choices.draw_without(taken, rng) == (2, 49)
    with pytest.raises(ValueError, match="150 points are taken"):
        choices.draw_without(taken | {(2, 49)}, rng)
