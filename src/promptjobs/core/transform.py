"""A prompt as changes to another: text replacements, applied and derived."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from promptjobs.core.prompt import PromptTemplate
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
    """What turns one template into another of the same sections."""

    replacements: tuple[TextReplacement, ...]

    def apply(self, template: PromptTemplate) -> PromptTemplate:
        """Raises TransformNotApplied where a section does not hold the text that is to be replaced."""
        texts: dict[str, str] = {}
        for change in self.replacements:
            section = template.section(change.section)
            if section.content != change.old_text or section.role != change.apply_to_role:
                raise TransformNotApplied(f"section {change.section!r} does not hold the text that is to be replaced")
            texts[change.section] = change.new_text
        return template.with_text(texts)

    def to_json(self) -> dict[str, Any]:
        return {"text_replacements": [change.to_json() for change in self.replacements]}

    @staticmethod
    def from_json(body: Mapping[str, Any]) -> "PromptTransformation":
        return PromptTransformation(
            tuple(
                TextReplacement(c["section"], c["apply_to_role"], c["old_text"], c["new_text"])
                for c in body["text_replacements"]
            )
        )


def diff(before: PromptTemplate, after: PromptTemplate) -> PromptTransformation:
    """The transformation for which `diff(a, b).apply(a)` has the texts of `b`. Both have the same sections."""
    return PromptTransformation(
        tuple(
            TextReplacement(old.name, old.role, old.content, new.content)
            for old, new in zip(before.sections, after.sections, strict=True)
            if old.content != new.content
        )
    )
