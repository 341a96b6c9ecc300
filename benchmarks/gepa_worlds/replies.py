"""The form in which a meta-prompt wants its reply, and the reply in it: a text, additions, or operations on lines."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from .chance import Dice

Kind = Literal["text", "additions", "operations"]

ADD = r"add|insert|append"
DELETE = r"delete|remove|drop"
REPLACE = r"replace|change|edit|rewrite|update|modify"
_ADDITIONS = re.compile(
    r"(?i)\b(?:only|just|nothing but)\b[^.\n]{0,30}\b(?:new|additional|added)\b[^.\n]{0,20}"
    r"\b(?:lines?|rules?|statements?|sentences?)\b|"
    r"\b(?:lines?|rules?|statements?)\b[^.\n]{0,30}\bto (?:be )?(?:added|appended|add|append)\b|"
    r"\bdo not repeat\b[^.\n]{0,40}\b(?:text|lines?|rules?|instructions?)\b"
)
_OPERATIONS = re.compile(r"(?i)\b(?:operations?|edits?|changes|diff|patch)\b")
_PROPOSALS = re.compile(r"\"type\".*\"follow\".*\"find\"", re.DOTALL)
_TICKS = re.compile(r"`{3,}")
_TAG = re.compile(r"(?i)(?:inside|within|between|in|using|enclosed in)\s+(?:the\s+)?(?:tags?\s+)?`?<(\w+)>")
_OPENINGS = ("", "", "Here is what I suggest:\n\n", "The feedback points to gaps, so I would write:\n\n")


@dataclass(frozen=True, slots=True)
class Change:
    """An operation on one line: add, replace or delete. number: of the line as it was shown; line: what it says."""

    kind: Literal["add", "replace", "delete"]
    number: int
    line: str
    text: str


@dataclass(frozen=True, slots=True)
class Form:
    """How to reply. keys: of a JSON operation, by what they hold.

    names: the words that stand for the kinds of change, of which a form may have two. shapes: example lines of the
    operations, where they are written one to a line.
    """

    kind: Kind
    ticks: str = "```"
    tag: str = ""
    is_json: bool = False
    wrapper: str = ""
    keys: tuple[tuple[str, str], ...] = ()
    names: tuple[tuple[str, str], ...] = ()
    shapes: tuple[tuple[str, str], ...] = ()
    is_numbered: bool = False
    is_signed: bool = False


def form_of(asked: str, is_numbered: bool) -> Form:
    """asked: the meta-prompt without texts and records. is_numbered: the text's lines were shown with numbers."""
    ticks = (_TICKS.findall(asked) or ["```"])[-1]
    tag = _TAG.search(asked)
    named = {kind: re.search(rf"(?i)\b(?:{words})\b", asked) for kind, words in _words().items()}
    base = {"ticks": ticks, "tag": tag[1] if tag else ""}
    if _PROPOSALS.search(asked):
        keys = (("kind", "type"), ("line", "find"), ("text", "text"))
        return Form("operations", **base, is_json=True, keys=keys, names=(("add", "follow"), ("replace", "replace")))
    if all(named.values()) and _OPERATIONS.search(asked):
        is_json = bool(re.search(r"(?i)\bjson\b", asked))
        return Form(
            "operations",
            **base,
            is_json=is_json,
            wrapper=_wrapper(asked) if is_json else "",
            keys=_keys(asked) if is_json else (),
            names=tuple((kind, _name(asked, words)) for kind, words in _words().items()),
            shapes=() if is_json else tuple(_shapes(asked)),
            is_numbered=is_numbered,
            is_signed=bool(re.search(r"(?i)lines?[^.\n]{0,40}\b(?:with|by)\b[^.\n]{0,10}[\"'`]\+", asked)),
        )
    return Form("additions" if _ADDITIONS.search(asked) else "text", **base)


def _words() -> dict[str, str]:
    return {"add": ADD, "replace": REPLACE, "delete": DELETE}


def _name(asked: str, words: str) -> str:
    """As it is spelled in quotes or at the start of a line, else as it first occurs."""
    quoted = re.search(rf"(?i)[\"'`]({words})[\"'`]", asked) or re.search(rf"(?im)^\W*({words})\b", asked)
    found = quoted or re.search(rf"(?i)\b({words})\b", asked)
    return found[1] if found and found.re.groups else (found[0] if found else words.split("|")[0])


def _wrapper(asked: str) -> str:
    found = re.search(r"\{\s*\"(\w+)\"\s*:\s*\[", asked)
    return found[1] if found else ""


def _keys(asked: str) -> tuple[tuple[str, str], ...]:
    """Which key of a JSON operation holds its kind, its line and its text."""
    named = list(dict.fromkeys(re.findall(r"[\"'`](\w+)[\"'`]\s*:", asked) + re.findall(r"`(\w+)`", asked)))
    roles = {
        "kind": r"op|operation|action|type|kind|do|edit",
        "line": r"line|number|no|n|id|at|index|old|target|find|where|which|anchor|old_text|after|statement",
        "text": r"text|new|content|with|value|new_text|rule|replacement|by",
    }
    return tuple(
        (role, next((name for name in named if re.fullmatch(pattern, name)), role)) for role, pattern in roles.items()
    )


def _shapes(asked: str) -> list[tuple[str, str]]:
    """Lines such as "REPLACE <number>: <text>" that show how an operation is written."""
    shapes = []
    for kind, words in _words().items():
        found = re.search(
            rf"(?m)^\W{{0,6}}((?:{words.upper()}|{'|'.join(w.capitalize() for w in words.split('|'))})\b[^\n]*)$", asked
        )
        found = found or re.search(rf"`((?i:{words})\b[^`\n]*)`", asked)
        if found:
            shapes.append((kind, found[1].strip()))
    return shapes


def written(form: Form, text: str, changes: Sequence[Change], dice: Dice) -> str:
    if form.kind == "text":
        body = text
    elif form.kind == "additions":
        body = "\n".join(change.text for change in changes)
    elif form.is_json:
        return _as_json(form, changes)
    else:
        body = "\n".join(_as_line(form, change) for change in changes)
    if form.tag:
        return f"{dice.among(_OPENINGS)}<{form.tag}>\n{body}\n</{form.tag}>"
    return f"{dice.among(_OPENINGS)}{form.ticks}\n{body}\n{form.ticks}"


def _as_json(form: Form, changes: Sequence[Change]) -> str:
    keys, names = dict(form.keys), dict(form.names)
    operations = []
    for change in changes:
        if change.kind not in names:
            continue
        operation: dict[str, object] = {keys["kind"]: names[change.kind]}
        if change.kind != "add":
            operation[keys["line"]] = change.number if form.is_numbered else change.line
        if change.kind != "delete":
            operation[keys["text"]] = change.text
        operations.append(operation)
    whole = {form.wrapper: operations} if form.wrapper else operations
    return f"{form.ticks}json\n{json.dumps(whole, indent=1)}\n{form.ticks}"


def _as_line(form: Form, change: Change) -> str:
    if form.is_signed:
        minus = [f"- {change.line}"] if change.kind != "add" else []
        plus = [f"+ {change.text}"] if change.kind != "delete" else []
        return "\n".join([*minus, *plus])
    name, shape = dict(form.names)[change.kind], dict(form.shapes).get(change.kind, "")
    where = str(change.number) if form.is_numbered else change.line
    if change.kind == "add":
        return f"{name}: {change.text}" if ":" in shape or not shape else f"{name} {change.text}"
    colon = ":" if re.match(rf"{re.escape(name)}\s*:", shape) else ""
    if change.kind == "delete":
        return f"{name}{colon} {where}"
    arrow = re.search(r"=>|->|→| with ", shape, re.IGNORECASE)
    return f"{name}{colon} {where}{f' {arrow[0].strip()} ' if arrow else ': '}{change.text}"
