"""Prompts of another job as prompts of this one: whether they fit its baseline, and the forms that searches use."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from promptjobs.core.config_warm_start import WarmSection, WarmTemplate
from promptjobs.core.demonstrations import MARK, Example, own_text, with_examples
from promptjobs.core.instruction_transforms import INSTRUCTING
from promptjobs.core.prompt import PLACEHOLDER, Message, PromptTemplate, Section
from promptjobs.errors import PromptError

Shown = tuple[Message, ...]
"""A worked example as messages; the last one is the answer."""

ELSEWHERE = -1
"""The seed of an example that comes from another job: it is none of this one's."""

INPUT, OUTPUT, BETWEEN = "Input: ", "\nOutput: ", "\n\nInput: "


@dataclass(frozen=True, slots=True)
class Fitted:
    """A prompt in the form of the baseline: its sections with other texts.

    examples: those that were messages of their own, by module; those that are text of a section are still there.
    """

    template: PromptTemplate
    examples: dict[str, tuple[Shown, ...]] = field(default_factory=dict)


def fitted(baseline: PromptTemplate, prompt: WarmTemplate) -> Fitted:
    """Raises PromptError, which says why, where the prompt is none that the baseline's task app could be given.

    It needs the baseline's modules, in their order, in each of them as many messages of the same roles, and in each of
    those the same placeholders.
    """
    modules = _modules(baseline, prompt)
    texts: dict[str, str] = {}
    examples: dict[str, tuple[Shown, ...]] = {}
    for module, theirs in modules.items():
        part = baseline.part(module).sections
        own = [section for section in theirs if not section.is_example]
        roles = [section.role for section in own]
        if roles != [section.role for section in part]:
            wanted = ", ".join(section.role for section in part)
            raise PromptError(f"its messages are {', '.join(roles)}, and those of the baseline {wanted}{_of(module)}")
        for section, other in zip(part, own, strict=True):
            _check_placeholders(baseline, section, other.content, prompt)
            texts[section.name] = other.content
        examples[module] = _examples([section for section in theirs if section.is_example], baseline)
    return Fitted(baseline.with_text(texts), {module: shown for module, shown in examples.items() if shown})


def _modules(baseline: PromptTemplate, prompt: WarmTemplate) -> dict[str, list[WarmSection]]:
    """The prompt's sections by the baseline's modules; where both have one, its name does not matter."""
    found: dict[str, list[WarmSection]] = {}
    for section in prompt.sections:
        found.setdefault(section.module, []).append(section)
    if len(found) == len(baseline.modules) == 1:
        return {baseline.modules[0]: next(iter(found.values()))}
    if set(found) != set(baseline.modules):
        names = ["one prompt without modules" if m == ("",) else ", ".join(m) for m in (tuple(found), baseline.modules)]
        raise PromptError(f"it is of {names[0]}, and the baseline of {names[1]}")
    return {module: found[module] for module in baseline.modules}


def _check_placeholders(baseline: PromptTemplate, section: Section, content: str, prompt: WarmTemplate) -> None:
    wanted = sorted(baseline.placeholders(section.name))
    for wildcards in (baseline.wildcards, prompt.wildcards):
        if wildcards is None:
            continue
        held = sorted(name for name in PLACEHOLDER.findall(content) if name in wildcards)
        if held != wanted:
            names = [", ".join(f"{{{name}}}" for name in some) or "none" for some in (held, wanted)]
            raise PromptError(f"{section.name} has the placeholders {names[0]}, and in the baseline {names[1]}")


def _examples(sections: Sequence[WarmSection], baseline: PromptTemplate) -> tuple[Shown, ...]:
    """Messages up to each answer."""
    found: list[Shown] = []
    current: list[Message] = []
    for section in sections:
        if any(name in baseline.wildcards for name in PLACEHOLDER.findall(section.content)):
            raise PromptError("a worked example holds a placeholder, which would be filled in")
        current.append(Message(section.role, section.content))
        if section.role == "assistant":
            found.append(tuple(current))
            current = []
    if current or any(len(shown) < 2 for shown in found):
        raise PromptError("its worked examples are not messages with an answer of the assistant each")
    return tuple(found)


def _of(module: str) -> str:
    return f" in module {module!r}" if module else ""


# --- for a search over whole prompts ---------------------------------------------------------------------------------


def as_text(found: Fitted) -> PromptTemplate:
    """The prompt with all of its examples as text of its instructions."""
    template = found.template
    for module, shown in found.examples.items():
        own = template.part(module).sections
        section = next((section for section in own if section.role in INSTRUCTING), own[0])
        examples = [*text_examples(section.content), *(_as_example(each) for each in shown)]
        template = template.with_text({section.name: with_examples(section.content, examples)})
    return template


def example_count(template: PromptTemplate) -> int:
    """How many worked examples stand in the prompt's texts."""
    return sum(len(text_examples(section.content)) for section in template.sections)


def text_examples(content: str) -> list[Example]:
    """The examples in a section's text, as `with_examples` writes them; none where they have another form."""
    at = content.rfind(MARK)
    if at < 0 or not content[at + len(MARK) :].startswith(INPUT):
        return []
    parts = content[at + len(MARK) + len(INPUT) :].split(BETWEEN)
    pairs = [part.rpartition(OUTPUT) for part in parts]
    if any(not divider for _, divider, _ in pairs):
        return []
    return [Example(ELSEWHERE, text, output) for text, _, output in pairs]


def _as_example(shown: Shown) -> Example:
    said = shown[:-1]
    is_dialogue = any(message.role != "user" for message in said)
    text = "\n\n".join(f"[{m.role}]\n{m.content}" if is_dialogue else m.content for m in said)
    return Example(ELSEWHERE, text, shown[-1].content)


# --- for a search over instructions and examples ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Part:
    """What a prompt has to offer for one stage. text: the instruction; None where it is the baseline's."""

    text: str | None
    examples: tuple[Shown, ...]


def part_of(baseline: PromptTemplate, found: Fitted, module: str, section: str) -> Part:
    """The module's part; section: the one that holds its instruction, the only one that such a search changes.

    Raises PromptError where the prompt changes another one.
    """
    template = found.template
    for one in baseline.part(module).sections:
        if one.name != section and template.section(one.name).content != one.content:
            raise PromptError(f"it changes {one.name}, and of each stage a MIPRO job changes the instruction alone")
    before, content = baseline.section(section).content, template.section(section).content
    shown = [] if content == before else text_examples(content)
    text = own_text(content) if shown else content
    examples = [(Message("user", example.input), Message("assistant", example.output)) for example in shown]
    is_same = text.rstrip("\n") == before.rstrip("\n")
    return Part(None if is_same else text, (*examples, *found.examples.get(module, ())))


def as_sections(template: PromptTemplate) -> WarmTemplate:
    """A candidate's template as it is stored with the job that begins with it."""
    return WarmTemplate(
        sections=tuple(
            WarmSection.model_validate(
                {"role": s.role, "content": s.content, "name": s.name, "module": s.module, "is_example": s.is_example}
            )
            for s in template.sections
        ),
        wildcards={name: "REQUIRED" if is_required else "OPTIONAL" for name, is_required in template.wildcards.items()},
    )
