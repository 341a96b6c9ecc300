"""The figures of a rollout: which there are, in which unit and which direction."""

import pytest

from promptjobs.core.asks import Answer, FailureReason, Key
from promptjobs.core.objectives import Objective, oriented, oriented_value, oriented_values, value

KEY = Key(b"k" * 16)


def test_every_objective_has_its_figure_and_its_direction() -> None:
    answer = Answer(
        KEY, score=0.75, prompt_tokens=100, completion_tokens=20, unknown_tokens=3, cost_usd=0.002, seconds=1.5
    )
    assert {o: value(answer, o) for o in Objective} == {"score": 0.75, "cost": 0.002, "tokens": 123.0, "seconds": 1.5}
    assert {o: oriented_value(answer, o) for o in Objective} == {
        "score": 0.75,
        "cost": -0.002,
        "tokens": -123.0,
        "seconds": -1.5,
    }
    assert all(oriented(oriented(2.5, o), o) == 2.5 for o in Objective)


def test_a_failure_has_no_figure_though_it_took_tokens_and_time() -> None:
    failed = Answer(KEY, reason=FailureReason.TASK_APP_TIMEOUT, prompt_tokens=9, cost_usd=0.1, seconds=30.0)
    assert [value(failed, o) for o in Objective] == [None] * 4
    assert [oriented_value(failed, o) for o in Objective] == [None] * 4


def test_what_was_not_measured_is_unknown_and_a_price_of_nothing_is_a_price() -> None:
    taken_over = Answer(KEY, score=0.5)
    assert [value(taken_over, o) for o in ("score", "cost", "tokens", "seconds")] == [0.5, None, None, None]
    local_model = Answer(KEY, score=0.0, prompt_tokens=9, cost_usd=0.0, seconds=0.2)
    assert [value(local_model, o) for o in ("score", "cost")] == [0.0, 0.0]


def test_values_are_gathered_by_objective_and_seed_without_the_unknown() -> None:
    answers = [(7, Answer(KEY, score=0.5, cost_usd=0.1)), (8, Answer(KEY, score=1.0)), (9, Answer(KEY))]
    assert oriented_values(answers, ("score", "cost")) == {"score": {7: 0.5, 8: 1.0}, "cost": {7: -0.1}}


def test_an_unknown_objective_is_refused() -> None:
    with pytest.raises(ValueError, match="beauty"):
        value(Answer(KEY, score=1.0), "beauty")
