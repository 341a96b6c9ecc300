"""What an optimizer says to the runner: asks, facts, steps, forks, recalls; and the answers it is sent."""

import hashlib
import json
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from promptjobs.core.prompt import Message
from promptjobs.core.trial import Phase, Trial

if TYPE_CHECKING:
    from promptjobs.core.archive import Candidate
    from promptjobs.core.lanes import Lane

Key = bytes


def digest(*parts: Any) -> bytes:
    """16 bytes of BLAKE2b over the JSON form of `parts`."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


# --- asks: what the optimizer wants to know from the world ---------------------------------------------------------


class Tier(StrEnum):
    """Which of a job's models answers a rollout: HI is the one under optimization, LO a cheaper stand-in."""

    HI = "hi"
    LO = "lo"


@dataclass(frozen=True, slots=True)
class Rollout:
    """One run of the task app on `seed` with the candidate's prompt in place.

    policy: hash of everything else that determines the answer (model, its parameters, the environment). draw numbers
    deliberate repetitions. phase, is_baseline and tier only label the answer: they are no part of the key, and the
    tiers differ in their policy.
    """

    candidate_id: str
    seed: int
    policy: str
    phase: Phase
    is_baseline: bool = False
    draw: int = 0
    tier: Tier = Tier.HI
    key: Key = field(init=False, compare=False)

    def __post_init__(self) -> None:
        what = f"rollout|{self.candidate_id}|{self.seed}|{self.policy}|{self.draw}"
        object.__setattr__(self, "key", hashlib.blake2b(what.encode(), digest_size=16).digest())


@dataclass(frozen=True, slots=True)
class MetaModel:
    """A model that works for the optimizer (reflection, judging), with its parameters."""

    provider: str
    model: str
    temperature: float = 1.0
    max_tokens: int = 8192


@dataclass(frozen=True, slots=True)
class Completion:
    """One completion by a meta-model. `purpose` labels it (reflection, judge …); `draw` asks for another one.

    timeout_seconds: for one attempt, None for the service's own. It is no part of the key.
    """

    purpose: str
    model: MetaModel
    messages: tuple[Message, ...]
    draw: int = 0
    timeout_seconds: float | None = None
    key: Key = field(init=False, compare=False)

    def __post_init__(self) -> None:
        m = self.model
        key = digest(
            "completion",
            [m.provider, m.model, m.temperature, m.max_tokens],
            [[x.role, x.content] for x in self.messages],
            self.draw,
        )
        object.__setattr__(self, "key", key)


DESCRIPTION = "task_info"
"""The purpose of the completion that the task app answers itself: with its own description, and no model."""


def description_ask() -> Completion:
    """Asks what the task app says about its task. The text is "" where it says nothing; no token is used."""
    return Completion(DESCRIPTION, MetaModel("task_app", DESCRIPTION, 0.0, 1), ())


Ask = Rollout | Completion


# --- answers -------------------------------------------------------------------------------------------------------


class FailureReason(StrEnum):
    """Why an ask has no result. A failure is an answer of its own, never a score of 0."""

    TASK_APP_ERROR = "task_app_error"
    TASK_APP_TIMEOUT = "task_app_timeout"
    TASK_APP_UNREACHABLE = "task_app_unreachable"
    INVALID_SCORE = "invalid_score"
    INVALID_REPLY = "invalid_reply"
    CANDIDATE_NOT_USED = "candidate_not_used"
    PROMPT_NOT_MATCHED = "prompt_not_matched"
    TOOL_NOT_ALLOWED = "tool_not_allowed"
    PROVIDER_ERROR = "provider_error"
    PROVIDER_TIMEOUT = "provider_timeout"
    JUDGE_FAILED = "judge_failed"


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back for the ask with this key, without its bodies.

    score: in [0, 1] for a rollout that succeeded, else None. reason: None where the ask succeeded. Tokens are those
    of every metered call of the ask; unknown_tokens were reported without a split. cost_usd: None where a price is
    unknown. seconds: of its LLM calls by the interceptor's clock; of the whole ask where none was metered.
    """

    key: Key
    score: float | None = None
    reason: FailureReason | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    unknown_tokens: int = 0
    cost_usd: float | None = None
    seconds: float = 0.0

    @property
    def is_failure(self) -> bool:
        return self.reason is not None


@dataclass(frozen=True, slots=True)
class CallBody:
    """One call of a rollout's LLM: what it was sent, and its reply's text."""

    messages: tuple[Message, ...]
    reply: str


@dataclass(frozen=True, slots=True)
class RolloutBody:
    """What a rollout said: the messages its LLM saw, its output, the task app's feedback or the failure's detail.

    calls: the answered calls one by one, where there were several and a judge is to see them, or the prompts of
    several modules are optimized.
    """

    messages: tuple[Message, ...]
    output: str
    feedback: str
    expected: str = ""
    calls: tuple[CallBody, ...] = ()


@dataclass(frozen=True, slots=True)
class CompletionBody:
    """What a meta-model said. finish_reason is the provider's ("stop", "length", …)."""

    text: str
    finish_reason: str


Body = RolloutBody | CompletionBody


# --- facts: what the optimizer has decided ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class EventFact:
    """An event of the job's stream. `data` is JSON."""

    type: str
    message: str
    data: Mapping[str, Any]
    level: str = "info"


@dataclass(frozen=True, slots=True)
class CandidateFact:
    candidate: "Candidate"


@dataclass(frozen=True, slots=True)
class TrialFact:
    trial: Trial


@dataclass(frozen=True, slots=True)
class ProgressFact:
    """The newest state of the search in numbers; it replaces the previous one on the job."""

    data: Mapping[str, Any]


Fact = EventFact | CandidateFact | TrialFact | ProgressFact


# --- what a generator yields -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Step:
    """Asks to be answered, all of them, before the generator goes on; facts to be recorded with it."""

    asks: Sequence[Ask] = ()
    facts: Sequence[Fact] = ()


@dataclass(frozen=True, slots=True)
class Recall:
    """Asks for the recorded bodies of answers; free, and no turn of its own. It is sent a list in the same order."""

    keys: Sequence[Key]


@dataclass(frozen=True, slots=True)
class Fork:
    """Opens a lane for each maker and parks this generator until all of them have ended; it is sent their results."""

    makers: Sequence[Callable[["Lane"], "Steps"]]


Steps = Generator[Step | Recall | Fork, Any, Any]
