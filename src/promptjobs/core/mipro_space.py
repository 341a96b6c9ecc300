"""What a MIPRO search chooses from: instructions and sets of examples, slot by slot, and the prompt of each choice."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from promptjobs.core.config_mipro import StageConfig
from promptjobs.core.few_shot import FewShotExample
from promptjobs.core.instruction_transforms import (
    AtomicInstructionTransform,
    InstructionTransformLocalizer,
    InstructionType,
    PythonRunner,
)
from promptjobs.core.line_merging import novel
from promptjobs.core.prompt import PromptTemplate
from promptjobs.core.prompt_compiler import Compiled, DemoFormat, StageChoice, compile_prompt
from promptjobs.core.proposers.transform_replies import fingerprint

Choice = Mapping[str, int]
"""A configuration: the option of each slot by the slot's name; 0, or a slot that is missing, leaves it as it is."""


@dataclass(frozen=True, slots=True)
class Instruction:
    """An entry of a stage's bank. instruction_id: its number there, from 1. text: as it is shown to a reader.

    is_whole: it stands for the whole instruction of the stage; else it changes or adds to whatever stands there.
    """

    instruction_id: int
    stage_id: str
    module_id: str
    transforms: tuple[AtomicInstructionTransform, ...]
    text: str
    iteration: int
    is_whole: bool

    def to_json(self) -> dict[str, Any]:
        return {
            "instruction_id": self.instruction_id,
            "stage_id": self.stage_id,
            "module_id": self.module_id,
            "text": self.text,
            "iteration": self.iteration,
            "transforms": [transform.to_json() for transform in self.transforms],
        }


@dataclass(slots=True)
class Stage:
    """One stage with its bank. module: of the core's template. section: whose text is the instruction, and
    localizer finds it among the stage's messages.

    slots: for each instruction slot the ids of its options, in their order. The first slot has the whole texts; further
    ones what can be added to any of them, each in one slot, so that no two choices differ in order alone. sets: of
    indices into `pool`.
    """

    config: StageConfig
    module: str
    section: str
    localizer: InstructionTransformLocalizer
    bank: list[Instruction] = field(default_factory=list)
    slots: list[list[int]] = field(default_factory=list)
    pool: list[FewShotExample] = field(default_factory=list)
    sets: list[tuple[int, ...]] = field(default_factory=list)
    _known: set[str] = field(default_factory=set)
    _claimed: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.slots = [[] for _ in range(self.config.max_instruction_slots)]

    def whole(self, text: str) -> AtomicInstructionTransform:
        """The instruction replaced as a whole, whatever stands there."""
        return AtomicInstructionTransform(InstructionType.REPLACE, self.localizer, text)

    def is_whole(self, transform: AtomicInstructionTransform) -> bool:
        return transform == self.whole(transform.instruction_text)

    @property
    def stage_id(self) -> str:
        return self.config.stage_id

    def instruction_slot(self, at: int) -> str:
        return f"{self.stage_id}.instruction_{at + 1}"

    def demo_slot(self, at: int) -> str:
        return f"{self.stage_id}.demos_{at + 1}"

    def add(
        self, transforms: Sequence[AtomicInstructionTransform], text: str, iteration: int, most: int
    ) -> Instruction | None:
        """A new entry of the bank; None where it is known, the bank is full, or there is no slot for it."""
        is_whole = all(map(self.is_whole, transforms))
        name = _name_of(transforms)
        if name in self._known or len(self.bank) >= most or not self.slots:
            return None
        self._known.add(name)
        made = Instruction(
            len(self.bank) + 1, self.stage_id, self.config.module_id, tuple(transforms), text, iteration, is_whole
        )
        self.bank.append(made)
        self._slot_for(made).append(made.instruction_id)
        return made

    def claim(self, transform: AtomicInstructionTransform) -> bool:
        """Keep a proposal for the bank; False where it is there, or on its way there, already."""
        name = _name_of([transform])
        if name in self._known or name in self._claimed:
            return False
        self._claimed.add(name)
        return True

    def find(self, text: str) -> Instruction | None:
        """The entry that is this whole text."""
        return next((made for made in self.bank if made.is_whole and made.text == text), None)

    def _slot_for(self, made: Instruction) -> list[int]:
        further = self.slots[1:]
        return self.slots[0] if made.is_whole or not further else min(further, key=len)

    def option(self, made: Instruction) -> tuple[str, int]:
        """The slot of an instruction, and its option there."""
        at = next(at for at, ids in enumerate(self.slots) if made.instruction_id in ids)
        return self.instruction_slot(at), self.slots[at].index(made.instruction_id) + 1

    def dimensions(self) -> dict[str, int]:
        found = {self.instruction_slot(at): len(ids) + 1 for at, ids in enumerate(self.slots) if ids}
        if self.sets:
            found |= {self.demo_slot(at): len(self.sets) + 1 for at in range(self.config.max_demo_slots)}
        return found

    def instructions(self, choice: Choice) -> list[Instruction]:
        chosen = [(ids, choice.get(self.instruction_slot(at), 0)) for at, ids in enumerate(self.slots)]
        return [self.bank[ids[option - 1] - 1] for ids, option in chosen if option]

    def examples(self, choice: Choice) -> tuple[int, ...]:
        """Indices into the pool, each once."""
        options = [choice.get(self.demo_slot(at), 0) for at in range(self.config.max_demo_slots)]
        return tuple(dict.fromkeys(index for option in options if option for index in self.sets[option - 1]))


class Space:
    """All stages of a program. baseline: the prompt that every choice is made from."""

    def __init__(
        self,
        baseline: PromptTemplate,
        stages: Sequence[StageConfig],
        *,
        demo_format: DemoFormat,
        count_tokens: Callable[[str], int],
        runner: PythonRunner | None = None,
    ) -> None:
        self.baseline = baseline
        self.demo_format = demo_format
        self.count_tokens = count_tokens
        self.runner = runner
        modules = baseline.modules
        self.stages = [stage_of(config, baseline, module) for config, module in zip(stages, modules, strict=True)]

    def dimensions(self) -> dict[str, int]:
        return {name: size for stage in self.stages for name, size in stage.dimensions().items()}

    def compile(self, choice: Choice) -> Compiled:
        """Raises TransformApplicationError where a strict transform does not apply."""
        choices = [
            StageChoice(
                stage.module,
                self._transforms(stage, choice),
                tuple(stage.pool[index] for index in stage.examples(choice)),
            )
            for stage in self.stages
        ]
        return compile_prompt(
            self.baseline, choices, demo_format=self.demo_format, runner=self.runner, count_tokens=self.count_tokens
        )

    def _transforms(self, stage: Stage, choice: Choice) -> tuple[AtomicInstructionTransform, ...]:
        """The transforms of the chosen instructions; lines that are said already are not added once more."""
        found: list[AtomicInstructionTransform] = []
        said = self.baseline.section(stage.section).content
        for instruction in stage.instructions(choice):
            if instruction.is_whole:
                said = instruction.text
            for transform in instruction.transforms:
                kept = transform
                if transform.instruction_type is InstructionType.FOLLOW:
                    kept = transform.with_text(novel(transform.instruction_text, "", said))
                    if not kept.instruction_text.strip():
                        continue
                    said = f"{said}\n{kept.instruction_text}"
                found.append(kept)
        return tuple(found)

    def too_long(self, compiled: Compiled, most: int | None, of_modules: Mapping[str, int]) -> str | None:
        """Which limit on tokens the prompt passes, in words; None where it keeps all."""
        if most is not None and compiled.tokens > most:
            return f"{compiled.tokens} tokens, at most {most}"
        for module, limit in of_modules.items():
            tokens = sum(self.count_tokens(section.content) for section in compiled.template.part(module).sections)
            if tokens > limit:
                return f"stage {module!r}: {tokens} tokens, at most {limit}"
        return None

    def payload(self, choice: Choice) -> dict[str, dict[str, Any]]:
        """What a choice means, stage by stage, as JSON."""
        return {
            stage.stage_id: {
                "module_id": stage.config.module_id,
                "instruction_ids": [made.instruction_id for made in stage.instructions(choice)],
                "instruction_lines": [made.text for made in stage.instructions(choice)],
                "instruction_text": "\n".join(made.text for made in stage.instructions(choice)),
                "demo_indices": list(stage.examples(choice)),
            }
            for stage in self.stages
        }


def _name_of(transforms: Sequence[AtomicInstructionTransform]) -> str:
    return "|".join(fingerprint(transform) for transform in transforms)


def stage_of(config: StageConfig, baseline: PromptTemplate, module: str) -> Stage:
    """Its instruction is the message that holds the text which the config names, else the first system or developer
    message, else the first.
    """
    sections = baseline.part(module).sections
    named = config.baseline_instruction
    holding = [section for section in sections if named and named in section.content]
    system = [section for section in sections if section.role in ("system", "developer")]
    own = next(iter((*holding, *system, *sections)))
    position = [section.name for section in sections if section.role == own.role].index(own.name)
    return Stage(config, module, own.name, InstructionTransformLocalizer(role=own.role, position=position))
