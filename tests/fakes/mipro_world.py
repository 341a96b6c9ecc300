"""A world for MIPRO where scores follow from what a prompt says and shows, with the meta-model that improves it."""

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

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
from promptjobs.core.prompt import PromptTemplate, Section, render
from tests.fakes.gepa_runs import fraction
from tests.fakes.pure import Told

START = "Answer the question."
PROMPT = {
    "messages": [{"role": "system", "pattern": START}, {"role": "user", "pattern": "Query: {query}"}],
    "wildcards": {"query": "REQUIRED"},
}
OWN = PromptTemplate(
    (Section("system_0", "system", START, 0), Section("user_1", "user", "Query: {query}", 1)), {"query": True}
)
"""What the task app sends of itself."""

SUMMARY = "These are questions, and each has one of three answers."
TASK = "Questions that have one of three answers."
LO = "the-stand-in"
CURRENT = re.compile(r"# Current text of the instructions\n\n(`{3,})\n(.*?)\n\1\n", re.DOTALL)


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
