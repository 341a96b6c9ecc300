"""A prompt as changes to another: text replacements and messages that are added, applied and derived."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from promptjobs.core.prompt import PromptTemplate, Section
from promptjobs.errors import TransformNotApplied


@dataclass(frozen=True, slots=True)
class TextReplacement:
    """Replace the whole text of one section. old_text guards against a prompt that is not the one meant."""

    section: str
    apply_to_role: str
    old_text: str
    new_text: str

    def to_json(self) -> dict[str, str]:
        return {
            "section": self.section,
            "apply_to_role": self.apply_to_role,
            "old_text": self.old_text,
            "new_text": self.new_text,
        }


@dataclass(frozen=True, slots=True)
class PromptTransformation:
    """What turns one template into another of the same sections, or of more.

    demos: the sections that are added, worked examples; the `order` of each is its index in the prompt that results.
    """

    replacements: tuple[TextReplacement, ...]
    demos: tuple[Section, ...] = ()

    def apply(self, template: PromptTemplate) -> PromptTemplate:
        """Raises TransformNotApplied where a section does not hold the text that is to be replaced.

        The texts alone, without `demos`, have the same effect on the sections that the template has. Where sections
        are added, all are numbered anew.
        """
        texts: dict[str, str] = {}
        for change in self.replacements:
            section = template.section(change.section)
            if section.content != change.old_text or section.role != change.apply_to_role:
                raise TransformNotApplied(f"section {change.section!r} does not hold the text that is to be replaced")
            texts[change.section] = change.new_text
        changed = template.with_text(texts)
        if not self.demos:
            return changed
        sections = list(changed.sections)
        for demo in self.demos:
            sections.insert(demo.order, demo)
        return replace(changed, sections=tuple(replace(s, order=order) for order, s in enumerate(sections)))

    def to_json(self) -> dict[str, Any]:
        """The replacements, which clients of the API read; `demos` beside them where there are any."""
        body: dict[str, Any] = {"text_replacements": [change.to_json() for change in self.replacements]}
        return {**body, "demos": [demo.to_json() for demo in self.demos]} if self.demos else body

    @staticmethod
    def from_json(body: Mapping[str, Any]) -> "PromptTransformation":
        return PromptTransformation(
            tuple(
                TextReplacement(c["section"], c["apply_to_role"], c["old_text"], c["new_text"])
                for c in body["text_replacements"]
            ),
            tuple(Section.from_json(demo) for demo in body.get("demos", ())),
        )


def diff(before: PromptTemplate, after: PromptTemplate) -> PromptTransformation:
    """The transformation for which `diff(a, b).apply(a)` has the sections and texts of `b`.

    b has the sections of a, told by their names and in the same order, and may have more. Raises PromptError where it
    lacks one.
    """
    texts = {old.name: after.section(old.name).content for old in before.sections}
    return PromptTransformation(
        tuple(
            TextReplacement(old.name, old.role, old.content, texts[old.name])
            for old in before.sections
            if old.content != texts[old.name]
        ),
        tuple(replace(new, order=at) for at, new in enumerate(after.sections) if new.name not in texts),
    )
