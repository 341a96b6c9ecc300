"""Reads feedback on a program of several steps: which part of it is about the step whose text is to be improved."""

import re
from collections.abc import Iterable
from dataclasses import replace

from promptjobs.demo.meta_prompt import Record
from promptjobs.demo.prompt_reading import find_labels

_STEP = re.compile(
    r"\bStep `?(?P<name>[\w.-]+?)`? (?P<verdict>went wrong\b|was right\b|could not know better\b)[:.]?\s*"
)
_TEXT_IS_FOR = re.compile(r"\b[Tt]ext is for the (?:step|stage|module) `?(?P<name>[\w.-]+\w)`?")


def step_of(meta_prompt: str) -> str | None:
    """The step that the meta-prompt says its text is for; None where it says nothing of that."""
    found = _TEXT_IS_FOR.search(meta_prompt)
    return found["name"] if found else None


def of_step(records: Iterable[Record], step: str | None, current: str) -> list[Record]:
    """The records as far as they are about the step; those where other steps went wrong alone are left out.

    Where the step has no name, a text that names labels is meant by the parts of the feedback that speak of labels,
    and any other text by those that do not. Feedback that is not divided into steps is about every step.
    """
    found = []
    for record in records:
        pieces = _STEP.split(record.feedback)
        parts = zip(pieces[1::3], pieces[2::3], pieces[3::3], strict=True)
        wrong = [(name, said.strip()) for name, verdict, said in parts if verdict == "went wrong"]
        if len(pieces) == 1:
            found.append(record)
        elif own := [said for name, said in wrong if (name == step if step else _speaks_alike(said, current))]:
            found.append(replace(record, feedback=" ".join([pieces[0].strip(), *own])))
    return found


def _speaks_alike(feedback: str, current: str) -> bool:
    return bool(find_labels(feedback)) == bool(find_labels(current))
