"""The recorded searches: what each is for, and the deterministic answers they get."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from promptjobs.core.asks import (
    Answer,
    Ask,
    CallBody,
    Completion,
    CompletionBody,
    FailureReason,
    Key,
    Rollout,
    RolloutBody,
)
from promptjobs.core.config import JobConfig, resolve
from promptjobs.core.prompt import Message
from promptjobs.core.trial import Phase
from promptjobs.db.journal import AnswerRecord, body_text
from tests.fakes.config_bodies import body_of

SYSTEM = "You are a banking assistant. Answer with one label."
PROMPT = {
    "messages": [
        {"role": "system", "pattern": SYSTEM, "order": 0},
        {"role": "user", "pattern": "Query: {query}", "order": 1},
    ],
    "wildcards": {"query": "REQUIRED"},
}
SIZES: Mapping[str, Any] = {
    "gepa.rng_seed": 11,
    "gepa.rollout.minibatch_size": 3,
    "gepa.archive.pareto_set_size": 5,
    "gepa.evaluation.train_seeds": list(range(12)),
    "gepa.evaluation.validation_seeds": list(range(100, 104)),
    "gepa.evaluation.test_pool": list(range(200, 203)),
    "gepa.population.num_generations": 50,
    "gepa.population.patience_generations": 50,
}
MIPRO_SIZES: Mapping[str, Any] = {
    "mipro.rng_seed": 11,
    "mipro.seeds.bootstrap": list(range(6)),
    "mipro.seeds.online": list(range(20, 32)),
    "mipro.seeds.validation": list(range(100, 104)),
    "mipro.seeds.test": list(range(200, 203)),
    "mipro.num_iterations": 3,
    "mipro.num_evaluations_per_iteration": 3,
    "mipro.batch_size": 6,
    "mipro.full_eval_every": 3,
    "mipro.instructions_per_batch": 4,
}
STAGES = ("find", "answer")
PROGRAM = [
    {
        "stage_id": stage,
        "baseline_instruction": f"{SYSTEM} Step {stage}.",
        "baseline_messages": [
            {"role": "system", "content": f"{SYSTEM} Step {stage}."},
            {"role": "user", "content": f"To {stage}: {{query}}"},
        ],
    }
    for stage in STAGES
]


@dataclass(frozen=True, slots=True)
class Scenario:
    """One search. changes: to the request's body. order: seed for the order in which lanes are resumed.

    stop_at: number of the turn by which a deadline stops it. failing: share of rollouts and completions that fail.
    stages: of a program of several calls.
    """

    name: str
    changes: Mapping[str, Any]
    has_prompt: bool = True
    order: int = 1
    stop_at: int | None = None
    failing: float = 0.0
    budget: int = 90
    algorithm: str = "gepa"
    stages: Sequence[str] = ()

    def config(self) -> JobConfig:
        sizes = MIPRO_SIZES | {"mipro.rollout_budget": self.budget}
        if self.algorithm == "gepa":
            sizes = SIZES | {"gepa.rollout.budget": self.budget}
        prompt = {"initial_prompt": PROMPT} if self.has_prompt and not self.stages else {}
        program = {"mipro.modules": [{"module_id": "program", "stages": PROGRAM}]} if self.stages else {}
        changes = {**sizes, **prompt, **program, **self.changes}
        return resolve(self.algorithm, body_of(self.algorithm, changes), None).config

    def answer(self, ask: Ask) -> AnswerRecord:
        """A pure function of the ask: scores by hash, and replies in the form that proposals are asked for."""
        fails = _fraction(ask.key, "fails") < self.failing
        match ask:
            case Rollout():
                return _rollout(ask, fails and ask.phase is not Phase.BOOTSTRAP, self.stages)
            case Completion() if "# Current text" not in "".join(message.content for message in ask.messages):
                return _described(ask)
            case Completion():
                return _completion(ask, fails)


FULL = {"gepa.acceptance": "full"}
FOUR_LANES = {"gepa.lanes": 4, "gepa.lane_depth": 1}
TRAIN = {"gepa.archive.pareto_source": "train"}
VALIDATION = {"gepa.archive.pareto_source": "validation"}
LARGE = {
    **TRAIN,
    "gepa.evaluation.train_seeds": list(range(60)),
    "gepa.archive.pareto_set_size": 24,
    "gepa.population.crossover_rate": 1.0,
}
"""Room for several lanes of a race."""


def warm(rule: str, shown: int = 0) -> Mapping[str, Any]:
    """A prompt of another job, with so many worked examples."""
    pairs = [(("user", f"Query: other question {n}"), ("assistant", f"label {n}")) for n in range(shown)]
    examples = [{"role": role, "content": text, "is_example": True} for pair in pairs for role, text in pair]
    own = [{"role": "system", "content": f"{SYSTEM}\n* {rule}"}, {"role": "user", "content": "Query: {query}"}]
    return {"messages": [own[0], *examples, own[1]]}


ONE_TRIAL = {"mipro.max_parallel_trials": 1}
HIGH = {"mipro.parallel_risk": "HIGH"}
EXAMPLES = {"mipro.max_demo_slots": 2, "mipro.demo_format": "text", "mipro.generate_at_iterations": [1]}

SCENARIOS = (
    Scenario("one_lane_train", {**FULL, **TRAIN, "gepa.lanes": 1}),
    Scenario("four_lanes_train", {**FULL, **TRAIN, "gepa.lanes": 4}, order=2),
    Scenario("four_lanes_validation", {**FULL, **VALIDATION, "gepa.lanes": 4}, order=3),
    Scenario("race_one_lane_validation", {**VALIDATION, "gepa.lanes": 1, "gepa.rng_seed": 10}),
    Scenario("race_four_lanes_fixed", {**LARGE, **FOUR_LANES, "gepa.turn_order": "fixed"}, budget=450),
    Scenario("race_demonstrations", {**LARGE, "gepa.lanes": 1}, budget=250),
    Scenario(
        "race_merges",
        {**LARGE, **FOUR_LANES, "gepa.rng_seed": 28, "gepa.max_demonstrations": 0},
        order=7,
        budget=520,
    ),
    Scenario("probes", {**TRAIN, **FOUR_LANES}, has_prompt=False, order=4),
    Scenario(
        "race_warm_start",
        {**LARGE, **FOUR_LANES, "warm_start.prompts": [warm("be brief"), warm("be exact"), warm("be kind")]},
        order=8,
        budget=330,
    ),
    Scenario("deadline", {**LARGE, **FOUR_LANES}, order=5, stop_at=50, budget=600),
    Scenario("failures", {**TRAIN, **FOUR_LANES}, order=6, failing=0.08, budget=110),
    Scenario("mipro_one_lane_fixed", {**ONE_TRIAL, "mipro.turn_order": "fixed"}, algorithm="mipro", budget=120),
    Scenario("mipro_lanes", HIGH, algorithm="mipro", order=2, budget=140),
    Scenario("mipro_stages", HIGH, algorithm="mipro", order=3, budget=120, stages=STAGES),
    Scenario("mipro_examples", {**EXAMPLES, **HIGH}, algorithm="mipro", order=4, budget=120),
    Scenario("mipro_probes", {**HIGH, "mipro.proposer_mode": "dspy"}, algorithm="mipro", has_prompt=False, order=5),
    Scenario(
        "mipro_warm_start",
        {**HIGH, "warm_start.prompts": [warm("be brief", shown=2), warm("be exact")]},
        algorithm="mipro",
        order=8,
        budget=140,
    ),
    Scenario("mipro_deadline", HIGH, algorithm="mipro", order=6, budget=140, stop_at=20),
    Scenario("mipro_failures", {**HIGH, "mipro.rng_seed": 5}, algorithm="mipro", order=7, budget=120, failing=0.12),
)


def _fraction(key: Key, salt: str) -> float:
    return int.from_bytes(hashlib.blake2b(key + salt.encode(), digest_size=6).digest()) / 2**48


def _rollout(ask: Rollout, fails: bool, stages: Sequence[str]) -> AnswerRecord:
    if fails:
        failed = RolloutBody((), "", "the tool answered with status 500")
        return AnswerRecord(ask, Answer(ask.key, reason=FailureReason.TASK_APP_ERROR), body_text(failed))
    score = round(4 * _fraction(ask.key, "score")) / 4
    seen = (Message("system", SYSTEM), Message("user", f"Query: question {ask.seed}"))
    calls = tuple(_call(stage, ask.seed) for stage in stages)
    said = RolloutBody(seen, f"label {ask.seed % 7}", "the label is wrong", f"label {ask.seed % 5}", calls)
    return AnswerRecord(ask, Answer(ask.key, score, None, 30, 2, 0, 1e-5, 0.1), body_text(said))


def _call(stage: str, seed: int) -> CallBody:
    seen = (Message("system", f"{SYSTEM} Step {stage}."), Message("user", f"To {stage}: question {seed}"))
    return CallBody(seen, f"label {seed % 7}")


def _described(ask: Completion) -> AnswerRecord:
    """What the task app says of its task, and a summary of the data."""
    body = body_text(CompletionBody("Questions to a bank, each with one label.", "stop"))
    return AnswerRecord(ask, Answer(ask.key), body, finish_reason="stop")


def _completion(ask: Completion, fails: bool) -> AnswerRecord:
    if fails:
        failed = CompletionBody("the provider answered with status 500", "error")
        return AnswerRecord(
            ask, Answer(ask.key, reason=FailureReason.PROVIDER_ERROR), body_text(failed), finish_reason="error"
        )
    said, name = ask.messages[-1].content, ask.key.hex()
    ticks = max(re.findall(r"^`{3,}", said, re.MULTILINE), key=len, default="```")
    current = said.split(f"{ticks}\n")[1].rstrip("\n")
    # Rules that share no word with each other, so that those of two lanes can be merged.
    text = f"{current}\n* {name[:6]} {name[6:12]}"
    # One reply in twelve cannot be read, as it happens with real models.
    reply = text if _fraction(ask.key, "unfenced") < 1 / 12 else f"{ticks}\n{text}\n{ticks}"
    body = body_text(CompletionBody(reply, "stop"))
    return AnswerRecord(ask, Answer(ask.key, None, None, 400, 40, 0, 1e-4, 0.5), body, finish_reason="stop")
