"""MIPRO jobs in worlds where scores follow from what a prompt says and shows, and what holds for every run."""

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

from promptjobs.core.asks import (
    DESCRIPTION,
    Answer,
    Ask,
    CallBody,
    CandidateFact,
    Completion,
    CompletionBody,
    Fact,
    FailureReason,
    Rollout,
    RolloutBody,
    Tier,
)
from promptjobs.core.config import MiproJobConfig, resolve
from promptjobs.core.mipro import Mipro
from promptjobs.core.mipro_limits import check_budget
from promptjobs.core.prompt import PromptTemplate, Section, render
from promptjobs.core.result import OptimizationResult
from promptjobs.core.trial import Phase
from promptjobs.errors import BudgetTooSmall
from tests.fakes.config_bodies import mipro_body
from tests.fakes.gepa_runs import check_event, check_trial, fraction
from tests.fakes.pure import Pure, Told, World

START = "Answer the question."
PROMPT = {
    "messages": [{"role": "system", "pattern": START}, {"role": "user", "pattern": "Query: {query}"}],
    "wildcards": {"query": "REQUIRED"},
}
OWN = PromptTemplate(
    (Section("system_0", "system", START, 0), Section("user_1", "user", "Query: {query}", 1)), {"query": True}
)
"""What the task app sends of itself."""

BOOTSTRAP, ONLINE = list(range(10)), list(range(20, 44))
VALIDATION, TEST, REFERENCE = list(range(100, 108)), list(range(200, 204)), list(range(300, 303))
SUMMARY = "These are questions, and each has one of three answers."
TASK = "Questions that have one of three answers."
LO = "the-stand-in"
CURRENT = re.compile(r"# Current text of the instructions\n\n(`{3,})\n(.*?)\n\1\n", re.DOTALL)
TOP_LEVEL = ("initial_prompt", "termination_config", "verifier", "proxy_models", "policy")


# --- what the world is asked -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Prompt:
    """A candidate as the world reads it: by module the instruction, and how many examples stand with it."""

    texts: Mapping[str, str]
    demos: Mapping[str, int]

    @property
    def text(self) -> str:
        return "\n".join(self.texts.values())

    @property
    def shown(self) -> int:
        return sum(self.demos.values())

    @property
    def good(self) -> int:
        return goodness(self.text)


@dataclass(frozen=True)
class Asked:
    """What a call of the meta-model is shown. times: how often this text was shown before."""

    text: str
    message: str
    times: int
    draw: int


Score = Callable[[Prompt, int], float | FailureReason]
Reply = Callable[[Asked], str | FailureReason]


def goodness(text: str) -> int:
    return sum(line.startswith("good") for line in set(text.split("\n")))


def fenced(text: str) -> str:
    return f"```\n{text}\n```"


def word(kind: str, asked: Asked) -> str:
    """A word of its own for each call: lines that share their words are taken for the same advice."""
    return f"{kind}{int(1e9 * fraction(asked.message, asked.draw))}"


def better(asked: Asked) -> str:
    """The text that was shown and one line that helps."""
    return fenced(f"{asked.text}\n{word('good', asked)}")


def junk(asked: Asked) -> str:
    """The text that was shown and one line that changes nothing."""
    return fenced(f"{asked.text}\n{word('nothing', asked)}")


def always(text: str) -> Reply:
    return lambda asked: fenced(text)


def quality(prompt: Prompt) -> float:
    """From 0.3 for the baseline to 0.9 for four good lines and four examples."""
    return 0.3 + 0.1 * min(4, prompt.good) + 0.05 * min(4, prompt.shown)


def threshold(prompt: Prompt, seed: int) -> float:
    """1 where the seed is easier than the prompt is good: a better prompt is at least as good on every seed."""
    return float(fraction("difficulty", seed) < quality(prompt))


def graded(prompt: Prompt, seed: int) -> float:
    """Around the quality, by seed: no seed is ever solved, so none is an example."""
    return quality(prompt) * (0.8 + 0.2 * fraction("kind", seed))


@dataclass
class MiproWorld:
    """Scores follow from what a prompt says and shows. reply: the whole reply of the meta-model to a proposal.

    failing: share of the rollouts that fail, each try for itself; the baseline's are answered. lo: what the stand-in
    scores. judge: its score of an output. is_known: whether rollouts tell the expected answer. question: of a
    seed. tokens: of a rollout.
    """

    score: Score = threshold
    reply: Reply = better
    failing: float = 0.0
    lo: Score | None = None
    judge: Callable[[str], float] = lambda output: 0.5
    is_known: bool = False
    question: Callable[[int], str] = lambda seed: f"question {seed}."
    tokens: Callable[[str], int] = lambda text: len(text) // 4 + 5
    cost_per_token: float | None = 1e-5
    templates: dict[str, PromptTemplate] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    times: Counter[str] = field(default_factory=Counter)
    baselines: set[str] = field(default_factory=set)

    def observe(self, facts: Sequence[Fact]) -> None:
        for fact in facts:
            if isinstance(fact, CandidateFact):
                candidate = fact.candidate
                self.templates[candidate.candidate_id] = candidate.prompt or OWN
                if candidate.is_baseline:
                    self.baselines.add(candidate.candidate_id)

    def prompt(self, candidate_id: str) -> Prompt:
        return read_prompt(self.templates[candidate_id])

    def answer(self, ask: Ask) -> Told:
        if isinstance(ask, Rollout):
            return self._rollout(ask)
        if ask.purpose == DESCRIPTION:
            return Answer(ask.key), CompletionBody(TASK, "stop")
        reply = self._said(ask)
        if isinstance(reply, FailureReason):
            return Answer(ask.key, reason=reply), CompletionBody("the model is away", "")
        shown = len(ask.messages[0].content) // 4
        return Answer(ask.key, prompt_tokens=shown, completion_tokens=20, cost_usd=0.002), CompletionBody(reply, "stop")

    def _said(self, ask: Completion) -> str | FailureReason:
        message = ask.messages[0].content
        if ask.purpose == "judge":
            return json.dumps({"score": self.judge(ask.messages[1].content), "reason": "so it is"})
        found = CURRENT.search(message)
        if found is None:
            assert message.startswith("You describe data.")
            return SUMMARY
        asked = Asked(found[2], message, self.times[found[2]], ask.draw)
        self.times[found[2]] += 1
        self.asked.append(asked)
        return self.reply(asked)

    def _rollout(self, ask: Rollout) -> Told:
        template = self.templates[ask.candidate_id]
        prompt = read_prompt(template)
        is_lo = ask.tier is Tier.LO and self.lo is not None
        found = (self.lo if is_lo and self.lo else self.score)(prompt, ask.seed)
        if ask.candidate_id not in self.baselines and fraction("fails", ask.key) < self.failing:
            found = FailureReason.TASK_APP_ERROR
        values = {"query": self.question(ask.seed), "plan": f"plan {ask.seed}."}
        calls = tuple(
            CallBody(render(template.part(module), values), f"{module or 'answer'} {ask.seed % 3}")
            for module in template.modules
        )
        if isinstance(found, FailureReason):
            return Answer(ask.key, reason=found), RolloutBody((), "", f"it broke on {ask.seed}")
        tokens = self.tokens("".join(message.content for call in calls for message in call.messages))
        price = None if self.cost_per_token is None else self.cost_per_token * (tokens + 2)
        told = Answer(ask.key, found, prompt_tokens=tokens, completion_tokens=2, cost_usd=price)
        expected = f"answer {ask.seed % 3}" if self.is_known else ""
        body = RolloutBody(
            calls[0].messages, calls[-1].reply, f"seed {ask.seed}.", expected, calls if calls[1:] else ()
        )
        return told, body


def read_prompt(template: PromptTemplate) -> Prompt:
    texts, demos = {}, {}
    for module in template.modules:
        sections = template.part(module).sections
        texts[module] = "\n".join(section.content for section in sections if section.role == "system")
        demos[module] = sum(s.role == "assistant" for s in sections) + texts[module].count("\nOutput: ")
    return Prompt(texts, demos)


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
