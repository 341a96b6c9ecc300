"""The plan that is checked at the start, and a budget that no sequence of demands passes."""

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.fakes.config_bodies import PROMPT, body

from promptjobs.core.config import JobConfig, resolve
from promptjobs.core.evaluations import Reservation
from promptjobs.core.limits import Budget, check_budget, end_rollouts, iteration_rollouts, probe_seeds, total_budget
from promptjobs.errors import BudgetTooSmall


class Spending(RuleBasedStateMachine):
    """Lanes that reserve, spend, retry and release as they like; what is left in the end goes to the closing."""

    @initialize(total=st.integers(0, 60), share=st.floats(0, 1))
    def start(self, total: int, share: float) -> None:
        self.total, self.reserve = total, int(total * share)
        self.budget = Budget(self.total, self.reserve)
        self.held: list[Reservation] = []
        self.spent = self.spent_by_search = 0

    @rule(rollouts=st.integers(0, 30))
    def reserve_for_an_iteration(self, rollouts: int) -> None:
        left = self.budget.left
        reservation = Reservation.of(self.budget, rollouts)
        assert (reservation is not None) == (rollouts <= left)
        if reservation is not None:
            self.held.append(reservation)

    @rule()
    def take_one_for_a_retry(self) -> None:
        if self.budget.take(1):
            self._spend(1)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def spend_of_what_is_held(self, data: st.DataObject) -> None:
        reservation = self.held[data.draw(st.integers(0, len(self.held) - 1))]
        rollouts = data.draw(st.integers(0, reservation.held))
        reservation.spend(rollouts)
        self._spend(rollouts)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release_what_was_not_spent(self, data: st.DataObject) -> None:
        self.held.pop(data.draw(st.integers(0, len(self.held) - 1))).release()

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def spend_more_than_is_held(self, data: st.DataObject) -> None:
        reservation = data.draw(st.sampled_from(self.held))
        with pytest.raises(ValueError, match="were reserved"):
            reservation.spend(reservation.held + 1)

    @precondition(lambda self: not self.is_closing)
    @rule()
    def begin_the_end(self) -> None:
        self.budget.release_reserve()

    @property
    def is_closing(self) -> bool:
        return self.budget.reserved == 0

    def _spend(self, rollouts: int) -> None:
        self.spent += rollouts
        if not self.is_closing:
            self.spent_by_search += rollouts

    @invariant()
    def the_budget_is_never_passed(self) -> None:
        held = sum(reservation.held for reservation in self.held)
        assert self.budget.used == self.spent + held
        assert self.spent + held <= self.total
        assert self.spent_by_search <= self.total - self.reserve
        assert self.budget.left == self.total - self.budget.reserved - self.budget.used >= 0


TestSpending = Spending.TestCase
TestSpending.settings = settings(deadline=None, derandomize=True, max_examples=30, stateful_step_count=25)


def config(**changes: Any) -> JobConfig:
    return resolve("gepa", body({path.replace("__", "."): value for path, value in changes.items()}), {}).config


def needed(job: JobConfig) -> int:
    with pytest.raises(BudgetTooSmall) as caught:
        check_budget(job.model_copy(update={"gepa": job.gepa.model_copy(update={"rollout_budget": 1})}))
    return caught.value.needed


def test_too_small_a_budget_is_refused_with_its_parts_by_name() -> None:
    job = config(gepa__archive__pareto_set_size=12, gepa__rollout__budget=60, gepa__rollout__minibatch_size=3)
    with pytest.raises(BudgetTooSmall) as caught:
        check_budget(job)
    error = caught.value
    assert (error.budget, error.needed) == (60, 3 + 12 + (2 * 3 + 12) + 4 * 12)
    for part in (
        "probes of the task app's messages 3",
        "baseline 12",
        "one iteration 18",
        "validation at the end 48",
        "the rollout budget is 60, and at least 81 are needed",
    ):
        assert part in str(error)
    assert error.field == "gepa.rollout.budget"


def test_a_budget_that_just_holds_its_parts_is_accepted() -> None:
    job = config(gepa__archive__pareto_set_size=12, gepa__rollout__minibatch_size=3)
    least = needed(job)
    for budget, is_enough in ((least, True), (least - 1, False)):
        changed = job.model_copy(update={"gepa": job.gepa.model_copy(update={"rollout_budget": budget})})
        if is_enough:
            check_budget(changed)
        else:
            with pytest.raises(BudgetTooSmall):
                check_budget(changed)


def test_only_what_will_happen_is_counted() -> None:
    """With a prompt there are no probes; where the front uses the validation seeds, there is nothing at the end."""
    job = config(initial_prompt=PROMPT, gepa__rollout__minibatch_size=3)
    assert job.gepa.pareto_source == "validation"
    assert (probe_seeds(job), end_rollouts(job.gepa)) == ((), 0)
    assert needed(job) == 12 + (2 * 3 + 12)
    assert "probes" not in str(BudgetTooSmall(1, 2, {"baseline": 2}))


def test_probes_use_the_first_train_seeds() -> None:
    assert probe_seeds(config(gepa__evaluation__train_seeds=[7, 5, 3, 1, 9])) == (7, 5, 3)
    assert probe_seeds(config(gepa__evaluation__train_seeds=[7, 5])) == (7, 5)


def test_the_smaller_of_the_two_budgets_holds() -> None:
    both = config(gepa__rollout__budget=300, termination_config__max_rollouts=200)
    assert total_budget(both.gepa) == 200
    assert total_budget(config(gepa__rollout__budget=100, termination_config__max_rollouts=200).gepa) == 100
    assert total_budget(config(gepa__rollout__budget=100).gepa) == 100


def test_an_iteration_holds_both_minibatches_and_the_front() -> None:
    assert iteration_rollouts(config(gepa__rollout__minibatch_size=4).gepa) == 4 + 4 + 12


def test_nothing_may_be_taken_before_the_reserve_is_released() -> None:
    budget = Budget(10, 4)
    assert [budget.take(6), budget.take(1), budget.left] == [True, False, 0]
    budget.release_reserve()
    assert [budget.take(5), budget.take(4), budget.take(0), budget.left] == [False, True, True, 0]
