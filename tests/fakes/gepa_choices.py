"""Small GEPA jobs in worlds where scores, prices and proposals follow from the lines of a prompt."""

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from promptjobs.core.asks import (
    Answer,
    Ask,
    CallBody,
    CandidateFact,
    Completion,
    CompletionBody,
    Fact,
    FailureReason,
    Key,
    Rollout,
    RolloutBody,
    Tier,
)
from promptjobs.core.config import GepaJobConfig, resolve
from promptjobs.core.gepa import Gepa
from promptjobs.core.prompt import Message
from promptjobs.core.result import OptimizationResult
from tests.fakes.config_bodies import body
from tests.fakes.gepa_runs import fraction
from tests.fakes.pure import Pure, Told

START = "Answer the question."
PROMPT = {
    "messages": [{"role": "system", "pattern": START}, {"role": "user", "pattern": "Query: {query}"}],
    "wildcards": {"query": "REQUIRED"},
}
FIRST, SECOND = "First part.", "Second part."
TWO_PARTS = {
    "messages": [
        {"role": "system", "pattern": FIRST},
        {"role": "system", "pattern": SECOND},
        {"role": "user", "pattern": "Query: {query}"},
    ],
    "wildcards": {"query": "REQUIRED"},
}
TRAIN, VALIDATION, TEST = list(range(20)), list(range(100, 110)), list(range(200, 204))
LO = "the-stand-in"
TOP_LEVEL = ("termination_config", "policy", "initial_prompt")
CURRENT = re.compile(r"# Current text\n\n(`{3,})\n(.*?)\n\1\n", re.DOTALL)


@dataclass(frozen=True)
class Usage:
    tokens: int = 12
    cost_usd: float | None = 0.0001
    seconds: float = 1.0


@dataclass(frozen=True)
class Shown:
    """What a reflection is shown. times: how often this text was shown before."""

    text: str
    message: str
    times: int


def lines(text: str) -> set[str]:
    return set(text.split("\n"))


def word(kind: str, shown: Shown) -> str:
    """A word of its own for what was shown: lines that share their words are taken for the same advice."""
    return f"{kind}{int(1e9 * fraction(shown.message, shown.times))}"


def junk(shown: Shown) -> str:
    """A new line that changes no score."""
    return f"{shown.text}\n{word('nothing', shown)}"


def good(shown: Shown) -> str:
    """A new line that `goodness` counts."""
    return f"{shown.text}\n{word('good', shown)}"


def goodness(text: str) -> int:
    return sum(line.startswith("good") for line in lines(text))


@dataclass
class LinesWorld:
    """score: of a prompt's own messages, as one text, on a seed. reflect: the new text of a section.

    lo: what the stand-in scores. judge: its score of an output, which is the prompt's text. usage: of a rollout.
    is_known: whether the task app tells the right answer. calls: of a rollout's model, where a judge sees them.
    """

    score: Callable[[str, int], float | FailureReason]
    reflect: Callable[[Shown], str] = junk
    lo: Callable[[str, int], float] | None = None
    judge: Callable[[str], float] = lambda output: 0.5
    usage: Callable[[str], Usage] = lambda text: Usage()
    is_known: bool = False
    calls: tuple[CallBody, ...] = ()
    texts: dict[str, str] = field(default_factory=dict)
    shown: Counter[str] = field(default_factory=Counter)
    reflected: list[Shown] = field(default_factory=list)

    def observe(self, facts: Sequence[Fact]) -> None:
        for fact in facts:
            if isinstance(fact, CandidateFact):
                prompt = fact.candidate.prompt
                own = [s.content for s in prompt.sections if s.role == "system"] if prompt else [START]
                self.texts[fact.candidate.candidate_id] = "\n".join(own)

    def answer(self, ask: Ask) -> Told:
        if isinstance(ask, Rollout):
            return self._rollout(ask)
        reply = self._judgement(ask) if ask.purpose == "judge" else self._reflection(ask)
        return Answer(ask.key, prompt_tokens=50, completion_tokens=20, cost_usd=0.002), CompletionBody(reply, "stop")

    def _rollout(self, ask: Rollout) -> Told:
        text = self.texts[ask.candidate_id]
        score = self.lo if ask.tier is Tier.LO and self.lo is not None else self.score
        usage, found = self.usage(text), score(text, ask.seed)
        told = Answer(
            ask.key,
            None if isinstance(found, FailureReason) else found,
            found if isinstance(found, FailureReason) else None,
            prompt_tokens=usage.tokens,
            cost_usd=usage.cost_usd,
            seconds=usage.seconds,
        )
        messages = (Message("system", text), Message("user", f"Query: question {ask.seed}"))
        expected = f"answer {ask.seed % 3}" if self.is_known else ""
        return told, RolloutBody(messages, text, f"feedback {ask.seed}", expected, self.calls)

    def _reflection(self, ask: Completion) -> str:
        message = ask.messages[0].content
        found = CURRENT.search(message)
        assert found is not None
        shown = Shown(found[2], message, self.shown[found[2]])
        self.shown[found[2]] += 1
        self.reflected.append(shown)
        return f"````\n{self.reflect(shown)}\n````"

    def _judgement(self, ask: Completion) -> str:
        return json.dumps({"score": self.judge(json.loads(ask.messages[1].content)["output"]), "reason": "so it is"})


# --- worlds ----------------------------------------------------------------------------------------------------------


def adding(*learned: str) -> Callable[[Shown], str]:
    """Adds one of these lines that are missing, each once to a text, then lines that change nothing."""

    def reflect(shown: Shown) -> str:
        missing = [line for line in learned if line not in lines(shown.text)][shown.times :]
        return f"{shown.text}\n{missing[0]}" if missing else junk(shown)

    return reflect


def part(seed: int, parts: int = 2) -> int:
    """To which of so many kinds a question belongs."""
    return int(parts * fraction("part", seed))


def dead_end() -> LinesWorld:
    """The first step is the largest, and none leads on from there; a second one from the baseline leads to the goal."""

    def score(text: str, seed: int) -> float:
        if "the way" in lines(text):
            return 0.9
        return 0.8 * float((part(seed, 10) < 7) == ("dead end" in lines(text)))

    def reflect(shown: Shown) -> str:
        if lines(shown.text) & {"dead end", "the way"} or shown.times > 1:
            return junk(shown)
        return shown.text + ("\nthe way" if shown.times else "\ndead end")

    return LinesWorld(score, reflect)


def priced() -> LinesWorld:
    """The first step scores more and is dear; the second one says the same at half the price."""

    def score(text: str, seed: int) -> float:
        return 0.75 if "careful" in lines(text) else 0.25

    def usage(text: str) -> Usage:
        factor = 1 if "careful" not in lines(text) else 2 if "briefly" in lines(text) else 4
        return Usage(12 * factor, 0.0001 * factor, float(factor))

    return LinesWorld(score, adding("careful", "briefly"), usage=usage)


def complementary() -> LinesWorld:
    """Each section helps with questions of its own kind; whoever has one of them learns nothing more by reflection.

    Both replace the text, so that a proposal cannot be laid over another prompt.
    """

    def score(text: str, seed: int) -> float:
        found = lines(text)
        return 0.9 if ("one" in found if part(seed) else "other" in found) else 0.1

    def reflect(shown: Shown) -> str:
        if "one" in shown.message or "other" in shown.message:
            return junk(shown)
        return f"{shown.text}\none" if FIRST in shown.text else f"{shown.text}\nother"

    return LinesWorld(score, reflect)


def easy_to_foretell(text: str, seed: int) -> float:
    return 0.2 + 0.05 * min(12, goodness(text)) + 0.2 * fraction("kind", seed)


def going_on(shown: Shown) -> str:
    """Of three proposals from a text, two change nothing."""
    return good(shown) if shown.times % 3 == 2 else junk(shown)


# --- jobs ------------------------------------------------------------------------------------------------------------


def small_job(**changes: Any) -> GepaJobConfig:
    """8 train seeds for the front, 12 for feedback, one lane, few drafts; names like population__x, below `gepa`."""
    values = {
        "initial_prompt": PROMPT,
        "evaluation__train_seeds": TRAIN,
        "evaluation__validation_seeds": VALIDATION,
        "evaluation__test_pool": TEST,
        "archive__pareto_set_size": 8,
        "rollout__minibatch_size": 4,
        "rollout__budget": 300,
        "lanes": 1,
        "max_demonstrations": 0,
        "population__initial_size": 2,
        "population__patience_generations": 100,
        **changes,
    }
    paths = {name.replace("__", "."): value for name, value in values.items()}
    under = {path if path.startswith(TOP_LEVEL) else f"gepa.{path}": value for path, value in paths.items()}
    return resolve("gepa", body(under), None).config


@dataclass
class Ran:
    """One search that has ended."""

    config: GepaJobConfig
    world: LinesWorld
    pure: Pure
    result: OptimizationResult

    @property
    def best(self) -> str:
        assert self.result.best is not None
        return self.text(self.result.best.candidate_id)

    def text(self, candidate_id: str) -> str:
        return self.world.texts[candidate_id]

    @property
    def archived(self) -> set[str]:
        return {self.text(member.candidate.candidate_id) for member in self.result.archive}

    @property
    def front(self) -> set[str]:
        return {self.text(m.candidate.candidate_id) for m in self.result.archive if m.is_pareto}

    @property
    def parents(self) -> list[str]:
        """The texts that reflections were shown, in order."""
        return [shown.text for shown in self.world.reflected]

    def operators(self, name: str) -> int:
        return sum(candidate.operator == name for candidate in self.pure.candidates)

    def asked(self, tier: Tier) -> list[Rollout]:
        return [ask for ask in self.pure.rollouts if ask.tier is tier]

    @property
    def keys(self) -> list[Key]:
        return [ask.key for ask in self.pure.calls]


def ran(config: GepaJobConfig, world: LinesWorld) -> Ran:
    pure = Pure(lambda: Gepa(config), world, config.gepa.rng_seed, config.gepa.turn_order)
    return Ran(config, world, pure, pure.run())
