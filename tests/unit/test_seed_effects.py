"""Scores from different seeds made comparable."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptjobs.core.seed_effects import adjusted_scores

SCORES = st.dictionaries(
    st.sampled_from("abcd"), st.dictionaries(st.integers(0, 9), st.floats(0, 1), max_size=6), max_size=4
)


def test_on_the_same_seeds_the_means_stay_what_they_are() -> None:
    found = adjusted_scores({"a": {1: 1.0, 2: 0.0}, "b": {1: 1.0, 2: 1.0}})
    assert {name: round(one.mean, 9) for name, one in found.items()} == {"a": 0.5, "b": 1.0}
    assert {one.seeds for one in found.values()} == {2}


def test_who_was_measured_on_hard_seeds_is_not_taken_for_worse() -> None:
    """b is better than a wherever both are known, and its plain mean is lower."""
    everybody = {f"c{n}": dict.fromkeys(range(10), 0.7) | dict.fromkeys(range(10, 20), 0.1) for n in range(8)}
    a = dict.fromkeys(range(8), 0.7) | dict.fromkeys(range(10, 12), 0.1)
    b = dict.fromkeys(range(2), 0.9) | dict.fromkeys(range(10, 18), 0.3)
    found = adjusted_scores({**everybody, "a": a, "b": b})
    assert sum(a.values()) / len(a) > sum(b.values()) / len(b)
    assert found["b"].mean > found["a"].mean + 0.1


def test_the_noise_of_minibatches_shrinks_where_seeds_differ_much() -> None:
    """Measured against the truth: candidates on random halves of seeds that are easy or hard."""
    rng = random.Random(0)
    effect = {seed: 0.4 if seed % 2 else -0.4 for seed in range(40)}
    truth = {f"c{n}": 0.4 + 0.02 * n for n in range(10)}
    known = {
        name: {s: min(1.0, max(0.0, level + effect[s])) for s in rng.sample(range(40), 12)}
        for name, level in truth.items()
    }
    found = adjusted_scores(known)

    def spread(of: dict[str, float]) -> float:
        return sum(abs(of[name] - sum(of.values()) / len(of) - truth[name] + 0.49) for name in truth)

    plain = {name: sum(scores.values()) / len(scores) for name, scores in known.items()}
    assert spread({name: found[name].mean for name in truth}) < 0.7 * spread(plain)


@given(SCORES)
def test_what_comes_out_is_a_score_of_everybody_with_one(known: dict[str, dict[int, float]]) -> None:
    found = adjusted_scores(known)
    assert set(found) == {name for name, scores in known.items() if scores}
    for name, one in found.items():
        assert 0.0 <= one.mean <= 1.0
        assert one.seeds == len(known[name])


def test_candidates_without_a_score_are_left_out() -> None:
    assert adjusted_scores({"a": {}}) == {}
    assert adjusted_scores({"a": {}, "b": {3: 0.25}})["b"].mean == pytest.approx(0.25)
