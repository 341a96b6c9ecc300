"""The plan that is checked at the start, and a budget that no sequence of demands passes."""

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.fakes.config_bodies import PROMPT, body

from promptjobs.core.config import GepaJobConfig, resolve
from promptjobs.core.limits import (
    FIRST,
    SECOND,
    Budget,
    Reservation,
    check_budget,
    draft_count,
    end_rollouts,
    evidence_size,
    iteration_rollouts,
    lane_count,
    opening_seeds,
    probe_seeds,
    total_budget,
)
from promptjobs.errors import BudgetTooSmall

BOTH = pytest.mark.parametrize("mode", [{"gepa__acceptance": "race"}, {"gepa__acceptance": "full"}])


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
        self.budget.begin_end(0)

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


def config(**changes: Any) -> GepaJobConfig:
    return resolve("gepa", body({path.replace("__", "."): value for path, value in changes.items()}), {}).config


def needed(job: GepaJobConfig) -> int:
    with pytest.raises(BudgetTooSmall) as caught:
        check_budget(job.model_copy(update={"gepa": job.gepa.model_copy(update={"rollout_budget": 1})}))
    return caught.value.needed


FULL = {"gepa__acceptance": "full"}
RACE = {"gepa__acceptance": "race"}


def test_too_small_a_budget_is_refused_with_its_parts_by_name() -> None:
    job = config(**FULL, gepa__archive__pareto_set_size=12, gepa__rollout__budget=60, gepa__rollout__minibatch_size=3)
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
    assert error.param == "gepa.rollout.budget"


def test_a_race_needs_less_than_the_papers_search() -> None:
    sizes = {
        "gepa__evaluation__train_seeds": list(range(1000, 1000 + 120)),
        "gepa__archive__pareto_set_size": 60,
        "gepa__rollout__minibatch_size": 4,
    }
    race, full = (needed(config(**sizes, **mode)) for mode in (RACE, FULL))
    assert race == 3 + (FIRST + SECOND) + (6 + FIRST + SECOND) + min(4 * 12, 2 * 12)
    assert full == 3 + 60 + (2 * 4 + 60) + 4 * 12


def test_with_a_stand_in_the_baseline_is_measured_on_both_models() -> None:
    alone = config(**RACE)
    both = config(**RACE, proxy_models__lo_model="small")
    assert needed(both) == needed(alone) + len(opening_seeds(alone.gepa))


@BOTH
def test_a_budget_that_just_holds_its_parts_is_accepted(mode: dict[str, str]) -> None:
    job = config(**mode, gepa__archive__pareto_set_size=12, gepa__rollout__minibatch_size=3)
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
    job = config(**FULL, initial_prompt=PROMPT, gepa__rollout__minibatch_size=3)
    assert job.gepa.pareto_source == "validation"
    assert (probe_seeds(job), end_rollouts(job.gepa)) == ((), 0)
    assert needed(job) == 12 + (2 * 3 + 12)
    assert "probes" not in str(BudgetTooSmall(1, 2, {"baseline": 2}))
    race = config(**RACE, initial_prompt=PROMPT, gepa__rollout__minibatch_size=3, gepa__finals_share=0.0)
    assert end_rollouts(race.gepa) == 0
    assert needed(race) == 12 + (4 + 12)


def test_probes_use_the_first_train_seeds() -> None:
    assert probe_seeds(config(gepa__evaluation__train_seeds=[7, 5, 3, 1, 9])) == (7, 5, 3)
    assert probe_seeds(config(gepa__evaluation__train_seeds=[7, 5])) == (7, 5)


def test_the_smaller_of_the_two_budgets_holds() -> None:
    both = config(gepa__rollout__budget=300, termination_config__max_rollouts=200)
    assert total_budget(both.gepa) == 200
    assert total_budget(config(gepa__rollout__budget=100, termination_config__max_rollouts=200).gepa) == 100
    assert total_budget(config(gepa__rollout__budget=100).gepa) == 100


def test_an_iteration_holds_both_minibatches_and_the_front_or_evidence_and_a_duel() -> None:
    assert iteration_rollouts(config(**FULL, gepa__rollout__minibatch_size=4).gepa) == 4 + 4 + 12
    assert iteration_rollouts(config(**RACE, gepa__rollout__minibatch_size=4).gepa) == 6 + 12
    small = config(**RACE, gepa__rollout__minibatch_size=4, gepa__archive__pareto_set_size=3)
    assert iteration_rollouts(small.gepa) == 6 + 3


@pytest.mark.parametrize(("share", "validation", "kept"), [(0.0, 3, 6), (0.1, 3, 10), (0.2, 40, 80), (0.5, 3, 12)])
def test_a_share_is_kept_for_the_finalists_enough_for_two_and_no_more_than_all_need(
    share: float, validation: int, kept: int
) -> None:
    job = config(
        **RACE,
        gepa__finals_share=share,
        gepa__rollout__budget=100,
        gepa__archive__pareto_set_size=5,
        gepa__archive__pareto_source="train",
        gepa__evaluation__validation_seeds=list(range(100, 100 + validation)),
    )
    assert end_rollouts(job.gepa) == kept


@pytest.mark.parametrize(("effort", "size"), [("LOW_CONTEXT", 4), ("LOW", 12), ("MEDIUM", 16), ("HIGH", 24)])
def test_the_effort_says_how_many_examples_a_reflection_is_shown(effort: str, size: int) -> None:
    sizes = {"gepa__evaluation__train_seeds": list(range(1000, 1000 + 50)), "gepa__rollout__minibatch_size": 8}
    assert evidence_size(config(**sizes, gepa__proposer_effort=effort).gepa) == size


def test_the_baseline_opens_on_two_blocks_in_the_race() -> None:
    sizes = {"gepa__evaluation__train_seeds": list(range(1000, 1000 + 100)), "gepa__archive__pareto_set_size": 50}
    race, full = (config(**sizes, **mode).gepa for mode in (RACE, FULL))
    assert opening_seeds(full) == full.front_seeds
    assert len(opening_seeds(race)) == FIRST + SECOND
    assert set(opening_seeds(race)) < set(race.front_seeds)
    assert opening_seeds(race) == opening_seeds(race)


@pytest.mark.parametrize(
    ("left", "lanes", "count"), [(0, 8, 1), (200, 8, 1), (400, 8, 2), (1000, 8, 5), (10_000, 8, 8), (10_000, 3, 3)]
)
def test_a_race_opens_as_many_lanes_as_leave_each_a_row_of_proposals(left: int, lanes: int, count: int) -> None:
    assert lane_count(config(**RACE, gepa__lanes=lanes).gepa, left) == count
    assert lane_count(config(**FULL, gepa__lanes=lanes).gepa, left) == lanes


LARGE = {"gepa__evaluation__train_seeds": list(range(1000, 1000 + 500)), "gepa__rollout__budget": 3000}


@pytest.mark.parametrize(
    ("changes", "left", "count"),
    [
        ({}, 3000, 19),
        ({"gepa__population__initial_size": 1}, 3000, 1),
        ({"gepa__population__initial_size": 6}, 3000, 5),
        ({"gepa__rollout__budget": 500}, 500, 5),
        ({"gepa__evaluation__train_seeds": list(range(1000, 1096)), "gepa__archive__pareto_set_size": 72}, 3000, 2),
        ({"gepa__population__num_generations": 1, "gepa__population__children_per_generation": 3}, 3000, 3),
        ({"gepa__max_meta_calls": 4}, 3000, 4),
        # What is kept for the end is not theirs: with 18 for each draft, a duel must be left too.
        ({}, 18 * 4 + FIRST + SECOND, 4),
        ({}, 18 * 4 + FIRST + SECOND - 1, 3),
        ({}, 0, 1),
    ],
)
def test_a_race_makes_as_many_drafts_as_it_can_feed(changes: dict[str, Any], left: int, count: int) -> None:
    job = config(**{**RACE, **LARGE, **changes})
    assert evidence_size(job.gepa) + FIRST == 18
    assert draft_count(job.gepa, left) == count


def test_the_papers_search_drafts_on_a_fifth_of_its_budget() -> None:
    job = config(**FULL, **LARGE)
    assert draft_count(job.gepa, 3000) == 600 // iteration_rollouts(job.gepa)
    assert draft_count(config(**FULL, **LARGE, gepa__population__initial_size=3).gepa, 3000) == 2
    assert draft_count(config(**FULL, **LARGE, gepa__population__initial_size=1).gepa, 3000) == 0


def test_nothing_may_be_taken_before_the_reserve_is_released() -> None:
    budget = Budget(10, 4)
    assert [budget.take(6), budget.take(1), budget.left] == [True, False, 0]
    budget.begin_end(0)
    assert [budget.take(5), budget.take(4), budget.take(0), budget.left] == [False, True, True, 0]
