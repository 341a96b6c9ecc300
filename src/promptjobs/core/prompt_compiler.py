"""Compiles a candidate of the baseline: transforms of its stages' messages first, then worked examples among them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from promptjobs.core.demonstrations import MARK, Example, with_examples
from promptjobs.core.few_shot import FewShotExample
from promptjobs.core.instruction_transforms import (
    INSTRUCTING,
    AtomicInstructionTransform,
    PythonRunner,
    TransformMiss,
    apply_transforms,
)
from promptjobs.core.prompt import PLACEHOLDER, Message, PromptTemplate, Section, render
from promptjobs.errors import PromptError

DemoFormat = Literal["messages", "text"]
"""Examples as messages of their own, before the one they are examples of, or as text of the instruction."""


@dataclass(frozen=True, slots=True)
class StageChoice:
    """What is chosen for one stage. module: of the prompt, "" where it is not divided. Examples stand in this order."""

    module: str
    transforms: tuple[AtomicInstructionTransform, ...] = ()
    examples: tuple[FewShotExample, ...] = ()


@dataclass(frozen=True, slots=True)
class Compiled:
    """A candidate's prompt. tokens: of the texts of all messages, placeholders as they stand. messages: rendered."""

    template: PromptTemplate
    misses: tuple[TransformMiss, ...]
    tokens: int
    messages: tuple[Message, ...]


def compile_prompt(
    baseline: PromptTemplate,
    choices: Sequence[StageChoice],
    *,
    demo_format: DemoFormat,
    runner: PythonRunner | None = None,
    count_tokens: Callable[[str], int],
) -> Compiled:
    """The prompt of a configuration. A choice of nothing leaves its stage byte for byte as the baseline has it.

    Raises TransformApplicationError where a strict transform does not apply, PromptError where an example holds a
    placeholder, or a stage is no module of the prompt.
    """
    template, misses = baseline, list[TransformMiss]()
    for choice in choices:
        if choice.module not in baseline.modules:
            raise PromptError(f"the prompt has no module {choice.module!r}")
        applied = apply_transforms(template, choice.module, choice.transforms, runner=runner)
        template = applied.template
        misses += applied.misses
    for choice in choices:
        if choice.examples:
            _require_literal(template, choice.examples)
            show = _with_messages if demo_format == "messages" else _with_text
            template = show(template, choice.module, choice.examples)
    messages = render(template)
    return Compiled(template, tuple(misses), sum(count_tokens(m.content) for m in messages), messages)


def _require_literal(template: PromptTemplate, examples: Sequence[FewShotExample]) -> None:
    """What is in braces in an example would be filled in like the prompt's own placeholders."""
    for example in examples:
        for message in example.messages:
            if held := [name for name in PLACEHOLDER.findall(message.content) if name in template.wildcards]:
                raise PromptError(f"the example of seed {example.seed} holds the placeholder {{{held[0]}}}")


def _with_messages(template: PromptTemplate, module: str, examples: Sequence[FewShotExample]) -> PromptTemplate:
    """The examples right before the module's last user message; behind its last message where it has none."""
    own = [at for at, section in enumerate(template.sections) if section.module == module]
    asking = [at for at in own if template.sections[at].role == "user"]
    at = asking[-1] if asking else own[-1] + 1
    taken = {section.name for section in template.sections}
    shown: list[Section] = []
    for number, example in enumerate(examples, 1):
        for message in example.messages:
            name = _free_name(f"{module}/" if module else "", number, message.role, taken)
            shown.append(Section(name, message.role, message.content, 0, module, is_example=True))
    sections = (*template.sections[:at], *shown, *template.sections[at:])
    return replace(template, sections=tuple(replace(section, order=order) for order, section in enumerate(sections)))


def _free_name(prefix: str, number: int, role: str, taken: set[str]) -> str:
    """demo_1_user, or demo_1_user_2 where that is taken; the name is taken from then on."""
    name = first = f"{prefix}demo_{number}_{role}"
    again = 2
    while name in taken:
        name, again = f"{first}_{again}", again + 1
    taken.add(name)
    return name


def _with_text(template: PromptTemplate, module: str, examples: Sequence[FewShotExample]) -> PromptTemplate:
    """The examples at the end of the module's first system or developer message, else of its first one."""
    own = template.part(module).sections
    section = next((section for section in own if section.role in INSTRUCTING), own[0])
    shown = [Example(example.seed, example.input, example.output) for example in examples]
    # The heading that is added here is the last one: what stands behind one of the instruction's own is not cut off.
    return template.with_text({section.name: with_examples(f"{section.content}{MARK}", shown)})
