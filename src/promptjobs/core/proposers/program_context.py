"""What MIPRO's proposers are told: the program, the stage to improve, the evidence, and how much of each is shown."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, NamedTuple

from promptjobs.core.demonstrations import Example, own_text
from promptjobs.core.prompt import Message
from promptjobs.core.proposers.reflection import Record

ProposerMode = Literal["builtin", "dspy", "synth"]
EffortLevel = Literal["LOW_CONTEXT", "LOW", "MEDIUM", "HIGH"]
OutputSize = Literal["RAPID", "FAST", "SLOW"]
MatchMode = Literal["exact", "substring"]

TOKEN = 4
"""About so many characters are a token."""


@dataclass(frozen=True, slots=True)
class Effort:
    """What a level of `proposer_effort` comes to.

    temperature: of the meta-model, where the config gives none. Counts are upper limits: records are rollouts that went
    wrong, demos solved examples, history earlier instructions, reference inputs of the reference seeds. characters: of
    each part of an example, and of each description. remembered: characters of each earlier instruction.
    """

    temperature: float
    records: int
    demos: int
    history: int
    reference: int
    characters: int
    remembered: int


EFFORTS: dict[EffortLevel, Effort] = {
    "LOW_CONTEXT": Effort(0.7, records=4, demos=2, history=2, reference=0, characters=1_500, remembered=400),
    "LOW": Effort(1.0, records=12, demos=3, history=4, reference=3, characters=4_000, remembered=1_000),
    "MEDIUM": Effort(1.0, records=16, demos=5, history=6, reference=6, characters=6_000, remembered=2_000),
    "HIGH": Effort(1.0, records=24, demos=8, history=10, reference=12, characters=12_000, remembered=4_000),
}
"""A proposal from little evidence is drawn with less freedom: what it invents is not held to anything."""


@dataclass(frozen=True, slots=True)
class Output:
    """What a level of `proposer_output_tokens` comes to: most tokens of a reply, and most words that are asked for."""

    tokens: int
    words: int | None


OUTPUTS: dict[OutputSize, Output] = {
    "RAPID": Output(tokens=2_048, words=600),
    "FAST": Output(tokens=8_192, words=None),
    "SLOW": Output(tokens=32_768, words=None),
}
"""The tokens include a reasoning model's thoughts. A smaller limit of the config's meta section counts."""


class StageNote(NamedTuple):
    """A stage in the overview of its program; description: what it does, or how its messages begin."""

    stage_id: str
    module_id: str
    description: str = ""


@dataclass(frozen=True, slots=True)
class ProgramContext:
    """task: the task app's description, "" where it has none. edges: (from, to) by stage id.

    spec: rules that every text must follow. reference: inputs of the reference seeds.
    """

    task: str = ""
    stages: tuple[StageNote, ...] = ()
    edges: tuple[tuple[str, str], ...] = ()
    spec: str | None = None
    spec_max_tokens: int = 5_000
    reference: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StageContext:
    """text: the instruction in force, without its examples. placeholders: what it holds, each as often as it stands.

    wildcards: every placeholder of the prompt. messages: the stage's, as they stand now. description: what the stage
    does, "" where that is not known.
    """

    stage_id: str
    module_id: str
    text: str
    placeholders: tuple[str, ...] = ()
    wildcards: Collection[str] = ()
    messages: tuple[Message, ...] = ()
    description: str = ""

    @property
    def position(self) -> int | None:
        """Where among the messages the text stands; None where none of them is it."""
        own = (at for at, message in enumerate(self.messages) if own_text(message.content).strip() == self.text.strip())
        return next(own, None)


@dataclass(frozen=True, slots=True)
class Tried:
    """An earlier instruction of the stage, or an addition to it, with its mean score over so many trials."""

    text: str
    score: float
    trials: int = 1


@dataclass(frozen=True, slots=True)
class ProposalBrief:
    """What one call of the meta-model is to do, and with what evidence.

    count: most changes in one reply. records: rollouts that went wrong, worst first. demos: solved examples. history:
    best first. summary: of the data. guidance: the user's, added to the task. match_mode, case_sensitive, strict: of
    the localizers of the transforms. max_tokens: of a proposed text.
    """

    mode: ProposerMode = "synth"
    effort: EffortLevel = "LOW"
    output_tokens: OutputSize = "FAST"
    count: int = 10
    records: tuple[Record, ...] = ()
    demos: tuple[Example, ...] = ()
    history: tuple[Tried, ...] = ()
    tip: str | None = None
    summary: str = ""
    guidance: str | None = None
    allow_python: bool = False
    match_mode: MatchMode = "substring"
    case_sensitive: bool = True
    strict: bool = False
    max_tokens: int = 32_000
