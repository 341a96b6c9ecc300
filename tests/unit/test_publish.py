"""The end of a job says why, on what its scores rest, and what was spent, the same everywhere."""

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from tests.fakes.config_bodies import body

from promptjobs.core.archive import Candidate
from promptjobs.core.asks import FailureReason
from promptjobs.core.config import resolve
from promptjobs.core.lanes import Cause
from promptjobs.core.ledger import Account, Amount, Caps, Category
from promptjobs.core.prompt import PromptTemplate, Section
from promptjobs.core.result import Measured, OptimizationResult
from promptjobs.core.stats import Statistics
from promptjobs.db.ledger import Spending
from promptjobs.db.publishing import Ending, Spent
from promptjobs.jobs.publish import ending_of
from promptjobs.jobs.spending import spending_json

CONFIG = resolve("gepa", body(), None).config
BASE = Candidate("base", 0, PromptTemplate((Section("s", "system", "Answer.", 0),), {}), "base")
MEASURED = Measured(4, {1: 1.0, 2: 0.5}, {1: 0.0, 2: 0.5})


def spending(policy: Account | None = None, proposal: Account | None = None, unpriced: int = 0) -> Spending:
    """Ten calls of rollouts and one of the meta-model; unpriced: of the former."""
    accounts = dict.fromkeys(Category, Account())
    calls, unknown = dict.fromkeys(Category, 0), dict.fromkeys(Category, 0)
    accounts[Category.POLICY], accounts[Category.PROPOSAL] = policy or Account(), proposal or Account()
    calls[Category.POLICY], calls[Category.PROPOSAL], unknown[Category.POLICY] = 10, 1, unpriced
    return Spending(accounts, calls, unknown)


def spent(**changes: Any) -> Spent:
    whole = Spent(spending(), abandoned=0, balance_usd=None, seconds=2.5, last_failures={})
    return replace(whole, **changes)


def result(reason: str, detail: str | None = None, measured: Measured | None = MEASURED) -> OptimizationResult:
    return OptimizationResult(BASE, BASE, measured, None, None, [], [], [], [], reason, detail, {})


def ended(
    found: OptimizationResult | None, stopped: Cause | None = None, said: str | None = None, **more: Any
) -> Ending:
    return ending_of(CONFIG, found, Statistics(), spent(**more), stopped, said)


def told(ending: Ending) -> set[tuple[str, str | None]]:
    """Finish reason and detail, wherever they are told."""
    stats, event = ending.metadata["stats"], ending.event_data
    everywhere = [(ending.finish_reason, event["detail"]), (event["finish_reason"], stats["finish_detail"])]
    everywhere += [(snapshot.payload["finish_reason"], snapshot.payload["detail"]) for snapshot in ending.snapshots[:1]]
    return {*everywhere, (stats["finish_reason"], event["detail"]), (event["stats"]["finish_reason"], event["detail"])}


@pytest.mark.parametrize("cause", [Cause.MONEY, Cause.SPENT])
def test_a_job_that_a_cap_has_ended_succeeds_and_names_the_cap_everywhere(cause: Cause) -> None:
    ending = ended(result("money"), cause, "cost_budget: the job's limit of 1 USD: 0.9 are taken")
    assert (ending.status, ending.error) == ("succeeded", None)
    assert told(ending) == {("cost_budget", "the job's limit of 1 USD: 0.9 are taken")}
    assert ending.event_message == "the job has succeeded: cost_budget: the job's limit of 1 USD: 0.9 are taken"


def test_a_job_that_a_cap_has_ended_before_anything_was_measured_has_failed_of_it() -> None:
    ending = ended(result("spent", measured=None), Cause.SPENT, "token_budget: 5 tokens do not hold a call")
    assert (ending.status, ending.finish_reason) == ("failed", "token_budget")
    assert ending.error == ("the job ended before its baseline was measured: token_budget: 5 tokens do not hold a call")


@pytest.mark.parametrize("reason", ["max_error_rate", "max_consecutive_errors"])
def test_a_job_that_its_failures_have_ended_says_what_they_were_and_succeeds_with_what_it_has(reason: str) -> None:
    words = "9 of 21 rollouts failed: 7 provider_error, 2 invalid_score"
    last = {FailureReason.INVALID_SCORE: "", FailureReason.PROVIDER_ERROR: "HTTP 500: overloaded"}
    ending = ended(result(reason, words), last_failures=last)
    assert ending.status == "succeeded"
    assert told(ending) == {(reason, f"{words}; the last provider_error: HTTP 500: overloaded")}


def test_failures_are_no_part_of_an_end_by_another_limit() -> None:
    ending = ended(result("rollout_budget"), last_failures={FailureReason.PROVIDER_ERROR: "HTTP 500"})
    assert told(ending) == {("rollout_budget", None)}
    assert ending.event_message == "the job has succeeded: rollout_budget"


def test_a_deadline_is_told_with_its_words() -> None:
    assert told(ended(result("deadline"), Cause.DEADLINE, "the job has run for 5 s")) == {
        ("deadline", "the job has run for 5 s")
    }


def test_a_cancelled_job_publishes_what_it_has() -> None:
    ending = ended(result("cancel"), Cause.CANCEL, "the job was cancelled")
    assert (ending.status, ending.finish_reason, ending.best_score) == ("cancelled", "cancelled", 0.75)
    assert told(ending) == {("cancelled", None)}


def test_a_job_without_a_result_has_failed_with_its_error() -> None:
    ending = ended(None, Cause.ERRORS, "the task app is away")
    assert (ending.status, ending.finish_reason, ending.error) == ("failed", "errors", "the task app is away")
    assert ending.event_message == "the job has failed: the task app is away"


def test_scores_of_the_end_have_their_seeds() -> None:
    ending = ended(result("rollout_budget"))
    for told_in in (ending.event_data, ending.metadata["stats"], ending.snapshots[0].payload):
        assert (told_in["best_score"], told_in["best_score_seeds"]) == (0.75, 2)
        assert (told_in["baseline_score"], told_in["baseline_score_seeds"]) == (0.25, 2)


def test_spending_is_that_of_the_ledger() -> None:
    account = Account(Amount(Decimal("0.25"), 100), Amount(), Amount(Decimal("0.01"), 7))
    paid = spending(account, Account(Amount(Decimal("0.5"), 30)))
    stats = ended(result("x"), spending=paid, balance_usd=Decimal("1.5")).metadata["stats"]
    assert (stats["metered_calls"], stats["metered_cost_usd"]) == (10, 0.25)
    assert (stats["final_balance_usd"], stats["balance_type"]) == (1.5, "prepaid")
    spend = stats["spend"]
    assert (spend["usd"], spend["tokens"], spend["calls"], spend["unsettled_usd"]) == (0.75, 130, 11, 0.01)
    assert spend["categories"]["policy"] == {
        "usd": 0.25,
        "tokens": 100,
        "calls": 10,
        "unpriced_calls": 0,
        "held_usd": 0.0,
        "held_tokens": 0,
        "unsettled_usd": 0.01,
        "unsettled_tokens": 7,
    }
    assert set(spend["categories"]) == set(Category)


def test_a_cost_without_a_price_is_not_told_and_an_unlimited_balance_is_said_to_be_so() -> None:
    stats = ended(result("x"), spending=spending(unpriced=1)).metadata["stats"]
    assert (stats["metered_cost_usd"], stats["spend"]["unpriced_calls"]) == (None, 1)
    assert (stats["final_balance_usd"], stats["balance_type"]) == (None, "unlimited")


def test_caps_stand_beside_what_they_are_over() -> None:
    none = dict.fromkeys(("total_usd", "rollout_usd", "proposal_usd", "tokens"))
    caps = Caps(total_usd=Decimal("2.5"), tokens=1000)
    assert spending_json(spending(), caps)["caps"] == none | {"total_usd": 2.5, "tokens": 1000}
    assert spending_json(spending(), Caps())["caps"] == none
