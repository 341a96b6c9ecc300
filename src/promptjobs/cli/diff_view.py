"""Shows the difference of two prompts: side by side where there is room, as a unified diff elsewhere, or as JSON."""

from collections.abc import Iterator, Sequence
from difflib import unified_diff
from itertools import zip_longest

from rich.console import Console
from rich.table import Table
from rich.text import Text

from promptjobs.cli.prompt_diff import Change, Pair, Part, Piece
from promptjobs.cli.text import harmless, one_line
from promptjobs.sdk.shapes import Json

SIDE_BY_SIDE = 100
"""Columns of a terminal from which on two prompts stand beside each other."""

STYLES = {Change.REMOVED: "bold red", Change.ADDED: "bold green"}
STYLE_OF_LINE = {"-": "red", "+": "green", "@": "cyan"}


def diff_json(label_a: str, label_b: str, pairs: Sequence[Pair]) -> Json:
    """words: the runs of text in order, each with what has become of it."""
    return {
        "a": label_a,
        "b": label_b,
        "is_same": all(pair.change is Change.SAME for pair in pairs),
        "messages": [
            {
                "change": pair.change,
                "a": _message_json(pair.a),
                "b": _message_json(pair.b),
                "words": [[piece.change, piece.text] for block in pair.blocks for piece in block],
            }
            for pair in pairs
        ],
    }


def _message_json(part: Part | None) -> Json | None:
    if part is None:
        return None
    message = {"role": part.role, "content": part.content}
    return {"module": part.module, **message} if part.module else message


def print_diff(out: Console, label_a: str, label_b: str, pairs: Sequence[Pair]) -> None:
    """out: its width decides how; what is no terminal gets a unified diff, which other programs read."""
    if out.is_terminal and out.width >= SIDE_BY_SIDE:
        out.print(_side_by_side(label_a, label_b, pairs))
        return
    for line in unified(label_a, label_b, pairs):
        out.print(Text(line, STYLE_OF_LINE.get(line[:1], "")), soft_wrap=True)


# --- unified ---------------------------------------------------------------------------------------------------------


def unified(label_a: str, label_b: str, pairs: Sequence[Pair]) -> list[str]:
    """Lines of a unified diff of the prompts as text; none where they are the same."""
    a = [pair.a for pair in pairs if pair.a is not None]
    b = [pair.b for pair in pairs if pair.b is not None]
    lines = unified_diff(_lines(a), _lines(b), one_line(label_a), one_line(label_b), lineterm="")
    return [harmless(line) for line in lines]


def _lines(parts: Sequence[Part]) -> list[str]:
    return [line for part in parts for line in (f"[{part.title}]", *part.content.split("\n"), "")]


# --- side by side ----------------------------------------------------------------------------------------------------


def _side_by_side(label_a: str, label_b: str, pairs: Sequence[Pair]) -> Table:
    table = Table.grid(padding=(0, 1), expand=True)
    for _ in range(2):
        table.add_column(ratio=1, overflow="fold")
    table.add_row(Text(one_line(label_a), "bold"), Text(one_line(label_b), "bold"))
    for pair in pairs:
        table.add_row()
        table.add_row(*(Text(f"── {part.title} ── {pair.change}" if part else "", "dim") for part in (pair.a, pair.b)))
        for left, right in _rows(pair):
            table.add_row(left, right)
    return table


def _rows(pair: Pair) -> Iterator[tuple[Text, Text]]:
    """Lines that stand beside each other; a changed run that is longer on one side leaves the other one empty."""
    for block in pair.blocks:
        left = _column(block, Change.ADDED)
        right = _column(block, Change.REMOVED)
        yield from zip_longest(left, right, fillvalue=Text(""))


def _column(block: Sequence[Piece], left_out: Change) -> list[Text]:
    text = Text()
    for piece in block:
        if piece.change is not left_out:
            text.append(harmless(piece.text), STYLES.get(piece.change, ""))
    return list(text.split("\n")) if text.plain else []
