"""The forms in which the offline reflection model answers: a fenced text, a list of changes, or a few sentences."""

import re
import statistics

import orjson

from promptjobs.demo.meta_prompt import MetaPrompt

_ASKS_CHANGES = re.compile(r"(?i)\banswer with (?:one|a) JSON array\b")
_ASKS_DESCRIPTION = re.compile(r"(?i)\bdescribe (?:these|the) data\b")
_LONGEST_LINE_KEPT = 10  # characters of a line that a longer one may be a new version of
_OUTPUTS_NAMED = 12


def describes_data(text: str) -> bool:
    """Whether the meta-prompt asks for a description of its examples and not for a text."""
    return _ASKS_DESCRIPTION.search(text) is not None


def description(meta: MetaPrompt) -> str:
    """A few sentences on the examples, from nothing but them."""
    outputs = list(dict.fromkeys(record.output for record in meta.records if record.output))
    if not outputs:
        return "There are no examples with an output."
    lengths = [len(record.message.split()) for record in meta.records]
    named = ", ".join(outputs[:_OUTPUTS_NAMED])
    return (
        f"The inputs are texts of about {statistics.median(lengths):.0f} words. "
        f"The outputs are short, such as these: {named}."
    )


def in_form(text: str, current: str, improved: str) -> str:
    """The improved text in the form that the meta-prompt `text` asks for."""
    ticks = "```" if "```" not in improved else "````"
    if _ASKS_CHANGES.search(text):
        improved = orjson.dumps(changes(current, improved)).decode()
    return f"{ticks}\n{improved}\n{ticks}"


def changes(current: str, improved: str) -> list[dict[str, str]]:
    """All of it in place of the whole, then each line alone: one that grew replaces what it was, a new one follows."""
    old = current.splitlines()
    found: list[dict[str, str]] = [{"type": "replace", "text": improved}] if improved != current else []
    heading = ""
    for line in improved.splitlines():
        if line in old or not line.strip():
            continue
        before = next((each for each in old if len(each) >= _LONGEST_LINE_KEPT and line.startswith(each)), None)
        if before is not None:
            found.append({"type": "replace", "find": before, "text": line})
        elif line.endswith(":"):
            heading = f"{line}\n"
        else:
            found.append({"type": "follow", "text": heading + line})
            heading = ""
    return found
