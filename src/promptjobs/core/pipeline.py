"""Programs that make several kinds of LLM calls: which module a call belongs to, and what was said in its calls."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from promptjobs.core.asks import CallBody, RolloutBody
from promptjobs.core.prompt import Message, PromptPattern, PromptTemplate, render
from promptjobs.errors import PromptNotMatched


@dataclass(frozen=True, slots=True)
class ModulePattern:
    """What a module's calls begin with. module: "" where the prompt is not divided into modules."""

    module: str
    pattern: PromptPattern


@dataclass(frozen=True, slots=True)
class ProgramPattern:
    """Recognises the calls of a program by the prompts of its modules; a call is the first module's that matches."""

    modules: tuple[ModulePattern, ...]

    @staticmethod
    def of(template: PromptTemplate) -> "ProgramPattern":
        """Raises PromptError where two wildcards stand side by side: where one ends could not be told."""
        return ProgramPattern(tuple(ModulePattern(m, PromptPattern.of(template.part(m))) for m in template.modules))

    @staticmethod
    def lenient(template: PromptTemplate) -> "ProgramPattern":
        """For recognising calls alone, as those of any candidate."""
        patterns = [ModulePattern(m, PromptPattern.lenient(template.part(m))) for m in template.modules]
        return ProgramPattern(tuple(patterns))

    @property
    def undivided(self) -> ModulePattern | None:
        """The only pattern of a prompt that is not divided into modules: every call is its own."""
        return self.modules[0] if len(self.modules) == 1 and not self.modules[0].module else None

    @property
    def longest(self) -> int:
        """So many messages of a call decide."""
        return max((len(each.pattern.parts) for each in self.modules), default=0)

    def find(self, messages: Sequence[Message]) -> ModulePattern:
        """Whose call this is. Raises PromptNotMatched, which names the module that comes closest.

        A prompt that is not divided has every call: whether it matches is for its pattern to say.
        """
        if self.undivided is not None:
            return self.undivided
        found: list[tuple[PromptNotMatched, str]] = []
        for each in self.modules:
            try:
                each.pattern.match(messages)
            except PromptNotMatched as error:
                found.append((error, each.module))
            else:
                return each
        nearest, module = max(found, key=lambda one: (one[0].index, one[0].matched))
        raise PromptNotMatched(nearest.index, nearest.expected, nearest.got, nearest.matched, module)


def ambiguity(template: PromptTemplate) -> tuple[str, str] | None:
    """Two modules of which the first one's pattern takes the second one's messages, as far as that can be told.

    The second one's messages are tried with their placeholders as values, and with the optional ones empty.
    """
    empty = {name: "" for name, is_required in template.wildcards.items() if not is_required}
    pattern = ProgramPattern.of(template)
    for each in pattern.modules:
        for other in template.modules:
            part = template.part(other)
            if other != each.module and any(_matches(each.pattern, render(part, values)) for values in ({}, empty)):
                return each.module, other
    return None


def _matches(pattern: PromptPattern, messages: Sequence[Message]) -> bool:
    try:
        pattern.match(messages)
    except PromptNotMatched:
        return False
    return True


@dataclass(frozen=True, slots=True)
class ModuleCalls:
    """The calls that one module made in a rollout, in the order in which they ended.

    answered: whether its last one was the rollout's last, so that its reply is what the program answered with.
    """

    calls: tuple[CallBody, ...]
    answered: bool


def calls_by_module(template: PromptTemplate, body: RolloutBody) -> dict[str, ModuleCalls]:
    """The recorded calls of a rollout with this prompt, by module, without worked examples of the prompt.

    What no module can have sent is left out. Where the calls were not recorded one by one, the body's messages and
    output stand for the only one.
    """
    pattern = ProgramPattern.lenient(template)
    found: dict[str, list[CallBody]] = {}
    last: str | None = None
    for call in body.calls or (CallBody(body.messages, body.output),):
        try:
            last = pattern.find(call.messages).module
        except PromptNotMatched:
            last = None
        else:
            said = _without_examples(template.part(last), call.messages)
            found.setdefault(last, []).append(replace(call, messages=said))
    return {module: ModuleCalls(tuple(made), module == last) for module, made in found.items()}


def without_examples(template: PromptTemplate, body: RolloutBody) -> RolloutBody:
    """A rollout with this prompt as if it showed no worked examples: what the task app said to its model is left.

    Calls that no module can have sent stay as they are.
    """
    if not any(section.is_example for section in template.sections):
        return body
    pattern = ProgramPattern.lenient(template)

    def said(messages: tuple[Message, ...]) -> tuple[Message, ...]:
        try:
            return _without_examples(template.part(pattern.find(messages).module), messages)
        except PromptNotMatched:
            return messages

    calls = tuple(replace(call, messages=said(call.messages)) for call in body.calls)
    return replace(body, messages=said(body.messages), calls=calls)


def _without_examples(part: PromptTemplate, messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """part: the prompt that the messages begin with."""
    own = [said for said, section in zip(messages, part.sections, strict=False) if not section.is_example]
    return (*own, *messages[len(part.sections) :])
