"""Screenings: when the cheap model is asked, when the real one, and what a comparison is made of."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from tests.fakes.gepa_runs import fraction, job
from tests.fakes.pure import Pure, Told

from promptjobs.core.archive import Candidate
from promptjobs.core.asks import (
    Answer,
    Ask,
    CompletionBody,
    Fact,
    FailureReason,
    Fork,
    MetaModel,
    Rollout,
    RolloutBody,
    Step,
    Steps,
    Tier,
)
from promptjobs.core.config_sections import ProxyModelsConfig, VerifierConfig
from promptjobs.core.evaluations import Evaluations
from promptjobs.core.lanes import Cause, Lane
from promptjobs.core.limits import Budget, Reservation
from promptjobs.core.optimizer import Adopted
from promptjobs.core.policies import policy_digest
from promptjobs.core.proxy import SILENT_IN_A_ROW, GivenUp, Proxy
from promptjobs.core.screening import Screening
from promptjobs.core.trial import Phase
from promptjobs.core.verifier import Verifier

PARENT, CHILD, OTHER = (Candidate(name, n, None, None) for n, name in enumerate(("parent", "child", "other")))
ERROR = FailureReason.TASK_APP_ERROR
SEEDS = range(6)

Score = Callable[[str, int, Tier], float | FailureReason]


def in_step(candidate_id: str, seed: int, tier: Tier) -> float:
    """hi = 0.2 + 0.6 * lo, and the child is better than the others."""
    lo = min(1.0, fraction("seed", seed) * 0.8 + (0.2 if candidate_id == "child" else 0.0))
    return lo if tier is Tier.LO else 0.2 + 0.6 * lo


def misjudging(candidate_id: str, seed: int, tier: Tier) -> float:
    """lo is in step on the parent and blind to what makes the child better."""
    score = in_step(candidate_id, seed, tier)
    return 0.2 * score if (tier, candidate_id) == (Tier.LO, "child") else score


def unrelated(candidate_id: str, seed: int, tier: Tier) -> float:
    return float(seed % 2 if tier is Tier.HI else seed // 2 % 2)


@dataclass
class TwoModels:
    score: Score = in_step
    costs: dict[Tier, float] = field(default_factory=lambda: {Tier.HI: 0.01, Tier.LO: 0.001})

    def observe(self, facts: Sequence[Fact]) -> None:
        pass

    def answer(self, ask: Ask) -> Told:
        if not isinstance(ask, Rollout):
            return Answer(ask.key), CompletionBody('{"score": 1, "reason": "fine"}', "stop")
        found = self.score(ask.candidate_id, ask.seed, ask.tier)
        reason = found if isinstance(found, FailureReason) else None
        answer = Answer(ask.key, None if reason else found, reason, 9, cost_usd=self.costs[ask.tier])
        return answer, RolloutBody((), f"{ask.key.hex()}", "")


Script = Callable[["Searching", Lane], Steps]


class Searching:
    """Scripts over the same evaluations, one lane each; what they return is kept."""

    search_version = 1

    def __init__(self, scripts: Sequence[Script], limits: dict[str, Any] | None, verifier: Verifier | None) -> None:
        self.scripts = scripts
        names = {"hi_provider": "openai", "hi_model": "big", "lo_provider": "groq", "lo_model": "small"}
        proxy = None if limits is None else Proxy(ProxyModelsConfig(**names, **limits))
        self.budget = Budget(1000, 0)
        self.evaluations = Evaluations("hi", self.budget, verifier=verifier, proxy=proxy, lo_policy="lo")
        self.found: list[Any] = []

    def search(self, lane: Lane) -> Steps:
        yield Fork([lambda lane, script=script: script(self, lane) for script in self.scripts])

    def closing(self, lane: Lane, cause: Cause | None) -> Steps:
        yield Step()
        return None

    def adopt(self, adopted: Adopted) -> None:
        self.evaluations.adopt(adopted)


def screening(*wanted: tuple[Candidate, Sequence[int]]) -> Script:
    def script(search: Searching, lane: Lane) -> Steps:
        for candidate, seeds in wanted:
            cost = search.evaluations.screening_cost(candidate.candidate_id, seeds)
            reservation = Reservation.of(search.budget, cost)
            assert reservation is not None
            found = yield from search.evaluations.screen(lane, candidate, seeds, Phase.OPTIMIZATION, reservation)
            reservation.release()
            search.found.append(found)

    return script


def scoring(candidate: Candidate, seeds: Sequence[int]) -> Script:
    def script(search: Searching, lane: Lane) -> Steps:
        reservation = Reservation.of(search.budget, search.evaluations.cost(candidate.candidate_id, seeds))
        trial = yield from search.evaluations.score(lane, candidate, seeds, Phase.OPTIMIZATION, reservation)
        search.found.append(trial)

    return script


def then(*scripts: Script) -> Script:
    """One after the other in the same lane."""

    def script(search: Searching, lane: Lane) -> Steps:
        for each in scripts:
            yield from each(search, lane)

    return script


def run(
    *scripts: Script,
    limits: dict[str, Any] | None,
    world: TwoModels | None = None,
    verifier: Verifier | None = None,
    arrival_seed: int = 0,
) -> Pure:
    make = lambda: Searching(scripts, limits, verifier)  # noqa: E731
    pure = Pure(make, world or TwoModels(), arrival_seed=arrival_seed)
    pure.run()
    pure.rebuild()
    return pure


def asked(pure: Pure) -> list[tuple[str, int, str]]:
    return sorted((ask.candidate_id, ask.seed, ask.tier.value) for ask in pure.rollouts)


def of(candidate: Candidate, seeds: Sequence[int], tier: str) -> list[tuple[str, int, str]]:
    return [(candidate.candidate_id, seed, tier) for seed in seeds]


# --- without a proxy -------------------------------------------------------------------------------------------------


def test_without_a_proxy_a_screening_is_a_trial() -> None:
    pure = run(screening((CHILD, [1, 2])), limits=None)
    [found], [trial] = pure.optimizer.found, pure.trials
    assert asked(pure) == of(CHILD, [1, 2], "hi")
    assert (found.seeds, found.scores, found.is_foretold) == (trial.seeds, trial.scores, False)
    assert pure.optimizer.budget.used == 2


def test_the_models_have_keys_of_their_own() -> None:
    hi, lo = (Rollout("c", 1, policy, Phase.TEST, tier=tier) for policy, tier in (("p", Tier.HI), ("q", Tier.LO)))
    assert hi.key != lo.key
    assert Rollout("c", 1, "p", Phase.TEST).key == hi.key


def test_a_config_says_which_models_answer_and_who_judges() -> None:
    plain = job()
    proxy = ProxyModelsConfig(hi_provider="groq", hi_model="big", lo_provider="groq", lo_model="small")
    judge = VerifierConfig(reward_source="fused", backend_provider="groq", backend_model="judge")
    both = plain.model_copy(update={"gepa": plain.gepa.model_copy(update={"proxy_models": proxy, "verifier": judge})})
    without, full = (Evaluations.of(config, Budget(1, 0)) for config in (plain, both))
    assert (without.policy, without.proxy) == (policy_digest(plain), None)
    assert full.policy == without.policy, "a stand-in or a judge asks no other rollouts of the policy's model"
    assert full.proxy is not None
    assert without.screening_cost("c", [1, 2]) == 2
    assert full.screening_cost("c", [1, 2]) == 4


# --- with one --------------------------------------------------------------------------------------------------------


def test_the_line_is_learned_on_both_models_and_then_the_cheap_one_alone_is_asked() -> None:
    pure = run(screening((PARENT, SEEDS), (CHILD, SEEDS)), limits={})
    both = sorted(of(PARENT, SEEDS, "hi") + of(PARENT, SEEDS, "lo"))
    assert asked(pure) == sorted(both + of(CHILD, SEEDS, "lo"))
    parent, child = pure.optimizer.found
    assert not parent.is_foretold
    assert child.foretold == frozenset(SEEDS)
    assert child.scores == pytest.approx([in_step("child", seed, Tier.HI) for seed in SEEDS])
    assert child.score > parent.score


def test_a_screening_that_is_foretold_is_no_trial_and_no_score_is_known_from_it() -> None:
    pure = run(screening((PARENT, SEEDS), (CHILD, SEEDS)), limits={})
    assert [trial.candidate_id for trial in pure.trials] == ["parent"]
    assert pure.optimizer.evaluations.scores("child", SEEDS) == {}
    assert pure.optimizer.evaluations.cost("child", SEEDS) == len(SEEDS)
    [event] = pure.events("proxy.screened")
    assert event.data["candidate_id"] == "child"
    assert event.data["foretold_seeds"] == list(SEEDS)


def test_what_is_accepted_is_measured_on_the_real_model() -> None:
    script = then(screening((PARENT, SEEDS), (CHILD, SEEDS)), scoring(CHILD, SEEDS))
    pure = run(script, limits={})
    trial = pure.trials[-1]
    assert (trial.candidate_id, trial.reused) == ("child", 0)
    assert trial.scores == tuple(in_step("child", seed, Tier.HI) for seed in SEEDS)
    assert set(of(CHILD, SEEDS, "hi")) <= set(asked(pure))
    assert pure.optimizer.evaluations.proxy.figures()["pairs"] == 2 * len(SEEDS)


def test_known_scores_of_the_real_model_go_before_foretold_ones() -> None:
    script = then(scoring(CHILD, [0, 1]), screening((PARENT, SEEDS), (CHILD, SEEDS)))
    pure = run(script, limits={})
    found: Screening = pure.optimizer.found[-1]
    assert found.foretold == frozenset([2, 3, 4, 5])
    assert of(CHILD, [2, 3, 4, 5], "lo") == [each for each in asked(pure) if each[0] == "child" and each[2] == "lo"]
    assert found.scores[:2] == tuple(in_step("child", seed, Tier.HI) for seed in (0, 1))


def test_the_stand_in_decides_who_is_better_only_where_it_is_trusted() -> None:
    """Turned on it saves rollouts of hi, and the choice is its own: where it errs unseen, the wrong candidate leads."""

    def lead(limits: dict[str, Any] | None, score: Score) -> tuple[float, int]:
        pure = run(screening((PARENT, SEEDS), (CHILD, SEEDS)), limits=limits, world=TwoModels(score))
        parent, child = pure.optimizer.found
        return child.score - parent.score, sum(ask.tier is Tier.HI for ask in pure.rollouts)

    real, rollouts = lead(None, in_step)
    assert (real > 0.05, rollouts) == (True, 12)
    assert lead({}, in_step) == (pytest.approx(real), 6)
    wrong, rollouts = lead({}, misjudging)
    assert (wrong < -0.05, rollouts) == (True, 6)
    for limits in ({"verify_every": 1}, {"n_min_hi": 12}):
        assert lead(limits, misjudging) == (real, 12)


def test_a_bad_fit_ends_it_for_good() -> None:
    pure = run(screening((PARENT, SEEDS), (CHILD, SEEDS), (OTHER, SEEDS)), limits={}, world=TwoModels(unrelated))
    assert pure.optimizer.evaluations.proxy.given_up is GivenUp.R2
    assert not any(found.is_foretold for found in pure.optimizer.found)
    assert asked(pure) == sorted(
        of(PARENT, SEEDS, "hi") + of(PARENT, SEEDS, "lo") + of(CHILD, SEEDS, "hi") + of(OTHER, SEEDS, "hi")
    )
    assert len(pure.events("proxy.stopped")) == 1


def test_every_so_many_screenings_are_checked_on_the_real_model() -> None:
    later = [Candidate(f"c{n}", n, None, None) for n in range(4)]
    script = screening((PARENT, SEEDS), *((candidate, SEEDS) for candidate in later))
    pure = run(script, limits={"verify_every": 2})
    assert [found.is_foretold for found in pure.optimizer.found] == [False, True, False, True, False]
    assert pure.optimizer.evaluations.proxy.figures()["pairs"] == 3 * len(SEEDS)


def test_a_known_candidate_needs_no_stand_in() -> None:
    script = then(screening((PARENT, SEEDS)), scoring(CHILD, SEEDS), screening((CHILD, SEEDS)))
    pure = run(script, limits={})
    assert not pure.optimizer.found[-1].is_foretold
    assert not [each for each in asked(pure) if each[0] == "child" and each[2] == "lo"]


# --- failures, money, lanes ------------------------------------------------------------------------------------------


def test_where_the_stand_in_has_no_score_the_real_model_is_asked() -> None:
    def score(candidate_id: str, seed: int, tier: Tier) -> float | FailureReason:
        return ERROR if tier is Tier.LO and candidate_id != "parent" else in_step(candidate_id, seed, tier)

    later = [Candidate(f"c{n}", n, None, None) for n in range(SILENT_IN_A_ROW + 1)]
    script = screening((PARENT, SEEDS), *((candidate, SEEDS) for candidate in later))
    pure = run(script, limits={}, world=TwoModels(score))
    assert not any(found.is_foretold for found in pure.optimizer.found)
    assert all(None not in found.scores for found in pure.optimizer.found)
    assert pure.optimizer.evaluations.proxy.given_up is GivenUp.SILENT
    assert not [each for each in asked(pure) if each[0] == later[-1].candidate_id and each[2] == "lo"]


def test_a_single_failure_of_the_stand_in_leaves_a_gap() -> None:
    def score(candidate_id: str, seed: int, tier: Tier) -> float | FailureReason:
        return ERROR if (candidate_id, seed, tier) == ("child", 3, Tier.LO) else in_step(candidate_id, seed, tier)

    pure = run(screening((PARENT, SEEDS), (CHILD, SEEDS)), limits={}, world=TwoModels(score))
    found = pure.optimizer.found[-1]
    assert [seed for seed, score in zip(found.seeds, found.scores, strict=True) if score is None] == [3]
    assert found.is_foretold


def test_every_rollout_is_paid_for_and_counted_whichever_model_answers() -> None:
    pure = run(screening((PARENT, SEEDS), (CHILD, SEEDS)), limits={})
    assert pure.optimizer.budget.used == len(pure.rollouts) == 3 * len(SEEDS)
    statistics = pure.optimizer.evaluations.stats.to_json()
    assert statistics["total_rollouts"] == 3 * len(SEEDS)
    assert statistics["rollouts_cost_usd"] == pytest.approx(6 * 0.01 + 12 * 0.001)
    assert pure.optimizer.evaluations.proxy.saving_usd == pytest.approx(6 * 0.01 - 12 * 0.001)


@pytest.mark.parametrize("arrival_seed", range(5))
def test_lanes_share_what_either_model_has_answered(arrival_seed: int) -> None:
    lane = screening((PARENT, SEEDS), (CHILD, SEEDS), (OTHER, SEEDS))
    pure = run(lane, lane, lane, limits={}, arrival_seed=arrival_seed)
    assert pure.repeated == []
    assert len(asked(pure)) == len(set(asked(pure)))
    assert pure.optimizer.budget.used == len(pure.rollouts)


def test_the_judge_is_heard_on_both_models() -> None:
    verifier = Verifier(MetaModel("fake", "judge"), weight_env=1.0, weight_event=0.0, weight_outcome=1.0)
    pure = run(screening((PARENT, SEEDS), (CHILD, SEEDS)), limits={}, verifier=verifier)
    parent, child = pure.optimizer.found
    assert parent.scores == tuple((in_step("parent", seed, Tier.HI) + 1) / 2 for seed in SEEDS)
    assert child.scores == pytest.approx([(in_step("child", seed, Tier.HI) + 1) / 2 for seed in SEEDS])
    assert len(pure.completions) == len(pure.rollouts)
