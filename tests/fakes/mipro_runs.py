"""MIPRO jobs, their runs in a world of known answers, and what holds for every one of them."""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from promptjobs.core.asks import (
    Completion,
    Rollout,
    Tier,
)
from promptjobs.core.config import MiproJobConfig, resolve
from promptjobs.core.mipro import Mipro
from promptjobs.core.mipro_limits import check_budget
from promptjobs.core.result import OptimizationResult
from promptjobs.core.trial import Phase
from promptjobs.errors import BudgetTooSmall
from tests.fakes.config_bodies import mipro_body
from tests.fakes.gepa_runs import check_event, check_trial
from tests.fakes.mipro_world import LO, PROMPT, START, MiproWorld, Prompt
from tests.fakes.pure import Pure, World

BOOTSTRAP, ONLINE = list(range(10)), list(range(20, 44))
VALIDATION, TEST, REFERENCE = list(range(100, 108)), list(range(200, 204)), list(range(300, 303))
TOP_LEVEL = ("initial_prompt", "termination_config", "verifier", "proxy_models", "policy")


# --- jobs ------------------------------------------------------------------------------------------------------------


def mipro_job(**changes: Any) -> MiproJobConfig:
    """Ten bootstrap, 24 online, 8 validation and 4 test seeds; names like seeds__online, below `mipro`."""
    values = {
        "initial_prompt": PROMPT,
        "seeds__bootstrap": BOOTSTRAP,
        "seeds__online": ONLINE,
        "seeds__validation": VALIDATION,
        "seeds__test": TEST,
        "num_iterations": 4,
        "num_evaluations_per_iteration": 4,
        "batch_size": 8,
        "rollout_budget": 300,
        **changes,
    }
    paths = {name.replace("__", "."): value for name, value in values.items()}
    under = {path if path.startswith(TOP_LEVEL) else f"mipro.{path}": value for path, value in paths.items()}
    return resolve("mipro", mipro_body(under), None).config


STAGES = [
    {
        "stage_id": stage_id,
        "baseline_instruction": f"{START} Step {stage_id}.",
        "baseline_messages": [
            {"role": "system", "content": f"{START} Step {stage_id}."},
            {"role": "user", "content": f"{stage_id}: {{{name}}}"},
        ],
    }
    for stage_id, name in (("plan", "query"), ("solve", "plan"))
]


def two_stages(**changes: Any) -> MiproJobConfig:
    """A job for a program of two calls, `plan` and `solve`, which reads the plan."""
    modules = [{"module_id": "program", "stages": STAGES, "edges": [["plan", "solve"]]}]
    return mipro_job(**{"initial_prompt": None, "modules": modules, **changes})


def least_budget(config: MiproJobConfig) -> int:
    try:
        check_budget(config.model_copy(update={"mipro": config.mipro.model_copy(update={"rollout_budget": 1})}))
    except BudgetTooSmall as error:
        return error.needed
    return 1


@st.composite
def jobs(draw: st.DrawFn) -> MiproJobConfig:
    """Any job that is accepted, with anything from the least budget to some iterations more."""
    changes = {
        "seeds__bootstrap": list(range(draw(st.integers(1, 10)))),
        "seeds__online": list(range(20, 20 + draw(st.integers(1, 24)))),
        "seeds__validation": list(range(100, 100 + draw(st.sampled_from([0, 1, 8])))),
        "seeds__test": list(range(200, 200 + draw(st.integers(0, 2)))),
        "seeds__reference": list(range(300, 300 + draw(st.sampled_from([0, 3])))),
        "num_iterations": draw(st.integers(1, 6)),
        "num_evaluations_per_iteration": draw(st.integers(1, 6)),
        "batch_size": draw(st.integers(1, 12)),
        "full_eval_every": draw(st.integers(1, 5)),
        "validation_top_k": draw(st.integers(1, 4)),
        "parallel_risk": draw(st.sampled_from(["LOW", "MEDIUM", "HIGH"])),
        "turn_order": draw(st.sampled_from(["arrival", "fixed"])),
        "rng_seed": draw(st.integers(0, 5)),
        "max_demo_set_size": draw(st.sampled_from([0, 1, 4])),
        "demo_format": draw(st.sampled_from(["messages", "text"])),
        "instructions_per_batch": draw(st.sampled_from([1, 10])),
        "proposer_mode": draw(st.sampled_from(["synth", "dspy"])),
        "early_stopping": draw(st.booleans()),
    }
    if draw(st.booleans()):
        changes["proxy_models.lo_model"] = LO
    if draw(st.booleans()):
        changes |= JUDGE
    config = two_stages(**changes) if draw(st.booleans()) else mipro_job(**changes)
    budget = least_budget(config) + draw(st.sampled_from([0, 7, 40, 150]))
    return config.model_copy(update={"mipro": config.mipro.model_copy(update={"rollout_budget": budget})})


JUDGE = {"verifier": {"enabled": True, "reward_source": "verifier", "backend_model": "judge"}}


def pure(config: MiproJobConfig, world: World | None = None, arrival_seed: int = 0) -> Pure:
    mipro = config.mipro
    return Pure(lambda: Mipro(config), world or MiproWorld(), mipro.rng_seed, mipro.turn_order, arrival_seed)


@dataclass
class Ran:
    """One search that has ended."""

    config: MiproJobConfig
    world: MiproWorld
    pure: Pure
    result: OptimizationResult

    @property
    def best(self) -> Prompt:
        assert self.result.best is not None
        return self.world.prompt(self.result.best.candidate_id)

    @property
    def base(self) -> str:
        assert self.result.baseline is not None
        return self.result.baseline.candidate_id

    def asked(self, phase: Phase, tier: Tier = Tier.HI) -> list[Rollout]:
        return [ask for ask in self.pure.rollouts if ask.phase is phase and ask.tier is tier]

    @property
    def proposals(self) -> list[Completion]:
        return [ask for ask in self.pure.completions if ask.purpose == "proposal"]

    @property
    def trials(self) -> list[Mapping[str, Any]]:
        """What was told of each MIPRO trial at its end."""
        return [event.data for event in self.pure.events("mipro.trial.complete")]

    def seeds_of(self, candidate_id: str) -> set[int]:
        return {ask.seed for ask in self.pure.rollouts if ask.candidate_id == candidate_id}


def ran(config: MiproJobConfig, world: MiproWorld | None = None, arrival_seed: int = 0) -> Ran:
    world = world or MiproWorld()
    run = pure(config, world, arrival_seed)
    return Ran(config, world, run, run.run())


# --- what holds for every run ----------------------------------------------------------------------------------------


def check_run(run: Ran) -> None:
    """Spending, trials, progress and events of a run that has ended."""
    total, told = run.config.mipro.rollout_budget, run.pure
    assert told.spent <= total
    assert told.repeated == []
    tries = Counter((ask.candidate_id, ask.seed, ask.draw, ask.tier) for ask in told.rollouts)
    assert set(tries.values()) <= {1}
    assert [trial.n for trial in told.trials] == list(range(1, len(told.trials) + 1))
    if run.config.mipro.verifier is None and run.config.mipro.proxy_models is None:
        for trial in told.trials:
            check_trial(told, trial)
    numbers = {candidate.candidate_id: candidate.n for candidate in told.candidates}
    assert len(numbers) == len(told.candidates) == len(set(numbers.values()))
    for event in told.events():
        check_event(event)
    before: Mapping[str, Any] = {}
    for data in told.progress:
        check_progress(data, total, before)
        before = data
    assert before["rollouts_completed"] == told.spent
    assert before["test_rollouts_executed"] == len(told.rollouts) - told.spent
    assert before["mutation_calls"] == len(run.proposals)
    check_trials(run)
    check_held_out(run)


def check_progress(data: Mapping[str, Any], total: int, before: Mapping[str, Any]) -> None:
    assert 0 <= data["rollouts_completed"] <= data["rollouts_total"] == total
    assert total > 0
    assert data["rollouts_remaining"] == total - data["rollouts_completed"]
    for key in ("percent_rollouts", "percent_overall", "best_score", "baseline_score"):
        assert data[key] is None or 0 <= data[key] <= 1
    assert 0 <= data["transformations_tried"] <= data["transformations_planned"]
    assert 0 <= data["transformations_evaluated"] <= data["trials_tried"]
    for key in ("rollouts_completed", "trials_completed", "trials_tried", "iteration", "total_tokens"):
        assert data[key] >= before.get(key, 0)
    assert (data["best_candidate_id"] is None) == (data["best_score"] is None)


def check_trials(run: Ran) -> None:
    """No prompt is measured twice, each is what its choice means, and a failure is not a score."""
    search = run.pure.optimizer
    told = run.trials
    measured = [each["candidate_id"] for each in told]
    assert len(set(measured)) == len(measured)
    assert run.base not in measured
    for each in search.trials.history:
        compiled = search.space.compile(each["choice"])
        assert compiled.template.digest() == each["candidate_id"]
        assert compiled.template.sections == run.world.templates[each["candidate_id"]].sections
    for each in told:
        assert (each["minibatch_score"] is None) == (each["num_seeds"] == 0)


def check_held_out(run: Ran) -> None:
    """Test seeds are opened after all else, once, for the winner and the baseline alone."""
    mipro, best = run.config.mipro, run.result.best
    assert best is not None
    phases = [ask.phase for ask in run.pure.rollouts]
    assert Phase.TEST not in phases[: len(phases) - phases.count(Phase.TEST)]
    assert all((ask.seed in mipro.test_seeds) == (ask.phase is Phase.TEST) for ask in run.pure.rollouts)
    tested = {(ask.candidate_id, ask.seed) for ask in run.asked(Phase.TEST)}
    assert tested == {(name, seed) for name in {best.candidate_id, run.base} for seed in mipro.test_seeds}
    if mipro.validation_seeds:
        held = set(mipro.validation_seeds)
        assert all((ask.seed in held) == (ask.phase is Phase.VALIDATION) for ask in run.pure.rollouts)
    closed = {*mipro.validation_seeds, *mipro.test_seeds}
    for ask in run.proposals:
        shown = {int(seed) for seed in re.findall(r"(?:question|plan|seed) (\d+)\b", ask.messages[0].content)}
        assert not shown & closed
