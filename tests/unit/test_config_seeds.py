"""Seeds of a config: lists and ranges, leaks, and how they are divided between front and feedback."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes.config_bodies import body

from promptjobs.core.config import GepaConfig, resolve
from promptjobs.core.config_seeds import plan_seeds
from promptjobs.errors import InvalidConfig

TRAIN = "gepa.evaluation.train_seeds"
VALIDATION = "gepa.evaluation.validation_seeds"
TEST = "gepa.evaluation.test_pool"
SIZE = "gepa.archive.pareto_set_size"
SOURCE = "gepa.archive.pareto_source"


def gepa_of(changes: dict[str, Any]) -> GepaConfig:
    return resolve("gepa", body(changes), None).config.gepa


def refused(changes: dict[str, Any]) -> InvalidConfig:
    with pytest.raises(InvalidConfig) as caught:
        resolve("gepa", body(changes), None)
    return caught.value


# --- lists ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "seeds"),
    [
        ([3, 1, 2], (3, 1, 2)),
        ([0, 2**53], (0, 2**53)),
        ({"start": 5, "end": 8}, (5, 6, 7)),
        ({"start": 0, "end": 10, "step": 4}, (0, 4, 8)),
        ({"start": 0, "end": 2, "step": None}, (0, 1)),
    ],
)
def test_lists_and_ranges(written: Any, seeds: tuple[int, ...]) -> None:
    assert gepa_of({TRAIN: written}).train_seeds == seeds


@pytest.mark.parametrize("path", [TRAIN, VALIDATION, TEST])
@pytest.mark.parametrize(
    "wrong",
    [
        [True],
        [1.0],
        ["1"],
        [None],
        [[1]],
        [-1],
        [2**53 + 1],
        [901, 902, 901],
        list(range(10_001)),
        "0-10",
        7,
        {"start": 0},
        {"end": 3},
        {"start": 3, "end": 3},
        {"start": 4, "end": 3},
        {"start": 0, "end": 3, "step": 0},
        {"start": 3, "end": 0, "step": -1},
        {"start": 0, "end": 3.0},
        {"start": 0, "end": 10_001},
        {"start": 0, "end": 2**62},
        {"start": -(2**63), "end": 2**63 - 1},
        {"start": 2**53 + 1, "end": 2**53 + 3},
        {"start": 0, "end": 3, "stop": 4},
    ],
)
def test_wrong_seeds_are_refused(path: str, wrong: Any) -> None:
    assert refused({path: wrong}).param == f"prompt_learning.{path}"


@pytest.mark.parametrize("missing", [None, []])
def test_train_seeds_are_required(missing: Any) -> None:
    error = refused({TRAIN: missing})
    assert error.param == f"prompt_learning.{TRAIN}"
    assert "is required" in str(error)


def test_duplicates_are_named() -> None:
    assert "more than once: 5, 6" in str(refused({TRAIN: [5, 1, 6, 5, 6, 6]}))


@pytest.mark.parametrize(("one", "other"), [(TRAIN, VALIDATION), (TRAIN, TEST), (VALIDATION, TEST)])
def test_leaks_between_lists_are_refused(one: str, other: str) -> None:
    apart = {TRAIN: [1, 2], VALIDATION: [11, 12], TEST: [21, 22]}
    error = refused(apart | {one: list(range(30, 50)), other: list(range(40, 60))})
    assert error.param == f"prompt_learning.{other}"
    assert f"leak from prompt_learning.{one}: 40, 41, 42, 43, 44 and 5 more" in str(error)


# --- front and feedback --------------------------------------------------------------------------------------------


def test_front_uses_train_seeds_where_there_are_enough() -> None:
    enough = gepa_of({TRAIN: list(range(67)), VALIDATION: None})
    assert (enough.pareto_source, len(enough.front_seeds), len(enough.feedback_seeds)) == ("train", 64, 3)
    fewer = gepa_of({TRAIN: list(range(66))})
    assert (fewer.pareto_source, fewer.front_seeds) == ("validation", fewer.validation_seeds)
    assert fewer.feedback_seeds == fewer.train_seeds


def test_too_few_seeds_for_either_source_are_refused_with_the_numbers() -> None:
    error = refused({VALIDATION: None})
    assert error.param == f"prompt_learning.{VALIDATION}"
    assert "20 train seeds, and a front of 64 with 3 for feedback needs 67" in str(error)


def test_explicit_train_source_with_too_few_seeds_is_refused_with_the_numbers() -> None:
    error = refused({SOURCE: "train", SIZE: 18})
    assert error.param == f"prompt_learning.{SOURCE}"
    assert "20 train seeds, and a front of 18 with 3 for feedback needs 21" in str(error)
    assert gepa_of({SOURCE: "train", SIZE: 17}).pareto_source == "train"


def test_explicit_validation_source() -> None:
    chosen = gepa_of({SOURCE: "validation", SIZE: 5})
    assert chosen.feedback_seeds == chosen.train_seeds
    assert len(chosen.front_seeds) == 5
    assert set(chosen.front_seeds) < set(chosen.validation_seeds)
    assert refused({SOURCE: "validation", SIZE: 5, VALIDATION: []}).param == f"prompt_learning.{VALIDATION}"


SETS = st.sets(st.integers(0, 500), min_size=1, max_size=120)


@given(train=SETS, size=st.integers(1, 120), fraction=st.floats(0, 1), seed=st.integers(0, 2**53), data=st.data())
def test_plan_of_train_seeds_keeps_its_promises(
    train: set[int], size: int, fraction: float, seed: int, data: st.DataObject
) -> None:
    order = data.draw(st.permutations(sorted(train)))
    validation = tuple(range(1000, 1150))

    def plan(seeds: list[int]) -> Any:
        return plan_seeds(
            tuple(seeds), validation, source=None, pareto_set_size=size, feedback_fraction=fraction, rng_seed=seed
        )

    divided = plan(order)
    assert divided == plan(sorted(train))
    assert list(divided.front) == sorted(set(divided.front))
    assert list(divided.feedback) == sorted(set(divided.feedback))
    assert len(divided.front) == size
    if len(train) >= size + 3:
        assert divided.source == "train"
        assert set(divided.front) | set(divided.feedback) <= train
        assert not set(divided.front) & set(divided.feedback)
        assert len(divided.feedback) == min(max(3, int(fraction * len(train))), len(train) - size)
    else:
        assert divided.source == "validation"
        assert set(divided.feedback) == train
        assert set(divided.front) <= set(validation)


def test_rng_seed_decides_the_division() -> None:
    plans = {gepa_of({SIZE: 10, "gepa.rng_seed": seed}).front_seeds for seed in range(5)}
    assert len(plans) > 1


def test_minibatch_is_cut_to_the_feedback_seeds_with_a_warning() -> None:
    resolution = resolve("gepa", body({SIZE: 15, "gepa.rollout.minibatch_size": 8}), None)
    assert resolution.config.gepa.minibatch_size == len(resolution.config.gepa.feedback_seeds) == 5
    assert resolution.warnings == ("a minibatch of 8 is cut to 5: there are no more seeds for feedback",)
