"""The reflection model of gepa_worlds as DSPy's prompt model: it answers the signatures of DSPy's grounded proposer.

Mechanics. It reads the examples that it is shown and guesses what their answers have in common, with the skill of
lessons.py: a handful of guesses a call, some of them wrong. Observations are such guesses, up to a call's worth for
each batch of the data; a summary keeps a few of them, for three sentences are asked for. An instruction is the basic
one with the summary's guesses, those from the demonstrations, the form of the answers shown, and now and then a phrase
that says nothing. Descriptions of the program teach nothing, for the program is one call.
"""

import ast
import json
import re
from collections.abc import Sequence

from .chance import Dice
from .dspy_messages import INPUT, OUTPUT, asked, wrapped
from .lessons import SENTENCE_END, learn
from .meta_reading import Record
from .reflector import FILLER, FILLS, OPENINGS

EXAMPLE = re.compile(r"Example\((\{.*?\})\) \(input_keys=", re.DOTALL)
DEMONSTRATION = re.compile(
    rf"^{INPUT.title()}: (.*?)\n{OUTPUT.title()}: (.*?)(?=\n\n{INPUT.title()}: |\s*\Z)", re.DOTALL | re.MULTILINE
)
FORM_SEEN = 0.85
"""How often the form of all the answers shown is put into words."""

IN_SUMMARY = (2, 3)
"""Guesses that a summary holds, from and to."""

MARK = "* "
"""Opens each observation: DSPy puts those of several batches together with nothing in between."""

OPENING = "The requests follow one pattern, and the answers follow conventions of their own."
JSON_FORM = "Answer with one raw JSON object that holds every field, and nothing around it."
LABEL_FORM = "Answer with the label only."


def proposer_reply(messages: Sequence[tuple[str, str]], draw: int, salt: int) -> str:
    """The same messages, draw and salt give the same reply. salt: another model of the same skill."""
    shown, names = asked(messages)
    dice = Dice("proposer", salt, draw, messages[-1][1])
    return wrapped({name: _answer(name, shown, dice) for name in names})


def _answer(name: str, shown: dict[str, str], dice: Dice) -> str:
    if name == "observations":
        return _observations(shown, dice)
    if name == "summary":
        return _summary(shown["observations"], dice)
    if name == "proposed_instruction":
        return _instruction(shown, dice)
    return "One call of a language model turns the request into its answer."


def _observations(shown: dict[str, str], dice: Dice) -> str:
    records = [_record(found[INPUT], found[OUTPUT]) for found in map(ast.literal_eval, _literals(shown["examples"]))]
    standing = shown.get("prior_observations", "")
    new = [lesson for lesson in learn(records, dice) if lesson not in standing]
    forms = [form for form in [_form(records)] if form and form not in standing and dice.hits(FORM_SEEN)]
    if standing and not forms and not new:
        return "COMPLETE"
    return "\n".join(f"{MARK}{line}" for line in ([] if standing else [OPENING]) + forms + new)


def _literals(text: str) -> list[str]:
    return EXAMPLE.findall(text)


def _summary(observations: str, dice: Dice) -> str:
    opening, *lines = [part.strip() for part in observations.split(MARK) if part.strip()]
    forms = [line for line in lines if line in (JSON_FORM, LABEL_FORM)]
    guesses = dice.shuffled([line for line in lines if line not in forms])[: dice.between(*IN_SUMMARY)]
    return " ".join([opening, *forms[:1], *guesses])


def _instruction(shown: dict[str, str], dice: Dice) -> str:
    records = [_record(*found) for found in DEMONSTRATION.findall(shown.get("task_demos", ""))]
    told = SENTENCE_END.split(shown.get("dataset_description", ""))[1:]
    forms = [one for one in told if one in (JSON_FORM, LABEL_FORM)] or [_form(records)] * dice.hits(FORM_SEEN)
    text = shown["basic_instruction"]
    lines = [dice.among(OPENINGS)] * dice.hits(FILLS / 3) + text.split("\n")
    lines += [form for form in forms[:1] if form and form not in text]
    guesses = [*(one for one in told if one not in forms), *learn(records, dice)]
    lines += [f"- {guess}" for guess in dict.fromkeys(guesses) if guess not in text]
    return "\n".join(lines + [dice.among(FILLER)] * dice.hits(FILLS))


def _record(text: str, answer: str) -> Record:
    """An example as evidence: nothing was answered, the whole of it was wanted."""
    return Record(input=text, output="{}" if _is_object(answer) else "", expected=answer)


def _form(records: Sequence[Record]) -> str:
    if not records:
        return ""
    if all(_is_object(record.expected) for record in records):
        return JSON_FORM
    return LABEL_FORM if all(len(record.expected.split()) == 1 for record in records) else ""


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False
