"""GEPA jobs in a world where prompts have a quality, and what holds for every run of them."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from hypothesis import strategies as st

from promptjobs.core.asks import (
    Answer,
    Ask,
    CandidateFact,
    Completion,
    CompletionBody,
    EventFact,
    Fact,
    FailureReason,
    RolloutBody,
)
from promptjobs.core.config import GepaJobConfig, resolve
from promptjobs.core.gepa import Gepa
from promptjobs.core.limits import check_budget
from promptjobs.core.prompt import Message
from promptjobs.core.result import OptimizationResult
from promptjobs.core.trial import Trial
from promptjobs.errors import BudgetTooSmall
from tests.fakes.config_bodies import body
from tests.fakes.pure import Pure, Told, World

QUALITY = re.compile(r"quality (\d\.\d{3})")

Score = Callable[[float, int, int], float | FailureReason]
"""(quality of the prompt, seed, draw) to what a rollout brings."""


def fraction(*parts: Any) -> float:
    """A number in [0, 1) that looks random and depends on nothing but `parts`."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=6).digest()) / 2**48


def text_of(quality: float, name: str = "") -> str:
    return f"Answer with care, quality {quality:.3f}. {name}".strip()


def quality_of(text: str) -> float:
    found = QUALITY.search(text)
    return float(found[1]) if found else 0.0


def fenced(text: str) -> str:
    return f"```\n{text}\n```"


def threshold(quality: float, seed: int, draw: int) -> float:
    """1 where the seed is easier than the prompt is good: a better prompt is at least as good on every seed."""
    return float(fraction("difficulty", seed) < quality)


def random_step(quality: float, completion: Completion) -> CompletionBody:
    """A new text, somewhat better or worse than the one that was shown."""
    step = 0.4 * fraction("step", completion.key) - 0.15
    return CompletionBody(fenced(text_of(min(1.0, max(0.0, quality + step)), completion.key.hex()[:6])), "stop")


@dataclass
class QualityWorld:
    """Scores follow from the number in the prompt's text, and so do the texts that reflection proposes.

    own_quality: of the messages that the task app sends where no prompt is given. worked: what each example that a
    prompt shows adds to its quality; where it is not 0, rollouts tell the expected answers.
    """

    score: Score = threshold
    reflect: Callable[[float, Completion], CompletionBody | FailureReason] = random_step
    own_quality: float = 0.2
    worked: float = 0.0
    quality: dict[str, float] = field(default_factory=dict)

    def observe(self, facts: Sequence[Fact]) -> None:
        for fact in facts:
            if isinstance(fact, CandidateFact):
                prompt = fact.candidate.prompt
                texts = (
                    " ".join(section.content for section in prompt.sections) if prompt else text_of(self.own_quality)
                )
                shown = texts.count("\nOutput: ")
                self.quality[fact.candidate.candidate_id] = min(1.0, quality_of(texts) + self.worked * shown)

    def answer(self, ask: Ask) -> Told:
        if isinstance(ask, Completion):
            body = self.reflect(quality_of(ask.messages[0].content), ask)
            if isinstance(body, FailureReason):
                return Answer(ask.key, reason=body), CompletionBody("the model is away", "")
            return Answer(ask.key, prompt_tokens=50, completion_tokens=20, cost_usd=0.002), body
        found = self.score(self.quality[ask.candidate_id], ask.seed, ask.draw)
        if isinstance(found, FailureReason):
            return Answer(ask.key, reason=found), RolloutBody((), "", f"it broke on {ask.seed}")
        messages = (Message("system", text_of(self.own_quality)), Message("user", f"input {ask.seed}"))
        expected = f"answer {ask.seed % 3}" if self.worked else ""
        body = RolloutBody(messages, "an output", f"feedback {ask.seed}", expected)
        return Answer(ask.key, found, prompt_tokens=9, completion_tokens=3, cost_usd=0.0001), body


# --- prompts that are made of rules ----------------------------------------------------------------------------------

RULES = 10
CURRENT = re.compile(r"# Current text\n\n(`{3,})\n(.*?)\n\1\n", re.DOTALL)

Rewrite = Callable[[str, Sequence[int], Completion], str]
"""(current text, numbers of the rules that the evidence asks for, the ask) to a proposed text."""


def rule(number: int) -> str:
    """A line that shares no word with any other rule's."""
    return f"- alpha{number} beta{number} gamma{number}"


def with_first_needed(text: str, needed: Sequence[int], completion: Completion) -> str:
    """The rule that the first flawed example asks for is added."""
    return f"{text}\n{rule(needed[0])}"


@dataclass
class RuleWorld:
    """A seed scores 1 where the prompt holds the rule seed % RULES, else 0.25; reflection adds what is asked for.

    noise: at most so much is taken off, by candidate and seed, so that no candidate is the best on every seed.
    """

    rewrite: Rewrite = with_first_needed
    noise: float = 0.0
    prompts: dict[str, str] = field(default_factory=dict)

    def observe(self, facts: Sequence[Fact]) -> None:
        for fact in facts:
            if isinstance(fact, CandidateFact):
                self.prompts[fact.candidate.candidate_id] = fact.candidate.template.sections[0].content

    def answer(self, ask: Ask) -> Told:
        if isinstance(ask, Completion):
            said = ask.messages[0].content
            found = CURRENT.search(said)
            assert found, said
            needed = [int(number) for number in re.findall(r"needs rule (\d+)", said)]
            body = CompletionBody(fenced(self.rewrite(found[2], needed, ask)), "stop")
            return Answer(ask.key, prompt_tokens=50, completion_tokens=20, cost_usd=0.002), body
        number, prompt = ask.seed % RULES, self.prompts[ask.candidate_id]
        messages = (Message("system", prompt), Message("user", f"Query: question {ask.seed}"))
        score = 1.0 if rule(number) in prompt.split("\n") else 0.25
        score -= self.noise * fraction("noise", ask.candidate_id, ask.seed)
        return Answer(ask.key, score, cost_usd=0.0001), RolloutBody(messages, "an output", f"needs rule {number}")


# --- jobs ------------------------------------------------------------------------------------------------------------

TRAIN, VALIDATION, TEST = list(range(20)), list(range(100, 106)), list(range(200, 204))
PROMPT = {
    "messages": [{"role": "system", "pattern": text_of(0.2)}, {"role": "user", "pattern": "Query: {query}"}],
    "wildcards": {"query": "REQUIRED"},
}
ERROR = FailureReason.TASK_APP_ERROR
MODES = ("race", "full")
RULE_PROMPT = {
    "messages": [{"role": "system", "pattern": "Answer."}, {"role": "user", "pattern": "Query: {query}"}],
    "wildcards": {"query": "REQUIRED"},
}


def job(**changes: Any) -> GepaJobConfig:
    """A front of 8 train seeds, 12 for feedback, validation and a test at the end; names like population__x."""
    paths = {
        "evaluation__train_seeds": TRAIN,
        "evaluation__validation_seeds": VALIDATION,
        "evaluation__test_pool": TEST,
        "archive__pareto_set_size": 8,
        "rollout__minibatch_size": 4,
        "rollout__budget": 300,
        "lanes": 1,
        "population__patience_generations": 100,
        **changes,
    }
    prompt = paths.pop("prompt", PROMPT)
    config = body(
        {f"gepa.{path.replace('__', '.')}": value for path, value in paths.items()} | {"initial_prompt": prompt}
    )
    return resolve("gepa", config, {}).config


def rule_job(**changes: Any) -> GepaJobConfig:
    """A job for a RuleWorld: a front of 20 seeds, 40 for feedback, no validation and no test."""
    settings = {
        "prompt": RULE_PROMPT,
        "evaluation__train_seeds": list(range(60)),
        "evaluation__validation_seeds": [],
        "evaluation__test_pool": [],
        "archive__pareto_set_size": 20,
        "archive__pareto_source": "train",
        "archive__feedback_fraction": 0.7,
        "rollout__budget": 600,
    }
    return job(**{**settings, **changes})


def least_budget(config: GepaJobConfig) -> int:
    try:
        check_budget(config.model_copy(update={"gepa": config.gepa.model_copy(update={"rollout_budget": 1})}))
    except BudgetTooSmall as error:
        return error.needed
    return 1


@st.composite
def jobs(draw: st.DrawFn, acceptance: str) -> GepaJobConfig:
    """Any job that is accepted, with anything from the least budget to some iterations more."""
    train = draw(st.integers(4, 24))
    config = job(
        evaluation__train_seeds=list(range(train)),
        evaluation__validation_seeds=list(range(100, 100 + draw(st.integers(1, 8)))),
        evaluation__test_pool=list(range(200, 200 + draw(st.integers(0, 3)))),
        evaluation__validation_top_k=draw(st.integers(1, 4)),
        archive__pareto_set_size=draw(st.integers(1, 24)),
        archive__pareto_eps=draw(st.sampled_from([0.0, 1e-6, 0.1])),
        rollout__minibatch_size=draw(st.integers(1, 8)),
        lanes=draw(st.integers(1, 8)),
        turn_order=draw(st.sampled_from(["arrival", "fixed"])),
        rng_seed=draw(st.integers(0, 5)),
        acceptance=acceptance,
        max_demonstrations=draw(st.sampled_from([0, 4, 30])),
        finals_share=draw(st.sampled_from([0.0, 0.15, 0.5])),
        population__initial_size=draw(st.sampled_from([1, 2, 5, 20])),
        population__crossover_rate=draw(st.sampled_from([0.0, 1.0])),
        population__children_per_generation=draw(st.integers(1, 5)),
        population__num_generations=draw(st.integers(1, 12)),
        population__patience_generations=draw(st.integers(1, 12)),
        prompt=draw(st.sampled_from([PROMPT, None])),
    )
    budget = least_budget(config) + draw(st.sampled_from([0, 1, 7, 30, 120]))
    return config.model_copy(update={"gepa": config.gepa.model_copy(update={"rollout_budget": budget})})


def noisy(failing: float = 0.0) -> Callable[[float, int, int], float | FailureReason]:
    """Scores around the prompt's quality; the baseline's first tries never fail."""

    def score(quality: float, seed: int, draw: int) -> float | FailureReason:
        if quality != 0.2 and fraction("fails", quality, seed, draw) < failing:
            return ERROR
        return min(1.0, max(0.0, quality + 0.4 * fraction("noise", quality, seed) - 0.2))

    return score


def pure(config: GepaJobConfig, world: World | None = None, arrival_seed: int = 0) -> Pure:
    gepa = config.gepa
    return Pure(lambda: Gepa(config), world or QualityWorld(), gepa.rng_seed, gepa.turn_order, arrival_seed)


def stepping(by: float) -> Callable[[float, Completion], CompletionBody]:
    """A meta-model whose every text is so much better, each of its own."""

    def reflect(quality: float, completion: Completion) -> CompletionBody:
        return CompletionBody(fenced(text_of(quality + by, completion.key.hex()[:8])), "stop")

    return reflect


def best_quality(result: OptimizationResult) -> float:
    assert result.best is not None
    return quality_of(result.best.template.sections[0].content)


# --- what holds for every run ----------------------------------------------------------------------------------------


def check_facts(run: Pure, config: GepaJobConfig) -> None:
    """What holds for every run: spending, trials, progress, events."""
    total = config.gepa.rollout_budget
    assert run.spent <= total
    assert run.repeated == []
    tries = Counter((ask.candidate_id, ask.seed, ask.draw) for ask in run.rollouts)
    assert set(tries.values()) <= {1}
    for trial in run.trials:
        check_trial(run, trial)
    assert [trial.n for trial in run.trials] == list(range(1, len(run.trials) + 1))
    assert len({candidate.n for candidate in run.candidates}) == len(run.candidates)
    for event in run.events():
        check_event(event)
    before: dict[str, Any] = {}
    for data in run.progress:
        check_progress(data, total, before)
        before = dict(data)
    assert before["rollouts_completed"] == run.spent
    assert before["test_rollouts_executed"] == len(run.rollouts) - run.spent
    assert before["mutation_calls"] == len(run.completions)


def check_trial(run: Pure, trial: Trial) -> None:
    """Each score is what the world answered, on the second try where the first failed; None where a try failed.

    The second try of a rollout may be another lane's, later, when the budget has room for it again.
    """
    told: dict[int, list[float | None]] = {seed: [] for seed in trial.seeds}
    for ask in sorted(run.rollouts, key=lambda ask: ask.draw):
        if ask.candidate_id == trial.candidate_id and ask.seed in told and ask.key in run.answers:
            told[ask.seed].append(run.answers[ask.key][0].score)
    for seed, score in zip(trial.seeds, trial.scores, strict=True):
        assert told[seed] in ([score], [None, score]) or (score is None and told[seed][0] is None)


def check_event(event: EventFact) -> None:
    assert event.type
    assert event.message
    assert event.level in ("info", "warning", "error")
    assert json.loads(json.dumps(event.data, allow_nan=False)) == orjson.loads(orjson.dumps(event.data))
    for key in ("best_score", "accuracy", "score", "baseline_score", "mean"):
        value = event.data.get(key)
        assert value is None or isinstance(value, float | dict)
        assert not isinstance(value, float) or 0 <= value <= 1


def check_progress(data: Any, total: int, before: dict[str, Any]) -> None:
    assert 0 <= data["rollouts_completed"] <= data["rollouts_total"] == total
    assert data["rollouts_remaining"] == total - data["rollouts_completed"]
    for key in ("percent_rollouts", "percent_overall", "best_score", "baseline_score"):
        assert data[key] is None or 0 <= data[key] <= 1
    grows = ("rollouts_completed", "trials_completed", "trials_tried", "generation", "total_tokens", "total_cost_usd")
    for key in grows:
        assert data[key] >= before.get(key, 0)
    assert (data["best_score"] or 0) >= (before.get("best_score") or 0)
    assert (data["best_candidate_id"] is None) == (data["best_score"] is None) == (data["front"] == [])
    parts = ("bootstrap", "optimization", "validation", "test")
    assert sum(data[f"{part}_rollouts_executed"] for part in parts) == data["total_rollouts"]
