"""Texts from users as labels of a picture: short, in one line, and only of glyphs that the font has."""

from collections.abc import Collection

REPLACEMENT = "\ufffd"
ELLIPSIS = "…"


def shown(text: str, most: int, glyphs: Collection[int]) -> str:
    """`text` in at most `most` characters (2 or more). glyphs: code points that can be drawn.

    What cannot be drawn becomes U+FFFD, and so do a text's invisible parts, which could turn it around. A label that
    begins with an underscore would be left out of legends: it gets a space before it.
    """
    line = " ".join(text[: 4 * most].split())
    drawn = "".join(each if each.isprintable() and ord(each) in glyphs else REPLACEMENT for each in line)
    drawn = drawn if len(drawn) <= most and len(text) <= 4 * most else f"{drawn[: most - 1].rstrip()}{ELLIPSIS}"
    return f" {drawn}" if drawn.startswith("_") else drawn
